//! qcow2 version 3: what QEMU's disks are. Written in one go, and read back to see whether it is there.
//!
//! ```text
//!   header | L1 table | data clusters and L2 tables, as they come | refcount blocks | refcount table
//! ```
//!
//! Clusters are 64 KiB, as QEMU's own. Zeros take no cluster. Only one L2 table (of 512 MiB) is held in memory, because a disk is written in
//! its order; the header is written last, so a file that was cut off is no qcow2 file at all.

mod reader;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use blockdev::{ByteLen, ByteOffset};
use vmdk_rs::{CopyTarget, VmdkError, is_zero};

pub(crate) use self::reader::Qcow2Reader;

const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");
const VERSION: u32 = 3;
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of an L2 table, one cluster long.
const L2_ENTRIES: usize = (CLUSTER / 8) as usize;
/// Bytes of the disk that one L2 table stands for.
const L2_SPAN: u64 = CLUSTER * L2_ENTRIES as u64;
/// 16 bits for each cluster of the file.
const REFCOUNT_ORDER: u32 = 4;
/// Clusters that one refcount block counts.
const COUNTED: u64 = CLUSTER / 2;
const HEADER_LEN: u32 = 104;
/// This cluster is used once: QEMU may write to it in place.
const COPIED: u64 = 1 << 63;
/// The L1 table of such a disk takes 1 MiB.
const MAX_CAPACITY: u64 = 64 << 40;

/// A qcow2 file that is being written by [`vmdk_rs::copy()`].
#[derive(Debug)]
pub(crate) struct Qcow2Writer {
    file: File,
    path: PathBuf,
    capacity: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The end of all clusters that were given out.
    end: u64,
    l1: Vec<u64>,
    /// The table that is being filled.
    table: Option<Table>,
}

#[derive(Debug)]
struct Table {
    index: u64,
    at: u64,
    entries: Vec<u64>,
}

/// Where the data of a block goes.
#[derive(Debug)]
pub(crate) struct Placed {
    /// Which clusters of the block hold data, a bit each.
    used: u64,
    /// Where the first of them lies; the others follow.
    at: u64,
}

impl Qcow2Writer {
    /// Makes the file, which must not exist.
    pub(crate) fn create(path: &Path, capacity: ByteLen) -> Result<Self, VmdkError> {
        if capacity.0 > MAX_CAPACITY || !capacity.0.is_multiple_of(512) {
            let expected = "at most 64 TiB, in whole sectors";
            return Err(VmdkError::Request { field: "the capacity in bytes", actual: capacity.0, expected });
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|source| failed(path, "create", source))?;
        let entries = capacity.0.div_ceil(L2_SPAN).max(1);
        let l1 = vec![0; entries as usize];
        let end = CLUSTER + (entries * 8).next_multiple_of(CLUSTER);
        let state = Mutex::new(State { end, l1, table: None });
        Ok(Self { file, path: path.to_owned(), capacity: capacity.0, state })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), VmdkError> {
        self.file.write_all_at(bytes, at).map_err(|source| failed(&self.path, "write", source))
    }

    fn write_entries(&self, at: u64, entries: &[u64]) -> Result<(), VmdkError> {
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.write(at, &bytes)
    }

    /// The table that stands for byte `at` of the disk, made if it is not there. The one before is written.
    fn turn_to<'a>(&self, state: &'a mut State, at: u64) -> Result<&'a mut Table, VmdkError> {
        let index = at / L2_SPAN;
        if state.table.as_ref().is_none_or(|table| table.index != index) {
            self.flush(state)?;
            let known = state.l1.get_mut(index as usize).filter(|entry| **entry == 0);
            let entry = known.ok_or(VmdkError::Request {
                field: "the start of a write",
                actual: at,
                expected: "a place on the disk, behind all that was written",
            })?;
            *entry = state.end | COPIED;
            state.table = Some(Table { index, at: state.end, entries: vec![0; L2_ENTRIES] });
            state.end += CLUSTER;
        }
        state.table.as_mut().ok_or_else(|| VmdkError::WriteFailed { file: self.path.display().to_string() })
    }

    fn flush(&self, state: &mut State) -> Result<(), VmdkError> {
        state.table.take().map_or(Ok(()), |table| self.write_entries(table.at, &table.entries))
    }

    /// Writes tables and header, and waits until all is on disk.
    pub(crate) fn finish(self) -> Result<(), VmdkError> {
        let mut state = self.lock();
        self.flush(&mut state)?;
        let (blocks, table_clusters, clusters) = refcount_sizes(state.end / CLUSTER);
        let table_at = state.end + blocks * CLUSTER;
        let mut counted = clusters;
        let one = 1_u16.to_be_bytes().repeat(COUNTED as usize);
        for block in 0..blocks {
            let here = counted.min(COUNTED);
            self.write(state.end + block * CLUSTER, &one[..(here * 2) as usize])?;
            counted -= here;
        }
        let table: Vec<u64> = (0..blocks).map(|block| state.end + block * CLUSTER).collect();
        self.write_entries(table_at, &table)?;
        self.write_entries(CLUSTER, &state.l1)?;
        let io = |source| failed(&self.path, "complete", source);
        self.file.set_len(clusters * CLUSTER).map_err(io)?;
        self.file.sync_data().map_err(io)?;
        self.write(0, &header(self.capacity, state.l1.len() as u32, table_at, table_clusters as u32))?;
        self.file.sync_all().map_err(io)
    }
}

