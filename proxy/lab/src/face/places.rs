//! The properties of the objects that are no VM: folders, the datacenter, the host, the pool, the network, the datastores.

use vsphere::xml::Moref;

use super::inventory::{
    COMPUTE, DATACENTER, DATACENTER_NAME, DATASTORE_FOLDER, HOST, HOST_FOLDER, HOST_NAME, Inventory, NETWORK,
    NETWORK_FOLDER, POOL, Property, ROOT, VM_FOLDER, entity, green, vm_ref,
};
use super::value::{Object, Value};
use crate::world::{DatastoreView, VmView};

fn folder(id: &str) -> Moref {
    Moref::new("Folder", id)
}

impl Inventory<'_> {
    pub(super) fn folder_property(&self, of: &Moref, name: &str) -> Property {
        let datacenter = Some(Moref::new("Datacenter", DATACENTER));
        let (own, parent, holds): (_, _, &[&str]) = match of.value.as_str() {
            VM_FOLDER => ("vm", datacenter, &["Folder", "VirtualMachine", "VirtualApp"]),
            HOST_FOLDER => ("host", datacenter, &["Folder", "ComputeResource"]),
            DATASTORE_FOLDER => ("datastore", datacenter, &["Folder", "Datastore", "StoragePod"]),
            NETWORK_FOLDER => ("network", datacenter, &["Folder", "Network", "DistributedVirtualSwitch"]),
            _ => ("Datacenters", None, &["Folder", "Datacenter"]),
        };
        match name {
            "childEntity" => Ok(Some(Value::refs(&self.children(of)))),
            "childType" => Ok(Some(Value::List("string", holds.iter().map(|kind| (*kind).into()).collect()))),
            "namespace" | "externallyManagedFolderInfo" => Ok(None),
            _ => entity(own, parent, name),
        }
    }

    pub(super) fn datacenter_property(&self, name: &str) -> Property {
        Ok(Some(match name {
            "vmFolder" => folder(VM_FOLDER).into(),
            "hostFolder" => folder(HOST_FOLDER).into(),
            "datastoreFolder" => folder(DATASTORE_FOLDER).into(),
            "networkFolder" => folder(NETWORK_FOLDER).into(),
            "datastore" => Value::refs(&self.store_refs()),
            "network" => Value::refs(&[Moref::new("Network", NETWORK)]),
            "configuration" => Object::new("DatacenterConfigInfo").unset(&["defaultHardwareVersionKey"]).into(),
            _ => return entity(DATACENTER_NAME, Some(folder(ROOT)), name),
        }))
    }

    pub(super) fn compute_property(&self, name: &str) -> Property {
        Ok(Some(match name {
            "resourcePool" => Moref::new("ResourcePool", POOL).into(),
            "host" => Value::refs(&[Moref::new("HostSystem", HOST)]),
            "datastore" => Value::refs(&self.store_refs()),
            "network" => Value::refs(&[Moref::new("Network", NETWORK)]),
            "summary" => Object::new("ComputeResourceSummary")
                .with("totalCpu", 16_000)
                .with("totalMemory", Value::long(64 << 30))
                .with("numCpuCores", Value::Leaf("xsd:short", "8".to_owned()))
                .with("numCpuThreads", Value::Leaf("xsd:short", "16".to_owned()))
                .with("effectiveCpu", 16_000)
                .with("effectiveMemory", Value::long(64 << 10))
                .with("numHosts", 1)
                .with("numEffectiveHosts", 1)
                .with("overallStatus", green())
                .into(),
            "environmentBrowser" => Moref::new("EnvironmentBrowser", "envbrowser-8").into(),
            _ => return entity(HOST_NAME, Some(folder(HOST_FOLDER)), name),
        }))
    }

    pub(super) fn host_property(&self, name: &str) -> Property {
        let connected = Value::constant("HostSystemConnectionState", "connected");
        let runtime = Object::new("HostRuntimeInfo")
            .with("connectionState", connected)
            .with("powerState", Value::constant("HostSystemPowerState", "poweredOn"))
            .with("inMaintenanceMode", false)
            .unset(&["bootTime", "cryptoState"]);
        Ok(Some(match name {
            "runtime" => runtime.into(),
            "summary" => Object::new("HostListSummary")
                .with("host", Moref::new("HostSystem", HOST))
                .with("runtime", runtime)
                .with("config", self.host_summary())
                .with("quickStats", Object::new("HostListSummaryQuickStats"))
                .with("overallStatus", green())
                .with("rebootRequired", false)
                .into(),
            "vm" => Value::refs(&self.vm_refs()),
            "datastore" => Value::refs(&self.store_refs()),
            "network" => Value::refs(&[Moref::new("Network", NETWORK)]),
            "config" | "hardware" | "capability" | "systemResources" => return Ok(None),
            _ => return entity(HOST_NAME, Some(Moref::new("ComputeResource", COMPUTE)), name),
        }))
    }

    pub(super) fn host_summary(&self) -> Object {
        Object::new("HostConfigSummary")
            .with("name", HOST_NAME)
            .with("port", 443)
            .with("sslThumbprint", self.service.certificates.kept().sha1.as_str())
            .with("vmotionEnabled", false)
            .with("faultToleranceEnabled", false)
    }

    pub(super) fn pool_property(&self, name: &str) -> Property {
        let usage = || {
            Object::new("ResourcePoolResourceUsage")
                .with("reservationUsed", Value::long(0))
                .with("reservationUsedForVm", Value::long(0))
                .with("unreservedForPool", Value::long(1 << 30))
                .with("unreservedForVm", Value::long(1 << 30))
                .with("overallUsage", Value::long(0))
                .with("maxUsage", Value::long(1 << 30))
        };
        let runtime = || {
            let runtime = Object::new("ResourcePoolRuntimeInfo").with("memory", usage()).with("cpu", usage());
            runtime.with("overallStatus", green())
        };
        let allocation = || Object::new("ResourceAllocationInfo").with("reservation", Value::long(0));
        let config = || {
            let config = Object::new("ResourceConfigSpec").with("cpuAllocation", allocation());
            config.with("memoryAllocation", allocation())
        };
        Ok(Some(match name {
            "summary" => Object::new("ResourcePoolSummary")
                .with("name", "Resources")
                .with("config", config())
                .with("runtime", runtime())
                .into(),
            "runtime" => runtime().into(),
            "config" => config().into(),
            "owner" => Moref::new("ComputeResource", COMPUTE).into(),
            "resourcePool" => Value::refs(&[]),
            "vm" => Value::refs(&self.vm_refs()),
            "namespace" | "childConfiguration" => return Ok(None),
            _ => return entity("Resources", Some(Moref::new("ComputeResource", COMPUTE)), name),
        }))
    }

    pub(super) fn network_property(&self, name: &str) -> Property {
        Ok(Some(match name {
            "summary" => Object::new("NetworkSummary")
                .with("network", Moref::new("Network", NETWORK))
                .with("name", "VM Network")
                .with("accessible", true)
                .with("ipPoolName", "")
                .into(),
            "host" => Value::refs(&[Moref::new("HostSystem", HOST)]),
            "vm" => Value::refs(&self.vm_refs()),
            _ => return entity("VM Network", Some(folder(NETWORK_FOLDER)), name),
        }))
    }

    pub(super) fn store_property(&self, store: &DatastoreView, name: &str) -> Property {
        let used = |vm: &&VmView| {
            vm.vmx.datastore == store.name || vm.disks.iter().any(|disk| disk.file.datastore == store.name)
        };
        Ok(Some(match name {
            "summary" => Object::new("DatastoreSummary")
                .with("datastore", Moref::new("Datastore", &store.id))
                .with("name", store.name.as_str())
                .with("url", store_url(store))
                .with("capacity", Value::long(store.capacity))
                .with("freeSpace", Value::long(store.free))
                .with("accessible", true)
                .with("multipleHostAccess", false)
                .with("type", "VMFS")
                .with("maintenanceMode", "normal")
                .into(),
            "info" => store_info(store),
            "vm" => Value::refs(&self.vms.iter().filter(used).map(vm_ref).collect::<Vec<_>>()),
            "host" => {
                let mount = Object::new("HostMountInfo")
                    .with("path", format!("/vmfs/volumes/{}", store.name))
                    .with("accessMode", "readWrite")
                    .with("mounted", true)
                    .with("accessible", true);
                let host = Object::new("DatastoreHostMount").with("key", Moref::new("HostSystem", HOST));
                Value::List("DatastoreHostMount", vec![host.with("mountInfo", mount).into()])
            }
            "capability" => Object::new("DatastoreCapability")
                .flags(&["directoryHierarchySupported", "rawDiskMappingsSupported"], true)
                .with("perFileThinProvisioningSupported", true)
                .flags(&["storageIORMSupported", "nativeSnapshotSupported"], false)
                .into(),
            "browser" => Moref::new("HostDatastoreBrowser", format!("datastoreBrowser-{}", store.id)).into(),
            "iormConfiguration" => return Ok(None),
            _ => return entity(&store.name, Some(folder(DATASTORE_FOLDER)), name),
        }))
    }
}

