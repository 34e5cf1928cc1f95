//! What every image keeps to, however hostile its files are.
//!
//! It is opened, walked and read in bounded time and with bounded reads; nothing panics. Extents cover the disk without
//! gaps; zeros and holes read as zeros; what is stored reads as the file has it; a second image of the same files, with
//! empty caches, asked from the end and in smaller pieces, answers the same.

use std::error::Error;

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, ReadAt, ReadError};
use vmdk_rs::{ErrorFamily, Image, Placement};

use crate::Files;

/// Runs that are looked at from the start of the disk on, and from each of the other places.
const RUNS: usize = 100;
const RUNS_ELSEWHERE: usize = 6;
/// The most that is read of each end of a run.
const PIECE: u64 = 1024;
/// What is read for one look at the tables of an extent: a page of the directory and one of the table, of both copies.
const LOOK: u64 = 4 * (64 << 10);
/// The largest compressed grain with its growth, rounded up.
const PACKED: u64 = (2 << 20) + (16 << 10);
/// The most disks of a chain.
const CHAIN: usize = 64;

/// A range that was read, and what came: the bytes, or which error.
struct Probe {
    at: u64,
    len: u64,
    answer: Result<Vec<u8>, String>,
}

/// How an image fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was not opened.
    Refused,
    /// Of some place it could not be said where it is stored.
    Damaged,
    /// Nothing was wrong with what was looked at.
    Whole,
}

/// Opens the first file twice and holds each image against the other, and both against the files.
pub fn examine(files: &Files) -> Verdict {
    let first = open(files);
    let again = open(files);
    let (image, again) = match (first, again) {
        (Ok(image), Ok(again)) => (image, again),
        (Err(one), Err(other)) => {
            assert_eq!(one, other);
            return Verdict::Refused;
        }
        _ => panic!("the image opens once of two times"),
    };
    let chain = image.chain().count() as u64;
    let mut walk = Walk { image: &image, files, chain, probes: Vec::new(), damaged: false };
    walk.everywhere();
    let probes = std::mem::take(&mut walk.probes);
    walk.image = &again;
    for probe in probes.iter().rev() {
        walk.again(probe);
    }
    if walk.damaged { Verdict::Damaged } else { Verdict::Whole }
}

fn open(files: &Files) -> Result<Image, String> {
    let Some((name, top)) = files.top() else { return Err("no file".to_owned()) };
    let (read, opened) = files.cost();
    let result = Image::open(top.clone(), name, files);
    let (read, opened) = (files.cost().0 - read, files.cost().1 - opened);
    // A descriptor of each file; three sectors and a header for each extent, of which a line has at least 12 bytes, and
    // each descriptor comes at most twice.
    let most = (1 + opened) * (1 << 20) + files.input_len * 2 * 2560 / 12 + (64 << 10);
    assert!(read <= most, "opening read {read} bytes of {opened} files");
    match result {
        Ok(image) => {
            assert!(image.chain().count() <= CHAIN);
            let size = image.size();
            assert_eq!(Some(size), image.descriptor().size());
            assert!((512..=64 << 40).contains(&size.0));
            Ok(image)
        }
        Err(error) => {
            assert_ne!(error.family(), ErrorFamily::Io, "no file failed: {error:?}");
            Err(text(&error))
        }
    }
}

fn text(error: &dyn Error) -> String {
    let mut all = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        all = format!("{all}: {source}");
        next = source.source();
    }
    all
}

struct Walk<'a> {
    image: &'a Image,
    files: &'a Files,
    chain: u64,
    probes: Vec<Probe>,
    damaged: bool,
}

