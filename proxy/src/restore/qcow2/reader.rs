//! Reads what the writer writes, and refuses everything else.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, FileDisk, ReadAt, ReadError};

use super::{CLUSTER, CLUSTER_BITS, COPIED, HEADER_LEN, L2_ENTRIES, L2_SPAN, MAGIC, MAX_CAPACITY, VERSION};

/// What contradicts the form of a file that we wrote.
#[derive(Debug, thiserror::Error)]
#[error("{field} at byte {at:#x} is {found:#x}: expected {expected}")]
struct Wrong {
    field: &'static str,
    at: u64,
    found: u64,
    expected: &'static str,
}

impl Wrong {
    fn into_error(self) -> ReadError {
        ReadError::Corrupt { at: ByteOffset(self.at), source: Box::new(self) }
    }
}

/// A qcow2 file of ours, read.
#[derive(Debug)]
pub(crate) struct Qcow2Reader {
    file: FileDisk,
    capacity: u64,
    l1: Vec<u64>,
    /// The L2 table that was read last, by its number.
    table: Mutex<Option<(u64, Vec<u64>)>>,
}

impl Qcow2Reader {
    /// Opens the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, ReadError> {
        let file = FileDisk::open(path).map_err(|source| ReadError::Io { at: ByteOffset(0), source })?;
        let mut header = [0; HEADER_LEN as usize];
        file.read_exact_at(ByteOffset(0), &mut header)?;
        let word =
            |at: usize| u64::from(u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
        let long = |at: usize| word(at) << 32 | word(at + 4);
        let is = |field, at: usize, found, wanted, expected| {
            if found == wanted { Ok(()) } else { Err(Wrong { field, at: at as u64, found, expected }.into_error()) }
        };
        is("magic", 0, word(0), MAGIC.into(), "QFI\\xfb")?;
        is("version", 4, word(4), VERSION.into(), "3")?;
        is("backing_file_offset", 8, long(8), 0, "no backing file")?;
        is("cluster_bits", 20, word(20), CLUSTER_BITS.into(), "16")?;
        is("crypt_method", 32, word(32), 0, "no encryption")?;
        is("l1_table_offset", 40, long(40), CLUSTER, "the second cluster")?;
        is("incompatible_features", 72, long(72), 0, "none")?;
        let capacity = long(24);
        if capacity > MAX_CAPACITY {
            return Err(Wrong { field: "size", at: 24, found: capacity, expected: "at most 64 TiB" }.into_error());
        }
        let entries = capacity.div_ceil(L2_SPAN).max(1);
        is("l1_size", 36, word(36), entries, "one entry for each 512 MiB")?;
        let l1 = entries_at(&file, CLUSTER, entries as usize)?;
        Ok(Self { file, capacity, l1, table: Mutex::new(None) })
    }

    /// Where the cluster with byte `at` of the disk lies; None for a hole.
    fn cluster(&self, at: u64) -> Result<Option<u64>, ReadError> {
        let index = at / L2_SPAN;
        let Some(table_at) = self.offset("an L1 entry", self.l1.get(index as usize).copied().unwrap_or(0))? else {
            return Ok(None);
        };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.as_ref().is_none_or(|(known, _)| *known != index) {
            *table = Some((index, entries_at(&self.file, table_at, L2_ENTRIES)?));
        }
        let entry = table.as_ref().and_then(|(_, entries)| entries.get((at % L2_SPAN / CLUSTER) as usize).copied());
        drop(table);
        self.offset("an L2 entry", entry.unwrap_or(0))
    }

    fn offset(&self, field: &'static str, entry: u64) -> Result<Option<u64>, ReadError> {
        let at = entry & !COPIED;
        if entry == 0 {
            return Ok(None);
        }
        let good = entry & COPIED != 0 && at >= CLUSTER && at.is_multiple_of(CLUSTER) && at < self.file.size().0;
        if good {
            return Ok(Some(at));
        }
        let expected = "a cluster of the file that is used once";
        Err(Wrong { field, at, found: entry, expected }.into_error())
    }

    /// The end of the run of the kind that `at` has, not past `limit`.
    fn run(&self, at: u64, limit: u64) -> Result<(Option<u64>, u64), ReadError> {
        let start = at / CLUSTER * CLUSTER;
        let first = self.cluster(start)?;
        let mut end = start + CLUSTER;
        while end < limit {
            let next = self.cluster(end)?;
            if next != first.map(|first| first + (end - start)) {
                break;
            }
            end += CLUSTER;
        }
        Ok((first.map(|first| first + (at - start)), end.min(limit)))
    }
}

fn entries_at(file: &FileDisk, at: u64, count: usize) -> Result<Vec<u64>, ReadError> {
    let mut bytes = vec![0; count * 8];
    file.read_exact_at(ByteOffset(at), &mut bytes)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect())
}

impl ReadAt for Qcow2Reader {
    fn size(&self) -> ByteLen {
        ByteLen(self.capacity)
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = ByteLen::of(buf);
        let end = at.0.checked_add(len.0).filter(|end| *end <= self.capacity);
        let end = end.ok_or(ReadError::OutOfRange { at, len, size: self.size() })?;
        let (mut here, mut rest) = (at.0, buf);
        while here < end {
            let (place, stop) = self.run(here, end)?;
            let (now, later) = std::mem::take(&mut rest).split_at_mut((stop - here) as usize);
            match place {
                Some(place) => self.file.read_exact_at(ByteOffset(place), now)?,
                None => now.fill(0),
            }
            (here, rest) = (stop, later);
        }
        Ok(())
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        if at.0 >= self.capacity {
            return Err(ReadError::OutOfRange { at, len: ByteLen(1), size: self.size() });
        }
        // A table at a time: a disk of 64 TiB without data has 131072 of them, and none is looked through.
        let limit = ((at.0 / L2_SPAN + 1) * L2_SPAN).min(self.capacity);
        let missing = self.l1.get((at.0 / L2_SPAN) as usize).is_none_or(|entry| *entry == 0);
        let (place, end) = if missing { (None, limit) } else { self.run(at.0, limit)? };
        let kind = if place.is_some() { ExtentKind::Data } else { ExtentKind::Hole };
        Ok(Extent { start: at, len: ByteLen(end - at.0), kind })
    }
}
