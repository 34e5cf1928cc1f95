//! The directory that is mounted on: made by the run, or there and empty.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::table;
use crate::error::{Context, Error, Family, Result};

/// A directory that may be mounted on.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    /// Whether it has to be made, and so to be removed in the end.
    pub(super) missing: bool,
}

impl Directory {
    /// Looks whether `path` may be mounted on. Nothing is changed.
    ///
    /// # Errors
    /// [`Family::Usage`] if its parent is missing; [`Family::Exists`] if something lies there.
    pub(super) fn plan(path: &Path) -> Result<Self> {
        let path = table::whole(path)?;
        let exists = |what: &str| Error::new(Family::Exists, format!("{} {what}", path.display()));
        if let Some(mounted) = table::at(&path)? {
            let error = exists("is a mount already");
            return Err(match mounted.run() {
                Some(_) => error.hint("`stillframe unmount` ends it"),
                None => error,
            });
        }
        match std::fs::symlink_metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self { path, missing: true }),
            Err(e) => return Err(e).failed(|| format!("cannot look at {}", path.display())),
            Ok(metadata) if !metadata.is_dir() => return Err(exists("is there and no directory")),
            Ok(_) => {}
        }
        let mut entries = std::fs::read_dir(&path).failed(|| format!("cannot look into {}", path.display()))?;
        match entries.next() {
            None => Ok(Self { path, missing: false }),
            Some(_) => Err(exists("is not empty").hint("name a new or an empty directory")),
        }
    }

    /// Makes it if it is missing.
    pub(super) fn make(&self) -> Result<()> {
        if !self.missing {
            return Ok(());
        }
        let made = std::fs::DirBuilder::new().mode(0o755).create(&self.path);
        made.failed(|| format!("cannot make {}", self.path.display()))
    }
}
