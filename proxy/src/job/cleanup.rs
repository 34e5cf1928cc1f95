//! Undoing what a dead run left: from its journal, or, without one, by name and mark.

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::FutureExt;
use serde::Serialize;

use super::journal::{Act, Journal, OpenAct, Recorded};
use super::retry::{Retry, with_retries};
use super::snapshot::{made_by, remove_and_verify};
use super::{Cancel, RunId, run_of};
use crate::config::StateDir;
use crate::error::{Context, Error, Family, Result};
use crate::export::Staging;
use crate::hypervisor::{Hypervisor, Snapshot, Spec, VmId, VmInfo};
use crate::machine::Domain;

/// A request that a killed run had sent may reach the server this much later; before that nobody can say that nothing came of it.
const IN_FLIGHT: i64 = 3;
/// libvirt asks a QEMU that it does not know yet what it can do before it defines anything, which took more than 45 seconds on a busy host.
const DEFINES_WITHIN: i64 = 90;
/// How often we look for what such a request may have made.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Something that is still there, or was.
#[derive(Clone, Debug, Serialize)]
pub struct Leftover {
    /// The run that made it.
    pub run: RunId,
    /// The connection it was made over.
    pub uri: String,
    /// What it is, for people.
    pub what: String,
}

/// What a cleanup did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CleanupReport {
    /// What was undone.
    pub undone: Vec<Leftover>,
    /// What is left, and why.
    pub left: Vec<(Leftover, String)>,
    /// Journals that cannot be understood, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Runs that are alive and were not touched.
    pub alive: usize,
}

/// The journals in a state directory.
#[derive(Debug, Default)]
pub struct Runs {
    /// Of runs that are over without having said so, oldest first.
    pub dead: Vec<Recorded>,
    /// Of runs that are at work.
    pub alive: Vec<RunId>,
    /// Files that cannot be understood, and why.
    pub unreadable: Vec<(PathBuf, Error)>,
}

/// Reads all journals. One that cannot be understood keeps nobody from the others.
///
/// # Errors
/// [`Family::Failed`] if the state directory cannot be read.
pub fn runs(state: &StateDir) -> Result<Runs> {
    let folder = state.journals();
    let what = || format!("cannot read the journals in {}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(&folder).failed(what)? {
        let path = entry.failed(what)?.path();
        if path.extension().is_some_and(|e| e == "jsonl") {
            let written = fs::metadata(&path).and_then(|m| m.modified()).ok();
            paths.push((written, path));
        }
    }
    paths.sort();
    let mut found = Runs::default();
    for (_, path) in paths {
        match Recorded::open(&path) {
            Ok(Some(recorded)) => found.dead.push(recorded),
            Ok(None) => {
                let run = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
                found.alive.extend(run.map(RunId));
            }
            Err(error) => found.unreadable.push((path, error)),
        }
    }
    Ok(found)
}

/// What `act` left, for people.
fn describe(act: &Act) -> String {
    match act {
        Act::Snapshot { vm_name, .. } => format!("snapshot of {vm_name}"),
        Act::Freeze { vm_name, .. } => format!("freeze of {vm_name}"),
        Act::Point { vm_name, point, .. } => format!("checkpoint {point} of {vm_name}"),
        Act::Directory { path } => format!("incomplete directory {}", path.display()),
        Act::Mount { path, .. } => format!("mount on {}", path.display()),
        Act::DatastoreDirectory { path, .. } => format!("datastore directory {path}"),
        Act::Placed { path, .. } => format!("restored file {}", path.display()),
        Act::Domain { vm_name, .. } => format!("definition of {vm_name}"),
        Act::Registration { config_path, .. } => format!("registration of {config_path}"),
    }
}

/// Undoes one act, trying again what can pass. `hypervisor` is needed for all but local directories.
async fn undo(hypervisor: Option<&dyn Hypervisor>, run: RunId, act: &OpenAct, retry: Retry) -> Result<()> {
    match &act.what {
        Act::Directory { path } => return remove_directory(run, path),
        Act::Mount { path, made_directory } => return crate::mount::undo(run, path, *made_directory),
        Act::Placed { path, device, inode } => return remove_placed(path, *device, *inode),
        _ => {}
    }
    let hypervisor = hypervisor.ok_or_else(|| Error::new(Family::Failed, "the hypervisor cannot be reached"))?;
    if act.fact.is_none() {
        let_requests_arrive(&act.what).await;
    }
    let cancel = Cancel::never(); // this is the clean-up
    let what = format!("undoing the {}", describe(&act.what));
    let worth = |error: &Error| error.family() != Family::Unsupported;
    with_retries(retry, &cancel, &what, worth, || undo_on(hypervisor, run, act)).await
}

