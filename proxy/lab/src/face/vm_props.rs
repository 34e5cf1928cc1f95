//! The properties of a VM and of its snapshots.

use vsphere::xml::Moref;

use super::inventory::{self, HOST, Inventory, NETWORK, POOL, Property, VM_FOLDER, snapshot_ref, vm_ref};
use super::value::{NoSuchField, Object, Value};
use super::{vm_devices, vm_files};
use crate::world::{Power, SnapshotView, VmView};

/// What `all` means for a VM.
pub(super) const NAMES: [&str; 20] = [
    "capability",
    "config",
    "configStatus",
    "datastore",
    "environmentBrowser",
    "guest",
    "guestHeartbeatStatus",
    "layoutEx",
    "name",
    "network",
    "overallStatus",
    "parent",
    "resourceConfig",
    "resourcePool",
    "rootSnapshot",
    "runtime",
    "snapshot",
    "storage",
    "summary",
    "layout",
];

/// Hardware version 19 came with 7.0 U2 and runs on all later hosts.
const HARDWARE: &str = "vmx-19";

/// A property of a VM.
pub(super) fn property(inventory: &Inventory<'_>, vm: &VmView, name: &str) -> Property {
    Ok(Some(match name {
        "config" => config(inventory, vm, None).into(),
        "runtime" => runtime(vm).into(),
        "guest" => guest(vm).into(),
        "snapshot" => return Ok(snapshot_info(vm)),
        "summary" => summary(inventory, vm).into(),
        "capability" => capability(),
        "layoutEx" => vm_files::layout_ex(inventory, vm).into(),
        "datastore" => Value::refs(&datastores(inventory, vm)),
        "recentTask" => Value::refs(&inventory.service.tasks.of(&vm_ref(vm))),
        "network" => Value::refs(&[Moref::new("Network", NETWORK)]),
        "resourcePool" => Moref::new("ResourcePool", POOL).into(),
        "environmentBrowser" => Moref::new("EnvironmentBrowser", "envbrowser-8").into(),
        "rootSnapshot" => Value::refs(vm.snapshots.first().map(snapshot_ref).as_ref()),
        "guestHeartbeatStatus" => Value::constant("ManagedEntityStatus", heartbeat(vm)),
        "layout" | "storage" | "resourceConfig" | "parentVApp" => return Ok(None),
        _ => return inventory::entity(&vm.name, Some(Moref::new("Folder", VM_FOLDER)), name),
    }))
}

/// A property of a snapshot.
pub(super) fn of_snapshot(inventory: &Inventory<'_>, vm: &VmView, snapshot: &SnapshotView, name: &str) -> Property {
    Ok(Some(match name {
        "config" => config(inventory, vm, Some(snapshot)).into(),
        "vm" => vm_ref(vm).into(),
        "childSnapshot" => {
            let child = vm.snapshots.iter().find(|other| other.parent.as_ref() == Some(&snapshot.id));
            Value::refs(child.map(snapshot_ref).as_ref())
        }
        "value" | "availableField" => return Ok(None),
        _ => return Err(NoSuchField),
    }))
}

fn datastores(inventory: &Inventory<'_>, vm: &VmView) -> Vec<Moref> {
    let files = vm.disks.iter().map(|disk| &disk.file).chain([&vm.vmx]);
    let mut found: Vec<Moref> = files.filter_map(|file| inventory.store_ref(&file.datastore)).collect();
    found.sort();
    found.dedup();
    found
}

fn heartbeat(vm: &VmView) -> &'static str {
    if vm.tools_running { "green" } else { "gray" }
}

/// The configuration: of the VM as it runs, or as the snapshot froze it.
fn config(inventory: &Inventory<'_>, vm: &VmView, frozen: Option<&SnapshotView>) -> Object {
    let since = inventory.service.started;
    let folder = vm.vmx.folder();
    let folder = format!("[{}] {}/", folder.datastore, folder.path);
    let files = Object::new("VirtualMachineFileInfo")
        .with("vmPathName", vm.vmx.to_string())
        .with("snapshotDirectory", folder.as_str())
        .with("suspendDirectory", folder.as_str())
        .with("logDirectory", folder.as_str());
    Object::new("VirtualMachineConfigInfo")
        .with("changeVersion", format!("{since:.6}"))
        .with("modified", Value::time(since))
        .with("name", inventory::escaped(&vm.name))
        .with("guestFullName", guest_name(&vm.guest_id))
        .with("version", HARDWARE)
        .with("uuid", vm.uuid.to_string())
        .with("instanceUuid", vm.instance_uuid.to_string())
        .unset(&["createDate", "npivNodeWorldWideName", "npivPortWorldWideName", "locationId"])
        .with("template", false)
        .with("guestId", vm.guest_id.as_str())
        .with("alternateGuestName", "")
        .with("annotation", "")
        .with("files", files)
        .with("tools", Object::new("ToolsConfigInfo").with("toolsVersion", 12_352).with("afterPowerOn", true))
        .with("flags", flags())
        .with("defaultPowerOps", Object::new("VirtualMachineDefaultPowerOpInfo").with("powerOffType", "soft"))
        .with("hardware", vm_devices::hardware(inventory, vm, frozen))
        .with("extraConfig", extra_config(vm))
        .unset(&["bootOptions", "ftInfo", "vAppConfig", "managedBy", "keyId"])
        .with("changeTrackingEnabled", vm.change_tracking)
        .with("firmware", vm.firmware.as_str())
}

