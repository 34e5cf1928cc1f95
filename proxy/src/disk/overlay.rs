//! A disk that can be written although nothing of it is changed: what is written goes into a file without a name, which ends with the
//! process.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, FileDisk, ReadAt, ReadError};
use nbd::server::{Export, WriteAt, Zeroing};
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};

use crate::error::{Context, Result};

/// What is taken from the disk below, or from the file, at once. A smaller write takes the rest of its block with it.
const BLOCK: u64 = 64 << 10;
/// Blocks that one entry of the map speaks of: 256 MiB of the disk.
const PER_ENTRY: u64 = 4096;
/// Writes to different blocks seldom wait for each other.
const LOCKS: usize = 64;

/// A disk below, and what was written since.
pub struct Overlay {
    base: Arc<dyn ReadAt>,
    size: u64,
    /// As long as the disk; only written blocks take space.
    file: File,
    /// The same for reading, with its holes.
    written: FileDisk,
    map: RwLock<Map>,
    /// A block is made of both disks under its lock.
    locks: [Mutex<()>; LOCKS],
    /// Whether the file system can take space back, and write zeros without writing them.
    punches: bool,
    zeroes: bool,
}

/// Which blocks were written.
#[derive(Default)]
struct Map(HashMap<u64, [u64; 64]>);

impl Map {
    const fn place(block: u64) -> (u64, usize, u64) {
        let inside = block % PER_ENTRY;
        (block / PER_ENTRY, (inside / 64) as usize, 1 << (inside % 64))
    }

    fn has(&self, block: u64) -> bool {
        let (entry, word, bit) = Self::place(block);
        self.0.get(&entry).is_some_and(|words| words[word] & bit != 0)
    }

    fn set(&mut self, block: u64) {
        let (entry, word, bit) = Self::place(block);
        self.0.entry(entry).or_insert([0; 64])[word] |= bit;
    }

    /// The first block from `block` on, before `end`, that differs from it; `end` if none does.
    fn end_of_run(&self, block: u64, end: u64) -> u64 {
        let has = self.has(block);
        let mut at = block;
        while at < end {
            let (entry, _, _) = Self::place(at);
            match self.0.get(&entry) {
                None if has => return at,
                None => at = (entry + 1) * PER_ENTRY,
                Some(_) if self.has(at) != has => return at,
                Some(_) => at += 1,
            }
        }
        end
    }
}

impl Overlay {
    /// An overlay over `base`, whose file lies in `folder`.
    ///
    /// # Errors
    /// [`crate::Family::Failed`] if the file cannot be made there.
    pub fn new(base: Arc<dyn ReadAt>, folder: &Path) -> Result<Self> {
        let what = || format!("cannot make an overlay in {}", folder.display());
        let size = base.size().0;
        let file = nameless(folder).failed(what)?;
        file.set_len(size).failed(what)?;
        let written = FileDisk::new(file.try_clone().failed(what)?).failed(what)?;
        let locks = std::array::from_fn(|_| Mutex::new(()));
        let punches = fallocate(&file, PUNCH, 0, BLOCK).is_ok();
        let zeroes = fallocate(&file, ZERO, 0, 4096).is_ok();
        Ok(Self { base, size, file, written, map: RwLock::default(), locks, punches, zeroes })
    }

    fn has(&self, block: u64) -> bool {
        self.map.read().unwrap_or_else(PoisonError::into_inner).has(block)
    }

    fn set(&self, block: u64) {
        self.map.write().unwrap_or_else(PoisonError::into_inner).set(block);
    }

