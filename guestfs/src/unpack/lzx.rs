//! LZX as WOF and WIM files have it: [MS-PATCH] section 2, but in chunks of at most 32 KiB that stand alone. What is different here
//! is noted where it matters.
//!
//! ```text
//!   chunk = block...
//!   block = type (3 bits) | plain length (1 bit: 32 KiB, or 16 bits more) | codes and symbols, or plain bytes
//! ```
//!
//! Symbols below 256 are bytes. Of others, the lowest three bits are the length of a repetition, the rest says where the distance is:
//! among the last three, or how many bits of it follow. Calls in x86 code were made absolute before packing, and are made relative
//! again at the end.

use super::bits::{Bits, REFILLED};
use super::huffman::{BadCode, Huffman};
use super::{UnpackError, copy, number};

/// Plain bytes of a chunk, and of a block whose length is not told.
const LARGEST: usize = 32 << 10;
/// The shortest repetition.
const SHORTEST: usize = 2;
/// The length of a repetition that goes on in a symbol of its own.
const LONG: usize = 7;
/// Slots of distances for a window of 32 KiB.
const SLOTS: usize = 30;
/// Bytes, then eight lengths for each slot.
const MAIN_SYMBOLS: usize = 256 + 8 * SLOTS;
const LENGTH_SYMBOLS: usize = 249;
const ALIGNED_SYMBOLS: usize = 8;
const PRE_SYMBOLS: usize = 20;
/// The low bits of a distance that have codes in aligned blocks.
const ALIGNED_BITS: u32 = 3;
/// The longest code of a main or length symbol.
const CODE_BITS: u32 = 16;
/// The most bits behind a main and a length symbol: ten of a distance, and a code of seven bits for three.
const DISTANCE_BITS: u32 = 17;
/// In x86 code, call.
const CALL: u8 = 0xe8;
/// Addresses of calls were made absolute up to this. [MS-PATCH] has the size of the file here; WIM and WOF have this for all.
const CALLED: i32 = 12_000_000;
/// The last bytes of a chunk, in which calls were left alone.
const NO_CALLS: usize = 10;

const fn error(field: &'static str, at: usize, found: u64, expected: &'static str) -> UnpackError {
    UnpackError { format: "LZX", field, at, found, expected }
}

/// How many blocks a chunk had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// Type 1: distances in plain bits.
    pub verbatim: u32,
    /// Type 2: the low bits of distances have codes.
    pub aligned: u32,
    /// Type 3: plain bytes.
    pub uncompressed: u32,
}

/// Unpacks a chunk. What may follow in the input when `out` is full is not looked at.
///
/// # Errors
/// [`UnpackError`] if the chunk contradicts the format, or does not give as much as `out` holds, which is at most 32 KiB.
pub fn decompress(chunk: &[u8], out: &mut [u8]) -> Result<Blocks, UnpackError> {
    if out.len() > LARGEST {
        return Err(error("plain length of a chunk", 0, number(out.len()), "at most 32 KiB"));
    }
    let mut unpacker = Unpacker {
        input: chunk,
        bits: Bits::new(chunk, 0),
        codes: Codes::new(),
        last: [1; 3],
        seen: Blocks::default(),
    };
    let mut to = 0;
    while to < out.len() {
        to = unpacker.block(out, to)?;
    }
    if unpacker.bits.is_overrun() {
        return Err(error("length of a chunk", chunk.len(), number(chunk.len()), "as much as its codes take"));
    }
    make_calls_relative(out);
    Ok(unpacker.seen)
}

struct Unpacker<'a> {
    input: &'a [u8],
    bits: Bits<'a>,
    codes: Codes,
    /// The last three distances, the latest first.
    last: [u32; 3],
    seen: Blocks,
}

/// The codes of a block. The lengths of the next block's codes are told by how they differ.
struct Codes {
    main_lengths: [u8; MAIN_SYMBOLS],
    length_lengths: [u8; LENGTH_SYMBOLS],
    main: Huffman<2048, MAIN_SYMBOLS>,
    length: Huffman<1024, LENGTH_SYMBOLS>,
    aligned: Huffman<128, ALIGNED_SYMBOLS>,
}

