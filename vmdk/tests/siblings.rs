//! Deltas whose parents lie in folders beside their own, each disk of the same name; judged by qemu-img.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use blockdev::{ByteLen, ByteOffset, FileDisk, ReadAt};
use common::{MIB, assert_same, have, noise, run};
use vmdk_rs::{
    CreateOptions, FolderGate, Gate, Image, ImageWriter, ParentLink, PlainName, Subformat, VmdkError, check, open_path,
};

const NAME: &str = "disk.vmdk";
const SIZE: u64 = 5 * MIB + 1536;
const GRAIN: usize = 64 << 10;

/// Follows the folders that parents name, beside the one it began in.
struct Siblings {
    top: PathBuf,
    folder: Mutex<FolderGate>,
}

impl Siblings {
    fn at(top: &Path, folder: &str) -> Self {
        Self { top: top.to_owned(), folder: Mutex::new(FolderGate::open_folder(&top.join(folder)).unwrap()) }
    }
}

impl Gate for Siblings {
    fn open(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        self.folder.lock().unwrap().open(name)
    }
    fn open_parent_in(&self, folder: &PlainName, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        *self.folder.lock().unwrap() = FolderGate::open_folder(&self.top.join(folder.as_str()))?;
        self.open(name)
    }
}

fn open(top: &Path, folder: &str) -> Result<Image, VmdkError> {
    let file = Arc::new(FileDisk::open(&top.join(folder).join(NAME)).unwrap());
    Image::open(file, NAME, &Siblings::at(top, folder))
}

fn options(subformat: Subformat, parent: Option<(&str, u32)>) -> CreateOptions {
    CreateOptions {
        parent: parent.map(|(_, content_id)| ParentLink { file: PlainName::new(NAME).unwrap(), content_id }),
        parent_folder: parent.map(|(folder, _)| PlainName::new(folder).unwrap()),
        ..CreateOptions::new(subformat, ByteLen(SIZE))
    }
}

/// Writes what `after` has over `before`; answers how much was stored.
fn write(dir: &Path, options: &CreateOptions, before: &[u8], after: &[u8]) -> u64 {
    std::fs::create_dir(dir).unwrap();
    let writer = ImageWriter::create(dir, NAME, options).unwrap();
    let mut stored = 0;
    for (number, (old, new)) in before.chunks(MIB as usize).zip(after.chunks(MIB as usize)).enumerate() {
        let at = ByteOffset(number as u64 * MIB);
        if options.parent.is_some() {
            stored += writer.write_difference_at(at, new, old).unwrap();
        } else {
            writer.write_at(at, new).unwrap();
        }
    }
    writer.finish().unwrap();
    stored
}

#[test]
fn a_chain_through_folders_reads_as_the_newest_state_here_and_in_qemu() {
    for form in [Subformat::MonolithicSparse, Subformat::TwoGbMaxExtentSparse] {
        let top = tempfile::tempdir().unwrap();
        let d = top.path();
        let mut state = noise(1, SIZE as usize);
        state[2 * MIB as usize..3 * MIB as usize].fill(0);
        write(&d.join("full 0"), &options(Subformat::MonolithicFlat, None), &state, &state);
        let mut folder = "full 0".to_owned();
        for round in 1..5_usize {
            let before = state.clone();
            let at = round * 700_000;
            state[at..at + 5000].fill(round as u8);
            state[round * GRAIN..(round + 1) * GRAIN].fill(0); // zeros that the parent must not show through
            let parent = open(d, &folder).unwrap().descriptor().content_id;
            let next = format!("delta {round}");
            let stored = write(&d.join(&next), &options(form, Some((&folder, parent))), &before, &state);
            assert!(stored <= 2 * GRAIN as u64, "{stored} bytes for 5000");
            folder = next;
            let image = open(d, &folder).unwrap();
            assert_eq!(image.chain().count(), round + 1);
            let mut bytes = vec![9; SIZE as usize];
            image.read_exact_at(ByteOffset(0), &mut bytes).unwrap();
            assert!(bytes == state, "{form:?} {round}");
            let file = Arc::new(FileDisk::open(&d.join(&folder).join(NAME)).unwrap());
            assert!(check(file, NAME, &Siblings::at(d, &folder)).is_clean());
            if have("qemu-img") {
                std::fs::write(d.join("raw"), &state).unwrap();
                run("qemu-img", &["compare", "-f", "vmdk", "-F", "raw", &format!("{folder}/{NAME}"), "raw"], d);
            }
        }
    }
}

#[test]
fn without_a_gate_to_other_folders_the_parent_is_looked_for_beside_the_delta_alone() {
    let top = tempfile::tempdir().unwrap();
    let d = top.path();
    let state = noise(1, SIZE as usize);
    write(&d.join("a"), &options(Subformat::MonolithicSparse, None), &state, &state);
    let parent = open(d, "a").unwrap().descriptor().content_id;
    write(&d.join("b"), &options(Subformat::MonolithicSparse, Some(("a", parent))), &state, &state);
    // What it finds there is itself, whose content is another one.
    assert!(open_path(&d.join("b").join(NAME)).is_err());
    assert_same(&open(d, "b").unwrap(), &open_path(&d.join("a").join(NAME)).unwrap());
}

#[test]
fn folders_that_lead_back_are_a_loop() {
    let top = tempfile::tempdir().unwrap();
    let d = top.path();
    let state = noise(1, SIZE as usize);
    for (folder, parent) in [("a", "b"), ("b", "a")] {
        let form = CreateOptions { content_id: Some(7), ..options(Subformat::MonolithicSparse, Some((parent, 7))) };
        write(&d.join(folder), &form, &state, &state);
    }
    assert!(matches!(open(d, "a"), Err(VmdkError::Loop { .. })));
}

#[test]
fn only_two_names_behind_two_dots_are_a_folder_beside() {
    let top = tempfile::tempdir().unwrap();
    let d = top.path();
    let state = noise(1, SIZE as usize);
    write(&d.join("a"), &options(Subformat::MonolithicSparse, None), &state, &state);
    let parent = open(d, "a").unwrap().descriptor().content_id;
    write(&d.join("b"), &options(Subformat::MonolithicSparse, Some(("a", parent))), &state, &state);
    let image = d.join("b").join(NAME);
    let bytes = std::fs::read(&image).unwrap();
    let hint = b"\"../a/disk.vmdk\"";
    let at = bytes.windows(hint.len()).position(|part| part == hint).unwrap();
    for other in ["\"/./a/disk.vmdk\"", "\"../../dis.vmdk\"", "\"..\\\\a/disk.vmd\"", "\"x/../disk.vmdk\""] {
        let mut damaged = bytes.clone();
        damaged[at..at + hint.len()].copy_from_slice(other.as_bytes());
        std::fs::write(&image, damaged).unwrap();
        assert!(open(d, "b").is_err(), "{other}");
    }
}
