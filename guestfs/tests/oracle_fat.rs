//! FAT volumes by foreign tools: what is in them is what mtools and The Sleuth Kit find there, and fsck.fat has no complaint.
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

mod support;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use fatfs::{Date, DateTime, Dir, FsOptions, Time};
use guestfs::{Case, Fat, FileSystem, VolumeKind};
use support::tree::{Seen, Tree, assert_same, collect, fragmented, image, listed, ours, pattern, read, sleuth_kit};
use support::{has, run};
use tempfile::TempDir;

/// A kind of volume, and how mkfs.fat makes it.
struct Kind {
    kind: VolumeKind,
    size: u64,
    options: &'static [&'static str],
    cluster: usize,
}

const KINDS: &[Kind] = &[
    Kind { kind: VolumeKind::Fat12, size: 4 << 20, options: &["-F", "12", "-s", "4"], cluster: 2048 },
    Kind { kind: VolumeKind::Fat16, size: 16 << 20, options: &["-F", "16", "-s", "2"], cluster: 1024 },
    Kind { kind: VolumeKind::Fat32, size: 40 << 20, options: &["-F", "32", "-s", "1"], cluster: 512 },
    Kind { kind: VolumeKind::Fat16, size: 32 << 20, options: &["-F", "16", "-S", "4096", "-s", "1"], cluster: 4096 },
];

fn make(folder: &Path, kind: &Kind) -> PathBuf {
    let path = folder.join("fat.img");
    File::create(&path).unwrap().set_len(kind.size).unwrap();
    let mut arguments = vec!["-n", "LABEL", "-i", "1234abcd"];
    arguments.extend(kind.options);
    arguments.push("fat.img");
    run("mkfs.fat", &arguments, folder, "");
    path
}

fn open_rw(path: &Path) -> fatfs::FileSystem<File> {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    fatfs::FileSystem::new(file, FsOptions::new()).unwrap()
}

fn moment(day: u16, sec: u16) -> DateTime {
    let date = Date { year: 2019 + day % 7, month: 1 + day % 12, day: 1 + day % 28 };
    DateTime { date, time: Time { hour: day % 24, min: sec % 60, sec: sec / 2 * 2 % 60, millis: 0 } }
}

#[expect(deprecated, reason = "a clock of our own would be the same for all files")]
fn date(file: &mut fatfs::File<'_, File>, day: u16) {
    file.set_created(moment(day, 11));
    file.set_accessed(moment(day + 1, 0).date);
    file.set_modified(moment(day + 2, 42));
    file.flush().unwrap();
}

fn write(folder: &Dir<'_, File>, name: &str, bytes: &[u8], day: u16) {
    let mut file = folder.create_file(name).unwrap();
    file.write_all(bytes).unwrap();
    date(&mut file, day);
}

/// Fills a volume: long names of several scripts, deep folders, a folder of many clusters, files that end at the edges of clusters,
/// two files in alternating pieces, and holes of deleted files.
///
/// Folders are made by mtools: fsck.fat finds fault with how fatfs writes their dots.
fn fill(path: &Path, cluster: usize) {
    let mut folders = vec!["::many".to_owned(), "::tief".to_owned()];
    for level in 0..20 {
        folders.push(format!("{}/Ebene {level} – ein Ordner mit langem Namen", folders.last().unwrap()));
    }
    let arguments: Vec<_> = ["-i", "fat.img"].into_iter().chain(folders.iter().map(String::as_str)).collect();
    run("mmd", &arguments, path.parent().unwrap(), "");
    let volume = open_rw(path);
    let root = volume.root_dir();
    for (day, name) in (0..).zip([
        "Größe – ein Name.txt",
        "日本語のファイル名.dat",
        "Ελληνικά",
        "UPPER.TXT",
        "lower.txt",
        "a.b.c..d",
        "+[];=,",
    ]) {
        write(&root, name, name.as_bytes(), day);
    }
    for (day, len) in (20..).zip([0, 1, cluster - 1, cluster, cluster + 1, 3 * cluster, 40 * cluster + 7]) {
        write(&root, &format!("of {len} bytes"), &pattern(day.into(), len), day);
    }
    let mut deep = root.open_dir("tief").unwrap();
    for level in 0..20 {
        write(&deep, "datei", &pattern(level, 100), 3);
        deep = deep.open_dir(&format!("Ebene {level} – ein Ordner mit langem Namen")).unwrap();
    }
    let many = root.open_dir("many").unwrap();
    for number in 0..60 {
        write(&many, &format!("file number {number} with a name of several entries"), &pattern(number, 10), 5);
    }
    for number in (0..60).step_by(3) {
        many.remove(&format!("file number {number} with a name of several entries")).unwrap();
    }
    let mut pair = [root.create_file("one of two").unwrap(), root.create_file("two of two").unwrap()];
    for (piece, file) in (0..60).flat_map(|piece| [(piece, 0), (piece, 1)]) {
        let bytes = pattern(1000 + file, 60 * cluster);
        let piece: usize = piece;
        pair[usize::try_from(file).unwrap()].write_all(&bytes[piece * cluster..][..cluster]).unwrap();
    }
    for file in &mut pair {
        date(file, 1);
    }
}

