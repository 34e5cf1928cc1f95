//! The header of a space-efficient sparse extent, the redo log of ESX on VMFS 6 and for disks over 2 TiB.
//!
//! VMware has published nothing. Field names and meanings are those of QEMU's `block/vmdk.c` (`VMDKSESparseConstHeader`,
//! commit 98eb9733f4cf), which were found by looking at such files.
//!
//! ```text
//!   constant header | volatile header | journal header | journal | directory | tables | bitmap | backmap | grains
//! ```

use std::mem::{offset_of, size_of};

use blockdev::{ByteOffset, ReadAt};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Areas, Entries, Grains, read_part, read_start};
use crate::VmdkError;
use crate::convert::{MAX_CAPACITY, sectors_to_bytes, to_u64};

/// Both headers' magic numbers.
const CONSTANT_MAGIC: u64 = 0xcafe_babe;
const VOLATILE_MAGIC: u64 = 0xcafe_cafe;
/// The version that ESX writes, 2.1.
const VERSION: u64 = 0x2_0000_0001;
/// The largest table that is read, in sectors: 4096 entries, as ESX writes it.
const TABLE_SECTORS: u64 = 64;
/// Entries in a sector of a directory or table.
const ENTRIES_PER_SECTOR: u64 = 64;

/// Where an area begins and how long it is, in sectors.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawArea {
    offset: U64,
    size: U64,
}

/// The constant header as it stands on disk.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawConstant {
    magic: U64,               // 0x00
    version: U64,             // 0x08
    capacity: U64,            // 0x10 sectors
    grain_size: U64,          // 0x18 sectors
    grain_table_size: U64,    // 0x20 sectors
    flags: U64,               // 0x28
    reserved: [U64; 4],       // 0x30
    volatile_header: RawArea, // 0x50
    journal_header: RawArea,  // 0x60
    journal: RawArea,         // 0x70
    grain_directory: RawArea, // 0x80
    grain_tables: RawArea,    // 0x90
    free_bitmap: RawArea,     // 0xa0
    backmap: RawArea,         // 0xb0
    grains: RawArea,          // 0xc0
    pad: [u8; 304],           // 0xd0
}

const _: () = assert!(size_of::<RawConstant>() == 512);
const _: () = assert!(offset_of!(RawConstant, grains) == 0xc0);

/// The volatile header as it stands on disk, without its padding.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawVolatile {
    magic: U64,          // 0x00
    free_gt_number: U64, // 0x08
    next_txn: U64,       // 0x10 nextTxnSeqNumber
    replay_journal: U64, // 0x18
}

/// Reads and checks both headers.
///
/// # Errors
/// Shorter than a header, a field that contradicts the format, or a journal that was not replayed.
pub(crate) fn read_sesparse(file: &dyn ReadAt, name: &str) -> Result<Grains, VmdkError> {
    let bytes: [u8; 512] = read_start(file, name, "the header")?;
    let raw: RawConstant = zerocopy::transmute!(bytes);
    let check = Check { raw: &raw, name };
    let grains = check.constant()?;
    check.volatile(file)?;
    Ok(grains)
}

struct Check<'a> {
    raw: &'a RawConstant,
    name: &'a str,
}

