//! One, eight and thirty-two disks of a guest at once: memory and speed.

use std::fs::File;
use std::io::Read;

use acceptance::kvm::{Content, DiskSpec};

use super::Bench;
use crate::Options;
use crate::measure::{self, Contender};
use crate::problem::{Problem, Result, io};
use crate::report::{Report, Row, Target};

const COUNTS: [u64; 3] = [1, 8, 32];
const DISK: u64 = 128 << 20;

pub(crate) fn run(options: &Options) -> Result<Report> {
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    let mut rate_of_one = None;
    for count in COUNTS.into_iter().filter(|count| options.wants(&count.to_string())) {
        let bench = Bench::start()?;
        let data = bench.data.path().join("random.raw");
        let mut random = File::open("/dev/urandom").map_err(io("open", "/dev/urandom".as_ref()))?.take(DISK);
        let mut file = File::create(&data).map_err(io("make", &data))?;
        std::io::copy(&mut random, &mut file).map_err(io("fill", &data))?;
        let names = (0..count).map(|index| match index {
            0..26 => format!("sd{}", (b'a' + index as u8) as char),
            _ => format!("sda{}", (b'a' + (index - 26) as u8) as char),
        });
        let disks = names.map(|name| DiskSpec::new(&name, "raw", Content::Copy(data.clone()), DISK >> 20).on("scsi"));
        let disks: Vec<DiskSpec> = disks.collect();
        let targets_of: Vec<String> = disks.iter().map(|disk| disk.target.clone()).collect();
        let guest = bench.guest("many", disks);
        let ours = Contender {
            name: format!("ours, {count} disks"),
            command: Box::new(|dir| bench.stillframe(&guest, dir, &["--format", "monolithicFlat", "--disks", "32"])),
            check: Box::new(|_| Ok(())),
        };
        let contenders = [ours];
        let warm = || {
            bench.forget(&guest)?;
            targets_of.iter().try_for_each(|disk| measure::read_through(&guest.disk(disk)))
        };
        let dest = options.dest.as_deref().unwrap_or(bench.data.path());
        let mut samples = measure::in_turn(&contenders, options.runs, dest, guest.qemu_pid(), warm)?;
        let row = Row { name: format!("ours, {count} disks"), samples: samples.remove(0) };
        let seconds = row.durable().median / count as f64;
        let one = *rate_of_one.get_or_insert(seconds);
        targets.push(Target {
            what: format!("{count} disks: seconds for each / for one alone"),
            value: seconds / one,
            limit: 1.05,
        });
        let limit = (128 + 4 * count) as f64;
        targets.push(Target {
            what: format!("{count} disks: peak MiB"),
            value: row.peak() as f64 / f64::from(1 << 20),
            limit,
        });
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(Problem::Nothing);
    }
    let about = "disks of 128 MiB, all in use, of a running guest, backed up at once".to_owned();
    Ok(Report { benchmark: "kvm-disks", about, rows, ratios: Vec::new(), targets, held_ms: Vec::new(), lab_peak: 0 })
}
