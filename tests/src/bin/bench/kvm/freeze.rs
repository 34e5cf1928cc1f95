//! How long a guest stands still for a backup, measured in the guest.

use acceptance::kvm::{GuestSpec, Hook};

use super::Bench;
use crate::Options;
use crate::measure::{self, Contender};
use crate::problem::{Problem, Result};
use crate::report::{Report, Row, Spread, Target};

/// Backups, unless more runs were asked for.
const BACKUPS: u32 = 50;
/// What the median may be, in milliseconds.
const LIMIT: f64 = 500.0;

pub(crate) fn run(options: &Options) -> Result<Report> {
    let bench = Bench::start()?;
    let guest = bench.host.guest(GuestSpec::new("still"));
    let ours = Contender {
        name: "ours".to_owned(),
        command: Box::new(|dir| bench.stillframe(&guest, dir, &[])),
        check: Box::new(|_| Ok(())),
    };
    let runs = options.runs.max(BACKUPS);
    let contenders = [ours];
    let samples = measure::in_turn(&contenders, runs, bench.data.path(), guest.qemu_pid(), || Ok(()))?;
    let thaws = guest.hooks().into_iter().filter_map(|hook| match hook {
        Hook::Thaw(seconds) => Some(seconds * 1000.0),
        _ => None,
    });
    let held_ms: Vec<f64> = thaws.collect();
    if held_ms.len() != runs as usize {
        let found = format!("{} thaws for {runs} backups", held_ms.len());
        return Err(Problem::Wrong { what: "what the guest says".into(), found });
    }
    let what = "frozen, in the guest, milliseconds".to_owned();
    let targets = vec![Target { what, value: Spread::of(held_ms.iter().copied()).median, limit: LIMIT }];
    let rows = samples.into_iter().map(|samples| Row { name: "ours".to_owned(), samples }).collect();
    let about = format!("{runs} quiesced backups of a guest that writes to three disks");
    Ok(Report { benchmark: "kvm-freeze", about, rows, ratios: Vec::new(), targets, held_ms, lab_peak: 0 })
}
