//! What the entries of grain directories and grain tables mean.

use crate::convert::sectors_to_bytes;

/// The kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entries {
    /// 32 bits: a sector of the file, or 0 for none (hosted extents and ESX redo logs: Virtual Disk Format 1.1).
    Sectors {
        /// Whether the grain table entry 1 stands for zeros (header flag bit 2, "zeroed-grain GTE").
        zero_grains: bool,
    },
    /// 64 bits, of which the topmost four are a type (space-efficient sparse extents; VMware published nothing, the layout
    /// is that which `block/vmdk.c` of QEMU reads).
    Tagged(Areas),
}

/// Where a space-efficient extent keeps its tables and grains, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Areas {
    /// The first table.
    pub(crate) tables: u64,
    /// The number of tables there is room for.
    pub(crate) table_count: u64,
    /// The size of a table.
    pub(crate) table_len: u64,
    /// The first grain.
    pub(crate) grains: u64,
    /// The number of grains there is room for.
    pub(crate) grain_count: u64,
    /// The size of a grain.
    pub(crate) grain_len: u64,
}

/// What a grain table entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Not allocated.
    Hole,
    /// Reads as zeros, whatever the parent holds.
    Zero,
    /// Stored from this byte of the file on.
    At(u64),
}

/// The entry for "reads as zeros" of hosted extents, where the header says that it is used.
pub(crate) const ZERO_GRAIN: u32 = 1;

const TYPE_SHIFT: u32 = 60;
const VALUE_MASK: u64 = (1 << TYPE_SHIFT) - 1;

impl Entries {
    /// The size of an entry, in bytes.
    pub(crate) const fn width(self) -> u64 {
        match self {
            Self::Sectors { .. } => 4,
            Self::Tagged(_) => 8,
        }
    }

    /// The first byte of the table that a directory entry names; `None` if it names none.
    ///
    /// # Errors
    /// What would have been right.
    pub(crate) const fn table(self, entry: u64) -> Result<Option<u64>, &'static str> {
        match self {
            _ if entry == 0 => Ok(None),
            Self::Sectors { .. } => Ok(Some(sectors_to_bytes(entry))),
            Self::Tagged(areas) => {
                let number = entry & VALUE_MASK;
                if entry >> TYPE_SHIFT != 1 || number >= areas.table_count {
                    return Err("0, or type 1 with the number of a table that exists");
                }
                Ok(Some(areas.tables.saturating_add(number.saturating_mul(areas.table_len))))
            }
        }
    }

    /// What a grain table entry says.
    ///
    /// # Errors
    /// What would have been right.
    pub(crate) const fn grain(self, entry: u64) -> Result<Entry, &'static str> {
        match self {
            _ if entry == 0 => Ok(Entry::Hole),
            Self::Sectors { zero_grains: true } if entry == 1 => Ok(Entry::Zero),
            Self::Sectors { zero_grains: false } if entry == 1 => {
                Err("no zeroed grain, which the header does not announce")
            }
            Self::Sectors { .. } => Ok(Entry::At(sectors_to_bytes(entry))),
            Self::Tagged(areas) => areas.grain(entry),
        }
    }
}

impl Areas {
    const fn grain(self, entry: u64) -> Result<Entry, &'static str> {
        match entry >> TYPE_SHIFT {
            // 1 is a grain that the guest unmapped, with the place it had; 2 was written as zeros. Both hide the parent.
            1 | 2 => Ok(Entry::Zero),
            3 => {
                // The number is stored turned by 12 bits.
                let value = entry & VALUE_MASK;
                let number = (value >> 48) | ((value & ((1 << 48) - 1)) << 12);
                if number >= self.grain_count {
                    return Err("the number of a grain that exists");
                }
                Ok(Entry::At(self.grains.saturating_add(number.saturating_mul(self.grain_len))))
            }
            0 => Err("0 alone for a grain that is not allocated"),
            _ => Err("type 0 (not allocated), 1 (unmapped), 2 (zeros) or 3 (allocated)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREAS: Areas = Areas {
        tables: 1 << 20,
        table_count: 3,
        table_len: 32 << 10,
        grains: 1 << 30,
        grain_count: 5000,
        grain_len: 4096,
    };

    #[test]
    fn hosted_entries_are_sectors() {
        let entries = Entries::Sectors { zero_grains: true };
        assert_eq!(entries.table(0), Ok(None));
        assert_eq!(entries.table(1), Ok(Some(512)));
        assert_eq!(entries.grain(0), Ok(Entry::Hole));
        assert_eq!(entries.grain(1), Ok(Entry::Zero));
        assert_eq!(entries.grain(u32::MAX.into()), Ok(Entry::At(((1 << 32) - 1) * 512)));
        assert!(Entries::Sectors { zero_grains: false }.grain(1).is_err());
    }

    #[test]
    fn tagged_entries_carry_a_type_and_a_turned_number() {
        let entries = Entries::Tagged(AREAS);
        assert_eq!(entries.table(1 << 60 | 2), Ok(Some((1 << 20) + 2 * (32 << 10))));
        for wrong in [1 << 60 | 3, 2, 2 << 60, 3 << 60] {
            assert!(entries.table(wrong).is_err(), "{wrong:#x}");
        }
        assert_eq!(entries.grain(1 << 60 | 77), Ok(Entry::Zero));
        assert_eq!(entries.grain(2 << 60), Ok(Entry::Zero));
        assert_eq!(entries.grain(3 << 60), Ok(Entry::At(1 << 30)));
        assert_eq!(entries.grain(3 << 60 | 7 << 48), Ok(Entry::At((1 << 30) + 7 * 4096)));
        assert_eq!(entries.grain(3 << 60 | 1), Ok(Entry::At((1 << 30) + 4096 * 4096)));
        assert_eq!(entries.grain(3 << 60 | 1 << 48 | 1), Ok(Entry::At((1 << 30) + 4097 * 4096)));
        for wrong in [3 << 60 | 2, 7, 4 << 60, u64::MAX] {
            assert!(entries.grain(wrong).is_err(), "{wrong:#x}");
        }
    }
}
