//! The directories that a backup of changes needs: each names its base, which lies beside it.
//!
//! A base is known by its run and the digest of its manifest, not by what an image says: a backup that came from elsewhere can name
//! nothing of this machine's unless it knows both.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use blockdev::ReadAt;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use vmdk_rs::{FolderGate, Gate, PlainName, VmdkError};

use crate::error::{Context, Error, Family, Result};
use crate::export::{BaseEntry, MANIFEST_NAME, Manifest};
use crate::job::RunId;

/// Names that are looked at beside a backup whose base was renamed.
const MOST_SIBLINGS: usize = 4096;
/// A manifest has some hundred bytes per disk.
const MAX_MANIFEST: u64 = 16 << 20;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory of a backup that another one is based on.
pub(crate) struct BaseFolder {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its manifest.
    pub(crate) manifest: Manifest,
    folder: OwnedFd,
}

impl BaseFolder {
    /// Takes it apart: where it is, and what opens its files.
    pub(crate) fn into_parts(self) -> (PathBuf, FolderGate) {
        let gate = FolderGate::new(self.folder, &self.path.display().to_string());
        (self.path, gate)
    }
}

/// The base of the backup in `directory`, found by name or by run among the directories beside it.
///
/// # Errors
/// [`Family::Corrupt`] if it is not there, or is not what it was.
pub(crate) fn find(directory: &Path, base: &BaseEntry) -> Result<BaseFolder> {
    let (path, parent) = parent_of(directory)?;
    let what = || format!("{} needs its base", path.display());
    if let Some(found) = candidate(parent.as_fd(), &path, &base.directory, base).map_err(|e| e.within(what()))? {
        return Ok(found);
    }
    let beside = path.parent().unwrap_or(Path::new("/"));
    let entries = Dir::read_from(&parent).failed(|| format!("cannot read {}", beside.display()))?;
    for entry in entries.take(MOST_SIBLINGS) {
        let entry = entry.failed(|| format!("cannot read {}", beside.display()))?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let folder = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        if !folder || name.starts_with('.') || PlainName::new(name).is_err() {
            continue;
        }
        if let Some(found) = candidate(parent.as_fd(), &path, name, base).map_err(|e| e.within(what()))? {
            return Ok(found);
        }
    }
    let missing = format!("the directory {} of run {} is not in {}", base.directory, base.run, beside.display());
    Err(Error::new(Family::Corrupt, missing)
        .hint("put it back beside this one, under any name; without it only an earlier backup can be used")
        .within(what()))
}

/// The whole path of a directory, and the one that it lies in.
fn parent_of(directory: &Path) -> Result<(PathBuf, OwnedFd)> {
    let what = || format!("cannot use {}", directory.display());
    let path = std::fs::canonicalize(directory).failed(what)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(CWD, parent, flags, Mode::empty()).failed(what)?;
    Ok((path, parent))
}

/// The directory of that name, if the run made it. Links are not followed.
fn candidate(parent: BorrowedFd<'_>, of: &Path, name: &str, base: &BaseEntry) -> Result<Option<BaseFolder>> {
    #[derive(serde::Deserialize)]
    struct Head {
        run: RunId,
    }
    let path = of.with_file_name(name);
    // What is no directory, cannot be opened or has no manifest is not the one that is looked for.
    let Ok(folder) = rustix::fs::openat(parent, name, FOLDER, Mode::empty()) else { return Ok(None) };
    let Some(json) = manifest_in(folder.as_fd()) else { return Ok(None) };
    match serde_json::from_slice::<Head>(&json) {
        Ok(head) if head.run != base.run => return Ok(None),
        Err(_) if name != base.directory => return Ok(None), // it may be anything
        _ => {}
    }
    if blake3::hash(&json).to_hex().as_str() != base.manifest {
        let what =
            format!("the manifest of {} is not what it was when the changes since it were saved", path.display());
        return Err(Error::new(Family::Corrupt, what).hint("bring the directory back as it was"));
    }
    let manifest = Manifest::parse(&json).map_err(|e| e.within(format!("cannot use {}", path.display())))?;
    Ok(Some(BaseFolder { path, manifest, folder }))
}

/// The bytes of a manifest, if there is a file that can be one.
fn manifest_in(folder: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let stat = rustix::fs::statat(folder, MANIFEST_NAME, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(folder, MANIFEST_NAME, flags, Mode::empty()).ok()?);
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MAX_MANIFEST).then_some(bytes)
}

/// The base of whatever lies in `folder`: none if that is no backup, or one that needs no other.
///
/// # Errors
/// As for [`find`].
pub(crate) fn base_of_folder(folder: &Path) -> Result<Option<BaseFolder>> {
    let Ok(opened) =
        rustix::fs::openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    else {
        return Ok(None);
    };
    let Some(json) = manifest_in(opened.as_fd()) else { return Ok(None) };
    // A folder may hold any file of that name.
    let Ok(manifest) = Manifest::parse(&json) else { return Ok(None) };
    manifest.base.as_ref().map(|base| find(folder, base)).transpose()
}

/// Opens the files of an image of a backup, and its parents in the bases.
pub(crate) struct ChainGate {
    state: Mutex<At>,
}

/// The directory whose files are asked for.
struct At {
    path: PathBuf,
    base: Option<BaseEntry>,
    gate: Arc<FolderGate>,
    /// Why a parent was not found.
    trouble: Option<Error>,
}

impl ChainGate {
    /// Begins with the backup in `directory`.
    pub(crate) fn new(directory: &Path, manifest: Option<&Manifest>) -> Result<Self, VmdkError> {
        let gate = Arc::new(FolderGate::open_folder(directory)?);
        let base = manifest.and_then(|manifest| manifest.base.clone());
        Ok(Self { state: Mutex::new(At { path: directory.to_owned(), base, gate, trouble: None }) })
    }

    /// Why a parent was not found, if that is why the image was not opened.
    pub(crate) fn trouble(&self) -> Option<Error> {
        self.lock().trouble.take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, At> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate for ChainGate {
    fn open(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        let gate = Arc::clone(&self.lock().gate);
        gate.open(name)
    }

    fn open_parent_in(&self, _: &PlainName, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        let mut at = self.lock();
        // What the image calls the folder does not count: the manifest says which one it is.
        let Some(base) = at.base.take() else { return Err(VmdkError::Denied { name: name.to_string() }) };
        match find(&at.path, &base) {
            Ok(found) => {
                at.base.clone_from(&found.manifest.base);
                let (path, gate) = found.into_parts();
                (at.path, at.gate) = (path, Arc::new(gate));
            }
            Err(error) => {
                at.trouble = Some(error);
                return Err(VmdkError::Denied { name: name.to_string() });
            }
        }
        drop(at);
        self.open(name)
    }
}
