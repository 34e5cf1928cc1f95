//! Images that stand for devices: the caller's gate provides them, and nothing else opens one.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use blockdev::{ByteOffset, ExtentKind, MemDisk, ReadAt};
use common::noise;
use vmdk_rs::{DenyGate, ErrorFamily, FnGate, FolderGate, Gate, Image, PlainName, VmdkError};

/// Files and devices in memory, and what was asked for.
#[derive(Default)]
struct Lab {
    files: HashMap<&'static str, Arc<dyn ReadAt>>,
    devices: HashMap<&'static str, Arc<dyn ReadAt>>,
    asked: Mutex<Vec<String>>,
}

impl Lab {
    fn file(mut self, name: &'static str, bytes: Vec<u8>) -> Self {
        self.files.insert(name, Arc::new(MemDisk::new(bytes)));
        self
    }

    fn device(mut self, name: &'static str, bytes: Vec<u8>) -> Self {
        self.devices.insert(name, Arc::new(MemDisk::new(bytes)));
        self
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Gate for Lab {
    fn open(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        self.asked.lock().unwrap().push(format!("file {name}"));
        let denied = || VmdkError::Denied { name: name.to_string() };
        self.files.get(name.as_str()).map(Arc::clone).ok_or_else(denied)
    }

    fn open_device(&self, name: &str) -> Result<Arc<dyn ReadAt>, VmdkError> {
        self.asked.lock().unwrap().push(format!("device {name}"));
        let none = || VmdkError::NoDevice { name: name.to_owned() };
        self.devices.get(name).map(Arc::clone).ok_or_else(none)
    }
}

fn text(create_type: &str, lines: &str) -> String {
    format!("version=1\nCID=11\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n{lines}\n")
}

fn open(create_type: &str, lines: &str, gate: &dyn Gate) -> Result<Image, VmdkError> {
    let bytes = text(create_type, lines).into_bytes();
    Image::open(Arc::new(MemDisk::new(bytes)), "x.vmdk", gate)
}

fn all_of(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0x55; image.size().to_usize().unwrap()];
    image.read_exact_at(ByteOffset(0), &mut bytes).unwrap();
    bytes
}

#[test]
fn a_raw_device_map_reads_as_the_device_that_the_gate_provides() {
    for (create_type, line, name) in [
        ("vmfsRawDeviceMap", r#"RW 40 VMFSRDM "vm-rdm.vmdk""#, "vm-rdm.vmdk"),
        ("vmfsPassthroughRawDeviceMap", r#"RW 40 VMFSRDM "vm 1-rdmp.vmdk""#, "vm 1-rdmp.vmdk"),
        ("vmfsRaw", r#"RW 40 VMFSRAW "/vmfs/devices/disks/naa.6000""#, "/vmfs/devices/disks/naa.6000"),
    ] {
        // A file of the same name is not what is meant: it maps the device, and holds none of its bytes.
        let lab = Lab::default().file("vm-rdm.vmdk", noise(1, 40 * 512)).device(name, noise(2, 40 * 512));
        let image = open(create_type, line, &lab).unwrap();
        assert_eq!(lab.asked(), [format!("device {name}")]);
        assert!(all_of(&image) == noise(2, 40 * 512), "{create_type}");
        let placement = image.placement_at(ByteOffset(700)).unwrap();
        let stored = placement.stored.unwrap();
        assert_eq!((stored.file, stored.offset, stored.compressed), (name, ByteOffset(700), false));
        assert_eq!((placement.extent.kind, placement.extent.end()), (ExtentKind::Data, ByteOffset(40 * 512)));
    }
}

#[test]
fn a_device_may_be_larger_than_its_extent_and_not_smaller() {
    let line = r#"RW 40 VMFSRDM "vm-rdm.vmdk""#;
    let lab = Lab::default().device("vm-rdm.vmdk", noise(3, 41 * 512));
    assert!(all_of(&open("vmfsRawDeviceMap", line, &lab).unwrap()) == noise(3, 41 * 512)[..40 * 512]);
    let lab = Lab::default().device("vm-rdm.vmdk", noise(3, 40 * 512 - 1));
    let err = open("vmfsRawDeviceMap", line, &lab).unwrap_err();
    assert_eq!(err.to_string(), "the extent takes bytes 0x0 to 0x5000 of vm-rdm.vmdk, which has 20479 bytes");
}

#[test]
fn a_whole_disk_reads_as_the_device_whatever_its_name() {
    for name in ["/dev/sda", r"\\.\PhysicalDrive0", "/dev/disk/by-id/ata-x y", "C:", "nbd://host/disk"] {
        let lab = Lab::default().device(name, noise(4, 64 * 512));
        let image = open("fullDevice", &format!("RW 64 FLAT \"{name}\" 0"), &lab).unwrap();
        assert_eq!(lab.asked(), [format!("device {name}")]);
        assert!(all_of(&image) == noise(4, 64 * 512), "{name}");
    }
}

/// As hosted products describe a disk of which a guest may use one partition: the table and the rest are files.
const PARTITIONED: &str = r#"RW 63 FLAT "vm-pt.vmdk" 0
RW 100 FLAT "/dev/sda" 63
RW 37 ZERO
RW 50 FLAT "/dev/sda" 200 partitionUUID "b7d1"
RW 20 SPARSE "vm-s005.vmdk"
RW 6 FLAT "vm-pt.vmdk" 63"#;

/// A hosted sparse extent of 20 sectors with nothing in it.
fn empty_sparse() -> Vec<u8> {
    let mut file = vec![0; 6 * 512];
    file[..4].copy_from_slice(b"KDMV");
    file[4] = 1;
    for (at, value) in [(0x0c, 20), (0x14, 8), (0x2d, 2), (0x38, 1)] {
        file[at] = value; // capacity, grains of 8 sectors, tables of 512 entries, directory in sector 1
    }
    file
}

#[test]
fn partitions_are_read_from_the_device_and_plain_names_from_files() {
    let (device, table) = (noise(5, 300 * 512), noise(6, 69 * 512));
    let lab = Lab::default()
        .file("vm-pt.vmdk", table.clone())
        .file("vm-s005.vmdk", empty_sparse())
        .device("/dev/sda", device.clone());
    let image = open("partitionedDevice", PARTITIONED, &lab).unwrap();
    let asked = lab.asked();
    let asked_for = |what: &str| asked.iter().filter(|asked| *asked == what).count();
    assert_eq!((asked_for("file vm-pt.vmdk"), asked_for("file vm-s005.vmdk")), (1, 1));
    assert!(asked.iter().all(|asked| asked.starts_with("file ") || asked == "device /dev/sda"), "{asked:?}");
    let sectors = |bytes: &[u8], from: usize, len: usize| bytes[from * 512..(from + len) * 512].to_vec();
    let expected = [
        sectors(&table, 0, 63),
        sectors(&device, 63, 100),
        vec![0; 37 * 512],
        sectors(&device, 200, 50),
        vec![0; 20 * 512],
        sectors(&table, 63, 6),
    ];
    assert!(all_of(&image) == expected.concat());
    let at = |sector: u64| image.placement_at(ByteOffset(sector * 512)).unwrap();
    assert_eq!(at(62).stored.unwrap().file, "vm-pt.vmdk");
    assert_eq!(at(64).stored.unwrap().file, "/dev/sda");
    assert_eq!(at(64).stored.unwrap().offset, ByteOffset(64 * 512));
    assert_eq!((at(163).extent.kind, at(163).stored), (ExtentKind::Zero, None));
    assert_eq!(at(201).stored.unwrap().offset, ByteOffset(201 * 512));
    assert_eq!(at(251).extent.kind, ExtentKind::Hole);
}

#[test]
fn a_plain_name_is_never_asked_for_as_a_device_unless_its_extent_is_one() {
    let lab = Lab::default().device("sda", noise(7, 4096));
    for create_type in ["fullDevice", "partitionedDevice", "monolithicFlat", "custom"] {
        let err = open(create_type, r#"RW 8 FLAT "sda" 0"#, &lab).unwrap_err();
        assert!(matches!(err, VmdkError::Denied { .. }), "{create_type}: {err}");
        assert_eq!(lab.asked(), ["file sda"]);
    }
}

#[test]
fn a_path_is_a_device_in_images_of_devices_only() {
    let lab = Lab::default().device("/dev/sda", noise(8, 4096));
    for create_type in ["monolithicFlat", "twoGbMaxExtentFlat", "vmfs", "custom", "vmfsRawDeviceMap"] {
        let err = open(create_type, r#"RW 8 FLAT "/dev/sda" 0"#, &lab).unwrap_err();
        assert!(matches!(err, VmdkError::Name { .. }), "{create_type}: {err}");
        assert_eq!(lab.asked(), [""; 0]);
    }
    let err = open("partitionedDevice", r#"RW 8 SPARSE "/dev/sda""#, &lab).unwrap_err();
    assert!(matches!(err, VmdkError::Name { .. }), "{err}");
}

#[test]
fn gates_that_provide_no_devices_refuse_them_by_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vm-rdm.vmdk"), noise(9, 4096)).unwrap();
    let folder = FolderGate::open_folder(dir.path()).unwrap();
    let function = FnGate::new(|name: &PlainName| Err(VmdkError::Denied { name: name.to_string() }));
    let gates: [&dyn Gate; 3] = [&folder, &function, &DenyGate];
    for gate in gates {
        let err = open("vmfsRawDeviceMap", r#"RW 8 VMFSRDM "vm-rdm.vmdk""#, gate).unwrap_err();
        assert!(matches!(&err, VmdkError::NoDevice { name } if name == "vm-rdm.vmdk"), "{err}");
        assert_eq!(err.family(), ErrorFamily::Unsupported);
    }
}

#[test]
fn a_reference_to_a_gate_provides_what_the_gate_provides() {
    let lab = Lab::default().device("/dev/sda", noise(10, 4096));
    let reference: &dyn Gate = &lab;
    let image = open("fullDevice", r#"RW 8 FLAT "/dev/sda" 0"#, &reference).unwrap();
    assert!(all_of(&image) == noise(10, 4096));
}

/// A redo log of 8 sectors that holds the sector `number`.
fn redo_log(number: usize, sector: &[u8]) -> Vec<u8> {
    let mut file = vec![0; (4 + 1 + 32) * 512];
    file[..4].copy_from_slice(b"COWD");
    for (index, value) in [1u32, 3, 8, 1, 4, 1, 38].into_iter().enumerate() {
        file[4 + index * 4..][..4].copy_from_slice(&value.to_le_bytes());
    }
    file[4 * 512] = 5; // the table
    file[5 * 512 + number * 4] = 37; // the grain
    file.extend_from_slice(sector);
    file
}

#[test]
fn a_snapshot_of_a_raw_device_map_reads_over_the_device() {
    let map = text("vmfsRawDeviceMap", r#"RW 8 VMFSRDM "vm-rdm.vmdk""#);
    let lab = Lab::default()
        .file("vm.vmdk", map.into_bytes())
        .file("vm-000001-delta.vmdk", redo_log(3, &noise(12, 512)))
        .device("vm-rdm.vmdk", noise(11, 4096));
    let top = text("vmfsSparse", r#"RW 8 VMFSSPARSE "vm-000001-delta.vmdk""#);
    let top = top.replace("ffffffff", "00000011\nparentFileNameHint=\"vm.vmdk\"");
    let image = Image::open(Arc::new(MemDisk::new(top.into_bytes())), "vm-000001.vmdk", &lab).unwrap();
    let mut expected = noise(11, 4096);
    expected[3 * 512..4 * 512].copy_from_slice(&noise(12, 512));
    assert!(all_of(&image) == expected);
    assert_eq!(lab.asked(), ["file vm-000001-delta.vmdk", "file vm.vmdk", "device vm-rdm.vmdk"]);
    assert_eq!(image.placement_at(ByteOffset(0)).unwrap().depth, 1);
}
