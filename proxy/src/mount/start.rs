//! The process that starts a mount: it waits until the mount is ready, and undoes what is there if it does not come to that.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::directory::Directory;
use super::link;
use super::report::Report;
use super::server::{LOCAL, SERVER_COMMAND};
use super::spec::{Answer, MountSpec, receive, send};
use super::undo::undo_now;
use crate::config::StateDir;
use crate::error::{Context, Error, Family, Result};
use crate::job::{Cancel, RunId, reap_local};

/// So long the server may take to read what is on the disks.
const LONGEST_START: Duration = Duration::from_secs(900);
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

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

/// Starts a server for `spec` and waits until its mount is ready. `links` are connections to the process that keeps the disks, if one does.
///
/// # Errors
/// Those of the server; [`Family::Cancelled`]. Then nothing is left, or the error says what.
pub async fn start(spec: &MountSpec, program: &Program, links: Vec<UnixStream>, cancel: &Cancel) -> Result<Started> {
    let state = StateDir::at(&spec.state)?;
    reap_local(&state, LOCAL).await;
    Directory::plan(&spec.directory)?;
    let (mut control, theirs) = UnixStream::pair().failed(|| "cannot make a socket pair".into())?;
    let mut server = Command::new(&program.path)
        .args(&program.arguments)
        // Nothing of the caller's: a password may be in it, and the server reads what a guest wrote.
        .env_clear()
        // 200 mounts are 200 such processes: what the C library keeps for itself is kept small.
        .env("MALLOC_ARENA_MAX", "2")
        .env("MALLOC_MMAP_THRESHOLD_", "262144")
        .env("MALLOC_TRIM_THRESHOLD_", "262144")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .failed(|| format!("cannot start {}", program.path.display()))?;
    let ready = async {
        link::send_streams(&control, &links).failed(|| "cannot hand the disks over".into())?;
        drop(links);
        send(&mut control, spec)?;
        let answer = cancel.or_stop(crate::disk::blocking(move || receive::<Answer>(&control)));
        let answer = tokio::time::timeout(LONGEST_START, answer).await.map_err(|_| {
            Error::new(Family::Failed, "the server of the mount was not ready in time")
                .hint("the disks are slow or damaged; `stillframe fs verify` shows more")
        })??;
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
    /// Takes note of the end of a server that a test killed.
    #[cfg(test)]
    pub(super) fn wait_for_test(&mut self) {
        let _ = self.server.wait();
    }

    /// Waits until the mount is gone and its server has ended; a cancel unmounts it. A server that does not end although its mount is gone is
    /// killed: somebody who copied the tree of mounts meanwhile, as containers do, keeps its file system alive, or it hangs.
    ///
    /// # Errors
    /// [`Family::Failed`] if the server ended badly by itself.
    pub(super) async fn ended(mut self, run: RunId, path: &Path, cancel: &Cancel) -> Result<()> {
        let pid = Pid::from_child(&self.server);
        let wait = move || self.server.wait().failed(|| "cannot wait for the server".into());
        let mut waiting = tokio::task::spawn_blocking(wait);
        let (mut gone_since, mut killed) = (None, false);
        loop {
            if let Ok(ended) = tokio::time::timeout(BETWEEN_LOOKS, &mut waiting).await {
                let status = ended.failed(|| "the wait for the server was stopped".into())??;
                return if killed { Ok(()) } else { check_end(status) };
            }
            if cancel.is_cancelled() {
                super::undo::detach(run, path)?;
            }
            if super::table::at(path)?.is_some_and(|mounted| mounted.run() == Some(run)) {
                continue;
            }
            if gone_since.get_or_insert_with(Instant::now).elapsed() > super::undo::GRACE && !killed {
                tracing::warn!("the server did not end although its mount was gone, and was killed");
                killed = kill_process(pid, Signal::KILL).is_ok();
            }
        }
    }

    /// Waits until the mount is gone; a cancel unmounts it. Then nothing of the run is left.
    ///
    /// # Errors
    /// [`Family::LeftBehind`] if something is left.
    pub async fn stay(self, spec: &MountSpec, cancel: &Cancel) -> Result<()> {
        let state = StateDir::at(&spec.state)?;
        let path = super::table::whole(&spec.directory)?;
        let ended = self.ended(spec.run, &path, cancel).await;
        super::undo::take_log(&state, spec.run).iter().for_each(|line| crate::tell(line));
        undo_now(&state, spec.run).await?;
        ended
    }
}

/// A server that ended by itself did so because its mount was gone.
fn check_end(status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(Error::new(Family::Failed, format!("the server of the mount ended: {status}"))
        .hint("please report what its log says"))
}
