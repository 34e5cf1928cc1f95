//! Do two disks hold the same bytes?

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use blockdev::{ByteLen, ByteOffset, ExtentKind, ReadAt};

use crate::convert::{to_u64, to_usize};
use crate::copy::copy_where;
use crate::{CopyError, CopyTarget, VmdkError, is_zero};

/// How two disks differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// This is the first byte that differs. Behind the end of the shorter disk, bytes are taken to be zeros.
    Content {
        /// Where.
        at: ByteOffset,
    },
    /// All bytes that both have are equal, and the longer disk has only zeros behind them.
    Size {
        /// The size of the first disk.
        first: ByteLen,
        /// The size of the second disk.
        second: ByteLen,
    },
}

/// Compares two disks with all processors. What neither of them holds is not read. `watch` is told how far the comparison
/// is, in bytes, and ends it by [`ControlFlow::Break`].
///
/// # Errors
/// One of the disks cannot be read, or the comparison was cancelled. Disks are read ahead, so a block that cannot be read may
/// be told although one before it differs. [`CopyError::Target`] is of the shorter disk's data, [`CopyError::Source`] of the
/// other one's, or of the tables of either.
pub fn compare(
    first: &dyn ReadAt,
    second: &dyn ReadAt,
    watch: &(dyn Fn(u64) -> ControlFlow<()> + Sync),
) -> Result<Option<Difference>, CopyError> {
    let (longer, shorter) = if first.size() >= second.size() { (first, second) } else { (second, first) };
    let against = Against { other: shorter, differs_at: Mutex::new(None) };
    let ended = copy_where(&[longer, shorter], longer, &against, watch);
    let differs_at = against.differs_at.into_inner().unwrap_or_else(PoisonError::into_inner);
    match (differs_at, ended) {
        (Some(at), _) => Ok(Some(Difference::Content { at })),
        (None, Err(error)) => Err(error),
        (None, Ok(())) if first.size() != second.size() => {
            Ok(Some(Difference::Size { first: first.size(), second: second.size() }))
        }
        (None, Ok(())) => Ok(None),
    }
}

/// Takes a disk and writes nothing: the first byte that another disk has otherwise ends the copy.
struct Against<'a> {
    other: &'a dyn ReadAt,
    differs_at: Mutex<Option<ByteOffset>>,
}

impl Against<'_> {
    fn first_difference(&self, at: ByteOffset, data: &[u8]) -> Result<Option<ByteOffset>, VmdkError> {
        let there = self.other.size().0.saturating_sub(at.0).min(to_u64(data.len()));
        let extent = if there == 0 { None } else { Some(self.other.extent_at(at).map_err(failed)?) };
        let known_zero = extent.is_none_or(|e| e.kind != ExtentKind::Data && e.len.0 >= there);
        if known_zero {
            if is_zero(data) {
                return Ok(None);
            }
            return Ok(position(data, |_| 0).map(|inside| behind(at, inside)));
        }
        let mut other = vec![0; data.len()]; // at most a block
        self.other.read_exact_at(at, other.get_mut(..to_usize(there)).unwrap_or_default()).map_err(failed)?;
        if data == other {
            return Ok(None);
        }
        Ok(position(data, |inside| other.get(inside).copied().unwrap_or(0)).map(|inside| behind(at, inside)))
    }
}

fn failed(error: blockdev::ReadError) -> VmdkError {
    VmdkError::read("the other disk")(error)
}

fn behind(at: ByteOffset, inside: usize) -> ByteOffset {
    ByteOffset(at.0.saturating_add(to_u64(inside)))
}

/// The first byte that is not what it should be.
fn position(data: &[u8], other: impl Fn(usize) -> u8) -> Option<usize> {
    data.iter().enumerate().position(|(inside, byte)| *byte != other(inside))
}

impl CopyTarget for Against<'_> {
    type Prepared = Option<ByteOffset>;

    fn prepare(&self, at: ByteOffset, data: &[u8]) -> Result<Self::Prepared, VmdkError> {
        self.first_difference(at, data)
    }

    fn place(&self, at: ByteOffset, _: &[u8], differs_at: &mut Self::Prepared) -> Result<(), VmdkError> {
        let Some(differs_at) = *differs_at else { return Ok(()) };
        // Blocks come in order, so the first one that is told is the first one there is.
        self.differs_at.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(differs_at);
        // Any error ends the copy; `compare` looks at the place instead.
        Err(VmdkError::Request { field: "the difference", actual: at.0, expected: "none" })
    }

    fn store(&self, _: ByteOffset, _: &[u8], _: Self::Prepared) -> Result<(), VmdkError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use blockdev::MemDisk;

    use super::*;

    fn found(first: &[u8], second: &[u8]) -> Option<Difference> {
        let (first, second) = (MemDisk::new(first.to_vec()), MemDisk::new(second.to_vec()));
        compare(&first, &second, &|_| ControlFlow::Continue(())).unwrap()
    }

    #[test]
    fn the_first_of_many_differences_is_found() {
        let mut first = vec![7; 20 << 20];
        let second = first.clone();
        assert_eq!(found(&first, &second), None);
        for at in [19 << 20, 5_000_001, 12 << 20] {
            first[at] = 8;
        }
        let expected = Some(Difference::Content { at: ByteOffset(5_000_001) });
        assert_eq!((found(&first, &second), found(&second, &first)), (expected, expected));
    }

    #[test]
    fn zeros_behind_the_end_are_a_difference_of_size_alone() {
        let (first, mut second) = (vec![7; 3 << 20], vec![0; 5 << 20]);
        second[..3 << 20].fill(7);
        let sizes =
            |first: u64, second: u64| Difference::Size { first: ByteLen(first << 20), second: ByteLen(second << 20) };
        assert_eq!(found(&first, &second), Some(sizes(3, 5)));
        assert_eq!(found(&second, &first), Some(sizes(5, 3)));
        second[(4 << 20) + 9] = 1;
        assert_eq!(found(&first, &second), Some(Difference::Content { at: ByteOffset((4 << 20) + 9) }));
        second[0] = 6;
        assert_eq!(found(&second, &first), Some(Difference::Content { at: ByteOffset(0) }));
    }
}
