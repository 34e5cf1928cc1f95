//! The digest of a disk: of its bytes, whatever file format holds them, at a cost that follows data and not capacity.
//!
//! The disk is cut into blocks of 1 MiB (the last may be shorter). The digest is BLAKE3 in its key derivation mode with the context
//! `stillframe 2026-11 disk digest v1` over: the capacity in bytes (u64, little-endian), then for each block that is not all zeros, in
//! order, its index (u64, little-endian) and the BLAKE3 hash of its bytes. It is written `blake3-blocks:` and 64 hex digits.

use std::fmt;
use std::str::FromStr;

use blockdev::{ByteOffset, ExtentKind, ReadAt, ReadAtExt, ReadError};
use serde::{Deserialize, Serialize};
use vmdk_rs::is_zero;

/// The size of a block, in bytes.
pub const BLOCK: u64 = 1 << 20;

const CONTEXT: &str = "stillframe 2026-11 disk digest v1";
const PREFIX: &str = "blake3-blocks:";

/// The digest of a whole disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskDigest(String);

impl FromStr for DiskDigest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text.strip_prefix(PREFIX).unwrap_or_default();
        if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("\"{text}\" is no disk digest: {PREFIX} and 64 hex digits"))
        }
    }
}

impl TryFrom<String> for DiskDigest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DiskDigest> for String {
    fn from(digest: DiskDigest) -> Self {
        digest.0
    }
}

impl fmt::Display for DiskDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A digest that is given its blocks in order.
pub(super) struct DigestBuilder(blake3::Hasher);

impl DigestBuilder {
    pub(super) fn new(capacity: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&capacity.to_le_bytes());
        Self(hasher)
    }

    /// The next block that is not all zeros.
    pub(super) fn block(&mut self, index: u64, hash: &blake3::Hash) {
        self.0.update(&index.to_le_bytes());
        self.0.update(hash.as_bytes());
    }

    pub(super) fn finish(self) -> DiskDigest {
        DiskDigest(format!("{PREFIX}{}", self.0.finalize().to_hex()))
    }
}

/// A digest that is given the bytes of a disk in order.
pub struct OrderedDigest {
    builder: DigestBuilder,
    index: u64,
    block: Vec<u8>,
}

impl OrderedDigest {
    /// For a disk of `capacity` bytes.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self { builder: DigestBuilder::new(capacity), index: 0, block: Vec::with_capacity(BLOCK as usize) }
    }

    /// The next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = BLOCK as usize - self.block.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK as usize {
                self.close_block();
            }
        }
    }

    fn close_block(&mut self) {
        if !is_zero(&self.block) {
            self.builder.block(self.index, &blake3::hash(&self.block));
        }
        self.index += 1;
        self.block.clear();
    }

    /// The digest of all that was pushed.
    #[must_use]
    pub fn finish(mut self) -> DiskDigest {
        if !self.block.is_empty() {
            self.close_block();
        }
        self.builder.finish()
    }
}

/// A digest that is given what a disk holds in pieces, in order, each within one block; what is left out is zeros.
pub struct SparseDigest {
    builder: DigestBuilder,
    capacity: u64,
    /// The block of which only pieces came so far.
    open: Option<(u64, Vec<u8>)>,
}

impl SparseDigest {
    /// For a disk of `capacity` bytes.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self { builder: DigestBuilder::new(capacity), capacity, open: None }
    }

    /// The length of block `index`.
    fn len(&self, index: u64) -> u64 {
        self.capacity.saturating_sub(index * BLOCK).min(BLOCK)
    }

    /// Whether `len` bytes at `at` are a whole block, which may be hashed elsewhere, side by side with others.
    #[must_use]
    pub fn is_whole(capacity: u64, at: u64, len: usize) -> bool {
        at.is_multiple_of(BLOCK) && len as u64 == capacity.saturating_sub(at).min(BLOCK)
    }

    /// The next whole block, by its hash; none if it is all zeros.
    pub fn whole(&mut self, at: u64, hash: Option<&blake3::Hash>) {
        self.close();
        if let Some(hash) = hash {
            self.builder.block(at / BLOCK, hash);
        }
    }

    /// The next piece of a block.
    pub fn piece(&mut self, at: u64, bytes: &[u8]) {
        let index = at / BLOCK;
        if self.open.as_ref().is_none_or(|(open, _)| *open != index) {
            self.close();
            self.open = Some((index, vec![0; self.len(index) as usize]));
        }
        let from = (at % BLOCK) as usize;
        if let Some((_, block)) = &mut self.open
            && let Some(place) = block.get_mut(from..from + bytes.len())
        {
            place.copy_from_slice(bytes);
        }
    }

    fn close(&mut self) {
        let Some((index, block)) = self.open.take() else { return };
        if !is_zero(&block) {
            self.builder.block(index, &blake3::hash(&block));
        }
    }

    /// The digest of all that was given.
    #[must_use]
    pub fn finish(mut self) -> DiskDigest {
        self.close();
        self.builder.finish()
    }
}

