use std::path::Path;

use serde_json::json;
use vmdk_rs::Difference;

use super::disk_args::{CheckArgs, CompareArgs, ConvertArgs, CreateArgs, DiskArgs, DiskCommand, SourceArgs};
use super::output::{self, size};
use crate::disk::{
    self, CheckReport, ConvertOptions, Converted, CreateRequest, DiskInfo, MapEntry, Source, SourceSpec, blocking,
};
use crate::error::{Error, Family, Result};
use crate::job::{Cancel, Progress};

pub(super) async fn run(args: DiskArgs) -> Result<()> {
    match args.command {
        DiskCommand::Info { source, json } => info(&source, json).await,
        DiskCommand::Map { source, json } => map(&source, json).await,
        DiskCommand::Convert(args) => convert(args).await,
        DiskCommand::Compare(args) => compare(args).await,
        DiskCommand::Check(args) => check(args).await,
        DiskCommand::Create(args) => create(args).await,
    }
}

async fn info(args: &SourceArgs, json: bool) -> Result<()> {
    let spec = args.spec();
    let info = blocking(move || Ok(disk::info(&Source::open(&spec)?))).await?;
    if json {
        return output::json(&info);
    }
    show_info(&info);
    Ok(())
}

fn show_info(info: &DiskInfo) {
    // Some of it is text from the image.
    let row = |name: &str, value: &str| output::line(&format!("{name:18}{}", value.replace(char::is_control, "?")));
    row("image:", &info.filename);
    row("format:", info.format);
    row("virtual size:", &format!("{} ({} bytes)", size(info.virtual_size), info.virtual_size));
    if let Some(taken) = info.actual_size {
        row("takes:", &size(taken));
    }
    if let Some(parent) = &info.full_backing_filename {
        row("parent:", parent);
    }
    let Some(specific) = &info.format_specific else { return };
    let data = &specific.data;
    row("create type:", &data.create_type);
    row("content ID:", &format!("{:08x}", data.cid));
    if data.parent_cid != u32::MAX {
        row("parent content:", &format!("{:08x}", data.parent_cid));
    }
    for (name, value) in [("adapter:", &data.adapter_type), ("UUID:", &data.uuid)] {
        if let Some(value) = value {
            row(name, value);
        }
    }
    if let Some([cylinders, heads, sectors]) = data.geometry {
        row("geometry:", &format!("{cylinders} cylinders, {heads} heads, {sectors} sectors"));
    }
    let rows = data.extents.iter().map(|extent| {
        let grain = extent.cluster_size.map(size).unwrap_or_default();
        let packed = if extent.compressed { " compressed" } else { "" };
        vec![extent.format.clone(), size(extent.virtual_size), format!("{grain}{packed}"), extent.filename.clone()]
    });
    output::table(&["EXTENT", "SIZE", "GRAIN", "FILE"], &rows.collect::<Vec<_>>());
}

async fn map(args: &SourceArgs, json: bool) -> Result<()> {
    let spec = args.spec();
    blocking(move || {
        let source = Source::open(&spec)?;
        if json { map_json(&source) } else { map_lines(&source) }
    })
    .await
}

/// A line for each run, as qemu-img prints it: a large disk's map is never held in memory.
fn map_json(source: &Source) -> Result<()> {
    let mut before = "[";
    disk::map(source, |entry| {
        let text =
            serde_json::to_string(entry).map_err(|e| Error::new(Family::Failed, "cannot write JSON").caused_by(e))?;
        output::text(&format!("{before}{text}"));
        before = ",\n";
        Ok(())
    })?;
    output::line("]");
    Ok(())
}

fn map_lines(source: &Source) -> Result<()> {
    output::line("START            LENGTH           MAPPED TO        FILE");
    disk::map(source, |entry: &MapEntry| {
        if entry.data {
            let place = entry.offset.map_or("compressed".into(), |offset| format!("{offset:#x}"));
            let file = entry.filename.as_deref().unwrap_or_default();
            output::line(&format!("{:<#16x} {:<#16x} {place:16} {file}", entry.start, entry.length));
        }
        Ok(())
    })
}

