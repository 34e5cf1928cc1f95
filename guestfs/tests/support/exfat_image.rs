//! A small exFAT volume in memory, to be damaged: clusters of 512 bytes from sector 32 on.

use super::put;

/// Clusters of the volume.
const CLUSTERS: u32 = 200;
pub(crate) const HEAP: usize = 32 * 512;
const FAT: usize = 24 * 512;

/// The bytes of a volume.
#[derive(Clone)]
pub(crate) struct ExFatImage {
    pub(crate) bytes: Vec<u8>,
}

/// A file to be described: flags 1 for a chain in the FAT, 3 for clusters in a row.
struct File<'a> {
    name: &'a str,
    attributes: u16,
    flags: u8,
    cluster: u32,
    len: u64,
    valid: u64,
}

fn file(name: &str, flags: u8, cluster: u32, len: u64, valid: u64) -> File<'_> {
    File { name, attributes: 0x20, flags, cluster, len, valid }
}

fn folder(name: &str, flags: u8, cluster: u32, len: u64) -> File<'_> {
    File { name, attributes: 0x10, flags, cluster, len, valid: len }
}

impl ExFatImage {
    /// A chained file in three pieces, one in a row of which a part was never written, and a folder in a folder.
    pub(crate) fn new() -> Self {
        let mut image = Self { bytes: vec![0; HEAP + 512 * CLUSTERS as usize] };
        image.boot();
        put(&mut image.bytes, FAT, &[0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        image.chain(&[2]); // the bitmap
        image.chain(&[3]); // the up-case table
        image.chain(&[4, 7]); // the root
        image.chain(&[10, 12, 11]);
        image.chain(&[30, 32]); // a folder
        let table: Vec<u8> = [0xffff, 0x61].into_iter().chain(0x41..=0x5a).flat_map(u16::to_le_bytes).collect();
        put(&mut image.bytes, HEAP + 512, &table);
        put(&mut image.bytes, HEAP, &[0xff; 12]);
        let mut root = vec![0; 96];
        put(&mut root, 0, &[0x83, 2, b'A', 0, b'B', 0]);
        put(&mut root, 32, &[0x81]);
        put(&mut root, 64, &[0x82, 0, 0, 0]);
        put(
            &mut root,
            68,
            &table.iter().fold(0u32, |sum, byte| sum.rotate_right(1).wrapping_add((*byte).into())).to_le_bytes(),
        );
        for (at, cluster, len) in [(32, 2u32, 25u64), (64, 3, table.len() as u64)] {
            put(&mut root, at + 20, &cluster.to_le_bytes());
            put(&mut root, at + 24, &len.to_le_bytes());
        }
        root.extend(set(&file("chained file with a name of several entries.txt", 1, 10, 1500, 1500)));
        root.extend(set(&file("row", 3, 20, 1400, 600)));
        root.extend(set(&file("empty", 1, 0, 0, 0)));
        root.extend(set(&folder("folder", 1, 30, 1024)));
        image.put_chain(&[4, 7], &root);
        let mut entries = Vec::new();
        for number in 0..6 {
            entries.extend(set(&file(&format!("inner {number}"), 3, 40 + number, 100, 100)));
        }
        entries.extend(set(&folder("deep", 3, 50, 512)));
        image.put_chain(&[30, 32], &entries);
        image.put_chain(&[50], &set(&file("deepest", 3, 60, 512, 512)));
        for cluster in [10u32, 11, 12, 20, 21, 22, 40, 60] {
            put(&mut image.bytes, HEAP + 512 * (cluster as usize - 2), &super::tree::pattern(cluster.into(), 512));
        }
        image
    }

    fn boot(&mut self) {
        put(&mut self.bytes, 0, &[0xeb, 0x76, 0x90]);
        put(&mut self.bytes, 3, b"EXFAT   ");
        let sectors = 32 + u64::from(CLUSTERS);
        put(&mut self.bytes, 72, &sectors.to_le_bytes());
        for (at, value) in [(80, 24u32), (84, 2), (88, 32), (92, CLUSTERS), (96, 4), (100, 7)] {
            put(&mut self.bytes, at, &value.to_le_bytes());
        }
        put(&mut self.bytes, 104, &[0, 1, 0, 0, 9, 0, 1, 0x80, 10]);
        for sector in 0..9 {
            put(&mut self.bytes, sector * 512 + 510, &[0x55, 0xaa]);
        }
        let counted = self.bytes[..11 * 512].iter().enumerate().filter(|(at, _)| ![106, 107, 112].contains(at));
        let sum = counted.fold(0u32, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
        for at in (11 * 512..12 * 512).step_by(4) {
            put(&mut self.bytes, at, &sum.to_le_bytes());
        }
        self.bytes.copy_within(..12 * 512, 12 * 512);
    }

    /// Chains clusters in the FAT.
    pub(crate) fn chain(&mut self, clusters: &[u32]) {
        let next = clusters.iter().skip(1).copied().chain([u32::MAX]);
        for (cluster, next) in clusters.iter().zip(next) {
            put(&mut self.bytes, FAT + 4 * *cluster as usize, &next.to_le_bytes());
        }
    }

    fn put_chain(&mut self, clusters: &[u32], bytes: &[u8]) {
        for (cluster, piece) in clusters.iter().zip(bytes.chunks(512)) {
            put(&mut self.bytes, HEAP + 512 * (*cluster as usize - 2), piece);
        }
    }

    /// Makes the checksums of all entry sets right whose entries follow each other in a cluster.
    pub(crate) fn seal(&mut self) {
        for at in (HEAP..self.bytes.len() - 32 * 19).step_by(32) {
            let set = &mut self.bytes[at..];
            let len = 32 * (1 + usize::from(set[1].min(18)));
            if set[0] == 0x85 && at / 512 == (at + len - 1) / 512 {
                seal(&mut set[..len]);
            }
        }
    }

    /// Where the entry set begins whose name begins so.
    pub(crate) fn entry(&self, name: &str) -> usize {
        let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let is_name = |slot: &[u8]| slot[0] == 0xc1 && slot[2..].starts_with(&units);
        self.bytes.chunks_exact(32).position(is_name).unwrap() * 32 - 64
    }
}

fn seal(set: &mut [u8]) {
    let counted = set.iter().enumerate().filter(|(at, _)| !(2..4).contains(at));
    let sum = counted.fold(0u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
    set[2..4].copy_from_slice(&sum.to_le_bytes());
}

fn set(file: &File<'_>) -> Vec<u8> {
    let units: Vec<u16> = file.name.encode_utf16().collect();
    let names = units.len().div_ceil(15);
    let mut set = vec![0; 64 + 32 * names];
    put(&mut set, 0, &[0x85, u8::try_from(1 + names).unwrap()]);
    put(&mut set, 4, &file.attributes.to_le_bytes());
    put(&mut set, 8, &[0x21, 0x08, 0x21, 0x50, 0x21, 0x08, 0x21, 0x50, 0x21, 0x08, 0x21, 0x50, 0, 0, 0x80, 0x80, 0x80]);
    put(&mut set, 32, &[0xc0, file.flags, 0, u8::try_from(units.len()).unwrap()]);
    put(&mut set, 36, &hash(&units).to_le_bytes());
    put(&mut set, 40, &file.valid.to_le_bytes());
    put(&mut set, 52, &file.cluster.to_le_bytes());
    put(&mut set, 56, &file.len.to_le_bytes());
    for (number, part) in units.chunks(15).enumerate() {
        let at = 64 + 32 * number;
        set[at] = 0xc1;
        put(&mut set, at + 2, &part.iter().flat_map(|unit| unit.to_le_bytes()).collect::<Vec<_>>());
    }
    seal(&mut set);
    set
}

/// The hash of a name in upper case, for drivers that look at it.
fn hash(units: &[u16]) -> u16 {
    let upper = |unit: &u16| if (0x61..=0x7a).contains(unit) { unit - 32 } else { *unit };
    let bytes = units.iter().flat_map(|unit| upper(unit).to_le_bytes());
    bytes.fold(0, |hash: u16, byte| hash.rotate_right(1).wrapping_add(byte.into()))
}
