//! One guest on a private host: what a test asks of it and does to it.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::kvm::host::{virsh, wait_until_gone};
use crate::kvm::{Agent, DiskSpec, GuestSpec, control, wait_for};
use crate::{Outcome, names_in};

/// What the program in the guest says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Number of the last record that is complete on all disks.
    pub counter: u64,
    /// The hook has stopped the writer.
    pub quiet: bool,
    /// How often the hook was called with `freeze` and did its work.
    pub freezes: u64,
    /// How long the last freeze lasted, in seconds, from the end of the one hook to the call of the other.
    pub last: f64,
    /// Process id of the agent in the guest; 0 for none.
    pub agent: u32,
    /// What the hook does.
    pub hook: String,
    /// Why the writer ended; `no` while it has not.
    pub failed: String,
}

/// A line that the hook said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Hook {
    /// The writer stands still after this record, which is in `/data/consistent`.
    Freeze(u64),
    /// It goes on, after so many seconds.
    Thaw(f64),
    /// It fails, as it was told to.
    Fails,
    /// It hangs, as it was told to.
    Hangs,
}

/// A domain, made by a test or found.
pub struct Guest {
    uri: String,
    host: PathBuf,
    folder: PathBuf,
    spec: GuestSpec,
    /// The files that were there before anything happened.
    files: Vec<String>,
}

impl Guest {
    pub(super) fn new(uri: String, host: PathBuf, folder: PathBuf, spec: GuestSpec) -> Self {
        let files = names_in(&folder);
        Self { uri, host, folder, spec, files }
    }

    /// Name of the domain.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The folder of its disks.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of a disk.
    ///
    /// # Panics
    /// If it was made without such a disk.
    pub fn disk(&self, target: &str) -> PathBuf {
        self.disk_spec(target).file(&self.folder)
    }

    #[expect(clippy::expect_used, reason = "the test made the disk")]
    fn disk_spec(&self, target: &str) -> &DiskSpec {
        self.spec.disks.iter().find(|disk| disk.target == target).expect("a disk of the guest")
    }

    /// Runs `virsh VERB NAME ARGS`.
    pub fn virsh(&self, verb: &str, args: &[&str]) -> Outcome {
        virsh(&self.uri, &[&[verb, self.name()], args].concat())
    }

    /// Starts it and waits for its agent, or for its program where there is none.
    ///
    /// # Panics
    /// If it does not come up.
    #[track_caller]
    pub fn start(&self) {
        self.power_on();
        self.wait_until_up();
    }

    /// Starts it, and does not wait.
    #[track_caller]
    pub fn power_on(&self) {
        self.virsh("start", &[]).succeeds();
    }

