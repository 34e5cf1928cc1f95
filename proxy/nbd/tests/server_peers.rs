//! The server against real clients: nbdinfo, nbdcopy, qemu-img, qemu-io.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod server_common;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use nbd::TlsFiles;
use nbd::server::{Exports, Limits, Listener, ReadOnly, Server};
use serde_json::Value;
use server_common::certificates::Authority;
use server_common::{Memory, file_export, must, program, run, server_of, sparse_file};

const SIZE: u64 = 16 << 20;

/// A file, and a server of it on a unix socket; the URI is that of the export "disk".
struct Served {
    folder: tempfile::TempDir,
    server: Server,
    uri: String,
}

impl Served {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        sparse_file(&folder.path().join("disk.raw"), SIZE);
        let server = server_of(file_export(&folder.path().join("disk.raw")), |_| {});
        Self::with(folder, server, "nbd").await
    }

    async fn with(folder: tempfile::TempDir, server: Server, scheme: &str) -> Self {
        let socket = folder.path().join("socket");
        let listener = Listener::unix(&socket).await.unwrap();
        tokio::spawn(server.clone().serve(listener));
        let uri = format!("{scheme}+unix:///disk?socket={}", socket.display());
        Self { folder, server, uri }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

fn same(first: &str, second: &str) -> bool {
    std::fs::read(first).unwrap() == std::fs::read(second).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdinfo_sees_what_is_served_and_where_its_holes_are() {
    if program("nbdinfo").is_none() {
        return;
    }
    let served = Served::start().await;
    let info: Value = serde_json::from_str(&must("nbdinfo", &["--json", &served.uri]).await).unwrap();
    let export = &info["exports"][0];
    assert_eq!((&info["structured"], &info["TLS"]), (&true.into(), &false.into()));
    assert_eq!((&export["export-size"], &export["is_read_only"]), (&SIZE.into(), &true.into()));
    assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
    assert_eq!(
        (&export["can_multi_conn"], &export["can_df"], &export["can_cache"]),
        (&true.into(), &true.into(), &true.into())
    );
    let sizes =
        ["block_size_minimum", "block_size_preferred", "block_size_maximum"].map(|name| export[name].as_u64().unwrap());
    assert_eq!(sizes, [1, 4096, 32 << 20]);
    assert_eq!(export["description"], "a disk of the tests");
    let listed: Value = serde_json::from_str(&must("nbdinfo", &["--json", "--list", &served.uri]).await).unwrap();
    assert_eq!(listed["exports"][0]["export-name"], "disk");
    let map: Value = serde_json::from_str(&must("nbdinfo", &["--map", "--json", &served.uri]).await).unwrap();
    let data: Vec<_> = map.as_array().unwrap().iter().filter(|run| run["type"] == 0).collect();
    let places: Vec<_> =
        data.iter().map(|run| (run["offset"].as_u64().unwrap(), run["length"].as_u64().unwrap())).collect();
    assert_eq!(places, [(0, 65536), (1 << 20, 65536), ((3 << 20) + 65536, 65536), (SIZE - 65536, 65536)]);
    assert!(map.as_array().unwrap().iter().all(|run| run["type"] == 0 || run["type"] == 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdcopy_and_qemu_read_the_same_bytes_over_unix_and_tcp() {
    if ["nbdcopy", "qemu-img"].into_iter().any(|name| program(name).is_none()) {
        return;
    }
    let served = Served::start().await;
    let listener = Listener::tcp((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let tcp = format!("nbd://{}/disk", listener.address().unwrap());
    tokio::spawn(served.server.clone().serve(listener));
    let (disk, copy) = (served.path("disk.raw"), served.path("copy.raw"));
    for uri in [&served.uri, &tcp] {
        must("nbdcopy", &["--request-size=262144", uri, &copy]).await;
        assert!(same(&disk, &copy), "nbdcopy {uri}");
        must("nbdcopy", &["--no-extents", "--connections=4", uri, &copy]).await;
        assert!(same(&disk, &copy), "nbdcopy without extents {uri}");
        must("qemu-img", &["convert", "-f", "raw", "-O", "raw", uri, &copy]).await;
        assert!(same(&disk, &copy), "qemu-img {uri}");
        must("qemu-img", &["compare", "-f", "raw", "-F", "raw", uri, &disk]).await;
    }
    let refused = run("nbdcopy", &[&served.uri.replace("/disk", "/none"), &copy]).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no export named"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_io_writes_and_reads_back() {
    if program("qemu-io").is_none() {
        return;
    }
    let memory = Memory::new(8 << 20);
    let folder = tempfile::tempdir().unwrap();
    let served = Served::with(folder, server_of(memory.clone(), |_| {}), "nbd").await;
    let commands = [
        "write -P 0x11 0 1M",
        "write -f -P 0x22 512k 64k", // FUA
        "write -z 64k 4k",
        "write -z -u 128k 64k",
        "discard 256k 64k",
        "flush",
        "read -P 0x11 0 64k",
        "read -P 0 64k 4k",
        "read -P 0 128k 64k",
        "read -P 0x22 512k 64k",
        "aio_write -P 0x33 2M 1M",
        "aio_write -P 0x44 3M 1M",
        "aio_flush",
        "read -P 0x33 2M 1M",
        "read -P 0 5M 1M",
    ];
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    arguments.push(&served.uri);
    let said = must("qemu-io", &arguments).await;
    assert!(!said.contains("failed") && !said.contains("rror"), "{said}");
    let calls = memory.calls().join("\n");
    assert!(calls.contains("write 524288 65536\nflush"), "FUA: {calls}");
    assert!(calls.contains("zero 65536 4096 punch=false"), "{calls}");
    assert!(calls.contains("zero 131072 65536 punch=true"), "{calls}");
    assert!(calls.contains("trim 262144 65536"), "{calls}");
    assert_eq!(memory.bytes.read().unwrap()[(3 << 20) - 1], 0x33);
    let read_only = Served::start().await;
    let refused = run("qemu-io", &["-f", "raw", "-c", "write 0 512", &read_only.uri]).await;
    assert!(!refused.status.success(), "{refused:?}");
}

/// A server with TLS, and folders of certificates beside its socket.
async fn with_tls(verify: bool) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let authority = Authority::new("ours");
    authority.folder(&path("server"), Some("server"));
    authority.folder(&path("client"), Some("client"));
    authority.folder(&path("nobody"), None);
    Authority::new("theirs").folder(&path("stranger"), Some("client"));
    sparse_file(&path("disk.raw"), SIZE);
    let tls = TlsFiles::new(path("server")).server_config(verify).unwrap();
    let mut exports = Exports::new();
    exports.add("disk", "", file_export(&path("disk.raw"))).unwrap();
    let server = Server::with(exports, Some(tls), Limits::default());
    Served::with(folder, server, "nbds").await
}

async fn copies_as(served: &Served, who: &str) -> bool {
    // Over TCP: on unix sockets libnbd does not look who the server is.
    let listener = Listener::tcp((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let port = listener.address().unwrap().port();
    tokio::spawn(served.server.clone().serve(listener));
    let uri = format!("nbds://localhost:{port}/disk?tls-certificates={}", served.path(who));
    let copied = run("nbdcopy", &[&uri, &served.path("copy.raw")]).await;
    assert!(!copied.status.success() || same(&served.path("disk.raw"), &served.path("copy.raw")));
    copied.status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_only_those_read_who_may() {
    if program("nbdcopy").is_none() {
        return;
    }
    let anybody = with_tls(false).await;
    assert!(copies_as(&anybody, "nobody").await);
    assert!(!copies_as(&anybody, "stranger").await, "who does not know our authority hangs up");
    let known = with_tls(true).await;
    assert!(copies_as(&known, "client").await);
    assert!(!copies_as(&known, "nobody").await, "a certificate is required");
    let plain = run("nbdinfo", &[&known.uri.replace("nbds+", "nbd+")]).await;
    assert!(!plain.status.success(), "clear text is refused: {plain:?}");
    if program("qemu-img").is_some() {
        let tls = format!("tls-creds-x509,id=t,endpoint=client,dir={}", known.path("client"));
        let image = format!(
            "driver=nbd,server.type=unix,server.path={},export=disk,tls-creds=t,tls-hostname=localhost",
            known.path("socket")
        );
        let raw = format!("driver=raw,file.{}", image.replace(',', ",file."));
        must("qemu-img", &["convert", "--object", &tls, "--image-opts", "-O", "raw", &raw, &known.path("copy.raw")])
            .await;
        assert!(same(&known.path("disk.raw"), &known.path("copy.raw")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let first = Listener::unix(&socket).await.unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = Listener::unix(&socket).await.map(drop).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AddrInUse);
    drop(first);
    assert!(!Path::new(&socket).exists(), "its file goes with it");
    std::fs::write(&socket, "mine").unwrap();
    let file = Listener::unix(&socket).await.map(drop).unwrap_err();
    assert_eq!(file.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&socket).unwrap(), b"mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_have_names_and_the_first_is_the_default() {
    if program("nbdinfo").is_none() {
        return;
    }
    let mut exports = Exports::new();
    for (name, len) in [("scsi0:0", 4096), ("scsi0:1", 8192)] {
        exports.add(name, "", Arc::new(ReadOnly::new(Arc::new(blockdev::MemDisk::new(vec![0; len]))))).unwrap();
    }
    assert!(exports.add("scsi0:1", "", Memory::new(1)).is_err());
    let served = Served::with(tempfile::tempdir().unwrap(), Server::new(exports), "nbd").await;
    for (name, size) in [("", "4096\n"), ("scsi0:0", "4096\n"), ("scsi0:1", "8192\n")] {
        let uri = served.uri.replace("/disk", &format!("/{name}"));
        assert_eq!(must("nbdinfo", &["--size", &uri]).await, size, "{name}");
    }
}
