//! The folder on the host that a backup needs: what the guest overwrites meanwhile, and the socket that it is read through.
//!
//! On this machine each run has a folder of its own, `stillframe-<run>`, with a note whose it is, so that it can be told and removed
//! when everybody else is dead. On another machine nobody can make a folder: the files lie in the scratch folder itself, and libvirt
//! removes them when the backup ends.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::backup_xml::{name_of, run_in_name};
use crate::config::{LibvirtUri, StateDir};
use crate::error::{Context, Error, Family, Result};
use crate::hypervisor::VmId;
use crate::job::RunId;

/// Where scratch folders are made for the system's libvirt.
const SYSTEM: &str = "/var/lib/libvirt/qemu/stillframe";
/// Where scratch files go on another machine: a folder that every machine has, and everybody may write to.
const REMOTE: &str = "/var/tmp";
/// The kernel's limit for the path of a socket, without the zero at its end.
const LONGEST_SOCKET: usize = 107;
/// Whose a folder is: a UUID and a line.
const MARK: &str = "mark";
const MAX_MARK: u64 = 4096;

/// Where scratch files lie.
#[derive(Clone, Debug)]
pub(super) struct Scratch {
    root: PathBuf,
    local: bool,
}

/// What a folder of ours says of itself.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) run: RunId,
    pub(super) vm: VmId,
    pub(super) description: String,
}

impl Scratch {
    pub(super) fn new(uri: &LibvirtUri) -> Result<Self> {
        let local = uri.is_local();
        let root = match &uri.scratch {
            Some(named) => named.clone(),
            None if !local => PathBuf::from(REMOTE),
            None if uri.is_session() => StateDir::from_environment()?.path().join("scratch"),
            None => PathBuf::from(SYSTEM),
        };
        Ok(Self { root, local })
    }

    /// The folder of `run`, on this machine.
    fn folder(&self, run: RunId) -> PathBuf {
        self.root.join(name_of(run))
    }

    /// The scratch file of a disk.
    pub(super) fn file(&self, run: RunId, target: &str) -> PathBuf {
        if self.local {
            self.folder(run).join(format!("{target}.scratch"))
        } else {
            self.root.join(format!("{}-{target}", name_of(run)))
        }
    }

    /// A socket in the folder of `run`, by a name of one or two letters, because the kernel takes only short paths.
    pub(super) fn socket(&self, run: RunId, name: &str) -> Result<PathBuf> {
        let socket = self.folder(run).join(name);
        if socket.as_os_str().len() > LONGEST_SOCKET {
            let what = format!("the socket {} has a path of more than {LONGEST_SOCKET} bytes", socket.display());
            return Err(
                Error::new(Family::Usage, what).hint("name a shorter folder by scratch=DIR in the connection URI")
            );
        }
        Ok(socket)
    }

