//! Undoing what a dead run left: from its journal, or, without one, by name and mark.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::journal::{Act, Journal, MADE, OpenAct, Recorded};
use super::retry::Retry;
use super::snapshot::{made_by, remove_and_verify};
use super::{RunId, run_of};
use crate::config::StateDir;
use crate::error::{Context, Error, Family, Result};
use crate::hypervisor::{Hypervisor, SnapshotId, Spec, VmId};

/// A request that a killed run had sent may reach the server this much later; before that nobody can say that there is no snapshot.
const IN_FLIGHT: i64 = 3;

/// Something that is still there.
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
    /// Runs that are alive and were not touched.
    pub alive: usize,
}

/// The journals of runs that are over without having said so, oldest first, and the number of live ones.
///
/// # Errors
/// [`Family::Failed`] if the state directory cannot be read.
pub fn dead_runs(state: &StateDir) -> Result<(Vec<Recorded>, usize)> {
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
    let (mut dead, mut alive) = (Vec::new(), 0);
    for (_, path) in paths {
        match Recorded::open(&path)? {
            Some(recorded) => dead.push(recorded),
            None => alive += 1,
        }
    }
    Ok((dead, alive))
}

/// What `act` left, for people.
fn describe(act: &Act) -> String {
    match act {
        Act::Snapshot { vm_name, .. } => format!("snapshot of {vm_name}"),
        Act::Directory { path } => format!("incomplete directory {}", path.display()),
        Act::DatastoreDirectory { path, .. } => format!("datastore directory {path}"),
        Act::Registration { config_path, .. } => format!("registration of {config_path}"),
    }
}

/// Undoes one act. `hypervisor` is needed for all but local directories.
pub(super) async fn undo(hypervisor: Option<&dyn Hypervisor>, run: RunId, act: &OpenAct, retry: Retry) -> Result<()> {
    if let Act::Directory { path } = &act.what {
        return remove_directory(path);
    }
    let hypervisor = hypervisor.ok_or_else(|| Error::new(Family::Failed, "the hypervisor cannot be reached"))?;
    match &act.what {
        Act::Directory { .. } => Ok(()),
        Act::Snapshot { vm, vm_name, vm_uuid, at } => {
            undo_snapshot(hypervisor, run, vm, vm_name, vm_uuid.as_deref(), *at, retry).await
        }
        Act::DatastoreDirectory { datacenter, path } => {
            let made = act.fact.as_deref() == Some(MADE);
            if made || made_only_now(hypervisor, datacenter, path).await? {
                hypervisor.remove_folder(datacenter, path).await?;
            }
            Ok(())
        }
        Act::Registration { config_path, datacenter } => {
            match hypervisor.registered_at(datacenter, config_path).await? {
                Some(vm) => hypervisor.unregister(&vm).await,
                None => Ok(()),
            }
        }
    }
}

