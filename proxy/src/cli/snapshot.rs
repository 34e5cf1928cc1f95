use serde::Serialize;

use super::args::{ConnectArgs, SnapshotArgs, SnapshotCommand};
use super::output;
use crate::error::{Error, Family, Result};
use crate::hypervisor::{Connected, Snapshot, Spec};
use crate::job::{Cancel, Retry, remove_and_verify, run_of};

/// A snapshot in a list.
#[derive(Serialize)]
struct Row {
    vm: String,
    vm_name: String,
    ours: bool,
    #[serde(flatten)]
    snapshot: Snapshot,
}

pub(super) async fn run(args: SnapshotArgs) -> Result<()> {
    match args.command {
        SnapshotCommand::List { spec, connect, json } => list(&spec.parse()?, &connect, json).await,
        SnapshotCommand::Remove { spec, id, connect, not_ours } => {
            let spec: Spec = spec.parse()?;
            let cancel = Cancel::on_signals()?;
            let connected = connect.open(&cancel).await?;
            let result = remove(&connected, &spec, &id, not_ours).await;
            connected.close().await;
            result
        }
    }
}

async fn list(spec: &Spec, connect: &ConnectArgs, json: bool) -> Result<()> {
    let cancel = Cancel::on_signals()?;
    let connected = connect.open(&cancel).await?;
    let rows = cancel.or_stop(rows(&connected, spec)).await;
    connected.close().await;
    let rows = rows?;
    if json {
        return output::json(&rows);
    }
    let cells = |row: &Row| {
        let indent = "  ".repeat(row.snapshot.depth);
        let ours = if row.ours { "ours" } else { "-" };
        vec![
            row.vm_name.clone(),
            row.snapshot.id.to_string(),
            format!("{indent}{}", row.snapshot.name),
            row.snapshot.created.clone(),
            ours.into(),
        ]
    };
    output::table(&["VM", "ID", "NAME", "CREATED", "WHOSE"], &rows.iter().map(cells).collect::<Vec<_>>());
    Ok(())
}

async fn rows(connected: &Connected, spec: &Spec) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for vm in connected.hypervisor.find(spec).await? {
        for snapshot in connected.hypervisor.snapshots(&vm.moref).await? {
            let ours = run_of(&snapshot.name, &snapshot.description).is_some();
            rows.push(Row { vm: vm.moref.to_string(), vm_name: vm.name.clone(), ours, snapshot });
        }
    }
    Ok(rows)
}

async fn remove(connected: &Connected, spec: &Spec, id: &str, not_ours: bool) -> Result<()> {
    let vm = connected.one(spec).await?;
    let snapshots = connected.hypervisor.snapshots(&vm.moref).await?;
    let snapshot = snapshots.iter().find(|snapshot| snapshot.id.0 == id).ok_or_else(|| {
        Error::new(Family::NoVm, format!("{} has no snapshot {id}", vm.name))
            .hint("`stillframe snapshot list` shows the ids")
    })?;
    if run_of(&snapshot.name, &snapshot.description).is_none() && !not_ours {
        return Err(Error::new(Family::Exists, format!("{id} of {} (\"{}\") is not ours", vm.name, snapshot.name))
            .hint("if it shall go all the same, add --not-ours"));
    }
    let hypervisor = connected.hypervisor.as_ref();
    remove_and_verify(hypervisor, &vm.moref, &vm.name, &snapshot.id, true, Retry::REMOVALS).await?;
    output::line(&format!("{}: snapshot {id} removed", vm.name));
    Ok(())
}
