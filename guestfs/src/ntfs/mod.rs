//! NTFS, read-only.
//!
//! The boot sector is read by the crate `ntfs`. Everything behind it is read here, for two reasons. The crate is silently wrong on
//! compressed files, on files that were preallocated and on values in several pieces (`tests/ntfs_traps.rs` shows each), and its
//! walks over attributes and index entries trust lengths of the disk: an entry of length 0 is walked for ever. What is read is
//! described in the documentation of the Linux-NTFS project and in MS-FSCC; ntfs-3g is the judge.

mod device;
mod file;
mod index;
mod list;
mod log;
mod name;
mod record;
mod reparse;
mod runs;
mod secure;
mod stream;
mod volume;
mod xattr;

use std::cell::Cell;
use std::cmp::Ordering;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Memory};

use blockdev::{ByteLen, ByteOffset, Extent, ReadAt, ReadError};

use self::file::{File, FileName, is_reparse_point};
use self::index::{Index, IndexEntry};
use self::name::{bytes_of, compare_exact, units_of};
use self::record::kind;
use self::reparse::Tag;
use self::stream::Stream;
use self::volume::{Volume, known};
use crate::unpack::wof;
use crate::{About, CachedDisk, Case, Entry, FileId, FileKind, FileSystem, FsError, LinkTarget, Metadata, VolumeKind};

/// The index of folders.
const NAMES: &str = "$I30";
/// Bits of a [`FileId`] that are the record's number; those above are the number of a stream, from 1 on.
const RECORD_BITS: u32 = 32;

/// In place of a stream's number: the folder names a record that became another file's. There are never so many streams.
const LEFTOVER: u64 = 0xffff;
/// What no record is: there are 2^32 at most, and the last can hold nothing that is listed.
const NO_RECORD: u64 = 0xffff_ffff;

/// A file record as others name it: its number, and how often it was used for another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reference(u64);

impl Reference {
    fn new(number: u64, sequence: u16) -> Self {
        Self(number | u64::from(sequence) << 48)
    }

    const fn number(self) -> u64 {
        self.0 & 0xffff_ffff_ffff
    }

    fn sequence(self) -> u16 {
        u16::try_from(self.0 >> 48).unwrap_or(0)
    }
}

/// Where something lies, for errors.
#[derive(Clone, Copy, Debug)]
enum Place {
    Record(u64),
    IndexBlock { record: u64, block: u64 },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(number) => write!(f, "record {number}"),
            Self::IndexBlock { record, block } => write!(f, "index block {block} of record {record}"),
        }
    }
}

/// An NTFS volume.
pub struct Ntfs {
    volume: Arc<Volume>,
    about: About,
    root: FileId,
    /// The record of the file that was opened last.
    last: AtomicU64,
}

impl Ntfs {
    /// Opens the volume that fills `disk`.
    ///
    /// # Errors
    /// [`FsError`], if its boot sector, its MFT or its root folder cannot be used. What else is damaged shows when it is read.
    pub fn open(disk: Arc<CachedDisk>) -> Result<Self, FsError> {
        let volume = Arc::new(Volume::open(disk)?);
        let mut notes = volume.notes.clone();
        let label = log::label(&volume, &mut notes);
        log::check_journal(&volume, &mut notes);
        let root = file_id(known::ROOT, 0)?;
        let about = About {
            kind: VolumeKind::Ntfs,
            label,
            serial: volume.device.serial,
            cluster: ByteLen(volume.device.cluster),
            notes: Vec::new(),
        };
        let mut ntfs = Self { volume, about, root, last: AtomicU64::new(0) };
        if !File::load(&ntfs.volume, known::ROOT)?.record.is_folder() {
            return Err(FsError::NotAFolder { what: Place::Record(known::ROOT).to_string() });
        }
        log::check_hibernation(ntfs.hibernation_head(), &mut notes);
        ntfs.about.notes = notes;
        Ok(ntfs)
    }

    fn hibernation_head(&self) -> Option<[u8; 4]> {
        let file = self.find(self.root, b"hiberfil.sys", Case::Ignored).ok()??;
        let mut head = [0; 4];
        self.open(file).ok()?.read_exact_at(ByteOffset(0), &mut head).ok()?;
        Some(head)
    }

