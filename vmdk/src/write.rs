//! Writing a new image.
//!
//! ```text
//!   ImageWriter -- splits --> pieces (one file each) -- FlatBody: bytes at their place, zeros left out
//!                                                    |- SparseBody: grains in the order they come, tables at the end
//!                                                    \- StreamWriter: compressed grains in the order of the disk
//! ```

mod files;
mod flat;
mod geometry;
mod layout;
mod options;
mod out_file;
mod plan;
mod raw;
mod sparse;
mod stream;
mod tables;
mod writer;

pub use geometry::Geometry;
pub use options::{AdapterType, CreateOptions, ParentLink, Subformat};
pub use raw::{RawStream, RawWriter};
pub(crate) use sparse::difference;
pub use stream::{CompressionLevel, PackedGrains, StreamWriter};
pub use writer::{ImageWriter, Prepared};

/// The size of a grain as all products write it: 128 sectors.
pub(crate) const GRAIN_LEN: u64 = 64 << 10;
/// The sectors of a grain.
pub(crate) const GRAIN_SECTORS: u64 = GRAIN_LEN / blockdev::SECTOR_SIZE;
/// Entries of a grain table as all products write it.
pub(crate) const TABLE_ENTRIES: u64 = 512;
/// The largest piece of a split image: 2047 MiB, as hosted products write it.
pub(crate) const PIECE_LEN: u64 = 2047 << 20;
