//! What the lab looks like from outside, made from its state.

use std::time::Duration;

use super::state::{DiskState, SnapshotState, VmState};
use super::{
    DATASTORES, DatastorePath, DatastoreView, DiskView, FrozenDisk, Power, SnapshotId, SnapshotView, VmId, VmView,
    World,
};

impl World {
    /// All VMs, in the order in which they were registered.
    #[must_use]
    pub fn vms(&self) -> Vec<VmView> {
        self.core().state.vms.iter().map(vm_view).collect()
    }

    /// One VM.
    #[must_use]
    pub fn vm(&self, vm: &VmId) -> Option<VmView> {
        self.core().state.vm(vm).ok().map(vm_view)
    }

    /// The last transaction that the guest of a running VM has committed; `None` if no guest writes there.
    #[must_use]
    pub fn guest_committed(&self, vm: &VmId) -> Option<u64> {
        self.live_vm(vm).ok()?.guest.last_committed()
    }

    /// One snapshot of any VM.
    #[must_use]
    pub fn snapshot(&self, snapshot: &SnapshotId) -> Option<SnapshotView> {
        let core = self.core();
        let (vm, index) = core.state.find_snapshot(snapshot).ok()?;
        vm_view(vm).snapshots.into_iter().nth(index)
    }

    /// All datastores.
    #[must_use]
    pub fn datastores(&self) -> Vec<DatastoreView> {
        let space = rustix::fs::statvfs(self.dir()).map(|s| (s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize));
        let (capacity, free) = space.unwrap_or((0, 0));
        let view = |datastore: &super::state::DatastoreState| DatastoreView {
            id: datastore.id.clone(),
            name: datastore.name.clone(),
            capacity,
            free,
            dir: self.dir().join(DATASTORES).join(&datastore.name),
        };
        self.core().state.datastores.iter().map(view).collect()
    }
}

fn vm_view(vm: &VmState) -> VmView {
    let tools_running = vm.tools && vm.power == Power::PoweredOn;
    let parents = std::iter::once(None).chain(vm.snapshots.iter().map(|s| Some(s.id.clone())));
    VmView {
        id: vm.id.clone(),
        name: vm.name.clone(),
        uuid: vm.uuid,
        instance_uuid: vm.instance_uuid,
        power: vm.power,
        tools_running,
        ip: vm.ip.clone().filter(|_| tools_running),
        host_name: vm.host_name.clone().filter(|_| tools_running),
        change_tracking: vm.change_tracking,
        guest_id: vm.guest_id.clone(),
        firmware: vm.firmware,
        cpus: vm.cpus,
        memory_mib: vm.memory_mib,
        vmx: vm.vmx.clone(),
        nvram: vm.file(&vm.nvram),
        disks: vm.disks.iter().enumerate().map(|(index, disk)| disk_view(vm, index, disk)).collect(),
        snapshots: vm.snapshots.iter().zip(parents).map(|(s, parent)| snapshot_view(vm, s, parent)).collect(),
        consolidation_needed: !vm.pending.is_empty(),
    }
}

/// The descriptors of the lowest `count` layers, the newest first.
fn descriptors(vm: &VmState, disk: &DiskState, count: usize) -> Vec<DatastorePath> {
    disk.layers.iter().take(count).rev().map(|layer| vm.file(&layer.descriptor)).collect()
}

fn disk_view(vm: &VmState, index: usize, disk: &DiskState) -> DiskView {
    let mut chain = descriptors(vm, disk, disk.layers.len()).into_iter();
    DiskView {
        key: disk.key,
        label: format!("Hard disk {}", index + 1),
        capacity: disk.capacity,
        bus: disk.bus,
        unit: disk.unit,
        file: chain.next().unwrap_or_else(|| vm.vmx.folder()),
        parents: chain.collect(),
        change_id: vm.change_tracking.then(|| disk.change_id()),
        uuid: disk.uuid,
        content_id: disk.layers.last().map_or(0, |layer| layer.content_id),
    }
}

fn snapshot_view(vm: &VmState, snapshot: &SnapshotState, parent: Option<SnapshotId>) -> SnapshotView {
    let frozen = |of: &super::state::FrozenState| {
        let disk = vm.disk(of.key).ok()?;
        let index = disk.layer_index(&of.layer)?;
        let mut chain = descriptors(vm, disk, index + 1).into_iter();
        Some(FrozenDisk {
            key: of.key,
            capacity: disk.capacity,
            file: chain.next()?,
            parents: chain.collect(),
            change_id: of.change_id.clone(),
            uuid: disk.uuid,
            content_id: disk.layers.get(index)?.content_id,
        })
    };
    SnapshotView {
        id: snapshot.id.clone(),
        vm: vm.id.clone(),
        parent,
        name: snapshot.name.clone(),
        description: snapshot.description.clone(),
        created: snapshot.created.parse().unwrap_or_default(),
        quiesced: snapshot.quiesced,
        frozen_for: Duration::from_micros(snapshot.frozen_for_us),
        guest_log_at_freeze: snapshot.guest_log_at_freeze,
        number: snapshot.number,
        vm_was_on: snapshot.vm_was_on,
        disks: snapshot.disks.iter().filter_map(frozen).collect(),
    }
}
