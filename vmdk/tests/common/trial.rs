//! A trial of one hostile image: which files it asks for, what it reads, what it allocates.
#![allow(dead_code, clippy::unwrap_used, reason = "each test program uses a part, and all of it is test code")]

use std::alloc::System;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};
use cap::Cap;
use vmdk_rs::{Gate, Image, PlainName, VmdkError};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What is allocated is counted for the whole process, so one test goes on at a time.
static ALONE: Mutex<()> = Mutex::new(());

thread_local! {
    /// Held from the first trial of a test to the end of its thread.
    static HELD: MutexGuard<'static, ()> = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
}

/// A file that begins with `start` and is zeros behind it; its reads are counted.
struct Counted {
    start: Vec<u8>,
    size: u64,
    read: Arc<AtomicU64>,
}

impl ReadAt for Counted {
    fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        assert!(at.0.checked_add(buf.len() as u64).unwrap() <= self.size, "a read behind the end");
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        buf.fill(0);
        let stored = self.start.get(usize::try_from(at.0).unwrap()..).unwrap_or_default();
        let len = buf.len().min(stored.len());
        buf[..len].copy_from_slice(&stored[..len]);
        Ok(())
    }
}

/// The files that there are, and a gate that notes what is asked for.
#[derive(Default)]
struct Served {
    files: BTreeMap<String, (Vec<u8>, u64)>,
    asked: Mutex<Vec<String>>,
    devices: Mutex<Vec<String>>,
    read: Arc<AtomicU64>,
}

/// A trial.
pub(crate) struct Trial(Served);

/// What something took, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) read: u64,
    /// All allocations, freed or not.
    pub(crate) allocated: usize,
}

impl Trial {
    pub(crate) fn new() -> Self {
        HELD.with(|_| Self(Served::default()))
    }

    /// A file beside the image.
    pub(crate) fn with(self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let len = bytes.len() as u64;
        self.with_size(name, bytes, len)
    }

    /// A file with zeros up to its `size`.
    pub(crate) fn with_size(mut self, name: &str, bytes: impl Into<Vec<u8>>, size: u64) -> Self {
        self.0.files.insert(name.to_owned(), (bytes.into(), size));
        self
    }

    /// Opens a file that is there.
    pub(crate) fn open(&self, name: &str) -> Result<Image, VmdkError> {
        Image::open(self.0.file(name).unwrap(), name, &self.0)
    }

    /// Opens a file that must be refused.
    pub(crate) fn refused(&self, name: &str) -> VmdkError {
        self.open(name).map(|image| panic!("{name} was opened: {image:?}")).unwrap_err()
    }

    /// Checks a file that is there.
    pub(crate) fn check(&self, name: &str) -> vmdk_rs::CheckReport {
        vmdk_rs::check(self.0.file(name).unwrap(), name, &self.0)
    }

    /// The names that were asked for since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.asked.lock().unwrap())
    }

    /// The devices that were asked for since the last time.
    pub(crate) fn devices(&self) -> Vec<String> {
        std::mem::take(&mut self.0.devices.lock().unwrap())
    }

    /// Does something, and tells what it took.
    pub(crate) fn cost<T>(&self, work: impl FnOnce() -> T) -> (T, Cost) {
        let (read, allocated) = (self.0.read.load(Ordering::Relaxed), ALLOCATOR.total_allocated());
        let result = work();
        let read = self.0.read.load(Ordering::Relaxed) - read;
        (result, Cost { read, allocated: ALLOCATOR.total_allocated() - allocated })
    }
}

impl Served {
    fn file(&self, name: &str) -> Option<Arc<dyn ReadAt>> {
        let (start, size) = self.files.get(name)?.clone();
        Some(Arc::new(Counted { start, size, read: Arc::clone(&self.read) }))
    }
}

impl Gate for Served {
    fn open(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        self.asked.lock().unwrap().push(name.as_str().to_owned());
        self.file(name.as_str()).ok_or_else(|| VmdkError::Denied { name: name.as_str().to_owned() })
    }
    fn open_device(&self, name: &str) -> Result<Arc<dyn ReadAt>, VmdkError> {
        self.devices.lock().unwrap().push(name.to_owned());
        Err(VmdkError::NoDevice { name: name.to_owned() })
    }
}
