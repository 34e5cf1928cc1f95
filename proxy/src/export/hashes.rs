//! The file of block hashes beside an image: with it the digest of a later state is known from the blocks that changed.
//!
//! ```text
//! byte 0    "stillframe block hashes\n" and 8 bytes of zeros
//! byte 32   the capacity of the disk in bytes (u64, little-endian)
//! byte 40   for each block of 1 MiB that is not all zeros, in order: its index (u64, little-endian) and the BLAKE3 hash of its bytes
//! ```
//!
//! What follows the head is what the [digest](super::DiskDigest) of the disk is computed over, so that the digest in the manifest
//! vouches for this file too. It takes 40 bytes for a MiB of data.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use blockdev::{ReadAt, ReadError};

use super::digest::{BLOCK, DigestBuilder, DiskDigest, each_block};

const HEAD: &[u8; 32] = b"stillframe block hashes\n\0\0\0\0\0\0\0\0";
const HEAD_LEN: u64 = 40;
const RECORD_LEN: u64 = 40;

/// One block that is not all zeros.
pub(super) type Record = (u64, blake3::Hash);

/// A file of hashes and the digest that comes of them, given their blocks in order.
pub(super) struct HashWriter {
    builder: DigestBuilder,
    file: Option<BufWriter<Arc<File>>>,
}

impl HashWriter {
    /// Without a file only the digest is computed.
    pub(super) fn new(file: Option<Arc<File>>, capacity: u64) -> io::Result<Self> {
        let mut file = file.map(BufWriter::new);
        if let Some(file) = &mut file {
            file.write_all(HEAD)?;
            file.write_all(&capacity.to_le_bytes())?;
        }
        Ok(Self { builder: DigestBuilder::new(capacity), file })
    }

    /// The next block that is not all zeros.
    pub(super) fn block(&mut self, (index, hash): &Record) -> io::Result<()> {
        self.builder.block(*index, hash);
        if let Some(file) = &mut self.file {
            file.write_all(&index.to_le_bytes())?;
            file.write_all(hash.as_bytes())?;
        }
        Ok(())
    }

    /// The digest. The file is written, but not synced.
    pub(super) fn finish(self) -> io::Result<DiskDigest> {
        if let Some(mut file) = self.file {
            file.flush()?;
        }
        Ok(self.builder.finish())
    }
}

/// Writes the hashes of a disk into an empty file; answers its digest. `passed` is told how many bytes each step covered.
///
/// # Errors
/// Those of the disk, then those of the file.
pub fn write_hashes(
    disk: &dyn ReadAt,
    file: File,
    passed: impl FnMut(u64),
) -> Result<io::Result<DiskDigest>, ReadError> {
    let mut writer = HashWriter::new(Some(Arc::new(file)), disk.size().0);
    each_block(
        disk,
        |record| {
            if let Ok(open) = &mut writer
                && let Err(error) = open.block(&record)
            {
                writer = Err(error);
            }
        },
        passed,
    )?;
    Ok(writer.and_then(HashWriter::finish))
}

/// The hashes of a disk's blocks, as a file that was found to belong to its digest.
#[derive(Debug)]
pub struct BlockHashes {
    file: File,
    count: u64,
}

