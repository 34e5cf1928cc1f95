//! The header of a hosted sparse extent: Virtual Disk Format 1.1, section "Hosted Sparse Extents".

use std::mem::{offset_of, size_of};

use blockdev::{ByteOffset, ReadAt, Sectors};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Entries, Grains, HOSTED_MAGIC, MAX_GRAIN_SECTORS, read_part, read_start};
use crate::convert::{MAX_CAPACITY, sectors_to_bytes, to_u64};
use crate::{MAX_DESCRIPTOR_LEN, VmdkError};

/// `SparseExtentHeader` as it stands on disk.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RawHosted {
    pub(crate) magic: [u8; 4],          // 0x00 magicNumber
    pub(crate) version: U32,            // 0x04
    pub(crate) flags: U32,              // 0x08
    pub(crate) capacity: U64,           // 0x0c sectors
    pub(crate) grain_size: U64,         // 0x14 sectors
    pub(crate) descriptor_offset: U64,  // 0x1c sectors
    pub(crate) descriptor_size: U64,    // 0x24 sectors
    pub(crate) gtes_per_gt: U32,        // 0x2c numGTEsPerGT
    pub(crate) rgd_offset: U64,         // 0x30 sectors
    pub(crate) gd_offset: U64,          // 0x38 sectors
    pub(crate) over_head: U64,          // 0x40 sectors
    pub(crate) unclean_shutdown: u8,    // 0x48
    pub(crate) line_ends: [u8; 4],      // 0x49 singleEndLineChar, nonEndLineChar, doubleEndLineChar1 and 2
    pub(crate) compress_algorithm: U16, // 0x4d
    pub(crate) pad: [u8; 433],          // 0x4f
}

const _: () = assert!(size_of::<RawHosted>() == 512);
const _: () = assert!(offset_of!(RawHosted, compress_algorithm) == 0x4d);

impl RawHosted {
    /// Flag bit 0: `line_ends` is valid.
    pub(crate) const LINE_ENDS: u32 = 1;
    /// Flag bit 1: the redundant grain directory is used.
    pub(crate) const REDUNDANT: u32 = 1 << 1;
    /// Flag bit 2: the grain table entry 1 stands for zeros.
    pub(crate) const ZERO_GRAINS: u32 = 1 << 2;
    /// Flag bit 16: grains are compressed.
    pub(crate) const COMPRESSED: u32 = 1 << 16;
    /// Flag bit 17: there are markers between the grains.
    pub(crate) const MARKERS: u32 = 1 << 17;
    /// What a text-mode transfer would change.
    pub(crate) const LINE_END_CHARS: [u8; 4] = *b"\n \r\n";
    /// `compressAlgorithm` of extents whose grains are compressed.
    pub(crate) const DEFLATE: u16 = 1;
}

/// `gdOffset` of a stream: where the directory is, the footer says.
pub(crate) const GD_AT_END: u64 = u64::MAX;

/// The end of a stream: the footer's marker, the footer, the end-of-stream marker; a sector each.
const FOOTER_LEN: u64 = 3 * blockdev::SECTOR_SIZE;

/// The largest compressed grain that is read, in sectors: 2 MiB. Every product writes 64 KiB; a grain is unpacked as a whole.
const MAX_PACKED_GRAIN_SECTORS: u64 = 4096;

/// A marker between grains, as it stands on disk: Virtual Disk Format 1.1, "Markers". Compressed grains begin with its
/// first 12 bytes.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RawMarker {
    pub(crate) value: U64,     // 0x00 sectors that follow
    pub(crate) size: U32,      // 0x08 0: it is no grain
    pub(crate) kind: U32,      // 0x0c
    pub(crate) pad: [u8; 496], // 0x10
}

const _: () = assert!(size_of::<RawMarker>() == 512);

/// What a marker says that does not begin a grain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// Nothing follows.
    EndOfStream,
    /// A grain table follows.
    GrainTable,
    /// The grain directory follows.
    GrainDirectory,
    /// The footer follows.
    Footer,
}

impl Marker {
    const ALL: [Self; 4] = [Self::EndOfStream, Self::GrainTable, Self::GrainDirectory, Self::Footer];

    /// Its number on disk.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::EndOfStream => 0,
            Self::GrainTable => 1,
            Self::GrainDirectory => 2,
            Self::Footer => 3,
        }
    }

    /// The marker of a number.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|marker| marker.number() == number)
    }

    /// The marker as it stands on disk, followed by `sectors`.
    pub(crate) fn raw(self, sectors: u64) -> RawMarker {
        RawMarker { value: sectors.into(), size: 0.into(), kind: self.number().into(), pad: [0; 496] }
    }
}

/// The checked header.
#[derive(Clone, Debug)]
pub(crate) struct HostedHeader {
    /// Where tables are and what they mean.
    pub(crate) grains: Grains,
    /// The embedded descriptor: first byte and length, at most 1 MiB. `None` where it has a file of its own.
    pub(crate) descriptor: Option<(ByteOffset, usize)>,
}

