//! A small cache between a source that answers over a network and readers of images and file systems: they read small pieces all over a
//! disk, so whole blocks are fetched and a bounded number of them kept. Who reads on finds the next blocks on their way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

/// Bytes fetched at once.
pub(crate) const BLOCK: u64 = 256 << 10;
/// Blocks kept per disk: 8 MiB, whatever its size.
const KEPT: usize = 32;
/// Blocks fetched ahead of a reader that goes on where it was.
const AHEAD: u64 = 3;

/// Where blocks come from.
pub(crate) trait BlockSource: Send + Sync + 'static {
    /// Exactly `len` bytes, at most [`BLOCK`], from byte `at` on. What can pass was tried again when this fails.
    fn fetch(&self, at: u64, len: u64) -> impl Future<Output = crate::Result<Bytes>> + Send;
}

/// A block that is there, or on its way: whoever needs it meanwhile waits for the same request.
type Block = Arc<OnceCell<Bytes>>;

/// A source as a disk. Its reads block, and must not be made on a thread of the runtime.
pub(crate) struct BlockCache<S> {
    source: Arc<S>,
    size: ByteLen,
    runtime: Handle,
    /// Blocks fetched ahead of who reads on.
    ahead: u64,
    kept: Mutex<VecDeque<(u64, Block)>>,
}

impl<S: BlockSource> BlockCache<S> {
    /// The first `size` bytes of `source`, which has at least as many.
    pub(crate) fn new(source: S, size: ByteLen, runtime: Handle) -> Self {
        Self { source: Arc::new(source), size, runtime, ahead: AHEAD, kept: Mutex::default() }
    }

    /// The same, which fetches what is asked for and nothing ahead of it.
    pub(crate) fn without_read_ahead(self) -> Self {
        Self { ahead: 0, ..self }
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
                let (block, source, len) = (self.place(next).0, Arc::clone(&self.source), self.len_of(next));
                if !block.initialized() {
                    // A failure shows to who needs the block.
                    self.runtime.spawn(async move { drop(block.get_or_try_init(|| fetch(&*source, next, len)).await) });
                }
            }
        }
        let bytes = block.get_or_try_init(|| fetch(&*self.source, index, self.len_of(index)));
        self.runtime.block_on(bytes).cloned()
    }

    fn len_of(&self, index: u64) -> u64 {
        BLOCK.min(self.size.0 - index * BLOCK)
    }
}

async fn fetch(source: &impl BlockSource, index: u64, len: u64) -> crate::Result<Bytes> {
    let bytes = source.fetch(index * BLOCK, len).await?;
    if bytes.len() as u64 == len {
        return Ok(bytes);
    }
    let what = format!("{len} bytes were asked for at byte {}, and {} came", index * BLOCK, bytes.len());
    Err(crate::Error::new(crate::Family::Failed, what))
}

impl<S: BlockSource> ReadAt for BlockCache<S> {
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
            let block = self
                .block(position / BLOCK)
                .map_err(|e| ReadError::Io { at: ByteOffset(position), source: std::io::Error::other(Arc::new(e)) })?;
            let from = (position % BLOCK) as usize;
            let len = (block.len() - from).min(buf.len() - done);
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

    /// Bytes that tell their place; counts how often it is asked.
    #[derive(Clone, Default)]
    struct Numbers {
        asked: Arc<AtomicU64>,
        short: bool,
    }

    impl BlockSource for Numbers {
        async fn fetch(&self, at: u64, len: u64) -> crate::Result<Bytes> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let len = if self.short { len - 1 } else { len };
            Ok((at..at + len).map(|at| (at / 251) as u8).collect())
        }
    }

    fn expected(at: u64, len: usize) -> Vec<u8> {
        (at..at + len as u64).map(|at| (at / 251) as u8).collect()
    }

    #[test]
    fn small_reads_of_one_place_cost_one_request_and_blocks_join_without_a_seam() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let numbers = Numbers::default();
        let size = ByteLen(3 * BLOCK + 1000);
        let cache = BlockCache::new(numbers.clone(), size, runtime.handle().clone()).without_read_ahead();
        let mut buf = vec![0; 4096];
        for at in [0, 100, 8192, BLOCK - 4096] {
            cache.read_exact_at(ByteOffset(at), &mut buf).unwrap();
            assert_eq!(buf, expected(at, 4096), "{at}");
        }
        assert_eq!(numbers.asked.load(Ordering::SeqCst), 1);
        let mut all = vec![0; size.to_usize().unwrap()];
        cache.read_exact_at(ByteOffset(0), &mut all).unwrap();
        assert!(all == expected(0, all.len()));
        assert!(cache.read_exact_at(ByteOffset(size.0 - 1), &mut [0; 2]).is_err());
    }

    #[test]
    fn an_answer_of_the_wrong_length_is_an_error() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let numbers = Numbers { short: true, ..Numbers::default() };
        let cache = BlockCache::new(numbers, ByteLen(5000), runtime.handle().clone());
        let error = cache.read_exact_at(ByteOffset(0), &mut [0; 1]).unwrap_err();
        assert!(matches!(error, ReadError::Io { .. }), "{error}");
    }
}
