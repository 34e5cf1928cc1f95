//! The lab's storage, judged by a plain model of a disk, by the guest log's checker and by other programs.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use blockdev::{ByteOffset, ReadAt};
use lab::guest::{check, log_file};
use lab::world::{
    DatastorePath, DiskSource, DiskSpec, FileError, Firmware, LabError, Power, SnapshotId, Template, VmId, VmSpec,
    World, WorldEvent, lock_holder,
};

const KEY: i32 = 2000;

fn spec(name: &str, disks: Vec<DiskSource>) -> VmSpec {
    VmSpec {
        name: name.to_owned(),
        datastore: "datastore1".to_owned(),
        disks: disks.into_iter().map(|source| DiskSpec { source }).collect(),
        guest_id: "debian11_64Guest".to_owned(),
        firmware: Firmware::Bios,
        ip: None,
        host_name: None,
        power_on: true,
        tools: true,
        change_tracking: true,
    }
}

fn one_disk(capacity: u64) -> (tempfile::TempDir, World, VmId) {
    let dir = tempfile::tempdir().unwrap();
    let world = World::create(dir.path(), Template::Empty).unwrap();
    let vm = world.add_vm(&spec("vm a", vec![DiskSource::Empty(capacity)])).unwrap();
    (dir, world, vm)
}

/// Two disks that hold nothing but a guest log, at odd places.
fn with_logs() -> (tempfile::TempDir, World, VmId) {
    let dir = tempfile::tempdir().unwrap();
    let world = World::create(dir.path(), Template::Empty).unwrap();
    let raw = tempfile::tempdir().unwrap();
    let image = |name: &str, at: usize| {
        let mut bytes = vec![0; at];
        bytes.extend(log_file(32));
        bytes.extend([0; 65536]);
        let path = raw.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        DiskSource::RawFile(path)
    };
    let vm = world.add_vm(&spec("guest", vec![image("a", 1 << 20), image("b", (1 << 20) + 512)])).unwrap();
    (dir, world, vm)
}

fn read_all(disk: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; disk.size().to_usize().unwrap()];
    disk.read_exact_at(ByteOffset(0), &mut bytes).unwrap();
    bytes
}

fn frozen_report(world: &World, snapshot: &SnapshotId) -> lab::guest::LogReport {
    let view = world.snapshot(snapshot).unwrap();
    let disks: Vec<_> = view.disks.iter().map(|disk| world.frozen_disk(snapshot, disk.key).unwrap()).collect();
    let disks: Vec<&dyn ReadAt> = disks.iter().map(|disk| &**disk).collect();
    check(&disks, view.guest_log_at_freeze).unwrap()
}

/// Repeatable noise (SplitMix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 29)
    }
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Whether a program can be run; a missing one fails the test where CI is set.
fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "{program} is missing");
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

