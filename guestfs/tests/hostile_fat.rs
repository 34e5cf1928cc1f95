//! FAT and exFAT volumes that contradict themselves: clear errors, no panic, no endless walk, no read beyond the volume.
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

mod support;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blockdev::{ByteLen, ByteOffset, MemDisk, ReadAt, ReadError, Window};
use guestfs::{Cache, CachedDisk, Case, ExFat, Fat, FileId, FileKind, FileSystem, FsError};
use support::exfat_image::{ExFatImage, HEAP};
use support::fat_image::FatImage;
use support::tree::{listed, ours, pattern, read};

/// A disk that counts what is read, and holds every read to its size.
struct Watched {
    disk: MemDisk,
    read: AtomicU64,
}

impl ReadAt for Watched {
    fn size(&self) -> ByteLen {
        self.disk.size()
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read.fetch_add(ByteLen::of(buf).0, Ordering::Relaxed);
        let result = self.disk.read_exact_at(at, buf);
        assert!(result.is_ok(), "a read beyond the volume: {} bytes at {at}", buf.len());
        result
    }
}

type Open = fn(Arc<CachedDisk>) -> Result<Box<dyn FileSystem>, FsError>;

fn fat(disk: Arc<CachedDisk>) -> Result<Box<dyn FileSystem>, FsError> {
    Ok(Box::new(Fat::open(disk)?))
}

fn exfat(disk: Arc<CachedDisk>) -> Result<Box<dyn FileSystem>, FsError> {
    Ok(Box::new(ExFat::open(disk)?))
}

fn opened(bytes: &[u8], open: Open) -> Box<dyn FileSystem> {
    open(support::tree::cached(Arc::new(MemDisk::new(bytes.to_vec())))).unwrap()
}

/// Asks everything of everything that is found, 3000 files deep or wide. Answers how many were found.
fn walk(volume: &dyn FileSystem, watched: &Watched) -> usize {
    let size = watched.size().0;
    let mut folders = vec![volume.root()];
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        let before = watched.read.load(Ordering::Relaxed);
        let mut entries = Vec::new();
        let _ = volume.list(folder, 0, &mut |entry| {
            entries.push(entry);
            if entries.len() < 300 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        // The folder and the FAT, in blocks of the cache.
        assert!(watched.read.load(Ordering::Relaxed) - before <= 4 * size + (1 << 20));
        for entry in entries {
            assert!(!matches!(entry.name.as_slice(), b"" | b"." | b".."));
            assert!(!entry.name.contains(&b'/') && !entry.name.contains(&0));
            examine(volume, folder, entry.file, &entry.name);
            found += 1;
            if entry.kind == FileKind::Folder && found < 3000 {
                folders.push(entry.file);
            }
        }
    }
    found
}

fn examine(volume: &dyn FileSystem, folder: FileId, file: FileId, name: &[u8]) {
    drop(volume.find(folder, name, Case::Exact));
    drop(volume.find(folder, name, Case::Ignored));
    drop(volume.xattr(file, b"system.ntfs_attrib", 4));
    let metadata = volume.metadata(file);
    if let Ok(content) = volume.open(file) {
        let size = content.size();
        assert_eq!(size, metadata.unwrap().size);
        let mut bytes = vec![0; usize::try_from(size.0.min(4096)).unwrap()];
        content.read_exact_at(ByteOffset(0), &mut bytes).unwrap();
        content.read_exact_at(ByteOffset(size.0 - ByteLen::of(&bytes).0), &mut bytes).unwrap();
        assert!(content.read_exact_at(size.0.checked_sub(1).map(ByteOffset).unwrap_or_default(), &mut [0; 2]).is_err());
    }
    let mut place = file;
    for _ in 0..1000 {
        match volume.parent(place) {
            Ok(Some(parent)) => place = parent,
            Ok(None) => return,
            Err(_) => return,
        }
    }
    panic!("parents without end");
}

/// Numbers that come one after the other from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    /// A number that parsers dislike, or any.
    fn number(&mut self) -> u64 {
        let any = (self.roll(1 << 16) << 16 | self.roll(1 << 16)) as u64;
        [0, 1, 2, 3, u64::MAX, 0xf7ff_ffff, 0x8000_0000, 0x7fff_ffff, self.roll(256) as u64, any << 32 | any]
            [self.roll(10)]
    }
}

