//! FAT12, FAT16 and FAT32.

mod boot;
mod code_page;
mod folder;

use std::ops::ControlFlow;
use std::sync::Arc;

use blockdev::{ByteLen, ReadAt};
use fatfs::{Date, DateTime, Time};

use self::boot::{Boot, Root};
use self::code_page::CODE_PAGE;
use crate::clusters::{
    Content, Folder, Index, Indexes, Moment, Needs, Owners, ROOT, Runs, Slot, Slots, Space, Table, Width, bytes_at,
    called, fold, id_at, kind_of, not_found, place_of, root_metadata, u16_at, upper, xattr,
};
use crate::{About, CachedDisk, Case, Entry, FileId, FileSystem, FsError, LinkTarget, Metadata, Timestamp, VolumeKind};

/// A volume of FAT12, FAT16 or FAT32.
///
/// Boot sector, FAT and the places of files are read here; the entries of folders by the crate fatfs (see `folder.rs`). A file's id
/// is the place of its short entry on the volume, in units of 32 bytes. FAT keeps local times without a zone: what the guest's user
/// saw is given as if it were UTC. Short names and labels are taken for code page 437.
pub struct Fat {
    space: Space,
    root: Runs,
    about: About,
    owners: Owners,
    indexes: Indexes,
}

/// A file's short entry, checked.
struct Short {
    folder: bool,
    attributes: u32,
    size: u64,
    cluster: u32,
    created: Timestamp,
    modified: Timestamp,
    accessed: Timestamp,
}

impl Fat {
    /// Opens a volume.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn open(disk: Arc<CachedDisk>) -> Result<Self, FsError> {
        let mut boot = Boot::read(&bytes_at(&disk, 0, "the boot sector")?)?;
        boot.note_size(disk.size());
        let table = Table::new(disk.clone(), boot.fat, boot.fat_len, boot.width);
        boot.note_state(table.reader().value(1)?);
        let space = Space { disk, heap: boot.heap, table };
        let root = match boot.root {
            Root::Area(at, len) => Runs::one(at, len),
            Root::Chain(first) => space.chain(first, folder_limit(&space), "the root folder")?,
        };
        root.check_inside(space.disk.size().0, "the root folder")?;
        let label = folder::label(&space.disk, &root)?;
        let label = label.or_else(|| Some(CODE_PAGE.text(&boot.label?)));
        let label = label.map(|label| label.trim_end_matches([' ', '\0']).to_owned()).filter(|label| !label.is_empty());
        let about = About {
            kind: boot.kind,
            label,
            serial: boot.serial.into(),
            cluster: ByteLen(boot.heap.cluster),
            notes: boot.notes,
        };
        Ok(Self { space, root, about, owners: Owners::default(), indexes: Indexes::default() })
    }

    fn disk(&self) -> &CachedDisk {
        &self.space.disk
    }

    /// The short entry of a file. Ids are places, and a place where no entry can be has no file.
    fn short(&self, file: FileId) -> Result<Short, FsError> {
        let at = place_of(file);
        let in_root = self.root.pieces().any(|(start, len)| (start..start.saturating_add(len)).contains(&at));
        if !in_root && self.space.heap.holding(at).is_none() {
            return Err(not_found(file));
        }
        let slot: Slot = bytes_at(self.disk(), at, &called(file))?;
        let short = folder::one(&slot, |entry| Short {
            folder: entry.is_dir(),
            attributes: entry.attributes().bits().into(),
            size: entry.len(),
            cluster: self.first_cluster(&slot),
            created: at_once(entry.created()),
            modified: at_once(entry.modified()),
            accessed: at_once(DateTime { date: entry.accessed(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }),
        })?;
        short.ok_or_else(|| not_found(file))
    }

    /// `DIR_FstClusLO`, and on FAT32 `DIR_FstClusHI`, which fatfs keeps to itself.
    fn first_cluster(&self, slot: &Slot) -> u32 {
        let high = if self.about.kind == VolumeKind::Fat32 { u16_at(slot, 20) } else { 0 };
        u32::from(high) << 16 | u32::from(u16_at(slot, 26))
    }

    /// Where the entries of a folder lie.
    fn folder(&self, folder: FileId) -> Result<Runs, FsError> {
        if folder == ROOT {
            return Ok(self.root.clone());
        }
        let short = self.short(folder)?;
        if !short.folder {
            return Err(FsError::NotAFolder { what: called(folder) });
        }
        self.space.chain(short.cluster, folder_limit(&self.space), &called(folder))
    }

    /// The names of a folder, of which none has more than an index takes.
    fn index(&self, folder: FileId) -> Result<Arc<Index>, FsError> {
        let mut index = Index::default();
        self.each(folder, 0, &mut |file, named| {
            let folded = fold(&named.name, upper);
            index.add(named.name, folded, file);
            index.add_alias(named.alias.and_then(|alias| fold(&alias, upper)), file);
            ControlFlow::Continue(())
        })?;
        let index = Arc::new(index);
        self.indexes.put(folder, &index);
        Ok(index)
    }

    fn each(
        &self,
        folder: FileId,
        from: u64,
        each: &mut dyn FnMut(FileId, folder::Named) -> ControlFlow<()>,
    ) -> Result<Runs, FsError> {
        let runs = self.folder(folder)?;
        self.owners.learn(folder, &runs);
        let slots = Slots::new(self.disk(), &runs);
        folder::each(self.disk(), &runs, from, &mut |named| {
            let file = slots.place(named.slot).and_then(id_at);
            file.map_or(ControlFlow::Continue(()), |file| each(file, named))
        })?;
        Ok(runs)
    }
}

