//! The files of a guest, read through a mount: ours beside ntfs-3g and guestmount, all on one image.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Options;
use crate::measure::{Sample, files_below, peak_of};
use crate::problem::{Problem, Result, io};
use crate::report::{Ratio, Report, Row, Target};
use crate::stage::{DataDir, disk_state, program, said};

/// The size of the disk; what is in use of it is 2.5 GiB.
const DISK: &str = "100G";
/// Random reads of 4 KiB each.
const READS: u64 = 20_000;
/// A mount that is not there by then will not be.
const PATIENCE: Duration = Duration::from_secs(120);
/// What of the tree is walked and read: 50,000 files.
const MANY: &str = "many";
/// The file that is read as a whole and at random places.
const LARGE: &str = "large/1-gib";

/// A program that mounts.
struct Peer {
    name: &'static str,
    mount: fn(&Path, &Path) -> Result<Command>,
    unmount: fn(&Path) -> Result<Command>,
    /// Where the volume is in the mount.
    root: &'static str,
    /// The part of the name by which its process is known.
    process: &'static str,
}

const PEERS: [Peer; 3] = [
    Peer { name: "ours", mount: ours, unmount: ours_away, root: "digits/1", process: "stillframe" },
    Peer { name: "ntfs-3g", mount: ntfs_3g, unmount: umount, root: "", process: "ntfs-3g" },
    Peer { name: "guestmount", mount: guestmount, unmount: guestunmount, root: "", process: "qemu-system" },
];

/// A program of the peers' makers and starters.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/guestfs").join(name)
}

fn ours(image: &Path, dir: &Path) -> Result<Command> {
    let mut command = program()?;
    command
        .args(["mount", "--format", "raw", "--image"])
        .arg(image)
        .arg(dir)
        .env("STILLFRAME_STATE_DIR", disk_state()?);
    Ok(command)
}

fn ours_away(dir: &Path) -> Result<Command> {
    let mut command = program()?;
    command.arg("unmount").arg(dir).env("STILLFRAME_STATE_DIR", disk_state()?);
    Ok(command)
}

fn ntfs_3g(image: &Path, dir: &Path) -> Result<Command> {
    let mut command = Command::new("ntfs-3g");
    command.args(["-o", "ro,streams_interface=xattr"]).arg(image).arg(dir);
    Ok(command)
}

fn guestmount(image: &Path, dir: &Path) -> Result<Command> {
    let mut command = Command::new(script("guestmount.sh"));
    command.arg(image).arg(dir);
    Ok(command)
}

fn umount(dir: &Path) -> Result<Command> {
    let mut command = Command::new("umount");
    command.arg(dir);
    Ok(command)
}

fn guestunmount(dir: &Path) -> Result<Command> {
    let mut command = Command::new("guestunmount");
    command.arg(dir);
    Ok(command)
}

/// What is measured of a mount, in this order.
const WORKS: [&str; 5] = ["mount", "walk and read, cold", "sequential, cold", "sequential, warm", "4 KiB at random"];

pub(crate) fn run(options: &Options) -> Result<Report> {
    let data = DataDir::take()?;
    let image = data.path().join("guest.img");
    said(Command::new("python3").arg(script("make_ntfs.py")).arg("big").arg(&image).args(["--size", DISK]))?;
    let wanted: Vec<&Peer> = PEERS.iter().filter(|peer| options.wants(peer.name)).filter(|peer| there(peer)).collect();
    let mut rows: Vec<Row> = Vec::new();
    for work in WORKS {
        rows.extend(wanted.iter().map(|peer| Row { name: format!("{}, {work}", peer.name), samples: Vec::new() }));
    }
    let mut read_to_mount = Vec::new();
    for round in 0..options.runs {
        for (index, peer) in wanted.iter().enumerate() {
            eprintln!("round {} of {}, {}", round + 1, options.runs, peer.name);
            let dir = data.path().join("mounted");
            fs::create_dir(&dir).map_err(io("make", &dir))?;
            let (samples, read) = measure(peer, &image, &dir)?;
            if peer.name == "ours" {
                read_to_mount.push(read as f64 / f64::from(1 << 20));
            }
            for (work, sample) in samples.into_iter().enumerate() {
                rows[work * wanted.len() + index].samples.push(sample);
            }
            // Ours removes the directory only if it made it.
            fs::remove_dir(&dir).map_err(io("remove", &dir))?;
        }
    }
    let (ratios, targets) = verdicts(&rows, &wanted, &read_to_mount);
    Ok(Report {
        benchmark: "guest-files",
        about: format!("an NTFS volume of {DISK} with 50,000 small files and one of 1 GiB, read through a mount"),
        rows,
        ratios,
        targets,
        held_ms: Vec::new(),
        lab_peak: 0,
    })
}

/// Whether a peer is installed.
fn there(peer: &Peer) -> bool {
    let program = if peer.name == "ours" { return true } else { peer.name };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !found {
        eprintln!("{program} is not installed and is left out");
    }
    found
}

