//! What ntfs-3g compresses, we unpack: its compressed clusters are taken from a volume, where `ntfsinfo` says they are.
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

#[path = "support/compressed.rs"]
mod compressed;
mod support;

use compressed::{TOOLS, UNIT, runs, units, write_compressed};
use guestfs::unpack::lznt1;
use support::has;

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
