//! What fuzzing found (tests/fuzz), or writing its targets, in the smallest form.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "common/headers.rs"]
mod headers;
#[path = "common/trial.rs"]
mod trial;

use std::time::{Duration, Instant};

use headers::{descriptor, hosted, put, sesparse};
use trial::Trial;
use vmdk_rs::CheckReport;

fn check(trial: &Trial) -> CheckReport {
    let start = Instant::now();
    let report = trial.check("x.vmdk");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    report
}

/// The checker calls no image whole that is not opened.
#[test]
fn a_disk_without_extents_is_a_finding() {
    let half = 1u64 << 36;
    for extents in [String::new(), format!("RW {half} ZERO\nRW {half} ZERO\nRW 1 ZERO")] {
        let trial = Trial::new().with("x.vmdk", descriptor("custom", &extents));
        trial.refused("x.vmdk");
        let report = check(&trial);
        assert!(!report.is_clean());
    }
}

/// A header that says that there is room for 2^51 grains; one grain of 32 MiB in 262144 places.
#[test]
fn the_checker_takes_no_time_for_numbers_that_a_header_makes_up() {
    let mut file = sesparse(8);
    put(&mut file, &[(0xc8, 8, 1 << 54)]);
    let text = descriptor("custom", "RW 8 SESPARSE \"a\"");
    check(&Trial::new().with("x.vmdk", text).with_size("a", file, 1 << 43));

    let sectors = 1u64 << 34;
    let mut file = hosted(sectors, 1);
    put(&mut file, &[(0x14, 8, 65536), (0x2c, 4, 4096)]);
    file.resize(37 * 512, 0);
    (0..64).for_each(|table| put(&mut file, &[(512 + table * 4, 4, 5)]));
    (0..4096).for_each(|grain| put(&mut file, &[(5 * 512 + grain * 4, 4, 64)]));
    let text = descriptor("custom", &format!("RW {sectors} SPARSE \"a\""));
    let report = check(&Trial::new().with("x.vmdk", text).with_size("a", file, 40 << 20));
    assert!(report.corruptions > 0 && report.findings.len() == 1000);
}
