//! A VM's configuration files: made for new VMs, kept up to date, and read when a VM is registered.

use std::fs::{self, OpenOptions};
use std::io::Write;

use jiff::Timestamp;
use uuid::Uuid;

use super::state::{VmState, replace_file};
use super::vmx::{self, Vmx};
use super::{DatastorePath, Firmware, LabError, Power, VmId, World, descriptor};

/// Controllers of a VM.
const BUSES: u32 = 4;
/// Units of a controller; number 7 is the controller's own.
pub(super) const UNITS: u32 = 16;

impl World {
    /// The files of a new VM beside its disks.
    pub(super) fn write_new_config(&self, vm: &VmState) -> Result<(), LabError> {
        self.write_config(vm)?;
        let nvram = self.host_path(&vm.file(&vm.nvram));
        // "MRVN" begins the files of the real thing; the rest is only there to be told apart.
        let mut content = b"MRVN\x01\0\0\0".to_vec();
        content.extend((0..540).flat_map(|_| *Uuid::new_v4().as_bytes()));
        fs::write(&nvram, content).map_err(LabError::io("write", &nvram))?;
        self.log(vm, &format!("created {}", vm.name))
    }

    /// Brings the .vmx and .vmsd up to date, and keeps what else the .vmx says.
    pub(super) fn write_config(&self, vm: &VmState) -> Result<(), LabError> {
        let path = self.host_path(&vm.vmx);
        let mut config = match fs::read(&path) {
            Ok(bytes) => Vmx::parse(&bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => new_vmx(vm),
            Err(error) => return Err(LabError::io("read", &path)(error)),
        };
        update_vmx(&mut config, vm);
        replace_file(&path, config.to_text().as_bytes(), 0o644).map_err(LabError::io("write", &path))?;
        let path = self.host_path(&vm.file(&format!("{}.vmsd", vm.stem())));
        replace_file(&path, vmsd(vm).to_text().as_bytes(), 0o644).map_err(LabError::io("write", &path))
    }

    /// Adds a line to the VM's `vmware.log`.
    pub(super) fn log(&self, vm: &VmState, line: &str) -> Result<(), LabError> {
        let path = self.host_path(&vm.file("vmware.log"));
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{} In(05) vmx {line}", Timestamp::now()));
        written.map_err(LabError::io("write", &path))
    }
}

/// What does not change in a VM's life.
fn new_vmx(vm: &VmState) -> Vmx {
    let mut config = Vmx::default();
    for (key, value) in [
        (".encoding", "UTF-8"),
        ("config.version", "8"),
        ("virtualHW.version", "19"),
        ("pciBridge0.present", "TRUE"),
        ("floppy0.present", "FALSE"),
        ("scsi0.present", "TRUE"),
        ("scsi0.virtualDev", "lsilogic"),
    ] {
        config.set(key, value);
    }
    config.set("guestOS", vmx::guest_os_of_id(&vm.guest_id));
    config.set("firmware", vm.firmware.as_str());
    config.set("numvcpus", vm.cpus.to_string());
    config.set("memSize", vm.memory_mib.to_string());
    config.set("nvram", vm.nvram.as_str());
    config.set("uuid.bios", descriptor::vmware_uuid(vm.uuid));
    config
}

fn update_vmx(config: &mut Vmx, vm: &VmState) {
    let flag = |on: bool| if on { "TRUE" } else { "FALSE" };
    config.set("displayName", vm.name.as_str());
    config.set("vc.uuid", descriptor::vmware_uuid(vm.instance_uuid));
    for disk in &vm.disks {
        let device = format!("scsi{}:{}", disk.bus, disk.unit);
        let leaf = disk.layers.last().map_or("", |layer| layer.descriptor.as_str());
        config.set(&format!("{device}.present"), "TRUE");
        config.set(&format!("{device}.deviceType"), "scsi-hardDisk");
        config.set(&format!("{device}.fileName"), leaf);
        config.set(&format!("{device}.ctkEnabled"), flag(vm.change_tracking));
    }
    config.set("ctkEnabled", flag(vm.change_tracking));
    // What a real guest would tell: the lab's guests have it here, so that a restored VM is the same guest.
    config.set("guestinfo.lab.tools", flag(vm.tools));
    for (key, value) in [("guestinfo.lab.ip", &vm.ip), ("guestinfo.lab.hostName", &vm.host_name)] {
        if let Some(value) = value {
            config.set(key, value.as_str());
        }
    }
}

fn vmsd(vm: &VmState) -> Vmx {
    let mut file = Vmx::default();
    file.set(".encoding", "UTF-8");
    file.set("snapshot.lastUID", vm.snapshot_count.to_string());
    file.set("snapshot.numSnapshots", vm.snapshots.len().to_string());
    for (index, snapshot) in vm.snapshots.iter().enumerate() {
        let mut set = |key: &str, value: String| file.set(&format!("snapshot{index}.{key}"), value);
        set("uid", snapshot.number.to_string());
        if let Some(parent) = index.checked_sub(1).and_then(|parent| vm.snapshots.get(parent)) {
            set("parent", parent.number.to_string());
        }
        set("displayName", snapshot.name.clone());
        set("description", snapshot.description.clone());
        set("numDisks", snapshot.disks.len().to_string());
        for (number, frozen) in snapshot.disks.iter().enumerate() {
            set(&format!("disk{number}.fileName"), frozen.layer.clone());
            if let Ok(disk) = vm.disk(frozen.key) {
                set(&format!("disk{number}.node"), format!("scsi{}:{}", disk.bus, disk.unit));
            }
        }
    }
    file
}

pub(super) fn vm_of_vmx(config: &Vmx, vmx: &DatastorePath, name: Option<&str>) -> Result<VmState, LabError> {
    let bad = |key: &str, expected| {
        let actual = config.get(key).unwrap_or_default().to_owned();
        Err(LabError::BadVmx { path: vmx.clone(), key: key.to_owned(), actual, expected })
    };
    let firmware = match config.get("firmware").unwrap_or("bios") {
        "bios" => Firmware::Bios,
        "efi" => Firmware::Efi,
        _ => return bad("firmware", "bios or efi"),
    };
    let Some(name) = name.or(config.get("displayName")) else { return bad("displayName", "a name") };
    let Some(guest) = config.get("guestOS") else { return bad("guestOS", "a guest operating system") };
    let uuid = |key| config.get(key).and_then(descriptor::parse_vmware_uuid).unwrap_or_else(Uuid::new_v4);
    let number = |key, default| config.get(key).and_then(|value| value.parse().ok()).unwrap_or(default);
    let text = |key| config.get(key).map(str::to_owned);
    let stem = vmx.file_name().trim_end_matches(".vmx");
    let nvram = config.get("nvram").filter(|name| !name.contains('/'));
    Ok(VmState {
        id: VmId(String::new()),
        name: name.to_owned(),
        uuid: uuid("uuid.bios"),
        instance_uuid: uuid("vc.uuid"),
        power: Power::PoweredOff,
        tools: config.is_true("guestinfo.lab.tools"),
        ip: text("guestinfo.lab.ip"),
        host_name: text("guestinfo.lab.hostName"),
        change_tracking: config.is_true("ctkEnabled"),
        guest_id: vmx::id_of_guest_os(guest),
        firmware,
        cpus: number("numvcpus", 1),
        memory_mib: number("memSize", 1024),
        vmx: vmx.clone(),
        nvram: nvram.map_or_else(|| format!("{stem}.nvram"), str::to_owned),
        snapshot_count: 0,
        disks: Vec::new(),
        snapshots: Vec::new(),
        pending: Vec::new(),
    })
}

/// Controller, unit and descriptor of each disk.
pub(super) fn disks_of_vmx(config: &Vmx, vmx: &DatastorePath) -> Result<Vec<(u32, u32, String)>, LabError> {
    let mut disks = Vec::new();
    for bus in 0..BUSES {
        for unit in 0..UNITS {
            let device = format!("scsi{bus}:{unit}");
            let get = |key: &str| config.get(&format!("{device}.{key}"));
            let hard_disk = get("deviceType").is_none_or(|kind| kind.eq_ignore_ascii_case("scsi-hardDisk"));
            if !config.is_true(&format!("{device}.present")) || !hard_disk {
                continue;
            }
            let file = get("fileName").unwrap_or_default();
            if file.is_empty() || file.contains('/') {
                let (path, key, actual) = (vmx.clone(), format!("{device}.fileName"), file.to_owned());
                return Err(LabError::BadVmx { path, key, actual, expected: "a file beside it" });
            }
            disks.push((bus, unit, file.to_owned()));
        }
    }
    Ok(disks)
}