/// 10,000 times: one field of 1, 2, 4 or 8 bytes in one of `areas` gets another number.
fn corrupt(image: &[u8], areas: &[std::ops::Range<usize>], repair: impl Fn(&mut Vec<u8>, bool), open: Open) {
    let mut dice = Dice(20_240_229);
    let (mut refused, mut found) = (0, 0);
    for _ in 0..10_000 {
        let mut bytes = image.to_vec();
        let area = &areas[dice.roll(areas.len())];
        let len = [1, 2, 4, 8][dice.roll(4)];
        let at = (area.start + dice.roll(area.len())) & !(len - 1);
        bytes[at..at + len].copy_from_slice(&dice.number().to_le_bytes()[..len]);
        repair(&mut bytes, dice.roll(8) > 0);
        let watched = Arc::new(Watched { disk: MemDisk::new(bytes), read: AtomicU64::new(0) });
        match open(Arc::new(CachedDisk::new(watched.clone(), Cache::new(ByteLen(16 << 20))))) {
            Ok(volume) => found += walk(&*volume, &watched),
            Err(_) => refused += 1,
        }
    }
    println!("{refused} of 10000 volumes were refused, in the others were {found} files");
    assert!(refused > 100 && found > 10_000);
}

#[test]
fn ten_thousand_damaged_fat_volumes_do_no_harm() {
    let image = FatImage::new();
    let used = image.heap..image.heap + 30 * 512;
    let areas = [0..90, image.fat..image.fat + 80, image.root..image.root + 8 * 32, used];
    corrupt(&image.bytes, &areas, |_, _| (), fat);
}

#[test]
fn ten_thousand_damaged_exfat_volumes_do_no_harm() {
    let image = ExFatImage::new();
    let cluster = |cluster: usize| HEAP + 512 * (cluster - 2)..HEAP + 512 * (cluster - 1);
    let areas = [0..120, 24 * 512..24 * 512 + 160, cluster(3), cluster(4), cluster(7), cluster(30), cluster(32)];
    let repair = |bytes: &mut Vec<u8>, seal: bool| {
        if seal {
            let mut image = ExFatImage { bytes: std::mem::take(bytes) };
            image.seal();
            *bytes = image.bytes;
        }
    };
    corrupt(&image.bytes, &areas, repair, exfat);
}

fn find(volume: &dyn FileSystem, name: &str) -> FileId {
    volume.find(volume.root(), name.as_bytes(), Case::Exact).unwrap().unwrap()
}

fn open_error(image: &FatImage, name: &str) -> String {
    let volume = opened(&image.bytes, fat);
    volume.open(find(&*volume, name)).err().unwrap().to_string()
}

#[test]
fn chains_that_contradict_the_size_of_a_file_are_refused() {
    let whole = FatImage::new();
    let first = whole.first_cluster(b"LARGE   BIN");
    let damaged = |next: u16| {
        let mut image = whole.clone();
        image.chain(first + 3, next);
        open_error(&image, "LARGE.BIN")
    };
    let at = format!("the file whose entry is at byte {:#x}", whole.entry(b"LARGE   BIN"));
    let ends = " 4 clusters, where 10 are needed: it reaches to the end of the file";
    assert_eq!(damaged(0xffff), format!("cluster chain of {at} is{ends}"));
    assert_eq!(damaged(0), format!("cluster of {at} is 0x0: a cluster of the volume"));
    assert_eq!(damaged(0xfff7), format!("cluster of {at} is 0xfff7: a cluster of the volume"));
    assert!(damaged(first + 3).ends_with("no cluster comes twice"));
    assert!(damaged(first + 1).ends_with("no cluster comes twice"));
    assert!(damaged(first).ends_with("no cluster comes twice"));
    let mut longer = whole.clone();
    longer.chain(first + 9, first + 11);
    assert_eq!(read(&*opened(&longer.bytes, fat), find(&*opened(&longer.bytes, fat), "LARGE.BIN")), pattern(1, 5000));
    let mut huge = whole.clone();
    let at = huge.entry(b"LARGE   BIN") + 28;
    huge.bytes[at..at + 4].fill(0xff);
    assert!(open_error(&huge, "LARGE.BIN").contains("where 8388608 are needed"));
}

