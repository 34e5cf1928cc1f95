//! `$Secure`: security descriptors, each kept once and named by a number.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::index::Index;
use super::record::kind;
use super::volume::{Volume, known, what_of};
use crate::FsError;
use crate::bytes::{index, u32_at, u64_at};

/// A descriptor with its head has at most 64 KiB.
const MAX_DESCRIPTOR: usize = 64 << 10;
/// Its head in `$SDS`: hash, id, place, length.
const HEAD: usize = 20;
/// Descriptors that are kept: most files of a volume share some dozens.
const KEPT: usize = 64;

/// Descriptors that were looked up lately.
#[derive(Default)]
pub(super) struct Descriptors(Mutex<HashMap<u32, Vec<u8>>>);

impl Volume {
    /// The security descriptor with this number, self-relative as on disk.
    pub(super) fn security_descriptor(&self, id: u32) -> Result<Vec<u8>, FsError> {
        let kept = || self.descriptors.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept().get(&id) {
            return Ok(known.clone());
        }
        let descriptor = self.find_descriptor(id)?.ok_or_else(|| FsError::Corrupt {
            what: "$Secure".into(),
            field: "security id",
            found: format!("{id:#x}, missing"),
            expected: "there, because a file has it",
        })?;
        let mut kept = kept();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(id, descriptor.clone());
        Ok(descriptor)
    }

    fn find_descriptor(&self, id: u32) -> Result<Option<Vec<u8>>, FsError> {
        let secure = self.base_record(known::SECURE)?;
        let Some(ids) = Index::open(self, &secure, "$SII")? else { return Ok(None) };
        let compare = |key: &[u8]| id.cmp(&u32_at(key, 0).unwrap_or(u32::MAX));
        let place = |data: Option<&[u8]>| data.and_then(|data| Some((u64_at(data, 8)?, u32_at(data, 16)?)));
        let Some(found) = ids.search(&compare, |entry| place(entry.data()))? else { return Ok(None) };
        let sds: Vec<u16> = "$SDS".encode_utf16().collect();
        let corrupt = |field, found: String, expected| FsError::Corrupt {
            what: what_of(secure.number, kind::DATA, &sds),
            field,
            found,
            expected,
        };
        let (at, len) = found.unwrap_or_default();
        let len = index(len);
        if !(HEAD..=MAX_DESCRIPTOR.saturating_add(HEAD)).contains(&len) {
            return Err(corrupt("length of a descriptor", len.to_string(), "from 20 bytes to 64 KiB"));
        }
        let Some(stream) = self.stream(&secure, kind::DATA, &sds)? else { return Ok(None) };
        let mut bytes = vec![0; len];
        stream.read(&self.device, self.device.cached(), at, &mut bytes)?;
        let head = (u32_at(&bytes, 4), u64_at(&bytes, 8), u32_at(&bytes, 16).map(index));
        if head != (Some(id), Some(at), Some(len)) {
            let found = format!("{head:?} at byte {at:#x}");
            return Err(corrupt("head of a descriptor", found, "the id, place and length by which it was looked up"));
        }
        let (stored, computed) = (u32_at(&bytes, 0), hash(bytes.get(HEAD..).unwrap_or_default()));
        if stored != Some(computed) {
            let found = format!("{stored:?} at byte {at:#x}");
            return Err(corrupt("hash of a descriptor", found, "that of its bytes"));
        }
        Ok(Some(bytes.split_off(HEAD)))
    }
}

/// The hash by which `$SDH` finds descriptors: each word of four bytes is added to the hash, turned left by three bits.
fn hash(descriptor: &[u8]) -> u32 {
    let (words, _) = descriptor.as_chunks::<4>();
    words.iter().fold(0u32, |hash, word| hash.rotate_left(3).wrapping_add(u32::from_le_bytes(*word)))
}
