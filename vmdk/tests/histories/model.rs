//! What a disk holds after its history, kept as plain bytes, and which layer decides.

use crate::history::{Extent, Kind, Layer, What, Write};
use crate::rng::Rng;

pub(crate) const SECTOR: usize = 512;

/// Who decides what a sector reads as. Layers are counted from the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Nobody,
    Zero(usize),
    Data(usize),
}

/// The state of a grain in its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Hole,
    Zero,
    /// Reads as zeros; it had a place once.
    Unmapped,
    Data,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) bytes: Vec<u8>,
    /// One per sector.
    pub(crate) owners: Vec<Owner>,
}

impl Model {
    /// Puts a layer on top and lets its writes happen. Answers the states of each extent's grains.
    pub(crate) fn put(&mut self, number: usize, layer: &Layer) -> Vec<Vec<State>> {
        self.bytes.resize(layer.len() * SECTOR, 0);
        self.owners.resize(layer.len(), Owner::Nobody);
        let mut states = Vec::new();
        for (start, extent) in layer.starts().zip(&layer.extents) {
            let grains = extent.kind.grain().map_or(0, |grain| extent.len.div_ceil(grain));
            states.push(vec![State::Hole; grains]);
            if extent.kind.grain().is_none() {
                // New flat files are zeros, whatever is below.
                self.bytes[start * SECTOR..(start + extent.len) * SECTOR].fill(0);
            }
        }
        for write in &layer.writes {
            for ((start, extent), states) in layer.starts().zip(&layer.extents).zip(&mut states) {
                let (from, to) = (write.start.max(start), (write.start + write.len).min(start + extent.len));
                if from < to {
                    let bytes = &mut self.bytes[start * SECTOR..(start + extent.len) * SECTOR];
                    let part = Part { write, start, from: from - start, to: to - start, extent, base: number == 0 };
                    part.happen(bytes, states);
                }
            }
        }
        for ((start, extent), states) in layer.starts().zip(&layer.extents).zip(&states) {
            self.own(number, start, extent, states);
        }
        states
    }

    fn own(&mut self, number: usize, start: usize, extent: &Extent, states: &[State]) {
        let owners = &mut self.owners[start..start + extent.len];
        let Some(grain) = extent.kind.grain() else {
            let flat = matches!(extent.kind, Kind::Flat { .. });
            return owners.fill(if flat { Owner::Data(number) } else { Owner::Zero(number) });
        };
        for (owners, state) in owners.chunks_mut(grain).zip(states) {
            match state {
                State::Hole => {}
                State::Zero | State::Unmapped => owners.fill(Owner::Zero(number)),
                State::Data => owners.fill(Owner::Data(number)),
            }
        }
    }
}

/// The part of a write that falls into one extent; `from` and `to` are sectors of the extent.
struct Part<'a> {
    write: &'a Write,
    start: usize,
    from: usize,
    to: usize,
    extent: &'a Extent,
    base: bool,
}

impl Part<'_> {
    fn happen(&self, bytes: &mut [u8], states: &mut [State]) {
        match self.extent.kind {
            Kind::Zero => {}
            Kind::Flat { .. } => self.put(bytes, self.from, self.to),
            kind => {
                let grain = kind.grain().unwrap();
                let touched = states.iter_mut().enumerate().take(self.to.div_ceil(grain)).skip(self.from / grain);
                for (number, state) in touched {
                    let end = ((number + 1) * grain).min(self.extent.len);
                    let (from, to) = (self.from.max(number * grain), self.to.min(end));
                    let whole = from == number * grain && to == end;
                    *state = self.grain(*state, whole, || self.put(bytes, from, to));
                }
            }
        }
    }

    /// What becomes of a grain. `put` changes the bytes that the guest sees.
    fn grain(&self, state: State, whole: bool, put: impl FnOnce()) -> State {
        let zeros = matches!(state, State::Zero | State::Unmapped);
        let next = match (self.write.what, self.extent.kind) {
            (What::Data(_), _) => State::Data,
            (What::Zero, kind) if whole && kind.marks_zeros() => State::Zero,
            (What::Zero, _) if zeros => return state,
            (What::Zero, _) => State::Data,
            (What::Unmap, Kind::SeSparse { .. }) if whole => State::Unmapped,
            (What::Unmap, Kind::Hosted { .. }) if whole && self.base => State::Hole,
            (What::Unmap, _) => return state,
        };
        put();
        next
    }

    fn put(&self, bytes: &mut [u8], from: usize, to: usize) {
        let bytes = &mut bytes[from * SECTOR..to * SECTOR];
        match self.write.what {
            What::Data(seed) => fill(seed, self.start + from, bytes),
            What::Zero | What::Unmap => bytes.fill(0),
        }
    }
}

/// Noise, words, one byte, or zeros that are written as data. A sector begins with its seed and place, so that a misplaced
/// one shows.
fn fill(seed: u64, first: usize, bytes: &mut [u8]) {
    let kind = seed % 5;
    let mut rng = Rng::new(seed);
    for (place, sector) in (first as u64..).zip(bytes.chunks_mut(SECTOR)) {
        match kind {
            0 | 1 => sector.chunks_mut(8).for_each(|word| word.copy_from_slice(&rng.next().to_le_bytes())),
            2 => sector.chunks_mut(8).for_each(|word| word.copy_from_slice(b"stilled ")),
            3 => sector.fill(seed.to_le_bytes()[7]),
            _ => sector.fill(0),
        }
        if kind != 4 {
            sector[..8].copy_from_slice(&(seed ^ place << 40).to_le_bytes());
        }
    }
}
