//! Bytes as virtual machines have them: the files of this one, with holes between.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::problem::{Problem, Result, io};

/// What a file system gives its files.
const CLUSTER: u64 = 4096;
/// Behind so much data there is a hole, of 27 parts in 100 of both.
const STRETCH: u64 = 8 << 20;
const HOLE: u64 = STRETCH * 27 / 73 / CLUSTER * CLUSTER;
/// Larger files would be most of the disk.
const LARGEST: u64 = 64 << 20;

/// Writes a disk of `size` bytes, 27 % of them holes.
pub(crate) fn write(path: &Path, size: u64) -> Result<()> {
    let disk = File::create_new(path).map_err(io("make", path))?;
    disk.set_len(size).map_err(io("lengthen", path))?;
    let (mut at, mut stretch) = (0, 0);
    let mut folders: Vec<PathBuf> = ["/usr/share", "/usr/bin", "/usr/lib"].map(PathBuf::from).to_vec();
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        entries.sort();
        for entry in entries {
            let Ok(metadata) = fs::symlink_metadata(&entry) else { continue };
            if metadata.is_dir() {
                folders.push(entry);
                continue;
            }
            if !metadata.is_file() || metadata.len() > LARGEST || metadata.len() == 0 {
                continue;
            }
            let Ok(bytes) = fs::read(&entry) else { continue };
            if at + bytes.len() as u64 > size {
                return Ok(());
            }
            disk.write_all_at(&bytes, at).map_err(io("write", path))?;
            let taken = (bytes.len() as u64).next_multiple_of(CLUSTER);
            (at, stretch) = (at + taken, stretch + taken);
            if stretch >= STRETCH {
                (at, stretch) = (at + HOLE, 0);
            }
        }
    }
    let found = format!("the files in /usr fill {} MiB of it, and {} are wanted", at >> 20, size >> 20);
    Err(Problem::Wrong { what: "the data".to_owned(), found })
}
