//! From a place in an extent to the grain that holds it.

use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};

use super::cache::{Caches, PageTail};
use super::packed::PackedGrain;
use super::{Entries, Entry, check_inside};
use crate::VmdkError;
use crate::convert::{div_rem, div_up};

/// What the checked header of an extent says about its tables.
#[derive(Clone, Debug)]
pub(crate) struct Grains {
    /// The size of the extent, in bytes.
    pub(crate) capacity: u64,
    /// The size of a grain, in bytes; a multiple of 512, at most 32 MiB, for compressed grains at most 2 MiB.
    pub(crate) grain_len: u64,
    /// Entries of one grain table, 1 to 4096.
    pub(crate) table_entries: u64,
    /// Where the grain directories begin, in bytes. The first is trusted, the second asked where it is damaged.
    pub(crate) directories: Vec<u64>,
    /// What the entries of directories and tables mean.
    pub(crate) entries: Entries,
    /// Whether each grain is compressed, with a marker before it.
    pub(crate) packed: bool,
    /// Where there can be grains that nobody uses: behind the fixed tables, up to where the header says that the file is
    /// used. In bytes. Only the checker asks.
    pub(crate) grain_area: (u64, u64),
    /// Where the header ends, and where the descriptor inside begins and ends, in bytes. Only the checker asks.
    pub(crate) reserved: [(u64, u64); 2],
    /// Whether the header says that the extent was not closed. Only the checker asks.
    pub(crate) unclean: bool,
    /// Whether the header announces a directory, and does not say where it is. Only the checker asks.
    pub(crate) lacks_directory: bool,
}

impl Grains {
    /// The number of grains.
    pub(crate) fn count(&self) -> u64 {
        div_up(self.capacity, self.grain_len)
    }

    /// The number of tables, and so of directory entries.
    pub(crate) fn table_count(&self) -> u64 {
        div_up(self.count(), self.table_entries)
    }

    /// The size of a directory, in bytes.
    pub(crate) fn directory_len(&self) -> u64 {
        self.table_count().saturating_mul(self.entries.width())
    }

    /// The size of a table, in bytes.
    pub(crate) fn table_len(&self) -> u64 {
        self.table_entries.saturating_mul(self.entries.width())
    }

    /// Where the last directory ends.
    pub(crate) fn end_of_directories(&self) -> u64 {
        self.directories.iter().max().map_or(0, |start| start.saturating_add(self.directory_len()))
    }

    /// Where grain `grain` begins on the extent, or its end.
    pub(crate) fn until(&self, grain: u64) -> u64 {
        grain.saturating_mul(self.grain_len).min(self.capacity)
    }

    /// The bytes of grain `grain` that are part of the extent: less than a whole grain only for the last.
    pub(crate) fn len_of(&self, grain: u64) -> u64 {
        self.until(grain.saturating_add(1)).saturating_sub(self.until(grain))
    }
}

/// The grains of one extent. Tables are read when they are needed, through the image's caches.
pub(crate) struct GrainMap {
    pub(super) file: Arc<dyn ReadAt>,
    pub(super) name: String,
    pub(super) grains: Grains,
    pub(super) owner: u32,
    pub(super) caches: Arc<Caches>,
    /// Why directories that the header names are not used. Only the checker asks.
    pub(crate) dropped: Vec<VmdkError>,
}

/// A run of bytes that are all found (or all missing) in one place.
#[derive(Clone, Copy)]
pub(crate) enum GrainRun<'a> {
    /// `len` bytes from byte `start` of the file.
    Stored { start: u64, len: u64 },
    /// `len` bytes of a compressed grain, from byte `inside` of it on.
    Packed { grain: PackedGrain<'a>, inside: u64, len: u64 },
    /// Marked as zeros.
    Zero { len: u64 },
    /// Not allocated.
    Hole { len: u64 },
}

