//! LZNT1: the length of the buffer (3 bytes), then the data. Never fails but with an error, gives the same twice, and what it says is
//! unpacked is not more than there is room for, with zeros behind.
#![no_main]

use fuzz::unpacked_twice;
use guestfs::unpack::lznt1;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((out, len)) = unpacked_twice(data, 0x2_0000, lznt1::decompress) {
        assert!(out[len..].iter().all(|byte| *byte == 0), "bytes behind the end");
    }
});
