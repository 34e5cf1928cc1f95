use std::collections::BTreeMap;

use super::args::{CleanupArgs, ConnectArgs};
use super::output;
use crate::config::{ConnectionUri, StateDir};
use crate::error::{Error, Family, Result};
use crate::hypervisor::{Connected, connect};
use crate::job::{
    Act, Cancel, CleanupReport, Leftover, Recorded, Retry, dead_runs, find_unjournaled, remove_and_verify, undo_run,
};

pub(super) async fn run(args: CleanupArgs) -> Result<()> {
    let state = StateDir::from_environment()?;
    let cancel = Cancel::on_signals()?;
    let (dead, alive) = dead_runs(&state)?;
    let mut report = CleanupReport { alive, ..CleanupReport::default() };
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
        clean_unjournaled(&args, &cancel, &mut report).await?;
    }
    if args.json {
        output::json(&report)?;
    } else {
        show(&report);
    }
    match report.left.first() {
        None => Ok(()),
        Some((leftover, why)) => Err(Error::new(
            Family::LeftBehind,
            format!(
                "{} of {} things are left: {} ({why})",
                report.left.len(),
                report.left.len() + report.undone.len(),
                leftover.what
            ),
        )
        .hint("mend the cause and run it again")),
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
        let only_local = acts.iter().all(|act| matches!(act.what, Act::Directory { .. }));
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

async fn clean_unjournaled(args: &CleanupArgs, cancel: &Cancel, report: &mut CleanupReport) -> Result<()> {
    let connected = args.connect.open(cancel).await?;
    let uri = connected.uri.to_string();
    let found = cancel.or_stop(find_unjournaled(connected.hypervisor.as_ref())).await?;
    for (vm, name, id, run) in found {
        let leftover = Leftover { run, uri: uri.clone(), what: format!("snapshot {id} of {name}") };
        let question = format!("Remove {} (run {run})? A backup elsewhere may still use it.", leftover.what);
        if !args.yes && !output::ask(&question, "-y")? {
            continue;
        }
        match remove_and_verify(connected.hypervisor.as_ref(), &vm, &name, &id, Retry::REMOVALS).await {
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
    if report.alive > 0 {
        output::line(&format!("{} live runs were left alone", report.alive));
    }
    if report.undone.is_empty() && report.left.is_empty() {
        output::line("nothing to undo");
    }
}
