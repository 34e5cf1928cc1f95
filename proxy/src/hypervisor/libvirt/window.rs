//! The window in which a guest stands still: freeze, begin, thaw. What can be done before or after is not done here.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libvirt::{BackupStart, Code, Domain as Handle, Error as LibvirtError, State};

use super::connection::Connections;
use super::errors::from_libvirt;
use crate::error::{Error, Family, Result};
use crate::hypervisor::VmId;
use crate::hypervisor::fault::{Fault, with_fault};

/// How long a guest may take to freeze and to thaw, hooks and all.
pub(super) const FREEZE_LIMIT: Duration = Duration::from_secs(60);
/// libvirt asks the agent whether it listens, for five seconds, before it sends the command; then it answers us.
const AGENT_GRACE: Duration = Duration::from_secs(15);
/// libvirt itself waits 30 seconds for the lock of a domain's state.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);
/// Tries to thaw a guest whose agent does not answer, and the wait between them.
const THAWS: u32 = 3;
const BETWEEN_THAWS: Duration = Duration::from_secs(1);
/// How often a silent agent is asked again while its disks are read.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The guests that this process had frozen and that are not known to have thawed.
#[derive(Clone, Debug, Default)]
pub(super) struct Debts(Arc<Mutex<HashSet<VmId>>>);

impl Debts {
    fn change<T>(&self, work: impl FnOnce(&mut HashSet<VmId>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn has(&self, vm: &VmId) -> bool {
        self.change(|debts| debts.contains(vm))
    }

    pub(super) fn paid(&self, vm: &VmId) {
        self.change(|debts| debts.remove(vm));
    }

    fn add(&self, vm: &VmId) {
        self.change(|debts| debts.insert(vm.clone()));
    }
}

/// What is begun while the guest stands still.
#[derive(Clone, Debug)]
pub(super) enum Begin {
    /// A pull backup, with a checkpoint perhaps.
    Backup { backup: String, checkpoint: Option<String> },
    /// External overlays.
    Overlay { snapshot: String },
}

impl Begin {
    async fn call(&self, domain: &Handle) -> Result<(), LibvirtError> {
        match self {
            Self::Backup { backup, checkpoint } => {
                domain.backup_begin(backup, checkpoint.as_deref(), BackupStart::default(), BEGIN_LIMIT).await
            }
            Self::Overlay { snapshot } => {
                let how = libvirt::SnapshotCreate { disk_only: true, atomic: true, ..Default::default() };
                domain.snapshot_create(snapshot, how, BEGIN_LIMIT).await
            }
        }
    }
}

/// What came of a window.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) quiesced: bool,
    /// From the order to freeze until the guest was thawed.
    pub(super) still: Option<Duration>,
    pub(super) warnings: Vec<String>,
}

/// Why nothing was begun.
#[derive(Debug)]
pub(super) enum Failure {
    /// The guest was not frozen, and nothing was tried.
    Freeze(Error),
    /// libvirt did not begin; the guest is thawed.
    Begin(LibvirtError),
}

/// Everything that a window needs. It runs as a task of its own, so that nobody can drop it half done.
pub(super) struct Window {
    pub(super) connections: Arc<Connections>,
    pub(super) debts: Debts,
    pub(super) domain: Handle,
    pub(super) vm: VmId,
    pub(super) limit: Duration,
}

impl Window {
    /// Begins while the guest stands still, or at once if it need not.
    pub(super) async fn pass(self, quiesce: bool, begin: Begin) -> Result<Passed, Failure> {
        let work = async move { if quiesce { self.frozen(&begin).await } else { self.at_once(&begin).await } };
        tokio::spawn(work).await.unwrap_or_else(|broken| {
            Err(Failure::Freeze(Error::new(Family::Failed, format!("the freeze broke off: {broken}"))))
        })
    }

    async fn at_once(&self, begin: &Begin) -> Result<Passed, Failure> {
        begin.call(&self.domain).await.map_err(Failure::Begin)?;
        Ok(Passed::default())
    }