    fn file(&self, id: FileId) -> Result<File<'_>, FsError> {
        let number = id.get() & ((1 << RECORD_BITS) - 1);
        if id.get() >> RECORD_BITS == LEFTOVER {
            return Err(FsError::Corrupt {
                what: Place::Record(number).to_string(),
                field: "sequence number",
                found: "another than in the folder that names it".into(),
                expected: "the same, or the record is another file's by now",
            });
        }
        File::load(&self.volume, number)
    }

    /// The name of the stream that an id means, if it means one.
    fn stream_name(&self, file: &File<'_>, id: FileId) -> Result<Option<Vec<u16>>, FsError> {
        let Some(nth) = (id.get() >> RECORD_BITS).checked_sub(1) else { return Ok(None) };
        let mut streams = file.streams()?;
        let nth = usize::try_from(nth).ok().filter(|nth| *nth < streams.len());
        let nth = nth.ok_or_else(|| FsError::NotFound { what: format!("stream of {}", file.record.number) })?;
        Ok(Some(streams.swap_remove(nth).0))
    }

    fn names(&self, folder: FileId) -> Result<Index<'_>, FsError> {
        let file = self.file(folder)?;
        let not_a_folder = || FsError::NotAFolder { what: Place::Record(file.record.number).to_string() };
        if folder.get() >> RECORD_BITS != 0 || !file.record.is_folder() {
            return Err(not_a_folder());
        }
        Index::open(&self.volume, &file.record, NAMES)?.ok_or_else(not_a_folder)
    }

    fn find_name(&self, names: &Index<'_>, wanted: &[u16], case: Case) -> Result<Option<FileId>, FsError> {
        let upcase = self.volume.upcase()?;
        let damaged = Cell::new(None);
        let compare = |key: &[u8]| {
            let Some(name) = FileName::parse(key) else {
                damaged.set(Some(key.len()));
                return Ordering::Less;
            };
            let order = upcase.compare(wanted, name.name);
            if case == Case::Exact { order.then_with(|| compare_exact(wanted, name.name)) } else { order }
        };
        let found = names.search(&compare, |entry| {
            let hidden = FileName::parse(entry.key()).is_none_or(|name| name.is_dos());
            (!hidden).then(|| entry.reference())
        })?;
        if let Some(len) = damaged.get() {
            return Err(bad_name(names, len));
        }
        let disk: Vec<u8> = wanted.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        match found.flatten().filter(|reference| !is_own(names, name::Name(&disk), *reference)) {
            None => Ok(None),
            Some(reference) => self.checked(reference).map(Some),
        }
    }

    /// The id of the file that a folder names, if it is still the one that was named.
    fn checked(&self, reference: Reference) -> Result<FileId, FsError> {
        let record = self.volume.base_record(reference.number())?;
        if record.sequence() != reference.sequence() {
            return Err(FsError::Corrupt {
                what: Place::Record(record.number).to_string(),
                field: "sequence number",
                found: record.sequence().to_string(),
                expected: "that of the folder which names it",
            });
        }
        file_id(record.number, 0)
    }

    /// The id under which a folder lists what it names. Where that cannot be right, it is one whose use is an error: the names beside
    /// are listed all the same. A record that is not in use, or damaged, tells so itself.
    fn listed(&self, reference: Reference) -> Result<FileId, FsError> {
        let number = reference.number();
        if number >> RECORD_BITS != 0 {
            return file_id(NO_RECORD, 0);
        }
        let reused = self.volume.record(number).is_ok_and(|record| record.sequence() != reference.sequence());
        file_id(number, if reused { LEFTOVER } else { 0 })
    }

    /// `name:stream`.
    fn find_stream(&self, folder: FileId, name: &[u8], case: Case) -> Result<Option<FileId>, FsError> {
        let Some(colon) = name.iter().rposition(|byte| *byte == b':') else { return Ok(None) };
        let (Some(file), Some(stream)) = (name.get(..colon), name.get(colon.saturating_add(1)..)) else {
            return Ok(None);
        };
        let Some(stream) = units_of(stream) else { return Ok(None) };
        let id = match file {
            b"" => Some(folder),
            file => self.find(folder, file, case)?,
        };
        let Some(id) = id.filter(|id| id.get() >> RECORD_BITS == 0) else { return Ok(None) };
        let file = self.file(id)?;
        match file.streams()?.iter().position(|(known, _)| *known == stream) {
            None => Ok(None),
            Some(nth) => {
                file_id(file.record.number, u64::try_from(nth).unwrap_or(u64::MAX).saturating_add(1)).map(Some)
            }
        }
    }

    /// What an entry of a folder shows, if it shows anything.
    fn entry(&self, names: &Index<'_>, entry: &IndexEntry<'_>, next: u64) -> Result<Option<Entry>, FsError> {
        let name = FileName::parse(entry.key()).ok_or_else(|| bad_name(names, entry.key().len()))?;
        let reference = entry.reference();
        if name.is_dos() || is_own(names, name.name, reference) {
            return Ok(None);
        }
        let file = self.listed(reference)?;
        let folder = name.attributes & FOLDER_KEY != 0;
        let link = is_reparse_point(&name) || name.attributes & file::attribute::SYSTEM != 0;
        let kind = match (link, folder) {
            // Whether it is a link shows in its record only. A record that is damaged is told of when it is read.
            (true, _) => self.file(file).and_then(|file| file.kind()).unwrap_or(FileKind::File),
            (_, true) => FileKind::Folder,
            (..) => FileKind::File,
        };
        Ok(Some(Entry { name: name.name.to_component(), file, kind, next }))
    }
}

