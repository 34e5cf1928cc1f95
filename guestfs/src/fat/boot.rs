use blockdev::ByteLen;

use crate::clusters::{Heap, Width, corrupt, number, u8_at, u16_at, u32_at};
use crate::{FsError, VolumeKind};

/// The boot sector, checked. Places and lengths are in bytes.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) kind: VolumeKind,
    pub(super) width: Width,
    /// Of the FAT that is in use.
    pub(super) fat: u64,
    pub(super) fat_len: u64,
    pub(super) heap: Heap,
    pub(super) root: Root,
    /// The whole volume, as the boot sector has it.
    pub(super) size: u64,
    pub(super) serial: u32,
    /// The label as 11 bytes of the code page; the root folder has the better one.
    pub(super) label: Option<[u8; 11]>,
    /// The guest marked the volume as in use.
    pub(super) dirty: bool,
    pub(super) notes: Vec<String>,
}

/// Where the root folder is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Root {
    /// An area of its own before the clusters: first byte, length.
    Area(u64, u64),
    /// A chain like any other.
    Chain(u32),
}

const WHAT: &str = "the boot sector";

impl Boot {
    /// Reads the first sector (Microsoft FAT Specification, 2005, section 3). A volume is FAT32 when `BPB_FATSz16` is 0, as Windows
    /// and Linux have it: the number of clusters, by which the specification goes, misreads small volumes of FAT32.
    pub(super) fn read(bytes: &[u8; 512]) -> Result<Self, FsError> {
        let found = |field, found: u64, expected| Err(corrupt(WHAT, field, found, expected));
        if number(bytes, 510, 2) != 0xaa55 {
            return found("Signature_word", number(bytes, 510, 2), "43605 (0x55 0xaa)");
        }
        let sector = number(bytes, 0x0b, 2);
        if !matches!(sector, 512 | 1024 | 2048 | 4096) {
            return found("BPB_BytsPerSec", sector, "512, 1024, 2048 or 4096");
        }
        let cluster = number(bytes, 0x0d, 1);
        if !cluster.is_power_of_two() {
            return found("BPB_SecPerClus", cluster, "a power of two");
        }
        let (reserved, fats) = (number(bytes, 0x0e, 2), number(bytes, 0x10, 1));
        if reserved == 0 || fats == 0 {
            return found("BPB_RsvdSecCnt or BPB_NumFATs", 0, "at least 1");
        }
        let either = |short: u64, long: u64| if short == 0 { long } else { short };
        let (short_fat, root_entries) = (number(bytes, 0x16, 2), number(bytes, 0x11, 2));
        let fat32 = short_fat == 0;
        let fat_sectors = either(short_fat, number(bytes, 0x24, 4));
        if fat_sectors == 0 {
            return found("BPB_FATSz32", 0, "at least 1");
        }
        if fat32 != (root_entries == 0) {
            return found("BPB_RootEntCnt", root_entries, "0 where BPB_FATSz16 is 0, and only there");
        }
        let total = either(number(bytes, 0x13, 2), number(bytes, 0x20, 4));
        // None of these passes 2^48: two numbers below 2^32, 2^12 bytes in a sector.
        let all_fats = fats.saturating_mul(fat_sectors);
        let root_sector = reserved.saturating_add(all_fats);
        let first_sector = root_sector.saturating_add(root_entries.saturating_mul(32).div_ceil(sector));
        let clusters = total.checked_sub(first_sector).and_then(|sectors| sectors.checked_div(cluster)).unwrap_or(0);
        let most = if fat32 { 0x0fff_fff5 } else { 65524 };
        let count = u32::try_from(clusters).ok().filter(|count| (1..=most).contains(count));
        let Some(count) = count else {
            return found("count of clusters", clusters, "at least 1, and what the FAT can count");
        };
        let (kind, width) = match count {
            _ if fat32 => (VolumeKind::Fat32, Width::Bits28),
            ..4085 => (VolumeKind::Fat12, Width::Bits12),
            _ => (VolumeKind::Fat16, Width::Bits16),
        };
        let bytes_of = |sectors: u64| sectors.saturating_mul(sector);
        let heap = Heap { start: bytes_of(first_sector), cluster: bytes_of(cluster), count };
        let root = if fat32 {
            Root::Chain(u32_at(bytes, 0x2c))
        } else {
            Root::Area(bytes_of(root_sector), root_entries.saturating_mul(32))
        };
        let tail: usize = if fat32 { 0x40 } else { 0x24 };
        let mut boot = Self {
            kind,
            width,
            fat: bytes_of(reserved),
            fat_len: bytes_of(fat_sectors),
            heap,
            root,
            size: bytes_of(total),
            serial: 0,
            label: None,
            dirty: u8_at(bytes, tail.saturating_add(1)) & 1 != 0,
            notes: Vec::new(),
        };
        boot.read_tail(bytes, tail);
        if fat32 {
            boot.read_fat32(bytes, fats)?;
        }
        boot.bound_by_fat();
        Ok(boot)
    }

