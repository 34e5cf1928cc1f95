//! Where things stand in a hosted sparse extent: Virtual Disk Format 1.1, section "Hosted Sparse Extents".
//!
//! ```text
//!   header | descriptor | redundant directory | its tables | directory | its tables | padding | grains
//!   1        20 or none   whole sectors         4 each       as left     as left      to 128
//! ```

use blockdev::{SECTOR_SIZE, Sectors};
use zerocopy::little_endian::U32;

use super::{GRAIN_SECTORS, TABLE_ENTRIES};
use crate::VmdkError;
use crate::convert::{div_up, round_up};
use crate::sparse::{HOSTED_MAGIC, RawHosted};

/// The sectors kept for a descriptor inside, as products write it.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;

/// The sectors of a grain table.
const TABLE_SECTORS: u64 = TABLE_ENTRIES * 4 / SECTOR_SIZE;

/// The places in a new extent, in sectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    capacity: u64,
    descriptor: u64,
    delta: bool,
    /// The number of grain tables, 65536 at most.
    pub(super) tables: u32,
    /// The redundant directory, then the other; for each its own place and that of its first table.
    pub(super) directories: [(u32, u32); 2],
    /// The first grain.
    pub(super) over_head: u32,
}

impl Layout {
    /// # Errors
    /// A full extent would pass the 2^32 sectors that tables can number.
    pub(super) fn new(capacity: Sectors, with_descriptor: bool, delta: bool) -> Result<Self, VmdkError> {
        let grains = div_up(capacity.0, GRAIN_SECTORS);
        let tables = div_up(grains, TABLE_ENTRIES);
        let descriptor = if with_descriptor { DESCRIPTOR_SECTORS } else { 0 };
        let directory_len = div_up(tables.saturating_mul(4), SECTOR_SIZE);
        let copy_len = tables.saturating_mul(TABLE_SECTORS).saturating_add(directory_len);
        let first = descriptor.saturating_add(1);
        let second = first.saturating_add(copy_len);
        let over_head = round_up(second.saturating_add(copy_len), GRAIN_SECTORS);
        let end = grains.saturating_mul(GRAIN_SECTORS).saturating_add(over_head);
        let too_large = || VmdkError::Unsupported {
            file: "a sparse extent".to_owned(),
            field: "the capacity in sectors",
            actual: capacity.0,
            expected: "just under 2 TiB; split images can be larger",
        };
        let small = |sector: u64| u32::try_from(sector).map_err(|_| too_large());
        small(end)?; // every sector that a table can name is below it
        let directory = |at: u64| Ok((small(at)?, small(at.saturating_add(directory_len))?));
        Ok(Self {
            capacity: capacity.0,
            descriptor,
            delta,
            tables: small(tables)?,
            directories: [directory(first)?, directory(second)?],
            over_head: small(over_head)?,
        })
    }

    /// The sector of table `index` in the copy that begins with `first_table`.
    pub(super) fn table_sector(first_table: u32, index: u32) -> u32 {
        index.saturating_mul(4).saturating_add(first_table) // both below `over_head`
    }

    /// Whether grains that are not stored are the parent's, so that zeros have to be marked.
    pub(super) const fn is_delta(&self) -> bool {
        self.delta
    }

    pub(super) fn header(&self) -> RawHosted {
        let [(redundant, _), (directory, _)] = self.directories;
        let flags = RawHosted::LINE_ENDS | RawHosted::REDUNDANT;
        // Version 2 is the first with zeroed grains; what needs none stays readable by everything.
        let (version, zero_grains) = if self.delta { (2, RawHosted::ZERO_GRAINS) } else { (1, 0) };
        RawHosted {
            magic: HOSTED_MAGIC,
            version: U32::new(version),
            flags: (flags | zero_grains).into(),
            capacity: self.capacity.into(),
            grain_size: GRAIN_SECTORS.into(),
            descriptor_offset: u64::from(self.descriptor > 0).into(),
            descriptor_size: self.descriptor.into(),
            gtes_per_gt: 512.into(),
            rgd_offset: u64::from(redundant).into(),
            gd_offset: u64::from(directory).into(),
            over_head: u64::from(self.over_head).into(),
            unclean_shutdown: 0,
            line_ends: RawHosted::LINE_END_CHARS,
            compress_algorithm: 0.into(),
            pad: [0; 433],
        }
    }
}

const _: () = assert!(TABLE_SECTORS == 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_other_writers_of_the_same_disk() {
        let layout = Layout::new(Sectors(5 << 21), true, false).unwrap(); // 5 GiB, compared with qemu-img 10.0
        assert_eq!(layout.directories, [(21, 23), (0x297, 0x299)]);
        assert_eq!(layout.over_head, 0x580);
        assert_eq!(layout.tables, 160);
    }

    #[test]
    fn a_full_extent_must_stay_below_2_to_the_32_sectors() {
        let over_head = 525_312; // header, descriptor, 2 directories of 512 sectors, 2 x 65528 tables of 4, padding
        let largest = (1 << 32) - 128 - over_head;
        let layout = Layout::new(Sectors(largest), true, false).unwrap();
        assert_eq!((u64::from(layout.over_head), layout.tables), (over_head, 65_528));
        assert!(matches!(Layout::new(Sectors(largest + 1), true, false), Err(VmdkError::Unsupported { .. })));
        assert!(matches!(Layout::new(Sectors(1 << 32), true, false), Err(VmdkError::Unsupported { .. })));
        assert!(matches!(Layout::new(Sectors(u64::MAX), true, false), Err(VmdkError::Unsupported { .. })));
    }
}