fn bad_name(names: &Index<'_>, len: usize) -> FsError {
    FsError::Corrupt {
        what: format!("the index of {}", Place::Record(names.number())),
        field: "$FILE_NAME",
        found: format!("{len} bytes"),
        expected: "66 bytes and a name",
    }
}

/// How a folder's key says that it names a folder.
const FOLDER_KEY: u32 = 0x1000_0000;

/// Whether a name is that of one of the volume's own files, which are not shown, or of the root in itself.
fn is_own(names: &Index<'_>, name: name::Name<'_>, reference: Reference) -> bool {
    let own = name.is(".") || name.units().next() == Some(u16::from(b'$'));
    own && names.number() == known::ROOT && reference.number() < known::FIRST_USER
}

fn file_id(number: u64, stream: u64) -> Result<FileId, FsError> {
    let id = if number >> RECORD_BITS == 0 { stream.checked_shl(RECORD_BITS) } else { None };
    id.and_then(|high| FileId::new(high | number)).ok_or_else(|| FsError::Unsupported {
        what: Place::Record(number).to_string(),
        why: "its number, or that of a stream, is beyond 2^32 (2^16)",
    })
}

/// What a component looks like before characters that no path may hold were written as `%XX`.
fn unescaped(name: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8(name.to_vec()).ok()?;
    let plain = text.replace("%2F", "/").replace("%00", "\0");
    let plain =
        if plain.bytes().all(|byte| byte == b'%' || b"2E".contains(&byte)) { plain.replace("%2E", ".") } else { plain };
    if plain.as_bytes() == name { None } else { Some(plain.into_bytes()) }
}

impl FileSystem for Ntfs {
    fn about(&self) -> &About {
        &self.about
    }

    fn root(&self) -> FileId {
        self.root
    }

    fn metadata(&self, id: FileId) -> Result<Metadata, FsError> {
        let file = self.file(id)?;
        match self.stream_name(&file, id)? {
            None => file.metadata(),
            Some(name) => {
                let stream = self.volume.stream(&file.record, kind::DATA, &name)?;
                let stream = stream.ok_or_else(|| FsError::NotFound { what: file.what(kind::DATA, &name) })?;
                Ok(file.stream_metadata(&stream))
            }
        }
    }

    fn find(&self, folder: FileId, name: &[u8], case: Case) -> Result<Option<FileId>, FsError> {
        let names = self.names(folder)?;
        // Names may differ in case only: then the exact one is meant, whatever the case.
        let cases: &[Case] = if case == Case::Exact { &[Case::Exact] } else { &[Case::Exact, Case::Ignored] };
        for case in cases {
            for form in [Some(name.to_vec()), unescaped(name)].into_iter().flatten() {
                let units = units_of(&form).filter(|units| !units.is_empty() && units.len() <= 255);
                let Some(units) = units else { continue };
                if let Some(found) = self.find_name(&names, &units, *case)? {
                    return Ok(Some(found));
                }
            }
        }
        self.find_stream(folder, name, case)
    }

