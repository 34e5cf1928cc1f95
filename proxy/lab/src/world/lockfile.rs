//! One process at a time works with a lab.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::LabError;

const FILE_NAME: &str = "lab.lock";

/// The lock on a lab, with our process id in it. Released when dropped, also by a killed process (`flock(2)`).
pub(super) struct LockFile {
    _file: File,
}

impl LockFile {
    pub(super) fn take(dir: &Path) -> Result<Self, LabError> {
        let path = dir.join(FILE_NAME);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(LabError::io("open", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(LabError::InUse { dir: dir.to_owned(), pid: read_pid(&mut file) });
            }
            Err(error) => return Err(LabError::io("lock", &path)(error.into())),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(LabError::io("write", &path))?;
        Ok(Self { _file: file })
    }
}

/// The process that has the lab in `dir` open, if one has; 0 if it did not leave its number.
#[must_use]
pub fn lock_holder(dir: &Path) -> Option<u32> {
    let mut file = File::open(dir.join(FILE_NAME)).ok()?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => Some(read_pid(&mut file)),
        _ => None,
    }
}

fn read_pid(file: &mut File) -> u32 {
    let mut text = String::new();
    let read = file.take(16).read_to_string(&mut text);
    read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or(0)
}
