//! A disk of a backup as a file that QEMU runs from: its digest is made while it is written, and made again of what can be read back.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use blockdev::{ByteOffset, FileDisk, ReadAt};
use rustix::fs::Advice;
use vmdk_rs::{CopyTarget, RawWriter, VmdkError, is_zero};

use super::qcow2::{Qcow2Reader, Qcow2Writer};
use crate::disk::{Watch, copy_error};
use crate::error::{Context, Error, Family, Result};
use crate::export::{DiskDigest, SparseDigest, digest_of, with_space_hint};
use crate::job::{Cancel, Meter};
use crate::transport::from_read;

/// The form of a disk's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The bytes of the disk, zeros as holes.
    Raw,
    /// QEMU's own.
    Qcow2,
}

impl Format {
    /// What QEMU calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// The ending of its files.
    #[must_use]
    pub const fn ending(self) -> &'static str {
        match self {
            Self::Raw => "img",
            Self::Qcow2 => "qcow2",
        }
    }

    /// The form that QEMU calls `name`, if it is one of ours.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Raw, Self::Qcow2].into_iter().find(|format| format.name() == name)
    }
}

/// Writes `source` to the new file `path`, and waits until it is on disk. Answers the digest of what was read.
pub(super) fn write(
    source: &dyn ReadAt,
    path: &Path,
    format: Format,
    meter: Meter,
    cancel: &Cancel,
) -> Result<DiskDigest> {
    let name = path.display().to_string();
    let failed = |error| with_space_hint(crate::image_error(error, format!("cannot write {name}")));
    let watch = Watch::new(meter, cancel);
    let total = source.size().0;
    let digest = match format {
        Format::Raw => {
            let target = Hashed::new(RawWriter::create(path, source.size()).map_err(failed)?, total);
            vmdk_rs::copy(source, &target, &|at| watch.at(at)).map_err(|e| copy_error(e, "the backup", &name))?;
            let (writer, digest) = target.finish();
            writer.finish().map_err(failed)?;
            digest
        }
        Format::Qcow2 => {
            let target = Hashed::new(Qcow2Writer::create(path, source.size()).map_err(failed)?, total);
            vmdk_rs::copy(source, &target, &|at| watch.at(at)).map_err(|e| copy_error(e, "the backup", &name))?;
            let (writer, digest) = target.finish();
            writer.finish().map_err(failed)?;
            digest
        }
    };
    cancel.check()?;
    // A guest's disk is for its owner alone, as in a backup directory; libvirt gives it to whom it runs the guest as.
    fs::set_permissions(path, Permissions::from_mode(0o600)).failed(|| format!("cannot keep {name} to its owner"))?;
    watch.finish(total);
    Ok(digest)
}

/// The digest of the disk in the file `path`, read from the disk and not from memory as far as the system lets us.
pub(super) fn read_back(path: &Path, format: Format, meter: Meter, cancel: &Cancel) -> Result<DiskDigest> {
    let what = || format!("cannot read {} back", path.display());
    let file = File::open(path).failed(what)?;
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed); // a file system may not know it
    let disk: Box<dyn ReadAt> = match format {
        Format::Raw => Box::new(FileDisk::new(file).failed(what)?),
        Format::Qcow2 => Box::new(Qcow2Reader::open(path).map_err(|e| from_read(e, &what()))?),
    };
    let disk = Stoppable { disk, cancel };
    let digest = digest_of(&disk, |n| meter.add(n));
    cancel.check()?;
    meter.finish();
    digest.map_err(|e| from_read(e, &what()))
}

/// Reads fail once somebody wants no more.
struct Stoppable<'a> {
    disk: Box<dyn ReadAt>,
    cancel: &'a Cancel,
}

