//! Compressed grains, packed here: a mutated checksum would keep all but the first mutation from being unpacked.
//!
//! ```text
//!   packed = sector of the disk (8 bytes) | plain length (3) | added to the size in the marker (4) | level (1) | pattern
//! ```
//!
//! The plain bytes are the pattern again and again, of zeros if it is empty.

use libdeflater::{CompressionLvl, Compressor};

use crate::Input;

/// The longest plain data: some more than the largest grain that is read.
const MAX_PLAIN: u64 = (2 << 20) + 1000;

/// The marker and the compressed data, and the length of the plain data.
pub(crate) fn pack(bytes: &[u8]) -> (Vec<u8>, u64) {
    let mut input = Input::new(bytes);
    let (sector, len, more, level) = (input.number(8), input.number(3), input.number(4) as u32, input.number(1));
    let len = len.min(MAX_PLAIN);
    let pattern = match input.rest() {
        [] => &[0],
        pattern => pattern,
    };
    let mut plain = pattern.repeat((len as usize).div_ceil(pattern.len()));
    plain.truncate(len as usize);
    let level = CompressionLvl::new([0, 1, 6][level as usize % 3]).expect("libdeflate has these levels");
    let mut compressor = Compressor::new(level);
    let mut zlib = vec![0; compressor.zlib_compress_bound(plain.len())];
    let size = compressor.zlib_compress(&plain, &mut zlib).expect("the bound is enough");
    let mut all = sector.to_le_bytes().to_vec();
    all.extend((size as u32).wrapping_add(more).to_le_bytes());
    all.extend(&zlib[..size]);
    (all, len)
}
