//! Every file read to its end: what a restore from it would find.

use std::ops::ControlFlow;

use blockdev::{ByteOffset, ReadAt, ReadError};
use guestfs::{ErrorFamily, FileKind, FsError};
use serde::Serialize;

use super::errors::whole_text;
use super::node::{NodeId, Place};
use super::tree::Tree;
use super::walk::{Met, walk};
use crate::error::{Error, Family, Result};
use crate::job::{Cancel, Meter};

/// What is read at a time.
const PIECE: u64 = 1 << 20;
/// Findings are told up to here, and counted beyond.
const MOST_TOLD: usize = 1000;
/// XATTR_SIZE_MAX of Linux: what a mount shows at most.
const MOST_XATTR: usize = 64 << 10;

/// Something that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where: `digits/1/Windows/x`.
    pub path: String,
    /// `corrupt`, `unsupported` or `failed`.
    pub kind: &'static str,
    /// Why.
    pub why: String,
}

/// What reading everything showed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    /// Folders listed.
    pub folders: u64,
    /// Files read to their end.
    pub files: u64,
    /// Links understood.
    pub links: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Things that contradict their format.
    pub corrupt: u64,
    /// Things in a form that is not read, encrypted ones among them.
    pub unsupported: u64,
    /// Things that the disk underneath did not give.
    pub failed: u64,
    /// The first of these.
    pub findings: Vec<Finding>,
}

impl Verified {
    /// Green only if all was read.
    ///
    /// # Errors
    /// [`Family::Corrupt`], [`Family::Failed`] or [`Family::Unsupported`], in this order.
    pub fn verdict(&self) -> Result<()> {
        let counts = [
            (self.corrupt, Family::Corrupt, "are damaged"),
            (self.failed, Family::Failed, "could not be read from the disk"),
            (self.unsupported, Family::Unsupported, "are in a form that is not read"),
        ];
        match counts.into_iter().find(|(count, ..)| *count > 0) {
            None => Ok(()),
            Some((count, family, what)) => Err(Error::new(family, format!("{count} files or folders {what}"))),
        }
    }

    fn note(&mut self, path: String, family: ErrorFamily, error: &dyn std::error::Error) {
        let (count, kind) = match family {
            ErrorFamily::Corrupt | ErrorFamily::Request => (&mut self.corrupt, "corrupt"),
            ErrorFamily::Unsupported => (&mut self.unsupported, "unsupported"),
            ErrorFamily::Io => (&mut self.failed, "failed"),
        };
        *count += 1;
        if self.findings.len() < MOST_TOLD {
            self.findings.push(Finding { path, kind, why: whole_text(error) });
        }
    }
}

/// Hands the bytes of a file to `each`, in order, until it breaks off.
pub(super) fn read_through(file: &dyn ReadAt, each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<(), ReadError> {
    let size = file.size().0;
    let mut buf = vec![0; usize::try_from(PIECE.min(size)).unwrap_or(0)];
    let mut at = 0;
    while at < size {
        let piece = buf.get_mut(..usize::try_from(PIECE.min(size - at)).unwrap_or(0)).unwrap_or_default();
        file.read_exact_at(ByteOffset(at), piece)?;
        at += u64::try_from(piece.len()).unwrap_or(PIECE);
        if each(piece).is_break() {
            break;
        }
    }
    Ok(())
}

/// Reads every file of every volume, or of one folder, to its end.
///
/// # Errors
/// [`Family::Cancelled`]; what cannot be read is in the report.
pub fn verify(tree: &Tree, from: Option<(NodeId, String)>, meter: &Meter, cancel: &Cancel) -> Result<Verified> {
    let begin = |(number, fs): (u32, &std::sync::Arc<dyn guestfs::FileSystem>)| {
        Some((NodeId::new(Place::of_number(number)?, fs.root()), format!("digits/{number}")))
    };
    let starts: Vec<_> = match from {
        Some(start) => vec![start],
        None => tree.guest().readable().filter_map(begin).collect(),
    };
    let report = std::cell::RefCell::new(Verified::default());
    for (node, name) in starts {
        let full = |path: &[u8]| match path {
            b"" => name.clone(),
            path => format!("{name}/{}", String::from_utf8_lossy(path)),
        };
        let mut each = |met: &Met<'_>| {
            check_one(tree, met, &full(met.path), &mut report.borrow_mut(), meter, cancel);
            cancel.check()
        };
        let mut failed = |path: &[u8], error: FsError| report.borrow_mut().note(full(path), error.family(), &error);
        report.borrow_mut().folders += 1;
        walk(tree, node, cancel, &mut each, &mut failed)?;
    }
    Ok(report.into_inner())
}

fn check_one(tree: &Tree, met: &Met<'_>, path: &str, report: &mut Verified, meter: &Meter, cancel: &Cancel) {
    let read = tree.metadata(met.node).and_then(|_| {
        for name in tree.xattrs(met.node)? {
            tree.xattr(met.node, &name, MOST_XATTR)?;
        }
        match met.kind {
            FileKind::Folder => report.folders += 1,
            FileKind::Link => {
                tree.link_text(met.node)?;
                report.links += 1;
            }
            FileKind::File => return tree.open(met.node).map(Some),
        }
        Ok(None)
    });
    let file = match read {
        Ok(Some(file)) => file,
        Ok(None) => return,
        Err(error) => return report.note(path.to_owned(), error.family(), &error),
    };
    let mut bytes = 0;
    let through = read_through(file.as_ref(), &mut |piece| {
        let len = u64::try_from(piece.len()).unwrap_or(0);
        bytes += len;
        meter.add(len);
        if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    report.bytes += bytes;
    match through {
        Ok(()) => report.files += 1,
        Err(error) => {
            let family = match &error {
                ReadError::Io { .. } => ErrorFamily::Io,
                ReadError::Unsupported { .. } => ErrorFamily::Unsupported,
                _ => ErrorFamily::Corrupt,
            };
            report.note(path.to_owned(), family, &error);
        }
    }
}