/// The files that mtools copies out, with their times.
fn mtools(folder: &Path) -> Tree {
    let out = folder.join("out");
    std::fs::create_dir(&out).unwrap();
    let command = "export TZ=UTC; mcopy -s -p -m -n -i fat.img '::*' out/ && mattrib -/ -X -i fat.img ::";
    let attributes = run("sh", &["-c", command], folder, "");
    let mut tree = Tree::new();
    collect(&out, "", &mut tree);
    for line in attributes.lines() {
        let (flags, path) = line.split_once(" ::").unwrap_or_else(|| panic!("{line}"));
        let bits = [('R', 1), ('H', 2), ('S', 4), ('D', 16), ('A', 32)];
        let bits = bits.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, bit)| bit).sum::<u32>();
        if let Some(seen) = tree.get_mut(path) {
            seen.attributes = bits;
        }
    }
    tree
}

/// What two readers both know; times of folders are not kept by copies.
fn common(seen: &Seen) -> Seen {
    let modified = if seen.folder { 0 } else { seen.modified };
    Seen { modified, accessed: 0, created: 0, ..seen.clone() }
}

#[test]
fn whole_volumes_are_what_mtools_and_the_sleuth_kit_find() {
    if !["mkfs.fat", "fsck.fat", "mcopy", "mattrib", "fls", "icat"].iter().all(|tool| has(tool)) {
        return;
    }
    for kind in KINDS {
        let folder = TempDir::new().unwrap();
        let path = make(folder.path(), kind);
        fill(&path, kind.cluster);
        let command = "export TZ=UTC; echo 1 >'😀 𝄞.txt'; mcopy -i fat.img '😀 𝄞.txt' :: && mattrib +h +r -i fat.img ::lower.txt && mattrib +s -a -i fat.img ::tief/datei";
        run("sh", &["-c", command], folder.path(), "");
        run("fsck.fat", &["-n", "fat.img"], folder.path(), "");
        let before = std::fs::read(&path).unwrap();
        let volume = Fat::open(image(&path)).unwrap();
        let about = volume.about();
        assert_eq!((about.kind, about.label.as_deref(), about.serial), (kind.kind, Some("LABEL"), 0x1234_abcd));
        assert_eq!(about.notes, [] as [String; 0]);
        let tree = ours(&volume);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(ours(&volume) == tree, "threads see the same"));
            }
        });
        assert!(fragmented(&before, &tree["/one of two"].bytes, kind.cluster));
        assert_same(&tree, &mtools(folder.path()), common);
        assert_same(&tree, &sleuth_kit(&path), |seen| Seen { attributes: 0, ..seen.clone() });
        assert!(before == std::fs::read(&path).unwrap(), "the image was written to");
    }
}

#[test]
fn parents_are_found_by_a_reader_that_has_listed_nothing() {
    if !has("mkfs.fat") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = make(folder.path(), &KINDS[1]);
    fill(&path, 1024);
    let volume = Fat::open(image(&path)).unwrap();
    let mut place = volume.root();
    let mut way = vec![place];
    while let Some(next) = listed(&volume, place, 0).into_iter().rfind(|e| e.kind == guestfs::FileKind::Folder) {
        place = next.file;
        way.push(place);
    }
    let other = Fat::open(image(&path)).unwrap();
    while let Some(file) = way.pop() {
        assert_eq!(other.parent(file).unwrap(), way.last().copied());
    }
}

#[test]
fn short_names_are_shown_as_windows_does_and_find_long_ones() {
    if !["mkfs.fat", "mcopy"].iter().all(|tool| has(tool)) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = make(folder.path(), &KINDS[0]);
    for name in ["CAPITAL.TXT", "small.txt", "MixedCase.txt", "a long name.text", "NAME.ext"] {
        std::fs::write(folder.path().join(name), name).unwrap();
        run("mcopy", &["-i", "fat.img", name, "::"], folder.path(), "");
    }
    let volume = Fat::open(image(&path)).unwrap();
    let names: Vec<_> =
        listed(&volume, volume.root(), 0).into_iter().map(|e| String::from_utf8(e.name).unwrap()).collect();
    assert_eq!(names, ["CAPITAL.TXT", "small.txt", "MixedCase.txt", "a long name.text", "NAME.ext"]);
    let found =
        |name: &str, case| volume.find(volume.root(), name.as_bytes(), case).unwrap().map(|file| read(&volume, file));
    assert_eq!(found("ALONGN~1.TEX", Case::Exact), None);
    assert_eq!(found("alongn~1.tex", Case::Ignored).unwrap(), b"a long name.text");
    assert_eq!(found("SMALL.TXT", Case::Exact), None);
    assert_eq!(found("capital.TXT", Case::Ignored).unwrap(), b"CAPITAL.TXT");
}

/// Images that come with dissect.fat, of other writers.
#[test]
fn images_of_others_are_what_the_sleuth_kit_finds() {
    let Some(folder) = support::peer("dissect/fat").filter(|_| has("fls") && has("icat")) else { return };
    for (name, kind) in [("fat12", VolumeKind::Fat12), ("fat16", VolumeKind::Fat16), ("fat32", VolumeKind::Fat32)] {
        let path = folder.join(format!("{name}.bin"));
        let volume = Fat::open(image(&path)).unwrap();
        assert_eq!(volume.about().kind, kind);
        let tree = ours(&volume);
        assert!(!tree.is_empty());
        assert_same(&tree, &sleuth_kit(&path), |seen| Seen { attributes: 0, ..seen.clone() });
    }
}
