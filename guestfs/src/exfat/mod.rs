//! exFAT, by Microsoft's "exFAT file system specification".

mod boot;
mod entries;
mod times;
mod upcase;

use std::ops::ControlFlow;
use std::sync::Arc;

use blockdev::{ByteLen, ReadAt};

use self::boot::Boot;
use self::entries::{FILE, LABEL, Set, UP_CASE};
use self::upcase::UpCase;
use crate::clusters::{
    Content, Folder, Index, Indexes, Needs, Owners, ROOT, Runs, SLOT, Slot, Slots, Space, Table, Width, called,
    corrupt, fold, id_at, kind_of, not_found, number, place_of, root_metadata, u8_at, u16_at, u32_at, wtf8, xattr,
};
use crate::{About, CachedDisk, Case, Entry, FileId, FileSystem, FsError, LinkTarget, Metadata, VolumeKind};

/// The most bytes of a folder (section 7.4, table 24, of the specification says 256 MiB).
const MOST: u64 = 256 << 20;

/// An exFAT volume.
///
/// A file's id is the place of its file entry on the volume, in units of 32 bytes. Where an entry set of a folder is damaged, all
/// others are listed first, and then the damage is the error of the listing: no file is missing without a word. The same goes for
/// a name that is looked up and not found. Times are UTC where the guest wrote down its distance from it, else what its user saw.
pub struct ExFat {
    space: Space,
    root: Runs,
    up_case: UpCase,
    about: About,
    owners: Owners,
    indexes: Indexes,
}