    /// Waits for its agent, or for its program where there is none.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn wait_until_up(&self) {
        if self.spec.agent == Agent::Running {
            self.wait_for_agent();
        } else {
            wait_for("the guest's program", || self.try_ask("state"));
        }
    }

    /// Waits until the agent answers.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_for_agent(&self) {
        wait_for("the guest's agent", || self.agent_answers().then_some(()));
    }

    /// Whether the agent answers now.
    pub fn agent_answers(&self) -> bool {
        self.virsh("qemu-agent-command", &["--timeout", "5", r#"{"execute":"guest-ping"}"#]).code == 0
    }

    /// Whether the agent says that file systems are frozen. Asked past the limits of other commands.
    pub fn is_frozen(&self) -> bool {
        let asked = self.virsh("qemu-agent-command", &["--timeout", "5", r#"{"execute":"guest-fsfreeze-status"}"#]);
        asked.stdout.contains("\"frozen\"")
    }

    /// State as virsh names it: `running`, `paused`, `shut off`.
    pub fn power(&self) -> String {
        self.virsh("domstate", &[]).stdout.trim().to_owned()
    }

    /// The live XML.
    pub fn xml(&self) -> String {
        self.virsh("dumpxml", &[]).succeeds().stdout
    }

    /// What it said on its serial line.
    pub fn serial(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("serial")).unwrap_or_default()).into_owned()
    }

    /// What its hook said, in order.
    pub fn hooks(&self) -> Vec<Hook> {
        let text = self.serial();
        let hook = |line: &str| {
            let (word, rest) = line.trim().strip_prefix("HOOK ")?.split_once(' ').unwrap_or((&line.trim()[5..], ""));
            match word {
                "freeze" => rest.parse().ok().map(Hook::Freeze),
                "thaw" => rest.parse().ok().map(Hook::Thaw),
                "fails" => Some(Hook::Fails),
                "hangs" if rest.is_empty() => Some(Hook::Hangs),
                _ => None,
            }
        };
        text.lines().filter_map(hook).collect()
    }

    /// The record after which the writer stood still at the latest freeze.
    pub fn frozen_at(&self) -> Option<u64> {
        self.hooks()
            .into_iter()
            .rev()
            .find_map(|hook| if let Hook::Freeze(number) = hook { Some(number) } else { None })
    }

    /// Gives a command to the program in the guest; `tests/peers/kvm/guest.rs` lists them.
    ///
    /// # Panics
    /// If it is not understood, or not answered.
    #[track_caller]
    pub fn ask(&self, command: &str) -> String {
        let answer = wait_for("the guest's program", || self.try_ask(command));
        assert!(!answer.starts_with("error"), "{command}: {answer}");
        answer
    }

    /// The answer of the program in the guest, if it gives one.
    fn try_ask(&self, command: &str) -> Option<String> {
        control::ask(&self.control_socket()?, command).ok()
    }

    /// The host's socket of the control port, which QEMU made for this start of the guest.
    fn control_socket(&self) -> Option<PathBuf> {
        let folder = self.host.join("run/qemu/channel");
        let id = self.virsh("domid", &[]).stdout.trim().to_owned();
        let start = format!("{id}-");
        let name = names_in(&folder).into_iter().find(|name| name.starts_with(&start))?;
        Some(folder.join(name).join("stillframe.control"))
    }

    /// What the program in the guest says of itself.
    ///
    /// # Panics
    /// If it does not answer.
    #[track_caller]
    #[expect(clippy::unwrap_used, reason = "the answer is ours")]
    pub fn state(&self) -> State {
        let answer = self.ask("state");
        let value = |name: &str| {
            let found = answer.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_default().to_owned()
        };
        State {
            counter: value("counter").parse().unwrap(),
            quiet: value("quiet") == "1",
            freezes: value("freezes").parse().unwrap(),
            last: value("last").parse().unwrap(),
            agent: value("agent").parse().unwrap(),
            hook: value("hook"),
            failed: value("failed"),
        }
    }

    /// Number of the last record that is complete on all disks.
    ///
    /// # Panics
    /// If the guest does not answer.
    #[track_caller]
    pub fn counter(&self) -> u64 {
        self.state().counter
    }

    /// Waits until so many more records are written.
    ///
    /// # Panics
    /// If they are not.
    pub fn wait_for_records(&self, more: u64) {
        let wanted = self.counter() + more;
        wait_for("more records", || (self.counter() >= wanted).then_some(()));
    }

    /// From now on the freeze hook does this: `ok`, `none`, `fail`, `hang`, `hang:SECONDS`. A hook that hangs ends by it.
    #[track_caller]
    pub fn set_hook(&self, mode: &str) {
        self.ask(&format!("hook {mode}"));
    }

    /// SIGKILL to the agent in the guest, also while it is frozen. As under systemd it comes again.
    #[track_caller]
    pub fn kill_agent(&self) {
        self.ask("agent kill");
    }

    /// Process id of its QEMU.
    ///
    /// # Panics
    /// If it does not run.
    #[expect(clippy::expect_used, reason = "the test started the guest")]
    pub fn qemu_pid(&self) -> u32 {
        let file = self.host.join("run/qemu").join(format!("{}.pid", self.name()));
        let text = fs::read_to_string(file).expect("a running guest");
        text.trim().parse().expect("a process id")
    }

    /// SIGKILL to its QEMU; returns when libvirt knows.
    ///
    /// # Panics
    /// If it does not run.
    #[expect(clippy::expect_used, reason = "the test started the guest")]
    pub fn kill_qemu(&self) {
        let pid = self.qemu_pid();
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(process, Signal::KILL).expect("a running guest");
        wait_until_gone(pid);
        wait_for("libvirt to notice", || (self.power() == "shut off").then_some(()));
    }

    /// Ends it at once.
    #[track_caller]
    pub fn destroy(&self) {
        self.virsh("destroy", &[]).succeeds();
    }

    /// Asks its agent to end it, and waits. Its volume is clean then.
    ///
    /// # Panics
    /// If it goes on.
    #[track_caller]
    pub fn shut_down(&self) {
        self.virsh("shutdown", &["--mode", "agent"]).succeeds();
        wait_for("the guest to end", || (self.power() == "shut off").then_some(()));
    }

    /// Names of its checkpoints, the oldest first.
    pub fn checkpoints(&self) -> Vec<String> {
        self.names(self.virsh("checkpoint-list", &["--name", "--topological"]))
    }

    /// Names of its snapshots.
    pub fn snapshots(&self) -> Vec<String> {
        self.names(self.virsh("snapshot-list", &["--name"]))
    }

    fn names(&self, listed: Outcome) -> Vec<String> {
        listed.stdout.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// Whether a backup job or another one runs on it.
    pub fn has_job(&self) -> bool {
        let info = self.virsh("domjobinfo", &[]);
        info.code == 0 && !info.stdout.contains("None")
    }

    /// What a backup may not leave on this guest.
    pub fn leftovers(&self) -> Vec<String> {
        let name = self.name();
        let mut left = Vec::new();
        left.extend(self.snapshots().into_iter().map(|snapshot| format!("snapshot {snapshot} of {name}")));
        if !self.files.is_empty() {
            let new = names_in(&self.folder).into_iter().filter(|file| file != "domain.xml" && file != "serial");
            let new = new.filter(|file| !self.files.contains(file));
            left.extend(new.map(|file| format!("file {file} in the folder of {name}")));
        }
        if self.power() == "shut off" {
            return left;
        }
        if self.has_job() {
            left.push(format!("a job on {name}"));
        }
        if self.is_frozen() {
            left.push(format!("{name} is frozen"));
        }
        let listed = self.virsh("domblklist", &["--details"]).stdout;
        for disk in self.spec.disks.iter().filter(|disk| disk.source.is_none()) {
            let file = disk.file(&self.folder);
            if !listed.lines().any(|line| line.trim_end().ends_with(&*file.to_string_lossy())) {
                left.push(format!("{} of {name} is not {} any more", disk.target, file.display()));
            }
        }
        left
    }
}
