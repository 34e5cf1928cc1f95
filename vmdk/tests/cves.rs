//! Holes that were found in other readers of disk images, each as a class of images that must do no harm here: refused
//! with the family that fits, without asking for a file that is none of the image's, at a bounded cost.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "common/headers.rs"]
mod headers;
#[path = "common/trial.rs"]
mod trial;

use std::os::unix::fs::symlink;

use blockdev::{ByteOffset, ExtentKind, ReadAt};
use headers::{cowd, delta, descriptor, embedded, grain, hosted, packed_zeros, put, sesparse, stream};
use trial::Trial;
use vmdk_rs::{DescriptorError, ErrorFamily, NameError, VmdkError, open_path};

/// Names that lead out of the image's folder, or would to some reader.
const ELSEWHERE: [&str; 19] = [
    "/etc/passwd",
    "../x.vmdk",
    "..",
    ".",
    "a/b",
    "./x.vmdk",
    "/dev/sda",
    "//host/share/x.vmdk",
    "\\\\host\\share\\x.vmdk",
    "\\\\?\\C:\\x.vmdk",
    "C:\\x.vmdk",
    "C:x.vmdk",
    "..\\x.vmdk",
    "json:{'driver':'file'}",
    "JSON:{}",
    "nbd://host/x",
    "nbd:host:10809",
    "file:///etc/passwd",
    "fat:rw:x",
];

const FILE_TYPES: [&str; 5] = ["FLAT", "SPARSE", "VMFS", "VMFSSPARSE", "SESPARSE"];

/// Opens the descriptor `x.vmdk`, which must be refused at the price of its own text, as a corrupt image.
fn refused(trial: &Trial) -> VmdkError {
    let (error, cost) = trial.cost(|| trial.refused("x.vmdk"));
    assert_eq!(error.family(), ErrorFamily::Corrupt, "{error}");
    assert!(cost.read <= 64 << 10 && cost.allocated <= 256 << 10, "{error}: {cost:?}");
    error
}

/// CVE-2022-47951: a descriptor names a file of the host. CVE-2024-4467: a name is a recipe of a block device (`json:`).
#[test]
fn extents_that_lead_elsewhere_are_refused_in_every_dialect_before_anything_is_asked_for() {
    for create_type in ["monolithicFlat", "vmfs", "twoGbMaxExtentSparse", "vmfsSparse", "seSparse", "custom"] {
        for kind in FILE_TYPES {
            for name in ELSEWHERE {
                let text = descriptor(create_type, &format!("RDONLY 1 {kind} \"{name}\" 0"));
                let trial = Trial::new().with("x.vmdk", text).with("passwd", [1; 512]);
                let error = refused(&trial);
                assert!(matches!(&error, VmdkError::Name { name: refused, .. } if refused == name), "{error}");
                assert!(trial.asked().is_empty() && trial.devices().is_empty());
            }
        }
    }
}

