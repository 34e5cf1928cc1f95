//! What FAT and exFAT have in common: clusters, the table that chains them, folders of 32-byte entries, names in UTF-16 and
//! times of DOS.

mod content;
mod index;
mod names;
mod owners;
mod runs;
mod slots;
mod space;
mod table;
mod times;

pub(crate) use content::Content;
pub(crate) use index::{Index, Indexes};
pub(crate) use names::{fold, presented, upper, wtf8};
pub(crate) use owners::{Folder, Owners};
pub(crate) use runs::Runs;
pub(crate) use slots::{SLOT, Slot, Slots};
pub(crate) use space::{Heap, Needs, Space};
pub(crate) use table::{Table, Width};
pub(crate) use times::{Moment, dos};

use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};

use crate::{CachedDisk, FileId, FileKind, FileSystem, FsError, Metadata, Timestamp};

/// The root folder has no entry of its own. Byte 32 lies in the boot sector, so no entry has this id.
pub(crate) const ROOT: FileId = match FileId::new(1) {
    Some(id) => id,
    None => panic!("1 has one bit"),
};

/// `FILE_ATTRIBUTE_DIRECTORY`.
pub(crate) const DIRECTORY: u32 = 0x10;

/// The extended attribute under which NTFS drivers show `FILE_ATTRIBUTE_*`, 32 bits, little-endian.
pub(crate) const ATTRIBUTES_XATTR: &[u8] = b"system.ntfs_attrib";

/// The value of an extended attribute of a file: there is [`ATTRIBUTES_XATTR`] and no other.
pub(crate) fn xattr(
    volume: &dyn FileSystem,
    file: FileId,
    name: &[u8],
    limit: usize,
) -> Result<Option<Vec<u8>>, FsError> {
    if name != ATTRIBUTES_XATTR {
        return Ok(None);
    }
    let value = volume.metadata(file)?.attributes.to_le_bytes().to_vec();
    if value.len() > limit {
        let length = |len: usize| ByteLen(u64::try_from(len).unwrap_or(u64::MAX));
        return Err(FsError::TooLarge {
            what: "the attribute system.ntfs_attrib".to_owned(),
            len: length(value.len()),
            limit: length(limit),
        });
    }
    Ok(Some(value))
}

/// The file whose entry begins at byte `at` of the volume, or `None` past the 48 bits of ids.
pub(crate) fn id_at(at: u64) -> Option<FileId> {
    FileId::new(at.checked_div(SLOT)?)
}

/// Where the entry of a file begins.
pub(crate) fn place_of(file: FileId) -> u64 {
    file.get().saturating_mul(SLOT) // 48 bits and 5 more
}

/// How errors call a file.
pub(crate) fn called(file: FileId) -> String {
    match file.get() {
        1 => "the root folder".to_owned(), // ROOT
        _ => format!("the file whose entry is at byte {}", ByteOffset(place_of(file))),
    }
}

/// What is known of the root folder, which takes `len` bytes.
pub(crate) fn root_metadata(len: u64) -> Metadata {
    Metadata {
        kind: FileKind::Folder,
        size: ByteLen(len),
        allocated: ByteLen(len),
        links: 1,
        attributes: DIRECTORY,
        created: Timestamp::default(),
        modified: Timestamp::default(),
        changed: Timestamp::default(),
        accessed: Timestamp::default(),
    }
}

/// A file or a folder; there are no links.
pub(crate) fn kind_of(folder: bool) -> FileKind {
    if folder { FileKind::Folder } else { FileKind::File }
}

/// No file has this id.
pub(crate) fn not_found(file: FileId) -> FsError {
    FsError::NotFound { what: format!("file {}", file.get()) }
}

/// A structure contradicts its format.
pub(crate) fn corrupt(
    what: impl Into<String>,
    field: &'static str,
    found: impl ToString,
    expected: &'static str,
) -> FsError {
    FsError::Corrupt { what: what.into(), field, found: found.to_string(), expected }
}

/// `N` bytes at byte `at` of a volume.
pub(crate) fn bytes_at<const N: usize>(disk: &CachedDisk, at: u64, what: &str) -> Result<[u8; N], FsError> {
    let mut bytes = [0; N];
    let failed = |source: ReadError| FsError::Read { what: what.to_owned(), source };
    disk.read_exact_at(ByteOffset(at), &mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// A number of up to 8 bytes, little-endian, in a structure. What the structure lacks counts as 0.
pub(crate) fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let field = bytes.get(at..).unwrap_or_default();
    field.iter().take(len.min(8)).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// [`number`] of 1 byte.
pub(crate) fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

/// [`number`] of 2 bytes.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::try_from(number(bytes, at, 2)).unwrap_or_default()
}

/// [`number`] of 4 bytes.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::try_from(number(bytes, at, 4)).unwrap_or_default()
}
