//! A streamOptimized image, written from its beginning to its end: Virtual Disk Format 1.1, section "Stream-Optimized
//! Compressed Sparse Extents".
//!
//! ```text
//!   header | descriptor | padding to 128 sectors | grain, grain, … | table of these | grain, … | table | …
//!          | directory | footer, which says where the directory is | end of stream
//! ```
//!
//! Each grain has a marker of its own, tables and what follows have a sector before them that says what they are. A table
//! stands right behind the grains that it names, so that no more than one is kept.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use blockdev::{ByteOffset, SECTOR_SIZE};
use libdeflater::{CompressionError, CompressionLvl, Compressor};
use zerocopy::IntoBytes;

use super::{CreateOptions, GRAIN_LEN, GRAIN_SECTORS, TABLE_ENTRIES};
use crate::convert::{div_rem, div_up, round_up, sectors_to_bytes, to_u64, to_usize};
use crate::sparse::{GD_AT_END, HOSTED_MAGIC, MARKER_LEN, Marker, RawHosted, most_packed};
use crate::{CreateType, Descriptor, ExtentLine, ExtentType, PlainName, VmdkError, is_zero};

/// The first grain, in sectors.
const OVER_HEAD: u64 = GRAIN_SECTORS;

/// Room for the descriptor, in sectors: all between the header and the first grain.
const DESCRIPTOR_SECTORS: u64 = OVER_HEAD - 1;

/// How hard compression tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionLevel(i32);

impl CompressionLevel {
    /// From 1, the fastest, to 12, the smallest.
    #[must_use]
    pub fn new(level: u8) -> Option<Self> {
        (1..=12).contains(&level).then_some(Self(level.into()))
    }
}

impl Default for CompressionLevel {
    /// A little smaller than what zlib makes by default, in a third of its time.
    fn default() -> Self {
        Self(5)
    }
}

/// Writes a streamOptimized image to anything that takes bytes in order: a file, a pipe, an upload.
///
/// Grains are compressed by the threads that call [`prepare`](Self::prepare), as many as there are, and appended in the
/// order of the disk.
#[derive(Debug)]
pub struct StreamWriter<W> {
    name: String,
    capacity: u64,
    descriptor: Descriptor,
    level: CompressionLevel,
    state: Mutex<State<W>>,
}

#[derive(Debug)]
struct State<W> {
    sink: W,
    /// The next sector of the stream.
    next: u64,
    /// The first grain that may still come.
    grain: u64,
    directory: Vec<u32>,
    table: Table,
    failed: bool,
}

/// The one table that is being filled.
#[derive(Debug)]
struct Table {
    number: u64,
    entries: Vec<u32>,
    used: bool,
}

impl Table {
    fn empty(number: u64) -> Self {
        Self { number, entries: vec![0; to_usize(TABLE_ENTRIES)], used: false }
    }
}

/// Grains that were compressed, in order.
#[derive(Debug)]
pub struct PackedGrains {
    first: u64,
    /// The grain behind the last one, stored or not.
    end: u64,
    /// Number and sectors of each grain that is not all zeros.
    grains: Vec<(u64, u32)>,
    /// Markers and compressed data, padded to sectors.
    bytes: Vec<u8>,
}

thread_local! {
    static COMPRESSOR: RefCell<Option<(CompressionLevel, Compressor)>> = const { RefCell::new(None) };
}

impl<W: Write> StreamWriter<W> {
    /// Begins the stream: writes header and descriptor. `file_name` is what the descriptor calls the file.
    ///
    /// # Errors
    /// The capacity is none that a disk can have, the options name a parent, the descriptor is too long, or `sink` fails.
    pub fn new(sink: W, file_name: &PlainName, options: &CreateOptions) -> Result<Self, VmdkError> {
        let sectors = options.sectors()?;
        let mut descriptor = options.descriptor();
        if descriptor.parent_content_id.is_some() {
            let dialect = "streamOptimized with a parent".to_owned();
            return Err(VmdkError::Dialect { file: file_name.to_string(), dialect });
        }
        descriptor.create_type = CreateType::StreamOptimized;
        descriptor.extents.push(ExtentLine::rw(sectors, ExtentType::Sparse, file_name.as_str()));
        let capacity = sectors_to_bytes(sectors.0);
        let tables = div_up(div_up(capacity, GRAIN_LEN), TABLE_ENTRIES);
        let state = State {
            sink,
            next: 0,
            grain: 0,
            directory: vec![0; to_usize(tables)], // 8 MiB for a disk of 64 TiB
            table: Table::empty(0),
            failed: false,
        };
        let writer = Self {
            name: file_name.to_string(),
            capacity,
            descriptor,
            level: CompressionLevel::default(),
            state: Mutex::new(state),
        };
        writer.begin()?;
        Ok(writer)
    }

    /// The same with another level of compression.
    #[must_use]
    pub fn with_level(self, level: CompressionLevel) -> Self {
        Self { level, ..self }
    }