/// CVE-2024-32498, CVE-2024-40767: what one door refuses is tried at the next. The file of the parent, a descriptor inside
/// an extent, an extent behind a good one, words in other case, another encoding.
#[test]
fn a_second_way_to_the_same_file_is_closed_too() {
    let bad = "RW 1 FLAT \"/etc/passwd\" 0";
    let parent = Trial::new().with("x.vmdk", delta("p.vmdk", "RW 1 ZERO")).with("p.vmdk", descriptor("custom", bad));
    assert!(matches!(refused(&parent), VmdkError::Name { .. }));
    assert_eq!(parent.asked(), ["p.vmdk"]);

    let second =
        Trial::new().with("x.vmdk", descriptor("custom", &format!("RW 1 FLAT \"a\" 0\n{bad}"))).with("a", [1; 512]);
    assert!(matches!(refused(&second), VmdkError::Name { .. }));
    assert_eq!(second.asked(), ["a"]);

    let odd = Trial::new().with("x.vmdk", descriptor("VMFS", "Rw\t1  vMfS\t\"/etc/passwd\""));
    assert!(matches!(refused(&odd), VmdkError::Name { .. }));
    let encoded = descriptor("custom\"\nencoding=\"Shift_JIS", "RW 1 FLAT \"\u{fffd}passwd\" 0");
    let encoded = encoded.replace('\u{fffd}', "XX").into_bytes();
    let slashed: Vec<u8> =
        encoded.iter().map(|byte| if *byte == b'X' { 0x5c } else { *byte }).chain(*b"#\x83\x5c").collect();
    assert!(matches!(refused(&Trial::new().with("x.vmdk", slashed)), VmdkError::Name { .. }));

    // The one extent of a file with its descriptor inside is that file, whatever the descriptor calls it.
    let inside = embedded(8, 3, &descriptor("monolithicSparse", "RW 8 SPARSE \"/etc/passwd\""));
    let trial = Trial::new().with("x.vmdk", inside);
    assert_eq!(trial.open("x.vmdk").unwrap().extent_at(ByteOffset(0)).unwrap().kind, ExtentKind::Hole);
    for lines in [bad, "RW 8 SPARSE \"x.vmdk\"\nRW 1 FLAT \"/etc/passwd\" 0", "RW 8 VMFSRAW \"/dev/sda\""] {
        let trial = Trial::new().with("x.vmdk", embedded(8, 3, &descriptor("monolithicSparse", lines)));
        assert_eq!(trial.refused("x.vmdk").family(), ErrorFamily::Unsupported);
        assert!(trial.asked().is_empty() && trial.devices().is_empty());
    }
}

/// Extents on devices are never files: they are asked for as devices, which nobody provides unless told to.
#[test]
fn devices_are_not_opened_as_files() {
    for (create_type, line, name) in [
        ("fullDevice", "RW 1 FLAT \"/dev/sda\" 0", "/dev/sda"),
        ("partitionedDevice", "RW 1 FLAT \"\\\\.\\PhysicalDrive0\" 0", "\\\\.\\PhysicalDrive0"),
        ("vmfsRawDeviceMap", "RW 1 VMFSRDM \"a\"", "a"),
        ("custom", "RW 1 VMFSRAW \"../a\"", "../a"),
    ] {
        let trial = Trial::new().with("x.vmdk", descriptor(create_type, line)).with("a", [1; 512]);
        let error = trial.refused("x.vmdk");
        assert_eq!(
            error.to_string(),
            format!("the image stands for the device {name:?}, and no such device was provided")
        );
        assert_eq!((trial.asked(), trial.devices()), (vec![], vec![name.to_owned()]));
    }
}

/// CVE-2015-5163: a backing file of the host. Zip-slip: `..` in a path. Only the last component of a parent's path counts,
/// and what is there has to be a disk of the content that the child names.
#[test]
fn a_parent_is_a_disk_beside_its_child_or_refused() {
    for hint in
        ["/etc/passwd", "../../passwd", "..\\..\\passwd", "\\\\host\\share\\passwd", "C:\\passwd", "json:/passwd"]
    {
        let trial = Trial::new().with("x.vmdk", delta(hint, "RW 1 ZERO")).with("passwd", "root:x:0:0:root\n");
        assert!(matches!(refused(&trial), VmdkError::Descriptor { .. }), "no file of another kind is a disk");
        assert_eq!(trial.asked(), ["passwd"]);
    }
    for hint in ["..", "/etc/..", "a\\..", ".", "/etc/", "json:{}", "C:passwd", "[ds] ..", "[ds] /etc/", "a/nbd:host"] {
        let trial = Trial::new().with("x.vmdk", delta(hint, "RW 1 ZERO"));
        assert!(matches!(refused(&trial), VmdkError::Name { .. }), "{hint}");
        assert!(trial.asked().is_empty());
    }
    let other = descriptor("custom", "RW 1 ZERO").replace("CID=1", "CID=2");
    let trial = Trial::new().with("x.vmdk", delta("p.vmdk", "RW 1 ZERO")).with("p.vmdk", other);
    assert!(matches!(refused(&trial), VmdkError::ContentId { expected: 1, actual: 2, .. }));
}

