//! An input, taken apart from its front.
//!
//! ```text
//!   input   = numbers of the target | file...
//!   file    = length of the name (1 byte) | name | size of the file (6) | number of segments (1) | segment...
//!   segment = sector (4) | length (2) | bytes; with the topmost bit of the length set: the recipe of a compressed grain
//! ```
//!
//! All numbers are little-endian. A file is zeros but for its segments, so a few bytes make a file of any size. Whatever
//! is missing at the end is 0 or empty: every input can be cut up. `pack.py` writes the same.

use std::collections::BTreeMap;

use crate::File;
use crate::packed::pack;

/// The most files of an input: one more than a chain may have disks.
const MAX_FILES: usize = 130;

/// The most plain bytes of an input that are packed.
const MAX_PLAIN: u64 = 3 << 20;

/// The bit of a length that says that the bytes are a recipe of a compressed grain.
const PACKED: usize = 1 << 15;

/// What is left of an input.
pub struct Input<'a> {
    rest: &'a [u8],
    /// Plain bytes that were packed.
    plain: u64,
}

impl<'a> Input<'a> {
    /// A whole input.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Self { rest: data, plain: 0 }
    }

    /// The next `len` bytes, or as many as are left.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        bytes
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// A number of `len` bytes, at most 8.
    pub fn number(&mut self, len: usize) -> u64 {
        self.bytes(len).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn count(&mut self, len: usize) -> usize {
        usize::try_from(self.number(len)).expect("at most 2 bytes")
    }

    /// All files up to the end, without compressed grains by recipe.
    #[must_use]
    pub fn files(mut self) -> Vec<(String, File)> {
        self.plain = MAX_PLAIN;
        self.packed_files()
    }

    /// All files up to the end.
    #[must_use]
    pub fn packed_files(mut self) -> Vec<(String, File)> {
        let mut files = Vec::new();
        while !self.rest.is_empty() && files.len() < MAX_FILES {
            let len = self.count(1);
            let name = String::from_utf8_lossy(self.bytes(len)).into_owned();
            files.push((name, self.file()));
        }
        files
    }

    fn file(&mut self) -> File {
        let size = self.number(6);
        let mut segments = BTreeMap::new();
        for _ in 0..self.number(1) {
            let start = self.number(4) * blockdev::SECTOR_SIZE;
            let segment = self.segment();
            segments.insert(start, segment);
        }
        File::new(size, segments)
    }

    fn segment(&mut self) -> Vec<u8> {
        let len = self.count(2);
        let bytes = self.bytes(len & !PACKED);
        if len & PACKED == 0 || self.plain >= MAX_PLAIN {
            return bytes.to_vec();
        }
        let (packed, plain) = pack(bytes);
        self.plain += plain;
        packed
    }
}
