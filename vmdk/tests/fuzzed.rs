//! What fuzzing found (tests/fuzz), or writing its targets, in the smallest form.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "common/headers.rs"]
mod headers;
#[path = "common/trial.rs"]
mod trial;

use std::time::{Duration, Instant};

use blockdev::{ByteOffset, ExtentKind, ReadAt, ReadAtExt};
use headers::{delta, descriptor, hosted, put, sesparse};
use trial::Trial;
use vmdk_rs::CheckReport;

fn check(trial: &Trial) -> CheckReport {
    let start = Instant::now();
    let report = trial.check("x.vmdk");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    report
}

/// Where the first directory is damaged for one grain, the second decides for that grain, not for those behind it:
/// otherwise what is read would depend on where reading began.
#[test]
fn two_directories_that_differ_are_read_alike_wherever_a_read_begins() {
    let mut file = hosted(4096, 1);
    put(&mut file, &[(8, 4, 3), (0x30, 8, 2)]); // a second directory in sector 2
    file.resize(11 * 512, 0);
    put(&mut file, &[(512, 4, 3), (1024, 4, 7)]); // tables in sectors 3 and 7
    put(&mut file, &[(3 * 512, 4, 0xffff)]); // the first grain is lost, the second a hole
    put(&mut file, &[(7 * 512, 4, 11), (7 * 512 + 4, 4, 19)]); // both are stored, one behind the other
    file.resize(27 * 512, 7);
    let trial = Trial::new().with("x.vmdk", descriptor("custom", "RW 16 SPARSE \"a\"")).with("a", file);
    let image = trial.open("x.vmdk").unwrap();
    let extents: Vec<_> = image.extents().map(|extent| extent.unwrap()).map(|e| (e.start.0, e.kind)).collect();
    assert_eq!(extents, [(0, ExtentKind::Data), (4096, ExtentKind::Hole)]);
    let (mut whole, mut half) = (vec![1; 8192], vec![1; 4096]);
    image.read_exact_at(ByteOffset(0), &mut whole).unwrap();
    image.read_exact_at(ByteOffset(4096), &mut half).unwrap();
    assert!(whole[..4096] == [7; 4096] && whole[4096..] == half && half == [0; 4096]);
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

/// A megabyte of the shortest keys, in each disk of a chain.
#[test]
fn keys_without_number_are_refused() {
    let keys = |count: usize| format!("{}{}", delta("x.vmdk", "RW 1 ZERO"), "a=\n".repeat(count));
    for (count, allocated) in [(4097, 4 << 20), (340_000, 4 << 20)] {
        let trial = Trial::new().with("x.vmdk", keys(count));
        let (error, cost) = trial.cost(|| trial.refused("x.vmdk"));
        assert!(matches!(error, vmdk_rs::VmdkError::Descriptor { .. }), "{error}");
        assert!(cost.allocated <= allocated, "{cost:?}");
    }
}
