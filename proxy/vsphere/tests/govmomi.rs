//! The client against a server that others wrote: govmomi's simulator, as Debian packages it.
//!
//! `tests/peers/govmomi/build.sh target/peers/govmomi-sim` builds the server; `STILLFRAME_GOVMOMI_SIM` names another place.
//! Without it these tests skip with a reason, or fail where `CI=true`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "all of this is test code")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use vsphere::xml::Element;
use vsphere::{Client, ControllerKind, DatastorePath, Endpoint, Error, Moref, PowerState, TlsPolicy, VmSummary};

const USER: &str = "backup";
const PASSWORD: &str = "s3cret <&>\"";

struct Simulator {
    process: Child,
    port: u16,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        drop(self.process.stdin.take()); // its sign to stop and clean up
        let _ = self.process.wait();
    }
}

impl Simulator {
    fn start(model: &str) -> Option<Self> {
        let built = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/peers/govmomi-sim"));
        let binary = std::env::var_os("STILLFRAME_GOVMOMI_SIM").map_or_else(built, PathBuf::from);
        if !binary.exists() {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{} is missing", binary.display());
            println!("skipped: {} is missing; build it with tests/peers/govmomi/build.sh", binary.display());
            return None;
        }
        let mut process = Command::new(binary)
            .args(["127.0.0.1:0", model])
            .envs([("SIM_USER", USER), ("SIM_PASSWORD", PASSWORD)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.next().expect("the simulator ends at once").unwrap();
        let port = line.rsplit(':').next().unwrap().parse().unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { process, port })
    }

    fn endpoint(&self, tls: TlsPolicy) -> Endpoint {
        let mut endpoint = Endpoint::new("127.0.0.1");
        (endpoint.port, endpoint.tls) = (self.port, tls);
        endpoint
    }

    /// A client that pins the certificate which a first attempt found.
    async fn client(&self) -> Client {
        let error = Client::connect(self.endpoint(TlsPolicy::Pins(vec![]))).await.unwrap_err();
        let Error::Tls { found, .. } = error else { panic!("{error:?}") };
        let client = Client::connect(self.endpoint(TlsPolicy::Pins(vec![found.sha1]))).await.unwrap();
        client.login(USER, PASSWORD).await.unwrap();
        client
    }
}

/// The VM that the simulator's main gave an address and a name.
async fn guest(client: &Client) -> VmSummary {
    let moref = client.find_by_ip("192.0.2.7").await.unwrap().pop().expect("the VM with an address");
    client.virtual_machines().await.unwrap().into_iter().find(|vm| vm.moref == moref).unwrap()
}

async fn wait(client: &Client, task: &vsphere::Task) -> Result<Option<Element>, Error> {
    client.wait_task(task, &mut |_| {}, Some(Duration::from_secs(20))).await
}

#[tokio::test]
async fn the_server_is_told_apart_and_bad_logins_are_refused() {
    let Some(simulator) = Simulator::start("vpx") else { return };
    let client = Client::connect(simulator.endpoint(TlsPolicy::Insecure)).await.unwrap();
    assert!(client.is_vcenter());
    assert_eq!(client.about().api_version, client.api_version());
    let error = client.login(USER, "wrong").await.unwrap_err();
    assert!(matches!(error, Error::InvalidLogin { .. }), "{error:?}");
    assert_eq!(client.virtual_machines().await.unwrap_err().fault_kind(), Some("NotAuthenticated"));
    client.login(USER, PASSWORD).await.unwrap();
    client.check_session().await.unwrap();
}

#[tokio::test]
async fn a_single_host_is_told_apart() {
    let Some(simulator) = Simulator::start("esx") else { return };
    let client = simulator.client().await;
    assert!(!client.is_vcenter());
    let vms = client.virtual_machines().await.unwrap();
    assert!(!vms.is_empty());
    let config = client.vm_config(&vms[0].moref).await.unwrap();
    assert_eq!(config.datacenter.as_deref(), Some("ha-datacenter"));
    assert!(client.datastores().await.unwrap().iter().all(|d| d.datacenter.as_deref() == Some("ha-datacenter")));
    let place = client.place(None, None).await.unwrap();
    assert_eq!(place.datacenter, "ha-datacenter");
}

#[tokio::test]
async fn the_inventory_is_read() {
    let Some(simulator) = Simulator::start("vpx") else { return };
    let client = simulator.client().await;
    let vms = client.virtual_machines().await.unwrap();
    assert_eq!(vms.len(), 6, "three for each of two resource pools");
    for vm in &vms {
        assert!(vm.name.is_some() && vm.uuid.is_some() && vm.vmx_path.is_some(), "{vm:?}");
        assert_eq!((vm.power_state, vm.template), (Some(PowerState::On), Some(false)));
        assert_eq!(vm.moref.kind, "VirtualMachine");
    }
    let stores = client.datastores().await.unwrap();
    assert_eq!(stores.len(), 1);
    assert_eq!((stores[0].name.as_str(), stores[0].datacenter.as_deref()), ("LocalDS_0", Some("F0/DC0")));
    assert!(stores[0].capacity > stores[0].free, "{stores:?}");
}

#[tokio::test]
async fn every_search_finds_the_same_vm() {
    let Some(simulator) = Simulator::start("vpx") else { return };
    let client = simulator.client().await;
    let vm = guest(&client).await;
    let expected = vec![vm.moref.clone()];
    assert_eq!(client.find_by_dns_name("guest.example").await.unwrap(), expected);
    assert_eq!(client.find_by_uuid(vm.uuid.as_deref().unwrap()).await.unwrap(), expected);
    assert_eq!(client.find_by_uuid(vm.instance_uuid.as_deref().unwrap()).await.unwrap(), expected);
    let config = client.vm_config(&vm.moref).await.unwrap();
    let path = format!("/{}/{}", config.folder.unwrap(), config.name);
    assert_eq!(client.find_by_inventory_path(&path).await.unwrap(), Some(vm.moref.clone()));
    let found = client.find_by_datastore_path(&config.datacenter.unwrap(), &config.vmx_path).await.unwrap();
    assert_eq!(found, Some(vm.moref));
    assert_eq!(client.find_by_ip("192.0.2.8").await.unwrap(), []);
    assert_eq!(client.find_by_dns_name("nobody.example").await.unwrap(), []);
    assert_eq!(client.find_by_uuid("00000000-0000-0000-0000-000000000000").await.unwrap(), []);
    assert_eq!(client.find_by_inventory_path("F0/DC0/vm/nobody").await.unwrap(), None);
}

#[tokio::test]
async fn a_configuration_is_complete() {
    let Some(simulator) = Simulator::start("vpx") else { return };
    let client = simulator.client().await;
    let vm = guest(&client).await;
    let config = client.vm_config(&vm.moref).await.unwrap();
    assert_eq!((Some(&config.name), &config.uuid), (vm.name.as_ref(), &vm.uuid));
    assert_eq!(config.datacenter.as_deref(), Some("F0/DC0"));
    assert!(config.folder.as_deref().is_some_and(|f| f.starts_with("F0/DC0/vm")), "{:?}", config.folder);
    assert!(config.resource_pool.as_deref().is_some_and(|p| p.ends_with("/Resources")), "{:?}", config.resource_pool);
    assert!(config.host.is_some() && config.version.is_some() && config.guest_id.is_some());
    let disk = &config.disks[0];
    assert_eq!((disk.controller_kind, disk.label.as_str()), (ControllerKind::Scsi, "disk-202-0"));
    assert!(disk.capacity > 0 && disk.file.file_name().ends_with(".vmdk"), "{disk:?}");
    for kind in ["config", "nvram", "diskDescriptor"] {
        assert!(config.files.iter().any(|f| f.kind == kind), "{kind}: {:?}", config.files);
    }
    let saved = Element::parse(&config.xml).unwrap();
    assert_eq!(saved.text_of("uuid"), config.uuid.as_deref());
    assert!(!client.consolidation_needed(&vm.moref).await.unwrap());
    let gone = client.vm_config(&Moref::new("VirtualMachine", "vm-0")).await.unwrap_err();
    assert!(gone.is_object_gone(), "{gone:?}");
}

#[tokio::test]
async fn snapshots_are_made_listed_and_removed() {
    let Some(simulator) = Simulator::start("vpx") else { return };
    let client = simulator.client().await;
    let vm = guest(&client).await.moref;
    assert_eq!(client.snapshots(&vm).await.unwrap(), []);
    let task = client.create_snapshot(&vm, "_VCB-BACKUP_", "stillframe run=1 <&>", true).await.unwrap();
    let first = wait(&client, &task).await.unwrap().unwrap().moref().unwrap();
    let task = client.create_snapshot(&vm, "second", "", false).await.unwrap();
    let second = wait(&client, &task).await.unwrap().unwrap().moref().unwrap();

    let listed = client.snapshots(&vm).await.unwrap();
    let seen: Vec<_> =
        listed.iter().map(|s| (&s.moref, s.name.as_str(), s.depth, s.parent.as_ref(), s.quiesced)).collect();
    assert_eq!(seen, [(&first, "_VCB-BACKUP_", 0, None, true), (&second, "second", 1, Some(&first), false)]);
    assert_eq!(listed[0].description, "stillframe run=1 <&>");
    let frozen = client.snapshot_config(&first).await.unwrap();
    assert_eq!(frozen, client.vm_config(&vm).await.unwrap().disks, "this server never switches disks");

    for snapshot in [&second, &first] {
        let task = client.remove_snapshot(snapshot).await.unwrap();
        wait(&client, &task).await.unwrap();
    }
    assert_eq!(client.snapshots(&vm).await.unwrap(), []);
    let gone = client.remove_snapshot(&first).await.unwrap_err();
    assert!(gone.is_object_gone(), "{gone:?}");
}

#[tokio::test]
async fn a_session_that_the_server_ended_is_renewed() {
    let Some(simulator) = Simulator::start("vpx") else { return };
    let client = simulator.client().await;
    let logout =
        Element::new("Logout").with(Element::reference("_this", &Moref::new("SessionManager", "SessionManager")));
    client.call(&logout).await.unwrap(); // behind the client's back
    assert_eq!(client.virtual_machines().await.unwrap().len(), 6);
    client.call(&logout).await.unwrap();
    let error = client.check_session().await.unwrap_err();
    assert_eq!(error.fault_kind(), Some("NotAuthenticated"), "a second renewal within a minute");
}

#[tokio::test]
async fn after_logout_nobody_is_logged_in_and_the_timer_does_not_change_that() {
    let Some(simulator) = Simulator::start("vpx") else { return };
    let client = simulator.client().await;
    let _alive = client.spawn_keep_alive(Duration::from_millis(50));
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.check_session().await.unwrap();
    client.logout().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(client.check_session().await.unwrap_err().fault_kind(), Some("NotAuthenticated"));
}

#[tokio::test]
async fn files_are_written_read_in_ranges_and_deleted() {
    let Some(simulator) = Simulator::start("vpx") else { return };
    let client = simulator.client().await;
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    let folder = DatastorePath::new("LocalDS_0", "a folder");
    client.make_directory("F0/DC0", &folder, false).await.unwrap();
    let again = client.make_directory("F0/DC0", &folder, false).await.unwrap_err();
    assert_eq!(again.fault_kind(), Some("FileAlreadyExists"), "{again:?}");

    let path = DatastorePath::new("LocalDS_0", "a folder/with + and %.bin");
    let file = client.datastore_file("F0/DC0", &path);
    let pieces: Vec<_> = bytes.chunks(30_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    file.put(100_000, stream::iter(pieces)).await.unwrap();
    assert_eq!(file.size().await.unwrap(), 100_000);
    assert_eq!(file.read_all(200_000).await.unwrap(), bytes);
    let mut body = file.get_range(65_500, 1000).await.unwrap();
    assert_eq!(body.total(), Some(100_000));
    let mut read = vec![];
    while let Some(piece) = body.next().await.unwrap() {
        read.extend_from_slice(&piece);
    }
    assert_eq!(read, bytes[65_500..66_500]);
    let past = file.get_range(99_999, 2).await.unwrap_err();
    assert!(matches!(past, Error::Protocol { .. }), "{past:?}");

    let task = client.delete_datastore_file("F0/DC0", &path).await.unwrap();
    wait(&client, &task).await.unwrap();
    assert!(matches!(file.size().await, Err(Error::Http { status: 404, .. })));
    let task = client.delete_datastore_file("F0/DC0", &path).await.unwrap();
    assert_eq!(wait(&client, &task).await.unwrap_err().fault_kind(), Some("FileNotFound"));
}

#[tokio::test]
async fn a_vm_is_registered_where_it_was_asked_for() {
    let Some(simulator) = Simulator::start("vpx") else { return };
    let client = simulator.client().await;
    let place = client.place(None, None).await.unwrap();
    assert_eq!((place.folder.kind.as_str(), place.pool.kind.as_str()), ("Folder", "ResourcePool"));
    assert_eq!(place.datacenter, "F0/DC0");
    assert_eq!(client.place(Some("F0/DC0"), None).await.unwrap(), place);
    let config = client.vm_config(&guest(&client).await.moref).await.unwrap();
    let named = client.place(config.folder.as_deref(), config.resource_pool.as_deref()).await.unwrap();
    assert_eq!((named.folder.kind.as_str(), named.datacenter.as_str()), ("Folder", "F0/DC0"));
    assert!(matches!(client.place(Some("F0/nowhere"), None).await, Err(Error::Argument { .. })));

    let vmx = DatastorePath::new("LocalDS_0", "restored/restored.vmx");
    // This server does not read the vmx, but wants three files to be there.
    for name in ["restored.vmx", "restored.nvram", "vmware.log"] {
        client.datastore_file("F0/DC0", &vmx.beside(name)).put(0, stream::iter([])).await.unwrap();
    }
    let task = client.register_vm(&vmx, Some("restored"), &named).await.unwrap();
    let vm = wait(&client, &task).await.unwrap().unwrap().moref().unwrap();
    let names: Vec<_> = client.virtual_machines().await.unwrap().into_iter().filter_map(|vm| vm.name).collect();
    assert!(names.iter().any(|name| name == "restored"), "{names:?}");
    client.unregister_vm(&vm).await.unwrap();
    assert_eq!(client.virtual_machines().await.unwrap().len(), 6);
}
