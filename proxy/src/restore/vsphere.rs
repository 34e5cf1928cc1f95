//! Back to a vSphere server: files by HTTPS into a folder of a datastore, then a registration.

mod execute;
mod plan;

pub use self::execute::restore;
pub use self::plan::{PlannedDisk, RestoreOptions, RestorePlan, plan};
