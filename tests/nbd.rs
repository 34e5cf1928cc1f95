//! `stillframe nbd serve`, and NBD URIs where files are named: against nbdcopy, qemu-img, qemu-nbd and a machine that boots.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use acceptance::{Outcome, Stage, finish, peer, program, stillframe, tool};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

fn all(programs: &[&str]) -> bool {
    programs.iter().all(|name| program(name).is_some())
}

/// Words for the command line: the sentence is cut at blanks.
fn words(sentence: &str) -> Vec<&str> {
    sentence.split_whitespace().collect()
}

/// Runs a foreign tool; it must succeed.
#[track_caller]
fn run(name: &str, arguments: &[&str]) -> String {
    tool(name, &arguments.iter().map(OsStr::new).collect::<Vec<_>>())
}

/// A folder with a raw disk in it that has data and holes.
struct Bench {
    home: TempDir,
}

const SIZE: u64 = (24 << 20) + 1536;

impl Bench {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let disk = File::create(home.path().join("disk.raw")).unwrap();
        disk.set_len(SIZE).unwrap();
        let mut state = 11u64;
        let mut noise = vec![0; 2 << 20];
        noise.fill_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        });
        for at in [0, (7 << 20) + 65536, SIZE - noise.len() as u64] {
            disk.write_all_at(&noise, at).unwrap();
        }
        Self { home }
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).to_str().unwrap().to_owned()
    }

    fn vmdk(&self) -> String {
        let vmdk = self.path("disk.vmdk");
        run("qemu-img", &["convert", "-f", "raw", "-O", "vmdk", &self.path("disk.raw"), &vmdk]);
        vmdk
    }

    async fn ours(&self, arguments: &[&str]) -> Outcome {
        let mut command = stillframe(arguments);
        command.env("STILLFRAME_STATE_DIR", self.path("state"));
        finish(command).await
    }

    fn same(&self, first: &str, second: &str) -> bool {
        fs::read(self.path(first)).unwrap() == fs::read(self.path(second)).unwrap()
    }
}

/// `stillframe nbd serve`, ready; ended with the test.
struct Serving {
    child: Child,
    exports: Vec<Value>,
}

