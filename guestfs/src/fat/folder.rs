//! Folders, read by the crate fatfs.
//!
//! fatfs follows chains and trusts boot sectors, and both may be hostile. It is shown neither: each folder is handed to it as the
//! root area of a small FAT12 volume that is made up here, so that what it decodes are entries and nothing else: long names with their
//! order and checksums, short names, cases, attributes and times.

use std::cell::Cell;
use std::io::{Error, ErrorKind, Read, Result as IoResult, Seek, SeekFrom, Write};
use std::ops::ControlFlow;

use fatfs::{DirEntry, FsOptions};

use super::code_page::CODE_PAGE;
use crate::clusters::{Runs, SLOT, Slot, Slots, corrupt, presented, u8_at, u16_at, wtf8};
use crate::{CachedDisk, FsError};

/// The most bytes of a folder: 65536 entries (Microsoft FAT Specification, 2005, section 6; Linux keeps to it too).
pub(super) const MOST: u64 = 65536 * SLOT;

/// Entries of the made-up root area: the most that fill sectors of 4 KiB and 16 bits can count.
const AREA: u64 = 65408;
/// Where it begins: behind the boot sector and a FAT of one sector.
const AREA_START: u64 = 2 * 4096;
/// The most entries of a long name.
const LONG: u64 = 20;

/// A boot sector of FAT12: sectors of 4 KiB, one FAT of one sector, [`AREA`] root entries in 511 sectors, one cluster.
const BOOT: [u8; 512] = {
    let mut bytes = [0; 512];
    bytes[0] = 0xeb;
    bytes[0x0c] = 0x10; // BPB_BytsPerSec 4096
    bytes[0x0d] = 1; // BPB_SecPerClus
    bytes[0x0e] = 1; // BPB_RsvdSecCnt
    bytes[0x10] = 1; // BPB_NumFATs
    bytes[0x11] = 0x80; // BPB_RootEntCnt
    bytes[0x12] = 0xff;
    bytes[0x13] = 0x02; // BPB_TotSec16 514
    bytes[0x14] = 0x02;
    bytes[0x15] = 0xf8; // BPB_Media
    bytes[0x16] = 1; // BPB_FATSz16
    bytes[510] = 0x55;
    bytes[511] = 0xaa;
    bytes
};

/// Where the entries that fatfs sees come from.
pub(super) trait Source {
    /// Some bytes from byte `from` on, none at the end.
    fn bytes(&mut self, from: u64) -> Result<&[u8], FsError>;
}

impl Source for Slots<'_> {
    fn bytes(&mut self, from: u64) -> Result<&[u8], FsError> {
        Slots::bytes(self, from)
    }
}

impl Source for &Slot {
    fn bytes(&mut self, from: u64) -> Result<&[u8], FsError> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        Ok(self.get(from..).unwrap_or_default())
    }
}

/// The made-up volume. `end` is the entry behind the last one that was read.
pub(super) struct Device<'a, S> {
    source: S,
    /// The entry of the folder that stands first in the root area.
    first: u64,
    position: u64,
    end: &'a Cell<u64>,
}

impl<S: Source> Read for Device<'_, S> {
    fn read(&mut self, buf: &mut [u8]) -> IoResult<usize> {
        let bytes = match self.position.checked_sub(AREA_START) {
            None => BOOT.get(usize::try_from(self.position).unwrap_or(usize::MAX)..).unwrap_or_default(),
            Some(at) => {
                let from = self.first.saturating_mul(SLOT).saturating_add(at);
                let bytes = self.source.bytes(from).map_err(Error::other)?;
                self.end.set(from.checked_div(SLOT).unwrap_or(0).saturating_add(1));
                bytes
            }
        };
        let taken = bytes.iter().zip(buf.iter_mut()).map(|(byte, to)| *to = *byte).count();
        self.position = self.position.saturating_add(u64::try_from(taken).unwrap_or(0));
        Ok(taken)
    }
}

impl<S> Seek for Device<'_, S> {
    fn seek(&mut self, to: SeekFrom) -> IoResult<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(_) => None,
        };
        self.position = position.ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

impl<S> Write for Device<'_, S> {
    fn write(&mut self, _: &[u8]) -> IoResult<usize> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> IoResult<()> {
        Ok(())
    }
}

type Volume<'a, S> = fatfs::FileSystem<Device<'a, S>>;

fn volume<'a, S: Source>(source: S, first: u64, end: &'a Cell<u64>) -> Result<Volume<'a, S>, FsError> {
    let device = Device { source, first, position: 0, end };
    let options = FsOptions::new().update_accessed_date(false).oem_cp_converter(&CODE_PAGE);
    fatfs::FileSystem::new(device, options).map_err(error)
}