    /// The descriptor inside.
    #[must_use]
    pub const fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn begin(&self) -> Result<(), VmdkError> {
        let text = self.descriptor.to_string();
        let room = to_usize(sectors_to_bytes(DESCRIPTOR_SECTORS));
        if text.len() > room {
            return Err(super::plan::descriptor_too_long(&self.name, text.len(), "at most 65024"));
        }
        let mut start = self.header(GD_AT_END).as_bytes().to_vec();
        start.extend_from_slice(text.as_bytes());
        start.resize(to_usize(sectors_to_bytes(OVER_HEAD)), 0);
        self.lock().write(&start).map_err(VmdkError::io("write", self.name.as_str()))
    }

    fn header(&self, gd_offset: u64) -> RawHosted {
        let flags = RawHosted::LINE_ENDS | RawHosted::COMPRESSED | RawHosted::MARKERS;
        RawHosted {
            magic: HOSTED_MAGIC,
            version: 3.into(), // the first with compressed grains
            flags: flags.into(),
            capacity: (self.capacity / SECTOR_SIZE).into(),
            grain_size: GRAIN_SECTORS.into(),
            descriptor_offset: 1.into(),
            descriptor_size: DESCRIPTOR_SECTORS.into(),
            gtes_per_gt: 512.into(),
            rgd_offset: 0.into(),
            gd_offset: gd_offset.into(),
            over_head: OVER_HEAD.into(),
            unclean_shutdown: 0,
            line_ends: RawHosted::LINE_END_CHARS,
            compress_algorithm: RawHosted::DEFLATE.into(),
            pad: [0; 433],
        }
    }

    /// Compresses grains, by the calling thread. `at` is a multiple of 64 KiB, and so is the length, except that the data may
    /// end with the disk. Nothing is written yet; grains of zeros are left out.
    ///
    /// # Errors
    /// The range is not aligned or passes the end of the disk.
    pub fn prepare(&self, at: ByteOffset, data: &[u8]) -> Result<PackedGrains, VmdkError> {
        super::writer::check_range(self.capacity, at, data)?;
        let first = at.0 / GRAIN_LEN;
        let chunks = data.chunks(to_usize(GRAIN_LEN));
        let end = first.saturating_add(to_u64(chunks.len()));
        let mut packed = PackedGrains { first, end, grains: Vec::new(), bytes: Vec::new() };
        COMPRESSOR.with_borrow_mut(|kept| {
            if kept.as_ref().is_none_or(|(level, _)| *level != self.level) {
                let level = CompressionLvl::new(self.level.0).unwrap_or_default();
                *kept = Some((self.level, Compressor::new(level)));
            }
            let Some((_, compressor)) = kept else { return Ok(()) };
            for (number, grain) in (first..).zip(chunks).filter(|(_, grain)| !is_zero(grain)) {
                // Readers of VirtualBox want a whole grain also where the disk ends within one.
                let grain = whole(grain);
                let grain = grain.as_ref();
                packed
                    .push(compressor, number, grain)
                    .map_err(VmdkError::io("compress a grain for", self.name.as_str()))?;
            }
            Ok(())
        })?;
        Ok(packed)
    }

    /// Appends grains. They lie behind all that were appended before.
    ///
    /// # Errors
    /// They do not, the stream would pass 2 TiB, or writing failed, now or earlier (the stream is worthless then).
    pub fn append(&self, packed: &PackedGrains) -> Result<(), VmdkError> {
        let mut state = self.lock();
        if packed.first < state.grain {
            return Err(VmdkError::Request {
                field: "the start of a write",
                actual: packed.first.saturating_mul(GRAIN_LEN),
                expected: "a place behind all that was written; a stream takes a disk in its order",
            });
        }
        if packed.end > div_up(self.capacity, GRAIN_LEN) {
            return Err(VmdkError::Request {
                field: "the number of grains",
                actual: packed.end,
                expected: "those of this disk",
            });
        }
        state.check(&self.name)?;
        state.failed = true; // until it has succeeded
        self.append_to(&mut state, packed)?;
        state.failed = false;
        Ok(())
    }

    fn append_to(&self, state: &mut State<W>, packed: &PackedGrains) -> Result<(), VmdkError> {
        let failed = || VmdkError::io("write", self.name.as_str());
        let mut rest = packed.bytes.as_slice();
        let mut pending = 0;
        for (number, sectors) in &packed.grains {
            let (table, index) = div_rem(*number, TABLE_ENTRIES);
            if table != state.table.number {
                let (now, later) = rest.split_at(pending);
                state.write(now).map_err(failed())?;
                (rest, pending) = (later, 0);
                state.flush_table().map_err(failed())?;
                state.table.number = table;
            }
            let place = state.next.saturating_add(to_u64(pending) / SECTOR_SIZE);
            let end = place.saturating_add(u64::from(*sectors));
            let sector = u32::try_from(place).ok().filter(|_| end <= u64::from(u32::MAX));
            let Some(sector) = sector else { return Err(self.too_long()) };
            if let Some(entry) = state.table.entries.get_mut(to_usize(index)) {
                *entry = sector;
                state.table.used = true;
            }
            pending = pending.saturating_add(to_usize(sectors_to_bytes(u64::from(*sectors))));
        }
        state.write(rest).map_err(failed())?;
        state.grain = packed.end;
        Ok(())
    }