fn run(program: &str, args: &[&std::ffi::OsStr]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

fn host(world: &World, path: &DatastorePath) -> PathBuf {
    world.dir().join("datastores").join(&path.datastore).join(&path.path)
}

/// qemu-img's reading of a chain.
fn qemu_reads(descriptor: &Path) -> Vec<u8> {
    let out = tempfile::NamedTempFile::new().unwrap();
    let (from, to) = (descriptor.as_os_str(), out.path().as_os_str());
    run("qemu-img", &["convert".as_ref(), "-f".as_ref(), "vmdk".as_ref(), "-O".as_ref(), "raw".as_ref(), from, to]);
    std::fs::read(out.path()).unwrap()
}

/// A random history of writes, snapshots, removals and reopenings; after each step everything reads as in the model.
fn history(seed: u64, steps: u32) {
    const CAPACITY: u64 = 5 << 20; // more than two grain tables
    let (dir, mut world, vm) = one_disk(CAPACITY);
    let mut noise = Noise(seed);
    let mut now = vec![0u8; CAPACITY as usize];
    let mut frozen: BTreeMap<SnapshotId, Vec<u8>> = BTreeMap::new();
    for step in 0..steps {
        match noise.below(10) {
            0 | 1 => {
                let id = world.create_snapshot(&vm, "s", "d", false).unwrap();
                frozen.insert(id, now.clone());
            }
            2 if !frozen.is_empty() => {
                let which = noise.below(frozen.len() as u64) as usize;
                let id = frozen.keys().nth(which).unwrap().clone();
                frozen.remove(&id);
                world.remove_snapshot(&id).unwrap();
            }
            3 => {
                drop(world); // as after a kill: nothing is written on the way out
                world = World::open(dir.path()).unwrap();
            }
            _ => {
                let start = noise.below(CAPACITY / 512);
                let sectors = 1 + noise.below(200).min(CAPACITY / 512 - start - 1);
                let byte = (noise.below(4) as u8).saturating_mul(63); // often zero
                let range = (start * 512) as usize..((start + sectors) * 512) as usize;
                now[range.clone()].fill(byte);
                world.write_disk(&vm, KEY, ByteOffset(start * 512), &now[range]).unwrap();
            }
        }
        assert!(read_all(&*world.running_disk(&vm, KEY).unwrap()) == now, "seed {seed}, step {step}: running disk");
        for (id, bytes) in &frozen {
            assert!(read_all(&*world.frozen_disk(id, KEY).unwrap()) == *bytes, "seed {seed}, step {step}: {id}");
        }
    }
    let mut covered = vec![false; CAPACITY as usize / 512];
    for (start, len) in world.allocated_areas(&vm, None, KEY).unwrap() {
        covered[start as usize / 512..(start + len) as usize / 512].fill(true);
    }
    for (sector, covered) in now.chunks(512).zip(covered) {
        assert!(covered || sector.iter().all(|b| *b == 0), "data outside the allocated areas");
    }
}

#[test]
fn random_histories_read_as_a_plain_disk() {
    for seed in 1..=4 {
        history(seed, 60);
    }
}

#[test]
fn three_levels_may_be_removed_in_any_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let (_dir, world, vm) = one_disk(4 << 20);
        let mut model = vec![0u8; 4 << 20];
        let mut levels = Vec::new();
        for level in 0..3u8 {
            levels.push((world.create_snapshot(&vm, "s", "", false).unwrap(), model.clone()));
            let range = usize::from(level) * 4096..usize::from(level) * 4096 + 8192;
            model[range.clone()].fill(level + 1);
            world.write_disk(&vm, KEY, ByteOffset(range.start as u64), &model[range]).unwrap();
        }
        for (count, removed) in order.into_iter().enumerate() {
            world.remove_snapshot(&levels[removed].0).unwrap();
            assert_eq!(read_all(&*world.running_disk(&vm, KEY).unwrap()), model, "{order:?}");
            for other in order.into_iter().skip(count + 1) {
                let (id, bytes) = &levels[other];
                assert_eq!(read_all(&*world.frozen_disk(id, KEY).unwrap()), *bytes, "{order:?}, {id}");
            }
            if have("qemu-img") {
                let view = world.vm(&vm).unwrap();
                assert_eq!(qemu_reads(&host(&world, &view.disks[0].file)), model, "{order:?}");
            }
        }
        let view = world.vm(&vm).unwrap();
        assert_eq!(view.disks[0].file.path, "vm a/vm a.vmdk");
        assert!(!view.consolidation_needed && view.snapshots.is_empty());
        let files = world.list_dir("datastore1", "vm a").unwrap();
        assert!(files.iter().all(|file| !file.name.contains("-00")), "{files:?}");
    }
}

#[test]
fn a_quiesced_snapshot_under_a_writing_guest_is_clean_and_stays_as_it_is() {
    let (_dir, world, vm) = with_logs();
    let guests = world.start_guests();
    std::thread::sleep(Duration::from_millis(300));
    let id = world.create_snapshot(&vm, "_VCB-BACKUP_", "text", true).unwrap();
    let view = world.snapshot(&id).unwrap();
    assert!(view.quiesced && view.guest_log_at_freeze.unwrap() > 3, "{view:?}");
    assert!(view.frozen_for > Duration::ZERO);
    let before = read_all(&*world.frozen_disk(&id, KEY).unwrap());
    std::thread::sleep(Duration::from_millis(300));
    let report = frozen_report(&world, &id);
    assert!(report.consistent && report.logs == 2, "{report:?}");
    assert!(read_all(&*world.frozen_disk(&id, KEY).unwrap()) == before);
    world.remove_snapshot(&id).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(guests);
    let disks = [world.running_disk(&vm, KEY).unwrap(), world.running_disk(&vm, KEY + 1).unwrap()];
    let report = check(&[&*disks[0], &*disks[1]], None).unwrap();
    assert!(report.consistent && report.last > view.guest_log_at_freeze.unwrap() + 5, "{report:?}");
}

