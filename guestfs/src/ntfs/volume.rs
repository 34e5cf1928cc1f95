//! An open volume: how records and the values of their attributes are reached.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use blockdev::{ByteOffset, ReadAt};

use super::Place;
use super::device::Device;
use super::list::{ListEntry, entries};
use super::name::{Name, UpCase};
use super::record::{Attribute, Body, Record, kind};
use super::runs::Runs;
use super::stream::{Assembly, Stream};
use crate::{CachedDisk, FsError};

/// An attribute list has at most 256 KiB, says Windows.
const MAX_LIST: u64 = 256 << 10;
/// Records of one file that are held at once. Lists are sorted by type, so few of them are wanted by turns.
const MAX_HELD: usize = 64;
/// Record numbers beyond this cannot be told from numbers of streams.
const MAX_RECORDS: u64 = 1 << 32;

/// Record numbers that are the same on every volume.
pub(super) mod known {
    pub(in crate::ntfs) const MFT: u64 = 0;
    pub(in crate::ntfs) const LOG_FILE: u64 = 2;
    pub(in crate::ntfs) const VOLUME: u64 = 3;
    pub(in crate::ntfs) const ROOT: u64 = 5;
    pub(in crate::ntfs) const SECURE: u64 = 9;
    pub(in crate::ntfs) const UPCASE: u64 = 10;
    /// Lower ones are the volume's own files, and have their names in the root.
    pub(in crate::ntfs) const FIRST_USER: u64 = 16;
}

pub(super) struct Volume {
    pub(super) device: Device,
    /// The table of all records.
    mft: Stream,
    /// Read when a name is looked up for the first time.
    upcase: OnceLock<UpCase>,
    /// What was found out about security ids.
    pub(super) descriptors: super::secure::Descriptors,
    /// What could be done without, and users should know.
    pub(super) notes: Vec<String>,
}

