//! Values (sections "Key values list", "Key value", "Big data").

use blockdev::ByteLen;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::cell::CellOffset;
use super::list::Offsets;
use super::{Hive, Key, name};
use crate::FsError;

/// The name is in Latin-1.
const LATIN_1: u16 = 0x0001;
/// In the length of data: they lie in the record itself, where else their cell is named.
const INLINE: u32 = 1 << 31;
/// What each segment of big data holds, but for the last: 16 KiB less the overhead of a cell and a bin.
const SEGMENT: u64 = 16344;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawValue {
    signature: [u8; 2], // 0x00
    name_len: U16,      // 0x02: bytes
    data_len: U32,      // 0x04: bytes, or INLINE
    data: [u8; 4],      // 0x08: the cell, or up to 4 bytes of data
    kind: U32,          // 0x0c
    flags: U16,         // 0x10
    spare: U16,         // 0x12
}
const NAME: u64 = 0x14;
const _: () = assert!(size_of::<RawValue>() == 0x14);

/// A value of a key.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name, empty for the default value. Characters that are none in UTF-16 are replaced.
    pub name: String,
    /// `REG_SZ` 1, `REG_BINARY` 3, `REG_DWORD` 4, …
    pub kind: u32,
    /// Length of its data.
    pub len: ByteLen,
    inline: bool,
    data: [u8; 4],
}

/// The values of a key, in the order of the hive. After an error of one value the others follow.
pub struct Values<'h> {
    hive: &'h Hive<'h>,
    cells: Offsets,
}

impl Hive<'_> {
    /// The values of `key`, `None` if it has none.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn values(&self, key: &Key) -> Result<Option<Values<'_>>, FsError> {
        if key.values == 0 {
            return Ok(None); // the list may be anything
        }
        let cell = self.cell(key.value_list, "list of values")?;
        Ok(Some(Values { hive: self, cells: Offsets::new(cell, 0, key.values, 4)? }))
    }

    fn value(&self, offset: CellOffset) -> Result<Value, FsError> {
        let cell = self.cell(offset, "value")?;
        let raw: RawValue = zerocopy::transmute!(self.array::<0x14>(&cell, "record", 0)?);
        if &raw.signature != b"vk" {
            return Err(cell.corrupt("signature", format!("{:?}", raw.signature), "\"vk\""));
        }
        let bytes = self.bytes(&cell, "value name", NAME, raw.name_len.get().into())?;
        let (inline, len) = (raw.data_len.get() & INLINE != 0, raw.data_len.get() & !INLINE);
        if inline && len > 4 {
            return Err(cell.corrupt("data size", len, "at most 4 for data in the record itself"));
        }
        Ok(Value {
            name: name::decode(&bytes, raw.flags.get() & LATIN_1 != 0),
            kind: raw.kind.get(),
            len: ByteLen(len.into()),
            inline,
            data: raw.data,
        })
    }

    /// The data of a value, of at most `limit` bytes.
    ///
    /// # Errors
    /// [`FsError::TooLarge`] beyond `limit`, and see [`FsError`].
    pub fn data(&self, value: &Value, limit: ByteLen) -> Result<Vec<u8>, FsError> {
        if value.len > limit {
            let what = format!("the value {:?}", value.name);
            return Err(FsError::TooLarge { what, len: value.len, limit });
        }
        let len = value.len.0;
        if value.inline || len == 0 {
            return Ok(value.data.iter().copied().take(usize::try_from(len).unwrap_or(0)).collect());
        }
        let cell = self.cell(CellOffset(u32::from_le_bytes(value.data)), "data of a value")?;
        // Big data came with version 1.4. Before, and in hives that other programs wrote, one cell holds it all; the record of
        // big data has 8 bytes, so that the two cannot be mistaken for each other.
        if cell.len >= len || len <= SEGMENT {
            return self.bytes(&cell, "data", 0, len);
        }
        let [a, b, low, high] = self.array(&cell, "signature", 0)?;
        if &[a, b] != b"db" {
            return Err(cell.corrupt("signature", format!("{:?}", [a, b]), "\"db\", being too short for the data"));
        }
        let segments = u16::from_le_bytes([low, high]);
        self.big_data(self.offset(&cell, "list of segments", 4)?, segments, len)
    }

    /// `len` bytes from the segments that are listed at `list`.
    fn big_data(&self, list: CellOffset, segments: u16, len: u64) -> Result<Vec<u8>, FsError> {
        let list = self.cell(list, "list of data segments")?;
        if u64::from(segments) != len.div_ceil(SEGMENT) {
            return Err(list.corrupt("number of segments", segments, "one for each 16344 bytes of the data"));
        }
        let mut offsets = Offsets::new(list, 0, segments.into(), 4)?;
        let (mut data, mut left) = (Vec::new(), len);
        while let Some(offset) = offsets.next(self) {
            let cell = self.cell(offset?, "data segment")?;
            let piece = left.min(SEGMENT);
            data.extend(self.bytes(&cell, "data", 0, piece)?);
            left = left.saturating_sub(piece);
        }
        Ok(data)
    }
}

impl Iterator for Values<'_> {
    type Item = Result<Value, FsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.cells.next(self.hive)?;
        Some(offset.and_then(|offset| self.hive.value(offset)))
    }
}
