//! Disks that a VM is given, and disks that grow.

use super::live::LiveVm;
use super::{DiskSource, LabError, Power, VmId, World, descriptor};

impl World {
    /// Gives a VM that is off another disk, at the next free place. Answers its device key.
    ///
    /// # Errors
    /// [`LabError::PowerState`] while it runs; [`LabError::Unsupported`] if all places are taken; what goes wrong with files and images.
    pub fn add_disk(&self, vm: &VmId, source: &DiskSource) -> Result<i32, LabError> {
        let live = self.live_vm(vm)?;
        let _task = live.begin_task()?;
        let state = self.off(vm)?;
        let unit = (0..16).filter(|unit| *unit != 7).find(|unit| state.disks.iter().all(|disk| disk.unit != *unit));
        let full = || LabError::Unsupported { what: "more than 15 disks", actual: "16".to_owned() };
        let disk = self.make_disk(&state, unit.ok_or_else(full)?, source)?;
        let key = disk.key;
        {
            let mut core = self.core();
            core.state.vm_mut(vm)?.disks.push(disk);
            core.save(self.dir())?;
        }
        self.reopen(&live, vm)?;
        Ok(key)
    }

    /// Lets a disk of a VM that is off and has no snapshots grow. Its series of change ids goes on: as on some hosts, what it says then
    /// is not to be trusted.
    ///
    /// # Errors
    /// [`LabError::PowerState`] while it runs; [`LabError::Unsupported`] with snapshots, and for sizes that are not larger.
    pub fn grow_disk(&self, vm: &VmId, key: i32, capacity: u64) -> Result<(), LabError> {
        let live = self.live_vm(vm)?;
        let _task = live.begin_task()?;
        let state = self.off(vm)?;
        let disk = state.disk(key)?;
        if disk.layers.len() != 1 || capacity <= disk.capacity || !capacity.is_multiple_of(512) {
            return Err(LabError::Unsupported { what: "a disk of this size here", actual: capacity.to_string() });
        }
        let layer = &disk.layers[0];
        let path = self.host_path(&state.file(&layer.data));
        let file = std::fs::OpenOptions::new().write(true).open(&path).map_err(LabError::io("open", &path))?;
        file.set_len(capacity).map_err(LabError::io("resize", &path))?;
        let text = descriptor::base(layer, capacity, disk.uuid);
        descriptor::write(&self.host_path(&state.file(&layer.descriptor)), &text)?;
        {
            let mut core = self.core();
            let state = core.state.vm_mut(vm)?;
            if let Some(disk) = state.disks.iter_mut().find(|disk| disk.key == key) {
                disk.capacity = capacity;
            }
            core.save(self.dir())?;
        }
        self.reopen(&live, vm)
    }

    fn off(&self, vm: &VmId) -> Result<super::state::VmState, LabError> {
        let state = self.core().state.vm(vm)?.clone();
        match state.power {
            Power::PoweredOff => Ok(state),
            actual => Err(LabError::PowerState { vm: vm.clone(), expected: Power::PoweredOff, actual }),
        }
    }

    /// Opens the disks of a VM that is off once more; nobody else has them.
    fn reopen(&self, _old: &LiveVm, vm: &VmId) -> Result<(), LabError> {
        self.open_disks(vm)?;
        self.write_config(self.core().state.vm(vm)?)
    }
}
