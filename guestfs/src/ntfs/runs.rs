//! Where the clusters of a value lie ("data runs", "mapping pairs").

use crate::FsError;

/// A run of clusters of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Its first cluster, counted in the value.
    pub(super) start: u64,
    /// The first one behind it.
    pub(super) end: u64,
    /// Where it lies on the volume; `None` is a hole.
    pub(super) lcn: Option<u64>,
}

/// A file has seldom more than some thousand runs; this many take 32 MiB.
const MAX_RUNS: usize = 1 << 20;

/// The runs of a value, from cluster 0 on, without gaps.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs(Vec<Run>);

impl Runs {
    /// Adds the runs of one piece, which begins where the last one ended. `clusters` is the size of the volume.
    pub(super) fn add(&mut self, pairs: &[u8], lowest: u64, end: u64, clusters: u64) -> Result<(), RunsError> {
        if lowest != self.end() {
            return Err(RunsError::Gap { expected: self.end(), found: lowest });
        }
        let mut pairs = Pairs { bytes: pairs, at: lowest, lcn: 0 };
        while pairs.at < end {
            let run = pairs.next().ok_or(RunsError::Short { end, found: pairs.at })??;
            if run.end > end {
                return Err(RunsError::Long { end, found: run.end });
            }
            if let Some(lcn) = run.lcn
                && lcn.checked_add(run.end.saturating_sub(run.start)).is_none_or(|end| end > clusters)
            {
                return Err(RunsError::Outside { lcn, clusters });
            }
            self.push(run)?;
        }
        Ok(())
    }

    fn push(&mut self, run: Run) -> Result<(), RunsError> {
        if let Some(last) = self.0.last_mut() {
            let follows = |lcn: u64| lcn.checked_add(last.end.saturating_sub(last.start));
            if last.lcn.map(follows) == run.lcn.map(Some) {
                last.end = run.end;
                return Ok(());
            }
        }
        if self.0.len() >= MAX_RUNS {
            return Err(RunsError::TooMany);
        }
        self.0.push(run);
        Ok(())
    }

    /// The first cluster behind all runs.
    pub(super) fn end(&self) -> u64 {
        self.0.last().map_or(0, |run| run.end)
    }

    /// The runs from the one that holds cluster `vcn` on.
    pub(super) fn from(&self, vcn: u64) -> &[Run] {
        let first = self.0.partition_point(|run| run.end <= vcn);
        self.0.get(first..).unwrap_or_default()
    }

    /// Whether nothing is stored of the last clusters.
    pub(super) fn ends_in_hole(&self) -> bool {
        self.0.last().is_some_and(|run| run.lcn.is_none())
    }

    /// Whether something of the value is not stored.
    pub(super) fn has_hole(&self) -> bool {
        self.0.iter().any(|run| run.lcn.is_none())
    }

    /// Gives back what was reserved and is not needed: these may stay in memory for long.
    pub(super) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }
}

/// What is wrong with a list of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunsError {
    /// A piece does not begin where the last one ended.
    Gap { expected: u64, found: u64 },
    /// The list ends too early.
    Short { end: u64, found: u64 },
    /// The list goes on too far.
    Long { end: u64, found: u64 },
    /// A run lies outside the volume.
    Outside { lcn: u64, clusters: u64 },
    /// The bytes make no runs.
    Malformed { header: u8 },
    /// More runs than we hold.
    TooMany,
}

impl RunsError {
    /// This error as that of the value `what`.
    pub(super) fn of(self, what: String) -> FsError {
        let (field, found, expected) = match self {
            Self::Gap { expected, found } => {
                ("lowest VCN of a piece", format!("{found}, not {expected}"), "where the piece before it ends")
            }
            Self::Short { end, found } => ("list of runs", format!("of {found} clusters, not {end}"), "complete"),
            Self::Long { end, found } => ("list of runs", format!("of {found} clusters, not {end}"), "no longer"),
            Self::Outside { lcn, clusters } => {
                ("LCN of a run", format!("{lcn} of {clusters}"), "such that the run ends inside the volume")
            }
            Self::Malformed { header } => ("head of a run", format!("{header:#04x}"), "two counts of at most 8 bytes"),
            Self::TooMany => return FsError::Unsupported { what, why: "it is in more than a million pieces" },
        };
        FsError::Corrupt { what, field, found, expected }
    }
}

