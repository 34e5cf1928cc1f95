//! Taking a snapshot: every disk of a VM is switched to a new layer.

use std::fs::OpenOptions;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::chain::Layer;
use super::delta::{self, Delta};
use super::live::LiveVm;
use super::state::{DiskState, FrozenState, LayerState, SnapshotState, VmState};
use super::vm::new_content_id;
use super::{LabError, Power, SnapshotId, VmId, World, WorldEvent, descriptor};

/// How long a guest may take to finish its transaction. VMware's own limit for the file systems of Windows is 10 s.
const QUIESCE_TIMEOUT: Duration = Duration::from_secs(10);
/// VMware allows 32 levels, one of them the base.
const MAX_SNAPSHOTS: usize = 31;

/// A layer whose files exist, and which is in no chain yet.
struct NewLayer {
    key: i32,
    state: LayerState,
    layer: Arc<Layer>,
}

impl World {
    /// Takes a snapshot. With `quiesce`, and if tools run, the guest finishes its transaction and holds until all disks are switched;
    /// else all disks are switched at one moment, wherever the guest is.
    ///
    /// # Errors
    /// [`LabError::TaskInProgress`], [`LabError::QuiesceTimeout`], [`LabError::Unsupported`] for disks of 2 TiB or more and for more than
    /// 31 snapshots.
    pub fn create_snapshot(
        &self,
        vm: &VmId,
        name: &str,
        description: &str,
        quiesce: bool,
    ) -> Result<SnapshotId, LabError> {
        let live = self.live_vm(vm)?;
        let _task = live.begin_task()?;
        let state = self.core().state.vm(vm)?.clone();
        if state.snapshots.len() >= MAX_SNAPSHOTS {
            let actual = (state.snapshots.len() + 1).to_string();
            return Err(LabError::Unsupported { what: "more than 31 snapshots of a VM", actual });
        }
        let mut layers = Vec::new();
        for disk in &state.disks {
            match self.new_layer(&state, disk) {
                Ok(layer) => layers.push(layer),
                Err(error) => {
                    self.delete_new_layers(&state, &layers);
                    return Err(error);
                }
            }
        }
        let snapshot = self.new_snapshot(&state, name, description)?;
        let taken = self.take(&live, &state, snapshot, &layers, quiesce);
        if taken.is_err() {
            self.delete_new_layers(&state, &layers);
        }
        taken
    }

    fn new_snapshot(&self, vm: &VmState, name: &str, description: &str) -> Result<SnapshotState, LabError> {
        let mut core = self.core();
        let id = SnapshotId(format!("snapshot-{}", core.state.new_id()));
        let vm = core.state.vm_mut(&vm.id)?;
        vm.snapshot_count += 1;
        Ok(SnapshotState {
            id,
            name: name.to_owned(),
            description: description.to_owned(),
            created: Timestamp::now().to_string(),
            quiesced: false,
            frozen_for_us: 0,
            guest_log_at_freeze: None,
            number: vm.snapshot_count,
            vm_was_on: vm.power == Power::PoweredOn,
            disks: Vec::new(),
        })
    }

    /// The short part, during which a guest may be held.
    fn take(
        &self,
        live: &LiveVm,
        vm: &VmState,
        mut snapshot: SnapshotState,
        layers: &[NewLayer],
        quiesce: bool,
    ) -> Result<SnapshotId, LabError> {
        let id = snapshot.id.clone();
        let mut held = None;
        if quiesce && vm.tools && vm.power == Power::PoweredOn {
            let guest = live.guest.hold(QUIESCE_TIMEOUT);
            let guest = guest.ok_or(LabError::QuiesceTimeout { vm: vm.id.clone(), waited: QUIESCE_TIMEOUT })?;
            snapshot.quiesced = true;
            snapshot.guest_log_at_freeze = guest.last_committed;
            held = Some(guest);
            self.tell(&WorldEvent::Frozen(vm.id.clone(), snapshot.guest_log_at_freeze));
        }
        self.switch(live, vm, snapshot, layers)?;
        self.tell(&WorldEvent::Switched(vm.id.clone(), id.clone()));
        let frozen_for = held.as_ref().map(|guest| guest.held_for());
        drop(held);
        if frozen_for.is_some() {
            self.tell(&WorldEvent::Thawed(vm.id.clone()));
        }
        let mut core = self.core();
        let state = core.state.vm_mut(&vm.id)?;
        if let (Some(frozen_for), Some(snapshot)) = (frozen_for, state.snapshots.iter_mut().find(|s| s.id == id)) {
            snapshot.frozen_for_us = u64::try_from(frozen_for.as_micros()).unwrap_or(u64::MAX);
        }
        self.write_config(state)?;
        self.log(state, &format!("snapshot {} taken, guest held for {frozen_for:?}", id.0))?;
        core.save(self.dir())?;
        Ok(id)
    }

