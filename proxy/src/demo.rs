//! `stillframe demo`: what the program is for, shown and proven on the built-in lab.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blockdev::ReadAt;
use lab::face::{Happening, Lab};
use lab::world::{Template, World};
use serde::Serialize;
use vmdk_rs::Subformat;

use crate::cli::output;
use crate::config::{ConnectionUri, PasswordSources, StateDir};
use crate::error::{Context, Error, Family, Result};
use crate::export::Consistency;
use crate::hypervisor::{Connected, VmInfo, connect};
use crate::job::{BackupOptions, Cancel, HostLimit, Progress, Quiesce, Retry, backup};
use crate::restore::vsphere::{RestoreOptions, plan, restore};
use crate::restore::{Backup, verify};
use crate::transport::Transport;

/// One thing that was shown.
#[derive(Clone, Debug, Serialize)]
struct Proof {
    what: String,
    result: String,
    proven: bool,
}

struct Demo {
    home: PathBuf,
    lab: Lab,
    connected: Connected,
    state: StateDir,
    cancel: Cancel,
    proofs: Vec<Proof>,
}

/// Runs the demonstration in `dir`, or in a temporary directory that is removed afterwards.
///
/// # Errors
/// Anything that was not proven.
pub async fn run(dir: Option<PathBuf>, json: bool) -> Result<()> {
    let began = Instant::now();
    let (home, temporary) = home(dir)?;
    let result = show(&home, json).await;
    if temporary {
        std::fs::remove_dir_all(&home).failed(|| format!("cannot remove {}", home.display()))?;
    }
    let proofs = result?;
    if json {
        output::json(&proofs)?;
    } else {
        let rows: Vec<_> =
            proofs.iter().map(|p| vec![mark(p.proven).into(), p.what.clone(), p.result.clone()]).collect();
        output::table(&["", "WHAT", "RESULT"], &rows);
        output::line(&format!("\n{:.1} s in all. Next, try:", began.elapsed().as_secs_f64()));
        output::line("  stillframe lab serve --dir /tmp/lab &        # a vCenter of your own to play with");
        output::line("  stillframe vm list --connect lab:/tmp/lab");
        output::line("  stillframe backup name:linux-01 --connect lab:/tmp/lab -o /tmp/linux-01");
        output::line("  stillframe verify /tmp/linux-01");
    }
    match proofs.iter().find(|proof| !proof.proven) {
        None => Ok(()),
        Some(failed) => Err(Error::new(Family::Corrupt, format!("not proven: {}: {}", failed.what, failed.result))),
    }
}

const fn mark(proven: bool) -> &'static str {
    if proven { "ok" } else { "NO" }
}

fn home(dir: Option<PathBuf>) -> Result<(PathBuf, bool)> {
    let (path, temporary) = match dir {
        Some(dir) => (dir, false),
        None => (std::env::temp_dir().join(format!("stillframe-demo-{}", crate::job::RunId::new())), true),
    };
    if path.exists() {
        return Err(Error::new(Family::Exists, format!("{} exists", path.display())).hint("name a new directory"));
    }
    std::fs::create_dir(&path).failed(|| format!("cannot make {}", path.display()))?;
    let path = path.canonicalize().failed(|| format!("cannot use {}", path.display()))?;
    Ok((path, temporary))
}

