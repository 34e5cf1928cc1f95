//! Compressed grains: Virtual Disk Format 1.1, section "Stream-Optimized Compressed Sparse Extents".
//!
//! ```text
//!   marker: LBA (8 bytes), size (4 bytes) | size bytes of zlib data | padding to a sector
//! ```
//!
//! The text of the specification says RFC 1951, what all products write is RFC 1950.

use std::cell::Cell;
use std::sync::Arc;

use blockdev::{ByteOffset, ReadError, SECTOR_SIZE};
use libdeflater::{DecompressionError, Decompressor};

use super::check_inside;
use super::grains::GrainMap;
use crate::VmdkError;
use crate::convert::{round_up, to_u64, to_usize};

/// The bytes of a marker before the compressed data.
pub(crate) const MARKER_LEN: u64 = 12;

/// What is read of a grain whose length nothing hints at.
const USUAL_LEN: u64 = 16 << 10;

/// Deflate grows what it cannot shrink by 5 bytes in 32 KiB, zlib adds 6; other writers may store in smaller blocks.
const MOST_GROWTH: u64 = 8192;

/// The best that deflate can do is 258 bytes for 2 bits, so from less no whole grain can come.
const BEST_RATIO: u64 = 1032;

/// A compressed grain.
#[derive(Clone, Copy)]
pub(crate) struct PackedGrain<'a> {
    pub(super) map: &'a GrainMap,
    /// Which grain of the extent.
    pub(super) number: u64,
    /// Where its marker begins in the file.
    pub(super) start: u64,
    /// How many bytes later the next grain begins, if that is known; else 0.
    pub(super) about: u64,
}

/// What one thread needs for unpacking, kept from grain to grain.
#[derive(Default)]
struct Tools {
    decompressor: Decompressor,
    packed: Vec<u8>,
    plain: Vec<u8>,
}

thread_local! {
    /// Taken while a grain is unpacked: its file may itself be a compressed image, which then brings its own.
    static TOOLS: Cell<Option<Box<Tools>>> = const { Cell::new(None) };
}

impl<'a> PackedGrain<'a> {
    /// Grain `number` of an extent, whose marker is said to stand at byte `start`.
    pub(crate) fn at(map: &'a GrainMap, number: u64, start: u64) -> Self {
        Self { map, number, start, about: 0 }
    }
}

