//! vCenter and ESX behind the product's face.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use vsphere::{Client, ControllerKind, DatastorePath, DiskConfig, KeepAlive, Moref, PowerState, VmSummary};

use super::{
    Bus, ConfigFile, Disk, DiskAddress, FreezeRequest, Frozen, Hypervisor, Link, NativeDisk, Place, Power,
    RebuildTarget, RebuildWish, Snapshot, SnapshotId, Spec, VmConfig, VmId, VmInfo,
};
use crate::error::{Error, Family, Result};
use crate::job::RunId;

/// Sessions die after 30 idle minutes by default, and administrators lower it (vsphere.md 2.3).
const KEEP_ALIVE: Duration = Duration::from_secs(300);
/// How long a snapshot may take to be made: quiescing is limited to 15 minutes by the hosts themselves.
const CREATE_LIMIT: Duration = Duration::from_secs(20 * 60);
/// How long tasks of an earlier, dead run may go on before we give up waiting for them.
const SETTLE_LIMIT: Duration = Duration::from_secs(20 * 60);

/// A vSphere session.
pub struct VSphere {
    client: Client,
    place: String,
    create_limit: Duration,
    _keep_alive: KeepAlive,
}

impl VSphere {
    /// Wraps a logged-in client; `place` is where it is, for messages.
    #[must_use]
    pub fn new(client: Client, place: String) -> Self {
        let keep_alive = client.spawn_keep_alive(KEEP_ALIVE);
        Self { client, place, create_limit: CREATE_LIMIT, _keep_alive: keep_alive }
    }

    /// The same with another limit on making a snapshot.
    #[must_use]
    pub fn create_limit(mut self, limit: Option<Duration>) -> Self {
        self.create_limit = limit.unwrap_or(CREATE_LIMIT);
        self
    }

    fn vm(id: &VmId) -> Moref {
        Moref::new("VirtualMachine", &id.0)
    }

    fn snapshot(id: &SnapshotId) -> Moref {
        Moref::new("VirtualMachineSnapshot", &id.0)
    }

    /// The lookups that the server can answer better than our list: an address or name of a second network card.
    async fn search_index(&self, spec: &Spec) -> Result<Vec<Moref>> {
        let found = match spec {
            Spec::IpAddr(address) => {
                let mut found = self.client.find_by_ip(address).await.map_err(from_vsphere)?;
                found.extend(self.client.find_by_dns_name(address).await.map_err(from_vsphere)?);
                found
            }
            _ => Vec::new(),
        };
        Ok(found)
    }
}

/// Says in the product's words what the client met.
pub(crate) fn from_vsphere(error: vsphere::Error) -> Error {
    use vsphere::Family as Theirs;
    let family = match error.family() {
        _ if error.is_object_gone() => Family::NoVm,
        _ if error.fault_kind() == Some("FileAlreadyExists") => Family::Exists,
        Theirs::Unsupported => Family::Unsupported,
        _ => Family::Failed,
    };
    let hint = match &error {
        vsphere::Error::InvalidLogin { .. } => Some("check the user and the password; nothing was retried".to_owned()),
        vsphere::Error::Tls { .. } => Some(
            "compare the digest with the server's own; if it is right, use --thumbprint DIGEST, or --ca-file FILE"
                .to_owned(),
        ),
        vsphere::Error::Fault { kind, .. } if kind == "NoPermission" => {
            let privilege = error.fault_field("privilegeId").unwrap_or("the privilege");
            Some(format!("grant the login {privilege} on that object"))
        }
        vsphere::Error::Connect { .. } => Some("check the host name, the port and the firewall".to_owned()),
        _ => None,
    };
    let what = error.to_string();
    let wrapped = Error::new(family, what).caused_by(error);
    match hint {
        Some(hint) => wrapped.hint(hint),
        None => wrapped,
    }
}

const fn power(state: PowerState) -> Power {
    match state {
        PowerState::On => Power::On,
        PowerState::Off => Power::Off,
        PowerState::Suspended => Power::Suspended,
    }
}

fn info(summary: VmSummary) -> VmInfo {
    VmInfo {
        name: summary.name.unwrap_or_else(|| format!("({})", summary.moref.value)),
        moref: VmId(summary.moref.value),
        uuid: summary.uuid,
        instance_uuid: summary.instance_uuid,
        power: summary.power_state.map(power),
        ip: summary.ip_address,
        host_name: summary.host_name,
        template: summary.template.unwrap_or(false),
    }
}

