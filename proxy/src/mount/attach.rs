//! The mount itself: one system call for root, fusermount3 for everybody else.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use fuser::{Config, MountOption, Session, SessionACL};
use nix::mount::{MntFlags, MsFlags, umount2};
use rustix::process::{getegid, geteuid};

use super::fuse::Served;
use super::table::{self, SUBTYPE};
use crate::error::{Context, Error, Family, Result};
use crate::job::RunId;

const DEVICE: &str = "/dev/fuse";
/// As many threads as cores, on one descriptor: on two cores, a file of 1 GiB in memory was read at 1.6 GB/s by two threads and at 1.1 GB/s by
/// one; a descriptor for each thread gained nothing, and would have to be opened after the lock-in. More than these are never needed to keep a disk busy.
const MOST_THREADS: usize = 8;

/// Mounts on `dir` and agrees with the kernel on how they talk. Requests wait until the session runs.
///
/// # Errors
/// What the kernel or fusermount3 says, with what is missing.
pub(super) fn attach(served: Served, dir: &Path, run: RunId, allow_other: bool) -> Result<Session<Served>> {
    let kernel = Arc::clone(&served.kernel);
    let session = if geteuid().is_root() {
        attach_as_root(served, dir, run, allow_other)
    } else {
        attach_by_helper(served, dir, run, allow_other)
    }?;
    if threads() > 1 {
        let _ = kernel.set(session.notifier()); // it is set here alone
    }
    read_further_ahead(dir);
    Ok(session)
}

fn config() -> Config {
    let mut config = Config::default();
    config.n_threads = Some(threads());
    config
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MOST_THREADS)
}

fn attach_as_root(served: Served, dir: &Path, run: RunId, allow_other: bool) -> Result<Session<Served>> {
    let device = File::options().read(true).write(true).open(DEVICE).failed(|| format!("cannot open {DEVICE}"));
    let device = device.map_err(|e| e.hint("`modprobe fuse`; in a container, --device /dev/fuse"))?;
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let fd = std::os::fd::AsRawFd::as_raw_fd(&device);
    let mut options = format!("fd={fd},rootmode=40555,user_id={user},group_id={group},default_permissions");
    if allow_other {
        options.push_str(",allow_other");
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let (source, kind) = (table::source_name(run), format!("fuse.{SUBTYPE}"));
    let what = || format!("cannot mount on {}", dir.display());
    let mounted = nix::mount::mount(Some(source.as_str()), dir, Some(kind.as_str()), flags, Some(options.as_str()));
    mounted.failed(what).map_err(|e| e.hint("mounting takes CAP_SYS_ADMIN; as another user fusermount3 does it"))?;
    // Who may ask is the kernel's to decide.
    Session::from_fd(served, device.into(), SessionACL::All, config()).failed(what).inspect_err(|_| {
        let _ = umount2(dir, MntFlags::MNT_DETACH); // the first error is told
    })
}

fn attach_by_helper(served: Served, dir: &Path, run: RunId, allow_other: bool) -> Result<Session<Served>> {
    let mut config = config();
    config.acl = if allow_other { SessionACL::All } else { SessionACL::Owner };
    config.mount_options = vec![
        MountOption::FSName(table::source_name(run)),
        MountOption::Subtype(SUBTYPE.into()),
        MountOption::DefaultPermissions,
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
    ];
    Session::new(served, dir, &config).map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::NotFound => "install fusermount3 (package fuse3), or run this as root",
            std::io::ErrorKind::PermissionDenied if allow_other => {
                "--allow-other takes the line user_allow_other in /etc/fuse.conf"
            }
            _ => "it takes a readable and writable /dev/fuse and a directory of your own, or root",
        };
        Error::new(Family::Failed, format!("cannot mount on {}", dir.display())).caused_by(e).hint(hint)
    })
}

/// The kernel reads 128 KiB ahead at most unless root says otherwise. Without it all works, only slower: 1.5 instead of 1.7 GB/s from
/// memory, and more where each request is a round trip.
fn read_further_ahead(dir: &Path) {
    let Ok(Some(mounted)) = table::at(dir) else { return };
    let setting = format!("/sys/class/bdi/{}/read_ahead_kb", mounted.device);
    if let Err(error) = std::fs::write(&setting, "1024") {
        tracing::debug!("{setting}: {error}");
    }
}
