//! stillframe: an agentless backup proxy for virtual machines.
//!
//! The rooms and what each of them must not do:
//!
//! | room | question | must not |
//! |---|---|---|
//! | [`cli`] | what was typed, what is printed, which exit code | do work |
//! | [`config`] | which settings hold | open connections |
//! | [`hypervisor`] | which VMs exist; snapshot, rebuild | move disk bytes |
//! | [`transport`] | how do I read this frozen disk | know what the bytes are for |
//! | [`job`] | what is undone, retried, cancelled | know one hypervisor |
//! | [`export`] | image → files with a catalog | talk to a hypervisor |
//! | [`restore`] | catalog and images → a VM | read guests |
//! | [`mount`] | frozen disks → folders of files | parse file systems |
//! | [`disk`] | what is in this image, is it whole, give it another form | know a hypervisor |
//! | [`machine`] | what is a machine made of, as libvirt and as VMware write it | talk to a hypervisor |

#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod cli;
pub mod config;
pub mod demo;
pub mod disk;
mod error;
pub mod export;
pub mod hypervisor;
pub mod job;
pub mod machine;
pub mod mount;
pub mod restore;
pub mod transport;

/// Makes the one crypto provider of this program the process's. False if one was there already.
pub fn install_crypto() -> bool {
    rustls::crypto::aws_lc_rs::default_provider().install_default().is_ok()
}

pub use error::{Context, Error, Family, Result};

/// Prints a line on standard error. One that was closed (`2>&1 | head`, a lost terminal) must not end a run whose snapshot exists.
pub(crate) fn tell(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Makes renames and removals in `folder` durable.
pub(crate) fn sync_folder(folder: &std::path::Path) -> std::io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

/// What the image library says, in the product's families.
pub(crate) fn image_error(error: vmdk_rs::VmdkError, what: String) -> Error {
    let family = match error.family() {
        vmdk_rs::ErrorFamily::Unsupported => Family::Unsupported,
        vmdk_rs::ErrorFamily::Corrupt => Family::Corrupt,
        _ => Family::Failed,
    };
    Error::new(family, what).caused_by(error)
}
