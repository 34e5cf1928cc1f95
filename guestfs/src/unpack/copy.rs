//! What all formats of the LZ77 family do: repeat bytes that were written before.

/// The step of copies that may write some more than they have to, in bytes.
const STEP: usize = 16;

/// Repeats `len` bytes of `out`, from `distance` before `at` on, at `at`; what it writes may be what it reads. Answers where they
/// end. Bytes behind that may be written too: whoever calls this writes them later.
///
/// `None`, and nothing is written, if `distance` is 0 or passes the start of `out`, or if the end passes that of `out`.
#[inline]
pub(super) fn repeat(out: &mut [u8], at: usize, distance: usize, len: usize) -> Option<usize> {
    let from = at.checked_sub(distance)?;
    let end = at.checked_add(len).filter(|end| *end <= out.len() && distance != 0)?;
    if distance >= STEP && end.saturating_add(STEP) <= out.len() {
        let (mut from, mut to) = (from, at);
        loop {
            let step: [u8; STEP] = *out.get(from..)?.first_chunk()?;
            *out.get_mut(to..)?.first_chunk_mut()? = step;
            to = to.wrapping_add(STEP); // at most one step past `end`, and that is inside `out`
            from = from.wrapping_add(STEP);
            if to >= end {
                return Some(end);
            }
        }
    }
    repeat_exactly(out.get_mut(from..end)?, distance);
    Some(end)
}

/// Fills all but the first `distance` bytes with repetitions of those.
fn repeat_exactly(bytes: &mut [u8], distance: usize) {
    let mut ready = distance;
    while ready < bytes.len() {
        let (source, target) = bytes.split_at_mut(ready);
        let len = source.len().min(target.len());
        if let (Some(source), Some(target)) = (source.get(..len), target.get_mut(..len)) {
            target.copy_from_slice(source);
        }
        ready = ready.saturating_add(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_distance_and_length_repeats_as_byte_by_byte() {
        for distance in 1..40 {
            for len in 0..80 {
                for slack in [0, 5, 16, 40] {
                    let mut out: Vec<u8> = (1..=40).chain(vec![0; len + slack]).collect();
                    let mut expected = out.clone();
                    for at in 40..40 + len {
                        expected[at] = expected[at - distance];
                    }
                    assert_eq!(repeat(&mut out, 40, distance, len), Some(40 + len));
                    assert_eq!(out[..40 + len], expected[..40 + len], "distance {distance}, length {len}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_writes_nothing() {
        let mut out = [1, 2, 3, 0, 0, 0];
        for (at, distance, len) in [(3, 0, 2), (3, 4, 1), (3, 1, 4), (3, 1, usize::MAX), (usize::MAX, 1, 1)] {
            assert_eq!(repeat(&mut out, at, distance, len), None);
        }
        assert_eq!(out, [1, 2, 3, 0, 0, 0]);
    }
}
