//! Which parts of a file are taken, in a bounded number of bits: a large file is looked at in several windows.

use crate::convert::{div_rem, div_up, to_usize};

/// Units of one window: 16 MiB of bits.
const WINDOW: u64 = 1 << 27;

/// A part of a file, in units of a fixed size.
pub(super) struct Usage {
    /// The first byte of unit 0.
    base: u64,
    /// The size of a unit, in bytes.
    unit: u64,
    /// The first unit of the window, and the one behind its last.
    from: u64,
    to: u64,
    bits: Vec<u64>,
}

/// What of a file is to be looked at.
#[derive(Clone, Copy)]
pub(super) struct Area {
    /// The first byte.
    pub(super) base: u64,
    /// The size of a unit, in bytes.
    pub(super) unit: u64,
    /// The number of units.
    pub(super) count: u64,
}

impl Area {
    /// One usage for each window.
    pub(super) fn windows(self) -> impl Iterator<Item = Usage> {
        let count = div_up(self.count, WINDOW).max(1);
        (0..count).map(move |number| {
            let from = number.saturating_mul(WINDOW);
            let to = from.saturating_add(WINDOW).min(self.count).max(from);
            let words = to_usize(div_up(to.saturating_sub(from), 64));
            Usage { base: self.base, unit: self.unit, from, to, bits: vec![0; words] }
        })
    }
}

impl Usage {
    /// Whether this is the first window, in which everything that needs one look is looked at.
    pub(super) const fn is_first(&self) -> bool {
        self.from == 0
    }

    /// Takes a range of bytes; false if a part of it was taken before. What lies outside the window is not looked at.
    pub(super) fn take(&mut self, start: u64, len: u64) -> bool {
        let end = start.saturating_add(len).saturating_sub(self.base);
        let first = div_rem(start.saturating_sub(self.base), self.unit).0.max(self.from);
        let last = div_up(end, self.unit).min(self.to);
        let mut free = true;
        let mut unit = first;
        while unit < last {
            let (word, bit) = div_rem(unit.saturating_sub(self.from), 64);
            let count = last.saturating_sub(unit).min(64u64.saturating_sub(bit)); // of this word
            if let Some(word) = self.bits.get_mut(to_usize(word)) {
                let mask = mask(bit, count);
                free &= *word & mask == 0;
                *word |= mask;
            }
            unit = unit.saturating_add(count);
        }
        free
    }

    /// How many pieces of `piece` units there are in a range of bytes, in the runs of units that nobody took.
    pub(super) fn free_in(&self, (start, end): (u64, u64), piece: u64) -> u64 {
        let (mut pieces, mut run) = (0u64, 0u64);
        let mut unit = div_up(start.saturating_sub(self.base), self.unit).max(self.from);
        let to = div_rem(end.saturating_sub(self.base), self.unit).0.min(self.to);
        while unit < to {
            let (word, bit) = div_rem(unit.saturating_sub(self.from), 64);
            let bits = self.bits.get(to_usize(word)).copied().unwrap_or(u64::MAX);
            // A whole word at once where it is all free or all taken.
            let whole = bit == 0 && to.saturating_sub(unit) >= 64 && (bits == 0 || bits == u64::MAX);
            let step = if whole { 64 } else { 1 };
            if bits & mask(bit, 1) == 0 {
                run = run.saturating_add(step);
            } else {
                pieces = pieces.saturating_add(div_rem(run, piece).0);
                run = 0;
            }
            unit = unit.saturating_add(step);
        }
        pieces.saturating_add(div_rem(run, piece).0)
    }
}

/// `count` bits from bit `from` of a word on.
fn mask(from: u64, count: u64) -> u64 {
    let all = u64::MAX.wrapping_shr(u32::try_from(64u64.saturating_sub(count)).unwrap_or(0));
    if count == 0 { 0 } else { all.wrapping_shl(u32::try_from(from).unwrap_or(0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_twice_is_seen_and_what_is_free_is_counted() {
        let mut usage = Area { base: 1000, unit: 512, count: 1000 }.windows().next().unwrap();
        assert!(usage.take(1000, 512) && usage.take(1512, 1));
        assert!(!usage.take(1513, 1));
        assert!(usage.take(1000 + 100 * 512, 200 * 512));
        assert!(!usage.take(1000 + 299 * 512, 512));
        assert!(usage.take(1000 + 300 * 512, 512));
        assert_eq!(usage.free_in((1000, u64::MAX), 1), 1000 - 2 - 201);
        assert_eq!(usage.free_in((1000 + 64 * 512, u64::MAX), 1), 1000 - 64 - 201);
        assert_eq!(usage.free_in((1000 + 999 * 512, u64::MAX), 1), 1);
        assert_eq!(usage.free_in((1000 + 990 * 512, 1000 + 993 * 512 + 1), 1), 3);
        assert!(usage.take(u64::MAX - 5, u64::MAX)); // outside
        let free = usage.free_in((1000, u64::MAX), 97);
        assert_eq!(free, 98 / 97 + (1000 - 301) / 97); // each run by itself
    }

    #[test]
    fn a_large_area_is_looked_at_in_windows() {
        let mut windows: Vec<_> = Area { base: 0, unit: 512, count: WINDOW + 10 }.windows().collect();
        assert_eq!(windows.len(), 2);
        let across = (WINDOW - 1) * 512;
        assert!(windows.iter_mut().all(|window| window.take(across, 1024)));
        assert!(windows.iter_mut().all(|window| !window.take(across, 1024)));
        assert_eq!((windows[0].free_in((0, u64::MAX), 1), windows[1].free_in((0, u64::MAX), 1)), (WINDOW - 1, 9));
        assert!(windows[0].is_first() && !windows[1].is_first());
    }
}