/// Of an act whose answer never came nobody knows when the server gets to it.
async fn let_requests_arrive(act: &Act) {
    let age = match act {
        Act::Snapshot { at, .. } => jiff::Timestamp::now().as_second().saturating_sub(*at).max(0),
        _ => 0,
    };
    let wait = IN_FLIGHT.saturating_sub(age).max(0);
    tokio::time::sleep(Duration::from_secs(wait.unsigned_abs())).await;
}

async fn undo_on(hypervisor: &dyn Hypervisor, run: RunId, act: &OpenAct) -> Result<()> {
    match &act.what {
        Act::Directory { .. } | Act::Mount { .. } | Act::Placed { .. } => Ok(()), // they are undone without it
        Act::Snapshot { .. } => undo_snapshot(hypervisor, run, act).await,
        Act::Freeze { vm, boot, .. } => match hypervisor.thaw(vm, boot.as_deref()).await {
            Err(gone) if gone.family() == Family::NoVm => Ok(()),
            thawed => thawed,
        },
        Act::Point { vm, point, .. } => match hypervisor.forget_point(vm, point).await {
            Err(gone) if gone.family() == Family::NoVm => Ok(()),
            forgotten => forgotten,
        },
        Act::DatastoreDirectory { datacenter, path } => {
            if hypervisor.is_marked(datacenter, path, run).await? {
                return hypervisor.remove_folder(datacenter, path).await;
            }
            if act.fact.is_some() {
                tracing::warn!("{path} does not bear the mark of run {run} any more and was left alone");
            }
            Ok(())
        }
        Act::Domain { .. } => undo_domain(hypervisor, run, act).await,
        Act::Registration { config_path, datacenter } => {
            let looks = if act.fact.is_some() { 1 } else { LOOKS };
            for look in 0..looks {
                if look > 0 {
                    tokio::time::sleep(BETWEEN_LOOKS).await;
                }
                if let Some(vm) = hypervisor.registered_at(datacenter, config_path).await? {
                    return hypervisor.unregister(&vm).await;
                }
            }
            Ok(())
        }
    }
}

/// Takes a definition away that bears the mark of `run`; anybody else's stays.
async fn undo_domain(hypervisor: &dyn Hypervisor, run: RunId, act: &OpenAct) -> Result<()> {
    let Act::Domain { vm, vm_name, at } = &act.what else { return Ok(()) };
    let Some(host) = hypervisor.domains() else {
        return Err(Error::new(Family::Corrupt, "the journal speaks of a domain, and this is no libvirt host"));
    };
    if let Some(xml) = host.stored_xml(vm).await? {
        if Domain::parse(&xml)?.mark() == Some(run.to_string()) {
            return host.undefine(vm).await;
        }
        if act.fact.is_some() {
            tracing::warn!("the domain {vm} does not bear the mark of run {run} any more and was left alone");
        }
        return Ok(());
    }
    let age = jiff::Timestamp::now().as_second().saturating_sub(*at).max(0);
    if act.fact.is_none() && age < DEFINES_WITHIN {
        // The caller repeats.
        return Err(Error::new(Family::Failed, format!("the host may still be about to define {vm_name}"))
            .hint("`stillframe cleanup` looks again"));
    }
    Ok(())
}

