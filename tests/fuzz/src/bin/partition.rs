//! A disk with a partition table at its head, and a copy at its tail: the reader neither panics nor hangs, within 8 MiB and a
//! bounded number of bytes; what it finds lies on the disk and does not overlap.
//!
//! ```text
//!   input = flags (1 byte) | one file
//!   flags = 1: the checksums of GPT headers are put right; 2: and those of their entries
//! ```
#![no_main]

use blockdev::{ByteOffset, ReadAt};
use fuzz::{File, Input, first_file, limited};
use guestfs::{DiskLayout, PartitionError, SectorSize, detect, volumes, volumes_with};
use libfuzzer_sys::fuzz_target;

/// Each of at most 256 partitions is looked at by 68 KiB; the two copies of a table have at most 1 MiB, and are tried in two
/// sector sizes.
const MOST_READ: u64 = (256 + 8) * (68 << 10) + 16 * (1 << 20);
const NO_DISK: &str = "the disk does not fail";

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let flags = input.number(1);
    let Some(mut disk) = first_file(input) else { return };
    seal(&mut disk, flags);
    limited(8 << 20, || look(&disk));
});

fn look(disk: &File) {
    for size in [None, Some(SectorSize::B512), Some(SectorSize::B4096)] {
        let before = disk.bytes_read();
        let layout = match size {
            None => volumes(disk),
            Some(size) => volumes_with(disk, size),
        };
        assert!(disk.bytes_read() - before <= MOST_READ, "{} bytes were read", disk.bytes_read() - before);
        match layout {
            Ok(layout) => sound(&layout, disk),
            Err(error) => {
                assert!(!matches!(error, PartitionError::Read { .. }), "{error:?}");
                assert!(!error.to_string().is_empty());
            }
        }
    }
}

fn sound(layout: &DiskLayout, disk: &File) {
    let mut places: Vec<_> = layout.volumes.iter().map(|volume| (volume.start.0, volume.len.0)).collect();
    places.sort_unstable();
    assert!(
        places.iter().all(|(start, len)| *len > 0 && start.checked_add(*len).is_some_and(|end| end <= disk.size().0))
    );
    assert!(places.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0), "{places:x?} overlap");
    for volume in layout.volumes.iter().take(8) {
        let window = volume.window(disk).expect("it lies on the disk");
        detect(&window).expect(NO_DISK);
    }
    for warning in &layout.warnings {
        assert!(!warning.to_string().is_empty());
    }
}

/// Puts checksums right where headers of a GPT may lie: a mutated one would end every try there.
fn seal(disk: &mut File, flags: u64) {
    let size = disk.size().0;
    for at in [512, 4096, size.wrapping_sub(512), size.wrapping_sub(4096)] {
        let mut header = [0; 92];
        if flags & 1 == 0
            || disk.read_exact_at(ByteOffset(at), &mut header).is_err()
            || !header.starts_with(b"EFI PART")
        {
            continue;
        }
        let number =
            |at: usize, len: usize| header[at..at + len].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let sector = if at == 512 || at == size.wrapping_sub(512) { 512 } else { 4096 };
        let (entries, len) = (number(0x48, 8).wrapping_mul(sector), number(0x50, 4).saturating_mul(number(0x54, 4)));
        if flags & 2 != 0 && len <= 1 << 20 {
            let mut array = vec![0; len as usize];
            if disk.read_exact_at(ByteOffset(entries), &mut array).is_ok() {
                header[0x58..0x5c].copy_from_slice(&crc32(&array).to_le_bytes());
            }
        }
        header[0x10..0x14].fill(0);
        let crc = crc32(&header);
        header[0x10..0x14].copy_from_slice(&crc.to_le_bytes());
        disk.put(at + 0x10, header[0x10..0x14].to_vec());
        disk.put(at + 0x58, header[0x58..].to_vec());
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    libdeflater::crc32(bytes)
}
