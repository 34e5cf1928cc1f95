use std::sync::Arc;

use blockdev::{ByteOffset, ReadAt};

use super::u32_at;
use crate::{CachedDisk, FsError};

/// Bytes of the table that are looked at together. More for nothing where chains jump, less is a lock for each cluster.
const WINDOW: u64 = 4096;

/// How many bits an entry of the table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// FAT12: three bytes hold two entries.
    Bits12,
    /// FAT16.
    Bits16,
    /// FAT32: of 32 bits, 28 count.
    Bits28,
    /// exFAT: all 32 count.
    Bits32,
}

impl Width {
    /// Where the entry of a cluster begins in the table.
    fn offset(self, cluster: u32) -> u64 {
        let cluster = u64::from(cluster);
        match self {
            Self::Bits12 => cluster.saturating_mul(3) / 2,
            Self::Bits16 => cluster.saturating_mul(2),
            Self::Bits28 | Self::Bits32 => cluster.saturating_mul(4),
        }
    }

    /// How many entries fit a table of this many bytes.
    pub(crate) fn entries_of(self, bytes: u64) -> u64 {
        match self {
            Self::Bits12 => bytes.saturating_mul(2) / 3,
            Self::Bits16 => bytes / 2,
            Self::Bits28 | Self::Bits32 => bytes / 4,
        }
    }

    /// The least value that ends a chain (Microsoft FAT Specification, 2005, section 4; exFAT specification, section 4.1).
    fn end(self) -> u32 {
        match self {
            Self::Bits12 => 0xff8,
            Self::Bits16 => 0xfff8,
            Self::Bits28 => 0x0fff_fff8,
            Self::Bits32 => u32::MAX,
        }
    }

    fn decode(self, bytes: &[u8], cluster: u32) -> u32 {
        let value = u32_at(bytes, 0);
        match self {
            Self::Bits12 if cluster & 1 == 1 => value >> 4 & 0xfff,
            Self::Bits12 => value & 0xfff,
            Self::Bits16 => value & 0xffff,
            Self::Bits28 => value & 0x0fff_ffff,
            Self::Bits32 => value,
        }
    }
}

/// The table that says which cluster follows which.
pub(crate) struct Table {
    disk: Arc<CachedDisk>,
    start: u64,
    len: u64,
    width: Width,
}

impl Table {
    /// `len` bytes from byte `start` of the volume on.
    pub(crate) fn new(disk: Arc<CachedDisk>, start: u64, len: u64, width: Width) -> Self {
        Self { disk, start, len, width }
    }

    pub(crate) fn reader(&self) -> TableReader<'_> {
        TableReader { table: self, at: 0, window: Vec::new() }
    }
}

/// Reads the table, a window at a time.
pub(crate) struct TableReader<'a> {
    table: &'a Table,
    at: u64,
    window: Vec<u8>,
}

impl TableReader<'_> {
    /// The value of the entry of a cluster. An entry behind the end of the table is 0: a free cluster.
    pub(crate) fn value(&mut self, cluster: u32) -> Result<u32, FsError> {
        let offset = self.table.width.offset(cluster);
        if self.bytes(offset).len() < 4 {
            self.load(offset)?;
        }
        Ok(self.table.width.decode(self.bytes(offset), cluster))
    }

    /// The cluster that follows, or `None` where the chain ends. It may be none of the volume.
    pub(crate) fn next(&mut self, cluster: u32) -> Result<Option<u32>, FsError> {
        let value = self.value(cluster)?;
        Ok(if value >= self.table.width.end() { None } else { Some(value) })
    }

    fn bytes(&self, offset: u64) -> &[u8] {
        let skipped = offset.checked_sub(self.at).and_then(|skipped| usize::try_from(skipped).ok());
        skipped.and_then(|skipped| self.window.get(skipped..)).unwrap_or_default()
    }

    /// Loads what lies around byte `offset`, and three bytes more for an entry that crosses the border.
    fn load(&mut self, offset: u64) -> Result<(), FsError> {
        let table = self.table;
        self.at = offset & !WINDOW.saturating_sub(1);
        let len = table.len.saturating_sub(self.at).min(WINDOW.saturating_add(3));
        self.window.clear();
        self.window.resize(usize::try_from(len).unwrap_or(0), 0); // at most WINDOW and 3
        if len == 0 {
            return Ok(());
        }
        let at = ByteOffset(table.start.saturating_add(self.at));
        let result = table.disk.read_exact_at(at, &mut self.window);
        result.map_err(|source| FsError::Read { what: format!("the FAT at byte {at}"), source })
    }
}

#[cfg(test)]
mod tests {
    use blockdev::{ByteLen, MemDisk};

    use super::*;
    use crate::Cache;

    fn values(width: Width, bytes: Vec<u8>, clusters: &[u32]) -> Vec<u32> {
        let len = ByteLen::of(&bytes).0;
        let disk = Arc::new(CachedDisk::new(Arc::new(MemDisk::new(bytes)), Cache::new(ByteLen(1 << 20))));
        let table = Table::new(disk, 0, len, width);
        let mut reader = table.reader();
        clusters.iter().map(|cluster| reader.value(*cluster).unwrap()).collect()
    }

    #[test]
    fn entries_of_12_bits_share_a_byte_and_may_cross_windows() {
        assert_eq!(values(Width::Bits12, vec![0x23, 0xc1, 0xab, 0x45, 0x06], &[0, 1, 2, 3]), [0x123, 0xabc, 0x645, 0]);
        let mut bytes = vec![0; 6000];
        bytes[4095..4097].copy_from_slice(&[0x34, 0x02]); // cluster 2730, half of each window
        assert_eq!(values(Width::Bits12, bytes, &[2730, 9999, 2730]), [0x234, 0, 0x234]);
    }

    #[test]
    fn only_28_bits_of_fat32_count() {
        assert_eq!(values(Width::Bits28, vec![1, 0, 0, 0xf0, 2, 0, 0, 0xff], &[0, 1]), [1, 0x0f00_0002]);
        assert_eq!(values(Width::Bits32, vec![1, 0, 0, 0xf0], &[0]), [0xf000_0001]);
        assert_eq!(values(Width::Bits16, vec![1, 0, 0, 0xf0], &[0, 1]), [1, 0xf000]);
    }
}