impl Unpacker<'_> {
    /// Unpacks a block to byte `to` of `out`; answers where it ends, behind `to` and inside `out`.
    fn block(&mut self, out: &mut [u8], to: usize) -> Result<usize, UnpackError> {
        let at = self.bits.at();
        let kind = self.bits.number(3);
        let len = match self.bits.number(1) {
            0 => usize::try_from(self.bits.number(16)).unwrap_or(0),
            _ => LARGEST,
        };
        let end = to.saturating_add(len);
        let Some(room) = out.get_mut(..end).filter(|_| len > 0) else {
            return Err(error("plain length of a block", at, number(len), "at least 1, and no more than is left"));
        };
        match kind {
            1 => {
                self.seen.verbatim = self.seen.verbatim.saturating_add(1);
                self.codes.read(&mut self.bits)?;
                self.symbols::<false>(room, to)?;
            }
            2 => {
                self.seen.aligned = self.seen.aligned.saturating_add(1);
                self.codes.read_aligned(&mut self.bits)?;
                self.codes.read(&mut self.bits)?;
                self.symbols::<true>(room, to)?;
            }
            3 => {
                self.seen.uncompressed = self.seen.uncompressed.saturating_add(1);
                self.plain(room.get_mut(to..).unwrap_or_default())?;
            }
            _ => return Err(error("type of a block", at, kind.into(), "1, 2 or 3")),
        }
        Ok(end)
    }

    /// A block of plain bytes: the last three distances, the bytes, and one of padding if their number is odd.
    fn plain(&mut self, out: &mut [u8]) -> Result<(), UnpackError> {
        let at = self.bits.align();
        let rest = self.input.get(at..).unwrap_or_default();
        let Some((last, content)) = rest.split_at_checked(size_of::<[u32; 3]>()).filter(|(_, c)| c.len() >= out.len())
        else {
            return Err(error(
                "length of an uncompressed block",
                at,
                number(rest.len()),
                "12 bytes and its plain length",
            ));
        };
        for (last, bytes) in self.last.iter_mut().zip(last.as_chunks().0) {
            *last = u32::from_le_bytes(*bytes);
        }
        out.copy_from_slice(content.get(..out.len()).unwrap_or_default());
        let padded = out.len().next_multiple_of(2);
        self.bits = Bits::new(self.input, at.saturating_add(size_of::<[u32; 3]>()).saturating_add(padded));
        Ok(())
    }

    /// The symbols of a block that fills `out` from `to` on.
    fn symbols<const ALIGNED: bool>(&mut self, out: &mut [u8], mut to: usize) -> Result<(), UnpackError> {
        let Self { bits, codes, last, .. } = self;
        while let Some(place) = out.get_mut(to) {
            bits.need(CODE_BITS);
            let Some(symbol) = codes.main.read(bits) else { return Err(no_symbol(bits)) };
            if let Ok(byte) = u8::try_from(symbol) {
                *place = byte;
                to = to.wrapping_add(1); // inside `out`
                continue;
            }
            bits.need(CODE_BITS + DISTANCE_BITS);
            let mut len = usize::from(symbol & 7);
            if len == LONG {
                let Some(more) = codes.length.read(bits) else { return Err(no_symbol(bits)) };
                len = LONG.wrapping_add(usize::from(more)); // at most 255
            }
            let slot = symbol.wrapping_sub(256) >> 3;
            let distance = match slot {
                0..3 => {
                    last.swap(0, usize::from(slot));
                    last[0]
                }
                _ => {
                    let Some(distance) = read_distance::<ALIGNED>(slot, bits, codes) else {
                        return Err(no_symbol(bits));
                    };
                    *last = [distance, last[0], last[1]];
                    distance
                }
            };
            let distance = usize::try_from(distance).unwrap_or(usize::MAX);
            let len = len.wrapping_add(SHORTEST);
            to = match copy::repeat(out, to, distance, len) {
                Some(end) => end,
                None => return Err(no_repetition(bits, distance, len, to)),
            };
        }
        Ok(())
    }
}

/// The distance of a slot that is not one of the last three. All are 2 less than in the format's table of slots.
#[inline(always)]
fn read_distance<const ALIGNED: bool>(slot: u16, bits: &mut Bits, codes: &Codes) -> Option<u32> {
    // From slot 4 on, two slots each have as many bits: 1, 1, 2, 2, …
    let count = u32::from(slot >> 1).wrapping_sub(1);
    let first = u32::from(slot & 1 | 2).wrapping_shl(count);
    let more = match ALIGNED && count >= ALIGNED_BITS {
        true => {
            let high = bits.take(count.wrapping_sub(ALIGNED_BITS)).wrapping_shl(ALIGNED_BITS);
            high | u32::from(codes.aligned.read(bits)?)
        }
        false => bits.take(count),
    };
    Some(first.wrapping_add(more).wrapping_sub(2)) // at least 3 - 2
}

#[cold]
fn no_symbol(bits: &Bits) -> UnpackError {
    error("symbol", bits.at(), bits.next(), "of a code that has codes")
}

