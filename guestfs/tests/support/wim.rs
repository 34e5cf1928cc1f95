//! WIM files of wimlib, and what is compressed in them.
#![allow(dead_code, reason = "each file that includes this uses a part of it")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use blockdev::{ByteLen, ByteOffset, FileDisk, Window};
use guestfs::unpack::wof::{Algorithm, WofReader};

use crate::support::run;

pub(crate) const WIMLIB: &str = "wimlib-imagex";
/// wimlib's settings and ours: each algorithm, and LZX at levels that choose blocks differently.
pub(crate) const PACKINGS: [(&str, &str, Algorithm); 6] = [
    ("XPRESS", "4096", Algorithm::Xpress4k),
    ("XPRESS", "8192", Algorithm::Xpress8k),
    ("XPRESS:90", "16384", Algorithm::Xpress16k),
    ("LZX:20", "32768", Algorithm::Lzx),
    ("LZX", "32768", Algorithm::Lzx),
    ("LZX:100", "32768", Algorithm::Lzx),
];

/// A compressed resource of a WIM file.
pub(crate) struct Resource {
    /// Where its entry is in the file.
    pub(crate) entry: usize,
    pub(crate) start: u64,
    pub(crate) packed: u64,
    pub(crate) plain: u64,
}

/// The compressed resources of a WIM file, but for the metadata of its image. Headers: wimlib's `docs`, and the WIM white paper.
pub(crate) fn resources(wim: &[u8]) -> Vec<Resource> {
    assert_eq!(wim[..8], *b"MSWIM\0\0\0");
    let number = |at: usize| u64::from_le_bytes(wim[at..at + 8].try_into().unwrap());
    let entry = |at: usize| {
        let (packed, flags) = (number(at) & 0xff_ffff_ffff_ffff, wim[at + 7]);
        (Resource { entry: at, start: number(at + 8), packed, plain: number(at + 16) }, flags)
    };
    let (table, _) = entry(48);
    let (start, len) = (usize::try_from(table.start).unwrap(), usize::try_from(table.packed).unwrap());
    let entries = (start..start + len).step_by(50).map(entry);
    entries.filter(|(_, flags)| flags & 0x06 == 0x04).map(|(resource, _)| resource).collect()
}

/// Has wimlib put `files` into a WIM file.
pub(crate) fn capture(folder: &Path, files: &HashMap<u64, Vec<u8>>, compress: &str, chunk: &str) -> PathBuf {
    std::fs::create_dir_all(folder.join("files")).unwrap();
    for (len, bytes) in files {
        std::fs::write(folder.join("files").join(len.to_string()), bytes).unwrap();
    }
    let (compress, chunk) = (format!("--compress={compress}"), format!("--chunk-size={chunk}"));
    run(WIMLIB, &["capture", "files", "x.wim", &compress, &chunk, "--quiet", "--threads=1"], folder, "");
    folder.join("x.wim")
}

pub(crate) fn reader(wim: &Path, resource: &Resource, algorithm: Algorithm) -> WofReader<Window<FileDisk>> {
    let disk = FileDisk::open(wim).unwrap();
    let stream = Window::new(disk, ByteOffset(resource.start), ByteLen(resource.packed)).unwrap();
    WofReader::new(stream, ByteLen(resource.plain), algorithm, format!("{}", resource.plain)).unwrap()
}
