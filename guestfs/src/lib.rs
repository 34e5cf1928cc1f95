//! Partitions and volumes inside virtual disks.
//!
//! [`volumes`] reads the partition table of a disk and says what lies in each partition, judged by its first bytes and not
//! by what the table claims. Every byte of the disk is taken for hostile: counts are bounded, sums are checked, and
//! a table that contradicts itself is an error or a [`Warning`], never a partition that is silently missing.
//! What is in a volume is read through [`FileSystem`]: [`Fat`], [`ExFat`].
//! This crate knows no disk image format, no hypervisor and no file on the host: a disk is a [`blockdev::ReadAt`].
//!
//! ```
//! use blockdev::{MemDisk, ReadAt};
//! use guestfs::{TableKind, VolumeKind};
//!
//! // A disk of 1 MiB with one partition: 1024 sectors from sector 64 on, in which an XFS volume begins.
//! let mut bytes = vec![0; 1 << 20];
//! bytes[446 + 4] = 0x83;
//! bytes[446 + 8..][..4].copy_from_slice(&64u32.to_le_bytes());
//! bytes[446 + 12..][..4].copy_from_slice(&1024u32.to_le_bytes());
//! bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
//! bytes[64 * 512..][..4].copy_from_slice(b"XFSB");
//! let disk = MemDisk::new(bytes);
//!
//! let layout = guestfs::volumes(&disk)?;
//! assert_eq!(layout.table, TableKind::Mbr { signature: 0 });
//! assert_eq!(layout.volumes[0].kind, VolumeKind::Xfs);
//! let volume = layout.volumes[0].window(&disk)?; // itself a disk
//! assert_eq!(volume.size().0, 512 << 10);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(clippy::arithmetic_side_effects, clippy::as_conversions, clippy::indexing_slicing)]

mod bytes;
mod cache;
mod clusters;
mod exfat;
mod fat;
mod filesystem;
mod fs_error;
mod hive;
mod letters;
mod ntfs;
mod open;
mod partition;
// No part of the face: hidden, and public only for fuzz targets and measurements.
#[doc(hidden)]
pub mod unpack;
mod volume_kind;

pub use cache::{Cache, CachedDisk};
pub use exfat::ExFat;
pub use fat::Fat;
pub use filesystem::{About, Case, Entry, FileId, FileKind, FileSystem, LinkTarget, Metadata, Stream, Timestamp};
pub use fs_error::{ErrorFamily, FsError};
pub use hive::{Hive, Key, Subkeys, Value, Values};
pub use letters::{Letter, Letters, MountedDevices, Origin, Place, VolumeToLetter, letters};
pub use ntfs::Ntfs;
pub use open::{is_readable, open_volume};
pub use partition::{
    DiskLayout, PartitionError, PartitionType, Piece, SectorSize, TableKind, Volume, Warning, volumes, volumes_with,
};
pub use volume_kind::{VolumeKind, detect};

/// Keeps the example in the README compiling.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
