//! Keys (section "Key node").

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::cell::CellOffset;
use super::list::SubkeyOffsets;
use super::{Hive, name};
use crate::FsError;

/// The name is in Latin-1.
const LATIN_1: u16 = 0x0020;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawKey {
    signature: [u8; 2],    // 0x00
    flags: U16,            // 0x02
    written: [u8; 8],      // 0x04
    access: U32,           // 0x0c
    parent: U32,           // 0x10
    subkeys: U32,          // 0x14
    volatile_subkeys: U32, // 0x18
    subkey_list: U32,      // 0x1c
    volatile_list: U32,    // 0x20
    values: U32,           // 0x24
    value_list: U32,       // 0x28
    security: U32,         // 0x2c
    class: U32,            // 0x30
    largest: [U32; 4],     // 0x34
    work: U32,             // 0x44
    name_len: U16,         // 0x48: bytes
    class_len: U16,        // 0x4a
}
const NAME: u64 = 0x4c;
const _: () = assert!(size_of::<RawKey>() == 0x4c);

/// A key of a hive.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name. Characters that are none in UTF-16 are replaced.
    pub name: String,
    subkeys: u32,
    subkey_list: CellOffset,
    pub(super) values: u32,
    pub(super) value_list: CellOffset,
}

/// The keys below a key, in the order of the hive. After an error of one key the others follow.
pub struct Subkeys<'h> {
    hive: &'h Hive<'h>,
    cells: SubkeyOffsets,
}

impl Hive<'_> {
    pub(super) fn key(&self, offset: CellOffset) -> Result<Key, FsError> {
        let cell = self.cell(offset, "key")?;
        let raw: RawKey = zerocopy::transmute!(self.array::<0x4c>(&cell, "record", 0)?);
        if &raw.signature != b"nk" {
            return Err(cell.corrupt("signature", format!("{:?}", raw.signature), "\"nk\""));
        }
        let bytes = self.bytes(&cell, "key name", NAME, raw.name_len.get().into())?;
        Ok(Key {
            name: name::decode(&bytes, raw.flags.get() & LATIN_1 != 0),
            subkeys: raw.subkeys.get(),
            subkey_list: CellOffset(raw.subkey_list.get()),
            values: raw.values.get(),
            value_list: CellOffset(raw.value_list.get()),
        })
    }

    /// The keys below `key`, `None` if it has none.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn subkeys(&self, key: &Key) -> Result<Option<Subkeys<'_>>, FsError> {
        if key.subkeys == 0 {
            return Ok(None); // the list may be anything
        }
        let cells = SubkeyOffsets::new(self, key.subkey_list)?;
        Ok(Some(Subkeys { hive: self, cells }))
    }

    /// The key of this name below `key`; case does not matter. Keys that cannot be read do not matter if it is found.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn subkey(&self, key: &Key, name: &str) -> Result<Option<Key>, FsError> {
        let mut broken = None;
        for subkey in self.subkeys(key)?.into_iter().flatten() {
            match subkey {
                Ok(subkey) if name::same(&subkey.name, name) => return Ok(Some(subkey)),
                Ok(_) => {}
                Err(error) => broken = broken.or(Some(error)),
            }
        }
        broken.map_or(Ok(None), Err)
    }
}

impl Iterator for Subkeys<'_> {
    type Item = Result<Key, FsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.cells.next(self.hive)?;
        Some(offset.and_then(|offset| self.hive.key(offset)))
    }
}
