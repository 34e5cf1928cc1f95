//! What a server hands out.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{ByteLen, ByteOffset, Extent, ReadAt, ReadError};

use crate::constants::MAX_STRING;

/// A disk that clients may use. Calls block, and come from several threads at once.
pub trait Export: Send + Sync {
    /// Its bytes. The size must not change while the server runs. Runs that are no data are told to clients as zeros.
    fn disk(&self) -> &dyn ReadAt;

    /// How it is written; `None` if it is read-only.
    fn writer(&self) -> Option<&dyn WriteAt> {
        None
    }

    /// The size of requests that it serves best: a power of two from 512 on.
    fn preferred_block(&self) -> u32 {
        4096
    }
}

/// The writing side of an export. Every range lies inside the disk. What one connection wrote, all of them read.
pub trait WriteAt: Send + Sync {
    /// Writes `data` at byte `at`.
    ///
    /// # Errors
    /// What the storage says. [`io::ErrorKind::StorageFull`] and the like reach the client as ENOSPC.
    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()>;

    /// Makes a range read as zeros.
    ///
    /// # Errors
    /// What the storage says; [`io::ErrorKind::Unsupported`] if it was to be fast and cannot be.
    fn write_zeroes(&self, at: u64, len: u64, how: Zeroing) -> io::Result<()>;

    /// The client no longer needs the bytes of a range. Nothing may come of it.
    ///
    /// # Errors
    /// What the storage says.
    fn trim(&self, at: u64, len: u64) -> io::Result<()> {
        let _ = (at, len);
        Ok(())
    }

    /// Returns when everything written before is on stable storage.
    ///
    /// # Errors
    /// What the storage says.
    fn flush(&self) -> io::Result<()>;
}

/// How zeros are to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zeroing {
    /// Storage may be given back for them.
    pub may_punch: bool,
    /// Refuse with [`io::ErrorKind::Unsupported`] if it would take as long as writing them.
    pub only_fast: bool,
}

/// So many runs of a disk are remembered.
const REMEMBERED: usize = 16;

/// A disk that is read only.
pub struct ReadOnly {
    disk: Remembering,
    preferred: u32,
}

impl ReadOnly {
    /// Exports `disk`, which must not change while it is served.
    #[must_use]
    pub fn new(disk: Arc<dyn ReadAt>) -> Self {
        Self { disk: Remembering { disk, runs: Mutex::default() }, preferred: 4096 }
    }

    /// Tells clients to ask for multiples of `bytes`: a power of two from 512 on, else nothing changes.
    #[must_use]
    pub fn with_preferred_block(mut self, bytes: u32) -> Self {
        if bytes.is_power_of_two() && bytes >= 512 {
            self.preferred = bytes;
        }
        self
    }
}

impl Export for ReadOnly {
    fn disk(&self) -> &dyn ReadAt {
        &self.disk
    }
    fn preferred_block(&self) -> u32 {
        self.preferred
    }
}

/// A disk that never changes, whose last runs are remembered: of a file with many pieces it is dear to ask for them again and again.
struct Remembering {
    disk: Arc<dyn ReadAt>,
    runs: Mutex<VecDeque<Extent>>,
}

impl ReadAt for Remembering {
    fn size(&self) -> ByteLen {
        self.disk.size()
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.disk.read_exact_at(at, buf)
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        let known = |run: &&Extent| run.start <= at && at < run.end();
        if let Some(run) = self.runs.lock().unwrap_or_else(PoisonError::into_inner).iter().find(known) {
            let len = run.end().0.saturating_sub(at.0);
            return Ok(Extent { start: at, len: ByteLen(len), kind: run.kind });
        }
        let run = self.disk.extent_at(at)?;
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.len() >= REMEMBERED {
            runs.pop_front();
        }
        runs.push_back(run);
        Ok(run)
    }

    fn will_need(&self, at: ByteOffset, len: ByteLen) {
        self.disk.will_need(at, len);
    }
}

/// One export with what clients are told of it.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) export: Arc<dyn Export>,
}

/// The exports of a server.
#[derive(Default)]
pub struct Exports {
    entries: Vec<Arc<Entry>>,
    default: Option<Arc<Entry>>,
}

/// Why an export cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// Another one has the name.
    #[error("two exports are called {0:?}")]
    Taken(String),
    /// The protocol allows 4096 bytes.
    #[error("the name or description of an export has {0} bytes, and 4096 are the most")]
    TooLong(usize),
}

impl Exports {
    /// No exports.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an export. The first one is what clients get that name none, unless one is called "".
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn add(&mut self, name: &str, description: &str, export: Arc<dyn Export>) -> Result<(), ExportError> {
        let longest = usize::try_from(MAX_STRING).unwrap_or(usize::MAX);
        if let Some(long) = [name, description].into_iter().map(str::len).find(|len| *len > longest) {
            return Err(ExportError::TooLong(long));
        }
        if self.entries.iter().any(|entry| entry.name == name) {
            return Err(ExportError::Taken(name.to_owned()));
        }
        let entry = Arc::new(Entry { name: name.to_owned(), description: description.to_owned(), export });
        if self.default.is_none() || name.is_empty() {
            self.default = Some(Arc::clone(&entry));
        }
        self.entries.push(entry);
        Ok(())
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<&Arc<Entry>> {
        if name.is_empty() {
            return self.default.as_ref();
        }
        self.entries.iter().find(|entry| entry.name.as_bytes() == name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|entry| &**entry)
    }
}
