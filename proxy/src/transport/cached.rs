//! What is read by requests, as a synchronous [`ReadAt`], for readers of images and file systems: they read small pieces all over a disk, so
//! whole blocks are fetched and a bounded number of them kept. Who reads on finds the next blocks on their way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

/// Bytes fetched at once.
pub(crate) const BLOCK: u64 = 256 << 10;
/// Blocks kept per source: 8 MiB, whatever the size of the disk.
const KEPT: usize = 32;
/// Blocks fetched ahead of a reader that goes on where it was.
pub(crate) const AHEAD: u64 = 3;

/// What answers requests for bytes, as well as it can: who reads from it does not try again.
#[async_trait]
pub(crate) trait Source: Send + Sync + 'static {
    /// Reads `len` bytes, at most 256 KiB, at `at`.
    async fn fetch(&self, at: u64, len: u64) -> crate::Result<Bytes>;
}

/// A block that is there, or on its way: whoever needs it meanwhile waits for the same request.
type Block = Arc<OnceCell<Bytes>>;

/// A disk by a source. Must be read on threads that may block.
pub(crate) struct Cached<S> {
    source: Arc<S>,
    size: ByteLen,
    runtime: Handle,
    /// Blocks fetched ahead of who reads on.
    ahead: u64,
    kept: Mutex<VecDeque<(u64, Block)>>,
}

impl<S: Source> Cached<S> {
    /// The first `size` bytes of `source`, which has at least as many. `ahead` blocks are fetched for who reads on.
    pub(crate) fn new(source: S, size: ByteLen, ahead: u64, runtime: Handle) -> Self {
        Self { source: Arc::new(source), size, runtime, ahead, kept: Mutex::new(VecDeque::new()) }
    }

    /// The place of a block among those kept, and whether the one before it is there too: then somebody reads on.
    fn place(&self, index: u64) -> (Block, bool) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let reads_on = index > 0 && kept.iter().any(|(at, _)| *at == index - 1);
        let found = kept.iter().position(|(at, _)| *at == index).and_then(|found| kept.remove(found));
        let block = found.map_or_else(Block::default, |(_, block)| block);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((index, block.clone()));
        (block, reads_on)
    }

    fn block(&self, index: u64) -> crate::Result<Bytes> {
        let (block, reads_on) = self.place(index);
        if reads_on {
            let last = self.size.0.saturating_sub(1) / BLOCK;
            for next in index + 1..=(index + self.ahead).min(last) {
                let (block, source, len) = (self.place(next).0, self.source.clone(), self.len_of(next));
                if !block.initialized() {
                    // A failure shows to who needs the block.
                    self.runtime
                        .spawn(async move { drop(block.get_or_try_init(|| source.fetch(next * BLOCK, len)).await) });
                }
            }
        }
        let bytes = block.get_or_try_init(|| self.source.fetch(index * BLOCK, self.len_of(index)));
        self.runtime.block_on(bytes).cloned()
    }

    fn len_of(&self, index: u64) -> u64 {
        BLOCK.min(self.size.0 - index * BLOCK)
    }
}

impl<S: Source> ReadAt for Cached<S> {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let end = at.0.checked_add(buf.len() as u64).filter(|end| *end <= self.size.0);
        if end.is_none() {
            return Err(ReadError::OutOfRange { at, len: ByteLen::of(buf), size: self.size });
        }
        let mut done = 0;
        while done < buf.len() {
            let position = at.0 + done as u64;
            let failed =
                |source| ReadError::Io { at: ByteOffset(position), source: std::io::Error::other(Arc::new(source)) };
            let block = self.block(position / BLOCK).map_err(failed)?;
            let from = (position % BLOCK) as usize;
            let len = block.len().saturating_sub(from).min(buf.len() - done);
            if len == 0 {
                let what = format!("a block of {} bytes came short", self.len_of(position / BLOCK));
                return Err(failed(crate::error::Error::new(crate::error::Family::Failed, what)));
            }
            buf[done..done + len].copy_from_slice(&block[from..from + len]);
            done += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Bytes that tell their block, and how often each fetch was made.
    struct Counted(Arc<AtomicU64>);

    #[async_trait]
    impl Source for Counted {
        async fn fetch(&self, at: u64, len: u64) -> crate::Result<Bytes> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(vec![(at / BLOCK) as u8; len as usize].into())
        }
    }

    #[test]
    fn small_reads_share_blocks_and_one_across_two_has_both() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let fetches = Arc::new(AtomicU64::new(0));
        let size = ByteLen(3 * BLOCK + 10);
        let disk = Cached::new(Counted(fetches.clone()), size, 0, runtime.handle().clone());
        let mut two = [0; 2];
        for _ in 0..100 {
            disk.read_exact_at(ByteOffset(BLOCK - 1), &mut two).unwrap();
            assert_eq!(two, [0, 1]);
        }
        disk.read_exact_at(ByteOffset(3 * BLOCK + 8), &mut two).unwrap();
        assert_eq!(two, [3, 3]);
        assert_eq!(fetches.load(Ordering::Relaxed), 3);
        assert!(disk.read_exact_at(ByteOffset(3 * BLOCK + 9), &mut two).is_err());
    }
}