async fn show(home: &Path, quiet: bool) -> Result<Vec<Proof>> {
    let lab_dir = home.join("lab");
    let create = {
        let dir = lab_dir.clone();
        tokio::task::spawn_blocking(move || World::create(&dir, Template::Demo))
    };
    let world = create.await.failed(|| "the lab was not made".into())?.failed(|| "cannot make the lab".into())?;
    let lab =
        Lab::serve(world, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.failed(|| "cannot serve the lab".into())?;
    let uri: ConnectionUri = format!("lab:{}", lab_dir.display()).parse()?;
    let connected = connect(&uri, &PasswordSources::default(), None).await?;
    if !quiet {
        output::line(&format!("A lab with two running VMs answers at https://{}/sdk.\n", lab.address()));
    }
    let mut demo = Demo {
        home: home.to_owned(),
        lab,
        connected,
        state: StateDir::at(&home.join("state"))?,
        cancel: Cancel::on_signals()?,
        proofs: Vec::new(),
    };
    let result = demo.all().await;
    let Demo { lab, connected, proofs, .. } = demo;
    connected.close().await;
    lab.stop().await;
    result.map(|()| proofs)
}

impl Demo {
    fn prove(&mut self, what: impl Into<String>, result: impl Into<String>, proven: bool) {
        self.proofs.push(Proof { what: what.into(), result: result.into(), proven });
    }

    async fn all(&mut self) -> Result<()> {
        let vms = self.connected.hypervisor.list().await?;
        self.prove(
            "find the VMs",
            vms.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>().join(", "),
            vms.len() == 2,
        );
        let mut last = None;
        for vm in &vms {
            last = Some(self.back_up(vm).await?);
        }
        if let Some(directory) = last {
            self.bring_back(&directory).await?;
        }
        self.look_around(&vms).await
    }

    /// Backs one VM up while its guest writes, reads it again, and looks into the guest's own log.
    async fn back_up(&mut self, vm: &VmInfo) -> Result<PathBuf> {
        let directory = self.home.join(vm.name.replace(' ', "-"));
        let options = BackupOptions {
            target: directory.clone(),
            since: None,
            subformat: Subformat::MonolithicSparse,
            quiesce: Quiesce::Require,
            transport: Transport::Auto,
            streams: 2,
            exclude: Vec::new(),
            audit: false,
            keep_points: crate::job::KEEP_POINTS,
            disks_at_once: 4,
            host: HostLimit::default(),
            bandwidth: None,
            removals: Retry::REMOVALS,
            command: "demo".into(),
        };
        let report = backup(&self.connected, &self.state, vm, &options, &Progress::silent(), &self.cancel).await?;
        let manifest = &report.manifest;
        let read: u64 = manifest.disks.iter().map(|disk| disk.bytes_read).sum();
        let capacity: u64 = manifest.disks.iter().map(|disk| disk.capacity).sum();
        let result = format!(
            "{} disks, {} read of {}, snapshot in {} ms",
            manifest.disks.len(),
            output::size(read),
            output::size(capacity),
            manifest.snapshot_ms
        );
        self.prove(format!("back up {}", vm.name), result, manifest.consistency == Consistency::Quiesced);

        let checked = verify(Backup::open(&directory, None)?, &Progress::silent(), &self.cancel).await?;
        self.prove(
            "  every byte as on the frozen disks",
            format!("{} digests equal", checked.len()),
            !checked.is_empty(),
        );
        self.check_guest(vm, &directory)?;
        Ok(directory)
    }

    fn check_guest(&mut self, vm: &VmInfo, directory: &Path) -> Result<()> {
        let backup = Backup::open(directory, None)?;
        let volumes = volumes(&backup)?;
        self.prove("  volumes inside", volumes.join(", "), !volumes.is_empty());
        let truth = self.last_freeze(vm);
        let disks: Vec<&dyn ReadAt> = backup.disks.iter().map(|disk| &disk.image as &dyn ReadAt).collect();
        let log = lab::guest::check(&disks, truth).failed(|| "cannot read the guest's log".into())?;
        let result = match log.problems.first() {
            None => format!("all {} records up to the freeze, none after", log.records_checked),
            Some(problem) => problem.clone(),
        };
        self.prove("  the guest's own log", result, log.consistent && truth.is_some() && log.records_checked > 0);
        Ok(())
    }

    /// What the lab noted when it held the guest: the transaction that it had committed last.
    fn last_freeze(&self, vm: &VmInfo) -> Option<u64> {
        self.lab.events().into_iter().rev().find_map(|event| match event.what {
            Happening::Freeze { vm: id, guest_log } if id == vm.moref.0 => guest_log,
            _ => None,
        })
    }

    /// Restores under another name and compares what the lab now holds with the backup.
    async fn bring_back(&mut self, directory: &Path) -> Result<()> {
        let backup = Backup::open(directory, None)?;
        let name = format!("{} restored", backup.manifest.as_ref().map_or("VM", |m| m.vm.name.as_str()));
        let options = RestoreOptions {
            source: directory.to_owned(),
            catalog: None,
            name: Some(name.clone()),
            datastore: None,
            folder: None,
            resource_pool: None,
            read_back: true,
        };
        let expected: Vec<_> = backup.disks.iter().map(|disk| disk.digest.clone()).collect();
        let plan = plan(&self.connected, &backup, &options).await?;
        let silent = Progress::silent();
        let id = restore(&self.connected, &self.state, backup, &plan, &silent, &self.cancel).await?;
        self.prove(format!("restore as \"{name}\""), format!("registered as moref:{id}"), true);

        let view = self.lab.world().vm(&lab::world::VmId(id.0.clone()));
        let mut found = Vec::new();
        for disk in view.map(|view| view.disks).unwrap_or_default() {
            let vm = lab::world::VmId(id.0.clone());
            let stored =
                self.lab.world().running_disk(&vm, disk.key).failed(|| "the restored disk is not there".into())?;
            let digest = crate::export::digest_of(stored.as_ref(), |_| {});
            found.push(Some(digest.map_err(|e| crate::transport::from_read(e, "cannot read the restored disk"))?));
        }
        self.prove(
            "  its disks on the datastore",
            format!("{} compared with the backup", found.len()),
            found == expected,
        );
        Ok(())
    }

    /// No snapshot is left, and the guests never stopped writing.
    async fn look_around(&mut self, vms: &[VmInfo]) -> Result<()> {
        let mut left = Vec::new();
        for vm in vms {
            left.extend(self.connected.hypervisor.snapshots(&vm.moref).await?.into_iter().map(|s| s.id.0));
        }
        self.prove("snapshots left on the host", format!("{}", left.len()), left.is_empty());
        let crate::job::Runs { dead, alive, .. } = crate::job::runs(&self.state)?;
        self.prove(
            "runs that still have something to undo",
            format!("{}", dead.len() + alive.len()),
            dead.is_empty() && alive.is_empty(),
        );
        let before = self.committed();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let after = self.committed();
        let writing = vms.len() == before.len() && before.iter().zip(&after).all(|(b, a)| a > b);
        let grown: u64 = after.iter().zip(&before).map(|(a, b)| a.saturating_sub(*b)).sum();
        self.prove("the guests go on writing", format!("{grown} transactions in the last 0.3 s"), writing);
        Ok(())
    }

    /// What each running guest has committed.
    fn committed(&self) -> Vec<u64> {
        self.lab.world().vms().iter().filter_map(|vm| self.lab.world().guest_committed(&vm.id)).collect()
    }
}

/// The volumes on a backup's disks.
fn volumes(backup: &Backup) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for disk in &backup.disks {
        let layout = guestfs::volumes(&disk.image).map_err(|e| {
            Error::new(Family::Corrupt, format!("the partition table of {} cannot be read", disk.address)).caused_by(e)
        })?;
        names.extend(layout.volumes.iter().map(|volume| format!("{} {}", volume.kind, output::size(volume.len.0))));
    }
    Ok(names)
}
