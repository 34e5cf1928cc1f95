//! The tables of an extent: every entry names a place that exists, and no place is named twice or by nobody.

use blockdev::{ByteLen, SECTOR_SIZE};

use super::problem::{cause_of, place_of};
use super::usage::{Area, Usage};
use super::{CheckReport, Problem};
use crate::convert::{div_rem, div_up, to_u64, to_usize};
use crate::sparse::{Entries, Entry, GrainMap, MAX_GRAIN_SECTORS, PackedGrain, check_inside};

/// More entries than this many that are wrong are not counted, and what else there is is not looked at.
const MAX_COUNTED: u64 = 1_000_000;

/// Looks at every table; answers where the first grain begins and where the last one ends in the file.
pub(super) fn check(map: &GrainMap, report: &mut CheckReport) -> (u64, u64) {
    let grains = map.grains();
    let size = map.file().size().0;
    // What a header says of areas is worth no more than the file that there is; entries of 32 bits end at 2 TiB.
    let reachable = (1u64 << 32).saturating_add(MAX_GRAIN_SECTORS);
    let whole_file = Area { base: 0, unit: SECTOR_SIZE, count: div_up(size, SECTOR_SIZE).min(reachable) };
    let in_file = |base: u64, unit: u64, count: u64| Area {
        base,
        unit,
        count: count.min(div_up(size.saturating_sub(base), unit)),
    };
    let (area, tables) = match grains.entries {
        Entries::Sectors { .. } => (whole_file, None),
        // Tables and grains have places of their own, which entries count.
        Entries::Tagged(areas) => (
            in_file(areas.grains, areas.grain_len, areas.grain_count),
            in_file(areas.tables, areas.table_len, areas.table_count).windows().next(),
        ),
    };
    let mut check = Check { map, report, usage: None, tables, leaked: 0, place: (u64::MAX, 0) };
    for usage in area.windows() {
        check.window(usage);
    }
    let (leaked, place) = (check.leaked, check.place);
    if leaked > 0 {
        let len = ByteLen(leaked.saturating_mul(grains.grain_len));
        report.add(map.name(), None, Problem::Leaked { grains: leaked, len });
    }
    place
}

struct Check<'a> {
    map: &'a GrainMap,
    report: &'a mut CheckReport,
    /// What is taken in the window that is looked at.
    usage: Option<Usage>,
    /// Tables that are taken, where they are numbered.
    tables: Option<Usage>,
    /// Grains that belong to nothing.
    leaked: u64,
    /// Where the first grain begins and the last one ends.
    place: (u64, u64),
}

/// One copy of a table.
struct Copy {
    start: u64,
    entries: Vec<u64>,
}

