use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lab::face::Lab;
use lab::world::{DiskSource, DiskSpec, Firmware, Template, VmSpec, World};

use super::args::{LabArgs, LabCommand};
use super::output;
use crate::error::{Context, Result};
use crate::job::Cancel;

pub(super) async fn run(args: LabArgs) -> Result<()> {
    match args.command {
        LabCommand::Serve { dir, listen } => serve(&dir, listen).await,
        LabCommand::AddVm { dir, name, disks, off, change_tracking } => {
            let add = move || add_vm(&dir, &name, disks, off, change_tracking);
            tokio::task::spawn_blocking(add).await.failed(|| "the VM was not added".into())?
        }
    }
}

/// Opens the lab in `dir`; an empty or new directory becomes one.
fn open(dir: &Path, template: Template) -> Result<World> {
    let what = || format!("cannot use the lab in {}", dir.display());
    std::fs::create_dir_all(dir).failed(what)?;
    let empty = std::fs::read_dir(dir).failed(what)?.next().is_none();
    if empty { World::create(dir, template).failed(what) } else { World::open(dir).failed(what) }
}

async fn serve(dir: &Path, listen: SocketAddr) -> Result<()> {
    let cancel = Cancel::on_signals()?;
    let owned = dir.to_owned();
    let world = tokio::task::spawn_blocking(move || open(&owned, Template::Demo));
    let world = world.await.failed(|| "the lab was not opened".into())??;
    let identity = world.identity();
    let lab = Lab::serve(world, listen).await.failed(|| format!("cannot serve the lab on {listen}"))?;
    let password_file = dir.join("lab.json");
    output::line(&format!("A simulated vCenter answers at https://{}/sdk until a signal.", lab.address()));
    output::line(&format!("user:     {} (the password stands in {})", identity.user, password_file.display()));
    output::line(&format!("SHA-256:  {}", lab.sha256()));
    output::line(&format!("SHA-1:    {}", lab.sha1()));
    output::line(&format!("try:      stillframe vm list --connect lab:{}", dir.display()));
    // Nothing else ends it.
    let ended: Result<()> = cancel.or_stop(std::future::pending()).await;
    drop(ended);
    lab.stop().await;
    Ok(())
}

fn add_vm(dir: &Path, name: &str, disks: Vec<PathBuf>, off: bool, change_tracking: bool) -> Result<()> {
    let world = open(dir, Template::Empty)?;
    let sources = disks.into_iter().map(|path| {
        let vmdk = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("vmdk"));
        DiskSpec { source: if vmdk { DiskSource::Vmdk(path) } else { DiskSource::RawFile(path) } }
    });
    let spec = VmSpec {
        name: name.to_owned(),
        datastore: "datastore1".to_owned(),
        disks: sources.collect(),
        guest_id: "otherGuest64".to_owned(),
        firmware: Firmware::Bios,
        ip: None,
        host_name: None,
        power_on: !off,
        tools: true,
        change_tracking,
    };
    let id = world.add_vm(&spec).failed(|| format!("cannot add {name}"))?;
    output::line(&format!("{name} is moref:{id}"));
    Ok(())
}
