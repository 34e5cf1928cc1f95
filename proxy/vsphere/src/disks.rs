//! The virtual disks in a list of devices.

use crate::datastore_path::DatastorePath;
use crate::error::Error;
use crate::xml::Element;

/// The bus that a disk hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerKind {
    /// BusLogic, LSI Logic, LSI Logic SAS, paravirtual.
    Scsi,
    /// IDE.
    Ide,
    /// AHCI.
    Sata,
    /// NVMe.
    Nvme,
    /// One that we do not know, or none.
    Other,
}

/// A virtual disk as the configuration of a VM or of a snapshot describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// The device's key. It is no identity over time: that is [`uuid`](Self::uuid).
    pub key: i32,
    /// `Hard disk 1`.
    pub label: String,
    /// Size in bytes.
    pub capacity: u64,
    /// The descriptor of the newest layer; empty for a backing without a file.
    pub file: DatastorePath,
    /// The bus.
    pub controller_kind: ControllerKind,
    /// The controller's type, such as `ParaVirtualSCSIController`; empty if it has none.
    pub controller_class: String,
    /// The controller's number on the bus.
    pub bus: i32,
    /// The disk's number on the controller.
    pub unit: i32,
    /// `persistent`, `independent_persistent`, `independent_nonpersistent`...
    pub mode: String,
    /// From 4.0, if changed blocks are tracked: what to ask with next time.
    pub change_id: Option<String>,
    /// The disk's own uuid.
    pub uuid: Option<String>,
    /// Whether space is allocated when it is written. Absent on backings that do not know.
    pub thin: Option<bool>,
    /// The backing's type, such as `VirtualDiskFlatVer2BackingInfo`.
    pub backing_class: String,
    /// The layers below, nearest first. From 4.0: older servers keep them in the descriptors only.
    pub parents: Vec<DatastorePath>,
    /// Whether the disk is a mapped or raw LUN.
    pub raw_device: bool,
    /// For a mapped LUN: `physicalMode` (no snapshots) or `virtualMode`.
    pub compatibility_mode: Option<String>,
}

impl DiskConfig {
    /// Whether snapshots leave this disk out.
    #[must_use]
    pub fn is_independent(&self) -> bool {
        self.mode.starts_with("independent")
    }
}

/// The disks of a `config` or of a `config.hardware.device` value, in the server's order.
pub(crate) fn disks_in(config: &Element) -> Result<Vec<DiskConfig>, Error> {
    let hardware = config.child("hardware").unwrap_or(config);
    let devices = &hardware.children;
    devices.iter().filter(|device| is_disk(device)).map(|device| disk(device, devices)).collect()
}

fn is_disk(device: &Element) -> bool {
    match &device.xsi_type {
        Some(kind) => kind == "VirtualDisk",
        None => device.child("capacityInKB").is_some() && device.child("backing").is_some(),
    }
}

fn disk(device: &Element, devices: &[Element]) -> Result<DiskConfig, Error> {
    let key = number::<i32>(device, "key").ok_or_else(|| missing(device, "a key"))?;
    let backing = device.child("backing").ok_or_else(|| missing(device, "a backing"))?;
    let controller = device
        .text_of("controllerKey")
        .and_then(|wanted| devices.iter().find(|d| d.child("busNumber").is_some() && d.text_of("key") == Some(wanted)));
    let controller_class = controller.and_then(|c| c.xsi_type.clone()).unwrap_or_default();
    let backing_class = backing.xsi_type.clone().unwrap_or_default();
    let label = device.child("deviceInfo").and_then(|info| info.text_of("label")).unwrap_or_default();
    Ok(DiskConfig {
        key,
        label: label.to_owned(),
        capacity: capacity(device).ok_or_else(|| missing(device, "a capacity"))?,
        file: file_of(backing).unwrap_or_default(),
        controller_kind: controller_kind(&controller_class),
        controller_class,
        bus: controller.and_then(|c| number(c, "busNumber")).unwrap_or_default(),
        unit: number(device, "unitNumber").unwrap_or_default(),
        mode: backing.text_of("diskMode").unwrap_or("persistent").to_owned(),
        change_id: backing.text_of("changeId").map(str::to_owned),
        uuid: backing.text_of("uuid").map(str::to_owned),
        thin: number(backing, "thinProvisioned"),
        parents: std::iter::successors(backing.child("parent"), |layer| layer.child("parent"))
            .filter_map(file_of)
            .collect(),
        raw_device: backing_class.contains("RawDisk"),
        compatibility_mode: backing.text_of("compatibilityMode").map(str::to_owned),
        backing_class,
    })
}

