//! The snapshot of a run: made under a journal entry, removed and seen to be gone.

use std::time::Instant;

use super::journal::{Act, Journal};
use super::retry::{Retry, with_retries};
use super::{Cancel, RunId, SNAPSHOT_NAME, SNAPSHOT_NAMES, run_of};
use crate::error::{Error, Family, Result};
use crate::hypervisor::{
    DiskAddress, FreezeRequest, Hypervisor, Power, SnapshotId, VmConfig, VmId, is_quiesce_failure, is_refusal,
};
use crate::transport::Route;

/// What is asked of the guest before a snapshot (vcb.md section 2, decision for 1b).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quiesce {
    /// A guest that cannot be quiesced fails the run; no snapshot is left.
    Require,
    /// A guest that cannot be quiesced is snapshotted anyway, and the image is marked crash-consistent.
    Try,
    /// Nothing is asked of the guest.
    None,
}

/// What a run wants frozen.
#[derive(Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) quiesce: Quiesce,
    pub(super) disks: &'a [DiskAddress],
    pub(super) route: Route,
    /// The points since which changes are wanted.
    pub(super) since: &'a [(DiskAddress, String)],
    /// Whether a later backup may want the changes since this one.
    pub(super) keep_point: bool,
}

/// A snapshot that this run made.
pub(super) struct Made {
    pub(super) id: SnapshotId,
    pub(super) act: u32,
    /// The act of the point that was made beside it. The run settles it when its backup is there; else the point is removed with the rest.
    pub(super) point: Option<u32>,
    /// The act of a freeze whose end nobody has seen: the guest's agent went silent. The run asks again at its end.
    pub(super) freeze: Option<u32>,
    pub(super) quiesced: bool,
    /// Whether delta files without a snapshot were there before.
    pub(super) unconsolidated: bool,
    /// How long the guest stood still, in milliseconds; where the host does not tell, the time of the whole call.
    pub(super) took_ms: u64,
    /// What went wrong on the way, for the report.
    pub(super) warnings: Vec<String>,
}

/// Makes the run's snapshot by the rules of `quiesce`.
pub(super) async fn make(
    hypervisor: &dyn Hypervisor,
    config: &VmConfig,
    wish: &Wish<'_>,
    journal: &mut Journal,
    cancel: &Cancel,
) -> Result<Made> {
    let vm = &config.info;
    let tools = hypervisor.quiescer();
    let missing = config.tools_missing.clone().unwrap_or_else(|| format!("{tools} does not run in the guest"));
    let wanted = wish.quiesce != Quiesce::None && vm.power == Some(Power::On);
    if wanted && !config.tools_running {
        if wish.quiesce == Quiesce::Require {
            return Err(Error::new(Family::Failed, format!("{} cannot be quiesced: {missing}", vm.name))
                .hint(format!("start {tools} in the guest, or use --quiesce try")));
        }
        tracing::warn!("{}: {missing}; the image will be crash-consistent", vm.name);
    }
    let unconsolidated = cancel.or_stop(hypervisor.needs_consolidation(&vm.moref)).await?;
    let ask = wanted && config.tools_running;
    let point = match hypervisor.point_of(journal.run()).filter(|_| wish.keep_point) {
        Some(point) => {
            let intent = Act::Point { vm: vm.moref.clone(), vm_name: vm.name.clone(), point };
            Some(journal.intend(intent)?)
        }
        None => None,
    };
    let made = |made: Made| Made { point, ..made };
    let silent;
    let error = match attempt(hypervisor, config, wish, ask, unconsolidated, journal).await {
        Ok(first) => return Ok(made(first)),
        Err((act, error)) => {
            silent = act.freeze;
            settle_refusal(hypervisor, config, act.snapshot, error, journal).await?
        }
    };
    if !ask || wish.quiesce == Quiesce::Require || !is_quiesce_failure(&error) {
        return Err(error);
    }
    tracing::warn!("{}: {}; the image will be crash-consistent", vm.name, error.line());
    cancel.check()?;
    match attempt(hypervisor, config, wish, false, unconsolidated, journal).await {
        Ok(second) => Ok(Made { freeze: silent, ..made(second) }),
        Err((act, error)) => Err(settle_refusal(hypervisor, config, act.snapshot, error, journal).await?),
    }
}

