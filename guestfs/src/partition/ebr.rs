//! Logical partitions: a chain of extended boot records inside an extended partition.
//!
//! Each record has the form of an MBR. One of its first two slots is the logical partition, counted from the record itself; the other
//! is the link to the next record, counted from the start of the extended partition. There is no standard; this is what
//! Linux (`block/partitions/msdos.c`) and util-linux read and write.

use blockdev::ByteOffset;

use super::claims::Claim;
use super::mbr::{RawMbr, RawSlot, Use};
use super::source::{Lba, Source};
use super::{PartitionError, PartitionType, Piece, Volume, Warning};

/// Linux stops after 100 records, fdisk at partition 60; a disk with more was not made by anything we know.
const MAX_RECORDS: usize = 128;

/// An extended partition.
pub(super) struct Container {
    pub(super) index: u32,
    pub(super) first: Lba,
    pub(super) sectors: u64,
}

impl Container {
    const fn end(&self) -> Lba {
        self.first.plus(self.sectors)
    }
}

/// The walk along all chains of a disk.
pub(super) struct Chains<'a> {
    source: Source<'a>,
    warnings: &'a mut Vec<Warning>,
    visited: Vec<Lba>,
    next_index: u32,
    volumes: Vec<Volume>,
    records: Vec<Claim>,
}

impl<'a> Chains<'a> {
    pub(super) const fn new(source: Source<'a>, warnings: &'a mut Vec<Warning>) -> Self {
        Self { source, warnings, visited: Vec::new(), next_index: 5, volumes: Vec::new(), records: Vec::new() }
    }

    /// The logical partitions, and what their boot records claim.
    pub(super) fn into_found(self) -> (Vec<Volume>, Vec<Claim>) {
        (self.volumes, self.records)
    }

    /// Follows the chain of one extended partition.
    pub(super) fn walk(&mut self, container: &Container) -> Result<(), PartitionError> {
        let mut lba = container.first;
        loop {
            let at = self.enter(lba)?;
            let ebr: RawMbr = self.source.raw("extended boot record", at)?;
            if !ebr.signed() {
                // fdisk leaves the first record unwritten until there is a logical partition.
                if lba == container.first {
                    self.warnings.push(Warning::ContainerEmpty { index: container.index, at });
                    return Ok(());
                }
                let field = "boot signature of the extended boot record";
                let found = ebr.boot_signature().into();
                return Err(PartitionError::Corrupt { field, at, found, expected: "0xaa55" });
            }
            match self.read_record(container, lba, at, &ebr)? {
                Some(next) => lba = next,
                None => return Ok(()),
            }
        }
    }

    /// Notes that a record was reached; refuses loops and chains without end.
    fn enter(&mut self, lba: Lba) -> Result<ByteOffset, PartitionError> {
        let piece = Piece::BootRecord(self.next_index);
        let (at, len) = self.source.range(piece, lba, 1)?;
        if self.visited.contains(&lba) {
            return Err(PartitionError::ChainLoop { at });
        }
        if self.visited.len() >= MAX_RECORDS {
            let what = "the number of the extended boot record";
            return Err(PartitionError::Unsupported { what, at, found: 129, limit: "at most 128 are read" });
        }
        self.visited.push(lba);
        self.records.push(Claim { piece, start: at, len });
        Ok(at)
    }

    /// Takes the logical partition of one record; answers where the next record is.
    fn read_record(
        &mut self,
        container: &Container,
        lba: Lba,
        at: ByteOffset,
        ebr: &RawMbr,
    ) -> Result<Option<Lba>, PartitionError> {
        let [one, two, rest @ ..] = &ebr.slots;
        let mut link = None;
        let mut extra = rest.iter().any(|slot| slot.held() != Use::Empty);
        for slot in [one, two] {
            match slot.held() {
                Use::Empty => {}
                Use::HalfEmpty => self.warnings.push(slot.half_empty(self.next_index)),
                Use::Data => self.take(container, lba, slot)?,
                Use::Container if link.is_none() => link = Some(slot.first.get()),
                Use::Container => extra = true,
            }
        }
        if extra {
            self.warnings.push(Warning::ExtraEntries { at });
        }
        let Some(link) = link else { return Ok(None) };
        let next = container.first.plus(link.into());
        if next >= container.end() {
            let (field, expected) = ("link to the next extended boot record", "inside the extended partition");
            return Err(PartitionError::Corrupt { field, at, found: link.into(), expected });
        }
        Ok(Some(next))
    }

    fn take(&mut self, container: &Container, lba: Lba, slot: &RawSlot) -> Result<(), PartitionError> {
        let (first, sectors) = (lba.plus(slot.first.get().into()), u64::from(slot.sectors.get()));
        let index = self.next_index;
        let mut volume = self.source.volume(index, PartitionType::Mbr(slot.table_type), first, sectors)?;
        volume.bootable = slot.active();
        if first.plus(sectors) > container.end() {
            self.warnings.push(Warning::OutsideArea { index, area: "the extended partition" });
        }
        self.volumes.push(volume);
        self.next_index = index.saturating_add(1);
        Ok(())
    }
}
