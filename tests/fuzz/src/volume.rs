//! What every file system of guestfs must keep to, whatever its disk holds.
//!
//! Nothing panics, and nothing goes on for ever: the time limit of the fuzzer sees to that. Names can stand in a path, and are found
//! again; a file is as long as its metadata says, and what it claims to have can be read; the way up from a file ends. A second
//! reader of the same disk, asked without a listing before, says the same.

use std::ops::ControlFlow;
use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, ReadError};
use guestfs::{Cache, CachedDisk, Case, Entry, ErrorFamily, FileId, FileKind, FileSystem, FsError};

use crate::{File, Input};

/// Opens a file system on a disk.
pub type Open = fn(Arc<CachedDisk>) -> Result<Box<dyn FileSystem>, FsError>;

/// Folders that are looked at, and entries of each.
const FOLDERS: usize = 40;
const ENTRIES: usize = 100;
/// Files whose parents are asked for without a listing before.
const ORPHANS: usize = 8;
/// The most that is read of each end of a file.
const PIECE: u64 = 1024;
/// More folders above each other than an input can hold.
const STEPS: usize = 4096;

/// The first file of an input, which is the disk.
#[must_use]
pub fn first_file(input: Input<'_>) -> Option<File> {
    input.files().into_iter().next().map(|(_, file)| file)
}

/// Opens a disk twice and walks the file system on it.
pub fn walk_volume(disk: File, open: Open) {
    let disk = Arc::new(disk);
    let reader = || open(Arc::new(CachedDisk::new(disk.clone(), Cache::new(ByteLen(2 << 20)))));
    let (volume, again) = match (reader(), reader()) {
        (Ok(volume), Ok(again)) => (volume, again),
        (Err(one), Err(other)) => {
            no_io(&one);
            assert_eq!(one.to_string(), other.to_string());
            return;
        }
        _ => panic!("the volume opens once of two times"),
    };
    assert_eq!(volume.about(), again.about());
    let mut folders = vec![volume.root()];
    let mut orphans = Vec::new();
    for turn in 0..FOLDERS {
        let Some(folder) = folders.get(turn).copied() else { break };
        for entry in look_at(&*volume, folder) {
            if entry.kind == FileKind::Folder {
                folders.push(entry.file);
            }
            if orphans.len() < ORPHANS || entry.kind == FileKind::Folder && orphans.len() < 2 * ORPHANS {
                orphans.push(entry.file);
            }
        }
    }
    for file in orphans {
        let (one, other) = (volume.metadata(file), again.metadata(file));
        assert_eq!(one.map_err(|e| e.to_string()), other.map_err(|e| e.to_string()));
        climb(&*again, file);
    }
}

/// No disk fails here.
fn no_io(error: &FsError) {
    assert_ne!(error.family(), ErrorFamily::Io, "{error:?}");
}

/// Lists a folder and asks everything of each entry.
fn look_at(volume: &dyn FileSystem, folder: FileId) -> Vec<Entry> {
    let mut entries = Vec::new();
    let result = volume.list(folder, 0, &mut |entry| {
        entries.push(entry);
        if entries.len() < ENTRIES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    if let Err(error) = &result {
        no_io(error);
    }
    if let Some(first) = entries.first() {
        let mut second = None;
        drop(volume.list(folder, first.next, &mut |entry| {
            second = Some(entry);
            ControlFlow::Break(())
        }));
        assert_eq!(second.as_ref(), entries.get(1));
    }
    for entry in &entries {
        let name = entry.name.as_slice();
        assert!(!matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0), "{name:?}");
        for case in [Case::Exact, Case::Ignored] {
            assert!(volume.find(folder, name, case).expect("it was listed").is_some(), "{name:?} is not found");
        }
        examine(volume, entry.file, entry.kind);
        climb(volume, entry.file);
    }
    entries
}

fn examine(volume: &dyn FileSystem, file: FileId, kind: FileKind) {
    let metadata = match volume.metadata(file) {
        Ok(metadata) => metadata,
        Err(error) => return no_io(&error),
    };
    assert_eq!(metadata.kind, kind);
    assert!(metadata.modified.nanos < 1_000_000_000);
    assert_eq!(volume.xattr(file, b"system.ntfs_attrib", 4).expect("its metadata are there").map(|v| v.len()), Some(4));
    let content = match volume.open(file) {
        Ok(content) => content,
        Err(error) => return no_io(&error),
    };
    let size = content.size();
    assert_eq!(size, metadata.size);
    let piece = size.0.min(PIECE);
    let mut bytes = vec![0; piece as usize];
    for at in [0, (size.0 - piece) / 2, size.0 - piece] {
        content.read_exact_at(ByteOffset(at), &mut bytes).expect("it was opened, so it can be read");
        if size.0 > 0 {
            let extent = content.extent_at(ByteOffset(at)).expect("it was opened");
            assert!(extent.start.0 == at && extent.len.0 > 0 && extent.end().0 <= size.0);
        }
    }
    let behind = content.read_exact_at(ByteOffset(size.0), &mut [0]);
    assert!(matches!(behind, Err(ReadError::OutOfRange { .. })));
}

/// Goes up from a file.
fn climb(volume: &dyn FileSystem, file: FileId) {
    let mut place = file;
    for _ in 0..STEPS {
        match volume.parent(place) {
            Ok(Some(parent)) => place = parent,
            Ok(None) => return assert_eq!(place, volume.root()),
            Err(error) => return no_io(&error),
        }
    }
    panic!("parents without end");
}
