//! A disk image that is read.

use std::collections::HashMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{ByteLen, FileDisk, ReadAt};
use vmdk_rs::{FolderGate, Gate, Image, PlainName, VmdkError};

use super::network;
use crate::error::{Context, Error, Family, Result};
use crate::restore::base::base_of_folder;
use crate::transport::NbdDisk;

/// The form of an image that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SourceFormat {
    /// A VMDK of any dialect; named is the file with the descriptor.
    Vmdk,
    /// The bytes of the disk alone.
    Raw,
}

impl SourceFormat {
    /// The format's name, as qemu-img spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vmdk => "vmdk",
            Self::Raw => "raw",
        }
    }

    /// What the name of a file tells. Its content tells nothing: a guest may have written it.
    fn of_name(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let shown = path.display();
        if let Some(stem) = name.strip_suffix(".vmdk") {
            if holds_guest_data(stem) {
                let what = format!("{shown} is the data of a flat disk by its name, which a guest wrote");
                return Err(Error::new(Family::Usage, what)
                    .hint("name the descriptor, the .vmdk file beside it; or say --from raw"));
            }
            return Ok(Self::Vmdk);
        }
        if [".raw", ".img"].iter().any(|end| name.ends_with(end)) {
            return Ok(Self::Raw);
        }
        Err(Error::new(Family::Usage, format!("the name of {shown} does not tell its format"))
            .hint("say --from vmdk or --from raw; other formats can be converted by qemu-img"))
    }
}

/// Whether a file of this name may be made: a later look at the name must not take a guest's bytes for a VMDK, nor a VMDK for them.
///
/// # Errors
/// [`Family::Usage`].
pub(super) fn check_target_name(path: &Path, raw: bool) -> Result<()> {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let stem = name.strip_suffix(".vmdk").filter(|stem| !stem.is_empty());
    let what = |text: &str| Error::new(Family::Usage, format!("{} {text}", path.display()));
    match (raw, stem, stem.is_some_and(holds_guest_data)) {
        (true, Some(_), false) => {
            Err(what("is to be raw, and its name is that of a VMDK").hint("call it .raw or .img"))
        }
        (false, None, _) => Err(what("is to be a VMDK, and its name does not end in .vmdk")),
        (false, Some(_), true) => Err(what("is to be a VMDK, and its name is that of a flat disk's data")),
        _ => Ok(()),
    }
}

/// Whether a file of this name (without `.vmdk`) holds plain bytes of a guest: `x-flat`, `x-f001`, `x-rdm` or `x-rdmp`.
fn holds_guest_data(stem: &str) -> bool {
    let piece = stem
        .rsplit_once("-f")
        .is_some_and(|(_, number)| number.len() >= 3 && number.bytes().all(|byte| byte.is_ascii_digit()));
    piece || ["-flat", "-rdm", "-rdmp"].iter().any(|end| stem.ends_with(end))
}

/// Which image to read.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// The file, or an NBD URI.
    pub path: PathBuf,
    /// Its form; without one its name tells.
    pub format: Option<SourceFormat>,
    /// Other files and devices that it may name, and what is opened for them.
    pub map: Vec<(String, PathBuf)>,
}

/// An open image.
pub struct Source {
    /// Its path or URI, for people.
    pub path: PathBuf,
    opened: OpenedDisk,
    /// None for what is no file.
    gate: Option<SourceGate>,
    stem: String,
}

enum OpenedDisk {
    Vmdk(Box<Image>),
    Raw(FileDisk),
    Network(Box<NbdDisk>),
}

impl Source {
    /// Opens an image for reading.
    ///
    /// # Errors
    /// Its format is not told, a file cannot be opened, or the image contradicts its format.
    pub fn open(spec: &SourceSpec) -> Result<Self> {
        let source = match network::uri_of(&spec.path)? {
            Some(uri) => {
                network::check_spec(spec)?;
                let opened = OpenedDisk::Network(Box::new(network::open(&uri)?));
                Self { path: spec.path.clone(), opened, gate: None, stem: network::stem(&uri) }
            }
            None => Self::open_file(spec)?,
        };
        if source.size().0 == 0 {
            return Err(Error::new(Family::Corrupt, format!("{} is empty", spec.path.display())));
        }
        Ok(source)
    }

