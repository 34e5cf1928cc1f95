//! A chunk of XPRESS: its plain length (3 bytes), then the chunk. Never fails but with an error, and gives the same twice.
#![no_main]

use fuzz::unpacked_twice;
use guestfs::unpack::xpress;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    unpacked_twice(data, 0x1_0000, |chunk, out| xpress::decompress(chunk, out).map(|()| out.len()));
});
