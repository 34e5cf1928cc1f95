//! Partition tables: MBR with logical partitions, GPT, or none.

mod claims;
mod ebr;
mod error;
mod gpt;
mod gpt_copies;
mod layout;
mod mbr;
mod source;
mod warning;

use blockdev::{ByteLen, ByteOffset, ReadAt};

pub use error::{PartitionError, Piece};
pub use layout::{DiskLayout, PartitionType, SectorSize, TableKind, Volume};
pub use warning::Warning;

use crate::volume_kind::{Head, VolumeKind, is_ldm};
use mbr::{Claims, RawMbr};
use source::Source;

/// How `disk` is divided, and what lies in each part.
///
/// The sector size of a GPT is found by where its header lies, and an MBR is taken to count in 512 bytes: see
/// [`volumes_with`]. Beside the table this reads up to 68 KiB at the start of the disk and of each partition.
///
/// What decides between MBR, GPT and none is sector 0: a GPT needs its protective MBR there, unless sector 0 says nothing at
/// all and a GPT header follows it. A partition that passes the end of the disk or overlaps another is an error, and so is a
/// GPT of which no copy is whole; what is odd but leaves no doubt about the partitions is a [`Warning`].
///
/// # Errors
/// [`PartitionError`], which says what contradicts what, and where.
pub fn volumes(disk: &dyn ReadAt) -> Result<DiskLayout, PartitionError> {
    Reader::new(disk, &[SectorSize::B512, SectorSize::B4096], SectorSize::B512)?.layout()
}

/// Like [`volumes`], with the sector size known: an MBR does not tell it.
///
/// # Errors
/// As [`volumes`].
pub fn volumes_with(disk: &dyn ReadAt, sector_size: SectorSize) -> Result<DiskLayout, PartitionError> {
    Reader::new(disk, &[sector_size], sector_size)?.layout()
}