impl BlockHashes {
    /// Reads the file through. `None` if it is not the one of `digest`, whatever is wrong with it.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn open(file: File, capacity: u64, digest: &DiskDigest) -> io::Result<Option<Self>> {
        let len = file.metadata()?.len();
        let blocks = capacity.div_ceil(BLOCK);
        let Some(records) = len.checked_sub(HEAD_LEN).filter(|len| len.is_multiple_of(RECORD_LEN)) else {
            return Ok(None);
        };
        let count = records / RECORD_LEN;
        let mut head = [0; HEAD_LEN as usize];
        file.read_exact_at(&mut head, 0)?;
        if count > blocks || head[..32] != *HEAD || head[32..] != capacity.to_le_bytes() {
            return Ok(None);
        }
        let hashes = Self { file, count };
        let mut builder = DigestBuilder::new(capacity);
        let mut next = 0;
        for record in hashes.records() {
            let (index, hash) = record?;
            if index < next || index >= blocks {
                return Ok(None);
            }
            next = index + 1;
            builder.block(index, &hash);
        }
        Ok((builder.finish() == *digest).then_some(hashes))
    }

    /// All records in order.
    pub(super) fn records(&self) -> impl Iterator<Item = io::Result<Record>> + '_ {
        let mut reader = BufReader::with_capacity(64 << 10, At { file: &self.file, at: HEAD_LEN });
        (0..self.count).map(move |_| {
            let mut record = [0; RECORD_LEN as usize];
            reader.read_exact(&mut record)?;
            Ok(decode(&record))
        })
    }

    /// The hash of one block; `None` if it is all zeros.
    pub(super) fn get(&self, index: u64) -> io::Result<Option<blake3::Hash>> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut record = [0; RECORD_LEN as usize];
            self.file.read_exact_at(&mut record, HEAD_LEN + middle * RECORD_LEN)?;
            let (found, hash) = decode(&record);
            match found.cmp(&index) {
                std::cmp::Ordering::Equal => return Ok(Some(hash)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }
}

fn decode(record: &[u8; RECORD_LEN as usize]) -> Record {
    let (mut index, mut hash) = ([0; 8], [0; 32]);
    index.copy_from_slice(&record[..8]);
    hash.copy_from_slice(&record[8..]);
    (u64::from_le_bytes(index), blake3::Hash::from_bytes(hash))
}

/// A file from a place on, whatever others read of it.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buf, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: u64 = 9 * BLOCK + 512;

    fn record(index: u64) -> Record {
        (index, blake3::hash(&index.to_le_bytes()))
    }

    fn written(indices: &[u64]) -> (File, DiskDigest) {
        let file = tempfile::tempfile().unwrap();
        let mut writer = HashWriter::new(Some(Arc::new(file.try_clone().unwrap())), CAPACITY).unwrap();
        indices.iter().for_each(|index| writer.block(&record(*index)).unwrap());
        (file, writer.finish().unwrap())
    }

    #[test]
    fn what_was_written_is_found_again_by_its_digest_alone() {
        for indices in [&[][..], &[0], &[9], &[0, 1, 4, 5, 9]] {
            let (file, digest) = written(indices);
            let hashes = BlockHashes::open(file, CAPACITY, &digest).unwrap().unwrap();
            let found: Vec<_> = hashes.records().map(|record| record.unwrap()).collect();
            assert_eq!(found, indices.iter().map(|index| record(*index)).collect::<Vec<_>>());
            for index in 0..12 {
                let expected = indices.contains(&index).then(|| record(index).1);
                assert_eq!(hashes.get(index).unwrap(), expected, "{index} of {indices:?}");
            }
        }
    }

    #[test]
    fn a_file_that_was_changed_cut_or_lengthened_is_not_the_one() {
        let (file, digest) = written(&[0, 3, 7]);
        let len = file.metadata().unwrap().len();
        let is_one = |file: &File| BlockHashes::open(file.try_clone().unwrap(), CAPACITY, &digest).unwrap().is_some();
        assert!(is_one(&file));
        assert!(BlockHashes::open(file.try_clone().unwrap(), CAPACITY + 512, &digest).unwrap().is_none());
        for at in 0..len {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            assert!(!is_one(&file), "byte {at}");
            file.write_all_at(&byte, at).unwrap();
        }
        for other in [0, 39, len - 1, len - 40, len + 40, len + 1] {
            let copy = tempfile::tempfile().unwrap();
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes.resize(other as usize, 0);
            copy.write_all_at(&bytes, 0).unwrap();
            assert!(!is_one(&copy), "{other} bytes");
        }
    }
}
