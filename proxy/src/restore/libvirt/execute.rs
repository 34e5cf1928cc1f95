//! Doing what the plan says, under the journal.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::image::{must_be, read_back, write};
use super::super::source::{Backup, BackupDisk};
use super::plan::{Plan, PlannedDisk, refuse_living};
use super::tpm;
use crate::config::StateDir;
use crate::disk::blocking;
use crate::disk::staged::move_to_new;
use crate::error::{Context, Error, Family, Result};
use crate::export::{Staging, with_space_hint};
use crate::hypervisor::{Connected, DomainHost, VmId, is_refusal};
use crate::job::{Act, Cancel, Journal, Progress, Retry, RunId, no_panic, undone};
use crate::sync_folder;

/// What the folder of a TPM is called before it gets its name.
const TPM: &str = "tpm";

/// Restores by `plan`. Answers the new domain's id. It is not started yet: see [`start`].
///
/// # Errors
/// What went wrong; then the host has nothing of ours, or the error says what is left.
pub async fn restore(
    connected: &Connected,
    state: &StateDir,
    backup: Backup,
    plan: &Plan,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<VmId> {
    let hypervisor = connected.hypervisor.as_ref();
    let host = host_of(connected)?;
    let run = RunId::new();
    let _only_one = state.lock_vm(&connected.uri.place(), &plan.uuid)?;
    let mut journal = Journal::begin(state, run, "restore", &connected.uri.to_string())?;
    let work = Work { host, place: connected.uri.place(), plan, progress, cancel, run };
    let vm = match no_panic(work.run(&mut journal, backup)).await {
        Ok(vm) => vm,
        Err(error) => return Err(undone(error, hypervisor, journal, Retry::REMOVALS).await),
    };
    journal.done()?;
    journal.finish()?;
    Ok(vm)
}

/// Starts a restored domain.
///
/// # Errors
/// What the host says; the domain stays as it is.
pub async fn start(connected: &Connected, vm: &VmId, plan: &Plan) -> Result<()> {
    let started = host_of(connected)?.start(vm).await;
    started.map_err(|e| e.within(format!("{} is restored, and cannot be started", plan.name)))
}

fn host_of(connected: &Connected) -> Result<&dyn DomainHost> {
    let host = connected.hypervisor.domains();
    host.ok_or_else(|| Error::new(Family::Unsupported, format!("{} is no libvirt host", connected.uri.place())))
}

struct Work<'a> {
    host: &'a dyn DomainHost,
    place: String,
    plan: &'a Plan,
    progress: &'a Progress,
    cancel: &'a Cancel,
    run: RunId,
}

