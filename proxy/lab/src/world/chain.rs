//! A disk as the guest sees it: a flat base and the redo logs above it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, FileDisk, ReadAt, ReadError};

use super::delta::{Delta, Run, SECTOR};
use super::lock;
use super::tracker::Tracker;

/// Bytes moved at once when layers are merged.
const MERGE_BLOCK_SECTORS: u32 = 2048;

/// One layer of a disk.
pub(crate) enum Layer {
    /// The base: the disk's bytes as they are.
    Flat { file: File, disk: FileDisk },
    /// What was written since.
    Delta(Delta),
}

impl Layer {
    pub(crate) fn flat(file: File) -> io::Result<Self> {
        Ok(Self::Flat { disk: FileDisk::new(file.try_clone()?)?, file })
    }

    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Flat { file, .. } => file.write_all_at(data, at),
            Self::Delta(delta) => delta.write(sector_of(at)?, data),
        }
    }
}

/// The layers of a disk, the base first. There is always a base.
pub(crate) type Layers = Vec<Arc<Layer>>;

/// A disk of a registered VM.
pub(crate) struct LiveDisk {
    capacity: u64,
    layers: RwLock<Layers>,
    tracker: Mutex<Option<Tracker>>,
}

impl LiveDisk {
    pub(crate) const fn new(capacity: u64, layers: Layers, tracker: Option<Tracker>) -> Self {
        Self { capacity, layers: RwLock::new(layers), tracker: Mutex::new(tracker) }
    }

    /// Tracks in another series, or no longer.
    pub(crate) fn set_tracker(&self, tracker: Option<Tracker>) {
        *lock(&self.tracker) = tracker;
    }

    /// Another epoch begins; called while no write is half done.
    pub(crate) fn turn(&self, epoch: u32) {
        if let Some(tracker) = lock(&self.tracker).as_mut() {
            tracker.turn(epoch);
        }
    }

    /// What was written in `epoch` or later, if that was tracked.
    pub(crate) fn changed_since(&self, epoch: u32) -> Option<Vec<(u64, u64)>> {
        lock(&self.tracker).as_ref().map(|tracker| tracker.since(epoch, self.capacity))
    }

    /// The layers at this moment. No layer is added or taken away, and no write is half done, while the guard of
    /// [`layers_mut`](Self::layers_mut) lives.
    pub(crate) fn layers(&self) -> RwLockReadGuard<'_, Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn layers_mut(&self) -> RwLockWriteGuard<'_, Layers> {
        self.layers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes whole sectors into the newest layer.
    pub(crate) fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let end = at.checked_add(data.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        if !at.is_multiple_of(SECTOR) || !(data.len() as u64).is_multiple_of(SECTOR) || end > self.capacity {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let layers = self.layers();
        let Some(leaf) = layers.last() else { return Err(io::ErrorKind::NotFound.into()) };
        if let Some(tracker) = lock(&self.tracker).as_mut() {
            tracker.note(at, data.len() as u64)?;
        }
        leaf.write(at, data)
    }
}

/// A disk as the guest sees it now, whatever layers come and go.
impl ReadAt for LiveDisk {
    fn size(&self) -> ByteLen {
        ByteLen(self.capacity)
    }
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        read_through(&self.layers(), self.capacity, at, buf)
    }
    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        extent_through(&self.layers(), self.capacity, at)
    }
}

/// The lower layers of a disk, as a snapshot froze them.
pub(crate) struct FrozenLayers {
    pub(crate) capacity: u64,
    pub(crate) layers: Layers,
}

impl ReadAt for FrozenLayers {
    fn size(&self) -> ByteLen {
        ByteLen(self.capacity)
    }
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        read_through(&self.layers, self.capacity, at, buf)
    }
    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        extent_through(&self.layers, self.capacity, at)
    }
}

fn check(capacity: u64, at: ByteOffset, len: ByteLen) -> Result<u64, ReadError> {
    match capacity.checked_sub(at.0) {
        Some(left) if left >= len.0 => Ok(left),
        _ => Err(ReadError::OutOfRange { at, len, size: ByteLen(capacity) }),
    }
}

fn read_through(layers: &[Arc<Layer>], capacity: u64, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
    check(capacity, at, ByteLen::of(buf))?;
    read_layers(layers, at.0, buf).map_err(|source| ReadError::Io { at, source })
}

/// Reads from the newest layer, and what it does not hold from those below.
fn read_layers(layers: &[Arc<Layer>], mut at: u64, mut buf: &mut [u8]) -> io::Result<()> {
    let Some((top, below)) = layers.split_last() else { return Err(io::ErrorKind::NotFound.into()) };
    let delta = match &**top {
        Layer::Flat { file, .. } => return file.read_exact_at(buf, at),
        Layer::Delta(delta) => delta,
    };
    while !buf.is_empty() {
        let (sector, skip) = (sector_of(at)?, at % SECTOR);
        let wanted = sector_of((skip + buf.len() as u64).div_ceil(SECTOR) * SECTOR)?;
        let run = delta.run(sector, wanted);
        let len = usize::try_from(u64::from(run.sectors) * SECTOR - skip).unwrap_or(usize::MAX).min(buf.len());
        let (now, rest) = buf.split_at_mut(len);
        match run.stored_at {
            Some(stored) => delta.read_stored(stored, skip, now)?,
            None => read_layers(below, at, now)?,
        }
        at += len as u64;
        buf = rest;
    }
    Ok(())
}

/// Data if any layer holds it, a hole as far as none does.
fn extent_through(layers: &[Arc<Layer>], capacity: u64, at: ByteOffset) -> Result<Extent, ReadError> {
    let left = check(capacity, at, ByteLen(1))?;
    let mut hole = left;
    for layer in layers.iter().rev() {
        let (data, len) = match &**layer {
            Layer::Flat { disk, .. } => {
                let extent = disk.extent_at(at)?;
                (extent.kind == ExtentKind::Data, extent.len.0)
            }
            Layer::Delta(delta) => {
                let sector = sector_of(at.0).map_err(|source| ReadError::Io { at, source })?;
                let Run { stored_at, sectors } = delta.run(sector, u32::MAX);
                (stored_at.is_some(), u64::from(sectors) * SECTOR - at.0 % SECTOR)
            }
        };
        if data {
            return Ok(Extent { start: at, len: ByteLen(len.min(left)), kind: ExtentKind::Data });
        }
        hole = hole.min(len);
    }
    Ok(Extent { start: at, len: ByteLen(hole), kind: ExtentKind::Hole })
}

/// Copies everything that `upper` stores into `lower`, or only the runs named.
pub(crate) fn merge(upper: &Delta, lower: &Layer, capacity: u64, only: Option<&[(u32, u32)]>) -> io::Result<()> {
    let whole = [(0, sector_of(capacity)?)];
    let mut buf = vec![0; MERGE_BLOCK_SECTORS as usize * 512];
    for &(first, count) in only.unwrap_or(&whole) {
        let (mut sector, end) = (first, first + count);
        while sector < end {
            let run = upper.run(sector, end - sector);
            let Some(stored) = run.stored_at else {
                sector += run.sectors;
                continue;
            };
            let count = run.sectors.min(MERGE_BLOCK_SECTORS);
            let block = &mut buf[..count as usize * 512];
            upper.read_stored(stored, 0, block)?;
            lower.write(u64::from(sector) * SECTOR, block)?;
            sector += count;
        }
    }
    Ok(())
}

fn sector_of(at: u64) -> io::Result<u32> {
    u32::try_from(at / SECTOR).map_err(|_| io::ErrorKind::FileTooLarge.into())
}
