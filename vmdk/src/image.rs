use std::fmt;
use std::path::Path;
use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, FileDisk, ReadAt, ReadError};

use crate::chain::open_chain;
use crate::convert::{to_u64, to_usize};
use crate::layer::{Layer, Place, Run, Source};
use crate::{Descriptor, ExtentType, FolderGate, Gate, VmdkError};

/// An open disk image with all its files and parents. Any number of threads can read it.
///
/// [`extent_at`](ReadAt::extent_at) answers from the tables (and for flat extents from the file's own holes), without
/// reading data: [`Data`](ExtentKind::Data) is stored in some disk of the chain, [`Zero`](ExtentKind::Zero) is marked as
/// zeros, [`Hole`](ExtentKind::Hole) is in no disk of the chain.
pub struct Image {
    /// The disk that was opened.
    top: Layer,
    /// Its parent, then the parent's, and so on.
    parents: Vec<Layer>,
}

/// Where a run of a disk is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement<'a> {
    /// The run, and what is known of it.
    pub extent: Extent,
    /// The disk of the chain that decides: 0 is the one that was opened. For a hole, the last one that was asked.
    pub depth: usize,
    /// Where its bytes are stored, if they are. A hole of a flat file has a place too.
    pub stored: Option<StoredAt<'a>>,
}

/// An extent of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The file that holds it; `None` if it is zeros.
    pub file: Option<&'a str>,
    /// Its type.
    pub kind: &'a ExtentType,
    /// Its size on the disk.
    pub len: ByteLen,
    /// The size of its grains; `None` if bytes lie as they are.
    pub grain_len: Option<ByteLen>,
    /// Whether its grains are compressed.
    pub compressed: bool,
}

/// A place in a file of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredAt<'a> {
    /// The file's name.
    pub file: &'a str,
    /// The first byte there; of a compressed grain that of its marker.
    pub offset: ByteOffset,
    /// Whether it is a compressed grain.
    pub compressed: bool,
}

