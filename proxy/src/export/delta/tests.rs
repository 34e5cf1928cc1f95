//! The engine between a frozen disk in memory, a base in memory and a real delta over a real image.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use blockdev::{ByteLen, MemDisk};
use bytes::Bytes;
use vmdk_rs::{CreateOptions, ParentLink, PlainName, Subformat};

use super::*;
use crate::export::copy::tests::Random;
use crate::export::{digest_of, write_hashes};
use crate::job::{Progress, Retry};
use crate::transport::{Allocation, ByteStream};

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// A frozen disk whose streams come in odd pieces; the first ones break.
struct Frozen {
    bytes: Vec<u8>,
    breaks: Mutex<u32>,
    opened: Mutex<Vec<Span>>,
}

impl Frozen {
    fn new(bytes: &[u8]) -> Arc<Self> {
        Arc::new(Self { bytes: bytes.to_vec(), breaks: Mutex::new(0), opened: Mutex::default() })
    }
}

struct Pieces(std::vec::IntoIter<Result<Bytes>>);

#[async_trait]
impl ByteStream for Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        self.0.next().transpose()
    }
}

#[async_trait]
impl FrozenDisk for Frozen {
    fn capacity(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn allocation(&self) -> Allocation {
        Allocation::Unknown("nobody asks".into())
    }

    async fn open(&self, span: Span) -> Result<Box<dyn ByteStream>> {
        self.opened.lock().unwrap().push(span.clone());
        let bytes = &self.bytes[span.start as usize..span.end as usize];
        let mut pieces: Vec<_> = bytes.chunks(33_333).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let mut breaks = self.breaks.lock().unwrap();
        if *breaks > 0 {
            *breaks -= 1;
            let timeout = vsphere::Error::Timeout { what: "a file".into(), after: Duration::from_secs(1) };
            pieces.truncate(1);
            pieces.push(Err(Error::new(Family::Failed, "the connection broke").caused_by(timeout)));
        }
        Ok(Box::new(Pieces(pieces.into_iter())))
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        Arc::new(MemDisk::new(self.bytes.clone()))
    }
}

/// A base in a folder of its own, with its hashes.
struct Stage {
    dir: tempfile::TempDir,
    before: Vec<u8>,
    content_id: u32,
}

impl Stage {
    fn new(before: Vec<u8>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = CreateOptions::new(Subformat::MonolithicFlat, ByteLen(before.len() as u64));
        let writer = ImageWriter::create(dir.path(), "base.vmdk", &options).unwrap();
        let content_id = writer.descriptor().content_id;
        for (block, bytes) in before.chunks(BLOCK as usize).enumerate() {
            writer.write_at(ByteOffset(block as u64 * BLOCK), bytes).unwrap();
        }
        writer.finish().unwrap();
        Self { dir, before, content_id }
    }

    fn base(&self) -> Arc<Base> {
        let disk = MemDisk::new(self.before.clone());
        let file = tempfile::tempfile().unwrap();
        let digest = write_hashes(&disk, file.try_clone().unwrap(), |_| {}).unwrap().unwrap();
        let hashes = open_hashes(file, self.before.len() as u64, &digest).unwrap().unwrap();
        Arc::new(Base { image: Arc::new(disk), hashes })
    }

