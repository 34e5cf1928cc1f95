//! The process that lives as long as the mount.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use blockdev::ReadAt;
use fuser::Session;
use guestfs::Cache;
use rustix::process::{getegid, geteuid};

use super::attach::attach;
use super::directory::Directory;
use super::errors::ErrorLog;
use super::fuse::Served;
use super::report::Report;
use super::sandbox::lock_in;
use super::spec::{Answer, MountSpec, receive, send};
use super::volumes::{self, CACHE};
use super::{Guest, Tree, link};
use crate::config::StateDir;
use crate::disk::Source;
use crate::error::{Context, Error, Family, Result};
use crate::job::Journal;

/// The hidden command that makes a process the server of a mount.
pub const SERVER_COMMAND: &str = "mount-server";
/// The URI of runs that need no hypervisor.
pub const LOCAL: &str = "image:";

/// The disks of a mount, with the names by which reports call them.
pub type Disks = Vec<(String, Arc<dyn ReadAt>)>;

/// Serves a mount until it is unmounted. Standard input is the socket to the process that started this one.
#[must_use]
pub fn server_main() -> ExitCode {
    server_main_with(open_disks, volumes::open)
}

/// The same with other disks and other readers. `open` may use files and network; what `read` does with the disks is locked in.
pub fn server_main_with(
    open: impl FnOnce(&MountSpec, Vec<UnixStream>) -> Result<Disks>,
    read: impl FnOnce(Disks, &Arc<Cache>) -> Guest,
) -> ExitCode {
    let control = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let Ok(mut control) = control else { return ExitCode::from(Family::Usage.exit_code()) };
    let told = link::receive_streams(&control).failed(String::new);
    let told = told.and_then(|streams| Ok((streams, receive::<MountSpec>(&control)?)));
    let Ok((streams, Some(spec))) = told else {
        return ExitCode::from(Family::Usage.exit_code()); // nobody is there to tell
    };
    let prepared = prepare(&spec, |spec| open(spec, streams), read);
    let (answer, mount) = match prepared {
        Ok((report, mount)) => (Answer::of(Ok(report)), Some(mount)),
        Err(error) => (Answer::of(Err(error)), None),
    };
    let told = send(&mut control, &answer);
    drop(control);
    match (mount, answer, told) {
        (Some(mount), _, Ok(())) => mount.serve(),
        (None, Answer::Failed { exit_code, .. }, _) => ExitCode::from(exit_code),
        _ => ExitCode::from(Family::Failed.exit_code()),
    }
}

/// A mount that is ready.
struct Ready {
    session: Session<Served>,
    errors: Arc<ErrorLog>,
    log: File,
    nothing: File,
    /// Held as long as this process lives: so long nobody takes the run for dead. A keeper of the disks has the journal of its run.
    _journal: Option<Journal>,
}

fn prepare(
    spec: &MountSpec,
    open: impl FnOnce(&MountSpec) -> Result<Disks>,
    read: impl FnOnce(Disks, &Arc<Cache>) -> Guest,
) -> Result<(Report, Ready)> {
    let what = || "cannot leave the terminal".to_owned();
    rustix::process::setsid().failed(what)?;
    let nothing = OpenOptions::new().read(true).write(true).open("/dev/null").failed(what)?;
    rustix::stdio::dup2_stdin(&nothing).failed(what)?;
    let disks = open(spec)?;
    let state = StateDir::at(&spec.state)?;
    let log_path = log_path(&state, spec)?;
    let log = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&log_path);
    let log = log.failed(|| format!("cannot make {}", log_path.display()))?;
    let directory = Directory::plan(&spec.directory)?;
    let journal = if spec.kept.is_empty() { Some(directory.journal(&state, spec)?) } else { None };
    directory.make()?;
    let (tree, errors) = (Arc::new(OnceLock::new()), Arc::new(ErrorLog::default()));
    let owner = (geteuid().as_raw(), getegid().as_raw());
    let served = Served::new(Arc::clone(&tree), Arc::clone(&errors), owner);
    let session = attach(served, &directory.path, spec.run, spec.allow_other)?;
    let layers = lock_in(&directory.path);

    let guest = volumes::readable(read(disks, &Cache::new(CACHE)))?;
    let mut report = Report::of(&guest, spec.run, spec.source.clone()).locked_in(layers);
    report.path = directory.path.display().to_string();
    report.snapshot.clone_from(&spec.snapshot);
    report.warnings.extend(spec.warnings.iter().cloned());
    let documents = report.documents();
    let _ = tree.set(Tree::new(guest, documents)); // it is set here alone
    Ok((report, Ready { session, errors, log, nothing, _journal: journal }))
}

fn log_path(state: &StateDir, spec: &MountSpec) -> Result<PathBuf> {
    Ok(state.mount_logs()?.join(format!("{}.log", spec.run)))
}

impl Ready {
    fn serve(self) -> ExitCode {
        // A request whose thread panicked would wait for ever; the end of the process ends them all.
        std::panic::set_hook(Box::new(|panic| {
            crate::tell(&format!("ended by a fault of this program: {panic}"));
            std::process::abort();
        }));
        // From here on the terminal is somebody else's.
        let detached = rustix::stdio::dup2_stdout(&self.nothing).and_then(|()| rustix::stdio::dup2_stderr(&self.log));
        if detached.is_err() {
            return ExitCode::from(Family::Failed.exit_code());
        }
        let ended = self.session.run();
        let met = self.errors.count_so_far();
        if met > 0 {
            crate::tell(&format!("ended after {met} errors"));
        }
        match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                crate::tell(&format!("the mount broke off: {error}"));
                ExitCode::from(Family::Failed.exit_code())
            }
        }
    }
}

/// Opens the images, or takes over the disks that another process keeps: all of them, or those of the images that are behind a network.
///
/// # Errors
/// As for [`open_images`] and [`link::disks`].
pub fn open_disks(spec: &MountSpec, streams: Vec<UnixStream>) -> Result<Disks> {
    if streams.is_empty() {
        return open_images(spec);
    }
    let disks = link::disks(streams)?;
    let remote = spec.images.iter().map(super::ImageSpec::is_remote).collect::<Result<Vec<_>>>()?;
    let named = spec.kept.len() + remote.iter().filter(|remote| **remote).count();
    if disks.len() != named {
        return Err(Error::new(Family::Failed, format!("{} disks are kept, and {named} are named", disks.len())));
    }
    let mut disks = disks.into_iter();
    let mut all: Disks = spec.kept.iter().cloned().zip(disks.by_ref().take(spec.kept.len())).collect();
    for (image, remote) in spec.images.iter().zip(remote) {
        let kept = if remote { disks.next() } else { None };
        all.push(match kept {
            Some(disk) => (image.source().name(), disk),
            None => open_image(image)?,
        });
    }
    Ok(all)
}

/// Opens the images, and all files that these name.
///
/// # Errors
/// As for [`Source::open`].
pub fn open_images(spec: &MountSpec) -> Result<Disks> {
    if spec.images.is_empty() {
        return Err(Error::new(Family::Usage, "no image is named"));
    }
    spec.images.iter().map(open_image).collect()
}

fn open_image(image: &super::ImageSpec) -> Result<(String, Arc<dyn ReadAt>)> {
    let source = image.source();
    Ok((source.name(), Source::open(&source)?.into_disk()))
}
