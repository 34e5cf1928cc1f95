//! Backups of what changed: chains of them are the frozen disk at each point, judged by qemu-img against what the lab held; what cannot be
//! trusted becomes a full one; what is missing is named.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use acceptance::{Outcome, Stage, dump, images, is_identical, manifest, names_in, program, tool, vm_of};
use blockdev::{ByteOffset, FileDisk, ReadAt};
use lab::face::{Fault, FaultKind};
use lab::world::{DiskSource, DiskSpec, VmId, VmSpec};
use serde_json::{Value, json};

const VM: &str = "tracked";
const SPEC: &str = "name:tracked";
const MIB: u64 = 1 << 20;
const KEY: i32 = 2000;

/// Noise that differs from seed to seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A raw disk of a size that is no multiple of anything, with data in its first third, a guest log if wished, and something at its end.
fn raw_disk(to: &Path, megabytes: u64, with_log: bool) {
    let file = File::create(to).unwrap();
    file.set_len(megabytes * MIB + 512 * 7).unwrap();
    file.write_all_at(&noise(megabytes, (megabytes * MIB / 3) as usize), 0).unwrap();
    file.write_all_at(b"the last sector", megabytes * MIB + 512 * 6).unwrap();
    if with_log {
        file.write_all_at(&lab::guest::log_file(64), megabytes * MIB / 2).unwrap();
    }
}

/// A tracked VM with disks of 40 and 12 MiB. One that is on has a guest that writes to both.
async fn stage(on: bool) -> Stage {
    let raws = tempfile::tempdir().unwrap();
    let (first, second) = (raws.path().join("first.raw"), raws.path().join("second.raw"));
    raw_disk(&first, 40, on);
    raw_disk(&second, 12, on);
    Stage::empty(move |world| {
        let disks = [&first, &second].map(|raw| DiskSpec { source: DiskSource::RawFile(raw.clone()) }).to_vec();
        let spec = VmSpec { disks, change_tracking: true, power_on: on, tools: on, ..vm_of(VM, &first) };
        world.add_vm(&spec).unwrap();
        drop(raws);
    })
    .await
}

fn id(stage: &Stage) -> VmId {
    stage.vm(VM).id
}

/// Writes into the VM's disk as its guest would.
fn write(stage: &Stage, key: i32, at: u64, bytes: &[u8]) {
    stage.world().write_disk(&id(stage), key, ByteOffset(at), bytes).unwrap();
}

/// Changes that leave no kind out: new data over data and holes, zeros over data, blocks, edges, the last sector.
fn scatter(stage: &Stage, round: u64) {
    for piece in 0..6 {
        let at = (round * 2_345_678 + piece * 5_555_555) % (39 * MIB) / 512 * 512;
        write(stage, KEY, at, &noise(round * 10 + piece, 512 * (1 + piece as usize * 40)));
    }
    write(stage, KEY, round * MIB - 512, &vec![0; 200_704]);
    write(stage, KEY, 40 * MIB + 512 * 6, &noise(round, 512));
    write(stage, KEY + 1, 11 * MIB, &noise(round, 1024));
}

async fn since(stage: &Stage, base: &str, name: &str, more: &[&str]) -> Outcome {
    let base = stage.out(base).to_string_lossy().into_owned();
    stage.backup(SPEC, name, &[&["--since", &base], more].concat()).await
}

fn kinds(directory: &Path) -> Vec<String> {
    let manifest = manifest(directory);
    manifest["disks"].as_array().unwrap().iter().map(|disk| disk["kind"].as_str().unwrap().to_owned()).collect()
}

fn reason(directory: &Path, disk: usize) -> String {
    manifest(directory)["disks"][disk]["read_all_because"].as_str().unwrap_or_default().to_owned()
}

async fn verified(stage: &Stage, name: &str) -> Outcome {
    stage.run(&["verify", &stage.out(name).to_string_lossy(), "--progress", "none"]).await
}

/// Demands that a foreign reader finds the images to be the VM's disks as they are now.
async fn is_now(stage: &Stage, name: &str) {
    let wrong = stage.faults_of_chain(VM, &stage.out(name));
    assert!(wrong.is_empty(), "{name}: {wrong:?}");
    verified(stage, name).await.succeeds();
}

