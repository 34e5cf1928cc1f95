//! A small FAT16 volume in memory, to be damaged.

use std::io::{Cursor, Write};

use fatfs::{FatType, FormatVolumeOptions, FsOptions, format_volume};

/// The bytes of a volume with clusters of one sector of 512 bytes.
#[derive(Clone)]
pub(crate) struct FatImage {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fat: usize,
    pub(crate) root: usize,
    pub(crate) heap: usize,
}

impl FatImage {
    /// Files of 0, 100 and 5000 bytes and a folder with a file and a folder in it.
    pub(crate) fn new() -> Self {
        let mut disk = Cursor::new(vec![0; 2400 << 10]);
        let options =
            FormatVolumeOptions::new().fat_type(FatType::Fat16).bytes_per_cluster(512).volume_label(*b"HOSTILE    ");
        format_volume(&mut disk, options).unwrap();
        {
            let volume = fatfs::FileSystem::new(&mut disk, FsOptions::new()).unwrap();
            let root = volume.root_dir();
            let write = |folder: &fatfs::Dir<'_, _>, name: &str, len: usize| {
                folder.create_file(name).unwrap().write_all(&super::tree::pattern(1, len)).unwrap();
            };
            write(&root, "EMPTY.TXT", 0);
            write(&root, "SMALL.TXT", 100);
            write(&root, "LARGE.BIN", 5000);
            write(&root, "a long name of three slots.txt", 700);
            let folder = root.create_dir("FOLDER").unwrap();
            write(&folder, "INNER.TXT", 600);
            let deep = folder.create_dir("DEEP").unwrap();
            write(&deep, "another long name in a deep folder", 10);
        }
        let bytes = disk.into_inner();
        let number = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let fat = number(0x0e) * 512;
        let root = fat + usize::from(bytes[0x10]) * number(0x16) * 512;
        let heap = root + number(0x11) * 32;
        Self { bytes, fat, root, heap }
    }

    /// Where the entry of this short name begins.
    pub(crate) fn entry(&self, name: &[u8; 11]) -> usize {
        self.bytes.chunks_exact(32).position(|slot| &slot[..11] == name && slot[11] & 8 == 0).unwrap() * 32
    }

    pub(crate) fn first_cluster(&self, name: &[u8; 11]) -> u16 {
        let at = self.entry(name) + 26;
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    pub(crate) fn set_first_cluster(&mut self, name: &[u8; 11], cluster: u16) {
        let at = self.entry(name) + 26;
        self.bytes[at..at + 2].copy_from_slice(&cluster.to_le_bytes());
    }

    /// Chains a cluster to another.
    pub(crate) fn chain(&mut self, cluster: u16, next: u16) {
        let at = self.fat + 2 * usize::from(cluster);
        self.bytes[at..at + 2].copy_from_slice(&next.to_le_bytes());
    }

    /// The first byte of a cluster.
    pub(crate) fn cluster(&self, cluster: u16) -> usize {
        self.heap + 512 * (usize::from(cluster) - 2)
    }
}
