//! Changed block tracking of the lab: what was written since a point, over restarts; what resets it; disks that come and grow.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use blockdev::{ByteOffset, ReadAt};
use lab::world::{DiskSource, DiskSpec, Firmware, LabError, SnapshotId, Template, VmId, VmSpec, World};

const KEY: i32 = 2000;
const BLOCK: u64 = 64 << 10;
const CAPACITY: u64 = 100 * BLOCK + 512;

fn lab() -> (tempfile::TempDir, World, VmId) {
    let dir = tempfile::tempdir().unwrap();
    let world = World::create(dir.path(), Template::Empty).unwrap();
    let spec = VmSpec {
        name: "vm".to_owned(),
        datastore: "datastore1".to_owned(),
        disks: vec![DiskSpec { source: DiskSource::Empty(CAPACITY) }],
        guest_id: "debian11_64Guest".to_owned(),
        firmware: Firmware::Bios,
        ip: None,
        host_name: None,
        power_on: false,
        tools: true,
        change_tracking: true,
    };
    let vm = world.add_vm(&spec).unwrap();
    (dir, world, vm)
}

fn write(world: &World, vm: &VmId, at: u64, len: usize) {
    world.write_disk(vm, KEY, ByteOffset(at), &vec![7; len]).unwrap();
}

/// A snapshot and the change id of its disk.
fn freeze(world: &World, vm: &VmId) -> (SnapshotId, String) {
    let id = world.create_snapshot(vm, "point", "", false).unwrap();
    let change_id = world.snapshot(&id).unwrap().disks[0].change_id.clone().unwrap();
    (id, change_id)
}

#[test]
fn changes_are_known_since_every_point_and_survive_merges_and_restarts() {
    let (dir, mut world, vm) = lab();
    let mut points = Vec::new();
    for round in 0..4_u64 {
        let (snapshot, point) = freeze(&world, &vm);
        points.push(point);
        for (since, point) in points.iter().enumerate() {
            let blocks: Vec<_> = (since as u64..round).map(|n| (n * 10 * BLOCK, 2 * BLOCK)).collect();
            let now = world.changed_areas(&vm, Some(&snapshot), KEY, point).unwrap();
            assert_eq!(now, blocks, "since {since} in round {round}");
        }
        write(&world, &vm, round * 10 * BLOCK + BLOCK - 512, 1024); // into the redo log
        if round % 2 == 0 {
            world.remove_snapshot(&snapshot).unwrap();
        }
        drop(world);
        world = World::open(dir.path()).unwrap();
    }
    write(&world, &vm, CAPACITY - 512, 512);
    let last = world.changed_areas(&vm, None, KEY, &points[3]).unwrap();
    assert_eq!(last, [(30 * BLOCK, 2 * BLOCK), (100 * BLOCK, 512)]);
}

#[test]
fn ids_of_another_series_of_the_future_and_of_nothing_are_unknown() {
    let (_dir, world, vm) = lab();
    let (snapshot, point) = freeze(&world, &vm);
    let ask = |id: &str| world.changed_areas(&vm, Some(&snapshot), KEY, id);
    assert_eq!(ask(&point).unwrap(), []);
    let (series, epoch) = point.rsplit_once('/').unwrap();
    let later = format!("{series}/{}", epoch.parse::<u32>().unwrap() + 1);
    for id in ["", "*", "x/1", "52de44f0-93a5-4c5f-a7ab-000000000001/1", &later] {
        assert!(matches!(ask(id), Err(LabError::UnknownChangeId { .. })), "{id}");
    }
    world.reset_change_tracking(&vm).unwrap();
    assert!(matches!(ask(&point), Err(LabError::UnknownChangeId { .. })));
    world.set_change_tracking(&vm, false).unwrap();
    assert!(matches!(ask(&point), Err(LabError::ChangeTrackingOff(_))));
    world.set_change_tracking(&vm, true).unwrap();
    assert!(matches!(ask(&point), Err(LabError::UnknownChangeId { .. })));
}

#[test]
fn a_series_whose_file_is_lost_begins_anew() {
    let (dir, world, vm) = lab();
    let (snapshot, point) = freeze(&world, &vm);
    world.remove_snapshot(&snapshot).unwrap();
    drop(world);
    std::fs::remove_dir_all(dir.path().join("tracking")).unwrap();
    let world = World::open(dir.path()).unwrap();
    let (snapshot, new) = freeze(&world, &vm);
    assert!(world.changed_areas(&vm, Some(&snapshot), KEY, &point).is_err());
    write(&world, &vm, 0, 512);
    assert_eq!(world.changed_areas(&vm, None, KEY, &new).unwrap(), [(0, BLOCK)]);
    world.unregister_vm(&vm).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("tracking")).unwrap().count(), 0);
}

#[test]
fn a_disk_is_added_and_one_grows_while_the_vm_is_off() {
    let (dir, world, vm) = lab();
    let new = world.add_disk(&vm, &DiskSource::Empty(3 * BLOCK)).unwrap();
    world.grow_disk(&vm, KEY, CAPACITY + BLOCK).unwrap();
    world.write_disk(&vm, new, ByteOffset(BLOCK), &[5; 512]).unwrap();
    write(&world, &vm, CAPACITY, 512);
    assert!(world.grow_disk(&vm, KEY, CAPACITY).is_err());
    world.power_on(&vm).unwrap();
    assert!(matches!(world.add_disk(&vm, &DiskSource::Empty(512)), Err(LabError::PowerState { .. })));
    assert!(matches!(world.grow_disk(&vm, KEY, 200 * BLOCK), Err(LabError::PowerState { .. })));
    drop(world);
    let world = World::open(dir.path()).unwrap();
    let view = world.vm(&vm).unwrap();
    let disks: Vec<_> = view.disks.iter().map(|disk| (disk.key, disk.unit, disk.capacity)).collect();
    assert_eq!(disks, [(KEY, 0, CAPACITY + BLOCK), (new, 1, 3 * BLOCK)]);
    let mut sector = [0; 512];
    world.running_disk(&vm, KEY).unwrap().read_exact_at(ByteOffset(CAPACITY), &mut sector).unwrap();
    assert_eq!(sector, [7; 512]);
}
