//! QEMU machines under libvirt behind the product's face.
//!
//! What stands for a snapshot here is one of three things ([`id::Kind`]): a pull backup job of a running machine, external overlays
//! above its images, or the locks of our own servers on the images of a machine that does not run.

mod backup_xml;
mod cache;
mod config;
mod connection;
mod errors;
mod id;
mod job;
mod lookup;
mod offline;
mod overlay;
mod points;
mod qemu_img;
mod rebuild;
mod scratch;
mod window;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use self::cache::NameCache;
use self::config::Standing;
use self::connection::Connections;
use self::errors::from_libvirt;
use self::id::{Id, Kind};
use self::offline::Offline;
use self::scratch::Scratch;
use self::window::{Debts, FREEZE_LIMIT};
use super::{
    Disk, DomainHost, FreezeRequest, Frozen, Hypervisor, HypervisorKind, Link, RebuildTarget, RebuildWish, Snapshot,
    SnapshotId, Spec, VmConfig, VmId, VmInfo,
};
use crate::config::LibvirtUri;
use crate::error::{Error, Family, Result};
use crate::job::{RunId, SNAPSHOT_NAME};
use crate::transport::Route;

/// Tries to thaw a guest that a dead run had frozen.
const LATE_THAWS: u32 = 3;

/// A libvirt host.
pub(super) struct LibvirtHost {
    uri: LibvirtUri,
    description: String,
    host: String,
    connections: Arc<Connections>,
    scratch: Scratch,
    names: NameCache,
    debts: Debts,
    freeze_limit: Duration,
    /// Why a disk of a run does not tell what changed.
    unknown: Mutex<HashMap<(RunId, String), String>>,
    /// Images that we hold, by the id that stands for them.
    offline: tokio::sync::Mutex<HashMap<String, Offline>>,
}

impl LibvirtHost {
    /// Connects to libvirt. `limit` is the longest time that a snapshot may take to be made.
    ///
    /// # Errors
    /// libvirt's, with what to do.
    pub(super) async fn connect(uri: &LibvirtUri, limit: Option<Duration>) -> Result<Self> {
        let connections = Connections::open(uri).await?;
        let connection = connections.get().await?;
        let version = |(major, minor, release)| format!("{major}.{minor}.{release}");
        let host = connection.host_name().await.map_err(from_libvirt)?;
        let libvirt = version(connection.libvirt_version().await.map_err(from_libvirt)?);
        let qemu = version(connection.hypervisor_version().await.map_err(from_libvirt)?);
        let place = uri.place();
        Ok(Self {
            description: format!("libvirt {libvirt} with QEMU {qemu} on {host}, at {place}"),
            host,
            connections: Arc::new(connections),
            scratch: Scratch::new(uri)?,
            names: NameCache::of(&place),
            debts: Debts::default(),
            freeze_limit: limit.map_or(FREEZE_LIMIT, |limit| limit.min(FREEZE_LIMIT)),
            unknown: Mutex::default(),
            offline: tokio::sync::Mutex::default(),
            uri: uri.clone(),
        })
    }

    async fn connection(&self) -> Result<libvirt::Connection> {
        self.connections.get().await
    }

    async fn vm_config(&self, vm: &VmId) -> Result<VmConfig> {
        let domain = self.connections.domain(vm).await?;
        config::config(&domain, &self.host, self.uri.is_local()).await
    }

    fn remember(&self, run: RunId, target: &str, why: String) {
        tracing::debug!("{target} does not tell what changed: {why}");
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.insert((run, target.to_owned()), why);
    }

    fn recall(&self, run: RunId, target: &str) -> Option<String> {
        let unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.get(&(run, target.to_owned())).cloned()
    }

    /// What of ours keeps disks of `vm` still, or is left of that.
    async fn kept(&self, vm: &VmId) -> Result<Vec<Snapshot>> {
        let domain = self.connections.domain(vm).await?;
        let mut all = self.listed(&domain, vm).await?;
        let running = self.any_running(&domain).await?.and_then(|running| running.run);
        all.extend(running.map(|run| self.kept_by(Kind::Job, run, vm)));
        for mark in self.scratch.of_vm(vm) {
            let overlay = Id { kind: Kind::Overlay, run: mark.run, vm: vm.clone() }.to_snapshot();
            if running == Some(mark.run) || all.iter().any(|snapshot| snapshot.id == overlay) {
                continue;
            }
            let offline = Id { kind: Kind::Offline, run: mark.run, vm: vm.clone() };
            let kind = if self.holds_images(&offline).await { Kind::Offline } else { Kind::Scratch };
            all.push(self.kept_by(kind, mark.run, vm));
        }
        Ok(all)
    }

    /// What stands for a snapshot of `run`.
    fn kept_by(&self, kind: Kind, run: RunId, vm: &VmId) -> Snapshot {
        let mark = self.scratch.mark(run).map(|mark| mark.description);
        Snapshot {
            id: Id { kind, run, vm: vm.clone() }.to_snapshot(),
            name: SNAPSHOT_NAME.to_owned(),
            // On another machine only the run is known, by the names of its scratch files.
            description: mark.unwrap_or_else(|| format!("stillframe run={run}")),
            created: String::new(),
            quiesced: false,
            depth: 0,
        }
    }
}