trait Chains {
    fn faults_of_chain(&self, vm: &str, directory: &Path) -> Vec<String>;
}

impl Chains for Stage {
    fn faults_of_chain(&self, vm: &str, directory: &Path) -> Vec<String> {
        if program("qemu-img").is_none() {
            return Vec::new();
        }
        let (view, raw) = (self.vm(vm), self.home.path().join("truth.raw"));
        let images = images(directory);
        assert_eq!(images.len(), view.disks.len());
        let mut wrong = Vec::new();
        for ((address, image), disk) in images.iter().zip(&view.disks) {
            dump(self.world().running_disk(&view.id, disk.key).unwrap().as_ref(), &raw);
            if !is_identical(image, &raw) {
                wrong.push(address.clone());
            }
        }
        wrong
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_five_incrementals_and_a_differential_are_the_disk_at_each_point() {
    for format in ["monolithicSparse", "twoGbMaxExtentFlat"] {
        let stage = stage(false).await;
        stage.backup(SPEC, "full", &["--format", format]).await.succeeds();
        let mut base = "full".to_owned();
        for round in 1..=5 {
            scatter(&stage, round);
            let name = format!("inc {round}");
            since(&stage, &base, &name, &["--format", format]).await.succeeds();
            assert_eq!(kinds(&stage.out(&name)), ["delta", "delta"]);
            assert_eq!(manifest(&stage.out(&name))["base"]["directory"], base.as_str());
            is_now(&stage, &name).await;
            base = name;
        }
        since(&stage, "full", "diff", &[]).await.succeeds();
        is_now(&stage, "diff").await;
        // The digest is that of the whole disk, whichever way it came about.
        stage.backup(SPEC, "full 2", &[]).await.succeeds();
        for disk in 0..2 {
            let digest = |name: &str| manifest(&stage.out(name))["disks"][disk]["digest"].clone();
            assert_eq!((digest("inc 5"), digest("diff")), (digest("full 2"), digest("full 2")));
        }
        let hashes = |name: &str| fs::read(stage.out(name).join("scsi0-0-0-tracked.hashes")).unwrap();
        assert!(hashes("inc 5") == hashes("full 2") && hashes("diff") == hashes("full 2"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn incrementals_of_a_running_guest_are_what_was_frozen() {
    if program("qemu-img").is_none() {
        return;
    }
    let stage = stage(true).await;
    let mut base: Option<String> = None;
    for round in 0..4_u64 {
        let name = format!("point {round}");
        // The snapshot stays, so that what was frozen can still be looked at.
        stage.lab.faults().arm(Fault { kind: FaultKind::SnapshotRemoveFails, times: 100 });
        let quick = ["--retries", "0", "--quiesce", "require"];
        let outcome = match &base {
            None => stage.backup(SPEC, &name, &quick).await,
            Some(base) => since(&stage, base, &name, &quick).await,
        };
        outcome.fails(8, &["is complete"]);
        let snapshot = stage.snapshots(VM).remove(0);
        for (index, (address, image)) in images(&stage.out(&name)).into_iter().enumerate() {
            let raw = stage.home.path().join("frozen.raw");
            dump(stage.world().frozen_disk(&snapshot.id, snapshot.disks[index].key).unwrap().as_ref(), &raw);
            assert!(is_identical(&image, &raw), "{address} of {name}");
        }
        assert!(stage.committed(&id(&stage)) > snapshot.guest_log_at_freeze.unwrap());
        stage.lab.faults().clear();
        stage.run(&["cleanup", "-y"]).await.succeeds();
        verified(&stage, &name).await.succeeds();
        base = Some(name);
    }
    assert_eq!(kinds(&stage.out("point 3")), ["delta", "delta"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundredth_that_changed_costs_little_more_than_that_to_read() {
    let stage = Stage::empty(|world| {
        let raws = tempfile::tempdir().unwrap();
        let raw = raws.path().join("large.raw");
        raw_disk(&raw, 60, false);
        File::options().write(true).open(&raw).unwrap().set_len(2048 * MIB).unwrap();
        world.add_vm(&VmSpec { change_tracking: true, ..vm_of(VM, &raw) }).unwrap();
    })
    .await;
    stage.backup(SPEC, "full", &[]).await.succeeds();
    let size = 2048 * MIB;
    for piece in 0..size / 100 / (64 << 10) {
        write(&stage, KEY, piece * 6_500_000 / 65_536 * 65_536, &noise(piece, 64 << 10));
    }
    since(&stage, "full", "inc", &[]).await.succeeds();
    let read = manifest(&stage.out("inc"))["disks"][0]["bytes_read"].as_u64().unwrap();
    assert!(read >= size / 100 && read * 1000 <= size * 11, "{read} bytes of {size}");
    is_now(&stage, "inc").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_whose_changes_nobody_knows_is_backed_up_whole_with_the_reason() {
    let stage = stage(false).await;
    stage.backup(SPEC, "full", &[]).await.succeeds();
    scatter(&stage, 1);
    // The host cannot tell.
    stage.lab.faults().arm(Fault { kind: FaultKind::QueryAreasFails, times: 1 });
    since(&stage, "full", "not told", &[]).await.succeeds();
    let mut made = kinds(&stage.out("not told"));
    made.sort();
    assert_eq!(made, ["delta", "full"]);
    is_now(&stage, "not told").await;
    // It began to track anew.
    stage.world().reset_change_tracking(&id(&stage)).unwrap();
    let outcome = since(&stage, "full", "reset", &[]).await.succeeds();
    assert_eq!(kinds(&stage.out("reset")), ["full", "full"]);
    assert!(reason(&stage.out("reset"), 0).contains("a point of the series"), "{}", reason(&stage.out("reset"), 0));
    assert!(outcome.stdout.contains("note: scsi0:0: backed up whole, because"), "{}", outcome.stdout);
    let reset = manifest(&stage.out("reset"));
    assert_eq!((&reset["format"], &reset["base"]), (&json!(1), &Value::Null), "a full backup needs no other");
    is_now(&stage, "reset").await;
    // It does not track any more, and then again.
    stage.world().set_change_tracking(&id(&stage), false).unwrap();
    since(&stage, "reset", "off", &[]).await.succeeds();
    assert_eq!(kinds(&stage.out("off")), ["full", "full"]);
    stage.world().set_change_tracking(&id(&stage), true).unwrap();
    since(&stage, "off", "on", &[]).await.succeeds();
    assert!(reason(&stage.out("on"), 1).contains("its blocks were not tracked then"));
    scatter(&stage, 2);
    since(&stage, "on", "after", &[]).await.succeeds();
    assert_eq!(kinds(&stage.out("after")), ["delta", "delta"]);
    is_now(&stage, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_and_grown_disks_are_backed_up_whole_beside_the_deltas_of_the_others() {
    let stage = stage(false).await;
    stage.backup(SPEC, "full", &[]).await.succeeds();
    scatter(&stage, 1);
    let new = stage.world().add_disk(&id(&stage), &DiskSource::Empty(9 * MIB)).unwrap();
    write(&stage, new, 4096, &noise(5, 4096));
    since(&stage, "full", "new", &[]).await.succeeds();
    assert_eq!(kinds(&stage.out("new")), ["delta", "delta", "full"]);
    assert!(reason(&stage.out("new"), 2).contains("it is not in full"));
    is_now(&stage, "new").await;
    stage.world().grow_disk(&id(&stage), KEY, 50 * MIB).unwrap();
    write(&stage, KEY, 45 * MIB, &noise(6, 70_144));
    since(&stage, "new", "grown", &[]).await.succeeds();
    assert_eq!(kinds(&stage.out("grown")), ["full", "delta", "delta"]);
    assert!(reason(&stage.out("grown"), 0).contains("bytes then, and has 52428800 now"));
    is_now(&stage, "grown").await;
    // A disk that was left out has no base next time.
    since(&stage, "grown", "half", &["--exclude-disk", "scsi0:1"]).await.succeeds();
    since(&stage, "half", "whole", &[]).await.succeeds();
    assert_eq!(kinds(&stage.out("whole")), ["delta", "full", "delta"]);
    is_now(&stage, "whole").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_lies_is_found_out_by_the_samples_or_by_the_audit() {
    let stage = stage(false).await;
    stage.backup(SPEC, "full", &[]).await.succeeds();
    // All of the disk changes, in one area, which the host leaves out.
    write(&stage, KEY, 0, &noise(99, 40 << 20));
    stage.lab.faults().arm(Fault { kind: FaultKind::QueryAreasLies, times: 1 });
    let exclude = ["--exclude-disk", "scsi0:1"];
    let outcome = since(&stage, "full", "lied to", &exclude).await.succeeds();
    assert_eq!(kinds(&stage.out("lied to")), ["full"]);
    assert!(outcome.stdout.contains("unchanged, and it changed"), "{}", outcome.stdout);
    verified(&stage, "lied to").await.succeeds();
    // One block that no sample would find.
    write(&stage, KEY, 7 * MIB, &noise(1, 65_536));
    stage.lab.faults().arm(Fault { kind: FaultKind::QueryAreasLies, times: 1 });
    let audit = [&exclude[..], &["--audit"]].concat();
    let outcome = since(&stage, "lied to", "audited", &audit).await.succeeds();
    assert_eq!(kinds(&stage.out("audited")), ["full"]);
    assert!(outcome.stdout.contains("which a whole reading found"), "{}", outcome.stdout);
    write(&stage, KEY, 9 * MIB, &noise(2, 65_536));
    since(&stage, "audited", "honest", &audit).await.succeeds();
    assert_eq!(kinds(&stage.out("honest")), ["delta"]);
    stage.backup(SPEC, "truth", &exclude).await.succeeds();
    for (name, same) in [("lied to", false), ("audited", false), ("honest", true)] {
        let digest = |name: &str| manifest(&stage.out(name))["disks"][0]["digest"].clone();
        assert_eq!(digest(name) == digest("truth"), same, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_with_somebody_elses_snapshots_is_backed_up_by_its_changes_too() {
    let stage = stage(false).await;
    stage.world().create_snapshot(&id(&stage), "before the update", "by hand", false).unwrap();
    scatter(&stage, 1);
    stage.backup(SPEC, "full", &[]).await.succeeds();
    scatter(&stage, 2);
    stage.world().create_snapshot(&id(&stage), "after it", "by hand", false).unwrap();
    scatter(&stage, 3);
    since(&stage, "full", "one", &[]).await.succeeds();
    assert_eq!(kinds(&stage.out("one")), ["delta", "delta"]);
    is_now(&stage, "one").await;
    let first = stage.snapshots(VM).remove(0).id;
    stage.world().remove_snapshot(&first).unwrap();
    scatter(&stage, 4);
    since(&stage, "one", "two", &[]).await.succeeds();
    assert_eq!(kinds(&stage.out("two")), ["delta", "delta"]);
    is_now(&stage, "two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_backup_of_this_vm_beside_the_new_one_is_a_base() {
    let stage = stage(false).await;
    stage.backup(SPEC, "full", &[]).await.succeeds();
    let raw = stage.home.path().join("other.raw");
    raw_disk(&raw, 5, false);
    stage.world().add_vm(&VmSpec { change_tracking: true, ..vm_of("other", &raw) }).unwrap();
    stage.backup("name:other", "other", &[]).await.succeeds();
    let snapshots = stage.calls("CreateSnapshot_Task");
    since(&stage, "other", "x", &[]).await.fails(2, &["is a backup of other", "and not of tracked", "--since"]);
    since(&stage, "missing", "x", &[]).await.fails(2, &["missing"]);
    fs::create_dir(stage.out("empty")).unwrap();
    since(&stage, "empty", "x", &[]).await.fails(2, &["is no complete backup"]);
    fs::create_dir(stage.home.path().join("elsewhere")).unwrap();
    since(&stage, "full", "../elsewhere/x", &[]).await.fails(2, &["does not lie beside"]);
    let copy = |name: &str| {
        tool("cp", &["-r".as_ref(), stage.out("full").as_os_str(), stage.out(name).as_os_str()]);
        stage.out(name)
    };
    fs::remove_file(copy("bare").join("manifest.json")).unwrap();
    since(&stage, "bare", "x", &[]).await.fails(2, &["has no manifest"]);
    fs::remove_file(copy("torn").join("scsi0-0-0-tracked.vmdk")).unwrap();
    since(&stage, "torn", "x", &[]).await.fails(5, &["scsi0-0-0-tracked.vmdk"]);
    assert_eq!(stage.calls("CreateSnapshot_Task"), snapshots, "a snapshot was made in vain");
    assert_eq!(stage.leftovers(), [""; 0]);
}

/// A full backup and two incrementals, `full`, `one` and `two`.
async fn with_chain() -> Stage {
    let stage = stage(false).await;
    stage.backup(SPEC, "full", &[]).await.succeeds();
    for (round, (base, name)) in [("full", "one"), ("one", "two")].into_iter().enumerate() {
        scatter(&stage, round as u64 + 1);
        since(&stage, base, name, &[]).await.succeeds();
    }
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_opens_the_chain() {
    let stage = with_chain().await;
    let two = stage.out("two");
    let path = two.to_string_lossy().into_owned();
    let (_, image) = images(&two).remove(0);
    let image_path = image.to_string_lossy().into_owned();
    let raw = stage.home.path().join("truth.raw");
    dump(stage.world().running_disk(&id(&stage), KEY).unwrap().as_ref(), &raw);
    let raw_path = raw.to_string_lossy().into_owned();
    stage.run(&["disk", "compare", &image_path, &raw_path]).await.succeeds();
    stage.run(&["disk", "check", &image_path, "--read-data"]).await.succeeds();
    let info = stage.run(&["disk", "info", &image_path, "--json"]).await.succeeds();
    let info: Value = serde_json::from_str(&info.stdout).unwrap();
    assert_eq!(info["backing-filename"], "../one/scsi0-0-0-tracked.vmdk");
    let out = stage.home.path().join("copy.raw").to_string_lossy().into_owned();
    stage.run(&["disk", "convert", &image_path, "--format", "raw", "-o", &out]).await.succeeds();
    assert!(fs::read(&out).unwrap() == fs::read(&raw).unwrap());
    stage.run(&["restore", &path, "--name", "again", "--progress", "none"]).await.succeeds();
    let again = stage.vm("again");
    for (disk, other) in again.disks.iter().zip(&stage.vm(VM).disks) {
        let (a, b) = (stage.home.path().join("a.raw"), stage.home.path().join("b.raw"));
        dump(stage.world().running_disk(&again.id, disk.key).unwrap().as_ref(), &a);
        dump(stage.world().running_disk(&id(&stage), other.key).unwrap().as_ref(), &b);
        assert!(fs::read(a).unwrap() == fs::read(b).unwrap(), "{}", disk.label);
    }
    // A change id of the original means nothing for the restored machine, which is another one.
    stage.backup("name:again", "again", &["--since", &path]).await.fails(2, &["is a backup of tracked"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_base_is_found_by_its_run_and_a_missing_one_is_named() {
    let stage = with_chain().await;
    let out = |name: &str| stage.out(name);
    fs::rename(out("full"), out("Monday's")).unwrap();
    fs::rename(out("one"), out("Tuesday's")).unwrap();
    verified(&stage, "two").await.succeeds();
    let (_, image) = images(&out("two")).remove(0);
    let (image, raw) = (image.to_string_lossy().into_owned(), stage.home.path().join("copy.raw"));
    stage.run(&["disk", "convert", &image, "--format", "raw", "-o", &raw.to_string_lossy()]).await.succeeds();
    scatter(&stage, 7);
    since(&stage, "two", "three", &[]).await.succeeds();
    verified(&stage, "three").await.succeeds();
    // Further away it is not looked for.
    let run = manifest(&out("Monday's"))["run"].as_str().unwrap().to_owned();
    let away = stage.home.path().join("away");
    fs::rename(out("Monday's"), &away).unwrap();
    let words = ["needs its base", "the directory full of run", &run, "put it back"];
    for args in [&["verify"][..], &["restore", "--name", "x"], &["disk", "info"]] {
        let target = if args[0] == "disk" { image.clone() } else { out("two").to_string_lossy().into_owned() };
        stage.run(&[args, &[&target]].concat()).await.fails(5, &words);
    }
    since(&stage, "two", "x", &[]).await.fails(5, &words);
    // Nor behind a link.
    std::os::unix::fs::symlink(&away, out("full")).unwrap();
    verified(&stage, "two").await.fails(5, &words);
    fs::remove_file(out("full")).unwrap();
    fs::rename(&away, out("full")).unwrap();
    verified(&stage, "two").await.succeeds();
    assert_eq!(stage.leftovers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_not_what_it_was_is_refused() {
    let stage = with_chain().await;
    let out = |name: &str| stage.out(name);
    let edit = |path: PathBuf, old: &str, new: &str| {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{old}");
        fs::write(&path, text.replace(old, new)).unwrap();
        text
    };
    let text = edit(out("one").join("manifest.json"), "\"quiesce\": \"try\"", "\"quiesce\": \"none\"");
    verified(&stage, "two").await.fails(5, &["the manifest of", "one is not what it was"]);
    fs::write(out("one").join("manifest.json"), text).unwrap();
    // Another backup in the base's place.
    fs::rename(out("full"), out("kept")).unwrap();
    stage.backup(SPEC, "full", &[]).await.succeeds();
    verified(&stage, "two").await.succeeds(); // the right one is found beside it
    fs::rename(out("kept"), stage.home.path().join("kept")).unwrap();
    verified(&stage, "two").await.fails(5, &["the directory full of run"]);
    // The right manifest with another image.
    for name in ["manifest.json", "catalog"] {
        fs::copy(stage.home.path().join("kept").join(name), out("full").join(name)).unwrap();
    }
    verified(&stage, "two").await.fails(5, &["scsi0-0-0-tracked.vmdk"]);
    // A manifest that names itself, or no base, or one outside.
    let one: Value = manifest(&out("one"));
    for (key, value) in [("run", one["run"].clone()), ("directory", json!("../full"))] {
        let mut damaged = one.clone();
        damaged["base"][key] = value;
        fs::write(out("one").join("manifest.json"), damaged.to_string()).unwrap();
        verified(&stage, "one").await.fails(5, &["names the base"]);
    }
    let mut damaged = one.clone();
    damaged["format"] = json!(1);
    fs::write(out("one").join("manifest.json"), damaged.to_string()).unwrap();
    verified(&stage, "one").await.fails(5, &["layout 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_file_of_hashes_the_base_is_read_and_a_damaged_one_is_no_base() {
    let stage = stage(false).await;
    stage.backup(SPEC, "full", &["--format", "monolithicFlat"]).await.succeeds();
    let hashes = stage.out("full").join("scsi0-0-0-tracked.hashes");
    let good = fs::read(&hashes).unwrap();
    let mut damaged = good.clone();
    damaged[100] ^= 1;
    fs::write(&hashes, damaged).unwrap();
    verified(&stage, "full").await.fails(5, &["the hashes beside", "remove the file of hashes"]);
    for (round, state) in ["damaged", "missing"].into_iter().enumerate() {
        scatter(&stage, round as u64 + 1);
        let outcome = since(&stage, "full", state, &[]).await.succeeds();
        assert!(outcome.stderr.contains("there are no hashes"), "{}", outcome.stderr);
        assert_eq!(kinds(&stage.out(state)), ["delta", "delta"]);
        is_now(&stage, state).await;
        drop(fs::remove_file(&hashes));
    }
    let data = File::options().write(true).open(stage.out("full").join("scsi0-0-0-tracked-flat.vmdk")).unwrap();
    data.write_all_at(b"damage", 5 * MIB).unwrap();
    since(&stage, "full", "without", &[]).await.succeeds();
    assert_eq!(
        (kinds(&stage.out("without"))[0].as_str(), reason(&stage.out("without"), 0).as_str()),
        ("full", "the base is damaged")
    );
    // With the hashes, only a block that is needed is looked at.
    fs::write(&hashes, good).unwrap();
    write(&stage, KEY, 5 * MIB + 8192, &noise(1, 4096));
    since(&stage, "full", "with", &[]).await.succeeds();
    assert_eq!(kinds(&stage.out("with"))[0], "full");
    assert!(reason(&stage.out("with"), 0).contains("the base is damaged near byte 0x500000"));
    is_now(&stage, "with").await;
    assert!(names_in(&stage.out("with")).iter().filter(|name| name.ends_with(".vmdk")).count() == 2);
}

/// Demands that a foreign reader finds in the images what the guest had committed at the latest freeze.
async fn is_what_was_frozen(stage: &Stage, name: &str) {
    let frozen_at = stage.frozen_at();
    verified(stage, name).await.succeeds();
    let mut raws = Vec::new();
    for (index, (_, image)) in images(&stage.out(name)).into_iter().enumerate() {
        let raw = stage.home.path().join(format!("{index}.raw"));
        drop(fs::remove_file(&raw));
        let words = ["convert", "-f", "vmdk", "-O", "raw"].map(OsStr::new);
        let args: Vec<_> = words.into_iter().chain([image.as_os_str(), raw.as_os_str()]).collect();
        tool("qemu-img", &args);
        raws.push(FileDisk::open(&raw).unwrap());
    }
    let disks: Vec<&dyn ReadAt> = raws.iter().map(|raw| raw as &dyn ReadAt).collect();
    let report = lab::guest::check(&disks, frozen_at).unwrap();
    assert!(report.consistent && report.logs == 2, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_leaves_its_base_and_the_next_one_is_right() {
    if program("qemu-img").is_none() {
        return;
    }
    let stage = stage(true).await;
    stage.backup(SPEC, "full", &[]).await.succeeds();
    let base = stage.out("full").to_string_lossy().into_owned();
    for (round, in_mid_copy) in [true, false].into_iter().enumerate() {
        let out = stage.out(&format!("killed {round}")).to_string_lossy().into_owned();
        // In the middle of the copy, or when all is copied and the snapshot is still there.
        let fault = if in_mid_copy { FaultKind::Stall { seconds: 1 } } else { FaultKind::SnapshotRemoveFails };
        stage.lab.faults().arm(Fault { kind: fault, times: 1000 });
        let args = ["backup", SPEC, "-o", &out, "--since", &base, "--progress", "none", "--backoff", "3600"];
        let mut child = stage.command(&args).spawn().unwrap();
        let begun = || {
            let partial = stage.out_names().into_iter().find(|name| name.ends_with(".partial"));
            partial.is_some_and(|name| stage.out(&name).join("scsi0-0-0-tracked.vmdk").exists())
        };
        while if in_mid_copy { !begun() } else { stage.struck("snapshot-remove-fails") == 0 } {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        child.kill().await.unwrap();
        stage.lab.faults().clear();
        stage.run(&["cleanup", "-y"]).await.succeeds();
        assert_eq!(stage.leftovers(), [""; 0]);
        let name = format!("after {round}");
        since(&stage, "full", &name, &["--quiesce", "require"]).await.succeeds();
        assert_eq!(kinds(&stage.out(&name)), ["delta", "delta"]);
        is_what_was_frozen(&stage, &name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_in_a_chain_are_read_without_a_restore() {
    let stage = Stage::demo().await;
    let (vm, spec) = ("Windows Server 01", "name:Windows Server 01");
    stage.world().set_change_tracking(&stage.vm(vm).id, true).unwrap();
    stage.backup(spec, "full", &[]).await.succeeds();
    let full = stage.out("full").to_string_lossy().into_owned();
    stage.backup(spec, "inc", &["--since", &full]).await.succeeds();
    assert_eq!(kinds(&stage.out("inc")), ["delta", "delta"]);
    let inc = stage.out("inc").to_string_lossy().into_owned();
    let listed = stage.run(&["fs", "find", &inc, "--json"]).await.succeeds().stdout;
    assert!(listed.lines().count() > 3, "{listed}");
    assert_eq!(listed, stage.run(&["fs", "find", &full, "--json"]).await.succeeds().stdout);
    stage.run(&["fs", "verify", &inc]).await.succeeds();
}
