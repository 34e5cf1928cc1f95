//! A disk is bytes at an offset.
//!
//! The one trait everything else stands on is [`ReadAt`]: positional, shared (`&self`), never short. It also tells
//! data from holes ([`ReadAt::extent_at`]), so that the cost of every later stage follows data, not capacity. Things that
//! read stack: a [`Window`] of a disk is a disk, a file is a disk, memory is a disk.
//!
//! ```
//! use blockdev::{ByteLen, ByteOffset, ExtentKind, MemDisk, ReadAt, ReadAtExt, Window};
//!
//! let mut bytes = vec![0; 4096];
//! bytes[1024] = 7;
//! let disk = MemDisk::new(bytes);
//! let window = Window::new(&disk, ByteOffset(1024), ByteLen(512))?;
//! let mut first = [0; 1];
//! window.read_exact_at(ByteOffset(0), &mut first)?;
//! assert_eq!(first, [7]);
//! let kinds: Vec<_> = disk.extents().map(|e| e.map(|e| e.kind)).collect::<Result<_, _>>()?;
//! assert_eq!(kinds, [ExtentKind::Data]);
//! # Ok::<(), blockdev::ReadError>(())
//! ```
#![warn(clippy::arithmetic_side_effects, clippy::as_conversions, clippy::indexing_slicing)]

mod error;
mod extent;
mod file;
mod mem;
mod read;
mod units;
mod window;

pub use error::ReadError;
pub use extent::{Extent, ExtentKind, Extents};
pub use file::FileDisk;
pub use mem::MemDisk;
pub use read::{ReadAt, ReadAtExt};
pub use units::{ByteLen, ByteOffset, SECTOR_SIZE, Sectors};
pub use window::Window;
