use crate::clusters::{Heap, bytes_at, corrupt, number, u8_at, u32_at};
use crate::{CachedDisk, FsError};

/// The main boot sector, checked. Places and lengths are in bytes.
#[derive(Debug)]
pub(super) struct Boot {
    /// Of the FAT that is in use.
    pub(super) fat: u64,
    pub(super) fat_len: u64,
    pub(super) heap: Heap,
    /// The first cluster of the root folder.
    pub(super) root: u32,
    /// The whole volume.
    pub(super) size: u64,
    pub(super) serial: u32,
    pub(super) notes: Vec<String>,
    sector: u64,
}

const WHAT: &str = "the exFAT boot sector";

impl Boot {
    /// Reads the boot region (exFAT specification, section 3.1).
    pub(super) fn read(disk: &CachedDisk) -> Result<Self, FsError> {
        let bytes: [u8; 512] = bytes_at(disk, 0, WHAT)?;
        let mut boot = Self::decode(&bytes)?;
        if let Err(found) = boot.check_sum(disk)? {
            boot.notes.push(format!("the checksum of the boot region is wrong: {found}"));
        }
        Ok(boot)
    }

    fn decode(bytes: &[u8; 512]) -> Result<Self, FsError> {
        let found = |field, found: u64, expected| Err(corrupt(WHAT, field, found, expected));
        if bytes.get(3..11) != Some(b"EXFAT   ") || number(bytes, 510, 2) != 0xaa55 {
            return Err(corrupt(WHAT, "FileSystemName or BootSignature", "another", "\"EXFAT   \" and 0x55 0xaa"));
        }
        let revision = number(bytes, 104, 2);
        if revision >> 8 != 1 {
            let why = "FileSystemRevision is not 1.xx: it is a later kind of exFAT than is known";
            return Err(FsError::Unsupported { what: WHAT.to_owned(), why });
        }
        let (sector_shift, cluster_shift) = (u32::from(u8_at(bytes, 108)), u32::from(u8_at(bytes, 109)));
        if !(9..=12).contains(&sector_shift) {
            return found("BytesPerSectorShift", sector_shift.into(), "9 to 12");
        }
        if cluster_shift > 25u32.saturating_sub(sector_shift) {
            return found("SectorsPerClusterShift", cluster_shift.into(), "clusters of at most 32 MiB");
        }
        let fats = number(bytes, 110, 1);
        if !matches!(fats, 1 | 2) {
            return found("NumberOfFats", fats, "1 or 2");
        }
        let sector = 1u64 << sector_shift;
        let bytes_of = |sectors: u64| sectors.saturating_mul(sector); // saturates for VolumeLength alone
        let flags = number(bytes, 106, 2);
        let second = flags & 1;
        if second >= fats {
            return found("ActiveFat", second, "below NumberOfFats");
        }
        let fat_len = bytes_of(number(bytes, 84, 4));
        let first_fat = bytes_of(number(bytes, 80, 4));
        let count = u32_at(bytes, 92);
        let heap = Heap { start: bytes_of(number(bytes, 88, 4)), cluster: sector << cluster_shift, count };
        let size = bytes_of(number(bytes, 72, 8));
        if count == 0 || count > 0xffff_fff5 {
            return found("ClusterCount", count.into(), "1 to 4294967285");
        }
        if first_fat < sector.saturating_mul(24) {
            return found("FatOffset", number(bytes, 80, 4), "at least 24 sectors");
        }
        if fat_len / 4 < u64::from(count).saturating_add(2) {
            return found("FatLength", number(bytes, 84, 4), "room for an entry of each cluster");
        }
        let fats_end = first_fat.saturating_add(fat_len.saturating_mul(fats));
        if heap.start < fats_end {
            return found("ClusterHeapOffset", number(bytes, 88, 4), "behind the FATs");
        }
        // At most 2^32 clusters of 2^25 bytes behind 2^44: nothing saturates.
        let end = heap.start.saturating_add(u64::from(count).saturating_mul(heap.cluster));
        if end > size {
            return found("VolumeLength", number(bytes, 72, 8), "all clusters lie inside");
        }
        if end > 1 << 53 {
            let why = "it is larger than 8 PiB, past which files cannot be told apart here";
            return Err(FsError::Unsupported { what: "the volume".to_owned(), why });
        }
        Ok(Self {
            fat: first_fat.saturating_add(fat_len.saturating_mul(second)),
            fat_len,
            heap,
            root: u32_at(bytes, 96),
            size,
            serial: u32_at(bytes, 100),
            notes: notes(flags, fats),
            sector,
        })
    }

