#![doc = include_str!("../README.md")]

pub mod blocking;
mod connection;
mod domain;
mod error;
mod events;

pub use self::connection::Connection;
pub use self::domain::Domain;
pub use self::error::{Code, Error};
pub use self::types::{
    AddressSource, BackupStart, BlockCommit, BlockInfo, BlockJob, BlockJobEnd, CheckpointDelete, Interface, Job,
    JobKind, Lease, PoolInfo, Reason, SnapshotCreate, State, Undefine, XmlKind,
};

mod types;

/// The result of every call.
pub type Result<T, E = Error> = std::result::Result<T, E>;
