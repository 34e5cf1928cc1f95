//! A libvirt host of our own with a running guest, and what is measured on it.

mod backup;
mod disks;
mod freeze;
mod read;

pub(crate) use backup::run as backup;
pub(crate) use disks::run as disks;
pub(crate) use freeze::run as freeze;
pub(crate) use read::run as read;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use acceptance::kvm::{Content, DiskSpec, Guest, GuestSpec, KvmHost};

use crate::measure;
use crate::problem::{Problem, Result, io};
use crate::stage::{DataDir, program};
use crate::vm_data;

/// A host, and where benchmarks put their data.
struct Bench {
    host: KvmHost,
    data: DataDir,
}

impl Bench {
    fn start() -> Result<Self> {
        let data = DataDir::take()?;
        let absent = || Problem::Wrong {
            what: "libvirt".into(),
            found: "absent; tests/peers/install.sh kvm installs it".into(),
        };
        Ok(Self { host: KvmHost::start().ok_or_else(absent)?, data })
    }

    /// A file with a virtual machine's data, to be copied onto disks.
    fn vm_data(&self, size: u64) -> Result<PathBuf> {
        let raw = self.data.path().join("vm.raw");
        vm_data::write(&raw, size)?;
        Ok(raw)
    }

    /// A guest whose log is on a small `vda`, and which has these disks beside.
    fn guest(&self, name: &str, disks: Vec<DiskSpec>) -> Guest {
        let log = DiskSpec::new("vda", "qcow2", Content::Ext4, 64);
        self.host.guest(GuestSpec::new(name).disks(std::iter::once(log).chain(disks).collect()))
    }

    /// `stillframe backup` of a guest.
    fn stillframe(&self, guest: &Guest, to: &Path, more: &[&str]) -> Result<Command> {
        let mut command = program()?;
        command
            .args(["backup", &format!("name:{}", guest.name()), "--quiesce", "require", "--progress", "none", "-o"])
            .arg(to.join("ours"))
            .args(more)
            .args(["--connect", &self.host.uri()])
            .env("STILLFRAME_STATE_DIR", self.data.path().join("state"));
        Ok(command)
    }

    /// `virtnbdbackup` of a guest, full, with its scratch files where ours are.
    fn virtnbdbackup(&self, guest: &Guest, to: &Path) -> Command {
        let mut command = Command::new("virtnbdbackup");
        command
            .args(["-U", &self.host.uri(), "-d", guest.name(), "-l", "full", "--raw", "--noprogress", "-S"])
            .arg(self.host.scratch())
            .arg("-o")
            .arg(to.join("theirs"));
        command
    }

    /// Removes the checkpoints of earlier rounds, whose cost the next one would have to bear.
    fn forget(&self, guest: &Guest) -> Result<()> {
        for checkpoint in guest.checkpoints().iter().rev() {
            let ended = guest.virsh("checkpoint-delete", &[checkpoint]);
            if ended.code != 0 {
                return Err(Problem::Wrong { what: format!("checkpoint {checkpoint}"), found: ended.stderr });
            }
        }
        Ok(())
    }
}

/// A pull backup that virsh began, for programs that read from it.
struct Pull<'a> {
    guest: &'a Guest,
    folder: PathBuf,
}

impl<'a> Pull<'a> {
    /// Exports one disk of a guest; `server` is the `<server …/>` of the job.
    fn begin(host: &KvmHost, guest: &'a Guest, disk: &str, server: impl Fn(&Path) -> String) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let folder = host.scratch().join("pull");
        fs::create_dir(&folder).map_err(io("make", &folder))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).map_err(io("open up", &folder))?;
        let others = guest.xml();
        let others = others.split("<target dev='").skip(1).filter_map(|rest| rest.split('\'').next());
        let others: String =
            others.filter(|other| *other != disk).map(|other| format!("<disk name='{other}' backup='no'/>")).collect();
        let xml = format!(
            "<domainbackup mode='pull'>{}<disks>{others}<disk name='{disk}' backup='yes' type='file' exportname='{disk}'>\
             <scratch file='{}/scratch'/></disk></disks></domainbackup>",
            server(&folder),
            folder.display()
        );
        let path = folder.join("backup.xml");
        fs::write(&path, xml).map_err(io("write", &path))?;
        let begun = guest.virsh("backup-begin", &[&path.to_string_lossy()]);
        if begun.code != 0 {
            return Err(Problem::Wrong { what: "backup-begin".into(), found: begun.stderr });
        }
        Ok(Self { guest, folder })
    }
}

impl Drop for Pull<'_> {
    fn drop(&mut self) {
        let _ = self.guest.virsh("domjobabort", &[]); // the host goes next
        acceptance::kvm::wait_for("the pull to end", || (!self.guest.has_job()).then_some(()));
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The image of a backup of ours that has this capacity.
fn image_of(directory: &Path, capacity: u64) -> Result<PathBuf> {
    let path = directory.join("manifest.json");
    let text = fs::read_to_string(&path).map_err(io("read", &path))?;
    let manifest = crate::stage::parse("the manifest", &text)?;
    let disks = manifest["disks"].as_array().cloned().unwrap_or_default();
    let found = disks.iter().find(|disk| disk["capacity"].as_u64() == Some(capacity));
    let file = found.and_then(|disk| disk["file"].as_str()).unwrap_or_default();
    Ok(directory.join(file))
}

/// Reads a disk's file, so that it is in memory before each run.
fn warm(file: PathBuf) -> impl Fn() -> Result<()> {
    move || measure::read_through(&file)
}
