use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blockdev::{ByteLen, Extent, MemDisk};

use super::*;
use crate::{CreateOptions, Image, ParentLink, PlainName, Subformat, open_path};

const MIB: u64 = 1 << 20;

/// A disk of zeros but for some runs, which counts what is read of it.
struct Runs {
    size: u64,
    runs: Vec<(u64, u64)>,
    read: AtomicU64,
    fails_at: Option<u64>,
}

impl Runs {
    fn new(size: u64, runs: &[(u64, u64)]) -> Self {
        Self { size, runs: runs.to_vec(), read: AtomicU64::new(0), fails_at: None }
    }
    fn byte(&self, at: u64) -> u8 {
        let inside = self.runs.iter().any(|(start, end)| (*start..*end).contains(&at));
        if inside { (at / 512 % 250 + 1) as u8 } else { 0 }
    }
    fn bytes(&self) -> Vec<u8> {
        (0..self.size).map(|at| self.byte(at)).collect()
    }
}

impl ReadAt for Runs {
    fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        if self.fails_at.is_some_and(|fails| (at.0..at.0 + buf.len() as u64).contains(&fails)) {
            return Err(ReadError::OutOfRange { at, len: ByteLen(1), size: ByteLen(self.size) });
        }
        for (place, byte) in (at.0..).zip(buf) {
            *byte = self.byte(place);
        }
        Ok(())
    }
    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        let at = at.0;
        let (kind, end) = match self.runs.iter().find(|(_, end)| at < *end) {
            Some((start, end)) if at >= *start => (ExtentKind::Data, *end),
            Some((start, _)) => (ExtentKind::Hole, *start),
            None => (ExtentKind::Hole, self.size),
        };
        Ok(Extent { start: ByteOffset(at), len: ByteLen(end - at), kind })
    }
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn blocks(disks: &[&dyn ReadAt], size: u64) -> Vec<(u64, u64)> {
    let mut plan = Plan::new(disks, size);
    std::iter::from_fn(|| plan.next().unwrap()).map(|(_, at, len)| (at.0, at.0 + len as u64)).collect()
}

#[test]
fn blocks_are_whole_grains_in_use_and_end_at_every_mebibyte() {
    let disk =
        Runs::new(4 * MIB + 512, &[(100, 200), (70_000, 70_001), (900_000, 2 * MIB + 1), (4 * MIB + 1, 4 * MIB + 2)]);
    let found = blocks(&[&disk], disk.size);
    let expected = [(0, 131_072), (851_968, MIB), (MIB, 2 * MIB), (2 * MIB, 2 * MIB + 65536), (4 * MIB, 4 * MIB + 512)];
    assert_eq!(found, expected);
    assert_eq!(blocks(&[&Runs::new(MIB, &[])], MIB), []);
}

#[test]
fn what_either_disk_uses_is_copied_and_nothing_behind_the_end() {
    let first = Runs::new(8 * MIB, &[(MIB, MIB + 1), (5 * MIB, 5 * MIB + 1)]);
    let second = Runs::new(4 * MIB, &[(0, 1), (3 * MIB, 3 * MIB + 1)]);
    let starts = |disks: &[&dyn ReadAt], size| blocks(disks, size).iter().map(|b| b.0 / MIB).collect::<Vec<_>>();
    assert_eq!(starts(&[&first, &second], 8 * MIB), [0, 1, 3, 5]);
    assert_eq!(starts(&[&second, &first], 5 * MIB), [0, 1, 3]);
}

fn write_to(subformat: Subformat, source: &dyn ReadAt) -> (tempfile::TempDir, Image) {
    let dir = tempfile::tempdir().unwrap();
    let writer = ImageWriter::create(dir.path(), "x.vmdk", &CreateOptions::new(subformat, source.size())).unwrap();
    copy(source, &writer, &go_on).unwrap();
    let image = open_path(&writer.finish().unwrap()[0]).unwrap();
    (dir, image)
}

fn all(disk: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![1; disk.size().0 as usize];
    disk.read_exact_at(ByteOffset(0), &mut bytes).unwrap();
    bytes
}

