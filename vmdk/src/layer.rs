//! One disk of a chain: its extents, one behind the other.

use std::sync::Arc;

use blockdev::{ByteOffset, ReadAt, ReadError};

use crate::Descriptor;
use crate::sparse::{GrainMap, GrainRun, PackedGrain};

/// One disk of a chain.
pub(crate) struct Layer {
    /// The name of its descriptor.
    pub(crate) name: String,
    /// Its descriptor.
    pub(crate) descriptor: Descriptor,
    /// Its extents in order; each begins where the one before ends.
    pub(crate) pieces: Vec<Piece>,
    /// The end of its last extent, in bytes.
    pub(crate) size: u64,
}

/// One extent.
pub(crate) struct Piece {
    /// Where it begins on the disk, in bytes.
    pub(crate) start: u64,
    /// Its length, in bytes, never 0.
    pub(crate) len: u64,
    /// What holds it.
    pub(crate) source: Source,
}

/// What holds an extent.
pub(crate) enum Source {
    /// A file (or device) from byte `offset` on; it was checked to be long enough.
    Flat { file: Arc<dyn ReadAt>, name: String, offset: u64 },
    /// Nothing: it reads as zeros.
    Zero,
    /// Grains behind tables.
    Sparse(GrainMap),
}

/// Where the bytes of a run are.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In a file from byte `offset` on. The file may know holes of its own if it is `flat`.
    Stored { file: &'a dyn ReadAt, name: &'a str, offset: u64, flat: bool },
    /// In a compressed grain from byte `inside` on.
    Packed { grain: PackedGrain<'a>, name: &'a str, inside: u64 },
    /// Nowhere: they are zeros.
    Zero,
    /// Not in this disk.
    Hole,
}

/// A run of bytes that are in one place.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) place: Place<'a>,
    /// In bytes, never 0.
    pub(crate) len: u64,
}

impl Layer {
    /// The run that begins at byte `at` of this disk; no more is looked at than `want` bytes need. Behind its end
    /// everything is a hole.
    pub(crate) fn run_at(&self, at: u64, want: u64) -> Result<Run<'_>, ReadError> {
        let behind = self.pieces.partition_point(|piece| piece.start <= at);
        let piece = behind.checked_sub(1).and_then(|index| self.pieces.get(index));
        let Some((piece, inside)) = piece.and_then(|piece| Some((piece, at.checked_sub(piece.start)?))) else {
            return Ok(Run { place: Place::Hole, len: u64::MAX });
        };
        let Some(left) = piece.len.checked_sub(inside).filter(|left| *left > 0) else {
            return Ok(Run { place: Place::Hole, len: u64::MAX });
        };
        let (place, len) = match &piece.source {
            Source::Flat { file, name, offset } => {
                (Place::Stored { file, name, offset: offset.saturating_add(inside), flat: true }, left)
            }
            Source::Zero => (Place::Zero, left),
            Source::Sparse(map) => match map.run_at(inside, want)? {
                GrainRun::Stored { start, len } => {
                    (Place::Stored { file: map.file(), name: map.name(), offset: start, flat: false }, len)
                }
                GrainRun::Packed { grain, inside, len } => (Place::Packed { grain, name: map.name(), inside }, len),
                GrainRun::Zero { len } => (Place::Zero, len),
                GrainRun::Hole { len } => (Place::Hole, len),
            },
        };
        Ok(Run { place, len: len.min(left) })
    }
}

impl Run<'_> {
    /// Fills `buf`, which is no longer than the run.
    pub(crate) fn read(&self, buf: &mut [u8]) -> Result<(), ReadError> {
        match self.place {
            Place::Stored { file, offset, .. } => file.read_exact_at(ByteOffset(offset), buf),
            Place::Packed { grain, inside, .. } => grain.read(inside, buf),
            Place::Zero | Place::Hole => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}
