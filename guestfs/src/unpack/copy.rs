//! What all formats of the LZ77 family do: repeat bytes that were written before.

/// The longest step of copies, in bytes. Each may write some more than it has to.
const STEP: usize = 16;
/// The step where distances are shorter.
const SHORT_STEP: usize = 8;

/// Repeats `len` bytes of `out`, from `distance` before `at` on, at `at`; what it writes may be what it reads. Answers where they
/// end. Bytes behind that may be written too: whoever calls this writes them later.
///
/// `None`, and nothing is written, if `distance` is 0 or passes the start of `out`, or if the end passes that of `out`.
#[inline(always)]
pub(super) fn repeat(out: &mut [u8], at: usize, distance: usize, len: usize) -> Option<usize> {
    let from = at.checked_sub(distance)?;
    let end = at.checked_add(len).filter(|end| *end <= out.len() && distance != 0)?;
    if end.saturating_add(STEP) > out.len() {
        repeat_exactly(out.get_mut(from..end)?, distance);
    } else if distance >= STEP {
        repeat_in_steps::<STEP>(out, from, at, end);
    } else if distance >= SHORT_STEP {
        repeat_in_steps::<SHORT_STEP>(out, from, at, end);
    } else {
        repeat_closely(out, at, distance, end);
    }
    Some(end)
}

/// Copies from `from` to `to` in steps of `N` bytes until `end` is reached. The distance is `N` at least, and `N` bytes behind `end`
/// are inside `out`.
#[inline(always)]
fn repeat_in_steps<const N: usize>(out: &mut [u8], mut from: usize, mut to: usize, end: usize) {
    while to < end {
        let Some(step) = out.get(from..).and_then(|rest| rest.first_chunk::<N>()).copied() else { return };
        let Some(target) = out.get_mut(to..).and_then(|rest| rest.first_chunk_mut()) else { return };
        *target = step;
        (from, to) = (from.wrapping_add(N), to.wrapping_add(N)); // inside `out`, as said above
    }
}

/// Repeats fewer than [`SHORT_STEP`] bytes.
fn repeat_closely(out: &mut [u8], at: usize, distance: usize, end: usize) {
    let far = at.saturating_add(SHORT_STEP);
    for to in at..far {
        let Some(byte) = out.get(to.wrapping_sub(distance)).copied() else { return };
        if let Some(target) = out.get_mut(to) {
            *target = byte;
        }
    }
    // At a multiple of the distance the bytes are the same. The first that is no shorter than a step begins among those before `at`.
    let multiple = SHORT_STEP.next_multiple_of(distance.max(1));
    repeat_in_steps::<SHORT_STEP>(out, far.wrapping_sub(multiple), far, end);
}

/// Fills all but the first `distance` bytes with repetitions of those, and writes nothing else.
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
