use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::{DatastorePath, Power, SnapshotId, VmId};

/// Why the lab did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The file system under the lab failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The bytes of a disk could not be read.
    #[error("cannot read the disk {path}")]
    Read {
        /// Which disk.
        path: PathBuf,
        /// Why.
        #[source]
        source: blockdev::ReadError,
    },
    /// An image given to the lab could not be opened.
    #[error("cannot open the image {path}")]
    Image {
        /// Which image.
        path: PathBuf,
        /// Why.
        #[source]
        source: vmdk_rs::VmdkError,
    },
    /// A descriptor in a datastore is damaged.
    #[error("the descriptor {path} cannot be read")]
    Descriptor {
        /// Which file.
        path: DatastorePath,
        /// Why.
        #[source]
        source: vmdk_rs::DescriptorError,
    },
    /// `lab.json` is not what the lab writes.
    #[error("the state in {path} cannot be read")]
    State {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// Another process works with this lab.
    #[error("the lab in {dir} is in use by process {pid}")]
    InUse {
        /// The lab's folder.
        dir: PathBuf,
        /// That process, 0 if it did not say.
        pid: u32,
    },
    /// The folder is no lab.
    #[error("{dir} is not a lab: it has no lab.json")]
    NotALab {
        /// The folder.
        dir: PathBuf,
    },
    /// A lab is only made in an empty folder.
    #[error("{dir} is not empty")]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// No VM of that id.
    #[error("there is no VM {0}")]
    NoSuchVm(VmId),
    /// No snapshot of that id.
    #[error("there is no snapshot {0}")]
    NoSuchSnapshot(SnapshotId),
    /// No disk of that key.
    #[error("{vm} has no disk with key {key}")]
    NoSuchDisk {
        /// Which VM.
        vm: VmId,
        /// Which key.
        key: i32,
    },
    /// No datastore of that name.
    #[error("there is no datastore {0:?}")]
    NoSuchDatastore(String),
    /// A name that cannot be a file's.
    #[error("{name:?} cannot be a name here: {problem}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The VM's power state does not allow this.
    #[error("{vm} is {actual}, this needs {expected}", actual = actual.as_str(), expected = expected.as_str())]
    PowerState {
        /// Which VM.
        vm: VmId,
        /// What it should be.
        expected: Power,
        /// What it is.
        actual: Power,
    },
    /// Another operation on this VM is under way.
    #[error("another task works with {0}")]
    TaskInProgress(VmId),
    /// The file is one of a registered VM.
    #[error("{path} belongs to {vm}")]
    AlreadyExists {
        /// The file.
        path: DatastorePath,
        /// The VM that has it.
        vm: VmId,
    },
    /// A VM of that name is registered.
    #[error("{vm} has the name {name:?}")]
    DuplicateName {
        /// The name.
        name: String,
        /// The VM that has it.
        vm: VmId,
    },
    /// The guest did not come to rest in time.
    #[error("the guest of {vm} did not come to rest within {waited:?}")]
    QuiesceTimeout {
        /// Which VM.
        vm: VmId,
        /// How long the lab waited.
        waited: Duration,
    },
    /// A file of a datastore could not be used.
    #[error("cannot use {path}")]
    File {
        /// Which file.
        path: DatastorePath,
        /// Why.
        #[source]
        source: FileError,
    },
    /// A .vmx file does not describe a VM that can run here.
    #[error("{path}: {key} is {actual:?}, expected {expected}")]
    BadVmx {
        /// Which file.
        path: DatastorePath,
        /// Which line, by its key.
        key: String,
        /// What it says; empty if it is missing.
        actual: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A disk's files contradict each other.
    #[error("{path}: {field} is {actual}, expected {expected}")]
    BadDisk {
        /// Which file.
        path: DatastorePath,
        /// Which number of it.
        field: &'static str,
        /// What it is.
        actual: u64,
        /// What it should be.
        expected: u64,
    },
    /// The lab cannot do this.
    #[error("the lab does not support {what}: {actual}")]
    Unsupported {
        /// What was asked.
        what: &'static str,
        /// The value that was asked for.
        actual: String,
    },
    /// Changed areas are only known while change tracking is on.
    #[error("change tracking is off on {0}")]
    ChangeTrackingOff(VmId),
    /// A change id of another series, or of none.
    #[error("the change id {id} is not known for {vm}")]
    UnknownChangeId {
        /// The VM.
        vm: VmId,
        /// The id.
        id: String,
    },
}

/// Why a file of a datastore cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// No such file, folder or datastore.
    #[error("not found")]
    NotFound,
    /// In use: the layer that a running VM writes, or a file of a registered VM that somebody wants to replace.
    #[error("locked by {0}")]
    Locked(VmId),
    /// Something of that name is there already.
    #[error("it exists already")]
    Exists,
    /// The path is not one, or it names the wrong kind of thing.
    #[error("bad path: {0}")]
    Bad(&'static str),
    /// An upload brought more or fewer bytes than announced.
    #[error("{expected} bytes were announced, {actual} came")]
    Length {
        /// Announced.
        expected: u64,
        /// Received.
        actual: u64,
    },
    /// The file system under the lab failed.
    #[error("the file system failed")]
    Io(#[from] io::Error),
}

impl LabError {
    /// For `map_err` on file operations.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
