//! Paths and folders of a tree without the kernel: for looking at files that are not mounted.

use std::collections::HashSet;
use std::ops::ControlFlow;

use guestfs::{Case, FileKind, FsError};

use super::node::{NodeId, Place};
use super::tree::{MOST_FOLDERS, Tree, TreeEntry};
use crate::error::{Context, Error, Family, Result};
use crate::job::Cancel;

/// As many as Linux follows on one path.
const MOST_LINKS: usize = 40;
/// Folders of one walk; more are no volume but a trap.
const MOST_WALKED: usize = 1 << 24;

/// The words of a path in the guest: `C:\Windows`, `letters/C/Windows` and `digits/1/Windows` are understood.
#[must_use]
pub(super) fn words(path: &str) -> Vec<Vec<u8>> {
    let mut chars = path.chars();
    let lettered = match (chars.next(), chars.next()) {
        (Some(letter), Some(':')) if letter.is_ascii_alphabetic() => Some(letter.to_ascii_uppercase()),
        _ => None,
    };
    let rest = if lettered.is_some() { chars.as_str() } else { path };
    let slash = |c: char| c == '/' || (lettered.is_some() && c == '\\');
    let top = lettered.map(|letter| vec![b"letters".to_vec(), letter.to_string().into_bytes()]).unwrap_or_default();
    top.into_iter()
        .chain(rest.split(slash).filter(|word| !word.is_empty()).map(|word| word.as_bytes().to_vec()))
        .collect()
}

/// Whether text is a path in a guest and no name of a file here.
#[must_use]
pub fn is_guest_path(text: &str) -> bool {
    let mut bytes = text.bytes();
    let lettered = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic()) && bytes.next() == Some(b':');
    let first = text.split('/').next().unwrap_or_default();
    lettered || matches!(first, "letters" | "digits" | ".stillframe")
}

/// What a tree said, in the product's families.
pub(super) fn tree_error(error: FsError, what: String) -> Error {
    let family = match (&error, error.family()) {
        (FsError::NotFound { .. } | FsError::NotAFolder { .. } | FsError::IsAFolder { .. }, _) => Family::Usage,
        (_, guestfs::ErrorFamily::Unsupported) => Family::Unsupported,
        (_, guestfs::ErrorFamily::Corrupt) => Family::Corrupt,
        _ => Family::Failed,
    };
    Error::new(family, what).caused_by(error)
}

/// The node at a path. Case counts where two names differ only by it, and else does not; links are followed, the last one too if
/// `follow` says so.
///
/// # Errors
/// [`Family::Usage`] if there is no such file; what its volume says.
pub fn resolve(tree: &Tree, path: &str, follow: bool) -> Result<NodeId> {
    let missing = || Error::new(Family::Usage, format!("there is no {path} in the guest"));
    let mut way = vec![NodeId::TOP];
    let mut ahead: Vec<Vec<u8>> = words(path);
    ahead.reverse();
    let mut links = 0;
    while let Some(word) = ahead.pop() {
        let folder = way.last().copied().unwrap_or(NodeId::TOP);
        match word.as_slice() {
            b"." => continue,
            b".." => {
                way.pop();
                continue;
            }
            _ => {}
        }
        let look = |case| tree.find(folder, &word, case).map_err(|e| tree_error(e, format!("cannot look up {path}")));
        let found = match look(Case::Exact)? {
            Some(found) => found,
            None => look(Case::Ignored)?.ok_or_else(missing)?,
        };
        let link = found.metadata.is_ok_and(|metadata| metadata.kind == FileKind::Link);
        if !link || (ahead.is_empty() && !follow) {
            way.push(found.node);
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(Error::new(Family::Corrupt, format!("the links of {path} lead in a circle")));
        }
        let text = tree.link_text(found.node).map_err(|e| tree_error(e, format!("cannot follow {path}")))?;
        ahead.extend(text.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
    }
    Ok(way.last().copied().unwrap_or(NodeId::TOP))
}

/// Something met on a walk.
pub struct Met<'a> {
    /// Its path from where the walk began; empty for the beginning itself.
    pub path: &'a [u8],
    /// The node.
    pub node: NodeId,
    /// What it is.
    pub kind: FileKind,
}

