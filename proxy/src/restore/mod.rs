//! Catalog and images → a VM, here or elsewhere, under the hypervisor that it ran under or another one.
//!
//! Everything is checked and the plan is printed before the first write; a failure takes back what was made and nothing else.

pub(crate) mod base;
mod image;
pub mod libvirt;
mod names;
mod qcow2;
mod source;
mod verify;
pub mod vsphere;

pub use self::image::Format;
pub use self::source::{Backup, BackupDisk, SavedMachine};
pub use self::verify::{VerifiedDisk, verify};
use crate::error::{Error, Family, Result};
use crate::machine::Domain;

/// The disks of a backup with the names that they have in the domain.
fn targets_of(domain: &Domain, addresses: &[String]) -> Result<Vec<(String, String)>> {
    let disks = domain.disks();
    let target = |address: &String| {
        let is_it = |text: &str| text == address;
        let disk = disks.iter().find(|disk| disk.address().is_some_and(|found| is_it(&found.to_string())));
        let target = disk.map(|disk| (address.clone(), disk.target.clone()));
        target.ok_or_else(|| {
            Error::new(Family::Corrupt, format!("the domain XML does not plug in {address}, which the backup holds"))
        })
    };
    addresses.iter().map(target).collect()
}
