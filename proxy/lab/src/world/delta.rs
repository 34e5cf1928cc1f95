//! The running leaf of a disk with snapshots: a COWD redo log (Virtual Disk Format 1.1, section "ESX Server Sparse Extents").
//!
//! ```text
//! sector 0   header, 4 sectors (COWDisk_Header)
//! sector 4   grain directory, one u32 sector number per 4096 grains, padded to whole sectors
//! then       grain tables (4096 u32, 32 sectors each) and grains of 1 sector, in the order of their first write
//! ```
//!
//! A write stores the bytes first, then the table entry, then the directory entry: a process that is killed in between loses
//! at most that write. The next free sector is the end of the file, not the header's `freeSector`, which is only kept for other readers.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use super::{DatastorePath, LabError, lock};

pub(crate) const SECTOR: u64 = 512;
const MAGIC: u32 = u32::from_le_bytes(*b"COWD");
const HEADER_SECTORS: u32 = 4;
const FREE_SECTOR_AT: u64 = 28;
const GT_ENTRIES: u32 = 4096;
const GT_SECTORS: u32 = GT_ENTRIES * 4 / 512;
/// Sector numbers have 32 bits, and the file must hold tables beside the data: VMware stops at 2 TiB - 512 bytes as well.
pub(crate) const MAX_CAPACITY: u64 = (1 << 41) - SECTOR;

type Table = Box<[u32]>;

struct Tables {
    /// Where each grain table lies, 0 for none.
    directory: Vec<u32>,
    tables: Vec<Option<Table>>,
    next_free: u32,
    /// Sectors written since tracking began; none while nobody wants to know.
    written: Option<BTreeSet<u32>>,
}

/// A run of sectors that are all stored or all left to the layer below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first sector's place in the file; none if the run is not stored here. Later sectors follow it.
    pub(crate) stored_at: Option<u32>,
    /// Sectors, at least 1.
    pub(crate) sectors: u32,
}

/// An open redo log.
pub(crate) struct Delta {
    file: File,
    sectors: u32,
    tables: Mutex<Tables>,
}

impl Delta {
    /// Writes an empty redo log for a disk of `capacity` bytes into a new `file`.
    pub(crate) fn create(file: File, capacity: u64, parent_descriptor: &str) -> io::Result<Self> {
        let sectors = to_u32(capacity / SECTOR)?;
        let entries = sectors.div_ceil(GT_ENTRIES);
        let directory_sectors = (entries * 4).div_ceil(512);
        let next_free = HEADER_SECTORS + directory_sectors;
        let mut header = [0u8; HEADER_SECTORS as usize * 512];
        let words = [MAGIC, 1, 3, sectors, 1, HEADER_SECTORS, entries, next_free];
        for (place, word) in header.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        file.set_len(u64::from(next_free) * SECTOR)?;
        file.write_all_at(&header, 0)?;
        write_parent(&file, parent_descriptor)?;
        let directory = vec![0; entries as usize];
        let tables = vec![None; entries as usize];
        Ok(Self { file, sectors, tables: Mutex::new(Tables { directory, tables, next_free, written: None }) })
    }

    /// Opens a redo log that this lab wrote before, and reads its tables.
    pub(crate) fn open(file: File, capacity: u64, path: &DatastorePath) -> Result<Self, LabError> {
        let io = |source| LabError::File { path: path.clone(), source: super::FileError::Io(source) };
        let wrong = |field, actual: u32, expected: u64| {
            Err(LabError::BadDisk { path: path.clone(), field, actual: u64::from(actual), expected })
        };
        let file_sectors = to_u32(file.metadata().map_err(io)?.len().div_ceil(SECTOR)).map_err(io)?;
        let mut header = [0; 32];
        file.read_exact_at(&mut header, 0).map_err(io)?;
        let mut words = header.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
        let sectors = to_u32(capacity / SECTOR).map_err(io)?;
        let entries = sectors.div_ceil(GT_ENTRIES);
        let expected = [MAGIC, 1, 3, sectors, 1, HEADER_SECTORS, entries];
        let fields = ["magicNumber", "version", "flags", "numSectors", "grainSize", "gdOffset", "numGDEntries"];
        for ((field, expected), actual) in fields.into_iter().zip(expected).zip(&mut words) {
            if actual != expected {
                return wrong(field, actual, u64::from(expected));
            }
        }
        let mut directory = vec![0; entries as usize];
        read_words(&file, HEADER_SECTORS, &mut directory).map_err(io)?;
        let mut tables = Vec::with_capacity(directory.len());
        for &at in &directory {
            if at == 0 {
                tables.push(None);
                continue;
            }
            if at.saturating_add(GT_SECTORS) > file_sectors {
                return wrong("end of a grain table", at.saturating_add(GT_SECTORS), u64::from(file_sectors));
            }
            let mut table = vec![0; GT_ENTRIES as usize];
            read_words(&file, at, &mut table).map_err(io)?;
            if let Some(&entry) = table.iter().find(|&&entry| entry >= file_sectors) {
                return wrong("grain table entry", entry, u64::from(file_sectors));
            }
            tables.push(Some(table.into_boxed_slice()));
        }
        let tables = Tables { directory, tables, next_free: file_sectors, written: None };
        Ok(Self { file, sectors, tables: Mutex::new(tables) })
    }

