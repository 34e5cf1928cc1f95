//! What we write is a VMDK to qemu-img, libvmdk, dissect and vmdkinfo alike.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;
#[path = "common/judges.rs"]
mod judges;
#[path = "common/peers.rs"]
mod peers;

use std::path::Path;

use blockdev::{ByteLen, FileDisk, ReadAt};
use common::{MIB, SUBFORMATS, model, options, run};
use judges::{ALL, Judges, copy, realistic, vmdkinfo, write};
use vmdk_rs::{
    AdapterType, CompressionLevel, CreateOptions, Descriptor, Geometry, ImageWriter, PlainName, StreamWriter,
    Subformat, open_path,
};

/// No multiple of a grain, a table or 4096 bytes.
const ODD: u64 = 100 * MIB + 1536;

/// What vmdkinfo calls a form.
fn type_of(subformat: Subformat) -> &'static str {
    match subformat {
        Subformat::MonolithicFlat => "Monolithic flat",
        Subformat::TwoGbMaxExtentFlat => "2GB extent flat",
        Subformat::MonolithicSparse => "Monolithic sparse",
        Subformat::TwoGbMaxExtentSparse => "2GB extent sparse",
        Subformat::VmfsFlat => "VMFS flat",
        Subformat::StreamOptimized => "Stream optimized",
        other => panic!("{other:?} is new: what does vmdkinfo call it?"),
    }
}

fn facts_agree(dir: &Path, top: &str, descriptor: &Descriptor, subformat: Subformat, size: u64) {
    let info = run("qemu-img", &["info", "-f", "vmdk", "--output=json", top], dir);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"].as_u64(), Some(size));
    let data = &info["format-specific"]["data"];
    assert_eq!(data["create-type"].as_str(), Some(subformat.create_type().as_str()));
    assert_eq!(data["cid"].as_u64(), Some(descriptor.content_id.into()));
    assert_eq!(data["parent-cid"].as_u64(), Some(u32::MAX.into()));

    let info = vmdkinfo(dir, top);
    assert_eq!(info["Disk type"], type_of(subformat));
    assert!(info["Media size"].contains(&format!("({size} bytes)")), "{}", info["Media size"]);
    assert_eq!(info["Content identifier"], format!("{:#010x}", descriptor.content_id));
    assert_eq!(info["Parent content identifier"], "0xffffffff");
}

fn a_realistic_disk(subformat: Subformat) {
    let Some(judges) = Judges::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let raw = realistic(&dir.path().join("model.raw"), ODD, 1);
    let writer = ImageWriter::create(dir.path(), "my vm.vmdk", &options(subformat, ODD)).unwrap();
    copy(&raw, &writer);
    let descriptor = writer.descriptor().clone();
    writer.finish().unwrap();
    judges.agree(dir.path(), "my vm.vmdk", &raw, ALL);
    facts_agree(dir.path(), "my vm.vmdk", &descriptor, subformat, ODD);
}

#[test]
fn a_flat_disk_is_read_alike_by_all() {
    a_realistic_disk(Subformat::MonolithicFlat);
}

#[test]
fn a_flat_disk_in_pieces_is_read_alike_by_all() {
    a_realistic_disk(Subformat::TwoGbMaxExtentFlat);
}

#[test]
fn a_sparse_disk_is_read_alike_by_all() {
    a_realistic_disk(Subformat::MonolithicSparse);
}

#[test]
fn a_sparse_disk_in_pieces_is_read_alike_by_all() {
    a_realistic_disk(Subformat::TwoGbMaxExtentSparse);
}

#[test]
fn a_disk_as_esx_writes_it_is_read_alike_by_all() {
    a_realistic_disk(Subformat::VmfsFlat);
}

#[test]
fn a_compressed_disk_is_read_alike_by_all() {
    a_realistic_disk(Subformat::StreamOptimized);
}

#[test]
fn several_pieces_are_put_together_alike_by_all() {
    let Some(judges) = Judges::find() else { return };
    let (piece, size) = (2047 * MIB, 2048 * MIB + 1536);
    let parts = [(0, MIB), (piece - MIB, 2 * MIB), (size - 1536, 1536)];
    for subformat in [Subformat::TwoGbMaxExtentFlat, Subformat::TwoGbMaxExtentSparse] {
        let dir = tempfile::tempdir().unwrap();
        let raw =
            model(&dir.path().join("model.raw"), size, &[(100, 512), (piece - 70_000, 140_000), (size - 1024, 1024)]);
        assert_eq!(write(&raw, dir.path(), "x.vmdk", &options(subformat, size)).len(), 3);
        judges.agree(dir.path(), "x.vmdk", &raw, &[]);
        judges.agree_in(dir.path(), "x.vmdk", &raw, ALL, &parts);
    }
}