/// Folders end with their chain, or where they are longer than any may be.
fn folder_limit(space: &Space) -> Needs {
    Needs::AtMost(space.heap.clusters_of(folder::MOST))
}

fn at_once(moment: DateTime) -> Timestamp {
    let (Date { year, month, day }, Time { hour, min: minute, sec: second, millis }) = (moment.date, moment.time);
    Moment { year, month, day, hour, minute, second, millis }.read_as_utc()
}

impl Boot {
    /// Notes what the guest left in the entry of cluster 1, and in the boot sector, where FAT12 has it alone
    /// (Microsoft FAT Specification, 2005, section 4: `ClnShutBitMask`, `HrdErrBitMask`).
    fn note_state(&mut self, entry: u32) {
        let (clean, no_errors) = match self.width {
            Width::Bits16 => (entry & 0x8000 != 0, entry & 0x4000 != 0),
            Width::Bits28 => (entry & 0x0800_0000 != 0, entry & 0x0400_0000 != 0),
            Width::Bits12 | Width::Bits32 => (true, true),
        };
        if self.dirty || !clean {
            self.notes.push("the guest did not close the volume: what it wrote last may be incomplete".to_owned());
        }
        if !no_errors {
            self.notes.push("the guest had errors when it read or wrote the volume".to_owned());
        }
    }
}

impl FileSystem for Fat {
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
        let short = self.short(file)?;
        let (size, allocated) = if short.folder {
            let len = self.folder(file)?.len();
            (len, len)
        } else {
            let clusters = self.space.heap.clusters_of(short.size);
            (short.size, clusters.saturating_mul(self.space.heap.cluster))
        };
        Ok(Metadata {
            kind: kind_of(short.folder),
            size: ByteLen(size),
            allocated: ByteLen(allocated),
            links: 1,
            attributes: short.attributes,
            created: short.created,
            modified: short.modified,
            changed: short.modified,
            accessed: short.accessed,
        })
    }

    /// Without regard to case, a short name finds its file too, as in Windows.
    fn find(&self, folder: FileId, name: &[u8], case: Case) -> Result<Option<FileId>, FsError> {
        let index = match self.indexes.get(folder) {
            Some(index) => index,
            None => self.index(folder)?,
        };
        Ok(index.find(name, case, || fold(name, upper)))
    }

    fn list(&self, folder: FileId, from: u64, each: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
        self.each(folder, from, &mut |file, named| {
            each(Entry { name: named.name, file, kind: kind_of(named.folder), next: named.slot.saturating_add(1) })
        })?;
        Ok(())
    }

    fn parent(&self, file: FileId) -> Result<Option<FileId>, FsError> {
        if file == ROOT {
            return Ok(None);
        }
        self.short(file)?;
        if let Some(owner) = self.owners.of(file) {
            return Ok(Some(owner));
        }
        let budget = u64::from(self.space.heap.count).saturating_mul(self.space.heap.cluster);
        let budget = budget.saturating_add(self.root.len());
        let owner = self.owners.search(file, budget, |folder| {
            let mut folders = Vec::new();
            let runs = self.each(folder, 0, &mut |file, named| {
                if named.folder {
                    folders.push(file);
                }
                ControlFlow::Continue(())
            })?;
            Ok(Folder { runs, folders })
        })?;
        Ok(Some(owner))
    }

    fn open(&self, file: FileId) -> Result<Box<dyn ReadAt>, FsError> {
        if file == ROOT {
            return Err(FsError::IsAFolder { what: called(file) });
        }
        let short = self.short(file)?;
        if short.folder {
            return Err(FsError::IsAFolder { what: called(file) });
        }
        let clusters = self.space.heap.clusters_of(short.size);
        let runs = self.space.chain(short.cluster, Needs::Exactly(clusters), &called(file))?;
        Ok(Box::new(Content::new(self.disk().uncached().clone(), runs, short.size, short.size, called(file))))
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
