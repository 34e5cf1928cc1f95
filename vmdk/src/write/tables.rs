//! The grain tables of an extent that is being written, kept small.

use std::collections::BTreeMap;

use super::{GRAIN_SECTORS, TABLE_ENTRIES};
use crate::convert::{div_rem, to_usize};
use crate::sparse::ZERO_GRAIN;

/// The most runs of one table; with more, a plain table of 2 KiB is smaller.
const MAX_RUNS: usize = 170;

/// The tables that were touched. Grains written in order take 12 bytes per run, whatever its length.
#[derive(Debug, Default)]
pub(super) struct Tables {
    tables: BTreeMap<u32, Table>,
}

#[derive(Debug)]
enum Table {
    /// Sorted, never overlapping.
    Runs(Vec<Run>),
    /// One sector per entry.
    Plain(Vec<u32>),
}

/// Grains that stand one behind the other in the disk, and in the file too unless they are all marked as zeros.
#[derive(Clone, Copy, Debug)]
struct Run {
    index: u32,
    count: u32,
    sector: u32,
}

impl Run {
    fn get(&self, index: u32) -> Option<u32> {
        let inside = index.checked_sub(self.index).filter(|inside| *inside < self.count)?;
        Some(self.sector_of(inside))
    }

    fn sector_of(&self, inside: u32) -> u32 {
        let step = if self.sector == ZERO_GRAIN { 0 } else { grain_sectors() };
        self.sector.saturating_add(inside.saturating_mul(step))
    }

    fn continues(&self, index: u32, sector: u32) -> bool {
        self.index.saturating_add(self.count) == index && self.sector_of(self.count) == sector
    }
}

fn grain_sectors() -> u32 {
    u32::try_from(GRAIN_SECTORS).unwrap_or(u32::MAX) // 128
}

/// The table of a grain and its entry there. Both are below 2^32 in an extent of 2^32 sectors.
fn place(grain: u64) -> (u32, u32) {
    let (table, index) = div_rem(grain, TABLE_ENTRIES);
    (u32::try_from(table).unwrap_or(u32::MAX), u32::try_from(index).unwrap_or(u32::MAX))
}

impl Tables {
    /// The first sector of a grain, if it is stored; [`ZERO_GRAIN`] if it is marked as zeros.
    pub(super) fn get(&self, grain: u64) -> Option<u32> {
        let (table, index) = place(grain);
        self.tables.get(&table)?.get(index)
    }

    /// Notes that a grain is stored at a sector, or marked as zeros ([`ZERO_GRAIN`]).
    pub(super) fn set(&mut self, grain: u64, sector: u32) {
        let (table, index) = place(grain);
        self.tables.entry(table).or_insert(Table::Runs(Vec::new())).set(index, sector);
    }

    /// The tables that were touched, in order: number and content, as they stand on disk.
    pub(super) fn content(&self) -> impl Iterator<Item = (u32, Vec<u8>)> {
        self.tables.iter().map(|(number, table)| (*number, table.to_bytes()))
    }
}

impl Table {
    fn get(&self, index: u32) -> Option<u32> {
        match self {
            Self::Runs(runs) => {
                let behind = runs.partition_point(|run| run.index <= index);
                runs.get(behind.checked_sub(1)?)?.get(index)
            }
            Self::Plain(sectors) => sectors.get(to_usize(index.into())).copied().filter(|sector| *sector != 0),
        }
    }

    fn set(&mut self, index: u32, sector: u32) {
        if matches!(self, Self::Runs(_)) && self.get(index).is_some() {
            *self = Self::Plain(self.sectors()); // a run would have to be split
        }
        match self {
            Self::Runs(runs) => {
                insert(runs, index, sector);
                if runs.len() > MAX_RUNS {
                    *self = Self::Plain(self.sectors());
                }
            }
            Self::Plain(sectors) => {
                if let Some(entry) = sectors.get_mut(to_usize(index.into())) {
                    *entry = sector;
                }
            }
        }
    }

    fn sectors(&self) -> Vec<u32> {
        (0..TABLE_ENTRIES).map(|index| self.get(place(index).1).unwrap_or(0)).collect()
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.sectors().into_iter().flat_map(u32::to_le_bytes).collect()
    }
}

fn insert(runs: &mut Vec<Run>, index: u32, sector: u32) {
    let behind = runs.partition_point(|run| run.index < index);
    let before = behind.checked_sub(1).and_then(|before| runs.get_mut(before));
    if let Some(run) = before.filter(|run| run.continues(index, sector)) {
        run.count = run.count.saturating_add(1);
        return;
    }
    runs.insert(behind, Run { index, count: 1, sector });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A permutation of 0..len by a step that has no common factor with it.
    fn shuffled(len: u64, step: u64) -> impl Iterator<Item = u64> {
        (0..len).map(move |i| i * step % len)
    }

    #[test]
    fn grains_are_found_again_in_whatever_order_they_came() {
        for step in [1, 1023, 389, 7] {
            let mut tables = Tables::default();
            for (i, grain) in shuffled(1024, step).enumerate() {
                assert_eq!(tables.get(grain), None);
                tables.set(grain, 1000 + 128 * u32::try_from(i).unwrap());
            }
            for (i, grain) in shuffled(1024, step).enumerate() {
                assert_eq!(tables.get(grain), Some(1000 + 128 * u32::try_from(i).unwrap()), "{step}");
            }
            let content: Vec<_> = tables.content().collect();
            assert_eq!(content.len(), 2);
            let entry = |grain: usize| {
                let bytes = &content[grain / 512].1[grain % 512 * 4..][..4];
                u32::from_le_bytes(bytes.try_into().unwrap())
            };
            assert!((0..1024).all(|grain| Some(entry(grain)) == tables.get(grain as u64)));
        }
    }

    #[test]
    fn grains_in_order_take_one_run_and_disorder_is_bounded() {
        let mut tables = Tables::default();
        (0..512).for_each(|i| tables.set(i, 128 * u32::try_from(i + 1).unwrap()));
        (512..1024).for_each(|i| tables.set(i, 128 * u32::try_from(2000 - i).unwrap()));
        assert!(matches!(&tables.tables[&0], Table::Runs(runs) if runs.len() == 1));
        assert!(matches!(&tables.tables[&1], Table::Plain(_)));
        assert_eq!(tables.content().count(), 2);
    }

    #[test]
    fn grains_marked_as_zeros_are_one_run_and_can_be_stored_later() {
        let mut tables = Tables::default();
        (0..100).for_each(|grain| tables.set(grain, ZERO_GRAIN));
        tables.set(100, 1000);
        tables.set(101, 1128);
        assert!(matches!(&tables.tables[&0], Table::Runs(runs) if runs.len() == 2));
        tables.set(50, 2000);
        let found: Vec<_> = [0, 49, 50, 51, 99, 100, 101, 102].map(|grain| tables.get(grain)).into();
        let zero = Some(ZERO_GRAIN);
        assert_eq!(found, [zero, zero, Some(2000), zero, zero, Some(1000), Some(1128), None]);
    }
}
