use std::sync::Arc;

use crate::{CachedDisk, FileSystem, FsError, Ntfs, VolumeKind};

/// Whether [`open_volume`] has a reader for volumes of this kind.
#[must_use]
pub const fn is_readable(kind: VolumeKind) -> bool {
    matches!(kind, VolumeKind::Ntfs)
}

/// Opens the volume that fills `disk`, by the reader for its kind: see [`detect`](crate::detect).
///
/// # Errors
/// [`FsError::Unsupported`] if there is no reader for that kind, else the reader's own.
pub fn open_volume(kind: VolumeKind, disk: Arc<CachedDisk>) -> Result<Arc<dyn FileSystem>, FsError> {
    match kind {
        VolumeKind::Ntfs => Ok(Arc::new(Ntfs::open(disk)?)),
        other => {
            Err(FsError::Unsupported { what: format!("a volume of kind {other}"), why: "there is no reader for it" })
        }
    }
}
