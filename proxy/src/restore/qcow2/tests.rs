use std::ops::ControlFlow;
use std::process::Command;

use blockdev::{MemDisk, ReadAt};

use super::*;

const MIB: usize = 1 << 20;

/// A disk with data, holes, a cluster that is nearly all zeros and a last cluster that is cut.
fn sample() -> Vec<u8> {
    let mut bytes = vec![0; 5 * MIB + 3 * 512];
    for (n, byte) in bytes[..2 * MIB].iter_mut().enumerate() {
        *byte = (n / 512) as u8 | 1;
    }
    bytes[3 * MIB + 70_000] = 7;
    let last = bytes.len() - 1;
    bytes[last] = 9;
    bytes
}

fn written(source: &dyn ReadAt, path: &Path) {
    let writer = Qcow2Writer::create(path, source.size()).unwrap();
    vmdk_rs::copy(source, &writer, &|_| ControlFlow::Continue(())).unwrap();
    writer.finish().unwrap();
}

#[expect(clippy::print_stderr, reason = "who runs the tests shall know what was skipped")]
fn qemu_img(arguments: &[&str]) -> Option<String> {
    let output = match Command::new("qemu-img").args(arguments).output() {
        Ok(output) => output,
        Err(_) => {
            eprintln!("skipped: there is no qemu-img");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments:?}: {text}");
    Some(text)
}

#[test]
fn qemu_finds_every_byte_and_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let (path, raw) = (dir.path().join("a.qcow2"), dir.path().join("a.raw"));
    let bytes = sample();
    std::fs::write(&raw, &bytes).unwrap();
    written(&MemDisk::new(bytes), &path);
    let (path, raw) = (path.to_str().unwrap(), raw.to_str().unwrap());
    let Some(checked) = qemu_img(&["check", "-f", "qcow2", path]) else { return };
    assert!(checked.contains("No errors"), "{checked}");
    qemu_img(&["compare", "-f", "qcow2", "-F", "raw", path, raw]);
    let map = qemu_img(&["map", "--output=json", "-f", "qcow2", path]).unwrap();
    let present = map.lines().filter(|line| line.contains("\"data\": true")).count();
    assert_eq!(present, 3, "zeros take no cluster: {map}");
}

#[test]
fn what_was_written_is_read_back_with_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let bytes = sample();
    written(&MemDisk::new(bytes.clone()), &path);
    let reader = Qcow2Reader::open(&path).unwrap();
    let mut read = vec![1; bytes.len()];
    reader.read_exact_at(ByteOffset(0), &mut read).unwrap();
    assert!(read == bytes);
    let mut few = [1; 3000];
    reader.read_exact_at(ByteOffset(2 * MIB as u64 - 1000), &mut few).unwrap();
    assert_eq!(few, bytes[2 * MIB - 1000..2 * MIB + 2000]);
    use blockdev::ReadAtExt;
    let data: Vec<_> = reader.extents().map(|e| e.unwrap()).filter(|e| e.kind == blockdev::ExtentKind::Data).collect();
    let places: Vec<_> = data.iter().map(|e| (e.start.0, e.len.0)).collect();
    let (mib, cluster) = (MIB as u64, CLUSTER);
    assert_eq!(places, [(0, 2 * mib), (3 * mib + cluster, cluster), (5 * mib, 3 * 512)]);
    assert!(reader.read_exact_at(ByteOffset(bytes.len() as u64 - 1), &mut [0; 2]).is_err());
}

/// Some data at the ends of a disk that is far larger than memory.
struct Large(u64);

impl ReadAt for Large {
    fn size(&self) -> ByteLen {
        ByteLen(self.0)
    }
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), blockdev::ReadError> {
        buf.fill(if at.0 < CLUSTER || at.0 >= self.0 - CLUSTER { 5 } else { 0 });
        Ok(())
    }
    fn extent_at(&self, at: ByteOffset) -> Result<blockdev::Extent, blockdev::ReadError> {
        let (end, kind) = match at.0 {
            at if at < CLUSTER => (CLUSTER, blockdev::ExtentKind::Data),
            at if at < self.0 - CLUSTER => (self.0 - CLUSTER, blockdev::ExtentKind::Hole),
            _ => (self.0, blockdev::ExtentKind::Data),
        };
        Ok(blockdev::Extent { start: at, len: ByteLen(end - at.0), kind })
    }
}

