//! sfdisk and fdisk make the tables, and must read in them what we read.
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

mod support;

use std::fs::File;
use std::path::Path;

use blockdev::FileDisk;
use guestfs::{DiskLayout, PartitionType, SectorSize, TableKind, Warning, volumes, volumes_with};
use support::{has, run};

const EXTENDED: [&str; 3] = ["5", "f", "85"];

/// A partition as both sides tell it: index, first sector, sectors, type, GUID, name, bootable.
type Row = (u32, u64, u64, String, Option<String>, Option<String>, bool);

fn ours(layout: &DiskLayout) -> Vec<Row> {
    let sector = layout.sector_size.bytes().0;
    let row = |v: &guestfs::Volume| {
        let table_type = match v.table_type.unwrap() {
            PartitionType::Mbr(byte) => format!("{byte:x}"),
            PartitionType::Gpt(guid) => guid.to_string().to_uppercase(),
        };
        let guid = v.guid.map(|guid| guid.to_string().to_uppercase());
        (v.index, v.start.0 / sector, v.len.0 / sector, table_type, guid, v.name.clone(), v.bootable)
    };
    layout.volumes.iter().map(row).collect()
}

/// What `sfdisk --json` says; also checks the table's own identity.
fn theirs(folder: &Path, table: TableKind) -> Vec<Row> {
    let json: serde_json::Value = serde_json::from_str(&run("sfdisk", &["--json", "disk"], folder, "")).unwrap();
    let json = &json["partitiontable"];
    let id = match table {
        TableKind::Mbr { signature } => format!("{signature:#010x}"),
        TableKind::Gpt { disk_guid } => disk_guid.to_string().to_uppercase(),
        TableKind::None => panic!("sfdisk found a table, we did not"),
    };
    assert_eq!(json["id"], *id);
    let text = |v: &serde_json::Value| v.as_str().map(str::to_owned);
    let row = |p: &serde_json::Value| {
        let index = p["node"].as_str().unwrap().strip_prefix("disk").unwrap().parse().unwrap();
        let bootable = p["bootable"] == true || p["attrs"].as_str().is_some_and(|a| a.contains("LegacyBIOSBootable"));
        let (start, size) = (p["start"].as_u64().unwrap(), p["size"].as_u64().unwrap());
        (index, start, size, text(&p["type"]).unwrap(), text(&p["uuid"]), text(&p["name"]), bootable)
    };
    let rows = json["partitions"].as_array().map_or(&[][..], Vec::as_slice).iter().map(row);
    rows.filter(|row| !EXTENDED.contains(&row.3.as_str())).collect()
}

