//! Lists of what there is.

use crate::client::Client;
use crate::datastore_path::DatastorePath;
use crate::error::Error;
use crate::names::unescape;
use crate::places::{datacenter_of, path_of};
use crate::properties::{Object, Wanted};
use crate::xml::Moref;

/// Whether a VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerState {
    /// `poweredOn`.
    On,
    /// `poweredOff`.
    Off,
    /// `suspended`.
    Suspended,
}

impl PowerState {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "poweredOn" => Some(Self::On),
            "poweredOff" => Some(Self::Off),
            "suspended" => Some(Self::Suspended),
            _ => None,
        }
    }
}

/// One line of the list of VMs. What the user may not read, or a broken VM does not have, is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSummary {
    /// The VM.
    pub moref: Moref,
    /// Its name, unescaped.
    pub name: Option<String>,
    /// The BIOS uuid. Copies of a VM may share it.
    pub uuid: Option<String>,
    /// The server's own uuid of the VM. From 4.0.
    pub instance_uuid: Option<String>,
    /// Whether it is a template.
    pub template: Option<bool>,
    /// Whether it runs.
    pub power_state: Option<PowerState>,
    /// `connected`, or why the host cannot say more: `orphaned`, `inaccessible`...
    pub connection_state: Option<String>,
    /// As the guest's tools reported it last.
    pub ip_address: Option<String>,
    /// As the guest's tools reported it last.
    pub host_name: Option<String>,
    /// The `.vmx` file.
    pub vmx_path: Option<DatastorePath>,
}

/// A datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatastoreSummary {
    /// The datastore.
    pub moref: Moref,
    /// Its name, unescaped.
    pub name: String,
    /// `VMFS`, `NFS`, `vsan`...
    pub kind: Option<String>,
    /// Size in bytes.
    pub capacity: Option<u64>,
    /// Free bytes.
    pub free: Option<u64>,
    /// Whether any host reaches it.
    pub accessible: Option<bool>,
    /// Inventory path of the datacenter, as [`Client::datastore_file`] takes it.
    pub datacenter: Option<String>,
}

impl Client {
    /// All VMs and templates that the user can see, in a handful of round trips.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn virtual_machines(&self) -> Result<Vec<VmSummary>, Error> {
        let mut paths = vec![
            "name",
            "config.uuid",
            "config.template",
            "config.files.vmPathName",
            "runtime.powerState",
            "runtime.connectionState",
            "guest.ipAddress",
            "guest.hostName",
        ];
        if self.at_least(4, 0) {
            paths.push("config.instanceUuid");
        }
        let found = self.properties_of_all(&[Wanted { kind: "VirtualMachine", paths }]).await?;
        Ok(found.into_iter().map(vm_summary).collect())
    }

    /// All datastores that the user can see.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn datastores(&self) -> Result<Vec<DatastoreSummary>, Error> {
        let paths =
            vec!["name", "parent", "summary.type", "summary.capacity", "summary.freeSpace", "summary.accessible"];
        let found = self.properties_of_all(&[Wanted { kind: "Datastore", paths }]).await?;
        let parents: Vec<Moref> = found.iter().filter_map(|o| o.reference("parent")).collect();
        let chains = self.chains(&parents).await?;
        let summary = |object: Object| {
            let parent = object.reference("parent");
            let at = parent.and_then(|parent| parents.iter().position(|p| *p == parent));
            let chain = at.and_then(|at| chains.get(at)).and_then(|chain| datacenter_of(chain));
            DatastoreSummary {
                name: unescape(object.text("name").unwrap_or_default()),
                kind: object.string("summary.type"),
                capacity: object.parsed("summary.capacity"),
                free: object.parsed("summary.freeSpace"),
                accessible: object.parsed("summary.accessible"),
                datacenter: chain.map(path_of),
                moref: object.moref,
            }
        };
        Ok(found.into_iter().map(summary).collect())
    }
}

fn vm_summary(object: Object) -> VmSummary {
    VmSummary {
        name: object.text("name").map(unescape),
        uuid: object.string("config.uuid"),
        instance_uuid: object.string("config.instanceUuid"),
        template: object.parsed("config.template"),
        power_state: object.text("runtime.powerState").and_then(PowerState::parse),
        connection_state: object.string("runtime.connectionState"),
        ip_address: object.string("guest.ipAddress"),
        host_name: object.string("guest.hostName"),
        vmx_path: object.parsed("config.files.vmPathName"),
        moref: object.moref,
    }
}
