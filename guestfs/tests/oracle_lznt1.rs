//! What ntfs-3g compresses, we unpack: its compressed clusters are taken from a volume, where `ntfsinfo` says they are.
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use guestfs::unpack::lznt1;
use support::{has, run};

const TOOLS: [&str; 5] = ["mkntfs", "ntfs-3g", "setfattr", "fusermount", "ntfsinfo"];
/// Clusters of a compression unit.
const UNIT: usize = 16;

/// A compression unit of a file that takes some, but not all, of its clusters.
struct Unit {
    packed: Vec<u8>,
    plain: Vec<u8>,
}

fn contents() -> Vec<(&'static str, Vec<u8>)> {
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let text = include_str!("../src/unpack/lzx.rs");
    let noise: Vec<u8> =
        (0..40_000u32).map(|n| (n.wrapping_mul(2_654_435_761).rotate_left(9) ^ n).to_le_bytes()[1]).collect();
    let mixed = [text.as_bytes(), &noise[..9000], &text.as_bytes()[..9000], &[0; 20_000], &noise[..100]].concat();
    vec![
        ("program", program[..program.len().min(2_000_003)].to_vec()),
        ("text", text.repeat(20).into_bytes()),
        ("mixed", mixed.repeat(5)),
        ("noise", noise),
        ("byte", b"x".repeat(70_001)),
        ("pairs", b"ab".repeat(40_000)),
        ("short", text.as_bytes()[..5000].to_vec()),
    ]
}

/// Has ntfs-3g write `files` compressed to a new volume `image`. False, with a printed reason, where it cannot be mounted.
fn write_compressed(folder: &Path, image: &str, cluster: usize, files: &[(&str, Vec<u8>)]) -> bool {
    std::fs::File::create(folder.join(image)).unwrap().set_len(32 << 20).unwrap();
    run("mkntfs", &["-q", "-F", "-f", "-c", &cluster.to_string(), image], folder, "");
    std::fs::create_dir_all(folder.join("mnt")).unwrap();
    let mount = Command::new("ntfs-3g").args(["-o", "compression", image, "mnt"]).current_dir(folder).output();
    if let Some(why) = mount.as_ref().err().map(ToString::to_string).or_else(|| {
        let mount = mount.as_ref().ok().filter(|mount| !mount.status.success())?;
        Some(String::from_utf8_lossy(&mount.stderr).into_owned())
    }) {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "ntfs-3g cannot mount, and CI must be able to: {why}");
        eprintln!("skipped: ntfs-3g cannot mount: {why}");
        return false;
    }
    let written = std::panic::catch_unwind(|| {
        std::fs::create_dir(folder.join("mnt/packed")).unwrap();
        // FILE_ATTRIBUTE_COMPRESSED of a folder: what is made in it is compressed
        run("setfattr", &["-h", "-v", "0x00080000", "-n", "system.ntfs_attrib", "mnt/packed"], folder, "");
        for (name, bytes) in files {
            std::fs::write(folder.join("mnt/packed").join(name), bytes).unwrap();
        }
    });
    run("fusermount", &["-u", "mnt"], folder, "");
    // the writer may still be at work after its mount is gone
    let deadline = Instant::now() + Duration::from_secs(20);
    while Command::new("ntfsinfo")
        .args(["-m", image])
        .current_dir(folder)
        .output()
        .is_ok_and(|info| !info.status.success())
    {
        assert!(Instant::now() < deadline, "the volume stays in use");
        std::thread::sleep(Duration::from_millis(50));
    }
    written.unwrap();
    true
}

/// Cluster and length of each run of a file, `None` for holes, as `ntfsinfo` prints them.
fn runs(folder: &Path, image: &str, name: &str) -> Vec<(Option<usize>, usize)> {
    let info = run("ntfsinfo", &["-v", "-F", &format!("/packed/{name}"), image], folder, "");
    let data = &info[info.find("Dumping attribute $DATA").unwrap()..];
    let number = |text: &str| usize::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap();
    let lines = data.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let runs =
        lines.filter(|words| words.len() == 3 && words.iter().all(|word| word.starts_with("0x") || *word == "<HOLE>"));
    runs.map(|words| ((words[1] != "<HOLE>").then(|| number(words[1])), number(words[2]))).collect()
}

/// The compressed units of a file; the others are compared at once.
fn units(volume: &[u8], cluster: usize, runs: &[(Option<usize>, usize)], plain: &[u8]) -> Vec<Unit> {
    let clusters = runs.iter().flat_map(|(first, len)| (0..*len).map(move |n| first.map(|first| first + n)));
    let clusters: Vec<Option<usize>> = clusters.collect();
    let mut found = Vec::new();
    for (clusters, plain) in clusters.chunks(UNIT).zip(plain.chunks(UNIT * cluster)) {
        let bytes = |number: &usize| &volume[number * cluster..(number + 1) * cluster];
        let packed: Vec<u8> = clusters.iter().flatten().flat_map(bytes).copied().collect();
        match clusters.iter().flatten().count() {
            0 => assert!(plain.iter().all(|byte| *byte == 0)),
            UNIT => assert!(packed.starts_with(plain)),
            _ => {
                let mut plain = plain.to_vec();
                plain.resize(UNIT * cluster, 0);
                found.push(Unit { packed, plain });
            }
        }
    }
    found
}

#[test]
fn units_that_ntfs_3g_compressed_are_unpacked() {
    if !TOOLS.iter().all(|tool| has(tool)) {
        return;
    }
    for cluster in [512, 4096] {
        let folder = tempfile::tempdir().unwrap();
        let files = contents();
        if !write_compressed(folder.path(), "volume", cluster, &files) {
            return;
        }
        let volume = std::fs::read(folder.path().join("volume")).unwrap();
        let mut count = 0;
        for (name, plain) in &files {
            let runs = runs(folder.path(), "volume", name);
            for (index, unit) in units(&volume, cluster, &runs, plain).iter().enumerate() {
                let mut out = vec![0xee; UNIT * cluster];
                let len = lznt1::decompress(&unit.packed, &mut out).unwrap();
                assert!(out == unit.plain, "unit {index} of {name}, clusters of {cluster}");
                assert!(len <= out.len() && unit.plain[len..].iter().all(|byte| *byte == 0));
                count += 1;
            }
        }
        println!("{count} units, clusters of {cluster}");
        assert!(count >= 40, "{count} units");
    }
}

#[test]
#[ignore = "measures: cargo test --release -p guestfs --test oracle_lznt1 -- --ignored --nocapture"]
fn speed_of_lznt1() {
    let (folder, cluster) = (tempfile::tempdir().unwrap(), 4096);
    let files = contents();
    assert!(write_compressed(folder.path(), "volume", cluster, &files));
    let volume = std::fs::read(folder.path().join("volume")).unwrap();
    for (name, plain) in &files {
        let units = units(&volume, cluster, &runs(folder.path(), "volume", name), plain);
        let mut out = vec![0; UNIT * cluster];
        let mut best = Duration::MAX;
        for _ in 0..50 {
            let start = Instant::now();
            for unit in &units {
                lznt1::decompress(&unit.packed, &mut out).unwrap();
            }
            best = best.min(start.elapsed());
        }
        let bytes = u32::try_from(units.len() * out.len()).unwrap();
        println!("{name}: {:.0} MB/s", f64::from(bytes) / best.as_secs_f64() / 1e6);
    }
}
