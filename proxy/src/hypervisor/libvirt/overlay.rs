//! External overlays: the guest writes to new images, what was below stands still and is read directly, and in the end the overlays
//! are brought into it again.

use std::time::{Duration, Instant};

use libvirt::{BlockCommit, BlockJobEnd, Code, Domain as Handle, XmlKind};

use super::LibvirtHost;
use super::backup_xml::{name_of, run_in_name};
use super::config::{Standing, live, owner};
use super::errors::from_libvirt;
use super::id::{Id, Kind};
use super::job::refuse_busy;
use super::offline::{Offline, Server};
use super::qemu_img::qemu_img;
use super::window::{Begin, Failure};
use crate::error::{Context, Error, Family, Result};
use crate::hypervisor::{Disk, FreezeRequest, Frozen, NativeDisk, NbdExport, Snapshot, SnapshotId, VmId};
use crate::job::{RunId, run_of};
use crate::machine::{Domain, DomainDisk, Element, Source};

/// What ends the name of an overlay.
const OVERLAY: &str = ".overlay";
/// How long a merge may go without any progress.
const STILL_LIMIT: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);
/// How long a merge of images of a machine that does not run may take.
const OFFLINE_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// The run whose overlay a disk writes to.
pub(super) fn run_of_overlay(disk: &DomainDisk) -> Option<RunId> {
    let path = disk.source.as_ref()?.path()?.strip_suffix(OVERLAY)?;
    path.split('/').find_map(run_in_name)
}

fn snapshot_xml(request: &FreezeRequest<'_>, overlays: &[(String, String)], others: &[String]) -> String {
    let mut disks = Element::new("disks");
    for (target, path) in overlays {
        let disk = Element::new("disk").attr("name", target).attr("snapshot", "external").attr("type", "file");
        disks.push(
            disk.with(Element::new("driver").attr("type", "qcow2")).with(Element::new("source").attr("file", path)),
        );
    }
    for target in others {
        disks.push(Element::new("disk").attr("name", target).attr("snapshot", "no"));
    }
    Element::new("domainsnapshot")
        .with(Element::new("name").text(request.name))
        .with(Element::new("description").text(request.description))
        .with(disks)
        .to_string()
}

impl LibvirtHost {
    /// Puts overlays above the wanted disks, with the guest standing still if asked to, and opens what is below.
    pub(super) async fn create_overlays(&self, request: &FreezeRequest<'_>) -> Result<Frozen> {
        let vm = &request.vm.info.moref;
        let domain = self.connections.domain(vm).await?;
        refuse_busy(&domain).await?;
        let before = live(&domain).await?;
        let wanted = request.vm.disks.iter().filter(|disk| request.disks.contains(&disk.address));
        let targets: Vec<_> = wanted.filter_map(|disk| disk.alias.clone()).collect();
        let mut others: Vec<_> = before.disks().iter().map(|disk| disk.target.clone()).collect();
        others.retain(|target| !targets.contains(target));
        let folder = self.scratch.path().join(name_of(request.run));
        let overlay =
            |target: &String| (target.clone(), folder.join(format!("{target}{OVERLAY}")).display().to_string());
        let overlays: Vec<_> = targets.iter().map(overlay).collect();
        let snapshot = snapshot_xml(request, &overlays, &others);
        self.scratch.make(request.run, vm, request.description, owner(&before))?;
        let id = Id { kind: Kind::Overlay, run: request.run, vm: vm.clone() };
        let passed = match self.window(&domain, vm).pass(request.quiesce, Begin::Overlay { snapshot }).await {
            Ok(passed) => passed,
            Err(failure) => {
                let error = match failure {
                    Failure::Freeze(error) => error,
                    Failure::Begin(error) => from_libvirt(error).within("libvirt did not make the overlays"),
                };
                if self.is_named(&domain, request.run).await.unwrap_or(true) {
                    return Err(error); // the journal's act is undone, which merges
                }
                return Err(match self.scratch.remove(request.run) {
                    Ok(()) => error,
                    Err(left) => error.and_left(&left),
                });
            }
        };
        self.note_addresses(&domain).await;
        self.open_bases(request, &before, &id).await?;
        Ok(Frozen {
            id: id.to_snapshot(),
            quiesced: Some(passed.quiesced),
            still: passed.still,
            warnings: passed.warnings,
        })
    }

