//! Bounded caches, shared by all extents of an image. What they keep changes speed, never answers.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{ByteOffset, ReadAt, ReadError};

use crate::convert::to_usize;

/// The size of a page. A hosted table page of this size describes 256 MiB of disk. Larger ones make walks no faster, and random
/// reads and disks of thousands of pieces slower; a networked file keeps blocks of its own.
const PAGE_LEN: u64 = 16 << 10;

/// Table pages kept: 8 MiB. A chain of 64 disks needs a directory page and a table page of each.
const PAGES_BUDGET: usize = 8 << 20;

/// Unpacked grains kept: 4 MiB, so that a file system may read a compressed disk in pieces of 4 KiB.
const GRAINS_BUDGET: usize = 4 << 20;

/// Which extent, and where in it.
type Key = (u32, u64);

/// What an image remembers of its files.
#[derive(Debug)]
pub(crate) struct Caches {
    pages: Lru,
    /// Plain bytes of compressed grains.
    pub(super) grains: Lru,
}

impl Default for Caches {
    fn default() -> Self {
        Self { pages: Lru::new(PAGES_BUDGET), grains: Lru::new(GRAINS_BUDGET) }
    }
}

impl Caches {
    /// The table entries of `file` from byte `at` on. `at` is a multiple of the entry's size; the entry was checked to lie
    /// in the file. `owner` tells files apart.
    pub(super) fn entries(&self, owner: u32, file: &dyn ReadAt, at: u64) -> Result<PageTail, ReadError> {
        let start = at & !(PAGE_LEN - 1);
        let from = to_usize(at.saturating_sub(start));
        if let Some(page) = self.pages.get((owner, start)) {
            return Ok(PageTail { page, from });
        }
        let len = PAGE_LEN.min(file.size().0.saturating_sub(start));
        let mut page = vec![0; to_usize(len)];
        file.read_exact_at(ByteOffset(start), &mut page)?; // without the lock: others go on meanwhile
        let page: Arc<[u8]> = page.into();
        self.pages.put((owner, start), Arc::clone(&page));
        Ok(PageTail { page, from })
    }
}

/// The part of a page from an asked position on.
#[derive(Debug)]
pub(super) struct PageTail {
    page: Arc<[u8]>,
    from: usize,
}

impl PageTail {
    /// How many little-endian entries of `width` bytes (4 or 8) satisfy `alike`, one behind the other from the asked
    /// position on; at most `limit`, and not behind the end of the page.
    pub(super) fn count(&self, width: u64, limit: u64, mut alike: impl FnMut(u64) -> bool) -> u64 {
        let bytes = self.page.get(self.from..).unwrap_or_default();
        let limit = to_usize(limit);
        let count = if width == 4 {
            let entries = bytes.as_chunks::<4>().0.iter().take(limit);
            entries.take_while(|entry| alike(u32::from_le_bytes(**entry).into())).count()
        } else {
            let entries = bytes.as_chunks::<8>().0.iter().take(limit);
            entries.take_while(|entry| alike(u64::from_le_bytes(**entry))).count()
        };
        crate::convert::to_u64(count)
    }

    /// The entry at the asked position, and the one behind it; 0 behind the end of the page.
    pub(super) fn first_two(&self, width: u64) -> (u64, u64) {
        let (mut number, mut two) = (0, [0; 2]);
        self.count(width, 2, |entry| {
            if let Some(place) = two.get_mut(number) {
                *place = entry;
            }
            number = 1;
            true
        });
        (two[0], two[1])
    }
}

/// Mixes a key. A chain asks for twenty pages to read one block, so the hash is on the way of every read; what a key is, an
/// image decides within limits, and the worst it can do is to make its own reading slow.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }
    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(29) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Byte strings by key, the least recently used dropped first.
#[derive(Debug)]
pub(super) struct Lru {
    budget: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    clock: u64,
    held: usize,
    entries: HashMap<Key, Entry, BuildHasherDefault<KeyHasher>>,
}

#[derive(Debug)]
struct Entry {
    last_used: u64,
    bytes: Arc<[u8]>,
}

impl Lru {
    fn new(budget: usize) -> Self {
        Self { budget, inner: Mutex::default() }
    }

    pub(super) fn get(&self, key: Key) -> Option<Arc<[u8]>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clock = inner.clock.wrapping_add(1);
        let now = inner.clock;
        let entry = inner.entries.get_mut(&key)?;
        entry.last_used = now;
        Some(Arc::clone(&entry.bytes))
    }

    pub(super) fn put(&self, key: Key, bytes: Arc<[u8]>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while inner.held.saturating_add(bytes.len()) > self.budget {
            let oldest = inner.entries.iter().min_by_key(|(_, entry)| entry.last_used).map(|(key, _)| *key);
            let Some(dropped) = oldest.and_then(|key| inner.entries.remove(&key)) else { break };
            inner.held = inner.held.saturating_sub(dropped.bytes.len());
        }
        let last_used = inner.clock;
        inner.held = inner.held.saturating_add(bytes.len());
        if let Some(replaced) = inner.entries.insert(key, Entry { last_used, bytes }) {
            inner.held = inner.held.saturating_sub(replaced.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use blockdev::{ByteLen, MemDisk};

    use super::*;

    #[test]
    fn entries_run_to_the_end_of_the_page_or_of_the_file() {
        let bytes: Vec<u8> = (0..20_000u32).flat_map(u32::to_le_bytes).collect();
        let (caches, disk) = (Caches::default(), MemDisk::new(bytes));
        let collect = |at, width| {
            let mut all = Vec::new();
            caches.entries(0, &disk, at).unwrap().count(width, u64::MAX, |entry| {
                all.push(entry);
                true
            });
            all
        };
        assert_eq!(collect(PAGE_LEN - 4, 4), [4095]);
        assert_eq!(collect(79_992, 4), [19_998, 19_999]);
        assert_eq!(collect(79_992, 8), [19_999 << 32 | 19_998]);
        assert_eq!(caches.entries(0, &disk, 79_992).unwrap().first_two(4), (19_998, 19_999));
        assert_eq!(caches.entries(0, &disk, 79_996).unwrap().first_two(4), (19_999, 0));
    }

    /// 64 TiB of zeros that cost nothing.
    struct Endless;

    impl ReadAt for Endless {
        fn size(&self) -> ByteLen {
            ByteLen(64 << 40)
        }
        fn read_exact_at(&self, _: ByteOffset, _: &mut [u8]) -> Result<(), ReadError> {
            Ok(())
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_last_used_stay() {
        let caches = Caches::default();
        for page in 0..1000 {
            caches.entries(1, &Endless, page * PAGE_LEN).unwrap();
            caches.entries(2, &Endless, 0).unwrap();
        }
        let inner = caches.pages.inner.lock().unwrap();
        assert_eq!(inner.held, PAGES_BUDGET);
        assert_eq!(inner.entries.values().map(|entry| entry.bytes.len()).sum::<usize>(), PAGES_BUDGET);
        assert!(inner.entries.contains_key(&(2, 0)));
        assert!(inner.entries.contains_key(&(1, 999 * PAGE_LEN)));
    }

    #[test]
    fn an_entry_that_is_put_twice_counts_once() {
        let lru = Lru::new(100);
        for _ in 0..10 {
            lru.put((0, 0), vec![0; 60].into());
        }
        lru.put((0, 1), vec![0; 40].into());
        assert_eq!(lru.inner.lock().unwrap().held, 100);
        assert!(lru.get((0, 0)).is_some() && lru.get((0, 1)).is_some());
    }
}