/// Unpacks runs.
struct Pairs<'a> {
    bytes: &'a [u8],
    at: u64,
    lcn: u64,
}

impl Iterator for Pairs<'_> {
    type Item = Result<Run, RunsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&header, rest) = self.bytes.split_first()?;
        if header == 0 {
            return None;
        }
        let malformed = RunsError::Malformed { header };
        let (len_bytes, lcn_bytes) = (usize::from(header & 0xf), usize::from(header >> 4));
        let numbers = rest.split_at_checked(len_bytes).and_then(|(len, rest)| {
            let (lcn, rest) = rest.split_at_checked(lcn_bytes)?;
            Some((len, lcn, rest))
        });
        let Some((len, lcn, rest)) = numbers.filter(|_| len_bytes <= 8 && lcn_bytes <= 8) else {
            return Some(Err(malformed));
        };
        let len = u64::try_from(signed(len)).ok().filter(|len| *len > 0);
        let Some(end) = len.and_then(|len| self.at.checked_add(len)) else { return Some(Err(malformed)) };
        // A hole has no field for its place. One with a field of 0 lies where the last run did.
        let lcn = if lcn_bytes == 0 {
            None
        } else {
            match self.lcn.checked_add_signed(signed(lcn)) {
                None => return Some(Err(malformed)),
                some => some,
            }
        };
        let run = Run { start: self.at, end, lcn };
        self.bytes = rest;
        self.at = end;
        self.lcn = lcn.unwrap_or(self.lcn);
        Some(Ok(run))
    }
}

/// A little-endian number in two's complement, of up to 8 bytes.
fn signed(bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|top| *top >= 0x80);
    let mut all = if negative { [0xff; 8] } else { [0; 8] };
    for (to, from) in all.iter_mut().zip(bytes) {
        *to = *from;
    }
    i64::from_le_bytes(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(pairs: &[u8], end: u64) -> Result<Vec<Run>, RunsError> {
        let mut runs = Runs::default();
        runs.add(pairs, 0, end, 1000).map(|()| runs.0)
    }

    fn run(start: u64, end: u64, lcn: Option<u64>) -> Run {
        Run { start, end, lcn }
    }

    #[test]
    fn places_are_counted_from_the_last_run_that_has_one() {
        // 3 clusters at 100, a hole of 2, 4 clusters at 100 - 50
        let pairs = [0x11, 3, 100, 0x01, 2, 0x11, 4, 0xce, 0];
        assert_eq!(runs(&pairs, 9).unwrap(), [run(0, 3, Some(100)), run(3, 5, None), run(5, 9, Some(50))]);
    }

    #[test]
    fn a_run_at_cluster_0_is_no_hole() {
        assert_eq!(runs(&[0x11, 2, 0, 0], 2).unwrap(), [run(0, 2, Some(0))]);
    }

    #[test]
    fn neighbours_become_one_run() {
        assert_eq!(
            runs(&[0x11, 2, 10, 0x11, 3, 2, 0x01, 1, 0x01, 4], 10).unwrap(),
            [run(0, 5, Some(10)), run(5, 10, None)]
        );
    }

    #[test]
    fn lists_that_contradict_the_header_or_the_volume_are_refused() {
        assert_eq!(runs(&[0x11, 2, 10, 0], 3), Err(RunsError::Short { end: 3, found: 2 }));
        assert_eq!(runs(&[0x11, 4, 10, 0], 3), Err(RunsError::Long { end: 3, found: 4 }));
        assert_eq!(runs(&[0x21, 4, 0xe6, 3, 0], 4), Err(RunsError::Outside { lcn: 998, clusters: 1000 }));
        assert_eq!(runs(&[0x11, 4, 0xff, 0], 4), Err(RunsError::Malformed { header: 0x11 }));
        assert_eq!(runs(&[0x11, 0, 1, 0], 4), Err(RunsError::Malformed { header: 0x11 }));
        assert_eq!(runs(&[0x19, 1], 4), Err(RunsError::Malformed { header: 0x19 }));
        let mut two = Runs::default();
        two.add(&[0x11, 2, 10], 0, 2, 1000).unwrap();
        assert_eq!(two.add(&[0x11, 2, 10], 3, 5, 1000), Err(RunsError::Gap { expected: 2, found: 3 }));
    }
}
