//! A file system in memory, which fails where it is told to.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, ReadAt, ReadError};
use guestfs::{About, Case, Entry, FileId, FileKind, FileSystem, FsError, LinkTarget, Metadata, Timestamp, VolumeKind};

/// What a file is.
#[derive(Clone)]
pub(super) enum Content {
    Folder,
    Bytes(Vec<u8>),
    /// This many bytes: the number of each 8 bytes, and holes in every other MiB.
    Pattern(u64),
    Link(LinkTarget),
    /// Everything about it fails like this.
    Broken(fn() -> FsError),
    /// Its bytes fail from here on.
    Torn(u64),
}

pub(super) struct Node {
    pub(super) content: Content,
    pub(super) parent: u64,
    pub(super) names: BTreeMap<Vec<u8>, u64>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Files by number; 5 is the root, as in NTFS.
pub(super) struct Memory {
    about: About,
    nodes: BTreeMap<u64, Node>,
    pub(super) listed: AtomicU64,
}

pub(super) const ROOT: u64 = 5;

impl Memory {
    pub(super) fn new() -> Self {
        let about = About::new(VolumeKind::Ntfs, ByteLen(4096));
        let mut memory = Self { about, nodes: BTreeMap::new(), listed: AtomicU64::new(0) };
        memory.nodes.insert(ROOT, node(Content::Folder, ROOT));
        memory
    }

    /// Adds a file at a path; its folder is there already.
    pub(super) fn add(&mut self, path: &str, content: Content) -> u64 {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut parent = ROOT;
        for part in folder.split('/').filter(|part| !part.is_empty()) {
            parent = self.nodes[&parent].names[part.as_bytes()];
        }
        let id = self.nodes.keys().next_back().unwrap() + 1;
        self.nodes.insert(id, node(content, parent));
        self.nodes.get_mut(&parent).unwrap().names.insert(name.as_bytes().to_vec(), id);
        id
    }

    pub(super) fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    fn node(&self, file: FileId) -> Result<&Node, FsError> {
        self.nodes.get(&file.get()).ok_or_else(|| FsError::NotFound { what: format!("file {}", file.get()) })
    }

    fn folder(&self, file: FileId) -> Result<&Node, FsError> {
        let node = self.node(file)?;
        match node.content {
            Content::Folder => Ok(node),
            _ => Err(FsError::NotAFolder { what: format!("file {}", file.get()) }),
        }
    }
}

fn node(content: Content, parent: u64) -> Node {
    Node { content, parent, names: BTreeMap::new(), xattrs: Vec::new() }
}

pub(super) fn id(number: u64) -> FileId {
    FileId::new(number).unwrap()
}

fn kind(content: &Content) -> FileKind {
    match content {
        Content::Folder => FileKind::Folder,
        Content::Link(_) => FileKind::Link,
        _ => FileKind::File,
    }
}

impl FileSystem for Memory {
    fn about(&self) -> &About {
        &self.about
    }

    fn root(&self) -> FileId {
        id(ROOT)
    }

    fn metadata(&self, file: FileId) -> Result<Metadata, FsError> {
        let node = self.node(file)?;
        let size = match &node.content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Pattern(size) | Content::Torn(size) => *size,
            Content::Broken(error) => return Err(error()),
            _ => 0,
        };
        let at = |seconds| Timestamp { seconds, nanos: 500 };
        Ok(Metadata {
            kind: kind(&node.content),
            size: ByteLen(size),
            allocated: ByteLen(size.next_multiple_of(4096)),
            links: 1,
            attributes: 0x20,
            created: at(1_000_000_000),
            modified: at(-11_644_473_600 + i64::try_from(file.get()).unwrap()),
            changed: at(1_200_000_000),
            accessed: at(1_300_000_000),
        })
    }

    fn find(&self, folder: FileId, name: &[u8], case: Case) -> Result<Option<FileId>, FsError> {
        let folder = self.folder(folder)?;
        let same = |known: &[u8]| match case {
            Case::Exact => known == name,
            Case::Ignored => known.eq_ignore_ascii_case(name),
        };
        Ok(folder.names.iter().find(|(known, _)| same(known)).map(|(_, file)| id(*file)))
    }

    fn list(&self, folder: FileId, from: u64, each: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError> {
        let folder = self.folder(folder)?;
        for ((name, file), next) in folder.names.iter().zip(1..).skip(usize::try_from(from).unwrap()) {
            self.listed.fetch_add(1, Ordering::Relaxed);
            let kind = kind(&self.nodes[file].content);
            if each(Entry { name: name.clone(), file: id(*file), kind, next }).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn parent(&self, file: FileId) -> Result<Option<FileId>, FsError> {
        Ok((file.get() != ROOT).then_some(id(self.node(file)?.parent)))
    }

    fn open(&self, file: FileId) -> Result<Box<dyn ReadAt>, FsError> {
        match &self.node(file)?.content {
            Content::Bytes(bytes) => Ok(Box::new(blockdev::MemDisk::new(bytes.clone()))),
            Content::Pattern(size) => Ok(Box::new(Pattern(*size, u64::MAX))),
            Content::Torn(size) => Ok(Box::new(Pattern(*size, size / 2))),
            Content::Broken(error) => Err(error()),
            _ => Err(FsError::IsAFolder { what: format!("file {}", file.get()) }),
        }
    }

    fn link_target(&self, link: FileId) -> Result<LinkTarget, FsError> {
        match &self.node(link)?.content {
            Content::Link(target) => Ok(target.clone()),
            _ => Err(FsError::NotALink { what: format!("file {}", link.get()) }),
        }
    }

    fn xattrs(&self, file: FileId) -> Result<Vec<Vec<u8>>, FsError> {
        Ok(self.node(file)?.xattrs.iter().map(|(name, _)| name.clone()).collect())
    }

    fn xattr(&self, file: FileId, name: &[u8], limit: usize) -> Result<Option<Vec<u8>>, FsError> {
        let found = self.node(file)?.xattrs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        match found {
            Some(value) if value.len() > limit => {
                let len = ByteLen::of(&value);
                Err(FsError::TooLarge { what: "value".into(), len, limit: ByteLen(limit as u64) })
            }
            found => Ok(found),
        }
    }
}

/// The number of each 8 bytes; fails from the second number on.
pub(super) struct Pattern(pub(super) u64, pub(super) u64);

impl ReadAt for Pattern {
    fn size(&self) -> ByteLen {
        ByteLen(self.0)
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let len = ByteLen::of(buf);
        if at.0 + len.0 > self.0 {
            return Err(ReadError::OutOfRange { at, len, size: ByteLen(self.0) });
        }
        if at.0 + len.0 > self.1 {
            return Err(ReadError::Corrupt { at, source: "a torn run".into() });
        }
        for (byte, at) in buf.iter_mut().zip(at.0..) {
            *byte = pattern(at);
        }
        Ok(())
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        let mib = at.0 >> 20;
        let kind = if mib % 2 == 0 { ExtentKind::Data } else { ExtentKind::Hole };
        let len = ByteLen((((mib + 1) << 20).min(self.0)) - at.0);
        Ok(Extent { start: at, len, kind })
    }
}

/// The byte of the pattern at this position.
pub(super) fn pattern(at: u64) -> u8 {
    (at / 8).to_le_bytes()[usize::try_from(at % 8).unwrap()]
}