impl HostedHeader {
    /// Reads and checks the header of an extent; that of a stream is completed by its footer.
    ///
    /// # Errors
    /// Shorter than a header, no `KDMV`, no footer where one should be, or any field that contradicts the format.
    pub(crate) fn read(file: &dyn ReadAt, name: &str) -> Result<Self, VmdkError> {
        let bytes: [u8; 512] = read_start(file, name, "the header")?;
        let raw: RawHosted = zerocopy::transmute!(bytes);
        let check = Check { raw: &raw, name, start: 0 };
        let mut header = check.header()?;
        if raw.gd_offset.get() == GD_AT_END && header.grains.packed {
            header.grains.directories = check.footer(file)?;
        }
        Ok(header)
    }
}

struct Check<'a> {
    raw: &'a RawHosted,
    name: &'a str,
    /// Where it stands in the file: 0, or the place of the footer.
    start: u64,
}

impl Check<'_> {
    fn header(&self) -> Result<HostedHeader, VmdkError> {
        self.magic()?;
        let flags = self.raw.flags.get();
        let packed = self.packed(flags)?;
        self.version()?;
        self.line_ends(flags)?;
        let capacity = self.capacity()?;
        let descriptor = self.descriptor()?;
        let inside = descriptor.map_or((0, 0), |(start, len)| (start.0, start.0.saturating_add(to_u64(len))));
        Ok(HostedHeader {
            grains: Grains {
                capacity: sectors_to_bytes(capacity),
                grain_len: sectors_to_bytes(self.grain_size(packed)?),
                table_entries: self.table_entries()?,
                directories: self.directories(flags)?,
                entries: Entries::Sectors { zero_grains: flags & RawHosted::ZERO_GRAINS != 0 },
                packed,
                grain_area: (sectors_to_bytes(self.raw.over_head.get()), u64::MAX),
                reserved: [(0, blockdev::SECTOR_SIZE), inside],
                unclean: self.raw.unclean_shutdown != 0,
                lacks_directory: !packed && self.wanted_directories(flags) > self.directories(flags)?.len(),
            },
            descriptor,
        })
    }

    /// The directories that the footer of a stream names. It must agree with the header in all that decides how grains
    /// are read.
    fn footer(&self, file: &dyn ReadAt) -> Result<Vec<u64>, VmdkError> {
        let size = file.size().0;
        let start = size.saturating_sub(FOOTER_LEN);
        let [marker, footer, end] = [0, 1, 2].map(|number| sectors_to_bytes(number).saturating_add(start));
        let cut = |at, found| VmdkError::NoFooter { file: self.name.to_owned(), at: ByteOffset(at), found };
        if !size.is_multiple_of(blockdev::SECTOR_SIZE) {
            return Err(cut(size, "the file does not end with a whole sector"));
        }
        let read_marker = |at| {
            let bytes: [u8; 512] = read_part(file, self.name, "the footer", at)?;
            let raw: RawMarker = zerocopy::transmute!(bytes);
            Ok(if raw.size.get() == 0 { Marker::from_number(raw.kind.get()) } else { None })
        };
        if read_marker(end)? != Some(Marker::EndOfStream) {
            return Err(cut(end, "no end-of-stream marker"));
        }
        if read_marker(marker)? != Some(Marker::Footer) {
            return Err(cut(marker, "no footer marker"));
        }
        let bytes: [u8; 512] = read_part(file, self.name, "the footer", footer)?;
        let raw: RawHosted = zerocopy::transmute!(bytes);
        let check = Check { raw: &raw, name: self.name, start: footer };
        check.magic()?;
        let decides = |raw: &RawHosted| {
            (raw.capacity, raw.grain_size, raw.gtes_per_gt, raw.flags.get(), raw.compress_algorithm.get())
        };
        if decides(&raw) != decides(self.raw) {
            return Err(cut(footer, "a footer that contradicts the header"));
        }
        if raw.gd_offset.get() == GD_AT_END {
            return Err(check.wrong(
                "gdOffset",
                offset_of!(RawHosted, gd_offset),
                GD_AT_END,
                "a sector inside the file",
            ));
        }
        check.directories(raw.flags.get())
    }

    fn magic(&self) -> Result<(), VmdkError> {
        let magic = u32::from_le_bytes(self.raw.magic).into();
        if self.raw.magic == HOSTED_MAGIC {
            return Ok(());
        }
        Err(self.wrong("magicNumber", offset_of!(RawHosted, magic), magic, "KDMV"))
    }

    /// Whether grains are compressed.
    fn packed(&self, flags: u32) -> Result<bool, VmdkError> {
        let compressed = flags & RawHosted::COMPRESSED != 0;
        let markers = flags & RawHosted::MARKERS != 0;
        let algorithm = self.raw.compress_algorithm.get();
        match (compressed, markers, algorithm) {
            (false, false, _) => Ok(false), // the algorithm says nothing then
            (true, true, RawHosted::DEFLATE) => Ok(true),
            (true, true, other) => Err(VmdkError::Unsupported {
                file: self.name.to_owned(),
                field: "compressAlgorithm",
                actual: other.into(),
                expected: "1 (deflate)",
            }),
            // Nobody writes such extents, and readers do not agree about what stands before the data.
            _ => Err(VmdkError::Unsupported {
                file: self.name.to_owned(),
                field: "flags",
                actual: flags.into(),
                expected: "compressed grains (bit 16) and markers (bit 17) both, or neither",
            }),
        }
    }

    fn wrong(&self, field: &'static str, position: usize, actual: u64, expected: &'static str) -> VmdkError {
        let position = ByteOffset(to_u64(position).saturating_add(self.start));
        VmdkError::Field { file: self.name.to_owned(), field, position, actual, expected }
    }

    fn version(&self) -> Result<(), VmdkError> {
        // 1: Workstation 4 and later; 2: with zeroed grains; 3: streams, and disks with persistent change tracking.
        match self.raw.version.get() {
            1..=3 => Ok(()),
            other => Err(VmdkError::Unsupported {
                file: self.name.to_owned(),
                field: "version",
                actual: other.into(),
                expected: "versions 1 to 3",
            }),
        }
    }

    fn line_ends(&self, flags: u32) -> Result<(), VmdkError> {
        if flags & RawHosted::LINE_ENDS == 0 || self.raw.line_ends == RawHosted::LINE_END_CHARS {
            return Ok(());
        }
        let actual = u32::from_le_bytes(self.raw.line_ends).into();
        let expected = "0x0a0d200a; the file was changed by a transfer in text mode";
        Err(self.wrong("singleEndLineChar", offset_of!(RawHosted, line_ends), actual, expected))
    }

    fn capacity(&self) -> Result<u64, VmdkError> {
        let actual = self.raw.capacity.get();
        if (1..=MAX_CAPACITY.0).contains(&actual) {
            return Ok(actual);
        }
        Err(self.wrong("capacity", offset_of!(RawHosted, capacity), actual, "1 sector to 64 TiB"))
    }

    fn grain_size(&self, packed: bool) -> Result<u64, VmdkError> {
        let actual = self.raw.grain_size.get();
        let (most, expected) = match packed {
            false => (MAX_GRAIN_SECTORS, "a power of two from 8 to 65536 sectors"),
            true => (MAX_PACKED_GRAIN_SECTORS, "a power of two from 8 to 4096 sectors, as the grains are compressed"),
        };
        if actual.is_power_of_two() && (8..=most).contains(&actual) {
            return Ok(actual);
        }
        Err(self.wrong("grainSize", offset_of!(RawHosted, grain_size), actual, expected))
    }

    fn table_entries(&self) -> Result<u64, VmdkError> {
        let actual = self.raw.gtes_per_gt.get().into();
        // 512 in every product; 4096 is what ESX uses in its own format.
        if (1..=4096).contains(&actual) {
            return Ok(actual);
        }
        Err(self.wrong("numGTEsPerGT", offset_of!(RawHosted, gtes_per_gt), actual, "1 to 4096"))
    }

    fn wanted_directories(&self, flags: u32) -> usize {
        if flags & RawHosted::REDUNDANT != 0 { 2 } else { 1 }
    }

    fn directories(&self, flags: u32) -> Result<Vec<u64>, VmdkError> {
        let redundant = (flags & RawHosted::REDUNDANT != 0).then_some(self.raw.rgd_offset.get());
        let offsets = [Some(self.raw.gd_offset.get()), redundant];
        // Sector 0 is the header. A sector behind 2^55 is no byte offset, and behind the end of every file.
        let inside = |sector: &u64| *sector != 0 && sector.leading_zeros() >= 9;
        let mut usable: Vec<u64> = offsets.into_iter().flatten().filter(inside).map(sectors_to_bytes).collect();
        usable.dedup();
        let in_footer = self.raw.gd_offset.get() == GD_AT_END && flags & RawHosted::MARKERS != 0;
        if usable.is_empty() && !in_footer {
            let actual = self.raw.gd_offset.get();
            return Err(self.wrong("gdOffset", offset_of!(RawHosted, gd_offset), actual, "a sector inside the file"));
        }
        Ok(usable)
    }

    fn descriptor(&self) -> Result<Option<(ByteOffset, usize)>, VmdkError> {
        let (offset, size) = (self.raw.descriptor_offset.get(), self.raw.descriptor_size.get());
        if offset == 0 || size == 0 {
            return Ok(None);
        }
        let position = offset_of!(RawHosted, descriptor_size);
        let len = Sectors(size).to_bytes().and_then(|len| len.to_usize()).filter(|len| *len <= MAX_DESCRIPTOR_LEN);
        let len = len.ok_or_else(|| self.wrong("descriptorSize", position, size, "at most 1 MiB"))?;
        let start = Sectors(offset).to_bytes().ok_or_else(|| {
            self.wrong("descriptorOffset", offset_of!(RawHosted, descriptor_offset), offset, "a sector of the file")
        })?;
        Ok(Some((ByteOffset(start.0), len)))
    }
}

#[cfg(test)]
mod tests;
