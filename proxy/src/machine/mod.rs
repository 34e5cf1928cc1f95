//! What a machine is made of: libvirt's domain XML and VMware's `.vmx`, and the way from one to the other.
//!
//! Nothing here talks to a hypervisor. Texts come from backups and hosts, so sizes and depths are bounded, and what is not known is
//! kept.

pub mod convert;
mod disks;
mod domain;
pub mod rehome;
pub(crate) mod vmx;
mod xml;

pub use self::disks::{DomainDisk, DriveAddress, NetworkHost, Source, target_name, target_number};
pub use self::domain::{Domain, Firmware, Interface, Loader, Nvram, Tpm};
pub use self::xml::{Element, Node, XmlError};
