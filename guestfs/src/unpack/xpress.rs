//! XPRESS with Huffman codes, "LZ77+Huffman" of [MS-XCA] sections 2.1 and 2.2, in chunks of at most 64 KiB.
//!
//! ```text
//!   chunk = lengths of the codes of 512 symbols (4 bits each, the lower half of a byte first) | bit stream
//! ```
//!
//! Symbols below 256 are bytes. Of others, the lowest four bits are the length of a repetition, the next four the number of bits of
//! its distance. Long lengths go on in whole bytes between the units of the bit stream.

use super::bits::Bits;
use super::huffman::{BadCode, Huffman};
use super::{UnpackError, copy, number};

const SYMBOLS: usize = 512;
/// Bytes that hold the lengths of the codes.
const LENGTHS_LEN: usize = 256;
/// Plain bytes of a chunk: behind them, the format has new codes. WOF has 16 KiB at most.
const LARGEST: usize = 64 << 10;
/// The shortest repetition.
const SHORTEST: usize = 3;
/// The length of a repetition that goes on in bytes.
const LONG: usize = 15;
/// The longest code of a symbol, and the most bits of a distance.
const CODE_BITS: u32 = 15;

type Code = Huffman<2048, SYMBOLS>;

const fn error(field: &'static str, at: usize, found: u64, expected: &'static str) -> UnpackError {
    UnpackError { format: "XPRESS", field, at, found, expected }
}

/// Unpacks a chunk. What may follow in the input when `out` is full is not looked at.
///
/// # Errors
/// [`UnpackError`] if the chunk contradicts the format, or does not give as much as `out` holds, which is at most 64 KiB.
pub fn decompress(chunk: &[u8], out: &mut [u8]) -> Result<(), UnpackError> {
    if out.len() > LARGEST {
        return Err(error("plain length of a chunk", 0, number(out.len()), "at most 64 KiB"));
    }
    let code = read_code(chunk)?;
    let mut bits = Bits::new(chunk, LENGTHS_LEN);
    let mut to = 0;
    while let Some(place) = out.get_mut(to) {
        bits.need(2 * CODE_BITS);
        let Some(symbol) = code.read(&mut bits) else { return Err(no_symbol(&bits)) };
        if let Ok(byte) = u8::try_from(symbol) {
            *place = byte;
            to = to.wrapping_add(1); // inside `out`
        } else {
            to = repeat(symbol, &mut bits, out, to)?;
        }
    }
    match bits.is_overrun() {
        true => Err(error("length of a chunk", chunk.len(), number(chunk.len()), "as much as its codes take")),
        false => Ok(()),
    }
}

fn read_code(chunk: &[u8]) -> Result<Code, UnpackError> {
    let packed = chunk.get(..LENGTHS_LEN);
    let packed =
        packed.ok_or_else(|| error("length of a chunk", 0, number(chunk.len()), "256 bytes of code lengths"))?;
    let mut lengths = [0; SYMBOLS];
    for (pair, byte) in lengths.as_chunks_mut().0.iter_mut().zip(packed) {
        *pair = [byte & 15, byte >> 4];
    }
    let mut code = Code::new();
    match code.set(&lengths) {
        Ok(()) => Ok(code),
        Err(BadCode::Empty) => Err(error("sum of the code lengths", 0, 0, "codes for 2 symbols at least")),
        Err(BadCode::Incomplete(sum) | BadCode::Oversubscribed(sum)) => {
            Err(error("sum of the code lengths", 0, sum.into(), "codes that use all bits, 0x10000"))
        }
    }
}

fn no_symbol(bits: &Bits) -> UnpackError {
    error("symbol", bits.at(), bits.next(), "bits that are a code")
}

/// Carries out the repetition that `symbol` begins; answers where it ends.
#[inline(always)]
fn repeat(symbol: u16, bits: &mut Bits, out: &mut [u8], to: usize) -> Result<usize, UnpackError> {
    let distance_bits = u32::from(symbol >> 4 & 15);
    let mut len = usize::from(symbol & 15);
    if len == LONG {
        len = long_length(bits)?;
    }
    let distance = usize::try_from(1u32.wrapping_shl(distance_bits) | bits.take(distance_bits)).unwrap_or(0);
    let len = len.saturating_add(SHORTEST);
    let end = copy::repeat(out, to, distance, len);
    end.ok_or_else(|| match distance > to {
        true => error("distance of a repetition", bits.at(), number(distance), "inside its chunk"),
        false => error("length of a repetition", bits.at(), number(len), "no more than is left of the chunk"),
    })
}

