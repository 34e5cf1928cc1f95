//! From bytes to text, whatever encoding the descriptor declares.

use std::borrow::Cow;
use std::fmt;

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

use super::{DescriptorError, MAX_DESCRIPTOR_LEN};
use crate::convert::to_u64;

/// The text of a descriptor up to its first NUL.
///
/// Without a declared encoding, text that is valid UTF-8 is taken as that, other text as windows-1252. The names of
/// encodings are those of the Encoding Standard (encoding.spec.whatwg.org, section 4.2), among which are all that products
/// write. Those of which ASCII is no part are refused: the declaration could not be read.
pub(super) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, DescriptorError> {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    if bytes.len() > MAX_DESCRIPTOR_LEN {
        return Err(DescriptorError::TooLong { actual: to_u64(bytes.len()), limit: to_u64(MAX_DESCRIPTOR_LEN) });
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let utf8 = str::from_utf8(bytes);
    if let (Ok(text), true) = (utf8, bytes.is_ascii()) {
        return Ok(Cow::Borrowed(text));
    }
    let Some(name) = declared_encoding(bytes) else {
        return Ok(utf8.map_or_else(|_| WINDOWS_1252.decode_without_bom_handling(bytes).0, Cow::Borrowed));
    };
    match Encoding::for_label(name.as_bytes()) {
        Some(encoding) if encoding == UTF_8 => match utf8 {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(e) => Err(DescriptorError::NotUtf8 { position: e.valid_up_to() }),
        },
        Some(encoding) if encoding.is_ascii_compatible() => {
            let text = encoding.decode_without_bom_handling_and_without_replacement(bytes);
            text.ok_or(DescriptorError::Undecodable { encoding: name })
        }
        _ => Err(DescriptorError::Encoding { actual: name }),
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

/// Text as it can stand in a descriptor, between quotation marks.
pub(super) struct Value<'a>(pub(super) &'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writable = |c: char| if c == '"' || c.is_control() { '?' } else { c };
        self.0.chars().map(writable).try_for_each(|c| fmt::Write::write_char(f, c))
    }
}
