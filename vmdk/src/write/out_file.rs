//! A file that is written in long runs.
//!
//! Long runs go past the page cache (`O_DIRECT`, open(2)): a disk image is read again by nobody soon, and copying it into fresh
//! memory that is then written from there costs more than everything else that is done with it. What is left at the end for
//! fsync(2) is little. The rest goes through the cache: short runs, ends that are not aligned, data whose address is not, and
//! everything on file systems that know no direct writes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::convert::{round_up, to_u64, to_usize};

/// Where in the file a direct write begins and ends. No page and no block of usual file systems is larger, so none is written
/// both ways.
const UNIT: u64 = 64 << 10;
/// Shorter runs are gathered by the page cache.
const SHORTEST: u64 = 256 << 10;
/// What data must be aligned to in memory: enough for every device with sectors of up to 4096 bytes.
const MEMORY: usize = 4096;

/// An open file.
#[derive(Debug)]
pub(super) struct OutFile {
    file: File,
    /// The same file without the page cache.
    direct: Option<File>,
    /// The file system took the flag and refused a write.
    refused: AtomicBool,
}

impl OutFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
        // Where it fails it is not known; that is no error.
        let direct = OpenOptions::new().write(true).custom_flags(flags).open(path).ok();
        Ok(Self { file, direct, refused: AtomicBool::new(false) })
    }

    /// The file itself, for all but long writes.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Writes `data` at byte `at`.
    pub(super) fn write_all_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        let (head, body) = direct_part(data, at);
        let (head, rest) = data.split_at(head);
        let (body, tail) = rest.split_at(body);
        self.file.write_all_at(head, at)?;
        let at = at.saturating_add(to_u64(head.len()));
        let done = self.write_direct(body, at)?;
        self.file.write_all_at(body.get(done..).unwrap_or_default(), at.saturating_add(to_u64(done)))?;
        self.file.write_all_at(tail, at.saturating_add(to_u64(body.len())))
    }

    /// Writes what the file system takes; answers how much that was.
    fn write_direct(&self, data: &[u8], at: u64) -> io::Result<usize> {
        let Some(direct) = self.direct.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed)) else { return Ok(0) };
        let mut done = 0usize;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            match direct.write_at(rest, at.saturating_add(to_u64(done))) {
                Ok(0) => break, // the other way says why
                Ok(written) => done = done.saturating_add(written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                    self.refused.store(true, Ordering::Relaxed);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// The part of `data` for a direct write: how many bytes come before it, and how many it has.
fn direct_part(data: &[u8], at: u64) -> (usize, usize) {
    let end = at.saturating_add(to_u64(data.len()));
    let start = round_up(at, UNIT);
    let len = end.saturating_sub(end % UNIT).saturating_sub(start);
    let before = to_usize(start.saturating_sub(at));
    let aligned = data.get(before..).is_some_and(|body| body.as_ptr().align_offset(MEMORY) == 0);
    if aligned && len >= SHORTEST { (before, to_usize(len)) } else { (0, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that begin at an aligned address.
    fn aligned(memory: &mut Vec<u8>, len: usize) -> &mut [u8] {
        memory.resize(len + MEMORY, 0);
        let start = memory.as_ptr().align_offset(MEMORY);
        &mut memory[start..start + len]
    }

    #[test]
    fn aligned_middles_of_long_runs_are_written_directly() {
        let mut memory = Vec::new();
        let data = aligned(&mut memory, 1 << 20);
        assert_eq!(direct_part(data, 0), (0, 1 << 20));
        assert_eq!(direct_part(data, 4096), (60 << 10, 15 << 16));
        assert_eq!(direct_part(&data[..(1 << 20) - 512], 1 << 20), (0, 15 << 16));
        assert_eq!(direct_part(&data[..4 << 16], 1 << 20), (0, 4 << 16));
    }

    #[test]
    fn short_runs_and_data_out_of_line_are_not() {
        let mut memory = Vec::new();
        let data = aligned(&mut memory, 1 << 20);
        assert_eq!(direct_part(&data[..3 << 16], 0), (0, 0));
        assert_eq!(direct_part(&data[..4 << 16], 4096), (0, 0));
        assert_eq!(direct_part(&data[512..], 0), (0, 0));
        assert_eq!(direct_part(&data[512..], 512), (65536 - 512, 15 << 16));
        assert_eq!(direct_part(data, 512), (0, 0));
        assert_eq!(direct_part(&[], 0), (0, 0));
    }

    #[test]
    fn all_ways_leave_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut memory = Vec::new();
        let data = aligned(&mut memory, 2 << 20);
        data.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i / 7) as u8);
        for refused in [false, true] {
            let mut expected = vec![0; 8 << 20];
            std::fs::write(&path, &expected).unwrap();
            let file = OutFile::open(&path).unwrap();
            file.refused.store(refused, Ordering::Relaxed);
            for (at, from, to) in
                [(4096, 0, 1 << 20), (2 << 20, 0, 2 << 20), (5 << 20, 3, 900_003), (7 << 20, 0, 333_333)]
            {
                file.write_all_at(&data[from..to], at).unwrap();
                let at = usize::try_from(at).unwrap();
                expected[at..at + to - from].copy_from_slice(&data[from..to]);
            }
            assert!(std::fs::read(&path).unwrap() == expected, "{refused}");
        }
    }
}
