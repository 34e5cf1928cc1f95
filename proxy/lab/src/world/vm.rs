//! Adding, registering, switching and removing VMs.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::Duration;

use blockdev::{FileDisk, ReadAt};
use uuid::Uuid;

use super::config::{UNITS, disks_of_vmx, vm_of_vmx};
use super::sparse::{self, CopyError};
use super::state::{DiskState, LayerState, State, VmState};
use super::vmx::Vmx;
use super::{DatastorePath, DiskSource, FileError, LabError, Power, VmId, VmSpec, World, descriptor};

/// A .vmx file is a few KiB; larger ones are something else.
const MAX_VMX_LEN: u64 = 1 << 20;
/// A guest's transaction takes a second at the most ([`crate::guest::GuestOptions`]).
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(10);

impl World {
    /// Makes a new VM with its files. Its folder must not exist.
    ///
    /// # Errors
    /// [`LabError::BadName`], [`LabError::NoSuchDatastore`], or what goes wrong with files and images.
    pub fn add_vm(&self, spec: &VmSpec) -> Result<VmId, LabError> {
        check_name(&spec.name)?;
        let units = u32::try_from(spec.disks.len()).unwrap_or(u32::MAX);
        if units > UNITS - 1 {
            return Err(LabError::Unsupported { what: "more than 15 disks", actual: units.to_string() });
        }
        self.check_datastore(&spec.datastore)?;
        self.check_name_is_free(&spec.name)?;
        let folder = DatastorePath::new(&spec.datastore, &spec.name);
        self.make_directory(&folder.datastore, &folder.path, false)
            .map_err(|source| LabError::File { path: folder.clone(), source })?;
        let made = self.make_vm(spec, &folder, units);
        if made.is_err() {
            let _ = self.delete_file(&folder.datastore, &folder.path); // the first error says more
        }
        self.insert(made?)
    }

    fn make_vm(&self, spec: &VmSpec, folder: &DatastorePath, units: u32) -> Result<VmState, LabError> {
        let mut vm = new_vm(spec, folder);
        for (unit, disk) in (0..units).zip(&spec.disks) {
            // Unit 7 is the controller's own.
            let unit = if unit < 7 { unit } else { unit + 1 };
            let disk = self.make_disk(&vm, unit, &disk.source)?;
            vm.disks.push(disk);
        }
        self.write_new_config(&vm)?;
        Ok(vm)
    }

    fn insert(&self, mut vm: VmState) -> Result<VmId, LabError> {
        let power_on = std::mem::replace(&mut vm.power, Power::PoweredOff) == Power::PoweredOn;
        let id = {
            let mut core = self.core();
            vm.id = VmId(format!("vm-{}", core.state.new_id()));
            let id = vm.id.clone();
            core.state.vms.push(vm);
            core.save(self.dir())?;
            id
        };
        self.open_disks(&id)?;
        if power_on {
            self.power_on(&id)?;
        }
        Ok(id)
    }

    pub(super) fn make_disk(&self, vm: &VmState, unit: u32, source: &DiskSource) -> Result<DiskState, LabError> {
        let stem = if unit == 0 { vm.stem().to_owned() } else { format!("{}_{unit}", vm.stem()) };
        let layer = LayerState {
            descriptor: format!("{stem}.vmdk"),
            data: format!("{stem}-flat.vmdk"),
            content_id: new_content_id(),
        };
        let path = self.host_path(&vm.file(&layer.data));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(LabError::io("create", &path))?;
        let capacity = match source {
            DiskSource::Empty(capacity) => {
                if *capacity == 0 || !capacity.is_multiple_of(512) {
                    return Err(LabError::Unsupported { what: "a disk of this size", actual: capacity.to_string() });
                }
                file.set_len(*capacity).map_err(LabError::io("resize", &path))?;
                *capacity
            }
            DiskSource::RawFile(from) => {
                let disk = FileDisk::open(from).map_err(LabError::io("open", from))?;
                fill(&disk, from, &file, &path)?
            }
            DiskSource::Vmdk(from) => {
                let image = vmdk_rs::open_path(from);
                let image = image.map_err(|source| LabError::Image { path: from.clone(), source })?;
                fill(&image, from, &file, &path)?
            }
        };
        let disk = new_disk(0, unit, capacity, Uuid::new_v4(), layer);
        let text = descriptor::base(&disk.layers[0], capacity, disk.uuid);
        descriptor::write(&self.host_path(&vm.file(&disk.layers[0].descriptor)), &text)?;
        Ok(disk)
    }