    /// Puts the new layers on top, all at one moment. The state on disk follows before the first write can reach them.
    fn switch(
        &self,
        live: &LiveVm,
        vm: &VmState,
        mut snapshot: SnapshotState,
        new: &[NewLayer],
    ) -> Result<(), LabError> {
        let mut core = self.core();
        let before = core.state.clone();
        let mut chains = Vec::new();
        for layer in new {
            chains.push(live.disk(layer.key)?.layers_mut());
        }
        let state = core.state.vm_mut(&vm.id)?;
        for (disk, layer) in state.disks.iter_mut().zip(new) {
            disk.change_count += 1;
            snapshot.disks.push(FrozenState {
                key: disk.key,
                layer: disk.layers.last().map(|leaf| leaf.descriptor.clone()).unwrap_or_default(),
                change_id: vm.change_tracking.then(|| disk.change_id()),
            });
            disk.layers.push(layer.state.clone());
        }
        state.snapshots.push(snapshot);
        if let Err(error) = core.save(self.dir()) {
            core.state = before;
            return Err(error);
        }
        for (chain, layer) in chains.iter_mut().zip(new) {
            chain.push(Arc::clone(&layer.layer));
            live.disk(layer.key)?.turn(core.state.vm(&vm.id)?.disk(layer.key)?.change_count);
        }
        Ok(())
    }

    /// Makes the files of a layer above the newest one.
    fn new_layer(&self, vm: &VmState, disk: &DiskState) -> Result<NewLayer, LabError> {
        if disk.capacity > delta::MAX_CAPACITY {
            let actual = blockdev::ByteLen(disk.capacity).to_string();
            return Err(LabError::Unsupported { what: "snapshots of disks of 2 TiB or more", actual });
        }
        let (Some(base), Some(parent)) = (disk.layers.first(), disk.layers.last()) else {
            return Err(LabError::NoSuchDisk { vm: vm.id.clone(), key: disk.key });
        };
        let stem = base.descriptor.strip_suffix(".vmdk").unwrap_or(&base.descriptor);
        let names = |n: u32| (format!("{stem}-{n:06}.vmdk"), format!("{stem}-{n:06}-delta.vmdk"));
        let exists = |name: &str| self.host_path(&vm.file(name)).exists();
        let free = (1..=999_999).map(names).find(|(a, b)| !exists(a) && !exists(b));
        let Some((descriptor_name, data)) = free else {
            return Err(LabError::Unsupported { what: "more than 999999 layers", actual: stem.to_owned() });
        };
        let state = LayerState { descriptor: descriptor_name, data, content_id: new_content_id() };
        let path = self.host_path(&vm.file(&state.data));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let delta = file.and_then(|file| Delta::create(file, disk.capacity, &parent.descriptor));
        let layer = Arc::new(Layer::Delta(delta.map_err(LabError::io("create", &path))?));
        let text = descriptor::delta(&state, disk.capacity, parent);
        descriptor::write(&self.host_path(&vm.file(&state.descriptor)), &text)?;
        Ok(NewLayer { key: disk.key, state, layer })
    }

    fn delete_new_layers(&self, vm: &VmState, layers: &[NewLayer]) {
        for layer in layers {
            let _ = self.delete_layer(vm, &layer.state); // an orphan is only untidy
        }
    }
}
