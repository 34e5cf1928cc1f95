//! One VM all the way: backed up, verified, restored, booted; judged by tools that are not ours.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use acceptance::{Stage, peer, program, tool, vm_of};
use blockdev::{ByteOffset, ExtentKind, ReadAt, ReadAtExt};
use lab::face::{Fault, FaultKind, Happening};
use lab::world::{DiskSource, DiskSpec, VmSpec};
use serde_json::Value;

const FORMATS: [&str; 4] = ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];

/// Writes a disk out as a raw file, holes kept.
fn dump(disk: &dyn ReadAt, to: &Path) {
    let file = File::create(to).unwrap();
    file.set_len(disk.size().0).unwrap();
    for extent in disk.extents() {
        let extent = extent.unwrap();
        if extent.kind == ExtentKind::Data {
            let mut bytes = vec![0; extent.len.0 as usize];
            disk.read_exact_at(extent.start, &mut bytes).unwrap();
            file.write_all_at(&bytes, extent.start.0).unwrap();
        }
    }
}

/// A raw disk with data here and there, of a size that is no multiple of anything.
fn patchy(to: &Path, megabytes: u64) {
    let file = File::create(to).unwrap();
    file.set_len((megabytes << 20) + 512 * 7).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = vec![0_u8; 150_000];
    for piece in 0..megabytes / 3 {
        for byte in &mut noise {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        file.write_all_at(&noise, piece * (3 << 20) + 4096 * (piece % 50)).unwrap();
    }
    file.write_all_at(b"the last sector", (megabytes << 20) + 512 * 6).unwrap();
}

fn qemu_img(args: &[&OsStr]) -> String {
    tool("qemu-img", args)
}

fn compare(vmdk: &Path, raw: &Path) {
    let s = OsStr::new;
    qemu_img(&[s("compare"), s("-f"), s("vmdk"), s("-F"), s("raw"), vmdk.as_ref(), raw.as_ref()]);
}

fn manifest(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("manifest.json")).unwrap()).unwrap()
}

