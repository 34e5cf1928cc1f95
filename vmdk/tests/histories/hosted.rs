//! Hosted sparse extents (KDMV) and redo logs (COWD): directory, tables and grains in any order in the file.

use crate::model::{SECTOR, State};
use crate::rng::Rng;
use crate::sheet::{Grains, Sheet, longs, words};

/// Sectors kept for a descriptor inside.
pub(crate) const DESCRIPTOR: usize = 20;
/// What a damaged directory says: a sector that no file has.
const NOWHERE: usize = 0x7fff_ff00;
const ZEROED_GRAIN: usize = 1;

/// The header's numbers, all but the magic in the order in which they stand.
pub(crate) struct Header {
    pub(crate) version: usize,
    pub(crate) flags: usize,
    pub(crate) capacity: usize,
    pub(crate) grain: usize,
    pub(crate) inside: bool,
    pub(crate) entries: usize,
    pub(crate) redundant: u64,
    pub(crate) directory: u64,
    pub(crate) overhead: usize,
    pub(crate) algorithm: u8,
}

impl Header {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (offset, size) = if self.inside { (1, DESCRIPTOR as u64) } else { (0, 0) };
        let mut all = b"KDMV".to_vec();
        all.extend(words([self.version, self.flags]));
        all.extend(longs([self.capacity as u64, self.grain as u64, offset, size]));
        all.extend(words([self.entries]));
        all.extend(longs([self.redundant, self.directory, self.overhead as u64]));
        all.extend(b"\0\n \r\n");
        all.extend([self.algorithm, 0]);
        all.resize(SECTOR, 0);
        all
    }
}

/// One of what an extent's file holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Item {
    Directory(usize),
    Table(usize, usize),
    Grain(usize),
}

/// Directories, tables and grains, in a file that has something before them.
struct Laid<'a> {
    grains: &'a Grains<'a>,
    /// Of a table.
    entries: usize,
    places: Vec<(Item, usize)>,
}

impl<'a> Laid<'a> {
    /// Gives everything a place. The last grain is cut off where the disk ends, if it comes last.
    fn out(rng: &mut Rng, sheet: &mut Sheet, grains: &'a Grains<'a>, entries: usize, copies: usize) -> Self {
        let tables = grains.states.len().div_ceil(entries);
        let all = rng.one_in(2);
        let mut items: Vec<Item> = grains.stored().into_iter().map(Item::Grain).collect();
        for copy in 0..copies {
            items.push(Item::Directory(copy));
            let kept = (0..tables).filter(|table| all || grains.uses(*table, entries));
            items.extend(kept.map(|table| Item::Table(copy, table)));
        }
        rng.shuffle(&mut items);
        let last = Item::Grain(grains.states.len() - 1);
        let cut = items.contains(&last) && rng.one_in(3);
        if cut {
            items.retain(|item| *item != last);
            items.push(last);
        }
        let mut place = |item: &Item| match item {
            Item::Directory(_) => sheet.reserve(rng, tables * 4),
            Item::Table(..) => sheet.reserve(rng, entries * 4),
            Item::Grain(number) if cut && *item == last => sheet.reserve(rng, grains.data(*number).len()),
            Item::Grain(_) => sheet.reserve(rng, grains.grain * SECTOR),
        };
        let places = items.iter().map(|item| (*item, place(item))).collect();
        Self { grains, entries, places }
    }

    /// Where something lies; 0 where there is none of it.
    fn place(&self, item: Item) -> usize {
        self.places.iter().find(|place| place.0 == item).map_or(0, |place| place.1)
    }

    /// Writes everything; with `damaged` the last directory is useless.
    fn write(&self, sheet: &mut Sheet, damaged: Option<usize>) {
        let mut entries = vec![0; self.grains.states.len().next_multiple_of(self.entries)];
        for (number, state) in self.grains.states.iter().enumerate() {
            entries[number] = match state {
                State::Hole => 0,
                State::Zero | State::Unmapped => ZEROED_GRAIN,
                State::Data => 0, // below
            };
        }
        for (item, place) in &self.places {
            if let Item::Grain(number) = item {
                entries[*number] = *place;
            }
        }
        for (item, place) in &self.places {
            match *item {
                Item::Directory(copy) => {
                    let tables = (0..entries.len() / self.entries).map(|table| match damaged {
                        Some(damaged) if damaged == copy => NOWHERE + table,
                        _ => self.place(Item::Table(copy, table)),
                    });
                    sheet.write(*place, &words(tables));
                }
                Item::Table(_, table) => {
                    sheet.write(*place, &words(entries[table * self.entries..][..self.entries].iter().copied()));
                }
                Item::Grain(number) => {
                    let room = sheet.bytes.len() - place * SECTOR;
                    let data = self.grains.padded(number);
                    sheet.write(*place, &data[..data.len().min(room)]);
                }
            }
        }
    }
}

/// What a hosted extent may be.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) entries: usize,
    pub(crate) two: bool,
    pub(crate) zeroed: bool,
    pub(crate) damaged: bool,
}

pub(crate) fn hosted(rng: &mut Rng, grains: &Grains<'_>, shape: Shape, inside: Option<&str>) -> Vec<u8> {
    let mut sheet = Sheet::default();
    sheet.append(SECTOR);
    if inside.is_none() {
        sheet.append(SECTOR); // no grain can lie in sector 1
    }
    if let Some(text) = inside {
        let start = sheet.append(DESCRIPTOR * SECTOR);
        let mut text = text.as_bytes().to_vec();
        text.resize(DESCRIPTOR * SECTOR, 0);
        sheet.write(start, &text);
    }
    let copies = if shape.two { 2 } else { 1 };
    let laid = Laid::out(rng, &mut sheet, grains, shape.entries, copies);
    laid.write(&mut sheet, shape.damaged.then_some(0));
    let (two, zeroed) = (usize::from(shape.two), usize::from(shape.zeroed));
    let round = if rng.one_in(4) { grains.grain } else { 1 };
    let header = Header {
        version: if shape.zeroed { rng.within(2, 3) } else { rng.within(1, 3) },
        flags: 1 | two << 1 | zeroed << 2,
        capacity: grains.sectors().next_multiple_of(round),
        grain: grains.grain,
        inside: inside.is_some(),
        entries: shape.entries,
        redundant: if shape.two { laid.place(Item::Directory(1)) as u64 } else { 0 },
        directory: laid.place(Item::Directory(0)) as u64,
        overhead: 1,
        algorithm: 0,
    };
    sheet.write(0, &header.bytes());
    sheet.bytes
}

/// Entries of a table of a redo log.
const COWD_ENTRIES: usize = 4096;

pub(crate) fn cowd(rng: &mut Rng, grains: &Grains<'_>) -> Vec<u8> {
    let mut sheet = Sheet::default();
    sheet.append(4 * SECTOR);
    let laid = Laid::out(rng, &mut sheet, grains, COWD_ENTRIES, 1);
    laid.write(&mut sheet, None);
    let tables = grains.states.len().div_ceil(COWD_ENTRIES);
    let directory = laid.place(Item::Directory(0));
    let mut header = b"COWD".to_vec();
    header.extend(words([1, 3, grains.sectors(), grains.grain, directory, tables, sheet.end()]));
    header.resize(4 * SECTOR, 0);
    sheet.write(0, &header);
    sheet.bytes
}
