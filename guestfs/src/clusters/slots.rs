use blockdev::ByteOffset;

use super::Runs;
use crate::{CachedDisk, FsError};

/// Bytes of an entry of a folder.
pub(crate) const SLOT: u64 = 32;

/// Bytes of a folder that are looked at together.
const WINDOW: u64 = 4096;

/// An entry of a folder.
pub(crate) type Slot = [u8; 32];

/// Reads a folder, a window at a time.
pub(crate) struct Slots<'a> {
    disk: &'a CachedDisk,
    runs: &'a Runs,
    at: u64,
    window: Vec<u8>,
}

impl<'a> Slots<'a> {
    pub(crate) fn new(disk: &'a CachedDisk, runs: &'a Runs) -> Self {
        Self { disk, runs, at: 0, window: Vec::new() }
    }

    /// Some bytes of the folder from byte `from` on; none at its end.
    pub(crate) fn bytes(&mut self, from: u64) -> Result<&[u8], FsError> {
        let inside = |at: u64, len: usize| {
            let skipped = usize::try_from(from.checked_sub(at)?).ok()?;
            Some(skipped).filter(|skipped| *skipped < len)
        };
        if inside(self.at, self.window.len()).is_none() {
            self.load(from)?;
        }
        let skipped = inside(self.at, self.window.len());
        Ok(skipped.and_then(|skipped| self.window.get(skipped..)).unwrap_or_default())
    }

    /// An entry, or `None` behind the last one.
    pub(crate) fn slot(&mut self, index: u64) -> Result<Option<Slot>, FsError> {
        let Some(from) = index.checked_mul(SLOT) else { return Ok(None) };
        Ok(self.bytes(from)?.first_chunk().copied())
    }

    /// Where an entry begins on the volume.
    pub(crate) fn place(&self, index: u64) -> Option<u64> {
        Some(self.runs.locate(index.checked_mul(SLOT)?)?.0)
    }

    fn load(&mut self, from: u64) -> Result<(), FsError> {
        self.at = from & !WINDOW.saturating_sub(1);
        let len = self.runs.len().saturating_sub(self.at).min(WINDOW);
        self.window.clear();
        self.window.resize(usize::try_from(len).unwrap_or(0), 0); // at most WINDOW
        let place = self.runs.locate(self.at).map_or(0, |(at, _)| at);
        let result = self.runs.read(self.disk, self.at, &mut self.window);
        result.map_err(|source| FsError::Read { what: format!("the folder at byte {}", ByteOffset(place)), source })
    }
}