/// At the end of a run: asks again for the thaw of a guest whose agent went silent while it was being frozen.
///
/// # Errors
/// [`Family::LeftBehind`] if it is silent still: then the guest may stand still, or do so when its agent goes on.
pub(super) async fn thaw_late(
    hypervisor: &dyn Hypervisor,
    config: &VmConfig,
    snapshot: &Made,
    journal: &mut Journal,
) -> Result<()> {
    let Some(act) = snapshot.freeze else { return Ok(()) };
    let vm = &config.info;
    match hypervisor.thaw(&vm.moref).await {
        Ok(()) => journal.settle(act),
        Err(error) => Err(Error::new(Family::LeftBehind, format!("{} may be left frozen", vm.name))
            .caused_by(error)
            .hint("look at the freeze hooks in the guest; `stillframe cleanup` tries the thaw again")),
    }
}

/// The acts of an attempt that failed; 0 for a snapshot that was never written down.
#[derive(Clone, Copy, Default)]
struct Acts {
    snapshot: u32,
    /// A freeze whose end nobody has seen.
    freeze: Option<u32>,
}

/// When the server said no, and lists nothing of ours, there is nothing to undo. Answers the error all the same.
async fn settle_refusal(
    hypervisor: &dyn Hypervisor,
    config: &VmConfig,
    act: u32,
    error: Error,
    journal: &mut Journal,
) -> Result<Error> {
    if is_refusal(&error) && made_by(hypervisor, &config.info.moref, journal.run()).await?.is_empty() {
        journal.settle(act)?;
    }
    Ok(error)
}

/// One call. A failure comes with the numbers of its acts.
async fn attempt(
    hypervisor: &dyn Hypervisor,
    config: &VmConfig,
    wish: &Wish<'_>,
    quiesce: bool,
    unconsolidated: bool,
    journal: &mut Journal,
) -> Result<Made, (Acts, Error)> {
    let vm = &config.info;
    let description = journal.run().description();
    let intent = Act::Snapshot {
        vm: vm.moref.clone(),
        vm_name: vm.name.clone(),
        vm_uuid: vm.uuid.clone(),
        at: jiff::Timestamp::now().as_second(),
        unconsolidated,
    };
    let act = journal.intend(intent).map_err(|error| (Acts::default(), error))?;
    let mut acts = Acts { snapshot: act, freeze: None };
    if quiesce && hypervisor.freezes_by_hand() {
        let freeze = Act::Freeze { vm: vm.moref.clone(), vm_name: vm.name.clone() };
        acts.freeze = Some(journal.intend(freeze).map_err(|error| (acts, error))?);
    }
    let began = Instant::now();
    // Not cut by a cancel: the server goes on whatever we do, so we wait and then undo.
    let request = FreezeRequest {
        vm: config,
        run: journal.run(),
        name: SNAPSHOT_NAME,
        description: &description,
        quiesce,
        disks: wish.disks,
        route: wish.route,
        since: wish.since,
        keep_point: wish.keep_point,
    };
    let made = hypervisor.create_snapshot(&request).await;
    let took = began.elapsed();
    if let Some(freeze) = acts.freeze.filter(|_| !hypervisor.owes_thaw(&vm.moref)) {
        journal.settle(freeze).map_err(|error| (acts, error))?;
        acts.freeze = None;
    }
    let made = made.map_err(|error| (acts, error.within(format!("cannot snapshot {}", vm.name))))?;
    let took_ms = u64::try_from(made.still.unwrap_or(took).as_millis()).unwrap_or(u64::MAX);
    journal.learn(act, &made.id.0).map_err(|error| (acts, error))?;
    let listed = look_at(hypervisor, config, &made.id, journal.run()).await.map_err(|error| (acts, error))?;
    let quiesced = quiesce && made.quiesced.unwrap_or(listed);
    Ok(Made {
        id: made.id,
        act,
        point: None,
        freeze: acts.freeze,
        quiesced,
        unconsolidated,
        took_ms,
        warnings: made.warnings,
    })
}