/// Bytes exactly from 5.5, before that in KiB.
fn capacity(device: &Element) -> Option<u64> {
    number(device, "capacityInBytes").or_else(|| number::<u64>(device, "capacityInKB")?.checked_mul(1024))
}

fn file_of(backing: &Element) -> Option<DatastorePath> {
    backing.text_of("fileName").or_else(|| backing.text_of("descriptorFileName"))?.parse().ok()
}

fn number<T: std::str::FromStr>(element: &Element, name: &str) -> Option<T> {
    element.text_of(name)?.trim().parse().ok()
}

fn missing(device: &Element, what: &str) -> Error {
    Error::protocol(format!("virtual disk {}", device.text_of("key").unwrap_or("without key")), what, "none")
}

fn controller_kind(class: &str) -> ControllerKind {
    match class {
        "VirtualIDEController" => ControllerKind::Ide,
        "VirtualAHCIController" | "VirtualSATAController" => ControllerKind::Sata,
        "VirtualNVMEController" => ControllerKind::Nvme,
        "VirtualSCSIController"
        | "VirtualBusLogicController"
        | "VirtualLsiLogicController"
        | "VirtualLsiLogicSASController"
        | "ParaVirtualSCSIController" => ControllerKind::Scsi,
        _ => ControllerKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICES: &str = r#"<val xmlns:x="http://www.w3.org/2001/XMLSchema-instance">
      <VirtualDevice x:type="v:ParaVirtualSCSIController"><key>1000</key><busNumber>1</busNumber><device>2001</device></VirtualDevice>
      <VirtualDevice x:type="VirtualCdrom"><key>3002</key><backing x:type="VirtualCdromIsoBackingInfo"/></VirtualDevice>
      <VirtualDevice x:type="VirtualDisk"><key>2001</key><deviceInfo><label>Hard disk 1</label></deviceInfo>
        <backing x:type="VirtualDiskFlatVer2BackingInfo"><fileName>[ds 1] a b/a b-000002.vmdk</fileName>
          <diskMode>persistent</diskMode><thinProvisioned>true</thinProvisioned><uuid>6000C29b</uuid>
          <changeId>52 0e/4</changeId><parent><fileName>[ds 1] a b/a b-000001.vmdk</fileName>
            <parent><fileName>[ds 2] base/a b.vmdk</fileName></parent></parent></backing>
        <controllerKey>1000</controllerKey><unitNumber>3</unitNumber><capacityInKB>1048577</capacityInKB></VirtualDevice>
      <VirtualDevice><key>2002</key><backing x:type="VirtualDiskRawDiskMappingVer1BackingInfo"><fileName>[ds 1] r.vmdk</fileName>
          <compatibilityMode>physicalMode</compatibilityMode><diskMode>independent_persistent</diskMode></backing>
        <capacityInKB>8</capacityInKB><capacityInBytes>8193</capacityInBytes></VirtualDevice></val>"#;

    #[test]
    fn disks_are_found_with_their_controller_and_their_chain() {
        let disks = disks_in(&Element::parse(DEVICES).unwrap()).unwrap();
        let [disk, raw] = disks.as_slice() else { panic!("{disks:?}") };
        assert_eq!((disk.key, disk.bus, disk.unit, disk.capacity), (2001, 1, 3, 1_048_577 * 1024));
        assert_eq!(disk.controller_class, "ParaVirtualSCSIController");
        assert_eq!((disk.controller_kind, disk.thin), (ControllerKind::Scsi, Some(true)));
        assert_eq!(disk.file.to_string(), "[ds 1] a b/a b-000002.vmdk");
        let parents: Vec<_> = disk.parents.iter().map(ToString::to_string).collect();
        assert_eq!(parents, ["[ds 1] a b/a b-000001.vmdk", "[ds 2] base/a b.vmdk"]);
        assert_eq!(disk.change_id.as_deref(), Some("52 0e/4"));
        assert!(!disk.raw_device && !disk.is_independent());
        assert_eq!((raw.capacity, raw.controller_kind), (8193, ControllerKind::Other));
        assert!(raw.raw_device && raw.is_independent());
    }

    #[test]
    fn the_whole_configuration_and_the_device_list_give_the_same_disks() {
        let list = Element::parse(&DEVICES.replace("VirtualDevice", "device").replace("val", "hardware")).unwrap();
        let config = Element::new("val").with(list);
        assert_eq!(disks_in(&config).unwrap(), disks_in(&Element::parse(DEVICES).unwrap()).unwrap());
    }

    #[test]
    fn a_disk_without_capacity_is_an_error_not_an_empty_disk() {
        let broken = DEVICES.replace("<capacityInKB>1048577</capacityInKB>", "");
        assert!(matches!(disks_in(&Element::parse(&broken).unwrap()), Err(Error::Protocol { .. })));
    }
}