#[test]
fn folders_that_hold_their_parents_have_an_end_upwards() {
    let mut image = FatImage::new();
    let folder = image.first_cluster(b"FOLDER     ");
    image.set_first_cluster(b"DEEP       ", folder);
    let volume = opened(&image.bytes, fat);
    let mut place = find(&*volume, "FOLDER");
    let mut way = vec![volume.root(), place];
    for _ in 0..5 {
        place = volume.find(place, b"DEEP", Case::Exact).unwrap().unwrap();
        way.push(place);
    }
    let fresh = opened(&image.bytes, fat);
    for volume in [volume, fresh] {
        let mut steps = 0;
        while let Some(parent) = volume.parent(place).unwrap() {
            place = parent;
            steps += 1;
        }
        assert!(steps <= 3, "{steps} steps");
        place = way[3];
    }
}

#[test]
fn a_folder_whose_chain_is_a_loop_is_an_error() {
    let mut image = FatImage::new();
    let folder = image.first_cluster(b"FOLDER     ");
    image.chain(folder, folder);
    let volume = opened(&image.bytes, fat);
    let error = volume.list(find(&*volume, "FOLDER"), 0, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().ends_with("no cluster comes twice"), "{error}");
    let mut image = ExFatImage::new();
    image.chain(&[4, 7, 4]);
    image.bytes[24 * 512 + 16..][..4].copy_from_slice(&7u32.to_le_bytes());
    image.bytes[24 * 512 + 28..][..4].copy_from_slice(&4u32.to_le_bytes());
    let error = exfat(support::tree::cached(Arc::new(MemDisk::new(image.bytes)))).err().unwrap();
    assert!(error.to_string().ends_with("no cluster comes twice"), "{error}");
}

#[test]
fn long_names_without_a_file_are_left_out_and_wrong_ones_replaced_by_the_short_name() {
    let whole = FatImage::new();
    let names = |image: &FatImage| {
        let volume = opened(&image.bytes, fat);
        let names =
            listed(&*volume, volume.root(), 0).into_iter().map(|e| String::from_utf8_lossy(&e.name).into_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&whole)[3], "a long name of three slots.txt");
    let short = whole.entry(b"ALONGN~1TXT");
    for (at, value) in [(short - 32 + 13, 0), (short - 64, 3), (short - 32, 0x42), (short - 96, 0xe5)] {
        let mut image = whole.clone();
        image.bytes[at] = value;
        assert_eq!(names(&image), ["EMPTY.TXT", "SMALL.TXT", "LARGE.BIN", "ALONGN~1.TXT", "FOLDER"], "byte {at:#x}");
    }
    let mut image = whole.clone();
    image.bytes[short] = 0xe5; // deleted, its long name left behind
    assert_eq!(names(&image), ["EMPTY.TXT", "SMALL.TXT", "LARGE.BIN", "FOLDER"]);
}

/// fatfs is shown a folder in areas of 65408 entries; the largest folder has 65536.
#[test]
fn the_largest_folder_is_listed_whole_and_one_entry_more_is_refused() {
    let mut image = FatImage::new();
    let long = image.entry(b"ALONGN~1TXT");
    let long = image.bytes[long - 96..long + 32].to_vec();
    let first = 100;
    image.set_first_cluster(b"FOLDER     ", first);
    for cluster in first..first + 4095 {
        image.chain(cluster, cluster + 1);
    }
    image.chain(first + 4095, 0xffff);
    let start = image.cluster(first);
    let mut expected = 0;
    for slot in 0..65536 {
        let entry = &mut image.bytes[start + 32 * slot..][..32];
        match slot {
            65300..65390 => entry[0] = 0xe5,
            65406..65410 => entry.copy_from_slice(&long[32 * (slot - 65406)..][..32]),
            _ => {
                entry[..11].copy_from_slice(format!("F{slot:07}   ").as_bytes());
                entry[11] = 0x20;
                expected += 1;
            }
        }
    }
    let volume = opened(&image.bytes, fat);
    let folder = find(&*volume, "FOLDER");
    let entries = listed(&*volume, folder, 0);
    assert_eq!(entries.len(), expected + 1);
    assert_eq!(entries[expected + 1 - 127].name, b"a long name of three slots.txt");
    assert_eq!(entries.iter().map(|entry| &entry.name).collect::<std::collections::HashSet<_>>().len(), expected + 1);
    image.chain(first + 4095, first + 4096);
    image.chain(first + 4096, 0xffff);
    let volume = opened(&image.bytes, fat);
    let error = volume.list(folder, 0, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().ends_with("is more than 4096 clusters: no longer than a folder may be"), "{error}");
}

