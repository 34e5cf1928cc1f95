//! A data directory, and in it a lab that a process of its own serves.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::world::{Template, World};
use rustix::fs::FlockOperation;
use serde_json::Value;

use crate::problem::{Problem, Result, io};

/// What a benchmark may write at most, lab and copies.
const SPACE: u64 = 20 << 30;
/// A server that does not answer by then will not.
const PATIENCE: Duration = Duration::from_secs(20);

/// `target/bench`, held by this process alone and empty; removed when dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    pub(crate) fn take() -> Result<Self> {
        let path = programs()?.parent().unwrap_or(Path::new("..")).join("bench");
        let lock_path = path.with_extension("lock");
        let lock = File::create(&lock_path).map_err(io("make", &lock_path))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| io("run two benchmarks at once: cannot lock", &lock_path)(error.into()))?;
        if path.exists() {
            fs::remove_dir_all(&path).map_err(io("remove what an earlier run left in", &path))?;
        }
        fs::create_dir(&path).map_err(io("make", &path))?;
        let space = rustix::fs::statvfs(&path).map_err(|error| io("ask for the space of", &path)(error.into()))?;
        if space.f_bavail.saturating_mul(space.f_frsize) < SPACE {
            let found = format!("{} GiB are free, and 20 may be needed", (space.f_bavail * space.f_frsize) >> 30);
            return Err(Problem::Wrong { what: path.display().to_string(), found });
        }
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path); // the next run tries again
    }
}

/// The directory of this program, where cargo also put `stillframe`.
fn programs() -> Result<PathBuf> {
    let me = std::env::current_exe().map_err(io("find", Path::new("this program")))?;
    Ok(me.parent().map(Path::to_owned).unwrap_or_default())
}

/// A lab served by a process of its own, stopped when dropped.
pub(crate) struct Served {
    dir: PathBuf,
    address: SocketAddr,
    sha256: String,
    user: String,
    password: String,
    server: Child,
}

