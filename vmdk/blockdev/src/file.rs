use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::read::check_range;
use crate::{ByteLen, ByteOffset, Extent, ExtentKind, ReadAt, ReadError};

/// A regular file or block device as a disk. Holes are those of the file system (`SEEK_HOLE`, `lseek(2)`).
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    size: ByteLen,
}

impl FileDisk {
    /// Opens `path` read-only.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(File::open(path)?)
    }

    /// Takes an open file. Its size is taken now and must not change while it is read. The file's cursor is used to find holes.
    ///
    /// # Errors
    /// What the operating system says when asked for the size.
    pub fn new(file: File) -> io::Result<Self> {
        // Seeking gives the size of block devices too; metadata gives 0 for them.
        let size = ByteLen(rustix::fs::seek(&file, SeekFrom::End(0))?);
        Ok(Self { file, size })
    }
}

impl ReadAt for FileDisk {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        check_range(self.size, at, ByteLen::of(buf))?;
        self.file.read_exact_at(buf, at.0).map_err(|source| ReadError::Io { at, source })
    }

    fn will_need(&self, at: ByteOffset, len: ByteLen) {
        let len = std::num::NonZeroU64::new(len.0);
        let _ = rustix::fs::fadvise(&self.file, at.0, len, rustix::fs::Advice::WillNeed); // a file system may not know it
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        let left = check_range(self.size, at, ByteLen(1))?;
        let io = |e: Errno| ReadError::Io { at, source: e.into() };
        let run = |end: u64, kind| {
            let len = ByteLen(end.saturating_sub(at.0).clamp(1, left.0));
            Ok(Extent { start: at, len, kind })
        };
        // SEEK_DATA and SEEK_HOLE set the shared cursor, which nothing here reads by, and answer by value.
        match rustix::fs::seek(&self.file, SeekFrom::Data(at.0)) {
            Ok(data) if data > at.0 => run(data, ExtentKind::Hole),
            Ok(_) => match rustix::fs::seek(&self.file, SeekFrom::Hole(at.0)) {
                Ok(hole) => run(hole, ExtentKind::Data),
                Err(e) => Err(io(e)),
            },
            Err(Errno::NXIO) => run(self.size.0, ExtentKind::Hole), // no data up to the end
            Err(Errno::INVAL) => run(self.size.0, ExtentKind::Data), // block devices do not know holes
            Err(e) => Err(io(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReadAtExt;

    fn sparse_file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(&[1; 65536], 1 << 20).unwrap();
        file
    }

    #[test]
    fn holes_of_a_file_are_found_on_both_sides_of_its_data() {
        let disk = FileDisk::new(sparse_file()).unwrap();
        let extents: Vec<_> = disk.extents().map(|e| e.map(|e| (e.start.0, e.kind))).collect::<Result<_, _>>().unwrap();
        let expected = [(0, ExtentKind::Hole), (1 << 20, ExtentKind::Data), ((1 << 20) + 65536, ExtentKind::Hole)];
        assert_eq!(extents, expected);
    }

    #[test]
    fn a_file_that_shrank_under_us_is_an_error_and_not_zeros() {
        let file = sparse_file();
        let disk = FileDisk::new(file.try_clone().unwrap()).unwrap();
        file.set_len(1 << 20).unwrap();
        let err = disk.read_exact_at(ByteOffset(1 << 20), &mut [0; 512]).unwrap_err();
        assert!(matches!(err, ReadError::Io { .. }), "{err}");
    }
}