async fn undo_snapshot(hypervisor: &dyn Hypervisor, run: RunId, act: &OpenAct) -> Result<()> {
    let Act::Snapshot { vm, vm_name, vm_uuid, unconsolidated, .. } = &act.what else { return Ok(()) };
    let looks = if act.fact.is_some() { 1 } else { LOOKS };
    let mut removed = 0;
    for look in 0..looks {
        if look > 0 {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        removed += remove_made_by(hypervisor, run, vm, vm_name, *unconsolidated).await?;
        if removed > 0 {
            return Ok(());
        }
    }
    // Nothing under that id: ids may have changed since, so every VM of that UUID is looked at.
    if let Some(uuid) = vm_uuid {
        for found in hypervisor.find(&Spec::Uuid(uuid.clone())).await? {
            if found.moref != *vm {
                remove_made_by(hypervisor, run, &found.moref, vm_name, *unconsolidated).await?;
            }
        }
    }
    Ok(())
}

/// Removes every snapshot of `vm` that `run` made; answers how many. A VM that is gone has none.
async fn remove_made_by(
    hypervisor: &dyn Hypervisor,
    run: RunId,
    vm: &VmId,
    vm_name: &str,
    unconsolidated: bool,
) -> Result<usize> {
    let made = async {
        hypervisor.settle(vm).await?;
        let made = made_by(hypervisor, vm, run).await?;
        if made.is_empty() && !unconsolidated && hypervisor.needs_consolidation(vm).await? {
            return Err(Error::new(
                Family::LeftBehind,
                format!("delta files of {vm_name} are left that no snapshot owns"),
            )
            .hint("consolidate the VM's disks in the vSphere client"));
        }
        Ok(made)
    };
    let made = match made.await {
        Err(gone) if gone.family() == Family::NoVm => return Ok(0),
        made => made?,
    };
    for id in &made {
        remove_and_verify(hypervisor, vm, vm_name, id, unconsolidated, Retry::ONCE).await?; // the caller repeats
    }
    Ok(made.len())
}

/// Removes a directory of ours: by its name one that this very run had not completed.
fn remove_directory(run: RunId, path: &Path) -> Result<()> {
    if path.file_name().is_none_or(|name| name != Staging::partial_name(run).as_str()) {
        let what = format!("the journal names {}, which is no incomplete directory of run {run}", path.display());
        return Err(Error::new(Family::Corrupt, what));
    }
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).failed(|| format!("cannot remove the incomplete directory {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes what a restore of ours had placed, unless somebody put something else there.
fn remove_placed(path: &Path, device: u64, inode: u64) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let what = || format!("cannot remove {}", path.display());
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        found => found.failed(what)?,
    };
    if (found.dev(), found.ino()) != (device, inode) {
        tracing::warn!("{} is not what was placed there any more and was left alone", path.display());
        return Ok(());
    }
    if found.is_dir() { fs::remove_dir_all(path).failed(what) } else { fs::remove_file(path).failed(what) }
}

/// Undoes all open acts of `journal`, newest first. A failure is told to `left`, and the rest is undone all the same, but for what it
/// stands on: the folder of a VM that is still registered.
async fn undo_acts(
    hypervisor: Option<&dyn Hypervisor>,
    journal: &mut Journal,
    retry: Retry,
    mut undone: impl FnMut(&Act),
    mut left: impl FnMut(&Act, Error),
) {
    let run = journal.run();
    let mut unwritten = Vec::new();
    for act in journal.open_acts() {
        match undo(hypervisor, run, &act, retry).await {
            Ok(()) => {
                undone(&act.what);
                // A full disk takes no record. What is undone later may make room for it.
                if journal.settle(act.n).is_err() {
                    unwritten.push(act.n);
                }
            }
            Err(error) => {
                left(&act.what, error);
                if matches!(act.what, Act::Registration { .. } | Act::Domain { .. }) {
                    break;
                }
            }
        }
    }
    for n in unwritten {
        if let Err(error) = journal.settle(n) {
            tracing::warn!("{}; the next cleanup will look again", error.line());
        }
    }
}

/// Undoes all that a failed run of this process made.
///
/// # Errors
/// [`Family::LeftBehind`] with the first thing that is left; the journal remembers them all.
async fn undo_all(hypervisor: &dyn Hypervisor, journal: &mut Journal, retry: Retry) -> Result<()> {
    let mut first = None;
    let left = |act: &Act, error: Error| {
        let error = Error::new(Family::LeftBehind, format!("{} is left", describe(act)))
            .caused_by(error)
            .hint("`stillframe cleanup` tries again");
        first.get_or_insert(error);
    };
    undo_acts(Some(hypervisor), journal, retry, |_| {}, left).await;
    first.map_or(Ok(()), Err)
}

/// After a run of this process failed: undoes what it made. The run's own error stays the error, and says what is left.
pub(crate) async fn undone(error: Error, hypervisor: &dyn Hypervisor, mut journal: Journal, retry: Retry) -> Error {
    let left = undo_all(hypervisor, &mut journal, retry).await;
    if let Err(unwritten) = journal.finish() {
        tracing::warn!("{}", unwritten.line());
    }
    match left {
        Ok(()) => error,
        Err(left) => error.and_left(&left),
    }
}

/// Turns a panic of `work` into an error, so that what it made is undone.
pub(crate) async fn no_panic<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let caught = AssertUnwindSafe(work).catch_unwind().await;
    caught.unwrap_or_else(|_| {
        Err(Error::new(Family::Failed, "the program broke off by a fault of its own")
            .hint("please report what it printed"))
    })
}

