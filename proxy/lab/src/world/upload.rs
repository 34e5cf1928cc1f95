//! Files that come from outside: written beside their final name, there only when they are whole.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use uuid::Uuid;

use super::{DatastorePath, FileError, World, sparse};

/// A file that is being uploaded. Dropped before [`finish`](Self::finish), it leaves nothing behind.
pub struct Upload {
    world: World,
    path: DatastorePath,
    folder: OwnedFd,
    temporary: String,
    file: File,
    len: u64,
    at: u64,
}

impl World {
    /// Begins to write a file of `len` bytes. It replaces a file of that name, unless a registered VM has it.
    ///
    /// # Errors
    /// [`FileError::NotFound`] if the folder does not exist, [`FileError::Locked`]; others see [`FileError`].
    pub fn begin_upload(&self, datastore: &str, path: &str, len: u64) -> Result<Upload, FileError> {
        let (folder, _) = self.open_parent(datastore, path)?;
        let path = DatastorePath::new(datastore, path);
        if let Some(vm) = self.owner_of(&path) {
            return Err(FileError::Locked(vm));
        }
        let temporary = format!(".upload-{}", Uuid::new_v4().simple());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&folder, &temporary, flags, Mode::from_raw_mode(0o644))?);
        let upload = Upload { world: self.clone(), path, folder, temporary, file, len, at: 0 };
        upload.file.set_len(len)?;
        Ok(upload)
    }
}

impl Upload {
    /// Writes the next bytes. Blocks of zeros become holes.
    ///
    /// # Errors
    /// [`FileError::Length`] if these are more bytes than announced.
    pub fn write(&mut self, data: &[u8]) -> Result<(), FileError> {
        let end = self.at.saturating_add(data.len() as u64);
        if end > self.len {
            return Err(FileError::Length { expected: self.len, actual: end });
        }
        sparse::write(&self.file, self.at, data)?;
        self.at = end;
        Ok(())
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// [`FileError::Length`] if bytes are missing.
    pub fn finish(self) -> Result<(), FileError> {
        if self.at != self.len {
            return Err(FileError::Length { expected: self.len, actual: self.at });
        }
        self.file.sync_all()?;
        if let Some(vm) = self.world.owner_of(&self.path) {
            return Err(FileError::Locked(vm));
        }
        Ok(rustix::fs::renameat(&self.folder, &self.temporary, &self.folder, self.path.file_name())?)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // After `finish` there is no such file any more, which is as good.
        let _ = rustix::fs::unlinkat(&self.folder, &self.temporary, AtFlags::empty());
    }
}
