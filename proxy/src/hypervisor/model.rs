use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::RunId;
use crate::transport::Route;

/// The hypervisor's own id of a VM (a vSphere moref value such as `vm-62`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VmId(pub String);

/// The hypervisor's own id of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(pub String);

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A product that runs VMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HypervisorKind {
    /// ESX, with or without vCenter. Backups that say nothing are of it.
    #[default]
    VSphere,
    /// QEMU under libvirt.
    Libvirt,
}

/// Whether a VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// Running.
    On,
    /// Not running.
    Off,
    /// Stopped with its memory saved.
    Suspended,
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Suspended => "suspended",
        })
    }
}

/// What a list shows of a VM. What the login may not read is `None`.
#[derive(Clone, Debug, Serialize)]
pub struct VmInfo {
    /// The hypervisor's id.
    pub moref: VmId,
    /// Display name.
    pub name: String,
    /// BIOS UUID.
    pub uuid: Option<String>,
    /// The UUID that the hypervisor keeps unique.
    pub instance_uuid: Option<String>,
    /// Whether it runs.
    pub power: Option<Power>,
    /// Address the guest reports.
    pub ip: Option<String>,
    /// Host name the guest reports.
    pub host_name: Option<String>,
    /// A template: it cannot have snapshots.
    pub template: bool,
}

/// Where a VM lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Datacenter, as an inventory path.
    pub datacenter: String,
    /// Folder, as an inventory path.
    pub folder: String,
    /// Resource pool, as an inventory path.
    pub resource_pool: String,
    /// Host name.
    pub host: String,
}

/// What a backup needs to know of a VM.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// Identity and state.
    pub info: VmInfo,
    /// Virtual hardware version, such as 19.
    pub hardware_version: u32,
    /// `bios` or `efi`.
    pub firmware: String,
    /// Whether the guest's tools answer, without which nothing is quiesced.
    pub tools_running: bool,
    /// Why they do not, where the hypervisor knows.
    pub tools_missing: Option<String>,
    /// Which start of the machine this is, if it runs and the hypervisor tells: what a guest had frozen ends with it.
    pub boot: Option<String>,
    /// Whether the hypervisor tracks which blocks are in use and changed.
    pub change_tracking: bool,
    /// Where it lives.
    pub place: Place,
    /// The configuration file, `[datastore] folder/name.vmx`.
    pub config_path: String,
    /// Configuration files to keep beside the disks.
    pub files: Vec<ConfigFile>,
    /// Disks as they run now.
    pub disks: Vec<Disk>,
    /// The whole configuration as the hypervisor sent it.
    pub raw: Option<String>,
    /// What a backup of this machine will lack, for its report.
    pub notes: Vec<String>,
}

/// A file of the VM that is no disk.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// `[datastore] folder/name.nvram`.
    pub path: String,
    /// Whether a backup without it is worthless (the `.vmx`; the NVRAM of an EFI machine).
    pub required: bool,
}

/// A kind of disk controller, as the configuration file spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bus {
    /// Any SCSI controller.
    Scsi,
    /// IDE.
    Ide,
    /// AHCI.
    Sata,
    /// NVMe.
    Nvme,
    /// Paravirtual, without a controller.
    Virtio,
    /// USB.
    Usb,
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scsi => "scsi",
            Self::Ide => "ide",
            Self::Sata => "sata",
            Self::Nvme => "nvme",
            Self::Virtio => "virtio",
            Self::Usb => "usb",
        })
    }
}

/// Where a disk is plugged in: `scsi0:1`. Unique in a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskAddress {
    /// Controller kind.
    pub bus: Bus,
    /// Controller number.
    pub controller: u32,
    /// Unit on the controller.
    pub unit: u32,
}

impl fmt::Display for DiskAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}:{}", self.bus, self.controller, self.unit)
    }
}

