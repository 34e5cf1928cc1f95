//! Blocks of disks that were read lately. What describes files is read in small pieces all over a volume; on a network each piece
//! would be a round trip.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{ByteLen, ByteOffset, Extent, ReadAt, ReadError};

/// The unit in which descriptions are read and kept.
const BLOCK: u64 = 64 << 10;
/// The same for the bytes of small files.
const FILE_BLOCK: u64 = 16 << 10;
/// Locks, so that threads seldom wait for each other.
const SHARDS: usize = 8;

/// Of the memory, so much is for the bytes of small files: 1 / 4.
const FOR_FILES: u64 = 4;

/// Memory for blocks of any number of disks. What describes files and what small files hold are kept apart, so that reading files does not
/// drive out what leads to the next ones.
pub struct Cache {
    descriptions: Blocks,
    files: Blocks,
    disks: AtomicU32,
}

struct Blocks {
    shards: [Mutex<Shard>; SHARDS],
    /// The unit in which disks are read and kept: a power of two.
    size: u64,
}

/// Which disk, which block.
type Key = (u32, u64);

struct Kept {
    bytes: Arc<[u8]>,
    /// Whether it was asked for since the last search for room.
    used: AtomicBool,
}

#[derive(Default)]
struct Shard {
    blocks: HashMap<Key, Kept>,
    /// The order in which room is searched for: a block that was used gets a second chance.
    order: VecDeque<Key>,
    most: usize,
}

impl Cache {
    /// A cache of about `limit`; a block for each of eight locks is the least.
    #[must_use]
    pub fn new(limit: ByteLen) -> Arc<Self> {
        let for_files = ByteLen(limit.0 / FOR_FILES);
        let descriptions = Blocks::new(ByteLen(limit.0.saturating_sub(for_files.0)), BLOCK);
        Arc::new(Self { descriptions, files: Blocks::new(for_files, FILE_BLOCK), disks: AtomicU32::new(0) })
    }
}

impl Blocks {
    fn new(limit: ByteLen, size: u64) -> Self {
        let blocks = usize::try_from(limit.0 >> size.ilog2()).unwrap_or(usize::MAX);
        let most = blocks.checked_div(SHARDS).unwrap_or(0).max(1);
        Self { shards: std::array::from_fn(|_| Mutex::new(Shard { most, ..Shard::default() })), size }
    }

    fn shard(&self, (disk, block): Key) -> &Mutex<Shard> {
        let spread = block.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(disk)).rotate_left(3);
        let index = usize::try_from(spread % 8).unwrap_or(0); // 8 is SHARDS
        self.shards.get(index).unwrap_or(&self.shards[0])
    }

    fn get(&self, key: Key) -> Option<Arc<[u8]>> {
        let shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        let kept = shard.blocks.get(&key)?;
        kept.used.store(true, Ordering::Relaxed);
        Some(Arc::clone(&kept.bytes))
    }

    fn put(&self, key: Key, bytes: &Arc<[u8]>) {
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        while shard.blocks.len() >= shard.most {
            let Some(oldest) = shard.order.pop_front() else { break };
            let spared = shard.blocks.get(&oldest).is_some_and(|kept| kept.used.swap(false, Ordering::Relaxed));
            if spared {
                shard.order.push_back(oldest);
            } else {
                shard.blocks.remove(&oldest);
            }
        }
        let kept = Kept { bytes: Arc::clone(bytes), used: AtomicBool::new(false) };
        if shard.blocks.insert(key, kept).is_none() {
            shard.order.push_back(key);
        }
    }
}

/// A disk that is read through a [`Cache`]. For what describes files; the bytes of files go past it.
pub struct CachedDisk {
    disk: Arc<dyn ReadAt>,
    cache: Arc<Cache>,
    number: u32,
}

impl CachedDisk {
    /// `disk`, read through `cache`.
    #[must_use]
    pub fn new(disk: Arc<dyn ReadAt>, cache: Arc<Cache>) -> Self {
        let number = cache.disks.fetch_add(1, Ordering::Relaxed);
        Self { disk, cache, number }
    }

    /// The disk itself, past the cache.
    #[must_use]
    pub fn uncached(&self) -> &Arc<dyn ReadAt> {
        &self.disk
    }

