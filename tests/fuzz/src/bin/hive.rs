//! A registry hive, the input itself: walking its keys and values, and finding drive letters by it, end within the reads that
//! are allowed and within 16 MiB (the largest data that is asked for is 4 MiB, in its pieces and whole; the letters' cache
//! takes 1); what one walk finds the next finds too.
#![no_main]

use std::ops::ControlFlow;
use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, MemDisk, ReadAt};
use fuzz::limited;
use guestfs::{
    About, Case, Entry, FileId, FileSystem, FsError, Hive, Key, LinkTarget, Metadata, MountedDevices, Place, TableKind,
    VolumeKind, VolumeToLetter, letters,
};
use libfuzzer_sys::fuzz_target;

/// Reads that a walk may cost.
const READS: u64 = 20_000;
/// Keys below each other that are walked.
const DEPTH: usize = 16;
/// The largest data that is asked for.
const LARGEST: ByteLen = ByteLen(4 << 20);
/// `config/SYSTEM` in the folders that lead there.
const HIVE: u64 = 4;

fuzz_target!(|data: &[u8]| {
    let disk = Arc::new(MemDisk::new(data.to_vec()));
    limited(16 << 20, || {
        let first = walk(&*disk);
        assert_eq!(first, walk(&*disk));
        find_letters(&disk, first.is_some());
    });
});

/// What a walk found: keys, values, errors.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    keys: u64,
    values: u64,
    errors: u64,
}

/// Walks all keys; `None` if the hive cannot be opened.
fn walk(disk: &dyn ReadAt) -> Option<Found> {
    let hive = Hive::open(disk, READS).ok()?;
    let mut found = Found::default();
    match hive.root() {
        Ok(root) => below(&hive, &root, DEPTH, &mut found),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert!(found.keys + found.values <= READS);
    // Each error costs a read, but for the one for each list that is open when there are no more.
    assert!(found.errors <= READS + 2 * DEPTH as u64);
    Some(found)
}

fn below(hive: &Hive<'_>, key: &Key, depth: usize, found: &mut Found) {
    found.keys += 1;
    match hive.values(key) {
        Ok(values) => {
            for value in values.into_iter().flatten() {
                let data = value.and_then(|value| {
                    found.values += 1;
                    let data = hive.data(&value, LARGEST)?;
                    assert_eq!(ByteLen::of(&data), value.len);
                    Ok(())
                });
                found.errors += u64::from(data.is_err());
            }
        }
        Err(_) => found.errors += 1,
    }
    if depth == 0 {
        return;
    }
    match hive.subkeys(key) {
        Ok(keys) => {
            for subkey in keys.into_iter().flatten() {
                match subkey {
                    Ok(subkey) => below(hive, &subkey, depth - 1, found),
                    Err(_) => found.errors += 1,
                }
            }
        }
        Err(_) => found.errors += 1,
    }
}

/// Finds the letters of a machine by this hive: every place that it names has a volume, some have two.
fn find_letters(disk: &Arc<MemDisk>, opened: bool) {
    let files = SystemVolume(Arc::clone(disk));
    let mounted = MountedDevices::read(&**disk);
    assert!(opened || mounted.is_err());
    let mounted = mounted.unwrap_or_default();
    let places = mounted.letters.iter().map(|(_, place)| *place).chain(mounted.guids.iter().map(|(_, place)| *place));
    let mut volumes: Vec<_> = places.take(40).map(|place| volume(place, &files)).collect();
    volumes.push(volume(Place::Mbr { signature: 1, start: ByteOffset(2) }, &files));
    let found = letters(&volumes);
    assert_eq!(found.letters.len(), volumes.len());
    assert!(found.guids.values().all(|index| *index < volumes.len()));
    let mut given: Vec<char> = found.letters.iter().flatten().map(|letter| letter.letter).collect();
    assert!(given.iter().all(char::is_ascii_uppercase));
    given.sort_unstable();
    assert!(given.windows(2).all(|pair| pair[0] != pair[1]), "a letter twice: {given:?}");
    assert!(found.notes.iter().all(|note| !note.is_empty()));
}

fn volume<'a>(place: Place, files: &'a dyn FileSystem) -> VolumeToLetter<'a> {
    let (table, start, guid) = match place {
        Place::Mbr { signature, start } => (TableKind::Mbr { signature }, start, None),
        Place::Gpt(guid) => (TableKind::Gpt { disk_guid: guid }, ByteOffset(0), Some(guid)),
    };
    VolumeToLetter { table, table_type: None, start, guid, kind: VolumeKind::Ntfs, files: Some(files) }
}

/// A volume with the hive in every folder, four deep.
struct SystemVolume(Arc<MemDisk>);

impl FileSystem for SystemVolume {
    fn root(&self) -> FileId {
        FileId::new(0).expect("0 has few bits")
    }
    fn find(&self, folder: FileId, name: &[u8], case: Case) -> Result<Option<FileId>, FsError> {
        assert_eq!(case, Case::Ignored);
        Ok(if name == b"WINNT" { None } else { FileId::new(folder.get() + 1) })
    }
    fn open(&self, file: FileId) -> Result<Box<dyn ReadAt>, FsError> {
        assert_eq!(file.get(), HIVE);
        Ok(Box::new(Arc::clone(&self.0)))
    }
    fn about(&self) -> &About {
        unreachable!("letters do not ask for this")
    }
    fn metadata(&self, _: FileId) -> Result<Metadata, FsError> {
        unreachable!("letters do not ask for this")
    }
    fn list(&self, _: FileId, _: u64, _: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
        unreachable!("letters do not ask for this")
    }
    fn parent(&self, _: FileId) -> Result<Option<FileId>, FsError> {
        unreachable!("letters do not ask for this")
    }
    fn link_target(&self, _: FileId) -> Result<LinkTarget, FsError> {
        unreachable!("letters do not ask for this")
    }
    fn xattrs(&self, _: FileId) -> Result<Vec<Vec<u8>>, FsError> {
        unreachable!("letters do not ask for this")
    }
    fn xattr(&self, _: FileId, _: &[u8], _: usize) -> Result<Option<Vec<u8>>, FsError> {
        unreachable!("letters do not ask for this")
    }
}
