//! Writing bytes so that zeros stay holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use blockdev::{ExtentKind, ReadAt, ReadAtExt, ReadError};

/// Runs of zeros are looked for in blocks of this size, which is that of most file systems.
const BLOCK: usize = 4096;
const COPY_BLOCK: u64 = 1 << 20;

/// Writes `data` at byte `at` of a file that holds nothing there yet: blocks of zeros are left out.
pub(super) fn write(file: &File, mut at: u64, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let first = BLOCK - usize::try_from(at % BLOCK as u64).unwrap_or(0); // below BLOCK
        let zero = |block: &[u8]| vmdk_rs::is_zero(block);
        let head = first.min(data.len());
        let skip = zero(&data[..head]);
        let mut len = head;
        for block in data[head..].chunks(BLOCK) {
            if zero(block) != skip {
                break;
            }
            len += block.len();
        }
        let (run, rest) = data.split_at(len);
        if !skip {
            file.write_all_at(run, at)?;
        }
        at += len as u64;
        data = rest;
    }
    Ok(())
}

/// Why a copy of a disk failed.
pub(super) enum CopyError {
    Read(ReadError),
    Write(io::Error),
}

/// Copies the data of a disk into a new file and leaves its holes out. Sets the file's length to `capacity`.
pub(super) fn copy_disk(from: &dyn ReadAt, to: &File, capacity: u64) -> Result<(), CopyError> {
    to.set_len(capacity).map_err(CopyError::Write)?;
    let mut buf = vec![0; COPY_BLOCK as usize];
    for extent in from.extents() {
        let extent = extent.map_err(CopyError::Read)?;
        if extent.kind != ExtentKind::Data {
            continue;
        }
        let mut at = extent.start;
        while at < extent.end() {
            let len = (extent.end().0 - at.0).min(COPY_BLOCK);
            let block = &mut buf[..len as usize];
            from.read_exact_at(at, block).map_err(CopyError::Read)?;
            write(to, at.0, block).map_err(CopyError::Write)?;
            at.0 += len;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockdev::FileDisk;

    #[test]
    fn zeros_become_holes_wherever_the_pieces_are_cut() {
        let mut bytes = vec![0u8; 1 << 20];
        bytes[300_000..300_100].fill(7);
        bytes[(1 << 20) - 1] = 9;
        for piece in [999, 4096, 65536, 1 << 20] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(1 << 20).unwrap();
            for (index, chunk) in bytes.chunks(piece).enumerate() {
                write(&file, (index * piece) as u64, chunk).unwrap();
            }
            let mut back = vec![1; 1 << 20];
            file.read_exact_at(&mut back, 0).unwrap();
            assert!(back == bytes, "pieces of {piece}");
            let disk = FileDisk::new(file).unwrap();
            let data: u64 =
                disk.extents().map(|e| e.unwrap()).filter(|e| e.kind == ExtentKind::Data).map(|e| e.len.0).sum();
            assert!(data <= 16384, "pieces of {piece}: {data} bytes stored");
        }
    }
}
