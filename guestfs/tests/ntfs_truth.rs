//! Volumes that ntfs-3g wrote, against the truth of what was written: `tests/peers/guestfs/make_ntfs.py` says what stands where.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what only tests call may fail as tests do")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/volumes.rs"]
mod volumes;

use volumes::{Fixture, check_against_truth};

/// Makes the fixture, if its makers are here, and compares all that it holds.
fn check(name: &str) {
    if let Some(fixture) = Fixture::make(name) {
        check_against_truth(&fixture);
    }
}

#[test]
fn every_kind_of_file_is_as_it_was_written() {
    check("small");
}

#[test]
fn sectors_of_4096_bytes_with_records_as_large_are_read() {
    check("sector-4096");
}

#[test]
fn clusters_of_64_kib_on_sectors_of_4096_bytes_are_read() {
    check("sector-4096-cluster-64k");
}

#[test]
fn clusters_of_one_sector_are_read() {
    check("cluster-512");
}

#[test]
fn clusters_of_64_kib_are_read() {
    check("cluster-64k");
}

#[test]
fn clusters_of_2_mib_are_read() {
    check("cluster-2m");
}
