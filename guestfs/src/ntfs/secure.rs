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
    pub(super) fn security_descriptor(&self, id: u32) -> Result<Option<Vec<u8>>, FsError> {
        let kept = || self.descriptors.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept().get(&id) {
            return Ok(Some(known.clone()));
        }
        let Some(descriptor) = self.find_descriptor(id)? else { return Ok(None) };
        let mut kept = kept();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(id, descriptor.clone());
        Ok(Some(descriptor))
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
        if u32_at(&bytes, 4) != Some(id) {
            let found = format!("{:?} at byte {at:#x}", u32_at(&bytes, 4));
            return Err(corrupt("security id", found, "that by which it was looked up"));
        }
        Ok(Some(bytes.split_off(HEAD)))
    }
}