    /// Registers a VM from the files that are in a datastore: the configuration and the flat disks it names. The VM is off.
    ///
    /// # Errors
    /// [`LabError::File`] if a file is missing, [`LabError::BadVmx`], [`LabError::BadDisk`] if a disk's data does not have the length
    /// that its descriptor says, [`LabError::Unsupported`] for disks that are no single flat file,
    /// [`LabError::AlreadyExists`] and [`LabError::DuplicateName`].
    pub fn register_vm(&self, vmx: &DatastorePath, name: Option<&str>) -> Result<VmId, LabError> {
        self.check_datastore(&vmx.datastore)?;
        let len = self.check_file(vmx)?;
        if !vmx.path.ends_with(".vmx") || len > MAX_VMX_LEN {
            let source = FileError::Bad("not a .vmx file");
            return Err(LabError::File { path: vmx.clone(), source });
        }
        if let Some(vm) = self.owner_of(vmx) {
            return Err(LabError::AlreadyExists { path: vmx.clone(), vm });
        }
        let host = self.host_path(vmx);
        let config = Vmx::parse(&fs::read(&host).map_err(LabError::io("read", &host))?);
        let mut vm = vm_of_vmx(&config, vmx, name)?;
        check_name(&vm.name)?;
        self.check_name_is_free(&vm.name)?;
        for (bus, unit, file) in disks_of_vmx(&config, vmx)? {
            let path = vm.file(&file);
            self.check_file(&path)?;
            let text = descriptor::read(&self.host_path(&path), &path)?;
            let (layer, capacity, uuid) = descriptor::parse_base(&text, &path)?;
            let data = vm.file(&layer.data);
            let actual = self.check_file(&data)?;
            if actual != capacity {
                return Err(LabError::BadDisk { path: data, field: "length", actual, expected: capacity });
            }
            vm.disks.push(new_disk(bus, unit, capacity, uuid.unwrap_or_else(Uuid::new_v4), layer));
        }
        if self.core().state.vms.iter().any(|other| other.instance_uuid == vm.instance_uuid) {
            vm.instance_uuid = Uuid::new_v4();
        }
        self.write_config(&vm)?;
        self.insert(vm)
    }

    /// Forgets a VM that is off. Its files stay.
    ///
    /// # Errors
    /// [`LabError::PowerState`] while it runs.
    pub fn unregister_vm(&self, vm: &VmId) -> Result<(), LabError> {
        let live = self.live_vm(vm)?;
        let _task = live.begin_task()?;
        let mut core = self.core();
        check_power(&core.state, vm, Power::PoweredOff)?;
        self.forget_trackers(core.state.vm(vm)?);
        core.state.vms.retain(|known| known.id != *vm);
        core.live.remove(vm);
        core.save(self.dir())
    }

    /// Forgets a VM that is off, and deletes its folder.
    ///
    /// # Errors
    /// [`LabError::PowerState`] while it runs; [`LabError::File`] if the folder holds files of another VM.
    pub fn destroy_vm(&self, vm: &VmId) -> Result<(), LabError> {
        let folder = self.core().state.vm(vm)?.vmx.folder();
        self.unregister_vm(vm)?;
        let deleted = self.delete_file(&folder.datastore, &folder.path);
        deleted.map_err(|source| LabError::File { path: folder, source })
    }

    /// Switches a VM on. Its guest begins to write if guests are started.
    ///
    /// # Errors
    /// [`LabError::PowerState`] if it runs.
    pub fn power_on(&self, vm: &VmId) -> Result<(), LabError> {
        let live = self.live_vm(vm)?;
        let _task = live.begin_task()?;
        let mut core = self.core();
        check_power(&core.state, vm, Power::PoweredOff)?;
        let state = core.state.vm_mut(vm)?;
        state.power = Power::PoweredOn;
        // The content will change, and with it the content id.
        for disk in &mut state.disks {
            let Some(leaf) = disk.layers.last_mut() else { continue };
            leaf.content_id = new_content_id();
            let path = state.vmx.folder().join(&leaf.descriptor);
            descriptor::change(&self.host_path(&path), &path, |text| text.content_id = leaf.content_id)?;
        }
        core.save(self.dir())?;
        live.set_running(true);
        Ok(())
    }