impl Served {
    /// Makes a lab in `dir`, fills and serves it.
    pub(crate) fn new(dir: &Path, fill: impl FnOnce(&World) -> Result<()>) -> Result<Self> {
        let world = World::create(dir, Template::Empty)?;
        fill(&world)?;
        let identity = world.identity();
        drop(world);
        let server = program()?
            .args(["lab", "serve", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let mut server = server.map_err(io("start the server of", dir))?;
        let began = Instant::now();
        let endpoint = loop {
            if let Some(endpoint) = lab::face::endpoint_of(dir) {
                break endpoint;
            }
            let ended = server.try_wait().map_err(io("wait for the server of", dir))?;
            if ended.is_some() || began.elapsed() > PATIENCE {
                let _ = server.kill(); // it may have ended
                let found = ended.map_or("nothing".to_owned(), |status| status.to_string());
                return Err(Problem::Answer { program: "lab serve".to_owned(), expected: "an endpoint", found });
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Ok(Self {
            dir: dir.to_owned(),
            address: endpoint.address,
            sha256: endpoint.sha256,
            user: identity.user,
            password: identity.password,
            server,
        })
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> u32 {
        self.server.id()
    }

    /// The file with the bytes of a VM's only disk.
    pub(crate) fn flat(&self, vm: &str) -> PathBuf {
        self.dir.join(format!("datastores/datastore1/{vm}/{vm}-flat.vmdk"))
    }

    /// `stillframe backup`, whose state stays in the data directory.
    pub(crate) fn backup(&self, vm: &str, format: &str, to: &Path) -> Result<Command> {
        let mut command = program()?;
        command
            .args(["backup", &format!("name:{vm}"), "--format", format, "--progress", "none", "--json", "-o"])
            .arg(to.join("ours"))
            .arg("--connect")
            .arg(format!("vpx://{}@{}/?thumbprint={}", self.user, self.address, self.sha256))
            .env("STILLFRAME_PASSWORD", &self.password)
            .env("STILLFRAME_STATE_DIR", self.dir.with_extension("state"));
        Ok(command)
    }

    /// Logs curl in; `curl_file` uses what it was given.
    pub(crate) fn log_curl_in(&self) -> Result<()> {
        let envelope = format!(
            "<Envelope xmlns=\"http://schemas.xmlsoap.org/soap/envelope/\"><Body><Login xmlns=\"urn:vim25\">\
             <_this type=\"SessionManager\">SessionManager</_this><userName>{}</userName>\
             <password>{}</password></Login></Body></Envelope>",
            self.user, self.password
        );
        let mut curl = self.curl();
        curl.arg("-c").arg(self.jar()).args(["-H", "Content-Type: text/xml", "-d", &envelope]);
        said(curl.arg(format!("https://{}/sdk", self.address))).map(drop)
    }

    /// curl that stores a VM's flat file.
    pub(crate) fn curl_file(&self, vm: &str, to: &Path) -> Command {
        let mut curl = self.curl();
        curl.arg("-b").arg(self.jar()).arg("-o").arg(to.join("curl.flat"));
        curl.arg(format!("https://{}/folder/{vm}/{vm}-flat.vmdk?dcPath=Lab-DC&dsName=datastore1", self.address));
        curl
    }

    /// How long the guests were held by the snapshots so far, in milliseconds.
    pub(crate) fn held_ms(&self) -> Result<Vec<f64>> {
        let mut curl = self.curl();
        curl.args(["-H", &format!("X-Lab-Password: {}", self.password)]);
        let events = said(curl.arg(format!("https://{}/lab/events", self.address)))?;
        let events: Value = parse("/lab/events", &events)?;
        let mut held = Vec::new();
        let mut frozen_at = None;
        for event in events.as_array().into_iter().flatten() {
            let time = event["time"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
            match event["event"].as_str() {
                Some("freeze") => frozen_at = time,
                Some("thaw") => {
                    if let (Some(from), Some(to)) = (frozen_at.take(), time) {
                        held.push(to.duration_since(from).as_secs_f64() * 1000.0);
                    }
                }
                _ => {}
            }
        }
        Ok(held)
    }

    fn jar(&self) -> PathBuf {
        self.dir.with_extension("cookies")
    }

    fn curl(&self) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-q", "-k", "-sS", "--fail", "--noproxy", "*"]);
        curl
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.server.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM); // it may be gone already
        }
        let _ = self.server.wait();
    }
}

/// The program under test, with nothing of the caller's in its environment.
pub(crate) fn program() -> Result<Command> {
    let path = programs()?.join("stillframe");
    if !path.exists() {
        let found = "it is not there; tests/bench builds it".to_owned();
        return Err(Problem::Wrong { what: path.display().to_string(), found });
    }
    let mut command = Command::new(path);
    for name in ["STILLFRAME_URI", "STILLFRAME_PASSWORD", "STILLFRAME_CA_FILE", "STILLFRAME_THUMBPRINT"] {
        command.env_remove(name);
    }
    Ok(command)
}

/// `stillframe disk` with these words; its state stays in the data directory.
pub(crate) fn disk_command(words: &[&str]) -> Result<Command> {
    let mut command = program()?;
    command.arg("disk").args(words).env("STILLFRAME_STATE_DIR", disk_state()?);
    Ok(command)
}

/// Where commands on disks and images keep their state.
pub(crate) fn disk_state() -> Result<PathBuf> {
    Ok(programs()?.parent().unwrap_or(Path::new("..")).join("bench/state"))
}

/// What a program prints, if it succeeds.
pub(crate) fn said(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|source| Problem::Io { action: format!("start {program}"), source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Problem::Ended { program, status: output.status, said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// JSON of a program.
pub(crate) fn parse(program: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|_| Problem::Answer {
        program: program.to_owned(),
        expected: "JSON",
        found: text.chars().take(200).collect(),
    })
}
