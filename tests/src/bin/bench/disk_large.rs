//! A sparse disk of 8 TiB that holds 1.5 GiB: what it costs to look at it, and to copy it. `qemu-img map` of the same files takes
//! minutes, so it is not run here; `qemu-img info` is.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::Options;
use crate::full_image::memory_target;
use crate::measure::{self, Contender};
use crate::problem::{Problem, Result, io};
use crate::report::{Ratio, Report, Row, Target};
use crate::stage::{DataDir, disk_command, said};

const SIZE: u64 = 8 << 40;
/// Data is in so many runs of 1 MiB, spread over the disk.
const RUNS: u64 = 1536;
const FORMATS: [&str; 2] = ["twoGbMaxExtentSparse", "streamOptimized"];
/// Seconds.
const LOOK: f64 = 0.2;
const COPY: f64 = 10.0;

pub(crate) fn run(options: &Options) -> Result<Report> {
    let data = DataDir::take()?;
    write(&data.path().join("large.raw"))?;
    let mut images = Vec::new();
    for format in FORMATS.into_iter().filter(|format| options.wants(format)) {
        let image = data.path().join(format!("{format}.vmdk"));
        let mut make = disk_command(&["convert", "--progress", "none", "--format", format, "-o"])?;
        said(make.arg(&image).arg(data.path().join("large.raw")))?;
        images.push((format, image));
    }
    let mut contenders = Vec::new();
    for (format, image) in &images {
        contenders.extend(looks(format, image));
        contenders.push(copy(format, data.path(), image));
    }
    if contenders.is_empty() {
        return Err(Problem::Nothing);
    }
    let dest = options.dest.as_deref().unwrap_or(data.path());
    let samples = measure::in_turn(&contenders, options.runs, dest, 0, || Ok(()))?;
    let names = contenders.into_iter().map(|contender| contender.name);
    let rows: Vec<Row> = names.zip(samples).map(|(name, samples)| Row { name, samples }).collect();
    Ok(Report {
        benchmark: "disk-large",
        about: "8 TiB sparse disk, 1.5 GiB in use".to_owned(),
        targets: targets(&rows),
        ratios: ratios(&rows),
        held_ms: Vec::new(),
        lab_peak: 0,
        rows,
    })
}

fn write(path: &Path) -> Result<()> {
    let disk = File::create_new(path).map_err(io("make", path))?;
    disk.set_len(SIZE).map_err(io("lengthen", path))?;
    let mut bytes = vec![0; 1 << 20];
    for run in 0..RUNS {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = (index as u64 * 7 / 11 + run) as u8;
        }
        disk.write_all_at(&bytes, SIZE / RUNS * run / 4096 * 4096).map_err(io("write", path))?;
    }
    Ok(())
}

/// `info` and `map`, as a script would call them, and `qemu-img info`.
fn looks<'a>(format: &'a str, image: &'a Path) -> [Contender<'a>; 3] {
    let ours = |word: &'static str| Contender {
        name: format!("ours {word} {format}"),
        command: Box::new(move |_: &Path| {
            let mut command = disk_command(&[word, "--json"])?;
            command.arg(image);
            Ok(command)
        }),
        check: Box::new(|_| Ok(())),
    };
    let qemu = Contender {
        name: format!("qemu-img info {format}"),
        command: Box::new(move |_: &Path| {
            let mut command = Command::new("qemu-img");
            command.args(["info", "-f", "vmdk", "--output=json"]).arg(image);
            Ok(command)
        }),
        check: Box::new(|_| Ok(())),
    };
    [ours("info"), ours("map"), qemu]
}

fn copy<'a>(format: &'a str, data: &Path, image: &'a Path) -> Contender<'a> {
    let raw = data.join("large.raw");
    Contender {
        name: format!("ours convert {format} to raw"),
        command: Box::new(move |dir: &Path| {
            let mut command = disk_command(&["convert", "--progress", "none", "--format", "raw", "-o"])?;
            command.arg(dir.join("copy.raw")).arg(image);
            Ok(command)
        }),
        check: Box::new(move |dir| {
            let mut compare = disk_command(&["compare", "--progress", "none"])?;
            said(compare.arg(dir.join("copy.raw")).arg(&raw)).map(drop)
        }),
    }
}

fn row<'a>(rows: &'a [Row], name: &str) -> Option<&'a Row> {
    rows.iter().find(|row| row.name == name)
}

fn targets(rows: &[Row]) -> Vec<Target> {
    let mut targets = Vec::new();
    for format in FORMATS {
        let look = ["info", "map"].map(|word| row(rows, &format!("ours {word} {format}")).map(|r| r.seconds().median));
        if let [Some(info), Some(map)] = look {
            targets.push(Target { what: format!("{format}: info + map, seconds"), value: info + map, limit: LOOK });
        }
        if let Some(copied) = row(rows, &format!("ours convert {format} to raw")) {
            let value = copied.durable().median;
            targets.push(Target { what: format!("{format}: convert, seconds"), value, limit: COPY });
        }
    }
    targets.extend(rows.iter().filter(|row| row.name.starts_with("ours")).map(memory_target));
    targets
}

fn ratios(rows: &[Row]) -> Vec<Ratio> {
    let pair = |format: &str| {
        let (ours, peer) = (row(rows, &format!("ours info {format}"))?, row(rows, &format!("qemu-img info {format}"))?);
        Some(Ratio::of(ours, peer))
    };
    FORMATS.into_iter().filter_map(pair).collect()
}
