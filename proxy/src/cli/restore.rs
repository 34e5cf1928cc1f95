use serde_json::json;

use super::args::{RestoreArgs, VerifyArgs};
use super::output::{self, size};
use crate::config::StateDir;
use crate::error::{Context, Result};
use crate::hypervisor::Connected;
use crate::job::{Cancel, Progress};
use crate::restore::vsphere::{RestoreOptions, RestorePlan, plan, restore};
use crate::restore::{Backup, verify};

pub(super) async fn run(args: RestoreArgs) -> Result<()> {
    let options = RestoreOptions {
        source: args.directory.clone(),
        catalog: args.catalog.clone(),
        name: args.name.clone(),
        datastore: args.datastore.clone(),
        folder: args.folder.clone(),
        resource_pool: args.resource_pool.clone(),
        read_back: !args.no_read_back,
    };
    let backup = open(&options.source, options.catalog.as_deref()).await?;
    let cancel = Cancel::on_signals()?;
    let connected = args.connect.open(&cancel).await?;
    let result = plan_and_restore(&args, &connected, backup, &options, &cancel).await;
    connected.close().await;
    result
}

async fn open(directory: &std::path::Path, catalog: Option<&std::path::Path>) -> Result<Backup> {
    let (directory, catalog) = (directory.to_owned(), catalog.map(std::path::Path::to_owned));
    let open = move || Backup::open(&directory, catalog.as_deref());
    tokio::task::spawn_blocking(open).await.failed(|| "the backup was not opened".into())?
}

async fn plan_and_restore(
    args: &RestoreArgs,
    connected: &Connected,
    backup: Backup,
    options: &RestoreOptions,
    cancel: &Cancel,
) -> Result<()> {
    let plan = cancel.or_stop(plan(connected, &backup, options)).await?;
    if args.dry_run {
        if args.show.json {
            return output::json(&plan);
        }
        show(&plan);
        output::line("Nothing was done (--dry-run).");
        return Ok(());
    }
    if !args.show.json {
        show(&plan);
    }
    let state = StateDir::from_environment()?;
    let progress = Progress::new(args.show.progress);
    let vm = restore(connected, &state, backup, &plan, &progress, cancel).await?;
    if args.show.json {
        return output::json(&json!({ "moref": vm, "plan": plan }));
    }
    output::line(&format!("{}: restored and registered as moref:{vm}, powered off", plan.name));
    Ok(())
}

fn show(plan: &RestorePlan) {
    let identity = if plan.new_identity { "a new VM" } else { "the original VM" };
    output::line(&format!("{} comes back as {identity} in {} ({})", plan.name, plan.folder, plan.datacenter));
    let rows: Vec<Vec<String>> =
        plan.disks.iter().map(|d| vec![d.address.clone(), d.from.clone(), d.to.clone(), size(d.capacity)]).collect();
    output::table(&["DISK", "FROM", "TO", "CAPACITY"], &rows);
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