fn disk(native: DiskConfig) -> Result<Disk> {
    let bus = match native.controller_kind {
        ControllerKind::Scsi => Bus::Scsi,
        ControllerKind::Ide => Bus::Ide,
        ControllerKind::Sata => Bus::Sata,
        ControllerKind::Nvme => Bus::Nvme,
        ControllerKind::Other => {
            return Err(Error::new(
                Family::Unsupported,
                format!("{} hangs on a controller of class {}", native.label, native.controller_class),
            ));
        }
    };
    let number = |value: i32, of: &str| {
        u32::try_from(value).map_err(|e| {
            Error::new(Family::Failed, format!("{} has the {of} number {value}", native.label)).caused_by(e)
        })
    };
    Ok(Disk {
        address: DiskAddress { bus, controller: number(native.bus, "bus")?, unit: number(native.unit, "unit")? },
        capacity: native.capacity,
        file: native.file.to_string(),
        independent: native.mode.starts_with("independent"),
        raw_device: native.raw_device && native.compatibility_mode.as_deref() != Some("virtualMode"),
        obstacle: None,
        alias: None,
        uuid: native.uuid.clone(),
        change_id: native.change_id.clone(),
        native: NativeDisk::VSphere(Box::new(native)),
    })
}

/// The number in `vmx-19`; 4 is what every product since VI 3 runs.
fn hardware_version(version: &str) -> u32 {
    version.strip_prefix("vmx-").and_then(|number| number.parse().ok()).unwrap_or(4)
}

fn config(theirs: vsphere::VmConfig, id: &VmId) -> Result<VmConfig> {
    let efi = theirs.firmware.as_deref() == Some("efi");
    let vmx_path = theirs.vmx_path.to_string();
    let mut files = vec![ConfigFile { path: vmx_path.clone(), required: true }];
    for file in &theirs.files {
        let path = file.path.to_string();
        let nvram = path.ends_with(".nvram");
        let wanted = nvram || [".vmxf", ".vmsd", ".log"].iter().any(|suffix| path.ends_with(suffix));
        if wanted && path != vmx_path {
            files.push(ConfigFile { path, required: nvram && efi });
        }
    }
    Ok(VmConfig {
        info: VmInfo {
            moref: id.clone(),
            name: theirs.name,
            uuid: theirs.uuid,
            instance_uuid: theirs.instance_uuid,
            power: theirs.power_state.map(power),
            ip: None,
            host_name: None,
            template: theirs.template,
        },
        hardware_version: theirs.version.as_deref().map_or(4, hardware_version),
        firmware: theirs.firmware.unwrap_or_else(|| "bios".into()),
        tools_running: theirs.tools_running,
        tools_missing: None,
        boot: None,
        change_tracking: theirs.change_tracking,
        place: Place {
            datacenter: theirs.datacenter.unwrap_or_default(),
            folder: theirs.folder.map(|path| format!("/{path}")).unwrap_or_default(),
            resource_pool: theirs.resource_pool.map(|path| format!("/{path}")).unwrap_or_default(),
            host: theirs.host.unwrap_or_default(),
        },
        config_path: vmx_path,
        files,
        disks: theirs.disks.into_iter().map(disk).collect::<Result<_>>()?,
        raw: Some(theirs.xml),
        notes: Vec::new(),
    })
}

#[async_trait]
impl Hypervisor for VSphere {
    fn describe(&self) -> String {
        format!("{} at {}", self.client.about().full_name, self.place)
    }

    fn link(&self) -> Link {
        Link::VSphere(self.client.clone())
    }

