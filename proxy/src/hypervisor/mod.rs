//! Which VMs exist; freeze, snapshot, remove; what a VM is made of.
//!
//! One face for every hypervisor ([`Hypervisor`]), one adapter each. No disk byte moves here: the transports ask an adapter for its
//! [`Link`] and read through that.

mod connect;
mod domain_host;
mod fault;
#[cfg(feature = "libvirt")]
mod libvirt;
mod model;
mod spec;
mod vsphere;

use async_trait::async_trait;

pub use self::connect::{Connected, connect};
pub use self::domain_host::DomainHost;
pub(crate) use self::fault::{is_quiesce_failure, is_refusal, worth_rereading};
pub use self::model::{
    Bus, ConfigFile, Disk, DiskAddress, FreezeRequest, Frozen, HypervisorKind, NativeDisk, NbdExport, Place, Power,
    RebuildTarget, RebuildWish, Snapshot, SnapshotId, VmConfig, VmId, VmInfo,
};
pub use self::spec::Spec;
pub use self::vsphere::VSphere;
pub(crate) use self::vsphere::from_vsphere;
use crate::error::Result;
use crate::job::RunId;

/// A connection of the kind that a transport needs.
#[derive(Clone)]
pub enum Link {
    /// A vSphere session.
    VSphere(::vsphere::Client),
    /// A libvirt host. Its frozen disks bear their own addresses.
    Host {
        /// Whether it is this machine, whose files can be read.
        local: bool,
    },
}

/// What the product asks of a hypervisor.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// The product, its version and where it is, for people.
    fn describe(&self) -> String;

    /// Whose machines these are.
    fn kind(&self) -> HypervisorKind {
        HypervisorKind::VSphere
    }

    /// The connection that transports read through.
    fn link(&self) -> Link;

    /// Every VM that the login can see, in the order of names.
    async fn list(&self) -> Result<Vec<VmInfo>>;

    /// The VMs that `spec` names.
    async fn find(&self, spec: &Spec) -> Result<Vec<VmInfo>>;

    /// What the VM is made of now.
    async fn config(&self, vm: &VmId) -> Result<VmConfig>;

    /// The VM's snapshots, parents before children.
    async fn snapshots(&self, vm: &VmId) -> Result<Vec<Snapshot>>;

    /// What quiesces a guest here, for messages: "VMware Tools".
    fn quiescer(&self) -> &'static str;

    /// Freezes (if asked to), snapshots and thaws. The answer may say that nothing was quiesced.
    async fn create_snapshot(&self, request: &FreezeRequest<'_>) -> Result<Frozen>;

    /// Whether [`create_snapshot`](Self::create_snapshot) has the guest frozen by calls of ours, so that a process that dies in between
    /// leaves it frozen.
    fn freezes_by_hand(&self) -> bool {
        false
    }

    /// Whether a guest that this process had frozen is not known to have thawed since.
    fn owes_thaw(&self, _: &VmId) -> bool {
        false
    }

    /// Thaws a guest that a run of ours had frozen. Thawed already, stopped or started anew counts as success.
    async fn thaw(&self, _: &VmId) -> Result<()> {
        Ok(())
    }

    /// The frozen disks of a snapshot.
    async fn frozen_disks(&self, snapshot: &SnapshotId) -> Result<Vec<Disk>>;

    /// Removes one snapshot and nothing else, and waits for it. Gone already counts as success.
    async fn remove_snapshot(&self, snapshot: &SnapshotId) -> Result<()>;

    /// The point in the change log that [`create_snapshot`](Self::create_snapshot) makes for `run` beside the snapshot, where points are things of
    /// their own that have to be removed. Elsewhere, as in vSphere, they come with the snapshot and cost nothing.
    fn point_of(&self, run: RunId) -> Option<String>;

    /// Removes a point that we made. Gone already counts as success.
    async fn forget_point(&self, vm: &VmId, point: &str) -> Result<()>;

    /// Removes all points that we made of this VM but the newest `keep` and those in `needed`; answers their names.
    async fn prune_points(&self, vm: &VmId, keep: usize, needed: &[String]) -> Result<Vec<String>>;

    /// Waits until no task that somebody started earlier can still make a snapshot of this VM.
    async fn settle(&self, vm: &VmId) -> Result<()>;

    /// Whether delta files were left that no snapshot owns.
    async fn needs_consolidation(&self, vm: &VmId) -> Result<bool>;

    /// The face for restores of a hypervisor whose machines are domains with files; vSphere takes them by the methods below.
    fn domains(&self) -> Option<&dyn DomainHost> {
        None
    }

    /// Where a VM can be rebuilt: `wish` completed with what the server has.
    async fn target(&self, wish: &RebuildWish) -> Result<RebuildTarget>;

    /// Makes a folder for a VM's files. One that exists is an error.
    async fn make_folder(&self, datacenter: &str, path: &str) -> Result<()>;

    /// Marks a folder as made by `run`, so that undoing can tell it from anybody else's.
    async fn mark_folder(&self, datacenter: &str, path: &str, run: RunId) -> Result<()>;

    /// Whether a folder bears the mark of `run`.
    async fn is_marked(&self, datacenter: &str, path: &str, run: RunId) -> Result<bool>;

    /// Takes the mark away again.
    async fn unmark_folder(&self, datacenter: &str, path: &str, run: RunId) -> Result<()>;

    /// Removes a folder that [`make_folder`](Self::make_folder) made, with all in it. Gone already counts as success.
    async fn remove_folder(&self, datacenter: &str, path: &str) -> Result<()>;

    /// Enters a VM whose files are in place.
    async fn register(&self, target: &RebuildTarget, config_path: &str, name: &str) -> Result<VmId>;

    /// The VM that was entered with this configuration file.
    async fn registered_at(&self, datacenter: &str, config_path: &str) -> Result<Option<VmId>>;

    /// Takes a VM out of the inventory; its files stay.
    async fn unregister(&self, vm: &VmId) -> Result<()>;

    /// Ends the session.
    async fn close(&self);
}