#[test]
fn the_largest_disk_takes_little_room_and_a_larger_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    written(&Large(MAX_CAPACITY), &path);
    assert!(path.metadata().unwrap().len() < 2 << 20);
    let reader = Qcow2Reader::open(&path).unwrap();
    let mut end = [0; 10];
    reader.read_exact_at(ByteOffset(MAX_CAPACITY - 10), &mut end).unwrap();
    assert_eq!(end, [5; 10]);
    if let Some(checked) = qemu_img(&["check", "-f", "qcow2", path.to_str().unwrap()]) {
        assert!(checked.contains("No errors"), "{checked}");
    }
    for bad in [MAX_CAPACITY + 512, 1000] {
        let error = Qcow2Writer::create(&dir.path().join("b"), ByteLen(bad)).unwrap_err();
        assert!(matches!(error, VmdkError::Request { .. }), "{bad}: {error}");
    }
}

#[test]
fn a_file_that_was_not_finished_is_no_qcow2_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let writer = Qcow2Writer::create(&path, ByteLen(5 << 20)).unwrap();
    vmdk_rs::copy(&MemDisk::new(sample()[..5 * MIB].to_vec()), &writer, &|_| ControlFlow::Continue(())).unwrap();
    drop(writer);
    let error = Qcow2Reader::open(&path).unwrap_err();
    assert!(
        matches!(&error, blockdev::ReadError::Corrupt { source, .. } if source.to_string().starts_with("magic at byte 0x0")),
        "{error}"
    );
}

#[test]
fn a_file_that_is_there_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    std::fs::write(&path, "mine").unwrap();
    assert!(Qcow2Writer::create(&path, ByteLen(512)).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn tables_that_point_astray_are_data_gone_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    written(&MemDisk::new(sample()), &path);
    let whole = std::fs::read(&path).unwrap();
    let l2 = 2 * CLUSTER as usize;
    for (at, value) in [
        (CLUSTER as usize, 3_u64),
        (CLUSTER as usize, COPIED | 1 << 50),
        (l2, COPIED | 77),
        (l2, 1 << 62),
        (l2, CLUSTER),
    ] {
        let mut bad = whole.clone();
        bad[at..at + 8].copy_from_slice(&value.to_be_bytes());
        std::fs::write(&path, bad).unwrap();
        let reader = Qcow2Reader::open(&path).unwrap();
        let error = reader.read_exact_at(ByteOffset(0), &mut [0; 512]).unwrap_err();
        assert!(matches!(error, blockdev::ReadError::Corrupt { .. }), "{at:#x} {value:#x}: {error}");
    }
    for (at, what) in [(8, "backing_file_offset"), (20, "cluster_bits"), (36, "l1_size"), (72, "incompatible_features")]
    {
        let mut bad = whole.clone();
        bad[at] ^= 1;
        std::fs::write(&path, bad).unwrap();
        let error = Qcow2Reader::open(&path).unwrap_err();
        assert!(
            matches!(&error, blockdev::ReadError::Corrupt { source, .. } if source.to_string().starts_with(what)),
            "{what}: {error}"
        );
    }
}

#[test]
fn the_file_counts_its_own_counters() {
    for used in [1, 2, COUNTED - 2, COUNTED - 1, COUNTED, COUNTED * 8192 - 1, COUNTED * 8193] {
        let (blocks, table, clusters) = refcount_sizes(used);
        assert_eq!(clusters, used + blocks + table);
        assert!(blocks * COUNTED >= clusters && table * CLUSTER >= blocks * 8, "{used}");
    }
}
