//! The engine between a disk in memory that behaves badly and an image, or a sink that watches.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use blockdev::{ByteOffset, MemDisk, ReadAt};
use bytes::Bytes;
use vmdk_rs::{CreateOptions, Subformat};

use super::*;
use crate::export::digest_of;
use crate::job::Progress;
use crate::transport::ByteStream;

const MIB: u64 = 1 << 20;
const QUICK: Retry = Retry { times: 3, wait: Duration::ZERO, longest: Duration::ZERO };

/// SplitMix64.
pub(in crate::export) struct Random(pub(in crate::export) u64);

impl Random {
    pub(in crate::export) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    pub(in crate::export) fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// What happens to a stream, and after how many of its bytes.
#[derive(Clone, Copy)]
enum Trouble {
    /// The connection breaks.
    Breaks(u64),
    /// The answer makes no sense, and will not.
    Fails(u64),
    /// It says that this is all.
    Ends(u64),
    /// All comes, and then so many bytes more.
    Overflows(usize),
    /// Nothing comes any more.
    Hangs(u64),
}

/// Which trouble the stream of a span has; the number counts the streams so far.
type Plan = dyn Fn(usize, &Span) -> Option<Trouble> + Send + Sync;

/// A disk in memory, shared with the streams that read it.
struct Disk {
    bytes: Arc<Vec<u8>>,
    allocation: Allocation,
    plan: Box<Plan>,
    opened: Mutex<Vec<Span>>,
    sent: Arc<AtomicU64>,
}

impl Disk {
    fn new(bytes: Vec<u8>) -> Self {
        let allocation = Allocation::Unknown("nothing is known".into());
        let (opened, sent) = (Mutex::default(), Arc::default());
        Self { bytes: Arc::new(bytes), allocation, plan: Box::new(|_, _| None), opened, sent }
    }

    fn with(self, plan: impl Fn(usize, &Span) -> Option<Trouble> + Send + Sync + 'static) -> Self {
        Self { plan: Box::new(plan), ..self }
    }

    fn digest(&self) -> DiskDigest {
        digest_of(&MemDisk::new(self.bytes.to_vec()), |_| {}).unwrap()
    }

    fn opened(&self) -> Vec<Span> {
        self.opened.lock().unwrap().clone()
    }
}

#[async_trait]
impl FrozenDisk for Disk {
    fn capacity(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn allocation(&self) -> Allocation {
        self.allocation.clone()
    }

    async fn open(&self, span: Span) -> Result<Box<dyn ByteStream>> {
        let mut opened = self.opened.lock().unwrap();
        let trouble = (self.plan)(opened.len(), &span);
        opened.push(span.clone());
        let (bytes, sent) = (self.bytes.clone(), self.sent.clone());
        Ok(Box::new(Stream { bytes, at: span.start, trouble, random: Random(span.start), sent, span }))
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        Arc::new(MemDisk::new(self.bytes.to_vec()))
    }
}

struct Stream {
    bytes: Arc<Vec<u8>>,
    span: Span,
    at: u64,
    trouble: Option<Trouble>,
    random: Random,
    sent: Arc<AtomicU64>,
}

#[async_trait]
impl ByteStream for Stream {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let passed = self.at - self.span.start;
        // Pieces of every size, up to more than a block.
        let mut len = (1 + self.random.below(3 * MIB / 2)).min(self.span.end - self.at);
        if let Some(Trouble::Breaks(after) | Trouble::Fails(after) | Trouble::Ends(after) | Trouble::Hangs(after)) =
            self.trouble
        {
            len = len.min(after.saturating_sub(passed));
        }
        if len > 0 {
            let piece = &self.bytes[self.at as usize..(self.at + len) as usize];
            self.at += len;
            self.sent.fetch_add(len, Ordering::SeqCst);
            return Ok(Some(Bytes::copy_from_slice(piece)));
        }
        match self.trouble.take() {
            None | Some(Trouble::Ends(_)) => Ok(None),
            Some(Trouble::Overflows(more)) => Ok(Some(Bytes::from(vec![7; more]))),
            Some(Trouble::Breaks(_)) => Err(broken()),
            Some(Trouble::Fails(_)) => Err(Error::new(Family::Failed, "refused for good")),
            Some(Trouble::Hangs(_)) => std::future::pending().await,
        }
    }
}

/// An error that may pass.
fn broken() -> Error {
    let timeout = vsphere::Error::Timeout { what: "a file".into(), after: Duration::from_secs(1) };
    Error::new(Family::Failed, "the connection broke").caused_by(timeout)
}

/// Data in odd places, with blocks and parts of blocks of zeros between; both ends hold data.
fn disk_bytes(capacity: u64) -> Vec<u8> {
    let mut random = Random(capacity);
    let mut bytes = vec![0; capacity as usize];
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + 1 + random.below(2 * MIB) as usize).min(bytes.len());
        let seed = random.below(251) as usize + 1;
        bytes[at..end].iter_mut().enumerate().for_each(|(i, byte)| *byte = ((i * seed) >> 3) as u8 | 1);
        at = end + random.below(4 * MIB) as usize;
    }
    if let Some(last) = bytes.last_mut() {
        *last = 3;
    }
    bytes
}

