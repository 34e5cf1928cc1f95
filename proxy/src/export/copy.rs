//! The copy engine: a few streams per disk, a bounded number of blocks in flight over all disks, zero blocks dropped, and the digest taken
//! on the way. Whatever the size of the disk, memory stays the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use vmdk_rs::{ImageWriter, is_zero};

use super::digest::{BLOCK, DiskDigest};
use super::hashes::{HashWriter, Record};
use super::plan;
use crate::error::{Context, Error, Family, Result};
use crate::hypervisor::worth_rereading;
use crate::job::{Cancel, Meter, Retry};
use crate::transport::{Allocation, FrozenDisk, Span};

/// What one request asks for: long enough to hide the way there and back, short enough to share a disk among streams.
const SEGMENT: u64 = 32 << 20;
/// Blocks in memory over all disks: 32 MiB, a quarter of what the whole process may use.
const BLOCKS_IN_FLIGHT: usize = 32;
/// Where in memory a block begins: the image writer hands such blocks to the disk as they are.
const ALIGNMENT: usize = 4096;

/// The memory that all disks of a run share.
#[derive(Clone)]
pub struct Buffers {
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(BLOCKS_IN_FLIGHT)), idle: Arc::default() }
    }
}

impl Buffers {
    async fn take(&self) -> Result<Buffer> {
        let permit = self.permits.clone().acquire_owned().await.failed(|| "the copy was stopped".into())?;
        Ok(self.buffer(permit))
    }

    /// Room for a block and for what it was before. Both at once: two who have one each and wait for another would wait for ever.
    pub(super) async fn take_two(&self) -> Result<(Buffer, Buffer)> {
        let two = self.permits.clone().acquire_many_owned(2).await;
        let mut first = two.failed(|| "the copy was stopped".into())?;
        let second = first.split(1).ok_or_else(|| Error::new(Family::Failed, "the copy was stopped"))?;
        Ok((self.buffer(first), self.buffer(second)))
    }

    fn buffer(&self, permit: OwnedSemaphorePermit) -> Buffer {
        let memory = self.lock().pop().unwrap_or_else(|| vec![0; BLOCK as usize + ALIGNMENT]);
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Buffer { memory, start, len: 0, home: self.clone(), _permit: permit }
    }

    /// Waits until no block is being written any more.
    pub async fn idle(&self) {
        // Only closing the semaphore makes this fail, and nobody does.
        let _all = self.permits.acquire_many(BLOCKS_IN_FLIGHT as u32).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one block.
pub(super) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
    home: Buffers,
    _permit: OwnedSemaphorePermit,
}

impl Buffer {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// Makes it `len` bytes long, whatever they are.
    pub(super) fn stretch(&mut self, len: usize) -> &mut [u8] {
        self.len = len.min(BLOCK as usize);
        &mut self.memory[self.start..self.start + self.len]
    }

