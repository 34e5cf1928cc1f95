//! `stillframe disk convert` beside `qemu-img convert`, on 1 GiB of a virtual machine's data with 27 % holes.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Options;
use crate::full_image::{memory_target, place, same_as};
use crate::measure::{self, Contender};
use crate::problem::{Problem, Result, io};
use crate::report::{Ratio, Report, Row, Target};
use crate::stage::{DataDir, disk_command, said};
use crate::vm_data;

const SIZE: u64 = 1 << 30;

/// A conversion: what is read, what is written, and how our time may be to the peer's.
struct Case {
    name: &'static str,
    source: &'static str,
    format: &'static str,
    limit: f64,
}

const CASES: [Case; 5] = [
    Case { name: "write streamOptimized", source: "vm.raw", format: "streamOptimized", limit: 1.0 / 6.0 },
    Case { name: "read streamOptimized", source: "stream.vmdk", format: "raw", limit: 1.0 / 2.5 },
    Case { name: "write monolithicSparse", source: "vm.raw", format: "monolithicSparse", limit: 1.0 / 1.3 },
    Case { name: "read monolithicSparse", source: "sparse.vmdk", format: "raw", limit: 1.0 / 1.3 },
    Case { name: "raw to raw", source: "vm.raw", format: "raw", limit: 1.0 },
];

pub(crate) fn run(options: &Options) -> Result<Report> {
    let data = DataDir::take()?;
    let raw = data.path().join("vm.raw");
    vm_data::write(&raw, SIZE)?;
    let mut ratios = Vec::new();
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    let dest = options.dest.as_deref().unwrap_or(data.path());
    for case in CASES.iter().filter(|case| options.wants(case.name)) {
        let source = prepared(data.path(), case.source)?;
        let sizes = [Cell::new(0), Cell::new(0)];
        let contenders = [ours(case, &source, &raw, &sizes[0]), qemu_img(case, &source, &raw, &sizes[1])];
        let warm = || measure::read_through(&source);
        let samples = measure::in_turn(&contenders, options.runs, dest, 0, warm)?;
        let names = contenders.into_iter().map(|contender| contender.name);
        let pair: Vec<Row> = names.zip(samples).map(|(name, samples)| Row { name, samples }).collect();
        if let [ours, peer] = pair.as_slice() {
            let ratio = Ratio::of(ours, peer);
            let what = format!("{}: our time / theirs, both on disk", case.name);
            targets.push(Target { what, value: ratio.durable.median, limit: case.limit });
            targets.push(memory_target(ours));
            ratios.push(ratio);
        }
        if case.format == "streamOptimized" {
            let [ours, theirs] = sizes.map(|size| size.get() as f64);
            targets.push(Target {
                what: "streamOptimized: our file / theirs".into(),
                value: ours / theirs,
                limit: 1.0,
            });
        }
        rows.extend(pair);
    }
    if rows.is_empty() {
        return Err(Problem::Nothing);
    }
    let about = format!("1 GiB of a VM's data, 27 % holes, converted to {}", place(options));
    Ok(Report { benchmark: "disk-convert", about, rows, ratios, targets, held_ms: Vec::new(), lab_peak: 0 })
}

/// The source of a case; images are made by qemu-img, so that both read what neither of them is at home in more.
fn prepared(data: &Path, name: &str) -> Result<PathBuf> {
    let path = data.join(name);
    if !path.exists() {
        let subformat = if name.starts_with("stream") { "streamOptimized" } else { "monolithicSparse" };
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O", "vmdk", "-o", &format!("subformat={subformat}")]);
        said(command.arg(data.join("vm.raw")).arg(&path))?;
    }
    Ok(path)
}

/// The file that a conversion makes.
fn made(format: &str) -> &'static str {
    if format == "raw" { "copy.raw" } else { "copy.vmdk" }
}

fn check<'a>(format: &str, raw: &Path, size: &'a Cell<u64>) -> measure::Check<'a> {
    let name = made(format);
    let same = same_as(raw.to_owned(), name.to_owned());
    Box::new(move |dir| {
        let path = dir.join(name);
        size.set(path.metadata().map_err(io("examine", &path))?.len());
        same(dir)
    })
}

fn ours<'a>(case: &'a Case, source: &'a Path, raw: &Path, size: &'a Cell<u64>) -> Contender<'a> {
    Contender {
        name: format!("ours {}", case.name),
        command: Box::new(move |dir| {
            let mut command = disk_command(&["convert", "--progress", "none", "--format", case.format, "-o"])?;
            command.arg(dir.join(made(case.format))).arg(source);
            Ok(command)
        }),
        check: check(case.format, raw, size),
    }
}

fn qemu_img<'a>(case: &'a Case, source: &'a Path, raw: &Path, size: &'a Cell<u64>) -> Contender<'a> {
    Contender {
        name: format!("qemu-img {}", case.name),
        command: Box::new(move |dir| {
            let from = if case.source.ends_with(".raw") { "raw" } else { "vmdk" };
            let mut command = Command::new("qemu-img");
            command.args(["convert", "-f", from]);
            match case.format {
                "raw" => command.args(["-O", "raw"]),
                format => command.args(["-O", "vmdk", "-o", &format!("subformat={format}")]),
            };
            command.arg(source).arg(dir.join(made(case.format)));
            Ok(command)
        }),
        check: check(case.format, raw, size),
    }
}