fn verdicts(rows: &[Row], wanted: &[&Peer], read_to_mount: &[f64]) -> (Vec<Ratio>, Vec<Target>) {
    let (mut ratios, mut targets) = (Vec::new(), Vec::new());
    if wanted.first().is_none_or(|first| first.name != "ours") {
        return (ratios, targets);
    }
    let worst = read_to_mount.iter().copied().fold(0.0, f64::max);
    targets.push(Target {
        what: "ours, seconds from command to mount".into(),
        value: rows[0].seconds().median,
        limit: 0.5,
    });
    targets.push(Target { what: "ours, MiB of the disk read for that".into(), value: worst, limit: 32.0 });
    // How our time may be to theirs: ntfs-3g, guestmount.
    let limits = [None, Some([1.0 / 3.0, 0.1]), None, Some([1.0, 0.05]), Some([1.0, 1.0])];
    for (work, limit) in limits.into_iter().enumerate() {
        let ours = &rows[work * wanted.len()];
        for (index, peer) in wanted.iter().enumerate().skip(1) {
            let ratio = Ratio::of(ours, &rows[work * wanted.len() + index]);
            if let Some(limit) = limit {
                let limit = if peer.name == "ntfs-3g" { limit[0] } else { limit[1] };
                targets.push(Target { what: ratio.name.clone(), value: ratio.durable.median, limit });
            }
            ratios.push(ratio);
        }
    }
    (ratios, targets)
}

/// One mount: how long until it is there, and each way of reading. Answers also the bytes of the disk that mounting read.
fn measure(peer: &Peer, image: &Path, dir: &Path) -> Result<(Vec<Sample>, u64)> {
    let mut samples = Vec::new();
    drop_caches()?;
    let began = Instant::now();
    said(&mut (peer.mount)(image, dir)?)?;
    let root = dir.join(peer.root);
    while fs::read_dir(&root).and_then(|mut entries| entries.next().transpose()).map_or(true, |first| first.is_none()) {
        if began.elapsed() > PATIENCE {
            return Err(Problem::Wrong { what: root.display().to_string(), found: "nothing in it".into() });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let server = server_of(peer, dir);
    samples.push(sample(began.elapsed(), server));
    let read = read_bytes(server);
    let work = || -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        let mut timed = |cold: bool, work: &dyn Fn() -> Result<()>| -> Result<()> {
            if cold {
                drop_caches()?;
            }
            let began = Instant::now();
            work()?;
            samples.push(sample(began.elapsed(), server));
            Ok(())
        };
        timed(true, &|| read_all(&root.join(MANY)))?;
        timed(true, &|| read_through(&root.join(LARGE)))?;
        forget(&root.join(LARGE))?;
        timed(false, &|| read_through(&root.join(LARGE)))?;
        forget(&root.join(LARGE))?;
        timed(false, &|| read_at_random(&root.join(LARGE)))?;
        Ok(samples)
    };
    let worked = work();
    said(&mut (peer.unmount)(dir)?)?;
    samples.extend(worked?);
    Ok((samples, read))
}

fn sample(took: Duration, server: Option<u32>) -> Sample {
    let seconds = took.as_secs_f64();
    Sample { seconds, durable: seconds, cpu: 0.0, lab_cpu: 0.0, peak: server.map_or(0, peak_of) }
}

/// The process that serves the mount: the newest of that name.
fn server_of(peer: &Peer, _dir: &Path) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?;
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let named = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        peer.process.starts_with(name.trim()) || name.starts_with(peer.process)
    };
    pids.filter(named).max()
}

/// What a process read so far, from files and from memory that holds them: `rchar` of proc_pid_io(5).
fn read_bytes(pid: Option<u32>) -> u64 {
    let io = pid.map(|pid| fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default()).unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).unwrap_or(0)
}

/// Takes what was read of any file out of memory.
fn drop_caches() -> Result<()> {
    let path = Path::new("/proc/sys/vm/drop_caches");
    rustix::fs::sync();
    fs::write(path, "3").map_err(io("write (as root)", path))
}

/// Takes one file out of memory, not what it was made from.
fn forget(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(io("open", path))?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
        .map_err(|error| io("give up the pages of", path)(error.into()))
}

/// Walks a folder and reads every file in it, one after the other.
fn read_all(folder: &Path) -> Result<()> {
    let files = files_below(folder)?;
    if files.len() < 50_000 {
        return Err(Problem::Wrong { what: folder.display().to_string(), found: format!("{} files", files.len()) });
    }
    files.iter().try_for_each(|path: &PathBuf| fs::read(path).map(drop).map_err(io("read", path)))
}

fn read_through(path: &Path) -> Result<()> {
    crate::measure::read_through(path)
}

fn read_at_random(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(io("open", path))?;
    // The kernel would read ahead of each.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)
        .map_err(|error| io("say how is read from", path)(error.into()))?;
    let blocks = file.metadata().map_err(io("look at", path))?.len() / 4096;
    let mut buffer = [0; 4096];
    let mut place = 1u64;
    for _ in 0..READS {
        place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.read_exact_at(&mut buffer, (place >> 33) % blocks * 4096).map_err(io("read", path))?;
    }
    Ok(())
}