#[cold]
fn no_repetition(bits: &Bits, distance: usize, len: usize, to: usize) -> UnpackError {
    match distance == 0 || distance > to {
        true => error("distance of a repetition", bits.at(), number(distance), "at least 1, and inside its chunk"),
        false => error("length of a repetition", bits.at(), number(len), "no more than is left of the block"),
    }
}

impl Codes {
    const fn new() -> Self {
        Self {
            main_lengths: [0; MAIN_SYMBOLS],
            length_lengths: [0; LENGTH_SYMBOLS],
            main: Huffman::new(),
            length: Huffman::new(),
            aligned: Huffman::new(),
        }
    }

    /// Reads the codes that verbatim and aligned blocks begin with.
    fn read(&mut self, bits: &mut Bits) -> Result<(), UnpackError> {
        let (bytes, repetitions) = self.main_lengths.split_at_mut(256);
        read_lengths(bits, bytes)?;
        read_lengths(bits, repetitions)?;
        set(&mut self.main, &self.main_lengths, bits.at(), false)?;
        read_lengths(bits, &mut self.length_lengths)?;
        set(&mut self.length, &self.length_lengths, bits.at(), true)
    }

    /// Reads the code that aligned blocks have before the others.
    fn read_aligned(&mut self, bits: &mut Bits) -> Result<(), UnpackError> {
        let lengths: [u8; ALIGNED_SYMBOLS] = std::array::from_fn(|_| small(bits.number(3)));
        set(&mut self.aligned, &lengths, bits.at(), true)
    }
}

