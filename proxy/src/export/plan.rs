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
    joined(spans)
}

/// Sorted spans, those joined that touch or overlap.
fn joined(spans: impl IntoIterator<Item = Span>) -> Vec<Span> {
    let mut joined: Vec<Span> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => joined.push(span),
        }
    }
    joined
}

/// What is read of what changed: in whole pages, which every source has, and never more.
const PAGE: u64 = 4096;

/// Changed spans in whole pages, sorted, apart and inside the disk, whatever order they came in.
pub(super) fn whole_pages(changed: &[Span], capacity: u64) -> Vec<Span> {
    let inside = changed.iter().filter(|span| span.start < span.end && span.start < capacity);
    let whole = |span: &Span| {
        let end = span.end.min(capacity).next_multiple_of(PAGE).min(capacity);
        span.start / PAGE * PAGE..end
    };
    let mut spans: Vec<Span> = inside.map(whole).collect();
    spans.sort_by_key(|span| span.start);
    joined(spans)
}

/// A block of which something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The block's number.
    pub(super) index: u64,
    /// What changed of it: one span at least.
    pub(super) spans: Vec<Span>,
}

/// The blocks that `changed` touches, in order. They are made one at a time: a disk has many.
pub(super) fn units(changed: &[Span], capacity: u64) -> impl Iterator<Item = Unit> + '_ {
    let (mut number, mut at) = (0, 0);
    std::iter::from_fn(move || {
        let first = changed.get(number)?;
        at = at.max(first.start);
        let index = at / BLOCK;
        let end = ((index + 1) * BLOCK).min(capacity);
        let mut spans = Vec::new();
        while let Some(span) = changed.get(number).filter(|span| span.start < end) {
            spans.push(at.max(span.start)..span.end.min(end));
            at = span.end.min(end);
            if span.end > end {
                break; // goes on in the next block
            }
            number += 1;
        }
        Some(Unit { index, spans })
    })
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
    fn changed_spans_grow_to_pages_and_no_further() {
        let changed = [9 * PAGE + 5..9 * PAGE + 6, PAGE - 1..PAGE + 1, 3 * PAGE..3 * PAGE, 2 * PAGE..3 * PAGE];
        assert_eq!(whole_pages(&changed, 100 * PAGE), [0..3 * PAGE, 9 * PAGE..10 * PAGE]);
        assert_eq!(whole_pages(&changed, 9 * PAGE + 512), [0..3 * PAGE, 9 * PAGE..9 * PAGE + 512]);
        assert!(whole_pages(&changed, 0).is_empty() && whole_pages(&changed[..1], 5).is_empty());
    }

    #[test]
    fn units_are_the_touched_blocks_in_order_and_their_spans_are_the_changed_ones() {
        let capacity = 7 * MIB + 512;
        let changed = [0..PAGE, 2 * PAGE..3 * PAGE, MIB - PAGE..3 * MIB + PAGE, 5 * MIB..6 * MIB, 7 * MIB..capacity];
        let units: Vec<_> = units(&changed, capacity).collect();
        let indices: Vec<_> = units.iter().map(|unit| unit.index).collect();
        assert_eq!(indices, [0, 1, 2, 3, 5, 7]);
        assert_eq!(units[0].spans, [0..PAGE, 2 * PAGE..3 * PAGE, MIB - PAGE..MIB]);
        let spans: Vec<Span> = units.into_iter().flat_map(|unit| unit.spans).collect();
        assert_eq!(joined(spans), changed);
        assert_eq!(super::units(&[], capacity).count(), 0);
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
