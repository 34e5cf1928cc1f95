//! A datastore file as a synchronous [`ReadAt`], for readers of images and file systems: they read small pieces all over a file, so whole
//! blocks are fetched and a bounded number of them kept. Who reads on finds the next blocks on their way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use vmdk_rs::VmdkError;
use vsphere::DatastoreFile;

use super::https::size_of;
use crate::hypervisor::worth_rereading;
use crate::job::{Cancel, Retry, with_retries};

/// Bytes fetched at once.
const BLOCK: u64 = 256 << 10;
/// Blocks kept per file: 8 MiB, whatever the size of the disk.
const KEPT: usize = 32;
/// Blocks fetched ahead of a reader that goes on where it was.
const AHEAD: u64 = 3;

/// A block that is there, or on its way: whoever needs it meanwhile waits for the same request.
type Block = Arc<OnceCell<Bytes>>;

pub(super) struct RemoteFile {
    file: DatastoreFile,
    size: ByteLen,
    runtime: Handle,
    /// Blocks fetched ahead of who reads on.
    ahead: u64,
    kept: Mutex<VecDeque<(u64, Block)>>,
}

impl RemoteFile {
    /// Asks for the size of `file`, from a thread that may block.
    pub(super) fn open(file: DatastoreFile, runtime: Handle) -> Result<Self, VmdkError> {
        let size = runtime.block_on(size_of(&file)).map_err(|e| VmdkError::Io {
            action: "open",
            file: file.path().to_string(),
            source: std::io::Error::other(e),
        })?;
        // Deltas are read here and there: what lies behind a block is seldom wanted next.
        Ok(Self { ahead: 0, ..Self::with_size(file, ByteLen(size), runtime) })
    }

    /// The first `size` bytes of `file`, which has at least as many.
    pub(super) fn with_size(file: DatastoreFile, size: ByteLen, runtime: Handle) -> Self {
        Self { file, size, runtime, ahead: AHEAD, kept: Mutex::new(VecDeque::new()) }
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
                let (block, file, len) = (self.place(next).0, self.file.clone(), self.len_of(next));
                if !block.initialized() {
                    // A failure shows to who needs the block.
                    self.runtime.spawn(async move { drop(block.get_or_try_init(|| fetch(&file, next, len)).await) });
                }
            }
        }
        let bytes = block.get_or_try_init(|| fetch(&self.file, index, self.len_of(index)));
        self.runtime.block_on(bytes).cloned()
    }

    fn len_of(&self, index: u64) -> u64 {
        BLOCK.min(self.size.0 - index * BLOCK)
    }
}

/// Fetches `len` bytes, at most [`BLOCK`], trying again what can pass.
async fn fetch(file: &DatastoreFile, index: u64, len: u64) -> crate::Result<Bytes> {
    let what = format!("reading {}", file.path());
    let once = || async {
        let range = file.get_range(index * BLOCK, len).await;
        let mut body = range.map_err(crate::hypervisor::from_vsphere)?;
        let mut bytes = Vec::with_capacity(len as usize);
        while let Some(piece) = body.next().await.map_err(crate::hypervisor::from_vsphere)? {
            bytes.extend_from_slice(&piece);
        }
        Ok(Bytes::from(bytes))
    };
    with_retries(Retry::READS, &Cancel::never(), &what, worth_rereading, once).await
}

impl ReadAt for RemoteFile {
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
