//! What every reader of a file system offers.

use std::ops::ControlFlow;

use blockdev::{ByteLen, ReadAt};
use uuid::Uuid;

use crate::{FsError, VolumeKind};

/// A file or folder of one volume: the same number each time an unchanged volume is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u64);

impl FileId {
    /// How many bits an id has at most: what remains of 64 is free for whoever shows several volumes at once.
    pub const BITS: u32 = 48;

    /// An id, or `None` if it has more bits than ids may have.
    #[must_use]
    pub const fn new(id: u64) -> Option<Self> {
        if id >> Self::BITS == 0 { Some(Self(id)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// What a file is, as far as its readers care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Bytes.
    File,
    /// A folder.
    Folder,
    /// A symbolic link or junction: see [`FileSystem::link_target`].
    Link,
}

/// A moment, counted from 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds; before 1970 they are negative.
    pub seconds: i64,
    /// Nanoseconds after that, below 10^9.
    pub nanos: u32,
}

/// What is known of a file beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes. Of a folder, what its entries take; of a link, 0.
    pub size: ByteLen,
    /// Bytes that it takes on the volume.
    pub allocated: ByteLen,
    /// Its names, at least 1. Short names that belong to long ones do not count.
    pub links: u32,
    /// `FILE_ATTRIBUTE_*` of Windows: read-only 1, hidden 2, system 4, archive 0x20, …
    pub attributes: u32,
    /// When it was made.
    pub created: Timestamp,
    /// When its bytes were last written.
    pub modified: Timestamp,
    /// When anything of it was last changed.
    pub changed: Timestamp,
    /// When it was last read, as far as the guest kept account.
    pub accessed: Timestamp,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// One component, never empty, `.` or `..`, and without `/` and NUL: UTF-8, where a lone surrogate of UTF-16 is written in three
    /// bytes as if it were a character.
    pub name: Vec<u8>,
    /// What it names.
    pub file: FileId,
    /// What that is.
    pub kind: FileKind,
    /// Where a later listing goes on: give it to [`FileSystem::list`].
    pub next: u64,
}

/// Whether the case of letters matters where a name is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Case {
    /// It does.
    Exact,
    /// It does not, by the rules of the volume.
    Ignored,
}

/// Where a link leads. Components are as stored: their case may differ from that of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkTarget {
    /// From the folder that holds the link. Components may be `..`.
    Relative(Vec<Vec<u8>>),
    /// From the root of the volume that holds the link.
    Root(Vec<Vec<u8>>),
    /// From the root of the volume that the guest calls by this letter, in upper case.
    Letter(char, Vec<Vec<u8>>),
    /// From the root of the volume that the guest's mount manager knows by this GUID.
    Volume(Uuid, Vec<Vec<u8>>),
    /// Somewhere that is no volume of the guest, as text for people.
    Outside(String),
}

/// An alternate stream of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its name, in the form of [`Entry::name`].
    pub name: Vec<u8>,
    /// Its length.
    pub size: ByteLen,
}

/// What is known of a volume as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct About {
    /// Its kind.
    pub kind: VolumeKind,
    /// The name that users gave it, if any. Any text at all.
    pub label: Option<String>,
    /// Its serial number, as the guest shows it.
    pub serial: u64,
    /// The unit in which space is allocated.
    pub cluster: ByteLen,
    /// What users should know: a dirty log, a damaged part that could be done without.
    pub notes: Vec<String>,
}

impl About {
    /// A volume of which nothing more is known. File systems of other crates begin with this.
    #[must_use]
    pub const fn new(kind: VolumeKind, cluster: ByteLen) -> Self {
        Self { kind, label: None, serial: 0, cluster, notes: Vec::new() }
    }
}

/// A file system that can be read, by any number of threads.
///
/// Files are named by [`FileId`]; no path is ever resolved here. Nothing is kept per file between calls but what a bounded cache
/// holds, so nothing needs to be closed.
pub trait FileSystem: Send + Sync {
    /// What is known of the volume.
    fn about(&self) -> &About;

    /// Its topmost folder.
    fn root(&self) -> FileId;

    /// What is known of a file.
    ///
    /// # Errors
    /// See [`FsError`].
    fn metadata(&self, file: FileId) -> Result<Metadata, FsError>;

    /// The file of this name in a folder.
    ///
    /// # Errors
    /// See [`FsError`]; [`FsError::NotAFolder`] if `folder` is none. No such name is `None`.
    fn find(&self, folder: FileId, name: &[u8], case: Case) -> Result<Option<FileId>, FsError>;

    /// Hands the entries of a folder to `each`, in an order that stays the same, until it breaks off. `from` is 0, or
    /// [`Entry::next`] of the last entry that was taken before.
    ///
    /// # Errors
    /// See [`FsError`]; what was handed out before is right.
    fn list(&self, folder: FileId, from: u64, each: &mut dyn FnMut(Entry) -> ControlFlow<()>) -> Result<(), FsError>;

    /// The folder that holds a file, `None` for the root. Of a file with several names, one of them is meant.
    ///
    /// # Errors
    /// See [`FsError`].
    fn parent(&self, file: FileId) -> Result<Option<FileId>, FsError>;

    /// The bytes of a file. Errors of its reads have an [`FsError`] as source, or are those of the disk.
    ///
    /// # Errors
    /// See [`FsError`]: content that cannot be given is refused here, and never reads as anything else.
    fn open(&self, file: FileId) -> Result<Box<dyn ReadAt>, FsError>;

    /// Where a link leads.
    ///
    /// # Errors
    /// See [`FsError`]; [`FsError::NotALink`] for all else.
    fn link_target(&self, link: FileId) -> Result<LinkTarget, FsError>;

    /// The alternate streams of a file. Each is a file by the name `name:stream`, see [`find`](Self::find).
    ///
    /// # Errors
    /// See [`FsError`].
    fn streams(&self, file: FileId) -> Result<Vec<Stream>, FsError> {
        let _ = file;
        Ok(Vec::new())
    }

    /// The names of extended attributes that listings show: only such that Linux can hand out, so no value beyond 64 KiB.
    ///
    /// # Errors
    /// See [`FsError`].
    fn xattrs(&self, file: FileId) -> Result<Vec<Vec<u8>>, FsError>;

    /// The value of an extended attribute, also of one that listings do not show. `None` if there is none of that name.
    ///
    /// # Errors
    /// [`FsError::TooLarge`] beyond `limit`, and see [`FsError`].
    fn xattr(&self, file: FileId, name: &[u8], limit: usize) -> Result<Option<Vec<u8>>, FsError>;
}
