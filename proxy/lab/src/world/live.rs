//! The open side of a VM: its disks' files, its guest, and who works with it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::chain::{Layer, LiveDisk};
use super::delta::Delta;
use super::state::{DiskState, LayerState, VmState};
use super::{LabError, Power, VmId, World};
use crate::guest::GuestControl;

pub(crate) type Live = BTreeMap<VmId, Arc<LiveVm>>;

/// What is open of a VM.
pub(crate) struct LiveVm {
    id: VmId,
    disks: Vec<(i32, Arc<LiveDisk>)>,
    running: AtomicBool,
    boots: AtomicU32,
    /// Held by a task that changes the VM: there is one at a time.
    task: Mutex<()>,
    pub(crate) guest: GuestControl,
}

impl LiveVm {
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// How often it was switched on since the lab was opened.
    pub(crate) fn boots(&self) -> u32 {
        self.boots.load(Ordering::Acquire)
    }

    pub(super) fn set_running(&self, on: bool) {
        if on {
            self.boots.fetch_add(1, Ordering::AcqRel);
        }
        self.running.store(on, Ordering::Release);
    }

    pub(crate) fn disks(&self) -> impl Iterator<Item = &Arc<LiveDisk>> {
        self.disks.iter().map(|(_, disk)| disk)
    }

    pub(super) fn disk(&self, key: i32) -> Result<&Arc<LiveDisk>, LabError> {
        let found = self.disks.iter().find(|(of, _)| *of == key).map(|(_, disk)| disk);
        found.ok_or_else(|| LabError::NoSuchDisk { vm: self.id.clone(), key })
    }

    /// Begins a task, unless there is one.
    pub(super) fn begin_task(&self) -> Result<MutexGuard<'_, ()>, LabError> {
        match self.task.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(LabError::TaskInProgress(self.id.clone())),
        }
    }
}

impl World {
    /// Opens the files of a VM that is in the state.
    pub(super) fn open_disks(&self, vm: &VmId) -> Result<(), LabError> {
        let mut core = self.core();
        let mut trackers = self.open_trackers(&mut core, vm)?.into_iter();
        let vm = core.state.vm(vm)?;
        let mut disks = Vec::new();
        for disk in &vm.disks {
            let layers = disk.layers.iter().enumerate();
            let layers = layers.map(|(index, layer)| self.open_layer(vm, disk, layer, index == 0).map(Arc::new));
            let layers = layers.collect::<Result<_, _>>()?;
            disks.push((disk.key, Arc::new(LiveDisk::new(disk.capacity, layers, trackers.next()))));
        }
        let live = LiveVm {
            id: vm.id.clone(),
            disks,
            running: AtomicBool::new(vm.power == Power::PoweredOn),
            boots: AtomicU32::new(0),
            task: Mutex::new(()),
            guest: GuestControl::default(),
        };
        core.live.insert(live.id.clone(), Arc::new(live));
        Ok(())
    }

    pub(super) fn open_layer(
        &self,
        vm: &VmState,
        disk: &DiskState,
        layer: &LayerState,
        is_base: bool,
    ) -> Result<Layer, LabError> {
        let path = vm.file(&layer.data);
        let host = self.host_path(&path);
        let file = open_rw(&host).map_err(LabError::io("open", &host))?;
        if !is_base {
            return Ok(Layer::Delta(Delta::open(file, disk.capacity, &path)?));
        }
        let actual = file.metadata().map_err(LabError::io("inspect", &host))?.len();
        if actual != disk.capacity {
            return Err(LabError::BadDisk { path, field: "length of the file", actual, expected: disk.capacity });
        }
        Layer::flat(file).map_err(LabError::io("inspect", &host))
    }
}

fn open_rw(path: &std::path::Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}
