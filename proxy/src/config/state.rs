use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Context, Error, Family, Result};

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
    /// [`Family::Usage`] if there is no such place, or others may write there; [`Family::Failed`] if it cannot be made.
    pub fn from_environment() -> Result<Self> {
        let named = std::env::var_os("STILLFRAME_STATE_DIR").map(PathBuf::from);
        let home = || {
            let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
            state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))
        };
        let path = match named {
            Some(dir) => Some(dir),
            None if rustix::process::geteuid().is_root() => Some(PathBuf::from("/var/lib/stillframe")),
            None => home().map(|state| state.join("stillframe")),
        };
        let path = path.ok_or_else(|| {
            Error::new(Family::Usage, "there is no place for the state of runs")
                .hint("set STILLFRAME_STATE_DIR or HOME")
        })?;
        Self::at(&path)
    }

    /// The state kept in `path`, which is made if missing. What stands there is undone without a question, so nobody else may write there.
    ///
    /// # Errors
    /// [`Family::Usage`] if others may write there; [`Family::Failed`] if it cannot be made.
    pub fn at(path: &Path) -> Result<Self> {
        let what = || format!("cannot make the state directory {}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(path.join("journal")).failed(what)?;
        let path = fs::canonicalize(path).failed(what)?;
        for folder in [path.clone(), path.join("journal")] {
            let metadata = fs::metadata(&folder).failed(what)?;
            if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
                let what = format!(
                    "the state directory {} belongs to somebody else, or others may write to it",
                    folder.display()
                );
                return Err(Error::new(Family::Usage, what).hint("chown and chmod 700 it, or set STILLFRAME_STATE_DIR"));
            }
        }
        Ok(Self { path })
    }

    /// A lock that one backup of a VM holds, so that a second one on this machine is refused.
    ///
    /// # Errors
    /// [`Family::Exists`] if another one holds it.
    pub fn lock_vm(&self, server: &str, vm: &str) -> Result<File> {
        let name = blake3::hash(format!("{server}\n{vm}").as_bytes()).to_hex();
        let path = self.path.join(format!("vm-{}.lock", &name[..32]));
        try_lock(&path)?.ok_or_else(|| {
            Error::new(Family::Exists, format!("another backup of {vm} is at work on this machine"))
                .hint("wait until it is done")
        })
    }

    /// One of `turns` locks on `server` that is free, if one is.
    ///
    /// # Errors
    /// [`Family::Failed`] if the locks cannot be made.
    pub fn try_turn(&self, server: &str, turns: u32) -> Result<Option<File>> {
        let name = blake3::hash(server.as_bytes()).to_hex();
        for turn in 0..turns.max(1) {
            let path = self.path.join(format!("host-{}-{turn}.lock", &name[..32]));
            if let Some(locked) = try_lock(&path)? {
                return Ok(Some(locked));
            }
        }
        Ok(None)
    }

    /// Where the mounts of this machine write what goes wrong in them; made if missing.
    ///
    /// # Errors
    /// [`Family::Failed`] if it cannot be made.
    pub fn mount_logs(&self) -> Result<PathBuf> {
        let path = self.path.join("mount");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.failed(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Where the state lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the journals of runs are.
    #[must_use]
    pub fn journals(&self) -> PathBuf {
        self.path.join("journal")
    }
}

/// The file `path`, made if missing and locked; `None` if somebody else has the lock.
fn try_lock(path: &Path) -> Result<Option<File>> {
    let what = || format!("cannot lock {}", path.display());
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).failed(what)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        locked => locked.failed(what).map(|()| Some(file)),
    }
}