    /// Switches a VM off, after the guest has finished its transaction.
    ///
    /// # Errors
    /// [`LabError::PowerState`] if it is off, [`LabError::QuiesceTimeout`] if the guest does not stop.
    pub fn power_off(&self, vm: &VmId) -> Result<(), LabError> {
        let live = self.live_vm(vm)?;
        let _task = live.begin_task()?;
        check_power(&self.core().state, vm, Power::PoweredOn)?;
        live.set_running(false);
        if !live.guest.wait_detached(POWER_OFF_TIMEOUT) {
            return Err(LabError::QuiesceTimeout { vm: vm.clone(), waited: POWER_OFF_TIMEOUT });
        }
        let mut core = self.core();
        core.state.vm_mut(vm)?.power = Power::PoweredOff;
        core.save(self.dir())
    }

    /// Installs or removes the guest's tools.
    ///
    /// # Errors
    /// [`LabError::NoSuchVm`].
    pub fn set_tools(&self, vm: &VmId, installed: bool) -> Result<(), LabError> {
        self.reconfigure(vm, |vm| vm.tools = installed)
    }

    fn reconfigure(&self, vm: &VmId, change: impl FnOnce(&mut VmState)) -> Result<(), LabError> {
        let mut core = self.core();
        let state = core.state.vm_mut(vm)?;
        change(state);
        self.write_config(state)?;
        core.save(self.dir())
    }

    fn check_datastore(&self, name: &str) -> Result<(), LabError> {
        let known = self.core().state.datastores.iter().any(|datastore| datastore.name == name);
        if known { Ok(()) } else { Err(LabError::NoSuchDatastore(name.to_owned())) }
    }

    fn check_name_is_free(&self, name: &str) -> Result<(), LabError> {
        match self.core().state.vms.iter().find(|vm| vm.name == name) {
            Some(vm) => Err(LabError::DuplicateName { name: name.to_owned(), vm: vm.id.clone() }),
            None => Ok(()),
        }
    }
}

fn fill(disk: &dyn ReadAt, from: &Path, file: &File, path: &Path) -> Result<u64, LabError> {
    let capacity = disk.size().0.next_multiple_of(512);
    if capacity == 0 {
        return Err(LabError::Unsupported { what: "an empty image", actual: from.display().to_string() });
    }
    match sparse::copy_disk(disk, file, capacity) {
        Ok(()) => Ok(capacity),
        Err(CopyError::Read(source)) => Err(LabError::Read { path: from.to_owned(), source }),
        Err(CopyError::Write(source)) => Err(LabError::io("write", path)(source)),
    }
}

fn new_disk(bus: u32, unit: u32, capacity: u64, uuid: Uuid, layer: LayerState) -> DiskState {
    let key = 2000 + i32::try_from(bus * UNITS + unit).unwrap_or(0); // both are small
    DiskState { key, bus, unit, capacity, uuid, change_uuid: Uuid::new_v4(), change_count: 1, layers: vec![layer] }
}

/// Neither 0 nor the two values that mean "none".
pub(super) fn new_content_id() -> u32 {
    rand::random_range(1..0xffff_fffe)
}

fn check_power(state: &State, vm: &VmId, expected: Power) -> Result<(), LabError> {
    let actual = state.vm(vm)?.power;
    if actual == expected { Ok(()) } else { Err(LabError::PowerState { vm: vm.clone(), expected, actual }) }
}

/// A name becomes a folder and files.
fn check_name(name: &str) -> Result<(), LabError> {
    let problem = match name {
        "" => "it is empty",
        name if name.len() > 80 => "more than 80 bytes",
        name if name.starts_with('.') => "a dot in front",
        name if name.trim() != name => "a blank at an end",
        name if name.contains(|c: char| c == '/' || c.is_control()) => "a slash or a control character",
        name if name.contains('"') => "a quotation mark", // descriptors have no way to write one
        _ => return Ok(()),
    };
    Err(LabError::BadName { name: name.to_owned(), problem })
}

fn new_vm(spec: &VmSpec, folder: &DatastorePath) -> VmState {
    VmState {
        id: VmId(String::new()),
        name: spec.name.clone(),
        uuid: Uuid::new_v4(),
        instance_uuid: Uuid::new_v4(),
        power: if spec.power_on { Power::PoweredOn } else { Power::PoweredOff },
        tools: spec.tools,
        ip: spec.ip.clone(),
        host_name: spec.host_name.clone(),
        change_tracking: spec.change_tracking,
        guest_id: spec.guest_id.clone(),
        firmware: spec.firmware,
        cpus: 2,
        memory_mib: 2048,
        vmx: folder.join(&format!("{}.vmx", spec.name)),
        nvram: format!("{}.nvram", spec.name),
        snapshot_count: 0,
        disks: Vec::new(),
        snapshots: Vec::new(),
        pending: Vec::new(),
    }
}