fn no_restore() -> Error {
    Error::new(Family::Unsupported, "restoring to a libvirt host this way is not there")
}

#[async_trait]
impl Hypervisor for LibvirtHost {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn kind(&self) -> HypervisorKind {
        HypervisorKind::Libvirt
    }

    fn domains(&self) -> Option<&dyn DomainHost> {
        Some(self)
    }

    fn link(&self) -> Link {
        Link::Host { local: self.uri.is_local() }
    }

    async fn list(&self) -> Result<Vec<VmInfo>> {
        self.find(&Spec::Any).await
    }

    async fn find(&self, spec: &Spec) -> Result<Vec<VmInfo>> {
        Ok(self.seen(spec).await?.into_iter().map(|seen| seen.info).collect())
    }

    async fn config(&self, vm: &VmId) -> Result<VmConfig> {
        self.vm_config(vm).await
    }

    async fn snapshots(&self, vm: &VmId) -> Result<Vec<Snapshot>> {
        self.kept(vm).await
    }

    fn quiescer(&self) -> &'static str {
        "the QEMU guest agent"
    }

    async fn create_snapshot(&self, request: &FreezeRequest<'_>) -> Result<Frozen> {
        let domain = self.connections.domain(&request.vm.info.moref).await?;
        if !Standing::of(&domain).await?.is_active() {
            return self.open_images(request).await;
        }
        match request.route {
            Route::Nbd | Route::NbdSsl => self.create_job(request).await,
            Route::Direct => self.create_overlays(request).await,
            Route::Https => Err(Error::new(Family::Unsupported, "a libvirt host has no datastores over HTTPS")),
        }
    }

    fn freezes_by_hand(&self) -> bool {
        true
    }

    fn owes_thaw(&self, vm: &VmId) -> bool {
        self.debts.has(vm)
    }

    async fn thaw(&self, vm: &VmId) -> Result<()> {
        // Also under another id than then: memory that was saved, and the freeze with it, comes back under a new one.
        window::thaw(&self.connections, vm, FREEZE_LIMIT, LATE_THAWS).await?;
        self.debts.paid(vm);
        Ok(())
    }

    async fn frozen_disks(&self, snapshot: &SnapshotId) -> Result<Vec<Disk>> {
        let id = Id::parse(snapshot)?;
        match id.kind {
            Kind::Job => self.job_disks(&id).await,
            Kind::Offline => self.offline_disks(&id).await,
            Kind::Overlay => self.overlay_disks(&id, &self.vm_config(&id.vm).await?.disks).await,
            Kind::Scratch => Err(Error::new(Family::Failed, format!("{snapshot} keeps no disk still"))),
        }
    }

    async fn remove_snapshot(&self, snapshot: &SnapshotId) -> Result<()> {
        let id = Id::parse(snapshot)?;
        match id.kind {
            Kind::Job | Kind::Scratch => self.end_job(&id).await,
            Kind::Offline => self.close_images(&id).await,
            Kind::Overlay => self.end_overlays(&id).await,
        }
    }

    fn point_of(&self, run: RunId) -> Option<String> {
        Some(backup_xml::name_of(run))
    }

    async fn forget_point(&self, vm: &VmId, point: &str) -> Result<()> {
        let domain = self.connections.domain(vm).await?;
        self.delete_point(&domain, point).await
    }

    async fn prune_points(&self, vm: &VmId, keep: usize, needed: &[String]) -> Result<Vec<String>> {
        self.prune(vm, keep, needed).await
    }

    async fn settle(&self, _: &VmId) -> Result<()> {
        Ok(()) // libvirt answers when a job has begun, not before
    }

    async fn needs_consolidation(&self, _: &VmId) -> Result<bool> {
        Ok(false) // overlays of ours are listed as what they are
    }

    async fn target(&self, _: &RebuildWish) -> Result<RebuildTarget> {
        Err(no_restore())
    }

    async fn make_folder(&self, _: &str, _: &str) -> Result<()> {
        Err(no_restore())
    }

    async fn mark_folder(&self, _: &str, _: &str, _: RunId) -> Result<()> {
        Err(no_restore())
    }

    async fn is_marked(&self, _: &str, _: &str, _: RunId) -> Result<bool> {
        Err(no_restore())
    }

    async fn unmark_folder(&self, _: &str, _: &str, _: RunId) -> Result<()> {
        Err(no_restore())
    }

    async fn remove_folder(&self, _: &str, _: &str) -> Result<()> {
        Err(no_restore())
    }

    async fn register(&self, _: &RebuildTarget, _: &str, _: &str) -> Result<VmId> {
        Err(no_restore())
    }

    async fn registered_at(&self, _: &str, _: &str) -> Result<Option<VmId>> {
        Err(no_restore())
    }

    async fn unregister(&self, _: &VmId) -> Result<()> {
        Err(no_restore())
    }

    async fn close(&self) {
        let held: Vec<_> = self.offline.lock().await.drain().collect();
        for (id, offline) in held {
            tracing::debug!("{id} was held to the end");
            drop(offline);
        }
    }
}
