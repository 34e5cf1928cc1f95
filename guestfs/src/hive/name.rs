//! Names of keys and values: Latin-1 ("compressed") or UTF-16, without regard to case.

/// The text of a name. What is no text in it is replaced.
pub(super) fn decode(bytes: &[u8], latin_1: bool) -> String {
    if latin_1 {
        return bytes.iter().copied().map(char::from).collect();
    }
    let units = bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Whether two names are the same to Windows, which compares them in upper case, character by character.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.chars().map(upper).eq(other.chars().map(upper))
}

fn upper(c: char) -> char {
    let mut all = c.to_uppercase();
    match (all.next(), all.next()) {
        (Some(upper), None) => upper,
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_by_more_than_case() {
        assert!(same("MountedDevices", "mOUNTEDdEVICES"));
        assert!(same("größe", "GRÖßE"));
        assert!(!same("größe", "GRÖSSE"));
        assert!(!same("größe", "GRÖSE"));
        assert!(!same("a", "ab"));
    }

    #[test]
    fn names_of_both_forms_are_read() {
        assert_eq!(decode(b"\xc4b", true), "Äb");
        assert_eq!(decode(b"\xc4\0b\0", false), "Äb");
        assert_eq!(decode(b"\x00\xd8b\0", false), "\u{fffd}b");
    }
}
