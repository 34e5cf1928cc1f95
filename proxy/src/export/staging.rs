//! A directory that gets its final name only when it is complete.

use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use crate::error::{Context, Error, Family, Result};
use crate::job::RunId;
use crate::sync_folder;

/// A directory on its way to its final name.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    partial: PathBuf,
}

impl Staging {
    /// Looks whether `target` can be made: its parent must exist, it itself must not (vcb.md section 4). Nothing is made yet.
    ///
    /// # Errors
    /// [`Family::Usage`] or [`Family::Exists`].
    pub fn plan(target: &Path, run: RunId) -> Result<Self> {
        let usage = |what: String| Error::new(Family::Usage, what);
        let leaf = target
            .file_name()
            .and_then(|leaf| leaf.to_str())
            .ok_or_else(|| usage(format!("{} is no name for a directory", target.display())))?
            .to_owned();
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // With the slash a file is no directory.
        let parent = fs::canonicalize(parent.join("")).map_err(|e| {
            usage(format!("the directory {} cannot be used", parent.display()))
                .caused_by(e)
                .hint("make it first; only the last part of the path is made by the run")
        })?;
        let target = parent.join(&leaf);
        match fs::symlink_metadata(&target) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(usage(format!("{} cannot be used", target.display())).caused_by(e)),
            Ok(_) => {
                return Err(Error::new(Family::Exists, format!("{} exists", target.display()))
                    .hint("remove it or name another directory; nothing is ever overwritten"));
            }
        }
        let partial = parent.join(Self::partial_name(run));
        Ok(Self { target, partial })
    }

    /// What a run calls its directory while it is incomplete. Undoing removes nothing that is called otherwise.
    #[must_use]
    pub fn partial_name(run: RunId) -> String {
        format!(".stillframe-{run}.partial")
    }

    /// The directory while it is incomplete.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// The directory once it is complete.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes the incomplete directory. Guest disks are for the owner alone.
    ///
    /// # Errors
    /// [`Family::Failed`].
    pub fn create(&self) -> Result<()> {
        DirBuilder::new().mode(0o700).create(&self.partial).map_err(|e| {
            with_space_hint(Error::new(Family::Failed, format!("cannot make {}", self.partial.display())).caused_by(e))
        })
    }

    /// Writes one small file, synced.
    ///
    /// # Errors
    /// [`Family::Failed`].
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.partial.join(name);
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|e| {
            with_space_hint(Error::new(Family::Failed, format!("cannot write {}", path.display())).caused_by(e))
        })
    }

    /// Gives the directory its final name, durably. If somebody else made that name meanwhile, theirs stays.
    ///
    /// # Errors
    /// [`Family::Exists`] or [`Family::Failed`].
    pub fn commit(&self) -> Result<()> {
        let what = || format!("cannot complete {}", self.target.display());
        sync_folder(&self.partial).failed(what)?;
        match rustix::fs::renameat_with(CWD, &self.partial, CWD, &self.target, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => {
                return Err(Error::new(
                    Family::Exists,
                    format!("{} was made by somebody else meanwhile", self.target.display()),
                ));
            }
            renamed => renamed.failed(what)?,
        }
        self.target.parent().map_or(Ok(()), sync_folder).failed(what)
    }
}

/// Says what to do if the cause is a full disk.
pub(crate) fn with_space_hint(error: Error) -> Error {
    let mut next = std::error::Error::source(&error);
    let mut full = false;
    while let Some(cause) = next {
        full |= cause.downcast_ref::<std::io::Error>().is_some_and(|e| {
            matches!(
                e.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge
            )
        });
        next = cause.source();
    }
    if full { error.hint("the destination is full; make room or name another one, nothing was kept") } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stands_under_the_final_name_before_the_commit() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("vm 1");
        let staging = Staging::plan(&target, RunId::new()).unwrap();
        staging.create().unwrap();
        staging.write_file("catalog", b"x").unwrap();
        assert!(!target.exists());
        staging.commit().unwrap();
        assert_eq!(fs::read(target.join("catalog")).unwrap(), b"x");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_existing_leaf_and_a_missing_parent_are_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Staging::plan(dir.path(), RunId::new()).unwrap_err().family(), Family::Exists);
        let orphan = dir.path().join("no/vm1");
        assert_eq!(Staging::plan(&orphan, RunId::new()).unwrap_err().family(), Family::Usage);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_name_that_somebody_took_meanwhile_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("vm1");
        let staging = Staging::plan(&target, RunId::new()).unwrap();
        staging.create().unwrap();
        fs::create_dir(&target).unwrap();
        assert_eq!(staging.commit().unwrap_err().family(), Family::Exists);
    }
}
