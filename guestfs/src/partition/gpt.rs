//! The GUID partition table (UEFI 2.10 section 5.3): a header and an array of entries, in two copies.

use blockdev::{ByteLen, ByteOffset};
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::claims::{Claim, refuse_overlaps};
use super::source::{Lba, Source};
use super::{PartitionError, PartitionType, Volume, Warning};

pub(super) const SIGNATURE: [u8; 8] = *b"EFI PART";
/// Where the primary header lies.
pub(super) const PRIMARY: Lba = Lba(1);
const REVISION_1_0: u32 = 0x0001_0000;
const HEADER_LEN: usize = size_of::<RawHeader>();
/// The usual array is 16 KiB (128 entries of 128 bytes). 1 MiB is as much as fits before the first partition of today's
/// tools, and bounds what a header can make us read.
const MAX_ARRAY: u64 = 1 << 20;
/// Entries are 128 bytes since there is GPT. The standard allows 128 times any power of two; past 4096 none was ever seen.
const MAX_ENTRY: u32 = 4096;
/// Linux takes no more partitions than this from a disk (`DISK_MAX_PARTS`). Each costs us a read of 68 KiB.
const MAX_PARTITIONS: usize = 256;

/// UEFI 2.10 table 5.5. What follows up to the end of the sector is reserved.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 8],    // 0x00
    revision: U32,         // 0x08
    header_size: U32,      // 0x0c
    header_crc: U32,       // 0x10: of header_size bytes, this field being 0
    reserved: U32,         // 0x14
    my_lba: U64,           // 0x18
    alternate_lba: U64,    // 0x20
    first_usable_lba: U64, // 0x28
    last_usable_lba: U64,  // 0x30
    disk_guid: [u8; 16],   // 0x38
    entries_lba: U64,      // 0x48
    entry_count: U32,      // 0x50
    entry_size: U32,       // 0x54
    entries_crc: U32,      // 0x58
}
const _: () = assert!(HEADER_LEN == 92);

/// UEFI 2.10 table 5.6.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    type_guid: [u8; 16], // 0x00: all 0 if unused
    guid: [u8; 16],      // 0x10
    first_lba: U64,      // 0x20
    last_lba: U64,       // 0x28: the last sector itself
    attributes: U64,     // 0x30
    name: [U16; 36],     // 0x38: UTF-16, ends at the first 0 or with the field
}
const _: () = assert!(size_of::<RawEntry>() == 128);

/// One copy of the table, its checksums and bounds verified; not yet its entries.
pub(super) struct GptCopy {
    pub(super) disk_guid: Uuid,
    pub(super) alternate: Lba,
    usable: (Lba, Lba),
    entries: Vec<u8>,
    entries_at: ByteOffset,
    entry_size: usize,
}

impl GptCopy {
    /// Loads the copy whose header is at `lba`.
    pub(super) fn load(source: Source<'_>, lba: Lba) -> Result<Self, PartitionError> {
        let at = source.offset(lba);
        let header = load_header(source, lba, at)?;
        let (entry_size, len) = array_shape(&header, at)?;
        let entries_at = source.offset(Lba(header.entries_lba.get()));
        if !source.holds(entries_at, ByteLen(len)) {
            let found = header.entries_lba.get();
            return Err(corrupt("PartitionEntryLBA", at, 0x48, found, "the array inside the disk"));
        }
        // Bounded by MAX_ARRAY.
        let entries = source.bytes("GPT entry array", entries_at, usize::try_from(len).unwrap_or(0))?;
        let (computed, stored) = (crc32fast::hash(&entries), header.entries_crc.get());
        if computed != stored {
            return Err(PartitionError::Checksum { what: "GPT entry array", at: entries_at, computed, stored });
        }
        Ok(Self {
            disk_guid: Uuid::from_bytes_le(header.disk_guid),
            alternate: Lba(header.alternate_lba.get()),
            usable: (Lba(header.first_usable_lba.get()), Lba(header.last_usable_lba.get())),
            entries,
            entries_at,
            entry_size,
        })
    }

    /// Whether the other copy tells the same.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        self.disk_guid == other.disk_guid && self.usable == other.usable && self.entries == other.entries
    }

    /// The partitions in the order of the array.
    pub(super) fn volumes(
        &self,
        source: Source<'_>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Vec<Volume>, PartitionError> {
        let mut volumes = Vec::new();
        for (index, bytes) in (1..).zip(self.entries.chunks_exact(self.entry_size)) {
            let Ok((entry, _)) = RawEntry::ref_from_prefix(bytes) else { break }; // entries have 128 bytes or more
            if entry.type_guid == [0; 16] {
                continue;
            }
            let at = self.entry_at(index);
            if volumes.len() >= MAX_PARTITIONS {
                let what = "the number of GPT partitions";
                return Err(PartitionError::Unsupported { what, at, found: 257, limit: "at most 256 are read" });
            }
            let (first, last) = (Lba(entry.first_lba.get()), Lba(entry.last_lba.get()));
            if first < self.usable.0 || last > self.usable.1 {
                warnings.push(Warning::OutsideArea { index, area: "the usable sectors of the GPT" });
            }
            volumes.push(entry.volume(source, index, at)?);
        }
        refuse_overlaps(volumes.iter().map(Claim::of).collect())?;
        Ok(volumes)
    }

    /// Where an entry lies. The array is inside the disk, so nothing saturates.
    fn entry_at(&self, index: u32) -> ByteOffset {
        let size = u64::try_from(self.entry_size).unwrap_or(u64::MAX);
        ByteOffset(self.entries_at.0.saturating_add(u64::from(index.saturating_sub(1)).saturating_mul(size)))
    }
}