    /// The disk through that part of the cache which is for the bytes of small files: what lies beside one is often read next.
    #[must_use]
    pub const fn small_files(&self) -> SmallFiles<'_> {
        SmallFiles(self)
    }

    fn block(&self, blocks: &Blocks, index: u64) -> Result<Arc<[u8]>, ReadError> {
        let key = (self.number, index);
        if let Some(bytes) = blocks.get(key) {
            return Ok(bytes);
        }
        let start = index.saturating_mul(blocks.size);
        let len = blocks.size.min(self.disk.size().0.saturating_sub(start));
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)]; // at most BLOCK
        self.disk.read_exact_at(ByteOffset(start), &mut bytes)?;
        let bytes: Arc<[u8]> = bytes.into();
        blocks.put(key, &bytes);
        Ok(bytes)
    }

    fn read_through(&self, blocks: &Blocks, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let (size, len) = (self.size(), ByteLen::of(buf));
        let out_of_range = || ReadError::OutOfRange { at, len, size };
        if at.checked_add(len).is_none_or(|end| end.0 > size.0) {
            return Err(out_of_range());
        }
        let mut position = at.0;
        let mut rest = buf;
        while !rest.is_empty() {
            let block = self.block(blocks, position >> blocks.size.ilog2())?;
            let from = usize::try_from(position & blocks.size.saturating_sub(1)).unwrap_or(0);
            let piece = block.get(from..).filter(|piece| !piece.is_empty()).ok_or_else(out_of_range)?;
            let take = piece.len().min(rest.len());
            let (head, tail) = rest.split_at_mut(take);
            head.copy_from_slice(piece.get(..take).ok_or_else(out_of_range)?);
            rest = tail;
            position = position.saturating_add(ByteLen::of(head).0);
        }
        Ok(())
    }
}

impl ReadAt for CachedDisk {
    fn size(&self) -> ByteLen {
        self.disk.size()
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read_through(&self.cache.descriptions, at, buf)
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        self.disk.extent_at(at)
    }
}

/// See [`CachedDisk::small_files`].
pub struct SmallFiles<'a>(&'a CachedDisk);

impl ReadAt for SmallFiles<'_> {
    fn size(&self) -> ByteLen {
        self.0.size()
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_through(&self.0.cache.files, at, buf)
    }

    fn will_need(&self, at: ByteOffset, len: ByteLen) {
        // The whole blocks in which the bytes lie, for those are read.
        let start = at.0 & !FILE_BLOCK.saturating_sub(1);
        let end = at.0.saturating_add(len.0).next_multiple_of(FILE_BLOCK).min(self.size().0);
        self.0.disk.will_need(ByteOffset(start), ByteLen(end.saturating_sub(start)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use blockdev::MemDisk;

    use super::*;

    struct Counting(MemDisk, AtomicUsize);

    impl ReadAt for Counting {
        fn size(&self) -> ByteLen {
            self.0.size()
        }
        fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.read_exact_at(at, buf)
        }
    }

    #[test]
    fn small_reads_of_one_block_cost_one_read_of_the_disk() {
        let bytes: Vec<u8> = (0..200_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let disk = Arc::new(Counting(MemDisk::new(bytes.clone()), AtomicUsize::new(0)));
        let cached = CachedDisk::new(disk.clone(), Cache::new(ByteLen(1 << 20)));
        for at in (0..bytes.len() - 100).step_by(97) {
            let mut buf = [0; 100];
            cached.read_exact_at(ByteOffset(u64::try_from(at).unwrap()), &mut buf).unwrap();
            assert_eq!(buf, bytes[at..at + 100]);
        }
        assert_eq!(disk.1.load(Ordering::Relaxed), 200_000usize.div_ceil(64 << 10));
        assert!(cached.read_exact_at(ByteOffset(199_999), &mut [0; 2]).is_err());
    }

    #[test]
    fn it_never_holds_more_than_it_may() {
        let cache = Cache::new(ByteLen(1 << 20));
        let cached = CachedDisk::new(Arc::new(MemDisk::new(vec![1; 8 << 20])), cache.clone());
        for at in (0..8 << 20).step_by(64 << 10) {
            cached.read_exact_at(ByteOffset(at), &mut [0]).unwrap();
        }
        for at in (0..8 << 20).step_by(64 << 10) {
            cached.small_files().read_exact_at(ByteOffset(at), &mut [0]).unwrap();
        }
        let held =
            |blocks: &Blocks| blocks.shards.iter().map(|shard| shard.lock().unwrap().blocks.len()).sum::<usize>();
        let most = [(held(&cache.descriptions), 12), (held(&cache.files), 16)];
        assert!(most.iter().all(|(held, most)| held <= most), "{most:?} blocks");
    }
}