impl Check<'_> {
    fn window(&mut self, usage: Usage) {
        let grains = self.map.grains();
        let numbered = self.tables.is_some();
        self.usage = Some(usage);
        if !numbered {
            for (start, end) in grains.reserved {
                self.take(start, end.saturating_sub(start), "the header or descriptor");
            }
            for directory in &grains.directories {
                self.take(*directory, grains.directory_len(), "a grain directory");
            }
        }
        let mut table = 0;
        while table < grains.table_count() && self.report.corruptions < MAX_COUNTED {
            // Most of a large disk has no tables.
            let empty = grains.directories.iter().map(|start| self.map.empty_tables(*start, table).unwrap_or(0)).min();
            table = table.saturating_add(empty.unwrap_or(0));
            if table < grains.table_count() && empty == Some(0) {
                self.table(table);
                table = table.saturating_add(1);
            }
        }
        // Streams have markers between their grains; they are counted by walking along them.
        if !numbered && !grains.packed {
            let sectors = grains.grain_len / SECTOR_SIZE;
            let free = self.usage.as_ref().map_or(0, |usage| usage.free_in(grains.grain_area, sectors));
            self.leaked = self.leaked.saturating_add(free);
        }
    }

    /// Whether this is the first look, in which single entries are judged.
    fn first_look(&self) -> bool {
        self.usage.as_ref().is_some_and(Usage::is_first)
    }

    /// Takes a place; false if it, or a part of it, was taken before.
    fn take(&mut self, start: u64, len: u64, what: &'static str) -> bool {
        let free = self.usage.as_mut().is_none_or(|usage| usage.take(start, len));
        if !free {
            self.report.add(self.map.name(), Some(start), Problem::UsedTwice { what });
        }
        free
    }

    /// Takes the place of a table. Where tables are numbered they are taken once, and not in every window.
    fn take_table(&mut self, start: u64) -> bool {
        let (len, what) = (self.map.grains().table_len(), "a grain table");
        let first_look = self.first_look();
        match &mut self.tables {
            None => self.take(start, len, what),
            Some(tables) => {
                let free = !first_look || tables.take(start, len);
                if !free {
                    self.report.add(self.map.name(), Some(start), Problem::UsedTwice { what });
                }
                free
            }
        }
    }

    fn table(&mut self, table: u64) {
        let copies = self.copies(table);
        // A table that is named a second time was looked at, and its grains are taken.
        if copies.iter().filter(|copy| !self.take_table(copy.start)).count() > 0 {
            return;
        }
        if self.first_look() {
            self.compare(table, &copies);
        }
        let first = table.saturating_mul(self.map.grains().table_entries);
        let count = self.map.grains().table_entries.min(self.map.grains().count().saturating_sub(first));
        let mut run: Option<(u64, u64)> = None;
        for index in 0..count {
            let Some(start) = self.grain(first.saturating_add(index), index, &copies) else { continue };
            let end = start.saturating_add(self.map.grains().len_of(first.saturating_add(index)));
            match &mut run {
                Some((_, run_end)) if *run_end == start => *run_end = end,
                _ => {
                    self.take_run(run);
                    run = Some((start, end));
                }
            }
        }
        self.take_run(run);
    }

    fn take_run(&mut self, run: Option<(u64, u64)>) {
        if let Some((start, end)) = run {
            self.take(start, end.saturating_sub(start), "a grain");
        }
    }

    /// The copies of a table that can be used. What is wrong with others is told, worse if there is none.
    fn copies(&mut self, table: u64) -> Vec<Copy> {
        let (mut copies, mut wrong, mut absent) = (Vec::new(), Vec::new(), Vec::new());
        for (copy, directory) in self.map.grains().directories.iter().enumerate() {
            let found = self.map.table_at(*directory, table);
            match found.and_then(|start| start.map(|start| Ok((start, self.map.entries_of(start)?))).transpose()) {
                Ok(Some((start, entries))) => copies.push(Copy { start, entries }),
                Ok(None) => absent.push(copy),
                Err(error) => wrong.push(error),
            }
        }
        if self.first_look() {
            // What both copies lack is lost once.
            let told = if copies.is_empty() { 1 } else { wrong.len() };
            for error in wrong.iter().take(told) {
                let (why, at) = (cause_of(error), place_of(error).map(|at| at.0));
                let problem = match copies.is_empty() {
                    true => Problem::Lost { grain: table.saturating_mul(self.map.grains().table_entries), why },
                    false => Problem::CopyDamaged { why },
                };
                self.report.add(self.map.name(), at, problem);
            }
            self.tell_absent(table, &absent, &copies);
        }
        copies
    }

    /// Tells of a table that one directory has and another one has not. A reader that trusts the first sees no grains where that
    /// one has none, and nobody knows which is right.
    fn tell_absent(&mut self, table: u64, absent: &[usize], copies: &[Copy]) {
        let Some(copy) = copies.first().filter(|_| !absent.is_empty()) else { return };
        let used = copy.entries.iter().filter(|entry| **entry != 0).count();
        let first = copy.entries.iter().position(|entry| *entry != 0).unwrap_or(0);
        let problem = if absent.contains(&0) && used > 0 {
            let grain = table.saturating_mul(self.map.grains().table_entries).saturating_add(to_u64(first));
            Problem::CopiesDiffer { table, count: to_u64(used), grain }
        } else {
            Problem::CopyDamaged { why: format!("one directory names no grain table {table}") }
        };
        self.report.add(self.map.name(), Some(copy.start), problem);
    }

    /// Tells where two usable copies of a table differ. One of a pair of entries may be damaged; then the other holds.
    fn compare(&mut self, table: u64, copies: &[Copy]) {
        let [first, second] = copies else { return };
        let (mut differ, mut damaged) = (Vec::new(), 0u64);
        for (index, (a, b)) in first.entries.iter().zip(&second.entries).enumerate().filter(|(_, (a, b))| a != b) {
            match [a, b].map(|entry| self.usable(*entry, table, to_u64(index))) {
                [Ok(_), Ok(_)] => differ.push(index),
                // The first holds; or the second does, where it has the grain. Else `grain` tells.
                [Ok(_), Err(_)] | [Err(_), Ok(Some(_))] => damaged = damaged.saturating_add(1),
                _ => {}
            }
        }
        if let Some(index) = differ.first() {
            let grain = table.saturating_mul(self.map.grains().table_entries).saturating_add(to_u64(*index));
            let problem = Problem::CopiesDiffer { table, count: to_u64(differ.len()), grain };
            self.report.add(self.map.name(), Some(first.start), problem);
        }
        if damaged > 0 {
            let why = format!("{damaged} entries of a copy of grain table {table} name places that do not exist");
            self.report.add(self.map.name(), Some(first.start), Problem::CopyDamaged { why });
        }
    }

    /// Where a grain is stored, by the first usable entry; `None` if it is not, or if it is compressed.
    fn grain(&mut self, grain: u64, index: u64, copies: &[Copy]) -> Option<u64> {
        let (table, _) = div_rem(grain, self.map.grains().table_entries);
        let mut first_error = None;
        for copy in copies {
            let entry = copy.entries.get(to_usize(index)).copied().unwrap_or(0);
            match self.usable(entry, table, index) {
                Ok(None) if first_error.is_none() => return None,
                Ok(None) => {} // damaged in the first copy and absent in the second: it is lost
                Ok(Some(start)) => return self.stored(grain, start),
                Err(why) => {
                    let at = copy.start.saturating_add(index.saturating_mul(self.map.grains().entries.width()));
                    first_error.get_or_insert((at, why));
                }
            }
        }
        if let Some((at, why)) = first_error.filter(|_| self.first_look()) {
            self.report.add(self.map.name(), Some(at), Problem::Lost { grain, why });
        }
        None
    }

    fn stored(&mut self, grain: u64, start: u64) -> Option<u64> {
        let packed = self.map.grains().packed;
        let mut len = self.map.grains().len_of(grain);
        if packed && self.first_look() {
            match PackedGrain::at(self.map, grain, start).check_marker() {
                Ok(packed_len) => len = packed_len,
                Err(error) => {
                    self.report.add(self.map.name(), Some(start), Problem::Lost { grain, why: cause_of(&error) });
                    return None;
                }
            }
        }
        if self.first_look() {
            self.report.stored = self.report.stored.saturating_add(1);
            self.report.compressed = self.report.compressed.saturating_add(u64::from(packed));
            self.place = (self.place.0.min(start), self.place.1.max(start.saturating_add(len)));
        }
        (!packed).then_some(start)
    }

    /// The place that an entry names, which has to be in the file; `None` for a hole or zeros.
    fn usable(&self, entry: u64, table: u64, index: u64) -> Result<Option<u64>, String> {
        let grains = self.map.grains();
        match grains.entries.grain(entry) {
            Err(expected) => Err(format!("the entry is {entry:#x}: {expected}")),
            Ok(Entry::Hole | Entry::Zero) => Ok(None),
            Ok(Entry::At(start)) => {
                let grain = table.saturating_mul(grains.table_entries).saturating_add(index);
                let len = if grains.packed { 1 } else { grains.len_of(grain) };
                let inside = check_inside(self.map.file(), self.map.name(), "the grain", start, len);
                inside.map(|()| Some(start)).map_err(|e| e.to_string())
            }
        }
    }
}
