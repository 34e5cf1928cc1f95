//! Chains of redo logs (COWD), made by a small builder of this test from Virtual Disk Format 1.1 and judged by qemu-img.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::path::Path;

use blockdev::{ByteOffset, ExtentKind, FileDisk, ReadAt, Sectors};
use common::{MIB, assert_same, have, noise, qemu_runs, run, runs};
use vmdk_rs::{CreateType, Descriptor, ErrorFamily, ExtentLine, ExtentType, Image, VmdkError, open_path};

const SECTORS: u64 = 10 * 2048 + 3;

/// Header in 4 sectors, the grain directory, then tables and grains in the order of `grains`.
fn cowd(sectors: u64, grain_sectors: u64, grains: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let word = |n: u64| u32::try_from(n).unwrap().to_le_bytes();
    let tables = sectors.div_ceil(grain_sectors).div_ceil(4096);
    let directory_sectors = (tables * 4).div_ceil(512);
    let mut file = vec![0; usize::try_from((4 + directory_sectors) * 512).unwrap()];
    for (number, grain) in grains {
        let entry = 2048 + usize::try_from(number / 4096 * 4).unwrap();
        if file[entry..entry + 4] == [0; 4] {
            let sector = word(file.len() as u64 / 512);
            file[entry..entry + 4].copy_from_slice(&sector);
            file.resize(file.len() + 4096 * 4, 0);
        }
        let table = u32::from_le_bytes(file[entry..entry + 4].try_into().unwrap()) as usize * 512;
        let entry = table + usize::try_from(number % 4096 * 4).unwrap();
        let sector = word(file.len() as u64 / 512);
        file[entry..entry + 4].copy_from_slice(&sector);
        assert_eq!(grain.len() as u64, grain_sectors * 512);
        file.extend_from_slice(grain);
    }
    let header = [1, 3, sectors, grain_sectors, 4, tables, file.len() as u64 / 512].map(word).concat();
    file[..4].copy_from_slice(b"COWD");
    file[4..32].copy_from_slice(&header);
    file
}

fn descriptor(create_type: CreateType, extent: ExtentLine, content_id: u32, parent: Option<(u32, &str)>) -> Descriptor {
    let mut disk = Descriptor::new(create_type);
    disk.content_id = content_id;
    disk.parent_content_id = parent.map(|(id, _)| id);
    disk.parent_file_name_hint = parent.map(|(_, hint)| hint.to_owned());
    disk.extents.push(extent);
    disk
}

fn base(dir: &Path) {
    let extent = ExtentLine::rw(Sectors(SECTORS), ExtentType::Vmfs, "vm-flat.vmdk");
    std::fs::write(dir.join("vm.vmdk"), descriptor(CreateType::Vmfs, extent, 0x11, None).to_string()).unwrap();
    common::model(
        &dir.join("vm-flat.vmdk"),
        SECTORS * 512,
        &[(0, 3 * MIB), (8 * MIB, 4096), (SECTORS * 512 - 512, 512)],
    );
}

fn delta(dir: &Path, number: u32, parent: (u32, &str), content_id: u32, file: &[u8]) {
    let data = format!("vm-{number:06}-delta.vmdk");
    let extent = ExtentLine::rw(Sectors(SECTORS), ExtentType::VmfsSparse, &data);
    let disk = descriptor(CreateType::VmfsSparse, extent, content_id, Some(parent));
    std::fs::write(dir.join(format!("vm-{number:06}.vmdk")), disk.to_string()).unwrap();
    std::fs::write(dir.join(data), file).unwrap();
}

fn judged_by_qemu(dir: &Path, name: &str, image: &Image) {
    if have("qemu-img") {
        run("qemu-img", &["convert", "-f", "vmdk", "-O", "raw", name, "judge.raw"], dir);
        assert_same(image, &FileDisk::open(&dir.join("judge.raw")).unwrap());
        assert_eq!(runs(image), qemu_runs(dir, name));
        std::fs::remove_file(dir.join("judge.raw")).unwrap();
    }
}

#[test]
fn redo_logs_of_two_snapshots_are_merged_as_qemu_merges_them() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    base(d);
    let sector = |n: u64| (n, noise(n + 1000, 512));
    let first: Vec<_> = [5, 6, 7, 4096, 4095, 9000, 16 * 1024, SECTORS - 1].map(sector).into();
    delta(d, 1, (0x11, "vm.vmdk"), 0x22, &cowd(SECTORS, 1, &first));
    let second: Vec<_> = [6, 4096, 20_000, 20_001, 20_003].map(|n| (n, noise(n + 5000, 512))).into();
    // ESX writes the path of its own; only the name counts.
    delta(d, 2, (0x22, "vm-000001.vmdk"), 0x33, &cowd(SECTORS, 1, &second));
    let image = open_path(&d.join("vm-000002.vmdk")).unwrap();
    let names: Vec<_> = image.chain().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names, ["vm-000002.vmdk", "vm-000001.vmdk", "vm.vmdk"]);
    let mut read = [0; 1024];
    image.read_exact_at(ByteOffset(6 * 512), &mut read).unwrap();
    assert_eq!((&read[..512], &read[512..]), (&noise(5006, 512)[..], &noise(1007, 512)[..]));
    let top = image.extent_at_top(ByteOffset(20_000 * 512)).unwrap();
    assert_eq!((top.kind, top.len.0), (ExtentKind::Data, 1024));
    judged_by_qemu(d, "vm-000002.vmdk", &image);
}

