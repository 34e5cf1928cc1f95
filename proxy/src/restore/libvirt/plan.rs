//! What a restore to libvirt will do, decided before it does anything.

use std::path::{Path, PathBuf};

use blockdev::ReadAt;
use serde::Serialize;
use uuid::Uuid;

use super::super::image::Format;
use super::super::names::{MAX_STEM, file_stem};
use super::super::source::{Backup, SavedMachine};
use super::super::targets_of;
use super::storage::{Homes, Layout, check_room, disk_file, folder};
use super::tpm::{choose, version_folder};
use crate::error::{Error, Family, Result};
use crate::hypervisor::DomainHost;
use crate::machine::convert::{DiskBus, FromVmx, HostFacts, Network, VmxDisk, domain_of_vmx};
use crate::machine::rehome::{NewDisk, Rehome, default_network, rehome};
use crate::machine::vmx::Settings;
use crate::machine::{Domain, Source};

/// Whether an identity is kept. Nothing said means: by the name, which is kept or new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Kept under the same name, new under another one.
    #[default]
    ByName,
    /// Kept.
    Keep,
    /// New.
    New,
}

impl Choice {
    const fn is_new(self, new_name: bool) -> bool {
        match self {
            Self::ByName => new_name,
            Self::Keep => false,
            Self::New => true,
        }
    }
}

/// How a restore is wished for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Another name: the VM is restored beside the original, as a new machine.
    pub name: Option<String>,
    /// What becomes of its UUID.
    pub uuid: Choice,
    /// What becomes of the addresses of its network cards.
    pub macs: Choice,
    /// A folder, or the name of a storage pool.
    pub storage: Option<String>,
    /// The form of the disks; the original one if nothing is said.
    pub format: Option<Format>,
    /// The network that all cards are plugged into.
    pub network: Option<String>,
    /// The kind of controller that disks of a vSphere machine come to.
    pub disk_bus: Option<DiskBus>,
    /// Start it in the end.
    pub start: bool,
    /// Read everything back and compare it before the domain is defined.
    pub read_back: bool,
}

/// One disk on its way back.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedDisk {
    /// Where it was plugged in.
    pub address: String,
    /// Its name in the domain.
    pub target: String,
    /// The image in the backup directory.
    pub from: String,
    /// The file that is made.
    pub to: PathBuf,
    /// Its form.
    pub format: Format,
    /// Capacity in bytes.
    pub capacity: u64,
}

/// One other file on its way back.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedFile {
    /// Its name in the backup directory.
    pub from: String,
    /// The file that is made.
    pub to: PathBuf,
}

/// A restore as it will be done.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The domain's name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Whether the UUID is a new one.
    pub new_uuid: bool,
    /// Whether network cards get new addresses.
    pub new_macs: bool,
    /// The disks.
    pub disks: Vec<PlannedDisk>,
    /// The variables of the firmware.
    pub nvram: Option<PlannedFile>,
    /// The state of the TPM.
    pub tpm: Vec<PlannedFile>,
    /// Whether it is started.
    pub start: bool,
    /// Whether everything is read back.
    pub read_back: bool,
    /// What a person should know before.
    pub notes: Vec<String>,
    #[serde(skip)]
    pub(super) domain: Option<Domain>,
    #[serde(skip)]
    pub(super) tpm_folder: PathBuf,
}

