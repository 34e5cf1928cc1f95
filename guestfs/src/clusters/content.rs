use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, ReadAt, ReadError};

use super::Runs;
use crate::FsError;

/// The bytes of a file.
pub(crate) struct Content {
    disk: Arc<dyn ReadAt>,
    runs: Runs,
    size: u64,
    /// How errors call it.
    what: String,
    /// From here on the file reads as zeros, whatever its clusters hold.
    valid: u64,
}

impl Content {
    /// `runs` must reach up to `valid`.
    pub(crate) fn new(disk: Arc<dyn ReadAt>, runs: Runs, size: u64, valid: u64, what: String) -> Self {
        Self { disk, runs, size, what, valid: valid.min(size) }
    }

    fn check(&self, at: ByteOffset, len: ByteLen) -> Result<u64, ReadError> {
        match self.size.checked_sub(at.0) {
            Some(left) if left >= len.0 => Ok(left),
            _ => Err(ReadError::OutOfRange { at, len, size: self.size() }),
        }
    }
}

impl ReadAt for Content {
    fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.check(at, ByteLen::of(buf))?;
        let stored = usize::try_from(self.valid.saturating_sub(at.0)).unwrap_or(usize::MAX).min(buf.len());
        let (stored, zeros) = buf.split_at_mut(stored);
        let result = self.runs.read(&self.disk, at.0, stored);
        result.map_err(|source| FsError::Read { what: self.what.clone(), source }.at(at))?;
        zeros.fill(0);
        Ok(())
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        let left = self.check(at, ByteLen(1))?;
        let stored = self.valid.checked_sub(at.0).filter(|stored| *stored > 0);
        let (Some(stored), Some((place, run))) = (stored, self.runs.locate(at.0)) else {
            return Ok(Extent { start: at, len: ByteLen(left), kind: ExtentKind::Zero });
        };
        let below = self.disk.extent_at(ByteOffset(place))?;
        Ok(Extent { start: at, len: ByteLen(below.len.0.min(run).min(stored)), kind: below.kind })
    }
}

#[cfg(test)]
mod tests {
    use blockdev::{MemDisk, ReadAtExt};

    use super::*;

    #[test]
    fn what_was_never_written_reads_as_zeros() {
        let disk: Arc<dyn ReadAt> = Arc::new(MemDisk::new(vec![7; 8]));
        let content = Content::new(disk, Runs::one(2, 6), 5, 3, "it".to_owned());
        let mut buf = [1; 4];
        content.read_exact_at(ByteOffset(1), &mut buf).unwrap();
        assert_eq!(buf, [7, 7, 0, 0]);
        assert!(content.read_exact_at(ByteOffset(2), &mut buf).is_err());
        let extents: Vec<_> =
            content.extents().map(|e| e.map(|e| (e.len.0, e.kind))).collect::<Result<_, _>>().unwrap();
        assert_eq!(extents, [(3, ExtentKind::Data), (2, ExtentKind::Zero)]);
    }
}