async fn convert(args: ConvertArgs) -> Result<()> {
    let parent = args.parent.as_ref();
    let options = ConvertOptions {
        source: args.source.spec(),
        target: args.format.into(),
        output: (args.output != Path::new("-")).then(|| args.output.clone()),
        parent: parent.map(|path| SourceSpec { path: path.clone(), format: None, map: args.source.map.map.clone() }),
        level: args.level(),
    };
    if args.show.json && options.output.is_none() {
        return Err(Error::new(Family::Usage, "standard output takes the disk, and no JSON beside it"));
    }
    let (progress, cancel) = (Progress::new(args.show.progress), Cancel::on_signals()?);
    let converted = blocking(move || disk::convert(&options, &progress, &cancel)).await?;
    if args.show.json {
        return output::json(&converted);
    }
    show_files(&converted);
    Ok(())
}

fn show_files(converted: &Converted) {
    if let Some(file) = converted.files.first() {
        let (virtual_size, taken) = (size(converted.virtual_size), size(converted.actual_size));
        output::line(&format!("{}: {virtual_size}, takes {taken} in {} files", file.display(), converted.files.len()));
    }
}

async fn compare(args: CompareArgs) -> Result<()> {
    let spec = |path: &Path, format| SourceSpec { path: path.to_owned(), format, map: args.map.map.clone() };
    let (first, second) = (spec(&args.first, args.from), spec(&args.second, args.with));
    let (progress, cancel) = (Progress::new(args.show.progress), Cancel::on_signals()?);
    let found = blocking(move || disk::compare(&first, &second, &progress, &cancel)).await?;
    if args.show.json {
        output::json(&found)?;
    }
    match &found.difference {
        None => {
            if !args.show.json {
                output::line("The disks are equal, byte for byte.");
            }
            Ok(())
        }
        Some(Difference::Size { first, second }) => {
            let what = format!("the disks have {first} and {second}; what both have is equal, and the rest is zeros");
            Err(Error::new(Family::Corrupt, what))
        }
        Some(Difference::Content { at }) => {
            let what = format!("the disks differ at byte {at}: {}; {}", found.first_place, found.second_place);
            Err(Error::new(Family::Corrupt, what))
        }
        Some(_) => Err(Error::new(Family::Corrupt, "the disks differ")),
    }
}

async fn check(args: CheckArgs) -> Result<()> {
    let spec = args.source.spec();
    let (progress, cancel) = (Progress::new(args.show.progress), Cancel::on_signals()?);
    let (read_data, repair) = (args.read_data, args.repair.clone());
    let (report, read, repaired) = blocking(move || {
        let report = disk::check(&spec)?;
        cancel.check()?;
        let read = if read_data { disk::read_all(&spec, &progress, &cancel) } else { Ok(()) };
        let repaired = match repair {
            Some(output) if read.is_ok() => Some(disk::repair(&spec, &report, &output, &progress, &cancel)),
            _ => None,
        };
        Ok((report, read, repaired))
    })
    .await?;
    if args.show.json {
        output::json(&report)?
    } else {
        show_check(&report)
    }
    read?;
    if repaired.is_none() && !args.show.json && report.is_sound() {
        output::line(&match report.leaks {
            0 => "Nothing is wrong with the image.".to_owned(),
            wasted => format!("The image is sound; {wasted} grains are wasted."),
        });
    }
    match repaired {
        None => report.verdict(),
        Some(repaired) => {
            let repaired = repaired?;
            if !args.show.json {
                show_files(&repaired);
            }
            Ok(())
        }
    }
}

fn show_check(report: &CheckReport) {
    for finding in &report.findings {
        let at = finding.offset.map(|at| format!(" at byte {at:#x}")).unwrap_or_default();
        output::line(&format!("{:9} {}{at}: {}", finding.severity, finding.filename, finding.problem));
    }
    let hidden =
        (report.corruptions + report.mendable + report.check_errors).saturating_sub(report.findings.len() as u64);
    if hidden > 0 {
        output::line(&format!("and {hidden} more"));
    }
    let (stored, all, packed) = (report.allocated_clusters, report.total_clusters, report.compressed_clusters);
    if all > 0 {
        output::line(&format!("{stored} of {all} grains stored, {packed} of them compressed"));
    }
}

async fn create(args: CreateArgs) -> Result<()> {
    let parent = args.parent.clone();
    let request = CreateRequest {
        output: args.image.clone(),
        target: args.format.into(),
        size: args.size,
        adapter: args.adapter,
        parent: parent.map(|path| SourceSpec { path, format: None, map: Vec::new() }),
    };
    let cancel = Cancel::on_signals()?;
    let files = blocking(move || disk::create(&request, &cancel)).await?;
    if args.json {
        return output::json(&json!({ "files": files }));
    }
    for file in files {
        output::line(&file.display().to_string());
    }
    Ok(())
}
