//! File records and their attributes ("FILE record", "attribute header" in the NTFS documentation of the Linux-NTFS project).
//!
//! Everything is checked when a record is read; what a [`Record`] hands out lies inside it.

use super::name::Name;
use super::{Place, Reference};
use crate::FsError;
use crate::bytes::{u16_at, u32_at, u64_at};

/// Attribute types, by the names in `$AttrDef`.
pub(super) mod kind {
    pub(in crate::ntfs) const STANDARD_INFORMATION: u32 = 0x10;
    pub(in crate::ntfs) const ATTRIBUTE_LIST: u32 = 0x20;
    pub(in crate::ntfs) const FILE_NAME: u32 = 0x30;
    pub(in crate::ntfs) const OBJECT_ID: u32 = 0x40;
    pub(in crate::ntfs) const SECURITY_DESCRIPTOR: u32 = 0x50;
    pub(in crate::ntfs) const VOLUME_NAME: u32 = 0x60;
    pub(in crate::ntfs) const VOLUME_INFORMATION: u32 = 0x70;
    pub(in crate::ntfs) const DATA: u32 = 0x80;
    pub(in crate::ntfs) const INDEX_ROOT: u32 = 0x90;
    pub(in crate::ntfs) const INDEX_ALLOCATION: u32 = 0xa0;
    pub(in crate::ntfs) const BITMAP: u32 = 0xb0;
    pub(in crate::ntfs) const REPARSE_POINT: u32 = 0xc0;
    pub(in crate::ntfs) const EA: u32 = 0xe0;
    pub(in crate::ntfs) const LOGGED_UTILITY_STREAM: u32 = 0x100;
    pub(in crate::ntfs) const END: u32 = 0xffff_ffff;
}

/// Attribute flags.
pub(super) mod flag {
    /// The compression method; 1 is LZNT1, and there is no other.
    pub(in crate::ntfs) const METHOD: u16 = 0x00ff;
    pub(in crate::ntfs) const LZNT1: u16 = 0x0001;
    pub(in crate::ntfs) const ENCRYPTED: u16 = 0x4000;
    pub(in crate::ntfs) const SPARSE: u16 = 0x8000;
}

/// Sectors are protected in strides of this size, whatever the sector size of the disk.
const STRIDE: usize = 512;
const IN_USE: u16 = 1;
const IS_FOLDER: u16 = 2;

/// Undoes the update sequence of a record or an index block: the last two bytes of each 512 were replaced by a number, and a
/// torn write shows by a wrong one.
pub(super) fn fix_up(bytes: &mut [u8], magic: &'static str, place: Place) -> Result<(), FsError> {
    let corrupt = |field, found: String, expected| FsError::Corrupt { what: place.to_string(), field, found, expected };
    if !bytes.starts_with(magic.as_bytes()) {
        let found = bytes.first_chunk::<4>().copied().unwrap_or_default();
        return Err(corrupt("signature", format!("\"{}\"", found.escape_ascii()), magic));
    }
    let strides = bytes.len() / STRIDE;
    let count = usize::from(u16_at(bytes, 6).unwrap_or(0));
    if count != strides.saturating_add(1) {
        return Err(corrupt("update sequence count", count.to_string(), "one more than there are sectors"));
    }
    undo_sequence(bytes)
        .map_err(|(field, found)| corrupt(field, format!("{found:#x}"), "the same in each sector, inside it"))
}

/// Undoes the update sequence of a restart page of the journal, if it is one.
pub(super) fn fix_up_restart(bytes: &mut [u8]) -> Option<()> {
    if !bytes.starts_with(b"RSTR") {
        return None;
    }
    undo_sequence(bytes).ok()
}

/// Puts the replaced bytes back. An error is a field and what was found there.
fn undo_sequence(bytes: &mut [u8]) -> Result<(), (&'static str, u16)> {
    let (offset, count) = (u16_at(bytes, 4).unwrap_or(0), u16_at(bytes, 6).unwrap_or(0));
    let end = usize::from(count).saturating_mul(2).saturating_add(offset.into());
    // The array lies before the first two bytes that it replaces.
    let array = bytes.get(offset.into()..end).filter(|_| offset >= 8 && end <= STRIDE.saturating_sub(2));
    let array = array.ok_or(("update sequence offset", offset))?.to_vec();
    let (number, replaced) = array.split_at_checked(2).ok_or(("update sequence count", count))?;
    for (sector, original) in bytes.chunks_exact_mut(STRIDE).zip(replaced.chunks_exact(2)) {
        let Some(tail) = sector.last_chunk_mut::<2>() else { continue };
        if tail != number {
            return Err(("update sequence number", u16::from_le_bytes(*tail)));
        }
        tail.copy_from_slice(original);
    }
    Ok(())
}

/// A file record, fixed up, whose attributes lie inside it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) number: u64,
    bytes: Vec<u8>,
    first: usize,
    end: usize,
}

