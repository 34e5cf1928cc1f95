//! What a domain is made of, in the product's words.

use libvirt::{Domain as Handle, State, XmlKind};

use super::errors::from_libvirt;
use super::overlay::run_of_overlay;
use crate::error::{Error, Family, Result};
use crate::hypervisor::{ConfigFile, Disk, DiskAddress, NativeDisk, Place, Power, VmConfig, VmId, VmInfo};
use crate::machine::{Domain, DomainDisk, Firmware};

/// The virtual hardware that images are made for: what current VMware products run.
const HARDWARE_VERSION: u32 = 19;

/// How a domain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) state: State,
    /// libvirt keeps its memory for the next start.
    pub(super) saved: bool,
}

impl Standing {
    pub(super) async fn of(domain: &Handle) -> Result<Self> {
        let state = domain.state().await.map_err(from_libvirt)?.state;
        let stopped = matches!(state, State::ShutOff | State::Crashed);
        let saved = stopped && domain.has_managed_save().await.unwrap_or(false);
        Ok(Self { state, saved })
    }

    /// Whether QEMU has its images open.
    pub(super) const fn is_active(self) -> bool {
        !matches!(self.state, State::ShutOff | State::Crashed)
    }

    pub(super) const fn power(self) -> Power {
        match (self.is_active(), self.saved) {
            (true, _) => Power::On,
            (false, true) => Power::Suspended,
            (false, false) => Power::Off,
        }
    }
}

/// The list entry of a domain, without addresses.
pub(super) fn info(domain: &Handle, standing: Standing) -> VmInfo {
    VmInfo {
        moref: VmId(domain.uuid().to_owned()),
        name: domain.name().to_owned(),
        uuid: Some(domain.uuid().to_owned()),
        instance_uuid: None,
        power: Some(standing.power()),
        ip: None,
        host_name: None,
        template: false,
    }
}

/// The description of a domain as it is now.
pub(super) async fn live(domain: &Handle) -> Result<Domain> {
    Domain::parse(&domain.xml(XmlKind::default()).await.map_err(from_libvirt)?)
}

/// Why the guest cannot be asked to stand still; `None` if it can.
fn tools_missing(standing: Standing, live: &Domain) -> Option<String> {
    match standing.state {
        State::Running => {}
        State::Paused => return Some("the machine is paused, so its agent does not run".into()),
        State::Asleep => return Some("the guest sleeps, so its agent does not run".into()),
        _ => return Some("the machine does not run".into()),
    }
    if !live.has_agent() {
        return Some("the machine has no channel for the QEMU guest agent".into());
    }
    (!live.agent_connected()).then(|| "the QEMU guest agent does not run in the guest".into())
}

/// Everything that a backup needs to know.
pub(super) async fn config(domain: &Handle, host: &str, local: bool) -> Result<VmConfig> {
    let standing = Standing::of(domain).await?;
    let live = live(domain).await?;
    let stored = stored_xml(domain).await?;
    let missing = tools_missing(standing, &live);
    let firmware = live.firmware();
    let (files, notes) = files_of(domain, &live, local);
    let mut disks = Vec::new();
    for disk in live.disks().iter().filter(|disk| !matches!(disk.device.as_str(), "cdrom" | "floppy")) {
        disks.push(self::disk(domain, disk).await?);
    }
    disks.sort_by_key(|disk| disk.address);
    let twice = disks.windows(2).find(|pair| pair[0].address == pair[1].address);
    if let Some(pair) = twice {
        let what = format!("two disks of {} have the address {}", domain.name(), pair[0].address);
        return Err(Error::new(Family::Unsupported, what));
    }
    Ok(VmConfig {
        info: info(domain, standing),
        hardware_version: HARDWARE_VERSION,
        firmware: firmware.to_string(),
        tools_running: missing.is_none(),
        tools_missing: missing,
        boot: domain.id().map(|id| id.to_string()),
        change_tracking: live.disks().iter().any(|disk| disk.format.as_deref() == Some("qcow2")),
        place: Place { host: host.to_owned(), ..Place::default() },
        config_path: format!("{}.xml", domain.name()),
        files,
        disks,
        raw: Some(stored),
        notes,
    })
}

/// The description that a domain can be defined from again. One that lives only while it runs has no stored one.
async fn stored_xml(domain: &Handle) -> Result<String> {
    let kind = XmlKind { inactive: true, migratable: true, secure: false };
    domain.xml(kind).await.map_err(from_libvirt)
}

