//! A hosted sparse extent: grains in the order in which they come, tables at the end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use blockdev::SECTOR_SIZE;
use zerocopy::IntoBytes;

use super::layout::Layout;
use super::out_file::OutFile;
use super::tables::Tables;
use super::{GRAIN_LEN, GRAIN_SECTORS};
use crate::convert::{sectors_to_bytes, to_u64, to_usize};
use crate::is_zero;
use crate::sparse::ZERO_GRAIN;

/// The state of one extent.
#[derive(Debug)]
pub(super) struct SparseBody {
    layout: Layout,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tables: Tables,
    /// The sector at which the next new grain is stored. The layout was made such that it never passes 2^32.
    next: u64,
    /// The length that the file was given, in bytes: more than is needed.
    file_len: u64,
}

/// The file grows in steps of this many bytes: writes that lengthen a file wait for each other.
const GROWTH: u64 = 64 << 20;

/// What is done with a grain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrainState {
    /// It is stored.
    Data,
    /// It becomes zeros: what is stored is overwritten; in a delta it is marked, which hides the parent.
    Zero,
    /// It is the parent's, and stays so.
    Same,
}

/// What is done with each grain of `data`, of which nothing is known but its bytes.
pub(super) fn states_of(data: &[u8]) -> Vec<GrainState> {
    let state = |grain| if is_zero(grain) { GrainState::Zero } else { GrainState::Data };
    data.chunks(to_usize(GRAIN_LEN)).map(state).collect()
}

/// What is done with each grain of `data` in a delta to a disk that holds `parent` there.
pub(crate) fn difference(data: &[u8], parent: &[u8]) -> Vec<GrainState> {
    let len = to_usize(GRAIN_LEN);
    let state = |(grain, parent): (&[u8], &[u8])| match () {
        () if grain == parent => GrainState::Same,
        () if is_zero(grain) => GrainState::Zero,
        () => GrainState::Data,
    };
    data.chunks(len).zip(parent.chunks(len)).map(state).collect()
}

/// A part of the data and the place in the file where it goes.
#[derive(Debug)]
pub(super) struct Piece {
    start: usize,
    end: usize,
    offset: u64,
}

impl SparseBody {
    pub(super) fn new(layout: Layout) -> Self {
        let state = State { tables: Tables::default(), next: layout.over_head.into(), file_len: 0 };
        Self { layout, state: Mutex::new(state) }
    }

    /// Gives places to the grains of `len` bytes from grain `grain` of the extent on. Adjacent grains that get adjacent places
    /// are one piece.
    pub(super) fn place(
        &self,
        file: &OutFile,
        grain: u64,
        states: &[GrainState],
        len: usize,
    ) -> io::Result<Vec<Piece>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pieces = state.place(grain, states, len, self.layout.is_delta());
        state.grow(file.file())?;
        Ok(pieces)
    }

    /// Writes what places were given to.
    pub(super) fn store(file: &OutFile, pieces: &[Piece], data: &[u8]) -> io::Result<()> {
        let bytes = |piece: &Piece| data.get(piece.start..piece.end).unwrap_or_default();
        pieces.iter().try_for_each(|piece| file.write_all_at(bytes(piece), piece.offset))
    }

    /// Writes the tables and sets the length. Until the header is written too, the file is no image.
    pub(super) fn finish_tables(&self, file: &File) -> io::Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        file.set_len(sectors_to_bytes(state.next))?;
        for (directory, first_table) in self.layout.directories {
            let sectors = (0..self.layout.tables).map(|index| Layout::table_sector(first_table, index));
            let bytes: Vec<u8> = sectors.flat_map(u32::to_le_bytes).collect();
            file.write_all_at(&bytes, sectors_to_bytes(directory.into()))?;
        }
        for (number, bytes) in state.tables.content() {
            for (_, first_table) in self.layout.directories {
                let sector = Layout::table_sector(first_table, number);
                file.write_all_at(&bytes, sectors_to_bytes(sector.into()))?;
            }
        }
        Ok(())
    }

    pub(super) fn write_header(&self, file: &File) -> io::Result<()> {
        file.write_all_at(self.layout.header().as_bytes(), 0)
    }

    /// Writes the descriptor inside; it was checked to fit.
    pub(super) fn write_descriptor(file: &File, text: &str) -> io::Result<()> {
        file.write_all_at(text.as_bytes(), SECTOR_SIZE)
    }
}

impl State {
    /// Finds or makes the places of grains.
    fn place(&mut self, first: u64, states: &[GrainState], len: usize, delta: bool) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut start = 0usize;
        for (grain, state) in (first..).zip(states) {
            let end = start.saturating_add(to_usize(GRAIN_LEN)).min(len);
            let known = self.tables.get(grain);
            let sector = match (known.filter(|sector| *sector != ZERO_GRAIN), state) {
                (Some(sector), _) => Some(sector),
                (None, GrainState::Same) if known.is_none() => None,
                (None, GrainState::Data | GrainState::Same) => self.add(grain),
                (None, GrainState::Zero) => {
                    if delta {
                        self.tables.set(grain, ZERO_GRAIN);
                    }
                    None
                }
            };
            if let Some(sector) = sector {
                let offset = sectors_to_bytes(sector.into());
                match pieces.last_mut() {
                    Some(last) if last.end == start && last.file_end() == offset => last.end = end,
                    _ => pieces.push(Piece { start, end, offset }),
                }
            }
            start = end;
        }
        pieces
    }

    /// Makes the file long enough for all places that were given out.
    fn grow(&mut self, file: &File) -> io::Result<()> {
        let needed = sectors_to_bytes(self.next);
        if needed > self.file_len {
            let longer = needed.saturating_add(GROWTH);
            file.set_len(longer)?;
            self.file_len = longer;
        }
        Ok(())
    }

    fn add(&mut self, grain: u64) -> Option<u32> {
        let sector = u32::try_from(self.next).ok()?; // always: see `next`
        self.next = self.next.saturating_add(GRAIN_SECTORS);
        self.tables.set(grain, sector);
        Some(sector)
    }
}

impl Piece {
    fn file_end(&self) -> u64 {
        self.offset.saturating_add(to_u64(self.end.saturating_sub(self.start)))
    }
}