    async fn frozen(&self, begin: &Begin) -> Result<Passed, Failure> {
        let seconds = u32::try_from(self.limit.as_secs()).unwrap_or(u32::MAX).max(1);
        if let Err(error) = self.domain.agent_response_timeout(Some(seconds)).await {
            tracing::debug!("libvirt takes no limit for the agent: {error}");
        }
        let passed = self.within_limit(begin).await;
        let domain = self.domain.clone();
        tokio::spawn(async move { domain.agent_response_timeout(None).await }); // nobody waits for it
        passed
    }

    async fn within_limit(&self, begin: &Begin) -> Result<Passed, Failure> {
        if self.debts.has(&self.vm) {
            // An earlier try of ours left it frozen: what is found frozen now is ours to thaw, not somebody else's.
            self.thaw().await.map_err(Failure::Freeze)?;
        }
        self.debts.add(&self.vm);
        let began = Instant::now();
        let volumes = match self.domain.freeze(self.limit + AGENT_GRACE).await {
            Ok(volumes) => volumes,
            Err(error) => return Err(Failure::Freeze(self.not_frozen(error).await)),
        };
        let mut begin = Box::pin(begin.call(&self.domain));
        let left = self.limit.saturating_sub(began.elapsed());
        let (begun, in_time) = tokio::select! {
            begun = &mut begin => (Some(begun), true),
            () = tokio::time::sleep(left) => (None, false),
        };
        let thawed = self.thaw().await;
        let still = began.elapsed();
        let mut warnings = Vec::new();
        if let Err(error) = &thawed {
            let what = format!("the guest may stand still: {}", error.line());
            tracing::error!("{what}");
            warnings.push(what);
            self.ask_again();
        }
        let begun = match begun {
            Some(begun) => begun,
            // The guest had to thaw first. Whatever is begun now is of a running guest.
            None => begin.await,
        };
        begun.map_err(Failure::Begin)?;
        if !in_time {
            warnings
                .push(format!("libvirt took longer than {:?} to begin, so the guest was thawed before", self.limit));
        }
        if volumes == 0 {
            warnings.push("the guest agent found no file system that it can freeze".into());
        }
        // None are left to thaw if somebody else thawed them in between.
        let stood_still = !matches!(thawed, Ok(Some(0)));
        if !stood_still {
            warnings.push("somebody thawed the guest before its backup had begun".into());
        }
        Ok(Passed { quiesced: in_time && volumes > 0 && stood_still, still: Some(still), warnings })
    }

    /// The guest was not frozen: thaws it where that may be needed, and says why.
    async fn not_frozen(&self, error: LibvirtError) -> Error {
        let refusal = Refusal::of(&error);
        let mut thawed = Ok(None);
        match refusal {
            // Somebody else froze it, and will thaw it. And where no command came, nothing was frozen.
            Refusal::FrozenAlready | Refusal::NoAgent => self.debts.paid(&self.vm),
            // The thaw side of the hooks runs even when the freeze side failed.
            Refusal::Failed | Refusal::Late => thawed = self.thaw().await,
        }
        let text = error.to_string();
        let (what, hint) = match refusal {
            Refusal::FrozenAlready => (
                "the guest is frozen already, and not by us",
                "another backup may be at work; if none is, thaw the guest by `virsh domfsthaw`",
            ),
            Refusal::NoAgent => (
                "the QEMU guest agent does not answer",
                "look at the QEMU guest agent in the guest, or use --quiesce try",
            ),
            Refusal::Failed => {
                ("the guest could not be frozen", "look at the freeze hooks in the guest, or use --quiesce try")
            }
            Refusal::Late => {
                ("the guest did not freeze in time", "look at the freeze hooks in the guest, or use --quiesce try")
            }
        };
        let mut what = what.to_owned();
        if let Err(left) = thawed {
            what = format!(
                "{what}, and its agent does not answer any more ({}): it freezes if a hook that hangs goes on",
                left.line()
            );
            self.ask_again();
        }
        with_fault(Error::new(Family::Failed, what), Fault::NotQuiesced, text).hint(hint)
    }

