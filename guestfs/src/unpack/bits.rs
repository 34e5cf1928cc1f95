//! The bit stream of XPRESS and LZX: little-endian units of 16 bits, the topmost bit of each first.

/// The rest of a bit stream. Behind the end of the input there are zeros; [`is_overrun`](Self::is_overrun) tells whether any were
/// taken.
pub(super) struct Bits<'a> {
    input: &'a [u8],
    /// The first byte that is not in `buffer`; behind the end of the input it goes on counting.
    at: usize,
    /// The next bits, topmost first. Behind the first `left` there may be some of what follows.
    buffer: u64,
    left: u32,
    /// Units of zeros that were taken for what is missing behind the end.
    missing: u32,
}

/// The least number of bits that are there after [`Bits::refill`].
pub(super) const REFILLED: u32 = 49;
/// The bits of a unit.
const UNIT: u32 = 16;
/// The bytes of a unit.
const UNIT_LEN: usize = 2;

impl<'a> Bits<'a> {
    /// The bits of `input` from byte `at` on.
    pub(super) const fn new(input: &'a [u8], at: usize) -> Self {
        Self { input, at, buffer: 0, left: 0, missing: 0 }
    }

    /// Makes sure that at least `bits` are there, at most [`REFILLED`].
    #[inline(always)]
    pub(super) fn need(&mut self, bits: u32) {
        if self.left < bits {
            self.refill();
        }
    }

    /// Fills the buffer to at least [`REFILLED`] bits. At most 48 are there before.
    #[inline(always)]
    fn refill(&mut self) {
        let Some(bytes) = self.input.get(self.at..).and_then(|rest| rest.first_chunk()) else {
            self.refill_at_the_end();
            return;
        };
        let units = u64::from_le_bytes(*bytes);
        // the first unit is the lowest: turn the order of the four around
        let halves = units.rotate_left(32);
        let units = (halves & 0x0000_ffff_0000_ffff) << 16 | (halves >> 16) & 0x0000_ffff_0000_ffff;
        // Bits of a unit that does not fit as a whole are set, too: they come again with the next refill, and are the same.
        self.buffer |= units.wrapping_shr(self.left);
        let taken = u64::BITS.wrapping_sub(self.left) / UNIT;
        self.left = self.left.wrapping_add(taken.wrapping_mul(UNIT));
        self.at = self.at.wrapping_add(bytes_of(taken));
    }

    #[cold]
    fn refill_at_the_end(&mut self) {
        while self.left < REFILLED {
            let unit = self.input.get(self.at..).and_then(|rest| rest.first_chunk());
            if unit.is_none() {
                self.missing = self.missing.saturating_add(1);
            }
            let unit = unit.map_or(0, |bytes| u64::from(u16::from_le_bytes(*bytes)));
            let free = u64::BITS.wrapping_sub(UNIT).wrapping_sub(self.left); // `left` is below 49
            self.buffer |= unit.wrapping_shl(free);
            self.left = self.left.wrapping_add(UNIT);
            self.at = self.at.saturating_add(UNIT_LEN);
        }
    }

    /// The bits that come next, topmost first.
    #[inline(always)]
    pub(super) const fn next(&self) -> u64 {
        self.buffer
    }

    /// Goes past `bits` bits, at most as many as are there and at most 63.
    #[inline(always)]
    pub(super) const fn skip(&mut self, bits: u32) {
        self.buffer = self.buffer.wrapping_shl(bits);
        self.left = self.left.wrapping_sub(bits);
    }

    /// Takes `bits` bits, at most 16 and at most as many as are there.
    #[inline(always)]
    pub(super) const fn take(&mut self, bits: u32) -> u32 {
        let taken = low_half(self.buffer >> 1 >> 63u32.wrapping_sub(bits)); // two shifts, so that none are 0
        self.skip(bits);
        taken
    }

    /// Takes `bits` bits, at most 16.
    pub(super) fn number(&mut self, bits: u32) -> u32 {
        self.need(bits);
        self.take(bits)
    }

