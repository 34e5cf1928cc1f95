//! A libvirt domain as a vSphere machine.

use std::collections::BTreeMap;

use super::from_vmx::is_mac;
use crate::error::{Error, Family, Result};
use crate::hypervisor::Bus;
use crate::machine::vmx::{line, parse_address};
use crate::machine::{Domain, Firmware};

/// Units of a vSphere SCSI controller; number 7 is the controller's own.
const SCSI_UNITS: u32 = 16;
const OWN_UNIT: u32 = 7;
/// Controllers of each kind that a machine can have.
const CONTROLLERS: u32 = 4;
/// Ports of a vSphere AHCI controller.
const SATA_PORTS: u32 = 30;
/// vSphere's machines have at most 10 network cards.
const MAX_CARDS: usize = 10;
/// ESX 6.5 and everything newer runs it; it has SATA, NVMe and secure boot.
const HARDWARE: &str = "13";

/// How a domain is to be converted.
pub struct ToVmx<'a> {
    /// Display name.
    pub name: &'a str,
    /// Whether it becomes a new machine beside the original.
    pub new_identity: bool,
    /// The disks that come back: their addresses, and the target they have in the domain.
    pub disks: &'a [(String, String)],
}

/// A `.vmx` that was made of a domain.
#[derive(Clone, Debug)]
pub struct MadeVmx {
    /// Its text, without file names of disks: they are set by address.
    pub text: String,
    /// The address of each disk before and after.
    pub addresses: Vec<(String, String)>,
    /// What is not as it was.
    pub notes: Vec<String>,
}

/// Makes a `.vmx` of a domain.
///
/// # Errors
/// [`Family::Corrupt`] if the domain lacks a disk of the backup; [`Family::Unsupported`] if there is no room for one.
pub fn vmx_of_domain(domain: &Domain, wish: &ToVmx<'_>) -> Result<MadeVmx> {
    let mut text = String::new();
    let mut notes = Vec::new();
    head(&mut text, &mut notes, domain, wish);
    let addresses = disks(&mut text, &mut notes, domain, wish)?;
    cards(&mut text, &mut notes, domain, wish);
    dropped(&mut notes, domain);
    Ok(MadeVmx { text, addresses, notes })
}

fn head(text: &mut String, notes: &mut Vec<String>, domain: &Domain, wish: &ToVmx<'_>) {
    line(text, ".encoding", "UTF-8");
    line(text, "config.version", "8");
    line(text, "virtualHW.version", HARDWARE);
    line(text, "displayName", wish.name);
    line(text, "guestOS", "other-64");
    notes.push("the guest's system is said to be \"other-64\"; set the right one in the client".into());
    let memory = domain.memory().unwrap_or(1 << 30).div_ceil(1 << 20).next_multiple_of(4).max(4);
    line(text, "memSize", &memory.to_string());
    let cpus = domain.cpus().unwrap_or(1).max(1);
    line(text, "numvcpus", &cpus.to_string());
    line(text, "firmware", &domain.firmware().to_string());
    if domain.firmware() == Firmware::Efi {
        if domain.secure_boot() {
            line(text, "uefi.secureBoot.enabled", "TRUE");
        }
        notes.push("the firmware starts with no boot entries: OVMF's variables cannot be used by VMware's".into());
    }
    line(text, "pciBridge0.present", "TRUE");
    for n in 4..8 {
        line(text, &format!("pciBridge{n}.present"), "TRUE");
        line(text, &format!("pciBridge{n}.virtualDev"), "pcieRootPort");
        line(text, &format!("pciBridge{n}.functions"), "8");
    }
    if let Some(description) = domain.description() {
        line(text, "annotation", &description.replace('\n', " "));
    }
    if !wish.new_identity
        && let Some(uuid) = domain.uuid()
    {
        let spaced = vmware_uuid(&uuid);
        line(text, "uuid.bios", &spaced);
        line(text, "vc.uuid", &spaced);
    }
    line(text, "uuid.action", if wish.new_identity { "create" } else { "keep" });
}

/// `56 4d …-… …`, as VMware writes it.
fn vmware_uuid(uuid: &str) -> String {
    let digits: Vec<char> = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    let bytes: Vec<String> = digits.chunks(2).map(|pair| pair.iter().collect()).collect();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    format!("{}-{}", first.join(" "), second.join(" "))
}