fn small(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// Makes `code` that of these lengths. Where no symbol will be read, a code may be without codes.
fn set<const ENTRIES: usize, const SYMBOLS: usize>(
    code: &mut Huffman<ENTRIES, SYMBOLS>,
    lengths: &[u8],
    at: usize,
    may_be_empty: bool,
) -> Result<(), UnpackError> {
    match code.set(lengths) {
        Ok(()) => Ok(()),
        Err(BadCode::Empty) if may_be_empty => Ok(()),
        Err(BadCode::Empty) => Err(error("sum of code lengths", at, 0, "codes for 2 symbols at least")),
        Err(BadCode::Incomplete(sum) | BadCode::Oversubscribed(sum)) => {
            Err(error("sum of code lengths", at, sum.into(), "codes that use all bits, 0x10000"))
        }
    }
}

/// Reads lengths of codes, with a code of their own that comes before them. `lengths` holds those of the block before.
fn read_lengths(bits: &mut Bits, lengths: &mut [u8]) -> Result<(), UnpackError> {
    let pre_lengths: [u8; PRE_SYMBOLS] = std::array::from_fn(|_| small(bits.number(4)));
    let mut code = Huffman::<256, PRE_SYMBOLS>::new();
    set(&mut code, &pre_lengths, bits.at(), false)?;
    let mut rest = lengths;
    while let Some(before) = rest.first().copied() {
        bits.need(REFILLED); // two symbols of at most 15 bits, and 5 more
        let symbol = code.read(bits).unwrap_or(0); // the code has codes
        let (run, length) = match symbol {
            17 => (bits.take(4).wrapping_add(4), 0),
            18 => (bits.take(5).wrapping_add(20), 0),
            19 => {
                let run = bits.take(1).wrapping_add(4);
                let symbol = code.read(bits).unwrap_or(0);
                if symbol > 16 {
                    return Err(error("symbol of a repeated code length", bits.at(), symbol.into(), "at most 16"));
                }
                (run, changed(before, symbol))
            }
            _ => (1, changed(before, symbol)),
        };
        let Some((alike, behind)) = rest.split_at_mut_checked(usize::try_from(run).unwrap_or(usize::MAX)) else {
            return Err(error("run of code lengths", bits.at(), run.into(), "no more than is left of the code"));
        };
        alike.fill(length);
        rest = behind;
    }
    Ok(())
}

/// The length that a symbol, at most 16, makes of the one before: less by that much, modulo 17.
fn changed(before: u8, symbol: u16) -> u8 {
    let less = u8::try_from(symbol).unwrap_or(0);
    before.checked_sub(less).unwrap_or_else(|| before.wrapping_add(17).wrapping_sub(less))
}

/// Undoes what was done to calls before packing. Unlike [MS-PATCH], each chunk is a file of its own here.
fn make_calls_relative(out: &mut [u8]) {
    let end = out.len().saturating_sub(NO_CALLS);
    let mut from = 0usize;
    while let Some(found) = out.get(from..end).and_then(|rest| rest.iter().position(|byte| *byte == CALL)) {
        let at = from.saturating_add(found);
        let target = out.get_mut(at.saturating_add(1)..).and_then(|rest| rest.first_chunk_mut());
        let (Some(target), Ok(position)) = (target, i32::try_from(at)) else { return };
        let absolute = i32::from_le_bytes(*target);
        let relative = match absolute {
            0..CALLED => absolute.wrapping_sub(position),
            _ if absolute < 0 && absolute >= position.wrapping_neg() => absolute.wrapping_add(CALLED),
            _ => absolute,
        };
        *target = relative.to_le_bytes();
        from = at.saturating_add(5);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An uncompressed block: the bits of its header are 3 of the type, a 0, and 16 of the length.
    fn plain_block(last: [u32; 3], plain: &[u8]) -> Vec<u8> {
        let len = u16::try_from(plain.len()).unwrap();
        let mut block = (0x6000 | len >> 4).to_le_bytes().to_vec();
        block.extend((len << 12).to_le_bytes());
        block.extend(last.iter().flat_map(|last| last.to_le_bytes()));
        block.extend(plain);
        block.resize(block.len().next_multiple_of(2), 0);
        block
    }

    fn unpack(chunk: &[u8], len: usize) -> Result<Vec<u8>, String> {
        let mut out = vec![0xee; len];
        decompress(chunk, &mut out).map(|_| out).map_err(|err| err.to_string())
    }

    #[test]
    fn calls_are_made_relative_but_in_the_last_ten_bytes() {
        let call = |target: i32| [&[CALL][..], &target.to_le_bytes()].concat();
        let packed = [call(100), call(-5), call(-6), call(CALLED), call(CALLED - 1), vec![CALL; 10]].concat();
        let plain =
            [call(100), call(CALLED - 5), call(-6 + CALLED), call(CALLED), call(CALLED - 1 - 20), vec![CALL; 10]];
        assert_eq!(unpack(&plain_block([1; 3], &packed), packed.len()).unwrap(), plain.concat());
        let before = [call(-1), vec![0; 10]].concat(); // at 0, so before the start
        assert_eq!(unpack(&plain_block([1; 3], &before), 15).unwrap(), before);
        assert_eq!(unpack(&plain_block([1; 3], &call(7)), 5).unwrap(), call(7));
    }

    #[test]
    fn blocks_that_contradict_the_format_are_refused() {
        let mut chunk = plain_block([1; 3], &[7; 100]);
        let message = |field, found, expected| format!("{field} at byte 0x0 of LZX data is {found}: {expected}");
        let length = |found| Err(message("plain length of a block", found, "at least 1, and no more than is left"));
        assert_eq!(unpack(&chunk, 99), length("0x64"));
        assert_eq!(unpack(&plain_block([1; 3], &[]), 99), length("0x0"));
        assert!(unpack(&chunk, 101).is_err(), "the next block is missing");
        let err = unpack(&chunk[..chunk.len() - 1], 100).unwrap_err();
        assert_eq!(
            err,
            "length of an uncompressed block at byte 0x4 of LZX data is 0x6f: 12 bytes and its plain length"
        );
        chunk[1] = 0x80; // type 4
        assert_eq!(unpack(&chunk, 100), Err(message("type of a block", "0x4", "1, 2 or 3")));
        let err = unpack(&chunk, LARGEST + 1).unwrap_err();
        assert_eq!(err, message("plain length of a chunk", "0x8001", "at most 32 KiB"));
        assert_eq!(unpack(&[], 0), Ok(vec![]));
    }

    #[test]
    fn code_lengths_that_contradict_the_format_are_refused() {
        // A pre-code: symbols `a` and `b` with codes of one bit, then bits.
        let lengths = |a: usize, b: usize, bits: u16| {
            let mut text = vec![0u8; 10];
            for symbol in [a, b] {
                text[symbol / 2] |= 1 << (4 - symbol % 2 * 4);
            }
            text.extend(bits.to_be_bytes());
            text.extend([0xff; 20]);
            let units: Vec<u8> = text.as_chunks().0.iter().flat_map(|[high, low]| [*low, *high]).collect();
            read_lengths(&mut Bits::new(&units, 0), &mut [3; 30]).map_err(|err| (err.field, err.found))
        };
        assert_eq!(lengths(0, 18, 0xffff), Err(("run of code lengths", 20 + 31)));
        assert_eq!(lengths(0, 19, 0xffff), Err(("symbol of a repeated code length", 19)));
        assert_eq!(lengths(0, 1, 0x5555), Ok(()));
        assert_eq!(lengths(0, 0, 0), Err(("sum of code lengths", 0x8000)));
    }

    #[test]
    fn lengths_change_modulo_17() {
        assert_eq!([changed(3, 0), changed(3, 3), changed(3, 4), changed(0, 16), changed(16, 16)], [3, 0, 16, 1, 0]);
    }
}
