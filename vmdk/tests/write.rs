//! What we write, qemu-img and we read.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use blockdev::{ByteLen, ByteOffset, FileDisk, ReadAt};
use common::{MIB, SUBFORMATS, assert_same, have, model, noise, options, qemu_runs, run, runs};
use vmdk_rs::{ImageWriter, Subformat, VmdkError, open_path};

/// Copies a model with several threads, pieces of 192 KiB, out of order.
fn copy(model: &Path, writer: &ImageWriter, places: &[(u64, u64)]) {
    let disk = FileDisk::open(model).unwrap();
    const STEP: u64 = 192 << 10;
    let mut starts: Vec<u64> = Vec::new();
    for (at, len) in places {
        starts.extend((at / STEP..=(at + len - 1) / STEP).map(|i| i * STEP));
    }
    starts.sort_unstable();
    starts.dedup();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (disk, starts) = (&disk, &starts);
            scope.spawn(move || {
                for start in starts.iter().rev().skip(thread).step_by(3) {
                    let len = STEP.min(disk.size().0 - start);
                    let mut data = vec![0; usize::try_from(len).unwrap()];
                    disk.read_exact_at(ByteOffset(*start), &mut data).unwrap();
                    writer.write_at(ByteOffset(*start), &data).unwrap();
                }
            });
        }
    });
}

/// Each form is written twice: by threads that write what they like, and by the copier. A stream wants its order.
fn round_trip(subformat: Subformat, size: u64, places: &[(u64, u64)]) {
    if subformat != Subformat::StreamOptimized {
        judge(subformat, size, places, |raw, writer| copy(raw, writer, places));
    }
    judge(subformat, size, places, |raw, writer| {
        vmdk_rs::copy(&FileDisk::open(raw).unwrap(), writer, &|_| ControlFlow::Continue(())).unwrap();
    });
}

fn judge(subformat: Subformat, size: u64, places: &[(u64, u64)], copy: impl FnOnce(&Path, &ImageWriter)) {
    let dir = tempfile::tempdir().unwrap();
    let raw = model(&dir.path().join("model.raw"), size, places);
    let writer = ImageWriter::create(dir.path(), "my vm.vmdk", &options(subformat, size)).unwrap();
    copy(&raw, &writer);
    let files = writer.finish().unwrap();
    assert_eq!(files[0], dir.path().join("my vm.vmdk"));
    let stored: u64 = files.iter().map(|file| file.metadata().unwrap().blocks() * 512).sum();
    let data: u64 = places.iter().map(|(_, len)| len + 2 * (64 << 10)).sum();
    assert!(stored <= data + 4 * MIB, "{subformat:?} stores {stored} bytes for {data}");

    let image = open_path(&files[0]).unwrap();
    assert_same(&image, &FileDisk::open(&raw).unwrap());
    if !have("qemu-img") {
        return;
    }
    let compared = run("qemu-img", &["compare", "-f", "vmdk", "-F", "raw", "my vm.vmdk", "model.raw"], dir.path());
    assert!(compared.contains("Images are identical"), "{compared}");
    run("qemu-img", &["check", "-f", "vmdk", "my vm.vmdk"], dir.path());
    let info = run("qemu-img", &["info", "-f", "vmdk", "--output=json", "my vm.vmdk"], dir.path());
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"].as_u64(), Some(size));
    let create_type = subformat.create_type();
    assert_eq!(info["format-specific"]["data"]["create-type"].as_str(), Some(create_type.as_str()));
    assert_eq!(runs(&image), qemu_runs(dir.path(), "my vm.vmdk"), "{subformat:?}");
}

#[test]
fn small_disks_of_every_form_are_read_alike_by_qemu() {
    let size = 100 * MIB;
    let places = [(0, 512), (MIB + 4096, 3 * MIB), (33 * MIB - 100, 200), (64 * MIB, 70_000), (size - 512, 512)];
    for subformat in SUBFORMATS {
        round_trip(subformat, size, &places);
    }
}

#[test]
fn disks_of_odd_and_least_sizes_are_read_alike_by_qemu() {
    for subformat in SUBFORMATS {
        round_trip(subformat, 512, &[(0, 512)]);
        round_trip(subformat, 33 * MIB + 3 * 512, &[(33 * MIB, 1536)]);
    }
}

#[test]
fn split_disks_continue_over_their_pieces() {
    let piece = 2047 * MIB;
    let size = 2 * piece + 5 * MIB + 512;
    let places = [(0, 4096), (piece - MIB, 2 * MIB), (2 * piece - 512, 1024), (size - 100_000, 100_000)];
    for subformat in SUBFORMATS {
        round_trip(subformat, size, &places);
    }
}

#[test]
fn an_empty_disk_is_all_hole_and_an_image_nevertheless() {
    for subformat in SUBFORMATS {
        let dir = tempfile::tempdir().unwrap();
        let writer = ImageWriter::create(dir.path(), "x.vmdk", &options(subformat, 4 * MIB)).unwrap();
        writer.write_at(ByteOffset(0), &vec![0; 4 << 20]).unwrap();
        let files = writer.finish().unwrap();
        let image = open_path(&files[0]).unwrap();
        assert_eq!(runs(&image), [(0, 4 * MIB, false)]);
        if have("qemu-img") {
            run("qemu-img", &["check", "-f", "vmdk", "x.vmdk"], dir.path());
        }
    }
}

