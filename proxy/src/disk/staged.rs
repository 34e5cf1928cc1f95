//! Files that get their final names only when they are complete.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use crate::config::StateDir;
use crate::error::{Context, Error, Family, Result};
use crate::export::Staging;
use crate::job::{Act, Journal, RunId};
use crate::sync_folder;

/// A folder beside the target in which files are written. What a killed run leaves of it, `stillframe cleanup` removes.
pub(super) struct Staged {
    target: PathBuf,
    folder: PathBuf,
    journal: Journal,
    act: u32,
}

impl Staged {
    /// Makes the folder. `target` is the file with the final name; it must not exist.
    pub(super) fn begin(target: &Path, command: &str) -> Result<Self> {
        let run = RunId::new();
        let staging = Staging::plan(target, run)?;
        let mut journal = Journal::begin(&StateDir::from_environment()?, run, command, "this machine")?;
        let act = journal.intend(Act::Directory { path: staging.path().to_owned() })?;
        if let Err(error) = staging.create() {
            journal.settle(act)?;
            journal.finish()?;
            return Err(error);
        }
        Ok(Self { target: staging.target().to_owned(), folder: staging.path().to_owned(), journal, act })
    }

    /// Where the files are written.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file name of the target.
    pub(super) fn name(&self) -> Result<&str> {
        let name = self.target.file_name().and_then(|name| name.to_str());
        name.ok_or_else(|| Error::new(Family::Usage, format!("{} is no name for a file", self.target.display())))
    }

    /// Refuses if a file of the folder would replace another one. The copy may take hours, so this is asked first.
    pub(super) fn check_free(&self) -> Result<()> {
        for name in self.names()? {
            let path = self.final_path(&name);
            if fs::symlink_metadata(&path).is_ok() {
                return Err(exists(&path));
            }
        }
        Ok(())
    }

    /// Gives all files their final names, the target last: with it the image is complete. Answers them, the target first.
    pub(super) fn commit(mut self) -> Result<Vec<PathBuf>> {
        let mut paths = match self.move_all() {
            Ok(paths) => paths,
            Err(error) => {
                self.discard();
                return Err(error);
            }
        };
        paths.reverse();
        fs::remove_dir(&self.folder).failed(|| format!("cannot remove {}", self.folder.display()))?;
        self.journal.settle(self.act)?;
        self.journal.finish()?;
        Ok(paths)
    }

    /// Removes everything.
    pub(super) fn discard(mut self) {
        // What cannot be removed stays in the journal.
        if fs::remove_dir_all(&self.folder).is_ok() && self.journal.settle(self.act).is_ok() {
            let _ = self.journal.finish();
        }
    }

    fn names(&self) -> Result<Vec<std::ffi::OsString>> {
        let what = || format!("cannot read {}", self.folder.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).failed(what)? {
            names.push(entry.failed(what)?.file_name());
        }
        names.sort_by_key(|name| (Some(name.as_os_str()) == self.target.file_name(), name.clone()));
        Ok(names)
    }

    fn final_path(&self, name: &std::ffi::OsStr) -> PathBuf {
        self.target.with_file_name(name)
    }

    fn move_all(&self) -> Result<Vec<PathBuf>> {
        let mut moved: Vec<PathBuf> = Vec::new();
        for name in self.names()? {
            let path = self.final_path(&name);
            let from = self.folder.join(&name);
            // A guest's disk is for its owner alone, as in a backup directory.
            let _ = fs::set_permissions(&from, fs::Permissions::from_mode(0o600));
            match move_to_new(&from, &path) {
                Ok(()) => moved.push(path),
                Err(error) => {
                    for path in moved {
                        let _ = fs::remove_file(path); // they were made by this run
                    }
                    return Err(match error {
                        rustix::io::Errno::EXIST => exists(&path),
                        other => Error::new(Family::Failed, format!("cannot complete {}", path.display()))
                            .caused_by(std::io::Error::from(other)),
                    });
                }
            }
        }
        let parent = self.target.parent().unwrap_or(Path::new("."));
        sync_folder(parent).failed(|| format!("cannot complete {}", self.target.display()))?;
        Ok(moved)
    }
}

/// Gives a file another name, which nobody has.
pub(crate) fn move_to_new(from: &Path, to: &Path) -> std::result::Result<(), rustix::io::Errno> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Network file systems do not know the flag; a second name is never given over another file either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            rustix::fs::link(from, to)?;
            rustix::fs::unlink(from)
        }
        moved => moved,
    }
}

fn exists(path: &Path) -> Error {
    Error::new(Family::Exists, format!("{} exists", path.display()))
        .hint("remove it or name another file; nothing is ever overwritten")
}