/// The image files of a backup, by address.
fn images(directory: &Path) -> Vec<(String, PathBuf)> {
    let manifest = manifest(directory);
    let disks = manifest["disks"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    disks.iter().map(|disk| (text(&disk["address"]), directory.join(text(&disk["file"])))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_identical_to_the_disk_of_a_vm_that_is_off() {
    if program("qemu-img").is_none() {
        return;
    }
    let raws = tempfile::tempdir().unwrap();
    let raw = raws.path().join("disk.raw");
    patchy(&raw, 100);
    let source = raw.clone();
    let stage = Stage::empty(move |world| {
        world.add_vm(&vm_of("off", &source)).unwrap();
        world.add_vm(&VmSpec { change_tracking: true, ..vm_of("tracked", &source) }).unwrap();
    })
    .await;
    for vm in ["off", "tracked"] {
        for format in FORMATS {
            let name = format!("{vm}-{format}");
            stage.backup(&format!("name:{vm}"), &name, &["--format", format]).await.succeeds();
            let directory = stage.out(&name);
            let (_, image) = images(&directory).remove(0);
            compare(&image, &raw);
            let info = qemu_img(&[OsStr::new("info"), OsStr::new("-f"), OsStr::new("vmdk"), image.as_ref()]);
            assert!(info.contains(&format!("create type: {format}")), "{info}");
            if format.ends_with("Sparse") {
                qemu_img(&[OsStr::new("check"), OsStr::new("-f"), OsStr::new("vmdk"), image.as_ref()]);
            }
            let stored: u64 =
                fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512).sum();
            assert!(stored < 40 << 20, "zeros were stored: {stored} bytes for {name}");
            stage.run(&["verify", &directory.to_string_lossy()]).await.succeeds();
        }
    }
    let read = |name: &str| manifest(&stage.out(name))["disks"][0]["bytes_read"].as_u64().unwrap();
    assert!(read("off-monolithicFlat") > 100 << 20);
    assert!(read("tracked-monolithicFlat") < 60 << 20, "unused areas were read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_is_identical_to_its_frozen_disks_while_its_guest_writes_on() {
    if program("qemu-img").is_none() {
        return;
    }
    let stage = Stage::demo().await;
    // The snapshot stays, so that what was frozen can still be looked at.
    stage.lab.faults().arm(Fault { kind: FaultKind::SnapshotRemoveFails, times: 100 });
    for vm in ["Windows Server 01", "linux-01"] {
        let outcome = stage.backup(&format!("name:{vm}"), vm, &["--retries", "0", "--quiesce", "require"]).await;
        outcome.fails(8, &["is complete", "snapshot", vm]);
        let snapshot = stage.snapshots(vm).remove(0);
        for (index, (address, image)) in images(&stage.out(vm)).into_iter().enumerate() {
            let frozen = stage.world().frozen_disk(&snapshot.id, snapshot.disks[index].key).unwrap();
            let raw = stage.home.path().join("frozen.raw");
            dump(frozen.as_ref(), &raw);
            compare(&image, &raw);
            let running = stage.world().running_disk(&stage.vm(vm).id, snapshot.disks[index].key).unwrap();
            dump(running.as_ref(), &raw);
            let image = vmdk_rs::open_path(&image).unwrap();
            assert!(!same(&image, running.as_ref()), "{address} of {vm}: the guest wrote nothing meanwhile");
        }
        assert!(stage.committed(&stage.vm(vm).id) > snapshot.guest_log_at_freeze.unwrap());
    }
    stage.lab.faults().clear();
    stage.run(&["cleanup", "-y"]).await.succeeds();
    assert!(stage.snapshots("linux-01").is_empty() && stage.snapshots("Windows Server 01").is_empty());
}

fn same(a: &dyn ReadAt, b: &dyn ReadAt) -> bool {
    let len = 1 << 20;
    let (mut x, mut y) = (vec![0; len], vec![0; len]);
    (0..a.size().0 / len as u64).all(|block| {
        let at = ByteOffset(block * len as u64);
        a.read_exact_at(at, &mut x).unwrap();
        b.read_exact_at(at, &mut y).unwrap();
        x == y
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiesced_backup_holds_every_record_up_to_the_freeze_and_none_after() {
    let stage = Stage::demo().await;
    for round in 0..5 {
        let name = format!("linux-{round}");
        stage.backup("name:linux-01", &name, &["--quiesce", "require"]).await.succeeds();
        let truth = stage.lab.events().into_iter().rev().find_map(|event| match event.what {
            Happening::Freeze { guest_log, .. } => guest_log,
            _ => None,
        });
        let (_, image) = images(&stage.out(&name)).remove(0);
        let image = vmdk_rs::open_path(&image).unwrap();
        let report = lab::guest::check(&[&image], truth).unwrap();
        assert!(report.consistent && report.records_checked > 0 && truth.is_some(), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_volumes_of_a_quiesced_backup_are_clean_for_foreign_tools() {
    if ["ntfsinfo", "ntfscat", "fsck.fat", "mdir", "e2fsck"].iter().any(|name| program(name).is_none()) {
        return;
    }
    let stage = Stage::demo().await;
    let volume = stage.home.path().join("volume");
    let mut kinds = Vec::new();
    for vm in ["Windows Server 01", "linux-01"] {
        stage.backup(&format!("name:{vm}"), vm, &["--quiesce", "require"]).await.succeeds();
        for (_, image) in images(&stage.out(vm)) {
            let image = vmdk_rs::open_path(&image).unwrap();
            for found in guestfs::volumes(&image).unwrap().volumes {
                dump(&found.window(&image).unwrap(), &volume);
                let kind = found.kind.to_string();
                let path: &OsStr = volume.as_ref();
                let s = OsStr::new;
                match kind.as_str() {
                    "NTFS" => {
                        tool("ntfsinfo", &[s("-m"), path]);
                        let listed = tool("ntfsls", &[path]);
                        assert!(!listed.trim().is_empty());
                    }
                    "FAT32" => {
                        tool("fsck.fat", &[s("-n"), path]);
                        tool("mdir", &[s("-i"), path, s("::")]);
                    }
                    _ => {
                        tool("e2fsck", &[s("-f"), s("-n"), path]);
                    }
                }
                kinds.push(kind);
            }
        }
    }
    assert_eq!(kinds, ["NTFS", "FAT32", "ext4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_with_somebody_elses_snapshots_is_read_through_its_chain_and_keeps_them() {
    if program("qemu-img").is_none() {
        return;
    }
    let raws = tempfile::tempdir().unwrap();
    let raw = raws.path().join("disk.raw");
    patchy(&raw, 40);
    let source = raw.clone();
    let stage = Stage::empty(move |world| {
        let vm = world.add_vm(&vm_of("chained", &source)).unwrap();
        for (round, name) in ["before the update", "after it"].into_iter().enumerate() {
            world.create_snapshot(&vm, name, "by hand", false).unwrap();
            for piece in 0..30_u64 {
                let at = ByteOffset((piece * 1_300_000 + round as u64 * 700_000) / 512 * 512);
                world.write_disk(&vm, 2000, at, &vec![round as u8 + 1; 512 * (piece as usize + 1)]).unwrap();
            }
        }
    })
    .await;
    let vm = stage.vm("chained");
    let truth = stage.home.path().join("truth.raw");
    dump(stage.world().running_disk(&vm.id, 2000).unwrap().as_ref(), &truth);
    stage.backup("name:chained", "chained", &[]).await.succeeds();
    let (_, image) = images(&stage.out("chained")).remove(0);
    compare(&image, &truth);
    assert!(image.ends_with("scsi0-0-0-chained.vmdk"), "named after a delta: {}", image.display());
    let names: Vec<_> = stage.snapshots("chained").into_iter().map(|snapshot| snapshot.name).collect();
    assert_eq!(names, ["before the update", "after it"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_vm_has_the_same_bytes_stays_thin_and_can_be_backed_up_again() {
    let stage = Stage::demo().await;
    stage.backup("name:Windows Server 01", "win", &[]).await.succeeds();
    let directory = stage.out("win");
    let directory = directory.to_string_lossy();
    let plan = stage.run(&["restore", &directory, "--name", "Büro 2", "--dry-run", "--json"]).await.succeeds();
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(plan["disks"].as_array().unwrap().len(), 2);
    assert!(stage.world().vms().iter().all(|vm| vm.name != "Büro 2"), "a dry run made a VM");

    stage.run(&["restore", &directory, "--name", "Büro 2", "--progress", "none"]).await.succeeds();
    let vm = stage.vm("Büro 2");
    assert_ne!(vm.uuid, stage.vm("Windows Server 01").uuid, "copy and original have one identity");
    for ((_, image), disk) in images(&stage.out("win")).into_iter().zip(&vm.disks) {
        let image = vmdk_rs::open_path(&image).unwrap();
        let restored = stage.world().running_disk(&vm.id, disk.key).unwrap();
        let size = image.size().0;
        assert_eq!(size, restored.size().0);
        let (mut a, mut b) = (vec![0; size as usize], vec![0; size as usize]);
        image.read_exact_at(ByteOffset(0), &mut a).unwrap();
        restored.read_exact_at(ByteOffset(0), &mut b).unwrap();
        assert!(a == b, "{} differs", disk.label);
        let allocated = |disk: &dyn ReadAt| -> u64 {
            let extents = disk.extents().map(|extent| extent.unwrap());
            extents.filter(|extent| extent.kind == ExtentKind::Data).map(|extent| extent.len.0).sum()
        };
        let (source, target) = (allocated(&image), allocated(restored.as_ref()));
        assert!(target <= source + source / 100 + (1 << 20), "{source} bytes became {target}");
    }
    stage.run(&["backup", "name:Büro 2", "-o", &stage.out("again").to_string_lossy()]).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_was_lost_comes_back_at_its_place_with_its_identity() {
    let stage = Stage::demo().await;
    stage.backup("name:linux-01", "linux", &[]).await.succeeds();
    let before = stage.vm("linux-01");
    let directory = stage.out("linux");
    let directory = directory.to_string_lossy();
    stage.run(&["restore", &directory]).await.fails(6, &["linux-01", "--name"]);
    let id = before.id.clone();
    stage.world().power_off(&id).unwrap();
    stage.world().destroy_vm(&id).unwrap();
    stage.run(&["restore", &directory, "--progress", "none"]).await.succeeds();
    let after = stage.vm("linux-01");
    assert_eq!((after.uuid, &after.vmx), (before.uuid, &before.vmx));
    assert_eq!(after.disks[0].file, before.disks[0].file);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_linux_that_was_backed_up_while_it_wrote_boots_after_the_restore() {
    let (Some(_), Some(disk), Some(facts)) =
        (program("qemu-system-x86_64"), peer("linux/disk.raw"), peer("linux/disk.json"))
    else {
        return;
    };
    let facts: Value = serde_json::from_slice(&fs::read(facts).unwrap()).unwrap();
    let stage = Stage::empty(move |world| {
        let disks = vec![DiskSpec { source: DiskSource::RawFile(disk.clone()) }];
        let spec = VmSpec { disks, power_on: true, tools: true, change_tracking: true, ..vm_of("debian", &disk) };
        world.add_vm(&spec).unwrap();
    })
    .await;
    let id = stage.vm("debian").id;
    let before = stage.committed(&id);
    stage.backup("name:debian", "debian", &["--quiesce", "require"]).await.succeeds();
    assert!(stage.committed(&id) > before, "the guest did not write");
    let directory = stage.out("debian");
    stage.run(&["restore", &directory.to_string_lossy(), "--name", "debian 2", "--progress", "none"]).await.succeeds();
    let restored = stage.vm("debian 2").disks[0].file.clone();
    let restored = stage.home.path().join("lab/datastores").join(&restored.datastore).join(&restored.path);
    let (_, exported) = images(&directory).remove(0);
    for image in [exported, restored] {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/linux/boot.sh");
        let said = tool(script.to_str().unwrap(), &[image.as_ref(), OsStr::new("vmdk")]);
        assert_eq!(said.trim(), facts["boot_line"].as_str().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_digest_is_what_its_definition_says() {
    let Some(python) = peer("pyvmomi-venv/bin/python") else { return };
    let raws = tempfile::tempdir().unwrap();
    let raw = raws.path().join("disk.raw");
    patchy(&raw, 30);
    let source = raw.clone();
    let stage = Stage::empty(move |world| drop(world.add_vm(&vm_of("off", &source)).unwrap())).await;
    stage.backup("name:off", "off", &[]).await.succeeds();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/digest.py");
    let theirs = tool(python.to_str().unwrap(), &[script.as_ref(), raw.as_ref()]);
    assert_eq!(manifest(&stage.out("off"))["disks"][0]["digest"].as_str(), Some(theirs.trim()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_proves_what_it_says() {
    let home = tempfile::tempdir().unwrap();
    let mut command = acceptance::stillframe(&["demo", "--json", "--dir"]);
    command.arg(home.path().join("demo"));
    let outcome = acceptance::finish(command).await.succeeds();
    let proofs: Vec<Value> = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(proofs.len() >= 10 && proofs.iter().all(|proof| proof["proven"] == true), "{proofs:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_left_a_disk_out_is_restored_without_it() {
    let stage = Stage::demo().await;
    let args = ["--exclude-disk", "scsi0:1"];
    stage.backup("name:Windows Server 01", "half", &args).await.succeeds();
    assert_eq!(manifest(&stage.out("half"))["skipped"][0]["address"], "scsi0:1");
    let directory = stage.out("half");
    let directory = directory.to_string_lossy();
    let outcome = stage.run(&["restore", &directory, "--name", "half", "--progress", "none"]).await.succeeds();
    assert!(outcome.stdout.contains("scsi0:1 is not in the backup"), "{}", outcome.stdout);
    assert_eq!(stage.vm("half").disks.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_of_one_name_from_two_datastores_come_back_as_two_disks() {
    let stage = Stage::demo().await;
    stage.backup("name:Windows Server 01", "win", &[]).await.succeeds();
    let id = stage.vm("Windows Server 01").id;
    stage.world().power_off(&id).unwrap();
    stage.world().destroy_vm(&id).unwrap();
    // As if the second disk had lived on another datastore under the first one's name.
    let catalog = stage.out("win").join("catalog");
    let text = fs::read_to_string(&catalog).unwrap();
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    let (first, second) = (line("disk.scsi0:0.diskname"), line("disk.scsi0:1.diskname"));
    let name = first.split_once('/').unwrap().1;
    let moved = format!("disk.scsi0:1.diskname= \"[datastore2] elsewhere/{name}");
    let copy = stage.home.path().join("catalog");
    fs::write(&copy, text.replace(&second, &moved)).unwrap();
    let (directory, copy) = (stage.out("win"), copy.to_string_lossy().into_owned());
    let args = ["restore", &directory.to_string_lossy(), "--catalog", &copy, "--progress", "none"];
    let outcome = stage.run(&args).await.succeeds();
    assert!(outcome.stdout.contains("was on datastore datastore2"), "{}", outcome.stdout);
    let vm = stage.vm("Windows Server 01");
    for ((_, image), disk) in images(&directory).into_iter().zip(&vm.disks) {
        let restored = stage.world().running_disk(&vm.id, disk.key).unwrap();
        assert!(same(&vmdk_rs::open_path(&image).unwrap(), restored.as_ref()), "{}", disk.label);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_somebody_removes_in_mid_copy_turns_the_backup_red() {
    let stage = Stage::demo().await;
    let id = stage.vm("Windows Server 01").id;
    stage.lab.faults().arm(Fault { kind: FaultKind::Stall { seconds: 1 }, times: 30 });
    let directory = stage.out("torn").to_string_lossy().into_owned();
    let mut command = stage.command(&["backup", "name:Windows Server 01", "-o", &directory, "--progress", "none"]);
    let child = command.spawn().unwrap();
    let snapshot = loop {
        if let Some(snapshot) = stage.world().vm(&id).unwrap().snapshots.first() {
            break snapshot.id.clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    // The task that made it may not have ended yet.
    while stage.world().remove_snapshot(&snapshot).is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !said.is_empty(), "a torn image passed as good");
    assert!(stage.out_names().is_empty(), "{:?}", stage.out_names());
}
