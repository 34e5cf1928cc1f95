//! The disk under an NTFS volume, in clusters.

use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};

use super::runs::Runs;
use crate::bytes::array;
use crate::{CachedDisk, FsError};

/// Records are 1 KiB, or 4 KiB on disks of such sectors; the boot sector could claim much more.
const MAX_RECORD: u64 = 64 << 10;

/// Files up to this length are small.
const SMALL_FILE: u64 = 64 << 10;

/// A volume's disk and its measures. All are powers of two.
pub(super) struct Device {
    disk: Arc<CachedDisk>,
    /// Bytes per cluster: 512 bytes to 2 MiB.
    pub(super) cluster: u64,
    /// Log2 of that.
    pub(super) log: u32,
    /// Clusters of the volume.
    pub(super) clusters: u64,
    /// Bytes per file record.
    pub(super) record: usize,
    /// Where record 0 lies, in bytes.
    pub(super) mft: u64,
    /// Where its copy lies, in bytes.
    pub(super) mirror: u64,
    pub(super) serial: u64,
}

impl Device {
    /// Reads the boot sector.
    pub(super) fn open(disk: Arc<CachedDisk>) -> Result<Self, FsError> {
        let what = "the boot sector";
        let mut sector = [0; 512];
        let failed = |source| FsError::Read { what: what.into(), source };
        disk.read_exact_at(ByteOffset(0), &mut sector).map_err(failed)?;
        let corrupt = |field, found: String, expected| FsError::Corrupt { what: what.into(), field, found, expected };
        let parsed = ntfs::Ntfs::new(&mut std::io::Cursor::new(&sector))
            .map_err(|error| corrupt("layout", error.to_string(), "that of NTFS"))?;
        let cluster = u64::from(parsed.cluster_size());
        let record = u64::from(parsed.file_record_size());
        if record > MAX_RECORD || !record.is_power_of_two() {
            return Err(corrupt("size of file records", record.to_string(), "a power of two up to 64 KiB"));
        }
        // The last sector of a partition holds a copy of the boot sector and does not count.
        let (claimed, there) = (parsed.size(), disk.size().0);
        if claimed > there {
            let found = ByteLen(claimed).to_string();
            return Err(corrupt("size", found, "at most that of the disk or partition: the disk was cut off"));
        }
        let log = cluster.checked_ilog2().unwrap_or(0); // a power of two, says the crate
        let clusters = claimed >> log;
        let mirror = u64::from_le_bytes(array(&sector, 0x38).unwrap_or_default());
        Ok(Self {
            cluster,
            log,
            clusters,
            record: usize::try_from(record).unwrap_or(0), // at most 64 KiB
            mft: parsed.mft_position().value().map_or(0, u64::from),
            mirror: mirror.saturating_mul(cluster),
            serial: parsed.serial_number(),
            disk,
        })
    }

    /// The disk through the cache: for what describes files.
    pub(super) fn cached(&self) -> &CachedDisk {
        &self.disk
    }

    /// The disk for the bytes of a file of this length: those of small files lie close together, and are read through the cache.
    pub(super) fn read_file(
        &self,
        len: u64,
        work: impl FnOnce(&dyn ReadAt) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        if len <= SMALL_FILE { work(&self.disk.small_files()) } else { work(self.disk.uncached()) }
    }

    /// Says that a file with these runs will be read, if it is small.
    pub(super) fn will_read(&self, runs: &Runs, len: u64) {
        let first = runs.from(0).first();
        if let Some(lcn) = first.and_then(|run| run.lcn).filter(|_| len <= SMALL_FILE) {
            self.disk.small_files().will_need(ByteOffset(lcn.saturating_mul(self.cluster)), ByteLen(len));
        }
    }

    /// Fills `buf` from byte `at` of a value with these runs. Holes read as zeros.
    pub(super) fn read_runs(&self, disk: &dyn ReadAt, runs: &Runs, at: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let size = ByteLen(runs.end().saturating_mul(self.cluster));
        let out_of_range = ReadError::OutOfRange { at: ByteOffset(at), len: ByteLen::of(buf), size };
        let mut at = at;
        let mut rest = buf;
        for run in runs.from(at >> self.log) {
            if rest.is_empty() {
                break;
            }
            let into = at.saturating_sub(run.start.saturating_mul(self.cluster));
            let len = run.end.saturating_mul(self.cluster).saturating_sub(at);
            let take = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
            let (head, tail) = rest.split_at_mut(take);
            match run.lcn {
                None => head.fill(0),
                Some(lcn) => {
                    let start = lcn.saturating_mul(self.cluster).saturating_add(into);
                    disk.read_exact_at(ByteOffset(start), head)?;
                }
            }
            at = at.saturating_add(ByteLen::of(head).0);
            rest = tail;
        }
        if rest.is_empty() { Ok(()) } else { Err(out_of_range) }
    }
}
