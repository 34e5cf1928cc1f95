//! A VM's virtual hardware: controllers, disks with the chain of files behind them, one network card.

use uuid::Uuid;
use vsphere::xml::Moref;

use super::inventory::{Inventory, NETWORK};
use super::value::{Object, Value};
use crate::world::{DatastorePath, SnapshotView, VmView};

const PCI: i32 = 100;
const FIRST_SCSI: i32 = 1000;
const NIC: i32 = 4000;

/// A disk as it runs or as it was frozen.
struct Disk<'a> {
    key: i32,
    label: String,
    capacity: u64,
    bus: u32,
    unit: u32,
    file: &'a DatastorePath,
    parents: &'a [DatastorePath],
    change_id: Option<&'a str>,
    uuid: Uuid,
    content_id: u32,
}

fn disks<'a>(vm: &'a VmView, frozen: Option<&'a SnapshotView>) -> Vec<Disk<'a>> {
    let running = vm.disks.iter().map(|disk| Disk {
        key: disk.key,
        label: disk.label.clone(),
        capacity: disk.capacity,
        bus: disk.bus,
        unit: disk.unit,
        file: &disk.file,
        parents: &disk.parents,
        change_id: disk.change_id.as_deref(),
        uuid: disk.uuid,
        content_id: disk.content_id,
    });
    let Some(snapshot) = frozen else { return running.collect() };
    let place = |key: i32| vm.disks.iter().find(|disk| disk.key == key);
    let frozen = snapshot.disks.iter().map(|disk| Disk {
        key: disk.key,
        label: place(disk.key).map_or_else(|| format!("Disk {}", disk.key), |d| d.label.clone()),
        capacity: disk.capacity,
        bus: place(disk.key).map_or(0, |d| d.bus),
        unit: place(disk.key).map_or(0, |d| d.unit),
        file: &disk.file,
        parents: &disk.parents,
        change_id: disk.change_id.as_deref(),
        uuid: disk.uuid,
        content_id: disk.content_id,
    });
    frozen.collect()
}

fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// `config.hardware` of the VM, or of the snapshot.
pub(super) fn hardware(inventory: &Inventory<'_>, vm: &VmView, frozen: Option<&SnapshotView>) -> Object {
    let disks = disks(vm, frozen);
    let mut buses: Vec<u32> = disks.iter().map(|disk| disk.bus).collect();
    buses.sort_unstable();
    buses.dedup();
    let mut devices = vec![ide(), pci(&buses)];
    devices.extend(buses.iter().map(|bus| scsi(*bus, &disks)));
    devices.extend(disks.iter().map(|disk| device(inventory, disk)));
    devices.push(network_card(vm));
    Object::new("VirtualHardware")
        .with("numCPU", int(vm.cpus))
        .with("numCoresPerSocket", 1)
        .with("memoryMB", int(vm.memory_mib))
        .with("device", Value::List("VirtualDevice", devices))
}

fn described(kind: &'static str, key: i32, label: &str, summary: &str) -> Object {
    let description = Object::new("Description").with("label", label).with("summary", summary);
    Object::subtype(kind).with("key", key).with("deviceInfo", description)
}

fn numbers(keys: impl IntoIterator<Item = i32>) -> Value {
    Value::List("int", keys.into_iter().map(Value::from).collect())
}

fn ide() -> Value {
    described("VirtualIDEController", 200, "IDE 0", "IDE 0").with("busNumber", 0).into()
}

fn pci(buses: &[u32]) -> Value {
    let behind = buses.iter().map(|bus| FIRST_SCSI.saturating_add(int(*bus))).chain([NIC]);
    described("VirtualPCIController", PCI, "PCI controller 0", "PCI controller 0")
        .with("busNumber", 0)
        .with("device", numbers(behind))
        .into()
}

