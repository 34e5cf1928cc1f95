use blockdev::ByteOffset;

use super::PartitionError;
use crate::VolumeKind;

/// Something wrong or odd about a table that could be read all the same. It prints as a sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// The primary GPT is damaged; the volumes are those of the backup.
    #[error("the primary GPT is damaged, its backup was used instead: {primary}")]
    BackupGptUsed {
        /// What is wrong with the primary copy.
        primary: PartitionError,
    },
    /// The primary GPT is good, its backup is not.
    #[error("the backup GPT is damaged: {backup}")]
    BackupGptDamaged {
        /// What is wrong with the backup copy.
        backup: PartitionError,
    },
    /// Both copies of the GPT are whole, but they tell different things. The volumes are those of the primary.
    #[error("the backup GPT differs from the primary, which was used")]
    GptCopiesDiffer,
    /// There is a GPT, but sector 0 does not say so, as UEFI 2.10 section 5.2.3 demands.
    #[error("the disk has a GPT but no protective MBR")]
    NoProtectiveMbr,
    /// The MBR beside a GPT lists partitions of its own (a "hybrid MBR"). They are not read.
    #[error("the protective MBR lists partitions of its own, which were not read")]
    HybridMbr,
    /// A GPT header was found and not followed, because sector 0 says that the disk is none of GPT's.
    #[error("a GPT header was found, but sector 0 does not call for it: it was not read")]
    GptNotRead,
    /// Sector 0 is both the boot sector of a volume and a likely MBR. It was taken as a volume.
    #[error("sector 0 is the boot sector of a volume ({kind}) and a likely MBR: the MBR was not read")]
    MbrNotRead {
        /// The volume.
        kind: VolumeKind,
    },
    /// Beside its partitions the disk carries the signature of a volume that fills it, often a leftover.
    #[error("the disk has partitions, and beside them the signature of a volume that fills it ({kind}): a leftover?")]
    LeftoverVolume {
        /// What the signature stands for.
        kind: VolumeKind,
    },
    /// A slot has a type or a length, but not both. It is no partition.
    #[error("slot {index} is half filled (type {table_type:#04x}, {sectors} sectors): it was not read")]
    HalfEmptySlot {
        /// The slot in the MBR, or the number that the logical partition would have.
        index: u32,
        /// Its type byte.
        table_type: u8,
        /// Its length in sectors.
        sectors: u32,
    },
    /// A partition begins at sector 0 and so covers its own table.
    #[error("partition {index} covers the partition table")]
    CoversTable {
        /// The partition.
        index: u32,
    },
    /// A partition leaves the area that the table sets aside for it; it is on the disk and overlaps nothing.
    #[error("partition {index} leaves the area set aside for it: {area}")]
    OutsideArea {
        /// The partition.
        index: u32,
        /// The area.
        area: &'static str,
    },
    /// The extended partition passes the end of the disk. What it holds is checked by itself.
    #[error("extended partition {index} passes the end of the disk")]
    ContainerPastEnd {
        /// Its slot.
        index: u32,
    },
    /// The extended partition holds no boot record, so no logical partitions.
    #[error("extended partition {index} holds no boot record at byte {at}: taken as empty")]
    ContainerEmpty {
        /// Its slot.
        index: u32,
        /// Where the boot record should be.
        at: ByteOffset,
    },
    /// An extended boot record has more entries than the two that are defined. They are not read.
    #[error("the extended boot record at byte {at} has entries beyond the two that are defined: they were not read")]
    ExtraEntries {
        /// The boot record.
        at: ByteOffset,
    },
}
