//! A file of the volume: what its record says of it.

use blockdev::ByteLen;

use super::Reference;
use super::name::Name;
use super::record::{Record, kind};
use super::reparse::{self, Tag};
use super::stream::Stream;
use super::volume::{Volume, what_of};
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::{FileKind, FsError, Metadata, Timestamp};

/// Attributes of files, as Windows calls them.
pub(super) mod attribute {
    pub(in crate::ntfs) const SYSTEM: u32 = 0x4;
    pub(in crate::ntfs) const DIRECTORY: u32 = 0x10;
    pub(in crate::ntfs) const NORMAL: u32 = 0x80;
    pub(in crate::ntfs) const REPARSE_POINT: u32 = 0x400;
    pub(in crate::ntfs) const OFFLINE: u32 = 0x1000;
    pub(in crate::ntfs) const RECALL_ON_OPEN: u32 = 0x4_0000;
    pub(in crate::ntfs) const RECALL_ON_DATA_ACCESS: u32 = 0x40_0000;
}

/// Names that belong to another one, made for DOS.
const DOS: u8 = 2;
/// What a symbolic link of Interix begins with, and ntfs-3g makes.
const INTERIX_LINK: &[u8] = b"IntxLNK\x01";
/// Links have at most this many units of text.
const MAX_INTERIX: u64 = 8 + 2 * 4096;

/// `$STANDARD_INFORMATION`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standard {
    /// 100 ns since 1601: created, modified, changed, accessed.
    pub(super) times: [u64; 4],
    pub(super) attributes: u32,
    /// Where the security descriptor is found; 0 is none.
    pub(super) security: u32,
}

impl Standard {
    pub(super) fn of(record: &Record) -> Result<Self, FsError> {
        let value = record.of_kind(kind::STANDARD_INFORMATION).find_map(|attribute| attribute.resident());
        let parse = |value: &[u8]| {
            let times = [u64_at(value, 0)?, u64_at(value, 8)?, u64_at(value, 0x10)?, u64_at(value, 0x18)?];
            Some(Self { times, attributes: u32_at(value, 0x20)?, security: u32_at(value, 0x34).unwrap_or(0) })
        };
        value.and_then(parse).ok_or_else(|| FsError::Corrupt {
            what: super::Place::Record(record.number).to_string(),
            field: "$STANDARD_INFORMATION",
            found: "missing or short".into(),
            expected: "48 bytes at least",
        })
    }
}

/// A name of a file: `$FILE_NAME`, which is also the key of folders' indexes.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileName<'a> {
    pub(super) parent: Reference,
    /// As far as the folder kept account.
    pub(super) attributes: u32,
    namespace: u8,
    pub(super) name: Name<'a>,
}

impl<'a> FileName<'a> {
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let len = usize::from(*value.get(0x40)?).checked_mul(2)?;
        let name = value.get(0x42..0x42_usize.checked_add(len)?)?;
        if name.is_empty() {
            return None;
        }
        let (parent, attributes) = (Reference(u64_at(value, 0)?), u32_at(value, 0x38)?);
        Some(Self { parent, attributes, namespace: *value.get(0x41)?, name: Name(name) })
    }

    /// Whether this is a short name that belongs to a long one.
    pub(super) const fn is_dos(&self) -> bool {
        self.namespace == DOS
    }
}

/// 100 ns since 1601 as a moment.
pub(super) fn moment(time: u64) -> Timestamp {
    /// From 1601 to 1970.
    const EPOCH: i64 = 11_644_473_600;
    const PER_SECOND: i64 = 10_000_000;
    let time = i64::from_le_bytes(time.to_le_bytes());
    let nanos = time.rem_euclid(PER_SECOND).saturating_mul(100);
    Timestamp {
        seconds: time.div_euclid(PER_SECOND).saturating_sub(EPOCH),
        nanos: u32::try_from(nanos).unwrap_or(0), // below 10^9
    }
}

