//! Where links lead, as text that cannot lead out of the tree.

use std::ops::ControlFlow;

use blockdev::ByteLen;
use guestfs::{Case, FileId, FileKind, FileSystem, FsError, LinkTarget};

use super::guest::Guest;
use super::tree::{Inside, MOST_FOLDERS, Tree};

/// The kernel takes one page less one byte.
const LONGEST: usize = 4095;
/// Text that leads nowhere is for people.
const LONGEST_DANGLING: usize = 1024;
/// A folder is not searched further than this for the real case of a name.
const MOST_ENTRIES: usize = 1 << 18;

type Names = Vec<Vec<u8>>;

/// The readable volume that a link stands for as a whole: then it is a volume mounted on a folder.
pub(super) fn whole_volume(guest: &Guest, fs: &dyn FileSystem, link: FileId) -> Option<u32> {
    match fs.link_target(link) {
        Ok(LinkTarget::Volume(guid, names)) if names.is_empty() => guest.by_guid(guid),
        _ => None,
    }
}

/// How many folders lie above a folder of a volume.
pub(super) fn depth(fs: &dyn FileSystem, folder: FileId) -> Result<usize, FsError> {
    let mut at = folder;
    for depth in 0..=MOST_FOLDERS {
        match fs.parent(at)? {
            None => return Ok(depth),
            Some(parent) => at = parent,
        }
    }
    Err(FsError::Corrupt {
        what: format!("file {:#x}", folder.get()),
        field: "number of folders above",
        found: format!("more than {MOST_FOLDERS}"),
        expected: "a way to the root",
    })
}

/// Where the link leads.
pub(super) fn text(tree: &Tree, link: Inside<'_>) -> Result<Vec<u8>, FsError> {
    let target = link.fs.link_target(link.file)?;
    let text = match resolved(tree, link, &target)? {
        Some(text) if text.len() <= LONGEST => return Ok(text),
        Some(text) => text,
        None => return Ok(dangling(&target)),
    };
    let what = format!("the target of link {:#x}", link.file.get());
    Err(FsError::TooLarge { what, len: ByteLen::of(&text), limit: ByteLen(4095) })
}

/// The path to the target if it lies in the tree.
fn resolved(tree: &Tree, link: Inside<'_>, target: &LinkTarget) -> Result<Option<Vec<u8>>, FsError> {
    let fs = link.fs.as_ref();
    let folder = fs.parent(link.file)?.unwrap_or_else(|| fs.root());
    let depth = depth(fs, folder)?;
    let (volume, names) = match target {
        LinkTarget::Relative(names) => {
            let Some((ups, names)) = straight(names).filter(|(ups, _)| *ups <= depth) else { return Ok(None) };
            let mut start = folder;
            for _ in 0..ups {
                start = fs.parent(start)?.unwrap_or_else(|| fs.root());
            }
            return Ok(Some(path(ups, &[], &real_names(fs, start, names))));
        }
        LinkTarget::Root(names) => (Some(link.number), names),
        LinkTarget::Letter(letter, names) => (tree.guest().by_letter(*letter), names),
        LinkTarget::Volume(guid, names) => (tree.guest().by_guid(*guid), names),
        LinkTarget::Outside(_) => return Ok(None),
    };
    let (Some(volume), Some((0, names))) = (volume, straight(names)) else { return Ok(None) };
    let Some(other) = tree.guest().file_system(volume) else { return Ok(None) };
    let names = real_names(other.as_ref(), other.root(), names);
    if volume == link.number {
        // A volume mounted within itself would be its own folder without end; as text it ends.
        let itself = names.is_empty() && matches!(target, LinkTarget::Volume(..));
        return Ok((!itself).then(|| path(depth, &[], &names)));
    }
    let whole = names.is_empty() && matches!(target, LinkTarget::Volume(..));
    if whole {
        return Ok(None); // it would be shown as a folder if it could be
    }
    let top = match tree.guest().letter_of(volume) {
        Some(letter) => ["letters".to_owned(), letter.to_string()],
        None => ["digits".to_owned(), volume.to_string()],
    };
    Ok(Some(path(tree.height(link, folder)?, &top, &names)))
}

/// `../` as often as said, then the names.
fn path(ups: usize, top: &[String], names: &Names) -> Vec<u8> {
    let ups = std::iter::repeat_n(&b".."[..], ups);
    let parts: Vec<&[u8]> =
        ups.chain(top.iter().map(String::as_bytes)).chain(names.iter().map(Vec::as_slice)).collect();
    if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') }
}

