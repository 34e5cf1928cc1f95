//! Opening: from a descriptor to its extents, and on to its parents.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, ReadAt};

use crate::convert::{MAX_CAPACITY, sectors_to_bytes, to_u64, to_usize};
use crate::layer::{Layer, Piece, Source};
use crate::sparse::{
    COWD_MAGIC, Caches, GrainMap, Grains, HOSTED_MAGIC, HostedHeader, SESPARSE_MAGIC, check_inside, read_cowd,
    read_sesparse,
};
use crate::{Access, CreateType, Descriptor, ExtentLine, ExtentType, Gate, MAX_DESCRIPTOR_LEN, PlainName, VmdkError};

/// The most disks of a chain. VMware allows 32 snapshots of a disk; linked clones add some more.
const MAX_DEPTH: usize = 64;

/// Opens a disk and all its parents, the nearest first.
pub(crate) fn open_chain(file: Arc<dyn ReadAt>, name: &str, gate: &dyn Gate) -> Result<(Layer, Vec<Layer>), VmdkError> {
    let mut opener = Opener::new(gate);
    let mut seen = Seen::new(name);
    let top = opener.layer(file, name)?;
    let mut parents: Vec<Layer> = Vec::new();
    loop {
        let child = parents.last().unwrap_or(&top);
        let Some(parent) = parent_of(&child.name, &child.descriptor)? else { break };
        seen.note(&parent)?;
        let layer = opener.layer(parent.open(gate)?, parent.file.as_str())?;
        check_content(&child.name, &child.descriptor, parent.file.as_str(), &layer.descriptor)?;
        parents.push(layer);
    }
    Ok((top, parents))
}

/// Where a disk's parent is looked for.
pub(crate) struct Parent {
    /// A folder beside that of the disk; none for the disk's own.
    pub(crate) folder: Option<PlainName>,
    pub(crate) file: PlainName,
}

impl Parent {
    pub(crate) fn open(&self, gate: &dyn Gate) -> Result<Arc<dyn ReadAt>, VmdkError> {
        match &self.folder {
            Some(folder) => gate.open_parent_in(folder, &self.file),
            None => gate.open_parent(&self.file),
        }
    }
}

/// The disks of a chain so far: it must not come back to one, nor go on for ever.
pub(crate) struct Seen {
    first: String,
    /// Folder and file; of disks in their child's folder that of the child.
    names: HashSet<(Option<String>, String)>,
    folder: Option<String>,
}

impl Seen {
    pub(crate) fn new(first: &str) -> Self {
        Self { first: first.to_owned(), names: HashSet::from([(None, first.to_owned())]), folder: None }
    }

    pub(crate) fn note(&mut self, parent: &Parent) -> Result<(), VmdkError> {
        if let Some(folder) = &parent.folder {
            self.folder = Some(folder.to_string());
        }
        if !self.names.insert((self.folder.clone(), parent.file.to_string())) {
            return Err(VmdkError::Loop { file: self.first.clone(), again: parent.file.to_string() });
        }
        if self.names.len() > MAX_DEPTH {
            return Err(VmdkError::TooDeep { file: self.first.clone(), limit: MAX_DEPTH });
        }
        Ok(())
    }
}

/// Where a disk's parent is.
pub(crate) fn parent_of(name: &str, descriptor: &Descriptor) -> Result<Option<Parent>, VmdkError> {
    let hint = descriptor.parent_file_name_hint.as_ref().filter(|hint| !hint.is_empty());
    let hint = match (descriptor.parent_content_id, hint) {
        (None, None) => return Ok(None),
        // Some products say so of a parent whose content ID was never set; whether it is the right one cannot be told.
        (None, Some(hint)) => {
            return Err(VmdkError::ParentWithoutContent { file: name.to_owned(), hint: hint.clone() });
        }
        (Some(parent_content_id), None) => {
            return Err(VmdkError::NoParent { file: name.to_owned(), parent_content_id });
        }
        (Some(_), Some(hint)) => hint,
    };
    match PlainName::last_component(hint) {
        Ok(file) => Ok(Some(Parent { folder: folder_beside(hint), file })),
        Err(source) => Err(VmdkError::Name { name: hint.clone(), source }),
    }
}

/// The folder of `../folder/file`. All other paths are those of some machine, of which only the last part counts.
fn folder_beside(hint: &str) -> Option<PlainName> {
    let (folder, _file) = hint.strip_prefix("../")?.split_once('/').filter(|(_, file)| !file.contains('/'))?;
    PlainName::new(folder).ok()
}

/// Checks that a parent has the content that its child is a delta to.
pub(crate) fn check_content(
    child_name: &str,
    child: &Descriptor,
    parent_name: &str,
    parent: &Descriptor,
) -> Result<(), VmdkError> {
    let actual = parent.content_id;
    match child.parent_content_id {
        Some(expected) if expected != actual => {
            Err(VmdkError::ContentId { child: child_name.to_owned(), expected, parent: parent_name.to_owned(), actual })
        }
        _ => Ok(()),
    }
}

