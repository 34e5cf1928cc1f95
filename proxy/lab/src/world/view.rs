use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The managed object id of a VM, as `vm-62`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VmId(pub String);

/// The managed object id of a snapshot, as `snapshot-12`. Unique in the whole lab.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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

/// A file or folder of a datastore. Prints as `[datastore1] vm/vm.vmx`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DatastorePath {
    /// The datastore's name.
    pub datastore: String,
    /// The path beneath it, separated by `/`, with no slash in front. Empty for the datastore itself.
    pub path: String,
}

impl DatastorePath {
    /// A path from its two parts.
    #[must_use]
    pub fn new(datastore: impl Into<String>, path: impl Into<String>) -> Self {
        Self { datastore: datastore.into(), path: path.into() }
    }

    /// Reads the form `[datastore1] vm/vm.vmx`; `None` if it is not of that form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (datastore, path) = text.trim().strip_prefix('[')?.split_once(']')?;
        Some(Self::new(datastore, path.trim_start().trim_end_matches('/')))
    }

    /// The last component of the path.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The folder that holds this file; the datastore itself for a path of one component.
    #[must_use]
    pub fn folder(&self) -> Self {
        let path = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        Self::new(self.datastore.clone(), path)
    }

    /// A file beneath this folder.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) };
        Self::new(self.datastore.clone(), path)
    }
}

impl fmt::Display for DatastorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.datastore, self.path)
    }
}

/// Who the lab says it is, and the one account that may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `about.instanceUuid`.
    pub instance_uuid: Uuid,
    /// The user name.
    pub user: String,
    /// The password, made at random when the lab was created.
    pub password: String,
}

/// What the guest's firmware is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// `bios`
    #[default]
    Bios,
    /// `efi`
    Efi,
}

impl Firmware {
    /// The word of the API and of the .vmx file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Efi => "efi",
        }
    }
}

/// Whether a VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Power {
    /// `poweredOn`
    PoweredOn,
    /// `poweredOff`
    PoweredOff,
}

impl Power {
    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PoweredOn => "poweredOn",
            Self::PoweredOff => "poweredOff",
        }
    }
}

/// A datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatastoreView {
    /// The managed object id, as `datastore-11`.
    pub id: String,
    /// The name, as in `[name] path`.
    pub name: String,
    /// Size of the file system that holds the lab, in bytes.
    pub capacity: u64,
    /// What is free of it, in bytes.
    pub free: u64,
    /// Where it lies on this machine.
    pub dir: PathBuf,
}

/// A VM at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct VmView {
    /// Managed object id.
    pub id: VmId,
    /// Display name. May hold blanks.
    pub name: String,
    /// `uuid.bios`, not unique after copies.
    pub uuid: Uuid,
    /// `vc.uuid`, unique in the lab.
    pub instance_uuid: Uuid,
    /// Whether it runs.
    pub power: Power,
    /// Whether the guest's tools run: they are installed and the VM is on.
    pub tools_running: bool,
    /// The guest's address, known only while tools run.
    pub ip: Option<String>,
    /// The guest's own name, known only while tools run.
    pub host_name: Option<String>,
    /// Whether changed block tracking is on.
    pub change_tracking: bool,
    /// The guest operating system id, as `windows2019srv_64Guest`.
    pub guest_id: String,
    /// Firmware.
    pub firmware: Firmware,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The configuration file. Its folder is the VM's folder.
    pub vmx: DatastorePath,
    /// The firmware's variables.
    pub nvram: DatastorePath,
    /// Its disks in the order of their keys.
    pub disks: Vec<DiskView>,
    /// Its snapshots from the oldest to the newest. The tree is a line: each is the parent of the next.
    pub snapshots: Vec<SnapshotView>,
    /// True while layers of a removed snapshot still wait to be merged.
    pub consolidation_needed: bool,
}

