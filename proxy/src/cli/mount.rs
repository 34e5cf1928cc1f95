use std::path::{Path, PathBuf};

use super::args::ConnectArgs;
use super::mount_args::{ImagesArgs, MountArgs, MountsArgs, UnmountArgs};
use super::output;
use crate::config::{PasswordSources, StateDir};
use crate::disk::SourceFormat;
use crate::error::{Context, Error, Family, Result};
use crate::export::CATALOG_NAME;
use crate::job::{Cancel, HoldOptions, Progress};
use crate::mount::{
    ImageSpec, KeepRequest, MountSpec, Program, Report, Unmounted, keep, keep_images, mounts, start, unmount,
};

pub(super) async fn run(args: MountArgs) -> Result<()> {
    if args.images.is_empty() {
        return run_vm(args).await;
    }
    if args.output.is_some() {
        return Err(Error::new(Family::Usage, "with --image, -o does not belong: say mount --image FILE DIR"));
    }
    let spec = MountSpec {
        state: StateDir::from_environment()?.path().to_owned(),
        command: "mount".into(),
        images: images(&args.images, &args.source)?,
        source: names(&args.images),
        directory: args.word.into(),
        allow_other: args.allow_other,
        ..MountSpec::default()
    };
    mount_and_show(&spec, args.show.json, args.foreground).await
}

/// Mounts images, prints what is shown, and stays if that is wished.
pub(super) async fn mount_and_show(spec: &MountSpec, json: bool, stay: bool) -> Result<()> {
    let cancel = Cancel::on_signals()?;
    let links = keep_images(&spec.images, &cancel).await?;
    let started = start(spec, &Program::this()?, links, &cancel).await?;
    show(&started.report, json)?;
    if stay { started.stay(spec, &cancel).await } else { Ok(()) }
}

async fn run_vm(args: MountArgs) -> Result<()> {
    let directory = args.output.ok_or_else(|| {
        Error::new(Family::Usage, "no directory is named to mount on")
            .hint("say mount SPEC -o DIR, or mount --image FILE DIR")
    })?;
    let freeze = args.freeze;
    let request = KeepRequest {
        uri: freeze.connect.uri()?.to_string(),
        vm: args.word,
        hold: HoldOptions {
            quiesce: freeze.quiesce,
            transport: freeze.transport.parse()?,
            exclude: freeze.exclude_disk.clone(),
            removals: freeze.removals(),
            command: "mount".into(),
        },
        snapshot_limit: Some(freeze.snapshot_limit()),
        state: StateDir::from_environment()?.path().to_owned(),
        directory,
        allow_other: args.allow_other,
        progress: args.show.progress,
        log: (false, 0),
    };
    keep_and_show(&request, &ConnectArgs::passwords(), args.show.json, args.foreground).await
}

/// Mounts the files of a VM, prints what is shown, and stays if that is wished.
pub(super) async fn keep_and_show(
    request: &KeepRequest,
    passwords: &PasswordSources,
    json: bool,
    stay: bool,
) -> Result<()> {
    let cancel = Cancel::on_signals()?;
    let kept = keep(request, passwords, &cancel, stay).await?;
    show(&kept.report, json)?;
    kept.stay(&StateDir::at(&request.state)?, &cancel).await
}

fn show(report: &Report, json: bool) -> Result<()> {
    if json {
        return output::json(report);
    }
    output::text(&report.text());
    Ok(())
}

fn names(images: &[PathBuf]) -> String {
    images.iter().map(|image| image.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The images that are named; of a backup directory all its disks, in the order of its catalog.
pub(super) fn images(paths: &[PathBuf], args: &ImagesArgs) -> Result<Vec<ImageSpec>> {
    let raw = args.format.map(|format| format == SourceFormat::Raw);
    let mut images = Vec::new();
    for path in paths {
        if crate::disk::uri_of(path)?.is_some() {
            images.push(ImageSpec { path: path.clone(), raw, map: args.map.map.clone() });
            continue;
        }
        let path = std::path::absolute(path).failed(|| format!("cannot use {}", path.display()))?;
        if path.is_dir() {
            images.extend(backup_images(&path)?);
        } else {
            images.push(ImageSpec { path, raw, map: args.map.map.clone() });
        }
    }
    Ok(images)
}

fn backup_images(directory: &Path) -> Result<Vec<ImageSpec>> {
    if !directory.join(CATALOG_NAME).is_file() {
        return Err(Error::new(Family::Usage, format!("{} holds no catalog", directory.display()))
            .hint("name disk images, or the directory of a complete backup"));
    }
    let backup = crate::restore::Backup::open(directory, None)?;
    let image = |disk: &crate::restore::BackupDisk| ImageSpec {
        path: directory.join(&disk.file),
        raw: Some(false),
        map: Vec::new(),
    };
    Ok(backup.disks.iter().map(image).collect())
}

pub(super) async fn run_unmount(args: UnmountArgs) -> Result<()> {
    let state = StateDir::from_environment()?;
    let progress = Progress::new(args.show.progress);
    let unmounted = unmount(&state, &args.directory, args.force, &progress).await?;
    if args.show.json {
        return output::json(&unmounted);
    }
    show_unmounted(&unmounted);
    Ok(())
}

pub(super) fn show_unmounted(unmounted: &Unmounted) {
    let path = &unmounted.path;
    output::line(&match unmounted.was_mounted {
        true => format!("{path}: unmounted"),
        false => format!("{path}: nothing was mounted there"),
    });
    for error in &unmounted.errors {
        output::line(&format!("note: {}", error.replace(char::is_control, "?")));
    }
}

pub(super) fn run_mounts(args: &MountsArgs) -> Result<()> {
    let mounts = mounts()?;
    if args.json {
        let rows: Vec<_> = mounts.iter().map(|(run, path)| serde_json::json!({ "run": run, "path": path })).collect();
        return output::json(&rows);
    }
    let rows: Vec<_> = mounts.iter().map(|(run, path)| vec![path.display().to_string(), run.to_string()]).collect();
    output::table(&["DIRECTORY", "RUN"], &rows);
    Ok(())
}