    /// Adds bytes. A block has room for them.
    fn push(&mut self, bytes: &[u8]) {
        let end = self.start + self.len;
        self.memory[end..end + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.lock().push(std::mem::take(&mut self.memory));
    }
}

/// How a disk is copied.
#[derive(Clone)]
pub struct CopyOptions {
    /// Requests in flight per disk.
    pub streams: usize,
    /// How often a broken read is taken up again where it stopped.
    pub retry: Retry,
    /// Decides which unused places are sampled.
    pub seed: Vec<u8>,
    /// An empty file for the hashes of the blocks.
    pub hashes: Option<Arc<File>>,
}

/// What came of a copy.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The digest of the disk.
    pub digest: DiskDigest,
    /// Bytes that came over the transport.
    pub read: u64,
    /// Bytes of blocks that were not all zeros.
    pub stored: u64,
    /// Why everything was read, if the host did not know or did not tell the truth.
    pub read_all_because: Option<String>,
}

/// Where blocks go.
pub trait BlockSink: Send + Sync {
    /// Takes the bytes of one block that is not all zeros. Called from any thread, in any order.
    ///
    /// # Errors
    /// Those of the storage.
    fn write_block(&self, at: u64, bytes: &[u8]) -> Result<()>;
}

impl BlockSink for ImageWriter {
    fn write_block(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.write_at(blockdev::ByteOffset(at), bytes).map_err(|e| cannot_write(e, at))
    }
}

/// Nowhere: for reading a disk a second time, to compare digests.
pub struct Discard;

impl BlockSink for Discard {
    fn write_block(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Copies `source` into `target`.
///
/// # Errors
/// Those of the transport and of the target. What was written stays for the caller to remove.
pub async fn copy_disk(
    source: Arc<dyn FrozenDisk>,
    target: Arc<dyn BlockSink>,
    buffers: &Buffers,
    options: &CopyOptions,
    meter: &Meter,
    cancel: &Cancel,
) -> Result<Copied> {
    let capacity = source.capacity();
    let (spans, read_all_because) = cancel.or_stop(choose_spans(source.as_ref(), options)).await?;
    meter.set_total(spans.iter().map(|span| span.end - span.start).sum());
    let segments: Vec<Span> = spans.into_iter().flat_map(cut).collect();
    let work = Arc::new(Work {
        source,
        target,
        buffers: buffers.clone(),
        retry: options.retry,
        meter: meter.clone(),
        queue: Mutex::new(segments.into_iter().enumerate().collect::<Vec<_>>().into_iter()),
        sum: Mutex::new(Sum::new(capacity, HashWriter::new(options.hashes.clone(), capacity).map_err(no_hashes)?)),
    });
    let mut streams = JoinSet::new();
    for _ in 0..options.streams.max(1) {
        streams.spawn(Arc::clone(&work).run());
    }
    // Dropping the set on a cancel or an error stops the other streams.
    cancel
        .or_stop(async {
            while let Some(ended) = streams.join_next().await {
                ended.failed(|| "a copying task broke off".into())??;
            }
            Ok(())
        })
        .await?;
    drop(streams);
    let work = Arc::into_inner(work).ok_or_else(|| Error::new(Family::Failed, "a copying task did not end"))?;
    let sum = work.sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let digest = sum.hashes.finish().map_err(no_hashes)?;
    Ok(Copied { digest, read: sum.read, stored: sum.stored, read_all_because })
}

/// What to read: what the host says is in use, if a sample of the rest bears it out; else everything.
async fn choose_spans(source: &dyn FrozenDisk, options: &CopyOptions) -> Result<(Vec<Span>, Option<String>)> {
    let capacity = source.capacity();
    let everything = plan::spans_to_read(std::slice::from_ref(&(0..capacity)), capacity);
    let spans = match source.allocation().await {
        Allocation::Known(spans) => plan::spans_to_read(&spans, capacity),
        Allocation::Unknown(why) => return Ok((everything, Some(why))),
    };
    for sample in plan::samples(&spans, capacity, &options.seed) {
        if !reads_as_zeros(source, sample.clone()).await? {
            let why = format!("the host calls byte {:#x} unused, and it holds data", sample.start);
            tracing::warn!("{why}; the whole disk is read");
            return Ok((everything, Some(why)));
        }
    }
    Ok((spans, None))
}

async fn reads_as_zeros(source: &dyn FrozenDisk, span: Span) -> Result<bool> {
    let attempt = || async {
        let mut stream = source.open(span.clone()).await?;
        let mut zero = true;
        while let Some(bytes) = stream.next().await? {
            zero &= is_zero(&bytes);
        }
        Ok(zero)
    };
    crate::job::with_retries(Retry::READS, &Cancel::never(), "sampling unused blocks", worth_rereading, attempt).await
}

/// A span in segments, each of whole blocks.
fn cut(span: Span) -> impl Iterator<Item = Span> {
    let end = span.end;
    (span.start..end).step_by(SEGMENT as usize).map(move |start| start..(start + SEGMENT).min(end))
}

/// One disk on its way, shared by its streams.
struct Work {
    source: Arc<dyn FrozenDisk>,
    target: Arc<dyn BlockSink>,
    buffers: Buffers,
    retry: Retry,
    meter: Meter,
    queue: Mutex<std::vec::IntoIter<(usize, Span)>>,
    sum: Mutex<Sum>,
}

/// The digest wants its blocks in order, and segments end in any order: early ones wait, 40 bytes for a block. How many can come while
/// one segment is late is bounded by the time that its retries may take.
struct Sum {
    capacity: u64,
    hashes: HashWriter,
    next: usize,
    early: BTreeMap<usize, Vec<Record>>,
    read: u64,
    stored: u64,
}

impl Sum {
    fn new(capacity: u64, hashes: HashWriter) -> Self {
        Self { capacity, hashes, next: 0, early: BTreeMap::new(), read: 0, stored: 0 }
    }

    fn segment_done(&mut self, number: usize, len: u64, hashes: Vec<Record>) -> Result<()> {
        self.read += len;
        self.early.insert(number, hashes);
        while let Some(ready) = self.early.remove(&self.next) {
            for record in ready {
                self.hashes.block(&record).map_err(no_hashes)?;
                self.stored += BLOCK.min(self.capacity - record.0 * BLOCK);
            }
            self.next += 1;
        }
        Ok(())
    }
}

/// A block's index and hash, or nothing if it was all zeros.
type Hashed = Option<Record>;
type Pending = tokio::task::JoinHandle<Result<Hashed>>;

impl Work {
    async fn run(self: Arc<Self>) -> Result<()> {
        loop {
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, span)) = next else { return Ok(()) };
            let len = span.end - span.start;
            let hashes = self.segment(span).await?;
            let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
            sum.segment_done(number, len, hashes)?;
        }
    }