/// A disk of a running VM: its newest layer and those below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskView {
    /// Device key, 2000 + unit.
    pub key: i32,
    /// `Hard disk 1`
    pub label: String,
    /// Capacity in bytes.
    pub capacity: u64,
    /// Number of the SCSI controller. Its device key is 1000 + bus.
    pub bus: u32,
    /// Unit on that controller.
    pub unit: u32,
    /// The descriptor of the layer that is written.
    pub file: DatastorePath,
    /// The descriptors below it, the nearest first.
    pub parents: Vec<DatastorePath>,
    /// `<uuid>/<counter>`; none while change tracking is off.
    pub change_id: Option<String>,
    /// The disk's own uuid (`ddb.uuid`, backing uuid).
    pub uuid: Uuid,
    /// Content id of the newest layer.
    pub content_id: u32,
}

/// A snapshot of a VM.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotView {
    /// Managed object id.
    pub id: SnapshotId,
    /// The VM it belongs to.
    pub vm: VmId,
    /// The snapshot before it.
    pub parent: Option<SnapshotId>,
    /// Name.
    pub name: String,
    /// Description.
    pub description: String,
    /// When it was taken.
    pub created: Timestamp,
    /// Whether the guest was held at a clean point. False if it was asked for and the tools did not run.
    pub quiesced: bool,
    /// How long the guest was held. Zero if it was not.
    pub frozen_for: Duration,
    /// The last transaction that the guest had committed when it was held; none if it was not held or keeps no log.
    pub guest_log_at_freeze: Option<u64>,
    /// Number in the VM, from 1.
    pub number: u32,
    /// Whether the VM ran. The lab saves no memory, so `state` of the snapshot is always `poweredOff`.
    pub vm_was_on: bool,
    /// What was frozen, one per disk.
    pub disks: Vec<FrozenDisk>,
}

/// A disk as a snapshot froze it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenDisk {
    /// Device key.
    pub key: i32,
    /// Capacity in bytes.
    pub capacity: u64,
    /// The descriptor of the frozen layer.
    pub file: DatastorePath,
    /// The descriptors below it, the nearest first.
    pub parents: Vec<DatastorePath>,
    /// The state of change tracking at the freeze.
    pub change_id: Option<String>,
    /// The disk's own uuid.
    pub uuid: Uuid,
    /// Content id of the frozen layer.
    pub content_id: u32,
}

/// One name in a folder of a datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Name without path.
    pub name: String,
    /// Length in bytes, 0 for a folder.
    pub len: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// Last change, if the host knows.
    pub modified: Option<Timestamp>,
}

/// A VM to add.
#[derive(Clone, Debug)]
pub struct VmSpec {
    /// Display name; also the name of its folder and files.
    pub name: String,
    /// An existing datastore.
    pub datastore: String,
    /// Disks, `scsi0:0` onwards in this order.
    pub disks: Vec<DiskSpec>,
    /// Guest operating system id, as `debian11_64Guest`.
    pub guest_id: String,
    /// Firmware.
    pub firmware: Firmware,
    /// The guest's address.
    pub ip: Option<String>,
    /// The guest's own name.
    pub host_name: Option<String>,
    /// Whether it is switched on at once.
    pub power_on: bool,
    /// Whether tools are installed.
    pub tools: bool,
    /// Whether changed block tracking is on from the start.
    pub change_tracking: bool,
}

/// A disk to add.
#[derive(Clone, Debug)]
pub struct DiskSpec {
    /// Where its bytes come from.
    pub source: DiskSource,
}

/// Where a new disk's bytes come from. Holes stay holes.
#[derive(Clone, Debug)]
pub enum DiskSource {
    /// Nowhere: this many bytes, a multiple of 512, all zero.
    Empty(u64),
    /// A raw image. Its length is rounded up to whole sectors.
    RawFile(PathBuf),
    /// A VMDK descriptor of any dialect that `vmdk-rs` reads.
    Vmdk(PathBuf),
}

/// Something that happened, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorldEvent {
    /// The guest was held at a clean point, having committed this transaction last.
    Frozen(VmId, Option<u64>),
    /// Every disk was switched to a new layer.
    Switched(VmId, SnapshotId),
    /// The guest goes on.
    Thawed(VmId),
    /// All layers of a removed snapshot were merged.
    Merged(VmId, SnapshotId),
}
