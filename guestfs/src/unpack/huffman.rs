//! Canonical Huffman codes, as XPRESS and LZX have them: known by the lengths of the codes alone.

use super::bits::Bits;

/// The longest code of LZX, in bits; XPRESS has 15 at most.
pub(super) const LONGEST: u32 = 16;
/// Lengths from 0 to [`LONGEST`].
const LENGTHS: usize = 17;
/// The bits of an entry that hold a length.
const LENGTH_BITS: u32 = 5;

/// What is wrong with a set of code lengths. The number is the sum of 2^-length in units of 2^-16: 65536 if all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadCode {
    /// Two codes would begin alike.
    Oversubscribed(u32),
    /// Some bits would be no code.
    Incomplete(u32),
    /// There are no codes at all.
    Empty,
}

/// A code of at most `SYMBOLS` symbols, 512 at most. Codes of up to log2(`ENTRIES`) bits are looked up in one step.
pub(super) struct Huffman<const ENTRIES: usize, const SYMBOLS: usize> {
    /// By the next bits: the symbol and, in the low bits, the length of its code. 0 where codes are longer.
    table: [u16; ENTRIES],
    /// Symbols by length of their code, and by number where that is the same.
    sorted: [u16; SYMBOLS],
    /// By length: the first 16 bits behind all codes of at most this length.
    limits: [u32; LENGTHS],
    /// By length: how many codes are shorter.
    firsts: [u16; LENGTHS],
}

impl<const ENTRIES: usize, const SYMBOLS: usize> Huffman<ENTRIES, SYMBOLS> {
    const BITS: u32 = ENTRIES.trailing_zeros();

    /// A code without codes: everything read with it is an error.
    pub(super) const fn new() -> Self {
        const { assert!(ENTRIES.is_power_of_two() && SYMBOLS <= 512) };
        Self { table: [0; ENTRIES], sorted: [0; SYMBOLS], limits: [0; LENGTHS], firsts: [0; LENGTHS] }
    }

    /// Makes this the code with these lengths by symbol, at most `SYMBOLS` and each at most 16. After an error it has no codes or
    /// those of before.
    pub(super) fn set(&mut self, lengths: &[u8]) -> Result<(), BadCode> {
        let mut counts = [0u16; LENGTHS];
        for length in lengths {
            if let Some(count) = counts.get_mut(usize::from(*length)) {
                *count = count.wrapping_add(1); // at most 512
            }
        }
        let mut next = [0u16; LENGTHS];
        let (mut limits, mut limit, mut first) = ([0; LENGTHS], 0u32, 0u16);
        for (length, ((count, next), of_length)) in (0u32..).zip(counts.iter().zip(&mut next).zip(&mut limits)).skip(1)
        {
            *next = first;
            first = first.wrapping_add(*count);
            limit = limit.wrapping_add(u32::from(*count).wrapping_shl(LONGEST.wrapping_sub(length))); // below 2^25
            *of_length = limit;
        }
        match limit {
            0 => {
                (self.table, self.limits) = ([0; ENTRIES], limits);
                return Err(BadCode::Empty);
            }
            1..0x1_0000 => return Err(BadCode::Incomplete(limit)),
            0x1_0000 => {}
            _ => return Err(BadCode::Oversubscribed(limit)),
        }
        (self.limits, self.firsts) = (limits, next);
        for (symbol, length) in (0u16..).zip(lengths).filter(|(_, length)| **length > 0) {
            let Some(next) = next.get_mut(usize::from(*length)) else { continue };
            if let Some(place) = self.sorted.get_mut(usize::from(*next)) {
                *place = symbol;
            }
            *next = next.wrapping_add(1);
        }
        self.fill(&counts);
        Ok(())
    }

    fn fill(&mut self, counts: &[u16; LENGTHS]) {
        let (mut table, mut sorted) = (&mut self.table[..], &self.sorted[..]);
        for (length, count) in (0u16..).zip(counts).skip(1) {
            let Some(spread) = Self::BITS.checked_sub(u32::from(length)) else { break };
            let spread = 1usize.wrapping_shl(spread); // entries that begin with a code of this length
            let (symbols, longer) = sorted.split_at(usize::from(*count).min(sorted.len()));
            let (entries, rest) = table.split_at_mut(symbols.len().wrapping_mul(spread).min(table.len()));
            for (symbol, entries) in symbols.iter().zip(entries.chunks_exact_mut(spread)) {
                entries.fill(symbol.wrapping_shl(LENGTH_BITS) | length);
            }
            (table, sorted) = (rest, longer);
        }
        table.fill(0);
    }

    /// Reads a symbol, of at most 16 bits, which must be there. `None` if the code has no codes.
    #[inline(always)]
    pub(super) fn read(&self, bits: &mut Bits) -> Option<u16> {
        let entry = *self.table.get(index(bits.next() >> u64::BITS.wrapping_sub(Self::BITS)))?;
        if entry != 0 {
            bits.skip(u32::from(entry & 0x1f));
            return Some(entry >> LENGTH_BITS);
        }
        self.read_long(bits)
    }

    #[cold]
    fn read_long(&self, bits: &mut Bits) -> Option<u16> {
        let next = u32::try_from(bits.next() >> u64::BITS.wrapping_sub(LONGEST)).ok()?;
        let mut below = 0;
        for (length, (limit, first)) in (0u32..).zip(self.limits.iter().zip(&self.firsts)) {
            if next < *limit {
                let code = next.wrapping_sub(below).wrapping_shr(LONGEST.wrapping_sub(length));
                let place = usize::from(*first).saturating_add(usize::try_from(code).ok()?);
                bits.skip(length);
                return self.sorted.get(place).copied();
            }
            below = *limit;
        }
        None
    }
}

/// Bits as an index: at most 16 of them, so nothing is lost.
#[expect(clippy::as_conversions, reason = "checked conversions in the innermost loop cost a tenth of the speed")]
#[inline(always)]
const fn index(bits: u64) -> usize {
    bits as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    type Code = Huffman<4, 8>;

    #[test]
    fn short_and_long_codes_are_read() {
        let mut code = Code::new();
        code.set(&[3, 0, 1, 4, 2, 0, 5, 5]).unwrap();
        // by length, then by number: 2 is 0, 4 is 10, 0 is 110, 3 is 1110, 6 is 11110, 7 is 11111
        let bits = 0b0101_1011_1011_1101_u16;
        let rest = 0b1111_0000_0000_0000_u16;
        let input = [bits.to_le_bytes(), rest.to_le_bytes()].concat();
        let mut bits = Bits::new(&input, 0);
        bits.need(32);
        let symbols: Vec<_> = (0..7).map(|_| code.read(&mut bits).unwrap()).collect();
        assert_eq!(symbols, [2, 4, 0, 3, 6, 7, 2]);
    }

    #[test]
    fn codes_that_are_none_are_refused() {
        let mut code = Code::new();
        assert_eq!(code.set(&[1, 1, 1]), Err(BadCode::Oversubscribed(0x1_8000)));
        assert_eq!(code.set(&[1, 2]), Err(BadCode::Incomplete(0xc000)));
        assert_eq!(code.set(&[1]), Err(BadCode::Incomplete(0x8000)));
        assert_eq!(code.set(&[1, 1]), Ok(()));
        assert_eq!(code.set(&[0; 8]), Err(BadCode::Empty));
        let mut bits = Bits::new(&[0xff; 8], 0);
        bits.need(16);
        assert_eq!(code.read(&mut bits), None);
    }
}
