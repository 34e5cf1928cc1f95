//! From text to a descriptor. Which section a line belongs to is told by its shape, not by the comments between them.

use super::lines::{decimal, key_value};
use super::text::decode;
use super::{Access, CreateType, Descriptor, DescriptorError, ExtentLine, MAX_EXTENTS, MAX_KEYS, NO_PARENT};

/// The keys seen so far. A key that decides how the disk is read may stand once only, so that no two readers can
/// disagree about it.
#[derive(Default)]
struct Header {
    version: Option<u32>,
    content_id: Option<u32>,
    parent_content_id: Option<u32>,
    is_native_snapshot: Option<bool>,
    create_type: Option<CreateType>,
    parent_file_name_hint: Option<String>,
    other: Vec<(String, String)>,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Descriptor, DescriptorError> {
    let text = decode(bytes)?;
    let (mut header, mut extents, mut ddb) = (Header::default(), Vec::new(), Vec::new());
    for (number, line) in (1usize..).zip(text.split('\n')) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong =
            |expected| DescriptorError::Line { line: number, actual: line.chars().take(120).collect(), expected };
        if let Some((access, rest)) = extent_start(line) {
            if extents.len() >= MAX_EXTENTS {
                return Err(DescriptorError::TooManyExtents { line: number, limit: MAX_EXTENTS });
            }
            extents.push(ExtentLine::parse(access, rest).map_err(wrong)?);
            continue;
        }
        if header.other.len().saturating_add(ddb.len()) >= MAX_KEYS {
            return Err(wrong("one of at most 4096 keys"));
        }
        let (key, value) = key_value(line).map_err(wrong)?;
        if key.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("ddb.")) {
            ddb.push((key.to_owned(), value.to_owned()));
        } else {
            header.take(key, value).map_err(wrong)?;
        }
    }
    header.finish(extents, ddb)
}

fn extent_start(line: &str) -> Option<(Access, &str)> {
    let (word, rest) = line.split_once(char::is_whitespace)?;
    Some((Access::from_word(word)?, rest))
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), &'static str> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err("a key that did not stand before"),
    }
}

fn content_id(value: &str) -> Result<u32, &'static str> {
    let digits = value.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u32::from_str_radix(value, 16).ok()).flatten().ok_or("a content ID of 1 to 8 hexadecimal digits")
}

fn yes_or_no(value: &str) -> Result<bool, &'static str> {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => Err("yes or no"),
    }
}

impl Header {
    fn take(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key.to_ascii_lowercase().as_str() {
            "version" => {
                let version = decimal(value).and_then(|v| u32::try_from(v).ok());
                let known = version.filter(|v| (1..=4).contains(v)); // 1 by all products, up to 4 in VMware's library
                once(&mut self.version, known.ok_or("version 1 to 4")?)
            }
            "encoding" => Ok(()), // done: the text is decoded
            "cid" => once(&mut self.content_id, content_id(value)?),
            "parentcid" => once(&mut self.parent_content_id, content_id(value)?),
            "isnativesnapshot" => once(&mut self.is_native_snapshot, yes_or_no(value)?),
            "createtype" => once(&mut self.create_type, value.into()),
            "parentfilenamehint" => once(&mut self.parent_file_name_hint, value.to_owned()),
            _ => {
                self.other.push((key.to_owned(), value.to_owned()));
                Ok(())
            }
        }
    }

    fn finish(self, extents: Vec<ExtentLine>, ddb: Vec<(String, String)>) -> Result<Descriptor, DescriptorError> {
        let missing = |key| DescriptorError::Missing { key };
        Ok(Descriptor {
            version: self.version.ok_or(missing("version"))?,
            content_id: self.content_id.ok_or(missing("CID"))?,
            parent_content_id: self.parent_content_id.filter(|id| *id != NO_PARENT),
            is_native_snapshot: self.is_native_snapshot,
            create_type: self.create_type.ok_or(missing("createType"))?,
            parent_file_name_hint: self.parent_file_name_hint,
            other: self.other,
            extents,
            ddb,
        })
    }
}

#[cfg(test)]
mod tests;