/// Goes through a folder and all that lies in it, volumes mounted on folders left out: they have numbers of their own. What cannot be listed is
/// handed to `failed`, and the rest goes on.
///
/// # Errors
/// [`Family::Cancelled`], those of `each`, and [`Family::Corrupt`] if folders lie in each other without end.
pub fn walk(
    tree: &Tree,
    from: NodeId,
    cancel: &Cancel,
    each: &mut dyn FnMut(&Met<'_>) -> Result<()>,
    failed: &mut dyn FnMut(&[u8], FsError),
) -> Result<()> {
    let mut seen = HashSet::new();
    let mut ahead = vec![(Vec::new(), from, 0)];
    while let Some((path, folder, depth)) = ahead.pop() {
        cancel.check()?;
        if depth > MOST_FOLDERS || seen.len() > MOST_WALKED {
            let text = String::from_utf8_lossy(&path).into_owned();
            return Err(Error::new(Family::Corrupt, format!("{text}: folders lie in each other without end")));
        }
        if !seen.insert(folder) {
            continue;
        }
        let (mut result, mut inner) = (Ok(()), Vec::new());
        let listed = tree.list(folder, 0, &mut |entry: TreeEntry| {
            let path = if path.is_empty() { entry.name } else { [&path[..], b"/", &entry.name].concat() };
            result = each(&Met { path: &path, node: entry.node, kind: entry.kind });
            let same = folder.place() == Place::OURS || folder.place() == entry.node.place();
            if entry.kind == FileKind::Folder && same {
                inner.push((path, entry.node, depth + 1));
            }
            if result.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        result?;
        if let Err(error) = listed {
            failed(&path, error);
        }
        ahead.extend(inner.into_iter().rev());
    }
    Ok(())
}

/// Whether a name is like a pattern of `*` and `?`, whatever the case. The time is bounded by the product of their lengths.
#[must_use]
pub fn is_like(name: &str, pattern: &str) -> bool {
    let lower = |text: &str| text.to_lowercase().chars().collect::<Vec<_>>();
    let (name, pattern) = (lower(name), lower(pattern));
    let (mut n, mut p) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || name.get(n) == Some(c) => (n, p) = (n + 1, p + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (n, p) = (from + 1, at + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Opens the images and the volumes on them, to look into without a mount.
///
/// # Errors
/// Those of the images; [`Family::Corrupt`] if no volume can be read.
pub fn open_tree(spec: &super::MountSpec) -> Result<(Tree, super::Report)> {
    let disks = super::open_images(spec)?;
    let guest = super::volumes::open(disks, &guestfs::Cache::new(super::volumes::CACHE));
    let guest = super::volumes::readable(guest)?;
    let report = super::Report::of(&guest, spec.run, spec.source.clone());
    let documents = report.documents();
    Ok((Tree::new(guest, documents), report))
}

/// Writes the bytes of a file to `out`.
///
/// # Errors
/// What its volume says, or `out`.
pub fn copy_out(tree: &Tree, node: NodeId, path: &str, out: &mut dyn std::io::Write) -> Result<()> {
    let what = || format!("cannot read {path}");
    let file = tree.open(node).map_err(|e| tree_error(e, what()))?;
    let mut result = Ok(());
    super::verify::read_through(file.as_ref(), &mut |bytes| {
        result = out.write_all(bytes);
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .map_err(|e| crate::transport::from_read(e, &what()))?;
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.failed(|| "cannot write to standard output".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_paths_and_our_own_are_one() {
        let of = |path| String::from_utf8(words(path).join(&b'|')).unwrap();
        assert_eq!(of("c:\\Windows\\a b"), "letters|C|Windows|a b");
        assert_eq!(of("C:/Windows/"), "letters|C|Windows");
        assert_eq!(of("digits/1/x\\y"), "digits|1|x\\y");
        assert_eq!(of("C:"), "letters|C");
        assert!(is_guest_path("C:\\x") && is_guest_path("letters") && is_guest_path("digits/1"));
        assert!(!is_guest_path("disk.vmdk") && !is_guest_path("./digits/1") && !is_guest_path("/c:/x"));
    }

    #[test]
    fn patterns_match_whatever_the_case_and_in_bounded_time() {
        assert!(is_like("Win.INI", "*.ini") && is_like("a", "?") && is_like("", "*") && is_like("abcabc", "*c"));
        assert!(!is_like("win.ini", "*.in") && !is_like("", "?") && !is_like("ab", "a"));
        assert!(!is_like(&"a".repeat(3000), &"*a".repeat(200).replace("aa", "ab").replace("*a*a", "*a*b")));
    }
}
