//! All that can be seen of a volume, within bounds, and how two sights differ.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what only tests call may fail as tests do")]

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;

use blockdev::{ByteOffset, ReadAt};
use guestfs::{Case, FileId, FileKind, FileSystem};

/// Files that are looked at: a damaged tree may have loops.
const MAX_FILES: usize = 400;
const MAX_DEPTH: usize = 8;
/// Bytes of content that are read in one piece.
const PIECE: u64 = 4096;

/// What is seen of one file; errors are `None`.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: Option<FileKind>,
    size: Option<u64>,
    /// The length of the content, then pieces of it by place.
    content: Option<(u64, BTreeMap<u64, Option<u64>>)>,
    xattrs: Option<BTreeMap<Vec<u8>, Option<u64>>>,
    target: Option<String>,
    /// What its name leads to.
    found: Option<Option<FileId>>,
    file: Option<FileId>,
    /// Of a folder: whether all its entries were listed.
    listed: bool,
}

/// What is seen of a volume, by path.
#[derive(Default)]
pub(crate) struct Sight {
    pub(crate) files: BTreeMap<Vec<u8>, Seen>,
    /// How many questions were answered by an error.
    pub(crate) errors: usize,
}

impl Sight {
    /// `known` are places of content, by path, to read beside the ends of each file.
    pub(crate) fn of(volume: &dyn FileSystem) -> Self {
        let mut sight = Self::default();
        let mut folders = vec![(Vec::new(), volume.root(), 0)];
        while let Some((path, folder, depth)) = folders.pop() {
            let mut entries = Vec::new();
            let listed = volume.list(folder, 0, &mut |entry| {
                entries.push(entry);
                if entries.len() < MAX_FILES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            let listed = sight.ok(listed).is_some();
            sight.files.entry(path.clone()).or_default().listed = listed;
            for entry in entries {
                if sight.files.len() >= MAX_FILES {
                    return sight;
                }
                let child = [&path[..], if path.is_empty() { b"" } else { b"/" }, &entry.name].concat();
                if sight.files.contains_key(&child) {
                    continue;
                }
                let seen = sight.look(volume, folder, &entry.name, entry.file);
                if entry.kind == FileKind::Folder && depth < MAX_DEPTH {
                    folders.push((child.clone(), entry.file, depth + 1));
                }
                sight.files.insert(child, seen);
            }
        }
        sight
    }

    fn ok<T, E: std::fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.errors += 1;
                assert!(!error.to_string().is_empty());
                None
            }
        }
    }

    fn look(&mut self, volume: &dyn FileSystem, folder: FileId, name: &[u8], file: FileId) -> Seen {
        let mut seen = Seen { file: Some(file), ..Seen::default() };
        if let Some(about) = self.ok(volume.metadata(file)) {
            seen.kind = Some(about.kind);
            seen.size = Some(about.size.0);
        }
        self.ok(volume.parent(file));
        seen.found = self.ok(volume.find(folder, name, Case::Exact));
        self.ok(volume.find(folder, &name.to_ascii_uppercase(), Case::Ignored));
        self.ok(volume.streams(file));
        if let Some(names) = self.ok(volume.xattrs(file)) {
            let hidden = [&b"system.ntfs_acl"[..], b"system.ntfs_reparse_data", b"system.ntfs_dos_name"];
            let all = names.into_iter().chain(hidden.map(<[u8]>::to_vec));
            let value = |name: &[u8]| volume.xattr(file, name, 1 << 16);
            let values = all.map(|name| (value(&name), name)).collect::<Vec<_>>();
            let hashed = values.into_iter().filter_map(|(value, name)| match self.ok(value) {
                Some(Some(value)) => Some((name, Some(hash(&value)))),
                Some(None) => None,
                None => Some((name, None)),
            });
            seen.xattrs = Some(hashed.collect());
        }
        if seen.kind == Some(FileKind::Link) {
            seen.target = self.ok(volume.link_target(file)).map(|target| format!("{target:?}"));
        }
        if let Some(content) = self.ok(volume.open(file)) {
            seen.content = Some((content.size().0, self.pieces(&*content)));
        }
        seen
    }

    /// Reads pieces at fixed places, the same for every length of the file, and the last one.
    fn pieces(&mut self, content: &dyn ReadAt) -> BTreeMap<u64, Option<u64>> {
        let size = content.size().0;
        let last = size.saturating_sub(PIECE) / PIECE * PIECE;
        let places: BTreeSet<u64> =
            [0, 1, 5, 20, 50, 175, 340].map(|piece| piece * PIECE).into_iter().chain([last]).collect();
        let mut read = BTreeMap::new();
        for at in places.into_iter().filter(|at| *at < size) {
            let mut buf = vec![0xa5; usize::try_from(PIECE.min(size - at)).unwrap()];
            let result = content.read_exact_at(ByteOffset(at), &mut buf);
            let extent = self.ok(content.extent_at(ByteOffset(at)));
            assert!(extent.is_none_or(|extent| extent.start.0 == at && extent.len.0 > 0 && extent.end().0 <= size));
            read.insert(at, self.ok(result).map(|()| hash(&buf)));
        }
        read
    }

    /// What this sight shows otherwise than the true one, and tells no error for.
    pub(crate) fn lies(&self, truth: &Self) -> Vec<(&'static str, String)> {
        let mut lies = Vec::new();
        let mut add = |what, path: &[u8]| lies.push((what, path.escape_ascii().to_string()));
        for (path, known) in &truth.files {
            let folder = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |at| &path[..at]);
            match self.files.get(path) {
                // Where the folder above could not be read, its error tells of all that is in it.
                None if self.files.get(folder).is_some_and(|folder| folder.listed) => add("name missing", path),
                None => {}
                Some(seen) => {
                    for what in seen.differs(known) {
                        add(what, path);
                    }
                }
            }
        }
        if self.files.len() < MAX_FILES {
            for path in self.files.keys().filter(|path| !truth.files.contains_key(*path)) {
                add("name added", path);
            }
        }
        lies
    }
}

