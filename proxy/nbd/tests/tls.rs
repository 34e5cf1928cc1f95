//! TLS with real servers: what is right connects, and each thing that is wrong is named in one line.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what only tests call may fail as tests do")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::peers::{self, Server, free_port, have, options, text};
use common::pki::Authority;
use nbd::{Client, Family, Options, TlsFiles, Uri};

/// A server that wants certificates of its clients, in two makes.
#[derive(Clone, Copy, Debug)]
enum Make {
    Qemu,
    Nbdkit,
}

const MAKES: [Make; 2] = [Make::Qemu, Make::Nbdkit];

fn serve(make: Make, certificates: &Path, disk: &Path) -> (Server, u16) {
    let port = free_port();
    let (number, folder) = (port.to_string(), text(certificates));
    let ready = move || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    let server = match make {
        Make::Qemu => {
            let credentials = format!("tls-creds-x509,id=t0,endpoint=server,dir={folder},verify-peer=yes");
            let tls = ["--object", &credentials, "--tls-creds", "t0"];
            let rest = ["-t", "-r", "-e", "16", "-b", "127.0.0.1", "-p", &number, "-f", "raw", text(disk)];
            Server::start("qemu-nbd", &[&tls[..], &rest].concat(), ready)
        }
        Make::Nbdkit => {
            let folder = format!("--tls-certificates={folder}");
            let tls = ["--tls=require", &folder, "--tls-verify-peer"];
            let rest = ["-f", "-r", "-p", &number, "-i", "127.0.0.1", "file", text(disk)];
            Server::start("nbdkit", &[&tls[..], &rest].concat(), ready)
        }
    };
    (server, port)
}

struct Scene {
    folder: tempfile::TempDir,
    authority: Authority,
    server: PathBuf,
    client: PathBuf,
    disk: PathBuf,
    truth: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let server = authority.folder(folder.path().join("server"));
        authority.server(&server, &["localhost", "127.0.0.1"], false);
        let client = authority.folder(folder.path().join("client"));
        authority.client(&client, false);
        let (disk, truth) = peers::noisy(folder.path(), 5 << 20);
        Self { folder, authority, server, client, disk, truth }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The error of connecting and reading, as one line.
async fn refused(uri: &Uri) -> nbd::Error {
    let tried = async {
        let client = Client::connect(uri, &options()).await?;
        client.read(0, 512).await
    };
    tokio::time::timeout(Duration::from_secs(30), tried).await.expect("no answer").expect_err("it must be refused")
}

fn check(error: &nbd::Error, words: &str) {
    assert!(error.family() == Family::Tls && error.line().contains(words), "{:?}: {}", error.family(), error.line());
    assert!(!error.line().contains('\n'));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_both_sides_open_an_encrypted_connection() {
    if !have(&["qemu-nbd", "nbdkit"]) {
        return;
    }
    let scene = Scene::new();
    for make in MAKES {
        let (_server, port) = serve(make, &scene.server, &scene.disk);
        for host in ["localhost", "127.0.0.1"] {
            let uri = Uri::tcp(host, port, "").with_certificates(&scene.client);
            let client = Client::connect(&uri, &options()).await.unwrap();
            assert!(client.export().is_encrypted() && client.connections() == 4);
            assert!(peers::read_all(&client).await.unwrap() == scene.truth, "{make:?}");
        }
        let options = Options { tls: Some(TlsFiles::new(&scene.client)), ..options() };
        Client::connect(&Uri::tcp("localhost", port, "").with_tls(), &options).await.unwrap();
        let listed = nbd::list(&Uri::tcp("localhost", port, "").with_tls(), &options).await;
        assert_eq!(listed.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_client_is_named() {
    if !have(&["qemu-nbd", "nbdkit"]) {
        return;
    }
    let scene = Scene::new();
    let nameless = scene.authority.folder(scene.path("nameless"));
    let expired = scene.authority.folder(scene.path("expired"));
    scene.authority.client(&expired, true);
    let stranger = scene.authority.folder(scene.path("stranger"));
    Authority::new().client(&stranger, false);
    for make in MAKES {
        let (_server, port) = serve(make, &scene.server, &scene.disk);
        let uri = Uri::tcp("localhost", port, "");
        check(&refused(&uri.clone().with_certificates(&nameless)).await, "wants a client certificate");
        check(&refused(&uri.clone().with_certificates(&expired)).await, "not accept the client certificate");
        check(&refused(&uri.clone().with_certificates(&stranger)).await, "not accept the client certificate");
        check(&refused(&uri).await, "wants TLS first; nbds://");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_server_is_named() {
    if !have(&["nbdkit"]) {
        return;
    }
    let scene = Scene::new();
    let expired = scene.authority.folder(scene.path("expired"));
    scene.authority.server(&expired, &["localhost"], true);
    let elsewhere = scene.authority.folder(scene.path("elsewhere"));
    scene.authority.server(&elsewhere, &["vm1.example"], false);
    let stranger = scene.authority.folder(scene.path("stranger"));
    Authority::new().server(&stranger, &["localhost"], false);
    for (folder, words) in [
        (&expired, "the server's certificate has expired"),
        (&elsewhere, "not for \"localhost\"; tls-hostname=NAME"),
        (&stranger, "not signed by an authority that is trusted"),
    ] {
        let (_server, port) = serve(Make::Nbdkit, folder, &scene.disk);
        let uri = Uri::tcp("localhost", port, "").with_certificates(&scene.client);
        check(&refused(&uri).await, words);
        // Who does not care is let through.
        let careless: Uri = format!("{uri}&tls-verify-peer=0").parse().unwrap();
        Client::connect(&careless, &options()).await.unwrap();
    }
    let (_server, port) = serve(Make::Nbdkit, &elsewhere, &scene.disk);
    let named = Uri::tcp("localhost", port, "").with_certificates(&scene.client).with_hostname("vm1.example");
    Client::connect(&named, &options()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_named_where_tls_is_wanted() {
    if !have(&["qemu-nbd", "nbdkit"]) {
        return;
    }
    let scene = Scene::new();
    for make in MAKES {
        let socket = scene.path("socket");
        let disk = text(&scene.disk);
        let _server = match make {
            Make::Qemu => Server::qemu(&socket, &["-r", "-f", "raw", disk]),
            Make::Nbdkit => Server::nbdkit(&socket, &["-r", "file", disk]),
        };
        check(&refused(&Uri::unix(&socket, "").with_certificates(&scene.client)).await, "the server has no TLS");
    }
}

#[tokio::test]
async fn folders_without_what_is_needed_are_named() {
    let scene = Scene::new();
    let error = |folder: &Path| TlsFiles::new(folder).client_config(true).unwrap_err();
    let missing = error(&scene.path("none"));
    assert!(missing.family() == Family::NotFound && missing.line().contains("none/ca-cert.pem"), "{}", missing.line());
    let half = scene.authority.folder(scene.path("half"));
    scene.authority.client(&half, false);
    std::fs::remove_file(half.join("client-key.pem")).unwrap();
    assert!(error(&half).line().contains("client-key.pem"));
    let garbage = scene.authority.folder(scene.path("garbage"));
    std::fs::write(garbage.join("ca-cert.pem"), "no certificate").unwrap();
    assert!(error(&garbage).line().contains("holds no certificate in PEM"), "{}", error(&garbage).line());
    assert_eq!(TlsFiles::new(&scene.client).server_config(true).unwrap_err().family(), Family::NotFound);
    TlsFiles::new(&scene.server).server_config(true).unwrap();
    TlsFiles::new(&scene.server).server_config(false).unwrap();
}
