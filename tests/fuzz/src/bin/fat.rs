//! A disk with FAT12, FAT16 or FAT32 on it: keeps to what `volume.rs` says of every file system, within 48 MiB.
#![no_main]

use fuzz::{Input, first_file, limited, walk_volume};
use guestfs::Fat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(disk) = first_file(Input::new(data)) else { return };
    limited(48 << 20, || walk_volume(disk, |disk| Ok(Box::new(Fat::open(disk)?))));
});