    async fn list(&self) -> Result<Vec<VmInfo>> {
        let summaries = self.client.virtual_machines().await.map_err(from_vsphere)?;
        let mut vms: Vec<_> = summaries.into_iter().map(info).collect();
        vms.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.moref.0.cmp(&b.moref.0)));
        Ok(vms)
    }

    async fn find(&self, spec: &Spec) -> Result<Vec<VmInfo>> {
        let mut vms = self.list().await?;
        let indexed = self.search_index(spec).await?;
        vms.retain(|vm| spec.matches(vm) || indexed.iter().any(|moref| moref.value == vm.moref.0));
        Ok(vms)
    }

    async fn config(&self, vm: &VmId) -> Result<VmConfig> {
        config(self.client.vm_config(&Self::vm(vm)).await.map_err(from_vsphere)?, vm)
    }

    async fn snapshots(&self, vm: &VmId) -> Result<Vec<Snapshot>> {
        let nodes = self.client.snapshots(&Self::vm(vm)).await.map_err(from_vsphere)?;
        let ours = nodes.into_iter().map(|node| Snapshot {
            id: SnapshotId(node.moref.value),
            name: node.name,
            description: node.description,
            created: node.create_time.unwrap_or_default(),
            quiesced: node.quiesced,
            depth: node.depth,
        });
        Ok(ours.collect())
    }

    fn quiescer(&self) -> &'static str {
        "VMware Tools"
    }

    async fn create_snapshot(&self, request: &FreezeRequest<'_>) -> Result<Frozen> {
        let FreezeRequest { vm, name, description, quiesce, .. } = *request;
        let vm = Self::vm(&vm.info.moref);
        let task = self.client.create_snapshot(&vm, name, description, quiesce).await.map_err(from_vsphere)?;
        let result = self.client.wait_task(&task, &mut |_| {}, Some(self.create_limit)).await.map_err(from_vsphere)?;
        let moref = result.as_ref().and_then(vsphere::xml::Element::moref);
        let moref = moref.ok_or_else(|| {
            Error::new(Family::Failed, "the snapshot task ended well but names no snapshot")
                .hint("look at the VM's snapshots; `stillframe cleanup` removes ours")
        })?;
        Ok(Frozen { id: SnapshotId(moref.value), quiesced: None, still: None, warnings: Vec::new() })
    }

    fn point_of(&self, _: RunId) -> Option<String> {
        None // a change id is a word of the host's, nothing that anybody could leave behind
    }

    async fn forget_point(&self, _: &VmId, _: &str) -> Result<()> {
        Ok(())
    }

    async fn prune_points(&self, _: &VmId, _: usize, _: &[String]) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn frozen_disks(&self, snapshot: &SnapshotId) -> Result<Vec<Disk>> {
        let disks = self.client.snapshot_config(&Self::snapshot(snapshot)).await.map_err(from_vsphere)?;
        disks.into_iter().map(disk).collect()
    }

    async fn remove_snapshot(&self, snapshot: &SnapshotId) -> Result<()> {
        let removal = async {
            let task = self.client.remove_snapshot(&Self::snapshot(snapshot)).await?;
            // Merging a large delta may take hours; cutting the wait would not cut the merge.
            self.client.wait_task(&task, &mut |_| {}, None).await
        };
        match removal.await {
            Ok(_) => Ok(()),
            Err(error) if error.is_object_gone() => Ok(()),
            Err(error) => Err(from_vsphere(error)),
        }
    }

    async fn settle(&self, vm: &VmId) -> Result<()> {
        let moref = Self::vm(vm);
        for task in self.client.active_tasks(&moref).await.map_err(from_vsphere)? {
            match self.client.wait_task(&task, &mut |_| {}, Some(SETTLE_LIMIT)).await {
                // How it ended does not matter, only that it did.
                Ok(_) | Err(vsphere::Error::Fault { .. }) => {}
                Err(error) => return Err(from_vsphere(error)),
            }
        }
        Ok(())
    }

    async fn needs_consolidation(&self, vm: &VmId) -> Result<bool> {
        self.client.consolidation_needed(&Self::vm(vm)).await.map_err(from_vsphere)
    }

    async fn target(&self, wish: &RebuildWish) -> Result<RebuildTarget> {
        let inventory = |path: &Option<String>| path.as_deref().map(|path| path.trim_start_matches('/').to_owned());
        let (folder, pool) = (inventory(&wish.folder), inventory(&wish.resource_pool));
        let place = self.client.place(folder.as_deref(), pool.as_deref()).await.map_err(|e| {
            Error::new(Family::Failed, "cannot find the folder or resource pool")
                .caused_by(from_vsphere(e))
                .hint("name others with --folder and --resource-pool")
        })?;
        let mut stores = self.client.datastores().await.map_err(from_vsphere)?;
        stores.retain(|store| {
            let reachable = store.accessible != Some(false);
            let here = store.datacenter.as_ref().is_none_or(|datacenter| *datacenter == place.datacenter);
            let wished = wish.datastore.as_ref().is_none_or(|name| *name == store.name);
            reachable && here && wished
        });
        // Without a wish the roomiest one is taken.
        let store = stores.into_iter().max_by_key(|store| store.free).ok_or_else(|| {
            let name = wish.datastore.as_deref().unwrap_or("that can be reached");
            Error::new(Family::Failed, format!("there is no datastore {name} in {}", place.datacenter))
                .hint("name another one with --datastore")
        })?;
        Ok(RebuildTarget {
            datacenter: place.datacenter,
            datastore: store.name,
            free: store.free,
            folder: place.folder.value,
            resource_pool: place.pool.value,
        })
    }

    async fn make_folder(&self, datacenter: &str, path: &str) -> Result<()> {
        let made = self.client.make_directory(datacenter, &parse(path)?, false).await;
        made.map_err(|e| from_vsphere(e).within(format!("cannot make the folder {path}")))
    }

    async fn mark_folder(&self, datacenter: &str, path: &str, run: RunId) -> Result<()> {
        let text = Bytes::from(format!("made by a restore, run {run}\n"));
        let file = self.client.datastore_file(datacenter, &mark(path, run)?);
        let body = futures_util::stream::iter([Ok(text.clone())]);
        file.put(text.len() as u64, body)
            .await
            .map_err(|e| from_vsphere(e).within(format!("cannot mark the folder {path}")))
    }

    async fn is_marked(&self, datacenter: &str, path: &str, run: RunId) -> Result<bool> {
        match self.client.datastore_file(datacenter, &mark(path, run)?).size().await {
            Ok(_) => Ok(true),
            Err(vsphere::Error::Http { status: 404, .. }) => Ok(false),
            Err(error) => Err(from_vsphere(error)),
        }
    }

    async fn unmark_folder(&self, datacenter: &str, path: &str, run: RunId) -> Result<()> {
        self.client.datastore_file(datacenter, &mark(path, run)?).delete().await.map_err(from_vsphere)
    }

    async fn remove_folder(&self, datacenter: &str, path: &str) -> Result<()> {
        let removal = async {
            let task = self.client.delete_datastore_file(datacenter, &parse(path)?).await.map_err(from_vsphere)?;
            self.client.wait_task(&task, &mut |_| {}, Some(SETTLE_LIMIT)).await.map_err(from_vsphere)
        };
        match removal.await {
            Err(error) if is_fault(&error, "FileNotFound") => Ok(()),
            result => result.map(drop),
        }
    }

    async fn register(&self, target: &RebuildTarget, config_path: &str, name: &str) -> Result<VmId> {
        let place = vsphere::Place {
            folder: Moref::new("Folder", &target.folder),
            pool: Moref::new("ResourcePool", &target.resource_pool),
            datacenter: target.datacenter.clone(),
        };
        let what = || format!("cannot register {config_path}");
        let task = self.client.register_vm(&parse(config_path)?, Some(name), &place).await;
        let task = task.map_err(|e| from_vsphere(e).within(what()))?;
        let result = self.client.wait_task(&task, &mut |_| {}, Some(SETTLE_LIMIT)).await;
        let result = result.map_err(|e| from_vsphere(e).within(what()))?;
        let moref = result.as_ref().and_then(vsphere::xml::Element::moref);
        moref.map(|moref| VmId(moref.value)).ok_or_else(|| Error::new(Family::Failed, what()))
    }

    async fn registered_at(&self, datacenter: &str, config_path: &str) -> Result<Option<VmId>> {
        let found = self.client.find_by_datastore_path(datacenter, &parse(config_path)?).await;
        Ok(found.map_err(from_vsphere)?.map(|moref| VmId(moref.value)))
    }

    async fn unregister(&self, vm: &VmId) -> Result<()> {
        match self.client.unregister_vm(&Self::vm(vm)).await {
            Err(error) if error.is_object_gone() => Ok(()),
            result => result.map_err(from_vsphere),
        }
    }

    async fn close(&self) {
        self.client.logout().await;
    }
}

fn parse(path: &str) -> Result<DatastorePath> {
    path.parse().map_err(|e: vsphere::DatastorePathError| Error::new(Family::Usage, e.to_string()))
}

/// The client's own error under ours.
pub(super) fn cause(error: &Error) -> Option<&vsphere::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(found) = next {
        if let Some(theirs) = found.downcast_ref::<vsphere::Error>() {
            return Some(theirs);
        }
        next = found.source();
    }
    None
}

pub(super) fn is_fault(error: &Error, kind: &str) -> bool {
    cause(error).and_then(vsphere::Error::fault_kind) == Some(kind)
}

/// The file that says whose a folder is.
fn mark(path: &str, run: RunId) -> Result<DatastorePath> {
    parse(&format!("{path}/stillframe-{run}.mark"))
}