/// Makes a disk of 96 MiB by `script`, and compares what sfdisk and we read in it.
fn compare(script: &str) -> Option<DiskLayout> {
    if !has("sfdisk") {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    File::create(&disk).unwrap().set_len(96 << 20).unwrap();
    run("sfdisk", &["-q", "disk"], folder.path(), script);
    let layout = volumes(&FileDisk::open(&disk).unwrap()).unwrap();
    assert_eq!(ours(&layout), theirs(folder.path(), layout.table), "{script}");
    Some(layout)
}

#[test]
fn sfdisk_agrees_on_primary_and_logical_partitions() {
    let script = "label: dos\nsize=4MiB, bootable, type=7\nsize=8MiB, type=c\nsize=60MiB, type=f\n5: size=2MiB, type=83\n\
                  6: size=3MiB, type=7\n7: size=4MiB, type=82\n8: size=5MiB, type=8e\n9: size=6MiB, type=b\n";
    let Some(layout) = compare(script) else { return };
    assert_eq!(layout.volumes.len(), 8 - 1, "all but the extended partition");
    assert!(layout.warnings.is_empty(), "{:?}", layout.warnings);
}

#[test]
fn sfdisk_agrees_on_slots_out_of_order_and_with_gaps() {
    let script = "label: dos\n4: start=2048, size=2048, type=83\n2: start=10240, size=2048, type=7\n";
    let Some(layout) = compare(script) else { return };
    assert_eq!(layout.volumes.iter().map(|v| v.index).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn sfdisk_agrees_on_forty_logical_partitions() {
    let mut script = "label: dos\n1: size=90MiB, type=5\n".to_owned();
    for index in 5..45 {
        script += &format!("{index}: size=100KiB, type=83\n");
    }
    let Some(layout) = compare(&script) else { return };
    assert_eq!(layout.volumes.len(), 40);
}

#[test]
fn sfdisk_agrees_on_an_mbr_without_partitions_and_an_empty_extended_one() {
    let Some(layout) = compare("label: dos\n") else { return };
    assert!(matches!(layout.table, TableKind::Mbr { .. }), "{layout:?}");
    let Some(layout) = compare("label: dos\nsize=4MiB, type=83\nsize=30MiB, type=5\n") else { return };
    assert_eq!(layout.volumes.len(), 1);
}

#[test]
fn sfdisk_agrees_on_a_gpt_with_names_and_attributes() {
    let script = "label: gpt\nsize=4MiB, name=\"EFI system\", type=U\nsize=16MiB, name=\"Größe Ω 💾\", type=L\n\
                  size=3MiB, attrs=\"LegacyBIOSBootable\"\n\
                  9: size=1MiB, name=\"thirty-six characters, no more at all\", type=S\n";
    let Some(layout) = compare(script) else { return };
    assert_eq!(layout.sector_size, SectorSize::B512);
    assert_eq!(layout.volumes.len(), 4);
    assert!(layout.warnings.is_empty(), "{:?}", layout.warnings);
}

#[test]
fn sfdisk_agrees_on_gpts_with_few_and_with_many_entries() {
    let _ = compare("label: gpt\ntable-length: 4\nsize=4MiB\nsize=5MiB\n");
    let _ = compare("label: gpt\ntable-length: 1024\nfirst-lba: 4096\nsize=4MiB\n1000: size=5MiB\n");
}

/// fdisk alone makes and reads 4096-byte sectors in a file, through a script and a dump of it.
fn compare_4096(script: &str, read: fn(&FileDisk) -> DiskLayout) -> Option<DiskLayout> {
    if !has("fdisk") {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    File::create(&disk).unwrap().set_len(96 << 20).unwrap();
    std::fs::write(folder.path().join("script"), script).unwrap();
    run("fdisk", &["-b", "4096", "disk"], folder.path(), "I\nscript\nw\n");
    run("fdisk", &["-b", "4096", "disk"], folder.path(), "O\ndump\nq\n");
    let dump = std::fs::read_to_string(folder.path().join("dump")).unwrap();
    let layout = read(&FileDisk::open(&disk).unwrap());
    assert_eq!(ours(&layout), dump.lines().filter_map(dump_row).collect::<Vec<_>>(), "{dump}");
    assert_eq!(layout.sector_size, SectorSize::B4096);
    Some(layout)
}

/// One line of the dump: `disk1 : start= 256, size= 1024, type=83, uuid=…, name="…", bootable`.
fn dump_row(line: &str) -> Option<Row> {
    let (node, fields) = line.split_once(" : ")?;
    let field = |name: &str| {
        let value = fields.split(", ").find_map(|f| f.trim().strip_prefix(name)?.strip_prefix('='));
        value.map(|value| value.trim().trim_matches('"').to_owned())
    };
    let table_type = field("type").unwrap();
    if EXTENDED.contains(&table_type.as_str()) {
        return None;
    }
    let number = |name: &str| field(name).unwrap().parse().unwrap();
    let bootable = fields.contains(", bootable") || fields.contains("LegacyBIOSBootable");
    let index = node.strip_prefix("disk").unwrap().parse().unwrap();
    Some((index, number("start"), number("size"), table_type, field("uuid"), field("name"), bootable))
}

#[test]
fn fdisk_agrees_on_a_gpt_in_4096_byte_sectors() {
    let script = "label: gpt\nsize=16MiB, name=\"first\", type=L\nsize=3MiB, attrs=\"LegacyBIOSBootable\"\n";
    let Some(layout) = compare_4096(script, |disk| volumes(disk).unwrap()) else { return };
    assert_eq!(layout.volumes.len(), 2);
    assert!(layout.warnings.is_empty(), "{:?}", layout.warnings);
}

#[test]
fn fdisk_agrees_on_an_mbr_in_4096_byte_sectors_when_they_are_given() {
    let script = "label: dos\nsize=4MiB, bootable\nsize=50MiB, type=5\n5: size=4MiB, type=7\n6: size=5MiB\n";
    let read = |disk: &FileDisk| volumes_with(disk, SectorSize::B4096).unwrap();
    let Some(layout) = compare_4096(script, read) else { return };
    assert_eq!(layout.volumes.len(), 3);
}

#[test]
fn sgdisk_agrees_that_a_hybrid_mbr_is_a_gpt() {
    if !has("sgdisk") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    File::create(&disk).unwrap().set_len(96 << 20).unwrap();
    run("sgdisk", &["-n", "1:2048:+4M", "-n", "2:0:+8M", "-h", "1", "disk"], folder.path(), "");
    let layout = volumes(&FileDisk::open(&disk).unwrap()).unwrap();
    assert!(matches!(layout.table, TableKind::Gpt { .. }), "{layout:?}");
    assert!(matches!(layout.warnings[..], [Warning::HybridMbr]), "{:?}", layout.warnings);
    assert_eq!(support::places(&layout), [(1, 1 << 20, 4 << 20), (2, 5 << 20, 8 << 20)]);
}
