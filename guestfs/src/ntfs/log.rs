//! Whether a volume was left in order: its flags, its journal, hibernation.

use super::record::{Record, fix_up_restart, kind};
use super::volume::{Volume, known};
use crate::FsError;
use crate::bytes::{u16_at, u64_at};

/// Size of a restart page.
const PAGE: usize = 4096;
const DIRTY: u16 = 0x0001;
const VOLUME_IS_CLEAN: u16 = 0x0002;
const NO_CLIENT: u16 = 0xffff;

/// The label of the volume, and whether it is marked for a check.
pub(super) fn label(volume: &Volume, notes: &mut Vec<String>) -> Option<String> {
    let record = match volume.base_record(known::VOLUME) {
        Ok(record) => record,
        Err(error) => {
            notes.push(format!("its label, and whether it is marked dirty, cannot be read: {error}"));
            return None;
        }
    };
    let flags = record.of_kind(kind::VOLUME_INFORMATION).find_map(|info| u16_at(info.resident()?, 10));
    if flags.is_some_and(|flags| flags & DIRTY != 0) {
        notes.push("the volume is marked dirty: the guest wants to check it".into());
    }
    let name = record.of_kind(kind::VOLUME_NAME).find_map(|name| name.resident().map(super::name::Name));
    name.filter(|name| !name.is_empty()).map(super::name::Name::to_text)
}

/// Whether the journal holds what was not written to its place yet. It is not replayed: the volume reads as it lies.
pub(super) fn check_journal(volume: &Volume, notes: &mut Vec<String>) {
    let read = |record: &Record| -> Result<Option<bool>, FsError> {
        let Some(stream) = volume.stream(record, kind::DATA, &[])? else { return Ok(None) };
        let mut newest: Option<(u64, bool)> = None;
        for at in [0, PAGE] {
            let mut page = vec![0; PAGE];
            let at = u64::try_from(at).unwrap_or(0);
            if stream.read(&volume.device, volume.device.cached(), at, &mut page).is_err() {
                continue;
            }
            if let Some(found) = restart(&mut page).filter(|(lsn, _)| newest.is_none_or(|(old, _)| *lsn > old)) {
                newest = Some(found);
            }
        }
        Ok(newest.map(|(_, clean)| clean))
    };
    let clean = volume.base_record(known::LOG_FILE).and_then(|record| read(&record));
    match clean {
        Ok(Some(false)) => notes.push("its journal is not empty: the last changes of the guest may be missing".into()),
        Ok(Some(true) | None) => {} // a journal of 0xff was emptied by a tool
        Err(error) => notes.push(format!("its journal cannot be read: {error}")),
    }
}

/// The log sequence number of a restart page, and whether the volume was clean then.
fn restart(page: &mut [u8]) -> Option<(u64, bool)> {
    fix_up_restart(page)?;
    let area = page.get(usize::from(u16_at(page, 0x18)?)..)?;
    let clean = u16_at(area, 12)? == NO_CLIENT || u16_at(area, 14)? & VOLUME_IS_CLEAN != 0;
    Some((u64_at(area, 0)?, clean))
}

/// A hibernated guest keeps in memory what is not on the disk.
pub(super) fn check_hibernation(first: Option<[u8; 4]>, notes: &mut Vec<String>) {
    if first.is_some_and(|first| matches!(&first, b"HIBR" | b"hibr")) {
        notes.push(
            "Windows is hibernated (or was shut down \"fast\"): what it keeps in memory is not on this volume".into(),
        );
    }
}
