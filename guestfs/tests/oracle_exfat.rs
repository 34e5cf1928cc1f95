//! exFAT volumes by foreign tools: what is in them is what exfat-fuse and The Sleuth Kit find there, and fsck.exfat has no complaint.
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

mod support;

use std::fs::{File, FileTimes, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use blockdev::{ByteOffset, ExtentKind, ReadAtExt};
use guestfs::{Case, ExFat, FileSystem, VolumeKind};
use support::mounted::Mounted;
use support::tree::{Seen, Tree, assert_same, collect, fragmented, image, listed, ours, pattern, read, sleuth_kit};
use support::{has, run};
use tempfile::TempDir;

const CLUSTER: usize = 4096;

fn tools() -> bool {
    ["mkfs.exfat", "fsck.exfat", "mount.exfat-fuse", "losetup", "fls", "icat"].iter().all(|tool| has(tool))
}

fn make(folder: &Path, size: u64) -> PathBuf {
    let path = folder.join("exfat.img");
    File::create(&path).unwrap().set_len(size).unwrap();
    run("mkfs.exfat", &["-c", "4K", "-L", "Bänd 1", "exfat.img"], folder, "");
    path
}

fn write(path: &Path, bytes: &[u8], day: u64) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    let time = UNIX_EPOCH + Duration::from_secs(1_300_000_000 + day * 86_400 + 42);
    file.set_times(FileTimes::new().set_modified(time).set_accessed(time + Duration::from_secs(7200))).unwrap();
}

fn fill(root: &Path) {
    for (day, name) in
        (0..).zip(["Größe – 😀.txt", "日本語のファイル名.dat", "Ελληνικά", "UPPER.TXT", "a.b.c..d", "+[];=,"])
    {
        write(&root.join(name), name.as_bytes(), day);
    }
    for (day, len) in (20..).zip([0, 1, CLUSTER - 1, CLUSTER, CLUSTER + 1, 3 * CLUSTER, 40 * CLUSTER + 7]) {
        write(&root.join(format!("of {len} bytes")), &pattern(day, len), day);
    }
    let mut deep = root.join("tief");
    for level in 0..20 {
        std::fs::create_dir(&deep).unwrap();
        write(&deep.join("datei"), &pattern(level, 100), 3);
        deep = deep.join(format!("Ebene {level}"));
    }
    // The folder grows over several clusters while others take those between: it is chained by the FAT.
    let many = root.join("many");
    std::fs::create_dir(&many).unwrap();
    for number in 0..150 {
        let name = format!("file number {number} with a name of several entries {}", "x".repeat(100));
        write(&many.join(&name), &pattern(number, 5000), number);
        if number % 3 == 1 {
            std::fs::remove_file(many.join(name)).unwrap();
        }
    }
    let mut pair = ["one of two", "two of two"].map(|name| File::create(root.join(name)).unwrap());
    for (piece, which) in (0..60).flat_map(|piece| [(piece, 0), (piece, 1)]) {
        let bytes = pattern(1000 + which as u64, 60 * CLUSTER);
        pair[which].write_all(&bytes[piece * CLUSTER..][..CLUSTER]).unwrap();
        pair[which].sync_all().unwrap();
    }
}

/// What copies have of a file.
fn copied(seen: &Seen) -> Seen {
    Seen { folder: seen.folder, bytes: seen.bytes.clone(), modified: seen.modified, ..Seen::default() }
}

/// The Sleuth Kit leaves hundredths of a second out, and with them odd seconds.
fn whole_seconds(seen: &Seen) -> Seen {
    Seen { attributes: 0, modified: seen.modified & !1, created: seen.created & !1, ..seen.clone() }
}