    /// Serial number and label, which stand behind `BS_BootSig`.
    fn read_tail(&mut self, bytes: &[u8; 512], tail: usize) {
        if matches!(u8_at(bytes, tail.saturating_add(2)), 0x28 | 0x29) {
            self.serial = u32_at(bytes, tail.saturating_add(3));
        }
        if u8_at(bytes, tail.saturating_add(2)) == 0x29 {
            let label = bytes.get(tail.saturating_add(7)..).and_then(|rest| rest.first_chunk().copied());
            self.label = label.filter(|label| label != b"NO NAME    ");
        }
    }

    fn read_fat32(&mut self, bytes: &[u8; 512], fats: u64) -> Result<(), FsError> {
        let version = u16_at(bytes, 0x2a);
        if version != 0 {
            let why = "BPB_FSVer is not 0: it is a later kind of FAT32 than is known";
            return Err(FsError::Unsupported { what: WHAT.to_owned(), why });
        }
        let flags = u16_at(bytes, 0x28);
        if flags & 0x80 != 0 {
            let active = u64::from(flags & 15);
            if active >= fats {
                return Err(corrupt(WHAT, "active FAT in BPB_ExtFlags", active, "below BPB_NumFATs"));
            }
            self.fat = self.fat.saturating_add(active.saturating_mul(self.fat_len));
            self.notes.push(format!("only FAT {active} is in use, and is read; the other copies are out of date"));
        }
        Ok(())
    }

    /// A FAT too short for all clusters bounds their number.
    fn bound_by_fat(&mut self) {
        let entries = self.width.entries_of(self.fat_len).saturating_sub(2);
        if entries < u64::from(self.heap.count) {
            let count = self.heap.count;
            self.notes.push(format!("the volume has {count} clusters, and its FAT entries for only {entries}"));
            self.heap.count = u32::try_from(entries).unwrap_or(count);
        }
    }

    /// What to say about a disk that is smaller than the volume.
    pub(super) fn note_size(&mut self, disk: ByteLen) {
        if disk.0 < self.size {
            let size = ByteLen(self.size);
            self.notes.push(format!("the volume has {size}, and its partition only {disk}: files behind that fail"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 64 KiB of FAT32: 32 sectors reserved, two FATs of one sector, clusters of one sector, root in cluster 2.
    fn fat32() -> [u8; 512] {
        let mut bytes = [0; 512];
        bytes[0x0b..0x11].copy_from_slice(&[0x00, 0x02, 1, 32, 0, 2]);
        bytes[0x13] = 128;
        (bytes[0x24], bytes[0x2c]) = (1, 2);
        bytes[0x42..0x47].copy_from_slice(&[0x29, 1, 2, 3, 4]);
        bytes[0x47..0x52].copy_from_slice(b"LABEL      ");
        bytes[510..].copy_from_slice(&[0x55, 0xaa]);
        bytes
    }

    #[test]
    fn small_volumes_of_fat32_are_fat32() {
        let boot = Boot::read(&fat32()).unwrap();
        assert_eq!((boot.kind, boot.serial), (VolumeKind::Fat32, 0x0403_0201));
        assert_eq!((boot.heap.start, boot.heap.count), (34 * 512, 94));
        assert_eq!(boot.label.unwrap(), *b"LABEL      ");
    }

    #[test]
    fn the_active_fat_is_the_one_that_is_read() {
        let mut bytes = fat32();
        bytes[0x28] = 0x81;
        let boot = Boot::read(&bytes).unwrap();
        assert_eq!((boot.fat, boot.notes.len()), (33 * 512, 1));
        bytes[0x28] = 0x82;
        let error = Boot::read(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "active FAT in BPB_ExtFlags of the boot sector is 2: below BPB_NumFATs");
    }

    #[test]
    fn a_fat_that_is_too_short_bounds_the_clusters() {
        let mut bytes = fat32();
        bytes[0x13..0x15].copy_from_slice(&1000u16.to_le_bytes());
        let boot = Boot::read(&bytes).unwrap();
        assert_eq!((boot.heap.count, boot.notes.len()), (126, 1));
    }

    #[test]
    fn nonsense_is_refused_and_no_panic() {
        for (at, bad) in
            [(0x0c, 3), (0x0d, 3), (0x0d, 0), (0x0e, 0), (0x10, 0), (0x11, 1), (0x13, 34), (0x24, 0), (0x2a, 1)]
        {
            let mut bytes = fat32();
            if (at, bad) == (0x0e, 0) {
                bytes[0x0f] = 0;
            }
            bytes[at] = bad;
            assert!(Boot::read(&bytes).is_err(), "byte {at:#x} = {bad}");
        }
        for at in 0x0b..0x60 {
            let mut bytes = fat32();
            bytes[at..at + 4].fill(0xff);
            drop(Boot::read(&bytes));
        }
    }
}