/// For a folder that a run was about to make when it died. If it can be made now, it was not there, and this one is ours. If it is
/// there, nobody knows whose it is: an empty folder left behind costs nothing, somebody's VM deleted costs everything.
async fn made_only_now(hypervisor: &dyn Hypervisor, datacenter: &str, path: &str) -> Result<bool> {
    match hypervisor.make_folder(datacenter, path).await {
        Ok(()) => Ok(true),
        Err(error) if error.family() == Family::Exists => {
            tracing::warn!(
                "{path} may be an empty folder of a restore that died, or somebody else's: it was left alone"
            );
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn undo_snapshot(
    hypervisor: &dyn Hypervisor,
    run: RunId,
    vm: &VmId,
    vm_name: &str,
    vm_uuid: Option<&str>,
    at: i64,
    retry: Retry,
) -> Result<()> {
    let age = jiff::Timestamp::now().as_second().saturating_sub(at);
    if (0..IN_FLIGHT).contains(&age) {
        tokio::time::sleep(Duration::from_secs(u64::try_from(IN_FLIGHT - age).unwrap_or_default())).await;
    }
    // Ids may have changed since: look at the VM of that id and at every VM of that UUID.
    let mut candidates = vec![vm.clone()];
    if let Some(uuid) = vm_uuid {
        let same = hypervisor.find(&Spec::Uuid(uuid.to_owned())).await?;
        candidates.extend(same.into_iter().map(|found| found.moref).filter(|found| found != vm));
    }
    for candidate in candidates {
        match remove_made_by(hypervisor, run, &candidate, vm_name, retry).await {
            Err(gone) if gone.family() == Family::NoVm => {}
            result => result?,
        }
    }
    Ok(())
}

async fn remove_made_by(hypervisor: &dyn Hypervisor, run: RunId, vm: &VmId, vm_name: &str, retry: Retry) -> Result<()> {
    hypervisor.settle(vm).await?;
    for id in made_by(hypervisor, vm, run).await? {
        remove_and_verify(hypervisor, vm, vm_name, &id, retry).await?;
    }
    Ok(())
}

fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).failed(|| format!("cannot remove the incomplete directory {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Undoes all open acts of `journal`, newest first, and goes on past failures; answers the first one.
pub(crate) async fn undo_all(
    hypervisor: Option<&dyn Hypervisor>,
    journal: &mut Journal,
    retry: Retry,
) -> std::result::Result<(), Error> {
    let mut first = None;
    for act in journal.open_acts() {
        match undo(hypervisor, journal.run(), &act, retry).await {
            Ok(()) => journal.settle(act.n)?,
            Err(error) => {
                let what = describe(&act.what);
                let error = Error::new(Family::LeftBehind, format!("{what} is left"))
                    .caused_by(error)
                    .hint("`stillframe cleanup` tries again");
                tracing::error!("{}", error.line());
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// Undoes what one dead run left.
///
/// # Errors
/// Only if the journal itself cannot be written; what is left is in the report.
pub async fn undo_run(
    mut recorded: Recorded,
    hypervisor: Option<&dyn Hypervisor>,
    retry: Retry,
    report: &mut CleanupReport,
) -> Result<()> {
    let (run, uri) = (recorded.begin.run, recorded.begin.uri.clone());
    for act in recorded.journal().open_acts() {
        let leftover = Leftover { run, uri: uri.clone(), what: describe(&act.what) };
        match undo(hypervisor, run, &act, retry).await {
            Ok(()) => {
                recorded.journal().settle(act.n)?;
                report.undone.push(leftover);
            }
            Err(error) => report.left.push((leftover, error.line())),
        }
    }
    recorded.finish()
}

/// Before a new run: undoes what dead runs left on the same server. Failures are warnings, the new run has its own worries.
///
/// # Errors
/// [`Family::Failed`] if the state directory cannot be read.
pub async fn reap(state: &StateDir, hypervisor: &dyn Hypervisor, uri: &str) -> Result<()> {
    let (dead, _) = dead_runs(state)?;
    for recorded in dead.into_iter().filter(|recorded| recorded.begin.uri == uri) {
        let mut report = CleanupReport::default();
        undo_run(recorded, Some(hypervisor), Retry::IN_PASSING, &mut report).await?;
        for leftover in report.undone {
            tracing::warn!("undone what the dead run {} had left: {}", leftover.run, leftover.what);
        }
        for (leftover, why) in report.left {
            tracing::error!("{} of the dead run {} is left: {why}", leftover.what, leftover.run);
        }
    }
    Ok(())
}

/// Snapshots that bear our name and mark: VM, snapshot and run. Journals may be gone, or on another proxy.
///
/// # Errors
/// Those of the hypervisor.
pub async fn find_unjournaled(hypervisor: &dyn Hypervisor) -> Result<Vec<(VmId, String, SnapshotId, RunId)>> {
    let mut found = Vec::new();
    for vm in hypervisor.list().await?.into_iter().filter(|vm| !vm.template) {
        for snapshot in hypervisor.snapshots(&vm.moref).await? {
            if let Some(run) = run_of(&snapshot.name, &snapshot.description) {
                found.push((vm.moref.clone(), vm.name.clone(), snapshot.id, run));
            }
        }
    }
    Ok(found)
}
