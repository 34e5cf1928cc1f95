//! The lab's server, met by our own client, by plain HTTP, and by a foreign client.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockdev::MemDisk;
use bytes::Bytes;
use lab::face::{Fault, FaultKind, Happening, Lab, Options, ServeError, endpoint_of};
use lab::guest;
use lab::world::{DiskSource, DiskSpec, Firmware, Template, VmSpec, World};
use vsphere::xml::{Element, Moref};
use vsphere::{Client, DatastorePath, Endpoint, Error, Task, TlsPolicy};

const MIB: usize = 1 << 20;

/// A lab with one or more equal VMs, and our client logged in to it.
struct Stage {
    _dir: tempfile::TempDir,
    path: PathBuf,
    lab: Lab,
    client: Client,
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A disk with a guest's log at 1 MiB, a pattern at 3 MiB, and holes.
fn disk_image(path: &Path, size: usize) {
    let mut bytes = vec![0; size];
    let log = guest::log_file(64);
    bytes[MIB..MIB + log.len()].copy_from_slice(&log);
    for (index, byte) in bytes[3 * MIB..4 * MIB].iter_mut().enumerate() {
        *byte = (index % 251) as u8;
    }
    std::fs::write(path, bytes).unwrap();
}

fn world(dir: &Path, vms: usize) -> World {
    let world = World::create(&dir.join("lab"), Template::Empty).unwrap();
    let images = [("a.raw", 8 * MIB), ("b.raw", 6 * MIB)].map(|(name, size)| {
        let path = dir.join(name);
        disk_image(&path, size);
        DiskSpec { source: DiskSource::RawFile(path) }
    });
    for number in 1..=vms {
        let spec = VmSpec {
            name: format!("Server 0{number}"),
            datastore: "datastore1".to_owned(),
            disks: images.to_vec(),
            guest_id: "debian11_64Guest".to_owned(),
            firmware: Firmware::Efi,
            ip: Some(format!("10.0.0.{number}")),
            host_name: Some(format!("s{number}.example.com")),
            power_on: true,
            tools: true,
            change_tracking: true,
        };
        world.add_vm(&spec).unwrap();
    }
    world
}

fn endpoint(lab: &Lab) -> Endpoint {
    let mut endpoint = Endpoint::new("127.0.0.1");
    endpoint.port = lab.address().port();
    endpoint.tls = TlsPolicy::Pins(vec![lab.sha256().parse().unwrap()]);
    endpoint.timeouts.stall = Duration::from_secs(2);
    endpoint
}

async fn stage_with(vms: usize, options: Options) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path(), vms);
    let identity = world.identity();
    let lab = Lab::serve_with(world, any_port(), options).await.unwrap();
    let client = Client::connect(endpoint(&lab)).await.unwrap();
    client.login(&identity.user, &identity.password).await.unwrap();
    Stage { path: dir.path().join("lab"), _dir: dir, lab, client }
}

async fn stage() -> Stage {
    stage_with(1, Options::default()).await
}

impl Stage {
    async fn vm(&self) -> Moref {
        self.client.find_by_ip("10.0.0.1").await.unwrap().pop().unwrap()
    }

    async fn wait(&self, task: &Task) -> Result<Option<Element>, Error> {
        self.client.wait_task(task, &mut |_| {}, Some(Duration::from_secs(30))).await
    }

    async fn snapshot(&self, quiesce: bool) -> Result<Moref, Error> {
        let vm = self.vm().await;
        let task = self.client.create_snapshot(&vm, "_VCB-BACKUP_", "stillframe run=1", quiesce).await?;
        Ok(self.wait(&task).await?.and_then(|result| result.moref()).expect("a snapshot"))
    }

    async fn remove(&self, snapshot: &Moref) -> Result<(), Error> {
        let task = self.client.remove_snapshot(snapshot).await?;
        self.wait(&task).await.map(|_| ())
    }

    fn file(&self, name: &str) -> vsphere::DatastoreFile {
        self.client.datastore_file("Lab-DC", &DatastorePath::new("datastore1", format!("Server 01/{name}")))
    }

