//! LZNT1, the compression of NTFS: [MS-XCA] sections 2.5 and 3.3.
//!
//! ```text
//!   data  = chunk... | 0 (2 bytes) or the end of the input
//!   chunk = header (2 bytes: length of what follows - 1 in bits 0 to 11, 3 in bits 12 to 14, compressed: bit 15) | content
//!   compressed content = group...
//!   group = flags (1 byte, lowest bit first) | for each of eight flags: a byte (0), or 2 bytes that repeat earlier ones (1)
//! ```
//!
//! Each chunk holds 4 KiB of plain bytes and stands alone. How the 16 bits of a repetition are shared between distance and length
//! depends on how much of the chunk is there already.

use super::{UnpackError, copy, number};

/// Plain bytes of a chunk, but for the last.
const CHUNK: usize = 4096;
/// The shortest repetition: shorter ones would take no less than what they repeat.
const SHORTEST: usize = 3;

const fn error(field: &'static str, at: usize, found: u64, expected: &'static str) -> UnpackError {
    UnpackError { format: "LZNT1", field, at, found, expected }
}

/// Unpacks `input` into `out`; answers how many bytes that gave. It ends at an end marker, with the input, or when `out` is full:
/// what may follow in the input is not looked at. A chunk of less than 4 KiB that others follow is filled up with zeros, and so is
/// the rest of `out`.
///
/// # Errors
/// [`UnpackError`] if the data contradict the format or do not fit in `out`; `out` then holds anything.
pub fn decompress(input: &[u8], out: &mut [u8]) -> Result<usize, UnpackError> {
    let (mut at, mut chunk_start, mut len) = (0, 0usize, 0);
    let mut room = &mut *out;
    while !room.is_empty() {
        let Some(chunk) = Chunk::at(input, at)? else { break };
        let (plain, behind) = room.split_at_mut(room.len().min(CHUNK));
        let unpacked = chunk.unpack(plain)?;
        plain.get_mut(unpacked..).unwrap_or_default().fill(0);
        len = chunk_start.saturating_add(unpacked);
        (at, chunk_start, room) = (chunk.end, chunk_start.saturating_add(CHUNK), behind);
    }
    room.fill(0);
    Ok(len)
}

/// A chunk of the input.
struct Chunk<'a> {
    content: &'a [u8],
    compressed: bool,
    /// Where the content is in the input.
    start: usize,
    end: usize,
}

impl<'a> Chunk<'a> {
    /// The chunk whose header is at byte `at`, `None` at the end of the data.
    fn at(input: &'a [u8], at: usize) -> Result<Option<Self>, UnpackError> {
        let rest = input.get(at..).unwrap_or_default();
        if matches!(rest, [] | [0]) {
            return Ok(None); // the last byte of a cluster may have no room for a whole marker
        }
        let Some((header, rest)) = rest.split_first_chunk() else {
            return Err(error("length of a chunk's header", at, 1, "2 bytes"));
        };
        let header = u16::from_le_bytes(*header);
        if header == 0 {
            return Ok(None);
        }
        if header >> 12 & 7 != 3 {
            return Err(error("header of a chunk", at, header.into(), "3 in bits 12 to 14"));
        }
        let len = usize::from(header & 0xfff).wrapping_add(1); // at most 4096
        let Some(content) = rest.get(..len) else {
            return Err(error("length of a chunk", at, number(len), "no more than what is left of the input"));
        };
        let start = at.saturating_add(size_of::<u16>());
        Ok(Some(Self { content, compressed: header >> 15 == 1, start, end: start.saturating_add(len) }))
    }

    /// Unpacks the content to the front of `plain`; answers how many bytes that gave.
    fn unpack(&self, plain: &mut [u8]) -> Result<usize, UnpackError> {
        if self.compressed {
            return self.unpack_groups(plain);
        }
        let Some(target) = plain.get_mut(..self.content.len()) else { return Err(self.too_long(0, plain)) };
        target.copy_from_slice(self.content);
        Ok(self.content.len())
    }

