//! Volumes that Windows made (samples of the dissect project, fetched by `tests/peers/dissect.sh`), beside what ntfs-3g shows of them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what only tests call may fail as tests do")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/volumes.rs"]
mod volumes;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, FileDisk, MemDisk, ReadAt, ReadError};
use guestfs::{FileKind, FileSystem, FsError};
use support::{has, peer};
use volumes::{digest, open_ntfs, walk};

/// ntfs-3g's view of an image, until this is dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(image: &Path) -> Self {
        let point = tempfile::tempdir().unwrap();
        let options = ["-o", "ro,streams_interface=xattr"];
        let done = Command::new("ntfs-3g").args(options).arg(image).arg(point.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self(point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(self.0.path()).status());
    }
}

/// Every path that ntfs-3g shows, folders first, with the content of plain files.
fn shown_by_ntfs_3g(top: &Path) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(top.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().unwrap();
            let content = kind.is_file().then(|| fs::read(entry.path()).unwrap());
            found.insert(path.as_os_str().as_bytes().to_vec(), content);
            if kind.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

/// What ntfs-3g shows we show, and nothing more but what is in the folder `beyond`; we refuse `refused` of the files.
fn equal_to_ntfs_3g(sample: &str, beyond: &str, refused: usize) {
    let Some(image) = peer(sample).filter(|_| has("ntfs-3g")) else { return };
    let volume = open_ntfs(Arc::new(FileDisk::open(&image).unwrap())).unwrap();
    let mounted = Mounted::new(&image);
    let theirs = shown_by_ntfs_3g(mounted.0.path());
    let mut ours = walk(&volume);
    ours.remove(&b""[..]);
    let known = |path: &&Vec<u8>| beyond.is_empty() || !path.starts_with(format!("{beyond}/").as_bytes());
    assert!(ours.keys().filter(known).eq(theirs.keys()));
    let mut refusals = 0;
    for (path, file) in ours {
        let shown = path.escape_ascii().to_string();
        if volume.metadata(file).unwrap().kind != FileKind::File {
            continue;
        }
        match volume.open(file) {
            Ok(content) if !known(&&path) => drop(digest(&*content).unwrap()),
            Ok(content) => {
                let theirs = theirs[&path].clone().unwrap_or_else(|| panic!("{shown} is no file to ntfs-3g"));
                assert_eq!(digest(&*content).unwrap(), digest(&MemDisk::new(theirs)).unwrap(), "{shown}");
            }
            Err(FsError::Unsupported { .. }) => refusals += 1,
            Err(error) => panic!("{shown}: {error}"),
        }
    }
    assert_eq!(refusals, refused);
}

#[test]
fn a_small_volume_of_windows_reads_as_with_ntfs_3g() {
    equal_to_ntfs_3g("dissect/ntfs/ntfs.bin", "", 0);
}

#[test]
fn a_folder_of_a_cloud_store_is_a_folder_and_only_the_placeholder_in_it_is_refused() {
    // ntfs-3g shows that folder as a link to nowhere, for it has a reparse tag; Windows shows what is in it.
    equal_to_ntfs_3g("dissect/ntfs/ntfs-cloud.bin", "OneDrive", 1);
}

/// A disk of which a few pieces are known, and the rest is zeros.
struct Pieces(Vec<(u64, Vec<u8>)>);

impl ReadAt for Pieces {
    fn size(&self) -> ByteLen {
        ByteLen(1 << 40)
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        for (offset, byte) in (at.0..).zip(buf.iter_mut()) {
            let piece = self.0.iter().find(|(start, bytes)| (*start..start + bytes.len() as u64).contains(&offset));
            *byte = piece.map_or(0, |(start, bytes)| bytes[usize::try_from(offset - start).unwrap()]);
        }
        Ok(())
    }
}

#[test]
fn an_mft_in_238_pieces_is_put_together() {
    let Some(sample) = peer("dissect/ntfs/ntfs_fragmented_mft.csv") else { return };
    let text = fs::read_to_string(sample).unwrap();
    let byte = |hex: &str, at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let pieces = text
        .lines()
        .filter_map(|line| line.trim().split_once(','))
        .map(|(offset, hex)| (offset.parse().unwrap(), (0..hex.len()).step_by(2).map(|at| byte(hex, at)).collect()));
    // Of the volume there is nothing but the MFT's own records: the first one behind them is missed, and found missing.
    let volume = open_ntfs(Arc::new(Pieces(pieces.collect()))).unwrap();
    let notes = &volume.about().notes;
    assert!(notes[0].contains(r#"signature of record 3 is "\x00\x00\x00\x00": FILE"#), "{notes:?}");
}
