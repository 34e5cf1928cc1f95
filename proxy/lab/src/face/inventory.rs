//! The managed objects that are no VM, and how all of them hang together: one datacenter, one host, one pool, the datastores.

use vsphere::xml::Moref;

use super::Service;
use super::value::{NoSuchField, Object, Value};
use super::{soap, vm_props};
use crate::world::{DatastoreView, SnapshotView, VmView};

/// Id of the folder above all.
pub(super) const ROOT: &str = "group-d1";
pub(super) const DATACENTER: &str = "datacenter-2";
pub(super) const VM_FOLDER: &str = "group-v3";
pub(super) const HOST_FOLDER: &str = "group-h4";
pub(super) const DATASTORE_FOLDER: &str = "group-s5";
pub(super) const NETWORK_FOLDER: &str = "group-n6";
pub(super) const NETWORK: &str = "network-7";
pub(super) const COMPUTE: &str = "domain-s8";
pub(super) const HOST: &str = "host-9";
pub(super) const POOL: &str = "resgroup-10";
/// Name of the datacenter: its inventory path, and the `dcPath` of datastore files.
pub(super) const DATACENTER_NAME: &str = "Lab-DC";
/// Name of the host.
pub(super) const HOST_NAME: &str = "esx01.example.com";

/// What a property turned out to be: its value, `None` if it has none.
pub(super) type Property = Result<Option<Value>, NoSuchField>;

/// Properties that every managed entity has and that are never set here.
const UNSET_OF_ENTITIES: [&str; 11] = [
    "value",
    "availableField",
    "customValue",
    "configIssue",
    "effectiveRole",
    "permission",
    "disabledMethod",
    "declaredAlarmState",
    "triggeredAlarmState",
    "alarmActionsEnabled",
    "tag",
];

/// A container view.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) container: Moref,
    pub(super) types: Vec<String>,
    pub(super) recursive: bool,
}

/// The whole inventory at one moment.
pub(super) struct Inventory<'a> {
    pub(super) service: &'a Service,
    cookie: &'a str,
    pub(super) vms: Vec<VmView>,
    pub(super) stores: Vec<DatastoreView>,
}

/// Whether objects of type `kind` are also of type `wanted`.
pub(super) fn is_a(kind: &str, wanted: &str) -> bool {
    let entity = matches!(
        kind,
        "Folder"
            | "Datacenter"
            | "ComputeResource"
            | "HostSystem"
            | "ResourcePool"
            | "Datastore"
            | "Network"
            | "VirtualMachine"
    );
    match wanted {
        "ManagedObject" => true,
        "ManagedEntity" => entity,
        "ExtensibleManagedObject" => entity || matches!(kind, "Task" | "VirtualMachineSnapshot"),
        "View" | "ManagedObjectView" => kind == "ContainerView",
        _ => kind == wanted,
    }
}

/// A name as the inventory stores it (vsphere.md section 3.3).
pub(super) fn escaped(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c")
}

/// The reference to a VM.
pub(super) fn vm_ref(vm: &VmView) -> Moref {
    Moref::new("VirtualMachine", &vm.id.0)
}

/// The reference to a snapshot.
pub(super) fn snapshot_ref(snapshot: &SnapshotView) -> Moref {
    Moref::new("VirtualMachineSnapshot", &snapshot.id.0)
}

fn folder(id: &str) -> Moref {
    Moref::new("Folder", id)
}

pub(super) fn green() -> Value {
    Value::constant("ManagedEntityStatus", "green")
}

impl<'a> Inventory<'a> {
    /// The inventory as the session with this cookie sees it.
    pub(super) fn load(service: &'a Service, cookie: &'a str) -> Self {
        Self { service, cookie, vms: service.world.vms(), stores: service.world.datastores() }
    }

    pub(super) fn vm(&self, to: &Moref) -> Option<&VmView> {
        (to.kind == "VirtualMachine").then(|| self.vms.iter().find(|vm| vm.id.0 == to.value))?
    }

    pub(super) fn snapshot(&self, to: &Moref) -> Option<(&VmView, &SnapshotView)> {
        let all = self.vms.iter().flat_map(|vm| vm.snapshots.iter().map(move |snapshot| (vm, snapshot)));
        (to.kind == "VirtualMachineSnapshot").then_some(())?;
        all.into_iter().find(|(_, snapshot)| snapshot.id.0 == to.value)
    }

