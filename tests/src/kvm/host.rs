//! A libvirt host that belongs to one test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::kvm::{Boot, Content, DiskSpec, Guest, GuestSpec, wait_for};
use crate::{Outcome, peer, program, stillframe};

/// A running libvirtd with its own folders. Everything of it ends when this is dropped, and when the test's process does.
pub struct KvmHost {
    home: TempDir,
    peers: PathBuf,
}

impl KvmHost {
    /// A host that is reached by its unix socket; `None` after a printed reason when its peers are absent.
    ///
    /// # Panics
    /// When they are there and it does not start.
    pub fn start() -> Option<Self> {
        Self::with(&[])
    }

    /// The same host, which listens on TLS too.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_with_tls() -> Option<Self> {
        Self::with(&["--tls"])
    }

    #[expect(clippy::expect_used, reason = "a test without its stage is over")]
    fn with(options: &[&str]) -> Option<Self> {
        for name in ["libvirtd", "virtlogd", "virsh", "qemu-system-x86_64", "qemu-img", "nbdcopy"] {
            program(name)?;
        }
        let peers = peer("kvm/initrd.gz")?.parent().map(Path::to_owned)?;
        let home = TempDir::new().expect("a temporary directory");
        let host = Self { home, peers };
        let owner = std::process::id().to_string();
        host.script("start", &[&["--owner", &owner], options].concat());
        for (name, mode) in [("scratch", 0o777), ("guests", 0o711), ("out", 0o700), ("state", 0o700)] {
            let folder = host.folder().join(name);
            fs::create_dir(&folder).expect("a new folder");
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("a folder of our own");
        }
        Some(host)
    }

    /// Runs `host.sh VERB` for this host.
    #[track_caller]
    #[expect(clippy::expect_used, reason = "a test without its stage is over")]
    fn script(&self, verb: &str, args: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/kvm/host.sh");
        let mut command = Command::new(script);
        command.arg(verb).arg(self.folder()).args(args).stdin(Stdio::null());
        let output = command.output().expect("the script starts");
        assert!(output.status.success(), "host.sh {verb}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The folder that everything lies in.
    pub fn folder(&self) -> &Path {
        self.home.path()
    }

    /// A path in the place for backups.
    pub fn out(&self, name: &str) -> PathBuf {
        self.folder().join("out").join(name)
    }

    /// A folder in which guests may write: for scratch files and sockets.
    pub fn scratch(&self) -> PathBuf {
        self.folder().join("scratch")
    }

    /// The folder of certificates of that name; `tests/peers/kvm/pki.sh` lists them.
    pub fn pki(&self, name: &str) -> PathBuf {
        self.folder().join("pki").join(name)
    }

    /// URI of the host by its unix socket, for programs outside.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.folder().join("run/libvirt-sock").display())
    }

    /// URI of the host by TLS, with a client certificate.
    ///
    /// # Panics
    /// If it was started without.
    #[expect(clippy::expect_used, reason = "the test started the host")]
    pub fn tls_uri(&self) -> String {
        let uri = fs::read_to_string(self.folder().join("tls-uri")).expect("a host with TLS");
        uri.trim().to_owned()
    }

    /// Runs virsh on this host.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn virsh(&self, args: &[&str]) -> Outcome {
        virsh(&self.uri(), args)
    }

    /// Runs a command as a program of that host would see things: `/run/libvirt` and its kin are those of the host.
    pub fn inside(&self, name: &str) -> Command {
        let mut command = Command::new("nsenter");
        let holder = self.pid("holder").to_string();
        command.args(["--target", &holder, "--mount", "--root", "--", name]).stdin(Stdio::null());
        command
    }

    /// The program, connected to this host by its socket, with a state directory of its own.
    pub fn stillframe(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = stillframe(args);
        command.env("STILLFRAME_URI", self.uri()).env("STILLFRAME_STATE_DIR", self.folder().join("state"));
        command
    }

    /// Defines a guest, starts it, and waits until its agent answers (or, without one, until its program does).
    ///
    /// # Panics
    /// If it does not come up.
    pub fn guest(&self, spec: GuestSpec) -> Guest {
        let guest = self.define(spec);
        guest.start();
        guest
    }

    /// Several guests, which start side by side.
    ///
    /// # Panics
    /// If one does not come up.
    pub fn guests(&self, specs: impl IntoIterator<Item = GuestSpec>) -> Vec<Guest> {
        let guests: Vec<_> = specs.into_iter().map(|spec| self.define(spec)).collect();
        guests.iter().for_each(Guest::power_on);
        guests.iter().for_each(Guest::wait_until_up);
        guests
    }

    /// A file that `tests/peers/kvm/guest.sh` made: `boot.raw`, `files.raw`, `files`.
    pub fn peer_file(&self, name: &str) -> PathBuf {
        self.peers.join(name)
    }

    /// A guest that boots from its one disk, by its own loader and kernel, on any controller: `vda` and `virtio`, `sda` and `sata`, …
    pub fn self_booting(&self, name: &str, target: &str, bus: &str) -> GuestSpec {
        let disk = DiskSpec::new(target, "qcow2", Content::Copy(self.peer_file("boot.raw")), 0).on(bus);
        GuestSpec { boot: Boot::Disk, mib: 256, ..GuestSpec::new(name).disks(vec![disk]) }
    }

    /// Defines a guest with new disks, and does not start it.
    ///
    /// # Panics
    /// If libvirt refuses it.
    #[track_caller]
    #[expect(clippy::expect_used, reason = "a test without its guest is over")]
    pub fn define(&self, spec: GuestSpec) -> Guest {
        let folder = self.folder().join("guests").join(&spec.name);
        fs::create_dir(&folder).expect("a guest of a new name");
        spec.make(&folder, &self.peers);
        let xml = folder.join("domain.xml");
        fs::write(&xml, spec.xml(&folder)).expect("a written file");
        self.virsh(&["define", &xml.to_string_lossy()]).succeeds();
        Guest::new(self.uri(), self.folder().to_owned(), folder, spec)
    }

    /// A guest that something else has defined: a restore, for example.
    pub fn found(&self, name: &str) -> Guest {
        let folder = self.folder().join("guests").join(name);
        Guest::new(self.uri(), self.folder().to_owned(), folder, GuestSpec::new(name).disks(Vec::new()))
    }

    /// Process id of a daemon of the host: `libvirtd`, `virtlogd`, `holder`.
    ///
    /// # Panics
    /// If it was never started.
    #[expect(clippy::expect_used, reason = "the host wrote it down")]
    pub fn pid(&self, daemon: &str) -> u32 {
        let text = fs::read_to_string(self.folder().join("pids").join(daemon)).expect("a daemon of the host");
        text.trim().parse().expect("a process id")
    }

    /// SIGKILL to libvirtd. The guests go on.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill_libvirtd(&self) {
        self.script("kill", &[]);
    }

    /// Starts libvirtd again after [`Self::kill_libvirtd`].
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start_libvirtd(&self) {
        self.script("libvirtd", &[]);
    }

    /// Names of all domains, running or not.
    pub fn domains(&self) -> Vec<String> {
        let listed = self.virsh(&["-q", "list", "--all", "--name"]).succeeds();
        listed.stdout.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// What a backup may not leave behind: jobs, snapshots, frozen guests, overlays, scratch files and sockets, folders
    /// of runs, journals, unfinished backups. Checkpoints are none of these: see [`Guest::checkpoints`].
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for name in self.domains() {
            left.extend(self.found(&name).leftovers());
        }
        let ours = |name: &String| name.starts_with("stillframe-") || name.starts_with('.');
        for folder in ["scratch", "lib/qemu/stillframe", "state/journal"] {
            let names = crate::names_in(&self.folder().join(folder));
            left.extend(names.into_iter().map(|name| format!("{folder}/{name}")));
        }
        for folder in ["out", "guests", "lib/qemu", "run"] {
            let names = crate::names_in(&self.folder().join(folder));
            left.extend(names.into_iter().filter(ours).map(|name| format!("{folder}/{name}")));
        }
        left
    }
}

