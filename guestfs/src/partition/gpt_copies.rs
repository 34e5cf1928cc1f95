//! Which of the two copies of a GPT holds, and in which sector size?

use blockdev::{ByteOffset, ReadAt};

use super::gpt::{GptCopy, PRIMARY, SIGNATURE};
use super::source::{Lba, Source};
use super::{PartitionError, SectorSize, Warning};

/// The copy to follow, and how its sectors are counted.
pub(super) struct Chosen<'a> {
    pub(super) source: Source<'a>,
    pub(super) copy: GptCopy,
}

/// Takes the primary copy if it is whole in one of the sector sizes, else the backup.
///
/// The backup lies in the last sector; on a disk that has grown since, where the damaged primary says.
pub(super) fn choose<'a>(
    disk: &'a dyn ReadAt,
    sizes: &[SectorSize],
    warnings: &mut Vec<Warning>,
) -> Result<Chosen<'a>, PartitionError> {
    let sources = || sizes.iter().map(|&sector| Source { disk, sector });
    let mut primary = PartitionError::NoGptHeader { at: ByteOffset(512) };
    let mut backup = PartitionError::NoGptHeader { at: ByteOffset(disk.size().0.saturating_sub(512)) };
    for source in sources() {
        match GptCopy::load(source, PRIMARY) {
            Ok(copy) => {
                check_backup(source, &copy, warnings)?;
                return Ok(Chosen { source, copy });
            }
            Err(error) => keep_telling(&mut primary, error)?,
        }
    }
    for source in sources() {
        for lba in backup_places(source)? {
            match GptCopy::load(source, lba) {
                Ok(copy) => {
                    warnings.push(Warning::BackupGptUsed { primary });
                    return Ok(Chosen { source, copy });
                }
                Err(error) => keep_telling(&mut backup, error)?,
            }
        }
    }
    Err(PartitionError::GptLost { primary: Box::new(primary), backup: Box::new(backup) })
}

/// Whether a header seems to lie in the place of the primary one, good or not.
pub(super) fn seen(disk: &dyn ReadAt, sizes: &[SectorSize]) -> Result<bool, PartitionError> {
    for source in sizes.iter().map(|&sector| Source { disk, sector }) {
        let at = source.offset(PRIMARY);
        if source.holds(at, source.sector.bytes()) && source.raw::<[u8; 8]>("GPT header", at)? == SIGNATURE {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Keeps the error that says most: a header that is damaged tells more than a place where there is none. A disk that cannot
/// be read is no damaged table, and ends the search.
fn keep_telling(kept: &mut PartitionError, error: PartitionError) -> Result<(), PartitionError> {
    match (&kept, error) {
        (_, error @ PartitionError::Read { .. }) => return Err(error),
        (PartitionError::NoGptHeader { .. }, error) => *kept = error,
        _ => {}
    }
    Ok(())
}

fn check_backup(source: Source<'_>, primary: &GptCopy, warnings: &mut Vec<Warning>) -> Result<(), PartitionError> {
    if primary.alternate == PRIMARY {
        let at = source.offset(PRIMARY);
        let (field, expected) = ("AlternateLBA", "another sector than its own");
        let backup = PartitionError::Corrupt { field, at, found: PRIMARY.0, expected };
        warnings.push(Warning::BackupGptDamaged { backup });
        return Ok(());
    }
    match GptCopy::load(source, primary.alternate) {
        Ok(backup) if primary.agrees_with(&backup) => {}
        Ok(_) => warnings.push(Warning::GptCopiesDiffer),
        Err(error @ PartitionError::Read { .. }) => return Err(error),
        Err(backup) => warnings.push(Warning::BackupGptDamaged { backup }),
    }
    Ok(())
}

/// Where the backup header may lie: the last sector, and where the damaged primary header points.
fn backup_places(source: Source<'_>) -> Result<Vec<Lba>, PartitionError> {
    let sectors = source.disk.size().0.checked_div(source.sector.bytes().0).unwrap_or(0);
    let mut places: Vec<Lba> = sectors.checked_sub(1).map(Lba).into_iter().collect();
    let header = source.offset(PRIMARY);
    if seen(source.disk, &[source.sector])? {
        let pointer = ByteOffset(header.0.saturating_add(0x20)); // AlternateLBA, UEFI 2.10 table 5.5
        let hint = Lba(u64::from_le_bytes(source.raw("GPT header", pointer)?));
        if hint > PRIMARY && !places.contains(&hint) {
            places.push(hint);
        }
    }
    Ok(places)
}
