//! Which folder a cluster belongs to: entries do not say where they are.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::{ROOT, Runs, corrupt, place_of};
use crate::{ErrorFamily, FileId, FsError};

/// The most pieces of folders that are remembered: about 48 MiB.
const MOST: usize = 1 << 20;

/// A folder as the search for an owner sees it.
pub(crate) struct Folder {
    /// Where its entries lie.
    pub(crate) runs: Runs,
    /// The folders in it.
    pub(crate) folders: Vec<FileId>,
}

/// Folders that were seen, by the place of their entries.
///
/// A folder is remembered only when it is the root or lies in a remembered one, and the first owner of a place stays. So whoever
/// goes from owner to owner comes to the root, also where a hostile folder claims to hold its own parent.
#[derive(Default)]
pub(crate) struct Owners {
    /// First byte of a piece of a folder: the byte behind it, the folder.
    pieces: Mutex<BTreeMap<u64, (u64, FileId)>>,
}

impl Owners {
    /// The folder that holds the entry of a file.
    pub(crate) fn of(&self, file: FileId) -> Option<FileId> {
        holder(&self.pieces.lock().unwrap_or_else(PoisonError::into_inner), file)
    }

    /// Remembers where the entries of a folder lie. Answers `false` where there is no room for it.
    pub(crate) fn learn(&self, folder: FileId, runs: &Runs) -> bool {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        if folder != ROOT && holder(&pieces, folder).is_none() {
            return true;
        }
        for (at, len) in runs.pieces() {
            let end = at.saturating_add(len);
            let before = pieces.range(..end).next_back();
            if before.is_some_and(|(_, (end, _))| *end > at) {
                continue; // this folder, or one that shares clusters with it
            }
            if pieces.len() >= MOST {
                return false;
            }
            pieces.insert(at, (end, folder));
        }
        true
    }

    /// The folder that holds the entry of a file; all folders are looked through from the root on until it is found. `read` reads
    /// a folder, and all that it reads is at most `budget` bytes, which is what folders can take where none share clusters.
    pub(crate) fn search(
        &self,
        file: FileId,
        budget: u64,
        read: impl Fn(FileId) -> Result<Folder, FsError>,
    ) -> Result<FileId, FsError> {
        let mut left = budget;
        let mut waiting = VecDeque::from([ROOT]);
        while let Some(folder) = waiting.pop_front() {
            let found = match read(folder) {
                Ok(found) => found,
                Err(error) if error.family() == ErrorFamily::Corrupt && folder != ROOT => continue,
                Err(error) => return Err(error),
            };
            left = left.checked_sub(found.runs.len()).ok_or_else(|| {
                corrupt("the volume", "size of all folders", "more than the volume", "folders share no clusters")
            })?;
            let seen = found.runs.pieces().next().and_then(|(at, _)| self.at(at));
            if seen.is_some_and(|owner| owner != folder) {
                continue;
            }
            let room = self.learn(folder, &found.runs);
            if let Some(owner) = self.of(file) {
                return Ok(owner);
            }
            if !room || waiting.len().saturating_add(found.folders.len()) > MOST {
                let what = format!("the folder of file {}", file.get());
                return Err(FsError::Unsupported { what, why: "the volume has more than 1048576 folders" });
            }
            waiting.extend(found.folders);
        }
        Err(FsError::NotFound { what: format!("folder that holds file {}", file.get()) })
    }

    fn at(&self, place: u64) -> Option<FileId> {
        covering(&self.pieces.lock().unwrap_or_else(PoisonError::into_inner), place)
    }
}

fn holder(pieces: &BTreeMap<u64, (u64, FileId)>, file: FileId) -> Option<FileId> {
    covering(pieces, place_of(file))
}

fn covering(pieces: &BTreeMap<u64, (u64, FileId)>, place: u64) -> Option<FileId> {
    let (_, (end, folder)) = pieces.range(..=place).next_back()?;
    if place < *end { Some(*folder) } else { None }
}
