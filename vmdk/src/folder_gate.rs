use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use blockdev::{FileDisk, ReadAt};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::{Gate, NameError, PlainName, VmdkError};

/// Opens regular files inside one folder, and nothing else: no symbolic links, devices or pipes.
#[derive(Debug)]
pub struct FolderGate {
    folder: OwnedFd,
    path: String,
}

impl FolderGate {
    /// Opens the folder. It is kept open, so renaming it later changes nothing.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open_folder(folder: &Path) -> Result<Self, VmdkError> {
        let path = folder.display().to_string();
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::open(folder, flags, Mode::empty()) {
            Ok(folder) => Ok(Self { folder, path }),
            Err(e) => Err(VmdkError::Io { action: "open the folder", file: path, source: e.into() }),
        }
    }

    /// A folder that the caller has open; `shown` is what errors call it.
    #[must_use]
    pub fn new(folder: OwnedFd, shown: &str) -> Self {
        Self { folder, path: shown.to_owned() }
    }

    fn open_beneath(&self, name: &PlainName) -> Result<OwnedFd, Errno> {
        // NONBLOCK: opening a pipe must not wait for its other end. It has no effect on regular files.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.folder, name.as_str(), flags, Mode::empty(), resolve) {
            // Kernels before 5.6 and some sandboxes. A plain name has one component, which NOFOLLOW covers.
            Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(&self.folder, name.as_str(), flags, Mode::empty()),
            other => other,
        }
    }
}

impl Gate for FolderGate {
    fn open(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        let refused = |source| VmdkError::Name { name: name.as_str().to_owned(), source };
        let path = || format!("{}/{name}", self.path);
        let file = match self.open_beneath(name) {
            Ok(fd) => File::from(fd),
            Err(Errno::LOOP) => return Err(refused(NameError::Symlink)),
            Err(Errno::NXIO) => return Err(refused(NameError::NotRegular)), // sockets
            Err(e) => return Err(VmdkError::io("open", path())(e.into())),
        };
        if !file.metadata().map_err(VmdkError::io("examine", path()))?.is_file() {
            return Err(refused(NameError::NotRegular));
        }
        Ok(Arc::new(FileDisk::new(file).map_err(VmdkError::io("measure", path()))?))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use blockdev::ByteLen;

    use super::*;

    #[test]
    fn only_regular_files_of_the_folder_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x-flat.vmdk"), [7; 512]).unwrap();
        symlink("x-flat.vmdk", dir.path().join("link")).unwrap();
        symlink("/etc/passwd", dir.path().join("passwd")).unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = UnixListener::bind(dir.path().join("socket")).unwrap();

        let gate = FolderGate::open_folder(dir.path()).unwrap();
        let open = |name| gate.open(&PlainName::new(name).unwrap()).map(|disk| disk.size());
        assert_eq!(open("x-flat.vmdk").unwrap(), ByteLen(512));
        for (name, why) in [
            ("link", NameError::Symlink),
            ("passwd", NameError::Symlink),
            ("folder", NameError::NotRegular),
            ("fifo", NameError::NotRegular),
            ("socket", NameError::NotRegular),
        ] {
            let err = open(name).unwrap_err();
            assert!(matches!(err, VmdkError::Name { source, .. } if source == why), "{name}: {err:?}");
        }
        assert!(matches!(open("absent").unwrap_err(), VmdkError::Io { .. }));
    }

    #[test]
    fn a_device_is_refused() {
        let gate = FolderGate::open_folder(Path::new("/dev")).unwrap();
        let err = gate.open(&PlainName::new("null").unwrap()).map(|_| ()).unwrap_err();
        assert!(matches!(err, VmdkError::Name { source: NameError::NotRegular, .. }), "{err:?}");
    }
}
