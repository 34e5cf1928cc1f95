//! How fast is compressed data of NTFS unpacked? Packs a file with wimlib and with ntfs-3g (as root), and unpacks it on one core.
//!
//!     cargo run --release -p guestfs --example unpack_speed -- FILE
//!
//! Prints MB/s of plain bytes, of the fastest of many rounds. `wimlib-imagex verify` has the SHA-1 of all bytes to compute beside.
#![allow(clippy::unwrap_used, reason = "who runs this reads a panic as well as an error")]

#[path = "../tests/support/compressed.rs"]
mod compressed;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../tests/support/wim.rs"]
mod wim;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use blockdev::{ByteLen, ByteOffset, ReadAt};
use compressed::{UNIT, runs, units, write_compressed};
use guestfs::unpack::lznt1;
use support::run;
use wim::{PACKINGS, WIMLIB, capture, reader, resources};

/// How long something took when other programs disturbed it least.
fn best_of(rounds: u32, mut work: impl FnMut()) -> Duration {
    let mut timed = || {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..rounds).map(|_| timed()).min().unwrap()
}

fn rate(bytes: usize, time: Duration) -> f64 {
    f64::from(u32::try_from(bytes).unwrap()) / time.as_secs_f64() / 1e6
}

fn xpress_and_lzx(bytes: &[u8]) {
    let files = HashMap::from([(ByteLen::of(bytes).0, bytes.to_vec())]);
    for (compress, chunk, algorithm) in PACKINGS {
        let folder = tempfile::tempdir().unwrap();
        let wim = capture(folder.path(), &files, compress, chunk);
        let reader = reader(&wim, &resources(&std::fs::read(&wim).unwrap())[0], algorithm);
        let mut plain = vec![0; bytes.len()];
        let ours = best_of(40, || reader.read_exact_at(ByteOffset(0), &mut plain).unwrap());
        assert!(plain == bytes);
        let theirs = best_of(5, || _ = run(WIMLIB, &["verify", "x.wim", "--quiet"], folder.path(), ""));
        let (ours, theirs) = (rate(bytes.len(), ours), rate(bytes.len(), theirs));
        println!("{compress:9} {chunk:>5}: {ours:.0} MB/s; wimlib-imagex verify: {theirs:.0} MB/s");
    }
}

fn lznt1(bytes: &[u8]) {
    let (folder, cluster) = (tempfile::tempdir().unwrap(), 4096);
    if write_compressed(folder.path(), "volume", cluster, &[("file", bytes.to_vec())]) {
        let volume = std::fs::read(folder.path().join("volume")).unwrap();
        let units = units(&volume, cluster, &runs(folder.path(), "volume", "file"), bytes);
        let mut out = vec![0; UNIT * cluster];
        let ours = best_of(40, || {
            for unit in &units {
                lznt1::decompress(&unit.packed, &mut out).unwrap();
            }
        });
        println!("LZNT1           : {:.0} MB/s", rate(units.len() * out.len(), ours));
    }
}

fn main() {
    let file = std::env::args_os().nth(1).unwrap_or_else(|| panic!("the file to pack, at most 20 MB"));
    let bytes = std::fs::read(file).unwrap();
    lznt1(&bytes);
    xpress_and_lzx(&bytes);
}