    fn open_file(spec: &SourceSpec) -> Result<Self> {
        let format = spec.format()?;
        let gate = SourceGate::new(&spec.path, &spec.map)?;
        let what = || format!("cannot open {}", spec.path.display());
        let file = gate.top(&spec.path)?;
        let opened = match format {
            SourceFormat::Raw => OpenedDisk::Raw(file),
            SourceFormat::Vmdk => {
                let image = Image::open(Arc::new(file), &spec.name(), &gate);
                let image = image.map_err(|e| match gate.state().trouble.take() {
                    Some(trouble) => trouble.within(what()),
                    None => hinted(crate::image_error(e, what())),
                });
                OpenedDisk::Vmdk(Box::new(image?))
            }
        };
        let stem = spec.path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { path: spec.path.clone(), opened, gate: Some(gate), stem })
    }

    /// Its name without what tells the format, for files that are made from it.
    #[must_use]
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// Whether it is behind a network, so that nobody knows what it takes there.
    #[must_use]
    pub const fn is_remote(&self) -> bool {
        matches!(self.opened, OpenedDisk::Network(_))
    }

    /// Its form.
    #[must_use]
    pub const fn format(&self) -> SourceFormat {
        match &self.opened {
            OpenedDisk::Vmdk(_) => SourceFormat::Vmdk,
            OpenedDisk::Raw(_) | OpenedDisk::Network(_) => SourceFormat::Raw,
        }
    }

    /// The image, if it is a VMDK.
    #[must_use]
    pub fn image(&self) -> Option<&Image> {
        match &self.opened {
            OpenedDisk::Vmdk(image) => Some(image),
            OpenedDisk::Raw(_) | OpenedDisk::Network(_) => None,
        }
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &dyn ReadAt {
        match &self.opened {
            OpenedDisk::Vmdk(image) => &**image,
            OpenedDisk::Raw(file) => file,
            OpenedDisk::Network(disk) => &**disk,
        }
    }

    /// The disk alone: all its files are open, and the folder that they lie in is let go.
    #[must_use]
    pub fn into_disk(self) -> Arc<dyn ReadAt> {
        match self.opened {
            OpenedDisk::Vmdk(image) => Arc::<Image>::from(image),
            OpenedDisk::Raw(file) => Arc::new(file),
            OpenedDisk::Network(disk) => Arc::<NbdDisk>::from(disk),
        }
    }

    /// The size of the disk.
    #[must_use]
    pub fn size(&self) -> ByteLen {
        self.disk().size()
    }

    /// The files of the named disk itself, not of its parents.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.gate.as_ref().map(SourceGate::opened).unwrap_or_default()
    }

    /// What was opened for a name that the disk at this depth of the chain has.
    #[must_use]
    pub fn path_of(&self, depth: usize, name: &str) -> PathBuf {
        self.gate.as_ref().map_or_else(|| name.into(), |gate| gate.path_of(depth, name))
    }
}

impl SourceSpec {
    /// The form of the file.
    ///
    /// # Errors
    /// It is not said, and the name does not tell.
    pub fn format(&self) -> Result<SourceFormat> {
        if network::uri_of(&self.path)?.is_some() {
            network::check_spec(self)?;
            return Ok(SourceFormat::Raw);
        }
        self.format.map_or_else(|| SourceFormat::of_name(&self.path), Ok)
    }

