//! The checker, for images as in `chain`: it ends, within 48 MiB and five seconds, keeps at most 1000 findings, and finds
//! something corrupt (or something that it could not look at) in every image that cannot be opened or in which a place cannot be
//! found.
#![no_main]

use fuzz::{Files, Input, Naming, Verdict, examine, limited};
use libfuzzer_sys::fuzz_target;

/// The largest file that is checked: what is taken of a file is kept in bits, 64 GiB at a time.
const LARGEST: u64 = 1 << 40;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let naming = if input.number(1) & 1 == 0 { Naming::Strict } else { Naming::InOrder };
    let files = Files::new(input.packed_files(), naming, data.len());
    if files.largest() <= LARGEST {
        limited(48 << 20, || check(&files));
    }
});

fn check(files: &Files) {
    let Some((name, top)) = files.top() else { return };
    let report = vmdk_rs::check(top.clone(), name, files);
    assert!(report.findings.len() <= 1000 && report.stored <= report.grains && report.compressed <= report.stored);
    for finding in &report.findings {
        assert!(!finding.problem.to_string().is_empty());
    }
    if report.corruptions == 0 && report.unchecked == 0 {
        assert_eq!(examine(files), Verdict::Whole, "the checker finds nothing wrong");
    }
}
