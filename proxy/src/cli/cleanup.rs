use std::collections::BTreeMap;

use super::args::{CleanupArgs, ConnectArgs};
use super::output;
use crate::config::{ConnectionUri, StateDir};
use crate::error::{Error, Family, Result};
use crate::hypervisor::{Connected, VmInfo, connect};
use crate::job::{
    Cancel, CleanupReport, Leftover, Recorded, Retry, RunId, Runs, find_unjournaled, made_here, remove_and_verify,
    runs, undo_run,
};

pub(super) async fn run(args: CleanupArgs) -> Result<()> {
    let state = StateDir::from_environment()?;
    let cancel = Cancel::on_signals()?;
    let Runs { dead, alive, unreadable } = runs(&state)?;
    let mut report = CleanupReport { alive: alive.len(), ..CleanupReport::default() };
    report.unreadable.extend(unreadable.into_iter().map(|(path, error)| (path, error.line())));
    let mut by_server: BTreeMap<String, Vec<Recorded>> = BTreeMap::new();
    for recorded in dead {
        if args.yes || output::ask(&question(&recorded), "-y")? {
            by_server.entry(recorded.begin.uri.clone()).or_default().push(recorded);
        }
    }
    for (uri, runs) in by_server {
        clean_server(&args.connect, &uri, runs, &cancel, &mut report).await?;
    }
    if args.unjournaled {
        clean_unjournaled(&args, &alive, &cancel, &mut report).await?;
    }
    if args.json {
        output::json(&report)?;
    } else {
        show(&report);
    }
    verdict(&report)
}

/// Green only if nothing is left and every journal was understood.
fn verdict(report: &CleanupReport) -> Result<()> {
    if let Some((leftover, why)) = report.left.first() {
        let what = format!("{} things are left, the first is the {}: {why}", report.left.len(), leftover.what);
        return Err(Error::new(Family::LeftBehind, what).hint("mend the cause and run it again"));
    }
    match report.unreadable.first() {
        None => Ok(()),
        Some((_, why)) => Err(Error::new(Family::Corrupt, why.clone())),
    }
}

fn question(recorded: &Recorded) -> String {
    let begin = &recorded.begin;
    format!("Undo what the {} of {} at {} left?", begin.command, begin.started, begin.uri)
}

/// Undoes the dead runs of one server over one login.
async fn clean_server(
    flags: &ConnectArgs,
    uri: &str,
    runs: Vec<Recorded>,
    cancel: &Cancel,
    report: &mut CleanupReport,
) -> Result<()> {
    let (mut local, mut remote) = (Vec::new(), Vec::new());
    for mut run in runs {
        let acts = run.journal().open_acts();
        let only_local = acts.iter().all(|act| act.what.is_local());
        if only_local { local.push(run) } else { remote.push(run) }
    }
    for run in local {
        undo_run(run, None, Retry::REMOVALS, report).await?;
    }
    if remote.is_empty() {
        return Ok(());
    }
    let connected = match open(flags, uri, cancel).await {
        Ok(connected) => Some(connected),
        Err(error) if error.family() == Family::Cancelled => return Err(error),
        Err(error) => {
            tracing::error!("{}", error.line());
            None
        }
    };
    for run in remote {
        cancel.check()?;
        undo_run(run, connected.as_ref().map(|c| c.hypervisor.as_ref()), Retry::REMOVALS, report).await?;
    }
    if let Some(connected) = connected {
        connected.close().await;
    }
    Ok(())
}

async fn open(flags: &ConnectArgs, uri: &str, cancel: &Cancel) -> Result<Connected> {
    let mut uri: ConnectionUri = uri.parse()?;
    flags.add_to(&mut uri)?;
    cancel.or_stop(connect(&uri, &ConnectArgs::passwords(), None)).await
}

/// Removes our snapshots that no journal here knows. Those of runs at work here are left alone, and those made on another machine
/// unless that is forced: a backup may be reading them.
async fn clean_unjournaled(
    args: &CleanupArgs,
    alive: &[RunId],
    cancel: &Cancel,
    report: &mut CleanupReport,
) -> Result<()> {
    let connected = args.connect.open(cancel).await?;
    let hypervisor = connected.hypervisor.as_ref();
    let uri = connected.uri.to_string();
    let unknown = |vm: &VmInfo, error: Error| tracing::warn!("{} was not looked at: {}", vm.name, error.line());
    let found = cancel.or_stop(find_unjournaled(hypervisor, unknown)).await?;
    for (vm, snapshot, run) in found {
        let leftover = Leftover { run, uri: uri.clone(), what: format!("snapshot {} of {}", snapshot.id, vm.name) };
        if alive.contains(&run) {
            tracing::warn!("{} belongs to a run at work and was left alone", leftover.what);
            continue;
        }
        if !made_here(&snapshot.description) && !args.force {
            let why = format!("made elsewhere ({}); clean up there, or add --force", snapshot.description);
            report.left.push((leftover, why));
            continue;
        }
        if !args.yes && !output::ask(&format!("Remove {} of {}?", leftover.what, snapshot.created), "-y")? {
            continue;
        }
        match remove_and_verify(hypervisor, &vm.moref, &vm.name, &snapshot.id, true, Retry::REMOVALS).await {
            Ok(()) => report.undone.push(leftover),
            Err(error) => report.left.push((leftover, error.line())),
        }
    }
    connected.close().await;
    Ok(())
}

fn show(report: &CleanupReport) {
    for leftover in &report.undone {
        output::line(&format!("undone: {} (run {})", leftover.what, leftover.run));
    }
    for (leftover, why) in &report.left {
        output::line(&format!("left:   {} (run {}): {why}", leftover.what, leftover.run));
    }
    for (path, why) in &report.unreadable {
        output::line(&format!("unread: {}: {why}", path.display()));
    }
    if report.alive > 0 {
        output::line(&format!("{} live runs were left alone", report.alive));
    }
    if report.undone.is_empty() && report.left.is_empty() && report.unreadable.is_empty() {
        output::line("nothing to undo");
    }
}