#[test]
fn without_quiescing_the_logs_are_most_likely_torn() {
    let (_dir, world, vm) = with_logs();
    let _guests = world.start_guests();
    let mut torn = 0;
    for _ in 0..12 {
        std::thread::sleep(Duration::from_millis(13));
        let id = world.create_snapshot(&vm, "s", "", false).unwrap();
        let view = world.snapshot(&id).unwrap();
        assert!(!view.quiesced && view.guest_log_at_freeze.is_none());
        torn += u32::from(!frozen_report(&world, &id).consistent);
        world.remove_snapshot(&id).unwrap();
    }
    assert!(torn >= 4, "{torn} of 12");
}

#[test]
fn quiescing_is_left_out_silently_when_tools_do_not_run() {
    let (_dir, world, vm) = with_logs();
    world.set_tools(&vm, false).unwrap();
    let _guests = world.start_guests();
    let id = world.create_snapshot(&vm, "s", "", true).unwrap();
    assert!(!world.snapshot(&id).unwrap().quiesced);
}

#[test]
fn many_snapshots_under_a_writing_guest_leave_a_clean_log() {
    let (dir, world, vm) = with_logs();
    let guests = world.start_guests();
    for _ in 0..8 {
        let older = world.create_snapshot(&vm, "a", "", true).unwrap();
        let newer = world.create_snapshot(&vm, "b", "", true).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        world.remove_snapshot(&older).unwrap();
        assert!(frozen_report(&world, &newer).consistent);
        world.remove_snapshot(&newer).unwrap();
    }
    drop(guests);
    drop(world);
    let world = World::open(dir.path()).unwrap();
    let disks = [world.running_disk(&vm, KEY).unwrap(), world.running_disk(&vm, KEY + 1).unwrap()];
    let report = check(&[&*disks[0], &*disks[1]], None).unwrap();
    assert!(report.consistent, "{report:?}");
}

#[test]
fn the_steps_of_a_quiesced_snapshot_come_in_order() {
    let (_dir, world, vm) = with_logs();
    let events = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = std::sync::Arc::clone(&events);
    world.on_event(move |event| sink.lock().unwrap().push(event.clone()));
    let id = world.create_snapshot(&vm, "s", "", true).unwrap();
    world.remove_snapshot(&id).unwrap();
    let expected = [
        WorldEvent::Frozen(vm.clone(), None),
        WorldEvent::Switched(vm.clone(), id.clone()),
        WorldEvent::Thawed(vm.clone()),
        WorldEvent::Merged(vm, id),
    ];
    assert_eq!(*events.lock().unwrap(), expected);
}

#[test]
fn an_interrupted_merge_is_finished_when_the_lab_is_opened() {
    let (dir, world, vm) = one_disk(4 << 20);
    let id = world.create_snapshot(&vm, "s", "", false).unwrap();
    world.write_disk(&vm, KEY, ByteOffset(512), &[5; 1024]).unwrap();
    let model = read_all(&*world.running_disk(&vm, KEY).unwrap());
    drop(world);
    // What the state says between the removal and the merge.
    let path = dir.path().join("lab.json");
    let mut state: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let machine = &mut state["vms"][0];
    assert_eq!(machine["snapshots"][0]["id"], id.0);
    let upper = machine["disks"][0]["layers"][1].clone();
    machine["snapshots"] = serde_json::json!([]);
    machine["pending"] = serde_json::json!([{"key": KEY, "upper": upper, "lower": "vm a.vmdk"}]);
    std::fs::write(&path, serde_json::to_vec(&state).unwrap()).unwrap();
    let world = World::open(dir.path()).unwrap();
    let view = world.vm(&vm).unwrap();
    assert!(!view.consolidation_needed && view.disks[0].parents.is_empty());
    assert_eq!(read_all(&*world.running_disk(&vm, KEY).unwrap()), model);
}

const CHILD: &str = "LAB_TO_KILL";