#[test]
fn a_range_that_is_written_again_is_replaced() {
    for subformat in SUBFORMATS.into_iter().filter(|form| *form != Subformat::StreamOptimized) {
        let dir = tempfile::tempdir().unwrap();
        let writer = ImageWriter::create(dir.path(), "x.vmdk", &options(subformat, 4 * MIB)).unwrap();
        let (first, second) = (noise(1, 256 << 10), [vec![0; 64 << 10], noise(2, 64 << 10)].concat());
        writer.write_at(ByteOffset(MIB), &first).unwrap();
        writer.write_at(ByteOffset(MIB), &second).unwrap();
        let files = writer.finish().unwrap();
        let mut read = vec![0; 256 << 10];
        open_path(&files[0]).unwrap().read_exact_at(ByteOffset(MIB), &mut read).unwrap();
        assert!(read[..128 << 10] == second && read[128 << 10..] == first[128 << 10..], "{subformat:?}");
    }
}

#[test]
fn writes_must_be_aligned_and_inside() {
    let dir = tempfile::tempdir().unwrap();
    let size = MIB + 512;
    let writer = ImageWriter::create(dir.path(), "x.vmdk", &options(Subformat::MonolithicSparse, size)).unwrap();
    let write = |at, len| writer.write_at(ByteOffset(at), &vec![1; len]);
    write(0, 65536).unwrap();
    write(MIB, 512).unwrap();
    write(MIB - 65536, 65536 + 512).unwrap();
    write(0, 0).unwrap();
    for (at, len) in [(512, 65536), (0, 512), (0, 65537), (MIB, 1024), (2 * MIB, 0), (u64::MAX - 65535, 65536)] {
        assert!(matches!(write(at, len), Err(VmdkError::Request { .. })), "{at} {len}");
    }
    writer.finish().unwrap();
}

#[test]
fn no_existing_file_is_overwritten() {
    for taken in ["x.vmdk", "x-s001.vmdk"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(taken), "keep").unwrap();
        let options = options(Subformat::TwoGbMaxExtentSparse, MIB);
        assert!(matches!(ImageWriter::create(dir.path(), "x.vmdk", &options), Err(VmdkError::Io { .. })));
        assert_eq!(std::fs::read_to_string(dir.path().join(taken)).unwrap(), "keep");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn names_that_lead_elsewhere_and_impossible_sizes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let create =
        |name: &str, subformat, size| ImageWriter::create(dir.path(), name, &options(subformat, size)).map(|_| ());
    for name in ["../x.vmdk", "/x.vmdk", "x", ".vmdk", "", "a\"b.vmdk", "json:x.vmdk"] {
        assert!(create(name, Subformat::MonolithicFlat, MIB).is_err(), "{name}");
    }
    assert!(create(&format!("{}.vmdk", "x".repeat(250)), Subformat::MonolithicSparse, MIB).is_ok());
    assert!(create(&format!("{}.vmdk", "x".repeat(250)), Subformat::VmfsFlat, MIB).is_err()); // -flat does not fit
    for (subformat, size) in [
        (Subformat::MonolithicFlat, 0),
        (Subformat::MonolithicFlat, 1000),
        (Subformat::MonolithicSparse, 2 << 40),
        (Subformat::TwoGbMaxExtentSparse, (8 << 40) + (4 << 30)),
    ] {
        assert!(create("x.vmdk", subformat, size).is_err(), "{subformat:?} {size}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_large_sparse_disk_costs_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let size = (2u64 << 40) - (1 << 30);
    let writer = ImageWriter::create(dir.path(), "x.vmdk", &options(Subformat::MonolithicSparse, size)).unwrap();
    let places: Vec<u64> = (0..50).map(|i| i * (size / 50) / 65536 * 65536).collect();
    for at in &places {
        writer.write_at(ByteOffset(*at), &noise(*at, 65536)).unwrap();
    }
    let files = writer.finish().unwrap();
    assert!(files[0].metadata().unwrap().blocks() * 512 < 8 * MIB);
    let image = open_path(&files[0]).unwrap();
    assert_eq!(image.size(), ByteLen(size));
    let mut read = vec![0; 65536];
    for at in &places {
        image.read_exact_at(ByteOffset(*at), &mut read).unwrap();
        assert!(read == noise(*at, 65536), "{at}");
    }
    if have("qemu-img") {
        run("qemu-img", &["info", "-f", "vmdk", "x.vmdk"], dir.path());
    }
}

#[test]
fn a_writer_given_up_leaves_nothing() {
    for subformat in SUBFORMATS {
        let dir = tempfile::tempdir().unwrap();
        let writer = ImageWriter::create(dir.path(), "x.vmdk", &options(subformat, MIB)).unwrap();
        writer.write_at(ByteOffset(0), &noise(1, 65536)).unwrap();
        assert!(open_path(&dir.path().join("x.vmdk")).is_err(), "not an image before it is finished");
        writer.discard();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