impl GrainRun<'_> {
    fn at_most(mut self, most: u64) -> Self {
        let (Self::Stored { len, .. } | Self::Packed { len, .. } | Self::Zero { len } | Self::Hole { len }) = &mut self;
        *len = most.min(*len);
        self
    }
}

/// Why one copy of the tables gives no answer.
enum Fault {
    /// The directory or the table is damaged; another copy holds for all of it.
    Table(ReadError),
    /// One entry is.
    Entry(ReadError),
    /// Two copies say different things, and none of them is damaged.
    Contradiction(ReadError),
}

impl GrainMap {
    /// Takes the extent; directories that do not lie in the file are dropped, and one must stay.
    ///
    /// # Errors
    /// No directory lies in the file.
    pub(crate) fn new(
        file: Arc<dyn ReadAt>,
        name: &str,
        mut grains: Grains,
        owner: u32,
        caches: Arc<Caches>,
    ) -> Result<Self, VmdkError> {
        let len = grains.directory_len();
        let mut dropped = Vec::new();
        grains.directories.retain(|start| {
            let inside = check_inside(&*file, name, "the grain directory", *start, len);
            inside.map_err(|e| dropped.push(e)).is_ok()
        });
        if grains.directories.is_empty() && !dropped.is_empty() {
            return Err(dropped.swap_remove(0));
        }
        Ok(Self { file, name: name.to_owned(), grains, owner, caches, dropped })
    }

    pub(crate) fn file(&self) -> &dyn ReadAt {
        &*self.file
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn grains(&self) -> &Grains {
        &self.grains
    }

    /// The table that the directory at byte `directory` names for number `table`: where it begins.
    ///
    /// # Errors
    /// The entry cannot be read or means nothing, or the table does not lie in the file.
    pub(crate) fn table_at(&self, directory: u64, table: u64) -> Result<Option<u64>, ReadError> {
        let (entry, _) = self.tail(directory, table)?.first_two(self.grains.entries.width());
        let place = directory.saturating_add(table.saturating_mul(self.grains.entries.width()));
        self.table(entry, place, table.saturating_mul(self.grains.table_entries))
    }

    /// How many tables from number `table` on the directory at byte `directory` does not have, as far as one look tells.
    pub(crate) fn empty_tables(&self, directory: u64, table: u64) -> Result<u64, ReadError> {
        let left = self.grains.table_count().saturating_sub(table);
        Ok(self.tail(directory, table)?.count(self.grains.entries.width(), left, |entry| entry == 0))
    }

    /// All entries of the table at byte `start`, which lies in the file.
    pub(crate) fn entries_of(&self, start: u64) -> Result<Vec<u64>, ReadError> {
        let mut all = Vec::new(); // at most 4096
        loop {
            let done = crate::convert::to_u64(all.len());
            let left = self.grains.table_entries.saturating_sub(done);
            if left == 0 {
                return Ok(all);
            }
            let counted = self.tail(start, done)?.count(self.grains.entries.width(), left, |entry| {
                all.push(entry);
                true
            });
            if counted == 0 {
                return Ok(all); // a table that passes the end of the file, which was ruled out
            }
        }
    }

    /// The run that begins `at` bytes into the extent; `at` is before its end. No more entries are looked at than `want`
    /// bytes need.
    pub(crate) fn run_at(&self, at: u64, want: u64) -> Result<GrainRun<'_>, ReadError> {
        let mut first_fault = None;
        for (copy, directory) in self.grains.directories.iter().enumerate() {
            let reach = self.reach(first_fault.as_ref(), at);
            match self.run_by(copy, *directory, at, want.min(reach)).map(|run| run.at_most(reach)) {
                // Damage of one entry is mended by a second copy that has the grain; where that has none, something is lost.
                Ok(GrainRun::Hole { .. } | GrainRun::Zero { .. }) if matches!(first_fault, Some(Fault::Entry(_))) => {}
                Ok(run) => return Ok(run),
                Err(Fault::Contradiction(error)) => return Err(error),
                Err(fault) => first_fault = first_fault.or(Some(fault)),
            }
        }
        match first_fault {
            Some(Fault::Table(error) | Fault::Entry(error) | Fault::Contradiction(error)) => Err(error),
            None => {
                Err(ReadError::OutOfRange { at: ByteOffset(at), len: ByteLen(1), size: ByteLen(self.grains.capacity) })
            }
        }
    }

