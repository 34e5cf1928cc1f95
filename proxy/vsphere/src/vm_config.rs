//! All that a backup wants to know about one VM.

use crate::client::Client;
use crate::datastore_path::DatastorePath;
use crate::disks::{DiskConfig, disks_in};
use crate::error::Error;
use crate::inventory::PowerState;
use crate::names::unescape;
use crate::places::{Node, datacenter_of, path_of};
use crate::properties::Object;
use crate::xml::{Element, Moref, VIM25, XSI};

/// A VM's configuration at one moment.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// The VM.
    pub moref: Moref,
    /// Its name, unescaped.
    pub name: String,
    /// The BIOS uuid.
    pub uuid: Option<String>,
    /// The server's own uuid of the VM. From 4.0.
    pub instance_uuid: Option<String>,
    /// The virtual hardware, such as `vmx-13`.
    pub version: Option<String>,
    /// `bios` or `efi`. From 5.0.
    pub firmware: Option<String>,
    /// The guest system, such as `windows9Server64Guest`.
    pub guest_id: Option<String>,
    /// Whether it is a template: those cannot be snapshot.
    pub template: bool,
    /// Changes whenever the configuration does.
    pub change_version: Option<String>,
    /// The `.vmx` file.
    pub vmx_path: DatastorePath,
    /// Whether changed blocks are tracked. From 4.0.
    pub change_tracking: bool,
    /// Whether it runs.
    pub power_state: Option<PowerState>,
    /// `connected`, or why the host cannot say more.
    pub connection_state: Option<String>,
    /// Whether the guest's tools run. Without them quiescing is silently left out.
    pub tools_running: bool,
    /// Inventory path of the datacenter, as [`Client::datastore_file`] takes it.
    pub datacenter: Option<String>,
    /// Inventory path of the folder (escaped names, no leading slash). Absent inside a vApp.
    pub folder: Option<String>,
    /// Inventory path of the resource pool. Absent for a template.
    pub resource_pool: Option<String>,
    /// The host's name.
    pub host: Option<String>,
    /// The virtual disks.
    pub disks: Vec<DiskConfig>,
    /// The VM's files with their kinds.
    pub files: Vec<VmFile>,
    /// The `config` property as an XML document of its own, types and all.
    pub xml: String,
}

/// One of a VM's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmFile {
    /// `config` (the vmx), `nvram`, `diskDescriptor`, `diskExtent`, `snapshotList`, `log`...
    pub kind: String,
    /// Where it is.
    pub path: DatastorePath,
    /// Size in bytes, where the server keeps it.
    pub size: Option<u64>,
}

impl Client {
    /// Reads the configuration of `vm` and where it stands.
    ///
    /// # Errors
    /// `NoPermission` if the user may not read it: such a VM is not one without disks.
    pub async fn vm_config(&self, vm: &Moref) -> Result<VmConfig, Error> {
        let mut paths = vec![
            "name",
            "config",
            "parent",
            "resourcePool",
            "runtime.host",
            "runtime.powerState",
            "runtime.connectionState",
        ];
        match self.at_least(4, 0) {
            true => paths.extend(["guest.toolsRunningStatus", "layoutEx.file"]),
            false => paths.push("guest.toolsStatus"),
        }
        let object = self.properties_of(vm, "VirtualMachine", &paths).await?;
        let config = object.required("config")?;
        let place = self.place_of(&object).await?;
        let text = |name| config.text_of(name).map(str::to_owned);
        Ok(VmConfig {
            moref: vm.clone(),
            name: unescape(object.text("name").or(config.text_of("name")).unwrap_or_default()),
            uuid: text("uuid"),
            instance_uuid: text("instanceUuid"),
            version: text("version"),
            firmware: text("firmware"),
            guest_id: text("guestId"),
            template: config.text_of("template") == Some("true"),
            change_version: text("changeVersion"),
            vmx_path: vmx_path(vm, config)?,
            change_tracking: config.text_of("changeTrackingEnabled") == Some("true"),
            power_state: object.text("runtime.powerState").and_then(PowerState::parse),
            connection_state: object.string("runtime.connectionState"),
            tools_running: tools_running(&object),
            datacenter: place.datacenter,
            folder: place.folder,
            resource_pool: place.resource_pool,
            host: place.host,
            disks: disks_in(config)?,
            files: files(&object, config),
            xml: document(config),
        })
    }

