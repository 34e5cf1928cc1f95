//! A VM held still for as long as somebody reads its disks: snapshot, work, snapshot gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blockdev::{ByteLen, ByteOffset, Extent, ReadAt, ReadError};

use super::freeze::{choose_disks, consistency_of, frozen_disks, refuse_preexisting};
use super::snapshot::{Made, Quiesce, Wish, make, remove_and_verify, still_there, thaw_late};
use super::{Cancel, Journal, Progress, Retry, RunId, cleanup};
use crate::config::StateDir;
use crate::error::{Family, Result};
use crate::export::{Consistency, SkippedDisk};
use crate::hypervisor::{Connected, Disk, Hypervisor, SnapshotId, VmConfig, VmInfo};
use crate::transport::{self, Route, Transport};

/// How often it is looked whether the snapshot is still there. Without it the disks would go on changing under their readers.
const LOOK: Duration = Duration::from_secs(20);
/// Looks that may fail one after the other before nobody knows any more.
const BLIND: u32 = 6;

/// How a VM is held.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct HoldOptions {
    /// What is asked of the guest.
    pub quiesce: Quiesce,
    /// The route wished for.
    pub transport: Transport,
    /// Disks to leave out, by address.
    pub exclude: Vec<String>,
    /// How often the removal of the snapshot is tried.
    pub removals: Retry,
    /// The command, for the journal.
    pub command: String,
}

/// A VM that stands still.
pub struct Held {
    /// The run that holds it.
    pub run: RunId,
    /// What it is made of.
    pub config: VmConfig,
    /// Its frozen disks by address. Reads block: no thread of the runtime may make them.
    pub disks: Vec<(String, Arc<dyn ReadAt>)>,
    /// In which state they are.
    pub consistency: Consistency,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Disks that were left out.
    pub skipped: Vec<SkippedDisk>,
    /// What users should know.
    pub warnings: Vec<String>,
}

/// Freezes a VM, hands it to `work`, and removes the snapshot when that is over, whatever came of it. `work` writes down in the journal
/// what it makes beside.
///
/// # Errors
/// Those of `work`, and of the snapshot; what could not be undone is named beside.
pub async fn hold<T>(
    connected: &Connected,
    state: &StateDir,
    vm: &VmInfo,
    options: &HoldOptions,
    progress: &Progress,
    cancel: &Cancel,
    work: impl AsyncFnOnce(Held, &mut Journal) -> Result<T>,
) -> Result<T> {
    let run = RunId::new();
    options.transport.route(&connected.uri.scheme)?;
    let hypervisor = connected.hypervisor.as_ref();
    let _only_one = state.lock_vm(&connected.uri.place(), &vm.moref.0)?;
    cleanup::reap(state, hypervisor, &connected.uri.to_string()).await;
    let config = cancel.or_stop(hypervisor.config(&vm.moref)).await?;
    refuse_preexisting(connected, &config).await?;
    let mut journal = Journal::begin(state, run, &options.command, &connected.uri.to_string())?;
    let holding = holding(connected, &config, options, progress, cancel, &mut journal, work);
    let result = cleanup::no_panic(holding).await;
    match result {
        Ok(done) => {
            journal.finish()?;
            Ok(done)
        }
        Err(error) if error.family() == Family::LeftBehind => Err(error),
        Err(error) => Err(cleanup::undone(error, hypervisor, journal, options.removals).await),
    }
}