impl PackedGrain<'_> {
    /// Where its marker stands in the file.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn check_inside(&self) -> Result<(), ReadError> {
        let map = self.map;
        check_inside(map.file(), &map.name, "the marker of a grain", self.start, MARKER_LEN).map_err(self.failed())
    }

    /// Reads the marker alone and checks it; answers the bytes that grain and marker take in the file, padding included.
    pub(crate) fn check_marker(&self) -> Result<u64, ReadError> {
        self.check_inside()?;
        let mut marker = [0; 12];
        self.map.file().read_exact_at(ByteOffset(self.start), &mut marker)?;
        let len = self.size(&marker)?.saturating_add(MARKER_LEN);
        let inside = check_inside(self.map.file(), &self.map.name, "a compressed grain", self.start, len);
        inside.map_err(self.failed())?;
        Ok(round_up(len, SECTOR_SIZE))
    }

    /// Fills `buf` from byte `inside` of the plain grain; it ends with the grain, or before.
    pub(crate) fn read(&self, inside: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = self.map.grains.len_of(self.number);
        if inside == 0 && to_u64(buf.len()) == len && len == self.map.grains.grain_len {
            return self.unpack_whole(buf);
        }
        let (key, from) = ((self.map.owner, self.number), to_usize(inside));
        let plain = match self.map.caches.grains.get(key) {
            Some(plain) => plain,
            None => {
                let plain: Arc<[u8]> = self.unpack()?.into();
                self.map.caches.grains.put(key, Arc::clone(&plain));
                plain
            }
        };
        let end = from.saturating_add(buf.len());
        let bytes = plain.get(from..end).ok_or_else(|| self.damaged("it holds fewer bytes than a grain has"))?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    /// Unpacks a whole grain to where it is wanted.
    fn unpack_whole(&self, buf: &mut [u8]) -> Result<(), ReadError> {
        let wanted = buf.len();
        let unpacked = self.with_packed(|decompressor, packed, _| self.inflate(decompressor, packed, buf))?;
        if unpacked == wanted { Ok(()) } else { Err(self.damaged("it holds fewer bytes than a grain has")) }
    }

    /// The plain bytes. The last grain may hold just what the extent has of it, or a whole grain.
    fn unpack(&self) -> Result<Vec<u8>, ReadError> {
        let least = to_usize(self.map.grains.len_of(self.number));
        let plain = self.with_packed(|decompressor, packed, plain| {
            let room = to_usize(self.map.grains.grain_len.min(to_u64(packed.len()).saturating_mul(BEST_RATIO)));
            if plain.len() < room {
                plain.resize(room, 0);
            }
            let unpacked = self.inflate(decompressor, packed, plain.get_mut(..room).unwrap_or_default())?;
            Ok(plain.get(..unpacked).unwrap_or_default().to_vec())
        })?;
        if plain.len() >= least { Ok(plain) } else { Err(self.damaged("it holds fewer bytes than a grain has")) }
    }

    fn inflate(&self, tool: &mut Decompressor, packed: &[u8], plain: &mut [u8]) -> Result<usize, ReadError> {
        tool.zlib_decompress(packed, plain).map_err(|error| match error {
            DecompressionError::InsufficientSpace => self.damaged("it holds more bytes than a grain has"),
            DecompressionError::BadData => self.damaged("its zlib data is wrong"),
        })
    }

    /// Reads the compressed data and has it worked on, with room for plain bytes.
    fn with_packed<T>(
        &self,
        work: impl FnOnce(&mut Decompressor, &[u8], &mut Vec<u8>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let mut tools = TOOLS.take().unwrap_or_default();
        let Tools { decompressor, packed, plain } = &mut *tools;
        let about = if self.about > MARKER_LEN { self.about } else { USUAL_LEN };
        let in_file = self.map.file().size().0.saturating_sub(self.start);
        let have = about.min(self.most()).min(in_file);
        self.read_to(packed, 0, have)?;
        let end = self.size(packed)?.saturating_add(MARKER_LEN);
        if end > have {
            let inside = check_inside(self.map.file(), &self.map.name, "a compressed grain", self.start, end);
            inside.map_err(self.failed())?;
            self.read_to(packed, have, end)?;
        }
        let done = work(decompressor, packed.get(to_usize(MARKER_LEN)..to_usize(end)).unwrap_or_default(), plain);
        TOOLS.set(Some(tools));
        done
    }

    /// Reads bytes `from` to `to` of the marker and its data.
    fn read_to(&self, packed: &mut Vec<u8>, from: u64, to: u64) -> Result<(), ReadError> {
        if packed.len() < to_usize(to) {
            packed.resize(to_usize(to), 0); // at most `most()`, which follows from the bounded size of a grain
        }
        let part = packed.get_mut(to_usize(from)..to_usize(to)).unwrap_or_default();
        self.map.file().read_exact_at(ByteOffset(self.start.saturating_add(from)), part)
    }

    /// The size of the compressed data, from its checked marker.
    fn size(&self, marker: &[u8]) -> Result<u64, ReadError> {
        let Some((lba, size)) = parse_marker(marker) else {
            return Err(self.damaged("its marker is cut off"));
        };
        if lba.saturating_mul(SECTOR_SIZE) != self.number.saturating_mul(self.map.grains.grain_len) {
            return Err(self.damaged("its marker names another place of the disk"));
        }
        let size = u64::from(size);
        if size == 0 || size.saturating_add(MARKER_LEN) > self.most() {
            return Err(self.damaged("its marker says a size that no compressed grain has"));
        }
        Ok(size)
    }

    /// The most bytes that a marker and its data may take.
    fn most(&self) -> u64 {
        most_packed(self.map.grains.grain_len)
    }

    fn failed(&self) -> impl FnOnce(VmdkError) -> ReadError {
        let at = ByteOffset(self.map.grains.until(self.number));
        move |error| error.into_read_error(at)
    }

    fn damaged(&self, problem: &'static str) -> ReadError {
        let (file, position) = (self.map.name.clone(), ByteOffset(self.start));
        self.failed()(VmdkError::PackedGrain { file, position, problem })
    }
}

/// The most bytes that a marker and a compressed grain may take in the file.
pub(crate) fn most_packed(grain_len: u64) -> u64 {
    round_up(grain_len.saturating_add(MOST_GROWTH), SECTOR_SIZE)
}

/// The sector of the disk and the size of the data that a marker names.
fn parse_marker(bytes: &[u8]) -> Option<(u64, u32)> {
    let (lba, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*lba), u32::from_le_bytes(*rest.first_chunk()?)))
}
