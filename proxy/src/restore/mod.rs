//! Catalog and images → a VM, here or elsewhere, under the hypervisor that it ran under or another one.
//!
//! Everything is checked and the plan is printed before the first write; a failure takes back what was made and nothing else.

pub(crate) mod base;
mod names;
mod qcow2;
mod source;
mod verify;
pub mod vsphere;

pub use self::source::{Backup, BackupDisk};
pub use self::verify::{VerifiedDisk, verify};
