//! Names: UTF-16 on disk, bytes outside.

use std::cmp::Ordering;

/// Text in UTF-16, little-endian, as it lies on disk. Any units at all: lone surrogates occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name<'a>(pub(super) &'a [u8]);

impl<'a> Name<'a> {
    pub(super) fn units(self) -> impl Iterator<Item = u16> + 'a {
        let (pairs, _) = self.0.as_chunks::<2>();
        pairs.iter().map(|pair| u16::from_le_bytes(*pair))
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Whether the name is this ASCII text.
    pub(super) fn is(self, ascii: &str) -> bool {
        self.units().eq(ascii.bytes().map(u16::from))
    }

    /// UTF-8, where a lone surrogate is written in three bytes as if it were a character (WTF-8): so names stay apart, and ntfs-3g
    /// does the same.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len());
        push_utf8(self.units(), &mut bytes);
        bytes
    }

    /// Text for people.
    pub(super) fn to_text(self) -> String {
        String::from_utf8_lossy(&self.to_bytes()).into_owned()
    }

    /// One component of a path. What no component may hold (`/`, NUL) and what means something else (`.`, `..`) is written as `%XX`, so
    /// that nothing is missing.
    pub(super) fn to_component(self) -> Vec<u8> {
        let bytes = self.to_bytes();
        let dots = bytes == b"." || bytes == b"..";
        if !dots && !bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return bytes;
        }
        let mut escaped = Vec::with_capacity(bytes.len().saturating_mul(3));
        for byte in bytes {
            if dots || matches!(byte, b'/' | 0) {
                escaped.extend(format!("%{byte:02X}").bytes());
            } else {
                escaped.push(byte);
            }
        }
        escaped
    }
}

/// The form of [`Name::to_bytes`], from units.
pub(super) fn bytes_of(units: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(units.len());
    push_utf8(units.iter().copied(), &mut bytes);
    bytes
}

fn push_utf8(units: impl Iterator<Item = u16>, bytes: &mut Vec<u8>) {
    for decoded in char::decode_utf16(units) {
        match decoded {
            Ok(character) => bytes.extend(character.encode_utf8(&mut [0; 4]).bytes()),
            Err(lone) => {
                let unit = lone.unpaired_surrogate();
                let low = |shift: u32| u8::try_from((unit >> shift) & 0x3f).unwrap_or(0) | 0x80;
                bytes.extend([0xed, low(6), low(0)]); // surrogates are D800 to DFFF: their first four bits are 1101
            }
        }
    }
}

/// The units of a component as [`Name::to_bytes`] writes them. `None` for bytes that no name gives.
pub(super) fn units_of(bytes: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let (valid, tail) = match std::str::from_utf8(rest) {
            Ok(text) => (text, &[][..]),
            Err(error) => {
                let (valid, tail) = rest.split_at_checked(error.valid_up_to())?;
                (std::str::from_utf8(valid).ok()?, tail)
            }
        };
        units.extend(valid.encode_utf16());
        rest = match tail {
            [] => tail,
            [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, tail @ ..] => {
                units.push(0xd000 | (u16::from(second & 0x3f) << 6) | u16::from(third & 0x3f));
                tail
            }
            _ => return None,
        };
    }
    Some(units)
}

/// `$UpCase`: what the volume takes for the upper case of each unit.
pub(super) struct UpCase(Vec<u16>);

impl UpCase {
    /// The length of the table in bytes.
    pub(super) const LEN: usize = 0x2_0000;

    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(Name(bytes).units().collect())
    }

    /// A unit of ASCII, and what the table takes for its upper case, if that is wrong.
    pub(super) fn wrong_ascii(&self) -> Option<(u16, u16)> {
        let upper = |unit: u8| (u16::from(unit), self.of(unit.into()));
        (0..0x80u8).find(|unit| self.of((*unit).into()) != u16::from(unit.to_ascii_uppercase())).map(upper)
    }

    fn of(&self, unit: u16) -> u16 {
        self.0.get(usize::from(unit)).copied().unwrap_or(unit)
    }

    /// The order of names in a folder, where case does not matter.
    pub(super) fn compare(&self, a: &[u16], b: Name<'_>) -> Ordering {
        a.iter().map(|unit| self.of(*unit)).cmp(b.units().map(|unit| self.of(unit)))
    }
}

/// The order of names that differ in case only.
pub(super) fn compare_exact(a: &[u16], b: Name<'_>) -> Ordering {
    a.iter().copied().cmp(b.units())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_disk(units: &[u16]) -> Vec<u8> {
        units.iter().flat_map(|unit| unit.to_le_bytes()).collect()
    }

    #[test]
    fn any_units_survive_the_way_out_and_back() {
        for units in [
            &[0x41, 0xe4, 0x4e2d][..],
            &[0xd83d, 0xde00],
            &[0xd83d],
            &[0xde00, 0xd83d],
            &[0x41, 0xdfff, 0x42],
            &[0xd800, 0x41],
        ] {
            let disk = on_disk(units);
            let bytes = Name(&disk).to_bytes();
            assert_eq!(units_of(&bytes).as_deref(), Some(units), "{bytes:x?}");
        }
        assert_eq!(Name(&on_disk(&[0xd83d])).to_bytes(), [0xed, 0xa0, 0xbd]);
        for bad in [&[0xff][..], &[0xed, 0xa0], &[0xc3], b"a\xed\x20\x20"] {
            assert_eq!(units_of(bad), None);
        }
    }

    #[test]
    fn what_no_path_may_hold_is_escaped() {
        for (name, component) in
            [("a/b", "a%2Fb"), (".", "%2E"), ("..", "%2E%2E"), ("...", "..."), ("a\0", "a%00"), ("%2F", "%2F")]
        {
            let disk = on_disk(&name.encode_utf16().collect::<Vec<_>>());
            assert_eq!(Name(&disk).to_component(), component.as_bytes());
        }
    }
}