    /// What is known of the sectors from `sector` on, at most `max` of them. Both inside the disk.
    pub(crate) fn run(&self, sector: u32, max: u32) -> Run {
        run_in(&lock(&self.tables), self.sectors, sector, max)
    }

    /// Reads whole sectors from the file, at a place that [`run`](Self::run) gave.
    pub(crate) fn read_stored(&self, stored_at: u32, skip: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, u64::from(stored_at) * SECTOR + skip)
    }

    /// Stores whole sectors.
    pub(crate) fn write(&self, mut sector: u32, mut data: &[u8]) -> io::Result<()> {
        let mut tables = lock(&self.tables);
        while !data.is_empty() {
            let left = to_u32(data.len() as u64 / SECTOR)?;
            let run = run_in(&tables, self.sectors, sector, left);
            let in_table = GT_ENTRIES - sector % GT_ENTRIES;
            let count = run.sectors.min(in_table);
            let (now, rest) = data.split_at(count as usize * 512);
            match run.stored_at {
                Some(at) => self.file.write_all_at(now, u64::from(at) * SECTOR)?,
                None => self.append(&mut tables, sector, now)?,
            }
            if let Some(written) = &mut tables.written {
                written.extend(sector..sector + count);
            }
            sector += count;
            data = rest;
        }
        Ok(())
    }

    /// Stores sectors of one grain table that have no place yet.
    fn append(&self, tables: &mut Tables, sector: u32, data: &[u8]) -> io::Result<()> {
        let (number, first) = ((sector / GT_ENTRIES) as usize, (sector % GT_ENTRIES) as usize);
        let count = to_u32(data.len() as u64 / SECTOR)?;
        if tables.tables[number].is_none() {
            let at = tables.next_free;
            let end = at.checked_add(GT_SECTORS).ok_or(io::ErrorKind::FileTooLarge)?;
            self.file.set_len(u64::from(end) * SECTOR)?;
            self.file.write_all_at(&at.to_le_bytes(), u64::from(HEADER_SECTORS) * SECTOR + number as u64 * 4)?;
            tables.directory[number] = at;
            tables.tables[number] = Some(vec![0; GT_ENTRIES as usize].into_boxed_slice());
            tables.next_free = end;
        }
        let at = tables.next_free;
        let end = at.checked_add(count).ok_or(io::ErrorKind::FileTooLarge)?;
        self.file.write_all_at(data, u64::from(at) * SECTOR)?;
        tables.next_free = end;
        let entries: Vec<u8> = (at..end).flat_map(u32::to_le_bytes).collect();
        self.file.write_all_at(&entries, u64::from(tables.directory[number]) * SECTOR + first as u64 * 4)?;
        if let Some(table) = &mut tables.tables[number] {
            table.iter_mut().skip(first).zip(at..end).for_each(|(entry, at)| *entry = at);
        }
        self.file.write_all_at(&end.to_le_bytes(), FREE_SECTOR_AT)
    }

    /// Changes the name of the parent in the header.
    pub(crate) fn set_parent(&self, descriptor: &str) -> io::Result<()> {
        write_parent(&self.file, descriptor)
    }

    /// From now on every written sector is remembered.
    pub(crate) fn track(&self) {
        lock(&self.tables).written = Some(BTreeSet::new());
    }

    /// Stops remembering; answers the sectors written since, as runs (first, count).
    pub(crate) fn tracked(&self) -> Vec<(u32, u32)> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for sector in lock(&self.tables).written.take().unwrap_or_default() {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == sector => *count += 1,
                _ => runs.push((sector, 1)),
            }
        }
        runs
    }
}

fn run_in(tables: &Tables, disk_sectors: u32, sector: u32, max: u32) -> Run {
    let max = max.min(disk_sectors - sector).max(1);
    let entry = |sector: u32| match &tables.tables[(sector / GT_ENTRIES) as usize] {
        Some(table) => table[(sector % GT_ENTRIES) as usize],
        None => 0,
    };
    let first = entry(sector);
    let mut count = 1;
    while count < max {
        let next = sector + count;
        // A missing table is skipped at one step, so that empty disks cost nothing.
        if first == 0 && next.is_multiple_of(GT_ENTRIES) && tables.tables[(next / GT_ENTRIES) as usize].is_none() {
            count = count.saturating_add(GT_ENTRIES).min(max);
            continue;
        }
        let expected = if first == 0 { 0 } else { first.saturating_add(count) };
        if entry(next) != expected {
            break;
        }
        count += 1;
    }
    Run { stored_at: (first != 0).then_some(first), sectors: count }
}

/// `char parentFileName[1024]`, ends with a NUL.
fn write_parent(file: &File, descriptor: &str) -> io::Result<()> {
    let mut field = [0; 1024];
    field.iter_mut().zip(descriptor.bytes()).take(1023).for_each(|(to, from)| *to = from);
    file.write_all_at(&field, 32)
}

fn read_words(file: &File, sector: u32, words: &mut [u32]) -> io::Result<()> {
    let mut bytes = vec![0; words.len() * 4];
    file.read_exact_at(&mut bytes, u64::from(sector) * SECTOR)?;
    words.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
    Ok(())
}

fn to_u32(number: u64) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| io::ErrorKind::FileTooLarge.into())
}
