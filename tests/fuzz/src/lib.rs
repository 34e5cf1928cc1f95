//! What the targets share: how an input is cut into files, what every image must keep to, and what it may cost.

mod disk;
mod files;
mod input;
mod memory;
mod packed;
mod tree;
mod walk;

pub use disk::{Dialect, disk};
pub use files::{File, Files, Naming};
pub use input::Input;
pub use memory::limited;
pub use tree::explore;
pub use walk::{Verdict, examine};
