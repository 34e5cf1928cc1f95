//! A walk over a file system: what every reader must keep to, whatever the volume holds.
//!
//! - Nothing panics, and nothing asks for more than the volume has.
//! - A listing ends, and goes on behind each of its entries.
//! - Content is as long as it says, reads the same in pieces as at once, and what it calls a hole is zeros.
//! - Errors are those of the volume: the disk itself never fails.

use std::collections::HashSet;
use std::error::Error;
use std::fmt::Debug;
use std::ops::ControlFlow;

use blockdev::{ByteOffset, ExtentKind, ReadAt, ReadError};
use guestfs::{Case, Entry, ErrorFamily, FileId, FileKind, FileSystem, FsError, LinkTarget};

/// Files, and entries of a folder, that are looked at.
const MAX_FILES: usize = 50;
/// Bytes of a long piece, and of a short one.
const PIECES: [u64; 2] = [70_000, 100];
const VALUE: usize = 64 << 10;

/// Looks at a volume from its root on.
pub fn explore(volume: &dyn FileSystem) {
    let about = volume.about();
    assert!(about.cluster.0 > 0);
    let mut known = HashSet::from([volume.root()]);
    let mut folders = vec![volume.root()];
    assert_eq!(fine(volume.parent(volume.root())), Some(None));
    while let Some(folder) = folders.pop() {
        let entries = list(volume, folder, 0);
        go_on(volume, folder, &entries);
        for entry in entries {
            if known.len() >= MAX_FILES {
                return;
            }
            name(volume, folder, &entry);
            if known.insert(entry.file) {
                file(volume, entry.file);
                if entry.kind == FileKind::Folder {
                    folders.push(entry.file);
                }
            }
        }
    }
}

/// An error must be one of the volume. What it says is for people.
fn fine<T>(result: Result<T, FsError>) -> Option<T> {
    result.map_err(|error| family(&error)).ok()
}

fn family(error: &FsError) {
    assert_ne!(error.family(), ErrorFamily::Io, "no disk failed: {error:?}");
    assert!(!error.to_string().is_empty() && error.source().is_none_or(|source| !source.to_string().is_empty()));
}

fn list(volume: &dyn FileSystem, folder: FileId, from: u64) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let listed = volume.list(folder, from, &mut |entry| {
        let bad = entry.name.is_empty() || entry.name == b"." || entry.name == b"..";
        assert!(!bad && !entry.name.iter().any(|byte| matches!(byte, 0 | b'/')), "{entry:?}");
        entries.push(entry);
        if entries.len() < MAX_FILES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    fine(listed);
    entries
}

/// A listing that goes on behind an entry gives the rest.
fn go_on(volume: &dyn FileSystem, folder: FileId, entries: &[Entry]) {
    let Some((middle, rest)) = entries.get(entries.len() / 2..).and_then(|half| half.split_first()) else { return };
    let mut again = list(volume, folder, middle.next);
    again.truncate(rest.len());
    assert_eq!(again, rest);
}

fn name(volume: &dyn FileSystem, folder: FileId, entry: &Entry) {
    fine(volume.find(folder, &entry.name, Case::Exact));
    fine(volume.find(folder, &entry.name.to_ascii_lowercase(), Case::Ignored));
    fine(volume.find(folder, b"no such name", Case::Ignored));
    for stream in fine(volume.streams(entry.file)).unwrap_or_default().iter().take(3) {
        let path = [&entry.name[..], b":", &stream.name].concat();
        if let Some(Some(stream)) = fine(volume.find(folder, &path, Case::Exact)) {
            fine(volume.metadata(stream));
            content(volume, stream);
        }
    }
}

fn file(volume: &dyn FileSystem, file: FileId) {
    let about = fine(volume.metadata(file));
    assert!(about.as_ref().is_none_or(|about| about.links > 0 && about.modified.nanos < 1_000_000_000), "{about:?}");
    fine(volume.parent(file));
    if let Some(target) = fine(volume.link_target(file)) {
        targets(&target);
    }
    let names = fine(volume.xattrs(file)).unwrap_or_default();
    let hidden = ["attrib", "times", "acl", "reparse_data", "dos_name", "object_id", "ea", "efsinfo"];
    let hidden = hidden.map(|name| format!("system.ntfs_{name}").into_bytes());
    for name in names.iter().take(10).chain(&hidden) {
        let value = fine(volume.xattr(file, name, VALUE)).flatten();
        assert!(value.is_none_or(|value| value.len() <= VALUE));
        let short = fine(volume.xattr(file, name, 3)).flatten();
        assert!(short.is_none_or(|value| value.len() <= 3));
    }
    content(volume, file);
}

fn targets(target: &LinkTarget) {
    let parts = match target {
        LinkTarget::Relative(parts) | LinkTarget::Root(parts) => parts,
        LinkTarget::Letter(_, parts) | LinkTarget::Volume(_, parts) => parts,
        LinkTarget::Outside(_) => return,
    };
    for part in parts {
        assert!(!part.is_empty() && !part.iter().any(|byte| matches!(byte, 0 | b'/')), "{target:?}");
    }
}

fn content(volume: &dyn FileSystem, file: FileId) {
    let Some(bytes) = fine(volume.open(file)) else { return };
    let size = bytes.size().0;
    let behind =
        bytes.read_exact_at(ByteOffset(size), &mut [0]).map(|()| "a byte").expect_err("nothing is behind the end");
    assert!(matches!(behind, ReadError::OutOfRange { .. } | ReadError::Corrupt { .. }), "{behind}");
    let mut at = 0;
    for piece in 0..6 {
        if at >= size {
            break;
        }
        let Some(extent) = whole(bytes.extent_at(ByteOffset(at))) else { break };
        assert!(extent.start.0 == at && extent.len.0 > 0 && extent.end().0 <= size, "{extent:?} of {size}");
        let len = PIECES[piece % 2].min(extent.len.0);
        for start in [at, extent.end().0 - len] {
            let read = twice(&*bytes, start, len);
            assert!(
                extent.kind == ExtentKind::Data || read.is_none_or(|read| read.iter().all(|byte| *byte == 0)),
                "{extent:?}"
            );
        }
        at = extent.end().0;
    }
    for start in [size / 2, size.saturating_sub(PIECES[0])] {
        twice(&*bytes, start, PIECES[0].min(size - start));
    }
}

fn whole<T: Debug>(result: Result<T, ReadError>) -> Option<T> {
    let corrupt = |error: &ReadError| matches!(error, ReadError::Corrupt { .. } | ReadError::Unsupported { .. });
    assert!(result.as_ref().err().is_none_or(corrupt), "{result:?}");
    result.ok()
}

/// Reads a range at once, and again in two halves.
fn twice(bytes: &dyn ReadAt, at: u64, len: u64) -> Option<Vec<u8>> {
    let read = |at: u64, len: u64| {
        let mut buf = vec![0xa5; len as usize];
        whole(bytes.read_exact_at(ByteOffset(at), &mut buf).map(|()| buf))
    };
    let (once, half) = (read(at, len), len / 2);
    let again = read(at, half).and_then(|front| Some([front, read(at + half, len - half)?].concat()));
    assert!(once == again, "{len} bytes at {at:#x} read differently again");
    once
}