/// Decides everything about a restore and looks for what stands in its way. Changes nothing.
///
/// # Errors
/// [`Family::Exists`] if such a domain or file is there; [`Family::Corrupt`] if the backup cannot be used; [`Family::Unsupported`] if the
/// host is another machine.
pub async fn plan(host: &dyn DomainHost, place: &str, backup: &Backup, options: &Options) -> Result<Plan> {
    if !host.is_local() {
        return Err(Error::new(
            Family::Unsupported,
            format!("{place} is another machine, whose files cannot be written"),
        )
        .hint("run this program there, with qemu:///system"));
    }
    let machine = backup.machine()?;
    let (original, old_uuid) = identity(&machine)?;
    let name = options.name.clone().unwrap_or_else(|| original.clone());
    let stem = file_stem(&name);
    if stem.is_empty() || stem.len() > MAX_STEM || name.contains(['/', '\n']) {
        return Err(Error::new(Family::Usage, format!("\"{name}\" cannot be a domain's name"))
            .hint("use --name with letters that a file name may have"));
    }
    let new_name = name != original;
    let new_uuid = options.uuid.is_new(new_name) || old_uuid.is_none();
    let uuid = old_uuid.filter(|_| !new_uuid).unwrap_or_else(|| Uuid::new_v4().to_string());
    refuse_living(host, place, &name, &uuid).await?;

    let facts = host.facts().await?;
    let networks = host.networks().await?;
    if let Some(network) = options.network.as_ref().filter(|network| !networks.contains(network)) {
        return Err(Error::new(Family::Usage, format!("the host has no network {network}"))
            .hint(format!("it has: {}", networks.join(", "))));
    }
    let storage = folder(host, options.storage.as_deref()).await?;
    let new_macs = options.macs.is_new(new_name);
    let mut work = Planning {
        backup,
        options,
        layout: Layout::default(),
        homes: Homes::of(host).await?,
        storage,
        stem,
        at_home: !new_name && options.storage.is_none(),
        notes: Vec::new(),
    };
    let facts = Host { facts: &facts, networks: &networks };
    let (domain, disks, nvram, tpm) = match &machine {
        SavedMachine::Vmx(text) => work.convert_vmx(text, (&name, &uuid), new_macs, &facts)?,
        SavedMachine::Domain(domain) => {
            work.convert_domain(domain, (&name, &uuid), new_macs, &facts, host.tpm_folder())?
        }
    };
    check_room(&needed(backup, &disks))?;
    if backup.manifest.is_none() {
        work.notes.push("there is no manifest, so the images cannot be compared with what was backed up".into());
    }
    Ok(Plan {
        name,
        uuid,
        new_uuid,
        new_macs,
        disks,
        nvram,
        tpm,
        start: options.start,
        read_back: options.read_back,
        notes: work.notes,
        domain: Some(domain),
        tpm_folder: host.tpm_folder(),
    })
}

/// The name and UUID that the machine had.
fn identity(machine: &SavedMachine) -> Result<(String, Option<String>)> {
    match machine {
        SavedMachine::Domain(domain) => Ok((domain.name(), domain.uuid())),
        SavedMachine::Vmx(text) => {
            let settings = Settings::of(text)?;
            let digits: String = settings.get("uuid.bios").unwrap_or_default().replace([' ', '-'], "");
            let uuid = Uuid::parse_str(&digits).ok().map(|uuid| uuid.to_string());
            Ok((settings.get("displayName").unwrap_or_default().to_owned(), uuid))
        }
    }
}

/// No domain may be there that has this name or UUID: libvirt would replace it.
pub(super) async fn refuse_living(host: &dyn DomainHost, place: &str, name: &str, uuid: &str) -> Result<()> {
    let hint = "restore beside it with --name NEW; nothing that exists is replaced";
    if let Some(vm) = host.by_name(name).await? {
        return Err(Error::new(Family::Exists, format!("{place} has a domain {name} ({vm}) already")).hint(hint));
    }
    if let Some(other) = host.by_uuid(uuid).await? {
        let what = format!("{place} has the domain {other} with the UUID {uuid} already");
        return Err(Error::new(Family::Exists, what).hint("give the restored one another with --new-uuid"));
    }
    Ok(())
}

/// How many bytes of data go where.
fn needed(backup: &Backup, disks: &[PlannedDisk]) -> Vec<(PathBuf, u64)> {
    let stored = |disk: &PlannedDisk| {
        let entry = backup.manifest.as_ref()?.disks.iter().find(|entry| entry.address == disk.address)?;
        // Of a delta only the changes are counted, and the disk holds at least that.
        Some(entry.bytes_stored)
    };
    disks.iter().filter_map(|disk| Some((disk.to.clone(), stored(disk)?))).collect()
}

