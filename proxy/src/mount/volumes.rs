//! Disks → the volumes on them.

use std::sync::Arc;

use blockdev::{ByteLen, ReadAt};
use guestfs::{Cache, CachedDisk, FileSystem, Origin, TableKind, VolumeToLetter};

use super::errors::whole_text;
use super::guest::{Guest, GuestVolume, Letter};
use crate::error::{Error, Family, Result};

/// Memory for what describes files, of all volumes of a mount together.
pub const CACHE: ByteLen = ByteLen(8 << 20);

/// Finds the volumes of all disks, in their order, opens those that can be read, and asks the guest what it calls them. What is damaged is a
/// note, and no failure.
#[must_use]
pub fn open(disks: Vec<(String, Arc<dyn ReadAt>)>, cache: &Arc<Cache>) -> Guest {
    let mut guest = Guest::default();
    let mut found = Vec::new();
    for (name, disk) in disks {
        let cached = CachedDisk::new(Arc::clone(&disk), Arc::clone(cache));
        let layout = match guestfs::volumes(&cached) {
            Ok(layout) => layout,
            Err(error) => {
                guest.lost_table = true;
                guest.notes.push(format!("{name}: no partition can be found: {}", whole_text(&error)));
                continue;
            }
        };
        let warnings = layout.warnings.iter().map(|warning| format!("{name}: {}", whole_text(warning)));
        guest.notes.extend(warnings);
        for volume in layout.volumes {
            let number = u32::try_from(guest.volumes.len()).unwrap_or(u32::MAX).saturating_add(1);
            guest.volumes.push(GuestVolume {
                number,
                disk: name.clone(),
                partition: (layout.table != TableKind::None).then_some(volume.index),
                kind: volume.kind,
                size: volume.len,
                guids: volume.guid.into_iter().collect(),
                content: open_one(&volume, &disk, cache),
            });
            found.push((layout.table, volume));
        }
    }
    name_volumes(&mut guest, &found);
    guest
}

fn open_one(
    volume: &guestfs::Volume,
    disk: &Arc<dyn ReadAt>,
    cache: &Arc<Cache>,
) -> std::result::Result<Arc<dyn FileSystem>, String> {
    let window = volume.window(Arc::clone(disk)).map_err(|e| whole_text(&e))?;
    let cached = Arc::new(CachedDisk::new(Arc::new(window), Arc::clone(cache)));
    guestfs::open_volume(volume.kind, cached).map_err(|e| whole_text(&e))
}

/// Gives the volumes the letters and GUIDs by which the guest knows them. `found` is where each lies, in their order.
fn name_volumes(guest: &mut Guest, found: &[(TableKind, guestfs::Volume)]) {
    let readable = guest.volumes.iter().map(|volume| volume.content.as_deref().ok());
    let asked: Vec<VolumeToLetter<'_>> = found
        .iter()
        .zip(readable)
        .map(|((table, volume), files)| VolumeToLetter {
            table: *table,
            table_type: volume.table_type,
            start: volume.start,
            guid: volume.guid,
            kind: volume.kind,
            files,
        })
        .collect();
    let named = guestfs::letters(&asked);
    guest.notes.extend(named.notes);
    for (volume, letter) in guest.volumes.iter().zip(named.letters) {
        if let Some(guestfs::Letter { letter, origin }) = letter {
            let source = match origin {
                Origin::Hive { volume, path } => format!("from the registry on volume {}: {path}", volume + 1),
                Origin::Assumed => "assumed: the guest has no registry that says it".to_owned(),
            };
            guest.letters.insert(letter, Letter { volume: volume.number, source });
        }
    }
    for (guid, index) in named.guids {
        if let Some(volume) = guest.volumes.get_mut(index) {
            volume.guids.push(guid);
        }
    }
}

/// Something can be read; else it is an error that says why nothing can.
///
/// # Errors
/// [`Family::Unsupported`] if there is no reader for any of the volumes, else [`Family::Corrupt`].
pub fn readable(guest: Guest) -> Result<Guest> {
    if guest.readable().next().is_some() {
        return Ok(guest);
    }
    let volumes = guest.volumes.iter().filter_map(|volume| {
        let why = volume.content.as_ref().err()?;
        Some(format!("volume {} of {} ({} of {}): {why}", volume.number, volume.disk, volume.kind, volume.size))
    });
    let mut reasons: Vec<_> = guest.notes.iter().cloned().chain(volumes).collect();
    if reasons.is_empty() {
        reasons.push("there is no volume".into());
    }
    let known = guest.volumes.iter().any(|volume| guestfs::is_readable(volume.kind));
    let unknown = !known && !guest.lost_table && !guest.volumes.is_empty();
    let family = if unknown { Family::Unsupported } else { Family::Corrupt };
    Err(Error::new(family, format!("no volume can be read: {}", reasons.join("; "))))
}

#[cfg(test)]
mod tests {
    use blockdev::{ByteOffset, MemDisk};

    use super::*;

    /// An MBR with partitions in the slots that `starts` names, of 64 sectors each.
    fn disk(starts: &[(usize, u32)]) -> Arc<dyn ReadAt> {
        let mut bytes = vec![0; 1 << 20];
        for (slot, start) in starts {
            let at = 446 + slot * 16;
            bytes[at + 4] = 0x83;
            bytes[at + 8..][..4].copy_from_slice(&start.to_le_bytes());
            bytes[at + 12..][..4].copy_from_slice(&64u32.to_le_bytes());
            let first = usize::try_from(*start).unwrap() * 512;
            bytes[first..][..4].copy_from_slice(b"XFSB");
        }
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        Arc::new(MemDisk::new(bytes))
    }

    struct Dead;
    impl ReadAt for Dead {
        fn size(&self) -> ByteLen {
            ByteLen(1 << 20)
        }
        fn read_exact_at(&self, at: ByteOffset, _: &mut [u8]) -> std::result::Result<(), blockdev::ReadError> {
            Err(blockdev::ReadError::Io { at, source: std::io::Error::other("no light on path") })
        }
    }

    #[test]
    fn numbers_run_over_all_disks_and_what_cannot_be_read_is_named() {
        let disks: Vec<(String, Arc<dyn ReadAt>)> = vec![
            ("a.vmdk".into(), disk(&[(0, 128), (2, 512)])),
            ("dead.vmdk".into(), Arc::new(Dead)),
            ("b.vmdk".into(), disk(&[(1, 128)])),
        ];
        let guest = open(disks, &Cache::new(CACHE));
        let found: Vec<_> = guest.volumes.iter().map(|v| (v.number, v.disk.as_str(), v.partition)).collect();
        assert_eq!(found, [(1, "a.vmdk", Some(1)), (2, "a.vmdk", Some(3)), (3, "b.vmdk", Some(2))]);
        assert!(guest.notes[0].starts_with("dead.vmdk: ") && guest.notes[0].contains("no light on path"));
        let error = readable(guest).map(|_| ()).unwrap_err();
        assert_eq!(error.family(), Family::Corrupt);
        let line = error.line();
        assert!(line.contains("dead.vmdk") && line.contains("volume 3 of b.vmdk (XFS of 32 KiB)"), "{line}");
    }
}
