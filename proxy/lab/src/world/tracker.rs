//! Changed block tracking of one disk: in which epoch each block was last written.
//!
//! An epoch begins with each snapshot; a change id is `<uuid>/<epoch>`. The file is named after the uuid, so that a series that is begun
//! anew knows nothing of the old one:
//!
//! ```text
//! byte 0    LABTRACK, then 8 bytes of zeros
//! byte 16   u32 (little-endian) per block of 64 KiB: the epoch of its last write, 0 for none in this series
//! ```
//!
//! The note comes before the write: a process that is killed in between leaves a block that is called changed and is not.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use blockdev::{ExtentKind, FileDisk, ReadAt, ReadAtExt};

/// What real hosts track disks of some 100 GiB by.
pub(crate) const BLOCK: u64 = 64 << 10;
const MAGIC: &[u8; 16] = b"LABTRACK\0\0\0\0\0\0\0\0";

/// The open file of a series.
pub(crate) struct Tracker {
    file: File,
    epoch: u32,
    blocks: BTreeMap<u64, u32>,
}

impl Tracker {
    /// Begins a series.
    pub(crate) fn create(path: &Path, epoch: u32) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.write_all_at(MAGIC, 0)?;
        Ok(Self { file, epoch, blocks: BTreeMap::new() })
    }

    /// Goes on with a series.
    pub(crate) fn open(path: &Path, epoch: u32) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let disk = FileDisk::new(file.try_clone()?)?;
        let mut magic = [0; 16];
        file.read_exact_at(&mut magic, 0)?;
        if magic != *MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it tracks no disk"));
        }
        let mut blocks = BTreeMap::new();
        for extent in disk.extents() {
            let extent = extent.map_err(io::Error::other)?;
            if extent.kind == ExtentKind::Data {
                load(&file, extent.start.0, extent.end().0.min(disk.size().0), &mut blocks)?;
            }
        }
        Ok(Self { file, epoch, blocks })
    }

    /// Another epoch begins.
    pub(crate) fn turn(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// `len` bytes from byte `at` are about to be written.
    pub(crate) fn note(&mut self, at: u64, len: u64) -> io::Result<()> {
        for block in at / BLOCK..(at + len).div_ceil(BLOCK) {
            if self.blocks.get(&block) != Some(&self.epoch) {
                self.file.write_all_at(&self.epoch.to_le_bytes(), 16 + 4 * block)?;
                self.blocks.insert(block, self.epoch);
            }
        }
        Ok(())
    }

    /// What was written in `epoch` or later, as (start, length) in bytes, in order, not touching each other.
    pub(crate) fn since(&self, epoch: u32, capacity: u64) -> Vec<(u64, u64)> {
        let mut areas: Vec<(u64, u64)> = Vec::new();
        for (block, _) in self.blocks.iter().filter(|(_, last)| **last >= epoch) {
            let (start, end) = (block * BLOCK, ((block + 1) * BLOCK).min(capacity));
            match areas.last_mut() {
                Some((first, len)) if *first + *len == start => *len = end - *first,
                _ => areas.push((start, end - start)),
            }
        }
        areas
    }
}

fn load(file: &File, start: u64, end: u64, blocks: &mut BTreeMap<u64, u32>) -> io::Result<()> {
    let (mut at, mut bytes) = (start.max(16), [0; 4096]);
    while at + 4 <= end {
        let len = usize::try_from((end - at) / 4 * 4).unwrap_or(usize::MAX).min(bytes.len());
        file.read_exact_at(&mut bytes[..len], at)?;
        for (index, word) in bytes[..len].as_chunks::<4>().0.iter().enumerate() {
            let epoch = u32::from_le_bytes(*word);
            if epoch != 0 {
                blocks.insert((at - 16) / 4 + index as u64, epoch);
            }
        }
        at += len as u64;
    }
    Ok(())
}
