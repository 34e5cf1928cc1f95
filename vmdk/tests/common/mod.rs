//! What the tests share: data, comparison, and `qemu-img` as the judge.
#![allow(dead_code, clippy::unwrap_used, reason = "each test program uses a part, and all of it is test code")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use blockdev::{ByteLen, ByteOffset, ExtentKind, ReadAt, ReadAtExt};
use vmdk_rs::{CreateOptions, Subformat};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) const SUBFORMATS: [Subformat; 6] = [
    Subformat::MonolithicFlat,
    Subformat::TwoGbMaxExtentFlat,
    Subformat::MonolithicSparse,
    Subformat::TwoGbMaxExtentSparse,
    Subformat::VmfsFlat,
    Subformat::StreamOptimized,
];

/// Whether a tool is there. Its absence is an error in CI and a printed reason elsewhere.
pub(crate) fn have(tool: &str) -> bool {
    if Command::new(tool).arg("--version").output().is_ok_and(|out| out.status.success()) {
        return true;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{tool} is missing, and CI must have it");
    eprintln!("skipped: {tool} is not installed");
    false
}

/// Runs a tool that must succeed; answers what it printed.
pub(crate) fn run(tool: &str, args: &[&str], dir: &Path) -> String {
    let out = Command::new(tool).args(args).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{tool} {args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

/// `len` bytes that are not zero and differ from seed to seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3] | 1
    };
    (0..len).map(|_| next()).collect()
}

/// A raw file with noise at the given places (byte, length): the truth that images are compared with.
pub(crate) fn model(path: &Path, size: u64, places: &[(u64, u64)]) -> PathBuf {
    let file = File::create_new(path).unwrap();
    file.set_len(size).unwrap();
    for (at, len) in places {
        file.write_all_at(&noise(*at + 1, usize::try_from(*len).unwrap()), *at).unwrap();
    }
    path.to_owned()
}

pub(crate) fn options(subformat: Subformat, capacity: u64) -> CreateOptions {
    CreateOptions {
        hardware_version: 19,
        tools_version: Some(2_147_483_647),
        ..CreateOptions::new(subformat, ByteLen(capacity))
    }
}

/// Compares two disks byte by byte, leaving out only what both call free of data.
pub(crate) fn assert_same(a: &dyn ReadAt, b: &dyn ReadAt) {
    assert_eq!(a.size(), b.size());
    let (mut at, size) = (0, a.size().0);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![1; 1 << 20]);
    while at < size {
        let free = |disk: &dyn ReadAt| match disk.extent_at(ByteOffset(at)).unwrap() {
            extent if extent.kind == ExtentKind::Data => 0,
            extent => extent.len.0,
        };
        let both = free(a).min(free(b));
        if both > 0 {
            at += both;
            continue;
        }
        let len = usize::try_from((size - at).min(1 << 20)).unwrap();
        a.read_exact_at(ByteOffset(at), &mut left[..len]).unwrap();
        b.read_exact_at(ByteOffset(at), &mut right[..len]).unwrap();
        if left[..len] != right[..len] {
            let byte = (0..len).find(|i| left[*i] != right[*i]).unwrap();
            panic!("byte {:#x} differs: {:#x} and {:#x}", at + byte as u64, left[byte], right[byte]);
        }
        at += len as u64;
    }
}

/// The runs of a disk: first byte, end, whether there is data.
pub(crate) fn runs(disk: &dyn ReadAt) -> Vec<(u64, u64, bool)> {
    let extents = disk.extents().map(|e| e.unwrap());
    joined(extents.map(|e| (e.start.0, e.end().0, e.kind == ExtentKind::Data)))
}

/// The runs as `qemu-img map` tells them.
pub(crate) fn qemu_runs(dir: &Path, name: &str) -> Vec<(u64, u64, bool)> {
    let json = run("qemu-img", &["map", "-f", "vmdk", "--output=json", name], dir);
    let map: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    joined(map.iter().map(|e| {
        let start = e["start"].as_u64().unwrap();
        (start, start + e["length"].as_u64().unwrap(), e["data"].as_bool().unwrap() && !e["zero"].as_bool().unwrap())
    }))
}

fn joined(runs: impl Iterator<Item = (u64, u64, bool)>) -> Vec<(u64, u64, bool)> {
    let mut all: Vec<(u64, u64, bool)> = Vec::new();
    for run in runs {
        match all.last_mut() {
            Some(last) if last.2 == run.2 && last.1 == run.0 => last.1 = run.1,
            _ => all.push(run),
        }
    }
    all
}
