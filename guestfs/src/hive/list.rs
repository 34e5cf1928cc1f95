//! Lists of subkeys (section "Subkeys list"): leaves `li`, `lf`, `lh`, and `ri`, which lists leaves.

use super::cell::{Cell, CellOffset};
use super::{Hive, corrupt};
use crate::FsError;

/// What follows signature and count.
const FIRST: u64 = 4;

/// Offsets of cells that stand in a record one after another. They are read one at a time.
#[derive(Clone, Debug)]
pub(super) struct Offsets {
    cell: Cell,
    next: u64,
    end: u64,
    step: u64,
}

impl Offsets {
    /// `count` of them, each in `step` bytes, from byte `first` of the record on.
    pub(super) fn new(cell: Cell, first: u64, count: u32, step: u64) -> Result<Self, FsError> {
        let end = first.saturating_add(u64::from(count).saturating_mul(step));
        if end > cell.len {
            return Err(cell.corrupt("number of elements", count, "as many as the cell has room for"));
        }
        Ok(Self { cell, next: first, end, step })
    }

    /// The next one, if there is one. The list ends with the first that cannot be read: a list may be long, and when there are no
    /// more reads all others would fail too.
    pub(super) fn next(&mut self, hive: &Hive<'_>) -> Option<Result<CellOffset, FsError>> {
        if self.next >= self.end {
            return None;
        }
        let offset = hive.offset(&self.cell, "element", self.next);
        self.next = if offset.is_ok() { self.next.saturating_add(self.step) } else { self.end };
        Some(offset)
    }
}

/// A list of subkeys, as its signature says.
enum List {
    Keys(Offsets),
    Lists(Offsets),
}

/// The cells of all subkeys of a key.
#[derive(Clone, Debug)]
pub(super) struct SubkeyOffsets {
    lists: Option<Offsets>,
    keys: Option<Offsets>,
}

impl SubkeyOffsets {
    pub(super) fn new(hive: &Hive<'_>, offset: CellOffset) -> Result<Self, FsError> {
        Ok(match list(hive, offset)? {
            List::Keys(keys) => Self { lists: None, keys: Some(keys) },
            List::Lists(lists) => Self { lists: Some(lists), keys: None },
        })
    }

    /// The next one, if there is one. Lists do not nest further than once.
    pub(super) fn next(&mut self, hive: &Hive<'_>) -> Option<Result<CellOffset, FsError>> {
        loop {
            if let Some(next) = self.keys.as_mut().and_then(|keys| keys.next(hive)) {
                return Some(next);
            }
            let leaf = match self.lists.as_mut()?.next(hive)? {
                Ok(offset) => leaf(hive, offset),
                Err(error) => Err(error),
            };
            match leaf {
                Ok(leaf) => self.keys = Some(leaf),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn list(hive: &Hive<'_>, offset: CellOffset) -> Result<List, FsError> {
    let cell = hive.cell(offset, "list of subkeys")?;
    let [a, b, low, high] = hive.array(&cell, "signature", 0)?;
    let count = u32::from(u16::from_le_bytes([low, high]));
    Ok(match &[a, b] {
        b"lf" | b"lh" => List::Keys(Offsets::new(cell, FIRST, count, 8)?), // with a part or hash of the name
        b"li" => List::Keys(Offsets::new(cell, FIRST, count, 4)?),
        b"ri" => List::Lists(Offsets::new(cell, FIRST, count, 4)?),
        other => return Err(cell.corrupt("signature", format!("{other:?}"), "\"lf\", \"lh\", \"li\" or \"ri\"")),
    })
}

fn leaf(hive: &Hive<'_>, offset: CellOffset) -> Result<Offsets, FsError> {
    match list(hive, offset)? {
        List::Keys(keys) => Ok(keys),
        List::Lists(_) => {
            let what = format!("the list of subkeys at {offset}");
            Err(corrupt(what, "signature", "\"ri\"", "that of a leaf, being in such a list itself"))
        }
    }
}
