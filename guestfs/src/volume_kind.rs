//! What lies in a volume, by the signatures in its first sectors.

use std::fmt;

use blockdev::{ByteOffset, ReadAt, ReadError};
use uuid::{Uuid, uuid};

use crate::PartitionType;

/// What a volume is, judged by signatures alone: whether it is whole is for its reader to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VolumeKind {
    /// NTFS.
    Ntfs,
    /// FAT with 12-bit entries.
    Fat12,
    /// FAT with 16-bit entries.
    Fat16,
    /// FAT with 32-bit entries.
    Fat32,
    /// exFAT.
    ExFat,
    /// ext2: an ext superblock without journal and without features of ext4.
    Ext2,
    /// ext3: as ext2, with a journal.
    Ext3,
    /// ext4: an ext superblock with a feature that ext3 does not know.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// A volume encrypted by BitLocker, "To Go" included.
    BitLocker,
    /// ReFS.
    ReFs,
    /// A part of a Windows dynamic disk (Logical Disk Manager).
    Ldm,
    /// A physical volume of Linux LVM 2.
    LvmPv,
    /// Linux swap space, or a hibernated system that lies in one.
    LinuxSwap,
    /// Nothing we know, which includes nothing at all.
    Unknown,
}

impl VolumeKind {
    /// Whether such a volume owns sector 0 (as a boot sector), so that there is no room for an MBR.
    pub(crate) const fn lives_in_sector_0(self) -> bool {
        use VolumeKind::{BitLocker, ExFat, Fat12, Fat16, Fat32, Ntfs, ReFs};
        matches!(self, Ntfs | Fat12 | Fat16 | Fat32 | ExFat | BitLocker | ReFs)
    }
}

impl fmt::Display for VolumeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ntfs => "NTFS",
            Self::Fat12 => "FAT12",
            Self::Fat16 => "FAT16",
            Self::Fat32 => "FAT32",
            Self::ExFat => "exFAT",
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "XFS",
            Self::Btrfs => "Btrfs",
            Self::BitLocker => "BitLocker",
            Self::ReFs => "ReFS",
            Self::Ldm => "Windows dynamic disk",
            Self::LvmPv => "LVM physical volume",
            Self::LinuxSwap => "Linux swap",
            Self::Unknown => "unknown",
        })
    }
}

/// What lies in `volume`, by the signatures in its first 68 KiB.
///
/// # Errors
/// What `volume` says when it cannot be read.
pub fn detect(volume: &dyn ReadAt) -> Result<VolumeKind, ReadError> {
    Ok(Head::read(volume)?.kind())
}

