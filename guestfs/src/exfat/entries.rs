//! Entry sets: a file is described by up to 19 entries in a row.

use super::times::stamp;
use crate::clusters::{DIRECTORY, SLOT, Slots, corrupt, number, presented, u8_at, u16_at, u32_at, wtf8};
use crate::{FsError, Timestamp};

/// Types of entries (exFAT specification, section 7), as the whole first byte: all in use.
pub(super) const FILE: u8 = 0x85;
pub(super) const UP_CASE: u8 = 0x82;
pub(super) const LABEL: u8 = 0x83;
const STREAM: u8 = 0xc0;
const NAME: u8 = 0xc1;

/// Of GeneralSecondaryFlags: the file has clusters; they lie in a row, and the FAT does not know them.
const POSSIBLE: u8 = 1;
const NO_CHAIN: u8 = 2;

/// A file's entry set, checked.
#[derive(Debug)]
pub(super) struct Set {
    /// The name to show, as [`crate::Entry`] wants it.
    pub(super) name: Vec<u8>,
    /// How many entries it has.
    pub(super) entries: u64,
    pub(super) attributes: u32,
    pub(super) created: Timestamp,
    pub(super) modified: Timestamp,
    pub(super) accessed: Timestamp,
    pub(super) in_a_row: bool,
    pub(super) cluster: u32,
    /// Length in bytes.
    pub(super) len: u64,
    /// Length of what was ever written: the rest reads as zeros.
    pub(super) valid: u64,
}

impl Set {
    /// Whether it describes a folder.
    pub(super) fn folder(&self) -> bool {
        self.attributes & DIRECTORY != 0
    }

    /// The entry set that begins at entry `index` of a folder, or `None` if no file begins there. `what` is called for errors.
    pub(super) fn read(slots: &mut Slots<'_>, index: u64, what: &dyn Fn() -> String) -> Result<Option<Self>, FsError> {
        let Some(first) = slots.slot(index)?.filter(|slot| u8_at(slot, 0) == FILE) else { return Ok(None) };
        let more = u64::from(u8_at(&first, 1));
        if !(2..=18).contains(&more) {
            return Err(corrupt(what(), "SecondaryCount", more, "2 to 18"));
        }
        let mut bytes = first.to_vec();
        for secondary in 1..=more {
            match slots.slot(index.saturating_add(secondary))? {
                Some(slot) if u8_at(&slot, 0) & 0xc0 == 0xc0 => bytes.extend_from_slice(&slot),
                Some(slot) => {
                    let found = format!("{:#x} in place {secondary}", u8_at(&slot, 0));
                    return Err(corrupt(what(), "EntryType", found, "a secondary entry that is in use"));
                }
                None => {
                    let found = format!("the end of the folder in place {secondary}");
                    return Err(corrupt(what(), "EntryType", found, "a secondary entry that is in use"));
                }
            }
        }
        let (sum, stored) = (checksum(&bytes), u16_at(&bytes, 2));
        if sum != stored {
            return Err(corrupt(what(), "SetChecksum", format!("{stored:#x}"), "the checksum of the entries"));
        }
        Self::decode(&bytes, what).map(Some)
    }

    /// Sections 7.4, 7.6 and 7.7.
    fn decode(bytes: &[u8], what: &dyn Fn() -> String) -> Result<Self, FsError> {
        let entry = |index: usize| index.checked_mul(32).and_then(|at| bytes.get(at..)).unwrap_or_default();
        let stream = entry(1);
        if u8_at(stream, 0) != STREAM {
            let found = format!("{:#x}", u8_at(stream, 0));
            return Err(corrupt(what(), "EntryType of the second entry", found, "0xc0, a stream extension"));
        }
        let units = usize::from(u8_at(stream, 3));
        let names = units.div_ceil(15);
        if names == 0 || !(2..).take(names).all(|index| u8_at(entry(index), 0) == NAME) {
            return Err(corrupt(what(), "NameLength", units, "at least 1, and an entry for each 15"));
        }
        let unit = |index: usize| {
            let (name, within) = (index / 15, index % 15);
            u16_at(entry(name.saturating_add(2)), within.saturating_mul(2).saturating_add(2))
        };
        let flags = u8_at(stream, 1);
        let possible = flags & POSSIBLE != 0;
        let (valid, len) = if possible { (number(stream, 8, 8), number(stream, 24, 8)) } else { (0, 0) };
        if valid > len {
            return Err(corrupt(what(), "ValidDataLength", valid, "at most DataLength"));
        }
        Ok(Self {
            name: presented(wtf8((0..units).map(unit))),
            entries: u64::try_from(bytes.len()).unwrap_or(0) / SLOT,
            attributes: u16_at(bytes, 4).into(),
            created: stamp(u32_at(bytes, 8), u8_at(bytes, 20), u8_at(bytes, 22)),
            modified: stamp(u32_at(bytes, 12), u8_at(bytes, 21), u8_at(bytes, 23)),
            accessed: stamp(u32_at(bytes, 16), 0, u8_at(bytes, 24)),
            in_a_row: flags & NO_CHAIN != 0,
            cluster: u32_at(stream, 20),
            len,
            valid,
        })
    }
}

/// Section 6.3.3: over all bytes of the set but the checksum itself.
fn checksum(bytes: &[u8]) -> u16 {
    let counted = bytes.iter().enumerate().filter(|(at, _)| !matches!(at, 2 | 3));
    counted.fold(0, |sum: u16, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()))
}