    fn lock(&self, block: u64) -> MutexGuard<'_, ()> {
        self.locks[(block % LOCKS as u64) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run of blocks at `at` that are all written, or all not: whether they are, and where it ends, at `end` at the latest.
    fn run_at(&self, at: u64, end: u64) -> (bool, u64) {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let block = at / BLOCK;
        let last = map.end_of_run(block, end.div_ceil(BLOCK));
        (map.has(block), last.saturating_mul(BLOCK).min(end))
    }

    /// Writes a piece of one block.
    fn write_piece(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let block = at / BLOCK;
        if self.has(block) {
            return self.file.write_all_at(data, at);
        }
        let _held = self.lock(block);
        if self.has(block) {
            return self.file.write_all_at(data, at); // somebody else was first
        }
        let start = block * BLOCK;
        let len = BLOCK.min(self.size - start) as usize;
        if data.len() == len {
            self.file.write_all_at(data, start)?;
        } else {
            let mut whole = vec![0; len];
            self.base.read_exact_at(ByteOffset(start), &mut whole).map_err(io::Error::other)?;
            let from = (at - start) as usize;
            whole[from..from + data.len()].copy_from_slice(data);
            self.file.write_all_at(&whole, start)?;
        }
        self.set(block);
        Ok(())
    }

    /// Makes whole blocks read as zeros.
    fn zero_blocks(&self, start: u64, end: u64, how: Zeroing) -> io::Result<()> {
        let (mode, supported) = if how.may_punch { (PUNCH, self.punches) } else { (ZERO, self.zeroes) };
        if how.only_fast && !supported {
            return Err(io::ErrorKind::Unsupported.into());
        }
        for block in start / BLOCK..end.div_ceil(BLOCK) {
            // From here on it is read from the file. Who makes it of both disks just now is waited for.
            let _held = self.lock(block);
            self.set(block);
        }
        if supported {
            return Ok(fallocate(&self.file, mode, start, end - start)?);
        }
        let zeros = vec![0; BLOCK as usize];
        let mut at = start;
        while at < end {
            let len = BLOCK.min(end - at);
            self.file.write_all_at(&zeros[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }
}

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
const ZERO: FallocateFlags = FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE);

/// A file that nobody else can open, and that is gone when it is closed.
fn nameless(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
            // File systems that know no nameless files.
            let path = folder.join(format!(".stillframe-overlay-{}", uuid::Uuid::new_v4().simple()));
            let file = rustix::fs::open(
                &path,
                OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC,
                Mode::RUSR | Mode::WUSR,
            )?;
            std::fs::remove_file(&path)?;
            Ok(file.into())
        }
        Err(error) => Err(error.into()),
    }
}

impl ReadAt for Overlay {
    fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> std::result::Result<(), ReadError> {
        let end = at.0.checked_add(buf.len() as u64).filter(|end| *end <= self.size);
        let Some(end) = end else {
            return Err(ReadError::OutOfRange { at, len: ByteLen::of(buf), size: self.size() });
        };
        let mut here = at.0;
        let mut rest = buf;
        while here < end {
            let (is_written, next) = self.run_at(here, end);
            let (piece, behind) = rest.split_at_mut((next - here) as usize);
            let disk: &dyn ReadAt = if is_written { &self.written } else { &*self.base };
            disk.read_exact_at(ByteOffset(here), piece)?;
            (here, rest) = (next, behind);
        }
        Ok(())
    }

    fn extent_at(&self, at: ByteOffset) -> std::result::Result<Extent, ReadError> {
        if at.0 >= self.size {
            return Err(ReadError::OutOfRange { at, len: ByteLen(1), size: self.size() });
        }
        let (is_written, end) = self.run_at(at.0, self.size);
        let disk: &dyn ReadAt = if is_written { &self.written } else { &*self.base };
        let mut extent = disk.extent_at(at)?;
        extent.len = ByteLen(extent.len.0.min(end - at.0));
        if is_written && extent.kind == ExtentKind::Hole {
            extent.kind = ExtentKind::Zero; // it is written, with zeros
        }
        Ok(extent)
    }

    fn will_need(&self, at: ByteOffset, len: ByteLen) {
        self.base.will_need(at, len);
    }
}

impl Export for Overlay {
    fn disk(&self) -> &dyn ReadAt {
        self
    }
    fn writer(&self) -> Option<&dyn WriteAt> {
        Some(self)
    }
}

impl WriteAt for Overlay {
    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        check(self.size, at, data.len() as u64)?;
        let (mut at, mut data) = (at, data);
        while !data.is_empty() {
            let len = (BLOCK - at % BLOCK).min(data.len() as u64);
            let (piece, rest) = data.split_at(len as usize);
            self.write_piece(at, piece)?;
            (at, data) = (at + len, rest);
        }
        Ok(())
    }

    fn write_zeroes(&self, at: u64, len: u64, how: Zeroing) -> io::Result<()> {
        check(self.size, at, len)?;
        let end = at + len;
        // Whole blocks in the middle, pieces of blocks before and behind them. The last block of the disk may be short.
        let first = at.next_multiple_of(BLOCK).min(end);
        let last = if end == self.size { end } else { (end / BLOCK * BLOCK).max(first) };
        let zeros = [0; 4096];
        for (mut from, to) in [(at, first), (last, end)] {
            while from < to {
                let len = (zeros.len() as u64).min(to - from);
                self.write_at(from, &zeros[..len as usize])?;
                from += len;
            }
        }
        if first < last { self.zero_blocks(first, last, how) } else { Ok(()) }
    }

