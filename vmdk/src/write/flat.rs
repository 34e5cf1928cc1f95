//! A flat extent: bytes at their place, blocks of zeros left out.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::out_file::OutFile;
use crate::convert::{div_rem, div_up, to_u64, to_usize};
use crate::is_zero;

/// What is left out if it is zero: a block of most file systems, so that it stays a hole.
const BLOCK_LEN: usize = 4096;

/// What is remembered as written or not. 62 TiB take 8 MiB of bits.
const CHUNK_LEN: u64 = 1 << 20;

/// Which parts of an extent may hold something other than zeros.
#[derive(Debug)]
pub(super) struct FlatBody {
    touched: Vec<AtomicU64>,
}

impl FlatBody {
    pub(super) fn new(len: u64) -> Self {
        let words = to_usize(div_up(div_up(len, CHUNK_LEN), 64));
        Self { touched: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Writes `data` at byte `at` of the extent. Zeros are left out where nothing was written before, and punched where
    /// something may have been.
    pub(super) fn write(&self, file: &OutFile, at: u64, data: &[u8]) -> io::Result<()> {
        let written_before = self.touch(at, to_u64(data.len()));
        let mut rest = data.chunks(BLOCK_LEN).peekable();
        let (mut start, mut offset) = (0usize, at);
        while let Some(block) = rest.next() {
            let zero = is_zero(block);
            let mut len = block.len();
            while let Some(next) = rest.next_if(|next| is_zero(next) == zero) {
                len = len.saturating_add(next.len());
            }
            let end = start.saturating_add(len);
            let run = data.get(start..end).unwrap_or_default();
            match (zero, written_before) {
                (false, _) => file.write_all_at(run, offset)?,
                (true, true) => punch(file.file(), offset, run)?,
                (true, false) => {}
            }
            start = end;
            offset = offset.saturating_add(to_u64(len));
        }
        Ok(())
    }

    /// Notes a range as written, and answers whether any chunk of it was noted before.
    fn touch(&self, at: u64, len: u64) -> bool {
        let last = at.saturating_add(len.saturating_sub(1)) / CHUNK_LEN;
        let mut before = false;
        for chunk in at / CHUNK_LEN..=last {
            let (word, bit) = div_rem(chunk, 64);
            let mask = 1u64.wrapping_shl(u32::try_from(bit).unwrap_or(0));
            if let Some(word) = self.touched.get(to_usize(word)) {
                before |= word.fetch_or(mask, Ordering::Relaxed) & mask != 0;
            }
        }
        before
    }
}

/// Makes a range read as zeros: a hole where the file system can, else the zeros themselves.
fn punch(file: &File, at: u64, zeros: &[u8]) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, at, to_u64(zeros.len())) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.write_all_at(zeros, at),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_left_out_first_and_wipe_what_was_written_before() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let out = OutFile::open(path.path()).unwrap();
        let file = out.file();
        file.set_len(8 << 20).unwrap();
        let body = FlatBody::new(8 << 20);
        let mut data = vec![0; 3 << 20];
        data[1 << 20..(1 << 20) + 70_000].fill(7);
        body.write(&out, 1 << 20, &data).unwrap();
        let mut read = vec![1; 3 << 20];
        file.read_exact_at(&mut read, 1 << 20).unwrap();
        assert_eq!(read, data);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
        assert!(blocks <= 256, "{blocks} blocks for 70000 bytes");
        body.write(&out, 2 << 20, &[0; 65536]).unwrap();
        file.read_exact_at(&mut read, 1 << 20).unwrap();
        data[1 << 20..(1 << 20) + 65536].fill(0);
        assert_eq!(read, data);
    }
}