impl ExFat {
    /// Opens a volume.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn open(disk: Arc<CachedDisk>) -> Result<Self, FsError> {
        let boot = Boot::read(&disk)?;
        let size = disk.size();
        let table = Table::new(disk.clone(), boot.fat, boot.fat_len, Width::Bits32);
        let space = Space { disk, heap: boot.heap, table };
        let root = space.chain(boot.root, Needs::AtMost(space.heap.clusters_of(MOST)), "the root folder")?;
        let (label, up_case) = scan_root(&space, &root)?;
        let mut about = About {
            kind: VolumeKind::ExFat,
            label,
            serial: boot.serial.into(),
            cluster: ByteLen(boot.heap.cluster),
            notes: boot.notes,
        };
        if size.0 < boot.size {
            let volume = ByteLen(boot.size);
            about.notes.push(format!("the volume has {volume}, and its partition only {size}: files behind that fail"));
        }
        let up_case = up_case.map(|slot| read_up_case(&space, &slot)).transpose();
        let up_case = match up_case {
            Ok(table) => table.flatten(),
            Err(error) if error.family() == crate::ErrorFamily::Corrupt => None,
            Err(error) => return Err(error),
        };
        let up_case = up_case.unwrap_or_else(|| {
            about.notes.push("the up-case table is damaged: names are compared by the rules of Unicode".to_owned());
            UpCase::standard()
        });
        Ok(Self { space, root, up_case, about, owners: Owners::default(), indexes: Indexes::default() })
    }

    fn disk(&self) -> &CachedDisk {
        &self.space.disk
    }

    /// The entry set of a file. It may go on in another cluster, and the id does not say how the folder goes on: by the FAT, or in
    /// a row. Only one of the two has the right checksum.
    fn set(&self, file: FileId) -> Result<Set, FsError> {
        let at = place_of(file);
        let cluster = self.space.heap.holding(at).ok_or_else(|| not_found(file))?;
        let start = self.space.heap.at(cluster).unwrap_or(at);
        let left = start.saturating_add(self.space.heap.cluster).saturating_sub(at);
        let mut reader = self.space.table.reader();
        let mut result = Err(not_found(file));
        for by_table in [true, false] {
            let mut runs = Runs::one(at, left);
            let mut last = cluster;
            // 19 entries from a cluster's last one on need two more of the smallest clusters.
            for _ in 0..2 {
                let next = if by_table { reader.next(last)? } else { last.checked_add(1) };
                let Some((next, place)) = next.and_then(|next| Some((next, self.space.heap.at(next)?))) else { break };
                runs.push(place, self.space.heap.cluster);
                last = next;
            }
            let set = Set::read(&mut Slots::new(self.disk(), &runs), 0, &|| called(file));
            match set {
                Ok(Some(set)) => return Ok(set),
                Ok(None) => return Err(not_found(file)),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Where the clusters of a file or folder lie.
    fn runs(&self, set: &Set, what: &str) -> Result<Runs, FsError> {
        let clusters = self.space.heap.clusters_of(set.len);
        if clusters > self.space.heap.count.into() {
            return Err(corrupt(what, "DataLength", set.len, "no more than all clusters hold"));
        }
        if set.in_a_row {
            self.space.row(set.cluster, clusters, what)
        } else {
            self.space.chain(set.cluster, Needs::Exactly(clusters), what)
        }
    }

    /// Where the entries of a folder lie.
    fn folder(&self, folder: FileId) -> Result<Runs, FsError> {
        if folder == ROOT {
            return Ok(self.root.clone());
        }
        let set = self.set(folder)?;
        if !set.folder() {
            return Err(FsError::NotAFolder { what: called(folder) });
        }
        if set.len > MOST {
            return Err(corrupt(called(folder), "DataLength", set.len, "at most 256 MiB for a folder"));
        }
        self.runs(&set, &called(folder))
    }

    /// The units of a name in the upper case of the volume.
    fn folded(&self, name: &[u8]) -> Option<Vec<u16>> {
        fold(name, |unit| self.up_case.upper(unit))
    }

    /// The names of a folder, or `None` if it has too many to be kept.
    fn index(&self, folder: FileId) -> Result<Option<Arc<Index>>, FsError> {
        let (mut index, mut room) = (Index::default(), true);
        let (runs, damage) = self.each(folder, 0, &mut |file, _, set| {
            let folded = self.folded(&set.name);
            room = index.add(set.name, folded, file);
            if room { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        runs?;
        if !room {
            return Ok(None);
        }
        index.damaged = damage.is_some();
        let index = Arc::new(index);
        self.indexes.put(folder, &index);
        Ok(Some(index))
    }

    /// Looks for a name in a folder, entry by entry.
    fn search(&self, folder: FileId, name: &[u8], case: Case) -> Result<Option<FileId>, FsError> {
        let wanted = self.folded(name);
        let mut found = None;
        let (runs, damage) = self.each(folder, 0, &mut |file, _, set| {
            let same = match case {
                Case::Exact => set.name == name,
                Case::Ignored => wanted.is_some() && self.folded(&set.name) == wanted,
            };
            if same {
                found = Some(file);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        runs?;
        damage.map_or(Ok(found), Err)
    }

    /// Hands the files of a folder to `each`, from entry `from` on. Damage comes last.
    fn each(
        &self,
        folder: FileId,
        from: u64,
        each: &mut dyn FnMut(FileId, u64, Set) -> ControlFlow<()>,
    ) -> (Result<Runs, FsError>, Option<FsError>) {
        let runs = match self.folder(folder) {
            Ok(runs) => runs,
            Err(error) => return (Err(error), None),
        };
        self.owners.learn(folder, &runs);
        let mut slots = Slots::new(self.disk(), &runs);
        let (mut index, mut damage) = (from, None);
        loop {
            let kind = match slots.slot(index) {
                Ok(slot) => slot.map_or(0, |slot| u8_at(&slot, 0)),
                Err(error) => return (Err(error), None),
            };
            if kind == 0 {
                break; // the end of the folder, also where a whole entry is missing
            }
            let what = || format!("entry {index} of {}", called(folder));
            let set = if kind == FILE { Set::read(&mut slots, index, &what) } else { Ok(None) };
            let entries = match (set, slots.place(index).and_then(id_at)) {
                (Ok(Some(set)), Some(file)) => {
                    let entries = set.entries;
                    if each(file, index.saturating_add(entries), set).is_break() {
                        return (Ok(runs), None);
                    }
                    entries
                }
                (Err(error), _) if error.family() == crate::ErrorFamily::Corrupt => {
                    damage.get_or_insert(error);
                    1
                }
                (Err(error), _) => return (Err(error), None),
                _ => 1,
            };
            index = index.saturating_add(entries);
        }
        drop(slots);
        (Ok(runs), damage)
    }
}

/// Label and up-case table of the root folder.
fn scan_root(space: &Space, root: &Runs) -> Result<(Option<String>, Option<Slot>), FsError> {
    let (mut label, mut up_case) = (None, None);
    let mut slots = Slots::new(&space.disk, root);
    for index in 0..root.len() / SLOT {
        let Some(slot) = slots.slot(index)? else { break };
        match u8_at(&slot, 0) {
            0 => break,
            LABEL => {
                let units = usize::from(u8_at(&slot, 1)).min(11);
                let name = wtf8((0..units).map(|unit| u16_at(&slot, unit.saturating_mul(2).saturating_add(2))));
                label = Some(String::from_utf8_lossy(&name).into_owned()).filter(|label| !label.is_empty());
            }
            UP_CASE => up_case = Some(slot),
            _ => (),
        }
    }
    Ok((label, up_case))
}

fn read_up_case(space: &Space, slot: &Slot) -> Result<Option<UpCase>, FsError> {
    let len = number(slot, 24, 8);
    if len > upcase::MOST {
        return Ok(None);
    }
    let clusters = Needs::Exactly(space.heap.clusters_of(len));
    let runs = space.chain(u32_at(slot, 20), clusters, "the up-case table")?;
    UpCase::read(&space.disk, &runs, len, u32_at(slot, 4))
}

impl FileSystem for ExFat {
    fn about(&self) -> &About {
        &self.about
    }

    fn root(&self) -> FileId {
        ROOT
    }

    fn metadata(&self, file: FileId) -> Result<Metadata, FsError> {
        if file == ROOT {
            return Ok(root_metadata(self.root.len()));
        }
        let set = self.set(file)?;
        let clusters = self.space.heap.clusters_of(set.len);
        Ok(Metadata {
            kind: kind_of(set.folder()),
            size: ByteLen(set.len),
            allocated: ByteLen(clusters.saturating_mul(self.space.heap.cluster)),
            links: 1,
            attributes: set.attributes,
            created: set.created,
            modified: set.modified,
            changed: set.modified,
            accessed: set.accessed,
        })
    }

    fn find(&self, folder: FileId, name: &[u8], case: Case) -> Result<Option<FileId>, FsError> {
        let index = match self.indexes.get(folder) {
            Some(index) => Some(index),
            None => self.index(folder)?,
        };
        if let Some(index) = index {
            let found = index.find(name, case, || self.folded(name));
            if found.is_some() || !index.damaged {
                return Ok(found);
            }
        }
        self.search(folder, name, case)
    }

    fn list(&self, folder: FileId, from: u64, each: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
        let (runs, damage) = self.each(folder, from, &mut |file, next, set| {
            let kind = kind_of(set.folder());
            each(Entry { name: set.name, file, kind, next })
        });
        runs?;
        damage.map_or(Ok(()), Err)
    }

    fn parent(&self, file: FileId) -> Result<Option<FileId>, FsError> {
        if file == ROOT {
            return Ok(None);
        }
        self.set(file)?;
        if let Some(owner) = self.owners.of(file) {
            return Ok(Some(owner));
        }
        let budget = u64::from(self.space.heap.count).saturating_mul(self.space.heap.cluster);
        let owner = self.owners.search(file, budget, |folder| {
            let mut folders = Vec::new();
            let (runs, _) = self.each(folder, 0, &mut |file, _, set| {
                if set.folder() {
                    folders.push(file);
                }
                ControlFlow::Continue(())
            });
            Ok(Folder { runs: runs?, folders })
        })?;
        Ok(Some(owner))
    }

    fn open(&self, file: FileId) -> Result<Box<dyn ReadAt>, FsError> {
        if file == ROOT {
            return Err(FsError::IsAFolder { what: called(file) });
        }
        let set = self.set(file)?;
        if set.folder() {
            return Err(FsError::IsAFolder { what: called(file) });
        }
        let runs = self.runs(&set, &called(file))?;
        Ok(Box::new(Content::new(self.disk().uncached().clone(), runs, set.len, set.valid, called(file))))
    }

    fn link_target(&self, link: FileId) -> Result<LinkTarget, FsError> {
        Err(FsError::NotALink { what: called(link) })
    }

    fn xattrs(&self, _: FileId) -> Result<Vec<Vec<u8>>, FsError> {
        Ok(Vec::new())
    }

    fn xattr(&self, file: FileId, name: &[u8], limit: usize) -> Result<Option<Vec<u8>>, FsError> {
        xattr(self, file, name, limit)
    }
}
