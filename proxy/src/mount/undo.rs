//! The way back: from a mount to the directory as it was.

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::process::geteuid;

use super::table;
use crate::config::StateDir;
use crate::error::{Context, Error, Family, Result};
use crate::job::{CleanupReport, Progress, Recorded, Retry, RunId, undo_run};

/// So long the server of a mount that is gone may take to end.
const LONGEST_END: Duration = Duration::from_secs(30);
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
    let Some(mounted) = table::at(&path)? else {
        refuse_other(&path)?;
        return Ok(Unmounted { path: shown, was_mounted: false, errors: Vec::new() });
    };
    let run = mounted.run().ok_or_else(|| Error::new(Family::Usage, format!("the mount on {shown} is not ours")))?;
    unmount_one(&path, force)?;
    progress.step(&format!("{shown}: waiting for the server of the mount to end"));
    wait_for_end(state, run).await?;
    let errors = take_log(state, run);
    undo_now(state, run).await?;
    Ok(Unmounted { path: shown, was_mounted: true, errors })
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

/// The server holds the lock of its journal as long as it lives.
pub(super) async fn wait_for_end(state: &StateDir, run: RunId) -> Result<()> {
    let (journal, began) = (journal_path(state, run), Instant::now());
    while journal.exists() && Recorded::open(&journal)?.is_none() {
        if began.elapsed() > LONGEST_END {
            return Err(Error::new(Family::LeftBehind, format!("the server of run {run} has not ended"))
                .hint("somebody has files open in the mount; `stillframe cleanup` removes the rest later"));
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Ok(())
}

fn journal_path(state: &StateDir, run: RunId) -> std::path::PathBuf {
    state.journals().join(format!("{run}.jsonl"))
}

/// What the mount's log says; the log goes, for its lines are told now.
fn take_log(state: &StateDir, run: RunId) -> Vec<String> {
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
    if let Some(recorded) = Recorded::open(&journal_path(state, run))? {
        undo_run(recorded, None, Retry::ONCE, &mut report).await?;
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
