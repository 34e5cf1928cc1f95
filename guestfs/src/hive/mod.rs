//! Registry hives of Windows: keys and values of a file in `regf` format, read-only.
//!
//! Facts are taken from M. Suhanov, "Windows registry file format specification"; sections are named where they are used. The
//! layout has a header of 4 KiB, then "bins" full of cells. A cell is a length and a record; records name each other by where
//! their cells lie in the bins. Only the cells that are asked for are read.

mod cell;
mod header;
mod key;
mod list;
mod name;
mod value;

use std::cell::Cell as Counter;

use blockdev::{ByteOffset, ReadAt};

pub use key::{Key, Subkeys};
pub use value::{Value, Values};

use crate::FsError;
use cell::CellOffset;
use header::Header;

/// Where the bins begin: behind the header.
const BINS: u64 = 4096;

/// A registry hive.
///
/// Nothing is kept of what was read: give it a disk that caches. Keys can be listed in a way that leads back to themselves; what
/// ends a walk all the same is that a hive is read a limited number of times in its life.
///
/// ```
/// use blockdev::MemDisk;
/// use guestfs::Hive;
///
/// let disk = MemDisk::new(vec![0; 8192]);
/// let error = Hive::open(&disk, 1000).err().unwrap();
/// assert_eq!(error.to_string(), "signature of the hive header at byte 0x0 is [0, 0, 0, 0]: \"regf\"");
/// ```
pub struct Hive<'a> {
    disk: &'a dyn ReadAt,
    /// Length of the bins in bytes. All of it lies inside the disk.
    bins: u64,
    root: CellOffset,
    notes: Vec<String>,
    reads_left: Counter<u64>,
}

impl<'a> Hive<'a> {
    /// Reads the header of a hive. `reads` is how many reads of `disk` there may be before everything is refused: a key or value
    /// costs about five, and what is listed before one that is looked up counts too.
    ///
    /// A hive that was not written in full is read as it is, with a note: its transaction logs are not applied.
    ///
    /// # Errors
    /// [`FsError::Read`], [`FsError::Corrupt`] if this is no primary hive file, [`FsError::Unsupported`] if it is of Windows NT 3.1.
    pub fn open(disk: &'a dyn ReadAt, reads: u64) -> Result<Self, FsError> {
        let header = Header::read(disk)?;
        let (bins, root, notes) = (header.bins, header.root, header.notes);
        Ok(Self { disk, bins, root, notes, reads_left: Counter::new(reads) })
    }

    /// What is odd about the hive as a whole.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The topmost key.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn root(&self) -> Result<Key, FsError> {
        self.key(self.root)
    }

    /// Fills `buf` from byte `at` of the file.
    fn read(&self, what: &str, at: u64, buf: &mut [u8]) -> Result<(), FsError> {
        let Some(left) = self.reads_left.get().checked_sub(1) else {
            let what = format!("{what} at byte {at:#x}");
            return Err(FsError::Unsupported {
                what,
                why: "the hive has more to read than was allowed, or leads in circles",
            });
        };
        self.reads_left.set(left);
        let read = self.disk.read_exact_at(ByteOffset(at), buf);
        read.map_err(|source| FsError::Read { what: format!("{what} at byte {at:#x}"), source })
    }
}

/// The error that a field contradicts the format.
fn corrupt(what: String, field: &'static str, found: impl ToString, expected: &'static str) -> FsError {
    FsError::Corrupt { what, field, found: found.to_string(), expected }
}
