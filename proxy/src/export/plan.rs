//! Which spans of a disk are read, and which samples of the rest are looked at.

use crate::transport::Span;

use super::digest::BLOCK;

/// How much of what the host calls unused is looked at all the same.
pub(super) const SAMPLES: u64 = 16;
/// The size of a sample, in bytes.
pub(super) const SAMPLE: u64 = 64 << 10;

/// The spans to read, in whole blocks: all that holds `allocated`, and always the first and the last block, where partition tables are.
pub(super) fn spans_to_read(allocated: &[Span], capacity: u64) -> Vec<Span> {
    let last_block = capacity.saturating_sub(1) / BLOCK * BLOCK;
    let edges = [0..BLOCK.min(capacity), last_block..capacity];
    let mut spans: Vec<Span> = allocated
        .iter()
        .cloned()
        .chain(edges)
        .filter(|span| span.start < span.end && span.start < capacity)
        .map(|span| span.start / BLOCK * BLOCK..span.end.next_multiple_of(BLOCK).min(capacity))
        .collect();
    spans.sort_by_key(|span| span.start);
    let mut joined: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => joined.push(span),
        }
    }
    joined
}

/// What lies between `spans`.
fn gaps(spans: &[Span], capacity: u64) -> Vec<Span> {
    let starts = std::iter::once(0).chain(spans.iter().map(|span| span.end));
    let ends = spans.iter().map(|span| span.start).chain(std::iter::once(capacity));
    starts.zip(ends).filter(|(start, end)| start < end).map(|(start, end)| start..end).collect()
}

/// Places in the gaps, spread over them by their size; `seed` decides which.
pub(super) fn samples(spans: &[Span], capacity: u64, seed: &[u8]) -> Vec<Span> {
    let gaps = gaps(spans, capacity);
    let total: u64 = gaps.iter().map(|gap| gap.end - gap.start).sum();
    if total == 0 {
        return Vec::new();
    }
    let mut random = blake3::Hasher::new().update(seed).finalize_xof();
    let mut pick = || {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        let mut left = u64::from_le_bytes(bytes) % total;
        let gap = gaps.iter().find(|gap| {
            let len = gap.end - gap.start;
            let here = left < len;
            if !here {
                left -= len;
            }
            here
        })?;
        let start = (gap.start + left) / SAMPLE * SAMPLE;
        let start = start.max(gap.start);
        Some(start..(start + SAMPLE).min(gap.end))
    };
    (0..SAMPLES).filter_map(|_| pick()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn spans_grow_to_blocks_join_and_keep_both_ends_of_the_disk() {
        let allocated = [2 * MIB + 5..2 * MIB + 6, 3 * MIB..3 * MIB + 1, 7 * MIB..7 * MIB];
        let spans = spans_to_read(&allocated, 10 * MIB + 512);
        assert_eq!(spans, [0..MIB, 2 * MIB..4 * MIB, 10 * MIB..10 * MIB + 512]);
    }

    #[test]
    fn a_disk_smaller_than_a_block_is_read_whole() {
        assert_eq!(spans_to_read(&[], 512).as_slice(), std::slice::from_ref(&(0..512)));
        assert!(spans_to_read(&[], 0).is_empty());
    }

    #[test]
    fn spans_beyond_the_disk_are_cut() {
        let spans = spans_to_read(&[0..u64::MAX / 2, 9 * MIB..10 * MIB], 2 * MIB);
        assert_eq!(spans.as_slice(), std::slice::from_ref(&(0..2 * MIB)));
    }

    #[test]
    fn samples_lie_in_the_gaps_only() {
        let spans = [0..MIB, 5 * MIB..6 * MIB];
        let samples = samples(&spans, 8 * MIB + 100, b"seed");
        assert_eq!(samples.len() as u64, SAMPLES);
        for sample in samples {
            assert!(sample.start < sample.end && sample.end <= 8 * MIB + 100);
            assert!(spans.iter().all(|span| sample.end <= span.start || sample.start >= span.end), "{sample:?}");
        }
    }
}
