//! What the end-to-end tests share: where the real peers are, and what to do when one is absent.
//!
//! `tests/run` installs the peers and names their folder in `STILLFRAME_PEERS`. Without it a test that needs one skips,
//! and says why; where `CI` is `true` nothing may skip, and the test fails.

pub mod kvm;
mod proof;
mod stage;

pub use proof::{dump, images, info_of, is_identical, manifest, names_in};
pub use stage::{Outcome, Stage, binary, finish, program as stillframe, tool, vm_of};

use std::env;
use std::path::PathBuf;

/// Path of an installed peer, below the folder that `STILLFRAME_PEERS` names: `linux/disk.raw`, for example.
///
/// `None` after a printed reason when it is not there: return from the test then.
///
/// # Panics
///
/// When it is absent and `CI` is `true`, so that no check is lost in silence.
pub fn peer(relative: &str) -> Option<PathBuf> {
    match env::var_os("STILLFRAME_PEERS") {
        Some(folder) => {
            let path = PathBuf::from(folder).join(relative);
            if path.exists() { Some(path) } else { absent(&format!("{} does not exist", path.display())) }
        }
        None => absent(&format!("STILLFRAME_PEERS is not set, so there is no {relative}: tests/run installs it")),
    }
}

/// Path of a program on this machine; the folders of system programs count even when `PATH` leaves them out.
///
/// `None` after a printed reason when it is not there: return from the test then.
///
/// # Panics
///
/// When it is absent and `CI` is `true`.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = env::split_paths(&path).chain(system).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_some() { found } else { absent(&format!("there is no program {name}")) }
}

fn absent<T>(reason: &str) -> Option<T> {
    assert!(env::var("CI").as_deref() != Ok("true"), "a check cannot run: {reason}");
    eprintln!("skipped: {reason}");
    None
}
