//! What every run that freezes a VM does around its snapshot: which disks, nobody else's backup, what the frozen disks are, and in which
//! state they are.

use super::snapshot::{Made, Quiesce};
use crate::error::{Error, Family, Result};
use crate::export::{Consistency, SkippedDisk};
use crate::hypervisor::{Connected, Disk, DiskAddress, Hypervisor, Power, VmConfig};

/// Which disks are copied. A disk that no snapshot can freeze is an error unless it was excluded by name.
pub(super) fn choose_disks(config: &VmConfig, exclude: &[String]) -> Result<(Vec<DiskAddress>, Vec<SkippedDisk>)> {
    let name = &config.info.name;
    if config.info.template {
        return Err(Error::new(Family::Unsupported, format!("{name} is a template, of which no snapshot can be made"))
            .hint("convert it to a VM, or back up a VM made from it"));
    }
    if let Some(unknown) = exclude.iter().find(|e| !config.disks.iter().any(|disk| disk.is_called(e))) {
        let known: Vec<_> = config.disks.iter().map(called).collect();
        return Err(Error::new(Family::Usage, format!("{name} has no disk {unknown} to exclude"))
            .hint(format!("it has {}", known.join(", "))));
    }
    let (mut wanted, mut skipped) = (Vec::new(), Vec::new());
    for disk in &config.disks {
        let address = disk.address.to_string();
        if exclude.iter().any(|name| disk.is_called(name)) {
            skipped.push(SkippedDisk { address, reason: "excluded on request".into() });
            continue;
        }
        let obstacle = match disk {
            Disk { raw_device: true, .. } => "a physical device passed through",
            Disk { independent: true, .. } => "independent of snapshots",
            Disk { obstacle: Some(obstacle), .. } => obstacle,
            _ => {
                wanted.push(disk.address);
                continue;
            }
        };
        return Err(Error::new(
            Family::Unsupported,
            format!("{} of {name} is {obstacle}: it cannot be frozen", called(disk)),
        )
        .hint(format!("use --exclude-disk {} to back up the rest", disk.alias.as_ref().unwrap_or(&address))));
    }
    if wanted.is_empty() {
        return Err(Error::new(Family::Unsupported, format!("{name} has no disk to back up")));
    }
    Ok((wanted, skipped))
}

/// A disk by all its names.
fn called(disk: &Disk) -> String {
    match &disk.alias {
        Some(alias) => format!("{} ({alias})", disk.address),
        None => disk.address.to_string(),
    }
}

/// VCB's PREEXISTING_VCB_SNAPSHOT=fail: another backup is at work, or left something that nobody here knows of.
pub(super) async fn refuse_preexisting(connected: &Connected, config: &VmConfig) -> Result<()> {
    let snapshots = connected.hypervisor.snapshots(&config.info.moref).await?;
    match snapshots.iter().find(|snapshot| super::SNAPSHOT_NAMES.contains(&snapshot.name.as_str())) {
        None => Ok(()),
        Some(found) => Err(Error::new(
            Family::Exists,
            format!("{} has a backup snapshot already ({} of {})", config.info.name, found.id, found.created),
        )
        .hint("another backup is at work, or one died elsewhere: `stillframe snapshot list` shows it, `stillframe cleanup` removes ours")),
    }
}

/// A machine that was started, stopped or given other disks since it was looked at would be backed up as what it is not.
pub(super) fn refuse_changed(then: &VmConfig, now: &VmConfig) -> Result<()> {
    let disks = |config: &VmConfig| -> Vec<_> {
        config.disks.iter().map(|disk| (disk.address, disk.file.clone(), disk.capacity)).collect()
    };
    if then.info.power == now.info.power && then.boot == now.boot && disks(then) == disks(now) {
        return Ok(());
    }
    Err(Error::new(Family::Failed, format!("{} was started, stopped or changed meanwhile", then.info.name))
        .hint("run it again"))
}

/// In which state the frozen disks are. Where the guest was to be quiesced and was not, that is a warning, or an error if it was required.
pub(super) fn consistency_of(
    tools: &str,
    config: &VmConfig,
    snapshot: &Made,
    quiesce: Quiesce,
    warnings: &mut Vec<String>,
) -> Result<Consistency> {
    warnings.extend(snapshot.warnings.iter().cloned());
    let consistency = match (config.info.power, snapshot.quiesced) {
        (Some(Power::Off), _) => Consistency::PoweredOff,
        (_, true) => Consistency::Quiesced,
        (_, false) => Consistency::CrashConsistent,
    };
    if consistency == Consistency::CrashConsistent && quiesce != Quiesce::None {
        if quiesce == Quiesce::Require {
            return Err(Error::new(Family::Failed, format!("the host did not quiesce {}", config.info.name))
                .hint(format!("look at {tools} in the guest, or use --quiesce try")));
        }
        warnings.push("the guest was not quiesced; its disks are crash-consistent".to_owned());
    }
    Ok(consistency)
}

/// The frozen form of every wanted disk.
pub(super) async fn frozen_disks(
    hypervisor: &dyn Hypervisor,
    config: &VmConfig,
    snapshot: &Made,
    wanted: &[DiskAddress],
    skipped: &[SkippedDisk],
) -> Result<Vec<Disk>> {
    let mut frozen = hypervisor.frozen_disks(&snapshot.id).await?;
    let name = &config.info.name;
    let expected = |disk: &Disk| {
        let skipped = skipped.iter().any(|skipped| skipped.address == disk.address.to_string());
        skipped || wanted.contains(&disk.address)
    };
    if let Some(new) = frozen.iter().find(|disk| !expected(disk)) {
        return Err(Error::new(Family::Failed, format!("{name} was given a new disk {} meanwhile", new.address))
            .hint("run it again"));
    }
    frozen.retain(|disk| wanted.contains(&disk.address));
    match wanted.iter().find(|address| !frozen.iter().any(|disk| disk.address == **address)) {
        None => Ok(frozen),
        Some(missing) => Err(Error::new(Family::Failed, format!("the snapshot of {name} lacks {missing}"))
            .hint("the VM was changed meanwhile; run it again")),
    }
}