#[test]
fn redo_logs_with_larger_grains_are_read() {
    let dir = tempfile::tempdir().unwrap();
    base(dir.path());
    let grains: Vec<_> = [0, 3, 1200, SECTORS / 16].map(|n| (n, noise(n + 77, 8192))).into();
    delta(dir.path(), 1, (0x11, "vm.vmdk"), 0x22, &cowd(SECTORS, 16, &grains));
    let image = open_path(&dir.path().join("vm-000001.vmdk")).unwrap();
    judged_by_qemu(dir.path(), "vm-000001.vmdk", &image);
}

#[test]
fn only_the_last_component_of_the_hint_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    base(dir.path());
    delta(dir.path(), 1, (0x11, "/vmfs/volumes/4f-1/other folder/vm.vmdk"), 0x22, &cowd(SECTORS, 1, &[]));
    let image = open_path(&dir.path().join("vm-000001.vmdk")).unwrap();
    assert_same(&image, &open_path(&dir.path().join("vm.vmdk")).unwrap());
}

#[test]
fn a_parent_with_other_content_is_refused_with_both_names() {
    let dir = tempfile::tempdir().unwrap();
    base(dir.path());
    delta(dir.path(), 1, (0x12, "vm.vmdk"), 0x22, &cowd(SECTORS, 1, &[]));
    let err = open_path(&dir.path().join("vm-000001.vmdk")).unwrap_err();
    assert_eq!(err.family(), ErrorFamily::Corrupt);
    let expected = "vm-000001.vmdk is a delta to content 00000012, but the content of vm.vmdk is 00000011";
    assert_eq!(err.to_string(), expected);
}

#[test]
fn loops_missing_hints_and_hostile_hints_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = |hint: &str| {
        delta(dir.path(), 1, (0x22, hint), 0x22, &cowd(SECTORS, 1, &[]));
        open_path(&dir.path().join("vm-000001.vmdk")).unwrap_err()
    };
    assert!(matches!(open("vm-000001.vmdk"), VmdkError::Loop { .. }));
    assert!(matches!(open("x/.."), VmdkError::Name { .. }));
    assert!(matches!(open("json:{}"), VmdkError::Name { .. }));
    delta(dir.path(), 2, (0x22, "vm-000001.vmdk"), 0x22, &cowd(SECTORS, 1, &[]));
    assert!(matches!(open("vm-000002.vmdk"), VmdkError::Loop { again, .. } if again == "vm-000001.vmdk"));
    let path = dir.path().join("vm-000001.vmdk");
    let text = std::fs::read_to_string(&path).unwrap();
    let text: String = text.lines().filter(|l| !l.starts_with("parentFile")).map(|l| format!("{l}\n")).collect();
    std::fs::write(&path, text).unwrap();
    assert!(matches!(open_path(&path).unwrap_err(), VmdkError::NoParent { parent_content_id: 0x22, .. }));
}

#[test]
fn a_chain_of_64_disks_is_read_and_one_of_65_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    base(dir.path());
    for number in 1..=64 {
        let parent = if number == 1 { "vm.vmdk".to_owned() } else { format!("vm-{:06}.vmdk", number - 1) };
        let file = cowd(SECTORS, 1, &[(u64::from(number), noise(u64::from(number), 512))]);
        delta(dir.path(), number, (0x11, &parent), 0x11, &file);
    }
    let image = open_path(&dir.path().join("vm-000063.vmdk")).unwrap();
    let mut read = [0; 512];
    image.read_exact_at(ByteOffset(512), &mut read).unwrap();
    assert_eq!(read[..], noise(1, 512));
    let err = open_path(&dir.path().join("vm-000064.vmdk")).unwrap_err();
    assert!(matches!(err, VmdkError::TooDeep { limit: 64, .. }), "{err}");
}

#[test]
fn a_delta_that_is_larger_than_its_parent_reads_zeros_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let extent = ExtentLine::rw(Sectors(8), ExtentType::Vmfs, "vm-flat.vmdk");
    let text = descriptor(CreateType::Vmfs, extent, 0x11, None).to_string();
    std::fs::write(dir.path().join("vm.vmdk"), text).unwrap();
    std::fs::write(dir.path().join("vm-flat.vmdk"), noise(1, 4096)).unwrap();
    delta(dir.path(), 1, (0x11, "vm.vmdk"), 0x22, &cowd(SECTORS, 1, &[(9, noise(2, 512))]));
    let image = open_path(&dir.path().join("vm-000001.vmdk")).unwrap();
    let mut read = vec![1; 8192];
    image.read_exact_at(ByteOffset(0), &mut read).unwrap();
    let expected = [noise(1, 4096), vec![0; 512], noise(2, 512), vec![0; 3072]].concat();
    assert!(read == expected);
}