impl Record {
    /// Checks the record with this number. One that is not in use is not found.
    pub(super) fn parse(number: u64, mut bytes: Vec<u8>) -> Result<Self, FsError> {
        let place = Place::Record(number);
        fix_up(&mut bytes, "FILE", place)?;
        let corrupt = |field, found: u64, expected| FsError::Corrupt {
            what: place.to_string(),
            field,
            found: found.to_string(),
            expected,
        };
        // Since NTFS 3.1 a record knows its number; before, the update sequence array lay there.
        let written = u32_at(&bytes, 0x2c).unwrap_or(0).into();
        if u16_at(&bytes, 4).is_some_and(|array| array >= 0x30) && written != number {
            return Err(corrupt("number of the record", written, "that of its place in the MFT"));
        }
        let first = u16_at(&bytes, 0x14).unwrap_or(0);
        let used = u32_at(&bytes, 0x18).unwrap_or(0);
        let flags = u16_at(&bytes, 0x16).unwrap_or(0);
        if flags & IN_USE == 0 {
            return Err(FsError::NotFound { what: format!("{place} (it is not in use)") });
        }
        let end = crate::bytes::index(used);
        if end > bytes.len() {
            return Err(corrupt("bytes in use", used.into(), "at most the size of the record"));
        }
        let record = Self { number, bytes, first: first.into(), end };
        if record.first < 0x2a || record.first.saturating_add(4) > end || !record.first.is_multiple_of(8) {
            return Err(corrupt("offset of the first attribute", first.into(), "a multiple of 8 inside the record"));
        }
        for attribute in record.attributes() {
            attribute?;
        }
        Ok(record)
    }

    pub(super) fn is_folder(&self) -> bool {
        self.u16(0x16) & IS_FOLDER != 0
    }

    pub(super) fn sequence(&self) -> u16 {
        self.u16(0x10)
    }

    /// How many names the file has, short ones included.
    pub(super) fn links(&self) -> u16 {
        self.u16(0x12)
    }

    /// The record that this one extends, if it does.
    pub(super) fn base(&self) -> Option<Reference> {
        let base = Reference(u64_at(&self.bytes, 0x20).unwrap_or(0));
        if base.0 == 0 { None } else { Some(base) }
    }

    /// What names this very record.
    pub(super) fn reference(&self) -> Reference {
        Reference::new(self.number, self.sequence())
    }

    fn u16(&self, at: usize) -> u16 {
        u16_at(&self.bytes, at).unwrap_or(0) // the header was checked to be there
    }

    /// The attributes in the order of the record. Errors end the walk; a record that was parsed has none.
    pub(super) fn attributes(&self) -> Attributes<'_> {
        Attributes { record: self, at: Some(self.first), before: 0 }
    }

    /// The attributes of one type.
    pub(super) fn of_kind(&self, kind: u32) -> impl Iterator<Item = Attribute<'_>> {
        self.attributes().filter_map(Result::ok).filter(move |attribute| attribute.kind == kind)
    }
}

/// An attribute in its record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute<'a> {
    pub(super) kind: u32,
    pub(super) name: Name<'a>,
    pub(super) flags: u16,
    pub(super) instance: u16,
    pub(super) body: Body<'a>,
}

/// Where the value of an attribute is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body<'a> {
    /// In the record.
    Resident(&'a [u8]),
    /// In clusters, or some of it.
    Clusters(Clusters<'a>),
}

/// The header of a value that lies in clusters. The sizes hold where `lowest` is 0, and are not there elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clusters<'a> {
    /// The first cluster of the value that this piece maps.
    pub(super) lowest: u64,
    /// The first one behind those it maps.
    pub(super) end: u64,
    /// Log2 of the clusters per compression unit; 0 for none.
    pub(super) unit: u8,
    pub(super) allocated: u64,
    pub(super) size: u64,
    pub(super) initialized: u64,
    /// What compressed and sparse values take.
    pub(super) compressed: Option<u64>,
    /// The runs, packed ("mapping pairs").
    pub(super) pairs: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The value, where it lies in the record.
    pub(super) const fn resident(&self) -> Option<&'a [u8]> {
        match self.body {
            Body::Resident(value) => Some(value),
            Body::Clusters(_) => None,
        }
    }

    /// The length of the value, where this piece knows it.
    pub(super) fn len(&self) -> u64 {
        match self.body {
            Body::Resident(value) => u64::try_from(value.len()).unwrap_or(u64::MAX),
            Body::Clusters(clusters) => clusters.size,
        }
    }
}

