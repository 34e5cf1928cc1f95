//! A file that is being laid out, in sectors: what is reserved has a random gap before it, and gaps are filled with junk.

use crate::model::{SECTOR, State};
use crate::rng::Rng;

/// What nobody may see.
const JUNK: u8 = 0xee;

#[derive(Default)]
pub(crate) struct Sheet {
    pub(crate) bytes: Vec<u8>,
}

impl Sheet {
    /// The end, in sectors.
    pub(crate) fn end(&self) -> usize {
        self.bytes.len() / SECTOR
    }

    /// The first of so many bytes' sectors, right at the end.
    pub(crate) fn append(&mut self, len: usize) -> usize {
        let sector = self.end();
        self.bytes.resize(self.bytes.len() + len.next_multiple_of(SECTOR), JUNK);
        sector
    }

    /// The same behind a gap.
    pub(crate) fn reserve(&mut self, rng: &mut Rng, len: usize) -> usize {
        if rng.one_in(3) {
            self.append(rng.within(1, 3) * SECTOR);
        }
        self.append(len)
    }

    /// Writes at a sector; what is cut off a sector's end stays as it is.
    pub(crate) fn write(&mut self, sector: usize, bytes: &[u8]) {
        self.bytes[sector * SECTOR..][..bytes.len()].copy_from_slice(bytes);
    }
}

/// The grains of an extent: its bytes as the guest sees them, and the state of each grain.
pub(crate) struct Grains<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) states: &'a [State],
    /// Sectors.
    pub(crate) grain: usize,
}

impl Grains<'_> {
    /// The sectors of the extent.
    pub(crate) fn sectors(&self) -> usize {
        self.bytes.len() / SECTOR
    }

    /// The bytes of a grain; the last one ends with the extent.
    pub(crate) fn data(&self, number: usize) -> &[u8] {
        let len = self.grain * SECTOR;
        let start = number * len;
        &self.bytes[start..(start + len).min(self.bytes.len())]
    }

    /// A whole grain, with junk behind the end of the extent.
    pub(crate) fn padded(&self, number: usize) -> Vec<u8> {
        let mut data = self.data(number).to_vec();
        data.resize(self.grain * SECTOR, JUNK);
        data
    }

    /// The numbers of those that are stored.
    pub(crate) fn stored(&self) -> Vec<usize> {
        (0..self.states.len()).filter(|number| self.states[*number] == State::Data).collect()
    }

    /// Whether the table `table` says anything.
    pub(crate) fn uses(&self, table: usize, entries: usize) -> bool {
        self.states.iter().skip(table * entries).take(entries).any(|state| *state != State::Hole)
    }
}

/// Little-endian words of 32 bits.
pub(crate) fn words(values: impl IntoIterator<Item = usize>) -> Vec<u8> {
    values.into_iter().flat_map(|value| u32::try_from(value).unwrap().to_le_bytes()).collect()
}

/// Little-endian words of 64 bits.
pub(crate) fn longs(values: impl IntoIterator<Item = u64>) -> Vec<u8> {
    values.into_iter().flat_map(u64::to_le_bytes).collect()
}
