use serde_json::json;

use super::args::VerifyArgs;
use super::output::{self, size};
use super::restore_args::RestoreArgs;
use crate::config::StateDir;
use crate::error::{Context, Result};
use crate::hypervisor::{Connected, DomainHost};
use crate::job::{Cancel, Progress};
use crate::restore::{Backup, libvirt, verify, vsphere};

pub(super) async fn run(args: RestoreArgs) -> Result<()> {
    let backup = open(&args.directory, args.catalog.as_deref()).await?;
    let cancel = Cancel::on_signals()?;
    let connected = args.connect.open(&cancel).await?;
    let result = match connected.hypervisor.domains() {
        Some(host) => to_libvirt(&args, &connected, host, backup, &cancel).await,
        None => to_vsphere(&args, &connected, backup, &cancel).await,
    };
    connected.close().await;
    result
}

async fn open(directory: &std::path::Path, catalog: Option<&std::path::Path>) -> Result<Backup> {
    let (directory, catalog) = (directory.to_owned(), catalog.map(std::path::Path::to_owned));
    let open = move || Backup::open(&directory, catalog.as_deref());
    tokio::task::spawn_blocking(open).await.failed(|| "the backup was not opened".into())?
}

async fn to_vsphere(args: &RestoreArgs, connected: &Connected, backup: Backup, cancel: &Cancel) -> Result<()> {
    let options = args.for_vsphere()?;
    let plan = cancel.or_stop(vsphere::plan(connected, &backup, &options)).await?;
    if args.dry_run {
        return dry_run(args, &plan, show_vsphere);
    }
    if !args.show.json {
        show_vsphere(&plan);
    }
    let state = StateDir::from_environment()?;
    let progress = Progress::new(args.show.progress);
    let vm = vsphere::restore(connected, &state, backup, &plan, &progress, cancel).await?;
    if args.show.json {
        return output::json(&json!({ "moref": vm, "plan": plan }));
    }
    output::line(&format!("{}: restored and registered as moref:{vm}, powered off", plan.name));
    Ok(())
}

async fn to_libvirt(
    args: &RestoreArgs,
    connected: &Connected,
    host: &dyn DomainHost,
    backup: Backup,
    cancel: &Cancel,
) -> Result<()> {
    let options = args.for_libvirt()?;
    let place = connected.uri.place();
    let plan = cancel.or_stop(libvirt::plan(host, &place, &backup, &options)).await?;
    if args.dry_run {
        return dry_run(args, &plan, show_libvirt);
    }
    if !args.show.json {
        show_libvirt(&plan);
    }
    let state = StateDir::from_environment()?;
    let progress = Progress::new(args.show.progress);
    let vm = libvirt::restore(connected, &state, backup, &plan, &progress, cancel).await?;
    if plan.start {
        libvirt::start(connected, &vm, &plan).await?;
    }
    if args.show.json {
        return output::json(&json!({ "moref": vm, "plan": plan }));
    }
    let power = if plan.start { "started" } else { "powered off" };
    output::line(&format!("{}: restored and defined as moref:{vm}, {power}", plan.name));
    Ok(())
}

fn dry_run<P: serde::Serialize>(args: &RestoreArgs, plan: &P, show: fn(&P)) -> Result<()> {
    if args.show.json {
        return output::json(plan);
    }
    show(plan);
    output::line("Nothing was done (--dry-run).");
    Ok(())
}

fn show_vsphere(plan: &vsphere::RestorePlan) {
    let identity = if plan.new_identity { "a new VM" } else { "the original VM" };
    output::line(&format!("{} comes back as {identity} in {} ({})", plan.name, plan.folder, plan.datacenter));
    let rows: Vec<Vec<String>> =
        plan.disks.iter().map(|d| vec![d.address.clone(), d.from.clone(), d.to.clone(), size(d.capacity)]).collect();
    output::table(&["DISK", "FROM", "TO", "CAPACITY"], &rows);
    for note in &plan.notes {
        output::line(&format!("note: {note}"));
    }
}

fn show_libvirt(plan: &libvirt::Plan) {
    let new = |is: bool| if is { "new" } else { "its old" };
    let (uuid, macs) = (new(plan.new_uuid), new(plan.new_macs));
    output::line(&format!("{} comes back with {uuid} UUID {} and {macs} network addresses", plan.name, plan.uuid));
    let disk = |d: &libvirt::PlannedDisk| {
        let to = d.to.display().to_string();
        vec![d.address.clone(), d.target.clone(), d.from.clone(), to, d.format.name().into(), size(d.capacity)]
    };
    let rows: Vec<Vec<String>> = plan.disks.iter().map(disk).collect();
    output::table(&["DISK", "AS", "FROM", "TO", "FORMAT", "CAPACITY"], &rows);
    for file in plan.nvram.iter().chain(&plan.tpm) {
        output::line(&format!("{} comes to {}", file.from, file.to.display()));
    }
    for note in &plan.notes {
        output::line(&format!("note: {note}"));
    }
}

pub(super) async fn run_verify(args: VerifyArgs) -> Result<()> {
    let cancel = Cancel::on_signals()?;
    let backup = open(&args.directory, None).await?;
    let disks = verify(backup, &Progress::new(args.show.progress), &cancel).await?;
    if args.show.json {
        return output::json(&disks);
    }
    for disk in &disks {
        output::line(&format!("{} {} ({}): {}", disk.address, disk.file, size(disk.capacity), disk.digest));
    }
    output::line("Every byte is what was backed up.");
    Ok(())
}