/// A length of 15 or more: one byte, what is above 269 in two more, what is above 65535 in four.
#[cold]
fn long_length(bits: &mut Bits) -> Result<usize, UnpackError> {
    let at = bits.at();
    let cut = || error("length of a chunk", at, number(at), "as much as the length of its last repetition takes");
    let [byte] = bits.bytes().ok_or_else(cut)?;
    if byte < u8::MAX {
        return Ok(usize::from(byte).saturating_add(LONG));
    }
    let len = match u16::from_le_bytes(bits.bytes().ok_or_else(cut)?) {
        0 => usize::try_from(u32::from_le_bytes(bits.bytes().ok_or_else(cut)?)).unwrap_or(usize::MAX),
        len => usize::from(len),
    };
    match len < LONG {
        true => Err(error("long length of a repetition", at, number(len), "at least 15")),
        false => Ok(len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a, b, c and 287 (a distance of one more bit, a length in bytes), all with codes of two bits.
    fn codes() -> Vec<u8> {
        let mut packed = vec![0; LENGTHS_LEN];
        (packed[97 / 2], packed[98 / 2], packed[287 / 2]) = (0x20, 0x22, 0x20);
        packed
    }

    /// a, b, c, and a repetition at distance 3 whose length follows.
    fn abc(length: &[u8]) -> Vec<u8> {
        [&codes(), &[0x80, 0x1b, 0, 0][..], length].concat()
    }

    fn unpack(chunk: &[u8], len: usize) -> Result<Vec<u8>, String> {
        let mut out = vec![0xee; len];
        decompress(chunk, &mut out).map(|()| out).map_err(|err| err.to_string())
    }

    #[test]
    fn the_examples_of_the_specification_are_unpacked() {
        // [MS-XCA] section 3.2
        let chunk = |lengths: &[(usize, &[u8])], bits: &[u8]| {
            let mut chunk = vec![0; LENGTHS_LEN];
            for (at, lengths) in lengths {
                chunk.splice(*at..*at + lengths.len(), lengths.iter().copied());
            }
            chunk.extend(bits);
            chunk
        };
        let lengths = [0x50, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x45, 0x44, 0x04];
        let bits = [
            0xd8, 0x52, 0x3e, 0xd7, 0x94, 0x11, 0x5b, 0xe9, 0x19, 0x5f, 0xf9, 0xd6, 0x7c, 0xdf, 0x8d, 0x04, 0, 0, 0, 0,
        ];
        let alphabet = chunk(&[(0x30, &lengths), (0x80, &[0x04])], &bits);
        assert_eq!(unpack(&alphabet, 26).unwrap(), b"abcdefghijklmnopqrstuvwxyz");
        let lengths: [(usize, &[u8]); 3] = [(0x30, &[0x30, 0x23]), (0x80, &[0x02]), (0x8f, &[0x20])];
        let abc = chunk(&lengths, &[0xa8, 0xdc, 0x00, 0x00, 0xff, 0x26, 0x01]);
        assert_eq!(unpack(&abc, 300).unwrap(), b"abc".repeat(100));
    }

    #[test]
    fn long_lengths_are_read_from_one_three_and_seven_bytes() {
        for (len, length) in [(18, &[0][..]), (272, &[254]), (274, &[255, 15, 1]), (303, &[255, 44, 1])] {
            let chunk = abc(length);
            assert_eq!(unpack(&chunk, len + 3).unwrap(), b"abc".repeat(101 + 1)[..len + 3], "{length:?}");
            assert!(unpack(&chunk, len + 2).is_err() && unpack(&chunk[..chunk.len() - 1], len + 3).is_err());
        }
        assert_eq!(unpack(&abc(&[255, 0, 0, 0xfa, 0xff, 0, 0]), 65536).unwrap(), b"abc".repeat(21846)[..65536]);
        let err = unpack(&abc(&[255, 14, 0]), 20).unwrap_err();
        assert!(
            err.starts_with("long length of a repetition at byte ") && err.ends_with(" is 0xe: at least 15"),
            "{err}"
        );
    }

    #[test]
    fn a_distance_before_the_start_is_refused() {
        let chunk = [&codes(), &[0, 0xe0, 0, 0][..], &[0]].concat(); // the repetition first
        let err = unpack(&chunk, 100).unwrap_err();
        assert!(err.contains("distance of a repetition") && err.ends_with("is 0x3: inside its chunk"), "{err}");
    }

    #[test]
    fn chunks_that_end_early_are_refused() {
        let bytes = [&codes(), &[0x1b, 0x00][..]].concat(); // eight symbols: a a a a a b c, then the repetition
        assert_eq!(unpack(&bytes, 4).unwrap(), b"aaaa");
        let err = unpack(&bytes[..LENGTHS_LEN], 1).unwrap_err();
        assert_eq!(err, "length of a chunk at byte 0x100 of XPRESS data is 0x100: as much as its codes take");
        let err = unpack(&bytes[..LENGTHS_LEN - 1], 1).unwrap_err();
        assert_eq!(err, "length of a chunk at byte 0x0 of XPRESS data is 0xff: 256 bytes of code lengths");
        let err = unpack(&bytes, LARGEST + 1).unwrap_err();
        assert_eq!(err, "plain length of a chunk at byte 0x0 of XPRESS data is 0x10001: at most 64 KiB");
    }

    #[test]
    fn codes_that_are_none_are_refused() {
        for (first, second, found) in [(0x11, 0x01, "0x18000"), (0x21, 0, "0xc000"), (0, 0, "0x0")] {
            let mut chunk = vec![0; LENGTHS_LEN + 20];
            (chunk[0], chunk[1]) = (first, second);
            let err = unpack(&chunk, 1).unwrap_err();
            assert!(
                err.starts_with(&format!("sum of the code lengths at byte 0x0 of XPRESS data is {found}: ")),
                "{err}"
            );
        }
    }
}