/// The error that the source gave. fatfs makes none of its own of entries.
fn error(error: Error) -> FsError {
    let text = error.to_string();
    let source = error.into_inner().and_then(|inner| inner.downcast().ok());
    source.map_or_else(|| corrupt("a folder", "entry", text, "an entry of FAT"), |source: Box<FsError>| *source)
}

/// A file as its folder has it.
pub(super) struct Named {
    /// The name to show, as [`crate::Entry`] wants it.
    pub(super) name: Vec<u8>,
    /// Its short name, if it has a long one.
    pub(super) alias: Option<Vec<u8>>,
    /// The index of its short entry.
    pub(super) slot: u64,
    pub(super) folder: bool,
}

/// Hands the files of a folder to `each`, from entry `from` on.
pub(super) fn each(
    disk: &CachedDisk,
    runs: &Runs,
    from: u64,
    each: &mut dyn FnMut(Named) -> ControlFlow<()>,
) -> Result<(), FsError> {
    let mut first = from;
    while first < runs.len() / SLOT {
        let end = Cell::new(first);
        let made_up = volume(Slots::new(disk, runs), first, &end)?;
        let mut behind = first;
        for entry in made_up.root_dir().iter() {
            let entry = entry.map_err(error)?;
            behind = end.get();
            let slot = behind.saturating_sub(1);
            if let Some(named) = named(&entry, slot, disk, runs)?
                && each(named).is_break()
            {
                return Ok(());
            }
        }
        if end.get() < first.saturating_add(AREA) {
            break;
        }
        // The folder may go on behind the area: a long name that began in it is read again from its start.
        first = behind.max(first.saturating_add(AREA - LONG));
    }
    Ok(())
}

fn named<S: Source>(
    entry: &DirEntry<'_, Device<'_, S>>,
    slot: u64,
    disk: &CachedDisk,
    runs: &Runs,
) -> Result<Option<Named>, FsError> {
    let short = entry.short_file_name();
    if short == "." || short == ".." {
        return Ok(None);
    }
    let mut name = entry.file_name();
    if let Some(nul) = name.find('\0') {
        name.truncate(nul); // what stands behind the end of a long name is filling
    }
    if name.is_empty() {
        name.clone_from(&short);
    }
    let alias = if name.eq_ignore_ascii_case(&short) { None } else { Some(presented(short.into_bytes())) };
    let name = if name.contains(char::REPLACEMENT_CHARACTER) {
        long_name(disk, runs, slot)?.unwrap_or_else(|| name.into_bytes())
    } else {
        name.into_bytes()
    };
    Ok(Some(Named { name: presented(name), alias, slot, folder: entry.is_dir() }))
}

/// The long name before a short entry, for fatfs knows no lone surrogates. That there is one, and whole, fatfs has found.
fn long_name(disk: &CachedDisk, runs: &Runs, slot: u64) -> Result<Option<Vec<u8>>, FsError> {
    let mut slots = Slots::new(disk, runs);
    let mut units = Vec::new();
    for before in 1..=LONG {
        let Some(slot) = slot.checked_sub(before).map(|index| slots.slot(index)).transpose()?.flatten() else {
            return Ok(None);
        };
        if u8_at(&slot, 11) & 0x3f != 0x0f {
            return Ok(None);
        }
        units.extend([1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30].map(|at| u16_at(&slot, at)));
        if u8_at(&slot, 0) & 0x40 != 0 {
            break;
        }
    }
    Ok(Some(wtf8(units.into_iter().take_while(|unit| *unit != 0))))
}

/// What a single entry says, decoded by `read`. `None` for what is no file: deleted, a label, a part of a long name, `.` and `..`.
pub(super) fn one<T>(
    slot: &Slot,
    read: impl FnOnce(&DirEntry<'_, Device<'_, &Slot>>) -> T,
) -> Result<Option<T>, FsError> {
    let end = Cell::new(0);
    let made_up = volume(slot, 0, &end)?;
    let Some(entry) = made_up.root_dir().iter().next() else { return Ok(None) };
    let entry = entry.map_err(error)?;
    Ok(if matches!(entry.short_file_name_as_bytes(), b"." | b"..") { None } else { Some(read(&entry)) })
}

/// The label of a volume, from its root folder.
pub(super) fn label(disk: &CachedDisk, root: &Runs) -> Result<Option<String>, FsError> {
    let end = Cell::new(0);
    let made_up = volume(Slots::new(disk, root), 0, &end)?;
    made_up.read_volume_label_from_root_dir().map_err(error)
}