    async fn range(&self, name: &str, start: u64, len: u64) -> Result<Vec<u8>, Error> {
        let mut body = self.file(name).get_range(start, len).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// The name of the first disk's extent, which a snapshot has frozen.
    async fn frozen(&self) -> String {
        let snapshot = self.snapshot(true).await.unwrap();
        let disks = self.client.snapshot_config(&snapshot).await.unwrap();
        disks[0].file.file_name().replace(".vmdk", "-flat.vmdk")
    }

    fn happened(&self, what: impl Fn(&Happening) -> bool) -> Option<usize> {
        self.lab.events().iter().position(|event| what(&event.what))
    }

    fn arm(&self, kind: FaultKind) {
        self.lab.faults().arm(kind);
    }

    /// A request without our client: the status line, headers and body as they came.
    fn plain(&self, request: &str) -> String {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        let pem = std::fs::read(self.path.join("tls/cert.pem")).unwrap();
        let cert = <rustls_pki_types::CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(&pem);
        roots.add(cert.unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
        let mut session = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        let mut socket = std::net::TcpStream::connect(self.lab.address()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut stream = rustls::Stream::new(&mut session, &mut socket);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer); // an abrupt end is one of the answers
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inventory_and_the_configuration_reach_a_client() {
    let stage = stage().await;
    let client = &stage.client;
    assert!(client.is_vcenter());
    let vms = client.virtual_machines().await.unwrap();
    assert_eq!(vms.len(), 1);
    let vm = stage.vm().await;
    assert_eq!(client.find_by_dns_name("S1.example.com").await.unwrap(), std::slice::from_ref(&vm));
    let config = client.vm_config(&vm).await.unwrap();
    let uuid = config.instance_uuid.as_deref().unwrap();
    assert_eq!(client.find_by_uuid(uuid).await.unwrap(), std::slice::from_ref(&vm));
    assert_eq!(client.find_by_inventory_path("Lab-DC/vm/Server 01").await.unwrap(), Some(vm.clone()));
    assert_eq!(config.name, "Server 01");
    assert_eq!(config.firmware.as_deref(), Some("efi"));
    assert_eq!(config.datacenter.as_deref(), Some("Lab-DC"));
    assert!(config.tools_running && config.change_tracking && !config.template);
    assert_eq!(
        config.disks.iter().map(|d| (d.key, d.unit, d.capacity)).collect::<Vec<_>>(),
        [(2000, 0, 8 * MIB as u64), (2001, 1, 6 * MIB as u64)]
    );
    assert!(config.files.iter().any(|file| file.kind == "nvram"));
    assert_eq!(client.datastores().await.unwrap().len(), 2);
    assert!(!client.consolidation_needed(&vm).await.unwrap());
    client.logout().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_many_pages_is_whole() {
    let stage = stage_with(3, Options { page: 1, ..Options::default() }).await;
    let mut names: Vec<_> = stage.client.virtual_machines().await.unwrap().into_iter().map(|vm| vm.name).collect();
    names.sort();
    assert_eq!(names, ["Server 01", "Server 02", "Server 03"].map(|name| Some(name.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiesced_snapshot_is_consistent_and_is_gone_after_removal() {
    let stage = stage().await;
    tokio::time::sleep(Duration::from_millis(300)).await; // the guest commits some transactions
    let snapshot = stage.snapshot(true).await.unwrap();
    let order = [
        stage.happened(|e| matches!(e, Happening::Freeze { .. })),
        stage.happened(|e| matches!(e, Happening::Snapshot { .. })),
        stage.happened(|e| matches!(e, Happening::Thaw { .. })),
    ];
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?}");

    let vm = stage.vm().await;
    let tree = stage.client.snapshots(&vm).await.unwrap();
    assert_eq!(tree.len(), 1);
    assert!(tree[0].quiesced && tree[0].name == "_VCB-BACKUP_");
    let mut disks = Vec::new();
    for disk in stage.client.snapshot_config(&snapshot).await.unwrap() {
        let flat = disk.file.file_name().replace(".vmdk", "-flat.vmdk");
        let bytes = stage.range(&flat, 0, disk.capacity).await.unwrap();
        assert_eq!(bytes.len() as u64, disk.capacity);
        assert_eq!(bytes[3 * MIB + 250], 250);
        disks.push(MemDisk::new(bytes));
    }
    let truth = stage.lab.world().vms()[0].snapshots[0].guest_log_at_freeze;
    assert!(truth.is_some_and(|last| last > 0), "{truth:?}");
    let views: Vec<&dyn blockdev::ReadAt> = disks.iter().map(|disk| disk as &dyn blockdev::ReadAt).collect();
    let report = guest::check(&views, truth).unwrap();
    assert!(report.consistent, "{:?}", report.problems);

    let leaf = stage.client.vm_config(&vm).await.unwrap().disks[0].file.file_name().replace(".vmdk", "-delta.vmdk");
    assert!(matches!(stage.file(&leaf).read_all(1 << 30).await, Err(Error::Http { status: 500, .. })), "{leaf}");

    stage.remove(&snapshot).await.unwrap();
    assert!(stage.client.snapshots(&vm).await.unwrap().is_empty());
    assert!(stage.remove(&snapshot).await.unwrap_err().is_object_gone());
    assert!(stage.happened(|e| matches!(e, Happening::Remove { .. })).is_some());
    stage.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn areas_in_use_come_in_parts_and_cover_the_data() {
    let stage = stage_with(1, Options { area_extents: 1, area_span: 3 << 20, ..Options::default() }).await;
    let (vm, snapshot) = (stage.vm().await, stage.snapshot(true).await.unwrap());
    let disks = stage.client.snapshot_config(&snapshot).await.unwrap();
    let areas = stage.client.allocated_areas(&vm, &snapshot, &disks[0]).await.unwrap();
    let covers = |at: u64| areas.iter().any(|(start, len)| (*start..start + len).contains(&at));
    assert!(covers(MIB as u64) && covers(3 * MIB as u64) && covers(4 * MIB as u64 - 1), "{areas:?}");
    assert!(!covers(7 * MIB as u64), "{areas:?}");

    stage.arm(FaultKind::QueryAreasLies);
    let fewer = stage.client.allocated_areas(&vm, &snapshot, &disks[0]).await.unwrap();
    assert_ne!(fewer, areas);
    stage.arm(FaultKind::QueryAreasFails);
    let error = stage.client.allocated_areas(&vm, &snapshot, &disks[0]).await.unwrap_err();
    assert_eq!(error.fault_kind(), Some("FileFault"));
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_are_checked_and_sessions_expire() {
    let stage = stage().await;
    let stranger = Client::connect(endpoint(&stage.lab)).await.unwrap();
    let error = stranger.login("administrator@lab.local", "wrong").await.unwrap_err();
    assert!(matches!(error, Error::InvalidLogin { .. }), "{error}");
    assert_eq!(stranger.virtual_machines().await.unwrap_err().fault_kind(), Some("NotAuthenticated"));

    // The client logs in again by itself, once; the second loss within a minute is the caller's.
    stage.arm(FaultKind::SessionExpires { after_requests: 0 });
    assert_eq!(stage.client.virtual_machines().await.unwrap().len(), 1);
    assert!(stage.happened(|e| *e == Happening::SessionExpired).is_some());
    stage.client.logout().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_can_end_between_two_reads_of_a_file() {
    let stage = stage().await;
    let flat = stage.frozen().await;
    stage.arm(FaultKind::SessionExpires { after_requests: 2 });
    for _ in 0..4 {
        assert_eq!(stage.range(&flat, 0, 4096).await.unwrap().len(), 4096);
    }
    let logins = stage.lab.events().iter().filter(|e| matches!(e.what, Happening::Login { .. })).count();
    assert_eq!(logins, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_break_in_every_way_on_request() {
    let stage = stage().await;
    let flat = stage.frozen().await;
    let truth = stage.range(&flat, 3 << 20, 1 << 20).await.unwrap();
    let read = || stage.range(&flat, 3 << 20, 1 << 20);

    stage.arm(FaultKind::RangeRefused);
    assert!(matches!(read().await, Err(Error::RangeIgnored { .. })));
    for wrong in [FaultKind::RangeWrong, FaultKind::ShortBody] {
        stage.arm(wrong);
        assert!(matches!(read().await, Err(Error::Protocol { .. })));
    }
    stage.arm(FaultKind::DropConnection { after_bytes: 700_000 });
    assert!(matches!(read().await, Err(Error::Dropped { .. })));
    stage.arm(FaultKind::Stall { seconds: 10 });
    assert!(matches!(read().await, Err(Error::Timeout { .. })));
    stage.arm(FaultKind::Stall { seconds: 0 });
    assert_eq!(read().await.unwrap(), truth);
    stage.arm(FaultKind::WrongBytes { at: (3 << 20) + 5 });
    let flipped = read().await.unwrap();
    assert_eq!((flipped[5], flipped.len()), (truth[5] ^ 1, truth.len()));
    assert_eq!((&flipped[..5], &flipped[6..]), (&truth[..5], &truth[6..]));
    stage.arm(FaultKind::Http503);
    let error = read().await.unwrap_err();
    assert!(error.is_transient() && matches!(error, Error::Http { status: 503, .. }));
    assert!(stage.lab.faults().armed().is_empty());
    assert_eq!(read().await.unwrap(), truth);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_fail_hang_and_lie_on_request() {
    let stage = stage().await;
    stage.arm(FaultKind::QuiesceFails);
    assert_eq!(stage.snapshot(true).await.unwrap_err().fault_kind(), Some("ApplicationQuiesceFault"));
    stage.arm(FaultKind::SnapshotCreateFails);
    assert_eq!(stage.snapshot(false).await.unwrap_err().fault_kind(), Some("GenericVmConfigFault"));
    let vm = stage.vm().await;
    assert!(stage.client.snapshots(&vm).await.unwrap().is_empty());

    stage.arm(FaultKind::SnapshotCreateHangs { seconds: 2 });
    let begun = Instant::now();
    let task = stage.client.create_snapshot(&vm, "_VCB-BACKUP_", "", false).await.unwrap();
    let other = stage.client.create_snapshot(&vm, "other", "", false).await.unwrap_err();
    assert_eq!(other.fault_kind(), Some("TaskInProgress"));
    let snapshot = stage.wait(&task).await.unwrap().unwrap().moref().unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(2));

    stage.arm(FaultKind::SnapshotRemoveFails);
    assert_eq!(stage.remove(&snapshot).await.unwrap_err().fault_kind(), Some("GenericVmConfigFault"));
    stage.arm(FaultKind::SnapshotRemoveLeaves);
    stage.remove(&snapshot).await.unwrap();
    assert_eq!(stage.client.snapshots(&vm).await.unwrap().len(), 1);
    stage.arm(FaultKind::SnapshotRemoveHangs { seconds: 1 });
    stage.remove(&snapshot).await.unwrap();
    assert!(stage.client.snapshots(&vm).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_leaves_the_task_running() {
    let stage = stage().await;
    let vm = stage.vm().await;
    stage.arm(FaultKind::LostReply);
    let error = stage.client.create_snapshot(&vm, "_VCB-BACKUP_", "", false).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    for _ in 0..100 {
        if !stage.client.snapshots(&vm).await.unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the snapshot never came");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_is_noticed_until_the_faults_are_cleared() {
    let stage = stage().await;
    stage.arm(FaultKind::ThumbprintChanges);
    for _ in 0..2 {
        let error = Client::connect(endpoint(&stage.lab)).await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error}");
    }
    stage.lab.faults().clear();
    Client::connect(endpoint(&stage.lab)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_uploaded_can_be_registered_and_deleted() {
    let stage = stage().await;
    let client = &stage.client;
    let vm = stage.vm().await;
    client.unregister_vm(&vm).await.unwrap_err(); // it runs
    let path = |name: &str| DatastorePath::new("datastore2", format!("copy of it/{name}"));
    client.make_directory("Lab-DC", &DatastorePath::new("datastore2", "copy of it"), false).await.unwrap();

    let big = Bytes::from((0..3 * MIB + 17).map(|i| (i % 13) as u8).collect::<Vec<_>>());
    let put = |name: &str, bytes: Bytes| {
        let len = bytes.len() as u64;
        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes)]);
        let file = client.datastore_file("Lab-DC", &path(name));
        async move { file.put(len, body).await }
    };
    stage.arm(FaultKind::NoSpace);
    let full = put("big.bin", big.clone()).await.unwrap_err();
    assert!(matches!(full, Error::Http { status: 500, .. }), "{full}");
    assert!(client.datastore_file("Lab-DC", &path("big.bin")).read_all(8 << 20).await.is_err());
    put("big.bin", big.clone()).await.unwrap();
    let file = client.datastore_file("Lab-DC", &path("big.bin"));
    assert_eq!(file.read_all(8 << 20).await.unwrap(), big);
    assert_eq!(file.size().await.unwrap(), big.len() as u64);

    let flat = stage.frozen().await;
    let data = stage.range(&flat, 0, 8 << 20).await.unwrap();
    let base = flat.replace("-flat.vmdk", "");
    let descriptor = stage.file(&format!("{base}.vmdk")).read_all(1 << 20).await.unwrap();
    put(&flat, data.into()).await.unwrap();
    put(&format!("{base}.vmdk"), descriptor).await.unwrap();
    let vmx = format!(
        ".encoding = \"UTF-8\"\nconfig.version = \"8\"\nvirtualHW.version = \"19\"\ndisplayName = \"copy\"\n\
         guestOS = \"debian11-64\"\nfirmware = \"efi\"\nuuid.bios = \"56 4d 00 00 00 00 00 00-00 00 00 00 00 00 00 01\"\n\
         scsi0.present = \"TRUE\"\nscsi0.virtualDev = \"pvscsi\"\nscsi0:0.present = \"TRUE\"\n\
         scsi0:0.deviceType = \"scsi-hardDisk\"\nscsi0:0.fileName = \"{base}.vmdk\"\n"
    );
    put("copy.vmx", vmx.into()).await.unwrap();
    let place = client.place(None, None).await.unwrap();
    let task = client.register_vm(&path("copy.vmx"), Some("restored"), &place).await.unwrap();
    let copy = stage.wait(&task).await.unwrap().unwrap().moref().unwrap();
    assert_eq!(client.find_by_datastore_path("Lab-DC", &path("copy.vmx")).await.unwrap(), Some(copy.clone()));
    assert_eq!(client.vm_config(&copy).await.unwrap().disks[0].capacity, 8 << 20);

    client.unregister_vm(&copy).await.unwrap();
    let task = client.delete_datastore_file("Lab-DC", &path("big.bin")).await.unwrap();
    stage.wait(&task).await.unwrap();
    assert!(file.size().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_requests_get_plain_answers() {
    let stage = stage().await;
    let ask = |request: &str| stage.plain(&format!("{request}\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    let file = "/folder/Server%2001/Server%2001.vmx?dcPath=Lab-DC&dsName=datastore1";
    assert!(ask(&format!("GET {file} HTTP/1.1")).starts_with("HTTP/1.1 401"));
    assert!(ask("GET /nothing HTTP/1.1").starts_with("HTTP/1.1 404"));
    assert!(ask("GET /sdk/vimServiceVersions.xml HTTP/1.1").contains("<version>8.0.1.0</version>"));
    let bad = ask("POST /sdk HTTP/1.1\r\nSOAPAction: \"urn:vim25/99\"\r\nContent-Length: 0");
    assert!(bad.starts_with("HTTP/1.1 500") && bad.contains("vim:VersionMismatchFaultCode"), "{bad}");

    assert!(ask("GET /lab/events HTTP/1.1").starts_with("HTTP/1.1 401"));
    let password = format!("X-Lab-Password: {}", stage.lab.world().identity().password);
    let fault = r#"{"kind":"stall","seconds":3,"times":2}"#;
    let arm =
        format!("POST /lab/faults HTTP/1.1\r\n{password}\r\nContent-Length: {}\r\nConnection: close", fault.len());
    let armed = stage.plain(&format!("{arm}\r\nHost: localhost\r\n\r\n{fault}"));
    assert!(armed.starts_with("HTTP/1.1 200"), "{armed}");
    assert_eq!(stage.lab.faults().armed(), [Fault { kind: FaultKind::Stall { seconds: 3 }, times: 2 }]);
    assert!(ask(&format!("DELETE /lab/faults HTTP/1.1\r\n{password}")).ends_with("[]\n"));
    assert!(ask(&format!("GET /lab/events HTTP/1.1\r\n{password}")).contains(r#""event":"login""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_is_known_while_the_server_runs() {
    let stage = stage().await;
    let info = endpoint_of(&stage.path).unwrap();
    assert_eq!((info.address, info.sha1, info.sha256), (stage.lab.address(), stage.lab.sha1(), stage.lab.sha256()));
    let taken = stage.lab.address();
    let dir = tempfile::tempdir().unwrap();
    let other = World::create(&dir.path().join("x"), Template::Empty).unwrap();
    assert!(matches!(Lab::serve(other, taken).await, Err(ServeError::Listen { address, .. }) if address == taken));
    let Stage { path, lab, _dir, .. } = stage;
    let left = std::fs::read(path.join("endpoint.json")).unwrap();
    lab.stop().await;
    assert_eq!(endpoint_of(&path), None);
    // What a killed server leaves behind does not count.
    std::fs::write(path.join("endpoint.json"), left).unwrap();
    assert_eq!(endpoint_of(&path), None);
}

/// The strict judge. Installed by the peers' script; without it the check is skipped, but not where everything is checked.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_finds_nothing_wrong() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let peers = std::env::var_os("STILLFRAME_PEERS").map_or_else(|| top.join("target/peers"), PathBuf::from);
    let python = peers.join("pyvmomi-venv/bin/python");
    if !python.exists() {
        assert!(std::env::var_os("CI").is_none(), "{} is missing", python.display());
        eprintln!("skipped: no {}", python.display());
        return;
    }
    let stage = stage_with(2, Options { area_extents: 2, ..Options::default() }).await;
    let dir = stage.path.clone();
    let script = top.join("tests/peers/pyvmomi/lab_check.py");
    let run = move || Command::new(python).arg(script).arg(dir).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.ends_with("all checks passed\n"), "{text}");
}
