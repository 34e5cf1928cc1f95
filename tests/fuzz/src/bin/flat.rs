//! A descriptor, mutated as text, that names flat files: keeps to what `walk.rs` says of every image, within 48 MiB.
//! The first file of the input is the descriptor, the others are served for whatever names it asks for.
#![no_main]

use fuzz::{Files, Input, Naming, examine, limited};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let files = Files::new(Input::new(data).files(), Naming::InOrder, data.len());
    limited(48 << 20, || _ = examine(&files));
});