/// Not a test of its own: what the next test runs in another process and kills.
#[test]
fn works_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let world = World::open(dir.as_ref()).unwrap();
    let _guests = world.start_guests();
    let vm = world.vms()[0].id.clone();
    for snapshot in world.vm(&vm).unwrap().snapshots {
        world.remove_snapshot(&snapshot.id).unwrap();
    }
    loop {
        let first = world.create_snapshot(&vm, "a", "", true).unwrap();
        let second = world.create_snapshot(&vm, "b", "", true).unwrap();
        world.remove_snapshot(&first).unwrap();
        world.remove_snapshot(&second).unwrap();
    }
}

#[test]
fn a_lab_that_was_killed_at_any_moment_goes_on() {
    let (dir, world, vm) = with_logs();
    drop(world);
    let mut last = 0;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "works_until_it_is_killed"])
            .env(CHILD, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(250 + 37 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let world = World::open(dir.path()).unwrap();
        let disks = [world.running_disk(&vm, KEY).unwrap(), world.running_disk(&vm, KEY + 1).unwrap()];
        let disks: [&dyn ReadAt; 2] = [&*disks[0], &*disks[1]];
        let view = world.vm(&vm).unwrap();
        for (disk, bytes) in view.disks.iter().zip(disks) {
            let chain = vmdk_rs::open_path(&host(&world, &disk.file)).unwrap();
            assert!(read_all(&chain) == read_all(bytes), "round {round}");
        }
        for snapshot in &view.snapshots {
            if snapshot.quiesced {
                assert!(frozen_report(&world, &snapshot.id).consistent, "round {round}");
            }
        }
        drop(world.start_guests()); // one boot and a clean stop
        let report = check(&disks, None).unwrap();
        assert!(report.consistent && report.last > last, "round {round}: {report:?}");
        last = report.last;
    }
}

#[test]
fn a_lab_is_open_in_one_place_only() {
    let (dir, world, _vm) = one_disk(4096);
    let error = World::open(dir.path()).err().unwrap();
    assert!(matches!(error, LabError::InUse { pid, .. } if pid == std::process::id()), "{error}");
    assert_eq!(lock_holder(dir.path()), Some(std::process::id()));
    drop(world);
    assert_eq!(lock_holder(dir.path()), None);
    World::open(dir.path()).unwrap();
}

#[test]
fn a_lab_is_not_made_over_other_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.txt"), "x").unwrap();
    assert!(matches!(World::create(dir.path(), Template::Empty), Err(LabError::NotEmpty { .. })));
    assert!(matches!(World::open(dir.path()), Err(LabError::NotALab { .. })));
}

#[test]
fn the_running_layer_is_locked_and_frozen_ones_are_not() {
    let (_dir, world, vm) = one_disk(1 << 20);
    let open = |path: &str| world.open_file("datastore1", path).map(drop);
    assert!(matches!(open("vm a/vm a-flat.vmdk"), Err(FileError::Locked(_))));
    let id = world.create_snapshot(&vm, "s", "", false).unwrap();
    open("vm a/vm a-flat.vmdk").unwrap();
    open("vm a/vm a-000001.vmdk").unwrap();
    assert!(matches!(open("vm a/vm a-000001-delta.vmdk"), Err(FileError::Locked(_))));
    world.power_off(&vm).unwrap();
    open("vm a/vm a-000001-delta.vmdk").unwrap();
    world.remove_snapshot(&id).unwrap();
    assert!(matches!(open("vm a/vm a-000001-delta.vmdk"), Err(FileError::NotFound)));
}

#[test]
fn paths_do_not_leave_the_datastore() {
    let (dir, world, _vm) = one_disk(4096);
    std::os::unix::fs::symlink("/etc", dir.path().join("datastores/datastore1/link")).unwrap();
    let outside =
        ["../../lab.json", "vm a/../../lab.json", "/etc/passwd", "link/passwd", "link", "vm a//vm a.vmx", ".", ""];
    for path in outside {
        let error = world.open_file("datastore1", path).unwrap_err();
        assert!(matches!(error, FileError::Bad(_) | FileError::NotFound), "{path}: {error:?}");
    }
    assert!(matches!(world.open_file("..", "lab.json"), Err(FileError::NotFound)));
    assert!(world.delete_file("datastore1", "link/passwd").is_err());
}

