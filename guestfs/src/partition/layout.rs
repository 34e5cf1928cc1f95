use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError, Window};
use uuid::Uuid;

use super::Warning;
use crate::VolumeKind;

/// How a disk is divided.
#[derive(Debug)]
#[non_exhaustive]
pub struct DiskLayout {
    /// Which table divides it.
    pub table: TableKind,
    /// The sector size that the table counts in.
    pub sector_size: SectorSize,
    /// The partitions in table order, or the one volume that fills the disk. Extended partitions are not among them, the
    /// logical ones in them are.
    pub volumes: Vec<Volume>,
    /// What is wrong or odd, and did not stop the reader.
    pub warnings: Vec<Warning>,
}

/// The kinds of partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableKind {
    /// No table: one volume fills the disk.
    None,
    /// A master boot record.
    Mbr {
        /// The disk signature at byte 440, by which Windows knows the disk.
        signature: u32,
    },
    /// A GUID partition table.
    Gpt {
        /// The GUID of the disk.
        disk_guid: Uuid,
    },
}

/// The sector sizes in which tables count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SectorSize {
    /// 512 bytes: nearly every virtual disk.
    B512,
    /// 4096 bytes ("4Kn").
    B4096,
}

impl SectorSize {
    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> ByteLen {
        match self {
            Self::B512 => ByteLen(512),
            Self::B4096 => ByteLen(4096),
        }
    }
}

/// A partition's type as the table gives it. It says what the partition was meant for; [`Volume::kind`] says what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartitionType {
    /// The type byte of an MBR.
    Mbr(u8),
    /// The type GUID of a GPT.
    Gpt(Uuid),
}

/// A partition, or the volume that fills a disk without partitions. It lies inside the disk and overlaps no other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Volume {
    /// The number of its slot in the table, from 1 on, with gaps where slots are empty: the number that Linux gives it.
    /// Logical partitions of an MBR count from 5.
    pub index: u32,
    /// Its first byte.
    pub start: ByteOffset,
    /// Its length.
    pub len: ByteLen,
    /// Its type in the table; `None` without a table.
    pub table_type: Option<PartitionType>,
    /// Its name in a GPT, if not empty: up to 36 UTF-16 units of any text at all, so no path and no command.
    pub name: Option<String>,
    /// Its own GUID in a GPT.
    pub guid: Option<Uuid>,
    /// The active flag of an MBR, the "legacy BIOS bootable" attribute of a GPT.
    pub bootable: bool,
    /// What its first bytes say it is.
    pub kind: VolumeKind,
}

impl Volume {
    /// This volume as a disk of its own.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] if `disk` is smaller than the one the layout was read from.
    pub fn window<D: ReadAt>(&self, disk: D) -> Result<Window<D>, ReadError> {
        Window::new(disk, self.start, self.len)
    }
}