impl ReadAt for Stoppable<'_> {
    fn size(&self) -> blockdev::ByteLen {
        self.disk.size()
    }
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), blockdev::ReadError> {
        if self.cancel.is_cancelled() {
            return Err(blockdev::ReadError::Io { at, source: std::io::ErrorKind::Interrupted.into() });
        }
        self.disk.read_exact_at(at, buf)
    }
    fn extent_at(&self, at: ByteOffset) -> Result<blockdev::Extent, blockdev::ReadError> {
        self.disk.extent_at(at)
    }
}

/// Refuses what does not have the digest that was written down with it.
pub(super) fn must_be(found: &DiskDigest, expected: Option<&DiskDigest>, file: &str) -> Result<()> {
    if expected.is_some_and(|expected| expected != found) {
        let what = format!("{file} does not hold what was backed up: its digest is {found}");
        return Err(Error::new(Family::Corrupt, what).hint("restore from another backup of this VM"));
    }
    Ok(())
}

/// A target of which the digest is made on the way.
struct Hashed<T> {
    target: T,
    capacity: u64,
    digest: Mutex<SparseDigest>,
}

impl<T: CopyTarget> Hashed<T> {
    fn new(target: T, capacity: u64) -> Self {
        Self { target, capacity, digest: Mutex::new(SparseDigest::new(capacity)) }
    }

    fn finish(self) -> (T, DiskDigest) {
        (self.target, self.digest.into_inner().unwrap_or_else(PoisonError::into_inner).finish())
    }
}

/// What is known of a block before its turn: of a whole one the hash, unless it is all zeros.
enum Known {
    Whole(Option<blake3::Hash>),
    Piece,
}

impl<T: CopyTarget> CopyTarget for Hashed<T> {
    type Prepared = (T::Prepared, Known);

    fn prepare(&self, at: ByteOffset, data: &[u8]) -> Result<Self::Prepared, VmdkError> {
        let known = if SparseDigest::is_whole(self.capacity, at.0, data.len()) {
            Known::Whole((!is_zero(data)).then(|| blake3::hash(data)))
        } else {
            Known::Piece
        };
        Ok((self.target.prepare(at, data)?, known))
    }

    fn place(&self, at: ByteOffset, data: &[u8], (prepared, known): &mut Self::Prepared) -> Result<(), VmdkError> {
        let mut digest = self.digest.lock().unwrap_or_else(PoisonError::into_inner);
        match known {
            Known::Whole(hash) => digest.whole(at.0, hash.as_ref()),
            Known::Piece => digest.piece(at.0, data),
        }
        drop(digest);
        self.target.place(at, data, prepared)
    }

    fn store(&self, at: ByteOffset, data: &[u8], (prepared, _): Self::Prepared) -> Result<(), VmdkError> {
        self.target.store(at, data, prepared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Progress, ProgressMode};
    use blockdev::MemDisk;

    #[test]
    fn both_forms_have_the_digest_of_the_disk_when_written_and_when_read_back() {
        let mut bytes = vec![0; (5 << 20) + 512];
        bytes[..2 << 20].fill(3);
        bytes[(3 << 20) + 200_000] = 1;
        let last = bytes.len() - 1;
        bytes[last] = 2;
        let disk = MemDisk::new(bytes);
        let expected = digest_of(&disk, |_| {}).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let progress = Progress::new(ProgressMode::None);
        for format in [Format::Raw, Format::Qcow2] {
            let path = dir.path().join(format.name());
            let meter = || progress.meter("x", disk.size().0);
            assert_eq!(write(&disk, &path, format, meter(), &Cancel::never()).unwrap(), expected);
            assert_eq!(read_back(&path, format, meter(), &Cancel::never()).unwrap(), expected);
            use std::os::unix::fs::MetadataExt;
            assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
            assert!(path.metadata().unwrap().blocks() * 512 < 3 << 20, "zeros take no room in {}", format.name());
        }
        assert!(must_be(&expected, Some(&expected), "x").is_ok() && must_be(&expected, None, "x").is_ok());
        let other = digest_of(&MemDisk::new(vec![1]), |_| {}).unwrap();
        assert_eq!(must_be(&other, Some(&expected), "x").unwrap_err().family(), Family::Corrupt);
    }
}