    fn unpack_groups(&self, plain: &mut [u8]) -> Result<usize, UnpackError> {
        let (mut at, mut to) = (0usize, 0usize);
        while let Some(&flags) = self.content.get(at) {
            at = at.wrapping_add(1); // `at` stays in the content, `to` in `plain`
            let mut flags = u32::from(flags) | 0x100; // a flag behind the last, so that runs of bytes end there
            while flags > 1 {
                let run = usize::try_from(flags.trailing_zeros()).unwrap_or(0);
                if run > 0 {
                    let run = run.min(self.content.len().saturating_sub(at));
                    if run == 0 {
                        return Ok(to);
                    }
                    self.copy_bytes(at, run, plain, to)?;
                    (at, to) = (at.wrapping_add(run), to.wrapping_add(run));
                    flags >>= flags.trailing_zeros();
                    continue;
                }
                let Some(token) = self.content.get(at..).and_then(|rest| rest.first_chunk()) else {
                    return if at == self.content.len() { Ok(to) } else { Err(self.cut_short(at)) };
                };
                to = self.repeat(u16::from_le_bytes(*token), at, plain, to)?;
                at = at.wrapping_add(size_of::<u16>());
                flags >>= 1;
            }
        }
        Ok(to)
    }

    /// Copies a run of at most eight bytes.
    #[inline]
    fn copy_bytes(&self, at: usize, run: usize, plain: &mut [u8], to: usize) -> Result<(), UnpackError> {
        let source = self.content.get(at..).unwrap_or_default();
        let target = plain.get_mut(to..).unwrap_or_default();
        if let (Some(source), Some(target)) = (source.first_chunk::<8>(), target.first_chunk_mut::<8>()) {
            *target = *source; // more than the run: what follows overwrites it
            return Ok(());
        }
        match (source.get(..run), target.get_mut(..run)) {
            (Some(source), Some(target)) => target.copy_from_slice(source),
            _ => return Err(self.too_long(at, plain)),
        }
        Ok(())
    }

    /// Carries out the repetition at byte `at` of the content; answers where it ends in `plain`.
    #[inline]
    fn repeat(&self, token: u16, at: usize, plain: &mut [u8], to: usize) -> Result<usize, UnpackError> {
        // The distance has as many bits as the last byte before has in its position, and 4 at least: 12 at most.
        let last = u32::try_from(to.saturating_sub(1)).unwrap_or(u32::MAX);
        let distance_bits = u32::BITS.wrapping_sub(last.leading_zeros()).clamp(4, 12);
        let length_bits = 16u32.wrapping_sub(distance_bits);
        let length_mask = 1u16.wrapping_shl(length_bits).wrapping_sub(1);
        let distance = usize::from(token.wrapping_shr(length_bits)).wrapping_add(1);
        let len = usize::from(token & length_mask).wrapping_add(SHORTEST);
        let end = copy::repeat(plain, to, distance, len);
        end.ok_or_else(|| match distance > to {
            true => {
                error("distance of a repetition", self.start.saturating_add(at), number(distance), "inside its chunk")
            }
            false => self.too_long(at, plain),
        })
    }

    fn too_long(&self, at: usize, plain: &[u8]) -> UnpackError {
        let expected = match plain.len() {
            CHUNK => "a chunk that gives at most 4 KiB",
            _ => "a chunk that gives no more than there is room for",
        };
        error("content of a chunk", self.start.saturating_add(at), number(self.content.len()), expected)
    }

