//! Methods that change VMs: snapshots, power, registration. And what of a disk is in use.

use std::time::Duration;

use vsphere::xml::Moref;

use super::errors::{config_fault, fault, file_fault};
use super::faults::FaultKind;
use super::inventory::VM_FOLDER;
use super::methods::{Context, path_argument};
use super::soap::{Fault, Returned};
use super::tasks::{Job, Tasks};
use super::value::{Object, Value};
use crate::world::{SnapshotId, VmId, VmView};

/// Answers the methods of VMs, snapshots, folders and the file manager.
pub(super) fn dispatch(context: &Context<'_>) -> Returned {
    let call = context.call;
    match (call.this.kind.as_str(), call.method.as_str()) {
        ("VirtualMachine", "CreateSnapshot_Task") => create_snapshot(context),
        ("VirtualMachineSnapshot", "RemoveSnapshot_Task") => remove_snapshot(context),
        ("VirtualMachine", "QueryChangedDiskAreas") => query_areas(context),
        ("VirtualMachine", "PowerOnVM_Task") => {
            on_vm(context, "VirtualMachine.powerOn", |world, vm| world.power_on(vm))
        }
        ("VirtualMachine", "PowerOffVM_Task") => {
            on_vm(context, "VirtualMachine.powerOff", |world, vm| world.power_off(vm))
        }
        ("VirtualMachine", "Destroy_Task") => {
            on_vm(context, "VirtualMachine.destroy", |world, vm| world.destroy_vm(vm))
        }
        ("VirtualMachine", "UnregisterVM") => {
            context.service.world.unregister_vm(&vm_of(context)?.id).map(|()| None).map_err(|error| fault(&error))
        }
        ("Folder", "RegisterVM_Task") => register(context),
        ("FileManager", "DeleteDatastoreFile_Task") => delete_file(context),
        _ => Err(Fault::method_not_found(call)),
    }
}

fn vm_of(context: &Context<'_>) -> Result<VmView, Fault> {
    let this = &context.call.this;
    context.service.world.vm(&VmId(this.value.clone())).ok_or_else(|| Fault::not_found(this))
}

fn job(context: &Context<'_>, description: &'static str, entity: Moref, entity_name: &str) -> Result<Job, Fault> {
    let method = context.call.method.clone();
    let entity_name = entity_name.to_owned();
    Ok(Job { description, method, entity, entity_name, user: context.user()?, hang: None })
}

fn vm_job(context: &Context<'_>, description: &'static str, vm: &VmView) -> Result<Job, Fault> {
    job(context, description, super::inventory::vm_ref(vm), &vm.name)
}

/// A task that does one thing with the VM and returns nothing.
fn on_vm(
    context: &Context<'_>,
    description: &'static str,
    work: impl FnOnce(&crate::world::World, &VmId) -> Result<(), crate::world::LabError> + Send + 'static,
) -> Returned {
    let vm = vm_of(context)?;
    let job = vm_job(context, description, &vm)?;
    let task = Tasks::start(context.service, job, move |service| {
        work(&service.world, &vm.id).map(|()| None).map_err(|error| fault(&error))
    })?;
    Ok(Some(task.into()))
}

fn create_snapshot(context: &Context<'_>) -> Returned {
    let call = context.call;
    let vm = vm_of(context)?;
    if call.flag("memory") {
        return Err(Fault::not_supported("snapshots with memory are not simulated"));
    }
    let name = call.text("name")?.to_owned();
    let description = call.arguments.text_of("description").unwrap_or_default().to_owned();
    let quiesce = call.flag("quiesce");
    let faults = &context.service.faults;
    let hang = faults.take(|kind| match kind {
        FaultKind::SnapshotCreateHangs { seconds } => Some(Duration::from_secs(*seconds)),
        _ => None,
    });
    let job = Job { hang, ..vm_job(context, "VirtualMachine.createSnapshot", &vm)? };
    let task = Tasks::start(context.service, job, move |service| {
        if service.faults.strikes(&FaultKind::SnapshotCreateFails) {
            return Err(config_fault("The snapshot could not be created."));
        }
        if quiesce && vm.tools_running && service.faults.strikes(&FaultKind::QuiesceFails) {
            let message = "An error occurred while quiescing the virtual machine.";
            return Err(Fault::new("ApplicationQuiesceFault", message));
        }
        let made = service.world.create_snapshot(&vm.id, &name, &description, quiesce);
        let id = made.map_err(|error| fault(&error))?;
        Ok(Some(Moref::new("VirtualMachineSnapshot", id.0).into()))
    })?;
    Ok(Some(task.into()))
}

fn remove_snapshot(context: &Context<'_>) -> Returned {
    let this = &context.call.this;
    let inventory = context.inventory();
    let (vm, _) = inventory.snapshot(this).ok_or_else(|| Fault::not_found(this))?;
    if context.call.flag("removeChildren") {
        return Err(Fault::not_supported("removing a snapshot with its children is not simulated"));
    }
    let id = SnapshotId(this.value.clone());
    let hang = context.service.faults.take(|kind| match kind {
        FaultKind::SnapshotRemoveHangs { seconds } => Some(Duration::from_secs(*seconds)),
        _ => None,
    });
    let job = Job { hang, ..vm_job(context, "vm.Snapshot.remove", vm)? };
    let task = Tasks::start(context.service, job, move |service| {
        if service.faults.strikes(&FaultKind::SnapshotRemoveFails) {
            return Err(config_fault("The snapshot could not be consolidated."));
        }
        if service.faults.strikes(&FaultKind::SnapshotRemoveLeaves) {
            return Ok(None);
        }
        service.world.remove_snapshot(&id).map(|()| None).map_err(|error| fault(&error))
    })?;
    Ok(Some(task.into()))
}

