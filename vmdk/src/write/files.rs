//! The files of an image that is being written, few of them open at a time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::out_file::OutFile;
use crate::VmdkError;

/// The most files open at once, each with up to two descriptors: an 8 TiB disk in pieces has 4099, a process may usually
/// open 1024.
const MAX_OPEN: usize = 32;

/// The files that were made, by number.
#[derive(Debug)]
pub(super) struct Files {
    paths: Vec<PathBuf>,
    /// Open files, the last used at the end.
    open: Mutex<Vec<(usize, Arc<OutFile>)>>,
}

impl Files {
    /// Makes all files, none of which may exist; if one does, those made before it are removed again.
    pub(super) fn create(paths: Vec<PathBuf>) -> Result<Self, VmdkError> {
        for (made, path) in paths.iter().enumerate() {
            if let Err(error) = File::create_new(path).map_err(failed("create", path)) {
                remove(paths.get(..made).unwrap_or_default());
                return Err(error);
            }
        }
        Ok(Self { paths, open: Mutex::default() })
    }

    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The open file of a number.
    pub(super) fn get(&self, number: usize) -> Result<Arc<OutFile>, VmdkError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = open.iter().position(|(n, _)| *n == number) {
            let entry = open.remove(place);
            let file = Arc::clone(&entry.1);
            open.push(entry);
            return Ok(file);
        }
        let path = self.path(number);
        let file = Arc::new(OutFile::open(path).map_err(failed("open", path))?);
        if open.len() >= MAX_OPEN {
            open.remove(0);
        }
        open.push((number, Arc::clone(&file)));
        Ok(file)
    }

    /// The path of a number, for errors.
    pub(super) fn path(&self, number: usize) -> &Path {
        self.paths.get(number).map_or(Path::new(""), PathBuf::as_path)
    }
}

/// Removes files; what cannot be removed stays.
pub(super) fn remove(paths: &[PathBuf]) {
    for path in paths {
        let _ = std::fs::remove_file(path);
    }
}

/// An error of doing something with a file.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> VmdkError {
    VmdkError::io(action, path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_overwritten_and_none_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "c"].map(|name| dir.path().join(name));
        std::fs::write(&paths[1], "keep").unwrap();
        assert!(matches!(Files::create(paths.to_vec()), Err(VmdkError::Io { action: "create", .. })));
        assert_eq!(std::fs::read_to_string(&paths[1]).unwrap(), "keep");
        assert!(!paths[0].exists() && !paths[2].exists());
    }

    #[test]
    fn few_files_are_open_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::create((0..100).map(|i| dir.path().join(i.to_string())).collect()).unwrap();
        for number in 0..100 {
            files.get(number).unwrap();
        }
        assert_eq!(files.open.lock().unwrap().len(), MAX_OPEN);
    }
}
