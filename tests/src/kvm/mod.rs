//! Real guests on a private libvirt host: the stage for what cannot be simulated.
//!
//! ```text
//! KvmHost      one libvirtd of the test's own, below a temporary folder; gone when dropped, and when the test dies
//!   Guest      one emulated machine with an agent, hooks, and disks full of numbered records
//! judge        what an image of such a disk holds, by debugfs, e2fsck and the numbers themselves
//! ```
//!
//! The guests and the host are made by `tests/peers/kvm`, which says what is in them. A test begins with
//! `let Some(host) = KvmHost::start() else { return };`: where the peers are absent it skips with a printed reason.

mod control;
mod domain;
mod guest;
mod host;
pub mod judge;

pub use domain::{Agent, Boot, Content, DiskSpec, GuestSpec};
pub use guest::{Guest, Hook, State};
pub use host::KvmHost;

use std::time::{Duration, Instant};

use crate::absent;

/// Whether the program under test was built with the adapter for libvirt; a printed reason when not: return from the test
/// then.
///
/// # Panics
///
/// When it was not and `CI` is `true`.
pub fn has_adapter() -> bool {
    if !cfg!(feature = "libvirt") {
        absent::<()>("the program is built without its feature libvirt: --features acceptance/libvirt builds it");
    }
    cfg!(feature = "libvirt")
}

/// How long anything may take that should be a moment: other tests use the same processors.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Repeats `ask` until it answers, with a short pause between, at most [`DEADLINE`].
///
/// # Panics
///
/// When the time is over, naming `what` was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}
