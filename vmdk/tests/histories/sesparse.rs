//! Space-efficient extents: areas in any order, tables and grains in any order within theirs, all four types of entries.

use crate::model::{SECTOR, State};
use crate::rng::Rng;
use crate::sheet::{Grains, Sheet, longs};

/// Entries of a sector.
const PER_SECTOR: usize = 64;

/// Numbers of some of `count + spare` places, in random order.
fn numbers(rng: &mut Rng, count: usize, spare: usize) -> Vec<u64> {
    let mut all: Vec<u64> = (0..(count + spare) as u64).collect();
    rng.shuffle(&mut all);
    all
}

/// A grain's number as an entry has it: its low twelve bits above the others.
fn turned(number: u64) -> u64 {
    (number & 0xfff) << 48 | number >> 12
}

pub(crate) fn sesparse(rng: &mut Rng, grains: &Grains<'_>, table: usize) -> Vec<u8> {
    let entries = table * PER_SECTOR;
    let tables = grains.states.len().div_ceil(entries);
    let all = rng.one_in(2);
    let used: Vec<usize> = (0..tables).filter(|table| all || grains.uses(*table, entries)).collect();
    let stored = grains.stored();
    let (spare_tables, spare_grains) = (rng.below(2), rng.below(3));
    let table_numbers = numbers(rng, used.len(), spare_tables);
    let grain_numbers = numbers(rng, stored.len(), spare_grains);

    // The journal's header and the journal, the directory, tables, bitmap, backmap, grains.
    let directory_sectors = tables.div_ceil(PER_SECTOR);
    let sizes =
        [2, rng.within(1, 4), directory_sectors, table_numbers.len() * table, 1, 1, grain_numbers.len() * grains.grain];
    let mut sheet = Sheet::default();
    sheet.append(2 * SECTOR); // both headers
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    rng.shuffle(&mut order);
    let mut areas = [(0, 0); 7];
    for area in order {
        areas[area] = (sheet.reserve(rng, sizes[area] * SECTOR), sizes[area]);
    }
    let [_, _, (directory, _), (first_table, _), _, _, (first_grain, _)] = areas;

    let mut words = vec![0; tables.next_multiple_of(PER_SECTOR)];
    for (table, number) in used.iter().zip(&table_numbers) {
        words[*table] = 1 << 60 | number;
    }
    sheet.write(directory, &longs(words));
    let mut places = vec![0; grains.states.len().next_multiple_of(entries)];
    for (grain, number) in stored.iter().zip(&grain_numbers) {
        places[*grain] = *number;
        sheet.write(first_grain + *number as usize * grains.grain, &grains.padded(*grain));
    }
    let mut entry = |grain: usize| match grains.states.get(grain) {
        None | Some(State::Hole) => 0,
        Some(State::Unmapped) => 1 << 60 | turned(rng.next() & 0xff_ffff), // the place that it had
        Some(State::Zero) => 2 << 60,
        Some(State::Data) => 3 << 60 | turned(places[grain]),
    };
    for (used, number) in used.iter().zip(&table_numbers) {
        let words: Vec<u64> = (used * entries..(used + 1) * entries).map(&mut entry).collect();
        sheet.write(first_table + *number as usize * table, &longs(words));
    }
    sheet.write(0, &headers(grains, table, &areas));
    sheet.bytes
}

fn headers(grains: &Grains<'_>, table: usize, areas: &[(usize, usize); 7]) -> Vec<u8> {
    let fixed = [0xcafe_babe, 0x2_0000_0001, grains.sectors() as u64, grains.grain as u64, table as u64, 0, 0, 0, 0, 0];
    let mut all = longs(fixed);
    all.extend(longs([1, 1])); // the volatile header
    all.extend(longs(areas.iter().flat_map(|area| [area.0 as u64, area.1 as u64])));
    all.resize(SECTOR, 0);
    all.extend(longs([0xcafe_cafe, 0, 1, 0]));
    all.resize(2 * SECTOR, 0);
    all
}
