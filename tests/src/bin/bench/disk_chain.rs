//! Random reads of 4 KiB through a chain of ten deltas, beside the same reads of one sparse file.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use blockdev::{ByteLen, ByteOffset, FileDisk, ReadAt};
use vmdk_rs::{CreateOptions, Image, ImageWriter, ParentLink, PlainName, Subformat, VmdkError};

use crate::Options;
use crate::measure::Sample;
use crate::problem::{Problem, Result, io, wrong};
use crate::report::{Ratio, Report, Row, Target};
use crate::stage::{DataDir, said};

const SIZE: u64 = 4 << 30;
const DELTAS: u64 = 10;
const READS: u64 = 200_000;
/// Grains of 64 KiB that each delta holds: 5 % of the disk.
const CHANGED: u64 = SIZE / 65536 / 20;
/// How our time through the chain may be to that of one file.
const LIMIT: f64 = 2.0;

pub(crate) fn run(options: &Options) -> Result<Report> {
    let data = DataDir::take()?;
    let (single, chain) = (data.path().join("single.vmdk"), data.path().join(format!("delta-{DELTAS}.vmdk")));
    make(data.path(), &single)?;
    let images = [("one sparse file", &single), ("a chain of 10 deltas", &chain)];
    let mut rows: Vec<Row> = Vec::new();
    for who in ["ours", "qemu-img"] {
        rows.extend(images.iter().map(|(what, _)| Row { name: format!("{who}, {what}"), samples: Vec::new() }));
    }
    for round in 0..options.runs {
        eprintln!("round {} of {}", round + 1, options.runs);
        for (index, (_, path)) in images.iter().enumerate() {
            rows[index].samples.push(sample(|| ours(path))?);
            rows[index + 2].samples.push(sample(|| qemu_img(path))?);
        }
    }
    let ratios = vec![Ratio::of(&rows[1], &rows[0]), Ratio::of(&rows[1], &rows[3]), Ratio::of(&rows[0], &rows[2])];
    let what = "random 4 KiB reads: a chain of 10 deltas / one sparse file".to_owned();
    Ok(Report {
        benchmark: "disk-chain",
        about: format!("{READS} reads of 4 KiB, spread over 4 GiB, one at a time, from memory"),
        targets: vec![Target { what, value: ratios[0].durable.median, limit: LIMIT }],
        ratios,
        held_ms: Vec::new(),
        lab_peak: 0,
        rows,
    })
}

/// The step of a walk that meets every 4 KiB block once, in no order that a disk or cache would like.
const STEP: u64 = 7_919 * 4096 * 13 + 4096;

fn places() -> impl Iterator<Item = u64> {
    (0..READS).scan(0, |at: &mut u64, _| {
        *at = (*at + STEP) % SIZE;
        Some(*at)
    })
}

fn sample(work: impl FnOnce() -> Result<()>) -> Result<Sample> {
    let began = Instant::now();
    work()?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Sample { seconds, durable: seconds, cpu: seconds, lab_cpu: 0.0, peak: 0 })
}

fn ours(path: &Path) -> Result<()> {
    let image = vmdk_rs::open_path(path).map_err(wrong(path))?;
    let mut block = [0; 4096];
    for at in places() {
        image.read_exact_at(ByteOffset(at), &mut block).map_err(wrong(path))?;
    }
    Ok(())
}

fn qemu_img(path: &Path) -> Result<()> {
    let (reads, step) = (READS.to_string(), STEP.to_string());
    let args = ["bench", "-q", "-f", "vmdk", "-c", &reads, "-d", "1", "-s", "4096", "-S", &step];
    said(Command::new("qemu-img").args(args).arg(path)).map(drop)
}

/// Writes the base, ten deltas over it, and one file with what they are together.
fn make(dir: &Path, single: &Path) -> Result<()> {
    let raw = dir.join("chain.raw");
    let disk = File::create_new(&raw).map_err(io("make", &raw))?;
    let mut grain = vec![0; 65536];
    for at in (0..SIZE).step_by(grain.len()) {
        grain.iter_mut().enumerate().for_each(|(index, byte)| *byte = (index as u64 + at / 65536) as u8 | 1);
        disk.write_all_at(&grain, at).map_err(io("write", &raw))?;
    }
    let mut parent = write(dir, &raw, "base.vmdk", None)?;
    for number in 1..=DELTAS {
        for change in 0..CHANGED {
            let at = (change * 7_919 + number * 104_729) % (SIZE / 65536) * 65536;
            grain.fill(number as u8);
            disk.write_all_at(&grain, at).map_err(io("write", &raw))?;
        }
        parent = write(dir, &raw, &format!("delta-{number}.vmdk"), Some(&parent))?;
    }
    let name = single.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    write(dir, &raw, name, None)?;
    for path in [single, &parent] {
        let image = vmdk_rs::open_path(path).map_err(wrong(path))?;
        let disk = FileDisk::open(&raw).map_err(io("open", &raw))?;
        let found = vmdk_rs::compare(&image, &disk, &|_| ControlFlow::Continue(())).map_err(wrong(path))?;
        if found.is_some() {
            return Err(Problem::Wrong { what: path.display().to_string(), found: format!("{found:?}") });
        }
    }
    std::fs::remove_file(&raw).map_err(io("remove", &raw))
}

fn write(dir: &Path, raw: &Path, name: &str, parent: Option<&PathBuf>) -> Result<PathBuf> {
    let path = dir.join(name);
    let failed = |error: VmdkError| wrong(&path)(error);
    let source = FileDisk::open(raw).map_err(io("open", raw))?;
    let parent: Option<Image> = parent.map(|path| vmdk_rs::open_path(path).map_err(wrong(path))).transpose()?;
    let link = parent.as_ref().and_then(|image| {
        let (name, descriptor) = image.chain().next()?;
        Some(ParentLink { file: PlainName::new(name).ok()?, content_id: descriptor.content_id })
    });
    let options = CreateOptions { parent: link, ..CreateOptions::new(Subformat::MonolithicSparse, ByteLen(SIZE)) };
    let writer = ImageWriter::create(dir, name, &options).map_err(failed)?;
    let watch = |_| ControlFlow::Continue(());
    match &parent {
        Some(parent) => vmdk_rs::copy_difference(&source, parent, &writer, &watch),
        None => vmdk_rs::copy(&source, &writer, &watch),
    }
    .map_err(wrong(&path))?;
    writer.finish().map_err(failed)?;
    Ok(path)
}
