//! Is an image whole? Tables and markers are looked at, data is not: reading everything is [`copy`](crate::copy())'s business.
//!
//! ```text
//!   descriptor -> each extent -- tables: every entry, and that nothing is used twice or by nobody
//!        |                    \- a stream: every marker from the first grain to the end
//!        \-> parent, and that it has the content that the child was made for
//! ```

mod problem;
mod stream;
mod tables;
mod usage;

use std::collections::HashSet;
use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, ReadAt};

use crate::chain::{OpenFiles, Opener, Seen, check_content, check_size, parent_of};
use crate::layer::Source;
use crate::sparse::GrainMap;
use crate::{Descriptor, Gate, PlainName, VmdkError};

pub use problem::{Problem, Severity};

/// Problems that are kept; more are only counted.
const MAX_KEPT: usize = 1000;

/// One thing that is wrong.
#[derive(Debug)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// Where in the file, if it has one place.
    pub at: Option<ByteOffset>,
    /// What.
    pub problem: Problem,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// The first 1000 problems, in the order in which they were met.
    pub findings: Vec<Finding>,
    /// Problems that lose or endanger data.
    pub corruptions: u64,
    /// Problems that a copy mends without guessing, such as a damaged second table.
    pub mendable: u64,
    /// Grains that take space and belong to nothing.
    pub leaks: u64,
    /// What could not be looked at.
    pub unchecked: u64,
    /// Grains of all sparse extents that were looked at.
    pub grains: u64,
    /// How many of them are stored.
    pub stored: u64,
    /// How many of them are compressed.
    pub compressed: u64,
    /// Where the last grain of the checked disk (not of its parents) ends in its file, if it has one extent with tables.
    pub end: Option<ByteLen>,
}

impl CheckReport {
    /// Nothing was found, not even a leak.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.mendable == 0 && self.leaks == 0 && self.unchecked == 0
    }

    fn add(&mut self, file: &str, at: Option<u64>, problem: impl Into<Problem>) {
        let problem = problem.into();
        match problem.severity() {
            Severity::Corrupt => self.corruptions = self.corruptions.saturating_add(1),
            Severity::Mendable => self.mendable = self.mendable.saturating_add(1),
            Severity::Leak => self.leaks = self.leaks.saturating_add(problem.leaked()),
            Severity::Unchecked => self.unchecked = self.unchecked.saturating_add(1),
        }
        if self.findings.len() < MAX_KEPT {
            self.findings.push(Finding { file: file.to_owned(), at: at.map(ByteOffset), problem });
        }
    }
}

/// Checks a disk and all its parents, from the file of its descriptor on. Every other file is asked of `gate`. What is
/// wrong is in the report; nothing is an error, as a check has to go on where a reader may give up.
pub fn check(descriptor: Arc<dyn ReadAt>, name: &str, gate: &dyn Gate) -> CheckReport {
    let mut report = CheckReport::default();
    let mut name = name.to_owned();
    if let Err(error) = check_chain(descriptor, &mut name, gate, &mut report) {
        report.add(&name, problem::place_in_file(&error).map(|at| at.0), error);
    }
    report
}

/// Checks one disk after the other; `name` is that of the disk it is at.
fn check_chain(
    mut file: Arc<dyn ReadAt>,
    name: &mut String,
    gate: &dyn Gate,
    report: &mut CheckReport,
) -> Result<(), VmdkError> {
    let mut opener = Opener::new(gate);
    let mut seen = Seen::new(name);
    let mut child: Option<(String, Descriptor)> = None;
    loop {
        let descriptor = check_disk(&mut opener, file, name, child.is_none(), report)?;
        if let Some((child_name, child)) = &child
            && let Err(error) = check_content(child_name, child, name, &descriptor)
        {
            report.add(child_name, None, error);
        }
        let Some(parent) = parent_of(name, &descriptor)? else { return Ok(()) };
        seen.note(&parent)?;
        file = parent.open(gate)?;
        child = Some((std::mem::replace(name, parent.file.to_string()), descriptor));
    }
}

/// Checks one disk of a chain.
fn check_disk(
    opener: &mut Opener<'_>,
    file: Arc<dyn ReadAt>,
    name: &str,
    is_top: bool,
    report: &mut CheckReport,
) -> Result<Descriptor, VmdkError> {
    let head = opener.head(file, name)?;
    check_ids(&head.descriptor, name, report);
    let mut files = OpenFiles::new();
    let mut places = Places::default();
    let mut size = 0u64;
    for line in &head.descriptor.extents {
        let len = line.sectors.to_bytes().map_or(u64::MAX, |len| len.0);
        size = size.saturating_add(len);
        match opener.source(&head, line, name, &mut files) {
            Ok(Source::Sparse(map)) if places.is_new(map.name()) => {
                let end = check_extent(&map, report);
                report.end = (is_top && head.descriptor.extents.len() == 1).then_some(ByteLen(end)).or(report.end);
            }
            Ok(Source::Sparse(map)) => report.add(map.name(), None, Problem::UsedTwice { what: "an extent" }),
            Ok(Source::Flat { name, offset, .. }) => places.flat.push((name, offset, offset.saturating_add(len))),
            Ok(Source::Zero) => {}
            Err(error) => {
                // A name that no file can have is not repeated to people.
                let file = line.file.as_deref().filter(|file| PlainName::new(file).is_ok()).unwrap_or(name);
                report.add(file, problem::place_in_file(&error).map(|at| at.0), error);
            }
        }
    }
    if let Err(error) = check_size(size, name) {
        report.add(name, None, error);
    }
    places.tell_overlaps(report);
    Ok(head.descriptor)
}

/// The parts of files that extents take.
#[derive(Default)]
struct Places {
    sparse: HashSet<String>,
    flat: Vec<(String, u64, u64)>,
}

impl Places {
    /// Whether no extent before was this file with tables.
    fn is_new(&mut self, name: &str) -> bool {
        self.sparse.insert(name.to_owned())
    }

    fn tell_overlaps(mut self, report: &mut CheckReport) {
        self.flat.sort();
        for pair in self.flat.windows(2) {
            if let [(first, _, end), (second, start, _)] = pair
                && first == second
                && start < end
            {
                report.add(second, Some(*start), Problem::UsedTwice { what: "an extent" });
            }
        }
    }
}

/// The long content ID ends with the short one.
fn check_ids(descriptor: &Descriptor, name: &str, report: &mut CheckReport) {
    let Some(long) = descriptor.long_content_id() else { return };
    let low = u32::try_from(long & u128::from(u32::MAX)).unwrap_or_default();
    if low != descriptor.content_id {
        report.add(name, None, Problem::LongContentId { long, content_id: descriptor.content_id });
    }
}

/// Checks an extent with tables; answers where its last grain ends in the file.
fn check_extent(map: &GrainMap, report: &mut CheckReport) -> u64 {
    let grains = map.grains();
    if grains.unclean {
        report.add(map.name(), Some(0x48), Problem::Unclean);
    }
    for error in &map.dropped {
        report.add(map.name(), None, Problem::CopyDamaged { why: error.to_string() });
    }
    if grains.lacks_directory {
        let why = "the header does not say where one of two grain directories is".to_owned();
        report.add(map.name(), None, Problem::CopyDamaged { why });
    }
    report.grains = report.grains.saturating_add(grains.count());
    let (first, end) = tables::check(map, report);
    if grains.packed {
        stream::check(map, first, report);
    }
    end.max(grains.grain_area.0).min(map.file().size().0)
}
