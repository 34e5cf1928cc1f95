//! Cells (section "Hive bin", "Cell"): a length of 4 bytes, negative while the cell is in use, and a record.

use std::fmt;

use super::{BINS, Hive, corrupt};
use crate::FsError;

/// The header of a bin; no cell lies in that of the first one.
const BIN_HEADER: u64 = 32;
/// The length in front of each record.
const LENGTH: u64 = 4;

/// Where a cell begins, in bytes from the start of the bins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CellOffset(pub(super) u32);

impl CellOffset {
    /// The byte of the file.
    fn in_file(self) -> u64 {
        u64::from(self.0).saturating_add(BINS)
    }
}

/// Shown as the byte of the file.
impl fmt::Display for CellOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {:#x}", self.in_file())
    }
}

/// A cell in use. It lies inside the bins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    what: &'static str,
    offset: CellOffset,
    /// Length of the record in bytes.
    pub(super) len: u64,
}

impl Cell {
    /// The cell for people.
    pub(super) fn name(&self) -> String {
        format!("the {} at {}", self.what, self.offset)
    }

    /// The error that a field of the record contradicts the format.
    pub(super) fn corrupt(&self, field: &'static str, found: impl ToString, expected: &'static str) -> FsError {
        corrupt(self.name(), field, found, expected)
    }
}

impl Hive<'_> {
    /// The cell at `offset`, which should be a `what`.
    pub(super) fn cell(&self, offset: CellOffset, what: &'static str) -> Result<Cell, FsError> {
        let name = || format!("the {what} at {offset}");
        let at = u64::from(offset.0);
        let left = self.bins.saturating_sub(at);
        if at < BIN_HEADER || !at.is_multiple_of(8) || left < 8 {
            return Err(corrupt(name(), "cell offset", format!("{at:#x}"), "a multiple of 8 inside the hive's bins"));
        }
        let mut bytes = [0; 4];
        self.read(what, offset.in_file(), &mut bytes)?;
        let size = i32::from_le_bytes(bytes);
        let len = u64::from(size.unsigned_abs());
        if size >= 0 || !len.is_multiple_of(8) || len > left {
            let expected = "negative (in use), a multiple of 8, and not past the end of the hive's bins";
            return Err(corrupt(name(), "cell size", size, expected));
        }
        Ok(Cell { what, offset, len: len.saturating_sub(LENGTH) }) // at least 8
    }

    /// `len` bytes of a record from its byte `at` on. A record is no longer than its file, but that may be long: `len` is to be
    /// bounded before.
    pub(super) fn bytes(&self, cell: &Cell, field: &'static str, at: u64, len: u64) -> Result<Vec<u8>, FsError> {
        self.check(cell, field, at, len)?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.read_record(cell, at, &mut bytes)?;
        Ok(bytes)
    }

    /// As [`bytes`](Self::bytes), where the length is known.
    pub(super) fn array<const N: usize>(&self, cell: &Cell, field: &'static str, at: u64) -> Result<[u8; N], FsError> {
        self.check(cell, field, at, u64::try_from(N).unwrap_or(u64::MAX))?;
        let mut bytes = [0; N];
        self.read_record(cell, at, &mut bytes)?;
        Ok(bytes)
    }

    /// The cell that a record names at its byte `at`.
    pub(super) fn offset(&self, cell: &Cell, field: &'static str, at: u64) -> Result<CellOffset, FsError> {
        Ok(CellOffset(u32::from_le_bytes(self.array(cell, field, at)?)))
    }

    fn check(&self, cell: &Cell, field: &'static str, at: u64, len: u64) -> Result<(), FsError> {
        if at.checked_add(len).is_none_or(|end| end > cell.len) {
            let found = format!("{len} bytes from byte {at} on");
            return Err(FsError::Corrupt { what: cell.name(), field, found, expected: "inside the cell" });
        }
        Ok(())
    }

    fn read_record(&self, cell: &Cell, at: u64, buf: &mut [u8]) -> Result<(), FsError> {
        let start = cell.offset.in_file().saturating_add(LENGTH).saturating_add(at); // inside the bins: `check`
        self.read(cell.what, start, buf)
    }
}
