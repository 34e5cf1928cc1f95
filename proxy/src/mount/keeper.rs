//! The files of a running VM. Three processes, so that what reads a guest's bytes has neither network nor password:
//!
//! ```text
//!   command ── asks ──► keeper: snapshot, transport, journal ── disks over socket pairs ──► server: locked in, file systems, FUSE
//!      ▲                  │                                                                   │
//!      └── report ────────┴────────────────────────── report ─────────────────────────────────┘
//! ```
//!
//! The command ends when the tree is ready. The keeper waits for the server to end, which it does when the tree is unmounted, and then
//! removes the snapshot.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use blockdev::ReadAt;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::directory::Directory;
use super::report::Report;
use super::spec::{Answer, MountSpec, receive, send};
use super::start::{Program, start};
use super::{link, undo as way_back};
use crate::config::{ConnectionUri, PasswordSources, Scheme, StateDir};
use crate::error::{Context, Error, Family, Result};
use crate::export::Consistency;
use crate::hypervisor::{Spec, connect};
use crate::job::{Cancel, Held, HoldOptions, Journal, Progress, ProgressMode, hold};

/// The hidden command that makes a process the keeper of a VM's disks.
pub const KEEPER_COMMAND: &str = "mount-keeper";
/// Connections between keeper and server: reads under way at once.
const LINKS: usize = 4;

/// What to mount of which VM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeepRequest {
    /// The connection, with its options.
    pub uri: String,
    /// The VM.
    pub vm: String,
    /// How it is held still.
    pub hold: HoldOptions,
    /// How long making the snapshot may take.
    pub snapshot_limit: Option<Duration>,
    /// Where the journal is.
    pub state: PathBuf,
    /// The directory.
    pub directory: PathBuf,
    /// Whether other users may read.
    pub allow_other: bool,
    /// How progress is shown.
    pub progress: ProgressMode,
    /// Whether log lines look as VCB's did, and how much more than warnings is logged.
    pub log: (bool, u8),
}

/// Mounts the files of a VM: starts its keeper and waits until the tree is ready. With `stay` until it is unmounted, too.
///
/// # Errors
/// Those of the keeper, which then has undone what it did, or says what is left.
pub async fn keep(request: &KeepRequest, passwords: &PasswordSources, cancel: &Cancel, stay: bool) -> Result<Kept> {
    let uri: ConnectionUri = request.uri.parse()?;
    request.vm.parse::<Spec>()?;
    request.hold.transport.route(&uri.scheme)?;
    Directory::plan(&request.directory)?;
    // Asked for here, where there is a terminal. A lab's own is known to who connects to it.
    let password = match uri.scheme {
        Scheme::Lab(_) | Scheme::Libvirt(_) => None,
        _ => Some(passwords.password(&uri)?),
    };
    let (mut control, theirs) = UnixStream::pair().failed(|| "cannot make a socket pair".into())?;
    let program = Program::this()?;
    let mut keeper = Command::new(&program.path)
        .arg(KEEPER_COMMAND)
        // It comes over the socket.
        .env_remove("STILLFRAME_PASSWORD")
        .env_remove("STILLFRAME_PASSWORD_FD")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .failed(|| format!("cannot start {}", program.path.display()))?;
    send(&mut control, request)?;
    send(&mut control, &password.as_ref().map(|password| password.as_str()))?;
    let pid = Pid::from_child(&keeper);
    let answer = control.try_clone().failed(|| "cannot wait for the keeper".into())?;
    let mut waiting = tokio::task::spawn_blocking(move || receive::<Answer>(&answer));
    let stopped = || "the wait for the keeper was stopped".to_owned();
    let answer = match cancel.or_stop(async { (&mut waiting).await.failed(stopped)? }).await {
        Err(error) if error.family() == Family::Cancelled => {
            let _ = kill_process(pid, Signal::TERM); // it may have ended, or got the same signal
            match waiting.await.failed(stopped)? {
                Ok(None) => return Err(error), // it had not begun
                answer => answer,
            }
        }
        answer => answer,
    };
    match answer? {
        Some(answer) => {
            let report = answer.into_result()?;
            if stay {
                return Ok(Kept { report, keeper: Some(keeper) });
            }
            Ok(Kept { report, keeper: None })
        }
        None => {
            let status = keeper.wait().failed(|| "cannot wait for the keeper".into())?;
            Err(Error::new(Family::Failed, format!("the keeper of the VM's disks ended before it was ready: {status}"))
                .hint("`stillframe cleanup` undoes what it left"))
        }
    }
}

