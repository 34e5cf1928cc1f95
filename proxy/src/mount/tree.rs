//! The tree that a mount shows: `letters/C`, `digits/1`, `.stillframe/report.json`. `LAYOUT.md` has its grammar.

use std::ops::ControlFlow;
use std::sync::Arc;

use blockdev::{ByteLen, MemDisk, ReadAt};
use guestfs::{Case, FileId, FileKind, FileSystem, FsError, Metadata, Timestamp};

use super::guest::Guest;
use super::links;
use super::node::{NodeId, Place};
use super::places::Places;

/// The folders above the volumes, and the report: file numbers at [`Place::OURS`].
const LETTERS: u64 = 2;
const DIGITS: u64 = 3;
const ABOUT: u64 = 4;
const FIRST_DOCUMENT: u64 = 5;
/// Links are not followed further up than this; paths of Windows have at most 32,767 characters, and no real one comes near.
pub(super) const MOST_FOLDERS: usize = 1024;

/// A file of our own beside the guest's.
pub struct Document {
    /// Its name in `.stillframe`.
    pub name: &'static str,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// A name in a folder of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// The name.
    pub name: Vec<u8>,
    /// What it names.
    pub node: NodeId,
    /// What that is.
    pub kind: FileKind,
    /// Where a later listing goes on.
    pub next: u64,
}

/// A node that was looked for.
pub struct Found {
    /// The node.
    pub node: NodeId,
    /// What is known of it.
    pub metadata: Result<Metadata, FsError>,
}

/// The volumes of a guest, as one tree.
pub struct Tree {
    guest: Guest,
    documents: Vec<Document>,
    places: Places,
}

/// What a node is.
pub(super) enum Spot<'a> {
    Top,
    Letters,
    Digits,
    About,
    Document(&'a Document),
    Volume(Inside<'a>),
}

/// A file of a volume, as it appears at one place.
#[derive(Clone, Copy)]
pub(super) struct Inside<'a> {
    pub(super) place: Place,
    /// The number of the volume.
    pub(super) number: u32,
    pub(super) fs: &'a Arc<dyn FileSystem>,
    pub(super) file: FileId,
}

impl Inside<'_> {
    pub(super) fn at(self, file: FileId) -> NodeId {
        NodeId::new(self.place, file)
    }
}

fn ours(number: u64) -> NodeId {
    NodeId(number)
}

fn no_such(what: impl Into<String>) -> FsError {
    FsError::NotFound { what: what.into() }
}

impl Tree {
    /// A tree of what `guest` holds, with `documents` in `.stillframe`.
    #[must_use]
    pub fn new(guest: Guest, documents: Vec<Document>) -> Self {
        Self { guest, documents, places: Places::default() }
    }

    /// What is shown.
    #[must_use]
    pub const fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Whose volume appears at `place`.
    fn number_at(&self, place: Place) -> Option<u32> {
        match place.0 {
            0 => None,
            number @ 1..=Place::MOST_NUMBERS => Some(number.into()),
            Place::MOUNTED.. => self.places.get(place).map(|mounted| mounted.number),
            _ => {
                let letter = ('A'..='Z').find(|letter| Place::of_letter(*letter) == Some(place))?;
                self.guest.by_letter(letter)
            }
        }
    }