/// The names without `.` and `..`, and how many folders the way goes up first. `None` for what is no name.
fn straight(names: &[Vec<u8>]) -> Option<(usize, Names)> {
    let (mut ups, mut way) = (0, Names::new());
    for name in names {
        match name.as_slice() {
            b"" | b"." => {}
            b".." => {
                if way.pop().is_none() {
                    ups += 1;
                }
            }
            name if name.contains(&b'/') || name.contains(&0) => return None,
            name => way.push(name.to_vec()),
        }
    }
    Some((ups, way))
}

/// The names in the case that the files have, as far as they are there: look-ups of the mount mind it.
fn real_names(fs: &dyn FileSystem, start: FileId, names: Names) -> Names {
    let mut at = Some(start);
    let real = |name: Vec<u8>| {
        let Some(folder) = at else { return name };
        if let Ok(Some(file)) = fs.find(folder, &name, Case::Exact) {
            at = folder_only(fs, file);
            return name;
        }
        let found = fs.find(folder, &name, Case::Ignored).ok().flatten();
        at = found.and_then(|file| folder_only(fs, file));
        found.and_then(|file| stored_name(fs, folder, file, &name)).unwrap_or(name)
    };
    names.into_iter().map(real).collect()
}

fn folder_only(fs: &dyn FileSystem, file: FileId) -> Option<FileId> {
    fs.metadata(file).ok().filter(|metadata| metadata.kind == FileKind::Folder).map(|_| file)
}

/// The name that a folder has for a file: of several the one that is nearest to `like`.
fn stored_name(fs: &dyn FileSystem, folder: FileId, file: FileId, like: &[u8]) -> Option<Vec<u8>> {
    let lower = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
    let like = lower(like);
    let (mut left, mut best) = (MOST_ENTRIES, None);
    let listed = fs.list(folder, 0, &mut |entry| {
        left -= 1;
        let same = entry.file == file && lower(&entry.name) == like;
        if entry.file == file && (same || best.is_none()) {
            best = Some(entry.name);
        }
        if same || left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    listed.ok().and(best)
}

/// A target outside the tree, for people: as Windows writes it, in one piece, so that nothing is looked up by it but a name beside the
/// link.
fn dangling(target: &LinkTarget) -> Vec<u8> {
    let joined = |names: &[Vec<u8>]| names.join(&b'\\');
    let text = match target {
        LinkTarget::Relative(names) => joined(names),
        LinkTarget::Root(names) => [b"\\", &joined(names)[..]].concat(),
        LinkTarget::Letter(letter, names) => [format!("{letter}:\\").as_bytes(), &joined(names)].concat(),
        LinkTarget::Volume(guid, names) => [format!("\\\\?\\Volume{{{guid}}}\\").as_bytes(), &joined(names)].concat(),
        LinkTarget::Outside(text) => text.clone().into_bytes(),
    };
    let mut text: Vec<u8> = text.into_iter().filter(|byte| *byte != 0).take(LONGEST_DANGLING).collect();
    text.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'\\');
    if matches!(text.as_slice(), b"" | b"." | b"..") {
        text.push(b'\\');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Names {
        text.split('/').map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn dots_are_taken_away_as_text() {
        let of = |text| straight(&names(text));
        assert_eq!(of("a/./b/../c"), Some((0, names("a/c"))));
        assert_eq!(of("../../a/../../b"), Some((3, names("b"))));
        assert_eq!(straight(&[b"a/b".to_vec()]), None);
        assert_eq!(straight(&[b"a\0".to_vec()]), None);
    }

    #[test]
    fn what_leads_outside_is_one_name_that_is_no_dots() {
        let of = |target| String::from_utf8(dangling(&target)).unwrap();
        assert_eq!(of(LinkTarget::Outside("//server/share/x".into())), "\\\\server\\share\\x");
        assert_eq!(of(LinkTarget::Outside("/etc/passwd\0".into())), "\\etc\\passwd");
        assert_eq!(of(LinkTarget::Relative(names(".."))), "..\\");
        assert_eq!(of(LinkTarget::Relative(Vec::new())), "\\");
        assert_eq!(of(LinkTarget::Letter('D', names("../x"))), "D:\\..\\x");
        assert_eq!(of(LinkTarget::Outside("/".repeat(9000))).len(), LONGEST_DANGLING);
    }
}