    fn list(&self, folder: FileId, from: u64, each: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
        let names = self.names(folder)?;
        let mut entry = |entry: &IndexEntry<'_>, next| {
            Ok(self.entry(&names, entry, next)?.map_or(ControlFlow::Continue(()), &mut *each))
        };
        names.walk(from, &mut entry)
    }

    fn parent(&self, id: FileId) -> Result<Option<FileId>, FsError> {
        if id == self.root {
            return Ok(None);
        }
        let file = self.file(id)?;
        match file.parent()? {
            None => Err(FsError::NotFound { what: format!("name of {}", Place::Record(file.record.number)) }),
            Some(parent) => self.checked(parent).map(Some),
        }
    }

    fn open(&self, id: FileId) -> Result<Box<dyn ReadAt>, FsError> {
        let file = self.file(id)?;
        let name = self.stream_name(&file, id)?.unwrap_or_default();
        let what = || file.what(kind::DATA, &name);
        if name.is_empty() && file.record.is_folder() {
            return Err(FsError::IsAFolder { what: Place::Record(file.record.number).to_string() });
        }
        let stream = self.volume.stream(&file.record, kind::DATA, &name)?;
        let stream = stream.ok_or_else(|| FsError::NotFound { what: what() })?;
        if stream.is_encrypted() {
            return Err(FsError::Encrypted { what: what() });
        }
        if name.is_empty() {
            reparse::refuse_absent(&file, stream.len(), stream.allocated())?;
            if file.tag == Some(Tag::WOF) {
                return self.open_wof(&file, stream.len());
            }
        }
        self.look_ahead(file.record.number);
        Ok(Box::new(OpenStream { volume: Arc::clone(&self.volume), stream }))
    }

    fn link_target(&self, link: FileId) -> Result<LinkTarget, FsError> {
        reparse::target(&self.file(link)?)
    }

    fn streams(&self, id: FileId) -> Result<Vec<crate::Stream>, FsError> {
        if id.get() >> RECORD_BITS != 0 {
            return Ok(Vec::new());
        }
        let streams = self.file(id)?.streams()?.into_iter();
        Ok(streams.map(|(name, len)| crate::Stream { name: bytes_of(&name), size: ByteLen(len) }).collect())
    }

    fn xattrs(&self, id: FileId) -> Result<Vec<Vec<u8>>, FsError> {
        let file = self.file(id)?;
        if id.get() >> RECORD_BITS == 0 { file.xattrs() } else { Ok(Vec::new()) }
    }

    fn xattr(&self, id: FileId, name: &[u8], limit: usize) -> Result<Option<Vec<u8>>, FsError> {
        let file = self.file(id)?;
        if id.get() >> RECORD_BITS != 0 {
            return Ok(None);
        }
        match file.xattr(name, limit)? {
            Some(value) if value.len() > limit => Err(FsError::TooLarge {
                what: format!("{} of {}", name.escape_ascii(), Place::Record(file.record.number)),
                len: ByteLen::of(&value),
                limit: ByteLen(u64::try_from(limit).unwrap_or(u64::MAX)),
            }),
            value => Ok(value),
        }
    }
}

impl Ntfs {
    /// Who opens files in the order of their records, as they were made, will want those that follow: their bytes are asked for early. Nothing
    /// depends on it, so nothing that goes wrong is told.
    fn look_ahead(&self, number: u64) {
        /// Files that are passed over on the way.
        const NEAR: u64 = 4;
        /// How far ahead.
        const AHEAD: u64 = 16;
        let passed = number.wrapping_sub(self.last.swap(number, Memory::Relaxed));
        if !(1..=NEAR).contains(&passed) {
            return;
        }
        for ahead in number.saturating_add(AHEAD).saturating_sub(passed)..number.saturating_add(AHEAD) {
            let Ok(record) = self.volume.base_record(ahead.saturating_add(1)) else { continue };
            let unnamed = |data: &record::Attribute<'_>| data.name.is_empty();
            let Some(record::Body::Clusters(clusters)) = record.of_kind(kind::DATA).find(unnamed).map(|data| data.body)
            else {
                continue;
            };
            let mut runs = runs::Runs::default();
            if runs.add(clusters.pairs, clusters.lowest, clusters.end, self.volume.device.clusters).is_ok() {
                self.volume.device.will_read(&runs, clusters.size);
            }
        }
    }

    /// A file that Windows packed ("CompactOS"): its bytes are in a stream beside, packed.
    fn open_wof(&self, file: &File<'_>, size: u64) -> Result<Box<dyn ReadAt>, FsError> {
        let what = || file.what(kind::DATA, &[]);
        let algorithm = reparse::algorithm(file)?;
        let stream = self.volume.stream(&file.record, kind::DATA, &reparse::wof_stream())?;
        let stream = stream.ok_or_else(|| FsError::Corrupt {
            what: what(),
            field: "stream WofCompressedData",
            found: "missing".into(),
            expected: "there, because the reparse point says so",
        })?;
        let packed = OpenStream { volume: Arc::clone(&self.volume), stream };
        Ok(Box::new(wof::WofReader::new(packed, ByteLen(size), algorithm, what())?))
    }
}

/// An open file. Its bytes go past the cache.
struct OpenStream {
    volume: Arc<Volume>,
    stream: Stream,
}

impl ReadAt for OpenStream {
    fn size(&self) -> ByteLen {
        ByteLen(self.stream.len())
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let device = &self.volume.device;
        let read = |disk: &dyn ReadAt| self.stream.read(device, disk, at.0, buf);
        device.read_file(self.stream.len(), read).map_err(|error| error.at(at))
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        let size = self.size();
        if at.0 >= size.0 {
            return Err(ReadError::OutOfRange { at, len: ByteLen(1), size });
        }
        Ok(self.stream.extent_at(&self.volume.device, at))
    }
}
