//! To a libvirt host on this machine: files into a folder of its own or a pool's, then a definition.

mod execute;
mod plan;
mod storage;
mod tpm;

pub use self::execute::{restore, start};
pub use self::plan::{Choice, Options, Plan, PlannedDisk, PlannedFile, plan};