    fn too_long(&self) -> VmdkError {
        VmdkError::Unsupported {
            file: self.name.clone(),
            field: "the length of the compressed disk in bytes",
            actual: 1 << 41,
            expected: "less than 2 TiB, as entries of 32 bits count its sectors; split images can be larger",
        }
    }

    /// As [`prepare`](Self::prepare) and [`append`](Self::append), by this thread alone.
    ///
    /// # Errors
    /// Theirs.
    pub fn write_at(&self, at: ByteOffset, data: &[u8]) -> Result<(), VmdkError> {
        self.append(&self.prepare(at, data)?)
    }

    /// Ends the stream and gives the sink back, flushed.
    ///
    /// # Errors
    /// Writing failed, now or earlier.
    pub fn finish(self) -> Result<W, VmdkError> {
        let header = |gd_offset| self.header(gd_offset);
        let mut state = self.lock();
        state.check(&self.name)?;
        let end = (|| {
            state.flush_table()?;
            let directory: Vec<u8> = state.directory.iter().flat_map(|sector| sector.to_le_bytes()).collect();
            let gd_offset = state.write_marked(Marker::GrainDirectory, directory)?;
            state.write_marked(Marker::Footer, header(gd_offset).as_bytes().to_vec())?;
            state.write_marked(Marker::EndOfStream, Vec::new())?;
            state.sink.flush()
        })();
        drop(state);
        end.map_err(VmdkError::io("write", self.name.as_str()))?;
        Ok(self.state.into_inner().unwrap_or_else(PoisonError::into_inner).sink)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A grain, with zeros behind its end if it is the disk's last.
fn whole(grain: &[u8]) -> Cow<'_, [u8]> {
    let len = to_usize(GRAIN_LEN);
    if grain.len() == len {
        return Cow::Borrowed(grain);
    }
    let mut padded = grain.to_vec();
    padded.resize(len, 0);
    Cow::Owned(padded)
}

impl PackedGrains {
    fn push(&mut self, compressor: &mut Compressor, number: u64, grain: &[u8]) -> io::Result<()> {
        let start = self.bytes.len();
        let data = start.saturating_add(to_usize(MARKER_LEN));
        let room = compressor.zlib_compress_bound(grain.len()).max(to_usize(most_packed(GRAIN_LEN)));
        self.bytes.resize(data.saturating_add(room), 0);
        let out = self.bytes.get_mut(data..).unwrap_or_default();
        let size = compressor
            .zlib_compress(grain, out)
            .map_err(|CompressionError::InsufficientSpace| io::Error::from(io::ErrorKind::StorageFull))?;
        let lba = number.saturating_mul(GRAIN_SECTORS).to_le_bytes();
        let size_field = u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes(); // at most the bound
        let marker = self.bytes.get_mut(start..data).unwrap_or_default();
        marker.copy_from_slice(&[lba.as_slice(), size_field.as_slice()].concat());
        let len = round_up(to_u64(size).saturating_add(MARKER_LEN), SECTOR_SIZE);
        let end = start.saturating_add(to_usize(len));
        let padding = data.saturating_add(size)..end;
        self.bytes.get_mut(padding).unwrap_or_default().fill(0);
        self.bytes.truncate(end);
        self.grains.push((number, u32::try_from(len / SECTOR_SIZE).unwrap_or(u32::MAX)));
        Ok(())
    }
}

impl<W: Write> State<W> {
    fn check(&self, name: &str) -> Result<(), VmdkError> {
        if self.failed { Err(VmdkError::WriteFailed { file: name.to_owned() }) } else { Ok(()) }
    }

    /// Writes whole sectors.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_all(bytes)?;
        self.next = self.next.saturating_add(to_u64(bytes.len()) / SECTOR_SIZE);
        Ok(())
    }

    /// Writes a marker and what it announces, padded to sectors; answers where that begins.
    fn write_marked(&mut self, marker: Marker, mut bytes: Vec<u8>) -> io::Result<u64> {
        let len = round_up(to_u64(bytes.len()), SECTOR_SIZE);
        bytes.resize(to_usize(len), 0);
        self.write(marker.raw(len / SECTOR_SIZE).as_bytes())?;
        let start = self.next;
        self.write(&bytes)?;
        Ok(start)
    }

    /// Writes the table that was filled, unless no grain of it is stored.
    fn flush_table(&mut self) -> io::Result<()> {
        if !self.table.used {
            return Ok(());
        }
        let bytes = self.table.entries.iter().flat_map(|sector| sector.to_le_bytes()).collect();
        let start = self.write_marked(Marker::GrainTable, bytes)?;
        let sector = u32::try_from(start).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        if let Some(entry) = self.directory.get_mut(to_usize(self.table.number)) {
            *entry = sector;
        }
        self.table = Table::empty(self.table.number);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
