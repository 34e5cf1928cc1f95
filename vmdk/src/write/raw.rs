//! A disk as its bytes alone.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use blockdev::{ByteLen, ByteOffset};

use super::files::{Files, failed, remove};
use super::flat::FlatBody;
use crate::VmdkError;
use crate::convert::{MAX_CAPACITY, sectors_to_bytes, to_u64, to_usize};

/// A raw disk that is being written to a file. Any number of threads may write; zeros are left out, as holes.
#[derive(Debug)]
pub struct RawWriter {
    files: Files,
    body: FlatBody,
    capacity: u64,
}

impl RawWriter {
    /// Makes the file, which must not exist.
    ///
    /// # Errors
    /// It exists, the disk is larger than 64 TiB, or the operating system refuses.
    pub fn create(path: &Path, capacity: ByteLen) -> Result<Self, VmdkError> {
        if capacity.0 > sectors_to_bytes(MAX_CAPACITY.0) {
            let expected = "at most 64 TiB";
            return Err(VmdkError::Request { field: "the capacity in bytes", actual: capacity.0, expected });
        }
        let files = Files::create(vec![path.to_owned()])?;
        let set =
            files.get(0).and_then(|file| file.file().set_len(capacity.0).map_err(failed("set the length of", path)));
        set.inspect_err(|_| remove(files.paths()))?;
        Ok(Self { files, body: FlatBody::new(capacity.0), capacity: capacity.0 })
    }

    /// Writes `data` at byte `at`. Writing a range again replaces it.
    ///
    /// # Errors
    /// The range passes the end of the disk, or writing failed.
    pub fn write_at(&self, at: ByteOffset, data: &[u8]) -> Result<(), VmdkError> {
        check_end(self.capacity, at, data)?;
        let file = self.files.get(0)?;
        self.body.write(&file, at.0, data).map_err(failed("write", self.files.path(0)))
    }

    /// Waits until everything is on disk; answers the file.
    ///
    /// # Errors
    /// Writing failed.
    pub fn finish(self) -> Result<PathBuf, VmdkError> {
        let path = self.files.path(0);
        self.files.get(0)?.file().sync_all().map_err(failed("write", path))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("write", folder))?;
        Ok(path.to_owned())
    }

    /// Gives the disk up and removes its file, if it can be removed.
    pub fn discard(self) {
        remove(self.files.paths());
    }
}

/// A raw disk that is being written to anything that takes bytes in order. Zeros are written too.
#[derive(Debug)]
pub struct RawStream<W> {
    name: String,
    capacity: u64,
    /// The sink, and how far it is; `None` after a write that failed somewhere in its middle.
    state: Mutex<(W, Option<u64>)>,
}

/// Zeros are written in pieces of this size.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl<W: Write> RawStream<W> {
    /// Begins the stream. `name` is used in errors.
    pub fn new(sink: W, name: &str, capacity: ByteLen) -> Self {
        Self { name: name.to_owned(), capacity: capacity.0, state: Mutex::new((sink, Some(0))) }
    }

    /// Writes `data` at byte `at`, which is not before the end of the last write, and zeros up to there.
    ///
    /// # Errors
    /// The range passes the end of the disk or begins too early, or writing failed.
    pub fn write_at(&self, at: ByteOffset, data: &[u8]) -> Result<(), VmdkError> {
        check_end(self.capacity, at, data)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let end = state.1.ok_or_else(|| VmdkError::WriteFailed { file: self.name.clone() })?;
        if at.0 < end {
            return Err(VmdkError::Request {
                field: "the start of a write",
                actual: at.0,
                expected: "a place behind all that was written; a stream takes a disk in its order",
            });
        }
        state.1 = None;
        let write = fill(&mut state.0, end, at.0).and_then(|()| state.0.write_all(data));
        write.map_err(VmdkError::io("write", self.name.as_str()))?;
        state.1 = Some(at.0.saturating_add(to_u64(data.len())));
        Ok(())
    }

    /// Writes zeros up to the end of the disk; gives the sink back, flushed.
    ///
    /// # Errors
    /// Writing failed, now or earlier.
    pub fn finish(self) -> Result<W, VmdkError> {
        let (mut sink, end) = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let end = end.ok_or_else(|| VmdkError::WriteFailed { file: self.name.clone() })?;
        let ended = fill(&mut sink, end, self.capacity).and_then(|()| sink.flush());
        ended.map_err(VmdkError::io("write", self.name))?;
        Ok(sink)
    }
}

/// Writes zeros from byte `from` of the disk to byte `to`.
fn fill(sink: &mut impl Write, mut from: u64, to: u64) -> std::io::Result<()> {
    while from < to {
        let len = to_usize(to.saturating_sub(from)).min(ZEROS.len());
        sink.write_all(ZEROS.get(..len).unwrap_or_default())?;
        from = from.saturating_add(to_u64(len));
    }
    Ok(())
}

fn check_end(capacity: u64, at: ByteOffset, data: &[u8]) -> Result<(), VmdkError> {
    match at.checked_add(ByteLen::of(data)) {
        Some(end) if end.0 <= capacity => Ok(()),
        _ => Err(VmdkError::Request {
            field: "the start of a write",
            actual: at.0,
            expected: "a range that ends within the disk",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_stream_fills_what_was_left_out_with_zeros() {
        let stream = RawStream::new(Vec::new(), "x", ByteLen(300_000));
        stream.write_at(ByteOffset(1000), &[1; 10]).unwrap();
        assert!(matches!(stream.write_at(ByteOffset(1009), &[1]), Err(VmdkError::Request { .. })));
        stream.write_at(ByteOffset(200_000), &[2; 5]).unwrap();
        assert!(stream.write_at(ByteOffset(299_999), &[1; 2]).is_err());
        let bytes = stream.finish().unwrap();
        let mut expected = vec![0; 300_000];
        expected[1000..1010].fill(1);
        expected[200_000..200_005].fill(2);
        assert!(bytes == expected);
    }

    #[test]
    fn a_raw_file_is_never_overwritten_and_has_holes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.raw");
        let writer = RawWriter::create(&path, ByteLen(8 << 20)).unwrap();
        assert!(RawWriter::create(&path, ByteLen(8 << 20)).is_err());
        writer.write_at(ByteOffset(1 << 20), &[7; 8192]).unwrap();
        assert!(writer.write_at(ByteOffset(8 << 20), &[7]).is_err());
        writer.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), bytes.iter().filter(|byte| **byte == 7).count()), (8 << 20, 8192));
        let blocks = std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap());
        assert!(blocks <= 64, "{blocks}");
    }
}
