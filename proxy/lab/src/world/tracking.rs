//! Changed block tracking of the VMs: series that begin, go on and end; what changed since an id of one.

use std::fs;
use std::path::PathBuf;

use uuid::Uuid;

use super::live::LiveVm;
use super::state::{DiskState, VmState};
use super::tracker::Tracker;
use super::{Core, LabError, SnapshotId, VmId, World};

/// The folder of a lab that holds the files of its trackers.
const TRACKING: &str = "tracking";

impl World {
    fn tracker_path(&self, series: Uuid) -> PathBuf {
        self.dir().join(TRACKING).join(series.hyphenated().to_string())
    }

    /// Goes on with the series of a disk, or begins one if its file is not there. Answers whether it began one, which the state has to be
    /// saved for.
    pub(super) fn track(&self, disk: &mut DiskState) -> Result<(Tracker, bool), LabError> {
        let path = self.tracker_path(disk.change_uuid);
        if path.exists() {
            let tracker = Tracker::open(&path, disk.change_count).map_err(LabError::io("open", path))?;
            return Ok((tracker, false));
        }
        disk.change_uuid = Uuid::new_v4();
        let path = self.tracker_path(disk.change_uuid);
        let folder = self.dir().join(TRACKING);
        fs::create_dir_all(&folder).map_err(LabError::io("create", folder))?;
        let tracker = Tracker::create(&path, disk.change_count).map_err(LabError::io("create", path))?;
        Ok((tracker, true))
    }

    /// The trackers of a VM's disks in their order; none if it is not tracked.
    pub(super) fn open_trackers(&self, core: &mut Core, vm: &VmId) -> Result<Vec<Tracker>, LabError> {
        let state = core.state.vm_mut(vm)?;
        if !state.change_tracking {
            return Ok(Vec::new());
        }
        let opened = state.disks.iter_mut().map(|disk| self.track(disk)).collect::<Result<Vec<_>, _>>()?;
        if opened.iter().any(|(_, began)| *began) {
            core.save(self.dir())?;
        }
        Ok(opened.into_iter().map(|(tracker, _)| tracker).collect())
    }

    /// Deletes the trackers of a VM that is forgotten or no longer tracked.
    pub(super) fn forget_trackers(&self, vm: &VmState) {
        for disk in &vm.disks {
            let _ = fs::remove_file(self.tracker_path(disk.change_uuid)); // a file that stays is only untidy
        }
    }

    /// Switches changed block tracking. Switched on, it begins a new series of change ids.
    ///
    /// # Errors
    /// [`LabError::NoSuchVm`].
    pub fn set_change_tracking(&self, vm: &VmId, on: bool) -> Result<(), LabError> {
        let live = self.live_vm(vm)?;
        let mut core = self.core();
        if core.state.vm(vm)?.change_tracking == on {
            return Ok(());
        }
        self.restart_tracking(&live, core.state.vm_mut(vm)?, on)?;
        self.write_config(core.state.vm(vm)?)?;
        core.save(self.dir())
    }

    /// Begins a new series of change ids, as hosts do when they lost the old one: ids of before mean nothing any more.
    ///
    /// # Errors
    /// [`LabError::NoSuchVm`], [`LabError::ChangeTrackingOff`].
    pub fn reset_change_tracking(&self, vm: &VmId) -> Result<(), LabError> {
        let live = self.live_vm(vm)?;
        let mut core = self.core();
        if !core.state.vm(vm)?.change_tracking {
            return Err(LabError::ChangeTrackingOff(vm.clone()));
        }
        self.restart_tracking(&live, core.state.vm_mut(vm)?, true)?;
        core.save(self.dir())
    }

    fn restart_tracking(&self, live: &LiveVm, vm: &mut VmState, on: bool) -> Result<(), LabError> {
        self.forget_trackers(vm);
        vm.change_tracking = on;
        for disk in &mut vm.disks {
            let tracker = if on { Some(self.track(disk)?.0) } else { None };
            live.disk(disk.key)?.set_tracker(tracker);
        }
        Ok(())
    }

    /// The areas of a disk that were written since `change_id`, as (start, length) in bytes, in order, not touching each other. What was
    /// written after the snapshot may be among them.
    ///
    /// # Errors
    /// [`LabError::ChangeTrackingOff`], [`LabError::UnknownChangeId`], [`LabError::NoSuchSnapshot`], [`LabError::NoSuchDisk`].
    pub fn changed_areas(
        &self,
        vm: &VmId,
        snapshot: Option<&SnapshotId>,
        disk_key: i32,
        change_id: &str,
    ) -> Result<Vec<(u64, u64)>, LabError> {
        let live = self.live_vm(vm)?;
        let core = self.core();
        let state = core.state.vm(vm)?;
        if !state.change_tracking {
            return Err(LabError::ChangeTrackingOff(vm.clone()));
        }
        let disk = state.disk(disk_key)?;
        let unknown = || LabError::UnknownChangeId { vm: vm.clone(), id: change_id.to_owned() };
        let now = match snapshot {
            None => disk.change_id(),
            Some(id) => {
                let no_such = || LabError::NoSuchSnapshot(id.clone());
                let snapshot = state.snapshots.iter().find(|snapshot| snapshot.id == *id).ok_or_else(no_such)?;
                let frozen = snapshot.disks.iter().find(|frozen| frozen.key == disk_key);
                frozen.and_then(|frozen| frozen.change_id.clone()).ok_or_else(unknown)?
            }
        };
        let parse = |id: &str| {
            let (series, epoch) = id.rsplit_once('/')?;
            Some((series.parse::<Uuid>().ok()?, epoch.parse::<u32>().ok()?))
        };
        let ((series, since), (series_now, until)) = parse(change_id).zip(parse(&now)).ok_or_else(unknown)?;
        if series != series_now || series != disk.change_uuid || since > until {
            return Err(unknown());
        }
        live.disk(disk_key)?.changed_since(since).ok_or_else(unknown)
    }
}
