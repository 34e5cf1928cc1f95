#![doc = include_str!("../README.md")]
#![warn(clippy::arithmetic_side_effects, clippy::as_conversions, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::as_conversions))]

mod chain;
mod check;
mod compare;
mod convert;
mod copy;
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

pub use check::{CheckReport, Finding, Problem, Severity, check};
pub use compare::{Difference, compare};
pub use copy::{CopyError, CopyTarget, copy, copy_difference};
pub use descriptor::{
    Access, CreateType, Descriptor, DescriptorError, ExtentLine, ExtentType, MAX_DESCRIPTOR_LEN, MAX_EXTENTS,
};
pub use error::{ErrorFamily, VmdkError};
pub use folder_gate::FolderGate;
pub use gate::{DenyGate, FnGate, Gate};
pub use image::{Image, Part, Placement, StoredAt, open_path};
pub use name::{NameError, PlainName};
pub use write::{
    AdapterType, CompressionLevel, CreateOptions, Geometry, ImageWriter, PackedGrains, ParentLink, Prepared, RawStream,
    RawWriter, StreamWriter, Subformat,
};
pub use zero::is_zero;