async fn holding<T>(
    connected: &Connected,
    config: &VmConfig,
    options: &HoldOptions,
    progress: &Progress,
    cancel: &Cancel,
    journal: &mut Journal,
    work: impl AsyncFnOnce(Held, &mut Journal) -> Result<T>,
) -> Result<T> {
    let hypervisor = connected.hypervisor.as_ref();
    let (wanted, skipped) = choose_disks(config, &options.exclude)?;
    progress.step(&format!("{}: taking the snapshot", config.info.name));
    let route = options.transport.route(&connected.uri.scheme)?;
    let wish = Wish { quiesce: options.quiesce, disks: &wanted, route, since: &[], keep_point: false };
    let snapshot = make(hypervisor, config, &wish, journal, cancel).await?;
    let mut warnings = config.notes.clone();
    let consistency = consistency_of(hypervisor.quiescer(), config, &snapshot, options.quiesce, &mut warnings)?;
    let frozen = frozen_disks(hypervisor, config, &snapshot, &wanted, &skipped).await?;
    let lost = Arc::new(AtomicBool::new(false));
    let opening = open(connected, config, route, &snapshot, &frozen, &lost);
    let disks = cancel.or_stop(opening).await?;
    let held = Held {
        run: journal.run(),
        config: config.clone(),
        disks,
        consistency,
        snapshot: snapshot.id.clone(),
        skipped,
        warnings,
    };
    let watch = watch(hypervisor, config, &snapshot.id, &lost);
    let done = tokio::select! {
        done = work(held, journal) => done?,
        never = watch => match never {},
    };
    // What was read can be trusted only if the disks stood still to the end.
    still_there(hypervisor, config, &snapshot.id).await?;
    let info = &config.info;
    let (unconsolidated, tries) = (snapshot.unconsolidated, options.removals);
    remove_and_verify(hypervisor, &info.moref, &info.name, &snapshot.id, unconsolidated, tries).await?;
    journal.settle(snapshot.act)?;
    thaw_late(hypervisor, config, &snapshot, journal).await?;
    Ok(done)
}

async fn open(
    connected: &Connected,
    config: &VmConfig,
    route: Route,
    snapshot: &Made,
    frozen: &[Disk],
    lost: &Arc<AtomicBool>,
) -> Result<Vec<(String, Arc<dyn ReadAt>)>> {
    let link = connected.link();
    let mut disks = Vec::new();
    for disk in frozen {
        let opened = transport::open(&link, route, config, &snapshot.id, disk).await;
        let opened = opened.map_err(|e| e.within(format!("cannot open {} of {}", disk.address, config.info.name)))?;
        let disk_held: Arc<dyn ReadAt> = Arc::new(WhileHeld { disk: opened.reader(), lost: Arc::clone(lost) });
        disks.push((disk.address.to_string(), disk_held));
    }
    Ok(disks)
}

/// Looks from time to time whether the snapshot is still there, and says so to the readers if it is not.
async fn watch(
    hypervisor: &dyn Hypervisor,
    config: &VmConfig,
    snapshot: &SnapshotId,
    lost: &AtomicBool,
) -> std::convert::Infallible {
    let mut blind = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        match still_there(hypervisor, config, snapshot).await {
            Ok(()) => blind = 0,
            Err(error) => {
                blind += 1;
                if error.family() == Family::Corrupt || blind >= BLIND {
                    tracing::error!("{}; nothing more is handed out", error.line());
                    lost.store(true, Ordering::Relaxed);
                    std::future::pending::<()>().await;
                }
                tracing::warn!("nobody can say whether the snapshot is there: {}", error.line());
            }
        }
    }
}

/// A disk that can be read as long as its snapshot is there.
struct WhileHeld {
    disk: Arc<dyn ReadAt>,
    lost: Arc<AtomicBool>,
}

impl WhileHeld {
    fn check(&self, at: ByteOffset) -> std::result::Result<(), ReadError> {
        if self.lost.load(Ordering::Relaxed) {
            let source = std::io::Error::other("the snapshot that kept the disk still is gone");
            return Err(ReadError::Io { at, source });
        }
        Ok(())
    }
}

impl ReadAt for WhileHeld {
    fn size(&self) -> ByteLen {
        self.disk.size()
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> std::result::Result<(), ReadError> {
        self.check(at)?;
        self.disk.read_exact_at(at, buf)?;
        self.check(at)
    }

    fn extent_at(&self, at: ByteOffset) -> std::result::Result<Extent, ReadError> {
        self.check(at)?;
        self.disk.extent_at(at)
    }
}

#[cfg(test)]
mod tests {
    use blockdev::MemDisk;

    use super::*;

    #[test]
    fn nothing_is_handed_out_once_the_snapshot_is_gone() {
        let lost = Arc::new(AtomicBool::new(false));
        let disk = WhileHeld { disk: Arc::new(MemDisk::new(vec![7; 512])), lost: Arc::clone(&lost) };
        let mut buf = [0; 4];
        disk.read_exact_at(ByteOffset(0), &mut buf).unwrap();
        assert_eq!(buf, [7; 4]);
        lost.store(true, Ordering::Relaxed);
        let error = disk.read_exact_at(ByteOffset(0), &mut buf).unwrap_err();
        assert!(matches!(error, ReadError::Io { .. }), "{error}");
    }
}