    fn cut_short(&self, at: usize) -> UnpackError {
        error("length of a repetition's code", self.start.saturating_add(at), 1, "2 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(input: &[u8], room: usize) -> Result<(usize, Vec<u8>), String> {
        let mut out = vec![0xee; room];
        let len = decompress(input, &mut out).map_err(|err| err.to_string())?;
        Ok((len, out))
    }

    /// A compressed chunk of these groups.
    fn chunk(content: &[u8]) -> Vec<u8> {
        let header = 0xb000 | u16::try_from(content.len().wrapping_sub(1)).unwrap();
        [&header.to_le_bytes(), content].concat()
    }

    #[test]
    fn the_example_of_the_specification_is_unpacked() {
        // [MS-XCA] section 3.3
        let packed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01, 0xa0, 0x45,
            0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24, 0x13, 0x88, 0x05, 0xb4,
            0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48, 0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00,
            0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        let plain = "F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G F# \
                     E D E A F# F# G A A G F# E D D E F# E D D\0";
        let (len, out) = unpack(&packed, 4096).unwrap();
        assert_eq!(out[..len], *plain.as_bytes());
    }

    #[test]
    fn plain_chunks_short_chunks_and_the_end_marker_are_understood() {
        let mut packed = chunk(&[0, b'a', b'b']);
        packed.extend([0xff, 0x3f]);
        packed.extend([7; 4096]);
        packed.extend([0x01, 0x30, b'c', b'd', 0, 0, 0xff, 0xff]);
        let (len, out) = unpack(&packed, 3 * 4096).unwrap();
        assert_eq!(len, 2 * 4096 + 2);
        assert_eq!(out[..3], *b"ab\0");
        assert!(out[2..4096].iter().all(|byte| *byte == 0));
        assert!(out[4096..8192].iter().all(|byte| *byte == 7));
        assert_eq!(out[8192..8195], *b"cd\0");
        assert!(out[8194..].iter().all(|byte| *byte == 0));
        // without the marker, with half of it, and with a buffer that is full before the end
        assert_eq!(unpack(&packed[..packed.len() - 4], 3 * 4096).unwrap().0, len);
        assert_eq!(unpack(&packed[..packed.len() - 3], 3 * 4096).unwrap().0, len);
        assert_eq!(unpack(&packed, 2 * 4096).unwrap().0, 8192);
        assert_eq!(unpack(&[], 10).unwrap(), (0, vec![0; 10]));
        assert_eq!(unpack(&packed, 0).unwrap().0, 0);
    }

    #[test]
    fn a_repetition_before_the_start_of_its_chunk_is_refused() {
        let mut packed = chunk(&[0, b'a', b'b', b'c']);
        packed.extend(chunk(&[0b10, b'x', 0x00, 0x10])); // distance 2 behind one byte
        let err = unpack(&packed, 8192).unwrap_err();
        assert_eq!(err, "distance of a repetition at byte 0xa of LZNT1 data is 0x2: inside its chunk");
        assert!(unpack(&chunk(&[1, 0, 0]), 4096).is_err());
        assert_eq!(unpack(&chunk(&[0b10, b'x', 0x01, 0x00]), 4096).unwrap().0, 5);
    }

    #[test]
    fn what_gives_more_than_a_chunk_or_than_there_is_room_for_is_refused() {
        // a byte, then 3 + 4095 repetitions of it
        let long = chunk(&[0b10, b'x', 0xfe, 0x0f]);
        assert_eq!(unpack(&long, 8192).map(|(len, _)| len), Err(too_long("a chunk that gives at most 4 KiB")));
        let fits = chunk(&[0b10, b'x', 0xfc, 0x0f]);
        assert_eq!(unpack(&fits, 8192).unwrap().0, 4096);
        assert!(unpack(&fits, 4095).is_err());
        let bytes = chunk(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9]);
        assert_eq!(unpack(&bytes, 9).unwrap().1, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(unpack(&bytes, 8).is_err());
        assert!(unpack(&[0x03, 0x30, 1, 2, 3, 4], 3).is_err());
    }

    fn too_long(expected: &str) -> String {
        format!("content of a chunk at byte 0x4 of LZNT1 data is 0x4: {expected}")
    }

    #[test]
    fn cut_data_and_wrong_headers_are_refused() {
        for (packed, message) in [
            (&[0xff][..], "length of a chunk's header at byte 0x0 of LZNT1 data is 0x1: 2 bytes"),
            (
                &[0x02, 0xb0, 0],
                "length of a chunk at byte 0x0 of LZNT1 data is 0x3: no more than what is left of the input",
            ),
            (&[0x02, 0xa0, 0, 1, 2], "header of a chunk at byte 0x0 of LZNT1 data is 0xa002: 3 in bits 12 to 14"),
            (&[0x02, 0xb0, 2, 1, 2], "length of a repetition's code at byte 0x4 of LZNT1 data is 0x1: 2 bytes"),
        ] {
            assert_eq!(unpack(packed, 4096).unwrap_err(), message);
        }
    }
}
