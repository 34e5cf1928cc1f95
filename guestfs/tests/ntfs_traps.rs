//! Why NTFS is not left to the crate `ntfs`: on three kinds of files it gives wrong bytes and no error, and we the right ones.
//! Should one of the first assertions of a test fail one day, the crate has learnt it, and our own code may go.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what only tests call may fail as tests do")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/volumes.rs"]
mod volumes;

use std::fs::File;
use std::io::{BufReader, Read};

use guestfs::{Case, FileSystem};
use ntfs::Ntfs;
use sha2::{Digest, Sha256};
use volumes::{Fixture, digest};

/// What the crate gives for the unnamed data of a file, or its error.
fn by_the_crate(fixture: &Fixture, path: &str) -> Result<Vec<u8>, ntfs::NtfsError> {
    let mut disk = BufReader::new(File::open(&fixture.image).unwrap());
    let mut volume = Ntfs::new(&mut disk)?;
    volume.read_upcase_table(&mut disk)?;
    let mut file = volume.root_directory(&mut disk)?;
    for name in path.split('/') {
        let index = file.directory_index(&mut disk)?;
        let mut finder = index.finder();
        let entry = ntfs::indexes::NtfsFileNameIndex::find(&mut finder, &volume, &mut disk, name).unwrap()?;
        file = entry.to_file(&volume, &mut disk)?;
    }
    let data = file.data(&mut disk, "").unwrap()?;
    let attribute = data.to_attribute()?;
    let mut value = attribute.value(&mut disk)?.attach(&mut disk);
    let mut bytes = Vec::new();
    value.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The crate gives something else than what was written, without an error, and we give what was written.
fn only_we_are_right(fixture: &str, path: &str) {
    let Some(fixture) = Fixture::make(fixture) else { return };
    let facts = &fixture.truth["files"][path];
    let written = facts["sha256"].as_str().unwrap();
    let theirs = by_the_crate(&fixture, path).unwrap();
    let hex: String = Sha256::digest(&theirs).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_ne!(hex, written, "the crate reads {path}");
    let volume = fixture.open();
    let mut file = volume.root();
    for name in path.split('/') {
        file = volume.find(file, name.as_bytes(), Case::Exact).unwrap().unwrap();
    }
    let ours = volume.open(file).unwrap();
    assert_eq!(Some(ours.size().0), facts["size"].as_u64());
    assert_eq!(digest(&*ours).unwrap(), written);
}

#[test]
fn the_crate_gives_packed_bytes_for_compressed_files() {
    only_we_are_right("compressed", "compressed/text-197385");
}

#[test]
fn the_crate_gives_deleted_bytes_of_others_behind_the_initialised_size() {
    only_we_are_right("preallocated", "preallocated/begun");
}

#[test]
fn the_crate_gives_an_empty_file_where_its_runs_are_split_over_an_attribute_list() {
    only_we_are_right("split-file", "split-file/file");
}
