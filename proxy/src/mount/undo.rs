//! The way back: from a mount to the directory as it was.

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::server::LOCAL;
use super::table;
use crate::config::StateDir;
use crate::error::{Context, Error, Family, Result};
use crate::job::{Begin, CleanupReport, Progress, Recorded, Retry, RunId, undo_run};

/// So long a server may live on after its mount before it is killed.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// So long the server of a mount that is gone may take to end.
const LONGEST_END: Duration = Duration::from_secs(30);
/// So long the keeper may take to remove the snapshot: it tries again for minutes, and large deltas take theirs.
const LONGEST_REMOVAL: Duration = Duration::from_secs(3600);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// What unmounting found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Unmounted {
    /// The directory.
    pub path: String,
    /// Whether there was something to unmount.
    pub was_mounted: bool,
    /// What the log of the mount says: the first errors, and how many there were.
    pub errors: Vec<String>,
}

/// Undoes a mount of `run` at `path`, if it is still there; then the directory, if the run made it and it is empty.
///
/// # Errors
/// [`Family::Failed`] if it cannot be unmounted or removed.
pub fn undo(run: RunId, path: &Path, made_directory: bool) -> Result<()> {
    detach(run, path)?;
    if !made_directory {
        return Ok(());
    }
    match std::fs::remove_dir(path) {
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
            Err(e).failed(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Takes the mount of this run out of the tree of files. Who has files open in it keeps them until they are closed.
pub(super) fn detach(run: RunId, path: &Path) -> Result<()> {
    match table::at(path)? {
        Some(mounted) if mounted.run() == Some(run) => unmount_one(path, true),
        _ => Ok(()),
    }
}

fn unmount_one(path: &Path, detach: bool) -> Result<()> {
    let what = || format!("cannot unmount {}", path.display());
    if !geteuid().is_root() {
        return by_helper(path, detach);
    }
    let flags = if detach { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(path, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EBUSY) => Err(busy(path)),
        unmounted => unmounted.failed(what),
    }
}

fn busy(path: &Path) -> Error {
    let mut hint = "close what is open in it, or add --force".to_owned();
    if let Some(users) = users_of(path) {
        hint = format!("{users} use it; {hint}");
    }
    Error::new(Family::Failed, format!("{} is busy", path.display())).hint(hint)
}

/// Who has a file or a current directory in it, as far as `/proc` tells this user.
fn users_of(path: &Path) -> Option<String> {
    let inside = |link: std::path::PathBuf| std::fs::read_link(link).is_ok_and(|target| target.starts_with(path));
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let files = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        if inside(process.path().join("cwd")) || files.map(|file| file.path()).any(inside) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("{} ({pid})", name.trim().replace(char::is_control, "?")));
        }
        if found.len() == 5 {
            break;
        }
    }
    (!found.is_empty()).then(|| found.join(", "))
}