/// A mount of a VM's files.
pub struct Kept {
    /// What it shows.
    pub report: Report,
    keeper: Option<std::process::Child>,
}

impl Kept {
    /// Waits until the mount is gone and its snapshot too; a cancel unmounts it.
    ///
    /// # Errors
    /// [`Family::LeftBehind`] if something is left.
    pub async fn stay(self, state: &StateDir, cancel: &Cancel) -> Result<()> {
        let Some(mut keeper) = self.keeper else { return Ok(()) };
        let pid = Pid::from_child(&keeper);
        let mut waiting = tokio::task::spawn_blocking(move || keeper.wait());
        let stopped = || "the wait for the keeper was stopped".to_owned();
        let ended = match cancel.or_stop(async { (&mut waiting).await.failed(stopped) }).await {
            Err(error) if error.family() == Family::Cancelled => {
                let _ = kill_process(pid, Signal::TERM); // it may have ended
                waiting.await.failed(stopped)?
            }
            ended => ended?,
        };
        let status = ended.failed(|| "cannot wait for the keeper".into())?;
        let run = self.report.run;
        let outcome = way_back::outcome_of(state, run).await;
        way_back::take_log(state, run).iter().for_each(|line| crate::tell(line));
        outcome?;
        if status.success() {
            return Ok(());
        }
        Err(Error::new(Family::LeftBehind, format!("the keeper of {} ended: {status}", self.report.source))
            .hint("`stillframe cleanup` undoes what it left"))
    }
}

/// What a keeper is told: who asks, for what, and how to log in.
pub struct Told {
    control: UnixStream,
    /// What is asked for.
    pub request: KeepRequest,
    password: Option<Zeroizing<String>>,
}

/// Reads what the command that started this process wants; `None` if nobody did.
#[must_use]
pub fn told() -> Option<Told> {
    let control = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().ok()?);
    let request = receive(&control).ok()??;
    let password: Option<String> = receive(&control).ok()??;
    Some(Told { control, request, password: password.map(Zeroizing::new) })
}

/// Keeps a VM's disks until its mount is gone.
///
/// # Errors
/// What went wrong. The command was told if it still waited.
pub async fn run_keeper(told: Told) -> Result<()> {
    let Told { control, request, password } = told;
    let mut control = Some(control);
    let result = run(&request, password, &mut control).await;
    if let (Err(error), Some(mut control)) = (&result, control) {
        // Nobody may wait any more. The command prints it, so this process does not.
        let _ = send(&mut control, &Answer::failed(error));
        std::process::exit(i32::from(error.family().exit_code()));
    }
    result
}

async fn run(
    request: &KeepRequest,
    password: Option<Zeroizing<String>>,
    control: &mut Option<UnixStream>,
) -> Result<()> {
    let cancel = Cancel::on_signals()?;
    let state = StateDir::at(&request.state)?;
    let uri: ConnectionUri = request.uri.parse()?;
    let spec: Spec = request.vm.parse()?;
    let passwords = PasswordSources { given: password, ..PasswordSources::default() };
    let progress = Progress::new(request.progress);
    let connected = cancel.or_stop(connect(&uri, &passwords, request.snapshot_limit)).await?;
    let run = OnceLock::new();
    let result = async {
        let vm = cancel.or_stop(connected.one(&spec)).await?;
        let server = connected.hypervisor.describe();
        let work = async |held: Held, journal: &mut Journal| {
            let _ = run.set(held.run); // it is set here alone
            serve(request, &server, held, journal, &state, &cancel, control).await
        };
        hold(&connected, &state, &vm, &request.hold, &progress, &cancel, work).await
    };
    let result = result.await;
    // Before the login ends, which may take its time: somebody waits for it.
    if let (None, Some(run)) = (&control, run.get()) {
        let outcome = result.as_ref().map(drop).map_err(|error| Error::new(error.family(), error.line()));
        way_back::write_outcome(&state, *run, &outcome)?;
    }
    connected.close().await;
    result
}

