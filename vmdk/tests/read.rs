//! What qemu-img writes, we read; damaged directories are helped by their second copy.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use blockdev::{ByteOffset, ExtentKind, FileDisk, ReadAt, ReadAtExt, ReadError};
use common::{MIB, assert_same, have, model, noise, options, qemu_runs, run, runs};
use vmdk_rs::{ImageWriter, Subformat, open_path};

fn qemu_writes(subformat: &str, size: u64, places: &[(u64, u64)]) {
    let dir = tempfile::tempdir().unwrap();
    let raw = model(&dir.path().join("model.raw"), size, places);
    let option = format!("subformat={subformat}");
    let args = ["convert", "-f", "raw", "-O", "vmdk", "-o", &option, "model.raw", "my vm.vmdk"];
    run("qemu-img", &args, dir.path());
    let image = open_path(&dir.path().join("my vm.vmdk")).unwrap();
    assert_eq!(image.descriptor().create_type.as_str(), subformat);
    assert_same(&image, &FileDisk::open(&raw).unwrap());
    assert_eq!(runs(&image), qemu_runs(dir.path(), "my vm.vmdk"), "{subformat}");
}

#[test]
fn every_form_that_qemu_writes_is_read_alike() {
    if !have("qemu-img") {
        return;
    }
    let size = 4200 * MIB; // three pieces, the last not full
    let places = [(0, 512), (MIB + 100, 3 * MIB), (2048 * MIB - 70_000, 140_000), (4100 * MIB, MIB), (size - 512, 512)];
    for subformat in
        ["monolithicFlat", "monolithicSparse", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse", "streamOptimized"]
    {
        qemu_writes(subformat, size, &places);
        qemu_writes(subformat, 10 * MIB + 512, &[(10 * MIB, 512), (65536, 65536)]);
    }
}

#[test]
fn zeroed_grains_hide_the_parent() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    run("qemu-img", &["create", "-f", "vmdk", "base.vmdk", "4M"], d);
    run("qemu-io", &["-f", "vmdk", "-c", "write -P 5 0 1M", "base.vmdk"], d);
    let child = ["create", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "-o", "zeroed_grain=on", "child.vmdk"];
    run("qemu-img", &child, d);
    run("qemu-io", &["-f", "vmdk", "-c", "write -z 64k 128k", "-c", "write -P 9 512k 64k", "child.vmdk"], d);
    run("qemu-img", &["convert", "-f", "vmdk", "-O", "raw", "child.vmdk", "flat.raw"], d);
    let image = open_path(&d.join("child.vmdk")).unwrap();
    let mut bytes = vec![1; 4 << 20];
    image.read_exact_at(ByteOffset(0), &mut bytes).unwrap();
    assert!(bytes == std::fs::read(d.join("flat.raw")).unwrap());
    let top = image.extent_at_top(ByteOffset(65536)).unwrap();
    assert_eq!((top.kind, top.len.0), (ExtentKind::Zero, 128 << 10));
    assert_eq!(image.extent_at_top(ByteOffset(0)).unwrap().kind, ExtentKind::Hole);
    let kinds: Vec<_> = image.extents().map(|e| e.unwrap()).map(|e| (e.start.0 >> 10, e.kind)).collect();
    let expected = [(0, ExtentKind::Data), (64, ExtentKind::Zero), (192, ExtentKind::Data), (1024, ExtentKind::Hole)];
    assert_eq!(kinds, expected);
}

fn sparse_image(dir: &Path) -> PathBuf {
    let writer = ImageWriter::create(dir, "x.vmdk", &options(Subformat::MonolithicSparse, 40 * MIB)).unwrap();
    writer.write_at(ByteOffset(0), &noise(1, 65536)).unwrap();
    writer.write_at(ByteOffset(33 * MIB), &noise(2, 65536)).unwrap();
    writer.finish().unwrap().swap_remove(0)
}

fn u32_at(path: &Path, at: u64) -> u32 {
    let mut bytes = [0; 4];
    OpenOptions::new().read(true).open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    u32::from_le_bytes(bytes)
}

