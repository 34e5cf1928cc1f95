//! Where the disks of a chain end at different places, and images that lie inside images.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, MemDisk, ReadAt};
use common::{MIB, assert_same, noise, options};
use vmdk_rs::{
    CreateOptions, DenyGate, FnGate, Image, ImageWriter, ParentLink, PlainName, StreamWriter, Subformat, VmdkError,
    copy, copy_difference, open_path,
};

/// A disk that grew since its snapshot was taken: the delta is larger than its parent.
#[test]
fn a_delta_to_a_smaller_parent_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let go_on = |_| ControlFlow::Continue(());
    let mut bytes = noise(1, 3 << 20);
    bytes.resize(4 << 20, 0);
    bytes.extend(noise(2, 65_536));
    let below = bytes[..3 << 20].to_vec();
    let base = ImageWriter::create(dir.path(), "base.vmdk", &options(Subformat::MonolithicSparse, 3 * MIB)).unwrap();
    copy(&MemDisk::new(below), &base, &go_on).unwrap();
    let base = open_path(&base.finish().unwrap()[0]).unwrap();
    bytes[0] ^= 1;

    let parent = ParentLink { file: PlainName::new("base.vmdk").unwrap(), content_id: base.descriptor().content_id };
    let source = MemDisk::new(bytes);
    let options = CreateOptions {
        parent: Some(parent),
        ..CreateOptions::new(Subformat::MonolithicSparse, ByteLen(source.size().0))
    };
    let delta = ImageWriter::create(dir.path(), "delta.vmdk", &options).unwrap();
    copy_difference(&source, &base, &delta, &go_on).unwrap();
    assert_same(&open_path(&delta.finish().unwrap()[0]).unwrap(), &source);
}

/// A descriptor of one `sectors` large extent in a file.
fn disk(content_id: u32, parent: Option<(u32, &str)>, extent: &str) -> Arc<dyn ReadAt> {
    let (parent, hint) = parent.unwrap_or((u32::MAX, ""));
    let text = format!(
        "version=1\nCID={content_id:x}\nparentCID={parent:x}\nparentFileNameHint=\"{hint}\"\ncreateType=\"custom\"\n{extent}\n"
    );
    Arc::new(MemDisk::new(text.into_bytes()))
}

/// A redo log of so many sectors in which nothing is stored.
fn empty_redo_log(sectors: u32) -> Arc<dyn ReadAt> {
    let mut file = vec![0; 5 * 512];
    file[..4].copy_from_slice(b"COWD");
    for (index, value) in [1, 3, sectors, 1, 4, 1, 5].into_iter().enumerate() {
        file[4 + index * 4..][..4].copy_from_slice(&value.to_le_bytes());
    }
    Arc::new(MemDisk::new(file))
}

/// qemu-img makes deltas that are smaller than their parent. What the smaller one cuts off is gone for those above it.
#[test]
fn behind_the_end_of_a_smaller_parent_its_own_parents_do_not_show() {
    let files: HashMap<&str, Arc<dyn ReadAt>> = HashMap::from([
        ("base.vmdk", disk(0x11, None, "RW 16 FLAT \"base-flat.vmdk\" 0")),
        ("base-flat.vmdk", Arc::new(MemDisk::new(noise(3, 16 * 512)))),
        ("small.vmdk", disk(0x22, Some((0x11, "base.vmdk")), "RW 8 VMFSSPARSE \"small-delta.vmdk\"")),
        ("small-delta.vmdk", empty_redo_log(8)),
        ("top-delta.vmdk", empty_redo_log(12)),
    ]);
    let gate = FnGate::new(|name: &PlainName| {
        let file = files.get(name.as_str()).map(Arc::clone);
        file.ok_or_else(|| VmdkError::Denied { name: name.to_string() })
    });
    let top = disk(0x33, Some((0x22, "small.vmdk")), "RW 12 VMFSSPARSE \"top-delta.vmdk\"");
    let image = Image::open(top, "top.vmdk", &gate).unwrap();
    let mut bytes = vec![0x55; 12 * 512];
    image.read_exact_at(ByteOffset(0), &mut bytes).unwrap();
    let mut expected = noise(3, 8 * 512);
    expected.resize(12 * 512, 0);
    assert!(bytes == expected);
}

/// A streamOptimized image in memory.
fn stream_of(bytes: Vec<u8>) -> Vec<u8> {
    let name = PlainName::new("x.vmdk").unwrap();
    let options = CreateOptions::new(Subformat::StreamOptimized, ByteLen(bytes.len() as u64));
    let stream = StreamWriter::new(Vec::new(), &name, &options).unwrap();
    copy(&MemDisk::new(bytes), &stream, &|_| ControlFlow::Continue(())).unwrap();
    stream.finish().unwrap()
}

/// A compressed image that lies in a file of another compressed one: unpacking a grain of it takes unpacking another.
#[test]
fn a_stream_inside_a_stream_is_read() {
    let bytes = noise(4, 300 * 512);
    let open = |file: Arc<dyn ReadAt>| Image::open(file, "x.vmdk", &DenyGate).unwrap();
    let outer = open(Arc::new(MemDisk::new(stream_of(stream_of(bytes.clone())))));
    let inner = open(Arc::new(outer));
    let mut read = vec![0; bytes.len()];
    inner.read_exact_at(ByteOffset(0), &mut read).unwrap();
    assert!(read == bytes);
}