/// Opens the files of a chain.
pub(crate) struct Opener<'a> {
    gate: &'a dyn Gate,
    caches: Arc<Caches>,
    /// Sparse extents opened so far, for telling them apart in the caches.
    extents: u32,
}

/// What the file of a descriptor says, before its extents are opened.
pub(crate) struct Head {
    pub(crate) descriptor: Descriptor,
    /// The extent around the descriptor, if it lies inside one.
    inside: Option<(Arc<dyn ReadAt>, Grains)>,
}

/// Files that were asked of the gate, by name.
pub(crate) type OpenFiles = HashMap<PlainName, Arc<dyn ReadAt>>;

impl<'a> Opener<'a> {
    pub(crate) fn new(gate: &'a dyn Gate) -> Self {
        Self { gate, caches: Arc::default(), extents: 0 }
    }

    /// Opens one disk of a chain with all its extents, which are asked of the gate, each file once.
    fn layer(&mut self, file: Arc<dyn ReadAt>, name: &str) -> Result<Layer, VmdkError> {
        let head = self.head(file, name)?;
        let mut files = OpenFiles::new();
        let (mut pieces, mut end) = (Vec::new(), 0u64);
        for line in &head.descriptor.extents {
            let len = extent_len(line, name)?;
            let source = self.source(&head, line, name, &mut files)?;
            pieces.push(Piece { start: end, len, source });
            end = end.saturating_add(len);
        }
        check_size(end, name)?;
        Ok(Layer { name: name.to_owned(), descriptor: head.descriptor, pieces, size: end })
    }

    /// Reads the descriptor of a file that is one, or that has one inside.
    pub(crate) fn head(&self, file: Arc<dyn ReadAt>, name: &str) -> Result<Head, VmdkError> {
        let mut magic = [0; 8];
        let len = to_usize(file.size().0).min(magic.len());
        let (start, _) = magic.split_at_mut(len);
        file.read_exact_at(ByteOffset(0), start).map_err(VmdkError::read(name))?;
        let not = |found| VmdkError::NotADescriptor { file: name.to_owned(), found };
        if magic.starts_with(&HOSTED_MAGIC) {
            return embedded(file, name);
        }
        if magic.starts_with(&COWD_MAGIC) {
            return Err(not("it is a redo log (COWD), whose descriptor is another file"));
        }
        if magic == SESPARSE_MAGIC {
            return Err(not("it is a space-efficient extent (SESPARSE), whose descriptor is another file"));
        }
        let descriptor = read_descriptor(&*file, name, ByteOffset(0), file.size().0)?;
        check_create_type(&descriptor, name)?;
        Ok(Head { descriptor, inside: None })
    }

    /// What holds an extent.
    pub(crate) fn source(
        &mut self,
        head: &Head,
        line: &ExtentLine,
        of: &str,
        files: &mut OpenFiles,
    ) -> Result<Source, VmdkError> {
        let len = extent_len(line, of)?;
        if let Some((file, grains)) = &head.inside {
            return Ok(Source::Sparse(self.grain_map(Arc::clone(file), of, grains.clone(), len)?));
        }
        if line.kind == ExtentType::Zero {
            return Ok(Source::Zero);
        }
        let unsupported = |dialect: &str| VmdkError::Dialect { file: of.to_owned(), dialect: presentable(dialect) };
        if line.access == Access::NoAccess {
            return Err(unsupported("NOACCESS"));
        }
        let text = line.file.as_deref().unwrap_or_default();
        if is_device(line, &head.descriptor.create_type) {
            return flat(self.gate.open_device(text)?, text, line, len);
        }
        let name = PlainName::new(text).map_err(|source| VmdkError::Name { name: text.to_owned(), source })?;
        let read_header = match line.kind {
            ExtentType::Sparse => |file: &dyn ReadAt, name: &str| Ok(HostedHeader::read(file, name)?.grains),
            ExtentType::VmfsSparse => read_cowd,
            ExtentType::SeSparse => read_sesparse,
            ExtentType::Flat | ExtentType::Vmfs => return flat(self.file(&name, files)?, text, line, len),
            _ => return Err(unsupported(line.kind.as_str())),
        };
        let file = self.file(&name, files)?;
        let grains = read_header(&*file, name.as_str())?;
        Ok(Source::Sparse(self.grain_map(file, name.as_str(), grains, len)?))
    }

    /// A file of the image, asked of the gate once.
    fn file(&self, name: &PlainName, files: &mut OpenFiles) -> Result<Arc<dyn ReadAt>, VmdkError> {
        if let Some(file) = files.get(name) {
            return Ok(Arc::clone(file));
        }
        let file = self.gate.open(name)?;
        files.insert(name.clone(), Arc::clone(&file));
        Ok(file)
    }