/// With changeId `*` all areas in use, else those changed since that point. One answer covers a part of the disk, as on real hosts
/// (vsphere.md section 3.6).
fn query_areas(context: &Context<'_>) -> Returned {
    let (service, call) = (context.service, context.call);
    let vm = vm_of(context)?;
    let snapshot = call.arguments.text_of("snapshot").map(|id| SnapshotId(id.to_owned()));
    let key: i32 = call.number("deviceKey")?;
    let start: u64 = call.number("startOffset")?;
    let since = call.text("changeId")?;
    if service.faults.strikes(&FaultKind::QueryAreasFails) {
        let message = "Error caused by file: the change tracking file cannot be read.";
        return Err(Fault::new("FileFault", message).field("file", vm.vmx.to_string()));
    }
    let disk = vm.disks.iter().find(|disk| disk.key == key).ok_or_else(|| Fault::invalid_argument("deviceKey"))?;
    if start >= disk.capacity {
        return Err(Fault::invalid_argument("startOffset"));
    }
    let areas = match since {
        "*" => service.world.allocated_areas(&vm.id, snapshot.as_ref(), key),
        since => service.world.changed_areas(&vm.id, snapshot.as_ref(), key, since),
    };
    let areas = areas.map_err(|error| fault(&error))?;
    let mut answer = Areas::from(&areas, start, disk.capacity, &service.options);
    if !answer.areas.is_empty() && service.faults.strikes(&FaultKind::QueryAreasLies) {
        answer.areas.remove(0);
    }
    let extents = answer.areas.iter().map(|(start, len)| {
        let extent = Object::new("DiskChangeExtent").with("start", Value::long(*start));
        Value::from(extent.with("length", Value::long(*len)))
    });
    let info = Object::new("DiskChangeInfo").with("startOffset", Value::long(start));
    let info = info.with("length", Value::long(answer.len));
    Ok(Some(info.with("changedArea", Value::List("DiskChangeExtent", extents.collect())).into()))
}

/// A part of a disk and the areas in use within it.
#[derive(Debug, PartialEq)]
struct Areas {
    len: u64,
    areas: Vec<(u64, u64)>,
}

impl Areas {
    /// The areas from `start` on, as many as one answer may hold.
    fn from(all: &[(u64, u64)], start: u64, capacity: u64, options: &super::Options) -> Self {
        let mut end = capacity.min(start.saturating_add(options.area_span));
        let mut areas = Vec::new();
        for (from, len) in all {
            let (from, to) = ((*from).max(start), from.saturating_add(*len).min(end));
            if from >= to {
                continue;
            }
            if areas.len() == options.area_extents {
                end = from; // this one is in the next answer
                break;
            }
            areas.push((from, to.saturating_sub(from)));
        }
        Self { len: end.saturating_sub(start), areas }
    }
}

fn register(context: &Context<'_>) -> Returned {
    let call = context.call;
    let path = path_argument(call, "path")?;
    if call.flag("asTemplate") {
        return Err(Fault::not_supported("templates are not simulated"));
    }
    if call.this.value != VM_FOLDER {
        return Err(Fault::not_supported("VMs stand in the datacenter's vm folder only"));
    }
    if call.arguments.text_of("pool").is_none() {
        return Err(Fault::invalid_argument("pool"));
    }
    let name = call.arguments.text_of("name").map(str::to_owned);
    let job = job(context, "Folder.registerVm", call.this.clone(), "vm")?;
    let task = Tasks::start(context.service, job, move |service| {
        let id = service.world.register_vm(&path, name.as_deref()).map_err(|error| fault(&error))?;
        Ok(Some(Moref::new("VirtualMachine", id.0).into()))
    })?;
    Ok(Some(task.into()))
}

fn delete_file(context: &Context<'_>) -> Returned {
    let path = path_argument(context.call, "name")?;
    let job = job(context, "FileManager.deleteFile", Moref::new("Datacenter", "datacenter-2"), "Lab-DC")?;
    let task = Tasks::start(context.service, job, move |service| {
        let deleted = service.world.delete_file(&path.datastore, &path.path);
        deleted.map(|()| None).map_err(|error| file_fault(&path, &error))
    })?;
    Ok(Some(task.into()))
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    #[test]
    fn an_answer_ends_at_its_span_or_before_the_extent_that_is_too_many() {
        let all = [(0, 10), (20, 10), (40, 10), (90, 10)];
        let options = Options { area_extents: 2, area_span: 95, ..Options::default() };
        assert_eq!(Areas::from(&all, 0, 100, &options), Areas { len: 40, areas: vec![(0, 10), (20, 10)] });
        assert_eq!(Areas::from(&all, 40, 100, &options), Areas { len: 60, areas: vec![(40, 10), (90, 10)] });
        assert_eq!(Areas::from(&all, 25, 100, &options), Areas { len: 65, areas: vec![(25, 5), (40, 10)] });
        let narrow = Options { area_extents: 9, area_span: 30, ..Options::default() };
        assert_eq!(Areas::from(&all, 95, 100, &narrow), Areas { len: 5, areas: vec![(95, 5)] });
        assert_eq!(Areas::from(&all, 50, 100, &narrow), Areas { len: 30, areas: vec![] });
    }
}
