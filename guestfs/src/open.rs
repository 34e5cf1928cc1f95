use std::sync::Arc;

use crate::{CachedDisk, ExFat, Fat, FileSystem, FsError, Ntfs, VolumeKind};

/// Whether [`open_volume`] has a reader for volumes of this kind.
#[must_use]
pub const fn is_readable(kind: VolumeKind) -> bool {
    use VolumeKind::{ExFat, Fat12, Fat16, Fat32, Ntfs};
    matches!(kind, Ntfs | Fat12 | Fat16 | Fat32 | ExFat)
}

/// Opens the volume that fills `disk`, by the reader for its kind: see [`detect`](crate::detect).
///
/// # Errors
/// [`FsError::Unsupported`] if there is no reader for that kind, else the reader's own.
pub fn open_volume(kind: VolumeKind, disk: Arc<CachedDisk>) -> Result<Arc<dyn FileSystem>, FsError> {
    match kind {
        VolumeKind::Ntfs => Ok(Arc::new(Ntfs::open(disk)?)),
        VolumeKind::Fat12 | VolumeKind::Fat16 | VolumeKind::Fat32 => Ok(Arc::new(Fat::open(disk)?)),
        VolumeKind::ExFat => Ok(Arc::new(ExFat::open(disk)?)),
        other => {
            Err(FsError::Unsupported { what: format!("a volume of kind {other}"), why: "there is no reader for it" })
        }
    }
}
