//! A VM's files: `layoutEx`.

use super::inventory::{Inventory, snapshot_ref};
use super::value::{Object, Value};
use crate::world::{DatastorePath, DirEntry, VmView};

/// The files of a VM's folder. One that cannot be listed has none: the property is for information.
pub(super) fn listing(inventory: &Inventory<'_>, vm: &VmView) -> Vec<DirEntry> {
    let folder = vm.vmx.folder();
    let mut entries = inventory.service.world.list_dir(&folder.datastore, &folder.path).unwrap_or_default();
    entries.retain(|entry| !entry.is_dir);
    entries
}

/// The file's type as `VirtualMachineFileLayoutExFileType` has it; `None` for files that are no part of a VM.
fn kind(name: &str) -> Option<&'static str> {
    let stem = name.strip_suffix(".vmdk");
    Some(match name.rsplit('.').next()? {
        "vmx" => "config",
        "vmxf" => "extendedConfig",
        "nvram" => "nvram",
        "vmsd" => "snapshotList",
        "vmsn" => "snapshotData",
        "vswp" => "swap",
        "log" => "log",
        "vmdk" if stem?.ends_with("-flat") || stem?.ends_with("-delta") => "diskExtent",
        "vmdk" => "diskDescriptor",
        _ => return None,
    })
}

/// `layoutEx` of a VM.
pub(super) fn layout_ex(inventory: &Inventory<'_>, vm: &VmView) -> Object {
    let folder = vm.vmx.folder();
    let files: Vec<_> = listing(inventory, vm).into_iter().filter_map(|e| Some((kind(&e.name)?, e))).collect();
    let key = |index: usize| i32::try_from(index).unwrap_or(i32::MAX);
    let infos = files.iter().enumerate().map(|(index, (kind, entry))| {
        Value::from(
            Object::new("VirtualMachineFileLayoutExFileInfo")
                .with("key", key(index))
                .with("name", folder.join(&entry.name).to_string())
                .with("type", *kind)
                .with("size", Value::long(entry.len))
                .with("uniqueSize", Value::long(entry.len))
                .with("accessible", true),
        )
    });
    let find = |name: &str| files.iter().position(|(_, entry)| entry.name == name).map(key);
    let disks = vm.disks.iter().map(|disk| chain(disk.key, &disk.file, &disk.parents, &find)).collect();
    let snapshots = vm.snapshots.iter().map(|snapshot| {
        let disks = snapshot.disks.iter().map(|disk| chain(disk.key, &disk.file, &disk.parents, &find)).collect();
        Value::from(
            Object::new("VirtualMachineFileLayoutExSnapshotLayout")
                .with("key", snapshot_ref(snapshot))
                .with("dataKey", -1)
                .with("memoryKey", -1)
                .with("disk", Value::List("VirtualMachineFileLayoutExDiskLayout", disks)),
        )
    });
    Object::new("VirtualMachineFileLayoutEx")
        .with("file", Value::List("VirtualMachineFileLayoutExFileInfo", infos.collect()))
        .with("disk", Value::List("VirtualMachineFileLayoutExDiskLayout", disks))
        .with("snapshot", Value::List("VirtualMachineFileLayoutExSnapshotLayout", snapshots.collect()))
        .with("timestamp", Value::time(jiff::Timestamp::now()))
}

/// A disk's layers from the base to the newest, each as the keys of its descriptor and its extent.
fn chain(disk: i32, file: &DatastorePath, parents: &[DatastorePath], find: &dyn Fn(&str) -> Option<i32>) -> Value {
    let units = parents.iter().rev().chain([file]).map(|layer| {
        let name = layer.file_name();
        let stem = name.strip_suffix(".vmdk").unwrap_or(name);
        let names = [name.to_owned(), format!("{stem}-flat.vmdk"), format!("{stem}-delta.vmdk")];
        let keys = names.iter().filter_map(|name| find(name)).map(Value::from).collect();
        Value::from(Object::new("VirtualMachineFileLayoutExDiskUnit").with("fileKey", Value::List("int", keys)))
    });
    Object::new("VirtualMachineFileLayoutExDiskLayout")
        .with("key", disk)
        .with("chain", Value::List("VirtualMachineFileLayoutExDiskUnit", units.collect()))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_name() {
        assert_eq!(kind("a-flat.vmdk"), Some("diskExtent"));
        assert_eq!(kind("a-000001-delta.vmdk"), Some("diskExtent"));
        assert_eq!(kind("a-000001.vmdk"), Some("diskDescriptor"));
        assert_eq!(kind("a b.vmx"), Some("config"));
        assert_eq!(kind("lock"), None);
    }
}
