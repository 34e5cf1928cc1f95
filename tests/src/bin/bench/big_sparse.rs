//! A disk of 2 TiB with 1 GiB in use: the cost has to follow the data.

use crate::Options;
use crate::disks::{self, DiskPlan};
use crate::full_image::{memory_target, place, same_as};
use crate::measure::{self, Contender};
use crate::problem::{Problem, Result};
use crate::report::{Report, Row, Target};
use crate::stage::{DataDir, Served};

/// The largest disk of which the lab, like VMFS before version 5.5, makes snapshots: 512 bytes below 2 TiB.
const DISK: DiskPlan = DiskPlan { capacity: (2 << 40) - 512, used: 1 << 30 };
const FORMATS: [&str; 2] = ["monolithicFlat", "twoGbMaxExtentSparse"];
const VM: &str = "large";
/// Seconds.
const LIMIT: f64 = 10.0;

pub(crate) fn run(options: &Options) -> Result<Report> {
    let data = DataDir::take()?;
    let lab = Served::new(&data.path().join("lab"), |world| disks::add_vm(world, VM, &DISK, true, true))?;
    let ours = |format: &'static str| Contender {
        name: format!("ours {format}"),
        command: Box::new(|dir| lab.backup(VM, format, dir)),
        check: same_as(lab.flat(VM), format!("ours/scsi0-0-0-{VM}.vmdk")),
    };
    let contenders: Vec<_> = FORMATS.into_iter().filter(|format| options.wants(format)).map(ours).collect();
    if contenders.is_empty() {
        return Err(Problem::Nothing);
    }
    let dest = options.dest.as_deref().unwrap_or(data.path());
    // Just written: it is in memory, and reading its holes would take many minutes.
    let samples = measure::in_turn(&contenders, options.runs, dest, lab.pid(), || Ok(()))?;
    let names = contenders.iter().map(|contender| contender.name.clone());
    let rows: Vec<Row> = names.zip(samples).map(|(name, samples)| Row { name, samples }).collect();
    let seconds =
        |row: &Row| Target { what: format!("{}: seconds", row.name), value: row.durable().median, limit: LIMIT };
    Ok(Report {
        benchmark: "big-sparse",
        about: format!("2 TiB disk, 1 GiB in use, copied to {}", place(options)),
        targets: rows.iter().flat_map(|row| [seconds(row), memory_target(row)]).collect(),
        ratios: Vec::new(),
        held_ms: lab.held_ms()?,
        lab_peak: measure::peak_of(lab.pid()),
        rows,
    })
}