/// fusermount3 is allowed to unmount what its user mounted.
fn by_helper(path: &Path, detach: bool) -> Result<()> {
    let what = || format!("cannot unmount {}", path.display());
    let mut helper = std::process::Command::new("fusermount3");
    helper.arg("-u").args(detach.then_some("-z")).arg("--").arg(path);
    let output = helper.output().failed(what).map_err(|e| e.hint("install fusermount3 (package fuse3)"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("busy") { Err(busy(path)) } else { Err(Error::new(Family::Failed, what()).caused_by(said)) }
}

/// Unmounts the mount of ours at `path`, waits for its server and removes what the run made. A path where nothing is mounted, or nothing is
/// at all, is no error: it may be the second call.
///
/// # Errors
/// [`Family::Failed`] if it is busy; [`Family::Usage`] if what is mounted there is not ours, or `path` is a directory that holds files.
pub async fn unmount(state: &StateDir, path: &Path, force: bool, progress: &Progress) -> Result<Unmounted> {
    let path = table::whole(path)?;
    let shown = path.display().to_string();
    let mounted = table::at(&path)?;
    let was_mounted = mounted.is_some();
    let run = match mounted {
        Some(mounted) => {
            let run = mounted.run();
            let run = run.ok_or_else(|| Error::new(Family::Usage, format!("the mount on {shown} is not ours")))?;
            if !journal_path(state, run).exists() && !force {
                let what = format!("the mount on {shown} was made with another state directory");
                return Err(
                    Error::new(Family::Usage, what).hint("set STILLFRAME_STATE_DIR as it was then, or add --force")
                );
            }
            unmount_one(&path, force)?;
            run
        }
        // It may be the second call, and the first one was broken off while a snapshot was being removed.
        None => match run_that_mounted(state, &path) {
            Some(run) => run,
            None => {
                refuse_other(&path)?;
                return Ok(Unmounted { path: shown, was_mounted, errors: Vec::new() });
            }
        },
    };
    let begin = Begin::peek(&journal_path(state, run));
    let kept = begin.as_ref().is_some_and(|begin| begin.uri != LOCAL);
    progress.step(&match kept {
        true => format!("{shown}: waiting until its snapshot is gone"),
        false => format!("{shown}: waiting for the server of the mount to end"),
    });
    match begin.filter(|_| !kept) {
        Some(begin) => wait_for_end(state, run, LONGEST_END, Some(begin.pid)).await?,
        None => wait_for_end(state, run, LONGEST_REMOVAL, None).await?,
    }
    let outcome = if kept { outcome_of(state, run).await } else { Ok(()) };
    let errors = take_log(state, run);
    undo_now(state, run).await.map_err(|left| match (&outcome, errors.last()) {
        (Err(why), _) => left.caused_by(why.line()),
        (Ok(()), Some(last)) => left.caused_by(last.clone()),
        (Ok(()), None) => left,
    })?;
    outcome?;
    Ok(Unmounted { path: shown, was_mounted, errors })
}

/// The run, alive or dead, whose journal speaks of a mount at `path`.
fn run_that_mounted(state: &StateDir, path: &Path) -> Option<RunId> {
    let journals = std::fs::read_dir(state.journals()).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut begins = journals.filter_map(|journal| Begin::of_mount(&journal, path));
    begins.next().map(|begin| begin.run)
}

/// What a keeper says of its end.
#[derive(serde::Serialize, serde::Deserialize)]
struct Outcome {
    exit_code: u8,
    line: String,
}

fn outcome_path(state: &StateDir, run: RunId) -> Result<std::path::PathBuf> {
    Ok(state.mount_logs()?.join(format!("{run}.outcome")))
}

/// Writes down how a keeper ended, for whoever unmounts.
pub(super) fn write_outcome(state: &StateDir, run: RunId, result: &Result<()>) -> Result<()> {
    let outcome = match result {
        Ok(()) => Outcome { exit_code: 0, line: String::new() },
        Err(error) => Outcome { exit_code: error.family().exit_code(), line: error.line() },
    };
    let path = outcome_path(state, run)?;
    let what = || format!("cannot write {}", path.display());
    let text = serde_json::to_vec(&outcome).failed(what)?;
    let hidden = path.with_extension("new");
    std::fs::write(&hidden, text).and_then(|()| std::fs::rename(&hidden, &path)).failed(what)
}

/// How a keeper ended, if it came to say so. It says so a moment after it let its journal go.
pub(super) async fn outcome_of(state: &StateDir, run: RunId) -> Result<()> {
    let path = outcome_path(state, run)?;
    let began = Instant::now();
    // One that was killed left its journal, and says nothing.
    let longest = if journal_path(state, run).exists() { Duration::from_secs(1) } else { LONGEST_END };
    let text = loop {
        match std::fs::read(&path) {
            Ok(text) => break text,
            Err(_) if began.elapsed() > longest => return Ok(()),
            Err(_) => tokio::time::sleep(BETWEEN_LOOKS).await,
        }
    };
    let _ = std::fs::remove_file(&path); // it does no harm
    match serde_json::from_slice::<Outcome>(&text) {
        Ok(Outcome { exit_code: 0, .. }) | Err(_) => Ok(()),
        Ok(Outcome { exit_code, line }) => Err(Error::new(Family::of_exit_code(exit_code), line)),
    }
}

fn refuse_other(path: &Path) -> Result<()> {
    let wrong = |what: &str| Err(Error::new(Family::Usage, format!("{} {what}", path.display())));
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).failed(|| format!("cannot look at {}", path.display())),
        Ok(metadata) if !metadata.is_dir() => wrong("is no mount"),
        Ok(_) => match std::fs::read_dir(path).failed(|| format!("cannot look into {}", path.display()))?.next() {
            None => Ok(()),
            Some(_) => wrong("is no mount of ours"),
        },
    }
}

/// The server of a mount, or the keeper of its disks, holds the lock of its journal as long as it lives. A server (`pid`) that does not end
/// although its mount is gone is killed after a while: see [`Started::ended`](super::Started::ended), which does the same for a keeper.
async fn wait_for_end(state: &StateDir, run: RunId, longest: Duration, pid: Option<u32>) -> Result<()> {
    let (journal, began) = (journal_path(state, run), Instant::now());
    let mut pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    while journal.exists() && Recorded::open(&journal)?.is_none() {
        if began.elapsed() > longest {
            return Err(Error::new(Family::LeftBehind, format!("run {run} has not ended"))
                .hint("`stillframe cleanup` removes the rest when it has"));
        }
        // Who holds the lock is alive, so the number is still its own.
        if began.elapsed() > GRACE
            && let Some(pid) = pid.take()
        {
            let _ = kill_process(pid, Signal::KILL); // it may just have ended
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Ok(())
}

fn journal_path(state: &StateDir, run: RunId) -> std::path::PathBuf {
    state.journals().join(format!("{run}.jsonl"))
}

/// What the mount's log says; the log goes, for its lines are told now.
pub(super) fn take_log(state: &StateDir, run: RunId) -> Vec<String> {
    let Ok(folder) = state.mount_logs() else { return Vec::new() };
    let path = folder.join(format!("{run}.log"));
    let text = std::fs::read(&path).unwrap_or_default();
    let _ = std::fs::remove_file(&path); // a log that stays does no harm
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

/// Undoes what a run of this machine left.
///
/// # Errors
/// [`Family::LeftBehind`] if something is left.
pub(super) async fn undo_now(state: &StateDir, run: RunId) -> Result<()> {
    let mut report = CleanupReport::default();
    let journal = journal_path(state, run);
    match Recorded::open(&journal)? {
        Some(recorded) => undo_run(recorded, None, Retry::ONCE, &mut report).await?,
        None if journal.exists() => {
            return Err(Error::new(Family::LeftBehind, format!("run {run} is at work, or being cleaned up")));
        }
        None => {}
    }
    take_log(state, run);
    match report.left.first() {
        None => Ok(()),
        Some((leftover, why)) => Err(Error::new(Family::LeftBehind, format!("{} is left: {why}", leftover.what))
            .hint("`stillframe cleanup` tries again")),
    }
}

/// The mounts of ours on this machine: run and directory.
///
/// # Errors
/// [`Family::Failed`] if the table of mounts cannot be read.
pub fn mounts() -> Result<Vec<(RunId, std::path::PathBuf)>> {
    Ok(table::read()?.into_iter().filter_map(|mounted| Some((mounted.run()?, mounted.point))).collect())
}
