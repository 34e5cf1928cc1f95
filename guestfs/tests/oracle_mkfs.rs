//! The makers of the file systems say what is in a volume; we must see it, with and without a partition around it.
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

mod support;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use blockdev::FileDisk;
use guestfs::{TableKind, VolumeKind, volumes};
use support::{has, put_slot, run};

/// Makes a volume of `mib` MiB, looks at it as a whole disk, then as the first partition of an MBR.
fn check(tool: &str, args: &[&str], mib: u64, expected: VolumeKind) {
    if !has(tool) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    File::create(&path).unwrap().set_len(mib << 20).unwrap();
    run(tool, &[args, &["volume"]].concat(), folder.path(), "");

    let layout = volumes(&FileDisk::open(&path).unwrap()).unwrap();
    assert_eq!(layout.table, TableKind::None, "{tool} {args:?}: {layout:?}");
    assert_eq!(support::places(&layout), [(1, 0, mib << 20)]);
    assert_eq!(layout.volumes[0].kind, expected, "{tool} {args:?}");

    let mut head = vec![0; 1 << 20]; // all signatures lie in here
    File::open(&path).unwrap().read_exact(&mut head).unwrap();
    let mut disk = File::create(folder.path().join("disk")).unwrap();
    disk.set_len((mib + 2) << 20).unwrap();
    let mut mbr = [0; 512];
    put_slot(&mut mbr, 0, 0, 0x83, 2048, u32::try_from(mib * 2048).unwrap());
    disk.write_all(&mbr).unwrap();
    disk.seek(SeekFrom::Start(1 << 20)).unwrap();
    disk.write_all(&head).unwrap();
    let layout = volumes(&FileDisk::open(&folder.path().join("disk")).unwrap()).unwrap();
    assert_eq!(support::places(&layout), [(1, 1 << 20, mib << 20)]);
    assert_eq!(layout.volumes[0].kind, expected, "{tool} {args:?} in a partition");
    assert!(layout.warnings.is_empty(), "{:?}", layout.warnings);
}

#[test]
fn ext_generations_are_told_apart() {
    check("mkfs.ext4", &["-q", "-F"], 16, VolumeKind::Ext4);
    check("mkfs.ext3", &["-q", "-F"], 16, VolumeKind::Ext3);
    check("mkfs.ext2", &["-q", "-F"], 16, VolumeKind::Ext2);
    check("mke2fs", &["-q", "-F", "-O", "journal_dev"], 16, VolumeKind::Unknown);
}

#[test]
fn fat_widths_are_told_apart() {
    check("mkfs.vfat", &["-F", "12"], 4, VolumeKind::Fat12);
    check("mkfs.vfat", &["-F", "16"], 32, VolumeKind::Fat16);
    check("mkfs.vfat", &["-F", "32"], 300, VolumeKind::Fat32);
    // Fewer clusters than the specification has for FAT32, and read as FAT32 by everybody all the same.
    check("mkfs.vfat", &["-F", "32", "-s", "1"], 20, VolumeKind::Fat32);
    check("mkfs.vfat", &["-F", "32", "-S", "4096"], 300, VolumeKind::Fat32);
    // A partition table in the boot sector, with one partition from sector 0 on.
    check("mkfs.vfat", &["-F", "16", "--mbr=yes"], 32, VolumeKind::Fat16);
}

#[test]
fn ntfs_and_exfat_are_seen() {
    check("mkntfs", &["-q", "-F", "-f", "-s", "512", "-p", "0", "-H", "16", "-S", "63"], 16, VolumeKind::Ntfs);
    check("mkfs.exfat", &[], 16, VolumeKind::ExFat);
}

#[test]
fn xfs_btrfs_and_swap_are_seen() {
    check("mkfs.xfs", &["-q"], 512, VolumeKind::Xfs);
    check("mkfs.btrfs", &["-q"], 256, VolumeKind::Btrfs);
    check("mkswap", &["-q"], 16, VolumeKind::LinuxSwap);
    check("mkswap", &["-q", "-p", "65536"], 16, VolumeKind::LinuxSwap);
}
