//! A disk with exFAT on it: keeps to what `volume.rs` says of every file system, within 48 MiB. If the first byte is even, the
//! checksums of entry sets are made right first, for they would keep all mutations out.
#![no_main]

use fuzz::{Input, first_file, limited, walk_volume};
use guestfs::ExFat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let sealed = input.number(1) & 1 == 0;
    let Some(mut disk) = first_file(input) else { return };
    if sealed {
        disk.segments_mut().for_each(seal);
    }
    limited(48 << 20, || walk_volume(disk, |disk| Ok(Box::new(ExFat::open(disk)?))));
});

/// Makes the checksums of the entry sets right that begin in a segment and end there too.
fn seal(segment: &mut [u8]) {
    for at in (0..segment.len() / 32).map(|slot| slot * 32) {
        let len = 32 * (1 + usize::from(segment[at + 1]));
        let Some(set) = segment.get_mut(at..at + len).filter(|set| set[0] == 0x85) else { continue };
        let counted = set.iter().enumerate().filter(|(at, _)| !(2..4).contains(at));
        let sum = counted.fold(0u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
        set[2..4].copy_from_slice(&sum.to_le_bytes());
    }
}
