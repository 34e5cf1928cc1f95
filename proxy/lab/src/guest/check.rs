//! Judges the logs on a set of disks, without any knowledge of how the disks were copied.

use blockdev::{ReadAt, ReadError};

use super::log::{self, Region, SlotState};

/// Problems after the first few say nothing new.
const MAX_PROBLEMS: usize = 20;

/// Why no judgement is possible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// A disk could not be read.
    #[error("disk {disk} cannot be read")]
    Read {
        /// Which one, from 0.
        disk: usize,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// No disk holds a log.
    #[error("none of {disks} disks holds a guest log")]
    NoLog {
        /// How many disks were searched.
        disks: usize,
    },
}

/// What the logs on a set of disks say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// The last transaction that is committed on any disk, 0 if none is.
    pub last: u64,
    /// How many disks hold a log. The caller knows how many should.
    pub logs: usize,
    /// Records looked at, all disks together.
    pub records_checked: u64,
    /// True if every record is whole, committed on every disk, and none lies behind the last.
    pub consistent: bool,
    /// What is wrong, in words; the first 20.
    pub problems: Vec<String>,
}

impl LogReport {
    fn problem(&mut self, problem: String) {
        self.consistent = false;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

/// Checks that the logs on the disks of one machine agree: every transaction up to the last one, as far back as the log
/// reaches, is committed on every disk, and nothing was begun after it. `expect_last` is the truth from elsewhere, if known.
///
/// # Errors
/// If a disk cannot be read, or none holds a log.
pub fn check(disks: &[&dyn ReadAt], expect_last: Option<u64>) -> Result<LogReport, CheckError> {
    let mut logs: Vec<(usize, Region, Vec<Option<SlotState>>)> = Vec::new();
    for (number, disk) in disks.iter().enumerate() {
        let failed = |source| CheckError::Read { disk: number, source };
        if let Some(region) = log::find(*disk).map_err(failed)? {
            logs.push((number, region, log::read(*disk, region).map_err(failed)?));
        }
    }
    if logs.is_empty() {
        return Err(CheckError::NoLog { disks: disks.len() });
    }
    let committed = |state: &Option<SlotState>| match state {
        Some(SlotState::Committed(n)) => *n,
        _ => 0,
    };
    let last = logs.iter().flat_map(|(_, _, states)| states.iter().map(committed)).max().unwrap_or(0);
    let mut report = LogReport { last, logs: logs.len(), records_checked: 0, consistent: true, problems: Vec::new() };
    for (disk, region, states) in &logs {
        check_disk(*disk, *region, states, &mut report);
    }
    if let Some(expected) = expect_last
        && expected != last
    {
        report.problem(format!("the last committed transaction is {last}, expected {expected}"));
    }
    Ok(report)
}

fn check_disk(disk: usize, region: Region, states: &[Option<SlotState>], report: &mut LogReport) {
    let last = report.last;
    for (slot, state) in states.iter().enumerate() {
        report.records_checked += 1;
        // The transaction that this slot holds when `last` was the last one.
        let slot = slot as u64;
        let slots = u64::from(region.slots);
        let back = (last % slots + slots - slot) % slots;
        let expected = last.checked_sub(back).filter(|&n| n > 0);
        let problem = match (state, expected) {
            (Some(SlotState::Committed(n)), Some(expected)) if *n == expected => continue,
            (Some(SlotState::Unused), None) => continue,
            (None, _) => "is damaged".to_owned(),
            (Some(SlotState::Unused), Some(n)) => format!("is unused, expected transaction {n}"),
            (Some(SlotState::Begun(n)), _) => format!("holds transaction {n}, begun and not committed"),
            (Some(SlotState::Committed(n)), Some(e)) => format!("holds transaction {n}, expected {e}"),
            (Some(SlotState::Committed(n)), None) => format!("holds transaction {n}, expected none"),
        };
        report.problem(format!("disk {disk}: slot {slot} {problem}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::log::{encode, log_file};
    use blockdev::MemDisk;

    fn disk(committed: u64, begun: Option<u64>) -> MemDisk {
        let mut bytes = log_file(8);
        let mut put = |n: u64, state| {
            let slot = usize::try_from(n % 8).unwrap();
            bytes[slot * 4096..][..4096].copy_from_slice(&encode(u32::try_from(slot).unwrap(), 8, state));
        };
        (1..=committed).for_each(|n| put(n, SlotState::Committed(n)));
        begun.into_iter().for_each(|n| put(n, SlotState::Begun(n)));
        MemDisk::new(bytes)
    }

    #[test]
    fn logs_that_agree_are_consistent_before_and_after_the_ring_closed() {
        for last in [0, 1, 7, 8, 9, 100] {
            let report = check(&[&disk(last, None), &disk(last, None)], Some(last)).unwrap();
            assert!(report.consistent, "{report:?}");
            assert_eq!((report.last, report.logs, report.records_checked), (last, 2, 16));
        }
    }

    #[test]
    fn a_transaction_on_one_disk_only_is_a_problem() {
        let report = check(&[&disk(20, None), &disk(19, None)], None).unwrap();
        assert_eq!(report.problems, ["disk 1: slot 4 holds transaction 12, expected 20"]);
    }

    #[test]
    fn a_transaction_that_was_begun_is_a_problem() {
        let report = check(&[&disk(20, Some(21))], None).unwrap();
        assert_eq!(report.problems, ["disk 0: slot 5 holds transaction 21, begun and not committed"]);
    }

    #[test]
    fn a_state_older_than_the_truth_is_a_problem() {
        assert!(!check(&[&disk(20, None)], Some(21)).unwrap().consistent);
    }

    #[test]
    fn disks_without_a_log_are_no_proof_of_anything() {
        let err = check(&[&MemDisk::new(vec![0; 8192])], None).unwrap_err();
        assert_eq!(err.to_string(), "none of 1 disks holds a guest log");
    }
}
