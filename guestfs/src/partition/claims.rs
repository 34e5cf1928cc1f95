//! Who claims which bytes, and do two claim the same?

use blockdev::{ByteLen, ByteOffset};

use super::{PartitionError, Piece, Volume};

#[derive(Clone, Copy)]
pub(super) struct Claim {
    pub(super) piece: Piece,
    pub(super) start: ByteOffset,
    pub(super) len: ByteLen,
}

impl Claim {
    pub(super) const fn of(volume: &Volume) -> Self {
        Self { piece: Piece::Partition(volume.index), start: volume.start, len: volume.len }
    }

    /// Claims are checked against the disk (or cut at its end) when they are made, so nothing saturates.
    const fn end(&self) -> ByteOffset {
        ByteOffset(self.start.0.saturating_add(self.len.0))
    }
}

/// Refuses claims to the same bytes, in n log n steps.
pub(super) fn refuse_overlaps(mut claims: Vec<Claim>) -> Result<(), PartitionError> {
    claims.sort_by_key(|claim| claim.start);
    for (first, second) in claims.iter().zip(claims.iter().skip(1)) {
        // Sorted, and so far without overlap: only neighbours can overlap.
        if second.start < first.end() {
            return Err(PartitionError::Overlap { first: first.piece, second: second.piece, at: second.start });
        }
    }
    Ok(())
}