    async fn thaw(&self) -> Result<Option<u32>> {
        let volumes = thaw(&self.connections, &self.vm, self.limit + AGENT_GRACE, THAWS).await?;
        self.debts.paid(&self.vm);
        Ok(volumes)
    }

    /// Goes on asking a silent agent for the thaw while the disks are read.
    fn ask_again(&self) {
        let (connections, debts, vm) = (self.connections.clone(), self.debts.clone(), self.vm.clone());
        tokio::spawn(async move {
            while debts.has(&vm) {
                tokio::time::sleep(ASK_AGAIN).await;
                if debts.has(&vm) && thaw(&connections, &vm, FREEZE_LIMIT + AGENT_GRACE, 1).await.is_ok() {
                    tracing::warn!("the guest is thawed after all");
                    debts.paid(&vm);
                }
            }
        });
    }
}

/// Thaws a guest; answers how many file systems, where the agent said so. One that does not run, or is gone, has nothing frozen.
///
/// # Errors
/// If nobody can say that it is thawed.
pub(super) async fn thaw(connections: &Connections, vm: &VmId, limit: Duration, tries: u32) -> Result<Option<u32>> {
    let mut last = None;
    for n in 0..tries.max(1) {
        if n > 0 {
            tokio::time::sleep(BETWEEN_THAWS).await;
        }
        let domain = match connections.domain(vm).await {
            Err(gone) if gone.family() == Family::NoVm => return Ok(None),
            Err(error) => {
                last = Some(error);
                continue;
            }
            Ok(domain) => domain,
        };
        match domain.thaw(limit).await {
            Ok(volumes) => return Ok(Some(volumes)),
            Err(error) if error.is(Code::NO_DOMAIN) => return Ok(None),
            Err(error) => {
                if is_stopped(&domain).await || is_thawed(&domain, &error).await {
                    return Ok(None);
                }
                last = Some(from_libvirt(error));
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Family::Failed, "the guest was not asked to thaw")))
}

async fn is_stopped(domain: &Handle) -> bool {
    match domain.state().await {
        Ok(reason) => matches!(reason.state, State::ShutOff | State::Crashed),
        Err(error) => error.is(Code::NO_DOMAIN),
    }
}

/// A thaw whose hooks fail is an error all the same; the agent itself knows better.
async fn is_thawed(domain: &Handle, error: &LibvirtError) -> bool {
    if error.is(Code::AGENT_UNRESPONSIVE) || error.is(Code::AGENT_COMMAND_TIMEOUT) || error.is_lost() {
        return false;
    }
    let status = domain.agent_command(r#"{"execute":"guest-fsfreeze-status"}"#, 5).await;
    let thawed = status.is_ok_and(|status| status.contains("\"thawed\""));
    if thawed {
        tracing::warn!("the guest is thawed, and its thaw hook failed: {error}");
    }
    thawed
}

/// How a freeze failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The guest is frozen already.
    FrozenAlready,
    /// No agent answers, so no command came to it.
    NoAgent,
    /// The agent tried, and failed.
    Failed,
    /// The agent did not answer in time: it may freeze the guest yet.
    Late,
}

impl Refusal {
    fn of(error: &LibvirtError) -> Self {
        let text = error.to_string();
        if text.contains("the agent is in frozen state") || text.contains("has been disabled") {
            return Self::FrozenAlready;
        }
        // libvirt waited for its lock on the domain, and sent nothing: who holds it may be freezing the guest for a backup of his own.
        if error.is(Code::OPERATION_TIMEOUT) {
            return Self::NoAgent;
        }
        // libvirt has the same number for an agent that does not listen and one that goes silent over a command.
        if text.contains("timed out")
            || text.contains("timeout")
            || error.is(Code::AGENT_COMMAND_TIMEOUT)
            || error.is_lost()
        {
            return Self::Late;
        }
        match error.code() {
            Some(Code::AGENT_UNRESPONSIVE) => Self::NoAgent,
            Some(Code::ARGUMENT_UNSUPPORTED | Code::OPERATION_INVALID | Code::CONFIG_UNSUPPORTED) => Self::NoAgent,
            _ => Self::Failed,
        }
    }
}
