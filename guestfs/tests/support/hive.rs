//! Registry hives built by hand, and walks of hives as JSON.

use guestfs::{FsError, Hive, Key};
use serde_json::{Value as Json, json};

use super::put;

/// The form of a list of subkeys.
#[derive(Clone, Copy)]
pub(crate) enum List {
    /// Offsets and the beginnings of names.
    Lf,
    /// Offsets and hashes of names.
    Lh,
    /// Offsets alone.
    Li,
    /// A list of leaves of the given form (`li` if true, else `lh`), each with so many keys.
    Ri(bool, usize),
}

/// A hive in which cells are laid one after another into one bin.
pub(crate) struct HiveBuilder {
    bins: Vec<u8>,
    security: u32,
}

impl HiveBuilder {
    pub(crate) fn new() -> Self {
        let mut new = Self { bins: vec![0; 32], security: 0 };
        // Without a security cell hivex adds no keys. The descriptor is the shortest there is: no owner, no group, no lists.
        let mut record = b"sk\0\0________\x01\0\0\0\x14\0\0\0\x01\0\0\x80".to_vec();
        record.extend([0; 16]);
        new.security = new.cell(&record);
        let own = new.security.to_le_bytes();
        new.patch(new.security, 4, &own);
        new.patch(new.security, 8, &own);
        new
    }

    /// Adds a cell; answers where it lies.
    pub(crate) fn cell(&mut self, record: &[u8]) -> u32 {
        let offset = u32::try_from(self.bins.len()).unwrap();
        let len = (record.len() + 4).next_multiple_of(8);
        self.bins.extend(i32::try_from(len).unwrap().wrapping_neg().to_le_bytes());
        self.bins.extend(record);
        self.bins.resize(self.bins.len().next_multiple_of(8), 0);
        offset
    }

    /// Writes over bytes of a record.
    pub(crate) fn patch(&mut self, cell: u32, at: usize, bytes: &[u8]) {
        put(&mut self.bins, usize::try_from(cell).unwrap() + 4 + at, bytes);
    }

    pub(crate) fn value(&mut self, name: &str, kind: u32, data: &[u8]) -> u32 {
        let len = u32::try_from(data.len()).unwrap();
        let (len, place) = match len {
            0..=4 => {
                let mut inline = [0; 4];
                put(&mut inline, 0, data);
                (len | 1 << 31, inline)
            }
            5..=16344 => (len, self.cell(data).to_le_bytes()),
            _ => (len, self.big_data(data).to_le_bytes()),
        };
        let (name, latin_1) = encode(name);
        let mut record = b"vk".to_vec();
        record.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        record.extend(len.to_le_bytes());
        record.extend(place);
        record.extend(kind.to_le_bytes());
        record.extend([u8::from(latin_1), 0, 0, 0]);
        record.extend(name);
        self.cell(&record)
    }

    fn big_data(&mut self, data: &[u8]) -> u32 {
        // Windows leaves four bytes of each segment's cell unused; hivex relies on that.
        let segments: Vec<u32> = data.chunks(16344).map(|piece| self.cell(&[piece, &[0; 4]].concat())).collect();
        let list = self.offsets(&segments);
        let mut record = b"db".to_vec();
        record.extend(u16::try_from(segments.len()).unwrap().to_le_bytes());
        record.extend(list.to_le_bytes());
        self.cell(&record)
    }

    fn offsets(&mut self, offsets: &[u32]) -> u32 {
        let record: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        self.cell(&record)
    }

    /// A key with cells of keys and of values below it. The keys should be in the order of their names.
    pub(crate) fn key(&mut self, name: &str, keys: &[u32], list: List, values: &[u32]) -> u32 {
        let none = u32::MAX;
        let key_list = if keys.is_empty() { none } else { self.list(keys, list) };
        let value_list = if values.is_empty() { none } else { self.offsets(values) };
        let (name, latin_1) = encode(name);
        let mut record = vec![0; 0x4c];
        put(&mut record, 0, b"nk");
        put(&mut record, 2, &[if latin_1 { 0x20 } else { 0 }]);
        for (at, number) in [
            (0x10, none),
            (0x14, u32::try_from(keys.len()).unwrap()),
            (0x1c, key_list),
            (0x20, none),
            (0x24, u32::try_from(values.len()).unwrap()),
            (0x28, value_list),
            (0x2c, self.security),
            (0x30, none),
        ] {
            put(&mut record, at, &number.to_le_bytes());
        }
        put(&mut record, 0x48, &u16::try_from(name.len()).unwrap().to_le_bytes());
        record.extend(name);
        let offset = self.cell(&record);
        for key in keys {
            self.patch(*key, 0x10, &offset.to_le_bytes());
        }
        offset
    }

    fn list(&mut self, keys: &[u32], list: List) -> u32 {
        let (signature, wide) = match list {
            List::Lf => (b"lf", true),
            List::Lh => (b"lh", true),
            List::Li => (b"li", false),
            List::Ri(li, step) => {
                let leaf = if li { List::Li } else { List::Lh };
                let leaves: Vec<u32> = keys.chunks(step).map(|keys| self.list(keys, leaf)).collect();
                return self.list_record(b"ri", false, &leaves);
            }
        };
        self.list_record(signature, wide, keys)
    }

    pub(crate) fn list_record(&mut self, signature: &[u8; 2], wide: bool, offsets: &[u32]) -> u32 {
        let mut record = signature.to_vec();
        record.extend(u16::try_from(offsets.len()).unwrap().to_le_bytes());
        for offset in offsets {
            record.extend(offset.to_le_bytes());
            if wide {
                let hint = self.hint(*offset, signature == b"lh");
                record.extend(hint);
            }
        }
        self.cell(&record)
    }

