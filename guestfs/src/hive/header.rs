//! The base block ("Windows registry file format specification", section "Base block").

use blockdev::{ByteOffset, ReadAt};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::cell::CellOffset;
use super::{BINS, corrupt};
use crate::FsError;

/// As much of the header as its checksum covers, and the checksum.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 4],  // 0x00
    sequence_1: U32,     // 0x04: counted up before a write
    sequence_2: U32,     // 0x08: the same again after it
    written: [u8; 8],    // 0x0c
    major: U32,          // 0x14
    minor: U32,          // 0x18
    file_type: U32,      // 0x1c: 0 primary, others are logs
    format: U32,         // 0x20
    root: U32,           // 0x24: cell of the topmost key
    bins: U32,           // 0x28: length of the bins in bytes
    clustering: U32,     // 0x2c
    file_name: [u8; 64], // 0x30
    unused: [u8; 0x18c], // 0x70
    checksum: U32,       // 0x1fc
}
const _: () = assert!(size_of::<RawHeader>() == 512);

/// What the header tells.
pub(super) struct Header {
    pub(super) root: CellOffset,
    pub(super) bins: u64,
    pub(super) notes: Vec<String>,
}

impl Header {
    pub(super) fn read(disk: &dyn ReadAt) -> Result<Self, FsError> {
        let what = || "the hive header at byte 0x0".to_owned();
        let mut bytes = [0; 512];
        disk.read_exact_at(ByteOffset(0), &mut bytes).map_err(|source| FsError::Read { what: what(), source })?;
        let raw: RawHeader = zerocopy::transmute!(bytes);
        if &raw.signature != b"regf" {
            return Err(corrupt(what(), "signature", format!("{:?}", raw.signature), "\"regf\""));
        }
        if raw.file_type.get() != 0 {
            return Err(corrupt(what(), "file type", raw.file_type, "0, a primary file and no log"));
        }
        if raw.major.get() != 1 {
            return Err(corrupt(what(), "major version", raw.major, "1"));
        }
        if raw.minor.get() < 2 {
            let why = "hives of Windows NT 3.1 are of a form of their own";
            return Err(FsError::Unsupported { what: "the hive".to_owned(), why });
        }
        let mut notes = raw.dirt();
        let present = disk.size().0.saturating_sub(BINS);
        let bins = u64::from(raw.bins.get());
        if bins > present {
            notes.push(format!(
                "the header promises {bins} bytes of cells, and the file has {present}: the rest is lost"
            ));
        }
        // A hive that grew just before the guest was stopped may have cells behind the end that the header knows.
        let bins = if notes.is_empty() { bins } else { present };
        Ok(Self { root: CellOffset(raw.root.get()), bins, notes })
    }
}

impl RawHeader {
    /// What shows that the last write did not come to its end.
    fn dirt(&self) -> Vec<String> {
        const NOT_APPLIED: &str = "the guest was writing it. It is read as it is; its transaction logs are not applied";
        let mut notes = Vec::new();
        let (first, second) = (self.sequence_1, self.sequence_2);
        if first != second {
            notes.push(format!("the hive is dirty (sequence numbers {first} and {second}): {NOT_APPLIED}"));
        }
        let (computed, stored) = (self.checksum(), self.checksum.get());
        if computed != stored {
            notes.push(format!(
                "the hive is dirty (checksum of the header {stored:#010x}, of its bytes {computed:#010x}): {NOT_APPLIED}"
            ));
        }
        notes
    }

    /// XOR of the 127 numbers before the checksum; two results are stored as their neighbours.
    fn checksum(&self) -> u32 {
        let mut words = self.as_bytes().as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        words.next_back();
        match words.fold(0, |sum, word| sum ^ word) {
            0 => 1,
            u32::MAX => u32::MAX.wrapping_sub(1),
            sum => sum,
        }
    }
}