    /// Makes the folder of `run`. QEMU runs as `owner` and must write there; the folders above must only let it pass.
    pub(super) fn make(&self, run: RunId, vm: &VmId, description: &str, owner: Option<(u32, u32)>) -> Result<()> {
        if !self.local {
            return Ok(());
        }
        let folder = self.folder(run);
        let what = || format!("cannot make the scratch folder {}", folder.display());
        if !self.root.is_dir() {
            DirBuilder::new().recursive(true).mode(0o711).create(&self.root).failed(what)?;
        }
        DirBuilder::new().mode(0o700).create(&folder).failed(what)?;
        let mark = folder.join(MARK);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(mark).failed(what)?;
        file.write_all(format!("{vm}\n{description}\n").as_bytes()).failed(what)?;
        let Some((user, group)) = owner else { return Ok(()) };
        if user == rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        if chown(&folder, Some(user), Some(group)).is_err() {
            // Only root gives folders away. Whoever else runs us shares one whose name nobody guesses.
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o733)).failed(what)?;
        }
        Ok(())
    }

    /// Removes the folder of `run` with all in it, unless an overlay is among that: a machine may write to it. Gone already counts as success.
    ///
    /// # Errors
    /// [`Family::LeftBehind`] with an overlay in it.
    pub(super) fn remove(&self, run: RunId) -> Result<()> {
        let folder = self.folder(run);
        if self.local && self.holds(run, "overlay") {
            let what = format!("an overlay in {} may hold what the machine wrote", folder.display());
            return Err(Error::new(Family::LeftBehind, what).hint(
                "`virsh domblklist` shows whether the machine writes to it: then `virsh blockcommit --active --pivot`; remove the folder by hand when nothing names it",
            ));
        }
        self.remove_merged(run)
    }

    /// Removes the folder of `run`, whose overlays are known to be used by nobody.
    pub(super) fn remove_merged(&self, run: RunId) -> Result<()> {
        if !self.local {
            return Ok(());
        }
        let folder = self.folder(run);
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).failed(|| format!("cannot remove the scratch folder {}", folder.display()))
            }
            _ => Ok(()),
        }
    }

    /// Whether a scratch file of `run` is still there, as far as can be seen from here.
    pub(super) fn holds_files(&self, run: RunId) -> bool {
        self.local && self.holds(run, "scratch")
    }

    /// Whether the folder of `run` has a file that ends so.
    fn holds(&self, run: RunId, end: &str) -> bool {
        let Ok(entries) = fs::read_dir(self.folder(run)) else { return false };
        entries.flatten().any(|entry| entry.path().extension().is_some_and(|e| e == end))
    }

    /// What the folder of `run` says of itself.
    pub(super) fn mark(&self, run: RunId) -> Option<Mark> {
        let mut text = String::new();
        let file = fs::File::open(self.folder(run).join(MARK)).ok().filter(|_| self.local)?;
        file.take(MAX_MARK).read_to_string(&mut text).ok()?;
        let (vm, description) = text.trim_end().split_once('\n')?;
        Some(Mark { run, vm: VmId(vm.to_owned()), description: description.to_owned() })
    }

    /// The folders on this machine that runs made for `vm`.
    pub(super) fn of_vm(&self, vm: &VmId) -> Vec<Mark> {
        if !self.local {
            return Vec::new();
        }
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let runs = entries.flatten().filter_map(|entry| run_in_name(entry.file_name().to_str()?));
        runs.filter_map(|run| self.mark(run)).filter(|mark| mark.vm == *vm).collect()
    }

    /// Where it is, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_found_by_the_machine_it_is_for_and_removed_with_all_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch { root: dir.path().join("s"), local: true };
        let (run, vm) = (RunId::new(), VmId("u".into()));
        scratch.make(run, &vm, &run.description(), None).unwrap();
        fs::create_dir(scratch.root.join("stillframe-nonsense")).unwrap();
        let found = scratch.of_vm(&vm);
        assert_eq!((found.len(), found[0].run), (1, run));
        assert!(crate::job::made_here(&found[0].description));
        assert!(scratch.of_vm(&VmId("other".into())).is_empty());
        fs::write(scratch.file(run, "vda"), "x").unwrap();
        assert!(scratch.holds_files(run));
        scratch.remove(run).unwrap();
        scratch.remove(run).unwrap();
        assert!(scratch.of_vm(&vm).is_empty() && !scratch.holds_files(run));
    }

    #[test]
    fn a_folder_with_an_overlay_stays_until_it_is_known_to_be_merged() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch { root: dir.path().join("s"), local: true };
        let (run, vm) = (RunId::new(), VmId("u".into()));
        scratch.make(run, &vm, &run.description(), None).unwrap();
        fs::write(scratch.folder(run).join("vda.overlay"), "x").unwrap();
        assert_eq!(scratch.remove(run).unwrap_err().family(), Family::LeftBehind);
        assert_eq!(scratch.of_vm(&vm).len(), 1);
        scratch.remove_merged(run).unwrap();
        assert!(scratch.of_vm(&vm).is_empty());
    }

    #[test]
    fn a_socket_that_the_kernel_would_not_take_is_refused_with_the_way_out() {
        let scratch = Scratch { root: format!("/{}", "x".repeat(70)).into(), local: true };
        let error = scratch.socket(RunId::new(), "s").unwrap_err();
        assert!(error.line().contains("scratch=DIR"), "{}", error.line());
    }
}
