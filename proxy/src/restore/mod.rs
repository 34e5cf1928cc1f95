//! Catalog and images → a VM, here or elsewhere.
//!
//! Everything is checked and the plan is printed before the first write; a failure takes back what was made and nothing else.

pub(crate) mod base;
mod execute;
mod plan;
mod source;
mod verify;
mod vmx;

pub use execute::restore;
pub use plan::{RestoreOptions, RestorePlan, plan};
pub use source::{Backup, BackupDisk};
pub use verify::{VerifiedDisk, verify};
