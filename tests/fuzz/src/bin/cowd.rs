//! A redo log of ESX (COWD), alone, several of them, or over a parent: keeps to what `walk.rs` says of every image, within 48 MiB
//! (of which the image's caches take 12).
#![no_main]

use fuzz::{Dialect, disk, examine, limited};
use libfuzzer_sys::fuzz_target;
use vmdk_rs::{CreateType, ExtentType};

const DIALECT: Dialect = Dialect { create_type: CreateType::VmfsSparse, extent: ExtentType::VmfsSparse };

fuzz_target!(|data: &[u8]| {
    let files = disk(data, &DIALECT);
    limited(48 << 20, || _ = examine(&files));
});
