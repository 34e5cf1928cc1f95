//! A chunk of LZX: its plain length (3 bytes), then the chunk. Never fails but with an error, and gives the same twice.
#![no_main]

use fuzz::unpacked_twice;
use guestfs::unpack::lzx;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    unpacked_twice(data, 0x8001, |chunk, out| lzx::decompress(chunk, out).map(|_| out.len()));
});
