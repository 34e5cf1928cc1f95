use std::fmt;

/// The size of a sector in every virtual disk format we know, in bytes.
pub const SECTOR_SIZE: u64 = 512;

/// A position on a disk, in bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteOffset(pub u64);

/// A length, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteLen(pub u64);

/// A count of 512-byte sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sectors(pub u64);

impl ByteOffset {
    /// The position `len` further on, or `None` past 2^64.
    #[must_use]
    pub const fn checked_add(self, len: ByteLen) -> Option<Self> {
        match self.0.checked_add(len.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// How far this position lies behind `start`, or `None` if it lies before it.
    #[must_use]
    pub const fn checked_since(self, start: Self) -> Option<ByteLen> {
        match self.0.checked_sub(start.0) {
            Some(len) => Some(ByteLen(len)),
            None => None,
        }
    }
}

impl ByteLen {
    /// The length of a buffer.
    #[must_use]
    pub fn of(buf: &[u8]) -> Self {
        // A usize fits a u64 on every platform Rust supports.
        Self(u64::try_from(buf.len()).unwrap_or(u64::MAX))
    }

    /// This length as a buffer size, or `None` if the platform cannot address it.
    #[must_use]
    pub fn to_usize(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }

    /// Whole sectors in this length, or `None` if it is not a multiple of 512.
    #[must_use]
    pub const fn to_sectors(self) -> Option<Sectors> {
        if self.0.is_multiple_of(SECTOR_SIZE) { Some(Sectors(self.0 / SECTOR_SIZE)) } else { None }
    }
}

impl Sectors {
    /// The length of this many sectors, or `None` past 2^64 bytes.
    #[must_use]
    pub const fn to_bytes(self) -> Option<ByteLen> {
        match self.0.checked_mul(SECTOR_SIZE) {
            Some(bytes) => Some(ByteLen(bytes)),
            None => None,
        }
    }
}

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Lengths print in the largest binary unit that divides them exactly, so no digit is lost.
impl fmt::Display for ByteLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        for (shift, unit) in UNITS {
            let size = 1u64 << shift;
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_convert_only_when_they_are_whole_sectors() {
        assert_eq!(ByteLen(1024).to_sectors(), Some(Sectors(2)));
        assert_eq!(ByteLen(1025).to_sectors(), None);
        assert_eq!(Sectors(u64::MAX).to_bytes(), None);
    }

    #[test]
    fn lengths_print_in_the_largest_exact_unit() {
        assert_eq!(ByteLen(4 << 30).to_string(), "4 GiB");
        assert_eq!(ByteLen((4 << 30) + 512).to_string(), "4294967808 bytes");
    }
}
