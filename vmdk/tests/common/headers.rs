//! Descriptors and headers of every dialect, each valid until a test breaks one field.
#![allow(dead_code, clippy::unwrap_used, reason = "each test program uses a part, and all of it is test code")]

/// The text of a descriptor without a parent.
pub(crate) fn descriptor(create_type: &str, extents: &str) -> String {
    format!("version=1\nCID=1\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n{extents}\n")
}

/// The text of a delta to content 1.
pub(crate) fn delta(hint: &str, extents: &str) -> String {
    descriptor("custom", extents).replace("ffffffff", &format!("1\nparentFileNameHint=\"{hint}\""))
}

/// Writes little-endian numbers: (byte, width, value).
pub(crate) fn put(file: &mut [u8], numbers: &[(usize, usize, u64)]) {
    for (at, width, value) in numbers {
        file[*at..*at + *width].copy_from_slice(&value.to_le_bytes()[..*width]);
    }
}

/// A hosted sparse header: grains of 8 sectors, tables of 512 entries, the directory in sector `gd`.
pub(crate) fn hosted(capacity: u64, gd: u64) -> Vec<u8> {
    let mut file = vec![0; 512];
    file[..4].copy_from_slice(b"KDMV");
    put(&mut file, &[(4, 4, 1), (8, 4, 1), (0x0c, 8, capacity), (0x14, 8, 8), (0x2c, 4, 512), (0x38, 8, gd)]);
    file[0x49..0x4d].copy_from_slice(b"\n \r\n");
    file
}

/// The same with a descriptor inside, in sectors 1 and 2; the directory is in sector 3 or behind.
pub(crate) fn embedded(capacity: u64, gd: u64, text: &str) -> Vec<u8> {
    let mut file = hosted(capacity, gd);
    put(&mut file, &[(0x1c, 8, 1), (0x24, 8, 2)]);
    file.extend(text.as_bytes());
    assert!(file.len() <= 3 * 512);
    file.resize(4 * 512, 0);
    file
}

/// A stream of compressed grains of `grain` sectors, which are at the given sectors; the directory is in sector 1, a table
/// in sectors 2 to 5.
pub(crate) fn stream(capacity: u64, grain: u64, grains: &[u32]) -> Vec<u8> {
    let mut file = hosted(capacity, 1);
    put(&mut file, &[(4, 4, 3), (8, 4, 0x3_0001), (0x14, 8, grain), (0x4d, 2, 1)]);
    file.resize(6 * 512, 0);
    put(&mut file, &[(512, 4, 2)]);
    for (number, sector) in grains.iter().enumerate() {
        put(&mut file, &[(1024 + number * 4, 4, (*sector).into())]);
    }
    file
}

/// A compressed grain with its marker, padded to a sector. `size` is what the marker says.
pub(crate) fn grain(sector: u64, size: u32, zlib: &[u8]) -> Vec<u8> {
    let mut all = [&sector.to_le_bytes()[..], &size.to_le_bytes(), zlib].concat();
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

/// `len` zeros as zlib data.
pub(crate) fn packed_zeros(len: usize) -> Vec<u8> {
    let mut tool = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut zlib = vec![0; tool.zlib_compress_bound(len)];
    let size = tool.zlib_compress(&vec![0; len], &mut zlib).unwrap();
    zlib.truncate(size);
    zlib
}

/// A COWD header with grains of 1 sector, the directory in sector 4.
pub(crate) fn cowd(capacity: u32) -> Vec<u8> {
    let mut file = vec![0; 2048];
    file[..4].copy_from_slice(b"COWD");
    let tables = capacity.div_ceil(4096);
    put(
        &mut file,
        &[(4, 4, 1), (8, 4, 3), (0x0c, 4, capacity.into()), (0x10, 4, 1), (0x14, 4, 4), (0x18, 4, tables.into())],
    );
    file
}

/// A space-efficient header: its areas begin at (sector, sectors) 8.. one behind the other, grains at 1 << 40.
pub(crate) fn sesparse(capacity: u64) -> Vec<u8> {
    let mut file = vec![0; 1024];
    let tables = capacity.div_ceil(8 * 4096);
    put(&mut file, &[(0, 8, 0xcafe_babe), (8, 8, 0x2_0000_0001), (0x10, 8, capacity), (0x18, 8, 8), (0x20, 8, 64)]);
    put(&mut file, &[(0x50, 8, 1), (0x58, 8, 1), (0x80, 8, 8), (0x88, 8, tables.div_ceil(64))]);
    put(
        &mut file,
        &[(0x90, 8, 1 << 32), (0x98, 8, tables * 64), (0xc0, 8, 1 << 40), (0xc8, 8, capacity.saturating_add(8))],
    );
    put(&mut file, &[(512, 8, 0xcafe_cafe)]);
    file
}
