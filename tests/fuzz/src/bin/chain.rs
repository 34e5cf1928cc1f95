//! Disks over disks, of any dialect, by names that the image chooses, also its own: keeps to what `walk.rs` says of every
//! image, within 48 MiB. The first byte of the input says what names mean that are none of its files'.
#![no_main]

use fuzz::{Files, Input, Naming, examine, limited};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let naming = if input.number(1) & 1 == 0 { Naming::Strict } else { Naming::InOrder };
    let files = Files::new(input.packed_files(), naming, data.len());
    limited(48 << 20, || _ = examine(&files));
});