async fn copy(disk: &Arc<Disk>, target: Arc<dyn BlockSink>, streams: usize, retry: Retry) -> Result<Copied> {
    let options = CopyOptions { streams, retry, seed: b"seed".to_vec(), hashes: None };
    let meter = Progress::silent().meter("disk", 0);
    let buffers = Buffers::default();
    let copied = copy_disk(disk.clone(), target, &buffers, &options, &meter, &Cancel::never()).await;
    buffers.idle().await;
    copied
}

/// Copies into an image and demands that it holds the disk's bytes.
async fn copy_to_image(disk: Disk, subformat: Subformat, streams: usize, retry: Retry) -> (Copied, Vec<Span>) {
    let dir = tempfile::tempdir().unwrap();
    let options = CreateOptions::new(subformat, blockdev::ByteLen(disk.capacity()));
    let writer = Arc::new(ImageWriter::create(dir.path(), "x.vmdk", &options).unwrap());
    let disk = Arc::new(disk);
    let copied = copy(&disk, writer.clone(), streams, retry).await.unwrap();
    let files = Arc::into_inner(writer).unwrap().finish().unwrap();
    let image = vmdk_rs::open_path(&files[0]).unwrap();
    let mut bytes = vec![9; disk.bytes.len()];
    image.read_exact_at(ByteOffset(0), &mut bytes).unwrap();
    assert!(bytes == *disk.bytes, "{subformat:?} of {} bytes by {streams} streams differs", bytes.len());
    assert_eq!(copied.digest, disk.digest());
    (copied, disk.opened())
}

/// Notes what it is given, and how much was sent that it has not been given yet.
#[derive(Default)]
struct Watcher {
    sent: Arc<AtomicU64>,
    written: AtomicU64,
    furthest: AtomicU64,
    turn: Mutex<()>,
    blocks: AtomicUsize,
    full_after: Option<usize>,
}

