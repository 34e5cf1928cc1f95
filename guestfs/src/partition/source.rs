//! The disk as the table readers see it: counted in sectors, read in checked pieces.

use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};
use zerocopy::{FromBytes, IntoBytes};

use super::{PartitionError, PartitionType, Piece, SectorSize, Volume};
use crate::VolumeKind;

/// The number of a sector, counted from the start of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lba(pub(super) u64);

impl Lba {
    /// The sector `sectors` further on; stops at 2^64 - 1, which lies on no disk.
    pub(super) const fn plus(self, sectors: u64) -> Self {
        Self(self.0.saturating_add(sectors))
    }
}

#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) disk: &'a dyn ReadAt,
    pub(super) sector: SectorSize,
}

impl Source<'_> {
    /// Where a sector begins; stops at 2^64 - 1, which lies on no disk.
    pub(super) const fn offset(&self, lba: Lba) -> ByteOffset {
        ByteOffset(lba.0.saturating_mul(self.sector.bytes().0))
    }

    /// Whether `len` bytes from `at` on lie on the disk.
    pub(super) fn holds(&self, at: ByteOffset, len: ByteLen) -> bool {
        at.checked_add(len).is_some_and(|end| end.0 <= self.disk.size().0)
    }

    /// Reads a structure of fixed layout.
    pub(super) fn raw<T: FromBytes + IntoBytes>(
        &self,
        what: &'static str,
        at: ByteOffset,
    ) -> Result<T, PartitionError> {
        let mut raw = T::new_zeroed();
        self.fill(what, at, raw.as_mut_bytes())?;
        Ok(raw)
    }

    /// Reads `len` bytes, which the caller has bounded.
    pub(super) fn bytes(&self, what: &'static str, at: ByteOffset, len: usize) -> Result<Vec<u8>, PartitionError> {
        let mut bytes = vec![0; len];
        self.fill(what, at, &mut bytes)?;
        Ok(bytes)
    }

    fn fill(&self, what: &'static str, at: ByteOffset, buf: &mut [u8]) -> Result<(), PartitionError> {
        self.disk.read_exact_at(at, buf).map_err(|source: ReadError| PartitionError::Read { what, source })
    }

    /// The range of `sectors` sectors from `first` on, if it lies on the disk.
    pub(super) fn range(
        &self,
        piece: Piece,
        first: Lba,
        sectors: u64,
    ) -> Result<(ByteOffset, ByteLen), PartitionError> {
        let (start, end) = (self.offset(first), self.offset(first.plus(sectors)));
        match end.checked_since(start) {
            Some(len) if self.holds(start, len) => Ok((start, len)),
            _ => Err(PartitionError::PastEnd { piece, start, end, disk: self.disk.size() }),
        }
    }

    /// A partition without name and kind, if it lies on the disk.
    pub(super) fn volume(
        &self,
        index: u32,
        table_type: PartitionType,
        first: Lba,
        sectors: u64,
    ) -> Result<Volume, PartitionError> {
        let (start, len) = self.range(Piece::Partition(index), first, sectors)?;
        let table_type = Some(table_type);
        let kind = VolumeKind::Unknown; // looked at when the whole table has been found sound
        Ok(Volume { index, start, len, table_type, name: None, guid: None, bootable: false, kind })
    }
}
