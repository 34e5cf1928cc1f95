//! A bounded cache of table pages, shared by all extents of an image.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{ByteOffset, ReadAt, ReadError};

use crate::convert::to_usize;

/// The size of a page. A hosted table page of this size describes 1 GiB of disk, so that a walk over a networked file
/// makes few requests.
const PAGE_LEN: u64 = 64 << 10;

/// The most pages kept: 8 MiB. A chain of 64 disks needs a directory page and a table page of each.
const MAX_PAGES: usize = 128;

/// The pages read last. Which pages are kept changes speed, never answers.
#[derive(Debug, Default)]
pub(crate) struct PageCache {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    clock: u64,
    /// By extent and first byte.
    pages: HashMap<(u32, u64), Page>,
}

#[derive(Debug)]
struct Page {
    last_used: u64,
    bytes: Arc<[u8]>,
}

/// The part of a page from an asked position on.
#[derive(Debug)]
pub(crate) struct PageTail {
    page: Arc<[u8]>,
    from: usize,
}

impl PageTail {
    /// The little-endian entries from the asked position to the end of the page, never none.
    pub(crate) fn entries(&self) -> impl Iterator<Item = u32> + '_ {
        let bytes = self.page.get(self.from..).unwrap_or_default();
        bytes.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry))
    }

    pub(crate) fn first(&self) -> u32 {
        self.entries().next().unwrap_or(0)
    }
}

impl PageCache {
    /// The table entries of `file` from byte `at` on. `at` is a multiple of 4; the entry was checked to lie in the file.
    ///
    /// `owner` tells files apart.
    pub(crate) fn read(&self, owner: u32, file: &dyn ReadAt, at: u64) -> Result<PageTail, ReadError> {
        let start = at & !(PAGE_LEN - 1);
        let from = to_usize(at.saturating_sub(start));
        if let Some(page) = self.get((owner, start)) {
            return Ok(PageTail { page, from });
        }
        let len = PAGE_LEN.min(file.size().0.saturating_sub(start));
        let mut page = vec![0; to_usize(len)];
        file.read_exact_at(ByteOffset(start), &mut page)?; // without the lock: others go on meanwhile
        let page: Arc<[u8]> = page.into();
        self.put((owner, start), Arc::clone(&page));
        Ok(PageTail { page, from })
    }

    fn get(&self, key: (u32, u64)) -> Option<Arc<[u8]>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clock = inner.clock.wrapping_add(1);
        let now = inner.clock;
        let page = inner.pages.get_mut(&key)?;
        page.last_used = now;
        Some(Arc::clone(&page.bytes))
    }

    fn put(&self, key: (u32, u64), bytes: Arc<[u8]>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.pages.len() >= MAX_PAGES {
            let oldest = inner.pages.iter().min_by_key(|(_, page)| page.last_used).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                inner.pages.remove(&oldest);
            }
        }
        let last_used = inner.clock;
        inner.pages.insert(key, Page { last_used, bytes });
    }
}

#[cfg(test)]
mod tests {
    use blockdev::{ByteLen, MemDisk};

    use super::*;

    #[test]
    fn entries_run_to_the_end_of_the_page_or_of_the_file() {
        let bytes: Vec<u8> = (0..20_000u32).flat_map(u32::to_le_bytes).collect();
        let (cache, disk) = (PageCache::default(), MemDisk::new(bytes));
        let tail = cache.read(0, &disk, 65532).unwrap();
        assert_eq!(tail.entries().collect::<Vec<_>>(), [16383]);
        let tail = cache.read(0, &disk, 79_992).unwrap();
        assert_eq!(tail.entries().collect::<Vec<_>>(), [19_998, 19_999]);
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
    fn the_number_of_pages_is_bounded_and_the_last_used_stay() {
        let cache = PageCache::default();
        for page in 0..1000 {
            cache.read(1, &Endless, page * PAGE_LEN).unwrap();
            cache.read(2, &Endless, 0).unwrap();
        }
        let inner = cache.inner.lock().unwrap();
        assert_eq!(inner.pages.len(), MAX_PAGES);
        assert!(inner.pages.contains_key(&(2, 0)));
        assert!(inner.pages.contains_key(&(1, 999 * PAGE_LEN)));
    }
}
