//! One field of a volume damaged at a time: what the format can tell is told, and what can be done without is done without.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what only tests call may fail as tests do")]

#[path = "support/ntfs_raw.rs"]
mod ntfs_raw;
#[path = "support/mod.rs"]
mod support;
#[path = "support/volumes.rs"]
mod volumes;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use blockdev::{ByteLen, ByteOffset, MemDisk, ReadAt, ReadError};
use guestfs::{Case, Entry, FileId, FileSystem, FsError, Ntfs};
use ntfs_raw::{fixed_up, number};
use volumes::{Fixture, open_ntfs};

/// An image to damage.
struct Image(Vec<u8>);

/// The fixture is made once for all tests.
fn image() -> Option<Image> {
    static MADE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let made = MADE.get_or_init(|| Fixture::make("lean").map(|fixture| std::fs::read(&fixture.image).unwrap()));
    made.clone().map(Image)
}

impl Image {
    fn open(&self) -> Ntfs {
        open_ntfs(Arc::new(MemDisk::new(self.0.clone()))).unwrap()
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Where record `number` lies: the fixture's MFT is in one piece.
    fn record(&self, number: u64) -> usize {
        let mft = usize::try_from(ntfs_raw::number(&self.0, 0x30, 8)).unwrap() * 4096;
        mft + usize::try_from(number).unwrap() * 1024
    }

    /// Where the first attribute of this type is in a record, by its first bytes: none crosses the end of a sector.
    fn attribute(&self, record: u64, kind: u32) -> usize {
        let at = self.record(record);
        let mut place = at + usize::try_from(number(&self.0, at + 0x14, 2)).unwrap();
        while number(&self.0, place, 4) != u64::from(kind) {
            assert_ne!(number(&self.0, place, 4), 0xffff_ffff, "no attribute {kind:#x}");
            place += usize::try_from(number(&self.0, place + 4, 4)).unwrap();
        }
        place
    }
}

fn find(volume: &Ntfs, path: &str) -> FileId {
    let step = |folder, name: &str| volume.find(folder, name.as_bytes(), Case::Exact).unwrap().unwrap();
    path.split('/').fold(volume.root(), step)
}

fn entries(volume: &Ntfs, folder: FileId) -> (Vec<Entry>, Result<(), FsError>) {
    let mut found = Vec::new();
    let result = volume.list(folder, 0, &mut |entry| {
        found.push(entry);
        ControlFlow::Continue(())
    });
    (found, result)
}

fn refused<T>(result: Result<T, FsError>, part: &str) {
    let error = result.err().unwrap_or_else(|| panic!("not refused: {part}"));
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn a_value_that_begins_inside_its_header_is_refused() {
    let Some(mut image) = image() else { return };
    let file = find(&image.open(), "resident");
    let data = image.attribute(file.get(), 0x80);
    image.put(data + 0x14, &[0x10, 0]);
    refused(image.open().open(file), "offset of the value");
}

#[test]
fn sizes_that_contradict_each_other_or_the_runs_are_refused() {
    let Some(whole) = image() else { return };
    let file = find(&whole.open(), "clusters");
    let data = whole.attribute(file.get(), 0x80);
    // A file cut short by a wrong size, one longer than its clusters, one with more clusters than are listed.
    for (field, value, told) in [
        (0x30, 8000u64, "initialized size"),
        (0x30, 20_000, "size"),
        (0x28, 0x4000, "list of runs"),
        (0x38, 9002, "initialized size"),
    ] {
        let mut image = Image(whole.0.clone());
        image.put(data + field, &value.to_le_bytes());
        refused(image.open().open(file), told);
    }
}

#[test]
fn a_hole_in_a_file_that_is_not_sparse_is_refused() {
    let Some(mut image) = image() else { return };
    let file = find(&image.open(), "clusters");
    let data = image.attribute(file.get(), 0x80);
    image.put(data + 0x40, &[0x01, 3, 0]);
    refused(image.open().open(file), "with a hole");
}

#[test]
fn a_record_in_the_place_of_another_is_refused() {
    let Some(mut image) = image() else { return };
    let (one, other) = (find(&image.open(), "resident"), find(&image.open(), "clusters"));
    let (from, to) = (image.record(one.get()), image.record(other.get()));
    image.0.copy_within(from..from + 1024, to);
    refused(image.open().open(other), "number of the record");
}

#[test]
fn blocks_that_the_bitmap_forgets_are_missed_in_a_listing() {
    let Some(mut image) = image() else { return };
    let folder = find(&image.open(), "index");
    let (all, result) = entries(&image.open(), folder);
    result.unwrap();
    let holder = (0..200).find(|n| {
        fixed_up(&image.0[image.record(*n)..][..1024]).starts_with(b"FILE") && is_bitmap_of(&image, *n, folder)
    });
    let bitmap = image.attribute(holder.unwrap(), 0xb0);
    let value = bitmap + usize::try_from(number(&image.0, bitmap + 0x14, 2)).unwrap();
    let bits = image.0[value];
    assert!(bits.count_ones() > 2, "{bits:#b}");
    image.put(value, &[bits & !2]);
    let (some, result) = entries(&image.open(), folder);
    assert!(some.len() < all.len());
    refused(result, "child of an entry");
}

/// Whether a record is the folder, or a part of it, and has a bitmap.
fn is_bitmap_of(image: &Image, record: u64, folder: FileId) -> bool {
    let at = image.record(record);
    let bytes = fixed_up(&image.0[at..at + 1024]);
    let base = number(&bytes, 0x20, 6);
    let own = record == folder.get() || base == folder.get();
    let mut place = usize::try_from(number(&bytes, 0x14, 2)).unwrap();
    while own && number(&bytes, place, 4) != 0xffff_ffff {
        if number(&bytes, place, 4) == 0xb0 {
            return true;
        }
        place += usize::try_from(number(&bytes, place + 4, 4)).unwrap();
    }
    false
}

/// Where the first entry is of a block of the folder `index` with several of them.
fn first_entry_of_a_large_block(image: &Image) -> usize {
    let folder = find(&image.open(), "index");
    let blocks = (0..image.0.len()).step_by(4096).filter(|at| image.0[*at..].starts_with(b"INDX"));
    let large = blocks.filter(|at| number(&image.0, at + 0x18 + 4, 4) > 1000);
    let mut entries = large.map(|at| at + 0x18 + usize::try_from(number(&image.0, at + 0x18, 4)).unwrap());
    entries.find(|entry| number(&image.0, entry + 0x10, 6) == folder.get()).unwrap()
}

#[test]
fn a_last_entry_before_the_end_of_a_node_is_refused() {
    let Some(mut image) = image() else { return };
    let folder = find(&image.open(), "index");
    let entry = first_entry_of_a_large_block(&image);
    image.put(entry + 12, &[image.0[entry + 12] | 2]);
    refused(entries(&image.open(), folder).1, "behind the last entry");
}

#[test]
fn a_name_whose_record_is_another_files_by_now_is_listed_and_cannot_be_used() {
    let Some(mut image) = image() else { return };
    let file = find(&image.open(), "resident");
    let at = image.record(file.get());
    image.put(at + 0x10, &[9, 0]);
    let volume = image.open();
    let (all, result) = entries(&volume, volume.root());
    result.unwrap();
    let entry = all.iter().find(|entry| entry.name == b"resident").unwrap();
    refused(volume.metadata(entry.file), "sequence number");
    refused(volume.open(entry.file), "sequence number");
    refused(volume.find(volume.root(), b"resident", Case::Exact), "sequence number");
}

#[test]
fn reparse_data_count_without_the_mark_and_the_mark_without_them_is_refused() {
    let Some(whole) = image() else { return };
    let file = find(&whole.open(), "compact-xpress4k");
    let standard = whole.attribute(file.get(), 0x10);
    let mut image = Image(whole.0.clone());
    image.put(standard + 0x18 + 0x20, &[0x20, 0, 0, 0]);
    let mut buf = [0; 1000];
    image.open().open(file).unwrap().read_exact_at(ByteOffset(0), &mut buf).unwrap();
    assert!(buf.iter().all(|byte| *byte != 0), "text, and not the hole that Windows leaves");
    let mut image = whole;
    let reparse = image.attribute(file.get(), 0xc0);
    image.put(reparse, &[0xd0]);
    refused(image.open().open(file), "no reparse data");
    refused(image.open().metadata(file), "tag of the reparse point");
}

#[test]
fn a_volume_is_read_without_its_label() {
    let Some(mut image) = image() else { return };
    let at = image.record(3);
    image.put(at, b"BAAD");
    let volume = image.open();
    assert_eq!(volume.about().label, None);
    assert!(volume.about().notes.iter().any(|note| note.contains("label")), "{:?}", volume.about().notes);
    find(&volume, "index/sub/file");
}

#[test]
fn the_copy_of_the_first_record_is_used_where_its_runs_are_damaged() {
    let Some(mut image) = image() else { return };
    let runs = image.attribute(0, 0x80) + 0x40;
    image.put(runs, &[0xff]);
    let volume = image.open();
    assert!(volume.about().notes.iter().any(|note| note.contains("copy is used")), "{:?}", volume.about().notes);
    find(&volume, "index/sub/file");
}

#[test]
fn no_attribute_is_longer_than_what_was_asked_for() {
    let Some(image) = image() else { return };
    let volume = image.open();
    for (path, name) in [
        ("secured", "system.ntfs_acl"),
        ("dedup", "system.ntfs_reparse_data"),
        ("a name with a short one.text", "system.ntfs_dos_name"),
        ("streams", "user.small"),
        ("streams", "system.ntfs_times"),
    ] {
        let file = find(&volume, path);
        let len = volume.xattr(file, name.as_bytes(), 1 << 16).unwrap().unwrap().len();
        assert!(volume.xattr(file, name.as_bytes(), len).unwrap().is_some());
        let short = volume.xattr(file, name.as_bytes(), len - 1);
        assert!(matches!(short, Err(FsError::TooLarge { .. })), "{name}: {short:?}");
    }
}

#[test]
fn a_table_of_upper_case_that_is_none_is_refused() {
    let Some(mut image) = image() else { return };
    let volume = image.open();
    let upcase = (0..image.0.len() - 512).step_by(4096).find(|at| {
        let units = |unit: usize| number(&image.0, at + 2 * unit, 2);
        (0..0x60).all(|unit| units(unit) == u64::try_from(unit).unwrap()) && units(0x61) == 0x41
    });
    image.put(upcase.unwrap() + 2 * 0x61, &[0x42]);
    refused(image.open().find(volume.root(), b"resident", Case::Exact), "$UpCase");
}

/// A disk that counts.
struct Counting(MemDisk, AtomicUsize);

impl ReadAt for Counting {
    fn size(&self) -> ByteLen {
        self.0.size()
    }
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read_exact_at(at, buf)
    }
}

#[test]
fn an_attribute_list_as_long_as_it_may_be_costs_a_few_reads() {
    let Some(mut image) = image() else { return };
    let file = find(&image.open(), "many-names");
    let list = image.attribute(file.get(), 0x20);
    let old = usize::try_from(number(&image.0, list + 0x42, 2)).unwrap() * 4096;
    let mut entries = Vec::new();
    let mut at = old;
    while at < old + 0x240 {
        let len = usize::try_from(number(&image.0, at + 4, 2)).unwrap();
        entries.push(image.0[at..at + len].to_vec());
        at += len;
    }
    let (names, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry[0] == 0x30);
    // Names by turns from different records.
    let holder = |entry: &Vec<u8>| number(entry, 0x10, 6);
    let first = names.iter().find(|entry| holder(entry) != holder(&names[names.len() - 1])).unwrap();
    let turns = [first.clone(), names[names.len() - 1].clone()];
    let (before, behind): (Vec<_>, Vec<_>) = others.into_iter().partition(|entry| entry[0] < 0x30);
    let all =
        before.into_iter().chain(turns.into_iter().cycle().take(8000)).chain(behind).flatten().collect::<Vec<u8>>();
    assert!(all.len() > 250_000 && all.len() <= 256 << 10);
    // 64 clusters in which nothing lies.
    let free = (256..6000).find(|lcn| image.0[lcn * 4096..][..256 << 10].iter().all(|byte| *byte == 0)).unwrap();
    image.put(free * 4096, &all);
    let [low, high, ..] = free.to_le_bytes();
    image.put(list + 0x18, &63u64.to_le_bytes());
    image.put(list + 0x28, &(256u64 << 10).to_le_bytes());
    let len = u64::try_from(all.len()).unwrap().to_le_bytes();
    image.put(list + 0x30, &len);
    image.put(list + 0x38, &len);
    image.put(list + 0x40, &[0x31, 64, low, high, 0, 0]);
    let disk = Arc::new(Counting(MemDisk::new(image.0), AtomicUsize::new(0)));
    let volume = open_ntfs(disk.clone()).unwrap();
    assert_eq!(volume.metadata(file).unwrap().links, 8000);
    let reads = disk.1.load(Ordering::Relaxed);
    assert!(reads < 60, "{reads} reads");
}

#[test]
fn of_names_that_differ_in_case_only_the_exact_one_is_found() {
    let Some(fixture) = Fixture::make("names") else { return };
    let volume = fixture.open();
    let folder = find(&volume, "names");
    for name in ["Case", "case", "CASE"] {
        let exact = volume.find(folder, name.as_bytes(), Case::Exact).unwrap();
        assert!(exact.is_some());
        assert_eq!(volume.find(folder, name.as_bytes(), Case::Ignored).unwrap(), exact, "{name}");
    }
    assert!(volume.find(folder, b"cASE", Case::Ignored).unwrap().is_some());
}

#[test]
fn a_name_that_cannot_be_read_is_an_error_and_not_an_absence() {
    let Some(mut image) = image() else { return };
    let (folder, key) = (find(&image.open(), "index"), first_entry_of_a_large_block(&image));
    image.put(key + 0x10 + 0x40, &[255]);
    refused(image.open().find(folder, b"000-", Case::Exact), "$FILE_NAME");
}

#[test]
fn a_volume_is_walked_in_few_reads() {
    let Some(image) = image() else { return };
    let disk = Arc::new(Counting(MemDisk::new(image.0), AtomicUsize::new(0)));
    let volume = open_ntfs(disk.clone()).unwrap();
    for (path, file) in volumes::walk(&volume) {
        volume.metadata(file).unwrap_or_else(|error| panic!("{}: {error}", path.escape_ascii()));
    }
    let reads = disk.1.load(Ordering::Relaxed);
    assert!(reads < 60, "{reads} reads");
}