/// A link beside the image that leads out of the folder.
#[test]
fn symbolic_links_are_followed_neither_for_extents_nor_for_parents() {
    let dir = tempfile::tempdir().unwrap();
    symlink("/etc/passwd", dir.path().join("link.vmdk")).unwrap();
    let extents = FILE_TYPES.map(|kind| descriptor("custom", &format!("RW 1 {kind} \"link.vmdk\"")));
    for text in extents.into_iter().chain([delta("/vm/link.vmdk", "RW 1 ZERO")]) {
        std::fs::write(dir.path().join("x.vmdk"), text).unwrap();
        let error = open_path(&dir.path().join("x.vmdk")).unwrap_err();
        assert!(matches!(error, VmdkError::Name { source: NameError::Symlink, .. }), "{error}");
    }
}

/// CVE-2008-2004, and CVE-2024-32498 again: a guest writes an image's first bytes on its raw disk. What a flat extent is,
/// the descriptor says; its bytes are never looked at. Nor is a sparse extent anything but what it is called.
#[test]
fn data_that_looks_like_an_image_stays_data() {
    let passwd = descriptor("custom", "RW 1 FLAT \"/etc/passwd\" 0");
    let inside = embedded(8, 3, &passwd);
    for data in [passwd.into_bytes(), inside, cowd(8), sesparse(8), b"QFI\xfb\0\0\0\x03".to_vec()] {
        let mut data = data;
        data.resize(4096, 0);
        for kind in ["FLAT", "VMFS"] {
            let text = descriptor("custom", &format!("RW 8 {kind} \"x-flat.vmdk\" 0"));
            let trial = Trial::new().with("p.vmdk", text).with("x-flat.vmdk", data.as_slice());
            let trial = trial
                .with("x.vmdk", delta("p.vmdk", "RW 8 VMFSSPARSE \"d\""))
                .with("d", [cowd(8), vec![0; 512]].concat());
            for (name, asked) in [("p.vmdk", vec!["x-flat.vmdk"]), ("x.vmdk", vec!["d", "p.vmdk", "x-flat.vmdk"])] {
                let mut read = vec![0; 4096];
                trial.open(name).unwrap().read_exact_at(ByteOffset(0), &mut read).unwrap();
                assert!(read == data);
                assert_eq!(trial.asked(), asked);
            }
        }
        for (kind, magic) in
            [("SPARSE", &b"KDMV"[..]), ("VMFSSPARSE", b"COWD"), ("SESPARSE", &[0xbe, 0xba, 0xfe, 0xca])]
        {
            if !data.starts_with(magic) {
                let text = descriptor("custom", &format!("RW 8 {kind} \"a\""));
                let trial = Trial::new().with("x.vmdk", text).with("a", data.as_slice());
                assert!(matches!(refused(&trial), VmdkError::Field { .. }));
                assert_eq!(trial.asked(), ["a"]);
            }
        }
    }
}

/// NUL, line breaks and the like, which another program may take for the end of a name.
#[test]
fn names_with_control_characters_are_refused() {
    for name in ["a\0.vmdk", "a\n.vmdk", "a\r.vmdk", "a\u{7f}", "a\u{85}", "\u{1b}[2J", "a\u{9b}", "a\t.vmdk"] {
        let trial = Trial::new().with("x.vmdk", descriptor("custom", &format!("RW 1 FLAT \"{name}\" 0")));
        let error = refused(&trial);
        let control = matches!(&error, VmdkError::Name { source: NameError::Control, .. });
        assert!(control || matches!(error, VmdkError::Descriptor { .. }), "{name:?}: {error}");
        assert!(trial.asked().is_empty());
    }
    let long = "x".repeat(256);
    let trial = Trial::new().with("x.vmdk", descriptor("custom", &format!("RW 1 FLAT \"{long}\" 0")));
    assert!(matches!(refused(&trial), VmdkError::Name { source: NameError::TooLong { actual: 256 }, .. }));
}