impl Walk<'_> {
    fn everywhere(&mut self) {
        let size = self.image.size().0;
        self.from(0, RUNS);
        let near_end = [1, 512, 513, 65536].map(|before| size.saturating_sub(before));
        for at in [size / 2, size / 3, size / 7 * 5].into_iter().chain(near_end) {
            self.from(at, RUNS_ELSEWHERE);
        }
        let behind = self.image.extent_at(ByteOffset(size)).expect_err("nothing is behind the end");
        assert!(matches!(behind, ReadError::OutOfRange { .. }), "{behind}");
        let (result, _) = self.read(size - 1, 2);
        assert!(matches!(result, Err(ReadError::OutOfRange { .. })));
    }

    /// Walks `runs` runs from byte `at` on.
    fn from(&mut self, mut at: u64, runs: usize) {
        for _ in 0..runs {
            if at >= self.image.size().0 {
                return;
            }
            let Some(extent) = self.run(at) else { return };
            at = extent.end().0;
            self.probe(at.saturating_sub(64).max(extent.start.0), 128);
        }
    }

    /// Looks at the run that begins at byte `at`, and reads both its ends.
    fn run(&mut self, at: u64) -> Option<Extent> {
        let before = self.files.cost().0;
        let placement = self.image.placement_at(ByteOffset(at));
        let read = self.files.cost().0 - before;
        assert!(read <= self.chain * LOOK, "a look at byte {at:#x} read {read} bytes");
        let placement = match placement {
            Ok(placement) => placement,
            Err(error) => {
                self.fails(at, &error);
                return None;
            }
        };
        let extent = placement.extent;
        assert_eq!(extent.start.0, at);
        assert!(extent.len.0 > 0 && extent.end().0 <= self.image.size().0, "{extent:?}");
        assert_eq!(self.image.extent_at(ByteOffset(at)).expect("it was there"), extent);
        self.placed(&placement);
        self.inside(&placement);
        let piece = extent.len.0.min(PIECE);
        for start in [at, extent.end().0 - piece] {
            let answer = self.probe(start, piece);
            self.read_as_placed(&placement, start, answer);
        }
        Some(extent)
    }

    /// Where the tables cannot be understood, nothing is read either.
    fn fails(&mut self, at: u64, error: &ReadError) {
        self.damaged = true;
        assert!(matches!(error, ReadError::Corrupt { .. } | ReadError::Unsupported { .. }), "{error:?}");
        let (result, _) = self.read(at, 1);
        assert_eq!(result.map_err(|e| text(&e)), Err(text(error)));
    }

    /// What a placement says of itself.
    fn placed(&self, placement: &Placement<'_>) {
        assert!((placement.depth as u64) < self.chain);
        let extent = placement.extent;
        match (extent.kind, placement.stored) {
            (ExtentKind::Data, Some(stored)) => {
                let file = self.files.find(stored.file).expect("it was opened").size().0;
                let len = if stored.compressed { 12 } else { extent.len.0 };
                assert!(stored.offset.0.checked_add(len).is_some_and(|end| end <= file), "{placement:?} of {file}");
            }
            (ExtentKind::Data, None) => panic!("data that is nowhere: {placement:?}"),
            (ExtentKind::Hole | ExtentKind::Zero, None) => (),
            (_, Some(stored)) => assert!(!stored.compressed), // a hole of a flat file
        }
        let top = self.image.extent_at_top(placement.extent.start).expect("the chain knows, so the top does");
        assert!(top.len.0 > 0 && top.start == placement.extent.start);
        match placement.depth {
            0 => assert_eq!(top.kind, placement.extent.kind),
            _ => assert_eq!(top.kind, ExtentKind::Hole),
        }
    }

    /// The last byte of a run and one in the middle belong to it when they are asked for alone.
    fn inside(&self, placement: &Placement<'_>) {
        let extent = placement.extent;
        for skipped in [extent.len.0 - 1, extent.len.0 / 2] {
            let at = ByteOffset(extent.start.0 + skipped);
            let part = self.image.placement_at(at).expect("it is part of a run");
            assert_eq!((part.extent.kind, part.depth), (extent.kind, placement.depth), "{placement:?} at {at}");
            if let (Some(whole), Some(stored)) = (placement.stored, part.stored) {
                assert_eq!(whole.file, stored.file);
                let expected = whole.offset.0 + if whole.compressed { 0 } else { skipped };
                assert_eq!(stored.offset.0, expected, "{placement:?} at {at}");
            }
        }
    }

    /// Zeros and holes read as zeros, and what is stored as it is in the file; only a compressed grain may fail.
    fn read_as_placed(&self, placement: &Placement<'_>, start: u64, probe: usize) {
        let bytes = match (&self.probes[probe].answer, placement.stored) {
            (Err(_), Some(stored)) if stored.compressed => return,
            (Err(error), _) => panic!("{placement:?} cannot be read: {error}"),
            (Ok(bytes), _) => bytes,
        };
        match placement.stored {
            Some(stored) if !stored.compressed => {
                let mut expected = vec![0; bytes.len()];
                let skipped = ByteLen(start - placement.extent.start.0);
                let at = stored.offset.checked_add(skipped).expect("it lies in the file");
                let file = self.files.find(stored.file).expect("it was opened");
                file.read_exact_at(at, &mut expected).expect("it lies in the file");
                assert!(*bytes == expected, "{placement:?} reads other bytes than the file has");
            }
            Some(_) => (),
            None => assert!(bytes.iter().all(|byte| *byte == 0), "{placement:?} reads as something"),
        }
        if placement.extent.kind != ExtentKind::Data {
            assert!(bytes.iter().all(|byte| *byte == 0), "{placement:?} reads as something");
        }
    }

    /// Reads into a buffer of other bytes; also answers how many bytes of files that took.
    fn read(&self, at: u64, len: u64) -> (Result<Vec<u8>, ReadError>, u64) {
        let mut bytes = vec![0xa5; usize::try_from(len).expect("short")];
        let before = self.files.cost().0;
        let result = self.image.read_exact_at(ByteOffset(at), &mut bytes);
        (result.map(|()| bytes), self.files.cost().0 - before)
    }

    fn answer(&self, at: u64, len: u64) -> Result<Vec<u8>, String> {
        let (result, read) = self.read(at, len);
        let most = len + (len / 512 + 2) * (self.chain * LOOK + PACKED);
        assert!(read <= most, "reading {len} bytes at {at:#x} read {read}");
        result.map_err(|error| {
            assert!(matches!(error, ReadError::Corrupt { .. } | ReadError::Unsupported { .. }), "{error:?}");
            text(&error)
        })
    }

    /// Reads and remembers; answers which probe it was.
    fn probe(&mut self, at: u64, len: u64) -> usize {
        let len = len.min(self.image.size().0 - at);
        let answer = self.answer(at, len);
        self.probes.push(Probe { at, len, answer });
        self.probes.len() - 1
    }

    /// Reads the range of a probe, in two halves from the back.
    fn again(&self, probe: &Probe) {
        let half = probe.len / 2;
        let back = self.answer(probe.at + half, probe.len - half);
        let front = self.answer(probe.at, half);
        match (front, back, &probe.answer) {
            (Ok(front), Ok(back), Ok(whole)) => {
                assert!([front, back].concat() == *whole, "byte {:#x} reads differently again", probe.at);
            }
            (Err(error), _, Err(whole)) | (Ok(_), Err(error), Err(whole)) => assert_eq!(error, *whole),
            _ => panic!("{} bytes at {:#x} can be read once of two times", probe.len, probe.at),
        }
    }
}