    /// Opens the images as they were before the overlays came.
    async fn open_bases(&self, request: &FreezeRequest<'_>, before: &Domain, id: &Id) -> Result<()> {
        let mut offline = Offline::default();
        for disk in request.vm.disks.iter().filter(|disk| request.disks.contains(&disk.address)) {
            let target = disk.alias.clone().unwrap_or_default();
            let within =
                |error: Error| error.within(format!("cannot read {target} of {} directly", request.vm.info.name));
            let known = before.disks().into_iter().find(|known| known.target == target);
            let (source, format) = known
                .and_then(|known| Some((known.source?, known.format)))
                .ok_or_else(|| within(Error::new(Family::Failed, "it has no image")))?;
            let options = self.image_options(&source, format.as_deref().unwrap_or("raw")).await.map_err(within)?;
            let socket = self.scratch.socket(request.run, &target)?;
            offline.add(Server::start(&target, &options, &socket).await.map_err(within)?);
        }
        self.offline.lock().await.insert(id.to_snapshot().0, offline);
        Ok(())
    }

    /// The disks below the overlays.
    pub(super) async fn overlay_disks(&self, id: &Id, known: &[Disk]) -> Result<Vec<Disk>> {
        let held = self.offline.lock().await;
        let Some(offline) = held.get(&id.to_snapshot().0) else {
            return Err(Error::new(Family::Failed, "the images below the overlays are not open any more"));
        };
        let disks = offline.servers().filter_map(|server| {
            let known = known.iter().find(|disk| disk.alias.as_deref() == Some(server.target()))?;
            let unknown = Some("images that are read directly do not tell what changed".into());
            let native = NbdExport { uri: server.uri().clone(), changes: None, unknown };
            Some(Disk { capacity: server.size(), native: NativeDisk::Nbd(Box::new(native)), ..known.clone() })
        });
        Ok(disks.collect())
    }

    /// Whether the machine, as it runs or as it is stored, names anything of `run`, at the top of a chain or below.
    async fn is_named(&self, domain: &Handle, run: RunId) -> Result<bool> {
        let folder = format!("/{}/", name_of(run));
        for inactive in [false, true] {
            let kind = XmlKind { inactive, ..XmlKind::default() };
            match domain.xml(kind).await {
                Ok(xml) if xml.contains(&folder) => return Ok(true),
                Ok(_) => {}
                Err(error) => return Err(from_libvirt(error)),
            }
        }
        Ok(false)
    }

    /// The targets that write to overlays of `run`.
    async fn overlays_of(&self, domain: &Handle, run: RunId) -> Result<Vec<String>> {
        let disks = live(domain).await?.disks();
        Ok(disks.iter().filter(|disk| run_of_overlay(disk) == Some(run)).map(|disk| disk.target.clone()).collect())
    }

    /// Overlays above the disks of a domain, and what libvirt calls its snapshots.
    pub(super) async fn listed(&self, domain: &Handle, vm: &VmId) -> Result<Vec<Snapshot>> {
        let mut runs: Vec<RunId> = live(domain).await?.disks().iter().filter_map(run_of_overlay).collect();
        let mut all = Vec::new();
        for Listed { name, description, root } in snapshots_of(domain).await? {
            let ours = run_of(&name, &description);
            runs.retain(|run| ours != Some(*run));
            let id = match ours {
                Some(run) => Id { kind: Kind::Overlay, run, vm: vm.clone() }.to_snapshot(),
                None => SnapshotId(format!("snapshot:{name}")),
            };
            let seconds = root.text_of("creationTime").and_then(|time| time.parse().ok()).unwrap_or_default();
            let created = jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default();
            all.push(Snapshot { id, name, description, created, quiesced: false, depth: 0 });
        }
        runs.dedup();
        // Overlays whose record libvirt lost.
        all.extend(runs.into_iter().map(|run| self.kept_by(Kind::Overlay, run, vm)));
        Ok(all)
    }

    /// Brings overlays of ours into what is below them, and removes them. Gone already counts as success.
    pub(super) async fn end_overlays(&self, id: &Id) -> Result<()> {
        if let Some(offline) = self.offline.lock().await.remove(&id.to_snapshot().0) {
            offline.end().await; // nobody may read what is about to be written
        }
        let domain = match self.connections.domain(&id.vm).await {
            // What a machine that is gone wrote last is in them: then they stay, and this says so.
            Err(gone) if gone.family() == Family::NoVm => return self.scratch.remove(id.run),
            domain => domain?,
        };
        let active = Standing::of(&domain).await?.is_active();
        for target in self.overlays_of(&domain, id.run).await? {
            let merged =
                if active { merge(&domain, &target).await } else { self.merge_offline(&domain, &target, id).await };
            merged.map_err(|e| e.within(format!("cannot bring the overlay of {target} of {} back", domain.name())))?;
        }
        if self.is_named(&domain, id.run).await? {
            let what = format!("{} still uses an overlay of ours, below images of somebody else", domain.name());
            return Err(Error::new(Family::LeftBehind, what)
                .hint("remove the snapshots that were made since, then run `stillframe cleanup`"));
        }
        for snapshot in snapshots_of(&domain).await?.iter().filter(|snapshot| snapshot.is_of(id.run)) {
            match domain.snapshot_delete_metadata(&snapshot.name).await {
                Err(error) if !error.is(Code::NO_DOMAIN_SNAPSHOT) => return Err(from_libvirt(error)),
                _ => {}
            }
        }
        self.scratch.remove_merged(id.run)
    }