/// CVE-2015-5162: a file of a few bytes that claims a petabyte, by its descriptor or by its header.
#[test]
fn a_tiny_file_of_a_petabyte_is_refused_for_nothing() {
    let petabyte = 1u64 << 41;
    for sectors in [petabyte, u64::MAX, (1 << 37) + 1] {
        for kind in FILE_TYPES.into_iter().chain(["ZERO"]) {
            let file = if kind == "ZERO" { "" } else { "\"a\"" };
            let text = descriptor("custom", &format!("RW {sectors} {kind} {file}"));
            let trial = Trial::new().with("x.vmdk", text).with("a", [0; 512]);
            let (error, cost) = trial.cost(|| trial.refused("x.vmdk"));
            assert_eq!(error.family(), ErrorFamily::Unsupported);
            assert!(cost.read < 1024 && cost.allocated < 64 << 10 && trial.asked().is_empty(), "{cost:?}");
        }
    }
    let most = 1u64 << 37; // 64 TiB, which the tables of a file would have to be there for
    for capacity in [petabyte, u64::MAX, most] {
        for (kind, file) in [("SPARSE", hosted(capacity, 3)), ("SESPARSE", sesparse(capacity))] {
            let text = descriptor("custom", &format!("RW {most} {kind} \"a\""));
            refused(&Trial::new().with("x.vmdk", text).with("a", file));
        }
    }
    let text = descriptor("custom", &format!("RW {} VMFSSPARSE \"a\"", u32::MAX));
    refused(&Trial::new().with("x.vmdk", text).with("a", cowd(u32::MAX)));
}

/// The same with a sparse file in which all tables have room: looking and reading costs some pages.
#[test]
fn a_sparse_file_of_64_tib_costs_some_pages() {
    let most = 1u64 << 37;
    for (kind, file) in [("SPARSE", hosted(most, 4)), ("SESPARSE", sesparse(most))] {
        let text = descriptor("custom", &format!("RW {most} {kind} \"a\""));
        let trial = Trial::new().with("x.vmdk", text).with_size("a", file, 1 << 62);
        let (image, cost) = trial.cost(|| trial.open("x.vmdk").unwrap());
        assert!(cost.read < 4096 && cost.allocated < 64 << 10, "{kind}: {cost:?}");
        let ((), cost) = trial.cost(|| {
            for at in [0, 1 << 40, 63 << 40, (64 << 40) - 4096] {
                image.read_exact_at(ByteOffset(at), &mut [1; 4096]).unwrap();
                assert_eq!(image.extent_at(ByteOffset(at)).unwrap().kind, ExtentKind::Hole);
            }
        });
        assert!(cost.read <= 512 << 10 && cost.allocated <= 1 << 20, "{kind}: {cost:?}");
    }
}

