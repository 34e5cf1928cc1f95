//! The bytes of a guest's log, and how it is found on a disk.
//!
//! A log is a file of 4 KiB slots that lie one behind the other on the disk. All numbers are little-endian.
//!
//! | byte | content |
//! |---|---|
//! | 0 | `STILLFRAME-GUESTLOG`, then a version byte: 1 |
//! | 20 | u32 number of this slot, u32 count of slots |
//! | 28 | u32 state: 0 never used, 1 begun, 2 committed |
//! | 32 | u64 transaction, from 1; 0 if never used |
//! | 40 | u64 sequence: writes to this log so far (2 for each transaction) |
//! | 48 | payload that looks random and follows from the transaction; zeros if never used |
//! | 4092 | u32 CRC-32 (IEEE) of all before |

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, ReadAt, ReadAtExt, ReadError, SECTOR_SIZE};

/// Size of a slot in bytes.
pub const SLOT_SIZE: usize = 4096;
const MAGIC: &[u8; 20] = b"STILLFRAME-GUESTLOG\x01";
const CRC_AT: usize = SLOT_SIZE - 4;
/// A log larger than this (4 GiB) is taken for a damaged slot.
const MAX_SLOTS: u32 = 1 << 20;
/// Bytes read at once while looking for a log.
const SCAN_BLOCK: usize = 1 << 20;

/// What a slot says of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    Unused,
    Begun(u64),
    Committed(u64),
}

/// Where a log lies on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) slots: u32,
}

impl Region {
    /// The slot of a transaction: its number, and where it lies.
    pub(crate) fn slot_of(&self, transaction: u64) -> (u32, u64) {
        let slot = u32::try_from(transaction % u64::from(self.slots)).unwrap_or(0); // below `slots`
        (slot, self.at(slot))
    }

    pub(crate) fn at(&self, slot: u32) -> u64 {
        self.start + u64::from(slot) * SLOT_SIZE as u64
    }
}

/// The bytes of a new log file of so many slots, 4 KiB each.
#[must_use]
pub fn log_file(slots: u32) -> Vec<u8> {
    (0..slots).flat_map(|slot| encode(slot, slots, SlotState::Unused)).collect()
}

/// The bytes of one slot.
pub(crate) fn encode(slot: u32, slots: u32, state: SlotState) -> Vec<u8> {
    let (word, transaction, sequence) = match state {
        SlotState::Unused => (0u32, 0, 0),
        SlotState::Begun(n) => (1, n, n.wrapping_mul(2).wrapping_sub(1)),
        SlotState::Committed(n) => (2, n, n.wrapping_mul(2)),
    };
    let mut bytes = Vec::with_capacity(SLOT_SIZE);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&slot.to_le_bytes());
    bytes.extend_from_slice(&slots.to_le_bytes());
    bytes.extend_from_slice(&word.to_le_bytes());
    bytes.extend_from_slice(&transaction.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    let mut seed = transaction;
    while bytes.len() < CRC_AT {
        let word = if transaction == 0 { 0 } else { split_mix(&mut seed) };
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(CRC_AT);
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn split_mix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The state of slot number `slot` of `slots`; `None` if these bytes are not exactly what a guest writes there.
pub(crate) fn decode(bytes: &[u8], slot: u32, slots: u32) -> Option<SlotState> {
    let transaction = u64::from_le_bytes(*bytes.get(32..40)?.first_chunk()?);
    let state = match u32_at(bytes, 28)? {
        0 => SlotState::Unused,
        1 => SlotState::Begun(transaction),
        2 => SlotState::Committed(transaction),
        _ => return None,
    };
    (encode(slot, slots, state) == bytes).then_some(state)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

/// Finds the log of a disk: the first place where a slot's head lies at a sector's start and the whole log fits.
pub(crate) fn find(disk: &(impl ReadAt + ?Sized)) -> Result<Option<Region>, ReadError> {
    for extent in disk.extents() {
        let extent = extent?;
        if extent.kind == ExtentKind::Data
            && let Some(region) = find_in(disk, extent)?
        {
            return Ok(Some(region));
        }
    }
    Ok(None)
}

fn find_in(disk: &(impl ReadAt + ?Sized), extent: Extent) -> Result<Option<Region>, ReadError> {
    let mut at = extent.start.0.next_multiple_of(SECTOR_SIZE);
    let mut buf = vec![0; SCAN_BLOCK];
    while at < extent.end().0 {
        let len = usize::try_from(extent.end().0 - at).unwrap_or(SCAN_BLOCK).min(SCAN_BLOCK);
        disk.read_exact_at(ByteOffset(at), &mut buf[..len])?;
        for (index, sector) in buf[..len].chunks(512).enumerate() {
            if sector.starts_with(MAGIC)
                && let Some(region) = region_at(sector, at + index as u64 * SECTOR_SIZE, disk.size())
            {
                return Ok(Some(region));
            }
        }
        at += len as u64;
    }
    Ok(None)
}

/// The log that a slot's head at byte `at` belongs to.
fn region_at(head: &[u8], at: u64, disk: ByteLen) -> Option<Region> {
    let (slot, slots) = (u32_at(head, 20)?, u32_at(head, 24)?);
    if slot >= slots || slots > MAX_SLOTS {
        return None;
    }
    let start = at.checked_sub(u64::from(slot) * SLOT_SIZE as u64)?;
    let end = start.checked_add(u64::from(slots) * SLOT_SIZE as u64)?;
    (end <= disk.0).then_some(Region { start, slots })
}

/// Reads all slots of a log; `None` for a damaged one.
pub(crate) fn read(disk: &(impl ReadAt + ?Sized), region: Region) -> Result<Vec<Option<SlotState>>, ReadError> {
    let mut bytes = [0; SLOT_SIZE];
    let mut states = Vec::new();
    for slot in 0..region.slots {
        disk.read_exact_at(ByteOffset(region.at(slot)), &mut bytes)?;
        states.push(decode(&bytes, slot, region.slots));
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockdev::MemDisk;

    #[test]
    fn a_log_is_found_at_any_sector_and_by_any_of_its_slots() {
        let mut bytes = vec![0; 3 * 512];
        bytes.extend(log_file(8));
        bytes[3 * 512..3 * 512 + 4096].fill(0); // the first slot is gone
        let region = find(&MemDisk::new(bytes)).unwrap().unwrap();
        assert_eq!(region, Region { start: 3 * 512, slots: 8 });
    }

    #[test]
    fn a_log_that_passes_the_end_of_the_disk_is_not_taken() {
        let mut bytes = log_file(8);
        bytes.truncate(7 * 4096);
        assert_eq!(find(&MemDisk::new(bytes)).unwrap(), None);
    }

    #[test]
    fn a_slot_with_one_wrong_bit_is_damaged() {
        let mut bytes = encode(3, 8, SlotState::Committed(11));
        assert_eq!(decode(&bytes, 3, 8), Some(SlotState::Committed(11)));
        bytes[2000] ^= 1;
        assert_eq!(decode(&bytes, 3, 8), None);
    }
}