    fn store(&self, to: &Moref) -> Option<&DatastoreView> {
        (to.kind == "Datastore").then(|| self.stores.iter().find(|store| store.id == to.value))?
    }

    /// The reference to the datastore of that name.
    pub(super) fn store_ref(&self, name: &str) -> Option<Moref> {
        self.stores.iter().find(|store| store.name == name).map(|store| Moref::new("Datastore", &store.id))
    }

    pub(super) fn store_refs(&self) -> Vec<Moref> {
        self.stores.iter().map(|store| Moref::new("Datastore", &store.id)).collect()
    }

    pub(super) fn vm_refs(&self) -> Vec<Moref> {
        self.vms.iter().map(vm_ref).collect()
    }

    fn view(&self, to: &Moref) -> Option<View> {
        self.service.sessions.with(self.cookie, |session| session.views.get(&to.value).cloned())?
    }

    /// Whether there is such an object.
    pub(super) fn exists(&self, to: &Moref) -> bool {
        match (to.kind.as_str(), to.value.as_str()) {
            ("Folder", ROOT | VM_FOLDER | HOST_FOLDER | DATASTORE_FOLDER | NETWORK_FOLDER) => true,
            ("Datacenter", DATACENTER) | ("ComputeResource", COMPUTE) | ("HostSystem", HOST) => true,
            ("ResourcePool", POOL) | ("Network", NETWORK) => true,
            ("Datastore", _) => self.store(to).is_some(),
            ("VirtualMachine", _) => self.vm(to).is_some(),
            ("VirtualMachineSnapshot", _) => self.snapshot(to).is_some(),
            ("Task", id) => self.service.tasks.info(id).is_some(),
            ("ContainerView", _) => self.view(to).is_some(),
            ("ServiceInstance" | "SessionManager" | "SearchIndex" | "FileManager" | "ViewManager", value) => {
                to.kind == value
            }
            ("PropertyCollector", value) => value == super::methods::COLLECTOR,
            _ => false,
        }
    }

    /// What stands directly below an entity.
    pub(super) fn children(&self, of: &Moref) -> Vec<Moref> {
        match of.value.as_str() {
            ROOT => vec![Moref::new("Datacenter", DATACENTER)],
            DATACENTER => [VM_FOLDER, HOST_FOLDER, DATASTORE_FOLDER, NETWORK_FOLDER].map(folder).to_vec(),
            VM_FOLDER => self.vm_refs(),
            HOST_FOLDER => vec![Moref::new("ComputeResource", COMPUTE)],
            DATASTORE_FOLDER => self.store_refs(),
            NETWORK_FOLDER => vec![Moref::new("Network", NETWORK)],
            COMPUTE => vec![Moref::new("HostSystem", HOST), Moref::new("ResourcePool", POOL)],
            _ => Vec::new(),
        }
    }

    /// What a container view shows.
    fn viewed(&self, view: &View) -> Vec<Moref> {
        let mut waiting = self.children(&view.container);
        let mut found = Vec::new();
        waiting.reverse();
        while let Some(object) = waiting.pop() {
            if view.recursive {
                waiting.extend(self.children(&object).into_iter().rev());
            }
            if view.types.is_empty() || view.types.iter().any(|wanted| is_a(&object.kind, wanted)) {
                found.push(object);
            }
        }
        found
    }

