//! What a restore will do, decided before it does anything.

use std::path::PathBuf;

use serde::Serialize;

use blockdev::ReadAt;

use super::super::names::{MAX_STEM, Names, file_stem};
use super::super::source::{Backup, SavedMachine};
use super::super::targets_of;
use crate::error::{Error, Family, Result};
use crate::hypervisor::{Connected, RebuildTarget, RebuildWish, Spec};
use crate::machine::convert::{ToVmx, vmx_of_domain};
use crate::machine::vmx;

/// How a restore is wished for. What is not said comes from the catalog.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The backup directory.
    pub source: PathBuf,
    /// A catalog to use instead of the one in the directory.
    pub catalog: Option<PathBuf>,
    /// Another name: the VM is restored beside the original, as a new machine.
    pub name: Option<String>,
    /// Another datastore.
    pub datastore: Option<String>,
    /// Another folder, as an inventory path.
    pub folder: Option<String>,
    /// Another resource pool, as an inventory path.
    pub resource_pool: Option<String>,
    /// Read everything back from the datastore and compare it before the VM is registered.
    pub read_back: bool,
}

/// One disk on its way back.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedDisk {
    /// Where it was plugged in.
    pub address: String,
    /// Where it is plugged in now: elsewhere, if it comes from another hypervisor.
    pub device: String,
    /// The image in the backup directory.
    pub from: String,
    /// The descriptor's name in the VM's folder.
    pub to: String,
    /// Capacity in bytes.
    pub capacity: u64,
}

/// A restore as it will be done.
#[derive(Clone, Debug, Serialize)]
pub struct RestorePlan {
    /// The VM's display name.
    pub name: String,
    /// Whether it becomes a new machine beside the original.
    pub new_identity: bool,
    /// Inventory path of the datacenter.
    pub datacenter: String,
    /// The folder that is made for its files, `[datastore] name`.
    pub folder: String,
    /// The configuration file in it.
    pub config_file: String,
    /// The NVRAM: its name in the backup, and in the folder.
    pub nvram: Option<(String, String)>,
    /// The disks.
    pub disks: Vec<PlannedDisk>,
    /// Whether everything is read back.
    pub read_back: bool,
    /// What a person should know before.
    pub notes: Vec<String>,
    #[serde(skip)]
    pub(super) target: RebuildTarget,
    #[serde(skip)]
    pub(super) vmx: String,
}

