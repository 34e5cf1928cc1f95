use crate::read::check_range;
use crate::{ByteLen, ByteOffset, Extent, ReadAt, ReadError};

/// A part of a disk, itself a disk. Positions in its errors are those of the whole disk.
#[derive(Clone, Debug)]
pub struct Window<D> {
    disk: D,
    start: ByteOffset,
    len: ByteLen,
}

impl<D: ReadAt> Window<D> {
    /// `len` bytes of `disk` from byte `start` on.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] if the part does not lie inside the disk.
    pub fn new(disk: D, start: ByteOffset, len: ByteLen) -> Result<Self, ReadError> {
        check_range(disk.size(), start, len)?;
        Ok(Self { disk, start, len })
    }

    fn whole(&self, at: ByteOffset) -> ByteOffset {
        ByteOffset(self.start.0.saturating_add(at.0)) // `at` was checked against `len`, so nothing saturates
    }
}

impl<D: ReadAt> ReadAt for Window<D> {
    fn size(&self) -> ByteLen {
        self.len
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        check_range(self.len, at, ByteLen::of(buf))?;
        self.disk.read_exact_at(self.whole(at), buf)
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        let left = check_range(self.len, at, ByteLen(1))?;
        let outer = self.disk.extent_at(self.whole(at))?;
        Ok(Extent { start: at, len: left.min(outer.len), kind: outer.kind })
    }

    fn will_need(&self, at: ByteOffset, len: ByteLen) {
        if check_range(self.len, at, len).is_ok() {
            self.disk.will_need(self.whole(at), len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemDisk, ReadAtExt};

    #[test]
    fn a_window_shifts_reads_and_ends_where_it_should() {
        let disk = MemDisk::new((0..16).collect());
        let window = Window::new(&disk, ByteOffset(4), ByteLen(8)).unwrap();
        let mut buf = [0; 4];
        window.read_exact_at(ByteOffset(4), &mut buf).unwrap();
        assert_eq!(buf, [8, 9, 10, 11]);
        assert!(window.read_exact_at(ByteOffset(5), &mut buf).is_err());
        assert_eq!(window.extents().map(|e| e.unwrap().len.0).sum::<u64>(), 8);
    }

    #[test]
    fn a_window_that_passes_the_end_is_refused() {
        let disk = MemDisk::new(vec![0; 16]);
        assert!(Window::new(&disk, ByteOffset(8), ByteLen(9)).is_err());
    }
}