impl Work<'_> {
    /// Where a file is before it gets its name: on the same file system.
    fn staged(&self, path: &Path) -> PathBuf {
        let folder = path.parent().unwrap_or(Path::new("/")).join(Staging::partial_name(self.run));
        path.file_name().map_or_else(|| folder.clone(), |name| folder.join(name))
    }

    /// The folders that files are placed in.
    fn folders(&self) -> BTreeSet<PathBuf> {
        let files = self.plan.disks.iter().map(|disk| &disk.to).chain(self.plan.nvram.iter().map(|file| &file.to));
        let mut folders: BTreeSet<PathBuf> = files.filter_map(|path| path.parent().map(Path::to_owned)).collect();
        if !self.plan.tpm.is_empty() {
            folders.insert(self.plan.tpm_folder.clone());
        }
        folders
    }

    async fn run(&self, journal: &mut Journal, backup: Backup) -> Result<VmId> {
        let plan = self.plan;
        self.cancel.check()?;
        let mut stagings = Vec::new();
        for folder in self.folders() {
            let path = folder.join(Staging::partial_name(self.run));
            let act = journal.intend(Act::Directory { path: path.clone() })?;
            let made = DirBuilder::new().mode(0o700).create(&path);
            made.failed(|| format!("cannot make {}", path.display())).map_err(with_space_hint)?;
            stagings.push((act, path));
        }
        self.small_files(&backup)?;
        for disk in backup.disks {
            let planned = plan.disks.iter().find(|planned| planned.address == disk.address);
            let planned =
                planned.ok_or_else(|| Error::new(Family::Failed, format!("{} was not planned", disk.address)))?;
            let what = format!("cannot restore {} of {}", disk.address, plan.name);
            self.disk(planned, disk).await.map_err(|e| e.within(what))?;
        }
        self.cancel.check()?;
        self.place_all(journal)?;
        for (act, path) in stagings {
            fs::remove_dir(&path).failed(|| format!("cannot remove {}", path.display()))?;
            journal.settle(act)?;
        }
        self.define(journal).await
    }

    /// NVRAM and TPM state, into the staging folders.
    fn small_files(&self, backup: &Backup) -> Result<()> {
        if let Some(nvram) = &self.plan.nvram {
            let path = self.staged(&nvram.to);
            let bytes = backup.checked_file(&nvram.from)?;
            let what = || format!("cannot write {}", path.display());
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path).failed(what)?;
            file.write_all(&bytes).and_then(|()| file.sync_all()).failed(what).map_err(with_space_hint)?;
        }
        let Some(first) = self.plan.tpm.first() else { return Ok(()) };
        let version = first.to.parent().and_then(|folder| folder.file_name()).and_then(|name| name.to_str());
        let mut files = Vec::new();
        for file in &self.plan.tpm {
            let name = file.to.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            files.push((name.to_owned(), backup.checked_file(&file.from)?));
        }
        let staged = self.plan.tpm_folder.join(Staging::partial_name(self.run)).join(TPM);
        tpm::write(&self.plan.tpm_folder, &staged, version.unwrap_or_default(), &files).map_err(with_space_hint)
    }

    async fn disk(&self, planned: &PlannedDisk, disk: BackupDisk) -> Result<()> {
        let label = format!("{} {}", self.plan.name, planned.target);
        let meter = self.progress.meter(&label, planned.capacity);
        let (image, path, format, cancel) =
            (Arc::new(disk.image), self.staged(&planned.to), planned.format, self.cancel.clone());
        let (to, stop) = (path.clone(), cancel.clone());
        let written = blocking(move || write(image.as_ref(), &to, format, meter, &stop)).await?;
        must_be(&written, disk.digest.as_ref(), &planned.from)?;
        if !self.plan.read_back {
            return Ok(());
        }
        let meter = self.progress.meter(&format!("{label} (reading back)"), planned.capacity);
        let stored = blocking(move || read_back(&path, format, meter, &cancel)).await?;
        if stored != written {
            let what = format!("{} does not hold what was written: {stored}", planned.to.display());
            return Err(Error::new(Family::Corrupt, what).hint("the storage changes bytes; use another one"));
        }
        Ok(())
    }

    /// Gives all files their names, each written down before.
    fn place_all(&self, journal: &mut Journal) -> Result<()> {
        let mut moves: Vec<(PathBuf, PathBuf)> = Vec::new();
        if let Some(folder) = self.plan.tpm.first().and_then(|file| Some(file.to.parent()?.parent()?.to_owned())) {
            moves.push((self.plan.tpm_folder.join(Staging::partial_name(self.run)).join(TPM), folder));
        }
        let files = self.plan.disks.iter().map(|disk| &disk.to).chain(self.plan.nvram.iter().map(|file| &file.to));
        moves.extend(files.map(|path| (self.staged(path), path.clone())));
        for (from, to) in &moves {
            let what = || format!("cannot complete {}", to.display());
            let found = fs::symlink_metadata(from).failed(what)?;
            let act = Act::Placed { path: to.clone(), device: found.dev(), inode: found.ino() };
            let placed = journal.intend(act)?;
            if let Err(error) = move_to_new(from, to) {
                if error != rustix::io::Errno::EXIST {
                    return Err(std::io::Error::from(error)).failed(what);
                }
                journal.settle(placed)?;
                return Err(Error::new(Family::Exists, format!("{} exists", to.display()))
                    .hint("somebody made it meanwhile; it was left alone"));
            }
        }
        for folder in self.folders() {
            sync_folder(&folder).failed(|| format!("cannot complete {}", folder.display()))?;
        }
        Ok(())
    }

    async fn define(&self, journal: &mut Journal) -> Result<VmId> {
        let plan = self.plan;
        let lost = || Error::new(Family::Failed, "the plan holds no domain");
        let mut domain = plan.domain.clone().ok_or_else(lost)?;
        domain.set_mark(&self.run.to_string());
        // libvirt would replace one that was defined in the meantime.
        refuse_living(self.host, &self.place, &plan.name, &plan.uuid).await?;
        self.progress.step(&format!("{}: defining", plan.name));
        let vm = VmId(plan.uuid.clone());
        let act =
            journal.intend(Act::Domain { vm, vm_name: plan.name.clone(), at: jiff::Timestamp::now().as_second() })?;
        let defined = match self.host.define(&domain.to_string()).await {
            Err(error) if is_refusal(&error) => {
                journal.settle(act)?; // nothing was made
                return Err(error.within(format!("the host does not take {}", plan.name)));
            }
            defined => defined?,
        };
        journal.learn(act, &defined.0)?;
        Ok(defined)
    }
}
