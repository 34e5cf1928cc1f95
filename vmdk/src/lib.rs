#![doc = include_str!("../README.md")]
#![warn(clippy::arithmetic_side_effects, clippy::as_conversions, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::as_conversions))]

mod chain;
mod convert;
mod descriptor;
mod error;
mod folder_gate;
mod gate;
mod image;
mod layer;
mod name;
mod sparse;
mod write;
mod zero;

pub use descriptor::{
    Access, CreateType, Descriptor, DescriptorError, ExtentLine, ExtentType, MAX_DESCRIPTOR_LEN, MAX_EXTENTS,
};
pub use error::{ErrorFamily, VmdkError};
pub use folder_gate::FolderGate;
pub use gate::{DenyGate, FnGate, Gate};
pub use image::{Image, open_path};
pub use name::{NameError, PlainName};
pub use write::{AdapterType, CreateOptions, Geometry, ImageWriter, Subformat};
pub use zero::is_zero;
