//! Guests: they write transactions into logs on all their disks, and somebody else can judge later what a copy holds.
//!
//! A transaction is begun on every disk, one after the other, then committed on every disk. A copy that was not taken at a clean
//! point will most likely hold one that is begun, or that is on one disk only; [`check`] finds it.

mod check;
mod control;
pub(crate) mod log;
mod run;

pub use check::{CheckError, LogReport, check};
pub(crate) use control::GuestControl;
pub use log::{SLOT_SIZE, log_file};
pub use run::{GuestOptions, Guests};
