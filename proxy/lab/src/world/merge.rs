//! Removing a snapshot: the layer above the frozen one is merged into it, while the guest goes on.

use std::fs;
use std::sync::Arc;

use super::chain::{self, Layer};
use super::live::LiveVm;
use super::state::{DiskState, LayerState, PendingMerge, VmState};
use super::{Core, LabError, SnapshotId, VmId, World, WorldEvent, descriptor};

impl World {
    /// Removes a snapshot and keeps those below and above it. It is gone from the list at once; the answer comes when its layers are
    /// merged. The guest goes on meanwhile.
    ///
    /// # Errors
    /// [`LabError::NoSuchSnapshot`], [`LabError::TaskInProgress`]. If the merge fails, the snapshot is gone and
    /// `consolidation_needed` is set.
    pub fn remove_snapshot(&self, snapshot: &SnapshotId) -> Result<(), LabError> {
        let vm = self.core().state.find_snapshot(snapshot)?.0.id.clone();
        let live = self.live_vm(&vm)?;
        let _task = live.begin_task()?;
        {
            let mut core = self.core();
            let index = core.state.find_snapshot(snapshot)?.1;
            let state = core.state.vm_mut(&vm)?;
            let removed = state.snapshots.remove(index);
            for frozen in &removed.disks {
                let disk = state.disk(frozen.key)?;
                let above = disk.layer_index(&frozen.layer).and_then(|lower| disk.layers.get(lower + 1));
                let Some(upper) = above.cloned() else { continue };
                state.pending.push(PendingMerge { key: frozen.key, upper, lower: frozen.layer.clone() });
            }
            core.save(self.dir())?;
        }
        self.finish_merges_of(&live, &vm)?;
        self.tell(&WorldEvent::Merged(vm, snapshot.clone()));
        Ok(())
    }

    /// Does the merges that removed snapshots left behind.
    ///
    /// # Errors
    /// [`LabError::TaskInProgress`], or what went wrong with the files.
    pub fn consolidate(&self, vm: &VmId) -> Result<(), LabError> {
        self.finish_merges(vm)
    }

    pub(super) fn finish_merges(&self, vm: &VmId) -> Result<(), LabError> {
        let live = self.live_vm(vm)?;
        let _task = live.begin_task()?;
        self.finish_merges_of(&live, vm)
    }

    fn finish_merges_of(&self, live: &LiveVm, vm: &VmId) -> Result<(), LabError> {
        let mut merged = false;
        loop {
            let next = self.core().state.vm(vm)?.pending.first().cloned();
            let Some(merge) = next else { break };
            self.merge(live, vm, &merge)?;
            let mut core = self.core();
            let state = core.state.vm_mut(vm)?;
            self.delete_layer(state, &merge.upper)?;
            state.pending.remove(0);
            core.save(self.dir())?;
            merged = true;
        }
        if merged {
            let core = self.core();
            let state = core.state.vm(vm)?;
            self.write_config(state)?;
            self.log(state, "disks consolidated")?;
        }
        Ok(())
    }

    /// Copies the upper layer into the lower one, then takes it out of the chain. The guest writes meanwhile; what it wrote into the
    /// upper layer is copied once more while it waits.
    fn merge(&self, live: &LiveVm, vm: &VmId, merge: &PendingMerge) -> Result<(), LabError> {
        let state = self.core().state.vm(vm)?.clone();
        let disk = state.disk(merge.key)?;
        let live_disk = live.disk(merge.key)?;
        let Some(index) = disk.layer_index(&merge.upper.descriptor).filter(|index| *index > 0) else {
            return Ok(()); // done before; only the files are left
        };
        let (lower, upper) = {
            let layers = live_disk.layers();
            (Arc::clone(&layers[index - 1]), Arc::clone(&layers[index]))
        };
        let Layer::Delta(delta) = &*upper else { return Ok(()) };
        let path = self.host_path(&state.file(&merge.upper.data));
        let is_leaf = index + 1 == disk.layers.len();
        if is_leaf {
            delta.track();
        }
        chain::merge(delta, &lower, disk.capacity, None).map_err(LabError::io("merge", &path))?;

        let mut core = self.core();
        let mut layers = live_disk.layers_mut();
        if is_leaf {
            chain::merge(delta, &lower, disk.capacity, Some(&delta.tracked())).map_err(LabError::io("merge", &path))?;
        }
        self.rename_parent(&state, disk, index, layers.get(index + 1))?;
        drop_layer(&mut core, vm, merge)?;
        core.save(self.dir())?;
        layers.remove(index);
        Ok(())
    }

    /// The lower layer takes the upper one's content id, so that the layer above, if there is one, finds its parent again.
    fn rename_parent(
        &self,
        vm: &VmState,
        disk: &DiskState,
        upper: usize,
        child: Option<&Arc<Layer>>,
    ) -> Result<(), LabError> {
        let (lower, content_id) = (&disk.layers[upper - 1], disk.layers[upper].content_id);
        let path = vm.file(&lower.descriptor);
        descriptor::change(&self.host_path(&path), &path, |text| text.content_id = content_id)?;
        let Some(above) = disk.layers.get(upper + 1) else { return Ok(()) };
        let path = vm.file(&above.descriptor);
        descriptor::change(&self.host_path(&path), &path, |text| {
            text.parent_file_name_hint = Some(lower.descriptor.clone());
        })?;
        match child.map(|layer| &**layer) {
            Some(Layer::Delta(delta)) => {
                let host = self.host_path(&vm.file(&above.data));
                delta.set_parent(&lower.descriptor).map_err(LabError::io("write", host))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn delete_layer(&self, vm: &VmState, layer: &LayerState) -> Result<(), LabError> {
        for name in [&layer.data, &layer.descriptor] {
            let path = self.host_path(&vm.file(name));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LabError::io("delete", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Takes the upper layer of a finished merge out of the state. Whoever named it, means the lower one now.
fn drop_layer(core: &mut Core, vm: &VmId, merge: &PendingMerge) -> Result<(), LabError> {
    let state = core.state.vm_mut(vm)?;
    let upper = &merge.upper.descriptor;
    for disk in state.disks.iter_mut().filter(|disk| disk.key == merge.key) {
        for layer in disk.layers.iter_mut().filter(|layer| layer.descriptor == merge.lower) {
            layer.content_id = merge.upper.content_id;
        }
        disk.layers.retain(|layer| layer.descriptor != *upper);
    }
    let frozen = state.snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.disks);
    for frozen in frozen.filter(|frozen| frozen.key == merge.key && frozen.layer == *upper) {
        frozen.layer.clone_from(&merge.lower);
    }
    for other in state.pending.iter_mut().filter(|other| other.key == merge.key && other.lower == *upper) {
        other.lower.clone_from(&merge.lower);
    }
    Ok(())
}