/// Walks the attributes of a record.
pub(super) struct Attributes<'a> {
    record: &'a Record,
    at: Option<usize>,
    /// The type of the attribute before.
    before: u32,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, FsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at.take()?;
        let place = Place::Record(self.record.number);
        let corrupt = |field, found: u64, expected| {
            let what = format!("the attribute at byte {at:#x} of {place}");
            Some(Err(FsError::Corrupt { what, field, found: format!("{found:#x}"), expected }))
        };
        let used = self.record.bytes.get(..self.record.end).unwrap_or_default();
        let Some(kind) = u32_at(used, at) else {
            return corrupt("type", 0, "inside the bytes in use: the end marker is missing");
        };
        if kind == kind::END {
            return None;
        }
        if kind == 0 || kind % 16 != 0 || kind < self.before {
            return corrupt("type", kind.into(), "a multiple of 16, and no less than the type before");
        }
        self.before = kind;
        let len = u32_at(used, at.saturating_add(4)).unwrap_or(0);
        let whole = at.checked_add(crate::bytes::index(len)).and_then(|end| used.get(at..end));
        let Some(bytes) = whole.filter(|bytes| bytes.len() >= 0x18 && bytes.len().is_multiple_of(8)) else {
            return corrupt("length", len.into(), "a multiple of 8 from 24 to the end of the record");
        };
        self.at = at.checked_add(bytes.len());
        match parse(kind, bytes) {
            Ok(attribute) => Some(Ok(attribute)),
            Err((field, found, expected)) => {
                self.at = None;
                corrupt(field, found, expected)
            }
        }
    }
}

type Wrong = (&'static str, u64, &'static str);

/// Reads one attribute, header first.
fn parse(kind: u32, bytes: &[u8]) -> Result<Attribute<'_>, Wrong> {
    let u8_at = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let name_len = usize::from(u8_at(9)).saturating_mul(2);
    let name_at = usize::from(u16_at(bytes, 0x0a).unwrap_or(0));
    let name = match name_len {
        0 => Some(&[][..]),
        _ => name_at.checked_add(name_len).and_then(|end| bytes.get(name_at..end)),
    };
    let name = name.ok_or((
        "offset of the name",
        u64::try_from(name_at).unwrap_or(0),
        "such that the name lies inside the attribute",
    ))?;
    let name_end = if name_len == 0 { 0 } else { name_at.saturating_add(name_len) };
    let (flags, instance) = (u16_at(bytes, 0x0c).unwrap_or(0), u16_at(bytes, 0x0e).unwrap_or(0));
    let body = match u8_at(8) {
        0 => Body::Resident(resident(bytes, name_end)?),
        1 => Body::Clusters(clusters(bytes, name_end)?),
        other => return Err(("resident flag", other.into(), "0 or 1")),
    };
    Ok(Attribute { kind, name: Name(name), flags, instance, body })
}

/// The value, which lies behind header and name.
fn resident(bytes: &[u8], name_end: usize) -> Result<&[u8], Wrong> {
    let len = u32_at(bytes, 0x10).unwrap_or(u32::MAX);
    let offset = u16_at(bytes, 0x14).unwrap_or(0);
    let at = usize::from(offset);
    if at < name_end.max(0x18) {
        return Err(("offset of the value", offset.into(), "behind the header and the name of the attribute"));
    }
    let end = at.saturating_add(crate::bytes::index(len));
    bytes.get(at..end).ok_or(("length of the value", len.into(), "inside the attribute"))
}

/// What the header says of the clusters. Its sizes follow from each other as Linux demands too (`fs/ntfs3/record.c`).
fn clusters(bytes: &[u8], name_end: usize) -> Result<Clusters<'_>, Wrong> {
    let u64_at = |at| u64_at(bytes, at).ok_or(("length", 0, "at least 64 for a value in clusters"));
    let (lowest, highest) = (u64_at(0x10)?, u64_at(0x18)?);
    // The highest cluster of an empty value is -1.
    let end = highest.wrapping_add(1);
    if end < lowest || end >> 52 != 0 {
        return Err(("highest VCN", highest, "at least the lowest VCN, and below 2^52"));
    }
    let pairs_at = u16_at(bytes, 0x20).unwrap_or(0);
    let behind = usize::from(pairs_at) >= name_end.max(0x40);
    let pairs = bytes.get(usize::from(pairs_at)..).filter(|_| behind);
    let pairs = pairs.ok_or(("offset of the runs", pairs_at.into(), "behind header and name, inside the attribute"))?;
    let (allocated, size, initialized) = (u64_at(0x28)?, u64_at(0x30)?, u64_at(0x38)?);
    if lowest == 0 && (size > allocated || allocated >> 63 != 0) {
        return Err(("size", size, "at most the allocated size, which is below 2^63"));
    }
    if lowest == 0 && initialized > size {
        return Err(("initialized size", initialized, "at most the size"));
    }
    let flags = u16_at(bytes, 0x0c).unwrap_or(0);
    let unit = bytes.get(0x22).copied().unwrap_or(0);
    if unit > 8 {
        return Err(("compression unit", unit.into(), "at most 8"));
    }
    let packed = flags & (flag::METHOD | flag::SPARSE) != 0 && lowest == 0 && pairs_at >= 0x48;
    Ok(Clusters {
        lowest,
        end,
        unit,
        allocated,
        size,
        initialized,
        compressed: if packed { Some(u64_at(0x40)?) } else { None },
        pairs,
    })
}