impl Drop for KvmHost {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/kvm/host.sh");
        let stopped = Command::new(script).arg("stop").arg(self.folder()).stdin(Stdio::null()).status();
        if !stopped.is_ok_and(|status| status.success()) {
            eprintln!("the host in {} did not stop", self.folder().display());
        }
        if std::thread::panicking() {
            for name in ["log/libvirtd.log", "log/virtlogd.log"] {
                let text = fs::read_to_string(self.folder().join(name)).unwrap_or_default();
                eprintln!("{name}:\n{}", tail(&text, 15));
            }
            for name in crate::names_in(&self.folder().join("guests")) {
                let serial = self.folder().join("guests").join(&name).join("serial");
                eprintln!("{name} said:\n{}", tail(&fs::read_to_string(serial).unwrap_or_default(), 15));
            }
        }
    }
}

/// The last lines of a text.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs virsh, at most for two minutes.
#[expect(clippy::expect_used, reason = "the host was started, so virsh is there")]
pub(super) fn virsh(uri: &str, args: &[&str]) -> Outcome {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "120", "virsh", "-c", uri]).args(args).stdin(Stdio::null());
    let output = command.output().expect("virsh starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Outcome { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Waits until a process is gone; one that its parent has not noticed yet is.
pub(super) fn wait_until_gone(pid: u32) {
    wait_for("a killed process to be gone", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        matches!(state, None | Some('Z')).then_some(())
    });
}
