//! A space-efficient sparse extent, alone, several of them, or over a parent: keeps to what `walk.rs` says of every image, within 48 MiB
//! (of which the image's caches take 12).
#![no_main]

use fuzz::{Dialect, disk, examine, limited};
use libfuzzer_sys::fuzz_target;
use vmdk_rs::{CreateType, ExtentType};

const DIALECT: Dialect = Dialect { create_type: CreateType::SeSparse, extent: ExtentType::SeSparse };

fuzz_target!(|data: &[u8]| {
    let files = disk(data, &DIALECT);
    limited(48 << 20, || _ = examine(&files));
});