    /// Where bytes between the bits come next: behind the unit that is next, or was begun, while `ahead` bits are there.
    /// Units that were read beyond that are given back.
    fn give_back(&mut self, ahead: u32) {
        let units = self.left.saturating_sub(ahead) / UNIT;
        self.left = self.left.wrapping_sub(units.wrapping_mul(UNIT));
        self.at = self.at.saturating_sub(bytes_of(units));
        self.missing = self.missing.saturating_sub(units);
        self.buffer &= u64::MAX.checked_shr(self.left).map_or(u64::MAX, |behind| !behind);
    }

    /// Takes `N` whole bytes from between the bits, where XPRESS has them: a reader that fills up to at least 16 bits, unit by unit,
    /// has come so far. `None` if the input ends before.
    #[cold]
    pub(super) fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.need(UNIT);
        self.give_back(UNIT);
        let bytes = *self.input.get(self.at..)?.first_chunk()?;
        self.at = self.at.saturating_add(N);
        Some(bytes)
    }

    /// The first whole byte behind the unit that was begun; behind the next one, if none was. This is how LZX aligns.
    pub(super) fn align(&mut self) -> usize {
        self.need(1);
        self.give_back(1);
        self.at
    }

    /// A byte up to which the input was read, for errors.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// Whether bits behind the end of the input were taken.
    pub(super) const fn is_overrun(&self) -> bool {
        self.missing.saturating_mul(UNIT) > self.left
    }
}

fn bytes_of(units: u32) -> usize {
    usize::try_from(units).unwrap_or(0).wrapping_mul(UNIT_LEN) // at most four units
}

#[expect(clippy::as_conversions, reason = "the lower half is meant; there is no other const conversion")]
const fn low_half(bits: u64) -> u32 {
    bits as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_from_the_top_of_each_unit() {
        let input: Vec<u8> = (0..12).collect();
        let mut bits = Bits::new(&input, 2);
        let numbers: Vec<_> = (0..10).map(|_| bits.number(8)).collect();
        assert_eq!(numbers, [3, 2, 5, 4, 7, 6, 9, 8, 11, 10]);
        assert!(!bits.is_overrun());
        assert_eq!((bits.number(0), bits.number(16), bits.is_overrun()), (0, 0, true));
    }

    #[test]
    fn bytes_between_bits_are_those_behind_the_units_that_hold_sixteen_bits() {
        let input: Vec<u8> = (0..40).collect();
        for (before, byte, after) in [(0, 2, 3), (1, 4, 2), (16, 4, 5), (17, 6, 4)] {
            let mut bits = Bits::new(&input, 0);
            for _ in 0..before {
                bits.number(1);
            }
            assert_eq!(bits.bytes::<1>(), Some([byte]), "after {before} bits");
            for _ in before..16 + before / 16 * 16 {
                bits.number(1);
            }
            assert_eq!(bits.number(16) & 0xff, after, "after {before} bits and the byte");
        }
    }

    #[test]
    fn the_end_is_kept_to_whatever_is_read() {
        let mut bits = Bits::new(&[1, 2, 3], 0);
        assert_eq!(bits.number(16), 0x0201);
        assert_eq!(bits.bytes::<1>(), None);
        let mut bits = Bits::new(&[1, 2, 3], 0);
        assert_eq!((bits.bytes::<1>(), bits.bytes::<1>()), (Some([3]), None));
        assert_eq!((bits.number(16), bits.is_overrun()), (0x0201, false));
        assert_eq!((bits.number(1), bits.is_overrun()), (0, true));
        assert_eq!(Bits::new(&[], usize::MAX).number(9), 0);
    }

    #[test]
    fn aligning_skips_the_rest_of_a_unit_or_a_whole_one() {
        let input: Vec<u8> = (0..20).collect();
        for (before, position) in [(0, 2), (1, 2), (15, 2), (16, 4), (17, 4)] {
            let mut bits = Bits::new(&input, 0);
            for _ in 0..before {
                bits.number(1);
            }
            assert_eq!(bits.align(), position, "after {before} bits");
        }
    }
}