/// Bytes that must stand at an offset from the start of the volume.
type Magic = (usize, &'static [u8]);

/// Signatures that are all there is to check, in the order of looking. What owns the first sector comes first, because making
/// any of the others overwrites it; Btrfs comes last, because its signature lies far in and outlives the making of others.
#[rustfmt::skip]
const SIGNATURES: &[(VolumeKind, &[Magic])] = &[
    // libyal/libbde, "BitLocker Drive Encryption format", volume header; the second is "To Go", which also looks like FAT32
    (VolumeKind::BitLocker, &[(3, b"-FVE-FS-")]),
    (VolumeKind::BitLocker, &[(3, b"MSWIN4.1"), (424, &BITLOCKER_GUID)]),
    // Microsoft, "NTFS boot sector": OEM ID, end of sector marker
    (VolumeKind::Ntfs,      &[(3, b"NTFS    "), (510, &[0x55, 0xaa])]),
    // exFAT file system specification, sections 3.1.2 and 3.1.18
    (VolumeKind::ExFat,     &[(3, b"EXFAT   "), (510, &[0x55, 0xaa])]),
    // libyal/libfsrefs, "ReFS format", volume header
    (VolumeKind::ReFs,      &[(3, b"ReFS\0\0\0\0"), (16, b"FSRS")]),
    // FAT and ext: see `Head::kind`
    // "XFS Algorithms & Data Structures", superblock: sb_magicnum
    (VolumeKind::Xfs,       &[(0, b"XFSB")]),
    // LVM 2: the label lies in one of the first four sectors of 512 bytes
    (VolumeKind::LvmPv,     &[(0x000, b"LABELONE"), (0x018, b"LVM2 001")]),
    (VolumeKind::LvmPv,     &[(0x200, b"LABELONE"), (0x218, b"LVM2 001")]),
    (VolumeKind::LvmPv,     &[(0x400, b"LABELONE"), (0x418, b"LVM2 001")]),
    (VolumeKind::LvmPv,     &[(0x600, b"LABELONE"), (0x618, b"LVM2 001")]),
    // Linux include/linux/swap.h: the last 10 bytes of the first page, which has 4, 8, 16, 32 or 64 KiB
    (VolumeKind::LinuxSwap, &[(0x0ff6, b"SWAPSPACE2")]),
    (VolumeKind::LinuxSwap, &[(0x1ff6, b"SWAPSPACE2")]),
    (VolumeKind::LinuxSwap, &[(0x3ff6, b"SWAPSPACE2")]),
    (VolumeKind::LinuxSwap, &[(0x7ff6, b"SWAPSPACE2")]),
    (VolumeKind::LinuxSwap, &[(0xfff6, b"SWAPSPACE2")]),
    // Linux kernel/power/swap.c puts this in the same place while the system hibernates, on machines of 4 KiB pages
    (VolumeKind::LinuxSwap, &[(0x0ff6, b"S1SUSPEND\0")]),
    // Btrfs on-disk format, superblock: magic, in the copy at 64 KiB
    (VolumeKind::Btrfs,     &[(0x10040, b"_BHRfS_M")]),
];

/// 4967d63b-2e29-4ad8-8399-f6a339e3d001 as it lies on the disk.
const BITLOCKER_GUID: [u8; 16] = uuid!("4967d63b-2e29-4ad8-8399-f6a339e3d001").to_bytes_le();
/// Microsoft, `PARTITION_LDM_METADATA_GUID` and `PARTITION_LDM_DATA_GUID` of winioctl.h.
const LDM_TYPES: [Uuid; 2] =
    [uuid!("5808c8aa-7e8f-42e0-85d2-e1e90434cfb3"), uuid!("af9b60a0-1431-4f62-bc68-3311714a69ad")];

/// Whether a partition belongs to a Windows dynamic disk. What its first sectors seem to hold then proves nothing, because
/// the real volumes begin elsewhere. On an MBR disk that needs the type 0x42 and the signature of the private header in sector
/// 6 of the disk (Linux `Documentation/admin-guide/ldm.rst`, `block/partitions/ldm.h`); on a GPT disk the type GUIDs.
pub(crate) fn is_ldm(table_type: PartitionType, disk: &Head) -> bool {
    match table_type {
        PartitionType::Mbr(0x42) => disk.holds(6 * 512, b"PRIVHEAD"),
        PartitionType::Mbr(_) => false,
        PartitionType::Gpt(guid) => LDM_TYPES.contains(&guid),
    }
}

/// The first bytes of a volume or disk: as many as the signatures need, or all there are.
pub(crate) struct Head(Vec<u8>);

impl Head {
    /// 68 KiB: the farthest signature, that of Btrfs, ends at 0x10048.
    const LEN: usize = 0x11000;

    pub(crate) fn read(volume: &dyn ReadAt) -> Result<Self, ReadError> {
        let len = volume.size().to_usize().map_or(Self::LEN, |size| size.min(Self::LEN));
        let mut bytes = vec![0; len];
        volume.read_exact_at(ByteOffset(0), &mut bytes)?;
        Ok(Self(bytes))
    }

    /// `N` bytes from `offset` on, if the volume is that long.
    pub(crate) fn at<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    fn holds(&self, offset: usize, magic: &[u8]) -> bool {
        self.0.get(offset..).is_some_and(|bytes| bytes.starts_with(magic))
    }

    pub(crate) fn kind(&self) -> VolumeKind {
        let find = |in_sector_0: bool| {
            SIGNATURES.iter().find(|(kind, magics)| {
                kind.lives_in_sector_0() == in_sector_0 && magics.iter().all(|(at, magic)| self.holds(*at, magic))
            })
        };
        let simple = |in_sector_0| find(in_sector_0).map(|(kind, _)| *kind);
        let found = simple(true).or_else(|| self.fat()).or_else(|| self.ext()).or_else(|| simple(false));
        found.unwrap_or(VolumeKind::Unknown)
    }

    fn u8(&self, offset: usize) -> Option<u8> {
        self.at::<1>(offset).map(|[byte]| byte)
    }
    fn u16(&self, offset: usize) -> Option<u16> {
        self.at(offset).map(u16::from_le_bytes)
    }
    fn u32(&self, offset: usize) -> Option<u32> {
        self.at(offset).map(u32::from_le_bytes)
    }

    /// FAT has no signature: it is told by a BIOS parameter block that makes sense, and its width by the number of clusters
    /// (Microsoft FAT Specification, 2005, sections 3.1 to 3.5). FAT32 is told by a 16-bit FAT size of 0, as Windows and Linux
    /// do; by the number of clusters alone small volumes of FAT32 would be misread.
    fn fat(&self) -> Option<VolumeKind> {
        let jump = matches!(self.at(0)?, [0xeb, _, 0x90] | [0xe9, _, _]);
        let sector = u32::from(self.u16(0x0b)?); // BPB_BytsPerSec
        let cluster = u32::from(self.u8(0x0d)?); // BPB_SecPerClus
        let reserved = u32::from(self.u16(0x0e)?); // BPB_RsvdSecCnt
        let fats = u32::from(self.u8(0x10)?); // BPB_NumFATs
        let root_entries = u32::from(self.u16(0x11)?); // BPB_RootEntCnt
        let media = matches!(self.u8(0x15)?, 0xf0 | 0xf8..=0xff); // BPB_Media
        let sizes = matches!(sector, 512 | 1024 | 2048 | 4096) && cluster.is_power_of_two();
        let counts = reserved != 0 && matches!(fats, 1 | 2);
        if !(jump && media && sizes && counts && self.holds(510, &[0x55, 0xaa])) {
            return None;
        }
        let either = |short: u16, long: u32| if short == 0 { long } else { short.into() };
        let total = either(self.u16(0x13)?, self.u32(0x20)?); // BPB_TotSec16, BPB_TotSec32
        let short_fat = self.u16(0x16)?; // BPB_FATSz16
        let fat_size = either(short_fat, self.u32(0x24)?); // BPB_FATSz32
        let root = root_entries.checked_mul(32)?.div_ceil(sector);
        let meta = fats.checked_mul(fat_size)?.checked_add(reserved)?.checked_add(root)?;
        let clusters = total.checked_sub(meta)?.checked_div(cluster)?;
        match (short_fat, root_entries) {
            (0, 0) if fat_size != 0 => Some(VolumeKind::Fat32),
            (0, _) | (_, 0) => None,
            _ if clusters < 4085 => Some(VolumeKind::Fat12),
            _ => Some(VolumeKind::Fat16),
        }
    }

    /// The ext superblock at 1024 (Linux `Documentation/filesystems/ext4/super.rst`). The sets are what ext2 and ext3 know.
    fn ext(&self) -> Option<VolumeKind> {
        const COMPAT_HAS_JOURNAL: u32 = 0x4;
        const INCOMPAT_JOURNAL_DEV: u32 = 0x8;
        const INCOMPAT_EXT3: u32 = 0x2 | 0x4 | 0x10; // filetype, recover, meta_bg
        const RO_COMPAT_EXT3: u32 = 0x1 | 0x2 | 0x4; // sparse_super, large_file, btree_dir
        if self.u16(1024 + 0x38)? != 0xef53 {
            return None;
        }
        let (compat, incompat, ro_compat) = (self.u32(1024 + 0x5c)?, self.u32(1024 + 0x60)?, self.u32(1024 + 0x64)?);
        if incompat & INCOMPAT_JOURNAL_DEV != 0 {
            return None; // the journal of another volume, no file system
        }
        if incompat & !INCOMPAT_EXT3 != 0 || ro_compat & !RO_COMPAT_EXT3 != 0 {
            return Some(VolumeKind::Ext4);
        }
        let journal = compat & COMPAT_HAS_JOURNAL != 0;
        Some(if journal { VolumeKind::Ext3 } else { VolumeKind::Ext2 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A FAT boot sector with clusters of one sector: 1 reserved, two FATs of 16, 32 root entries in 2 sectors.
    fn fat(clusters: u16) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
        bytes[0x0b..0x11].copy_from_slice(&[0x00, 0x02, 1, 1, 0, 2]);
        bytes[0x11] = 32;
        bytes[0x13..0x15].copy_from_slice(&clusters.saturating_add(1 + 2 * 16 + 2).to_le_bytes());
        (bytes[0x15], bytes[0x16]) = (0xf8, 16);
        bytes[510..].copy_from_slice(&[0x55, 0xaa]);
        bytes
    }

    #[test]
    fn fat12_ends_at_4084_clusters() {
        assert_eq!(Head(fat(4084)).kind(), VolumeKind::Fat12);
        assert_eq!(Head(fat(4085)).kind(), VolumeKind::Fat16);
    }

    #[test]
    fn a_boot_sector_with_impossible_parameters_is_no_fat() {
        // sector size, cluster size, reserved sectors, FATs, root entries, total, media, FAT size, marker
        for (at, bad) in [
            (0x0c, 3),
            (0x0d, 3),
            (0x0d, 0),
            (0x0e, 0),
            (0x10, 3),
            (0x11, 0),
            (0x14, 0),
            (0x15, 1),
            (0x16, 0),
            (510, 0),
        ] {
            let mut bytes = fat(4084);
            bytes[at] = bad;
            assert_eq!(Head(bytes).kind(), VolumeKind::Unknown, "byte {at:#x} = {bad}");
        }
    }

    #[test]
    fn a_volume_shorter_than_its_signatures_is_unknown_and_no_panic() {
        for len in 0..512 {
            assert_eq!(Head(fat(4084)[..len].to_vec()).kind(), VolumeKind::Unknown);
        }
    }
}