impl Check<'_> {
    fn constant(&self) -> Result<Grains, VmdkError> {
        let raw = self.raw;
        if raw.magic.get() != CONSTANT_MAGIC {
            return Err(self.wrong("magic", offset_of!(RawConstant, magic), raw.magic.get(), "0xcafebabe"));
        }
        if raw.version.get() != VERSION {
            return Err(self.unsupported("version", raw.version.get(), "8589934593, which is 2.1"));
        }
        if raw.flags.get() != 0 {
            return Err(self.unsupported("flags", raw.flags.get(), "0"));
        }
        let capacity = raw.capacity.get();
        if !(1..=MAX_CAPACITY.0).contains(&capacity) {
            return Err(self.wrong("capacity", offset_of!(RawConstant, capacity), capacity, "1 sector to 64 TiB"));
        }
        let grain = raw.grain_size.get();
        if !grain.is_power_of_two() || !(8..=128).contains(&grain) {
            let expected = "a power of two from 8 to 128 sectors";
            return Err(self.wrong("grainSize", offset_of!(RawConstant, grain_size), grain, expected));
        }
        let table = raw.grain_table_size.get();
        if !(1..=TABLE_SECTORS).contains(&table) {
            let place = offset_of!(RawConstant, grain_table_size);
            return Err(self.wrong("grainTableSize", place, table, "1 to 64 sectors"));
        }
        let tables = self.area("grainTablesOffset", offset_of!(RawConstant, grain_tables), raw.grain_tables)?;
        let stored = self.area("grainsOffset", offset_of!(RawConstant, grains), raw.grains)?;
        let directory = self.area("grainDirOffset", offset_of!(RawConstant, grain_directory), raw.grain_directory)?;
        let grains = Grains {
            capacity: sectors_to_bytes(capacity),
            grain_len: sectors_to_bytes(grain),
            table_entries: table.saturating_mul(ENTRIES_PER_SECTOR),
            directories: vec![directory.0],
            entries: Entries::Tagged(Areas {
                tables: tables.0,
                table_count: tables.1.checked_div(table).unwrap_or(0),
                table_len: sectors_to_bytes(table),
                grains: stored.0,
                grain_count: stored.1.checked_div(grain).unwrap_or(0),
                grain_len: sectors_to_bytes(grain),
            }),
            packed: false,
            grain_area: (stored.0, stored.0), // free grains are listed in a bitmap, and no leak
            reserved: [(0, 0); 2],            // tables and grains have areas of their own
            unclean: false,
            lacks_directory: false,
        };
        if directory.1.saturating_mul(ENTRIES_PER_SECTOR) < grains.table_count() {
            let place = offset_of!(RawConstant, grain_directory).saturating_add(8);
            return Err(self.wrong("grainDirSize", place, directory.1, "an entry for every table"));
        }
        Ok(grains)
    }

    /// The first byte and the sectors of an area, which begins behind the header and before 2^55.
    fn area(&self, field: &'static str, place: usize, area: RawArea) -> Result<(u64, u64), VmdkError> {
        let (offset, size) = (area.offset.get(), area.size.get());
        let end = offset.checked_add(size).filter(|end| end.leading_zeros() >= 9);
        match end {
            Some(_) if offset > 0 => Ok((sectors_to_bytes(offset), size)),
            _ => Err(self.wrong(field, place, offset, "an area behind the header, below 2^55 sectors")),
        }
    }

    /// The part of the header that changes: whether the tables are as they should be.
    fn volatile(&self, file: &dyn ReadAt) -> Result<(), VmdkError> {
        let place = offset_of!(RawConstant, volatile_header);
        let (start, _) = self.area("volatileHeaderOffset", place, self.raw.volatile_header)?;
        let bytes: [u8; size_of::<RawVolatile>()] = read_part(file, self.name, "the volatile header", start)?;
        let raw: RawVolatile = zerocopy::transmute!(bytes);
        if raw.magic.get() != VOLATILE_MAGIC {
            return Err(VmdkError::Field {
                file: self.name.to_owned(),
                field: "the magic of the volatile header",
                position: ByteOffset(start),
                actual: raw.magic.get(),
                expected: "0xcafecafe",
            });
        }
        match raw.replay_journal.get() {
            0 => Ok(()),
            other => Err(self.unsupported("replayJournal", other, "0; the host that wrote it must open it once more")),
        }
    }

    fn wrong(&self, field: &'static str, position: usize, actual: u64, expected: &'static str) -> VmdkError {
        VmdkError::Field { file: self.name.to_owned(), field, position: ByteOffset(to_u64(position)), actual, expected }
    }

    fn unsupported(&self, field: &'static str, actual: u64, expected: &'static str) -> VmdkError {
        VmdkError::Unsupported { file: self.name.to_owned(), field, actual, expected }
    }
}

#[cfg(test)]
mod tests;
