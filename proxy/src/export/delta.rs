//! The copy engine of deltas: only what changed is read from the source, the rest of each touched block comes from the base beside us,
//! and the digest is that of the whole disk.
//!
//! ```text
//! changed spans -> blocks of 1 MiB, many in flight: source -> changed bytes \
//!                                     base image -> the other bytes, checked -- difference -> delta
//!                                                                            \- hash, in order -> merged with the base's -> digest
//! ```

use std::fs::File;
use std::iter::Peekable;
use std::sync::Arc;

use blockdev::{ByteOffset, ExtentKind, ReadAt, ReadAtExt};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use vmdk_rs::ImageWriter;

use super::copy::{Buffer, Buffers, Copied, CopyOptions, cannot_write, no_hashes};
use super::digest::{BLOCK, DiskDigest};
use super::hashes::{BlockHashes, HashWriter, Record};
use super::plan::{self, SAMPLE, Unit};
use crate::error::{Context, Error, Family, Result};
use crate::hypervisor::worth_rereading;
use crate::job::{Cancel, Meter, with_retries};
use crate::transport::{FrozenDisk, Span, from_read};

/// Blocks in flight for each stream that was asked for: small requests have to hide the way there and back.
const BLOCKS_PER_STREAM: usize = 4;
/// Runs of the base that are looked at to find one that holds data.
const STEPS: usize = 10_000;

/// The disk that a delta is to.
pub struct Base {
    /// The disk with its whole chain.
    pub image: Arc<dyn ReadAt>,
    /// The hashes of its blocks.
    pub hashes: BlockHashes,
}

/// What came of an attempt.
#[derive(Debug)]
pub enum Delta {
    /// The delta is written.
    Copied(Copied),
    /// A delta would be wrong, for this reason. What was written of it is worthless.
    Useless(String),
}

/// From where to where.
#[derive(Clone)]
pub struct DeltaWork {
    /// The disk.
    pub source: Arc<dyn FrozenDisk>,
    /// Where it changed: sorted, apart, inside the disk.
    pub changed: Vec<Span>,
    /// What it was before.
    pub base: Arc<Base>,
    /// The delta.
    pub target: Arc<ImageWriter>,
}