impl RawEntry {
    fn volume(&self, source: Source<'_>, index: u32, at: ByteOffset) -> Result<Volume, PartitionError> {
        let (first, last) = (self.first_lba.get(), self.last_lba.get());
        let Some(sectors) = last.checked_sub(first).map(|more| more.saturating_add(1)) else {
            return Err(corrupt("EndingLBA", at, 0x28, last, "not before StartingLBA"));
        };
        let table_type = PartitionType::Gpt(Uuid::from_bytes_le(self.type_guid));
        let mut volume = source.volume(index, table_type, Lba(first), sectors)?;
        volume.guid = Some(Uuid::from_bytes_le(self.guid));
        volume.bootable = self.attributes.get() & 0b100 != 0; // UEFI 2.10 table 5.7, bit 2
        let units = self.name.iter().map(|unit| unit.get()).take_while(|unit| *unit != 0);
        let name: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        volume.name = Some(name).filter(|name| !name.is_empty());
        Ok(volume)
    }
}

fn corrupt(field: &'static str, at: ByteOffset, offset: u64, found: u64, expected: &'static str) -> PartitionError {
    PartitionError::Corrupt { field, at: ByteOffset(at.0.saturating_add(offset)), found, expected }
}

/// Reads a header and verifies all that it says of itself.
fn load_header(source: Source<'_>, lba: Lba, at: ByteOffset) -> Result<RawHeader, PartitionError> {
    if !source.holds(at, source.sector.bytes()) {
        return Err(PartitionError::NoGptHeader { at });
    }
    let mut header: RawHeader = source.raw("GPT header", at)?;
    if header.signature != SIGNATURE {
        return Err(PartitionError::NoGptHeader { at });
    }
    let size = u64::from(header.header_size.get());
    let tail = usize::try_from(size).ok().and_then(|size| size.checked_sub(HEADER_LEN));
    let Some(tail) = tail.filter(|_| size <= source.sector.bytes().0) else {
        return Err(corrupt("HeaderSize", at, 0x0c, size, "92 to one sector"));
    };
    let stored = header.header_crc.get();
    header.header_crc = 0.into();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header.as_bytes());
    hasher.update(&source.bytes("GPT header", ByteOffset(at.0.saturating_add(92)), tail)?);
    let computed = hasher.finalize();
    if computed != stored {
        return Err(PartitionError::Checksum { what: "GPT header", at, computed, stored });
    }
    if header.revision.get() != REVISION_1_0 {
        let (what, found) = ("the GPT revision", header.revision.get().into());
        return Err(PartitionError::Unsupported { what, at, found, limit: "only 1.0 (65536) is known" });
    }
    if header.my_lba.get() != lba.0 {
        return Err(corrupt("MyLBA", at, 0x18, header.my_lba.get(), "the sector it lies in"));
    }
    let (first, last) = (header.first_usable_lba.get(), header.last_usable_lba.get());
    if last < first {
        return Err(corrupt("LastUsableLBA", at, 0x30, last, "not before FirstUsableLBA"));
    }
    Ok(header)
}

/// The size of an entry and of the whole array in bytes.
fn array_shape(header: &RawHeader, at: ByteOffset) -> Result<(usize, u64), PartitionError> {
    let (size, count) = (header.entry_size.get(), header.entry_count.get());
    if size < 128 || !size.is_power_of_two() {
        return Err(corrupt("SizeOfPartitionEntry", at, 0x54, size.into(), "128 times a power of two"));
    }
    if size > MAX_ENTRY {
        let what = "the size of a GPT entry";
        return Err(PartitionError::Unsupported { what, at, found: size.into(), limit: "at most 4096 bytes" });
    }
    if count == 0 {
        return Err(corrupt("NumberOfPartitionEntries", at, 0x50, 0, "at least 1"));
    }
    let len = u64::from(size).saturating_mul(count.into());
    if len > MAX_ARRAY {
        let what = "the size of the GPT entry array";
        return Err(PartitionError::Unsupported { what, at, found: len, limit: "at most 1048576 bytes" });
    }
    Ok((usize::try_from(size).unwrap_or(128), len))
}