/// Which attributes are wanted: type, name, and the first cluster of the piece.
pub(super) type Want<'w> = &'w dyn Fn(u32, Name<'_>, u64) -> bool;

impl Volume {
    pub(super) fn open(disk: Arc<CachedDisk>) -> Result<Self, FsError> {
        let device = Device::open(disk)?;
        let mut notes = Vec::new();
        let at = |place| record_at(&device, place, known::MFT).and_then(|first| open_mft(&device, &first));
        let mft = match at(device.mft) {
            Ok(mft) => mft,
            Err(error) => {
                let copy = at(device.mirror).map_err(|second| lost(error.to_string(), &second))?;
                notes.push(format!("the first record of the MFT is damaged ({error}); its copy is used"));
                copy
            }
        };
        let descriptors = super::secure::Descriptors::default();
        Ok(Self { device, mft, upcase: OnceLock::new(), descriptors, notes })
    }

    /// The record with this number, in use and whole.
    pub(super) fn record(&self, number: u64) -> Result<Record, FsError> {
        let place = Place::Record(number);
        let len = u64::try_from(self.device.record).unwrap_or(u64::MAX);
        let at = number
            .checked_mul(len)
            .filter(|at| number < MAX_RECORDS && at.checked_add(len).is_some_and(|end| end <= self.mft.initialized()));
        let at = at.ok_or_else(|| FsError::NotFound { what: format!("{place}: the MFT ends before it") })?;
        let mut bytes = vec![0; self.device.record];
        self.mft.read(&self.device, self.device.cached(), at, &mut bytes)?;
        Record::parse(number, bytes)
    }

    /// The base record of a file.
    pub(super) fn base_record(&self, number: u64) -> Result<Record, FsError> {
        let record = self.record(number)?;
        match record.base() {
            None => Ok(record),
            Some(base) => {
                let what = format!("{} is no file but a part of record {}", Place::Record(number), base.number());
                Err(FsError::NotFound { what })
            }
        }
    }

    /// Hands the wanted attributes of a file to `each`, those in extension records too, pieces of one value in order.
    pub(super) fn attributes(
        &self,
        base: &Record,
        want: Want<'_>,
        each: &mut dyn FnMut(&Attribute<'_>) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        attributes(&self.device, base, &|number| self.record(number), want, each)
    }

    /// The value of a file's attribute, if it has one of this type and name.
    pub(super) fn stream(&self, base: &Record, kind: u32, name: &[u16]) -> Result<Option<Stream>, FsError> {
        let what = what_of(base.number, kind, name);
        let mut assembly = Assembly::new(&self.device, what);
        let want = |k: u32, n: Name<'_>, _: u64| k == kind && n.units().eq(name.iter().copied());
        self.attributes(base, &want, &mut |piece| assembly.add(piece))?;
        assembly.finish()
    }

    /// A whole value, if it has at most `limit` bytes.
    pub(super) fn value(
        &self,
        base: &Record,
        kind: u32,
        name: &[u16],
        limit: usize,
    ) -> Result<Option<Vec<u8>>, FsError> {
        match self.stream(base, kind, name)? {
            None => Ok(None),
            Some(stream) => self.bytes(&stream, limit, || what_of(base.number, kind, name)).map(Some),
        }
    }

    /// A whole value that describes something, of which no more than `limit` bytes make sense.
    pub(super) fn own_value(
        &self,
        base: &Record,
        kind: u32,
        name: &[u16],
        limit: usize,
    ) -> Result<Option<Vec<u8>>, FsError> {
        self.value(base, kind, name, limit).map_err(|error| match error {
            FsError::TooLarge { what, len, .. } => FsError::Corrupt {
                what,
                field: "size",
                found: len.to_string(),
                expected: "no larger than such values are",
            },
            other => other,
        })
    }

    /// All bytes of a stream that describes something.
    pub(super) fn bytes(&self, stream: &Stream, limit: usize, what: impl Fn() -> String) -> Result<Vec<u8>, FsError> {
        let len = usize::try_from(stream.len()).ok().filter(|len| *len <= limit).ok_or_else(|| FsError::TooLarge {
            what: what(),
            len: blockdev::ByteLen(stream.len()),
            limit: blockdev::ByteLen(u64::try_from(limit).unwrap_or(u64::MAX)),
        })?;
        let mut bytes = vec![0; len];
        stream.read(&self.device, self.device.cached(), 0, &mut bytes)?;
        Ok(bytes)
    }

    /// The volume's table of upper case.
    pub(super) fn upcase(&self) -> Result<&UpCase, FsError> {
        if let Some(table) = self.upcase.get() {
            return Ok(table);
        }
        let record = self.base_record(known::UPCASE)?;
        let bytes = self.own_value(&record, kind::DATA, &[], UpCase::LEN)?.unwrap_or_default();
        if bytes.len() != UpCase::LEN {
            return Err(FsError::Corrupt {
                what: "$UpCase".into(),
                field: "size",
                found: bytes.len().to_string(),
                expected: "128 KiB",
            });
        }
        let table = UpCase::new(&bytes);
        if let Some((unit, upper)) = table.wrong_ascii() {
            return Err(FsError::Corrupt {
                what: "$UpCase".into(),
                field: "upper case of a letter of ASCII",
                found: format!("{upper:#06x} for {unit:#06x}"),
                expected: "as everywhere: no name would be found by this table",
            });
        }
        Ok(self.upcase.get_or_init(|| table))
    }
}

/// The name of a value, for errors.
pub(super) fn what_of(number: u64, kind: u32, name: &[u16]) -> String {
    let label = match kind {
        kind::DATA if !name.is_empty() => format!("the stream {:?}", String::from_utf16_lossy(name)),
        kind::DATA => "the data".to_owned(),
        kind::INDEX_ROOT | kind::INDEX_ALLOCATION | kind::BITMAP => "the index".to_owned(),
        kind::REPARSE_POINT => "the reparse point".to_owned(),
        kind::ATTRIBUTE_LIST => "the attribute list".to_owned(),
        other => format!("attribute {other:#x}"),
    };
    format!("{label} of {}", Place::Record(number))
}

fn lost(first: String, copy: &FsError) -> FsError {
    FsError::Corrupt {
        what: "the MFT".into(),
        field: "first record",
        found: format!("damaged ({first}), and its copy too ({copy})"),
        expected: "one of the two whole",
    }
}

/// Reads a record at a place of the volume.
fn record_at(device: &Device, at: u64, number: u64) -> Result<Record, FsError> {
    let mut bytes = vec![0; device.record];
    let read = device.cached().read_exact_at(ByteOffset(at), &mut bytes);
    read.map_err(|source| FsError::Read { what: Place::Record(number).to_string(), source })?;
    Record::parse(number, bytes)
}

/// The MFT's own value. Its pieces lie in records that lie in the pieces before.
fn open_mft(device: &Device, first: &Record) -> Result<Stream, FsError> {
    let found = RefCell::new(Runs::default());
    let load = |number: u64| {
        let mut bytes = vec![0; device.record];
        let len = u64::try_from(device.record).unwrap_or(u64::MAX);
        let at = number.saturating_mul(len);
        let read = device.read_runs(device.cached(), &found.borrow(), at, &mut bytes);
        read.map_err(|source| FsError::Read { what: Place::Record(number).to_string(), source })?;
        Record::parse(number, bytes)
    };
    let what = || "the MFT".to_owned();
    let mut assembly = Assembly::new(device, what());
    let want = |kind: u32, name: Name<'_>, _: u64| kind == kind::DATA && name.is_empty();
    attributes(device, first, &load, &want, &mut |piece| {
        assembly.add(piece)?;
        if let Body::Clusters(clusters) = piece.body {
            let mut runs = found.borrow_mut();
            runs.add(clusters.pairs, clusters.lowest, clusters.end, device.clusters).map_err(|e| e.of(what()))?;
        }
        Ok(())
    })?;
    assembly.finish()?.filter(Stream::is_plain).ok_or_else(|| FsError::Corrupt {
        what: what(),
        field: "$DATA",
        found: "missing, or not in clusters as it is".into(),
        expected: "a value in clusters, not compressed",
    })
}

/// See [`Volume::attributes`]. `load` reads extension records.
fn attributes(
    device: &Device,
    base: &Record,
    load: &dyn Fn(u64) -> Result<Record, FsError>,
    want: Want<'_>,
    each: &mut dyn FnMut(&Attribute<'_>) -> Result<(), FsError>,
) -> Result<(), FsError> {
    let Some(list) = base.of_kind(kind::ATTRIBUTE_LIST).next() else {
        for attribute in base.attributes() {
            let attribute = attribute?;
            let lowest = match attribute.body {
                Body::Resident(_) => 0,
                Body::Clusters(clusters) => clusters.lowest,
            };
            if want(attribute.kind, attribute.name, lowest) {
                each(&attribute)?;
            }
        }
        return Ok(());
    };
    let bytes = list_bytes(device, base, &list)?;
    let mut held: HashMap<u64, Record> = HashMap::new();
    for entry in entries(&bytes, base.number) {
        let entry = entry?;
        if !want(entry.kind, entry.name, entry.lowest) {
            continue;
        }
        let number = entry.holder.number();
        if number != base.number && !held.contains_key(&number) {
            if held.len() >= MAX_HELD {
                held.clear();
            }
            held.insert(number, load(number)?);
        }
        let holder = held.get(&number).unwrap_or(base);
        check_holder(base, &entry, holder)?;
        each(&entry.find_in(holder)?)?;
    }
    Ok(())
}

/// Makes sure that a record holds attributes of `base`, as an entry of the attribute list says.
fn check_holder(base: &Record, entry: &ListEntry<'_>, record: &Record) -> Result<(), FsError> {
    let corrupt = |field, found: String, expected| FsError::Corrupt {
        what: Place::Record(record.number).to_string(),
        field,
        found,
        expected,
    };
    if record.number != base.number && record.base() != Some(base.reference()) {
        let found = record.base().map_or(0, |base| base.0);
        return Err(corrupt("base record", format!("{found:#x}"), "the file whose attribute list names it"));
    }
    if record.sequence() != entry.holder.sequence() {
        return Err(corrupt("sequence number", record.sequence().to_string(), "that of the attribute list"));
    }
    Ok(())
}

/// An attribute list; where it lies in clusters, in this one piece.
fn list_bytes(device: &Device, base: &Record, list: &Attribute<'_>) -> Result<Vec<u8>, FsError> {
    let what = what_of(base.number, kind::ATTRIBUTE_LIST, &[]);
    if list.len() > MAX_LIST {
        return Err(FsError::Corrupt {
            what,
            field: "size",
            found: list.len().to_string(),
            expected: "at most 256 KiB",
        });
    }
    let mut assembly = Assembly::new(device, what);
    assembly.add(list)?;
    let Some(stream) = assembly.finish()? else { return Ok(Vec::new()) };
    let mut bytes = vec![0; usize::try_from(stream.len()).unwrap_or(0)]; // at most MAX_LIST
    stream.read(device, device.cached(), 0, &mut bytes)?;
    Ok(bytes)
}