/// Whether the guest was quiesced: hosts ignore that wish silently when they cannot fulfil it, so the snapshot itself is asked. And
/// whether another backup was quicker: two of one VM would remove what the other reads.
async fn look_at(hypervisor: &dyn Hypervisor, config: &VmConfig, id: &SnapshotId, run: RunId) -> Result<bool> {
    let all = hypervisor.snapshots(&config.info.moref).await?;
    let other = |s: &&crate::hypervisor::Snapshot| {
        SNAPSHOT_NAMES.contains(&s.name.as_str()) && run_of(&s.name, &s.description) != Some(run)
    };
    if let Some(other) = all.iter().find(other) {
        let what = format!("another backup of {} is at work: its snapshot is {}", config.info.name, other.id);
        return Err(Error::new(Family::Exists, what).hint("wait until it is done"));
    }
    all.iter().find(|snapshot| snapshot.id == *id).map(|snapshot| snapshot.quiesced).ok_or_else(|| vanished(config))
}

fn vanished(config: &VmConfig) -> Error {
    let what = format!(
        "the snapshot of {} vanished while it was needed, so what was read cannot be trusted",
        config.info.name
    );
    Error::new(Family::Corrupt, what).hint("find out who removes backup snapshots, and run the backup again")
}

/// Whether the snapshot is still there. Without it the disks that were read were not frozen.
pub(super) async fn still_there(hypervisor: &dyn Hypervisor, config: &VmConfig, id: &SnapshotId) -> Result<()> {
    let all = hypervisor.snapshots(&config.info.moref).await?;
    if all.iter().any(|snapshot| snapshot.id == *id) { Ok(()) } else { Err(vanished(config)) }
}

/// Removes a snapshot and looks whether it is gone; repeats what can pass. Does not listen to a cancel: this *is* the clean-up.
/// `unconsolidated` says that delta files without a snapshot were there before, and are not ours.
///
/// # Errors
/// [`Family::LeftBehind`] if it is still there in the end, or if nobody could look.
pub async fn remove_and_verify(
    hypervisor: &dyn Hypervisor,
    vm: &VmId,
    vm_name: &str,
    id: &SnapshotId,
    unconsolidated: bool,
    retry: Retry,
) -> Result<()> {
    let what = format!("removing the snapshot of {vm_name}");
    let gone = with_retries(
        retry,
        &Cancel::never(),
        &what,
        |_| true,
        || async {
            hypervisor.settle(vm).await?; // an earlier try of ours may still be at work
            hypervisor.remove_snapshot(id).await?;
            let left = hypervisor.snapshots(vm).await?;
            if left.iter().any(|snapshot| snapshot.id == *id) {
                return Err(Error::new(Family::Failed, "the host says it removed the snapshot, and still lists it"));
            }
            hypervisor.needs_consolidation(vm).await
        },
    )
    .await;
    match gone {
        Ok(needed) if needed && !unconsolidated => {
            Err(Error::new(Family::LeftBehind, format!("delta files of {vm_name} are left that no snapshot owns"))
                .hint("consolidate the VM's disks in the vSphere client"))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(Error::new(Family::LeftBehind, format!("the snapshot {id} of {vm_name} is left"))
            .caused_by(error)
            .hint("run `stillframe cleanup`, or remove it by hand")),
    }
}

/// The snapshots of `vm` that run `run` made, by name and by the mark in their description.
pub(super) async fn made_by(hypervisor: &dyn Hypervisor, vm: &VmId, run: RunId) -> Result<Vec<SnapshotId>> {
    let all = hypervisor.snapshots(vm).await?;
    let ours = all.into_iter().filter(|s| run_of(&s.name, &s.description) == Some(run));
    Ok(ours.map(|s| s.id).collect())
}
