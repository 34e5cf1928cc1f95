//! How the world asks a guest to come to rest between two transactions.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::world::lock;

#[derive(Debug, Default)]
struct Inner {
    /// A guest thread runs.
    attached: bool,
    hold: bool,
    held: bool,
    last_committed: u64,
}

/// Shared by a guest's thread and those who want it to rest.
#[derive(Debug, Default)]
pub(crate) struct GuestControl {
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// A guest at rest; it goes on when this is dropped.
pub(crate) struct Held<'a> {
    control: &'a GuestControl,
    since: Instant,
    /// The last committed transaction; none if no guest runs.
    pub(crate) last_committed: Option<u64>,
}

impl Held<'_> {
    pub(crate) fn held_for(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        lock(&self.control.inner).hold = false;
        self.control.changed.notify_all();
    }
}

impl GuestControl {
    /// The last committed transaction; none if no guest runs.
    pub(crate) fn last_committed(&self) -> Option<u64> {
        let inner = lock(&self.inner);
        inner.attached.then_some(inner.last_committed)
    }

    /// Asks the guest to finish its transaction and waits until it has; `None` if it takes longer than `timeout`.
    /// Without a guest there is nothing to wait for.
    pub(crate) fn hold(&self, timeout: Duration) -> Option<Held<'_>> {
        let since = Instant::now();
        let mut inner = lock(&self.inner);
        inner.hold = true;
        let waiting = |inner: &mut Inner| inner.attached && !inner.held;
        let (guard, _) =
            self.changed.wait_timeout_while(inner, timeout, waiting).unwrap_or_else(PoisonError::into_inner);
        inner = guard;
        if inner.attached && !inner.held {
            inner.hold = false;
            self.changed.notify_all();
            return None;
        }
        let last_committed = inner.attached.then_some(inner.last_committed);
        Some(Held { control: self, since, last_committed })
    }

    /// Waits until no guest thread runs; false if it takes longer than `timeout`.
    pub(crate) fn wait_detached(&self, timeout: Duration) -> bool {
        let attached = |inner: &mut Inner| inner.attached;
        let waited = self.changed.wait_timeout_while(lock(&self.inner), timeout, attached);
        !waited.unwrap_or_else(PoisonError::into_inner).0.attached
    }

    /// A guest thread is about to begin. It detaches when its [`Attached`] is dropped.
    pub(crate) fn attach(&self, last_committed: u64) {
        let mut inner = lock(&self.inner);
        inner.attached = true;
        inner.held = false;
        inner.last_committed = last_committed;
    }
}

/// The guest's side, made by its thread after [`GuestControl::attach`].
pub(crate) struct Attached<'a>(pub(crate) &'a GuestControl);

impl Attached<'_> {
    /// Called between two transactions: rests as long as somebody wants it.
    pub(crate) fn rest_point(&self, last_committed: u64) {
        let mut inner = lock(&self.0.inner);
        inner.last_committed = last_committed;
        if inner.hold {
            inner.held = true;
            self.0.changed.notify_all();
            inner = self.0.changed.wait_while(inner, |inner| inner.hold).unwrap_or_else(PoisonError::into_inner);
            inner.held = false;
        }
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        lock(&self.0.inner).attached = false;
        self.0.changed.notify_all();
    }
}