/// One disk of a VM, or one frozen disk of a snapshot.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Where it is plugged in.
    pub address: DiskAddress,
    /// Capacity in bytes.
    pub capacity: u64,
    /// The file behind it, as the hypervisor names it.
    pub file: String,
    /// Left out of snapshots by its mode.
    pub independent: bool,
    /// A physical device passed through: no snapshot of it exists.
    pub raw_device: bool,
    /// Another reason why it cannot be frozen, as what the disk is: "shared with other machines".
    pub obstacle: Option<String>,
    /// Another name that users know it by: `vda`.
    pub alias: Option<String>,
    /// The disk's own UUID.
    pub uuid: Option<String>,
    /// The point in the change log that this state stands for.
    pub change_id: Option<String>,
    /// What the transport needs of it.
    pub native: NativeDisk,
}

impl Disk {
    /// The file that the disk was made as, under whatever deltas other snapshots put on it.
    #[must_use]
    pub fn root_file(&self) -> String {
        match &self.native {
            NativeDisk::VSphere(native) => native.parents.last().unwrap_or(&native.file).to_string(),
            NativeDisk::Live | NativeDisk::Nbd(_) => self.file.clone(),
        }
    }

    /// Whether a user who says `name` means this disk.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.alias.as_deref() == Some(name) || self.address.to_string() == name
    }
}

/// A disk in its hypervisor's own words.
#[derive(Clone, Debug)]
pub enum NativeDisk {
    /// A vSphere virtual disk.
    VSphere(Box<::vsphere::DiskConfig>),
    /// A disk as it runs, which has to be frozen before anybody can read it.
    Live,
    /// A frozen disk behind an NBD server.
    Nbd(Box<NbdExport>),
}

/// A frozen disk that an NBD server exports.
#[derive(Clone, Debug)]
pub struct NbdExport {
    /// The export.
    pub uri: ::nbd::Uri,
    /// The point since which the server knows what changed, and the name of the context that tells.
    pub changes: Option<(String, String)>,
    /// Why changes that were asked for are not known.
    pub unknown: Option<String>,
}

/// What to freeze, and how.
#[derive(Clone, Copy, Debug)]
pub struct FreezeRequest<'a> {
    /// The VM.
    pub vm: &'a VmConfig,
    /// The run.
    pub run: RunId,
    /// The snapshot's name.
    pub name: &'a str,
    /// The snapshot's description, which says whose it is.
    pub description: &'a str,
    /// Whether the guest is asked to stand still.
    pub quiesce: bool,
    /// The disks that will be read.
    pub disks: &'a [DiskAddress],
    /// How they will be read.
    pub route: Route,
    /// The points since which changes are wanted.
    pub since: &'a [(DiskAddress, String)],
    /// Whether this state is to be a point that a later backup can ask the changes since.
    pub keep_point: bool,
}

/// A snapshot that was made.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// Its id.
    pub id: SnapshotId,
    /// Whether the guest stood still for it; `None` if only the list of snapshots tells.
    pub quiesced: Option<bool>,
    /// How long the guest stood still, if that is known better than by the time of the call.
    pub still: Option<Duration>,
    /// What went wrong on the way, for the report.
    pub warnings: Vec<String>,
}

/// One snapshot of a VM.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// The hypervisor's id.
    pub id: SnapshotId,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Whether the guest was quiesced for it.
    pub quiesced: bool,
    /// Depth in the tree, 0 for a root.
    pub depth: usize,
}

/// Where a restore would like its VM. What is `None` is for the server to choose.
#[derive(Clone, Debug, Default)]
pub struct RebuildWish {
    /// Datastore name.
    pub datastore: Option<String>,
    /// Inventory path of the folder.
    pub folder: Option<String>,
    /// Inventory path of the resource pool.
    pub resource_pool: Option<String>,
    /// Bytes that the VM will need.
    pub bytes: u64,
}

/// A place that exists.
#[derive(Clone, Debug)]
pub struct RebuildTarget {
    /// Inventory path of the datacenter.
    pub datacenter: String,
    /// Datastore name.
    pub datastore: String,
    /// Free bytes on it, if the server says.
    pub free: Option<u64>,
    /// The folder's id.
    pub folder: String,
    /// The resource pool's id.
    pub resource_pool: String,
}