    async fn copy(&self, source: Arc<Frozen>, changed: Vec<Span>, base: Arc<Base>) -> Result<(Delta, Option<Vec<u8>>)> {
        let parent = ParentLink { file: PlainName::new("base.vmdk").unwrap(), content_id: self.content_id };
        let options = CreateOptions {
            parent: Some(parent),
            ..CreateOptions::new(Subformat::MonolithicSparse, ByteLen(source.capacity()))
        };
        drop(std::fs::remove_file(self.dir.path().join("delta.vmdk")));
        let target = Arc::new(ImageWriter::create(self.dir.path(), "delta.vmdk", &options).unwrap());
        let work = DeltaWork { source: source.clone(), changed, base, target: target.clone() };
        let retry = Retry { times: 3, wait: Duration::ZERO, longest: Duration::ZERO };
        let hashes = Arc::new(tempfile::tempfile().unwrap());
        let copy = CopyOptions { streams: 2, retry, seed: b"seed".to_vec(), hashes: Some(hashes.clone()) };
        let (buffers, meter) = (Buffers::default(), Progress::silent().meter("disk", 0));
        let delta = copy_changes(work, &buffers, &copy, &meter, &Cancel::never()).await?;
        buffers.idle().await;
        let Delta::Copied(copied) = &delta else { return Ok((delta, None)) };
        let hashes = hashes.try_clone().unwrap();
        assert!(open_hashes(hashes, source.capacity(), &copied.digest).unwrap().is_some());
        let files = Arc::into_inner(target).unwrap().finish().unwrap();
        let image = vmdk_rs::open_path(&files[0]).unwrap();
        let mut bytes = vec![0; source.bytes.len()];
        image.read_exact_at(ByteOffset(0), &mut bytes).unwrap();
        Ok((delta, Some(bytes)))
    }
}

fn one(span: Span) -> Vec<Span> {
    std::iter::once(span).collect()
}

fn digest(bytes: &[u8]) -> DiskDigest {
    digest_of(&MemDisk::new(bytes.to_vec()), |_| {}).unwrap()
}

/// Data, zeros and both in a block, and a capacity that is no multiple of anything.
fn before() -> Vec<u8> {
    let mut random = Random(1);
    let mut bytes = random.bytes(9 * MIB + 1536);
    bytes[2 * MIB as usize..4 * MIB as usize].fill(0);
    bytes[5 * MIB as usize..5 * MIB as usize + 300_000].fill(0);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_of_any_changes_read_as_the_disk_and_have_its_digest() {
    for round in 0..20 {
        let mut random = Random(round);
        let stage = Stage::new(before());
        let mut after = stage.before.clone();
        let capacity = after.len() as u64;
        let mut changed = Vec::new();
        for _ in 0..random.below(12) {
            let start = random.below(capacity);
            let end = (start + 1 + random.below(if round % 3 == 0 { 3 * MIB } else { 90_000 })).min(capacity);
            let new = match random.below(3) {
                0 => vec![0; (end - start) as usize],
                1 => stage.before[start as usize..end as usize].to_vec(), // called changed, and is not
                _ => random.bytes(end - start),
            };
            after[start as usize..end as usize].copy_from_slice(&new);
            changed.push(start..end);
        }
        let source = Frozen::new(&after);
        *source.breaks.lock().unwrap() = if round % 2 == 0 { 3 } else { 0 };
        let (delta, read) = stage.copy(source, changed.clone(), stage.base()).await.unwrap();
        let Delta::Copied(copied) = delta else { panic!("{delta:?}") };
        assert!(read.unwrap() == after, "round {round}: {changed:?}");
        assert_eq!(copied.digest, digest(&after));
        let most: u64 = changed.iter().map(|span| span.end - span.start + 2 * PAGE).sum();
        assert!(copied.read <= most + 16 * SAMPLE, "{} bytes for {changed:?}", copied.read);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_called_changed_and_is_not_takes_no_space_and_new_zeros_hide_the_base() {
    let stage = Stage::new(before());
    let mut after = stage.before.clone();
    after[7 * MIB as usize..8 * MIB as usize].fill(0);
    let source = Frozen::new(&after);
    let (delta, read) = stage.copy(source, vec![0..MIB, 6 * MIB..8 * MIB], stage.base()).await.unwrap();
    let Delta::Copied(copied) = delta else { panic!("{delta:?}") };
    assert!(read.unwrap() == after);
    assert_eq!(copied.stored, 0);
    let file = std::fs::metadata(stage.dir.path().join("delta.vmdk")).unwrap().len();
    assert!(file < MIB, "{file} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_read_in_the_pieces_that_changed() {
    let stage = Stage::new(before());
    let source = Frozen::new(&stage.before);
    let changed = vec![MIB + 5..MIB + 6, MIB + 20 * PAGE..MIB + 21 * PAGE, 3 * MIB - PAGE..3 * MIB + PAGE];
    stage.copy(source.clone(), changed, stage.base()).await.unwrap();
    let mut opened = source.opened.lock().unwrap().split_off(16); // samples come first
    opened.sort_by_key(|span| span.start);
    let expected =
        [MIB..MIB + PAGE, MIB + 20 * PAGE..MIB + 21 * PAGE, 3 * MIB - PAGE..3 * MIB, 3 * MIB..3 * MIB + PAGE];
    assert_eq!(opened, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_changed_where_nothing_is_said_to_have_changed_is_found_out() {
    let stage = Stage::new(before());
    let after = Random(7).bytes(stage.before.len() as u64);
    let (delta, _) = stage.copy(Frozen::new(&after), one(0..MIB), stage.base()).await.unwrap();
    assert!(matches!(&delta, Delta::Useless(why) if why.contains("unchanged, and it changed")), "{delta:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_of_the_samples_lies_where_the_base_holds_data() {
    let mut before = vec![0; 64 * MIB as usize];
    before[40 * MIB as usize..41 * MIB as usize].fill(3);
    let sample = 5 * MIB..5 * MIB + SAMPLE;
    let dir = tempfile::tempdir().unwrap();
    let options = CreateOptions::new(Subformat::MonolithicSparse, ByteLen(before.len() as u64));
    let writer = ImageWriter::create(dir.path(), "base.vmdk", &options).unwrap();
    writer.write_at(ByteOffset(40 * MIB), &before[40 * MIB as usize..41 * MIB as usize]).unwrap();
    let image = vmdk_rs::open_path(&writer.finish().unwrap()[0]).unwrap();
    assert_eq!(data_near(&image, &[], sample.clone()), 40 * MIB..40 * MIB + SAMPLE);
    let first = 39 * MIB..40 * MIB + SAMPLE;
    assert_eq!(data_near(&image, std::slice::from_ref(&first), sample.clone()), first.end..first.end + SAMPLE);
    let all = 40 * MIB..41 * MIB;
    assert_eq!(data_near(&image, std::slice::from_ref(&all), sample.clone()), sample);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_base_is_no_base() {
    let stage = Stage::new(before());
    let base = stage.base();
    let mut damaged = stage.before.clone();
    damaged[MIB as usize + 500_000] ^= 1;
    let hashes = Arc::into_inner(base).unwrap().hashes;
    let base = Arc::new(Base { image: Arc::new(MemDisk::new(damaged)), hashes });
    let changed = one(MIB..MIB + PAGE);
    let (delta, _) = stage.copy(Frozen::new(&stage.before), changed, base).await.unwrap();
    assert!(matches!(&delta, Delta::Useless(why) if why.contains("the base is damaged")), "{delta:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_never_comes_ends_the_run() {
    let stage = Stage::new(before());
    let source = Frozen::new(&stage.before);
    *source.breaks.lock().unwrap() = 1000;
    let error = stage.copy(source, one(0..MIB), stage.base()).await.unwrap_err();
    assert!(error.line().contains("the connection broke"), "{}", error.line());
}