    /// The file's name, as chains and errors call it.
    #[must_use]
    pub fn name(&self) -> String {
        if let Ok(Some(uri)) = network::uri_of(&self.path) {
            return uri.to_string();
        }
        self.path
            .file_name()
            .map_or_else(|| self.path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// The named file and the gate to all others.
    ///
    /// # Errors
    /// The file or its folder cannot be opened.
    pub(super) fn open_gate(&self) -> Result<(FileDisk, SourceGate)> {
        let gate = SourceGate::new(&self.path, &self.map)?;
        Ok((gate.top(&self.path)?, gate))
    }
}

/// Says what can be done where the image names something that was not provided.
fn hinted(error: Error) -> Error {
    let mut cause = std::error::Error::source(&error);
    let mut hint = None;
    while let Some(error) = cause {
        hint = hint.or(match error.downcast_ref::<VmdkError>() {
            Some(VmdkError::NoDevice { .. }) => Some("--map NAME=PATH provides a device, or an image of it".to_owned()),
            Some(VmdkError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Some(
                "extents and parents are looked for beside the named file; --map NAME=PATH names another place".into(),
            ),
            _ => None,
        });
        cause = error.source();
    }
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Opens what lies beside the image, and what the user allowed by name; remembers what was opened. What a parent in another folder
/// names lies there, beside the parent.
pub(super) struct SourceGate {
    map: Vec<(String, PathBuf)>,
    state: Mutex<GateState>,
}

struct GateState {
    /// Why a parent in the folder of another backup was not found.
    trouble: Option<Error>,
    /// The disk of the chain whose files are asked for.
    depth: usize,
    folder: PathBuf,
    beside: Arc<FolderGate>,
    /// What was opened for the names of each disk of the chain. A split disk has thousands, and a map asks for each.
    opened: Vec<HashMap<String, PathBuf>>,
}

fn folder_of(path: &Path) -> (PathBuf, std::result::Result<FolderGate, VmdkError>) {
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let gate = FolderGate::open_folder(if folder.as_os_str().is_empty() { Path::new(".") } else { &folder });
    (folder, gate)
}

impl SourceGate {
    fn new(path: &Path, map: &[(String, PathBuf)]) -> Result<Self> {
        let (folder, beside) = folder_of(path);
        let beside = beside.map_err(|e| crate::image_error(e, format!("cannot open {}", path.display())))?;
        let state = GateState { depth: 0, folder, beside: Arc::new(beside), opened: Vec::new(), trouble: None };
        Ok(Self { map: map.to_vec(), state: Mutex::new(state) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn top(&self, path: &Path) -> Result<FileDisk> {
        let file = open_disk(path).failed(|| format!("cannot open {}", path.display()))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.state().note(&name, path.to_owned());
        Ok(file)
    }

    /// The files of the named disk itself, not of its parents.
    fn opened(&self) -> Vec<PathBuf> {
        self.state().opened.first().map(|files| files.values().cloned().collect()).unwrap_or_default()
    }

    fn mapped(&self, name: &str) -> Option<&PathBuf> {
        self.map.iter().find(|(known, _)| known == name).map(|(_, path)| path)
    }

    /// What was opened for a name that the disk at this depth of the chain has; where nothing was, what would have been.
    pub(super) fn path_of(&self, depth: usize, name: &str) -> PathBuf {
        let state = self.state();
        let opened = state.opened.get(depth).and_then(|files| files.get(name));
        let anywhere = || state.opened.iter().find_map(|files| files.get(name));
        match opened.or_else(anywhere) {
            Some(path) => path.clone(),
            None => self.mapped(name).cloned().unwrap_or_else(|| state.folder.join(name)),
        }
    }

    fn open_mapped(&self, name: &str, path: &Path) -> Result<Arc<dyn ReadAt>, VmdkError> {
        let file = open_disk(path).map_err(|source| VmdkError::Io {
            action: "open",
            file: path.display().to_string(),
            source,
        })?;
        self.state().note(name, path.to_owned());
        Ok(Arc::new(file))
    }
}

impl GateState {
    fn note(&mut self, name: &str, path: PathBuf) {
        if self.opened.len() <= self.depth {
            self.opened.resize_with(self.depth + 1, HashMap::new);
        }
        if let Some(files) = self.opened.get_mut(self.depth) {
            files.insert(name.to_owned(), path);
        }
    }
}

/// Opens a file or a block device. Of a pipe nobody knows the end.
fn open_disk(path: &Path) -> std::io::Result<FileDisk> {
    let kind = std::fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no file and no block device"));
    }
    FileDisk::open(path)
}

impl Gate for SourceGate {
    fn open(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        if let Some(path) = self.mapped(name.as_str()) {
            return self.open_mapped(name.as_str(), path);
        }
        let beside = Arc::clone(&self.state().beside);
        let file = beside.open(name)?;
        let mut state = self.state();
        let path = state.folder.join(name.as_str());
        state.note(name.as_str(), path);
        Ok(file)
    }

    fn open_parent(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        self.state().depth += 1;
        if let Some(path) = self.mapped(name.as_str()) {
            let (folder, beside) = folder_of(path);
            let beside = Arc::new(beside?);
            let mut state = self.state();
            (state.folder, state.beside) = (folder, beside);
        }
        self.open(name)
    }

    /// Other folders are those of the backups that the one in this folder needs, and no others: an image alone opens nothing there.
    fn open_parent_in(&self, _: &PlainName, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        if self.mapped(name.as_str()).is_some() {
            return self.open_parent(name);
        }
        let folder = self.state().folder.clone();
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
        match base_of_folder(folder) {
            Ok(None) => self.open_parent(name),
            Ok(Some(base)) => {
                let (path, gate) = base.into_parts();
                let mut state = self.state();
                (state.folder, state.beside) = (path, Arc::new(gate));
                drop(state);
                self.open_parent(name)
            }
            Err(error) => {
                self.state().trouble = Some(error);
                Err(VmdkError::Denied { name: name.to_string() })
            }
        }
    }

    fn open_device(&self, name: &str) -> Result<Arc<dyn ReadAt>, VmdkError> {
        match self.mapped(name) {
            Some(path) => self.open_mapped(name, path),
            None => Err(VmdkError::NoDevice { name: name.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_the_format_and_data_of_guests_is_never_taken_for_a_descriptor() {
        let of = |name: &str| SourceFormat::of_name(Path::new(name)).map_err(|e| e.family());
        for (name, format) in [("a/x.vmdk", SourceFormat::Vmdk), ("x-s001.VMDK", SourceFormat::Vmdk)] {
            assert_eq!(of(name), Ok(format), "{name}");
        }
        assert_eq!((of("x.raw"), of("x.img")), (Ok(SourceFormat::Raw), Ok(SourceFormat::Raw)));
        for name in ["x", "x.qcow2", "x-flat.vmdk", "x-f001.vmdk", "x-F1000.vmdk", "x-rdm.vmdk", "x-000001-flat.vmdk"] {
            assert_eq!(of(name), Err(Family::Usage), "{name}");
        }
        assert_eq!(of("x-f01.vmdk"), Ok(SourceFormat::Vmdk));
    }

    #[test]
    fn what_is_written_is_taken_for_what_it_is_later() {
        let may = |name: &str, raw| check_target_name(Path::new(name), raw).is_ok();
        assert!(may("a/x.raw", true) && may("x", true) && may("x-flat.vmdk", true) && !may("x.vmdk", true));
        assert!(may("x.vmdk", false) && may("x.VMDK", false));
        assert!(!may("x", false) && !may(".vmdk", false) && !may("x-flat.vmdk", false) && !may("x-f001.vmdk", false));
    }
}
