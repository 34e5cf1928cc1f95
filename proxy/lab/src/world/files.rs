//! The files of the datastores, as a client of the lab may see and change them.

use std::fs::File;
use std::os::fd::OwnedFd;

use jiff::Timestamp;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::state::{State, VmState};
use super::{DATASTORES, DatastorePath, DirEntry, FileError, LabError, Power, VmId, World};

/// Folders in folders that a client may name: more than any datastore has.
const MAX_DEPTH: usize = 32;

impl From<Errno> for FileError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT => Self::NotFound,
            Errno::EXIST => Self::Exists,
            Errno::LOOP => Self::Bad("a symbolic link"),
            Errno::NOTDIR => Self::Bad("not a folder"),
            Errno::ISDIR => Self::Bad("a folder"),
            Errno::NAMETOOLONG => Self::Bad("too long"),
            other => Self::Io(other.into()),
        }
    }
}

/// The components of a path beneath a datastore.
fn components(path: &str) -> Result<Vec<&str>, FileError> {
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').filter(|_| !path.is_empty()).collect();
    if parts.len() > MAX_DEPTH {
        return Err(FileError::Bad("too deep"));
    }
    for part in &parts {
        if part.is_empty() || *part == "." || *part == ".." || part.contains('\0') {
            return Err(FileError::Bad("an empty component, a dot or a NUL in it"));
        }
    }
    Ok(parts)
}

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl World {
    /// Opens a file for reading. The data of a layer that a running VM writes is [`FileError::Locked`]; frozen layers, descriptors
    /// and everything else is readable. Nothing outside the datastore is ever reached, neither by `..` nor by a link.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn open_file(&self, datastore: &str, path: &str) -> Result<File, FileError> {
        let (folder, name) = self.open_parent(datastore, path)?;
        let path = DatastorePath::new(datastore, path);
        if let Some(vm) = self.core().state.vms.iter().find(|vm| writes(vm, &path)) {
            return Err(FileError::Locked(vm.id.clone()));
        }
        // NONBLOCK: a FIFO that somebody put there must not stop us before we see that it is none.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(&folder, name, flags, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(FileError::Bad("not a file")) }
    }

    /// What a folder holds, sorted by name. The empty path is the datastore itself.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn list_dir(&self, datastore: &str, path: &str) -> Result<Vec<DirEntry>, FileError> {
        let folder = self.open_folder(datastore, &components(path)?)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if name == "." || name == ".." {
                continue;
            }
            entries.push(DirEntry {
                name: name.to_owned(),
                len: if is_dir { 0 } else { u64::try_from(stat.st_size).unwrap_or(0) },
                is_dir,
                modified: Timestamp::from_second(stat.st_mtime).ok(),
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Makes a folder, and those above it if `with_parents`.
    ///
    /// # Errors
    /// [`FileError::Exists`] if something of that name is there.
    pub fn make_directory(&self, datastore: &str, path: &str, with_parents: bool) -> Result<(), FileError> {
        let parts = components(path)?;
        let Some((name, above)) = parts.split_last() else { return Err(FileError::Exists) };
        let mode = Mode::from_raw_mode(0o755);
        for depth in 0..if with_parents { above.len() } else { 0 } {
            let folder = self.open_folder(datastore, &above[..depth])?;
            match rustix::fs::mkdirat(&folder, above[depth], mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(rustix::fs::mkdirat(self.open_folder(datastore, above)?, *name, mode)?)
    }

    /// Deletes a file, or a folder with everything in it.
    ///
    /// # Errors
    /// [`FileError::Locked`] if it is, or holds, a file of a registered VM.
    pub fn delete_file(&self, datastore: &str, path: &str) -> Result<(), FileError> {
        let (folder, name) = self.open_parent(datastore, path)?;
        let path = DatastorePath::new(datastore, path.trim_end_matches('/'));
        // The state stays locked meanwhile, so that no VM is registered from files that are being deleted.
        let core = self.core();
        if let Some(vm) = owner(&core.state, &path) {
            return Err(FileError::Locked(vm));
        }
        remove(&folder, name, 0)
    }

    pub(super) fn open_folder(&self, datastore: &str, parts: &[&str]) -> Result<OwnedFd, FileError> {
        if !self.core().state.datastores.iter().any(|known| known.name == datastore) {
            return Err(FileError::NotFound);
        }
        let root = self.inner.dir.join(DATASTORES).join(datastore);
        let mut folder = rustix::fs::open(&root, FOLDER, Mode::empty())?;
        for part in parts {
            folder = rustix::fs::openat(&folder, *part, FOLDER, Mode::empty())?;
        }
        Ok(folder)
    }

    /// The folder of a file, open, and the file's name.
    pub(super) fn open_parent<'a>(&self, datastore: &str, path: &'a str) -> Result<(OwnedFd, &'a str), FileError> {
        let parts = components(path)?;
        let (name, above) = parts.split_last().ok_or(FileError::Bad("the datastore itself"))?;
        Ok((self.open_folder(datastore, above)?, name))
    }

    /// The registered VM that has this file, or a file in this folder.
    pub(super) fn owner_of(&self, path: &DatastorePath) -> Option<VmId> {
        owner(&self.core().state, path)
    }

    /// As [`open_file`](Self::open_file), for the lab's own use: the error names the path, locks do not count.
    pub(super) fn check_file(&self, path: &DatastorePath) -> Result<u64, LabError> {
        let failed = |source| LabError::File { path: path.clone(), source };
        let (folder, name) = self.open_parent(&path.datastore, &path.path).map_err(failed)?;
        let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed(e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed(FileError::Bad("not a file")));
        }
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }
}

/// Whether this is the data of a layer that is written: the newest of a running VM, or one that takes in another.
fn writes(vm: &VmState, path: &DatastorePath) -> bool {
    if vm.vmx.folder() != path.folder() {
        return false;
    }
    let name = path.file_name();
    let leaf = |disk: &super::state::DiskState| disk.layers.last().is_some_and(|layer| layer.data == name);
    let target = |disk: &super::state::DiskState| {
        let merging = |lower: &str| vm.pending.iter().any(|p| p.key == disk.key && p.lower == lower);
        disk.layers.iter().any(|layer| layer.data == name && merging(&layer.descriptor))
    };
    vm.disks.iter().any(|disk| (vm.power == Power::PoweredOn && leaf(disk)) || target(disk))
}

fn owner(state: &State, path: &DatastorePath) -> Option<VmId> {
    let below = |file: &DatastorePath| {
        let rest = file.path.strip_prefix(&path.path);
        file.datastore == path.datastore && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    state.vms.iter().find(|vm| files_of(vm).any(|file| below(&file))).map(|vm| vm.id.clone())
}

/// All files that a registered VM needs.
pub(super) fn files_of(vm: &VmState) -> impl Iterator<Item = DatastorePath> {
    let layers = vm.disks.iter().flat_map(|disk| &disk.layers);
    let disks = layers.flat_map(|layer| [layer.descriptor.as_str(), layer.data.as_str()]);
    [vm.vmx.file_name(), vm.nvram.as_str()].into_iter().chain(disks).map(|name| vm.file(name))
}

fn remove(folder: &OwnedFd, name: &str, depth: usize) -> Result<(), FileError> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return Ok(other?),
    }
    if depth > MAX_DEPTH {
        return Err(FileError::Bad("too deep"));
    }
    let inner = rustix::fs::openat(folder, name, FOLDER, Mode::empty())?;
    for entry in Dir::read_from(&inner)? {
        let entry = entry?;
        match entry.file_name().to_str() {
            Ok("." | "..") => {}
            Ok(name) => remove(&inner, name, depth + 1)?,
            Err(_) => return Err(FileError::Bad("a name in it is not UTF-8")),
        }
    }
    Ok(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
}
