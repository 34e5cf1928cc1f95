//! Frozen disks → `letters/C`, `digits/1` → FUSE. Must not parse file systems.
//!
//! The grammar of every path is in `LAYOUT.md` beside this file. The process that reads what a guest wrote locks itself in first.

mod attach;
mod directory;
mod errors;
mod fuse;
mod guest;
mod handles;
mod image_keeper;
mod keeper;
pub mod link;
mod links;
mod listing;
mod node;
mod places;
mod read_only;
mod report;
mod sandbox;
mod server;
mod spec;
mod start;
mod syscalls;
mod table;
#[cfg(test)]
mod tests;
mod tree;
mod undo;
mod verify;
pub mod volumes;
mod walk;

/// Looking into a tree without mounting it.
pub mod look {
    pub use super::verify::{Finding, Verified, verify};
    pub use super::walk::{Met, copy_out, is_guest_path, is_like, open_tree, resolve, walk};
}

pub use guest::{Guest, GuestVolume, Letter};
pub use image_keeper::{IMAGE_KEEPER_COMMAND, keep_images, run_image_keeper};
pub use keeper::{KEEPER_COMMAND, KeepRequest, Kept, Told, keep, run_keeper, told};
pub use node::{NodeId, Place};
pub use report::{Report, VolumeReport};
pub use sandbox::Layer;
pub use server::{Disks, LOCAL, SERVER_COMMAND, open_disks, open_images, server_main, server_main_with};
pub use spec::{ImageSpec, MountSpec};
pub use start::{Program, Started, start};
pub use tree::{Document, Found, Tree, TreeEntry};
pub use undo::{Unmounted, mounts, undo, unmount};
