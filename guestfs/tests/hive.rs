//! Registry hives that lie: each lie is an error or a note; none makes us panic, loop or allocate what it says.
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

mod support;

use blockdev::{ByteLen, MemDisk, ReadError};
use guestfs::{ErrorFamily, FsError, Hive, MountedDevices, Value};
use support::hive::{HiveBuilder, List, sample, seal, tree};
use support::{Counting, put};

const READS: u64 = 20_000;

/// Opens a hive, and answers what `look` says of it.
fn with<T>(bytes: &[u8], look: impl FnOnce(&Hive<'_>) -> T) -> T {
    let disk = MemDisk::new(bytes.to_vec());
    look(&Hive::open(&disk, READS).unwrap())
}

fn notes(bytes: &[u8]) -> Vec<String> {
    with(bytes, |hive| hive.notes().to_vec())
}

fn refusal(bytes: &[u8]) -> FsError {
    Hive::open(&MemDisk::new(bytes.to_vec()), READS).err().unwrap()
}

/// A hive in which the root holds what `fill` makes: keys, their list, values.
fn hive(fill: impl FnOnce(&mut HiveBuilder) -> (Vec<u32>, Vec<u32>)) -> Vec<u8> {
    let mut hive = HiveBuilder::new();
    let (keys, values) = fill(&mut hive);
    let root = hive.key("ROOT", &keys, List::Lf, &values);
    hive.finish(root)
}

fn keys(names: &[&str]) -> Vec<u8> {
    hive(|hive| (names.iter().map(|name| hive.key(name, &[], List::Lf, &[])).collect(), Vec::new()))
}

fn first_value(hive: &Hive<'_>) -> Result<Value, FsError> {
    hive.values(&hive.root()?)?.unwrap().next().unwrap()
}

/// Where a pattern stands in a file, the first time.
fn find(bytes: &[u8], pattern: &[u8]) -> usize {
    bytes.windows(pattern.len()).position(|window| window == pattern).unwrap()
}

// ---- header ----

#[test]
fn a_hive_that_was_being_written_is_read_with_a_note() {
    let clean = keys(&["a"]);
    assert_eq!(notes(&clean), [""; 0]);
    let mut dirty = clean.clone();
    put(&mut dirty, 4, &8u32.to_le_bytes());
    seal(&mut dirty);
    let note = "the hive is dirty (sequence numbers 8 and 7): the guest was writing it. It is read as it is; its transaction logs \
                are not applied";
    assert_eq!(notes(&dirty), [note]);
    assert_eq!(with(&dirty, tree).unwrap(), with(&clean, tree).unwrap());
    let mut dirty = clean.clone();
    dirty[508] ^= 1;
    assert!(notes(&dirty)[0].starts_with("the hive is dirty (checksum of the header 0x"), "{:?}", notes(&dirty));
    assert_eq!(with(&dirty, tree).unwrap(), with(&clean, tree).unwrap());
}

#[test]
fn checksums_of_0_and_of_all_ones_are_stored_as_their_neighbours() {
    for (sum, stored) in [(0, 1u32), (u32::MAX, u32::MAX - 1)] {
        let mut bytes = keys(&["a"]);
        let rest = u32::from_le_bytes(bytes[508..512].try_into().unwrap());
        put(&mut bytes, 0x70, &(rest ^ sum).to_le_bytes());
        put(&mut bytes, 508, &stored.to_le_bytes());
        assert_eq!(notes(&bytes), [""; 0]);
    }
}

#[test]
fn a_header_of_something_else_is_refused() {
    let change = |at: usize, new: u32| {
        let mut bytes = keys(&["a"]);
        put(&mut bytes, at, &new.to_le_bytes());
        refusal(&bytes)
    };
    let signature = change(0, 0);
    assert_eq!(signature.to_string(), "signature of the hive header at byte 0x0 is [0, 0, 0, 0]: \"regf\"");
    assert_eq!(signature.family(), ErrorFamily::Corrupt);
    let log = change(0x1c, 6);
    assert_eq!(log.to_string(), "file type of the hive header at byte 0x0 is 6: 0, a primary file and no log");
    assert!(matches!(change(0x14, 2), FsError::Corrupt { field: "major version", .. }));
    assert_eq!(change(0x18, 1).family(), ErrorFamily::Unsupported);
    assert!(matches!(refusal(&[]), FsError::Read { source: ReadError::OutOfRange { .. }, .. }));
}

#[test]
fn a_hive_that_was_cut_short_is_read_as_far_as_it_goes() {
    let bytes = hive(|hive| (vec![hive.key("a", &[], List::Lf, &[]); 1], vec![hive.value("large", 3, &[7; 9000])]));
    let cut = &bytes[..8192];
    assert!(notes(&bytes).is_empty());
    let header = "the header promises 12288 bytes of cells, and the file has 4096: the rest is lost";
    assert_eq!(notes(cut), [header]);
    let mut bytes = keys(&["a"]);
    bytes.resize(16384, 0);
    assert_eq!(notes(&bytes), [""; 0]); // room behind the bins means nothing
}

#[test]
fn cells_behind_the_end_that_the_header_knows_count_in_a_dirty_hive_only() {
    let mut bytes = hive(|hive| (Vec::new(), vec![hive.value("large", 3, &[7; 9000])]));
    put(&mut bytes, 0x28, &4096u32.to_le_bytes()); // the root lies behind that
    assert_eq!(with(&bytes, |hive| hive.root().map(|key| key.name)).unwrap(), "ROOT");
    seal(&mut bytes);
    let error = with(&bytes, |hive| hive.root().map(|key| key.name)).unwrap_err();
    assert!(matches!(error, FsError::Corrupt { field: "cell offset", .. }), "{error}");
}

// ---- names ----

#[test]
fn keys_are_found_without_regard_to_case() {
    let bytes = keys(&["MountedDevices", "Größe", "長さ"]);
    with(&bytes, |hive| {
        let root = hive.root().unwrap();
        let find = |name: &str| hive.subkey(&root, name).unwrap().map(|key| key.name);
        assert_eq!(find("MOUNTEDdevices").as_deref(), Some("MountedDevices"));
        assert_eq!(find("GRÖßE").as_deref(), Some("Größe"));
        assert_eq!(find("長さ").as_deref(), Some("長さ"));
        assert_eq!(find("長"), None);
        assert_eq!(find(""), None);
    });
}

#[test]
fn a_broken_key_does_not_hide_those_beside_it() {
    let mut bytes = keys(&["first", "second", "third"]);
    let at = find(&bytes, b"second") - 0x4c;
    bytes[at] = b'x';
    with(&bytes, |hive| {
        let root = hive.root().unwrap();
        assert_eq!(hive.subkey(&root, "third").unwrap().unwrap().name, "third");
        let error = hive.subkey(&root, "second").unwrap_err();
        let text = format!("signature of the key at byte {:#x} is [120, 107]: \"nk\"", at - 4);
        assert_eq!(error.to_string(), text);
    });
}

// ---- cells ----

#[test]
fn a_cell_that_is_free_outside_or_askew_is_refused() {
    let good = keys(&["a"]);
    let root = u32::from_le_bytes(good[0x24..0x28].try_into().unwrap());
    let error = |offset: u32, size: i32| {
        let mut bytes = good.clone();
        put(&mut bytes, 4096 + usize::try_from(root).unwrap(), &size.to_le_bytes());
        put(&mut bytes, 0x24, &offset.to_le_bytes());
        seal(&mut bytes);
        with(&bytes, |hive| hive.root().map(|_| ())).map_err(|error| match error {
            FsError::Corrupt { field, .. } => field,
            other => panic!("{other}"),
        })
    };
    assert_eq!(error(root, -88), Ok(()));
    for offset in [0, 8, root + 4, 4096, u32::MAX, 0x8000_0000] {
        assert_eq!(error(offset, -88), Err("cell offset"), "{offset:#x}");
    }
    for size in [88, 0, -87, -8192, i32::MIN, i32::MAX] {
        assert_eq!(error(root, size), Err("cell size"), "{size}");
    }
    assert_eq!(error(root, -72), Err("record"));
    assert_eq!(error(root, -80), Err("key name"));
}

// ---- lists ----

#[test]
fn a_list_of_lists_holds_leaves_only() {
    let mut builder = HiveBuilder::new();
    let key = builder.key("a", &[], List::Lf, &[]);
    let leaf = builder.list_record(b"li", false, &[key]);
    let inner = builder.list_record(b"ri", false, &[leaf]);
    let outer = builder.list_record(b"ri", false, &[leaf, inner, leaf]);
    let root = builder.key("ROOT", &[key], List::Lf, &[]);
    builder.patch(root, 0x1c, &outer.to_le_bytes());
    let bytes = builder.finish(root);
    with(&bytes, |hive| {
        let keys: Vec<_> = hive.subkeys(&hive.root().unwrap()).unwrap().unwrap().collect();
        let names: Vec<_> = keys.iter().map(|key| key.as_ref().map(|key| key.name.as_str()).ok()).collect();
        assert_eq!(names, [Some("a"), None, Some("a")]);
        let text = keys[1].as_ref().unwrap_err().to_string();
        assert!(text.ends_with("is \"ri\": that of a leaf, being in such a list itself"), "{text}");
    });
}

#[test]
fn keys_that_hold_themselves_end_the_walk() {
    let mut builder = HiveBuilder::new();
    let key = builder.key("a", &[], List::Lf, &[]);
    let root = builder.key("ROOT", &[key, key], List::Lf, &[]);
    let list = builder.list_record(b"li", false, &[root, key, root]);
    builder.patch(key, 0x14, &3u32.to_le_bytes());
    builder.patch(key, 0x1c, &list.to_le_bytes());
    let bytes = builder.finish(root);
    let error = with(&bytes, tree).unwrap_err();
    assert_eq!(error.family(), ErrorFamily::Unsupported);
    let text = "cannot be read: the hive has more to read than was allowed, or leads in circles";
    assert!(error.to_string().ends_with(text), "{error}");
}

#[test]
fn lists_that_do_not_fit_their_cells_are_refused() {
    let mut bytes = hive(|hive| {
        let value = hive.value("v", 3, &[1]);
        (vec![hive.key("a", &[], List::Lf, &[])], vec![value, value])
    });
    let root = find(&bytes, b"ROOT") - 0x4c;
    put(&mut bytes, root + 0x24, &u32::MAX.to_le_bytes());
    let list = find(&bytes, b"lf\x01\0");
    put(&mut bytes, list + 2, &[2]);
    with(&bytes, |hive| {
        let root = hive.root().unwrap();
        let values = hive.values(&root).err().unwrap().to_string();
        assert!(values.starts_with("number of elements of the list of values at byte 0x"), "{values}");
        assert!(values.ends_with("is 4294967295: as many as the cell has room for"), "{values}");
        assert!(hive.subkeys(&root).is_err());
    });
}

#[test]
fn a_long_list_ends_with_the_reads_allowed() {
    let mut builder = HiveBuilder::new();
    let root = builder.key("ROOT", &[], List::Lf, &[]);
    let list = builder.cell(&vec![1; 4 * 100_000]);
    builder.patch(root, 0x24, &100_000u32.to_le_bytes());
    builder.patch(root, 0x28, &list.to_le_bytes());
    let bytes = builder.finish(root);
    let errors = with(&bytes, |hive| hive.values(&hive.root().unwrap()).unwrap().unwrap().count());
    assert_eq!(errors, 20_000 - 4 + 1); // each costs one read but the last; the key and the list cost four
}

// ---- values ----

#[test]
fn data_is_given_up_to_the_limit_and_no_further() {
    let bytes = hive(|hive| (Vec::new(), vec![hive.value("v", 3, &[1; 24])]));
    with(&bytes, |hive| {
        let value = first_value(hive).unwrap();
        assert_eq!(hive.data(&value, ByteLen(24)).unwrap(), [1; 24]);
        let error = hive.data(&value, ByteLen(23)).unwrap_err();
        assert_eq!(error.to_string(), "the value \"v\" has 24 bytes, and at most 23 bytes were asked for");
    });
}

#[test]
fn data_of_a_length_that_its_cells_do_not_have_is_refused() {
    let data = |bytes: &[u8]| {
        let result = with(bytes, |hive| hive.data(&first_value(hive)?, ByteLen(u64::MAX)));
        result.map(|data| data.len()).map_err(|error| match error {
            FsError::Corrupt { field, .. } => field,
            other => panic!("{other}"),
        })
    };
    let with_len = |real: usize, len: u32| {
        let mut bytes = hive(|hive| (Vec::new(), vec![hive.value("value", 3, &vec![1; real])]));
        let at = find(&bytes, b"value") - 0x14;
        put(&mut bytes, at + 4, &len.to_le_bytes());
        data(&bytes)
    };
    assert_eq!(with_len(20_000, 20_000), Ok(20_000));
    assert_eq!(with_len(20_000, 2 * 16344), Err("data")); // the last segment is too short
    assert_eq!(with_len(20_000, 16345 * 2), Err("number of segments"));
    assert_eq!(with_len(20_000, 0x7fff_ffff), Err("number of segments"));
    assert_eq!(with_len(20_000, 16000), Err("data"));
    assert_eq!(with_len(100, 101), Err("data"));
    assert_eq!(with_len(100, 0x7fff_ffff), Err("signature"));
    assert_eq!(with_len(4, 0x8000_0005), Err("data size"));
    assert_eq!(with_len(4, 0x8000_0000), Ok(0));
}

#[test]
fn large_data_in_one_cell_is_read_too() {
    let bytes = hive(|hive| {
        let value = hive.value("v", 3, &[1; 20]);
        let data = hive.cell(&[2; 40_000]);
        hive.patch(value, 4, &40_000u32.to_le_bytes());
        hive.patch(value, 8, &data.to_le_bytes());
        (Vec::new(), vec![value])
    });
    let data = with(&bytes, |hive| hive.data(&first_value(hive)?, ByteLen(40_000))).unwrap();
    assert_eq!(data, [2; 40_000]);
}

// ---- corruption ----

/// xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }
}