    /// The checksum over the first 11 sectors, but for VolumeFlags and PercentInUse, is repeated all over the twelfth
    /// (section 3.4).
    fn check_sum(&self, disk: &CachedDisk) -> Result<Result<(), String>, FsError> {
        let mut sum = 0u32;
        for index in 0..11u64 {
            for (offset, byte) in (0u64..).zip(self.sector_at(disk, index)?) {
                if index > 0 || !matches!(offset, 106 | 107 | 112) {
                    sum = sum.rotate_right(1).wrapping_add(byte.into());
                }
            }
        }
        let stored = u32_at(&self.sector_at(disk, 11)?, 0);
        Ok(if stored == sum { Ok(()) } else { Err(format!("{stored:#x} is stored, {sum:#x} is right")) })
    }

    fn sector_at(&self, disk: &CachedDisk, index: u64) -> Result<Vec<u8>, FsError> {
        use blockdev::{ByteOffset, ReadAt};
        let mut bytes = vec![0; usize::try_from(self.sector).unwrap_or(0)]; // at most 4096
        let at = ByteOffset(self.sector.saturating_mul(index));
        disk.read_exact_at(at, &mut bytes).map_err(|source| FsError::Read { what: WHAT.to_owned(), source })?;
        Ok(bytes)
    }
}

/// VolumeFlags (section 3.1.13).
fn notes(flags: u64, fats: u64) -> Vec<String> {
    let mut notes = Vec::new();
    if flags & 2 != 0 {
        notes.push("the guest did not close the volume: what it wrote last may be incomplete".to_owned());
    }
    if flags & 4 != 0 {
        notes.push("the guest had errors when it read or wrote the volume".to_owned());
    }
    if fats == 2 {
        let which = if flags & 1 == 0 { "first" } else { "second" };
        notes.push(format!("the volume is TexFAT with two FATs, of which the {which} is in use, and is read"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 MiB: a FAT of one sector at sector 24, clusters of 4 KiB from sector 32 on, root in cluster 4.
    fn valid() -> [u8; 512] {
        let mut bytes = [0; 512];
        bytes[3..11].copy_from_slice(b"EXFAT   ");
        bytes[72..80].copy_from_slice(&2048u64.to_le_bytes());
        for (at, value) in [(80, 24u32), (84, 2), (88, 32), (92, 252), (96, 4), (100, 0x1234)] {
            bytes[at..][..4].copy_from_slice(&value.to_le_bytes());
        }
        (bytes[105], bytes[108], bytes[109], bytes[110]) = (1, 9, 3, 1);
        bytes[510..].copy_from_slice(&[0x55, 0xaa]);
        bytes
    }

    #[test]
    fn nonsense_is_refused_and_no_panic() {
        let boot = Boot::decode(&valid()).unwrap();
        assert_eq!((boot.heap.start, boot.heap.cluster, boot.serial), (16384, 4096, 0x1234));
        let bad = [
            (3, 0),
            (73, 0),
            (80, 23),
            (84, 1),
            (88, 25),
            (92, 253),
            (105, 2),
            (106, 1),
            (108, 13),
            (109, 17),
            (110, 3),
        ];
        for (at, value) in bad {
            let mut bytes = valid();
            bytes[at] = value;
            assert!(Boot::decode(&bytes).is_err(), "byte {at} = {value}");
        }
        for at in 64..112 {
            let mut bytes = valid();
            bytes[at..at + 8].fill(0xff);
            drop(Boot::decode(&bytes));
        }
    }

    #[test]
    fn two_fats_are_texfat_and_the_active_one_is_read() {
        let mut bytes = valid();
        (bytes[88], bytes[92], bytes[106], bytes[110]) = (40, 251, 3, 2);
        let boot = Boot::decode(&bytes).unwrap();
        assert_eq!((boot.fat, boot.notes.len()), (26 * 512, 2));
    }
}