    /// The same for a machine that does not run: `qemu-img commit`, and its description names the image below again.
    async fn merge_offline(&self, domain: &Handle, target: &str, id: &Id) -> Result<()> {
        // With its passwords: it is defined again as a whole.
        let kind = XmlKind { inactive: true, secure: true, ..XmlKind::default() };
        let stored = domain.xml(kind).await.map_err(from_libvirt)?;
        let mut stored = Domain::parse(&stored)?;
        let overlay = stored.disks().into_iter().find(|disk| disk.target == target).and_then(|disk| disk.source);
        let (base, format) = self.base_of(domain, target, id.run).await?;
        if let Some(Source::File(path)) = overlay {
            commit(&path).await?;
        }
        stored.set_disk(target, &base, &format)?;
        self.connection().await?.define(&stored.to_string()).await.map_err(from_libvirt)?;
        Ok(())
    }

    /// What lay below the overlay of `target`, as the record of the snapshot knows it.
    async fn base_of(&self, domain: &Handle, target: &str, run: RunId) -> Result<(Source, String)> {
        for Listed { root, .. } in snapshots_of(domain).await?.into_iter().filter(|snapshot| snapshot.is_of(run)) {
            let machine = root.child("inactiveDomain").or_else(|| root.child("domain")).cloned();
            let Some(mut machine) = machine else { continue };
            machine.name = "domain".into();
            let disk = Domain::new(machine)?.disks().into_iter().find(|disk| disk.target == target);
            if let Some((source, format)) = disk.and_then(|disk| Some((disk.source?, disk.format))) {
                return Ok((source, format.unwrap_or_else(|| "raw".into())));
            }
        }
        Err(Error::new(Family::Failed, format!("nobody knows what lies below the overlay of {target}"))
            .hint("start the machine: then it is asked itself; `stillframe cleanup` does the rest"))
    }
}

/// A snapshot that libvirt knows.
struct Listed {
    name: String,
    description: String,
    root: Element,
}

impl Listed {
    fn is_of(&self, run: RunId) -> bool {
        run_of(&self.name, &self.description) == Some(run)
    }
}

async fn snapshots_of(domain: &Handle) -> Result<Vec<Listed>> {
    let listed = domain.snapshots().await.map_err(from_libvirt)?.into_iter().map(|(name, xml)| {
        let root = Element::parse(&xml).failed(|| format!("the snapshot {name} cannot be read"))?;
        Ok(Listed { name, description: root.text_of("description").unwrap_or_default(), root })
    });
    listed.collect()
}

/// Brings the overlay of a running machine into the image below.
async fn merge(domain: &Handle, target: &str) -> Result<()> {
    let how = BlockCommit { active: true, shallow: true, delete: false };
    match domain.block_job_info(target).await.map_err(from_libvirt)? {
        None => domain.block_commit(target, None, None, how).await.map_err(from_libvirt)?,
        Some(job) if job.is_active_commit() => {} // a merge of ours that was broken off
        Some(_) => {
            return Err(Error::new(Family::Failed, "another block job is at work on it")
                .hint("`virsh blockjob` shows it; wait until it is done"));
        }
    }
    let (mut done, mut since) = (0, Instant::now());
    loop {
        let Some(job) = domain.block_job_info(target).await.map_err(from_libvirt)? else {
            return Err(Error::new(Family::Failed, "the merge ended before its time"));
        };
        if job.is_ready() {
            match domain.block_job_end(target, BlockJobEnd::Pivot).await {
                Ok(()) => return Ok(()),
                // All is copied, and QEMU has not said so yet.
                Err(error) if since.elapsed() > STILL_LIMIT => return Err(from_libvirt(error)),
                Err(_) => {}
            }
        }
        if job.done != done {
            (done, since) = (job.done, Instant::now());
        } else if since.elapsed() > STILL_LIMIT {
            return Err(Error::new(Family::Failed, "the merge does not go on"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn commit(overlay: &str) -> Result<()> {
    let what = || format!("cannot bring {overlay} into the image below it");
    let committed = qemu_img(&["commit", "-q", "-f", "qcow2", "--", overlay], OFFLINE_LIMIT, what).await?;
    committed.map_err(|(_, error)| error)
}