fn scsi(bus: u32, disks: &[Disk<'_>]) -> Value {
    let label = format!("SCSI controller {bus}");
    described("ParaVirtualSCSIController", FIRST_SCSI.saturating_add(int(bus)), &label, "VMware paravirtual SCSI")
        .with("controllerKey", PCI)
        .with("unitNumber", 3_i32.saturating_add(int(bus)))
        .with("busNumber", int(bus))
        .with("device", numbers(disks.iter().filter(|disk| disk.bus == bus).map(|disk| disk.key)))
        .with("hotAddRemove", true)
        .with("sharedBus", Value::constant("VirtualSCSISharing", "noSharing"))
        .with("scsiCtlrUnitNumber", 7)
        .into()
}

fn device(inventory: &Inventory<'_>, disk: &Disk<'_>) -> Value {
    let kib = disk.capacity / 1024;
    let shares = Object::new("SharesInfo").with("shares", 1000).with("level", Value::constant("SharesLevel", "normal"));
    described("VirtualDisk", disk.key, &disk.label, &format!("{kib} KB"))
        .with("backing", backing(inventory, disk))
        .with("controllerKey", FIRST_SCSI.saturating_add(int(disk.bus)))
        .with("unitNumber", int(disk.unit))
        .with("capacityInKB", Value::long(kib))
        .with("capacityInBytes", Value::long(disk.capacity))
        .with("shares", shares)
        .with("diskObjectId", format!("1-{}", disk.key))
        .into()
}

/// The file and, nested in it, those below.
fn backing(inventory: &Inventory<'_>, disk: &Disk<'_>) -> Object {
    let mut below = None;
    for (index, file) in disk.parents.iter().enumerate().rev() {
        let bottom = index.saturating_add(1) == disk.parents.len();
        below = Some(one_backing(inventory, disk, file, bottom, None, below));
    }
    let own = Own { content_id: disk.content_id, change_id: disk.change_id };
    one_backing(inventory, disk, disk.file, disk.parents.is_empty(), Some(&own), below)
}

/// What only the newest file tells.
struct Own<'a> {
    content_id: u32,
    change_id: Option<&'a str>,
}

fn one_backing(
    inventory: &Inventory<'_>,
    disk: &Disk<'_>,
    file: &DatastorePath,
    bottom: bool,
    own: Option<&Own<'_>>,
    parent: Option<Object>,
) -> Object {
    // Hosts show a chain of redo logs as FlatVer2 from top to bottom.
    let kind = "VirtualDiskFlatVer2BackingInfo";
    // The backing of a device is declared as the base class, `parent` as this one.
    let object = if own.is_some() { Object::subtype(kind) } else { Object::new(kind) };
    object
        .with("fileName", file.to_string())
        .maybe("datastore", inventory.store_ref(&file.datastore))
        .with("backingObjectId", "")
        .with("diskMode", "persistent")
        .with("split", false)
        .with("writeThrough", false)
        .with("thinProvisioned", true)
        .with("uuid", disk.uuid.to_string())
        .maybe("contentId", own.map(|own| format!("{:032x}", own.content_id)))
        .maybe("changeId", own.and_then(|own| own.change_id))
        .maybe("parent", parent)
        .maybe("deltaDiskFormat", (!bottom).then_some("redoLogFormat"))
        .with("digestEnabled", false)
        .with("sharing", "sharingNone")
}

fn network_card(vm: &VmView) -> Value {
    let [.., a, b, c] = *vm.uuid.as_bytes();
    // Automatic addresses have 00 to 3f in the fourth place.
    let mac = format!("00:50:56:{:02x}:{b:02x}:{c:02x}", a & 0x3f);
    let backing = Object::subtype("VirtualEthernetCardNetworkBackingInfo")
        .with("deviceName", "VM Network")
        .with("network", Moref::new("Network", NETWORK));
    let connection = Object::new("VirtualDeviceConnectInfo")
        .with("startConnected", true)
        .with("allowGuestControl", true)
        .with("connected", vm.power == crate::world::Power::PoweredOn);
    described("VirtualVmxnet3", NIC, "Network adapter 1", "VM Network")
        .with("backing", backing)
        .with("connectable", connection)
        .with("controllerKey", PCI)
        .with("unitNumber", 7)
        .with("addressType", "assigned")
        .with("macAddress", mac)
        .into()
}
