//! `stillframe backup` beside `virtnbdbackup`: the whole of a running guest, frozen through its agent, with a checkpoint.

use std::path::Path;

use acceptance::kvm::{Content, DiskSpec};

use super::{Bench, image_of};
use crate::Options;
use crate::full_image::{memory_target, same_as};
use crate::measure::{self, Contender};
use crate::problem::{Problem, Result};
use crate::report::{Ratio, Report, Row, Target};

const SIZE: u64 = 4 << 30;

pub(crate) fn run(options: &Options) -> Result<Report> {
    let bench = Bench::start()?;
    let raw = bench.vm_data(SIZE)?;
    let guest = bench.guest("whole", vec![DiskSpec::new("vdb", "qcow2", Content::Copy(raw.clone()), SIZE >> 20)]);
    let dest = options.dest.as_deref().unwrap_or(bench.data.path());
    let ours = |format: &'static str| Contender {
        name: format!("ours {format}"),
        command: Box::new(|dir: &Path| bench.stillframe(&guest, dir, &["--format", format])),
        check: Box::new(|dir: &Path| {
            let image = image_of(&dir.join("ours"), SIZE)?;
            let name = image.strip_prefix(dir).unwrap_or(&image).to_string_lossy().into_owned();
            same_as(raw.clone(), name)(dir)
        }),
    };
    let theirs = Contender {
        name: "virtnbdbackup".to_owned(),
        command: Box::new(|dir| Ok(bench.virtnbdbackup(&guest, dir))),
        check: Box::new(|dir| {
            let stored: u64 = measure::files_below(&dir.join("theirs"))?
                .iter()
                .filter_map(|file| Some(file.metadata().ok()?.len()))
                .sum();
            if stored > SIZE / 2 {
                Ok(())
            } else {
                Err(Problem::Wrong { what: "virtnbdbackup's copy".into(), found: format!("{stored} bytes") })
            }
        }),
    };
    let contenders = [ours("monolithicSparse"), ours("monolithicFlat"), theirs];
    let warm = || {
        bench.forget(&guest)?;
        measure::read_through(&guest.disk("vdb"))
    };
    let samples = measure::in_turn(&contenders, options.runs, dest, guest.qemu_pid(), warm)?;
    let names = contenders.into_iter().map(|contender| contender.name);
    let rows: Vec<Row> = names.zip(samples).map(|(name, samples)| Row { name, samples }).collect();
    let (mut ratios, mut targets) = (Vec::new(), Vec::new());
    if let [ours @ .., peer] = rows.as_slice() {
        for row in ours {
            let ratio = Ratio::of(row, peer);
            let what = format!("{}: our time / theirs, both on disk", row.name);
            targets.push(Target { what, value: ratio.durable.median, limit: 1.0 / 1.5 });
            targets.push(memory_target(row));
            ratios.push(ratio);
        }
    }
    let about = "a running guest with a 4 GiB disk, 27 % holes, frozen, backed up with a checkpoint".to_owned();
    Ok(Report { benchmark: "kvm-backup", about, rows, ratios, targets, held_ms: Vec::new(), lab_peak: 0 })
}
