use uuid::{Uuid, uuid};

use super::{Letter, Origin, VolumeToLetter};
use crate::{PartitionType, VolumeKind};

/// Types of GPT partitions that Windows gives no letter: Microsoft, `PARTITION_SYSTEM_GUID`, `PARTITION_MSFT_RESERVED_GUID`,
/// `PARTITION_MSFT_RECOVERY_GUID` of winioctl.h.
const HIDDEN_GPT: [Uuid; 3] = [
    uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
    uuid!("e3c9e316-0b5c-4db8-817d-f92df00215ae"),
    uuid!("de94bba4-06d1-4d40-a16a-bfd50179d6ac"),
];
/// The same of MBR partitions: recovery, EFI system.
const HIDDEN_MBR: [u8; 2] = [0x27, 0xef];

/// Letters in order, and a note that says so.
pub(super) fn letters(volumes: &[VolumeToLetter<'_>], notes: &mut Vec<String>) -> Vec<Option<Letter>> {
    let mut left = 'C'..='Z';
    let mut unlettered = 0_usize;
    let mut letters = Vec::new();
    for volume in volumes {
        let letter = if is_lettered(volume) { left.next() } else { None };
        if letter.is_none() && is_lettered(volume) {
            unlettered = unlettered.saturating_add(1);
        }
        letters.push(letter.map(|letter| Letter { letter, origin: Origin::Assumed }));
    }
    if letters.iter().any(Option::is_some) {
        notes.push(
            "no registry hive tells the guest's drive letters: they are assumed, in the order of the volumes"
                .to_owned(),
        );
    }
    if unlettered > 0 {
        notes.push(format!("{unlettered} more volumes would have a letter, and Z was the last"));
    }
    letters
}

fn is_lettered(volume: &VolumeToLetter<'_>) -> bool {
    use VolumeKind::{ExFat, Fat12, Fat16, Fat32, Ntfs};
    let hidden = volume.table_type.is_some_and(|table_type| match table_type {
        PartitionType::Gpt(guid) => HIDDEN_GPT.contains(&guid),
        PartitionType::Mbr(byte) => HIDDEN_MBR.contains(&byte),
    });
    volume.files.is_some() && !hidden && matches!(volume.kind, Ntfs | Fat12 | Fat16 | Fat32 | ExFat)
}
