//! Reparse points (MS-FSCC 2.1.2): links, and files whose bytes lie elsewhere.

use uuid::Uuid;

use super::file::{File, attribute, short};
use super::name::Name;
use super::record::{Record, kind};
use super::volume::Volume;
use crate::bytes::u32_at;
use crate::unpack::wof;
use crate::{FsError, LinkTarget};

/// Windows writes at most 16 KiB.
const MAX_REPARSE: usize = 16 << 10;

/// What kind of reparse point it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(u32);

impl Tag {
    /// No tag at all: reserved, so no reparse point has it.
    pub(super) const NONE: Self = Self(0);
    const MOUNT_POINT: Self = Self(0xa000_0003);
    const SYMLINK: Self = Self(0xa000_000c);
    const LX_SYMLINK: Self = Self(0xa000_001d);
    const DEDUP: Self = Self(0x8000_0013);
    pub(super) const WOF: Self = Self(0x8000_0017);
    /// HSM, its second form, single-instance storage, AFS: the bytes are elsewhere.
    const ELSEWHERE: [Self; 4] = [Self(0xc000_0004), Self(0x8000_0006), Self(0x8000_0007), Self(0x9000_001e)];

    /// The tag of reparse data.
    pub(super) fn of(data: &[u8]) -> Self {
        u32_at(data, 0).map_or(Self::NONE, Self)
    }

    pub(super) fn is_link(self) -> bool {
        [Self::MOUNT_POINT, Self::SYMLINK, Self::LX_SYMLINK].contains(&self)
    }

    /// Placeholders, whose bytes are fetched when they are wanted: OneDrive and its kin (`0x9000x01A`, where x counts, and an older
    /// one), Azure File Sync, projected file systems.
    const fn is_cloud(self) -> bool {
        self.0 & 0xffff_0fff == 0x9000_001a || matches!(self.0, 0x8000_0021 | 0x8000_001e | 0x9000_001c)
    }
}

/// The whole reparse data of a file, tag first.
pub(super) fn data(volume: &Volume, record: &Record) -> Result<Option<Vec<u8>>, FsError> {
    volume.own_value(record, kind::REPARSE_POINT, &[], MAX_REPARSE)
}

/// The stream in which Windows keeps the packed bytes of a file.
pub(super) fn wof_stream() -> Vec<u16> {
    wof::STREAM.encode_utf16().collect()
}

/// How a file of CompactOS is packed.
pub(super) fn algorithm(file: &File<'_>) -> Result<wof::Algorithm, FsError> {
    let data = data(file.volume, &file.record)?.unwrap_or_default();
    wof::Algorithm::of_reparse_data(data.get(8..).unwrap_or_default(), &file.what(kind::DATA, &[]))
}

/// Refuses a file whose unnamed stream is not what the guest sees there.
pub(super) fn refuse_absent(file: &File<'_>, size: u64, allocated: u64) -> Result<(), FsError> {
    let Some(tag) = file.tag else { return Ok(()) };
    let refused = |why| Err(FsError::Unsupported { what: file.what(kind::DATA, &[]), why });
    let offline = attribute::OFFLINE | attribute::RECALL_ON_OPEN | attribute::RECALL_ON_DATA_ACCESS;
    match tag {
        Tag::DEDUP => refused("it is deduplicated: back it up from inside the guest, or unoptimise the volume"),
        tag if tag.is_cloud() => {
            // A file that was fetched keeps its tag, and has its bytes.
            if file.standard.attributes & offline != 0 || (size > 0 && allocated == 0 && !is_small(file)) {
                return refused("it is a placeholder: its bytes are in a cloud store, not on this disk");
            }
            Ok(())
        }
        tag if Tag::ELSEWHERE.contains(&tag) => refused("its bytes were moved to other storage"),
        Tag::WOF => Ok(()),
        // Sockets, app links and the like have no bytes. What has some, and a tag we do not know, may have others.
        _ if size == 0 => Ok(()),
        Tag::NONE => refused("it is marked as a reparse point and has no reparse data: its bytes may be elsewhere"),
        _ => refused("it has a reparse tag that is not known; its bytes may be elsewhere"),
    }
}

/// Whether the data lies in the record, where nothing is allocated for it.
fn is_small(file: &File<'_>) -> bool {
    file.record.of_kind(kind::DATA).any(|data| data.name.is_empty() && data.resident().is_some())
}

/// Where a link leads.
pub(super) fn target(file: &File<'_>) -> Result<LinkTarget, FsError> {
    if let Some(text) = file.interix_link()? {
        return Ok(posix(&Name(&text).to_bytes()));
    }
    let what = || file.what(kind::REPARSE_POINT, &[]);
    let Some(tag) = file.tag.filter(|tag| tag.is_link()) else {
        return Err(FsError::NotALink { what: super::Place::Record(file.record.number).to_string() });
    };
    let data = data(file.volume, &file.record)?.unwrap_or_default();
    let value = short(&data, 4).and_then(|len| data.get(8..8_usize.checked_add(len)?));
    let target = value.and_then(|value| match tag {
        Tag::SYMLINK => symlink(value),
        Tag::MOUNT_POINT => junction(value),
        _ => value.get(4..).map(posix), // a version, then UTF-8
    });
    target.ok_or_else(|| FsError::Corrupt {
        what: what(),
        field: "target",
        found: format!("{} bytes", data.len()),
        expected: "names inside the reparse data",
    })
}

