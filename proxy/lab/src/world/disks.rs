//! The bytes of a VM's disks, running and frozen.

use std::sync::Arc;

use blockdev::{ByteOffset, ExtentKind, ReadAt, ReadAtExt};

use super::chain::{FrozenLayers, LiveDisk};
use super::{LabError, SnapshotId, VmId, World};

impl World {
    /// A disk of a VM as its guest sees it at each moment.
    ///
    /// # Errors
    /// [`LabError::NoSuchVm`], [`LabError::NoSuchDisk`].
    pub fn running_disk(&self, vm: &VmId, disk_key: i32) -> Result<Arc<dyn ReadAt>, LabError> {
        let disk: Arc<LiveDisk> = Arc::clone(self.live_vm(vm)?.disk(disk_key)?);
        Ok(disk)
    }

    /// A disk as a snapshot froze it. It stays as it is only as long as the snapshot is there.
    ///
    /// # Errors
    /// [`LabError::NoSuchSnapshot`], [`LabError::NoSuchDisk`].
    pub fn frozen_disk(&self, snapshot: &SnapshotId, disk_key: i32) -> Result<Arc<dyn ReadAt>, LabError> {
        let core = self.core();
        let (vm, index) = core.state.find_snapshot(snapshot)?;
        let missing = || LabError::NoSuchDisk { vm: vm.id.clone(), key: disk_key };
        let disk = vm.disk(disk_key)?;
        let frozen = vm.snapshots[index].disks.iter().find(|frozen| frozen.key == disk_key).ok_or_else(missing)?;
        let top = disk.layer_index(&frozen.layer).ok_or_else(missing)?;
        let live = core.live.get(&vm.id).ok_or_else(|| LabError::NoSuchVm(vm.id.clone()))?;
        let layers = live.disk(disk_key)?.layers().iter().take(top + 1).cloned().collect();
        Ok(Arc::new(FrozenLayers { capacity: disk.capacity, layers }))
    }

    /// Writes whole sectors to a disk, as its guest would. For tests and for putting data into a VM.
    ///
    /// # Errors
    /// [`LabError::Io`] if the range is not one of whole sectors inside the disk, or the write fails.
    pub fn write_disk(&self, vm: &VmId, disk_key: i32, at: ByteOffset, data: &[u8]) -> Result<(), LabError> {
        let live = self.live_vm(vm)?;
        let folder = self.host_path(&self.core().state.vm(vm)?.vmx.folder());
        live.disk(disk_key)?.write(at.0, data).map_err(LabError::io("write a disk in", folder))
    }

    /// The areas of a disk that hold data, as (start, length) in bytes, in order, not touching each other: what a query of changed
    /// areas since `*` answers. Everything outside reads as zeros. Without a snapshot, the running disk.
    ///
    /// # Errors
    /// [`LabError::ChangeTrackingOff`], [`LabError::NoSuchSnapshot`], [`LabError::NoSuchDisk`].
    pub fn allocated_areas(
        &self,
        vm: &VmId,
        snapshot: Option<&SnapshotId>,
        disk_key: i32,
    ) -> Result<Vec<(u64, u64)>, LabError> {
        {
            let core = self.core();
            if !core.state.vm(vm)?.change_tracking {
                return Err(LabError::ChangeTrackingOff(vm.clone()));
            }
            if let Some(snapshot) = snapshot
                && core.state.find_snapshot(snapshot)?.0.id != *vm
            {
                return Err(LabError::NoSuchSnapshot(snapshot.clone()));
            }
        }
        let disk = match snapshot {
            Some(snapshot) => self.frozen_disk(snapshot, disk_key)?,
            None => self.running_disk(vm, disk_key)?,
        };
        let mut areas = Vec::new();
        for extent in disk.extents() {
            let extent = extent.map_err(|source| LabError::Read { path: self.dir().to_owned(), source })?;
            if extent.kind == ExtentKind::Data {
                areas.push((extent.start.0, extent.len.0));
            }
        }
        Ok(areas)
    }
}