/// Why a block was not written.
enum Trouble {
    /// The run has to end.
    Failed(Error),
    /// The base is not what it was.
    Base(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Writes what changed. A sample of the rest is compared with the base.
///
/// # Errors
/// Those of the transport and of the target. What was written stays for the caller to remove.
pub async fn copy_changes(
    work: DeltaWork,
    buffers: &Buffers,
    options: &CopyOptions,
    meter: &Meter,
    cancel: &Cancel,
) -> Result<Delta> {
    let capacity = work.source.capacity();
    let changed = plan::whole_pages(&work.changed, capacity);
    let sampled = match cancel.or_stop(compare_samples(&work, &changed, options)).await? {
        Ok(sampled) => sampled,
        Err(why) => return Ok(Delta::Useless(why)),
    };
    meter.set_total(changed.iter().map(|span| span.end - span.start).sum());
    let hashes = HashWriter::new(options.hashes.clone(), capacity).map_err(no_hashes)?;
    let (sender, receiver) = mpsc::channel(64);
    let base = work.base.clone();
    let merging = tokio::task::spawn_blocking(move || merge(&base.hashes, receiver, hashes));
    let in_flight = options.streams.max(1) * BLOCKS_PER_STREAM;
    let shared = Arc::new(work);
    let copying = async {
        let units = plan::units(&changed, capacity).map(|unit| {
            let (work, buffers, options, meter) = (shared.clone(), buffers.clone(), options.clone(), meter.clone());
            async move { copy_unit(&work, unit, capacity, &buffers, &options, &meter).await }
        });
        let mut done = stream::iter(units).buffered(in_flight);
        let (mut read, mut stored) = (sampled, 0);
        while let Some(block) = done.try_next().await? {
            read += block.read;
            stored += block.stored;
            // Who merges has ended early only with an error, which is told below.
            let _ = sender.send((block.index, block.hash)).await;
        }
        drop(sender);
        Ok::<_, Trouble>((read, stored))
    };
    let copied = cancel.or_stop(async { Ok(copying.await) }).await?;
    let (read, stored) = match copied {
        Ok(sums) => sums,
        Err(Trouble::Failed(error)) => return Err(error),
        Err(Trouble::Base(why)) => return Ok(Delta::Useless(why)),
    };
    let digest = merging.await.failed(|| "the hashes were not merged".into())??;
    Ok(Delta::Copied(Copied { digest, read, stored, read_all_because: None }))
}

/// A block that is done.
struct Done {
    index: u64,
    /// Of the whole block as it is now; none if it is all zeros.
    hash: Option<blake3::Hash>,
    read: u64,
    stored: u64,
}

async fn copy_unit(
    work: &Arc<DeltaWork>,
    unit: Unit,
    capacity: u64,
    buffers: &Buffers,
    options: &CopyOptions,
    meter: &Meter,
) -> Result<Done, Trouble> {
    let start = unit.index * BLOCK;
    let len = BLOCK.min(capacity - start) as usize;
    let (mut now, before) = buffers.take_two().await?;
    let bytes = now.stretch(len);
    let mut read = 0;
    for span in &unit.spans {
        let part = &mut bytes[(span.start - start) as usize..(span.end - start) as usize];
        fetch(work.source.as_ref(), span, part, options).await?;
        read += span.end - span.start;
        meter.add(span.end - span.start);
    }
    let work = Arc::clone(work);
    let writing = tokio::task::spawn_blocking(move || write_unit(&work, &unit, now, before, len));
    let (hash, stored) = writing.await.failed(|| "a block was not written".into())??;
    Ok(Done { index: start / BLOCK, hash, read, stored })
}

/// Reads a span, trying again as long as that can help.
async fn fetch(source: &dyn FrozenDisk, span: &Span, into: &mut [u8], options: &CopyOptions) -> Result<()> {
    let what = format!("reading {} bytes at byte {:#x}", into.len(), span.start);
    let reading = async || {
        let mut stream = source.open(span.clone()).await?;
        let mut pieces = Vec::new();
        let mut at = span.start;
        while let Some(piece) = stream.next().await? {
            at = at.saturating_add(piece.len() as u64);
            if at > span.end {
                return Err(Error::new(Family::Failed, format!("the transport sent bytes behind {:#x}", span.end)));
            }
            pieces.push(piece);
        }
        if at == span.end {
            return Ok(pieces);
        }
        Err(Error::new(Family::Failed, format!("the transport ended at byte {at:#x} of {:#x}", span.end)))
    };
    // A cancel of the run drops this with all that it waits for.
    let pieces = with_retries(options.retry, &Cancel::never(), &what, worth_rereading, reading).await?;
    let mut rest = into;
    for piece in pieces {
        let (part, later) = rest.split_at_mut(piece.len());
        part.copy_from_slice(&piece);
        rest = later;
    }
    Ok(())
}

/// Completes a block from the base and writes what differs. Answers its hash and how much was stored.
fn write_unit(
    work: &DeltaWork,
    unit: &Unit,
    mut now: Buffer,
    mut before: Buffer,
    len: usize,
) -> Result<(Option<blake3::Hash>, u64), Trouble> {
    let start = unit.index * BLOCK;
    let base = before.stretch(len);
    read_base(&work.base, start, base)?;
    let whole = unit.spans.iter().map(|span| (span.end - span.start) as usize).sum::<usize>() == len;
    if !whole {
        // What is taken over from the base must be what was backed up then: else this backup would vouch for damage.
        let expected = work.base.hashes.get(unit.index).map_err(no_hashes)?;
        if hash_of(base) != expected {
            return Err(Trouble::Base(format!("the base is damaged near byte {start:#x}")));
        }
        let bytes = now.stretch(len);
        let mut at = 0;
        for span in unit.spans.iter().map(|span| (span.start - start) as usize..(span.end - start) as usize) {
            bytes[at..span.start].copy_from_slice(&base[at..span.start]);
            at = span.end;
        }
        bytes[at..].copy_from_slice(&base[at..]);
    }
    let written = work.target.write_difference_at(ByteOffset(start), now.bytes(), base);
    let stored = written.map_err(|error| cannot_write(error, start))?;
    Ok((hash_of(now.bytes()), stored))
}

fn read_base(base: &Base, at: u64, into: &mut [u8]) -> Result<(), Trouble> {
    base.image
        .read_exact_at(ByteOffset(at), into)
        .map_err(|error| Trouble::Base(from_read(error, &format!("the base cannot be read at byte {at:#x}")).line()))
}

fn hash_of(bytes: &[u8]) -> Option<blake3::Hash> {
    (!vmdk_rs::is_zero(bytes)).then(|| blake3::hash(bytes))
}

/// Takes the blocks that were written, in order, and those of the base between them.
fn merge(
    base: &BlockHashes,
    mut written: mpsc::Receiver<(u64, Option<blake3::Hash>)>,
    mut hashes: HashWriter,
) -> Result<DiskDigest> {
    let mut records = base.records().peekable();
    while let Some((index, hash)) = written.blocking_recv() {
        take_over(&mut records, index, &mut hashes)?;
        if let Some(hash) = hash {
            hashes.block(&(index, hash)).map_err(no_hashes)?;
        }
        if matches!(records.peek(), Some(Ok((same, _))) if *same == index) {
            records.next();
        }
    }
    take_over(&mut records, u64::MAX, &mut hashes)?;
    hashes.finish().map_err(no_hashes)
}

fn take_over(
    records: &mut Peekable<impl Iterator<Item = std::io::Result<Record>>>,
    until: u64,
    hashes: &mut HashWriter,
) -> Result<()> {
    let before = |record: &std::io::Result<Record>| record.as_ref().map_or(true, |(index, _)| *index < until);
    while let Some(record) = records.next_if(before) {
        hashes.block(&record.failed(|| "cannot read the hashes of the base".into())?).map_err(no_hashes)?;
    }
    Ok(())
}

/// Compares places that are said to be unchanged: a half of them anywhere, the others where the base holds data. Answers the bytes that
/// were read, or why no delta can be made.
async fn compare_samples(work: &DeltaWork, changed: &[Span], options: &CopyOptions) -> Result<Result<u64, String>> {
    let capacity = work.source.capacity();
    let samples = plan::samples(changed, capacity, &options.seed);
    let (base, spans) = (work.base.clone(), changed.to_vec());
    let choose = move || {
        let chosen = samples.into_iter().enumerate();
        chosen.map(|(n, sample)| if n % 2 == 0 { sample } else { data_near(&*base.image, &spans, sample) }).collect()
    };
    let samples: Vec<Span> = tokio::task::spawn_blocking(choose).await.failed(|| "no samples were chosen".into())?;
    let sum = samples.iter().map(|sample| sample.end - sample.start).sum();
    let compared = samples.into_iter().map(|sample| async move {
        let mut now = vec![0; (sample.end - sample.start) as usize]; // at most SAMPLE
        fetch(work.source.as_ref(), &sample, &mut now, options).await?;
        let base = work.base.clone();
        let read = move || {
            let mut before = vec![0; now.len()];
            read_base(&base, sample.start, &mut before).map(|()| (before == now, sample.start))
        };
        tokio::task::spawn_blocking(read).await.failed(|| "a sample was not compared".into())
    });
    let mut compared = stream::iter(compared.collect::<Vec<_>>()).buffered(options.streams.max(1) * BLOCKS_PER_STREAM);
    while let Some(same) = compared.try_next().await? {
        match same {
            Ok((true, _)) => {}
            Ok((false, at)) => return Ok(Err(format!("the host calls byte {at:#x} unchanged, and it changed"))),
            Err(Trouble::Base(why)) => return Ok(Err(why)),
            Err(Trouble::Failed(error)) => return Err(error),
        }
    }
    Ok(Ok(sum))
}

/// The first place from `sample` on that holds data in the base and is not among what changed; `sample` itself if none is near.
fn data_near(base: &dyn ReadAt, changed: &[Span], sample: Span) -> Span {
    for extent in base.extents_from(ByteOffset(sample.start)).take(STEPS) {
        let Ok(extent) = extent else { break };
        if extent.kind != ExtentKind::Data {
            continue;
        }
        let mut at = extent.start.0;
        while at < extent.end().0 {
            let next = changed.partition_point(|span| span.end <= at);
            let (from, to) = changed.get(next).map_or((u64::MAX, u64::MAX), |span| (span.start, span.end));
            if at < from {
                return at..(at + SAMPLE).min(from).min(extent.end().0);
            }
            at = to;
        }
    }
    sample
}

/// Opens the file of hashes that belongs to `digest`.
///
/// # Errors
/// Those of the storage.
pub fn open_hashes(file: File, capacity: u64, digest: &DiskDigest) -> Result<Option<BlockHashes>> {
    BlockHashes::open(file, capacity, digest).failed(|| "cannot read the hashes of the base".into())
}

#[cfg(test)]
mod tests;