/// Plugs the disks in. SATA stays SATA; all else comes to a SAS controller, whose driver most systems bring.
fn disks(
    text: &mut String,
    notes: &mut Vec<String>,
    domain: &Domain,
    wish: &ToVmx<'_>,
) -> Result<Vec<(String, String)>> {
    let known = domain.disks();
    let mut next: BTreeMap<&str, u32> = BTreeMap::new();
    let mut models: BTreeMap<String, &str> = BTreeMap::new();
    let (mut addresses, mut boot) = (Vec::new(), Vec::new());
    for (old, target) in wish.disks {
        let disk = known.iter().find(|disk| disk.target == *target).ok_or_else(|| {
            Error::new(Family::Corrupt, format!("the domain XML has no disk {target}, which the backup holds as {old}"))
        })?;
        let model = domain.scsi_model(disk.drive.map_or(0, |drive| drive.controller));
        let bus = match parse_address(old).map(|address| address.bus) {
            Some(Bus::Sata | Bus::Usb) => "sata",
            Some(Bus::Ide) => "ide",
            _ => "scsi",
        };
        let number = next.entry(bus).or_default();
        let (controller, unit, room) = place(bus, *number);
        *number += 1;
        if controller >= room {
            let what = format!("{target} is one disk more than vSphere has room for on {bus} controllers");
            return Err(Error::new(Family::Unsupported, what));
        }
        if bus == "scsi" {
            let model = if model.as_deref() == Some("vmpvscsi") { "pvscsi" } else { "lsisas1068" };
            models.entry(format!("scsi{controller}")).or_insert(model);
        } else if bus == "sata" {
            models.entry(format!("sata{controller}")).or_insert("");
        }
        let new = format!("{bus}{controller}:{unit}");
        line(text, &format!("{new}.present"), "TRUE");
        line(text, &format!("{new}.deviceType"), if bus == "ide" { "disk" } else { "scsi-hardDisk" });
        let model = models.get(&format!("{bus}{controller}")).copied().unwrap_or_default();
        notes.push(match (disk.bus.as_str(), bus) {
            ("virtio", _) => format!(
                "{target} was a virtio disk and comes to {new} of an {model} controller, which needs its driver in the guest"
            ),
            (was, now) if was == now => format!("{target} comes to {new} {model}").trim_end().to_owned(),
            (was, _) => format!("{target} was on {was} and comes to {new} {model}").trim_end().to_owned(),
        });
        boot.push((disk.boot_order.unwrap_or(u32::MAX), new.clone()));
        addresses.push((old.clone(), new));
    }
    for (controller, model) in models {
        line(text, &format!("{controller}.present"), "TRUE");
        if !model.is_empty() {
            line(text, &format!("{controller}.virtualDev"), model);
        }
    }
    boot.sort();
    let order: Vec<String> = boot.into_iter().map(|(_, address)| address).collect();
    line(text, "bios.hddOrder", &order.join(","));
    Ok(addresses)
}

/// Controller and unit of disk `number` of a bus, and how many controllers there can be.
const fn place(bus: &str, number: u32) -> (u32, u32, u32) {
    match bus.as_bytes() {
        b"scsi" => {
            let (controller, unit) = (number / (SCSI_UNITS - 1), number % (SCSI_UNITS - 1));
            (controller, if unit < OWN_UNIT { unit } else { unit + 1 }, CONTROLLERS)
        }
        b"ide" => (number / 2, number % 2, 2),
        _ => (number / SATA_PORTS, number % SATA_PORTS, CONTROLLERS),
    }
}

fn cards(text: &mut String, notes: &mut Vec<String>, domain: &Domain, wish: &ToVmx<'_>) {
    for (n, card) in domain.interfaces().iter().enumerate() {
        if n == MAX_CARDS {
            notes.push(format!("network cards behind the {MAX_CARDS}th go"));
            break;
        }
        let mut set = |key: &str, value: &str| line(text, &format!("ethernet{n}.{key}"), value);
        let was = card.model.as_deref().unwrap_or("virtio");
        let model = if matches!(was, "e1000" | "e1000e" | "vmxnet3") { was } else { "e1000e" };
        set("present", "TRUE");
        set("virtualDev", model);
        set("networkName", "VM Network");
        let mac = card.mac.as_deref().filter(|mac| !wish.new_identity && is_mac(mac));
        match mac {
            Some(mac) => {
                set("addressType", "static");
                set("address", mac);
                set("checkMACAddress", "FALSE");
            }
            None => set("addressType", "generated"),
        }
        let from = card.source.as_deref().unwrap_or(&card.kind);
        let mut note = format!("network card {n} was plugged into {from} and is plugged into VM Network");
        if model != was {
            note.push_str(&format!("; its model {was} becomes {model}"));
        }
        notes.push(note);
    }
}

fn dropped(notes: &mut Vec<String>, domain: &Domain) {
    if domain.tpm().is_some() {
        notes.push("the TPM goes, with what it sealed: a recovery key may be asked for".into());
    }
    let Some(devices) = domain.root().child("devices") else { return };
    for (name, what) in [
        ("hostdev", "a device of the host"),
        ("filesystem", "a shared folder"),
        ("sound", "a sound card"),
        ("redirdev", "USB redirection"),
        ("shmem", "shared memory"),
        ("vsock", "a socket to the host"),
    ] {
        let count = devices.named(name).count();
        if count > 0 {
            notes.push(format!("{what} goes ({count} of <{name}>)"));
        }
    }
    for disk in domain.disks().iter().filter(|disk| disk.device != "disk") {
        notes.push(format!("the {} {} goes", disk.device, disk.target));
    }
}
