//! What was measured: a table for people, JSON for machines.

use std::fmt;
use std::fs;

use serde_json::{Value, json};

use crate::measure::Sample;

/// The middle of some numbers, the least and the greatest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Zeros if there are no numbers.
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
        let last = sorted.len().saturating_sub(1);
        Self { median: f64::midpoint(at(last / 2), at(last.div_ceil(2))), min: at(0), max: at(last) }
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2} ({:.2}–{:.2})", self.median, self.min, self.max);
        f.pad(&text)
    }
}

/// One program's runs.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) samples: Vec<Sample>,
}

impl Row {
    fn spread(&self, of: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.samples.iter().map(of))
    }

    pub(crate) fn seconds(&self) -> Spread {
        self.spread(|sample| sample.seconds)
    }

    pub(crate) fn durable(&self) -> Spread {
        self.spread(|sample| sample.durable)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.samples.iter().map(|sample| sample.peak).max().unwrap_or(0)
    }
}

/// Ours beside a peer: round by round, so that whatever else the machine did then counts on both sides.
pub(crate) struct Ratio {
    pub(crate) name: String,
    /// Our time, until all is on disk, over the peer's time until all is on disk.
    pub(crate) durable: Spread,
    /// Our time, until all is on disk, over the peer's time until it ended.
    pub(crate) ended: Spread,
    /// Our processor time over the peer's, the server's meanwhile included in both.
    pub(crate) cpu: Spread,
}

impl Ratio {
    pub(crate) fn of(ours: &Row, peer: &Row) -> Self {
        let pairs = || ours.samples.iter().zip(&peer.samples);
        let cpu = |sample: &Sample| (sample.cpu + sample.lab_cpu).max(0.01);
        Self {
            name: format!("{} / {}", ours.name, peer.name),
            durable: Spread::of(pairs().map(|(a, b)| a.durable / b.durable)),
            ended: Spread::of(pairs().map(|(a, b)| a.durable / b.seconds)),
            cpu: Spread::of(pairs().map(|(a, b)| cpu(a) / cpu(b))),
        }
    }
}

/// Something that should hold.
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) limit: f64,
}

impl Target {
    fn met(&self) -> bool {
        self.value <= self.limit
    }
}

/// The whole answer.
pub(crate) struct Report {
    pub(crate) benchmark: &'static str,
    pub(crate) about: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) targets: Vec<Target>,
    /// From freeze to thaw, milliseconds, one per run of ours that froze a guest.
    pub(crate) held_ms: Vec<f64>,
    /// The most memory that the lab's server held.
    pub(crate) lab_peak: u64,
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Processors, their model and the memory.
fn machine() -> (usize, String, u64) {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches([' ', '\t', ':']).to_owned()
    };
    let memory = field("/proc/meminfo", "MemTotal:").trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (processors, field("/proc/cpuinfo", "model name"), memory)
}

impl Report {
    /// All numbers, with every single run.
    pub(crate) fn json(&self) -> Value {
        let (processors, model, memory) = machine();
        let run = |sample: &Sample| {
            json!({
                "seconds": sample.seconds, "durable_seconds": sample.durable, "cpu_seconds": sample.cpu,
                "lab_cpu_seconds": sample.lab_cpu, "peak_bytes": sample.peak,
            })
        };
        let row = |row: &Row| {
            json!({
                "name": row.name, "seconds": row.seconds().json(), "durable_seconds": row.durable().json(),
                "peak_bytes": row.peak(), "runs": row.samples.iter().map(run).collect::<Vec<_>>(),
            })
        };
        let ratio = |ratio: &Ratio| {
            json!({
                "name": ratio.name, "durable": ratio.durable.json(), "peer_not_durable": ratio.ended.json(),
                "cpu": ratio.cpu.json(),
            })
        };
        let target = |target: &Target| json!({ "what": target.what, "value": target.value, "limit": target.limit, "met": target.met() });
        json!({
            "benchmark": self.benchmark,
            "about": self.about,
            "machine": { "processors": processors, "model": model, "memory_bytes": memory },
            "programs": self.rows.iter().map(row).collect::<Vec<_>>(),
            "ratios": self.ratios.iter().map(ratio).collect::<Vec<_>>(),
            "freeze_to_thaw_ms": Spread::of(self.held_ms.iter().copied()).json(),
            "lab_peak_bytes": self.lab_peak,
            "targets": self.targets.iter().map(target).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (processors, model, memory) = machine();
        writeln!(f, "{}: {}", self.benchmark, self.about)?;
        writeln!(f, "{processors} x {model}, {:.0} GiB; median (least–greatest)\n", mib(memory) / 1024.0)?;
        let heads = ["", "seconds", "until on disk", "processor s", "lab's s", "peak MiB"];
        let line = |f: &mut fmt::Formatter<'_>, cells: [&str; 6]| {
            let [name, ended, durable, cpu, lab, peak] = cells;
            writeln!(f, "{name:38} {ended:>20} {durable:>20} {cpu:>18} {lab:>18} {peak:>9}")
        };
        line(f, heads)?;
        for row in &self.rows {
            let cells = [row.seconds(), row.durable(), row.spread(|s| s.cpu), row.spread(|s| s.lab_cpu)];
            let [ended, durable, cpu, lab] = cells.map(|spread| spread.to_string());
            line(f, [&row.name, &ended, &durable, &cpu, &lab, &format!("{:.1}", mib(row.peak()))])?;
        }
        if !self.ratios.is_empty() {
            writeln!(
                f,
                "\n{:75} {:>18} {:>20} {:>18}",
                "our time / theirs", "both on disk", "theirs not on disk", "all processors"
            )?;
        }
        for ratio in &self.ratios {
            let [durable, ended, cpu] = [ratio.durable, ratio.ended, ratio.cpu].map(|spread| spread.to_string());
            writeln!(f, "{:75} {durable:>18} {ended:>20} {cpu:>18}", ratio.name)?;
        }
        writeln!(f)?;
        if !self.held_ms.is_empty() {
            writeln!(f, "from freeze to thaw: {} ms", Spread::of(self.held_ms.iter().copied()))?;
        }
        if self.lab_peak > 0 {
            writeln!(f, "the lab's server held {:.1} MiB at most", mib(self.lab_peak))?;
        }
        for target in &self.targets {
            let met = if target.met() { "met   " } else { "MISSED" };
            writeln!(f, "{met}  {}: {:.2}, at most {:.2}", target.what, target.value, target.limit)?;
        }
        Ok(())
    }
}
