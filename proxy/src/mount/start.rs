//! The process that starts a mount: it waits until the mount is ready, and undoes what is there if it does not come to that.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::directory::Directory;
use super::report::Report;
use super::server::{LOCAL, SERVER_COMMAND};
use super::spec::{Answer, MountSpec, receive, send};
use super::undo::undo_now;
use crate::config::StateDir;
use crate::error::{Context, Error, Family, Result};
use crate::job::{Cancel, reap_local};

/// How the server is started.
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Program {
    /// This program itself.
    ///
    /// # Errors
    /// [`Family::Failed`] if it cannot be found.
    pub fn this() -> Result<Self> {
        let path = std::env::current_exe().failed(|| "cannot find this program".into())?;
        Ok(Self { path, arguments: vec![SERVER_COMMAND.into()] })
    }
}

/// A mount whose server runs.
pub struct Started {
    /// What it shows.
    pub report: Report,
    server: Child,
}

/// Starts a server for `spec` and waits until its mount is ready.
///
/// # Errors
/// Those of the server; [`Family::Cancelled`]. Then nothing is left, or the error says what.
pub async fn start(spec: &MountSpec, program: &Program, cancel: &Cancel) -> Result<Started> {
    let state = StateDir::at(&spec.state)?;
    reap_local(&state, LOCAL).await;
    Directory::plan(&spec.directory)?;
    let (mut control, theirs) = UnixStream::pair().failed(|| "cannot make a socket pair".into())?;
    let mut server = Command::new(&program.path)
        .args(&program.arguments)
        // 200 mounts are 200 such processes: what the C library keeps for itself is kept small.
        .env("MALLOC_ARENA_MAX", "2")
        .env("MALLOC_MMAP_THRESHOLD_", "262144")
        .env("MALLOC_TRIM_THRESHOLD_", "262144")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .failed(|| format!("cannot start {}", program.path.display()))?;
    let ready = async {
        send(&mut control, spec)?;
        let answer = cancel.or_stop(crate::disk::blocking(move || receive::<Answer>(&control))).await?;
        answer
            .ok_or_else(|| Error::new(Family::Failed, "the server of the mount ended before it was ready"))?
            .into_result()
    };
    match ready.await {
        Ok(report) => Ok(Started { report, server }),
        Err(error) => {
            let _ = server.kill(); // it may have ended by itself
            let _ = server.wait();
            match undo_now(&state, spec.run).await {
                Ok(()) => Err(error),
                Err(left) => Err(error.and_left(&left)),
            }
        }
    }
}

impl Started {
    /// Waits until the mount is gone; a cancel unmounts it.
    ///
    /// # Errors
    /// [`Family::LeftBehind`] if something is left.
    pub async fn stay(mut self, spec: &MountSpec, cancel: &Cancel) -> Result<()> {
        let state = StateDir::at(&spec.state)?;
        let (run, path) = (spec.run, PathBuf::from(&self.report.path));
        let ended = crate::disk::blocking(move || self.server.wait().failed(|| "cannot wait for the server".into()));
        let ended = cancel.or_stop(ended).await;
        if matches!(&ended, Err(error) if error.family() == Family::Cancelled) {
            super::undo::detach(run, &path)?;
            super::undo::wait_for_end(&state, run).await?;
        }
        undo_now(&state, run).await?;
        match ended {
            Ok(status) if !status.success() => Err(Error::new(Family::Failed, format!("the server ended: {status}"))),
            Err(error) if error.family() != Family::Cancelled => Err(error),
            _ => Ok(()),
        }
    }
}
