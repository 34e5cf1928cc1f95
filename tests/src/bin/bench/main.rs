//! How fast are we, beside a program that everybody knows? Called by `tests/bench`.
//!
//! ```text
//!   main ── which benchmark ── full_image, big_sparse, disk_convert, disk_large, disk_chain, guest_files, kvm
//!                                 ├─ stage: a data directory, a lab served by a process of its own, logins
//!                                 ├─ disks, vm_data: the bytes that are copied
//!                                 ├─ measure: runs programs in turn; time, memory, processor time of each
//!                                 └─ report: a table for people, JSON for machines
//! ```

mod big_sparse;
mod disk_chain;
mod disk_convert;
mod disk_large;
mod disks;
mod full_image;
mod guest_files;
mod kvm;
mod measure;
mod problem;
mod report;
mod stage;
mod vm_data;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use problem::Result;
use report::Report;

/// Measures the program beside its peers; without a name, lists the benchmarks.
#[derive(Parser)]
#[command(name = "tests/bench")]
struct Args {
    /// Which benchmark
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// How often each program runs; they take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Where the copies go: a file system in memory shows the way without the disk at its end
    #[arg(long, value_name = "DIR")]
    dest: Option<PathBuf>,
    /// Only the programs and forms whose name holds this word; may stand more than once
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,
}

type Benchmark = fn(&Options) -> Result<Report>;

/// Every benchmark: name, what it measures, function.
const BENCHMARKS: [(&str, &str, Benchmark); 10] = [
    ("full-image", "a 4 GiB disk, 60 % in use, beside curl and qemu-img convert", full_image::run),
    ("big-sparse", "a 2 TiB disk with 1 GiB in use", big_sparse::run),
    ("disk-convert", "images of 1 GiB written, read and copied, beside qemu-img", disk_convert::run),
    ("disk-large", "info, map and convert of an 8 TiB sparse disk", disk_large::run),
    ("guest-files", "files of a guest through a mount, beside ntfs-3g and guestmount", guest_files::run),
    ("kvm-read", "the disk of a running guest read to a raw file, beside nbdcopy", kvm::read),
    ("kvm-backup", "a running guest backed up, beside virtnbdbackup", kvm::backup),
    ("kvm-freeze", "how long a guest stands still, in 50 backups", kvm::freeze),
    ("kvm-disks", "1, 8 and 32 disks of a guest at once", kvm::disks),
    ("disk-chain", "random reads through ten deltas, beside one sparse file", disk_chain::run),
];

/// How a benchmark is run.
struct Options {
    runs: u32,
    dest: Option<PathBuf>,
    only: Vec<String>,
}

impl Options {
    /// Whether a program or a pair of them was asked for.
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word.as_str()))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let Some(name) = args.name else {
        for (name, what, _) in BENCHMARKS {
            println!("{name:12}  {what}");
        }
        return ExitCode::SUCCESS;
    };
    let Some((_, _, benchmark)) = BENCHMARKS.iter().find(|(known, _, _)| *known == name) else {
        eprintln!("Error: there is no benchmark {name}; without a name they are listed");
        return ExitCode::from(2);
    };
    match benchmark(&Options { runs: args.runs, dest: args.dest, only: args.only }) {
        Ok(report) if args.json => println!("{}", report.json()),
        Ok(report) => print!("{report}"),
        Err(error) => {
            eprintln!("Error: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