/// CVE-2014-0223 and its like: places of tables and grains that overflow, or lie just behind the end.
#[test]
fn places_that_overflow_are_refused() {
    let open = |kind: &str, file: Vec<u8>| {
        let trial = Trial::new().with("x.vmdk", descriptor("custom", &format!("RW 4096 {kind} \"a\""))).with("a", file);
        let image = trial.open("x.vmdk");
        image.map_err(|e| e.family()).and_then(|image| {
            let (result, cost) = trial.cost(|| image.read_exact_at(ByteOffset(0), &mut [0; 8192]));
            assert!(cost.read <= 256 << 10 && cost.allocated <= 512 << 10, "{cost:?}");
            assert!(!matches!(result, Err(blockdev::ReadError::OutOfRange { .. } | blockdev::ReadError::Io { .. })));
            result.map_err(|_| ErrorFamily::Corrupt)
        })
    };
    let corrupt = Err(ErrorFamily::Corrupt);
    let far = [1 << 23, 1 << 54, 1 << 55, (1 << 55) - 1, u64::MAX / 512, u64::MAX - 1, u64::MAX];
    for place in far {
        assert_eq!(open("SPARSE", hosted(4096, place)), corrupt, "{place:#x}");
        for field in [0x80, 0x90, 0xc0] {
            let mut file = sesparse(4096);
            put(&mut file, &[(field, 8, place)]);
            file.resize(5120, 0);
            put(&mut file, &[(8 * 512, 8, 1 << 60)]);
            assert_eq!(open("SESPARSE", file), corrupt, "{field:#x}: {place:#x}");
        }
        let mut file = cowd(4096);
        put(&mut file, &[(0x14, 4, place)]);
        assert_eq!(open("VMFSSPARSE", file), corrupt, "{place:#x}");
    }
    for entry in [6, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        let table = |words: &[(usize, usize, u64)]| {
            let mut file = hosted(4096, 1);
            file.resize(6 * 512, 0);
            put(&mut file, words);
            file
        };
        assert_eq!(open("SPARSE", table(&[(512, 4, entry)])), corrupt, "table {entry:#x}");
        assert_eq!(open("SPARSE", table(&[(512, 4, 2), (1024, 4, entry)])), corrupt, "grain {entry:#x}");
        assert_eq!(open("SPARSE", table(&[(512, 4, 2), (1028, 4, entry)])), corrupt, "second grain {entry:#x}");
    }
}

/// Decompression bombs: what unpacks to more than a grain is not unpacked further, and what is too short for a grain is
/// not given the room of one.
#[test]
fn compressed_grains_that_expand_are_stopped_at_the_size_of_a_grain() {
    let open = |sectors: u64, grain_sectors: u64, stored: Vec<u8>| {
        let file = [stream(sectors, grain_sectors, &[6]), stored].concat();
        let trial =
            Trial::new().with("x.vmdk", descriptor("custom", &format!("RW {sectors} SPARSE \"a\""))).with("a", file);
        let image = trial.open("x.vmdk").unwrap();
        let mut read = vec![1; 4096];
        let (result, cost) = trial.cost(|| image.read_exact_at(ByteOffset(512), &mut read));
        (result.map(|()| read).map_err(|e| std::error::Error::source(&e).unwrap().to_string()), cost)
    };
    let bomb = packed_zeros(96 << 20);
    let size = u32::try_from(bomb.len()).unwrap();
    let (result, cost) = open(4096, 4096, grain(0, size, &bomb));
    assert_eq!(
        result.unwrap_err(),
        "the compressed grain at byte 0xc00 of a is damaged: it holds more bytes than a grain has"
    );
    assert!(cost.read <= 1 << 20 && cost.allocated <= 3 << 20, "{cost:?}");
    let (result, cost) = open(128, 128, grain(0, size, &bomb));
    assert!(result.unwrap_err().ends_with("its marker says a size that no compressed grain has"));
    assert!(cost.read <= 256 << 10 && cost.allocated <= 256 << 10, "{cost:?}");
    let (result, cost) = open(128, 128, grain(0, u32::MAX, &packed_zeros(64 << 10)));
    assert!(result.unwrap_err().ends_with("its marker says a size that no compressed grain has"));
    assert!(cost.read <= 256 << 10 && cost.allocated <= 256 << 10, "{cost:?}");
    // A kilobyte with grains of 2 MiB: the room is that of what so few bytes can hold.
    let few = packed_zeros(1000);
    let (result, cost) = open(4096, 4096, grain(0, u32::try_from(few.len()).unwrap(), &few));
    assert!(result.unwrap_err().ends_with("it holds fewer bytes than a grain has"));
    assert!(cost.read <= 256 << 10 && cost.allocated <= 256 << 10, "{cost:?}");
    let whole = packed_zeros(2 << 20);
    let (result, cost) = open(4096, 4096, grain(0, u32::try_from(whole.len()).unwrap(), &whole));
    assert_eq!(result.unwrap(), vec![0; 4096]);
    assert!(cost.read <= 256 << 10 && cost.allocated <= 7 << 20, "{cost:?}");
    for sectors in [8192, 1 << 32] {
        let text = descriptor("custom", "RW 8192 SPARSE \"a\"");
        refused(&Trial::new().with("x.vmdk", text).with("a", stream(8192, sectors, &[])));
    }
}

