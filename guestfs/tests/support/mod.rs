//! Disks built by hand, and the foreign tools that judge us.
#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

pub(crate) mod exfat_image;
pub(crate) mod fat_image;
pub(crate) mod hive;
pub(crate) mod mounted;
pub(crate) mod system_volume;
pub(crate) mod tree;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};
use guestfs::{DiskLayout, Volume};

/// Whether a foreign tool is there. In CI it must be; elsewhere its absence is printed and the test skipped.
pub(crate) fn has(tool: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    if std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()) {
        return true;
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{tool} is missing, and CI must have it");
    eprintln!("skipped: {tool} is not installed");
    false
}

/// A file or folder below the one that `STILLFRAME_PEERS` names. Absent, it counts as a tool does.
pub(crate) fn peer(relative: &str) -> Option<PathBuf> {
    let path = std::env::var_os("STILLFRAME_PEERS").map(|folder| PathBuf::from(folder).join(relative));
    let path = path.filter(|path| path.exists());
    if path.is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{relative} is missing, and CI must have it");
        eprintln!("skipped: there is no {relative} below STILLFRAME_PEERS");
    }
    path
}

/// Runs a tool with `input` on its standard input; answers its standard output.
pub(crate) fn run(tool: &str, args: &[&str], folder: &Path, input: &str) -> String {
    use std::io::Write;
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new(tool);
    command.args(args).current_dir(folder).env("PATH", path).env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{tool} {args:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A disk that counts how often it was read.
pub(crate) struct Counting<D>(D, AtomicU64);

impl<D> Counting<D> {
    pub(crate) fn new(disk: D) -> Self {
        Self(disk, AtomicU64::new(0))
    }

    pub(crate) fn reads(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }
}

impl<D: ReadAt> ReadAt for Counting<D> {
    fn size(&self) -> ByteLen {
        self.0.size()
    }
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read_exact_at(at, buf)
    }
}

/// Writes bytes over others.
pub(crate) fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

/// Fills slot `slot` (from 0 on) of the boot record at byte `at`, and signs the record.
pub(crate) fn put_slot(bytes: &mut [u8], at: usize, slot: usize, table_type: u8, first: u32, sectors: u32) {
    let slot = at + 446 + 16 * slot;
    bytes[slot + 4] = table_type;
    put(bytes, slot + 8, &first.to_le_bytes());
    put(bytes, slot + 12, &sectors.to_le_bytes());
    put(bytes, at + 510, &[0x55, 0xaa]);
}

/// 1 MiB with a primary partition (sectors 64 to 319) and logical ones at 520 (100 sectors) and 712 (200 sectors).
pub(crate) fn mbr_disk() -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    put(&mut bytes, 440, &0xdead_beef_u32.to_le_bytes());
    put_slot(&mut bytes, 0, 0, 0x07, 64, 256);
    put_slot(&mut bytes, 0, 1, 0x0f, 512, 1024);
    put_slot(&mut bytes, 512 * 512, 0, 0x83, 8, 100);
    put_slot(&mut bytes, 512 * 512, 1, 0x05, 192, 212);
    put_slot(&mut bytes, 704 * 512, 0, 0x83, 8, 200);
    bytes
}

/// A disk with a GPT of 128 entries of 128 bytes.
pub(crate) struct GptDisk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sector: usize,
}

impl GptDisk {
    /// Partitions from and to the given sectors, the last one included.
    pub(crate) fn new(sector: usize, sectors: usize, partitions: &[(u64, u64)]) -> Self {
        let mut disk = Self { bytes: vec![0; sector * sectors], sector };
        put_slot(&mut disk.bytes, 0, 0, 0xee, 1, u32::try_from(sectors - 1).unwrap());
        let (array, last) = (16384usize.div_ceil(sector), sectors - 1);
        let usable = (2 + array, last - array - 1);
        for (header, other, entries) in [(1, last, 2), (last, 1, last - array)] {
            let at = header * sector;
            put(&mut disk.bytes, at, b"EFI PART\0\0\x01\0\x5c\0\0\0");
            for (offset, value) in [(0x18, header), (0x20, other), (0x28, usable.0), (0x30, usable.1), (0x48, entries)]
            {
                put(&mut disk.bytes, at + offset, &value.to_le_bytes());
            }
            put(&mut disk.bytes, at + 0x38, &[0xd1; 16]);
            put(&mut disk.bytes, at + 0x50, &[128, 0, 0, 0, 128, 0, 0, 0]);
        }
        for (index, (first, last)) in partitions.iter().enumerate() {
            disk.set_entry(index, *first, *last);
        }
        disk
    }

    pub(crate) fn primary(&self) -> usize {
        self.sector
    }

    pub(crate) fn backup(&self) -> usize {
        self.bytes.len() - self.sector
    }

    /// Where the entries of the header at byte `header` lie.
    pub(crate) fn entries(&self, header: usize) -> usize {
        let lba: [u8; 8] = self.bytes[header + 0x48..header + 0x50].try_into().unwrap();
        usize::try_from(u64::from_le_bytes(lba)).unwrap() * self.sector
    }

    /// Fills an entry in both copies.
    pub(crate) fn set_entry(&mut self, index: usize, first: u64, last: u64) {
        for header in [self.primary(), self.backup()] {
            let at = self.entries(header) + 128 * index;
            put(&mut self.bytes, at, &[0x0f; 16]);
            put(&mut self.bytes, at + 0x10, &[u8::try_from(index).unwrap(); 16]);
            put(&mut self.bytes, at + 0x20, &first.to_le_bytes());
            put(&mut self.bytes, at + 0x28, &last.to_le_bytes());
            self.seal(header);
        }
    }

    /// Overwrites a field of both headers and makes their checksums right.
    pub(crate) fn set_field(&mut self, offset: usize, new: &[u8]) {
        for header in [self.primary(), self.backup()] {
            put(&mut self.bytes, header + offset, new);
            self.seal_header(header);
        }
    }

    pub(crate) fn seal(&mut self, header: usize) {
        let entries = self.entries(header);
        let crc = crc32fast::hash(&self.bytes[entries..entries + 16384]);
        put(&mut self.bytes, header + 0x58, &crc.to_le_bytes());
        self.seal_header(header);
    }

    pub(crate) fn seal_header(&mut self, header: usize) {
        put(&mut self.bytes, header + 0x10, &[0; 4]);
        let crc = crc32fast::hash(&self.bytes[header..header + 92]);
        put(&mut self.bytes, header + 0x10, &crc.to_le_bytes());
    }
}

/// Index, first byte and length of each volume.
pub(crate) fn places(layout: &DiskLayout) -> Vec<(u32, u64, u64)> {
    layout.volumes.iter().map(|v: &Volume| (v.index, v.start.0, v.len.0)).collect()
}
