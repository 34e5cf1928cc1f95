use crate::read::check_range;
use crate::{ByteLen, ByteOffset, ReadAt, ReadError};

/// A disk in memory.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    bytes: Vec<u8>,
}

impl MemDisk {
    /// A disk that holds just `bytes`.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Gives the bytes back.
    #[must_use]
    pub fn into_inner(self) -> Vec<u8> {
        self.bytes
    }
}

impl ReadAt for MemDisk {
    fn size(&self) -> ByteLen {
        ByteLen::of(&self.bytes)
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let (size, len) = (self.size(), ByteLen::of(buf));
        check_range(size, at, len)?;
        let out_of_range = ReadError::OutOfRange { at, len, size };
        let Ok(start) = usize::try_from(at.0) else { return Err(out_of_range) };
        let range = start..start.saturating_add(buf.len());
        buf.copy_from_slice(self.bytes.get(range).ok_or(out_of_range)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_up_to_the_last_byte_succeeds_and_one_past_it_is_refused() {
        let disk = MemDisk::new(vec![1, 2, 3, 4]);
        let mut buf = [0; 2];
        disk.read_exact_at(ByteOffset(2), &mut buf).unwrap();
        assert_eq!(buf, [3, 4]);
        let err = disk.read_exact_at(ByteOffset(3), &mut buf).unwrap_err();
        assert_eq!(err.to_string(), "a read of 2 bytes at byte 0x3 passes the end of a disk of 4 bytes");
    }

    #[test]
    fn a_read_whose_end_overflows_is_refused() {
        let disk = MemDisk::new(vec![0; 8]);
        assert!(disk.read_exact_at(ByteOffset(u64::MAX), &mut [0; 8]).is_err());
    }
}