/// The files beside the disks: firmware variables and the state of a TPM. Of another machine's they are only named.
fn files_of(domain: &Handle, live: &Domain, local: bool) -> (Vec<ConfigFile>, Vec<String>) {
    let (mut files, mut notes) = (Vec::new(), Vec::new());
    let efi = live.firmware() == Firmware::Efi;
    let mut add = |path: String, required: bool, what: &str| {
        if local {
            files.push(ConfigFile { path, required });
        } else {
            notes.push(format!("{what} {path} lies on the other host and is not in the backup"));
        }
    };
    if let Some(path) = live.nvram().and_then(|nvram| nvram.path) {
        add(path, efi, "the file of firmware variables");
    }
    if let Some(tpm) = live.tpm().filter(|tpm| tpm.backend == "emulator") {
        let version = if tpm.version.as_deref() == Some("1.2") { "1.2" } else { "2" };
        let folder = format!("/var/lib/libvirt/swtpm/{}/tpm{version}", domain.uuid());
        let state = if version == "2" { "tpm2-00.permall" } else { "tpm-00.permall" };
        let path = format!("{folder}/{state}");
        // A TPM that was never used has no state yet. What may not be looked at may be there: then reading it fails, and says why.
        let unused = std::fs::metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        if !local || !unused {
            add(path, true, "the state of the TPM");
        }
    }
    (files, notes)
}

/// A disk as it runs.
async fn disk(domain: &Handle, disk: &DomainDisk) -> Result<Disk> {
    let obstacle = obstacle(disk);
    let capacity = match domain.block_info(&disk.target).await {
        Ok(info) => info.capacity,
        // Left out or refused by name before anybody asks for its size.
        Err(_) if obstacle.is_some() => 0,
        Err(error) => {
            let what = format!("the size of {} of {} cannot be asked for", disk.target, domain.name());
            return Err(from_libvirt(error)
                .within(what)
                .hint("its image may be gone; use --exclude-disk to back up the rest"));
        }
    };
    // Under an overlay of ours lies what users know.
    let own = run_of_overlay(disk).is_none();
    let source = if own { disk.source.as_ref() } else { disk.backing.first().map(|(source, _)| source) };
    Ok(Disk {
        address: address(disk)?,
        capacity,
        file: source.map_or_else(|| disk.target.clone(), ToString::to_string),
        independent: false,
        raw_device: disk.device == "lun",
        obstacle,
        alias: Some(disk.target.clone()),
        uuid: disk.serial.clone().filter(|serial| serial.parse::<uuid::Uuid>().is_ok()),
        change_id: None,
        native: NativeDisk::Live,
    })
}

/// Why a disk cannot be frozen.
fn obstacle(disk: &DomainDisk) -> Option<String> {
    let what = match disk {
        DomainDisk { source: None, .. } => "empty",
        DomainDisk { read_only: true, .. } => "read-only",
        DomainDisk { shareable: true, .. } => "shared with other machines",
        DomainDisk { transient: true, .. } => "transient",
        DomainDisk { mirrored: true, .. } => "being copied to another place",
        _ => return None,
    };
    Some(what.into())
}

fn address(disk: &DomainDisk) -> Result<DiskAddress> {
    disk.address().ok_or_else(|| {
        Error::new(
            Family::Unsupported,
            format!("{} hangs on the bus {}, of which nothing is known", disk.target, disk.bus),
        )
    })
}

/// Whom QEMU runs as, for files that it must reach.
pub(super) fn owner(live: &Domain) -> Option<(u32, u32)> {
    let labels = live.root().named("seclabel").find(|label| label.get("model") == Some("dac"));
    let label = labels.and_then(|label| label.text_of("label"))?;
    let (user, group) = label.split_once(':')?;
    let number = |text: &str| text.trim_start_matches('+').parse().ok();
    Some((number(user)?, number(group)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(disks: &str) -> Domain {
        let label = "<seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+108</label></seclabel>";
        Domain::parse(&format!("<domain type='qemu'><name>d</name><devices>{disks}</devices>{label}</domain>")).unwrap()
    }

    #[test]
    fn qemu_s_user_is_read_from_the_label() {
        assert_eq!(owner(&domain("")), Some((64055, 108)));
    }

    #[test]
    fn disks_of_which_no_point_in_time_exists_say_why() {
        let domain = domain(
            "<disk><source file='/a'/><target dev='vda'/><shareable/></disk>
             <disk><source file='/b'/><target dev='vdb'/><readonly/></disk>
             <disk><source file='/c'/><target dev='vdc'/></disk>",
        );
        let obstacles: Vec<_> = domain.disks().iter().map(obstacle).collect();
        assert_eq!(obstacles, [Some("shared with other machines".to_owned()), Some("read-only".into()), None]);
    }
}