fn flags() -> Object {
    Object::new("VirtualMachineFlagInfo")
        .with("disableAcceleration", false)
        .with("enableLogging", true)
        .with("snapshotDisabled", false)
        .with("snapshotLocked", false)
        .with("diskUuidEnabled", true)
}

fn extra_config(vm: &VmView) -> Value {
    let option = |key: &str, value: &str| {
        Value::Object(Object::new("OptionValue").with("key", key).with("value", Value::any(value)))
    };
    Value::List(
        "OptionValue",
        vec![
            option("nvram", vm.nvram.file_name()),
            option("disk.EnableUUID", "TRUE"),
            option("tools.guest.desktop.autolock", "FALSE"),
        ],
    )
}

fn guest_name(id: &str) -> &str {
    match id {
        "windows2019srv_64Guest" => "Microsoft Windows Server 2019 (64-bit)",
        "windows9Server64Guest" => "Microsoft Windows Server 2016 (64-bit)",
        "debian11_64Guest" => "Debian GNU/Linux 11 (64-bit)",
        "otherGuest64" => "Other (64-bit)",
        other => other,
    }
}

fn power(power: Power) -> Value {
    Value::constant("VirtualMachinePowerState", power.as_str())
}

fn runtime(vm: &VmView) -> Object {
    Object::new("VirtualMachineRuntimeInfo")
        .with("host", Moref::new("HostSystem", HOST))
        .with("connectionState", Value::constant("VirtualMachineConnectionState", "connected"))
        .with("powerState", power(vm.power))
        .with("faultToleranceState", Value::constant("VirtualMachineFaultToleranceState", "notConfigured"))
        .with("toolsInstallerMounted", false)
        .unset(&["suspendTime", "bootTime", "question", "cryptoState", "needSecondaryReason", "dasVmProtection"])
        .with("numMksConnections", 0)
        .with("recordReplayState", Value::constant("VirtualMachineRecordReplayState", "inactive"))
        .with("onlineStandby", false)
        .with("consolidationNeeded", vm.consolidation_needed)
}