    fn grain_map(
        &mut self,
        file: Arc<dyn ReadAt>,
        name: &str,
        mut grains: Grains,
        len: u64,
    ) -> Result<GrainMap, VmdkError> {
        if grains.capacity < len {
            return Err(VmdkError::Field {
                file: name.to_owned(),
                field: "capacity",
                position: ByteOffset(if grains.entries.width() == 8 { 0x10 } else { 0x0c }),
                actual: grains.capacity / blockdev::SECTOR_SIZE,
                expected: "at least the sectors that the descriptor says",
            });
        }
        grains.capacity = len; // a header may round up to whole grains, of which the last need not be whole
        self.extents = self.extents.wrapping_add(1); // at most 64 disks of 4100 extents
        GrainMap::new(file, name, grains, self.extents, Arc::clone(&self.caches))
    }
}

/// A sparse file with its descriptor inside: its one extent is the file itself, by whatever name it was opened.
fn embedded(file: Arc<dyn ReadAt>, name: &str) -> Result<Head, VmdkError> {
    let header = HostedHeader::read(&*file, name)?;
    let Some((start, len)) = header.descriptor else {
        let found = "it is an extent without a descriptor inside";
        return Err(VmdkError::NotADescriptor { file: name.to_owned(), found });
    };
    check_inside(&*file, name, "the descriptor", start.0, to_u64(len))?;
    let descriptor = read_descriptor(&*file, name, start, to_u64(len))?;
    check_create_type(&descriptor, name)?;
    let [line] = descriptor.extents.as_slice() else {
        return Err(VmdkError::Unsupported {
            file: name.to_owned(),
            field: "the number of extents",
            actual: to_u64(descriptor.extents.len()),
            expected: "one extent in a file with its descriptor inside",
        });
    };
    if line.kind != ExtentType::Sparse {
        return Err(VmdkError::Dialect { file: name.to_owned(), dialect: presentable(line.kind.as_str()) });
    }
    Ok(Head { descriptor, inside: Some((file, header.grains)) })
}

/// Checks the size of a disk.
pub(crate) fn check_size(bytes: u64, name: &str) -> Result<(), VmdkError> {
    if (1..=sectors_to_bytes(MAX_CAPACITY.0)).contains(&bytes) {
        return Ok(());
    }
    Err(VmdkError::Unsupported {
        file: name.to_owned(),
        field: "the size of all extents in bytes",
        actual: bytes,
        expected: "1 sector to 64 TiB",
    })
}

/// A word of an image as it can be shown to people: it may be long, and hold what a terminal obeys.
fn presentable(word: &str) -> String {
    word.chars().take(60).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Whether an extent is on a device: by its type, or by a path in an image of a whole disk or of partitions. A plain name there
/// is a file beside the descriptor, such as the copy of a partition table.
fn is_device(line: &ExtentLine, create_type: &CreateType) -> bool {
    let raw = matches!(line.kind, ExtentType::VmfsRdm | ExtentType::VmfsRaw);
    let on_devices = matches!(create_type, CreateType::FullDevice | CreateType::PartitionedDevice);
    raw || on_devices
        && line.kind == ExtentType::Flat
        && PlainName::new(line.file.as_deref().unwrap_or_default()).is_err()
}

fn flat(file: Arc<dyn ReadAt>, name: &str, line: &ExtentLine, len: u64) -> Result<Source, VmdkError> {
    let offset = line.offset.unwrap_or_default().to_bytes().unwrap_or(ByteLen(u64::MAX)).0;
    check_inside(&*file, name, "the extent", offset, len)?;
    Ok(Source::Flat { file, name: name.to_owned(), offset })
}

/// Allows the create types that are known; what an extent is, its own type says.
fn check_create_type(descriptor: &Descriptor, name: &str) -> Result<(), VmdkError> {
    match &descriptor.create_type {
        CreateType::Other(other) => Err(VmdkError::Dialect { file: name.to_owned(), dialect: presentable(other) }),
        _ => Ok(()),
    }
}

fn extent_len(line: &ExtentLine, name: &str) -> Result<u64, VmdkError> {
    if (1..=MAX_CAPACITY.0).contains(&line.sectors.0) {
        return Ok(sectors_to_bytes(line.sectors.0));
    }
    Err(VmdkError::Unsupported {
        file: name.to_owned(),
        field: "the size of an extent in sectors",
        actual: line.sectors.0,
        expected: "1 sector to 64 TiB",
    })
}

/// Reads `len` bytes of a file as a descriptor. The limit stands before the buffer.
fn read_descriptor(file: &dyn ReadAt, name: &str, start: ByteOffset, len: u64) -> Result<Descriptor, VmdkError> {
    let len = to_usize(len);
    if len > MAX_DESCRIPTOR_LEN {
        let found = "it is longer than 1 MiB and no known extent";
        return Err(VmdkError::NotADescriptor { file: name.to_owned(), found });
    }
    let mut bytes = vec![0; len];
    file.read_exact_at(start, &mut bytes).map_err(VmdkError::read(name))?;
    Descriptor::parse(&bytes).map_err(|source| VmdkError::Descriptor { file: name.to_owned(), source })
}
