//! The header of an ESX redo log: Virtual Disk Format 1.1, section "ESX Server Sparse Extents" (`COWDisk_Header`).

use std::mem::offset_of;

use blockdev::{ByteOffset, ReadAt};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{COWD_MAGIC, Entries, Grains, MAX_GRAIN_SECTORS, read_start};
use crate::VmdkError;
use crate::convert::{sectors_to_bytes, to_u64};

/// The size of the header, in bytes.
const HEADER_LEN: u64 = 2048;

/// Entries of a grain table; the header does not say.
const TABLE_ENTRIES: u64 = 4096;

/// The fields of the header that matter for reading. The rest of its 2048 bytes names the parent and counts
/// generations; ESX keeps both in the descriptor since version 3.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawCowd {
    magic: [u8; 4],      // 0x00 magicNumber
    version: U32,        // 0x04
    flags: U32,          // 0x08
    num_sectors: U32,    // 0x0c
    grain_size: U32,     // 0x10 sectors
    gd_offset: U32,      // 0x14 sectors
    num_gd_entries: U32, // 0x18
    free_sector: U32,    // 0x1c
}

/// Reads and checks the header of a redo log.
///
/// # Errors
/// Shorter than a header, no `COWD`, or any field that contradicts the format.
pub(crate) fn read_cowd(file: &dyn ReadAt, name: &str) -> Result<Grains, VmdkError> {
    let bytes: [u8; 32] = read_start(file, name, "the header")?;
    let raw: RawCowd = zerocopy::transmute!(bytes);
    let wrong = |field, position, actual: u32, expected| VmdkError::Field {
        file: name.to_owned(),
        field,
        position: ByteOffset(to_u64(position)),
        actual: actual.into(),
        expected,
    };
    if raw.magic != COWD_MAGIC {
        let magic = u32::from_le_bytes(raw.magic);
        return Err(wrong("magicNumber", offset_of!(RawCowd, magic), magic, "COWD"));
    }
    if raw.version.get() != 1 {
        return Err(VmdkError::Unsupported {
            file: name.to_owned(),
            field: "version",
            actual: raw.version.get().into(),
            expected: "version 1",
        });
    }
    let (sectors, grain, directory) = (raw.num_sectors.get(), raw.grain_size.get(), raw.gd_offset.get());
    if sectors == 0 {
        return Err(wrong("numSectors", offset_of!(RawCowd, num_sectors), sectors, "at least 1 sector"));
    }
    if !grain.is_power_of_two() || u64::from(grain) > MAX_GRAIN_SECTORS {
        let expected = "a power of two from 1 to 65536 sectors";
        return Err(wrong("grainSize", offset_of!(RawCowd, grain_size), grain, expected));
    }
    if directory == 0 {
        return Err(wrong("gdOffset", offset_of!(RawCowd, gd_offset), directory, "a sector behind the header"));
    }
    let grains = Grains {
        capacity: sectors_to_bytes(sectors.into()),
        grain_len: sectors_to_bytes(grain.into()),
        table_entries: TABLE_ENTRIES,
        directories: vec![sectors_to_bytes(directory.into())],
        entries: Entries::Sectors { zero_grains: false },
        packed: false,
        grain_area: (0, 0),
        reserved: [(0, HEADER_LEN), (0, 0)],
        unclean: false,
        lacks_directory: false,
    };
    // ESX lengthens the file in advance; what lies behind the first free sector was never used.
    let free = sectors_to_bytes(raw.free_sector.get().into());
    let directory_end =
        u64::from(raw.num_gd_entries.get()).saturating_mul(4).saturating_add(sectors_to_bytes(directory.into()));
    let grains = Grains { grain_area: (directory_end.max(grains.end_of_directories()), free), ..grains };
    let entries = raw.num_gd_entries.get();
    if u64::from(entries) < grains.table_count() {
        let expected = "an entry for every 4096 grains";
        return Err(wrong("numGDEntries", offset_of!(RawCowd, num_gd_entries), entries, expected));
    }
    Ok(grains)
}

#[cfg(test)]
mod tests {
    use blockdev::MemDisk;

    use super::*;
    use crate::ErrorFamily;

    fn read(change: impl FnOnce(&mut RawCowd)) -> Result<Grains, VmdkError> {
        let mut raw = RawCowd {
            magic: COWD_MAGIC,
            version: 1.into(),
            flags: 3.into(),
            num_sectors: 8192.into(),
            grain_size: 1.into(),
            gd_offset: 4.into(),
            num_gd_entries: 2.into(),
            free_sector: 5.into(),
        };
        change(&mut raw);
        read_cowd(&MemDisk::new(raw.as_bytes().to_vec()), "x-delta.vmdk")
    }

    #[test]
    fn a_valid_header_gives_places_in_bytes() {
        let grains = read(|_| ()).unwrap();
        assert_eq!((grains.capacity, grains.grain_len, grains.table_entries), (4 << 20, 512, 4096));
        assert_eq!((grains.directories.as_slice(), grains.table_count()), ([2048].as_slice(), 2));
    }

    #[test]
    fn each_field_is_taken_at_its_edge_and_refused_past_it() {
        assert!(read(|h| h.num_sectors = 1.into()).is_ok());
        assert!(read(|h| h.num_sectors = 0.into()).is_err());
        assert!(read(|h| h.num_sectors = 8193.into()).is_err()); // needs a third directory entry
        assert!(read(|h| h.grain_size = 65536.into()).is_ok());
        for wrong in [0, 3, 131_072] {
            let err = read(|h| h.grain_size = wrong.into()).unwrap_err();
            assert_eq!(err.family(), ErrorFamily::Corrupt);
        }
        assert!(read(|h| h.gd_offset = 1.into()).is_ok());
        assert!(read(|h| h.gd_offset = 0.into()).is_err());
        assert!(read(|h| h.magic = *b"COWX").is_err());
        assert_eq!(read(|h| h.version = 2.into()).unwrap_err().family(), ErrorFamily::Unsupported);
        let err = read(|h| h.num_gd_entries = 1.into()).unwrap_err();
        let expected = "numGDEntries at byte 0x18 of x-delta.vmdk is 0x1: an entry for every 4096 grains";
        assert_eq!(err.to_string(), expected);
        assert!(read(|h| h.num_gd_entries = u32::MAX.into()).is_ok()); // not used for any size
    }
}