/// Two names behind a head: what is followed, and what is shown.
fn substitute(value: &[u8], head: usize) -> Option<Vec<u16>> {
    let (at, len) = (short(value, 0)?.checked_add(head)?, short(value, 2)?);
    let name = value.get(at..at.checked_add(len)?)?;
    if name.is_empty() { None } else { Some(Name(name).units().collect()) }
}

fn symlink(value: &[u8]) -> Option<LinkTarget> {
    const RELATIVE: u32 = 1;
    let name = substitute(value, 12)?;
    if u32_at(value, 8)? & RELATIVE == 0 { Some(absolute(&name)) } else { Some(relative(&name)) }
}

fn junction(value: &[u8]) -> Option<LinkTarget> {
    substitute(value, 8).map(|name| absolute(&name))
}

fn is_separator(unit: &u16) -> bool {
    *unit == u16::from(b'\\') || *unit == u16::from(b'/')
}

/// The components of a path of the guest, empty ones and `.` left out.
fn components(units: &[u16]) -> Vec<Vec<u8>> {
    let bytes = |part: &[u16]| {
        let disk: Vec<u8> = part.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let name = Name(&disk);
        if name.is("..") { b"..".to_vec() } else { name.to_component() }
    };
    let parts = units.split(is_separator).filter(|part| !part.is_empty() && *part != [u16::from(b'.')]);
    parts.map(bytes).collect()
}

fn text(units: &[u16]) -> String {
    String::from_utf16_lossy(units)
}

/// A target that counts from the link's folder, or, with a separator in front, from the volume.
fn relative(units: &[u16]) -> LinkTarget {
    let rooted = units.first().is_some_and(is_separator);
    if rooted { LinkTarget::Root(components(units)) } else { LinkTarget::Relative(components(units)) }
}

/// A target in the name space of NT: `\??\C:\…`, `\??\Volume{…}\…`, or what we cannot follow.
fn absolute(units: &[u16]) -> LinkTarget {
    let prefix: Vec<u16> = r"\??\".encode_utf16().collect();
    let rest = units.strip_prefix(prefix.as_slice()).unwrap_or(units);
    // As people write it: `\\server\share` for `\??\UNC\server\share`.
    let outside = || match text(rest).strip_prefix(r"UNC\") {
        Some(share) if rest.len() < units.len() => LinkTarget::Outside(format!(r"\\{share}")),
        _ => LinkTarget::Outside(text(units)),
    };
    if let [letter, colon, path @ ..] = rest
        && *colon == u16::from(b':')
        && path.first().is_none_or(is_separator)
    {
        let letter = char::from_u32((*letter).into()).filter(char::is_ascii_alphabetic);
        return letter.map_or_else(outside, |c| LinkTarget::Letter(c.to_ascii_uppercase(), components(path)));
    }
    let volume: Vec<u16> = "Volume{".encode_utf16().collect();
    if let Some(rest) = rest.strip_prefix(volume.as_slice())
        && let Some((guid, [brace, path @ ..])) = rest.split_at_checked(36)
        && *brace == u16::from(b'}')
        && let Ok(guid) = Uuid::try_parse(&text(guid))
    {
        return LinkTarget::Volume(guid, components(path));
    }
    outside()
}

/// A target in the manner of POSIX.
fn posix(bytes: &[u8]) -> LinkTarget {
    let shown = || String::from_utf8_lossy(bytes).into_owned();
    if bytes.is_empty() || bytes.contains(&0) || bytes.first() == Some(&b'/') {
        return LinkTarget::Outside(shown());
    }
    let parts = bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    LinkTarget::Relative(parts.map(<[u8]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(text: &str) -> Vec<u16> {
        text.encode_utf16().collect()
    }

    fn parts(text: &str) -> Vec<Vec<u8>> {
        text.split('/').filter(|part| !part.is_empty()).map(|part| part.as_bytes().to_vec()).collect()
    }

    #[test]
    fn targets_of_the_guest_are_told_apart() {
        let guid = Uuid::from_u128(0x1234);
        for (text, target) in [
            (r"\??\C:\Users\All Users".to_owned(), LinkTarget::Letter('C', parts("Users/All Users"))),
            (r"\??\d:".to_owned(), LinkTarget::Letter('D', Vec::new())),
            (r"C:\a\..\b".to_owned(), LinkTarget::Letter('C', parts("a/../b"))),
            (format!(r"\??\Volume{{{guid}}}\x\"), LinkTarget::Volume(guid, parts("x"))),
            (r"\??\UNC\server\share".to_owned(), LinkTarget::Outside(r"\\server\share".into())),
            (r"\\server\share".to_owned(), LinkTarget::Outside(r"\\server\share".into())),
            (r"\??\Volume{nonsense}\".to_owned(), LinkTarget::Outside(r"\??\Volume{nonsense}\".into())),
            ("/etc/passwd".to_owned(), LinkTarget::Outside("/etc/passwd".into())),
        ] {
            assert_eq!(absolute(&units(&text)), target, "{text}");
        }
        assert_eq!(relative(&units(r"..\.\a")), LinkTarget::Relative(parts("../a")));
        assert_eq!(relative(&units(r"\Windows")), LinkTarget::Root(parts("Windows")));
        assert_eq!(posix(b"../a//b"), LinkTarget::Relative(parts("../a/b")));
        assert_eq!(posix(b"/etc/passwd"), LinkTarget::Outside("/etc/passwd".into()));
    }
}