#[test]
fn names_that_cannot_stand_in_a_path_are_spelled_out_and_found() {
    let mut image = FatImage::new();
    let short = image.entry(b"ALONGN~1TXT");
    image.bytes[short - 32 + 1..][..6].copy_from_slice(&[b'/', 0, 0x00, 0xdc, b'x', 0]);
    let volume = opened(&image.bytes, fat);
    let entry = listed(&*volume, volume.root(), 0).remove(3);
    assert_eq!(entry.name, b"%2F\xed\xb0\x80xong name of three slots.txt");
    assert_eq!(volume.find(volume.root(), &entry.name, Case::Exact).unwrap(), Some(entry.file));
    assert_eq!(volume.find(volume.root(), &entry.name.to_ascii_uppercase(), Case::Ignored).unwrap(), Some(entry.file));
}

#[test]
fn a_partition_smaller_than_its_volume_refuses_what_lies_behind() {
    let image = FatImage::new();
    let end = image.cluster(image.first_cluster(b"LARGE   BIN")) + 1024;
    let disk: Arc<dyn ReadAt> = Arc::new(MemDisk::new(image.bytes));
    let window = Window::new(disk, ByteOffset(0), ByteLen(u64::try_from(end).unwrap())).unwrap();
    let volume = Fat::open(support::tree::cached(Arc::new(window))).unwrap();
    assert_eq!(volume.about().notes.len(), 1);
    assert_eq!(read(&volume, find(&volume, "SMALL.TXT")), pattern(1, 100));
    let error = volume.open(find(&volume, "LARGE.BIN")).err().unwrap().to_string();
    assert!(error.ends_with("inside the partition, which is smaller than the volume"), "{error}");
}

#[test]
fn what_the_guest_left_open_is_noted() {
    let mut image = FatImage::new();
    image.chain(1, 0x3fff);
    let notes = opened(&image.bytes, fat).about().notes.clone();
    assert_eq!(notes.len(), 2, "{notes:?}");
    let mut image = ExFatImage::new();
    image.bytes[106] = 6;
    let notes = opened(&image.bytes, exfat).about().notes.clone();
    assert_eq!(notes.len(), 2, "{notes:?}");
}

#[test]
fn our_own_exfat_volume_is_one_for_its_checker_too() {
    let image = ExFatImage::new();
    let tree = ours(&*opened(&image.bytes, exfat));
    let pieces: Vec<u8> = [10, 12, 11].into_iter().flat_map(|cluster| pattern(cluster, 512)).collect();
    assert_eq!(tree["/chained file with a name of several entries.txt"].bytes, pieces[..1500]);
    let row: Vec<u8> = [20, 21].into_iter().flat_map(|cluster| pattern(cluster, 512)).collect();
    assert_eq!(tree["/row"].bytes, [&row[..600], &[0; 800]].concat());
    assert_eq!(tree["/folder/deep/deepest"].bytes, pattern(60, 512));
    if support::has("fsck.exfat") {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("own.img"), &image.bytes).unwrap();
        support::run("fsck.exfat", &["-n", "own.img"], folder.path(), "");
    }
}

#[test]
fn of_an_exfat_entry_set_every_field_is_checked() {
    let whole = ExFatImage::new();
    let error = |name: &str, at: usize, value: &[u8]| {
        let mut image = whole.clone();
        let entry = image.entry(name) + at;
        image.bytes[entry..entry + value.len()].copy_from_slice(value);
        image.seal();
        let volume = opened(&image.bytes, exfat);
        match volume.find(volume.root(), name.as_bytes(), Case::Exact) {
            Ok(file) => volume.open(file.unwrap()).err().unwrap().to_string(),
            Err(error) => error.to_string(),
        }
    };
    assert!(error("row", 1, &[1]).starts_with("SecondaryCount of entry "));
    assert!(error("row", 32, &[0xc1]).starts_with("EntryType of the second entry of "));
    assert!(error("row", 35, &[0]).starts_with("NameLength of entry "));
    assert!(error("row", 40, &1401u64.to_le_bytes()).starts_with("ValidDataLength of entry "));
    assert!(error("row", 52, &201u32.to_le_bytes()).starts_with("first cluster of the file "));
    assert!(error("row", 56, &u64::MAX.to_le_bytes()).starts_with("DataLength of the file "));
}
