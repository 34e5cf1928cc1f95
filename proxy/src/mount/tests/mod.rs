//! Mounts for real: the kernel asks, and what it answers is compared with what was put in.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what a test skipped or measured is for its reader")]

mod kernel;
mod link;
mod links;
mod locked_in;
mod memory;
mod process;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use blockdev::ByteLen;
use guestfs::{FileSystem, VolumeKind};
use nix::mount::{MntFlags, umount2};
use uuid::Uuid;

use self::memory::Memory;
use super::attach::attach;
use super::errors::ErrorLog;
use super::fuse::Served;
use super::{Document, Guest, GuestVolume, Letter, Tree};
use crate::job::RunId;

/// Whether this process may mount. Where it may not, the tests say so and pass; on a CI machine they fail.
fn may_mount() -> bool {
    let may = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !may {
        let why = "skipped: mounting takes root and /dev/fuse";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
        eprintln!("{why}");
    }
    may
}

fn guid(number: u32) -> Uuid {
    Uuid::from_u128(number.into())
}

/// A guest whose volumes are these file systems, numbered from 1; the letters say which volume has them.
fn guest(volumes: Vec<Option<Memory>>, letters: &[(char, u32)]) -> Guest {
    let volume = |(content, number): (Option<Memory>, u32)| GuestVolume {
        number,
        disk: "disk0".into(),
        partition: Some(number),
        kind: VolumeKind::Ntfs,
        size: ByteLen(1 << 30),
        guids: vec![guid(number)],
        content: match content {
            Some(memory) => Ok(Arc::new(memory) as Arc<dyn FileSystem>),
            None => Err("it is of no use".into()),
        },
    };
    let letter = |(letter, volume): &(char, u32)| (*letter, Letter { volume: *volume, source: "the test".into() });
    Guest {
        lost_table: false,
        volumes: volumes.into_iter().zip(1..).map(volume).collect(),
        letters: letters.iter().map(letter).collect::<BTreeMap<_, _>>(),
        notes: Vec::new(),
    }
}

/// A mount that goes with the test.
struct Live {
    folder: tempfile::TempDir,
    server: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl Live {
    fn of(guest: Guest) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let report = Document { name: "report.json", bytes: b"{}".to_vec() };
        let tree = Arc::new(OnceLock::from(Tree::new(guest, vec![report])));
        let served = Served::new(tree, Arc::new(ErrorLog::default()), (7, 8));
        let session = attach(served, folder.path(), RunId::new(), false).unwrap();
        let server = std::thread::spawn(move || session.run());
        Self { folder, server: Some(server) }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
        let ended = self.server.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}
