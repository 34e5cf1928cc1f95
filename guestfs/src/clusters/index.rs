//! The names of folders that were lately searched: folders are lists, and looking up each of their names would read all of them
//! each time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Case, FileId};

/// The most bytes that are kept, of one folder and of all together. A larger folder is read for each search; no folder of FAT is.
const MOST: usize = 16 << 20;
/// What a name takes beside its bytes, about.
const NAME: usize = 100;

/// The names of a folder. Where a name comes twice, the first file has it.
#[derive(Default)]
pub(crate) struct Index {
    exact: HashMap<Vec<u8>, FileId>,
    folded: HashMap<Vec<u16>, FileId>,
    /// What it takes.
    bytes: usize,
    /// Some of the folder could not be read: a name that is not here may yet be there.
    pub(crate) damaged: bool,
}

impl Index {
    /// Adds a name. Answers `false` where there are too many.
    pub(crate) fn add(&mut self, name: Vec<u8>, folded: Option<Vec<u16>>, file: FileId) -> bool {
        self.bytes = self.bytes.saturating_add(name.len()).saturating_add(NAME);
        self.exact.entry(name).or_insert(file);
        self.add_alias(folded, file);
        self.bytes <= MOST
    }

    /// Adds a name that counts without regard to case alone.
    pub(crate) fn add_alias(&mut self, folded: Option<Vec<u16>>, file: FileId) {
        if let Some(folded) = folded {
            self.bytes = self.bytes.saturating_add(folded.len().saturating_mul(2)).saturating_add(NAME);
            self.folded.entry(folded).or_insert(file);
        }
    }

    /// The file of this name. `fold` is asked for the name without regard to case.
    pub(crate) fn find(&self, name: &[u8], case: Case, fold: impl FnOnce() -> Option<Vec<u16>>) -> Option<FileId> {
        match case {
            Case::Exact => self.exact.get(name).copied(),
            Case::Ignored => self.folded.get(&fold()?).copied(),
        }
    }
}

/// The folders that were searched last, the latest at the end.
#[derive(Default)]
pub(crate) struct Indexes(Mutex<VecDeque<(FileId, Arc<Index>)>>);

impl Indexes {
    pub(crate) fn get(&self, folder: FileId) -> Option<Arc<Index>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(id, _)| *id == folder)?;
        let found = kept.remove(place)?;
        let index = Arc::clone(&found.1);
        kept.push_back(found);
        Some(index)
    }

    /// Keeps an index; others make room for it.
    pub(crate) fn put(&self, folder: FileId, index: &Arc<Index>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(id, _)| *id != folder);
        // An empty folder counts as one with a name, so that their number is bounded too.
        let size = |index: &Index| index.bytes.max(NAME);
        let mut total = kept.iter().fold(size(index), |sum, (_, index)| sum.saturating_add(size(index)));
        while total > MOST
            && let Some((_, oldest)) = kept.pop_front()
        {
            total = total.saturating_sub(size(&oldest));
        }
        kept.push_back((folder, Arc::clone(index)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_keeps_more_than_it_may() {
        let indexes = Indexes::default();
        let id = |number: u64| FileId::new(number).unwrap();
        for folder in 0..10u32 {
            let mut index = Index::default();
            for number in 0..50_000u32 {
                assert!(index.add((folder ^ number << 4).to_le_bytes().to_vec(), None, id(number.into())));
            }
            indexes.put(id(folder.into()), &Arc::new(index));
        }
        let kept: Vec<_> = (0..10).filter(|folder| indexes.get(id(*folder)).is_some()).collect();
        assert_eq!(kept, [7, 8, 9]); // 5.2 MB each
    }
}
