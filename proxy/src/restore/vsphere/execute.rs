//! Doing what the plan says, under the journal.

use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{ByteLen, ByteOffset, ReadAt};
use bytes::Bytes;
use futures_util::stream;
use vmdk_rs::{AdapterType, CreateOptions, Image, PlainName, Subformat};

use super::super::source::{Backup, BackupDisk};
use super::plan::{PlannedDisk, RestorePlan};
use crate::config::StateDir;
use crate::error::{Context, Error, Family, Result};
use crate::export::{BLOCK, DiskDigest, OrderedDigest};
use crate::hypervisor::{Connected, VmId, is_refusal, worth_rereading};
use crate::job::{Act, Cancel, Journal, Meter, Progress, Retry, RunId, no_panic, undone};
use crate::transport::{self, from_read};

/// Blocks read ahead of the network.
const AHEAD: usize = 4;

/// Restores by `plan`. Answers the new VM's id.
///
/// # Errors
/// What went wrong; then the target has nothing of ours, or the error says what is left.
pub async fn restore(
    connected: &Connected,
    state: &StateDir,
    backup: Backup,
    plan: &RestorePlan,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<VmId> {
    let hypervisor = connected.hypervisor.as_ref();
    let run = RunId::new();
    let mut journal = Journal::begin(state, run, "restore", &connected.uri.to_string())?;
    let work = Work { connected, plan, progress, cancel, run };
    let vm = match no_panic(work.run(&mut journal, backup)).await {
        Ok(vm) => vm,
        Err(error) => return Err(undone(error, hypervisor, journal, Retry::REMOVALS).await),
    };
    journal.done()?;
    journal.finish()?;
    if let Err(error) = hypervisor.unmark_folder(&plan.datacenter, &plan.folder, run).await {
        tracing::warn!("the mark of this run stays in {}: {}", plan.folder, error.line());
    }
    Ok(vm)
}

struct Work<'a> {
    connected: &'a Connected,
    plan: &'a RestorePlan,
    progress: &'a Progress,
    cancel: &'a Cancel,
    run: RunId,
}

