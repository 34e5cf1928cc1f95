//! Volumes read whole, by us and by foreign tools.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, FileDisk, ReadAt};
use guestfs::{Cache, CachedDisk, Case, Entry, FileId, FileKind, FileSystem};

/// What a reader says of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) folder: bool,
    /// Of folders, nothing.
    pub(crate) bytes: Vec<u8>,
    pub(crate) attributes: u32,
    pub(crate) modified: i64,
    pub(crate) accessed: i64,
    pub(crate) created: i64,
}

/// Files by their path from the root.
pub(crate) type Tree = BTreeMap<String, Seen>;

pub(crate) fn cached(disk: Arc<dyn ReadAt>) -> Arc<CachedDisk> {
    Arc::new(CachedDisk::new(disk, Cache::new(ByteLen(4 << 20))))
}

pub(crate) fn image(path: &Path) -> Arc<CachedDisk> {
    cached(Arc::new(FileDisk::new(std::fs::File::open(path).unwrap()).unwrap()))
}

pub(crate) fn listed(volume: &dyn FileSystem, folder: FileId, from: u64) -> Vec<Entry> {
    let mut entries = Vec::new();
    volume
        .list(folder, from, &mut |entry| {
            entries.push(entry);
            ControlFlow::Continue(())
        })
        .unwrap();
    entries
}

pub(crate) fn read(volume: &dyn FileSystem, file: FileId) -> Vec<u8> {
    let content = volume.open(file).unwrap();
    let mut bytes = vec![0; content.size().to_usize().unwrap()];
    content.read_exact_at(ByteOffset(0), &mut bytes).unwrap();
    bytes
}

/// Everything of a volume. What the reader offers beside must fit: names are found, parents are those that were come from,
/// a listing goes on where it was left.
pub(crate) fn ours(volume: &dyn FileSystem) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![(String::new(), volume.root())];
    assert_eq!(volume.parent(volume.root()).unwrap(), None);
    while let Some((path, folder)) = folders.pop() {
        let entries = listed(volume, folder, 0);
        if let Some(middle) = entries.get(entries.len() / 2) {
            assert_eq!(listed(volume, folder, middle.next), entries[entries.len() / 2 + 1..]);
        }
        for entry in entries {
            assert_eq!(volume.find(folder, &entry.name, Case::Exact).unwrap(), Some(entry.file));
            let name = String::from_utf8(entry.name).unwrap();
            let upper = name.to_uppercase();
            if upper.chars().count() == name.chars().count() {
                assert_eq!(volume.find(folder, upper.as_bytes(), Case::Ignored).unwrap(), Some(entry.file), "{name}");
            }
            assert_eq!(volume.parent(entry.file).unwrap(), Some(folder), "{path}/{name}");
            let path = format!("{path}/{name}");
            let seen = seen(volume, &entry.kind, entry.file);
            if entry.kind == FileKind::Folder {
                folders.push((path.clone(), entry.file));
            }
            assert!(tree.insert(path, seen).is_none());
        }
    }
    tree
}

fn seen(volume: &dyn FileSystem, kind: &FileKind, file: FileId) -> Seen {
    let metadata = volume.metadata(file).unwrap();
    assert_eq!((metadata.kind, metadata.links), (*kind, 1));
    let folder = metadata.kind == FileKind::Folder;
    let bytes = if folder { Vec::new() } else { read(volume, file) };
    assert!(folder || metadata.size == ByteLen::of(&bytes));
    assert!(metadata.allocated >= metadata.size);
    assert!(volume.xattrs(file).unwrap().is_empty());
    let attributes = volume.xattr(file, b"system.ntfs_attrib", 4).unwrap().unwrap();
    assert_eq!(attributes, metadata.attributes.to_le_bytes());
    Seen {
        folder,
        bytes,
        attributes: metadata.attributes,
        modified: metadata.modified.seconds,
        accessed: metadata.accessed.seconds,
        created: metadata.created.seconds,
    }
}

/// Everything of a volume by The Sleuth Kit, but for attributes.
pub(crate) fn sleuth_kit(image: &Path) -> Tree {
    let folder = image.parent().unwrap();
    let image = image.to_str().unwrap();
    let body = super::run("fls", &["-r", "-p", "-u", "-m", "/", "-z", "UTC", image], folder, "");
    let mut tree = Tree::new();
    for line in body.lines() {
        let fields: Vec<_> = line.split('|').collect();
        let [_, path, inode, mode, _, _, size, accessed, modified, _, created] = fields[..] else { panic!("{line}") };
        if path.starts_with("/$") || path.ends_with(" (Volume Label Entry)") {
            continue;
        }
        let is_folder = mode.starts_with('d');
        let bytes = if is_folder || size == "0" {
            Vec::new()
        } else {
            let output = Command::new("icat").args([image, inode]).output().unwrap();
            assert!(output.status.success(), "icat {inode}: {}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        let [accessed, modified, created] = [accessed, modified, created].map(|time| time.parse().unwrap());
        let seen = Seen { folder: is_folder, bytes, attributes: 0, modified, accessed, created };
        assert!(tree.insert(path.to_owned(), seen).is_none(), "{path}");
    }
    tree
}

/// Files of a folder of this machine.
pub(crate) fn collect(folder: &Path, path: &str, tree: &mut Tree) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{path}/{}", entry.file_name().to_str().unwrap());
        let metadata = entry.metadata().unwrap();
        let modified = metadata.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let bytes = if metadata.is_dir() { Vec::new() } else { std::fs::read(entry.path()).unwrap() };
        let modified = i64::try_from(modified).unwrap();
        tree.insert(path.clone(), Seen { folder: metadata.is_dir(), bytes, modified, ..Seen::default() });
        if metadata.is_dir() {
            collect(&entry.path(), &path, tree);
        }
    }
}

/// Compares trees path by path, so that a difference is readable.
pub(crate) fn assert_same(ours: &Tree, theirs: &Tree, fields: impl Fn(&Seen) -> Seen) {
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (path, seen) in ours {
        let (ours, theirs) = (fields(seen), fields(&theirs[path]));
        assert!(ours.bytes == theirs.bytes, "{path}: other bytes");
        let rest = |seen: Seen| Seen { bytes: Vec::new(), ..seen };
        assert_eq!(rest(ours), rest(theirs), "{path}");
    }
}

/// Bytes that differ in every block, so that a block in the wrong place is seen.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ state >> 33).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Whether the blocks of a file, which begins the first of them, lie anywhere but in a row in an image.
pub(crate) fn fragmented(image: &[u8], file: &[u8], cluster: usize) -> bool {
    let find = |block: &[u8]| image.chunks_exact(512).position(|sector| sector == &block[..512]).unwrap() * 512;
    let places: Vec<_> = file.chunks_exact(cluster).take(8).map(find).collect();
    places.windows(2).any(|pair| pair[1] != pair[0] + cluster)
}
