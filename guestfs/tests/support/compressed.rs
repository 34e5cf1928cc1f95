//! Volumes on which ntfs-3g compressed files, and what is compressed in them.
#![allow(dead_code, reason = "each file that includes this uses a part of it")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::run;

pub(crate) const TOOLS: [&str; 5] = ["mkntfs", "ntfs-3g", "setfattr", "umount", "ntfsinfo"];
/// Clusters of a compression unit.
pub(crate) const UNIT: usize = 16;

/// A compression unit of a file that takes some, but not all, of its clusters.
pub(crate) struct Unit {
    pub(crate) packed: Vec<u8>,
    pub(crate) plain: Vec<u8>,
}

/// Has ntfs-3g write `files` compressed to a new volume `image`. False, with a printed reason, where it cannot be mounted.
pub(crate) fn write_compressed(folder: &Path, image: &str, cluster: usize, files: &[(&str, Vec<u8>)]) -> bool {
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
    run("umount", &["mnt"], folder, "");
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
pub(crate) fn runs(folder: &Path, image: &str, name: &str) -> Vec<(Option<usize>, usize)> {
    let info = run("ntfsinfo", &["-v", "-F", &format!("/packed/{name}"), image], folder, "");
    let data = &info[info.find("Dumping attribute $DATA").unwrap()..];
    let number = |text: &str| usize::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap();
    let lines = data.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let runs =
        lines.filter(|words| words.len() == 3 && words.iter().all(|word| word.starts_with("0x") || *word == "<HOLE>"));
    runs.map(|words| ((words[1] != "<HOLE>").then(|| number(words[1])), number(words[2]))).collect()
}

/// The compressed units of a file; the others are compared at once.
pub(crate) fn units(volume: &[u8], cluster: usize, runs: &[(Option<usize>, usize)], plain: &[u8]) -> Vec<Unit> {
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
