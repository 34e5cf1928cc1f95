//! hivex reads hives that were built here, and writes hives that are read here.
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, FileDisk, ReadAt};
use guestfs::{Cache, CachedDisk, Hive, MountedDevices, Place};
use serde_json::{Value as Json, json};
use support::hive::{ALL_LENGTHS, sample, tree};
use support::{Counting, run};
use uuid::uuid;

/// Debian's own Python: the library is a package of Debian's.
const PYTHON: &str = "/usr/bin/python3";
/// Reads of a hive: more than a walk of a large one costs.
const READS: u64 = 1 << 24;

/// Whether hivex is there. In CI it must be; elsewhere its absence is printed and the test skipped.
fn has_hivex() -> bool {
    let there = Command::new(PYTHON).args(["-c", "import hivex"]).output().is_ok_and(|output| output.status.success());
    assert!(there || std::env::var("CI").as_deref() != Ok("true"), "python3-hivex is missing, and CI must have it");
    if !there {
        eprintln!("skipped: python3-hivex is not installed");
    }
    there
}

fn hivex(verb: &str, file: &Path, input: &str) -> Json {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/hivex.py");
    let args = [script, verb, file.to_str().unwrap()];
    let text = run(PYTHON, &args, Path::new("."), input);
    if text.is_empty() { Json::Null } else { serde_json::from_str(&text).unwrap() }
}

fn ours(file: &Path) -> Json {
    let disk = FileDisk::open(file).unwrap();
    let hive = Hive::open(&disk, READS).unwrap();
    assert_eq!(hive.notes(), [""; 0]);
    tree(&hive).unwrap()
}

/// The tree of our reader, once it is that of hivex.
fn agreed(path: &Path) -> Json {
    let (ours, theirs) = (ours(path), hivex("dump", path, ""));
    assert_same(&ours, &theirs);
    ours
}

/// Says where two trees differ first, not all that is in them.
fn assert_same(ours: &Json, theirs: &Json) {
    assert_eq!((&ours[0], &ours[1]), (&theirs[0], &theirs[1]), "below {}", ours[0]);
    let (ours, theirs) = (ours[2].as_array().unwrap(), theirs[2].as_array().unwrap());
    for (one, other) in ours.iter().zip(theirs) {
        assert_same(one, other);
    }
    assert_eq!(ours.len(), theirs.len());
}

/// A built hive in a file.
fn written(folder: &tempfile::TempDir, devices: &[(&str, &[u8])]) -> PathBuf {
    let path = folder.path().join("SYSTEM");
    std::fs::write(&path, sample(devices, ALL_LENGTHS)).unwrap();
    path
}

#[test]
fn a_hive_built_by_hand_is_the_same_to_hivex() {
    if !has_hivex() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = written(&folder, &[(r"\DosDevices\C:", &[1; 12])]);
    assert_eq!(agreed(&path)[2].as_array().unwrap().len(), 8);
}

#[test]
fn a_hive_that_hivex_changed_is_read_as_hivex_reads_it() {
    if !has_hivex() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = written(&folder, &[]);
    let many: Vec<String> = (0..3000).map(|n| format!("many {n}")).collect();
    let some: Vec<String> = (0..20).map(|n| format!("key {n:05} and more")).collect();
    let values: Vec<Json> = (0..200).map(|n| json!([format!("value {n}"), 3, "ab".repeat(n)])).collect();
    let mut changes = vec![json!([["new"], many, values])];
    for name in ["by hash", "by name", "by offset", "in leaves", "in plain leaves"] {
        changes.push(json!([[name], some, []]));
    }
    let device: String = r"\??\SCSI#CdRom".bytes().map(|byte| format!("{byte:02x}00")).collect();
    changes.push(json!([
        ["MountedDevices"],
        [],
        [
            [r"\DosDevices\D:", 3, "efbeadde0000100000000000"],
            [r"\DosDevices\C:", 3, "444d494f3a49443a0102030405060708090a0b0c0d0e0f10"],
            [r"\DosDevices\E:", 3, device],
            [r"\??\Volume{62517174-f29b-11ec-85e0-806e6f6e6963}", 3, "efbeadde0000100000000000"],
        ]
    ]));
    hivex("change", &path, &Json::Array(changes).to_string());
    let tree = agreed(&path);
    let new = tree[2].as_array().unwrap().iter().find(|key| key[0] == "new").unwrap();
    assert_eq!((new[1].as_array().unwrap().len(), new[2].as_array().unwrap().len()), (200, 3000));

    let mounted = MountedDevices::read(&FileDisk::open(&path).unwrap()).unwrap();
    let mbr = Place::Mbr { signature: 0xdead_beef, start: ByteOffset(0x10_0000) };
    let gpt = Place::Gpt(uuid!("04030201-0605-0807-090a-0b0c0d0e0f10"));
    assert_eq!(mounted.letters, [('C', gpt), ('D', mbr)]);
    assert_eq!(mounted.guids, [(uuid!("62517174-f29b-11ec-85e0-806e6f6e6963"), mbr)]);
    assert_eq!(mounted.notes, [""; 0]);
}

#[test]
fn a_real_system_hive_is_the_same_to_hivex() {
    if !has_hivex() {
        return;
    }
    let Some(path) = support::peer("dissect/regf/SYSTEM") else { return };
    let tree = agreed(&path);
    let devices = tree[2].as_array().unwrap().iter().find(|key| key[0] == "MountedDevices").unwrap();
    assert_eq!(devices[1].as_array().unwrap().len(), 5);

    let disk = Arc::new(Counting::new(FileDisk::open(&path).unwrap()));
    let mounted = MountedDevices::read(&CachedDisk::new(disk.clone(), Cache::new(ByteLen(1 << 20)))).unwrap();
    assert_eq!(mounted.notes, [""; 0]);
    let letters: Vec<char> = mounted.letters.iter().map(|(letter, _)| *letter).collect();
    assert_eq!((letters, mounted.guids.len()), (vec!['C'], 0)); // A and D are a floppy and a CD
    println!("{} blocks of 64 KiB are read, of {}", disk.reads(), disk.size());
    assert!(disk.reads() <= 10);
}