    /// The names of all properties of `to`'s type, for `all`. The views are made of what is asked, so only few types need it.
    pub(super) fn property_names(to: &Moref) -> &'static [&'static str] {
        match to.kind.as_str() {
            "VirtualMachine" => &vm_props::NAMES,
            "VirtualMachineSnapshot" => &["config", "childSnapshot", "vm"],
            "Task" => &["info"],
            "ContainerView" => &["container", "recursive", "type", "view"],
            "ServiceInstance" => &["capability", "content", "serverClock"],
            "Folder" => &["childEntity", "childType", "configStatus", "name", "overallStatus", "parent"],
            "Datastore" => {
                &["capability", "configStatus", "host", "info", "name", "overallStatus", "parent", "summary", "vm"]
            }
            "Datacenter" => &["datastore", "datastoreFolder", "hostFolder", "name", "network", "parent", "vmFolder"],
            "HostSystem" => &["datastore", "name", "network", "parent", "runtime", "summary", "vm"],
            "ComputeResource" => &["datastore", "host", "name", "network", "parent", "resourcePool", "summary"],
            "ResourcePool" => &["config", "name", "owner", "parent", "resourcePool", "runtime", "summary", "vm"],
            "Network" => &["host", "name", "parent", "summary", "vm"],
            _ => &[],
        }
    }

    /// The value at `path` of an object that exists.
    pub(super) fn property(&self, of: &Moref, path: &str) -> Property {
        let mut parts = path.split('.');
        let Some(value) = self.top(of, parts.next().unwrap_or_default())? else { return Ok(None) };
        Ok(value.select(parts)?.cloned())
    }

    fn top(&self, of: &Moref, name: &str) -> Property {
        match of.kind.as_str() {
            "VirtualMachine" => self.vm(of).map_or(Ok(None), |vm| vm_props::property(self, vm, name)),
            "VirtualMachineSnapshot" => {
                self.snapshot(of).map_or(Ok(None), |(vm, snapshot)| vm_props::of_snapshot(self, vm, snapshot, name))
            }
            "Folder" => self.folder_property(of, name),
            "Datacenter" => self.datacenter_property(name),
            "ComputeResource" => self.compute_property(name),
            "HostSystem" => self.host_property(name),
            "ResourcePool" => self.pool_property(name),
            "Network" => self.network_property(name),
            "Datastore" => self.store(of).map_or(Ok(None), |store| self.store_property(store, name)),
            "Task" if name == "info" => Ok(self.service.tasks.info(&of.value)),
            "ContainerView" => self.view(of).map_or(Ok(None), |view| self.view_property(&view, name)),
            "ServiceInstance" => match name {
                "content" => Ok(Some(super::methods::service_content(self.service))),
                "serverClock" => Ok(Some(Value::time(jiff::Timestamp::now()))),
                "capability" => Ok(Some(capability())),
                _ => Err(NoSuchField),
            },
            "SessionManager" => match name {
                "sessionList" => Ok(Some(Value::List("UserSession", self.service.sessions.values()))),
                "currentSession" => Ok(self.service.sessions.with(self.cookie, |session| session.value())),
                "defaultLocale" => Ok(Some("en".into())),
                _ => Err(NoSuchField),
            },
            _ => Err(NoSuchField),
        }
    }

    fn view_property(&self, view: &View, name: &str) -> Property {
        match name {
            "view" => Ok(Some(Value::refs(&self.viewed(view)))),
            "container" => Ok(Some((&view.container).into())),
            "type" => Ok(Some(Value::List("string", view.types.iter().map(|t| t.as_str().into()).collect()))),
            "recursive" => Ok(Some(view.recursive.into())),
            _ => Err(NoSuchField),
        }
    }
}

fn capability() -> Value {
    Object::new("Capability")
        .with("provisioningSupported", true)
        .with("multiHostSupported", true)
        .with("userShellAccessSupported", false)
        .into()
}

/// The properties that all managed entities share.
pub(super) fn entity(own: &str, parent: Option<Moref>, name: &str) -> Property {
    match name {
        "name" => Ok(Some(escaped(own).into())),
        "parent" => Ok(parent.map(Value::Ref)),
        "overallStatus" | "configStatus" => Ok(Some(green())),
        "recentTask" => Ok(Some(Value::refs(&[]))), // only those of VMs are kept apart
        _ if UNSET_OF_ENTITIES.contains(&name) => Ok(None),
        _ => Err(NoSuchField),
    }
}

/// The view that CreateContainerView asks for.
pub(super) fn view_of(call: &soap::Call) -> Result<View, soap::Fault> {
    let container = call.arguments.child("container").and_then(vsphere::xml::Element::moref);
    let types = call.arguments.children_named("type").map(|t| soap::local(&t.text).to_owned()).collect();
    Ok(View {
        container: container.ok_or_else(|| soap::Fault::invalid_argument("container"))?,
        types,
        recursive: call.flag("recursive"),
    })
}