fn patch(path: &Path, at: u64, value: u32) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&value.to_le_bytes(), at).unwrap();
}

/// The byte of an entry of the first directory or of its first table.
fn directory(path: &Path) -> u64 {
    u64::from(u32_at(path, 0x38)) * 512
}

fn table(path: &Path, directory: u64) -> u64 {
    u64::from(u32_at(path, directory)) * 512
}

fn reads_well(path: &Path) {
    let image = open_path(path).unwrap();
    let mut read = vec![0; 65536];
    for (at, seed) in [(0, 1), (33 * MIB, 2)] {
        image.read_exact_at(ByteOffset(at), &mut read).unwrap();
        assert!(read == noise(seed, 65536));
    }
    assert_eq!(runs(&image).iter().filter(|run| run.2).count(), 2);
}

#[test]
fn a_damaged_directory_or_table_is_replaced_by_its_second_copy() {
    let dir = tempfile::tempdir().unwrap();
    let fresh = |number: u32| {
        let folder = dir.path().join(number.to_string());
        std::fs::create_dir(&folder).unwrap();
        sparse_image(&folder)
    };
    let path = fresh(0);
    reads_well(&path);
    patch(&path, 0x38, 0x7fff_ffff); // gdOffset behind the file
    reads_well(&path);
    let path = fresh(1);
    patch(&path, directory(&path), u32::MAX); // a table behind the file
    reads_well(&path);
    let path = fresh(2);
    patch(&path, table(&path, directory(&path)), u32::MAX); // a grain behind the file
    reads_well(&path);
    let path = fresh(3);
    patch(&path, table(&path, directory(&path)), 1); // zeroed, but the header says there are none
    reads_well(&path);
}

#[test]
fn damage_in_both_copies_is_an_error_that_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let path = sparse_image(dir.path());
    let redundant = u64::from(u32_at(&path, 0x30)) * 512;
    for copy in [directory(&path), redundant] {
        patch(&path, table(&path, copy), 0x00ff_fff0);
    }
    let image = open_path(&path).unwrap();
    let err = image.read_exact_at(ByteOffset(0), &mut [0; 512]).unwrap_err();
    assert!(matches!(err, ReadError::Corrupt { at: ByteOffset(0), .. }), "{err}");
    let source = std::error::Error::source(&err).unwrap().to_string();
    assert!(source.starts_with("a grain takes bytes 0x1ffffe000 to 0x20000e000 of x.vmdk, which has"), "{source}");
    assert!(image.extents().any(|e| e.is_err()));
    image.read_exact_at(ByteOffset(33 * MIB), &mut [0; 512]).unwrap();
}

#[test]
fn a_grain_cut_off_at_the_end_of_the_file_is_an_error_and_its_neighbours_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = {
        let writer = ImageWriter::create(dir.path(), "x.vmdk", &options(Subformat::MonolithicSparse, 4 * MIB)).unwrap();
        writer.write_at(ByteOffset(0), &noise(1, 4 << 20)).unwrap();
        writer.finish().unwrap().swap_remove(0)
    };
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let image = open_path(&path).unwrap();
    image.read_exact_at(ByteOffset(0), &mut vec![0; (4 << 20) - 65536]).unwrap();
    let last = ByteOffset(4 * MIB - 65536);
    assert!(matches!(image.read_exact_at(last, &mut [0; 512]), Err(ReadError::Corrupt { .. })));
}

#[test]
fn reads_outside_the_disk_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = open_path(&sparse_image(dir.path())).unwrap();
    image.read_exact_at(ByteOffset(40 * MIB - 1), &mut [0; 1]).unwrap();
    for (at, len) in [(40 * MIB, 1), (40 * MIB - 1, 2), (u64::MAX, 1)] {
        let err = image.read_exact_at(ByteOffset(at), &mut vec![0; len]).unwrap_err();
        assert!(matches!(err, ReadError::OutOfRange { .. }));
    }
    assert!(image.extent_at(ByteOffset(40 * MIB)).is_err());
}