/// A file or one of its streams.
pub(super) struct File<'v> {
    pub(super) volume: &'v Volume,
    pub(super) record: Record,
    pub(super) standard: Standard,
    /// Its reparse tag, if it has one.
    pub(super) tag: Option<Tag>,
}

impl<'v> File<'v> {
    pub(super) fn load(volume: &'v Volume, number: u64) -> Result<Self, FsError> {
        let record = volume.base_record(number)?;
        let standard = Standard::of(&record)?;
        let marked = standard.attributes & attribute::REPARSE_POINT != 0;
        // Data without the mark, or a mark without data: what is there must not pass for an ordinary file.
        let tag = match reparse::data(volume, &record)? {
            Some(data) => Some(Tag::of(&data)),
            None => marked.then_some(Tag::NONE),
        };
        Ok(Self { volume, record, standard, tag })
    }

    pub(super) fn what(&self, kind: u32, name: &[u16]) -> String {
        what_of(self.record.number, kind, name)
    }

    pub(super) fn kind(&self) -> Result<FileKind, FsError> {
        if self.tag == Some(Tag::NONE) {
            return Err(FsError::Corrupt {
                what: self.what(kind::REPARSE_POINT, &[]),
                field: "tag",
                found: "missing".into(),
                expected: "there, because the file is marked as a reparse point",
            });
        }
        if self.tag.is_some_and(Tag::is_link) || self.interix_link()?.is_some() {
            return Ok(FileKind::Link);
        }
        Ok(if self.record.is_folder() { FileKind::Folder } else { FileKind::File })
    }

