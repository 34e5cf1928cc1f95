//! What `lab.json` holds, and how it is kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{DatastorePath, Firmware, LabError, Power, SnapshotId, VmId};

pub(crate) const FILE_NAME: &str = "lab.json";

/// The whole state of a lab. Version 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) version: u32,
    pub(crate) instance_uuid: Uuid,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) next_id: u32,
    pub(crate) datastores: Vec<DatastoreState>,
    pub(crate) vms: Vec<VmState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DatastoreState {
    pub(crate) id: String,
    pub(crate) name: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct VmState {
    pub(crate) id: VmId,
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) instance_uuid: Uuid,
    pub(crate) power: Power,
    pub(crate) tools: bool,
    pub(crate) ip: Option<String>,
    pub(crate) host_name: Option<String>,
    pub(crate) change_tracking: bool,
    pub(crate) guest_id: String,
    pub(crate) firmware: Firmware,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) vmx: DatastorePath,
    pub(crate) nvram: String,
    pub(crate) snapshot_count: u32,
    pub(crate) disks: Vec<DiskState>,
    pub(crate) snapshots: Vec<SnapshotState>,
    /// Merges that a removed snapshot left to do.
    pub(crate) pending: Vec<PendingMerge>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DiskState {
    pub(crate) key: i32,
    pub(crate) bus: u32,
    pub(crate) unit: u32,
    pub(crate) capacity: u64,
    pub(crate) uuid: Uuid,
    pub(crate) change_uuid: Uuid,
    pub(crate) change_count: u32,
    /// The base first.
    pub(crate) layers: Vec<LayerState>,
}

/// Names are those of files in the VM's folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerState {
    pub(crate) descriptor: String,
    pub(crate) data: String,
    pub(crate) content_id: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotState {
    pub(crate) id: SnapshotId,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) created: String,
    pub(crate) quiesced: bool,
    pub(crate) frozen_for_us: u64,
    pub(crate) guest_log_at_freeze: Option<u64>,
    pub(crate) number: u32,
    pub(crate) vm_was_on: bool,
    pub(crate) disks: Vec<FrozenState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FrozenState {
    pub(crate) key: i32,
    /// Descriptor of the frozen layer.
    pub(crate) layer: String,
    pub(crate) change_id: Option<String>,
}

/// `upper` is to be copied into `lower`; once `upper` is no layer any more, only its files are left to be deleted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PendingMerge {
    pub(crate) key: i32,
    pub(crate) upper: LayerState,
    pub(crate) lower: String,
}

impl State {
    pub(crate) fn load(dir: &Path) -> Result<Self, LabError> {
        let path = dir.join(FILE_NAME);
        let text = fs::read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => LabError::NotALab { dir: dir.to_owned() },
            _ => LabError::Io { action: "read", path: path.clone(), source },
        })?;
        let state: Self = serde_json::from_slice(&text).map_err(|source| LabError::State { path, source })?;
        if state.version != 1 {
            return Err(LabError::Unsupported { what: "lab.json of this version", actual: state.version.to_string() });
        }
        Ok(state)
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<(), LabError> {
        let path = dir.join(FILE_NAME);
        let text = serde_json::to_vec_pretty(self).map_err(|source| LabError::State { path: path.clone(), source })?;
        replace_file(&path, &text, 0o600).map_err(LabError::io("write", path))
    }

    /// A number for a new managed object.
    pub(crate) fn new_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn vm(&self, id: &VmId) -> Result<&VmState, LabError> {
        self.vms.iter().find(|vm| vm.id == *id).ok_or_else(|| LabError::NoSuchVm(id.clone()))
    }

    pub(crate) fn vm_mut(&mut self, id: &VmId) -> Result<&mut VmState, LabError> {
        self.vms.iter_mut().find(|vm| vm.id == *id).ok_or_else(|| LabError::NoSuchVm(id.clone()))
    }

    /// The VM that a snapshot belongs to, and its place among that VM's snapshots.
    pub(crate) fn find_snapshot(&self, id: &SnapshotId) -> Result<(&VmState, usize), LabError> {
        let find = |vm: &VmState| vm.snapshots.iter().position(|s| s.id == *id);
        let found = self.vms.iter().find_map(|vm| find(vm).map(|index| (vm, index)));
        found.ok_or_else(|| LabError::NoSuchSnapshot(id.clone()))
    }
}

impl VmState {
    pub(crate) fn disk(&self, key: i32) -> Result<&DiskState, LabError> {
        let missing = || LabError::NoSuchDisk { vm: self.id.clone(), key };
        self.disks.iter().find(|disk| disk.key == key).ok_or_else(missing)
    }

    /// A file in the VM's folder.
    pub(crate) fn file(&self, name: &str) -> DatastorePath {
        self.vmx.folder().join(name)
    }

    /// The configuration's name without its ending.
    pub(crate) fn stem(&self) -> &str {
        let name = self.vmx.file_name();
        name.strip_suffix(".vmx").unwrap_or(name)
    }
}

impl DiskState {
    /// The place of a layer in the chain, by its descriptor's name.
    pub(crate) fn layer_index(&self, descriptor: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer.descriptor == descriptor)
    }

    pub(crate) fn change_id(&self) -> String {
        format!("{}/{}", self.change_uuid.hyphenated(), self.change_count)
    }
}

/// Writes a file so that a reader sees the old or the new content, also after a power failure.
pub(crate) fn replace_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
