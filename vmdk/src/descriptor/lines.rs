//! One line of a descriptor: an extent, or a key with its value. Quotes are seen first: names contain spaces and `=`.

use std::fmt;

use blockdev::Sectors;

use super::text::Value;
use super::{Access, ExtentType};

/// An extent: a part of the disk, and the file that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentLine {
    /// What may be done with it.
    pub access: Access,
    /// Its size on the disk.
    pub sectors: Sectors,
    /// How the file holds it.
    pub kind: ExtentType,
    /// The name of the file; `None` just for [`ExtentType::Zero`] and extents that cannot be accessed.
    pub file: Option<String>,
    /// Where it begins inside a flat file. VMFS extents have none and begin at 0.
    pub offset: Option<Sectors>,
}

impl ExtentLine {
    /// An extent that can be written to, without an offset.
    #[must_use]
    pub fn rw(sectors: Sectors, kind: ExtentType, file: &str) -> Self {
        Self { access: Access::Rw, sectors, kind, file: Some(file.to_owned()), offset: None }
    }

    /// Reads the words of an extent line; the error says what was expected.
    pub(super) fn parse(access: Access, rest: &str) -> Result<Self, &'static str> {
        let mut words = Words(rest);
        let sectors = words.next()?.and_then(Word::number).ok_or("a count of sectors after the access")?;
        let kind = words.next()?.and_then(Word::bare).ok_or("an extent type after the sectors")?;
        let file = match words.next()? {
            Some(Word::Quoted(name)) if !name.is_empty() => Some(name.to_owned()),
            None => None,
            Some(_) => return Err("a file name in quotation marks after the type"),
        };
        let offset = match words.next()? {
            Some(word) => Some(Sectors(word.number().ok_or("an offset in sectors after the file name")?)),
            None => None,
        };
        // Words behind the offset name partitions of devices, which a gate knows by the file's name.
        let line = Self { access, sectors: Sectors(sectors), kind: kind.into(), file, offset };
        if line.file.is_none() && line.kind != ExtentType::Zero && access != Access::NoAccess {
            return Err("a file name in quotation marks after the type");
        }
        Ok(line)
    }
}

impl fmt::Display for ExtentLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.access.as_str(), self.sectors.0, Value(self.kind.as_str()))?;
        if let Some(file) = &self.file {
            write!(f, " \"{}\"", Value(file))?;
        }
        if let Some(offset) = self.offset {
            write!(f, " {}", offset.0)?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Word<'a> {
    Bare(&'a str),
    Quoted(&'a str),
}

impl<'a> Word<'a> {
    const fn bare(self) -> Option<&'a str> {
        match self {
            Self::Bare(text) => Some(text),
            Self::Quoted(_) => None,
        }
    }

    fn number(self) -> Option<u64> {
        self.bare().and_then(decimal)
    }
}

/// Digits only: `u64::from_str` would take a sign.
pub(super) fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<Option<Word<'a>>, &'static str> {
        let text = self.0.trim_start();
        if let Some(quoted) = text.strip_prefix('"') {
            let (name, rest) = quoted.split_once('"').ok_or("a closing quotation mark")?;
            self.0 = rest;
            return Ok(Some(Word::Quoted(name)));
        }
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        self.0 = rest;
        Ok((!word.is_empty()).then_some(Word::Bare(word)))
    }
}

/// Splits `key = "value"` or `key=value`; the error says what was expected.
pub(super) fn key_value(line: &str) -> Result<(&str, &str), &'static str> {
    let (key, value) = line.split_once('=').ok_or("a key with its value, or an extent")?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || key.contains('"') {
        return Err("a key before the equals sign");
    }
    match value.strip_prefix('"') {
        Some(quoted) => {
            let (value, rest) = quoted.split_once('"').ok_or("a closing quotation mark")?;
            if rest.trim().is_empty() { Ok((key, value)) } else { Err("nothing behind the closing quotation mark") }
        }
        None => Ok((key, value)),
    }
}