/// Refcount blocks, clusters of the refcount table, and clusters of the whole file, if `used` clusters come before them.
fn refcount_sizes(used: u64) -> (u64, u64, u64) {
    let (mut blocks, mut table) = (0, 0);
    loop {
        let clusters = used + blocks + table;
        let needed = clusters.div_ceil(COUNTED);
        let entries = (needed * 8).div_ceil(CLUSTER);
        if (needed, entries) == (blocks, table) {
            return (blocks, table, clusters);
        }
        (blocks, table) = (needed, entries);
    }
}

fn header(capacity: u64, l1_entries: u32, refcount_table: u64, refcount_clusters: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN as usize + 8);
    let mut word = |value: u32| out.extend(value.to_be_bytes());
    let long = |word: &mut dyn FnMut(u32), value: u64| {
        word((value >> 32) as u32);
        word(value as u32);
    };
    word(MAGIC);
    word(VERSION);
    long(&mut word, 0); // no backing file
    word(0);
    word(CLUSTER_BITS);
    long(&mut word, capacity);
    word(0); // not encrypted
    word(l1_entries);
    long(&mut word, CLUSTER); // where the L1 table is
    long(&mut word, refcount_table);
    word(refcount_clusters);
    word(0); // no snapshots
    long(&mut word, 0);
    long(&mut word, 0); // incompatible features
    long(&mut word, 0); // compatible ones
    long(&mut word, 0); // those that an unknowing writer clears
    word(REFCOUNT_ORDER);
    word(HEADER_LEN);
    long(&mut word, 0); // the end of extensions
    out
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> VmdkError {
    VmdkError::Io { action, file: path.display().to_string(), source }
}

impl CopyTarget for Qcow2Writer {
    type Prepared = Placed;

    fn prepare(&self, at: ByteOffset, data: &[u8]) -> Result<Placed, VmdkError> {
        let end = at.0.checked_add(data.len() as u64).filter(|end| *end <= self.capacity);
        let one_table = |end: u64| end.saturating_sub(1) / L2_SPAN == at.0 / L2_SPAN;
        if !at.0.is_multiple_of(CLUSTER) || data.len() > 64 << CLUSTER_BITS || !end.is_some_and(one_table) {
            let expected = "the start of a cluster, of at most 4 MiB within the disk and one table";
            return Err(VmdkError::Request { field: "the start of a write", actual: at.0, expected });
        }
        let clusters = data.chunks(CLUSTER as usize).enumerate();
        let used = clusters.filter(|(_, cluster)| !is_zero(cluster)).fold(0, |used, (n, _)| used | 1 << n);
        Ok(Placed { used, at: 0 })
    }

    fn place(&self, at: ByteOffset, _: &[u8], placed: &mut Placed) -> Result<(), VmdkError> {
        let mut state = self.lock();
        for n in (0..64).filter(|n| placed.used & 1 << n != 0) {
            let here = at.0 + n * CLUSTER;
            self.turn_to(&mut state, here)?;
            let cluster = state.end;
            state.end += CLUSTER;
            if let Some(table) = &mut state.table {
                table.entries[(here % L2_SPAN / CLUSTER) as usize] = cluster | COPIED;
            }
            if placed.at == 0 {
                placed.at = cluster;
            }
        }
        Ok(())
    }

    fn store(&self, _: ByteOffset, data: &[u8], placed: Placed) -> Result<(), VmdkError> {
        let (mut at, mut n) = (placed.at, 0);
        while n < 64 {
            let run = (placed.used >> n).trailing_ones() as usize;
            if run == 0 {
                n += 1;
                continue;
            }
            let (from, to) = (n << CLUSTER_BITS, data.len().min((n + run) << CLUSTER_BITS));
            self.write(at, &data[from..to])?;
            at += (run as u64) * CLUSTER;
            n += run;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