    /// Copies one segment, taking broken reads up again at the block where they stopped.
    async fn segment(&self, span: Span) -> Result<Vec<Record>> {
        let mut blocks = FuturesOrdered::new();
        let mut hashes = Vec::new();
        let mut at = span.start;
        let mut failures = 0;
        while at < span.end {
            let before = at;
            match self.read_from(&mut at, span.end, &mut blocks).await {
                Ok(()) => break,
                Err(error) => {
                    failures = if at > before { 1 } else { failures + 1 };
                    if failures > self.retry.times || !worth_rereading(&error) {
                        return Err(error);
                    }
                    let wait = self.retry.wait_before(failures - 1);
                    tracing::warn!("{}; reading on at byte {at:#x} in {wait:?}", error.line());
                    tokio::time::sleep(wait).await;
                }
            }
        }
        while let Some(done) = blocks.next().await {
            let done: Result<Hashed> = done.failed(|| "a block was not written".into())?;
            hashes.extend(done?);
        }
        Ok(hashes)
    }

    /// Reads from `at` to `end`, handing each whole block over; `at` moves with them.
    async fn read_from(&self, at: &mut u64, end: u64, blocks: &mut FuturesOrdered<Pending>) -> Result<()> {
        let mut stream = self.source.open(*at..end).await?;
        let mut partial = None;
        while let Some(bytes) = stream.next().await? {
            let mut bytes: &[u8] = &bytes;
            while !bytes.is_empty() {
                if *at == end {
                    return Err(Error::new(Family::Failed, format!("the transport sent bytes behind {end:#x}")));
                }
                let mut block = match partial.take() {
                    Some(block) => block,
                    None => self.buffers.take().await?,
                };
                let want = BLOCK.min(end - *at) as usize - block.len;
                let (now, later) = bytes.split_at(want.min(bytes.len()));
                block.push(now);
                bytes = later;
                if now.len() == want {
                    let start = *at;
                    *at += block.len as u64;
                    blocks.push_back(self.hand_over(start, block));
                } else {
                    partial = Some(block);
                }
            }
        }
        if *at == end {
            return Ok(());
        }
        Err(Error::new(Family::Failed, format!("the transport ended at byte {:#x} of {end:#x}", *at)))
    }

    /// Gives a block to a thread that drops it if it is zero, else hashes and writes it.
    fn hand_over(&self, at: u64, block: Buffer) -> Pending {
        let target = self.target.clone();
        let meter = self.meter.clone();
        tokio::task::spawn_blocking(move || {
            let bytes = block.bytes();
            let hashed = if is_zero(bytes) {
                None
            } else {
                target.write_block(at, bytes)?;
                Some((at / BLOCK, blake3::hash(bytes)))
            };
            meter.add(bytes.len() as u64);
            Ok(hashed)
        })
    }
}

pub(super) fn no_hashes(error: std::io::Error) -> Error {
    super::with_space_hint(Error::new(Family::Failed, "cannot write the hashes of the blocks").caused_by(error))
}

pub(super) fn cannot_write(error: vmdk_rs::VmdkError, at: u64) -> Error {
    let error =
        Error::new(Family::Failed, format!("cannot write the image at byte {at:#x} of the disk")).caused_by(error);
    super::with_space_hint(error)
}

#[cfg(test)]
pub(super) mod tests;