/// `[datastore] folder/file` in its parts.
fn split_path(path: &str) -> Option<(&str, &str)> {
    let (datastore, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((datastore, rest.trim().trim_start_matches('/')))
}

/// Decides everything about a restore and looks for what stands in its way. Changes nothing.
///
/// # Errors
/// [`Family::Exists`] if such a VM is there; [`Family::Corrupt`] if the backup cannot be used.
pub async fn plan(connected: &Connected, backup: &Backup, options: &RestoreOptions) -> Result<RestorePlan> {
    let machine = backup.machine()?;
    let original = match &machine {
        SavedMachine::Vmx(text) => vmx::value(text, "displayname").unwrap_or_default(),
        SavedMachine::Domain(domain) => domain.name(),
    };
    let name = options.name.clone().unwrap_or_else(|| original.clone());
    let new_identity = name != original;
    let stem = file_stem(&name);
    if stem.is_empty() || stem.len() > MAX_STEM {
        return Err(Error::new(Family::Usage, format!("\"{name}\" cannot be a VM's name"))
            .hint("use --name with one to 80 letters"));
    }
    refuse_living(connected, backup, &name, new_identity).await?;

    let config = match (&machine, backup.catalog.get("config.vmx")) {
        (SavedMachine::Vmx(_), Some(path)) => Some(config_path(path)?),
        _ => None,
    };
    let bytes = backup.disks.iter().map(|disk| disk.image.size().0).fold(0, u64::saturating_add);
    let target = connected
        .hypervisor
        .target(&RebuildWish {
            datastore: options.datastore.clone().or_else(|| config.map(|(ds, _)| ds.to_owned())),
            folder: options.folder.clone().or_else(|| catalog_value(backup, "folderpath")),
            resource_pool: options.resource_pool.clone().or_else(|| catalog_value(backup, "resourcepool")),
            bytes,
        })
        .await?;
    if let Some(free) = target.free.filter(|free| *free < bytes) {
        let what = format!("datastore {} has {free} bytes free, and the disks need {bytes}", target.datastore);
        return Err(Error::new(Family::Failed, what).hint("name another one with --datastore"));
    }
    let original_folder = config.and_then(|(_, path)| path.rsplit_once('/'));
    let (folder, config_file) = match (new_identity, original_folder) {
        (false, Some((folder, file))) => (folder.to_owned(), file.to_owned()),
        _ => (stem.clone(), format!("{stem}.vmx")),
    };
    let mut names = Names::default();
    names.take(&config_file);
    let is_ours = matches!(machine, SavedMachine::Vmx(_)); // nobody else's NVRAM means anything here
    let nvram = backup.nvram().filter(|_| is_ours).map(|from| {
        let to = if new_identity { format!("{stem}.nvram") } else { from.clone() };
        names.take(&to);
        (from, to)
    });
    let mut disks = plan_disks(backup, &stem, new_identity, &mut names)?;
    let nvram_file = nvram.as_ref().map(|(_, to)| to.clone());
    let (vmx, mut notes) = configuration(&machine, &name, new_identity, nvram_file, &mut disks)?;
    let elsewhere = backup.disks.iter().filter_map(|disk| Some((disk, split_path(disk.disk_name.as_deref()?)?.0)));
    for (disk, datastore) in elsewhere.filter(|(_, datastore)| *datastore != target.datastore) {
        notes.push(format!("{} was on datastore {datastore} and comes to {}", disk.address, target.datastore));
    }
    if backup.manifest.is_none() {
        notes.push("there is no manifest, so the images cannot be compared with what was backed up".into());
    }
    Ok(RestorePlan {
        name,
        new_identity,
        datacenter: target.datacenter.clone(),
        folder: format!("[{}] {folder}", target.datastore),
        config_file,
        nvram,
        disks,
        read_back: options.read_back,
        notes,
        target,
        vmx,
    })
}

/// The new `.vmx`, and what is not as it was. Disks of another hypervisor get new addresses.
fn configuration(
    machine: &SavedMachine,
    name: &str,
    new_identity: bool,
    nvram: Option<String>,
    disks: &mut [PlannedDisk],
) -> Result<(String, Vec<String>)> {
    match machine {
        SavedMachine::Vmx(text) => {
            let changes = vmx::Changes {
                name: Some(name.to_owned()),
                disks: disks.iter().map(|disk| (disk.address.clone(), disk.to.clone())).collect(),
                nvram,
                new_identity,
            };
            let (vmx, dropped) = vmx::rewrite(text, &changes)?;
            let gone = |address: &String| format!("{address} is not in the backup; the VM comes back without it");
            Ok((vmx, dropped.iter().map(gone).collect()))
        }
        SavedMachine::Domain(domain) => {
            let addresses: Vec<String> = disks.iter().map(|disk| disk.address.clone()).collect();
            let wish = ToVmx { name, new_identity, disks: &targets_of(domain, &addresses)? };
            let mut made = vmx_of_domain(domain, &wish)?;
            for disk in disks {
                let new = made.addresses.iter().find(|(old, _)| *old == disk.address);
                disk.device = new.map_or_else(|| disk.address.clone(), |(_, new)| new.clone());
                vmx::line(&mut made.text, &format!("{}.fileName", disk.device), &disk.to);
            }
            Ok((made.text, made.notes))
        }
    }
}

fn catalog_value(backup: &Backup, key: &str) -> Option<String> {
    backup.catalog.get(key).filter(|value| !value.is_empty()).map(str::to_owned)
}

/// `config.vmx` of the catalog: datastore and path, of which every part must be a plain name.
fn config_path(text: &str) -> Result<(&str, &str)> {
    let (datastore, path) = split_path(text).ok_or_else(|| bad_config_path(text))?;
    let plain = path.split('/').all(|part| vmdk_rs::PlainName::new(part).is_ok());
    let deep_enough = path.contains('/') && path.to_ascii_lowercase().ends_with(".vmx") && !datastore.is_empty();
    if plain && deep_enough { Ok((datastore, path)) } else { Err(bad_config_path(text)) }
}

fn bad_config_path(text: &str) -> Error {
    Error::new(
        Family::Corrupt,
        format!("the catalog's config.vmx is \"{text}\": expected \"[datastore] folder/name.vmx\""),
    )
}

/// Gives every disk a descriptor and a data file of its own. Disks may come from several datastores under one name; here they share a
/// folder.
fn plan_disks(backup: &Backup, stem: &str, rename: bool, names: &mut Names) -> Result<Vec<PlannedDisk>> {
    let mut disks = Vec::new();
    for (index, disk) in backup.disks.iter().enumerate() {
        let original = disk.disk_name.as_deref().and_then(split_path).and_then(|(_, path)| path.rsplit('/').next());
        let wish = match (rename, original, index) {
            (false, Some(original), _) => original.to_owned(),
            (_, _, 0) => format!("{stem}.vmdk"),
            (_, _, n) => format!("{stem}_{n}.vmdk"),
        };
        if vmdk_rs::PlainName::new(&wish).is_err() || !wish.ends_with(".vmdk") {
            return Err(Error::new(
                Family::Corrupt,
                format!("the catalog calls the file of {} \"{wish}\"", disk.address),
            ));
        }
        let others = (1..=backup.disks.len() * 2).map(|n| format!("{stem}_{n}.vmdk"));
        let to = std::iter::once(wish)
            .chain(others)
            .find(|name| names.take_disk(name))
            .ok_or_else(|| Error::new(Family::Corrupt, format!("no file name is free for {}", disk.address)))?;
        disks.push(PlannedDisk {
            address: disk.address.clone(),
            device: disk.address.clone(),
            from: disk.file.clone(),
            to,
            capacity: disk.image.size().0,
        });
    }
    Ok(disks)
}

/// A VM of that name, or (if it keeps its identity) of that UUID, must not be there.
async fn refuse_living(connected: &Connected, backup: &Backup, name: &str, new_identity: bool) -> Result<()> {
    let mut specs = vec![Spec::Name(name.to_owned())];
    if !new_identity && let Some(uuid) = backup.catalog.get("uuid").filter(|uuid| !uuid.is_empty()) {
        specs.push(Spec::Uuid(uuid.to_owned()));
    }
    for spec in specs {
        if let Some(vm) = connected.hypervisor.find(&spec).await?.first() {
            let what = format!("{} has a VM {} ({}) already", connected.uri.place(), vm.name, vm.moref);
            return Err(Error::new(Family::Exists, what)
                .hint("restore beside it with --name NEW; nothing that exists is replaced"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datastore_paths_are_read_with_and_without_the_blank_and_the_slash() {
        for path in ["[ds 1] vm/vm.vmx", "[ds 1]vm/vm.vmx", "[ds 1] /vm/vm.vmx"] {
            assert_eq!(split_path(path), Some(("ds 1", "vm/vm.vmx")));
        }
        assert_eq!(split_path("vm/vm.vmx"), None);
    }

    #[test]
    fn a_configuration_path_that_climbs_is_data_gone_wrong() {
        for bad in [
            "[ds] ../x/vm.vmx",
            "[ds] a/./vm.vmx",
            "[ds] a//vm.vmx",
            "[ds] vm.vmx",
            "[] a/vm.vmx",
            "[ds] a/vm.txt",
            "a/vm.vmx",
        ] {
            assert_eq!(config_path(bad).unwrap_err().family(), Family::Corrupt, "{bad}");
        }
        assert_eq!(config_path("[ds 1] a/b/vm 1.vmx").unwrap(), ("ds 1", "a/b/vm 1.vmx"));
    }
}