    /// The hash of a key's name, or its first four characters.
    fn hint(&self, key: u32, hash: bool) -> [u8; 4] {
        let at = usize::try_from(key).unwrap() + 4;
        let len = usize::from(u16::from_le_bytes(self.bins[at + 0x48..][..2].try_into().unwrap()));
        let name = &self.bins[at + 0x4c..][..len];
        if hash {
            let hash = |sum: u32, c: &u8| sum.wrapping_mul(37).wrapping_add(c.to_ascii_uppercase().into());
            return name.iter().fold(0, hash).to_le_bytes();
        }
        let mut hint = [0; 4];
        let len = len.min(4);
        put(&mut hint, 0, &name[..len]);
        hint
    }

    /// The file: its header, and one bin with all cells, the rest of which is free.
    pub(crate) fn finish(mut self, root: u32) -> Vec<u8> {
        self.patch(root, 2, &[0x2c]); // the root, not to be deleted, a name in Latin-1
        let used = self.bins.len();
        let len = used.next_multiple_of(4096);
        if len > used {
            self.bins.extend(i32::try_from(len - used).unwrap().to_le_bytes());
        }
        self.bins.resize(len, 0);
        let size = u32::try_from(len).unwrap().to_le_bytes();
        put(&mut self.bins, 0, b"hbin");
        put(&mut self.bins, 8, &size);
        let mut file = vec![0; 4096];
        for (at, number) in [(4, 7u32), (8, 7), (0x14, 1), (0x18, 5), (0x20, 1), (0x24, root), (0x2c, 1)] {
            put(&mut file, at, &number.to_le_bytes());
        }
        put(&mut file, 0, b"regf");
        put(&mut file, 0x28, &size);
        seal(&mut file);
        file.extend(self.bins);
        file
    }
}

/// Makes the checksum of a hive's header right.
pub(crate) fn seal(file: &mut [u8]) {
    let words = file[..508].chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    let sum = words.fold(0, |sum, word| sum ^ word);
    put(file, 508, &sum.to_le_bytes());
}

/// A name in Latin-1 where that is enough, else in UTF-16.
fn encode(name: &str) -> (Vec<u8>, bool) {
    match name.chars().map(|c| u8::try_from(u32::from(c))).collect() {
        Ok(bytes) => (bytes, true),
        Err(_) => (name.encode_utf16().flat_map(u16::to_le_bytes).collect(), false),
    }
}

/// Lengths of data in all forms: in the value, in a cell, in segments.
pub(crate) const ALL_LENGTHS: &[usize] = &[0, 1, 4, 5, 100, 16344, 16345, 2 * 16344, 50_000];

/// A hive with all forms of lists below the root, `MountedDevices` with the given values, and data of the given lengths.
pub(crate) fn sample(devices: &[(&str, &[u8])], lengths: &[usize]) -> Vec<u8> {
    let mut hive = HiveBuilder::new();
    let empty = |hive: &mut HiveBuilder, count: usize| -> Vec<u32> {
        (0..count).map(|n| hive.key(&format!("key {n:05}"), &[], List::Lf, &[])).collect()
    };
    let values: Vec<u32> = devices.iter().map(|(name, data)| hive.value(name, 3, data)).collect();
    let mounted = hive.key("MountedDevices", &[], List::Lf, &values);
    let mut keys = Vec::new();
    for (name, list, count) in [
        ("by hash", List::Lh, 20),
        ("by name", List::Lf, 20),
        ("by offset", List::Li, 20),
        ("in leaves", List::Ri(false, 7), 20),
        ("in plain leaves", List::Ri(true, 7), 20),
    ] {
        let below = empty(&mut hive, count);
        keys.push(hive.key(name, &below, list, &[]));
    }
    keys.push(mounted);
    let pattern = |len: usize| -> Vec<u8> { (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect() };
    let mut values: Vec<u32> =
        lengths.iter().map(|len| hive.value(&format!("{len} bytes"), 3, &pattern(*len))).collect();
    for name in ["", "größe", "長さ"] {
        values.push(hive.value(name, 4, b"1234"));
    }
    keys.push(hive.key("values", &[], List::Lf, &values));
    let below = empty(&mut hive, 1);
    keys.push(hive.key("キー", &below, List::Li, &[]));
    let root = hive.key("ROOT", &keys, List::Li, &[]);
    hive.finish(root)
}

/// Keys below each other that are walked at most.
const DEEPEST: usize = 64;

/// Everything below the root, in the form that `hivex.py dump` prints.
pub(crate) fn tree(hive: &Hive<'_>) -> Result<Json, FsError> {
    subtree(hive, &hive.root()?, DEEPEST)
}

fn subtree(hive: &Hive<'_>, key: &Key, depth: usize) -> Result<Json, FsError> {
    let Some(depth) = depth.checked_sub(1) else { return Ok(json!("too deep")) };
    let mut values = Vec::new();
    for value in hive.values(key)?.into_iter().flatten() {
        let value = value?;
        let data = hive.data(&value, value.len)?;
        values.push(json!([value.name, value.kind, data.len(), crc32fast::hash(&data)]));
    }
    let mut keys = Vec::new();
    for subkey in hive.subkeys(key)?.into_iter().flatten() {
        keys.push(subtree(hive, &subkey?, depth)?);
    }
    Ok(json!([key.name, values, keys]))
}
