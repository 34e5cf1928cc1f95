//! Runs programs in turn, and tells how long each took and what it took for it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::problem::{Problem, Result, io};

/// Memory is looked at so often.
const LOOK: Duration = Duration::from_millis(3);

/// What one run took.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Seconds until the program ended.
    pub(crate) seconds: f64,
    /// Seconds until what it wrote was on the disk, whether it saw to that or not.
    pub(crate) durable: f64,
    /// Processor seconds of the program.
    pub(crate) cpu: f64,
    /// Processor seconds of the lab meanwhile.
    pub(crate) lab_cpu: f64,
    /// The most memory it held, in bytes.
    pub(crate) peak: u64,
}

/// Makes a command that writes into a directory.
pub(crate) type Start<'a> = Box<dyn Fn(&Path) -> Result<Command> + 'a>;
/// Looks at what is in a directory.
pub(crate) type Check<'a> = Box<dyn Fn(&Path) -> Result<()> + 'a>;

/// A program that does the work.
pub(crate) struct Contender<'a> {
    /// What it is called in the report.
    pub(crate) name: String,
    /// How it is started, given a new directory for what it writes.
    pub(crate) command: Start<'a>,
    /// What has to be true of the directory when it has ended; looked at once.
    pub(crate) check: Check<'a>,
}

/// Runs every program `runs` times: all of them, then all of them again. `warm` is called before each run.
pub(crate) fn in_turn(
    contenders: &[Contender<'_>],
    runs: u32,
    dest: &Path,
    lab: u32,
    warm: impl Fn() -> Result<()>,
) -> Result<Vec<Vec<Sample>>> {
    let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..runs {
        for (contender, samples) in contenders.iter().zip(&mut samples) {
            let copy = TempDir::new_in(dest).map_err(io("make a directory in", dest))?;
            let dir = copy.path();
            warm()?;
            // What earlier runs and other programs left to be written is nobody's to pay for.
            rustix::fs::sync();
            eprint!("round {} of {runs}, {} ... ", round + 1, contender.name);
            let sample = once((contender.command)(dir)?, dir, lab)?;
            eprintln!("{:.2} s, {:.2} s on disk", sample.seconds, sample.durable);
            if round == 0 {
                (contender.check)(dir)?;
            }
            samples.push(sample);
            copy.close().map_err(io("remove what was copied to", dest))?;
        }
    }
    Ok(samples)
}

fn once(mut command: Command, dir: &Path, lab: u32) -> Result<Sample> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |action: &str| {
        let action = format!("{action} {program}");
        |source| Problem::Io { action, source }
    };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (cpu_before, lab_before) = (children_cpu(), cpu_of(lab));
    let began = Instant::now();
    let child = command.spawn().map_err(failed("start"))?;
    let (peak, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let pid = child.id();
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                peak.fetch_max(peak_of(pid), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        let output = child.wait_with_output();
        let seconds = began.elapsed().as_secs_f64();
        ended.store(true, Ordering::Relaxed);
        output.map(|output| (output, seconds))
    });
    let (output, seconds) = output.map_err(failed("wait for"))?;
    let (cpu, lab_cpu) = (children_cpu() - cpu_before, cpu_of(lab) - lab_before);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Problem::Ended { program, status: output.status, said });
    }
    let syncing = Instant::now();
    for path in files_below(dir)? {
        File::open(&path).and_then(|file| file.sync_all()).map_err(io("sync", &path))?;
    }
    let durable = seconds + syncing.elapsed().as_secs_f64();
    Ok(Sample { seconds, durable, cpu, lab_cpu, peak: peak.into_inner() })
}

/// Every file in a directory and those below it.
pub(crate) fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).map_err(io("list", &dir))? {
            let path = entry.map_err(io("list", &dir))?.path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    Ok(files)
}

/// Reads a file, so that it is in memory; its holes too, as some programs read those.
pub(crate) fn read_through(path: &Path) -> Result<()> {
    let mut file = File::open(path).map_err(io("open", path))?;
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).map_err(io("read", path))? > 0 {}
    Ok(())
}

/// `VmHWM` of a process that runs; 0 once it does not.
pub(crate) fn peak_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

/// Processor seconds of a process, proc_pid_stat(5): fields 14 and 15.
fn cpu_of(pid: u32) -> f64 {
    ticks(&format!("/proc/{pid}/stat"), 14)
}

/// Processor seconds of all children that ended: fields 16 and 17.
fn children_cpu() -> f64 {
    ticks("/proc/self/stat", 16)
}

fn ticks(file: &str, first: usize) -> f64 {
    let stat = fs::read_to_string(file).unwrap_or_default();
    // The name, in parentheses, is field 2 and may hold anything.
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = behind_name.split_whitespace().skip(first - 3).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}
