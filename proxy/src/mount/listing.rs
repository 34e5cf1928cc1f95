//! Folders as the kernel reads them: piece by piece, each going on where the last one ended.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{Errno, FileAttr, FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use guestfs::FileKind;

use super::fuse::{FOREVER, Served};
use super::{NodeId, TreeEntry};

/// `.` and `..` have the offsets 1 and 2; those of the volume follow.
const OURS: u64 = 2;
/// FUSE_NAME_MAX of Linux: a longer name would fail the whole listing.
const LONGEST_NAME: usize = 1024;

/// Names and kinds alone.
pub(super) fn plain(served: &Served, folder: NodeId, offset: u64, reply: &mut ReplyDirectory) -> Result<(), Errno> {
    list(served, folder, offset, &mut |entry| {
        let kind = match entry.kind {
            FileKind::File => FileType::RegularFile,
            FileKind::Folder => FileType::Directory,
            FileKind::Link => FileType::Symlink,
        };
        reply.add(INodeNo(entry.node.0), entry.next, kind, OsStr::from_bytes(&entry.name))
    })
}

/// With all that is known of each entry. One of which nothing can be known is listed all the same.
pub(super) fn with_attributes(
    served: &Served,
    folder: NodeId,
    offset: u64,
    reply: &mut ReplyDirectoryPlus,
) -> Result<(), Errno> {
    list(served, folder, offset, &mut |entry| {
        let (attr, valid) = attributes(served, &entry);
        let name = OsStr::from_bytes(&entry.name);
        reply.add(INodeNo(entry.node.0), entry.next, name, &valid, &attr, Generation(0))
    })
}

fn attributes(served: &Served, entry: &TreeEntry) -> (FileAttr, Duration) {
    let dots = matches!(entry.name.as_slice(), b"." | b"..");
    let metadata = if dots { None } else { served.tree().ok().map(|tree| tree.metadata(entry.node)) };
    match metadata {
        Some(Ok(metadata)) => (served.attr(entry.node, &metadata), FOREVER),
        Some(Err(error)) => {
            served.errors.note(entry.node, "listing its folder", &error);
            (served.bare_attr(entry.node, entry.kind), Duration::ZERO)
        }
        None => (served.bare_attr(entry.node, entry.kind), Duration::ZERO),
    }
}

/// Gives entries to `add` until it says that there is no more room. An error counts only if nothing was given before it: else it comes
/// again, and alone, when the kernel asks for the rest.
fn list(served: &Served, folder: NodeId, offset: u64, add: &mut dyn FnMut(TreeEntry) -> bool) -> Result<(), Errno> {
    let tree = served.tree()?;
    let mut given = 0u64;
    for (next, name) in [(1, "."), (2, "..")] {
        if offset < next {
            let node = if next == 1 { folder } else { tree.parent(folder).unwrap_or(folder) };
            if add(TreeEntry { name: name.into(), node, kind: FileKind::Folder, next }) {
                return Ok(());
            }
            given += 1;
        }
    }
    let mut bad = None;
    let listed = tree.list(folder, offset.saturating_sub(OURS), &mut |mut entry| {
        // The kernel keeps offsets in 63 bits; and 0 would begin the folder anew, without end.
        let next = entry.next.checked_add(OURS).filter(|next| *next > OURS && i64::try_from(*next).is_ok());
        let Some(next) = next else {
            bad = Some(entry.node);
            return ControlFlow::Break(());
        };
        if !may_be_shown(&entry.name) {
            return ControlFlow::Continue(());
        }
        entry.next = next;
        if add(entry) {
            return ControlFlow::Break(());
        }
        given += 1;
        ControlFlow::Continue(())
    });
    match (listed, bad) {
        (Ok(()), None) => Ok(()),
        (Err(_), _) | (_, Some(_)) if given > 0 => Ok(()),
        (Err(error), _) => Err(served.errors.note(folder, "listing", &error)),
        (Ok(()), Some(_)) => Err(Errno::EIO),
    }
}

fn may_be_shown(name: &[u8]) -> bool {
    let dots = matches!(name, b"" | b"." | b"..");
    !dots && name.len() <= LONGEST_NAME && !name.contains(&b'/') && !name.contains(&0)
}