    /// Whether disks of `vm` wait for consolidation, as after a snapshot removal that could not finish. Always false below
    /// 5.0, where the server does not know.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn consolidation_needed(&self, vm: &Moref) -> Result<bool, Error> {
        if !self.at_least(5, 0) {
            return Ok(false);
        }
        let object = self.properties_of(vm, "VirtualMachine", &["runtime.consolidationNeeded"]).await?;
        Ok(object.parsed("runtime.consolidationNeeded").unwrap_or(false))
    }

    async fn place_of(&self, vm: &Object) -> Result<PlaceNames, Error> {
        let above = ["parent", "resourcePool", "runtime.host"].map(|path| vm.reference(path));
        let known: Vec<Moref> = above.iter().flatten().cloned().collect();
        let mut chains = self.chains(&known).await?.into_iter();
        let [folder, pool, host] = above.map(|moref| moref.and_then(|_| chains.next()).unwrap_or_default());
        let path = |chain: &[Node]| Some(path_of(chain)).filter(|path| !path.is_empty());
        Ok(PlaceNames {
            datacenter: datacenter_of(&folder)
                .or_else(|| datacenter_of(&pool))
                .or_else(|| datacenter_of(&host))
                .and_then(path),
            folder: path(&folder),
            resource_pool: path(&pool),
            host: host.last().map(|node| unescape(&node.name)),
        })
    }
}

struct PlaceNames {
    datacenter: Option<String>,
    folder: Option<String>,
    resource_pool: Option<String>,
    host: Option<String>,
}

fn vmx_path(vm: &Moref, config: &Element) -> Result<DatastorePath, Error> {
    let text = config.child("files").and_then(|files| files.text_of("vmPathName")).unwrap_or_default();
    text.parse().map_err(|_| Error::protocol(format!("config.files.vmPathName of {vm}"), "a datastore path", text))
}

fn tools_running(vm: &Object) -> bool {
    vm.text("guest.toolsRunningStatus") == Some("guestToolsRunning")
        || matches!(vm.text("guest.toolsStatus"), Some("toolsOk" | "toolsOld"))
}

/// From `layoutEx`, else the vmx alone; the nvram, which restores of EFI machines need, from the vmx's own settings if the
/// list has none.
fn files(vm: &Object, config: &Element) -> Vec<VmFile> {
    let listed = vm.value("layoutEx.file").map(|v| v.children.as_slice()).unwrap_or_default();
    let mut files: Vec<VmFile> = listed
        .iter()
        .filter_map(|file| {
            Some(VmFile {
                kind: file.text_of("type").unwrap_or_default().to_owned(),
                path: file.text_of("name")?.parse().ok()?,
                size: file.text_of("size").and_then(|size| size.parse().ok()),
            })
        })
        .collect();
    let Ok(vmx) = vmx_path(&vm.moref, config) else { return files };
    let nvram = config
        .children_named("extraConfig")
        .find(|option| option.text_of("key") == Some("nvram"))
        .and_then(|option| option.text_of("value"))
        .map(|name| vmx.beside(name));
    for (kind, path) in [("config", Some(vmx)), ("nvram", nvram)] {
        if let Some(path) = path.filter(|_| !files.iter().any(|file| file.kind == kind)) {
            files.push(VmFile { kind: kind.to_owned(), path, size: None });
        }
    }
    files
}

/// `config` as a document that declares its namespaces.
fn document(config: &Element) -> String {
    let mut root = config.clone();
    root.name = "config".to_owned();
    name_schema_types(&mut root);
    let mut out = String::new();
    root.write_to(&mut out);
    let declared = format!(r#"<config xmlns="{VIM25}" xmlns:xsi="{XSI}" xmlns:xsd="http://www.w3.org/2001/XMLSchema""#);
    out.replacen("<config", &declared, 1)
}

/// Types of XML Schema begin with a lower case letter, all of vSphere's with an upper case one; reading dropped the prefix.
fn name_schema_types(element: &mut Element) {
    if let Some(kind) = &mut element.xsi_type
        && kind.starts_with(|c: char| c.is_ascii_lowercase())
    {
        kind.insert_str(0, "xsd:");
    }
    element.children.iter_mut().for_each(name_schema_types);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_saved_document_keeps_types_and_can_be_read_again() {
        let xml = format!(
            r#"<val xmlns:i="{XSI}" i:type="VirtualMachineConfigInfo"><name>a &amp; b</name><extraConfig i:type="OptionValue">
            <key>k</key><value i:type="xsd:string">v</value></extraConfig></val>"#
        );
        let config = Element::parse(&xml).unwrap();
        let saved = document(&config);
        assert!(saved.contains(r#"xsi:type="xsd:string""#) && saved.starts_with("<config xmlns="), "{saved}");
        let mut again = Element::parse(&saved).unwrap();
        again.name = "val".to_owned();
        assert_eq!(again, config);
    }
}
