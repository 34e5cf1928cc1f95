//! A lab that runs in the test's own process, and the real program run against it from outside.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Once;

use lab::face::{Lab, Options};
use lab::world::{DiskSource, DiskSpec, Firmware, SnapshotView, Template, VmId, VmSpec, VmView, World};
use tempfile::TempDir;
use tokio::process::Command;

/// What a run of the program gave.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// The last line of standard error, which has to be the one clear message.
    pub fn message(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }

    /// Demands success.
    ///
    /// # Panics
    /// With everything the program said, if it failed.
    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// Demands this exit code, one `Error:` line as the last one, and `words` in it.
    ///
    /// # Panics
    /// With everything the program said, if it is otherwise.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        assert!(self.message().starts_with("Error: "), "{self:#?}");
        assert_eq!(self.stderr.lines().filter(|line| line.starts_with("Error: ")).count(), 1, "{self:#?}");
        for word in words {
            assert!(self.message().contains(word), "\"{word}\" is not in the message: {self:#?}");
        }
        self
    }
}

/// A served lab with a state directory and a place for backups.
pub struct Stage {
    /// Everything is in here.
    pub home: TempDir,
    /// The server.
    pub lab: Lab,
}

static PROVIDER: Once = Once::new();

impl Stage {
    /// The demonstration's two VMs.
    pub async fn demo() -> Self {
        Self::with(Template::Demo, Options::default(), |_| {}).await
    }

    /// No VM but those that `fill` adds before the server starts.
    pub async fn empty(fill: impl FnOnce(&World) + Send + 'static) -> Self {
        Self::with(Template::Empty, Options::default(), fill).await
    }

    /// A lab of this template, filled and served.
    ///
    /// # Panics
    /// If it cannot be made: nothing can be tested then.
    #[expect(clippy::expect_used, reason = "a test without its stage is over")]
    pub async fn with(template: Template, options: Options, fill: impl FnOnce(&World) + Send + 'static) -> Self {
        PROVIDER.call_once(|| {
            // Fails only if it is installed already.
            let _ = stillframe::install_crypto();
        });
        let home = TempDir::new().expect("a temporary directory");
        let dir = home.path().join("lab");
        let make = move || {
            let world = World::create(&dir, template).expect("a new lab");
            fill(&world);
            world
        };
        let world = tokio::task::spawn_blocking(make).await.expect("a filled lab");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let lab = Lab::serve_with(world, any, options).await.expect("a served lab");
        std::fs::create_dir(home.path().join("out")).expect("a directory for backups");
        let stage = Self { home, lab };
        stage.write_private("password", &stage.world().identity().password);
        stage
    }

    #[expect(clippy::expect_used, reason = "a test without its stage is over")]
    fn write_private(&self, name: &str, text: &str) {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.home.path().join(name);
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
        std::io::Write::write_all(&mut file.expect("a private file"), text.as_bytes()).expect("a written file");
    }

    /// The simulated host.
    pub fn world(&self) -> &World {
        self.lab.world()
    }

    /// The VM of that name.
    ///
    /// # Panics
    /// If there is none.
    #[expect(clippy::expect_used, reason = "the test made the VM")]
    pub fn vm(&self, name: &str) -> VmView {
        self.world().vms().into_iter().find(|vm| vm.name == name).expect("the VM")
    }

    /// The snapshots of the VM of that name.
    pub fn snapshots(&self, name: &str) -> Vec<SnapshotView> {
        self.vm(name).snapshots
    }

    /// What the guest of the VM has committed.
    ///
    /// # Panics
    /// If no guest runs in it.
    #[expect(clippy::expect_used, reason = "the test started the guest")]
    pub fn committed(&self, vm: &VmId) -> u64 {
        self.world().guest_committed(vm).expect("a running guest")
    }

    /// A path in the place for backups.
    pub fn out(&self, name: &str) -> PathBuf {
        self.home.path().join("out").join(name)
    }

    /// What stands in the place for backups, hidden names included.
    pub fn out_names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.out(""))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    /// The URI by which the program reaches the lab as it would a vCenter.
    pub fn uri(&self) -> String {
        let password = self.home.path().join("password");
        format!(
            "vpx://{}@{}/?thumbprint={}&password-file={}",
            self.world().identity().user,
            self.lab.address(),
            self.lab.sha256(),
            password.display()
        )
    }

    /// The program, connected to the lab, with a state directory of its own.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = program(args);
        command.env("STILLFRAME_URI", self.uri()).env("STILLFRAME_STATE_DIR", self.home.path().join("state"));
        command
    }

    /// Runs the program to its end.
    pub async fn run(&self, args: &[&str]) -> Outcome {
        finish(self.command(args)).await
    }

    /// Backs a VM up into `out(name)` with more arguments.
    pub async fn backup(&self, spec: &str, name: &str, more: &[&str]) -> Outcome {
        let directory = self.out(name);
        let directory = directory.to_string_lossy();
        self.run(&[&["backup", spec, "-o", &directory, "--progress", "none"], more].concat()).await
    }
}

/// The program, with an environment that holds nothing of the caller's.
pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    for name in ["STILLFRAME_URI", "STILLFRAME_PASSWORD", "STILLFRAME_CA_FILE", "STILLFRAME_THUMBPRINT"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started.
#[expect(clippy::expect_used, reason = "a program that cannot be started cannot be tested")]
pub async fn finish(mut command: Command) -> Outcome {
    let output = command.output().await.expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Outcome { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Where cargo put the program: beside the folder of the test that runs.
///
/// # Panics
/// If it was not built; `cargo build -p stillframe` builds it.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let folder = test.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let path = folder.join("stillframe");
    assert!(path.exists(), "{} is not there: build it with `cargo build -p stillframe`", path.display());
    path
}

/// A VM of one disk copied from `raw`, powered off, without tools.
pub fn vm_of(name: &str, raw: &Path) -> VmSpec {
    VmSpec {
        name: name.to_owned(),
        datastore: "datastore1".to_owned(),
        disks: vec![DiskSpec { source: DiskSource::RawFile(raw.to_owned()) }],
        guest_id: "otherGuest64".to_owned(),
        firmware: Firmware::Bios,
        ip: None,
        host_name: None,
        power_on: false,
        tools: false,
        change_tracking: false,
    }
}

/// Runs a foreign tool and demands that it succeeds.
///
/// # Panics
/// With what it said, if it fails or is not there.
#[track_caller]
#[expect(clippy::expect_used, reason = "the caller asked whether it is there")]
pub fn tool(name: &str, args: &[&std::ffi::OsStr]) -> String {
    let output = std::process::Command::new(name).args(args).output().expect("the tool starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} {args:?}: {said}");
    said
}