    /// Whether its bytes are packed by Windows in a way that we unpack.
    pub(super) fn is_unpacked(&self) -> Result<bool, FsError> {
        if self.tag != Some(Tag::WOF) {
            return Ok(false);
        }
        match reparse::algorithm(self) {
            Ok(_) => Ok(true),
            Err(FsError::Unsupported { .. } | FsError::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The text of an Interix link, in UTF-16, if the file is one.
    pub(super) fn interix_link(&self) -> Result<Option<Vec<u8>>, FsError> {
        if self.standard.attributes & attribute::SYSTEM == 0 || self.record.is_folder() {
            return Ok(None);
        }
        let Some(stream) = self.volume.stream(&self.record, kind::DATA, &[])? else { return Ok(None) };
        if !(9..=MAX_INTERIX).contains(&stream.len()) || stream.is_encrypted() {
            return Ok(None);
        }
        let limit = usize::try_from(MAX_INTERIX).unwrap_or(0);
        let bytes = self.volume.bytes(&stream, limit, || self.what(kind::DATA, &[]))?;
        Ok(bytes.strip_prefix(INTERIX_LINK).map(<[u8]>::to_vec))
    }

    /// Attributes as Windows shows them.
    pub(super) fn attributes(&self) -> u32 {
        let known = self.standard.attributes & !attribute::DIRECTORY;
        match if self.record.is_folder() { known | attribute::DIRECTORY } else { known } {
            0 => attribute::NORMAL,
            attributes => attributes,
        }
    }

    pub(super) fn metadata(&self) -> Result<Metadata, FsError> {
        let kind = self.kind()?;
        let mut links = 0u32;
        let (mut size, mut allocated) = (0, 0);
        let wanted = if self.record.is_folder() { kind::INDEX_ALLOCATION } else { kind::DATA };
        let i30 = |name: Name<'_>| if wanted == kind::DATA { name.is_empty() } else { name.is("$I30") };
        let want = |kind: u32, name: Name<'_>, lowest: u64| {
            kind == kind::FILE_NAME || (kind == wanted && lowest == 0 && i30(name))
        };
        self.volume.attributes(&self.record, &want, &mut |found| {
            if found.kind == kind::FILE_NAME {
                let name = found.resident().and_then(FileName::parse);
                links = links.saturating_add(u32::from(name.is_some_and(|name| !name.is_dos())));
            } else {
                (size, allocated) = sizes(found);
            }
            Ok(())
        })?;
        if self.tag == Some(Tag::WOF)
            && let Some(packed) = self.volume.stream(&self.record, kind::DATA, &reparse::wof_stream())?
        {
            allocated = packed.allocated().max(packed.len().next_multiple_of(8).min(512));
        }
        if kind == FileKind::Link {
            size = 0;
        }
        Ok(self.with(kind, size, allocated, links.max(1)))
    }

    /// What is known of one of its streams.
    pub(super) fn stream_metadata(&self, stream: &Stream) -> Metadata {
        self.with(FileKind::File, stream.len(), stream.allocated(), self.record.links().max(1).into())
    }

    fn with(&self, kind: FileKind, size: u64, allocated: u64, links: u32) -> Metadata {
        let [created, modified, changed, accessed] = self.standard.times.map(moment);
        Metadata {
            kind,
            size: ByteLen(size),
            allocated: ByteLen(allocated),
            links,
            attributes: self.attributes(),
            created,
            modified,
            changed,
            accessed,
        }
    }

    /// Every name, short ones too.
    pub(super) fn each_name(&self, each: &mut dyn FnMut(&FileName<'_>) -> Result<(), FsError>) -> Result<(), FsError> {
        let want = |kind: u32, _: Name<'_>, _: u64| kind == kind::FILE_NAME;
        self.volume.attributes(&self.record, &want, &mut |found| match found.resident().and_then(FileName::parse) {
            Some(name) => each(&name),
            None => Err(FsError::Corrupt {
                what: super::Place::Record(self.record.number).to_string(),
                field: "$FILE_NAME",
                found: format!("{} bytes", found.len()),
                expected: "66 bytes and a name, in the record",
            }),
        })
    }

    /// The folder that holds it, by its first name. The root is its own.
    pub(super) fn parent(&self) -> Result<Option<Reference>, FsError> {
        let mut parent = None;
        self.each_name(&mut |name| {
            if !name.is_dos() {
                parent = parent.or(Some(name.parent));
            }
            Ok(())
        })?;
        Ok(parent)
    }

    /// Its streams that users see, sorted by name, and the length of each. The unnamed one is not among them.
    pub(super) fn streams(&self) -> Result<Vec<(Vec<u16>, u64)>, FsError> {
        /// As many as an attribute list of 256 KiB can name.
        const MOST: usize = 8192;
        let mut streams: Vec<(Vec<u16>, u64)> = Vec::new();
        let want = |kind: u32, name: Name<'_>, lowest: u64| kind == kind::DATA && !name.is_empty() && lowest == 0;
        self.volume.attributes(&self.record, &want, &mut |found| {
            if streams.len() < MOST {
                streams.push((found.name.units().collect(), found.len()));
            }
            Ok(())
        })?;
        if self.is_unpacked()? {
            streams.retain(|(name, _)| *name != reparse::wof_stream());
        }
        streams.sort();
        streams.dedup_by(|a, b| a.0 == b.0);
        Ok(streams)
    }
}

/// Length and space of a value whose first piece this is. One in the record takes space too: `tar --sparse` takes a file that has a length
/// and no space for a hole, and stores zeros.
fn sizes(first: &super::record::Attribute<'_>) -> (u64, u64) {
    match first.body {
        super::record::Body::Resident(_) => (first.len(), first.len().next_multiple_of(8)),
        super::record::Body::Clusters(clusters) => (clusters.size, clusters.compressed.unwrap_or(clusters.allocated)),
    }
}

/// The space that a folder's key keeps for the tag of a reparse point.
pub(super) fn is_reparse_point(name: &FileName<'_>) -> bool {
    name.attributes & attribute::REPARSE_POINT != 0
}

/// `u16` at a place, for the readers of reparse data beside.
pub(super) fn short(bytes: &[u8], at: usize) -> Option<usize> {
    u16_at(bytes, at).map(usize::from)
}
