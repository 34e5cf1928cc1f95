//! Names are UTF-16 on the volume and bytes for those who read it.

/// UTF-16 as bytes: UTF-8, and a lone surrogate in three bytes as if it were a character.
pub(crate) fn wtf8(units: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => {
                let unit = lone.unpaired_surrogate();
                let low = |bits: u16| u8::try_from(bits & 0x3f).unwrap_or(0) | 0x80; // six bits
                bytes.extend_from_slice(&[0xed, low(unit >> 6), low(unit)]);
            }
        }
    }
    bytes
}

/// A name that can stand in a path: `/` and NUL are written as `%2F` and `%00`, as are the dots of `.` and `..`, and
/// a name of no characters is `%20`.
pub(crate) fn presented(name: Vec<u8>) -> Vec<u8> {
    let dots = name == b"." || name == b"..";
    if name.is_empty() {
        return b"%20".to_vec();
    }
    if !dots && !name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return name;
    }
    let escaped = |byte: u8| match byte {
        b'/' => b"%2F".to_vec(),
        0 => b"%00".to_vec(),
        b'.' if dots => b"%2E".to_vec(),
        other => vec![other],
    };
    name.into_iter().flat_map(escaped).collect()
}

/// The units of a name, each in upper case by `upper`; `None` for bytes that no name has.
pub(crate) fn fold(name: &[u8], upper: impl Fn(u16) -> u16) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(name.len());
    let mut rest = name;
    loop {
        let (valid, lone) = match std::str::from_utf8(rest) {
            Ok(all) => (all, None),
            Err(error) => {
                let (valid, tail) = rest.split_at_checked(error.valid_up_to())?;
                let (lone, tail) = lone_surrogate(tail)?;
                rest = tail;
                (std::str::from_utf8(valid).ok()?, Some(lone))
            }
        };
        units.extend(valid.encode_utf16().map(&upper));
        match lone {
            Some(lone) => units.push(upper(lone)),
            None => return Some(units),
        }
    }
}

fn lone_surrogate(bytes: &[u8]) -> Option<(u16, &[u8])> {
    match bytes {
        [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, rest @ ..] => {
            let bits = |byte: u8| u16::from(byte & 0x3f);
            Some((0xd000 | bits(*second) << 6 | bits(*third), rest))
        }
        _ => None,
    }
}

/// The upper case of a unit by Unicode, where that is one unit too.
pub(crate) fn upper(unit: u16) -> u16 {
    let Some(c) = char::from_u32(unit.into()) else { return unit };
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => u16::try_from(u32::from(one)).unwrap_or(unit),
        _ => unit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_surrogate_survives_both_ways() {
        let units = [0x61, 0xd83d, 0xde00, 0xdc00, 0x62];
        let name = wtf8(units);
        assert_eq!(name, b"a\xf0\x9f\x98\x80\xed\xb0\x80b");
        assert_eq!(fold(&name, |unit| unit).unwrap(), units);
        assert_eq!(fold(b"a\xff", |unit| unit), None);
        assert_eq!(fold("ßäж".as_bytes(), upper).unwrap(), "ßÄЖ".encode_utf16().collect::<Vec<_>>());
    }

    #[test]
    fn names_that_would_leave_their_folder_are_spelled_out() {
        for (name, shown) in
            [("a/b", "a%2Fb"), ("..", "%2E%2E"), (".", "%2E"), ("...", "..."), ("", "%20"), ("\0", "%00")]
        {
            assert_eq!(presented(name.as_bytes().to_vec()), shown.as_bytes());
        }
    }
}
