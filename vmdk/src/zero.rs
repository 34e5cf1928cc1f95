/// Whether every byte is 0. An empty slice is.
///
/// Reads eight 128-bit lanes at a time and stops at the first block that is not zero.
#[must_use]
pub fn is_zero(data: &[u8]) -> bool {
    let (blocks, tail) = data.as_chunks::<128>();
    blocks.iter().all(block_is_zero) && tail.iter().all(|byte| *byte == 0)
}

fn block_is_zero(block: &[u8; 128]) -> bool {
    let (lanes, _) = block.as_chunks::<16>();
    lanes.iter().fold(0, |all, lane| all | u128::from_ne_bytes(*lane)) == 0
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn one_set_bit_at_any_place_is_found_at_any_length() {
        for len in [0, 1, 15, 16, 127, 128, 129, 300] {
            let mut data = vec![0; len];
            assert!(is_zero(&data), "{len}");
            for at in 0..len {
                data[at] = 0x80;
                assert!(!is_zero(&data), "{at} of {len}");
                data[at] = 0;
            }
        }
    }
}
