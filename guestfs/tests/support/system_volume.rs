//! A file system that holds the registry of a Windows, and can do just what finding drive letters asks for.

use std::ops::ControlFlow;

use blockdev::{MemDisk, ReadAt};
use guestfs::{About, Case, Entry, FileId, FileSystem, FsError, LinkTarget, Metadata};

/// Files by their path, which is looked up without regard to case. `None` is one that cannot be opened.
pub(crate) struct SystemVolume {
    files: Vec<(&'static str, Option<Vec<u8>>)>,
}

impl SystemVolume {
    pub(crate) fn new(path: &'static str, bytes: Option<Vec<u8>>) -> Self {
        Self { files: vec![(path, bytes)] }
    }

    pub(crate) fn empty() -> Self {
        Self { files: Vec::new() }
    }

    pub(crate) fn and(mut self, path: &'static str, bytes: Vec<u8>) -> Self {
        self.files.push((path, Some(bytes)));
        self
    }

    /// Ids tell the file and how many components of its path are gone; folders have several.
    fn id(file: usize, depth: usize) -> FileId {
        FileId::new(u64::try_from(file << 8 | depth).unwrap()).unwrap()
    }

    /// The paths that may go on from a folder, and the component of each that does.
    fn below(&self, folder: FileId) -> impl Iterator<Item = (usize, usize, &'static str)> {
        let id = usize::try_from(folder.get()).unwrap();
        let (file, depth) = (id >> 8, id & 0xff);
        let root = depth == 0;
        let paths = self.files.iter().enumerate().filter(move |(index, _)| root || *index == file);
        paths.filter_map(move |(index, (path, _))| Some((index, depth, path.split('/').nth(depth)?)))
    }
}

impl FileSystem for SystemVolume {
    fn root(&self) -> FileId {
        Self::id(0, 0)
    }

    fn find(&self, folder: FileId, name: &[u8], case: Case) -> Result<Option<FileId>, FsError> {
        assert_eq!(case, Case::Ignored);
        let found = self.below(folder).find(|(_, _, component)| component.as_bytes().eq_ignore_ascii_case(name));
        Ok(found.map(|(file, depth, _)| Self::id(file, depth + 1)))
    }

    fn open(&self, file: FileId) -> Result<Box<dyn ReadAt>, FsError> {
        let (path, bytes) = &self.files[usize::try_from(file.get() >> 8).unwrap()];
        match bytes {
            Some(bytes) => Ok(Box::new(MemDisk::new(bytes.clone()))),
            None => Err(FsError::Encrypted { what: (*path).to_owned() }),
        }
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
