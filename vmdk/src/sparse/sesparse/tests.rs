use blockdev::MemDisk;
use zerocopy::IntoBytes;

use super::*;
use crate::ErrorFamily;

fn area(offset: u64, size: u64) -> RawArea {
    RawArea { offset: offset.into(), size: size.into() }
}

/// A disk of 32 MiB: two tables.
fn valid() -> RawConstant {
    RawConstant {
        magic: CONSTANT_MAGIC.into(),
        version: VERSION.into(),
        capacity: 65536.into(),
        grain_size: 8.into(),
        grain_table_size: 64.into(),
        flags: 0.into(),
        reserved: [0.into(); 4],
        volatile_header: area(1, 1),
        journal_header: area(2, 2),
        journal: area(2048, 2048),
        grain_directory: area(4096, 1),
        grain_tables: area(4097, 128),
        free_bitmap: area(4225, 8),
        backmap: area(4233, 8),
        grains: area(6144, 65536),
        pad: [0; 304],
    }
}

fn read_with(change: impl FnOnce(&mut RawConstant), replay: u64) -> Result<Grains, VmdkError> {
    let mut raw = valid();
    change(&mut raw);
    let volatile = [VOLATILE_MAGIC, 0, 0, replay].map(u64::to_le_bytes).concat();
    let bytes = [raw.as_bytes().to_vec(), volatile].concat();
    read_sesparse(&MemDisk::new(bytes), "x-sesparse.vmdk")
}

fn text(change: impl FnOnce(&mut RawConstant)) -> String {
    let err = read_with(change, 0).unwrap_err();
    assert_eq!(err.family(), ErrorFamily::Corrupt, "{err}");
    err.to_string()
}

#[test]
fn a_valid_header_gives_places_in_bytes() {
    let grains = read_with(|_| (), 0).unwrap();
    assert_eq!((grains.capacity, grains.grain_len, grains.table_entries), (32 << 20, 4096, 4096));
    assert_eq!((grains.directories.as_slice(), grains.table_count()), ([4096 * 512].as_slice(), 2));
    let Entries::Tagged(areas) = grains.entries else { panic!("{grains:?}") };
    assert_eq!((areas.tables, areas.table_count, areas.table_len), (4097 * 512, 2, 32768));
    assert_eq!((areas.grains, areas.grain_count, areas.grain_len), (6144 * 512, 8192, 4096));
}

#[test]
fn each_field_is_taken_at_its_edge_and_refused_past_it() {
    assert!(read_with(|h| h.capacity = 1.into(), 0).is_ok());
    assert!(text(|h| h.capacity = 0.into()).starts_with("capacity at byte 0x10 of x-sesparse.vmdk is 0x0"));
    assert!(read_with(|h| h.grain_size = 128.into(), 0).is_ok());
    for wrong in [0, 4, 12, 256] {
        assert!(text(|h| h.grain_size = wrong.into()).starts_with("grainSize at byte 0x18"));
    }
    assert!(read_with(|h| h.grain_table_size = 32.into(), 0).is_ok());
    for wrong in [0, 65, u64::MAX] {
        assert!(text(|h| h.grain_table_size = wrong.into()).starts_with("grainTableSize at byte 0x20"));
    }
    assert!(text(|h| h.grain_directory = area(0, 1)).starts_with("grainDirOffset at byte 0x80"));
    assert!(text(|h| h.grain_tables = area(u64::MAX, 1)).starts_with("grainTablesOffset at byte 0x90"));
    assert!(text(|h| h.grains = area(1 << 55, 0)).starts_with("grainsOffset at byte 0xc0"));
    assert!(text(|h| h.magic = 1.into()).starts_with("magic at byte 0x0"));
}

#[test]
fn the_directory_must_have_an_entry_for_every_table() {
    assert!(read_with(|h| h.capacity = (64 * 32768).into(), 0).is_ok());
    let err = text(|h| h.capacity = (64 * 32768 + 1).into());
    assert_eq!(err, "grainDirSize at byte 0x88 of x-sesparse.vmdk is 0x1: an entry for every table");
}

#[test]
fn other_versions_flags_and_journals_are_not_supported() {
    for change in [|h: &mut RawConstant| h.version = 1.into(), |h: &mut RawConstant| h.flags = 1.into()] {
        assert_eq!(read_with(change, 0).unwrap_err().family(), ErrorFamily::Unsupported);
    }
    let err = read_with(|_| (), 1).unwrap_err();
    assert_eq!(err.family(), ErrorFamily::Unsupported);
    assert!(err.to_string().starts_with("replayJournal of x-sesparse.vmdk is 1"), "{err}");
    let err = read_with(|h| h.volatile_header = area(0, 1), 0).unwrap_err();
    assert_eq!(err.family(), ErrorFamily::Corrupt);
    let err = read_with(|h| h.volatile_header = area(2, 1), 0).unwrap_err();
    assert!(matches!(err, VmdkError::Short { what: "the volatile header", .. }), "{err}");
}