/// `toolsStatus`, `toolsVersionStatus2` and `toolsRunningStatus`.
fn tools(vm: &VmView) -> [(&'static str, Value); 3] {
    let status = match (vm.tools_running, vm.power) {
        (true, _) => "toolsOk",
        (false, Power::PoweredOff) => "toolsNotRunning",
        (false, Power::PoweredOn) => "toolsNotInstalled",
    };
    let version = if status == "toolsNotInstalled" { "guestToolsNotInstalled" } else { "guestToolsCurrent" };
    let running = if vm.tools_running { "guestToolsRunning" } else { "guestToolsNotRunning" };
    [
        ("toolsStatus", Value::constant("VirtualMachineToolsStatus", status)),
        ("toolsVersionStatus2", version.into()),
        ("toolsRunningStatus", running.into()),
    ]
}

fn guest(vm: &VmView) -> Object {
    let family = if vm.guest_id.starts_with("windows") { "windowsGuest" } else { "linuxGuest" };
    let known = |text: &'static str| vm.tools_running.then_some(text);
    let [status, version, running] = tools(vm);
    Object::new("GuestInfo")
        .with(status.0, status.1)
        .with(version.0, version.1)
        .with(running.0, running.1)
        .maybe("toolsVersion", known("12352"))
        .maybe("guestId", vm.tools_running.then_some(vm.guest_id.as_str()))
        .maybe("guestFamily", known(family))
        .maybe("guestFullName", vm.tools_running.then(|| guest_name(&vm.guest_id)))
        .maybe("hostName", vm.host_name.as_deref())
        .maybe("ipAddress", vm.ip.as_deref())
        .unset(&["net", "ipStack", "disk", "screen"])
        .with("guestState", if vm.power == Power::PoweredOn { "running" } else { "notRunning" })
        .with("guestOperationsReady", false)
        .with("interactiveGuestOperationsReady", false)
}

fn snapshot_info(vm: &VmView) -> Option<Value> {
    let current = vm.snapshots.last()?;
    // The tree is a line, so the root holds all others, one in the other.
    let mut tree = None;
    for snapshot in vm.snapshots.iter().rev() {
        let children = Value::List("VirtualMachineSnapshotTree", tree.into_iter().collect());
        let node = Object::new("VirtualMachineSnapshotTree")
            .with("snapshot", snapshot_ref(snapshot))
            .with("vm", vm_ref(vm))
            .with("name", snapshot.name.as_str())
            .with("description", snapshot.description.as_str())
            .with("id", i32::try_from(snapshot.number).unwrap_or(i32::MAX))
            .with("createTime", Value::time(snapshot.created))
            .with("state", power(Power::PoweredOff))
            .with("quiesced", snapshot.quiesced)
            .with("childSnapshotList", children)
            .with("replaySupported", false);
        tree = Some(Value::Object(node));
    }
    let info = Object::new("VirtualMachineSnapshotInfo").with("currentSnapshot", snapshot_ref(current));
    Some(info.with("rootSnapshotList", Value::List("VirtualMachineSnapshotTree", tree.into_iter().collect())).into())
}

fn summary(inventory: &Inventory<'_>, vm: &VmView) -> Object {
    let used = vm_files::listing(inventory, vm).iter().fold(0, |sum: u64, file| sum.saturating_add(file.len));
    let capacity = vm.disks.iter().fold(0, |sum: u64, disk| sum.saturating_add(disk.capacity));
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let [status, version, running] = tools(vm);
    let guest = Object::new("VirtualMachineGuestSummary")
        .maybe("guestId", vm.tools_running.then_some(vm.guest_id.as_str()))
        .maybe("guestFullName", vm.tools_running.then(|| guest_name(&vm.guest_id)))
        .with(status.0, status.1)
        .with(version.0, version.1)
        .with(running.0, running.1)
        .maybe("hostName", vm.host_name.as_deref())
        .maybe("ipAddress", vm.ip.as_deref());
    let config = Object::new("VirtualMachineConfigSummary")
        .with("name", inventory::escaped(&vm.name))
        .with("template", false)
        .with("vmPathName", vm.vmx.to_string())
        .with("memorySizeMB", i32::try_from(vm.memory_mib).unwrap_or(i32::MAX))
        .with("numCpu", i32::try_from(vm.cpus).unwrap_or(i32::MAX))
        .with("numEthernetCards", 1)
        .with("numVirtualDisks", count(vm.disks.len()))
        .with("uuid", vm.uuid.to_string())
        .with("instanceUuid", vm.instance_uuid.to_string())
        .with("guestId", vm.guest_id.as_str())
        .with("guestFullName", guest_name(&vm.guest_id))
        .with("annotation", "")
        .with("hwVersion", HARDWARE);
    let storage = Object::new("VirtualMachineStorageSummary")
        .with("committed", Value::long(used))
        .with("uncommitted", Value::long(capacity.saturating_sub(used)))
        .with("unshared", Value::long(used))
        .with("timestamp", Value::time(jiff::Timestamp::now()));
    let stats = Object::new("VirtualMachineQuickStats");
    Object::new("VirtualMachineSummary")
        .with("vm", vm_ref(vm))
        .with("runtime", runtime(vm))
        .with("guest", guest)
        .with("config", config)
        .with("storage", storage)
        .with("quickStats", stats.with("guestHeartbeatStatus", Value::constant("ManagedEntityStatus", heartbeat(vm))))
        .with("overallStatus", Value::constant("ManagedEntityStatus", "green"))
}

fn capability() -> Value {
    Object::new("VirtualMachineCapability")
        .flags(&["snapshotOperationsSupported", "multipleSnapshotsSupported", "snapshotConfigSupported"], true)
        .with("poweredOffSnapshotsSupported", true)
        .flags(&["memorySnapshotsSupported", "revertToSnapshotSupported"], false)
        .with("quiescedSnapshotsSupported", true)
        .flags(&["disableSnapshotsSupported", "lockSnapshotsSupported", "consolePreferencesSupported"], false)
        .flags(&["cpuFeatureMaskSupported", "s1AcpiManagementSupported", "settingScreenResolutionSupported"], false)
        .flags(&["toolsAutoUpdateSupported", "vmNpivWwnSupported", "npivWwnOnNonRdmVmSupported"], false)
        .flags(&["vmNpivWwnDisableSupported", "vmNpivWwnUpdateSupported", "swapPlacementSupported"], false)
        .flags(&["toolsSyncTimeSupported", "virtualMmuUsageSupported", "diskSharesSupported"], false)
        .flags(&["bootOptionsSupported", "bootRetryOptionsSupported", "settingVideoRamSizeSupported"], false)
        .flags(&["settingDisplayTopologySupported", "recordReplaySupported"], false)
        .flags(&["changeTrackingSupported", "multipleCoresPerSocketSupported"], true)
        .flags(&["hostBasedReplicationSupported", "guestAutoLockSupported", "memoryReservationLockSupported"], false)
        .flags(&["featureRequirementSupported", "poweredOnMonitorTypeChangeSupported"], false)
        .flags(&["seSparseDiskSupported", "nestedHVSupported", "vPMCSupported"], false)
        .with("secureBootSupported", true)
        .into()
}