#[test]
fn whole_volumes_are_what_the_driver_and_the_sleuth_kit_find() {
    let folder = TempDir::new().unwrap();
    if !tools() {
        return;
    }
    let path = make(folder.path(), 64 << 20);
    let Some(mounted) = Mounted::new(&path) else { return };
    fill(mounted.path());
    let mut driver = Tree::new();
    collect(mounted.path(), "", &mut driver);
    drop(mounted);
    run("fsck.exfat", &["-n", "exfat.img"], folder.path(), "");
    let before = std::fs::read(&path).unwrap();
    let volume = ExFat::open(image(&path)).unwrap();
    let about = volume.about();
    assert_eq!((about.kind, about.label.as_deref()), (VolumeKind::ExFat, Some("Bänd 1")));
    assert_eq!(about.notes, [] as [String; 0]);
    let tree = ours(&volume);
    assert!(fragmented(&before, &tree["/one of two"].bytes, CLUSTER));
    assert_same(&tree, &driver, copied);
    assert_same(&tree, &sleuth_kit(&path), whole_seconds);
    assert!(tree.values().all(|seen| seen.attributes == if seen.folder { 0x10 } else { 0x20 }));
    assert!(before == std::fs::read(&path).unwrap(), "the image was written to");
    // Parents without a listing before, from the deepest folder up.
    let other = ExFat::open(image(&path)).unwrap();
    let mut way = vec![volume.root()];
    for name in std::iter::once("tief".to_owned()).chain((0..19).map(|level| format!("EBENE {level}"))) {
        way.push(volume.find(*way.last().unwrap(), name.as_bytes(), Case::Ignored).unwrap().unwrap());
    }
    while let Some(file) = way.pop() {
        assert_eq!(other.parent(file).unwrap(), way.last().copied());
    }
}

#[test]
fn sectors_of_4_kib_are_read() {
    let folder = TempDir::new().unwrap();
    if !tools() {
        return;
    }
    let path = folder.path().join("exfat.img");
    File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let Some(mounted) = Mounted::made(&path, Some("4096")) else { return };
    fill(mounted.path());
    let mut driver = Tree::new();
    collect(mounted.path(), "", &mut driver);
    drop(mounted);
    assert_eq!(std::fs::read(&path).unwrap()[108], 12, "sectors of 4 KiB");
    let volume = ExFat::open(image(&path)).unwrap();
    assert_eq!((volume.about().label.as_deref(), volume.about().cluster.0), (None, 16384));
    assert_eq!(volume.about().notes, [] as [String; 0]);
    let tree = ours(&volume);
    assert_same(&tree, &driver, copied);
    assert_same(&tree, &sleuth_kit(&path), whole_seconds);
}