#[test]
fn files_of_registered_vms_are_neither_deleted_nor_replaced() {
    let (_dir, world, vm) = one_disk(4096);
    for path in ["vm a", "vm a/vm a.vmx", "vm a/vm a.vmdk", "vm a/vm a-flat.vmdk"] {
        assert!(matches!(world.delete_file("datastore1", path), Err(FileError::Locked(_))), "{path}");
        if path != "vm a" {
            assert!(matches!(world.begin_upload("datastore1", path, 1), Err(FileError::Locked(_))), "{path}");
        }
    }
    world.power_off(&vm).unwrap();
    world.destroy_vm(&vm).unwrap();
    assert!(matches!(world.list_dir("datastore1", "vm a"), Err(FileError::NotFound)));
}

#[test]
fn an_uploaded_copy_is_registered_and_runs() {
    let (dir, world, vm) = with_logs();
    let guests = world.start_guests();
    std::thread::sleep(Duration::from_millis(100));
    let id = world.create_snapshot(&vm, "s", "", true).unwrap();
    let last = world.snapshot(&id).unwrap().guest_log_at_freeze;
    world.make_directory("datastore2", "restored/guest", true).unwrap();
    for name in ["guest.vmx", "guest.nvram", "guest.vmdk", "guest-flat.vmdk", "guest_1.vmdk", "guest_1-flat.vmdk"] {
        let mut bytes = Vec::new();
        let mut file = world.open_file("datastore1", &format!("guest/{name}")).unwrap();
        std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        if name == "guest.vmx" {
            // The configuration names the leaves; a restore makes it name what it brought.
            bytes = String::from_utf8(bytes).unwrap().replace("-000001.vmdk", ".vmdk").into_bytes();
        }
        let mut upload =
            world.begin_upload("datastore2", &format!("restored/guest/{name}"), bytes.len() as u64).unwrap();
        bytes.chunks(10_000).for_each(|chunk| upload.write(chunk).unwrap());
        upload.finish().unwrap();
    }
    let vmx = DatastorePath::parse("[datastore2] restored/guest/guest.vmx").unwrap();
    assert!(matches!(world.register_vm(&vmx, None), Err(LabError::DuplicateName { .. })));
    let copy = world.register_vm(&vmx, Some("guest copy")).unwrap();
    assert!(matches!(world.register_vm(&vmx, Some("third")), Err(LabError::AlreadyExists { .. })));
    let disks = [world.running_disk(&copy, KEY).unwrap(), world.running_disk(&copy, KEY + 1).unwrap()];
    let report = check(&[&*disks[0], &*disks[1]], last).unwrap();
    assert!(report.consistent, "{report:?}");
    let (old, new) = (world.vm(&vm).unwrap(), world.vm(&copy).unwrap());
    assert_eq!((new.power, old.uuid, old.guest_id), (Power::PoweredOff, new.uuid, new.guest_id));
    assert_ne!(old.instance_uuid, new.instance_uuid);
    world.power_on(&copy).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    drop(guests);
    assert!(check(&[&*disks[0], &*disks[1]], None).unwrap().last > last.unwrap());
    drop(disks);
    drop(world);
    World::open(dir.path()).unwrap();
}

#[test]
fn a_disk_shorter_than_its_descriptor_says_is_not_registered() {
    let (_dir, world, vm) = one_disk(1 << 20);
    world.power_off(&vm).unwrap();
    let vmx = world.vm(&vm).unwrap().vmx;
    world.unregister_vm(&vm).unwrap();
    let flat = host(&world, &DatastorePath::new("datastore1", "vm a/vm a-flat.vmdk"));
    std::fs::OpenOptions::new().write(true).open(&flat).unwrap().set_len((1 << 20) - 512).unwrap();
    let error = world.register_vm(&vmx, None).unwrap_err();
    assert!(matches!(error, LabError::BadDisk { expected: 0x10_0000, actual: 0xf_fe00, .. }), "{error}");
    std::fs::remove_file(&flat).unwrap();
    let error = world.register_vm(&vmx, None).unwrap_err();
    assert!(matches!(error, LabError::File { source: FileError::NotFound, .. }), "{error}");
}

