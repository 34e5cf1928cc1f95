//! Does a backup directory still hold what was backed up?

use std::sync::Arc;

use blockdev::ReadAt;
use serde::Serialize;

use super::source::Backup;
use crate::error::{Context, Error, Family, Result};
use crate::export::{DiskDigest, digest_of, open_hashes};
use crate::job::{Cancel, Progress};
use crate::transport::from_read;

/// A disk whose bytes were all read.
#[derive(Clone, Debug, Serialize)]
pub struct VerifiedDisk {
    /// Where it was plugged in.
    pub address: String,
    /// The image.
    pub file: String,
    /// Capacity in bytes.
    pub capacity: u64,
    /// The digest that was computed now, and equals the manifest's.
    pub digest: String,
}

/// Reads every disk and configuration file of a backup and compares it with the manifest.
///
/// # Errors
/// [`Family::Corrupt`] at the first difference, or if there is no manifest to compare with.
pub async fn verify(backup: Backup, progress: &Progress, cancel: &Cancel) -> Result<Vec<VerifiedDisk>> {
    let manifest = backup.manifest.as_ref().ok_or_else(|| {
        Error::new(Family::Corrupt, format!("{} has no manifest to compare with", backup.directory.display()))
    })?;
    for file in &manifest.files {
        backup.checked_file(&file.name)?;
    }
    let mut verified = Vec::new();
    let addresses = backup.disks.iter().map(|disk| backup.hashes(&disk.address));
    let hashes = addresses.collect::<Result<Vec<_>>>()?;
    for (disk, hashes) in backup.disks.into_iter().zip(hashes) {
        cancel.check()?;
        let capacity = disk.image.size().0;
        let meter = progress.meter(&format!("{} {}", manifest.vm.name, disk.address), capacity);
        let image = Arc::new(disk.image);
        let passed = meter.clone();
        let read = tokio::task::spawn_blocking(move || digest_of(image.as_ref(), |n| passed.add(n)));
        let read = async { read.await.failed(|| "the reader of the image broke off".into()) };
        let digest = cancel
            .or_stop(read)
            .await?
            .map_err(|e| from_read(e, "the image cannot be read").within(disk.file.clone()))?;
        meter.finish();
        if disk.digest.as_ref() != Some(&digest) {
            let what = format!("{} does not hold what was backed up: its digest is {digest}", disk.file);
            return Err(Error::new(Family::Corrupt, what).hint("use another backup of this VM"));
        }
        check_hashes(hashes, capacity, &digest, &disk.file)?;
        verified.push(VerifiedDisk { address: disk.address, file: disk.file, capacity, digest: digest.to_string() });
    }
    Ok(verified)
}

/// Later backups of changes build on these hashes. Without them they read the image, so that their absence is no damage.
fn check_hashes(file: Option<std::fs::File>, capacity: u64, digest: &DiskDigest, image: &str) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    match open_hashes(file, capacity, digest)? {
        Some(_) => Ok(()),
        None => Err(Error::new(Family::Corrupt, format!("the hashes beside {image} are not those of its blocks"))
            .hint("the image itself is whole; remove the file of hashes, which is made again when it is needed")),
    }
}