/// Descriptors that are long, or list too much.
#[test]
fn descriptors_of_any_length_cost_at_most_what_a_megabyte_costs() {
    let trial = Trial::new().with_size("x.vmdk", "# Disk DescriptorFile\n", 1 << 50);
    assert!(matches!(refused(&trial), VmdkError::NotADescriptor { .. }));
    let mut file = embedded(8, 3, "");
    for size in [2049, 1 << 54, u64::MAX] {
        put(&mut file, &[(0x24, 8, size)]);
        assert!(matches!(refused(&Trial::new().with("x.vmdk", file.as_slice())), VmdkError::Field { .. }));
    }
    let line = "x".repeat((1 << 20) - 10);
    let trial = Trial::new().with("x.vmdk", line);
    let (error, cost) = trial.cost(|| trial.refused("x.vmdk"));
    let VmdkError::Descriptor { source: DescriptorError::Line { actual, .. }, .. } = error else { panic!("{error}") };
    assert_eq!(actual.len(), 120);
    assert!(cost.read <= 2 << 20 && cost.allocated <= 3 << 20, "{cost:?}");

    let header = descriptor("custom", "");
    let many = |lines: usize| format!("{header}{}", "RW 1 FLAT \"a\" 0\n".repeat(lines));
    let trial = Trial::new().with("x.vmdk", many(4101)).with("a", [7; 512]);
    let (error, cost) = trial.cost(|| trial.refused("x.vmdk"));
    assert!(matches!(error, VmdkError::Descriptor { source: DescriptorError::TooManyExtents { .. }, .. }));
    assert!(cost.allocated <= 2 << 20 && trial.asked().is_empty(), "{cost:?}");
    let trial = Trial::new().with("x.vmdk", many(4100)).with("a", [7; 512]);
    let (image, cost) = trial.cost(|| trial.open("x.vmdk").unwrap());
    assert_eq!((image.size().0, trial.asked()), (4100 * 512, vec!["a".to_owned()]));
    assert!(cost.allocated <= 8 << 20, "{cost:?}");
}

/// Chains that never end: a gate that answers everything is asked for no more than 63 parents.
#[test]
fn a_chain_without_an_end_is_left_after_64_disks() {
    let names: Vec<_> = (0..100).map(|number| format!("{number}.vmdk")).collect();
    let linked = names.iter().zip(names.iter().skip(1));
    let trial = linked.fold(Trial::new(), |trial, (name, parent)| trial.with(name, delta(parent, "RW 1 ZERO")));
    let (error, cost) = trial.cost(|| trial.refused("0.vmdk"));
    assert!(matches!(error, VmdkError::TooDeep { limit: 64, .. }), "{error}");
    assert_eq!((error.family(), trial.asked().len()), (ErrorFamily::Corrupt, 63));
    assert!(cost.read < 64 << 10 && cost.allocated < 512 << 10, "{cost:?}");
    for (hint, asked) in [("x.vmdk", 0), ("/vmfs/volumes/a/x.vmdk", 0), ("y.vmdk", 1)] {
        let trial =
            Trial::new().with("x.vmdk", delta(hint, "RW 1 ZERO")).with("y.vmdk", delta("./x.vmdk", "RW 1 ZERO"));
        assert!(matches!(refused(&trial), VmdkError::Loop { again, .. } if again == "x.vmdk"));
        assert_eq!(trial.asked().len(), asked);
    }
}