#[test]
fn copies_are_equal_in_every_form_and_only_what_is_in_use_is_read() {
    let source = Runs::new(
        40 * MIB + 512,
        &[(10, 20), (5 * MIB, 9 * MIB), (33 * MIB - 7, 33 * MIB + 7), (40 * MIB, 40 * MIB + 512)],
    );
    let expected = source.bytes();
    for subformat in [
        Subformat::MonolithicFlat,
        Subformat::MonolithicSparse,
        Subformat::TwoGbMaxExtentSparse,
        Subformat::TwoGbMaxExtentFlat,
        Subformat::VmfsFlat,
        Subformat::StreamOptimized,
    ] {
        source.read.store(0, Ordering::Relaxed);
        let (_dir, image) = write_to(subformat, &source);
        assert!(all(&image) == expected, "{subformat:?}");
        assert!(source.read.load(Ordering::Relaxed) < 5 * MIB, "{subformat:?}");
    }
    let raw = RawStream::new(Vec::new(), "-", ByteLen(source.size));
    copy(&source, &raw, &go_on).unwrap();
    assert!(raw.finish().unwrap() == expected);
}

#[test]
fn two_copies_of_a_disk_are_the_same_files() {
    let source = Runs::new(64 * MIB, &[(0, 30 * MIB), (31 * MIB, 50 * MIB)]);
    for subformat in [Subformat::MonolithicSparse, Subformat::StreamOptimized] {
        let files: Vec<_> = (0..2)
            .map(|_| {
                let dir = tempfile::tempdir().unwrap();
                let options = CreateOptions { content_id: Some(7), ..CreateOptions::new(subformat, source.size()) };
                let writer = ImageWriter::create(dir.path(), "x.vmdk", &options).unwrap();
                copy(&source, &writer, &go_on).unwrap();
                std::fs::read(&writer.finish().unwrap()[0]).unwrap()
            })
            .collect();
        let behind_descriptor = 64 << 10; // which holds a random long content ID
        assert!(files[0][behind_descriptor..] == files[1][behind_descriptor..], "{subformat:?}");
    }
}

#[test]
fn a_difference_holds_what_changed_and_marks_what_became_zeros() {
    let parent = Runs::new(8 * MIB, &[(0, 2 * MIB), (4 * MIB, 5 * MIB)]);
    let mut bytes = parent.bytes();
    bytes[65536..131_072].fill(0); // became zeros
    bytes[MIB as usize] ^= 0xff; // changed
    bytes[7 << 20] = 9; // new
    let child = MemDisk::new(bytes.clone());
    let dir = tempfile::tempdir().unwrap();
    let base =
        ImageWriter::create(dir.path(), "base.vmdk", &CreateOptions::new(Subformat::MonolithicFlat, parent.size()));
    let base = base.unwrap();
    let content_id = base.descriptor().content_id;
    copy(&parent, &base, &go_on).unwrap();
    base.finish().unwrap();
    for subformat in [Subformat::MonolithicSparse, Subformat::TwoGbMaxExtentSparse] {
        let file = PlainName::new("base.vmdk").unwrap();
        let options = CreateOptions {
            parent: Some(ParentLink { file, content_id }),
            ..CreateOptions::new(subformat, parent.size())
        };
        let name = format!("{}.vmdk", subformat.create_type());
        let delta = ImageWriter::create(dir.path(), &name, &options).unwrap();
        copy_difference(&child, &parent, &delta, &go_on).unwrap();
        let image = open_path(&delta.finish().unwrap()[0]).unwrap();
        assert!(all(&image) == bytes, "{subformat:?}");
        let own: Vec<_> = (0..128)
            .map(|grain| image.extent_at_top(ByteOffset(grain * 65536)).unwrap().kind)
            .enumerate()
            .filter(|(_, kind)| *kind != ExtentKind::Hole)
            .collect();
        assert_eq!(own, [(1, ExtentKind::Zero), (16, ExtentKind::Data), (112, ExtentKind::Data)]);
    }
}

#[test]
fn a_source_that_fails_ends_the_copy_with_its_error() {
    let source = Runs { fails_at: Some(20 * MIB), ..Runs::new(64 * MIB, &[(0, 64 * MIB)]) };
    let raw = RawStream::new(std::io::sink(), "-", ByteLen(source.size));
    assert!(matches!(copy(&source, &raw, &go_on), Err(CopyError::Source(ReadError::OutOfRange { .. }))));
}

#[test]
fn a_copy_that_is_watched_moves_forward_and_ends_when_told() {
    let source = Runs::new(64 * MIB, &[(0, 64 * MIB)]);
    let raw = RawStream::new(std::io::sink(), "-", ByteLen(source.size));
    let last = Arc::new(AtomicU64::new(0));
    let watch = |at: u64| {
        assert!(last.swap(at, Ordering::Relaxed) <= at);
        if at >= 10 * MIB { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    assert!(matches!(copy(&source, &raw, &watch), Err(CopyError::Cancelled)));
    assert_eq!(last.load(Ordering::Relaxed), 10 * MIB);
}