impl BlockSink for Watcher {
    fn write_block(&self, _: u64, bytes: &[u8]) -> Result<()> {
        // In this order it is never too much.
        let sent = self.sent.load(Ordering::SeqCst);
        let ahead = sent.saturating_sub(self.written.load(Ordering::SeqCst));
        self.furthest.fetch_max(ahead, Ordering::SeqCst);
        let number = self.blocks.fetch_add(1, Ordering::SeqCst);
        if self.full_after.is_some_and(|limit| number >= limit) {
            return Err(Error::new(Family::Failed, "the disk is full"));
        }
        // One at a time, and slowly: who could run ahead gets the time to do so.
        let _turn = self.turn.lock();
        std::thread::sleep(Duration::from_millis(4));
        self.written.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_of_any_size_become_the_same_image() {
    for capacity in [512, MIB - 512, MIB, 3 * MIB + 1536, 70 * MIB + 512] {
        for (subformat, streams) in
            [(Subformat::MonolithicFlat, 1), (Subformat::MonolithicSparse, 3), (Subformat::TwoGbMaxExtentSparse, 16)]
        {
            let bytes = disk_bytes(capacity);
            let data = bytes.chunks(MIB as usize).filter(|block| !is_zero(block)).map(|block| block.len() as u64).sum();
            let (copied, _) = copy_to_image(Disk::new(bytes), subformat, streams, QUICK).await;
            assert_eq!((copied.read, copied.stored), (capacity, data));
            assert_eq!(copied.read_all_because.as_deref(), Some("nothing is known"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_streams_are_taken_up_at_the_block_where_they_broke() {
    for streams in [1, 4] {
        let plan = |number: usize, _: &Span| {
            // Nearly all break, some before the first byte.
            let mut random = Random(number as u64);
            (number % 12 != 11).then(|| Trouble::Breaks(random.below(5 * MIB).saturating_sub(MIB)))
        };
        let disk = Disk::new(disk_bytes(70 * MIB + 512)).with(plan);
        // So many tries that no stretch of breaks without progress can be the end of it.
        let (copied, opened) =
            copy_to_image(disk, Subformat::MonolithicSparse, streams, Retry { times: 100, ..QUICK }).await;
        assert_eq!(copied.read, 70 * MIB + 512);
        assert!(opened.len() > 20, "{opened:?}");
        assert!(opened.iter().all(|span| span.start.is_multiple_of(MIB)), "{opened:?}");
        // No byte is asked for twice from the beginning: each span ends where its segment does.
        let mut ends: Vec<u64> = opened.iter().map(|span| span.end).collect();
        ends.sort_unstable();
        ends.dedup();
        assert_eq!(ends, [32 * MIB, 64 * MIB, 70 * MIB + 512]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_never_gets_further_is_given_up_after_the_last_try() {
    // The first block comes, and then nothing new.
    let plan = |number: usize, _: &Span| Some(Trouble::Breaks(if number == 0 { MIB + 5 } else { MIB / 2 }));
    let disk = Arc::new(Disk::new(disk_bytes(3 * MIB)).with(plan));
    let error = copy(&disk, Arc::new(Discard), 1, QUICK).await.unwrap_err();
    assert!(error.line().starts_with("the connection broke"), "{}", error.line());
    // One that got somewhere, then as many as may be: the failure after progress counts as the first.
    assert_eq!(disk.opened().len(), 1 + QUICK.times as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_forward_gives_new_tries() {
    let one = Retry { times: 1, ..QUICK };
    let disk = Disk::new(disk_bytes(8 * MIB)).with(|_, _| Some(Trouble::Breaks(MIB + MIB / 2)));
    let (_, opened) = copy_to_image(disk, Subformat::MonolithicFlat, 1, one).await;
    assert_eq!(opened.len(), 8); // the last stream has one block to bring, and does not break
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_pass_is_not_tried_again() {
    let endings = [
        (Trouble::Fails(MIB + 5), "refused for good"),
        (Trouble::Ends(2 * MIB), "the transport ended at byte 0x200000 of 0x300000"),
        (Trouble::Ends(3 * MIB - 1), "the transport ended at byte 0x200000 of 0x300000"),
        (Trouble::Ends(0), "the transport ended at byte 0x0 of 0x300000"),
        (Trouble::Overflows(1), "the transport sent bytes behind 0x300000"),
    ];
    for (trouble, said) in endings {
        let disk = Arc::new(Disk::new(disk_bytes(3 * MIB)).with(move |_, _| Some(trouble)));
        let error = copy(&disk, Arc::new(Discard), 1, QUICK).await.unwrap_err();
        assert_eq!((error.line().as_str(), disk.opened().len()), (said, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_in_use_is_read_beside_the_samples_and_both_ends() {
    let mut bytes = vec![0; 200 * MIB as usize];
    bytes[50 * MIB as usize + 77..53 * MIB as usize].fill(1);
    bytes[0] = 1;
    let used = 50 * MIB + 77..53 * MIB;
    let disk = Disk { allocation: Allocation::Known(vec![used]), ..Disk::new(bytes) };
    let (copied, opened) = copy_to_image(disk, Subformat::MonolithicSparse, 2, QUICK).await;
    assert_eq!((copied.read, copied.stored, copied.read_all_because), (5 * MIB, 4 * MIB, None));
    let (samples, copies): (Vec<_>, Vec<_>) = opened.iter().partition(|span| span.end - span.start < MIB);
    assert_eq!((samples.len() as u64, copies.len()), (plan::SAMPLES, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_calls_data_unused_is_found_out_by_the_samples() {
    let known = Allocation::Known(std::iter::once(0..MIB).collect());
    let disk = Disk { allocation: known, ..Disk::new(vec![5; 40 * MIB as usize]) };
    let (copied, _) = copy_to_image(disk, Subformat::MonolithicSparse, 2, QUICK).await;
    assert_eq!(copied.read, 40 * MIB);
    let why = copied.read_all_because.unwrap();
    assert!(why.contains("unused") && why.contains("holds data"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_however_slow_the_target_is() {
    const STREAMS: usize = 4;
    let disk = Arc::new(Disk::new(vec![5; 160 * MIB as usize]));
    let watcher = Arc::new(Watcher { sent: disk.sent.clone(), ..Watcher::default() });
    copy(&disk, watcher.clone(), STREAMS, QUICK).await.unwrap();
    assert_eq!(watcher.blocks.load(Ordering::SeqCst), 160);
    // The blocks themselves, and a piece in the hand of each stream.
    let limit = BLOCKS_IN_FLIGHT as u64 * BLOCK + STREAMS as u64 * (3 * MIB / 2);
    let furthest = watcher.furthest.load(Ordering::SeqCst);
    assert!(furthest <= limit, "{furthest} bytes were held, {limit} may be");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_target_ends_the_copy() {
    let disk = Arc::new(Disk::new(vec![5; 200 * MIB as usize]));
    let watcher = Arc::new(Watcher { full_after: Some(3), ..Watcher::default() });
    let error = copy(&disk, watcher.clone(), 2, QUICK).await.unwrap_err();
    assert_eq!(error.line(), "the disk is full");
    assert!(disk.opened().len() < 7, "it went on reading: {:?}", disk.opened());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_stops_a_copy_that_stands_still() {
    let disk = Arc::new(Disk::new(disk_bytes(100 * MIB)).with(|_, _| Some(Trouble::Hangs(MIB))));
    let (stop, cancel) = Cancel::by_hand();
    let options = CopyOptions { streams: 2, retry: QUICK, seed: Vec::new(), hashes: None };
    let meter = Progress::silent().meter("disk", 0);
    let buffers = Buffers::default();
    let copying = copy_disk(disk.clone(), Arc::new(Discard), &buffers, &options, &meter, &cancel);
    let stopping = async {
        while disk.opened().len() < 2 {
            tokio::task::yield_now().await;
        }
        stop.send(true).unwrap();
    };
    let (copied, ()) = tokio::join!(copying, stopping);
    assert_eq!(copied.unwrap_err().family(), Family::Cancelled);
    buffers.idle().await; // every block comes back
    while Arc::strong_count(&disk) > 1 {
        tokio::task::yield_now().await; // the streams go, and with them what holds the disk
    }
}