    fn trim(&self, at: u64, len: u64) -> io::Result<()> {
        check(self.size, at, len)?;
        let (first, last) = (at.next_multiple_of(BLOCK), (at + len) / BLOCK * BLOCK);
        let mut here = first;
        while here < last {
            // What was never written takes no space.
            let (is_written, next) = self.run_at(here, last);
            if is_written && self.punches {
                self.zero_blocks(here, next, Zeroing { may_punch: true, only_fast: true })?;
            }
            here = next;
        }
        Ok(())
    }

    /// Nothing of it outlives the process, so nothing has to be on stable storage.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

fn check(size: u64, at: u64, len: u64) -> io::Result<()> {
    match at.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

#[cfg(test)]
mod tests {
    use blockdev::{MemDisk, ReadAtExt};

    use super::*;

    const SIZE: u64 = 5 * BLOCK + 1000;

    fn overlay(folder: &Path) -> (Arc<MemDisk>, Overlay) {
        let base = Arc::new(MemDisk::new((0..SIZE).map(|at| (at / 509) as u8 | 1).collect()));
        let overlay = Overlay::new(base.clone(), folder).unwrap();
        (base, overlay)
    }

    fn whole(disk: &dyn ReadAt) -> Vec<u8> {
        let mut bytes = vec![0; disk.size().to_usize().unwrap()];
        disk.read_exact_at(ByteOffset(0), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn it_behaves_as_a_disk_in_memory_and_leaves_the_one_below_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (base, overlay) = overlay(folder.path());
        let before = whole(&*base);
        let mut model = before.clone();
        let mut random = 0x1234_5678_u64;
        let mut next = |most: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % most
        };
        for round in 0..600 {
            let at = next(SIZE);
            let len = 1 + next((SIZE - at).min(3 * BLOCK));
            let range = at as usize..(at + len) as usize;
            match round % 4 {
                0 | 1 => {
                    let data = vec![round as u8; len as usize];
                    overlay.write_at(at, &data).unwrap();
                    model[range].copy_from_slice(&data);
                }
                2 => {
                    let how = Zeroing { may_punch: round % 8 == 2, only_fast: false };
                    overlay.write_zeroes(at, len, how).unwrap();
                    model[range].fill(0);
                }
                _ => {
                    let mut read = vec![0; len as usize];
                    overlay.read_exact_at(ByteOffset(at), &mut read).unwrap();
                    assert!(read == model[range], "round {round}, {len} bytes at {at}");
                }
            }
        }
        assert!(whole(&overlay) == model);
        assert!(whole(&*base) == before);
        for extent in overlay.extents() {
            let extent = extent.unwrap();
            let bytes = &model[extent.start.0 as usize..extent.end().0 as usize];
            assert!(extent.kind == ExtentKind::Data || bytes.iter().all(|byte| *byte == 0), "{extent:?}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "its file has no name");
    }

    #[test]
    fn writes_from_many_sides_to_one_block_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (_, overlay) = overlay(folder.path());
        std::thread::scope(|scope| {
            for number in 0..8u8 {
                let overlay = &overlay;
                scope.spawn(move || {
                    for step in 0..64u64 {
                        overlay.write_at((step * 8 + u64::from(number)) * 512, &[number | 0x80; 512]).unwrap();
                    }
                });
            }
        });
        let bytes = whole(&overlay);
        for (sector, bytes) in bytes[..512 * 512].chunks(512).enumerate() {
            assert!(bytes.iter().all(|byte| *byte == (sector % 8) as u8 | 0x80), "sector {sector}");
        }
    }

    #[test]
    fn what_passes_the_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (_, overlay) = overlay(folder.path());
        overlay.write_at(SIZE - 1, &[7]).unwrap();
        assert!(overlay.write_at(SIZE - 1, &[7, 7]).is_err());
        assert!(overlay.write_zeroes(SIZE, 1, Zeroing::default()).is_err());
        assert!(overlay.trim(u64::MAX, 2).is_err());
        assert!(overlay.read_exact_at(ByteOffset(SIZE), &mut [0]).is_err());
        overlay.trim(0, SIZE).unwrap();
        assert_eq!(whole(&overlay)[SIZE as usize - 1], 7, "the last block is no whole one");
    }
}