impl Seen {
    fn differs(&self, truth: &Self) -> Vec<&'static str> {
        let mut found = Vec::new();
        let mut check = |what, differs: bool| {
            if differs {
                found.push(what);
            }
        };
        check("kind", self.kind.is_some() && self.kind != truth.kind);
        let readable = self.content.is_some() || self.target.is_some();
        check("not found by name", readable && self.found == Some(None) && truth.found != Some(None));
        let another = readable && self.found.flatten().is_some_and(|found| Some(found) != self.file);
        check("another found by name", another);
        check("target", self.target.is_some() && self.target != truth.target);
        match (&self.content, &truth.content) {
            (Some(_), None) => check("content of what is refused", true),
            (Some((size, pieces)), Some((true_size, true_pieces))) => {
                check("size", size != true_size);
                let same = pieces.iter().all(|(at, piece)| {
                    piece.is_none() || size != true_size || true_pieces.get(at).is_none_or(|known| known == piece)
                });
                check("content", !same);
                let front = pieces.iter().all(|(at, piece)| {
                    // A last piece ends elsewhere where the length is another one.
                    let whole = at + PIECE <= *size.min(true_size);
                    piece.is_none() || !whole || true_pieces.get(at).is_none_or(|known| known == piece)
                });
                check("content", same && !front);
            }
            _ => {}
        }
        if let (Some(xattrs), Some(known)) = (&self.xattrs, &truth.xattrs) {
            let same =
                |(name, value): (&Vec<u8>, &Option<u64>)| xattrs.get(name).is_some_and(|x| x.is_none() || x == value);
            check("extended attribute", !known.iter().all(same));
            let more = xattrs.iter().any(|(name, value)| value.is_some() && !known.contains_key(name));
            check("extended attribute added", more);
        }
        found
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
