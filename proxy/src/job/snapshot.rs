//! The snapshot of a run: made under a journal entry, removed and seen to be gone.

use std::time::Instant;

use super::journal::{Act, Journal};
use super::retry::{Retry, with_retries};
use super::{Cancel, SNAPSHOT_NAME};
use crate::error::{Error, Family, Result};
use crate::hypervisor::{Hypervisor, SnapshotId, VmConfig, VmId, is_fault};

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

/// A snapshot that this run made.
pub(super) struct Made {
    pub(super) id: SnapshotId,
    pub(super) act: u32,
    pub(super) quiesced: bool,
    /// From the call to its answer, in milliseconds: an upper bound of the time the guest stood still.
    pub(super) took_ms: u64,
}

/// Makes the run's snapshot by the rules of `quiesce`.
pub(super) async fn make(
    hypervisor: &dyn Hypervisor,
    config: &VmConfig,
    quiesce: Quiesce,
    journal: &mut Journal,
    cancel: &Cancel,
) -> Result<Made> {
    let vm = &config.info;
    let runs = vm.power == Some(crate::hypervisor::Power::On);
    let wanted = quiesce != Quiesce::None && runs;
    if wanted && !config.tools_running {
        if quiesce == Quiesce::Require {
            return Err(Error::new(Family::Failed, format!("{} cannot be quiesced: its tools do not run", vm.name))
                .hint("start VMware Tools in the guest, or use --quiesce try"));
        }
        tracing::warn!("{}: the guest's tools do not run; the image will be crash-consistent", vm.name);
    }
    cancel.check()?;
    let ask = wanted && config.tools_running;
    match attempt(hypervisor, config, ask, journal).await {
        Err(error) if ask && quiesce == Quiesce::Try && is_quiesce_failure(&error) => {
            tracing::warn!("{}: {}; the image will be crash-consistent", vm.name, error.line());
            cancel.check()?;
            attempt(hypervisor, config, false, journal).await
        }
        result => result,
    }
}

async fn attempt(hypervisor: &dyn Hypervisor, config: &VmConfig, quiesce: bool, journal: &mut Journal) -> Result<Made> {
    let vm = &config.info;
    let description = journal.run().description();
    let at = jiff::Timestamp::now().as_second();
    let act = journal.intend(Act::Snapshot {
        vm: vm.moref.clone(),
        vm_name: vm.name.clone(),
        vm_uuid: vm.uuid.clone(),
        at,
    })?;
    let began = Instant::now();
    // Not cut by a cancel: the server goes on whatever we do, so we wait and then undo.
    let made = hypervisor.create_snapshot(&vm.moref, SNAPSHOT_NAME, &description, quiesce).await;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let id = made.map_err(|error| error.within(format!("cannot snapshot {}", vm.name)))?;
    journal.learn(act, &id.0)?;
    let obtained = if quiesce { was_quiesced(hypervisor, &vm.moref, &id).await } else { false };
    Ok(Made { id, act, quiesced: obtained, took_ms })
}

/// Hosts ignore the wish silently when they cannot fulfil it, so the answer is read from the snapshot itself.
async fn was_quiesced(hypervisor: &dyn Hypervisor, vm: &VmId, id: &SnapshotId) -> bool {
    match hypervisor.snapshots(vm).await {
        Ok(list) => list.iter().any(|snapshot| snapshot.id == *id && snapshot.quiesced),
        Err(error) => {
            tracing::warn!("cannot read whether the snapshot was quiesced, taken as no: {}", error.line());
            false
        }
    }
}

fn is_quiesce_failure(error: &Error) -> bool {
    ["ApplicationQuiesceFault", "FilesystemQuiesceFault"].iter().any(|kind| is_fault(error, kind))
}

/// Removes a snapshot and looks whether it is gone; repeats what can pass. Does not listen to a cancel: this *is* the clean-up.
///
/// # Errors
/// [`Family::LeftBehind`] if it is still there in the end, or if nobody could look.
pub async fn remove_and_verify(
    hypervisor: &dyn Hypervisor,
    vm: &VmId,
    vm_name: &str,
    id: &SnapshotId,
    retry: Retry,
) -> Result<()> {
    let gone = with_retries(
        retry,
        &Cancel::never(),
        &format!("removing the snapshot of {vm_name}"),
        |_| true,
        || async {
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
        Ok(false) => Ok(()),
        Ok(true) => {
            Err(Error::new(Family::LeftBehind, format!("delta files of {vm_name} are left that no snapshot owns"))
                .hint("consolidate the VM's disks in the vSphere client"))
        }
        Err(error) => Err(Error::new(Family::LeftBehind, format!("the snapshot {id} of {vm_name} is left"))
            .caused_by(error)
            .hint("run `stillframe cleanup`, or remove it by hand")),
    }
}

/// The snapshots of `vm` that run `run` made, by name and by the mark in their description.
pub(super) async fn made_by(hypervisor: &dyn Hypervisor, vm: &VmId, run: super::RunId) -> Result<Vec<SnapshotId>> {
    let all = hypervisor.snapshots(vm).await?;
    let ours = all.into_iter().filter(|s| super::run_of(&s.name, &s.description) == Some(run));
    Ok(ours.map(|s| s.id).collect())
}