#[test]
fn every_level_of_compression_is_read_alike_by_all() {
    let Some(judges) = Judges::find() else { return };
    for level in [1, 6, 12].map(|level| CompressionLevel::new(level).unwrap()) {
        let dir = tempfile::tempdir().unwrap();
        let size = 6 * MIB + 512;
        let raw = realistic(&dir.path().join("model.raw"), size, 2);
        let options = options(Subformat::StreamOptimized, size);
        let writer = ImageWriter::create_compressed(dir.path(), "x.vmdk", &options, level).unwrap();
        copy(&raw, &writer);
        writer.finish().unwrap();
        judges.agree(dir.path(), "x.vmdk", &raw, ALL);
    }
}

#[test]
fn a_stream_into_memory_is_a_file_to_all() {
    let Some(judges) = Judges::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let raw = realistic(&dir.path().join("model.raw"), ODD, 3);
    let name = PlainName::new("x.vmdk").unwrap();
    let stream = StreamWriter::new(Vec::new(), &name, &options(Subformat::StreamOptimized, ODD)).unwrap();
    copy(&raw, &stream);
    std::fs::write(dir.path().join("x.vmdk"), stream.finish().unwrap()).unwrap();
    judges.agree(dir.path(), "x.vmdk", &raw, ALL);
}

#[test]
fn a_stream_through_a_pipe_is_a_file_to_all() {
    let Some(judges) = Judges::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let raw = realistic(&dir.path().join("model.raw"), ODD, 4);
    let name = PlainName::new("x.vmdk").unwrap();
    let (mut from, into) = std::io::pipe().unwrap();
    std::thread::scope(|scope| {
        let mut file = std::fs::File::create_new(dir.path().join("x.vmdk")).unwrap();
        scope.spawn(move || std::io::copy(&mut from, &mut file).unwrap());
        let stream = StreamWriter::new(into, &name, &options(Subformat::StreamOptimized, ODD)).unwrap();
        copy(&raw, &stream);
        drop(stream.finish().unwrap()); // closes the pipe
    });
    judges.agree(dir.path(), "x.vmdk", &raw, ALL);
}

/// The text of a descriptor, wherever it is.
fn text_of(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap();
    let text = if bytes.starts_with(b"KDMV") { &bytes[512..] } else { &bytes };
    String::from_utf8(text.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
}

#[test]
fn a_copy_says_of_itself_what_its_source_said() {
    let size = 9 * MIB + 1536;
    let kept = [
        r#"ddb.adapterType = "ide""#,
        r#"ddb.geometry.cylinders = "77""#,
        r#"ddb.geometry.heads = "15""#,
        r#"ddb.geometry.sectors = "17""#,
        r#"ddb.toolsVersion = "12389""#,
        r#"ddb.uuid = "60 00 C2 93 7a 0f 9e 6e-3c 1f 9a b2 c3 d4 e5 f6""#,
        r#"ddb.virtualHWVersion = "21""#,
    ];
    let head = "version=1\nCID=00001234\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n";
    let source = format!("{head}RW {} FLAT \"s-flat.vmdk\" 0\n{}\n", size / 512, kept.join("\n"));
    let source = Descriptor::parse(source.as_bytes()).unwrap();
    for subformat in SUBFORMATS {
        let dir = tempfile::tempdir().unwrap();
        let raw = realistic(&dir.path().join("model.raw"), size, 5);
        let files = write(&raw, dir.path(), "x.vmdk", &CreateOptions::like(&source, subformat, ByteLen(size)));
        let text = text_of(&files[0]);
        for line in kept {
            // Products write small letters.
            assert!(text.lines().any(|ours| ours.eq_ignore_ascii_case(line)), "{subformat:?}: {line}\n{text}");
        }
        assert!(!text.contains("00001234"), "a copy has a content ID of its own");
        let image = open_path(&files[0]).unwrap();
        let read = image.descriptor();
        assert_eq!(read.adapter(), Some(AdapterType::Ide));
        assert_eq!(read.geometry(), Some(Geometry { cylinders: 77, heads: 15, sectors: 17 }));
        assert_eq!((read.uuid(), read.tools_version()), (source.uuid(), Some(12389)));
        assert_eq!(read.hardware_version(), Some(21));
        if let Some(judges) = Judges::find() {
            judges.agree(dir.path(), "x.vmdk", &raw, ALL);
            facts_agree(dir.path(), "x.vmdk", read, subformat, size);
        }
    }
}

#[test]
fn a_copy_of_an_image_is_read_alike_by_all() {
    let Some(judges) = Judges::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let raw = realistic(&dir.path().join("model.raw"), ODD, 6);
    let mut source = FileDisk::open(&raw).map(|disk| Box::new(disk) as Box<dyn ReadAt>).unwrap();
    // From each form to the next: holes and zeros are told by tables, packed grains are read in pieces.
    for (number, subformat) in SUBFORMATS.into_iter().rev().enumerate() {
        let name = format!("{number}.vmdk");
        let writer = ImageWriter::create(dir.path(), &name, &options(subformat, ODD)).unwrap();
        vmdk_rs::copy(&*source, &writer, &|_| std::ops::ControlFlow::Continue(())).unwrap();
        source = Box::new(open_path(&writer.finish().unwrap()[0]).unwrap());
        judges.agree(dir.path(), &name, &raw, &["dissect"]);
    }
}