fn store_url(store: &DatastoreView) -> String {
    format!("ds:///vmfs/volumes/{}/", store.name)
}

fn store_info(store: &DatastoreView) -> Value {
    // VMFS 6: files of up to 64 TiB, disks of up to 62 TiB.
    let largest = || Value::long(64 << 40);
    let extent = Object::new("HostScsiDiskPartition").with("diskName", "naa.lab").with("partition", 1);
    let volume = Object::new("HostVmfsVolume")
        .with("type", "VMFS")
        .with("name", store.name.as_str())
        .with("capacity", Value::long(store.capacity))
        .with("blockSizeMb", 1)
        .with("maxBlocks", 1 << 26)
        .with("majorVersion", 6)
        .with("version", "6.82")
        .with("uuid", store.id.as_str())
        .with("extent", Value::List("HostScsiDiskPartition", vec![extent.into()]))
        .with("vmfsUpgradable", false);
    Object::subtype("VmfsDatastoreInfo")
        .with("name", store.name.as_str())
        .with("url", store_url(store))
        .with("freeSpace", Value::long(store.free))
        .with("maxFileSize", largest())
        .with("maxVirtualDiskCapacity", Value::long(62 << 40))
        .with("maxMemoryFileSize", largest())
        .with("maxPhysicalRDMFileSize", largest())
        .with("maxVirtualRDMFileSize", largest())
        .with("vmfs", volume)
        .into()
}