#[test]
fn corrupt_hives_end_in_a_result_within_the_reads_allowed() {
    let mbr = [1; 12];
    let sound =
        sample(&[(r"\DosDevices\C:", &mbr), (r"\DosDevices\D:", b"DMIO:ID:0123456789abcdef")], &[0, 4, 5, 16345]);
    let mut random = Random(0x5eed);
    let (mut whole, mut mounted) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = sound.clone();
        let at = random.below(bytes.len());
        if random.below(2) == 0 {
            bytes[at] = u8::try_from(random.below(256)).unwrap();
        } else {
            let any = u32::try_from(random.below(1 << 32)).unwrap();
            let cell = u32::try_from(random.below(bytes.len()) & !7).unwrap();
            let new = [0, 1, u32::MAX, 0x7fff_ffff, 0x8000_0000, any, cell, cell][random.below(8)];
            put(&mut bytes, at & !3, &new.to_le_bytes());
        }
        let disk = Counting::new(MemDisk::new(bytes));
        if let Ok(hive) = Hive::open(&disk, READS) {
            whole += u32::from(tree(&hive).is_ok());
        }
        assert!(disk.reads() <= READS + 1);
        mounted += u32::from(MountedDevices::read(&disk).is_ok_and(|mounted| mounted.letters.len() == 2));
    }
    // Most bytes are data or free, and what is broken elsewhere does not matter to the letters.
    assert!((10_000..20_000).contains(&whole), "{whole}");
    assert!((18_000..20_000).contains(&mounted), "{mounted}");
}
