//! Extended attributes in the conventions of ntfs-3g (`ntfs-3g(8)`, "extended attributes"), so that tools made for it work.
//!
//! `user.NAME` is the alternate stream NAME and is listed. What Windows keeps beside is under `system.ntfs_…`, and is not listed:
//! tools that restore all they see would stumble over it.

use super::file::File;
use super::name::{bytes_of, units_of};
use super::record::kind;
use super::reparse;
use super::volume::what_of;
use crate::FsError;

/// What stands before the names of streams.
const USER: &[u8] = b"user.";
/// The stream of a file encrypted by EFS that says for whom.
const EFS: &str = "$EFS";

impl File<'_> {
    /// The names that listings show. Linux hands out at most 64 KiB, and takes names of 255 bytes: a longer stream is not listed,
    /// because tools leave a file out of which they cannot get an attribute that they were shown.
    pub(super) fn xattrs(&self) -> Result<Vec<Vec<u8>>, FsError> {
        const LONGEST: u64 = 64 << 10;
        const LONGEST_NAME: usize = 255;
        let small = self.streams()?.into_iter().filter(|(_, len)| *len <= LONGEST);
        let names = small.map(|(name, _)| [USER, &bytes_of(&name)].concat());
        Ok(names.filter(|name| name.len() <= LONGEST_NAME).collect())
    }

    /// The value of an attribute, listed or not.
    pub(super) fn xattr(&self, name: &[u8], limit: usize) -> Result<Option<Vec<u8>>, FsError> {
        if let Some(stream) = name.strip_prefix(USER) {
            return match units_of(stream) {
                Some(units) if !units.is_empty() => self.stream_value(&units, limit),
                _ => Ok(None),
            };
        }
        let (name, big_endian) = match name.strip_suffix(b"_be") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let whole = |value: Option<Vec<u8>>| Ok(value.filter(|_| !big_endian));
        match name {
            b"system.ntfs_attrib" => Ok(Some(numbers(&[self.attributes()], big_endian))),
            b"system.ntfs_crtime" => Ok(Some(numbers(&self.standard.times[..1], big_endian))),
            b"system.ntfs_times" => {
                let [created, modified, changed, accessed] = self.standard.times;
                Ok(Some(numbers(&[created, modified, accessed, changed], big_endian)))
            }
            b"system.ntfs_acl" => whole(self.security(limit)?),
            b"system.ntfs_reparse_data" if self.is_unpacked()? => Ok(None), // nothing shows that it was packed, as with Windows
            b"system.ntfs_reparse_data" => whole(reparse::data(self.volume, &self.record)?),
            b"system.ntfs_dos_name" => whole(self.dos_name()?),
            b"system.ntfs_object_id" => whole(self.value(kind::OBJECT_ID, "", limit)?),
            b"system.ntfs_ea" => whole(self.value(kind::EA, "", limit)?),
            b"system.ntfs_efsinfo" => whole(self.value(kind::LOGGED_UTILITY_STREAM, EFS, limit)?),
            _ => Ok(None),
        }
    }

    fn value(&self, kind: u32, name: &str, limit: usize) -> Result<Option<Vec<u8>>, FsError> {
        let name: Vec<u16> = name.encode_utf16().collect();
        self.volume.value(&self.record, kind, &name, limit)
    }

    fn stream_value(&self, name: &[u16], limit: usize) -> Result<Option<Vec<u8>>, FsError> {
        let Some(stream) = self.volume.stream(&self.record, kind::DATA, name)? else { return Ok(None) };
        let what = || what_of(self.record.number, kind::DATA, name);
        if stream.is_encrypted() {
            return Err(FsError::Encrypted { what: what() });
        }
        self.volume.bytes(&stream, limit, what).map(Some)
    }

    fn security(&self, limit: usize) -> Result<Option<Vec<u8>>, FsError> {
        // Volumes of old kept it with each file.
        match self.value(kind::SECURITY_DESCRIPTOR, "", limit)? {
            None if self.standard.security != 0 => self.volume.security_descriptor(self.standard.security).map(Some),
            own => Ok(own),
        }
    }

    fn dos_name(&self) -> Result<Option<Vec<u8>>, FsError> {
        let mut found = None;
        self.each_name(&mut |name| {
            if name.is_dos() {
                found = found.take().or_else(|| Some(name.name.to_bytes()));
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// A number of some width, in either order of bytes.
trait Bytes: Copy {
    fn bytes(self, big_endian: bool) -> Vec<u8>;
}

impl Bytes for u32 {
    fn bytes(self, big_endian: bool) -> Vec<u8> {
        if big_endian { self.to_be_bytes().to_vec() } else { self.to_le_bytes().to_vec() }
    }
}

impl Bytes for u64 {
    fn bytes(self, big_endian: bool) -> Vec<u8> {
        if big_endian { self.to_be_bytes().to_vec() } else { self.to_le_bytes().to_vec() }
    }
}

fn numbers<N: Bytes>(numbers: &[N], big_endian: bool) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.bytes(big_endian)).collect()
}
