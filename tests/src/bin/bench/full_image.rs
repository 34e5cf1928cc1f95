//! A full image of a 4 GiB disk over HTTPS, beside `curl` of the same bytes and `qemu-img convert` of the local file.

use std::path::{Path, PathBuf};
use std::process::Command;

use blockdev::FileDisk;
use stillframe::export::digest_of;

use crate::Options;
use crate::disks::{self, DiskPlan};
use crate::measure::{self, Check, Contender};
use crate::problem::{Problem, Result, io, wrong};
use crate::report::{Ratio, Report, Row, Target};
use crate::stage::{DataDir, Served};

const DISK: DiskPlan = DiskPlan { capacity: 4 << 30, used: (4 << 30) / 10 * 6 };
const FORMATS: [&str; 3] = ["monolithicFlat", "twoGbMaxExtentSparse", "monolithicSparse"];
/// Running, tracked: what is not in use is not read. Switched off, not tracked: all of it is read.
const TRACKED: &str = "tracked";
const PLAIN: &str = "plain";
/// In the name of a peer that is shown beside, and is no target: nobody uses it so without being told to.
const UNCACHED: &str = "-t none ";
/// What the whole process may hold, whatever the size of the disk.
pub(crate) const MEMORY: u64 = 128 << 20;

pub(crate) fn run(options: &Options) -> Result<Report> {
    let data = DataDir::take()?;
    let lab = Served::new(&data.path().join("lab"), |world| {
        disks::add_vm(world, TRACKED, &DISK, true, true)?;
        disks::add_vm(world, PLAIN, &DISK, false, false)
    })?;
    lab.log_curl_in()?;
    let contenders = contenders(options, &lab)?;
    let dest = options.dest.as_deref().unwrap_or(data.path());
    let sources = [lab.flat(TRACKED), lab.flat(PLAIN)];
    let warm = || sources.iter().try_for_each(|source| measure::read_through(source));
    let samples = measure::in_turn(&contenders, options.runs, dest, lab.pid(), warm)?;
    let names = contenders.into_iter().map(|contender| contender.name);
    let rows: Vec<Row> = names.zip(samples).map(|(name, samples)| Row { name, samples }).collect();
    let pairs = rows.iter().flat_map(|ours| rows.iter().map(move |peer| (ours, peer)));
    let ratios: Vec<Ratio> =
        pairs.filter(|(ours, peer)| is_peer(ours, peer)).map(|(ours, peer)| Ratio::of(ours, peer)).collect();
    let mut targets: Vec<Target> = ratios
        .iter()
        .filter(|ratio| !ratio.name.contains(UNCACHED))
        .map(|ratio| Target { what: format!("{}, both on disk", ratio.name), value: ratio.durable.median, limit: 1.0 })
        .collect();
    targets.extend(rows.iter().filter(|row| row.name.starts_with("ours")).map(memory_target));
    Ok(Report {
        benchmark: "full-image",
        about: format!("4 GiB disk, 60 % in use, copied to {}", place(options)),
        ratios,
        targets,
        held_ms: lab.held_ms()?,
        lab_peak: measure::peak_of(lab.pid()),
        rows,
    })
}

/// Where the copies go, for the report.
pub(crate) fn place(options: &Options) -> String {
    options.dest.as_ref().map_or("the disk of target/bench".to_owned(), |dest| dest.display().to_string())
}

pub(crate) fn memory_target(row: &Row) -> Target {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Target { what: format!("{}: peak memory in MiB", row.name), value: mib(row.peak()), limit: mib(MEMORY) }
}

/// curl's file is the flat form; qemu-img writes each.
fn is_peer(ours: &Row, peer: &Row) -> bool {
    let Some(form) = ours.name.strip_prefix("ours ").and_then(|rest| rest.split(' ').next()) else { return false };
    peer.name == "curl" || peer.name.strip_prefix("qemu-img ").is_some_and(|name| name.ends_with(form))
}

fn contenders<'a>(options: &Options, lab: &'a Served) -> Result<Vec<Contender<'a>>> {
    let mut all = Vec::new();
    for format in FORMATS.into_iter().filter(|format| options.wants(format)) {
        for vm in [TRACKED, PLAIN] {
            all.push(ours(lab, vm, format));
        }
        all.extend([false, true].map(|direct| qemu_img(lab, format, direct)));
    }
    if all.is_empty() {
        return Err(Problem::Nothing);
    }
    // In the middle, as it is compared with all of them.
    all.insert(all.len() / 2, curl(lab));
    Ok(all)
}

/// The digest of a disk's bytes, however they are stored.
fn digest(disk: &dyn blockdev::ReadAt, path: &Path) -> Result<String> {
    Ok(digest_of(disk, |_| {}).map_err(wrong(path))?.to_string())
}

fn flat_digest(path: &Path) -> Result<String> {
    digest(&FileDisk::open(path).map_err(io("open", path))?, path)
}

/// A check that the copy holds the same bytes as `source`.
pub(crate) fn same_as(source: PathBuf, copy: String) -> Check<'static> {
    Box::new(move |dir| {
        let path = dir.join(&copy);
        let found = if copy.ends_with(".vmdk") {
            digest(&vmdk_rs::open_path(&path).map_err(wrong(&path))?, &path)?
        } else {
            flat_digest(&path)?
        };
        let expected = flat_digest(&source)?;
        if found == expected {
            return Ok(());
        }
        let found = format!("its digest is {found}, that of the disk {expected}");
        Err(Problem::Wrong { what: copy.clone(), found })
    })
}

fn ours<'a>(lab: &'a Served, vm: &'static str, format: &'static str) -> Contender<'a> {
    Contender {
        name: format!("ours {format} {}", if vm == TRACKED { "(tracked)" } else { "(all read)" }),
        command: Box::new(move |dir| lab.backup(vm, format, dir)),
        check: same_as(lab.flat(vm), format!("ours/scsi0-0-0-{vm}.vmdk")),
    }
}

fn curl(lab: &Served) -> Contender<'_> {
    Contender {
        name: "curl".to_owned(),
        command: Box::new(|dir| Ok(lab.curl_file(PLAIN, dir))),
        check: same_as(lab.flat(PLAIN), "curl.flat".to_owned()),
    }
}

/// By default qemu-img writes through the page cache; `-t none` is `O_DIRECT`, as long writes of ours are.
fn qemu_img<'a>(lab: &'a Served, format: &'static str, direct: bool) -> Contender<'a> {
    let command = move |dir: &Path| {
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O", "vmdk", "-o", &format!("subformat={format}")]);
        if direct {
            command.args(["-t", "none"]);
        }
        command.arg(lab.flat(PLAIN)).arg(dir.join("qemu.vmdk"));
        Ok(command)
    };
    Contender {
        name: format!("qemu-img {}{format}", if direct { UNCACHED } else { "" }),
        command: Box::new(command),
        check: same_as(lab.flat(PLAIN), "qemu.vmdk".to_owned()),
    }
}
