//! Image → files: the copy engine, the digest, and the directory with its catalog and manifest.
//!
//! A directory under its final name is complete: everything is written beside it, synced, and renamed as the last act.

mod catalog;
mod copy;
mod delta;
mod digest;
mod hashes;
mod manifest;
mod plan;
mod staging;

pub use catalog::{Catalog, CatalogError};
pub use copy::{BlockSink, Buffers, Copied, CopyOptions, Discard, copy_disk};
pub use delta::{Base, Delta, DeltaWork, copy_changes, open_hashes};
pub use digest::{BLOCK, DiskDigest, OrderedDigest, SparseDigest, digest_of};
pub use hashes::{BlockHashes, write_hashes};
pub use manifest::{
    BaseEntry, Consistency, DiskEntry, DiskKind, FileEntry, MANIFEST_NAME, Manifest, SkippedDisk, VmEntry,
};
pub use staging::Staging;
pub(crate) use staging::with_space_hint;

/// The catalog's name in a backup directory.
pub const CATALOG_NAME: &str = "catalog";
