//! The bytes that are copied: random ones, in runs such as a file system makes.

use blockdev::ByteOffset;
use lab::world::{DiskSource, DiskSpec, Firmware, VmSpec, World};

use crate::problem::Result;

/// What a file system gives its files: clusters.
const CLUSTER: u64 = 4096;
/// The shortest and the longest run of data; the lengths between are spread evenly over their logarithms.
const SHORTEST: u64 = 64 << 10;
const LONGEST: u64 = 32 << 20;
/// Written at once.
const BUFFER: u64 = 1 << 20;

/// A disk to make.
pub(crate) struct DiskPlan {
    /// Bytes, whole sectors.
    pub(crate) capacity: u64,
    /// Bytes in use, about.
    pub(crate) used: u64,
}

/// Adds a VM with one such disk; whether it runs, and whether the host tracks its blocks, is said beside.
pub(crate) fn add_vm(world: &World, name: &str, plan: &DiskPlan, on: bool, tracked: bool) -> Result<()> {
    let vm = world.add_vm(&VmSpec {
        name: name.to_owned(),
        datastore: "datastore1".to_owned(),
        disks: vec![DiskSpec { source: DiskSource::Empty(plan.capacity) }],
        guest_id: "otherGuest64".to_owned(),
        firmware: Firmware::Bios,
        ip: None,
        host_name: None,
        power_on: on,
        tools: true,
        change_tracking: tracked,
    })?;
    let key = world.vm(&vm).and_then(|vm| vm.disks.first().map(|disk| disk.key)).unwrap_or_default();
    let mut random = Random(7);
    let mut buffer = vec![0; BUFFER as usize];
    for (start, len) in runs(plan, &mut random) {
        for at in (start..start + len).step_by(BUFFER as usize) {
            let piece = &mut buffer[..BUFFER.min(start + len - at) as usize];
            random.fill(piece);
            world.write_disk(&vm, key, ByteOffset(at), piece)?;
        }
    }
    Ok(())
}

/// Runs of data, start and length, with holes between: as many bytes as are in use, over the whole disk.
fn runs(plan: &DiskPlan, random: &mut Random) -> Vec<(u64, u64)> {
    let hole_for_byte = (plan.capacity - plan.used) as f64 / plan.used as f64;
    let (mut runs, mut at, mut left) = (Vec::new(), 0, plan.used);
    while left > 0 {
        let spread = (LONGEST / SHORTEST) as f64;
        let len = (SHORTEST as f64 * spread.powf(random.fraction())) as u64;
        let len = (len / CLUSTER * CLUSTER).min(left.next_multiple_of(CLUSTER));
        // The hole behind a run goes with its length, and varies; its mean makes the disk full at its end.
        let hole = (len as f64 * hole_for_byte * 2.0 * random.fraction()) as u64 / CLUSTER * CLUSTER;
        if at + len > plan.capacity {
            break;
        }
        runs.push((at, len));
        at += len + hole;
        left = left.saturating_sub(len);
    }
    runs
}

/// SplitMix64: fast, and no compressor finds anything in it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
    }
}