struct Reader<'a> {
    disk: &'a dyn ReadAt,
    gpt_sizes: &'a [SectorSize],
    default_size: SectorSize,
    /// The first bytes of the disk.
    head: Head,
    /// The volume that would fill the disk if there were no table.
    whole: VolumeKind,
    warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    fn new(
        disk: &'a dyn ReadAt,
        gpt_sizes: &'a [SectorSize],
        default_size: SectorSize,
    ) -> Result<Self, PartitionError> {
        let head = read_head(disk, "first sectors of the disk")?;
        let whole = head.kind();
        Ok(Self { disk, gpt_sizes, default_size, head, whole, warnings: Vec::new() })
    }

    /// Decides which table holds. The order of the questions matters; each line has its reason in [`volumes`].
    fn layout(mut self) -> Result<DiskLayout, PartitionError> {
        let Some(sector) = self.head.at::<512>(0) else { return Ok(self.without_table()) };
        let mbr: RawMbr = zerocopy::transmute!(sector);
        let boot_sector = self.whole.lives_in_sector_0();
        match mbr.claims() {
            Claims::Protective if boot_sector => self.gpt_or_boot_sector(&mbr),
            Claims::Protective => self.gpt(&mbr),
            Claims::Partitions if boot_sector => self.mbr_or_boot_sector(&mbr),
            Claims::Partitions => self.mbr(&mbr),
            _ if self.whole != VolumeKind::Unknown => {
                self.note_gpt()?;
                Ok(self.without_table())
            }
            _ if gpt_copies::seen(self.disk, self.gpt_sizes)? => {
                self.warnings.push(Warning::NoProtectiveMbr);
                self.gpt(&mbr)
            }
            Claims::Nothing => Ok(self.without_table()),
            Claims::Empty => self.mbr(&mbr),
            Claims::NoTable { slot, flag } => Err(PartitionError::Corrupt {
                field: "flag of an MBR slot",
                at: ByteOffset(u64::from(slot).saturating_mul(16).saturating_add(446)),
                found: flag.into(),
                expected: "0x00 or 0x80",
            }),
        }
    }

    /// Sector 0 is a boot sector in which a byte looks like that of a protective MBR. It is one only if there is a GPT.
    fn gpt_or_boot_sector(mut self, mbr: &RawMbr) -> Result<DiskLayout, PartitionError> {
        match gpt_copies::choose(self.disk, self.gpt_sizes, &mut self.warnings) {
            Ok(chosen) => self.chosen(mbr, &chosen),
            Err(error @ PartitionError::Read { .. }) => Err(error),
            Err(_) => {
                self.warnings.clear();
                self.note_gpt()?;
                Ok(self.without_table())
            }
        }
    }

    /// Sector 0 is a boot sector and a likely MBR. Boot loaders keep the parameters of a volume that was there before, and
    /// boot code can look like slots by chance; so the MBR holds if there is nothing at all to say against it.
    fn mbr_or_boot_sector(mut self, mbr: &RawMbr) -> Result<DiskLayout, PartitionError> {
        let mut odd = Vec::new();
        let source = Source { disk: self.disk, sector: self.default_size };
        match mbr::read(source, mbr, &mut odd) {
            Ok(volumes) if odd.is_empty() && !volumes.is_empty() => self.mbr(mbr),
            Err(error @ PartitionError::Read { .. }) => Err(error),
            _ => {
                self.warnings.push(Warning::MbrNotRead { kind: self.whole });
                self.note_gpt()?;
                Ok(self.without_table())
            }
        }
    }

    fn gpt(mut self, mbr: &RawMbr) -> Result<DiskLayout, PartitionError> {
        let chosen = gpt_copies::choose(self.disk, self.gpt_sizes, &mut self.warnings)?;
        self.chosen(mbr, &chosen)
    }

    fn chosen(mut self, mbr: &RawMbr, chosen: &gpt_copies::Chosen<'_>) -> Result<DiskLayout, PartitionError> {
        if mbr.claims() == Claims::Protective && mbr.is_hybrid() {
            self.warnings.push(Warning::HybridMbr);
        }
        let volumes = chosen.copy.volumes(chosen.source, &mut self.warnings)?;
        let table = TableKind::Gpt { disk_guid: chosen.copy.disk_guid };
        self.partitioned(table, chosen.source.sector, volumes)
    }

    fn mbr(mut self, mbr: &RawMbr) -> Result<DiskLayout, PartitionError> {
        self.note_gpt()?;
        let source = Source { disk: self.disk, sector: self.default_size };
        let volumes = mbr::read(source, mbr, &mut self.warnings)?;
        let table = TableKind::Mbr { signature: mbr.disk_signature.get() };
        self.partitioned(table, source.sector, volumes)
    }

    /// Looks into the partitions, now that the table has been found sound.
    fn partitioned(
        mut self,
        table: TableKind,
        sector_size: SectorSize,
        mut volumes: Vec<Volume>,
    ) -> Result<DiskLayout, PartitionError> {
        if self.whole != VolumeKind::Unknown {
            self.warnings.push(Warning::LeftoverVolume { kind: self.whole });
        }
        for volume in &mut volumes {
            let what = "first sectors of a partition";
            let window = volume.window(self.disk).map_err(|source| PartitionError::Read { what, source })?;
            let dynamic = volume.table_type.is_some_and(|table_type| is_ldm(table_type, &self.head));
            volume.kind = if dynamic { VolumeKind::Ldm } else { read_head(&window, what)?.kind() };
        }
        Ok(DiskLayout { table, sector_size, volumes, warnings: self.warnings })
    }

    /// One volume that fills the disk; an empty disk has none.
    fn without_table(self) -> DiskLayout {
        let whole = Volume {
            index: 1,
            start: ByteOffset(0),
            len: self.disk.size(),
            table_type: None,
            name: None,
            guid: None,
            bootable: false,
            kind: self.whole,
        };
        let volumes = if whole.len == ByteLen(0) { Vec::new() } else { vec![whole] };
        DiskLayout { table: TableKind::None, sector_size: self.default_size, volumes, warnings: self.warnings }
    }

    /// Says so when a GPT header lies there that is not followed.
    fn note_gpt(&mut self) -> Result<(), PartitionError> {
        if gpt_copies::seen(self.disk, self.gpt_sizes)? {
            self.warnings.push(Warning::GptNotRead);
        }
        Ok(())
    }
}

fn read_head(disk: &dyn ReadAt, what: &'static str) -> Result<Head, PartitionError> {
    Head::read(disk).map_err(|source| PartitionError::Read { what, source })
}
