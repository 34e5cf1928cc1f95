use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// The folder where the product remembers what must be undone. Everything in it is for the user alone.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// `STILLFRAME_STATE_DIR`, else `/var/lib/stillframe` for root, else `$XDG_STATE_HOME/stillframe`
    /// (`~/.local/state/stillframe`).
    ///
    /// # Errors
    /// [`crate::Family::Failed`] if it cannot be made.
    pub fn from_environment() -> Result<Self> {
        let path = match std::env::var_os("STILLFRAME_STATE_DIR") {
            Some(dir) => PathBuf::from(dir),
            None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/stillframe"),
            None => std::env::var_os("XDG_STATE_HOME")
                .map(PathBuf::from)
                .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))
                .unwrap_or_else(std::env::temp_dir)
                .join("stillframe"),
        };
        Self::at(&path)
    }

    /// The state kept in `path`, which is made if missing.
    ///
    /// # Errors
    /// [`crate::Family::Failed`] if it cannot be made.
    pub fn at(path: &Path) -> Result<Self> {
        let what = || format!("cannot make the state directory {}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(path.join("journal")).failed(what)?;
        let path = fs::canonicalize(path).failed(what)?;
        Ok(Self { path })
    }

    /// Where the journals of runs are.
    #[must_use]
    pub fn journals(&self) -> PathBuf {
        self.path.join("journal")
    }
}
