//! What every decompressor must keep to.

use std::fmt::Debug;

use crate::{Input, limited};

/// Unpacks `data`, the plain length (3 bytes, modulo one more than `most`) before the packed bytes, twice. Both must end alike, whatever the buffer held before,
/// and need no more than a mebibyte. Answers the buffer, and how much of it was filled; `None` if that was an error both times.
pub fn unpacked_twice<E: Debug + PartialEq>(
    data: &[u8],
    most: usize,
    unpack: impl Fn(&[u8], &mut [u8]) -> Result<usize, E>,
) -> Option<(Vec<u8>, usize)> {
    let mut input = Input::new(data);
    let len = input.number(3) as usize % (most + 1);
    let packed = input.rest();
    let (mut first, mut second) = (vec![0x55; len], vec![0xaa; len]);
    let mut results = (Ok(0), Ok(0));
    limited(1 << 20, || results = (unpack(packed, &mut first), unpack(packed, &mut second)));
    assert_eq!(results.0, results.1);
    let len = results.0.ok()?;
    assert!(len <= first.len(), "more than there is room for");
    assert!(first == second, "what is unpacked depends on what was there before");
    Some((first, len))
}
