//! What the targets share: how an input is cut into files, what every image and every decompressor must keep to, and what that may
//! cost.

mod disk;
mod files;
mod input;
mod memory;
mod packed;
mod tree;
mod unpacked;
mod volume;
mod walk;

pub use disk::{Dialect, disk};
pub use files::{File, Files, Naming};
pub use input::Input;
pub use memory::limited;
pub use tree::explore;
pub use unpacked::unpacked_twice;
pub use volume::{Open, first_file, walk_volume};
pub use walk::{Verdict, examine};
