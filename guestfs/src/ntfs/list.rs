//! Attribute lists: where the attributes of a file are that do not fit into its record.

use super::name::Name;
use super::record::{Attribute, Body, Record};
use super::{Place, Reference};
use crate::FsError;
use crate::bytes::{u16_at, u32_at, u64_at};

/// One line of an attribute list.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListEntry<'a> {
    pub(super) kind: u32,
    pub(super) name: Name<'a>,
    /// The first cluster of the piece.
    pub(super) lowest: u64,
    /// The record that holds it.
    pub(super) holder: Reference,
    instance: u16,
}

impl ListEntry<'_> {
    /// The attribute that this entry means, in the record it names.
    pub(super) fn find_in<'r>(&self, holder: &'r Record) -> Result<Attribute<'r>, FsError> {
        let meant = |attribute: &Attribute<'_>| {
            let lowest = match attribute.body {
                Body::Resident(_) => 0,
                Body::Clusters(clusters) => clusters.lowest,
            };
            let same = attribute.instance == self.instance && lowest == self.lowest;
            same && attribute.name.units().eq(self.name.units())
        };
        holder.of_kind(self.kind).find(meant).ok_or_else(|| FsError::Corrupt {
            what: Place::Record(holder.number).to_string(),
            field: "attribute",
            found: format!("missing: type {:#x}, instance {}, VCN {}", self.kind, self.instance, self.lowest),
            expected: "there, because an attribute list names it",
        })
    }
}

/// The entries of the list of record `number`. An error ends the walk.
pub(super) fn entries(bytes: &[u8], number: u64) -> Entries<'_> {
    Entries { bytes, at: 0, number, before: 0 }
}

pub(super) struct Entries<'a> {
    bytes: &'a [u8],
    at: usize,
    number: u64,
    /// The type of the entry before.
    before: u32,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<ListEntry<'a>, FsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.at..)?;
        if rest.is_empty() {
            return None;
        }
        let at = self.at;
        let corrupt = |field, found, expected| FsError::Corrupt {
            what: format!("the attribute list of {} at byte {at:#x}", Place::Record(self.number)),
            field,
            found,
            expected,
        };
        let error = match parse(rest) {
            Some((entry, len)) if entry.kind != 0 && entry.kind % 16 == 0 && entry.kind >= self.before => {
                self.at = self.at.saturating_add(len);
                self.before = entry.kind;
                return Some(Ok(entry));
            }
            // ntfs-3g and Windows look things up by this order.
            Some((entry, _)) => corrupt(
                "type of an entry",
                format!("{:#x}", entry.kind),
                "a multiple of 16, and no less than the type before",
            ),
            None => corrupt(
                "length of an entry",
                u16_at(rest, 4).map_or("missing".into(), |len| len.to_string()),
                "26 bytes and the name, inside the list",
            ),
        };
        self.at = usize::MAX;
        Some(Err(error))
    }
}

fn parse(rest: &[u8]) -> Option<(ListEntry<'_>, usize)> {
    let len = usize::from(u16_at(rest, 4)?);
    let entry = rest.get(..len)?;
    let name_len = usize::from(*entry.get(6)?).checked_mul(2)?;
    let name_at = usize::from(*entry.get(7)?);
    let name = if name_len == 0 { &[][..] } else { entry.get(name_at..name_at.checked_add(name_len)?)? };
    let entry = ListEntry {
        kind: u32_at(entry, 0)?,
        name: Name(name),
        lowest: u64_at(entry, 8)?,
        holder: Reference(u64_at(entry, 0x10)?),
        instance: u16_at(entry, 0x18)?,
    };
    Some((entry, len))
}