/// Mounts, tells the command, leaves the terminal and waits.
async fn serve(
    request: &KeepRequest,
    server: &str,
    held: Held,
    journal: &mut Journal,
    state: &StateDir,
    cancel: &Cancel,
    control: &mut Option<UnixStream>,
) -> Result<()> {
    let directory = Directory::plan(&request.directory)?;
    let act = journal.intend(directory.act())?;
    let names: Vec<String> = held.disks.iter().map(|(name, _)| name.clone()).collect();
    let (links, _) = serve_links(held.disks.into_iter().map(|(_, disk)| disk).collect())?;
    let mut warnings = held.warnings;
    warnings.extend(held.skipped.iter().map(|skipped| format!("{} was left out: {}", skipped.address, skipped.reason)));
    let spec = MountSpec {
        run: held.run,
        state: request.state.clone(),
        command: request.hold.command.clone(),
        kept: names,
        source: format!("{} ({server})", held.config.info.name),
        directory: directory.path.clone(),
        allow_other: request.allow_other,
        snapshot: Some(format!("snapshot {}, {}", held.snapshot, words_of(held.consistency))),
        warnings,
        ..MountSpec::default()
    };
    let started = start(&spec, &Program::this()?, links, cancel).await?;
    let report = Answer::of(Ok(started.report.clone()));
    leave_the_terminal(Some(&log_of(state, held.run)?))?;
    leave_the_session()?;
    if let Some(mut control) = control.take() {
        send(&mut control, &report)?;
    }
    let ended = started.ended(held.run, &directory.path, cancel).await;
    way_back::undo(held.run, &directory.path, directory.missing)?;
    journal.settle(act)?;
    ended
}

const fn words_of(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Quiesced => "quiesced",
        Consistency::CrashConsistent => "crash-consistent",
        Consistency::PoweredOff => "powered off",
    }
}

/// Threads that answer the server, one for each connection; they end with it. Answers the server's ends, and the threads.
pub(super) fn serve_links(disks: Vec<Arc<dyn ReadAt>>) -> Result<(Vec<UnixStream>, Vec<JoinHandle<()>>)> {
    let what = || "cannot make a connection for the server".to_owned();
    let (mut theirs, mut threads) = (Vec::new(), Vec::new());
    for _ in 0..LINKS {
        let (ours, their) = UnixStream::pair().failed(what)?;
        theirs.push(their);
        let disks = disks.clone();
        let serve = move || {
            if let Err(error) = link::serve_disks(ours, &disks) {
                tracing::debug!("a connection to the server of the mount ended: {error}");
            }
        };
        threads.push(std::thread::Builder::new().name("disks".into()).spawn(serve).failed(what)?);
    }
    Ok((theirs, threads))
}

/// From here on what is said goes into the mount's log.
fn log_of(state: &StateDir, run: crate::job::RunId) -> Result<File> {
    let path = state.mount_logs()?.join(format!("{run}.log"));
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    log.failed(|| format!("cannot write {}", path.display()))
}

/// From here on the terminal is somebody else's, and errors go to `errors`, or nowhere.
pub(super) fn leave_the_terminal(errors: Option<&File>) -> Result<()> {
    let what = || "cannot leave the terminal".to_owned();
    let nothing = OpenOptions::new().read(true).write(true).open("/dev/null").failed(what)?;
    rustix::stdio::dup2_stdin(&nothing).failed(what)?;
    rustix::stdio::dup2_stdout(&nothing).failed(what)?;
    rustix::stdio::dup2_stderr(errors.unwrap_or(&nothing)).failed(what)
}

/// A signal from the terminal is not for this process any more.
pub(super) fn leave_the_session() -> Result<()> {
    match rustix::process::setsid() {
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()), // who leads a session already stays in it
        Err(error) => Err(error).failed(|| "cannot leave the session".into()),
    }
}
