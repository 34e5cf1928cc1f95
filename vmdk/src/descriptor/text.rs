//! From bytes to text, whatever encoding the descriptor declares.

use std::borrow::Cow;
use std::fmt;

use super::{DescriptorError, MAX_DESCRIPTOR_LEN};
use crate::convert::to_u64;

/// The text of a descriptor up to its first NUL.
///
/// Without a declared encoding, text that is valid UTF-8 is taken as that, other text as windows-1252.
pub(super) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, DescriptorError> {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    if bytes.len() > MAX_DESCRIPTOR_LEN {
        return Err(DescriptorError::TooLong { actual: to_u64(bytes.len()), limit: to_u64(MAX_DESCRIPTOR_LEN) });
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match (declared_encoding(bytes), str::from_utf8(bytes)) {
        (_, Ok(text)) if bytes.is_ascii() => Ok(Cow::Borrowed(text)),
        (None, Ok(text)) => Ok(Cow::Borrowed(text)),
        (None, Err(_)) => Ok(Cow::Owned(windows_1252(bytes))),
        (Some(name), decoded) => match (name.to_ascii_lowercase().as_str(), decoded) {
            ("utf-8" | "utf8", Ok(text)) => Ok(Cow::Borrowed(text)),
            ("utf-8" | "utf8", Err(e)) => Err(DescriptorError::NotUtf8 { position: e.valid_up_to() }),
            ("windows-1252" | "cp1252" | "iso-8859-1", _) => Ok(Cow::Owned(windows_1252(bytes))),
            _ => Err(DescriptorError::Encoding { actual: name }),
        },
    }
}

/// The value of the first line `encoding="…"`, which is ASCII in every encoding that products use.
fn declared_encoding(bytes: &[u8]) -> Option<String> {
    bytes.split(|byte| matches!(byte, b'\n' | b'\r')).find_map(|line| {
        let (key, value) = str::from_utf8(line).ok()?.split_once('=')?;
        let value = value.trim().trim_matches('"');
        key.trim().eq_ignore_ascii_case("encoding").then(|| value.to_owned())
    })
}

fn windows_1252(bytes: &[u8]) -> String {
    // Bytes 0x80 to 0x9f of windows-1252 (Unicode's mapping table CP1252.TXT); five are not assigned and stay controls.
    const HIGH_CONTROLS: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘',
        '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    let decode = |byte: &u8| {
        let high = byte.checked_sub(0x80).and_then(|index| HIGH_CONTROLS.get(usize::from(index)));
        high.copied().unwrap_or(char::from(*byte))
    };
    bytes.iter().map(decode).collect()
}

/// Text as it can stand in a descriptor, between quotation marks.
pub(super) struct Value<'a>(pub(super) &'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writable = |c: char| if c == '"' || c.is_control() { '?' } else { c };
        self.0.chars().map(writable).try_for_each(|c| fmt::Write::write_char(f, c))
    }
}