/// The digest of a disk that can be read at random. Holes are not read. `passed` is told how many bytes each step covered.
///
/// # Errors
/// Those of the disk.
pub fn digest_of(disk: &dyn ReadAt, passed: impl FnMut(u64)) -> Result<DiskDigest, ReadError> {
    let mut builder = DigestBuilder::new(disk.size().0);
    each_block(disk, |(index, hash)| builder.block(index, &hash), passed)?;
    Ok(builder.finish())
}

/// Hashes the blocks that are not all zeros, in order.
pub(super) fn each_block(
    disk: &dyn ReadAt,
    mut found: impl FnMut((u64, blake3::Hash)),
    mut passed: impl FnMut(u64),
) -> Result<(), ReadError> {
    let capacity = disk.size().0;
    let mut block = vec![0; BLOCK.min(capacity) as usize];
    let mut next = 0; // first byte whose block was not looked at yet
    for extent in disk.extents() {
        let extent = extent?;
        if extent.kind != ExtentKind::Data {
            continue;
        }
        let mut at = next.max(extent.start.0 / BLOCK * BLOCK);
        while at < extent.end().0 {
            let end = (at + BLOCK).min(capacity);
            let bytes = &mut block[..(end - at) as usize];
            disk.read_exact_at(ByteOffset(at), bytes)?;
            if !is_zero(bytes) {
                found((at / BLOCK, blake3::hash(bytes)));
            }
            passed(end.saturating_sub(next));
            (at, next) = (end, end);
        }
    }
    passed(capacity.saturating_sub(next));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockdev::{FileDisk, MemDisk};
    use std::os::unix::fs::FileExt;

    fn bytes() -> Vec<u8> {
        let mut bytes = vec![0; (3 << 20) + 700];
        bytes[5] = 1;
        let last = bytes.len() - 1;
        bytes[last] = 2;
        bytes
    }

    #[test]
    fn pushed_read_and_sparse_forms_of_a_disk_have_one_digest() {
        let bytes = bytes();
        let mut pushed = OrderedDigest::new(bytes.len() as u64);
        for piece in bytes.chunks(77_777) {
            pushed.push(piece);
        }
        let pushed = pushed.finish();
        assert_eq!(digest_of(&MemDisk::new(bytes.clone()), |_| {}).unwrap(), pushed);
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        file.write_all_at(&[1], 5).unwrap();
        file.write_all_at(&[2], bytes.len() as u64 - 1).unwrap();
        assert_eq!(digest_of(&FileDisk::new(file).unwrap(), |_| {}).unwrap(), pushed);
    }

    #[test]
    fn pieces_with_gaps_between_them_give_the_same_digest() {
        let bytes = bytes();
        let capacity = bytes.len() as u64;
        let mut digest = SparseDigest::new(capacity);
        digest.piece(0, &bytes[..512]);
        digest.piece(65536, &bytes[65536..70000]); // zeros
        let whole = &bytes[1 << 20..2 << 20];
        assert!(SparseDigest::is_whole(capacity, 1 << 20, whole.len()) && is_zero(whole));
        digest.whole(1 << 20, None);
        let last = &bytes[3 << 20..];
        assert!(SparseDigest::is_whole(capacity, 3 << 20, last.len()) && !SparseDigest::is_whole(capacity, 0, 512));
        digest.whole(3 << 20, Some(&blake3::hash(last)));
        assert_eq!(digest.finish(), digest_of(&MemDisk::new(bytes), |_| {}).unwrap());
    }

    #[test]
    fn one_bit_a_moved_block_and_another_capacity_each_change_the_digest() {
        let base = digest_of(&MemDisk::new(bytes()), |_| {}).unwrap();
        let mut flipped = bytes();
        flipped[5] = 3;
        let mut moved = bytes();
        moved[5] = 0;
        moved[(1 << 20) + 5] = 1;
        let mut longer = bytes();
        longer.push(0);
        for other in [flipped, moved, longer] {
            assert_ne!(digest_of(&MemDisk::new(other), |_| {}).unwrap(), base);
        }
    }

    #[test]
    fn the_way_that_is_reported_adds_up_to_the_capacity() {
        let mut sum = 0;
        digest_of(&MemDisk::new(bytes()), |n| sum += n).unwrap();
        assert_eq!(sum, (3 << 20) + 700);
    }

    #[test]
    fn text_that_is_no_digest_is_refused() {
        for bad in ["", "blake3-blocks:", "blake3-blocks:zz", "sha256:00"] {
            assert!(bad.parse::<DiskDigest>().is_err(), "{bad}");
        }
    }
}