#[test]
fn an_upload_of_zeros_takes_no_room_and_a_short_one_leaves_nothing() {
    let (_dir, world, _vm) = one_disk(4096);
    let mut upload = world.begin_upload("datastore1", "zeros", 1 << 20).unwrap();
    upload.write(&vec![0; 1 << 20]).unwrap();
    assert!(matches!(upload.write(&[0]), Err(FileError::Length { .. })));
    upload.finish().unwrap();
    let file = host(&world, &DatastorePath::new("datastore1", "zeros"));
    assert_eq!(std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(file).unwrap()), 0);
    let upload = world.begin_upload("datastore1", "short", 10).unwrap();
    assert!(matches!(upload.finish(), Err(FileError::Length { expected: 10, actual: 0 })));
    let names: Vec<String> = world.list_dir("datastore1", "").unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["vm a", "zeros"]);
}

#[test]
fn other_readers_agree_on_a_chain() {
    let (_dir, world, vm) = one_disk(5 << 20);
    let mut noise = Noise(9);
    for _ in 0..2 {
        for _ in 0..30 {
            let at = noise.below((5 << 20) / 512 - 16) * 512;
            world.write_disk(&vm, KEY, ByteOffset(at), &[noise.next() as u8; 8192]).unwrap();
        }
        world.create_snapshot(&vm, "s", "", false).unwrap();
    }
    world.write_disk(&vm, KEY, ByteOffset(0), &[1; 512]).unwrap();
    let view = world.vm(&vm).unwrap();
    let leaf = host(&world, &view.disks[0].file);
    let model = read_all(&*world.running_disk(&vm, KEY).unwrap());
    assert!(read_all(&vmdk_rs::open_path(&leaf).unwrap()) == model, "vmdk-rs reads something else");
    if have("qemu-img") {
        assert!(qemu_reads(&leaf) == model, "qemu-img reads something else");
        let frozen = &view.snapshots[1].disks[0].file;
        let model = read_all(&*world.frozen_disk(&view.snapshots[1].id, KEY).unwrap());
        assert!(qemu_reads(&host(&world, frozen)) == model, "qemu-img reads something else");
    }
}

#[test]
fn the_demo_is_small_quick_and_has_volumes_that_other_programs_accept() {
    let dir = tempfile::tempdir().unwrap();
    let begun = std::time::Instant::now();
    let world = World::create(dir.path(), Template::Demo).unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let vms = world.vms();
    let names: Vec<&str> = vms.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["Windows Server 01", "linux-01"]);
    let stored: u64 = walk(dir.path()).iter().map(|m| std::os::unix::fs::MetadataExt::blocks(m) * 512).sum();
    assert!(stored < 40 << 20, "{stored} bytes on disk");
    for vm in &vms {
        assert!(vm.power == Power::PoweredOn && vm.tools_running);
        let disks: Vec<_> = vm.disks.iter().map(|disk| world.running_disk(&vm.id, disk.key).unwrap()).collect();
        let disks: Vec<&dyn ReadAt> = disks.iter().map(|disk| &**disk).collect();
        let report = check(&disks, Some(0)).unwrap();
        assert!(report.consistent && report.logs == disks.len(), "{report:?}");
    }
    // The guests have worked, and the file systems around their logs are still whole.
    let guests = world.start_guests();
    std::thread::sleep(Duration::from_millis(500));
    drop(guests);
    let volume = |vm: usize, disk: usize| {
        let bytes = read_all(&*world.running_disk(&vms[vm].id, vms[vm].disks[disk].key).unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes[1 << 20..bytes.len() - (1 << 20)]).unwrap();
        file
    };
    if have("ntfsinfo") {
        let file = volume(0, 0);
        assert!(run("ntfsinfo", &["-mf".as_ref(), file.path().as_os_str()]).contains("Volume Version: 3.1"));
    }
    if have("sfdisk") {
        let view = world.vm(&vms[0].id).unwrap();
        let flat = host(&world, &view.disks[0].file).with_file_name("Windows Server 01-flat.vmdk");
        let found = run("sfdisk", &["--verify".as_ref(), flat.as_os_str()]);
        assert!(found.contains("No errors detected"), "{found}");
    }
    if have("fsck.fat") {
        run("fsck.fat", &["-n".as_ref(), volume(0, 1).path().as_os_str()]);
    }
    if have("e2fsck") {
        run("e2fsck", &["-fn".as_ref(), volume(1, 0).path().as_os_str()]);
    }
}

fn walk(dir: &Path) -> Vec<std::fs::Metadata> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(metadata);
        }
    }
    found
}