    pub(super) fn spot(&self, node: NodeId) -> Result<Spot<'_>, FsError> {
        let unknown = || no_such(format!("node {:#x}", node.0));
        let file = node.file().ok_or_else(unknown)?;
        if node.place() != Place::OURS {
            let number = self.number_at(node.place()).ok_or_else(unknown)?;
            let fs = self.guest.file_system(number).ok_or_else(unknown)?;
            return Ok(Spot::Volume(Inside { place: node.place(), number, fs, file }));
        }
        match file.get() {
            1 => Ok(Spot::Top),
            LETTERS => Ok(Spot::Letters),
            DIGITS => Ok(Spot::Digits),
            ABOUT => Ok(Spot::About),
            other => {
                let index = other.checked_sub(FIRST_DOCUMENT).and_then(|index| usize::try_from(index).ok());
                index.and_then(|index| self.documents.get(index)).map(Spot::Document).ok_or_else(unknown)
            }
        }
    }

    /// The topmost folder of a volume, as it appears at `place`.
    fn root_at(&self, place: Place, number: u32) -> Option<NodeId> {
        Some(NodeId::new(place, self.guest.file_system(number)?.root()))
    }

    /// The folder that holds a node; that of the top is the top.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn parent(&self, node: NodeId) -> Result<NodeId, FsError> {
        let inside = match self.spot(node)? {
            Spot::Volume(inside) => inside,
            Spot::Document(_) => return Ok(ours(ABOUT)),
            _ => return Ok(NodeId::TOP),
        };
        if inside.file != inside.fs.root() {
            let folder = inside.fs.parent(inside.file)?;
            return Ok(inside.at(folder.unwrap_or_else(|| inside.fs.root())));
        }
        match self.places.get(inside.place) {
            Some(mounted) => self.parent(mounted.link),
            None if inside.place.0 <= Place::MOST_NUMBERS => Ok(ours(DIGITS)),
            None => Ok(ours(LETTERS)),
        }
    }

    /// The node that a name of a volume stands for: a link to the root of another volume is that volume, mounted on a folder.
    fn shown(&self, inside: Inside<'_>, file: FileId, kind: FileKind) -> (NodeId, FileKind) {
        let mounted = if kind == FileKind::Link { self.mounted_on(inside, file) } else { None };
        match mounted {
            Some(root) => (root, FileKind::Folder),
            None => (inside.at(file), kind),
        }
    }

    fn mounted_on(&self, inside: Inside<'_>, link: FileId) -> Option<NodeId> {
        let number = links::whole_volume(&self.guest, inside.fs.as_ref(), link)?;
        let place = self.places.mount(inside.at(link), inside.number, number)?;
        self.root_at(place, number)
    }

    /// The node of this name in a folder, and what is known of it.
    ///
    /// # Errors
    /// See [`FsError`]. No such name is `None`.
    pub fn find(&self, folder: NodeId, name: &[u8], case: Case) -> Result<Option<Found>, FsError> {
        let inside = match self.spot(folder)? {
            Spot::Volume(inside) => inside,
            Spot::Document(document) => return Err(FsError::NotAFolder { what: document.name.into() }),
            _ => {
                let node = self.find_ours(folder, name, case)?;
                return Ok(node.map(|node| Found { node, metadata: self.metadata(node) }));
            }
        };
        let Some(file) = inside.fs.find(inside.file, name, case)? else { return Ok(None) };
        let metadata = inside.fs.metadata(file);
        let link = metadata.as_ref().is_ok_and(|metadata| metadata.kind == FileKind::Link);
        if !link {
            return Ok(Some(Found { node: inside.at(file), metadata }));
        }
        let (node, _) = self.shown(inside, file, FileKind::Link);
        Ok(Some(Found { node, metadata: self.metadata(node) }))
    }

    fn find_ours(&self, folder: NodeId, name: &[u8], case: Case) -> Result<Option<NodeId>, FsError> {
        let mut found = None;
        self.list(folder, 0, &mut |entry| {
            let same = match case {
                Case::Exact => entry.name == name,
                Case::Ignored => entry.name.eq_ignore_ascii_case(name),
            };
            if !same {
                return ControlFlow::Continue(());
            }
            found = Some(entry.node);
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Hands the entries of a folder to `each`, from 0 or [`TreeEntry::next`] on.
    ///
    /// # Errors
    /// See [`FsError`]; what was handed out before is right.
    pub fn list(
        &self,
        folder: NodeId,
        from: u64,
        each: &mut dyn FnMut(TreeEntry) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let names: Vec<(Vec<u8>, NodeId, FileKind)> = match self.spot(folder)? {
            Spot::Volume(inside) => return self.list_volume(inside, from, each),
            Spot::Document(document) => return Err(FsError::NotAFolder { what: document.name.into() }),
            Spot::Top => [("letters", LETTERS), ("digits", DIGITS), (".stillframe", ABOUT)]
                .map(|(name, number)| (name.into(), ours(number), FileKind::Folder))
                .into(),
            Spot::Letters => self.letters(),
            Spot::Digits => self.digits(),
            Spot::About => {
                let numbers = FIRST_DOCUMENT..;
                let documents = self.documents.iter().zip(numbers);
                documents.map(|(document, number)| (document.name.into(), ours(number), FileKind::File)).collect()
            }
        };
        for ((name, node, kind), next) in names.into_iter().zip(1..) {
            if next > from && each(TreeEntry { name, node, kind, next }).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn letters(&self) -> Vec<(Vec<u8>, NodeId, FileKind)> {
        let node = |letter| self.root_at(Place::of_letter(letter)?, self.guest.by_letter(letter)?);
        let named = self.guest.letters.keys().filter_map(|letter| Some((letter.to_string(), node(*letter)?)));
        named.map(|(name, node)| (name.into_bytes(), node, FileKind::Folder)).collect()
    }

    fn digits(&self) -> Vec<(Vec<u8>, NodeId, FileKind)> {
        let node = |number| self.root_at(Place::of_number(number)?, number);
        let named = self.guest.readable().filter_map(|(number, _)| Some((number.to_string(), node(number)?)));
        named.map(|(name, node)| (name.into_bytes(), node, FileKind::Folder)).collect()
    }

    fn list_volume(
        &self,
        inside: Inside<'_>,
        from: u64,
        each: &mut dyn FnMut(TreeEntry) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        inside.fs.list(inside.file, from, &mut |entry| {
            let (node, kind) = self.shown(inside, entry.file, entry.kind);
            each(TreeEntry { name: entry.name, node, kind, next: entry.next })
        })
    }

    /// What is known of a node. Of a link, the size is that of its text.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn metadata(&self, node: NodeId) -> Result<Metadata, FsError> {
        let inside = match self.spot(node)? {
            Spot::Volume(inside) => inside,
            Spot::Document(document) => return Ok(our_metadata(FileKind::File, ByteLen::of(&document.bytes))),
            _ => return Ok(our_metadata(FileKind::Folder, ByteLen(0))),
        };
        let mut metadata = inside.fs.metadata(inside.file)?;
        if metadata.kind == FileKind::Link {
            metadata.size = links::text(self, inside).map_or(ByteLen(0), |text| ByteLen::of(&text));
        }
        Ok(metadata)
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn open(&self, node: NodeId) -> Result<Box<dyn ReadAt>, FsError> {
        match self.spot(node)? {
            Spot::Volume(inside) => inside.fs.open(inside.file),
            Spot::Document(document) => Ok(Box::new(MemDisk::new(document.bytes.clone()))),
            _ => Err(FsError::IsAFolder { what: format!("node {:#x}", node.0) }),
        }
    }

    /// Where a link leads, as a path that never leaves the tree.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn link_text(&self, node: NodeId) -> Result<Vec<u8>, FsError> {
        match self.spot(node)? {
            Spot::Volume(inside) => links::text(self, inside),
            _ => Err(FsError::NotALink { what: format!("node {:#x}", node.0) }),
        }
    }

    /// The names of a node's extended attributes.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn xattrs(&self, node: NodeId) -> Result<Vec<Vec<u8>>, FsError> {
        match self.spot(node)? {
            Spot::Volume(inside) => inside.fs.xattrs(inside.file),
            _ => Ok(Vec::new()),
        }
    }

    /// The value of an extended attribute, `None` if there is none.
    ///
    /// # Errors
    /// [`FsError::TooLarge`] beyond `limit`, and see [`FsError`].
    pub fn xattr(&self, node: NodeId, name: &[u8], limit: usize) -> Result<Option<Vec<u8>>, FsError> {
        match self.spot(node)? {
            Spot::Volume(inside) => inside.fs.xattr(inside.file, name, limit),
            _ => Ok(None),
        }
    }

    /// How much the volume of a node holds, in blocks, and the size of a block; above the volumes, all of them together.
    #[must_use]
    pub fn space(&self, node: NodeId) -> (u64, u32) {
        const BLOCK: u32 = 4096;
        let number = self.number_at(node.place());
        let sizes = self.guest.volumes.iter().filter(|volume| number.is_none_or(|number| volume.number == number));
        let bytes = sizes.fold(0u64, |sum, volume| sum.saturating_add(volume.size.0));
        let cluster = number.and_then(|number| self.guest.file_system(number)).map(|fs| fs.about().cluster.0);
        let block = cluster.and_then(|size| u32::try_from(size).ok()).filter(|size| (512..=2 << 20).contains(size));
        let block = block.unwrap_or(BLOCK);
        (bytes / u64::from(block), block)
    }

    /// How many folders lie between a folder of a place and the top of the tree.
    pub(super) fn height(&self, inside: Inside<'_>, folder: FileId) -> Result<usize, FsError> {
        let depth = links::depth(inside.fs.as_ref(), folder)?;
        let above = match self.places.get(inside.place) {
            None => 2, // letters/C, digits/1
            Some(mounted) => {
                let Spot::Volume(outer) = self.spot(mounted.link)? else { return Err(no_such("place")) };
                let holder = outer.fs.parent(outer.file)?.unwrap_or_else(|| outer.fs.root());
                self.height(outer, holder)?.saturating_add(1) // places are nested to a bounded depth
            }
        };
        Ok(depth.saturating_add(above))
    }
}

fn our_metadata(kind: FileKind, size: ByteLen) -> Metadata {
    // The same in every run, so no time of this run.
    let never = Timestamp::default();
    let links = if kind == FileKind::Folder { 2 } else { 1 };
    let (created, modified, changed, accessed) = (never, never, never, never);
    Metadata { kind, size, allocated: size, links, attributes: 1, created, modified, changed, accessed }
}
