//! Open files.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use blockdev::ReadAt;

/// More open files than any backup product has; each holds the state of one reader.
const MOST: usize = 65_536;

/// What the kernel has open, by number.
#[derive(Default)]
pub(super) struct Handles {
    open: RwLock<HashMap<u64, Arc<dyn ReadAt>>>,
    next: AtomicU64,
}

impl Handles {
    /// Keeps a file open; `None` if too many are.
    pub(super) fn keep(&self, file: Box<dyn ReadAt>) -> Option<u64> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MOST {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        open.insert(number, file.into());
        Some(number)
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<dyn ReadAt>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub(super) fn release(&self, number: u64) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }
}
