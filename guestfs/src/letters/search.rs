//! Where the SYSTEM hives of a machine lie.

use std::sync::Arc;

use blockdev::{ByteLen, ReadAt};

use super::{MountedDevices, VolumeToLetter};
use crate::{Cache, CachedDisk, Case, FileSystem, FsError};

/// Windows XP and later, and Windows NT 4 and 2000.
const PATHS: [[&str; 4]; 2] = [["Windows", "System32", "config", "SYSTEM"], ["WINNT", "system32", "config", "system"]];
/// What of a hive is kept while it is read: what counts lies close together.
const CACHE: ByteLen = ByteLen(1 << 20);

/// A hive that could be read.
pub(super) struct Found {
    /// Index of the volume that holds it.
    pub(super) volume: usize,
    pub(super) path: String,
    pub(super) mounted: MountedDevices,
}

impl Found {
    /// The hive for people.
    pub(super) fn name(&self) -> String {
        name(self.volume, &self.path)
    }
}

/// The hives of all volumes, in their order. What cannot be read is noted.
pub(super) fn hives(volumes: &[VolumeToLetter<'_>], notes: &mut Vec<String>) -> Vec<Found> {
    let mut all = Vec::new();
    for (volume, files) in volumes.iter().enumerate().filter_map(|(index, volume)| Some((index, volume.files?))) {
        for components in PATHS {
            let path = components.join("/");
            let hive =
                open(files, components).and_then(|hive| hive.map(|hive| MountedDevices::read(&hive)).transpose());
            match hive {
                Ok(None) => {}
                Ok(Some(mounted)) => all.push(Found { volume, path, mounted }),
                Err(error) => notes.push(format!("{} is not used: {}", name(volume, &path), chain(&error))),
            }
        }
    }
    all
}

fn name(volume: usize, path: &str) -> String {
    format!("the registry hive {path} of volume {}", volume.saturating_add(1))
}

fn open(files: &dyn FileSystem, path: [&str; 4]) -> Result<Option<CachedDisk>, FsError> {
    let mut file = files.root();
    for component in path {
        match files.find(file, component.as_bytes(), Case::Ignored)? {
            Some(next) => file = next,
            None => return Ok(None),
        }
    }
    let disk: Arc<dyn ReadAt> = files.open(file)?.into();
    Ok(Some(CachedDisk::new(disk, Cache::new(CACHE))))
}

/// An error with its sources, which nobody sees after this.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
