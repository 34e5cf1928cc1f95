//! The master boot record: four slots in sector 0 (UEFI 2.10 section 5.2.1, "Legacy Master Boot Record").

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::claims::{Claim, refuse_overlaps};
use super::ebr::{Chains, Container};
use super::source::{Lba, Source};
use super::{PartitionError, PartitionType, Piece, Volume, Warning};

const BOOT_SIGNATURE: u16 = 0xaa55;
/// UEFI 2.10 section 5.2.3: the slot type that stands for a GPT.
const TYPE_GPT: u8 = 0xee;

/// A master boot record; an extended one has the same form.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawMbr {
    code: [u8; 440],                // 0x000
    pub(super) disk_signature: U32, // 0x1b8
    reserved: U16,                  // 0x1bc
    pub(super) slots: [RawSlot; 4], // 0x1be
    boot_signature: U16,            // 0x1fe
}
const _: () = assert!(size_of::<RawMbr>() == 512);

/// One slot. The two CHS addresses are not used: they end at 8 GiB, and nobody fills them reliably.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawSlot {
    flag: u8,                  // 0x0: 0x80 if active
    chs_first: [u8; 3],        // 0x1
    pub(super) table_type: u8, // 0x4
    chs_last: [u8; 3],         // 0x5
    pub(super) first: U32,     // 0x8
    pub(super) sectors: U32,   // 0xc
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Empty,
    /// A type without a length, or a length without a type.
    HalfEmpty,
    /// Logical partitions. 0x05 and 0x0f differ only in the addressing that DOS used, 0x85 is Linux's own.
    Container,
    Data,
}

impl RawSlot {
    pub(super) const fn held(&self) -> Use {
        match (self.table_type, self.sectors.get()) {
            (0, 0) => Use::Empty,
            (0, _) | (_, 0) => Use::HalfEmpty,
            (0x05 | 0x0f | 0x85, _) => Use::Container,
            _ => Use::Data,
        }
    }

    pub(super) const fn active(&self) -> bool {
        self.flag == 0x80
    }

    pub(super) const fn half_empty(&self, index: u32) -> Warning {
        Warning::HalfEmptySlot { index, table_type: self.table_type, sectors: self.sectors.get() }
    }
}

/// What sector 0 says about the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claims {
    /// No boot signature, so no MBR.
    Nothing,
    /// A boot signature, but a slot with a flag that no partition has: a boot sector of some kind, or a damaged MBR.
    NoTable { slot: u8, flag: u8 },
    /// An MBR without partitions.
    Empty,
    /// A GPT.
    Protective,
    /// Partitions.
    Partitions,
}

impl RawMbr {
    pub(super) const fn signed(&self) -> bool {
        self.boot_signature.get() == BOOT_SIGNATURE
    }

    pub(super) const fn boot_signature(&self) -> u16 {
        self.boot_signature.get()
    }

    pub(super) fn claims(&self) -> Claims {
        if !self.signed() {
            return Claims::Nothing;
        }
        if self.slots.iter().any(|slot| slot.table_type == TYPE_GPT) {
            return Claims::Protective;
        }
        if let Some((slot, bad)) = (0..).zip(&self.slots).find(|(_, slot)| !matches!(slot.flag, 0 | 0x80)) {
            return Claims::NoTable { slot, flag: bad.flag };
        }
        if self.slots.iter().all(|slot| slot.held() == Use::Empty) { Claims::Empty } else { Claims::Partitions }
    }

    /// Whether the MBR of a GPT disk lists more than the GPT.
    pub(super) fn is_hybrid(&self) -> bool {
        self.slots.iter().any(|slot| slot.table_type != TYPE_GPT && slot.held() != Use::Empty)
    }
}

/// The partitions of an MBR: first the primary ones, then the logical ones from 5 on.
pub(super) fn read(
    source: Source<'_>,
    mbr: &RawMbr,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Volume>, PartitionError> {
    let (mut volumes, mut containers) = (Vec::new(), Vec::new());
    for (index, slot) in (1..).zip(&mbr.slots) {
        let (first, sectors) = (Lba(slot.first.get().into()), u64::from(slot.sectors.get()));
        match slot.held() {
            Use::Empty => {}
            Use::HalfEmpty => warnings.push(slot.half_empty(index)),
            Use::Container => containers.push(Container { index, first, sectors }),
            Use::Data => {
                let mut volume = source.volume(index, PartitionType::Mbr(slot.table_type), first, sectors)?;
                volume.bootable = slot.active();
                if first == Lba(0) {
                    warnings.push(Warning::CoversTable { index });
                }
                volumes.push(volume);
            }
        }
    }
    let mut claims: Vec<Claim> = volumes.iter().map(Claim::of).collect();
    for container in &containers {
        claims.push(claim_of(source, container, warnings)?);
    }
    refuse_overlaps(claims)?;

    let mut chains = Chains::new(source, warnings);
    for container in &containers {
        chains.walk(container)?;
    }
    // The logical partitions and their boot records may leave their container, so they are held against all others.
    let (logical, mut claims) = chains.into_found();
    volumes.extend(logical);
    claims.extend(volumes.iter().map(Claim::of));
    refuse_overlaps(claims)?;
    Ok(volumes)
}

/// What an extended partition claims. It must begin on the disk; behind the end it only draws a warning.
fn claim_of(source: Source<'_>, container: &Container, warnings: &mut Vec<Warning>) -> Result<Claim, PartitionError> {
    let piece = Piece::Container(container.index);
    let (start, mut len) = source.range(piece, container.first, 1)?;
    match source.range(piece, container.first, container.sectors) {
        Ok((_, whole)) => len = whole,
        Err(_) => warnings.push(Warning::ContainerPastEnd { index: container.index }),
    }
    Ok(Claim { piece, start, len })
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn slot(table_type: u8, sectors: u32) -> RawSlot {
        let mut slot = RawSlot::new_zeroed();
        (slot.table_type, slot.sectors) = (table_type, sectors.into());
        slot
    }

    #[test]
    fn a_slot_needs_both_a_type_and_a_length() {
        assert_eq!(slot(0, 0).held(), Use::Empty);
        assert_eq!(slot(0x83, 0).held(), Use::HalfEmpty);
        assert_eq!(slot(0, 1).held(), Use::HalfEmpty);
        assert_eq!(slot(0x83, 1).held(), Use::Data);
        assert_eq!(slot(0x0f, 1).held(), Use::Container);
    }

    #[test]
    fn a_boot_sector_with_text_in_the_slots_is_no_table() {
        let mut mbr = RawMbr::new_zeroed();
        assert_eq!(mbr.claims(), Claims::Nothing);
        mbr.boot_signature = BOOT_SIGNATURE.into();
        assert_eq!(mbr.claims(), Claims::Empty);
        mbr.slots[2].flag = b'A';
        assert_eq!(mbr.claims(), Claims::NoTable { slot: 2, flag: b'A' });
    }
}
