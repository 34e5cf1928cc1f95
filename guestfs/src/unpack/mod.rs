//! Decompressors for what NTFS stores compressed: LZNT1 of its own, and XPRESS and LZX of the Windows Overlay Filter.
//!
//! Each takes a whole compressed piece in memory and a buffer of the caller's. None allocates, none recurses, and each step writes
//! at least a byte or ends, so the work is bounded by the lengths of input and buffer.

mod bits;
mod copy;
mod huffman;
pub mod lznt1;
pub mod lzx;
pub mod wof;
pub mod xpress;

use crate::FsError;

/// Why compressed data could not be unpacked: a field contradicts the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} at byte {at:#x} of {format} data is {found:#x}: {expected}")]
pub struct UnpackError {
    /// The name of the format.
    pub format: &'static str,
    /// The field, by its name in the format's description.
    pub field: &'static str,
    /// Where it is in the compressed data, in bytes. Behind Huffman codes, a byte that was reached by then.
    pub at: usize,
    /// Its value.
    pub found: u64,
    /// What it should be.
    pub expected: &'static str,
}

impl UnpackError {
    /// This error as one of a volume. `whose` names what is compressed, with its place.
    #[must_use]
    pub fn of(self, whose: &str) -> FsError {
        FsError::Corrupt {
            what: format!("byte {:#x} of the {} data of {whose}", self.at, self.format),
            field: self.field,
            found: format!("{:#x}", self.found),
            expected: self.expected,
        }
    }
}

/// A number for an error.
fn number(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
