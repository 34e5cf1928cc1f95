//! From a place in an extent to the grain that holds it.

use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError, SECTOR_SIZE};

use super::pages::PageTail;
use super::{PageCache, check_inside};
use crate::VmdkError;
use crate::convert::{div_rem, div_up, sectors_to_bytes, to_u64, to_usize};

/// The size of a table entry, in bytes.
const ENTRY_LEN: u64 = 4;

/// The entry for "reads as zeros, whatever the parent holds", where the header says that it is used.
const ZERO_GRAIN: u32 = 1;

/// What the checked header of an extent says about its tables.
#[derive(Clone, Debug)]
pub(crate) struct Grains {
    /// The size of the extent, in bytes.
    pub(crate) capacity: u64,
    /// The size of a grain, in bytes; a multiple of 512, at most 32 MiB.
    pub(crate) grain_len: u64,
    /// Entries of one grain table, 1 to 4096.
    pub(crate) table_entries: u64,
    /// Where the grain directories begin, in bytes. The first is trusted, the second asked where it is damaged.
    pub(crate) directories: Vec<u64>,
    /// Whether the entry 1 stands for zeros.
    pub(crate) zero_grains: bool,
}

impl Grains {
    /// The number of tables, and so of directory entries.
    pub(crate) fn table_count(&self) -> u64 {
        div_up(div_up(self.capacity, self.grain_len), self.table_entries)
    }
}

/// The grains of one extent. Tables are read when they are needed, through the image's cache.
pub(crate) struct GrainMap {
    file: Arc<dyn ReadAt>,
    name: String,
    grains: Grains,
    owner: u32,
    cache: Arc<PageCache>,
}

/// A run of bytes that are all found (or all missing) in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrainRun {
    /// `len` bytes from byte `start` of the file.
    Stored { start: u64, len: u64 },
    /// Marked as zeros.
    Zero { len: u64 },
    /// Not allocated.
    Hole { len: u64 },
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
        cache: Arc<PageCache>,
    ) -> Result<Self, VmdkError> {
        let len = grains.table_count().saturating_mul(ENTRY_LEN);
        let mut first_error = None;
        grains.directories.retain(|start| {
            let inside = check_inside(&*file, name, "the grain directory", *start, len);
            inside.map_err(|e| first_error.get_or_insert(e).family()).is_ok()
        });
        match first_error {
            Some(error) if grains.directories.is_empty() => Err(error),
            _ => Ok(Self { file, name: name.to_owned(), grains, owner, cache }),
        }
    }

    pub(crate) fn file(&self) -> &dyn ReadAt {
        &*self.file
    }

    /// The run that begins `at` bytes into the extent; `at` is before its end.
    pub(crate) fn run_at(&self, at: u64) -> Result<GrainRun, ReadError> {
        let mut first_error = None;
        for directory in &self.grains.directories {
            match self.run_by(*directory, at) {
                Ok(run) => return Ok(run),
                Err(e) => first_error = first_error.or(Some(e)),
            }
        }
        Err(first_error.unwrap_or(ReadError::OutOfRange {
            at: ByteOffset(at),
            len: ByteLen(1),
            size: ByteLen(self.grains.capacity),
        }))
    }

    fn run_by(&self, directory: u64, at: u64) -> Result<GrainRun, ReadError> {
        let (grain, inside) = div_rem(at, self.grains.grain_len);
        let (table, index) = div_rem(grain, self.grains.table_entries);
        let tables = self.entries(directory, table)?;
        if tables.first() == 0 {
            let left = to_usize(self.grains.table_count().saturating_sub(table));
            let empty = to_u64(tables.entries().take(left).take_while(|entry| *entry == 0).count());
            let first_grain = table.saturating_mul(self.grains.table_entries);
            let end = empty.saturating_mul(self.grains.table_entries).saturating_add(first_grain);
            return Ok(GrainRun::Hole { len: self.until(end).saturating_sub(at) });
        }
        let table_start = sectors_to_bytes(tables.first().into());
        let table_len = self.grains.table_entries.saturating_mul(ENTRY_LEN);
        check_inside(self.file(), &self.name, "a grain table", table_start, table_len)
            .map_err(|e| e.into_read_error(ByteOffset(at)))?;
        let entries = self.entries(table_start, index)?;
        self.run_in_table(&entries, table_start, grain, inside)
    }

    /// The entries from the one numbered `index` on, of a table or directory that lies in the file.
    fn entries(&self, start: u64, index: u64) -> Result<PageTail, ReadError> {
        let at = index.saturating_mul(ENTRY_LEN).saturating_add(start);
        self.cache.read(self.owner, self.file(), at)
    }

    /// The run of alike entries that begins with grain `grain`, in the table at byte `table_start`.
    fn run_in_table(
        &self,
        entries: &PageTail,
        table_start: u64,
        grain: u64,
        inside: u64,
    ) -> Result<GrainRun, ReadError> {
        let (_, index) = div_rem(grain, self.grains.table_entries);
        let left = to_usize(self.grains.table_entries.saturating_sub(index));
        let first = entries.first();
        let grain_sectors = self.grains.grain_len / SECTOR_SIZE;
        let stored = first > ZERO_GRAIN || (first == ZERO_GRAIN && !self.grains.zero_grains);
        let mut wanted = u64::from(first);
        let alike = entries.entries().take(left).take_while(|entry| {
            let fits = u64::from(*entry) == wanted;
            if stored {
                wanted = wanted.saturating_add(grain_sectors);
            }
            fits
        });
        let count = to_u64(alike.count());
        let len = self.until(grain.saturating_add(count)).saturating_sub(self.until(grain)).saturating_sub(inside);
        match first {
            0 => Ok(GrainRun::Hole { len }),
            ZERO_GRAIN if stored => {
                Err(self.unannounced(index.saturating_mul(ENTRY_LEN).saturating_add(table_start), grain))
            }
            _ if stored => self.stored(grain, first, inside, len),
            _ => Ok(GrainRun::Zero { len }),
        }
    }

    /// A run that should be stored from sector `sector` on. What lies behind the end of the file is cut off, as long as
    /// the first grain is there: the run after it will tell.
    fn stored(&self, grain: u64, sector: u32, inside: u64, len: u64) -> Result<GrainRun, ReadError> {
        let start = sectors_to_bytes(sector.into());
        let place = ByteOffset(self.until(grain));
        let first_len = self.until(grain.saturating_add(1)).saturating_sub(self.until(grain));
        check_inside(self.file(), &self.name, "a grain", start, first_len).map_err(|e| e.into_read_error(place))?;
        let start = start.saturating_add(inside);
        let in_file = self.file.size().0.saturating_sub(start);
        // Whole grains only, so that the next run begins with a table entry.
        let len = if in_file >= len { len } else { first_len.saturating_sub(inside) };
        Ok(GrainRun::Stored { start, len })
    }

    /// The error of an entry 1 in a file whose header does not say that it uses zeroed grains.
    fn unannounced(&self, entry_at: u64, grain: u64) -> ReadError {
        let error = VmdkError::Field {
            file: self.name.clone(),
            field: "the grain table entry",
            position: ByteOffset(entry_at),
            actual: ZERO_GRAIN.into(),
            expected: "no zeroed grain, which the header does not announce",
        };
        error.into_read_error(ByteOffset(self.until(grain)))
    }

    /// Where grain `grain` begins on the extent, or its end.
    fn until(&self, grain: u64) -> u64 {
        grain.saturating_mul(self.grains.grain_len).min(self.grains.capacity)
    }
}
