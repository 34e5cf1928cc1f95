//! What `stillframe restore` can be told for each kind of target.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::args::ConnectArgs;
use super::output::ShowArgs;
use crate::error::{Error, Family, Result};
use crate::machine::convert;
use crate::restore::Format;
use crate::restore::libvirt::{Choice, Options};
use crate::restore::vsphere::RestoreOptions;

/// Restores a VM from a backup directory, to the kind of hypervisor it came from or to another one
#[derive(Args)]
pub(super) struct RestoreArgs {
    /// The backup directory
    pub(super) directory: PathBuf,
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    /// Restore as a new VM of this name, beside the original
    #[arg(long)]
    pub(super) name: Option<String>,
    #[command(flatten)]
    vsphere: VSphereArgs,
    #[command(flatten)]
    libvirt: LibvirtArgs,
    /// Use this catalog instead of the one in the directory
    #[arg(long, value_name = "FILE")]
    pub(super) catalog: Option<PathBuf>,
    /// Do not read everything back from where it was written
    #[arg(long)]
    no_read_back: bool,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) show: ShowArgs,
}

/// What only vSphere knows.
#[derive(Args)]
#[command(next_help_heading = "To a vSphere server")]
struct VSphereArgs {
    /// Restore to this datastore
    #[arg(long)]
    datastore: Option<String>,
    /// Restore into this folder (inventory path)
    #[arg(long)]
    folder: Option<String>,
    /// Restore into this resource pool (inventory path)
    #[arg(long)]
    resource_pool: Option<String>,
}

/// What only libvirt knows.
#[derive(Args)]
#[command(next_help_heading = "To a libvirt host, which must be this machine")]
struct LibvirtArgs {
    /// Give the VM a new UUID; without one of the two it is kept under the old name, and new under another one
    #[arg(long, conflicts_with = "keep_uuid")]
    new_uuid: bool,
    /// Keep the VM's UUID
    #[arg(long)]
    keep_uuid: bool,
    /// Give network cards new addresses; without one of the two they are kept under the old name, and new under another one
    #[arg(long, conflicts_with = "keep_macs")]
    new_macs: bool,
    /// Keep the addresses of network cards
    #[arg(long)]
    keep_macs: bool,
    /// Put the files into this folder or storage pool [default: where they were, else the pool "default"]
    #[arg(long, value_name = "DIR_OR_POOL")]
    storage: Option<String>,
    /// The form of the disks [default: what they had, qcow2 for those of vSphere]
    #[arg(long, value_name = "FORMAT")]
    format: Option<DiskFormat>,
    /// Plug all network cards into this network [default: the one they had, else "default", else none]
    #[arg(long)]
    network: Option<String>,
    /// Put the disks of a vSphere machine on this kind of controller [default: one that the same driver knows]
    #[arg(long, value_name = "BUS")]
    disk_bus: Option<DiskBus>,
    /// Start the VM in the end
    #[arg(long)]
    start: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DiskFormat {
    /// The bytes of the disk, with holes for zeros
    Raw,
    /// QEMU's own
    Qcow2,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DiskBus {
    /// virtio-blk: the guest needs its driver
    Virtio,
    /// virtio-scsi: the guest needs its driver
    Scsi,
    /// AHCI
    Sata,
    /// IDE, at most four disks
    Ide,
}

impl RestoreArgs {
    /// For a vSphere server.
    pub(super) fn for_vsphere(&self) -> Result<RestoreOptions> {
        let libvirt = &self.libvirt;
        let said = [
            ("--new-uuid", libvirt.new_uuid),
            ("--keep-uuid", libvirt.keep_uuid),
            ("--new-macs", libvirt.new_macs),
            ("--keep-macs", libvirt.keep_macs),
            ("--storage", libvirt.storage.is_some()),
            ("--format", libvirt.format.is_some()),
            ("--network", libvirt.network.is_some()),
            ("--disk-bus", libvirt.disk_bus.is_some()),
            ("--start", libvirt.start),
        ];
        refuse(&said, "a vSphere server")?;
        Ok(RestoreOptions {
            source: self.directory.clone(),
            catalog: self.catalog.clone(),
            name: self.name.clone(),
            datastore: self.vsphere.datastore.clone(),
            folder: self.vsphere.folder.clone(),
            resource_pool: self.vsphere.resource_pool.clone(),
            read_back: !self.no_read_back,
        })
    }

    /// For a libvirt host.
    pub(super) fn for_libvirt(&self) -> Result<Options> {
        let vsphere = &self.vsphere;
        let said = [
            ("--datastore", vsphere.datastore.is_some()),
            ("--folder", vsphere.folder.is_some()),
            ("--resource-pool", vsphere.resource_pool.is_some()),
        ];
        refuse(&said, "a libvirt host")?;
        let libvirt = &self.libvirt;
        Ok(Options {
            name: self.name.clone(),
            uuid: choice(libvirt.keep_uuid, libvirt.new_uuid),
            macs: choice(libvirt.keep_macs, libvirt.new_macs),
            storage: libvirt.storage.clone(),
            format: libvirt.format.map(|format| match format {
                DiskFormat::Raw => Format::Raw,
                DiskFormat::Qcow2 => Format::Qcow2,
            }),
            network: libvirt.network.clone(),
            disk_bus: libvirt.disk_bus.map(|bus| match bus {
                DiskBus::Virtio => convert::DiskBus::Virtio,
                DiskBus::Scsi => convert::DiskBus::Scsi,
                DiskBus::Sata => convert::DiskBus::Sata,
                DiskBus::Ide => convert::DiskBus::Ide,
            }),
            start: libvirt.start,
            read_back: !self.no_read_back,
        })
    }
}

/// An option that the target does not know is a mistake that should not pass in silence.
fn refuse(said: &[(&str, bool)], target: &str) -> Result<()> {
    match said.iter().find(|(_, said)| *said) {
        Some((option, _)) => Err(Error::new(Family::Usage, format!("{option} means nothing to {target}"))),
        None => Ok(()),
    }
}

const fn choice(keep: bool, new: bool) -> Choice {
    match (keep, new) {
        (true, _) => Choice::Keep,
        (_, true) => Choice::New,
        _ => Choice::ByName,
    }
}
