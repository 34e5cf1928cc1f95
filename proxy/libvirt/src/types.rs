//! What calls take and give.

/// Whether a domain runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It runs (also: it waits for something).
    Running,
    /// Its processors stand still.
    Paused,
    /// It is on its way down.
    ShuttingDown,
    /// It does not run.
    ShutOff,
    /// It crashed.
    Crashed,
    /// The guest put itself to sleep.
    Asleep,
    /// Something newer than this library.
    Other(i32),
}

/// A state with libvirt's number of the reason for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The state.
    pub state: State,
    /// libvirt's number, to be read with the state.
    pub reason: i32,
}

/// Which description of a domain is asked for. Both may be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XmlKind {
    /// As it will be after the next start.
    pub inactive: bool,
    /// Without what only this host knows.
    pub migratable: bool,
    /// With passwords.
    pub secure: bool,
}

/// Where addresses of a guest are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// The leases of libvirt's own networks.
    Lease,
    /// The agent in the guest.
    Agent,
    /// The neighbours that the host's kernel knows.
    Arp,
}

/// A network card of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// What the source calls it.
    pub name: String,
    /// Its hardware address.
    pub mac: Option<String>,
    /// Its addresses, without the prefix length.
    pub addresses: Vec<String>,
}

/// An address that a libvirt network gave away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The network.
    pub network: String,
    /// The hardware address.
    pub mac: Option<String>,
    /// The address.
    pub address: String,
    /// The name that the guest gave itself.
    pub host_name: Option<String>,
}

/// What kind of work keeps a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobKind {
    /// No work.
    None,
    /// A backup.
    Backup,
    /// Anything else, by libvirt's number of the operation.
    Other(i32),
}

/// The work that keeps a domain now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its kind.
    pub kind: JobKind,
    /// libvirt's words for what goes wrong with it.
    pub error: Option<String>,
    /// Bytes that scratch files hold.
    pub scratch_used: Option<u64>,
}

/// How a backup begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupStart {
    /// The files that the description names are there already.
    pub reuse_external: bool,
}

/// How a checkpoint is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointDelete {
    /// Forget it and leave its bitmaps alone.
    pub metadata_only: bool,
}

/// How a snapshot is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotCreate {
    /// Disks only, no memory.
    pub disk_only: bool,
    /// All disks or none.
    pub atomic: bool,
    /// Have the agent freeze the guest around it.
    pub quiesce: bool,
    /// The files that the description names are there already.
    pub reuse_external: bool,
    /// libvirt keeps no record of it.
    pub no_metadata: bool,
}

/// How a chain of images is shortened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCommit {
    /// The active image goes too; needs a pivot at the end.
    pub active: bool,
    /// Only the image under the top takes it in.
    pub shallow: bool,
    /// Remove images that are not needed any more.
    pub delete: bool,
}

/// How far a block job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockJob {
    /// libvirt's number of its kind.
    pub kind: i32,
    /// Done, in units of its own.
    pub done: u64,
    /// In all, in the same units.
    pub total: u64,
}

impl BlockJob {
    /// Whether it brings the topmost image into one below (`VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT`).
    #[must_use]
    pub const fn is_active_commit(&self) -> bool {
        self.kind == 4
    }

    /// Whether an active commit may be ended with a pivot, or is over.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.done == self.total && self.total != 0
    }
}

/// How a block job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockJobEnd {
    /// As if it had not begun.
    Cancel,
    /// The domain goes on with the image that the job filled.
    Pivot,
}

/// Sizes of a disk in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// What the guest sees.
    pub capacity: u64,
    /// What is taken on the storage.
    pub allocation: u64,
    /// How far the file reaches.
    pub physical: u64,
}

/// What else goes when a domain is forgotten. libvirt refuses where something is there that neither goes nor stays by a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undefine {
    /// Records of snapshots.
    pub snapshots_metadata: bool,
    /// Records of checkpoints.
    pub checkpoints_metadata: bool,
    /// Memory saved by libvirt.
    pub managed_save: bool,
    /// The file of firmware variables: `Some(true)` removes it, `Some(false)` keeps it.
    pub nvram: Option<bool>,
    /// The state of a TPM, likewise.
    pub tpm: Option<bool>,
}

/// A storage pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolInfo {
    /// Its name.
    pub name: String,
    /// Whether it can be used now.
    pub active: bool,
    /// Bytes in all.
    pub capacity: u64,
    /// Bytes that are free.
    pub available: u64,
    /// Its description.
    pub xml: String,
}