struct Host<'a> {
    facts: &'a HostFacts,
    networks: &'a [String],
}

struct Planning<'a> {
    backup: &'a Backup,
    options: &'a Options,
    layout: Layout,
    homes: Homes,
    storage: PathBuf,
    stem: String,
    /// It comes back to where it was.
    at_home: bool,
    notes: Vec<String>,
}

type Planned = (Domain, Vec<PlannedDisk>, Option<PlannedFile>, Vec<PlannedFile>);

impl Planning<'_> {
    fn convert_vmx(
        &mut self,
        text: &str,
        (name, uuid): (&str, &str),
        new_macs: bool,
        host: &Host<'_>,
    ) -> Result<Planned> {
        let format = self.options.format.unwrap_or(Format::Qcow2);
        let mut disks = Vec::new();
        for disk in &self.backup.disks {
            let target = disk.address.replace(':', "-");
            let to = disk_file(&mut self.layout, &self.storage, None, (&self.stem, &target), format)?;
            disks.push(self.planned(&disk.address, &disk.address, to, format));
        }
        let sources: Vec<VmxDisk> = disks
            .iter()
            .map(|disk| VmxDisk { address: disk.address.clone(), source: file(&disk.to), format: disk.format.name() })
            .collect();
        let network = self.options.network.clone().map(Network::Named);
        let wish = FromVmx {
            name,
            uuid: Some(uuid),
            keep_macs: !new_macs,
            disks: &sources,
            network: network.unwrap_or_else(|| default_network(host.networks)),
            disk_bus: self.options.disk_bus,
            host: host.facts,
        };
        let (domain, notes) = domain_of_vmx(text, &wish)?;
        self.notes.extend(notes);
        for disk in &mut disks {
            let source = Some(file(&disk.to));
            if let Some(made) = domain.disks().into_iter().find(|made| made.source == source) {
                disk.target = made.target;
            }
        }
        Ok((domain, disks, None, Vec::new()))
    }

    fn convert_domain(
        &mut self,
        domain: &Domain,
        (name, uuid): (&str, &str),
        new_macs: bool,
        host: &Host<'_>,
        tpm_folder: PathBuf,
    ) -> Result<Planned> {
        if self.options.disk_bus.is_some() {
            return Err(Error::new(Family::Usage, "--disk-bus is for machines of vSphere")
                .hint("this one comes back to the controllers that it had"));
        }
        let disks = self.disks_of(domain)?;
        let nvram = self.nvram(domain, &disks)?;
        let tpm = self.tpm(domain, &tpm_folder.join(uuid))?;
        let new: Vec<NewDisk> = disks
            .iter()
            .map(|disk| NewDisk { target: disk.target.clone(), source: file(&disk.to), format: disk.format.name() })
            .collect();
        let macs: Vec<String> = domain.interfaces().iter().map(|_| new_mac()).collect();
        let path = nvram.as_ref().map(|file| file.to.display().to_string());
        let wish = Rehome {
            name,
            uuid,
            macs: new_macs.then_some(macs.as_slice()),
            disks: &new,
            nvram: path.as_deref(),
            host: host.facts,
            networks: host.networks,
            network: self.options.network.as_deref(),
            has_path: &|path| Path::new(path).exists(),
            may_insert: &|path| self.homes.may_insert(path),
        };
        let (domain, notes) = rehome(domain.clone(), &wish)?;
        self.notes.extend(notes);
        Ok((domain, disks, nvram, tpm))
    }

    fn planned(&self, address: &str, target: &str, to: PathBuf, format: Format) -> PlannedDisk {
        let disk = self.backup.disks.iter().find(|disk| disk.address == address);
        PlannedDisk {
            address: address.to_owned(),
            target: target.to_owned(),
            from: disk.map(|disk| disk.file.clone()).unwrap_or_default(),
            to,
            format,
            capacity: disk.map_or(0, |disk| disk.image.size().0),
        }
    }

    fn disks_of(&mut self, domain: &Domain) -> Result<Vec<PlannedDisk>> {
        let addresses: Vec<String> = self.backup.disks.iter().map(|disk| disk.address.clone()).collect();
        let known = domain.disks();
        let mut disks = Vec::new();
        for (address, target) in targets_of(domain, &addresses)? {
            let Some(old) = known.iter().find(|disk| disk.target == target) else { continue };
            let was = old.format.as_deref().and_then(Format::named);
            let format = self.options.format.or(was).unwrap_or(Format::Qcow2);
            let original = match &old.source {
                Some(Source::File(path)) if self.at_home && was == Some(format) => {
                    self.homes.old_place(Path::new(path))?
                }
                _ => None,
            };
            let to = disk_file(&mut self.layout, &self.storage, original.as_deref(), (&self.stem, &target), format)?;
            match &old.source {
                Some(Source::File(_)) | None => {}
                Some(other) => self.notes.push(format!("{target} was {other} and comes back as a file")),
            }
            if old.encrypted {
                self.notes.push(format!("{target} was encrypted by QEMU and comes back in clear"));
            }
            disks.push(self.planned(&address, &target, to, format));
        }
        Ok(disks)
    }

    /// The variables lie beside the first disk, wherever the backup says that they were.
    fn nvram(&mut self, domain: &Domain, disks: &[PlannedDisk]) -> Result<Option<PlannedFile>> {
        let Some(nvram) = domain.nvram() else { return Ok(None) };
        let ending =
            |name: &str| name.ends_with(".nvram") || name.ends_with("_VARS.fd") || name.ends_with("_VARS.qcow2");
        let mut saved = self.backup.files_from(|file| Some(&file.source) == nvram.path.as_ref());
        saved.extend(self.backup.files_from(|file| ending(&file.name)));
        let Some(from) = saved.into_iter().next() else { return Ok(None) };
        let folder = disks.first().and_then(|disk| disk.to.parent()).unwrap_or(&self.storage).to_owned();
        let name = format!("{}_VARS.fd", self.stem);
        let to = self.layout.take(&folder, &name, &name)?;
        Ok(Some(PlannedFile { from, to }))
    }

    fn tpm(&mut self, domain: &Domain, folder: &Path) -> Result<Vec<PlannedFile>> {
        let Some(tpm) = domain.tpm().filter(|tpm| tpm.backend == "emulator") else { return Ok(Vec::new()) };
        let state = |name: &str| name.starts_with("tpm") && !name.contains('/');
        let saved = self.backup.files_from(|file| file.source.contains("/swtpm/") || state(&file.name));
        let size =
            |name: &str| std::fs::symlink_metadata(self.backup.directory.join(name)).map_or(0, |file| file.len());
        let (saved, ignored) = choose(saved, size);
        if !ignored.is_empty() {
            let first: Vec<&str> = ignored.iter().take(8).map(String::as_str).collect();
            let what = "are ignored, as swtpm has no files of such names, numbers or sizes";
            self.notes.push(format!("{} files of the TPM's state {what}: {}", ignored.len(), first.join(", ")));
        }
        if saved.is_empty() {
            self.notes.push(
                "the backup holds no state of the TPM: it starts empty, and a recovery key may be asked for".into(),
            );
            return Ok(Vec::new());
        }
        if std::fs::symlink_metadata(folder).is_ok() {
            return Err(Error::new(Family::Exists, format!("{} exists", folder.display())).hint(
                "it is the state of another TPM; remove it, or give the restored machine another UUID with --new-uuid",
            ));
        }
        let inner = folder.join(version_folder(tpm.version.as_deref()));
        Ok(saved.into_iter().map(|(from, name)| PlannedFile { from, to: inner.join(name) }).collect())
    }
}

fn file(path: &Path) -> Source {
    Source::File(path.display().to_string())
}

/// An address of QEMU's kind that nobody has.
fn new_mac() -> String {
    let [_, _, _, a, b, c, ..] = *Uuid::new_v4().as_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

#[cfg(test)]
mod tests;
