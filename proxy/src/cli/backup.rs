use std::time::Duration;

use super::args::{BackupArgs, ConnectArgs};
use super::output::{self, size};
use crate::config::StateDir;
use crate::error::Result;
use crate::export::{Consistency, DiskKind};
use crate::hypervisor::{Spec, connect};
use crate::job::{BackupOptions, BackupReport, Cancel, HostLimit, Progress, backup};

pub(super) async fn run(args: BackupArgs) -> Result<()> {
    let spec: Spec = args.spec.parse()?;
    let options = BackupOptions {
        target: args.output.clone(),
        since: args.since.clone(),
        subformat: args.format.into(),
        quiesce: args.freeze.quiesce,
        transport: args.freeze.transport.parse()?,
        streams: usize::from(args.streams),
        exclude: args.freeze.exclude_disk.clone(),
        audit: args.audit,
        keep_points: usize::from(args.keep_points),
        disks_at_once: usize::from(args.disks),
        host: HostLimit { runs: args.host_jobs, wait: Duration::from_secs(args.wait) },
        bandwidth: args.bandwidth,
        removals: args.freeze.removals(),
        command: "backup".into(),
    };
    let progress = Progress::new(args.show.progress);
    let uri = args.freeze.connect.uri()?;
    let limit = Some(args.freeze.snapshot_limit());
    let report = with_backup(uri, spec, options, progress, ConnectArgs::passwords(), limit).await?;
    if args.show.json { output::json(&report) } else { show(&report) }
}

/// Connects, finds the one VM, backs it up, and ends the session whatever happened.
pub(super) async fn with_backup(
    uri: crate::config::ConnectionUri,
    spec: Spec,
    options: BackupOptions,
    progress: Progress,
    passwords: crate::config::PasswordSources,
    snapshot_limit: Option<Duration>,
) -> Result<BackupReport> {
    options.transport.route(&uri.scheme)?;
    crate::export::Staging::plan(&options.target, crate::job::RunId::new())?;
    let state = StateDir::from_environment()?;
    let cancel = Cancel::on_signals()?;
    let connected = cancel.or_stop(connect(&uri, &passwords, snapshot_limit)).await?;
    let result = async {
        let vm = cancel.or_stop(connected.one(&spec)).await?;
        backup(&connected, &state, &vm, &options, &progress, &cancel).await
    };
    let result = result.await;
    connected.close().await;
    result
}

pub(super) fn show(report: &BackupReport) -> Result<()> {
    let manifest = &report.manifest;
    output::line(&format!("{}: backed up to {}", manifest.vm.name, report.directory.display()));
    let rows: Vec<Vec<String>> = manifest
        .disks
        .iter()
        .map(|d| {
            let kind = if d.kind == DiskKind::Delta { "delta" } else { "full" };
            let sizes = [d.capacity, d.bytes_read, d.bytes_stored].map(size);
            [d.address.clone(), d.file.clone(), kind.to_owned()].into_iter().chain(sizes).collect()
        })
        .collect();
    output::table(&["DISK", "IMAGE", "KIND", "CAPACITY", "READ", "DATA"], &rows);
    if let Some(base) = &manifest.base {
        output::line(&format!("needs {} beside it (run {})", base.directory, base.run));
    }
    let consistency = match manifest.consistency {
        Consistency::Quiesced => "quiesced",
        Consistency::CrashConsistent => "crash-consistent",
        Consistency::PoweredOff => "powered off",
    };
    output::line(&format!(
        "{consistency}; snapshot made in {} ms and removed; {:.1} s in all",
        manifest.snapshot_ms, report.seconds
    ));
    for skipped in &manifest.skipped {
        output::line(&format!("left out: {} ({})", skipped.address, skipped.reason));
    }
    for warning in &manifest.warnings {
        output::line(&format!("note: {warning}"));
    }
    output::line(&format!("check it:   stillframe verify {}", quoted(&report.directory)));
    output::line(&format!("restore it: stillframe restore {} --name NEW --dry-run", quoted(&report.directory)));
    Ok(())
}

/// A path as a shell takes it.
pub(super) fn quoted(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.+:@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
