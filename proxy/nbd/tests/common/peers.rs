//! Servers that we did not write, each in a process of its own that ends with the test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nbd::{Client, Options, Retry, Uri};

/// Whether foreign programs are there. In CI they must be; elsewhere absence is printed and the test skipped.
pub(crate) fn have(tools: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    for tool in tools {
        if !std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()) {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{tool} is missing, and CI must have it");
            eprintln!("skipped: {tool} is not installed");
            return false;
        }
    }
    true
}

/// Runs a program to its end; answers what it said.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said} {}", String::from_utf8_lossy(&output.stderr));
    said
}

/// A port that nobody listened on a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server process. Killed when dropped.
pub(crate) struct Server(Child);

impl Server {
    /// Starts a program, and waits until `ready`.
    pub(crate) fn start(program: &str, arguments: &[&str], ready: impl Fn() -> bool) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self(command.spawn().unwrap());
        let start = Instant::now();
        while !ready() {
            assert!(start.elapsed() < Duration::from_secs(30), "{program} {arguments:?} does not come up");
            assert!(server.0.try_wait().unwrap().is_none(), "{program} {arguments:?} has ended");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// `qemu-nbd` behind a Unix socket.
    pub(crate) fn qemu(socket: &Path, arguments: &[&str]) -> Self {
        let _ = std::fs::remove_file(socket);
        let all = [&["-t", "-e", "16", "-k", text(socket)], arguments].concat();
        Self::start("qemu-nbd", &all, || std::os::unix::net::UnixStream::connect(socket).is_ok())
    }

    /// `nbdkit` behind a Unix socket.
    pub(crate) fn nbdkit(socket: &Path, arguments: &[&str]) -> Self {
        let _ = std::fs::remove_file(socket);
        let all = [&["-f", "-U", text(socket)], arguments].concat();
        Self::start("nbdkit", &all, || std::os::unix::net::UnixStream::connect(socket).is_ok())
    }

    /// Kills it without warning.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that look random and are always the same.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    use rand::{RngExt, SeedableRng};
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes[..]);
    bytes
}

/// A file of noise.
pub(crate) fn noisy(folder: &Path, len: usize) -> (PathBuf, Vec<u8>) {
    let (path, bytes) = (folder.join("disk.raw"), noise(len, 1));
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

/// Short waits, so that a test that fails does so soon.
pub(crate) fn options() -> Options {
    let retry = Retry { times: 5, first_wait: Duration::from_millis(20), longest_wait: Duration::from_millis(500) };
    Options { timeout: Duration::from_secs(20), retry, ..Options::default() }
}

pub(crate) async fn open(uri: &Uri) -> Client {
    Client::connect(uri, &options()).await.unwrap()
}

/// All bytes of an export.
pub(crate) async fn read_all(client: &Client) -> nbd::Result<Vec<u8>> {
    let mut whole = Vec::new();
    let mut stream = client.stream(0..client.size());
    while let Some(bytes) = stream.next().await? {
        whole.extend_from_slice(&bytes);
    }
    Ok(whole)
}