    /// How far from byte `at` on the second copy decides, for a fault of the first: to the end of the grain or of the table.
    /// Behind that the first may be whole again, and what is read must not depend on where reading begins.
    fn reach(&self, fault: Option<&Fault>, at: u64) -> u64 {
        let (grain, _) = div_rem(at, self.grains.grain_len);
        let (table, _) = div_rem(grain, self.grains.table_entries);
        let end = match fault {
            None => return u64::MAX,
            Some(Fault::Entry(_)) => grain.saturating_add(1),
            Some(_) => table.saturating_add(1).saturating_mul(self.grains.table_entries),
        };
        self.grains.until(end).saturating_sub(at)
    }

    fn run_by(&self, copy: usize, directory: u64, at: u64, want: u64) -> Result<GrainRun<'_>, Fault> {
        let (grain, inside) = div_rem(at, self.grains.grain_len);
        let (table, index) = div_rem(grain, self.grains.table_entries);
        let want = div_up(inside.saturating_add(want), self.grains.grain_len);
        let tables = self.tail(directory, table).map_err(Fault::Table)?;
        let (entry, _) = tables.first_two(self.grains.entries.width());
        let place = directory.saturating_add(table.saturating_mul(self.grains.entries.width()));
        let Some(table_start) = self.table(entry, place, grain).map_err(Fault::Table)? else {
            let left = self.grains.table_count().saturating_sub(table);
            let limit = left.min(div_up(index.saturating_add(want), self.grains.table_entries));
            let empty = tables.count(self.grains.entries.width(), limit, |entry| entry == 0);
            let empty = if copy == 0 { self.empty_everywhere(table, empty, place)? } else { empty };
            let end = table.saturating_add(empty).saturating_mul(self.grains.table_entries);
            return Ok(GrainRun::Hole { len: self.grains.until(end).saturating_sub(at) });
        };
        let tail = self.tail(table_start, index).map_err(Fault::Table)?;
        self.run_in_table(&tail, table_start, grain, inside, want).map_err(Fault::Entry)
    }

    /// How many of the `empty` tables from number `table` on no usable directory has, at least 1. The first directory lacks them
    /// all; if another one has grains in the first of them, nobody knows which is right, and zeros may be wrong.
    fn empty_everywhere(&self, table: u64, empty: u64, place: u64) -> Result<u64, Fault> {
        let mut least = empty;
        for directory in self.grains.directories.iter().skip(1) {
            let Ok(tail) = self.tail(*directory, table) else { continue };
            let also = tail.count(self.grains.entries.width(), empty, |entry| entry == 0);
            let used = |start| self.entries_of(start).is_ok_and(|entries| entries.iter().any(|entry| *entry != 0));
            if also == 0 && self.table_at(*directory, table).is_ok_and(|start| start.is_some_and(used)) {
                let expected = "a grain table, as the other directory names one";
                let error = self.wrong("the grain directory entry", place, 0, expected);
                let at = ByteOffset(self.grains.until(table.saturating_mul(self.grains.table_entries)));
                return Err(Fault::Contradiction(error.into_read_error(at)));
            }
            least = least.min(also);
        }
        Ok(least.max(1))
    }

    /// The entries from the one numbered `index` on, of a table or directory that lies in the file.
    fn tail(&self, start: u64, index: u64) -> Result<PageTail, ReadError> {
        let at = index.saturating_mul(self.grains.entries.width()).saturating_add(start);
        self.caches.entries(self.owner, self.file(), at)
    }

    /// Where the table begins that a directory entry names, if it names one. `place` is where the entry stands.
    fn table(&self, entry: u64, place: u64, grain: u64) -> Result<Option<u64>, ReadError> {
        let at = ByteOffset(self.grains.until(grain));
        let start = self.grains.entries.table(entry).map_err(|expected| {
            let error = self.wrong("the grain directory entry", place, entry, expected);
            error.into_read_error(at)
        })?;
        if let Some(start) = start {
            let len = self.grains.table_len();
            check_inside(self.file(), &self.name, "a grain table", start, len).map_err(|e| e.into_read_error(at))?;
        }
        Ok(start)
    }

    /// The run of alike entries that begins with grain `grain`, in the table at byte `table_start`.
    fn run_in_table(
        &self,
        tail: &PageTail,
        table_start: u64,
        grain: u64,
        inside: u64,
        want: u64,
    ) -> Result<GrainRun<'_>, ReadError> {
        let width = self.grains.entries.width();
        let (_, index) = div_rem(grain, self.grains.table_entries);
        let (first, second) = tail.first_two(width);
        let kind = self.grains.entries.grain(first).map_err(|expected| {
            let place = index.saturating_mul(width).saturating_add(table_start);
            let error = self.wrong("the grain table entry", place, first, expected);
            error.into_read_error(ByteOffset(self.grains.until(grain)))
        })?;
        if let (Entry::At(start), true) = (kind, self.grains.packed) {
            return self.packed(grain, start, second, inside);
        }
        let limit = self.grains.table_entries.saturating_sub(index).min(want);
        let mut wanted = kind;
        let count = tail.count(width, limit, |entry| {
            let alike = self.grains.entries.grain(entry) == Ok(wanted);
            if let Entry::At(start) = &mut wanted {
                *start = start.saturating_add(self.grains.grain_len);
            }
            alike
        });
        let end = self.grains.until(grain.saturating_add(count));
        let len = end.saturating_sub(self.grains.until(grain)).saturating_sub(inside);
        match kind {
            Entry::Hole => Ok(GrainRun::Hole { len }),
            Entry::Zero => Ok(GrainRun::Zero { len }),
            Entry::At(start) => self.stored(grain, start, inside, len),
        }
    }

    /// A run that should be stored from byte `start` on. What lies behind the end of the file is cut off, as long as
    /// the first grain is there: the run after it will tell.
    fn stored(&self, grain: u64, start: u64, inside: u64, len: u64) -> Result<GrainRun<'_>, ReadError> {
        let place = ByteOffset(self.grains.until(grain));
        let first_len = self.grains.len_of(grain);
        check_inside(self.file(), &self.name, "a grain", start, first_len).map_err(|e| e.into_read_error(place))?;
        let start = start.saturating_add(inside);
        let in_file = self.file.size().0.saturating_sub(start);
        // Whole grains only, so that the next run begins with a table entry.
        let len = if in_file >= len { len } else { first_len.saturating_sub(inside) };
        Ok(GrainRun::Stored { start, len })
    }

    /// A compressed grain whose marker is at byte `start`. The next entry tells about how long it is.
    fn packed(&self, grain: u64, start: u64, next: u64, inside: u64) -> Result<GrainRun<'_>, ReadError> {
        let next = match self.grains.entries.grain(next) {
            Ok(Entry::At(next)) if next > start => next.saturating_sub(start),
            _ => 0,
        };
        let grain = PackedGrain { map: self, number: grain, start, about: next };
        grain.check_inside()?;
        let len = self.grains.len_of(grain.number).saturating_sub(inside);
        Ok(GrainRun::Packed { grain, inside, len })
    }

    fn wrong(&self, field: &'static str, place: u64, actual: u64, expected: &'static str) -> VmdkError {
        VmdkError::Field { file: self.name.clone(), field, position: ByteOffset(place), actual, expected }
    }
}