impl Serving {
    async fn start(arguments: &[&str]) -> Self {
        let mut child = stillframe(&[&["nbd", "serve", "--json"], arguments].concat()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut text = String::new();
        let told: Value = loop {
            let Some(line) = lines.next_line().await.unwrap() else {
                panic!("the server ended: {text}{:?}", child.wait_with_output().await);
            };
            text.push_str(&line);
            if let Ok(told) = serde_json::from_str(&text) {
                break told;
            }
        };
        Self { child, exports: told["exports"].as_array().unwrap().clone() }
    }

    fn uri(&self) -> String {
        self.exports[0]["uri"].as_str().unwrap().to_owned()
    }

    /// Tells it to end, as a service manager does; it must end well.
    async fn end(mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.ends().await;
    }

    async fn ends(&mut self) {
        let status = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        assert!(status.unwrap().unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_served_and_everybody_reads_the_same_disk() {
    if !all(&["nbdcopy", "qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    let (vmdk, socket) = (bench.vmdk(), bench.path("socket"));
    let serving = Serving::start(&["--socket", &socket, "--export-name", "a disk", &vmdk]).await;
    assert_eq!(serving.exports[0]["size"].as_u64(), Some(SIZE.next_multiple_of(512)));
    let uri = serving.uri();
    run("nbdcopy", &[&uri, &bench.path("nbdcopy.raw")]);
    assert!(bench.same("disk.raw", "nbdcopy.raw"));
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, &bench.path("qemu.raw")]);
    assert!(bench.same("disk.raw", "qemu.raw"));
    run("qemu-img", &["compare", "-f", "raw", "-F", "vmdk", &uri, &vmdk]);
    // The other half: our own commands take the URI for a file.
    bench.ours(&["disk", "compare", &uri, &bench.path("disk.raw"), "--progress", "none"]).await.succeeds();
    let copy = bench.path("ours.raw");
    bench.ours(&["disk", "convert", &uri, "--format", "raw", "-o", &copy, "--progress", "none"]).await.succeeds();
    assert!(bench.same("disk.raw", "ours.raw"));
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&copy).unwrap());
    assert!(blocks * 512 < 8 << 20, "holes stay holes: {blocks} blocks");
    let info: Value =
        serde_json::from_str(&bench.ours(&["disk", "info", "--json", &uri]).await.succeeds().stdout).unwrap();
    assert_eq!((&info["format"], &info["virtual-size"]), (&"raw".into(), &SIZE.into()));
    let map: Value =
        serde_json::from_str(&bench.ours(&["disk", "map", "--json", &uri]).await.succeeds().stdout).unwrap();
    let data: u64 = map
        .as_array()
        .unwrap()
        .iter()
        .filter(|run| run["data"] == true)
        .map(|run| run["length"].as_u64().unwrap())
        .sum();
    assert!((6 << 20..8 << 20).contains(&data), "{data} bytes of data");
    let refused = bench.ours(&["disk", "check", &uri]).await;
    refused.fails(2, &["nothing that could be checked"]);
    serving.end().await;
    assert!(!Path::new(&socket).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_disk_of_a_backup_is_an_export_by_its_address() {
    if !all(&["nbdcopy", "qemu-img", "nbdinfo"]) {
        return;
    }
    let stage = Stage::demo().await;
    stage.backup("name:Windows Server 01", "backup", &[]).await.succeeds();
    let backup = stage.out("backup");
    let serving = Serving::start(&["--listen", "127.0.0.1:0", backup.to_str().unwrap()]).await;
    assert!(serving.exports.len() >= 2, "{:?}", serving.exports);
    for export in &serving.exports {
        let (uri, name) = (export["uri"].as_str().unwrap(), export["name"].as_str().unwrap());
        assert!(name.starts_with("scsi0:"), "{name}");
        let described = export["description"].as_str().unwrap();
        let file = backup.join(described.rsplit(", ").next().unwrap());
        run("qemu-img", &["compare", "-f", "raw", "-F", "vmdk", uri, file.to_str().unwrap()]);
    }
    let listed: Value = serde_json::from_str(&run("nbdinfo", &["--json", "--list", &serving.uri()])).unwrap();
    assert_eq!(listed["exports"].as_array().unwrap().len(), serving.exports.len());
    let nameless = serving.uri().rsplit_once('/').unwrap().0.to_owned() + "/";
    assert_eq!(run("nbdinfo", &["--size", &nameless]).trim(), serving.exports[0]["size"].to_string());
    serving.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_boots_from_an_image_through_an_overlay_and_the_image_stays_as_it_was() {
    if !all(&["qemu-system-x86_64", "qemu-io"]) {
        return;
    }
    let (Some(disk), Some(facts)) = (peer("linux/disk.raw"), peer("linux/disk.json")) else { return };
    let facts: Value = serde_json::from_slice(&fs::read(facts).unwrap()).unwrap();
    let before = fs::read(&disk).unwrap();
    let bench = Bench::new();
    let socket = bench.path("socket");
    let serving = Serving::start(&[
        "--socket",
        &socket,
        "--overlay",
        "--overlay-dir",
        bench.home.path().to_str().unwrap(),
        disk.to_str().unwrap(),
    ])
    .await;
    let uri = serving.uri();
    // The guest's disk is really writable: no snapshot of QEMU's own lies between.
    run(
        "qemu-io",
        &["-f", "raw", "-c", "write -f -P 0xab 0 1k", "-c", "read -P 0xab 0 1k", "-c", "write -z -u 0 64k", &uri],
    );
    let first = run("qemu-io", &["-f", "raw", "-c", "read -P 0 0 64k", &uri]);
    assert!(!first.contains("failed"), "another client reads what the first one wrote: {first}");
    serving.end().await;
    assert!(fs::read(&disk).unwrap() == before, "the image was changed");

    let serving = Serving::start(&["--socket", &socket, "--overlay", disk.to_str().unwrap()]).await;
    let serial = bench.path("serial");
    let drive = format!("file={},format=raw,if=none,id=disk,cache=writeback", serving.uri());
    let machine = words(
        "-nodefaults -no-user-config -machine pc -accel tcg,thread=multi -cpu max -m 256 -display none -monitor none -no-reboot",
    );
    let mut machine: Vec<String> = machine.into_iter().map(str::to_owned).collect();
    machine.extend(["-serial".into(), format!("file:{serial}"), "-drive".into(), drive]);
    machine.extend(["-device".into(), "virtio-blk-pci,drive=disk,bootindex=0".into()]);
    let mut qemu = tokio::process::Command::new("qemu-system-x86_64");
    qemu.args(&machine)
        .env("TMPDIR", bench.home.path())
        .kill_on_drop(true)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let ended =
        tokio::time::timeout(Duration::from_secs(180), qemu.output()).await.expect("the machine does not end").unwrap();
    let said = String::from_utf8_lossy(&fs::read(&serial).unwrap()).into_owned();
    assert!(said.contains(facts["boot_line"].as_str().unwrap()), "{said}{}", String::from_utf8_lossy(&ended.stderr));
    serving.end().await;
    assert!(fs::read(&disk).unwrap() == before, "the image was changed");
}

/// A foreign server, ended with the test.
struct QemuNbd(std::process::Child, String);

impl QemuNbd {
    fn start(bench: &Bench, image: &str) -> Self {
        let socket = bench.path("qemu.sock");
        let mut command = std::process::Command::new("qemu-nbd");
        command.args(["-t", "-r", "-e", "8", "-x", "files", "-f", "raw", "-k", &socket, image]);
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Self(child, format!("nbd+unix:///files?socket={socket}"))
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A volume of NTFS without a table, with a file of 3 MiB on it.
fn ntfs(bench: &Bench) -> (String, Vec<u8>) {
    let (image, file) = (bench.path("ntfs.raw"), bench.path("file"));
    File::create(&image).unwrap().set_len(32 << 20).unwrap();
    let content: Vec<u8> = (0..3u32 << 20).map(|at| (at / 7) as u8).collect();
    fs::write(&file, &content).unwrap();
    run("/usr/sbin/mkntfs", &["-F", "-Q", "-q", &image]);
    run("/usr/sbin/ntfscp", &["-q", &image, &file, "numbers.bin"]);
    (image, content)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_guest_are_read_over_nbd_with_and_without_a_mount() {
    if !all(&["qemu-nbd", "mkntfs", "ntfscp"]) {
        return;
    }
    let bench = Bench::new();
    let (image, content) = ntfs(&bench);
    let server = QemuNbd::start(&bench, &image);
    let listed = bench.ours(&["fs", "ls", &server.1, "digits/1"]).await.succeeds();
    assert!(listed.stdout.contains("numbers.bin") && listed.stdout.contains("3145728"), "{}", listed.stdout);
    let file = bench.path("cat.bin");
    let mut cat = stillframe(&["fs", "cat", &server.1, "digits/1/numbers.bin"]);
    cat.stdout(File::create(&file).unwrap());
    assert!(cat.status().await.unwrap().success());
    assert!(fs::read(&file).unwrap() == content);
    bench.ours(&["fs", "verify", &server.1, "--progress", "none"]).await.succeeds();
    if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "mounting takes root and /dev/fuse");
        return;
    }
    let point = PathBuf::from(bench.path("mnt"));
    // A file and a network disk side by side, numbered in the order in which they are named.
    let files = ["mount", "--image", &image, "--image", &server.1, point.to_str().unwrap()];
    bench.ours(&files).await.succeeds();
    let read = ["digits/1/numbers.bin", "digits/2/numbers.bin"].map(|path| fs::read(point.join(path)));
    bench.ours(&["unmount", point.to_str().unwrap()]).await.succeeds();
    assert!(read.into_iter().all(|read| read.unwrap() == content));
    assert!(!point.exists());
    // A second mount needs the first one's connections gone or the server's eight would be used up some day.
    for _ in 0..3 {
        bench.ours(&["mount", "--image", &server.1, point.to_str().unwrap()]).await.succeeds();
        bench.ours(&["unmount", point.to_str().unwrap()]).await.succeeds();
    }
    let wrong = server.1.replace("files", "nothing");
    bench.ours(&["mount", "--image", &wrong, point.to_str().unwrap()]).await.fails(1, &["nothing"]);
    assert!(!point.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_for_a_script_ends_with_its_last_client_or_for_want_of_one() {
    if !all(&["nbdcopy"]) {
        return;
    }
    let bench = Bench::new();
    let (socket, disk) = (bench.path("socket"), bench.path("disk.raw"));
    let mut once = Serving::start(&["--socket", &socket, "--once", &disk]).await;
    run("nbdcopy", &[&once.uri(), &bench.path("copy.raw")]);
    once.ends().await;
    assert!(bench.same("disk.raw", "copy.raw") && !Path::new(&socket).exists());
    Serving::start(&["--socket", &socket, "--timeout", "1", &disk]).await.ends().await;
}

/// A folder of certificates: of a server for localhost, and of a client that trusts it.
fn certificates(bench: &Bench, name: &str) -> String {
    let folder = bench.path(name);
    fs::create_dir(&folder).unwrap();
    let path = |file: &str| format!("{folder}/{file}");
    let key = words("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=ca");
    let (ca, ca_key) = (path("ca-cert.pem"), path("ca-key.pem"));
    let authority = ["-keyout", &ca_key, "-out", &ca, "-addext", "keyUsage=critical,keyCertSign"];
    run("openssl", &[&key[..], &authority[..]].concat());
    for (role, usage) in [("server", "serverAuth"), ("client", "clientAuth")] {
        let request = words("req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=leaf");
        let [wish, own, signed, extra] =
            ["csr", "key.pem", "cert.pem", "ext"].map(|end| path(&format!("{role}-{end}")));
        run("openssl", &[&request[..], &["-keyout", &own, "-out", &wish]].concat());
        fs::write(&extra, format!("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={usage}\n")).unwrap();
        let sign = [
            "x509",
            "-req",
            "-in",
            &wish,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-days",
            "30",
            "-out",
            &signed,
            "-extfile",
            &extra,
        ];
        run("openssl", &sign);
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_wrong_ones_are_told_in_one_line() {
    if !all(&["openssl", "nbdcopy"]) {
        return;
    }
    let bench = Bench::new();
    let (ours, theirs) = (certificates(&bench, "ours"), certificates(&bench, "theirs"));
    let disk = bench.path("disk.raw");
    let serving = Serving::start(&[
        "--listen",
        "127.0.0.1:0",
        "--tls-certificates",
        &ours,
        "--tls-verify-peer",
        "--export-name",
        "x",
        &disk,
    ])
    .await;
    let uri = serving.uri();
    assert!(uri.starts_with("nbds://localhost:"), "{uri}");
    let with = |folder: &str| format!("{uri}?tls-certificates={folder}");
    run("nbdcopy", &[&with(&ours), &bench.path("copy.raw")]);
    assert!(bench.same("disk.raw", "copy.raw"));
    bench.ours(&["disk", "compare", &with(&ours), &disk, "--progress", "none"]).await.succeeds();
    bench.ours(&["disk", "info", &with(&theirs)]).await.fails(1, &["cannot open", "ertificate"]);
    bench.ours(&["disk", "info", &with(&bench.path("nowhere"))]).await.fails(1, &["ca-cert.pem"]);
    bench.ours(&["disk", "info", &uri.replace("nbds:", "nbd:")]).await.fails(1, &["TLS"]);
    serving.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_or_read_is_one_line_and_its_exit_code() {
    let bench = Bench::new();
    let (disk, socket) = (bench.path("disk.raw"), bench.path("socket"));
    let serve = async |more: &[&str]| bench.ours(&[&["nbd", "serve"], more].concat()).await;
    serve(&["--listen", "0.0.0.0:0", &disk]).await.fails(2, &["anybody in the network", "--insecure-plain"]);
    serve(&["--socket", &socket, &bench.path("none.raw")]).await.fails(1, &["none.raw"]);
    serve(&["--socket", &socket, bench.home.path().to_str().unwrap()]).await.fails(2, &["no catalog"]);
    serve(&["--socket", &bench.path("disk.raw"), &disk]).await.fails(6, &["no socket"]);
    serve(&["--socket", &bench.path(&"x".repeat(200)), &disk]).await.fails(2, &["cannot listen"]);
    serve(&["--socket", &socket, "--tls-certificates", &bench.path("nowhere"), &disk])
        .await
        .fails(1, &["server-cert.pem"]);
    assert_eq!(serve(&[&disk]).await.code, 2, "no place is named");
    let serving = Serving::start(&["--socket", &socket, "--export-name", "x", &disk]).await;
    serve(&["--socket", &socket, &disk]).await.fails(6, &["somebody answers"]);
    let uri = serving.uri();
    let read = async |uri: &str, more: &[&str]| bench.ours(&[&["disk", "info", uri], more].concat()).await;
    read(&uri.replace("/x?", "/y?"), &[]).await.fails(1, &["cannot open", "y"]);
    read(&uri, &["--from", "vmdk"]).await.fails(2, &["vmdk"]);
    read(&uri, &["--map", "a=b"]).await.fails(2, &["--map"]);
    read("nbd://127.0.0.1:1/x", &[]).await.fails(1, &["cannot open", "refused"]);
    read("nbd+unix:///x", &[]).await.fails(2, &["socket=PATH"]);
    read("nbds://localhost/x?tls-psk-file=y", &[]).await.fails(4, &["not supported"]);
    serving.end().await;
    // A socket that a dead server left is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    Serving::start(&["--socket", &socket, &disk]).await.end().await;
}