impl Work<'_> {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.plan.folder)
    }

    async fn put_bytes(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let len = bytes.len() as u64;
        let body = stream::iter([Ok(Bytes::from(bytes))]);
        let link = self.connected.link();
        let path = self.path(name);
        let upload = transport::upload(&link, &self.plan.datacenter, &path, len, body);
        self.cancel.or_stop(upload).await
    }

    async fn run(&self, journal: &mut Journal, backup: Backup) -> Result<VmId> {
        let (hypervisor, plan) = (self.connected.hypervisor.as_ref(), self.plan);
        let datacenter = plan.datacenter.clone();
        self.cancel.check()?;
        let act = Act::DatastoreDirectory { datacenter: datacenter.clone(), path: plan.folder.clone() };
        let folder = journal.intend(act)?;
        if let Err(error) = hypervisor.make_folder(&datacenter, &plan.folder).await {
            if is_refusal(&error) {
                journal.settle(folder)?; // nothing was made, or it is somebody else's
            }
            return Err(error);
        }
        // Undoing removes a folder only by this mark; until it is there, the folder is empty.
        if let Err(error) = hypervisor.mark_folder(&datacenter, &plan.folder, self.run).await {
            // Made by us a moment ago; a later run could not tell.
            if let Err(left) = hypervisor.remove_folder(&datacenter, &plan.folder).await {
                tracing::warn!("the empty folder {} is left: {}", plan.folder, left.line());
            }
            return Err(error);
        }
        journal.learn(folder, "marked")?;
        let nvram = match &plan.nvram {
            Some((from, to)) => Some((to, backup.checked_file(from)?)),
            None => None,
        };
        for disk in backup.disks {
            let planned = plan.disks.iter().find(|p| p.address == disk.address);
            let planned =
                planned.ok_or_else(|| Error::new(Family::Failed, format!("{} was not planned", disk.address)))?;
            let address = disk.address.clone();
            self.disk(planned, disk)
                .await
                .map_err(|e| e.within(format!("cannot restore {address} of {}", plan.name)))?;
        }
        if let Some((to, bytes)) = nvram {
            self.put_bytes(to, bytes).await?;
        }
        self.put_bytes(&plan.config_file, plan.vmx.clone().into_bytes()).await?;
        let config_path = self.path(&plan.config_file);
        self.cancel.check()?;
        let registration = journal.intend(Act::Registration { config_path: config_path.clone(), datacenter })?;
        self.progress.step(&format!("{}: registering", plan.name));
        let vm = hypervisor.register(&plan.target, &config_path, &plan.name).await?;
        journal.learn(registration, &vm.0)?;
        Ok(vm)
    }

    async fn disk(&self, planned: &PlannedDisk, disk: BackupDisk) -> Result<()> {
        let stem = planned.to.strip_suffix(".vmdk").unwrap_or(&planned.to);
        let flat = format!("{stem}-flat.vmdk");
        let descriptor = target_descriptor(&disk.image, &flat, &planned.device)?;
        let expected = disk.digest;
        let image = Arc::new(disk.image);
        let sent = self.send(planned, image, &flat).await?;
        if expected.as_ref().is_some_and(|expected| *expected != sent) {
            let what = format!("{} does not hold what was backed up: its digest is {sent}", planned.from);
            return Err(Error::new(Family::Corrupt, what).hint("restore from another backup of this VM"));
        }
        if self.plan.read_back {
            let stored = self.read_back(planned, &flat).await?;
            if stored != sent {
                return Err(Error::new(
                    Family::Corrupt,
                    format!("the datastore does not hold what was sent: {stored}"),
                ));
            }
        }
        self.put_bytes(&planned.to, descriptor.into_bytes()).await
    }

    /// Sends the whole disk; answers the digest of what was sent.
    async fn send(&self, planned: &PlannedDisk, image: Arc<Image>, flat: &str) -> Result<DiskDigest> {
        let meter = self.progress.meter(&format!("{} {}", self.plan.name, planned.address), planned.capacity);
        let digest = Arc::new(Mutex::new(OrderedDigest::new(planned.capacity)));
        let (body, reader) = body(image, digest.clone(), meter.clone());
        let link = self.connected.link();
        let path = self.path(flat);
        let upload = transport::upload(&link, &self.plan.datacenter, &path, planned.capacity, body);
        let sent = self.cancel.or_stop(upload).await;
        // A read error of ours breaks the upload; it is the one worth telling.
        reader
            .await
            .failed(|| "the reader of the image broke off".into())?
            .or_else(|e| if sent.is_ok() { Ok(()) } else { Err(e) })?;
        sent?;
        meter.finish();
        let digest = Arc::into_inner(digest).ok_or_else(|| Error::new(Family::Failed, "the upload did not end"))?;
        Ok(digest.into_inner().unwrap_or_else(PoisonError::into_inner).finish())
    }

    async fn read_back(&self, planned: &PlannedDisk, flat: &str) -> Result<DiskDigest> {
        let label = format!("{} {} (reading back)", self.plan.name, planned.address);
        let meter = self.progress.meter(&label, planned.capacity);
        let path = self.path(flat);
        let mut digest = OrderedDigest::new(planned.capacity);
        let (mut at, mut failures) = (0, 0);
        while at < planned.capacity {
            let before = at;
            let read = self.read_on(&path, &mut at, planned.capacity, &mut digest, &meter);
            let Err(error) = self.cancel.or_stop(read).await else { break };
            failures = if at > before { 1 } else { failures + 1 };
            if failures > Retry::READS.times || !worth_rereading(&error) {
                return Err(error);
            }
            let wait = Retry::READS.wait_before(failures - 1);
            tracing::warn!("{}; reading on at byte {at:#x} in {wait:?}", error.line());
            tokio::time::sleep(wait).await;
        }
        meter.finish();
        Ok(digest.finish())
    }

    /// Reads a stored disk from byte `at` to its end; `at` moves with what came.
    async fn read_on(
        &self,
        path: &str,
        at: &mut u64,
        capacity: u64,
        digest: &mut OrderedDigest,
        meter: &Meter,
    ) -> Result<()> {
        let link = self.connected.link();
        let (size, mut body) = transport::download(&link, &self.plan.datacenter, path, *at).await?;
        if size != capacity {
            return Err(Error::new(Family::Corrupt, format!("{path} has {size} bytes instead of {capacity}")));
        }
        while let Some(bytes) = body.next().await? {
            digest.push(&bytes);
            meter.add(bytes.len() as u64);
            *at += bytes.len() as u64;
        }
        Ok(())
    }
}

type Body = std::pin::Pin<Box<dyn futures_util::Stream<Item = std::io::Result<Bytes>> + Send>>;

/// The bytes of an image in order, read ahead on a thread of their own.
fn body(
    image: Arc<Image>,
    digest: Arc<Mutex<OrderedDigest>>,
    meter: Meter,
) -> (Body, tokio::task::JoinHandle<Result<()>>) {
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(AHEAD);
    let reader = tokio::task::spawn_blocking(move || {
        let capacity = image.size().0;
        let mut at = 0;
        while at < capacity {
            let len = BLOCK.min(capacity - at);
            let mut block = vec![0; len as usize];
            if let Err(error) = image.read_exact_at(ByteOffset(at), &mut block) {
                let _ = sender.blocking_send(Err(std::io::Error::other("the image cannot be read")));
                return Err(from_read(error, "the image cannot be read"));
            }
            digest.lock().unwrap_or_else(PoisonError::into_inner).push(&block);
            if sender.blocking_send(Ok(Bytes::from(block))).is_err() {
                return Ok(()); // the upload ended early and says why
            }
            meter.add(len);
            at += len;
        }
        Ok(())
    });
    let body = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    (Box::pin(body), reader)
}

/// The descriptor of the restored flat disk: what the backup's said of the hardware, with a new content id.
fn target_descriptor(image: &Image, flat: &str, device: &str) -> Result<String> {
    let source = image.descriptor();
    // A restored disk beside its original must not have the same UUID.
    let mut options =
        CreateOptions { uuid: None, ..CreateOptions::like(source, Subformat::VmfsFlat, ByteLen(image.size().0)) };
    // A disk that was on no SCSI controller may come to one.
    if device.starts_with("scsi") && options.adapter == AdapterType::Ide {
        options.adapter = AdapterType::LsiLogic;
    }
    let what = || "cannot describe the restored disk".to_owned();
    let flat = PlainName::new(flat).failed(what)?;
    Ok(options.flat_descriptor(&flat).failed(what)?.to_string())
}