/// Undoes what one dead run left.
///
/// # Errors
/// Only if its journal cannot be removed in the end; what is left is in the report.
pub async fn undo_run(
    mut recorded: Recorded,
    hypervisor: Option<&dyn Hypervisor>,
    retry: Retry,
    report: &mut CleanupReport,
) -> Result<()> {
    let (run, uri) = (recorded.begin.run, recorded.begin.uri.clone());
    let leftover = |act: &Act| Leftover { run, uri: uri.clone(), what: describe(act) };
    let CleanupReport { undone, left, .. } = report;
    let done = |act: &Act| undone.push(leftover(act));
    let kept = |act: &Act, error: Error| left.push((leftover(act), error.line()));
    undo_acts(hypervisor, recorded.journal(), retry, done, kept).await;
    recorded.finish()
}

/// Before a new run: undoes the snapshots and incomplete directories that dead runs left on the same server. What failed restores left
/// waits for a cleanup that somebody asks for. Every failure is a warning, the new run has its own work.
pub async fn reap(state: &StateDir, hypervisor: &dyn Hypervisor, uri: &str) {
    let found = match runs(state) {
        Ok(found) => found,
        Err(error) => return tracing::warn!("{}", error.line()),
    };
    for (_, error) in &found.unreadable {
        tracing::warn!("{}", error.line());
    }
    for mut recorded in found.dead {
        let freezing = |act: &Act| matches!(act, Act::Snapshot { .. } | Act::Point { .. } | Act::Freeze { .. });
        let ours = |act: &OpenAct| act.what.is_local() || freezing(&act.what);
        if recorded.begin.uri != uri || !recorded.journal().open_acts().iter().all(ours) {
            continue;
        }
        let mut report = CleanupReport::default();
        if let Err(error) = undo_run(recorded, Some(hypervisor), Retry::IN_PASSING, &mut report).await {
            tracing::warn!("{}", error.line());
        }
        for leftover in report.undone {
            tracing::warn!("undone what the dead run {} had left: {}", leftover.run, leftover.what);
        }
        for (leftover, why) in report.left {
            tracing::error!("{} of the dead run {} is left: {why}", leftover.what, leftover.run);
        }
    }
}

/// Before a new run that needs no hypervisor: undoes what dead runs of `uri` left on this machine, and only that. Every failure is a warning.
pub async fn reap_local(state: &StateDir, uri: &str) {
    let dead = match runs(state) {
        Ok(found) => found.dead,
        Err(error) => return tracing::warn!("{}", error.line()),
    };
    for mut recorded in dead {
        if recorded.begin.uri != uri || !recorded.journal().open_acts().iter().all(|act| act.what.is_local()) {
            continue;
        }
        let mut report = CleanupReport::default();
        if let Err(error) = undo_run(recorded, None, Retry::ONCE, &mut report).await {
            tracing::warn!("{}", error.line());
        }
        for (leftover, why) in report.left {
            tracing::warn!("{} of the dead run {} is left: {why}", leftover.what, leftover.run);
        }
    }
}

/// Snapshots that bear our name and mark, with the VM and the run. Journals may be gone, or on another proxy. A VM whose snapshots cannot
/// be listed is told to `unknown`.
///
/// # Errors
/// Those of the hypervisor's list.
pub async fn find_unjournaled(
    hypervisor: &dyn Hypervisor,
    mut unknown: impl FnMut(&VmInfo, Error),
) -> Result<Vec<(VmInfo, Snapshot, RunId)>> {
    let mut found = Vec::new();
    for vm in hypervisor.list().await?.into_iter().filter(|vm| !vm.template) {
        match hypervisor.snapshots(&vm.moref).await {
            Ok(snapshots) => {
                let ours = snapshots.into_iter().filter_map(|s| run_of(&s.name, &s.description).map(|run| (s, run)));
                found.extend(ours.map(|(snapshot, run)| (vm.clone(), snapshot, run)));
            }
            Err(error) => unknown(&vm, error),
        }
    }
    Ok(found)
}