/// Opens the image whose descriptor is the file `path`. All other files must lie in the same folder.
///
/// # Errors
/// See [`Image::open`].
pub fn open_path(path: &Path) -> Result<Image, VmdkError> {
    let shown = path.display().to_string();
    let file = FileDisk::open(path).map_err(VmdkError::io("open", shown.as_str()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let gate = FolderGate::open_folder(folder)?;
    let name = path.file_name().map_or(shown, |name| name.to_string_lossy().into_owned());
    Image::open(Arc::new(file), &name, &gate)
}

impl Image {
    /// Opens the image of a descriptor, or of a sparse file with its descriptor inside. `name` is the file's name; it is
    /// used in errors, and to find a chain that comes back to itself. Every other file is asked of `gate`.
    ///
    /// # Errors
    /// A file cannot be read, is of a dialect that is not supported, contradicts the format, or is refused by the gate; a
    /// parent's content ID is not the one the delta was made for.
    pub fn open(descriptor: Arc<dyn ReadAt>, name: &str, gate: &dyn Gate) -> Result<Self, VmdkError> {
        let (top, parents) = open_chain(descriptor, name, gate)?;
        Ok(Self { top, parents })
    }

    /// The descriptor of the disk that was opened (not of its parents).
    #[must_use]
    pub const fn descriptor(&self) -> &Descriptor {
        &self.top.descriptor
    }

    /// The disks of the chain, from the one that was opened to the last parent: file names and descriptors.
    pub fn chain(&self) -> impl Iterator<Item = (&str, &Descriptor)> {
        self.layers().map(|layer| (layer.name.as_str(), &layer.descriptor))
    }

    /// The extents of the disk that was opened (not of its parents), in their order.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.top.pieces.iter().zip(&self.top.descriptor.extents).map(|(piece, line)| {
            let (file, grain_len, compressed) = match &piece.source {
                Source::Flat { name, .. } => (Some(name.as_str()), None, false),
                Source::Zero => (None, None, false),
                Source::Sparse(map) => (Some(map.name()), Some(ByteLen(map.grains().grain_len)), map.grains().packed),
            };
            Part { file, kind: &line.kind, len: ByteLen(piece.len), grain_len, compressed }
        })
    }

    /// As [`extent_at`](ReadAt::extent_at), but of the disk that was opened alone: what lies in its parents is a hole.
    ///
    /// # Errors
    /// As [`extent_at`](ReadAt::extent_at).
    pub fn extent_at_top(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        Ok(self.placement_in(&[], at)?.extent)
    }

    /// As [`extent_at`](ReadAt::extent_at), with the disk of the chain that decides, and the place in its file.
    ///
    /// # Errors
    /// As [`extent_at`](ReadAt::extent_at).
    pub fn placement_at(&self, at: ByteOffset) -> Result<Placement<'_>, ReadError> {
        self.placement_in(&self.parents, at)
    }

    fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.top).chain(&self.parents)
    }

    fn placement_in<'a>(&'a self, parents: &'a [Layer], at: ByteOffset) -> Result<Placement<'a>, ReadError> {
        self.check(at, 1)?;
        let (run, depth) = self.run_at(parents, at.0, u64::MAX)?;
        let (kind, len, stored) = match run.place {
            Place::Stored { file, name, offset, flat } => {
                let stored = Some(StoredAt { file: name, offset: ByteOffset(offset), compressed: false });
                if flat {
                    let extent = file.extent_at(ByteOffset(offset))?;
                    (extent.kind, extent.len.0.min(run.len), stored)
                } else {
                    (ExtentKind::Data, run.len, stored)
                }
            }
            Place::Packed { grain, name, .. } => {
                let offset = ByteOffset(grain.start());
                (ExtentKind::Data, run.len, Some(StoredAt { file: name, offset, compressed: true }))
            }
            Place::Zero => (ExtentKind::Zero, run.len, None),
            Place::Hole => (ExtentKind::Hole, run.len, None),
        };
        Ok(Placement { extent: Extent { start: at, len: ByteLen(len), kind }, depth, stored })
    }

    /// The run at byte `at` of this disk, or of the first of `parents` that has it, and how deep that one is; no longer than
    /// to the end of the disk. No more is looked at than `want` bytes need.
    fn run_at<'a>(&'a self, parents: &'a [Layer], at: u64, want: u64) -> Result<(Run<'a>, usize), ReadError> {
        let mut len = self.top.size.saturating_sub(at).min(want);
        let mut last = 0;
        for (depth, layer) in std::iter::once(&self.top).chain(parents).enumerate() {
            last = depth;
            if at >= layer.size {
                break; // behind the end of a smaller parent are zeros, whatever its own parents hold there
            }
            let run = layer.run_at(at, len)?;
            len = len.min(run.len);
            if !matches!(run.place, Place::Hole) {
                return Ok((Run { place: run.place, len }, depth));
            }
        }
        Ok((Run { place: Place::Hole, len }, last))
    }

    fn check(&self, at: ByteOffset, len: u64) -> Result<(), ReadError> {
        match self.top.size.checked_sub(at.0) {
            Some(left) if left >= len => Ok(()),
            _ => Err(ReadError::OutOfRange { at, len: ByteLen(len), size: ByteLen(self.top.size) }),
        }
    }
}

impl ReadAt for Image {
    fn size(&self) -> ByteLen {
        ByteLen(self.top.size)
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.check(at, to_u64(buf.len()))?;
        let (mut at, mut rest) = (at.0, buf);
        while !rest.is_empty() {
            let (run, _) = self.run_at(&self.parents, at, to_u64(rest.len()))?;
            let len = to_usize(run.len).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            run.read(now)?;
            at = at.saturating_add(to_u64(len));
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        Ok(self.placement_at(at)?.extent)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chain: Vec<_> = self.layers().map(|layer| &layer.name).collect();
        f.debug_struct("Image").field("size", &self.top.size).field("chain", &chain).finish_non_exhaustive()
    }
}