/// Changes the stream extension of the first file of the root folder and makes the checksum right.
fn change_first_file(path: &Path, change: impl Fn(&mut [u8])) {
    let volume = ExFat::open(image(path)).unwrap();
    let file = listed(&volume, volume.root(), 0)[0].file;
    let at = file.get() * 32;
    let disk = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut set = vec![0; 32];
    disk.read_exact_at(&mut set, at).unwrap();
    set.resize(32 + 32 * usize::from(set[1]), 0);
    disk.read_exact_at(&mut set, at).unwrap();
    change(&mut set[32..64]);
    let counted = set.iter().enumerate().filter(|(at, _)| !(2..4).contains(at));
    let sum = counted.fold(0u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
    set[2..4].copy_from_slice(&sum.to_le_bytes());
    disk.write_all_at(&set, at).unwrap();
}

#[test]
fn a_file_beyond_4_gib_is_read_at_any_place() {
    const SIZE: u64 = (5 << 30) + 123;
    let folder = TempDir::new().unwrap();
    if !tools() {
        return;
    }
    let path = make(folder.path(), 8 << 30);
    let Some(mounted) = Mounted::new(&path) else { return };
    write(&mounted.path().join("large"), &pattern(1, CLUSTER), 0);
    drop(mounted);
    change_first_file(&path, |stream| {
        assert_eq!(stream[1] & 2, 2, "one cluster lies in a row");
        stream[8..16].copy_from_slice(&SIZE.to_le_bytes());
        stream[24..32].copy_from_slice(&SIZE.to_le_bytes());
    });
    let volume = ExFat::open(image(&path)).unwrap();
    let file = volume.find(volume.root(), b"large", Case::Exact).unwrap().unwrap();
    assert_eq!(volume.metadata(file).unwrap().size.0, SIZE);
    let content = volume.open(file).unwrap();
    let extents: Vec<_> = content.extents().map(|e| e.map(|e| (e.len.0, e.kind))).collect::<Result<_, _>>().unwrap();
    assert_eq!(extents.last().unwrap().1, ExtentKind::Hole);
    // A mark is written by its place in the file through the driver, and found by us.
    let Some(mounted) = Mounted::new(&path) else { return };
    let through = OpenOptions::new().read(true).write(true).open(mounted.path().join("large")).unwrap();
    through.write_all_at(b"far behind 4 GiB", (9 << 29) + 5).unwrap();
    through.write_all_at(b"at the very end", SIZE - 15).unwrap();
    drop(through);
    drop(mounted);
    let content = volume.open(file).unwrap();
    for (at, expected) in [((9 << 29) + 5, "far behind 4 GiB"), (SIZE - 15, "at the very end")] {
        let mut bytes = vec![0; expected.len()];
        content.read_exact_at(ByteOffset(at), &mut bytes).unwrap();
        assert_eq!(bytes, expected.as_bytes());
    }
}

#[test]
fn what_was_never_written_reads_as_zeros() {
    let folder = TempDir::new().unwrap();
    if !tools() {
        return;
    }
    let path = make(folder.path(), 16 << 20);
    let Some(mounted) = Mounted::new(&path) else { return };
    let bytes = pattern(1, 10_000);
    write(&mounted.path().join("some"), &bytes, 0);
    drop(mounted);
    change_first_file(&path, |stream| stream[8..16].copy_from_slice(&5000u64.to_le_bytes()));
    let volume = ExFat::open(image(&path)).unwrap();
    let ours = read(&volume, listed(&volume, volume.root(), 0)[0].file);
    assert_eq!(ours[..5000], bytes[..5000]);
    assert_eq!(ours[5000..], [0; 5000]);
}

#[test]
fn a_damaged_entry_set_is_an_error_after_all_others_were_listed() {
    let folder = TempDir::new().unwrap();
    if !tools() {
        return;
    }
    let path = make(folder.path(), 16 << 20);
    let Some(mounted) = Mounted::new(&path) else { return };
    for name in ["first", "second", "third"] {
        write(&mounted.path().join(name), name.as_bytes(), 0);
    }
    drop(mounted);
    let volume = ExFat::open(image(&path)).unwrap();
    let second = listed(&volume, volume.root(), 0)[1].file;
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[1], second.get() * 32 + 4).unwrap();
    let volume = ExFat::open(image(&path)).unwrap();
    let mut names = Vec::new();
    let error = volume.list(volume.root(), 0, &mut |entry| {
        names.push(entry.name);
        std::ops::ControlFlow::Continue(())
    });
    assert_eq!(names, [b"first".as_slice(), b"third"]);
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("SetChecksum of entry 6 of the root folder is "), "{error}");
    assert!(volume.find(volume.root(), b"third", Case::Exact).unwrap().is_some());
    assert!(volume.find(volume.root(), b"fourth", Case::Exact).is_err());
}

/// Images that come with dissect.fat, of other writers. The Sleuth Kit does not count the distance from UTC, which is two hours in
/// the first (its entries have 0x88) and none in the second.
#[test]
fn images_of_others_are_what_the_sleuth_kit_finds() {
    let Some(folder) = support::peer("dissect/fat").filter(|_| has("fls") && has("icat")) else { return };
    for (name, ahead) in [("exfat", 7200), ("exfat4m", 0)] {
        let path = folder.join(format!("{name}.bin"));
        let volume = ExFat::open(image(&path)).unwrap();
        let mut tree = ours(&volume);
        for seen in tree.values_mut() {
            for time in [&mut seen.modified, &mut seen.accessed, &mut seen.created] {
                *time += ahead;
            }
        }
        assert_same(&tree, &sleuth_kit(&path), whole_seconds);
    }
}
