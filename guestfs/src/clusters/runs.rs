use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};

use super::corrupt;
use crate::FsError;

/// The most pieces of one file: their list takes 24 MiB. Files of real volumes have thousands at the worst.
const MOST: usize = 1 << 20;

/// Adjacent clusters of a file. All in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Where it begins in the file.
    from: u64,
    /// Where it begins on the volume.
    at: u64,
    /// Its length, never 0.
    len: u64,
}

/// Where the bytes of a file or folder lie, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    runs: Vec<Run>,
    len: u64,
}

impl Runs {
    /// Bytes in one piece.
    pub(crate) fn one(at: u64, len: u64) -> Self {
        let runs = if len == 0 { Vec::new() } else { vec![Run { from: 0, at, len }] };
        Self { runs, len }
    }

    /// Appends bytes; what continues the last run is joined to it. Answers `false` where there are too many runs.
    pub(crate) fn push(&mut self, at: u64, len: u64) -> bool {
        let count = self.runs.len();
        match self.runs.last_mut() {
            Some(last) if last.at.checked_add(last.len) == Some(at) => last.len = last.len.saturating_add(len),
            _ if count >= MOST => return false,
            _ => self.runs.push(Run { from: self.len, at, len }),
        }
        self.len = self.len.saturating_add(len);
        true
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Place and length of each run.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (u64, u64)> {
        self.runs.iter().map(|run| (run.at, run.len))
    }

    /// Where byte `from` lies on the volume, and how many bytes follow there.
    pub(crate) fn locate(&self, from: u64) -> Option<(u64, u64)> {
        let index = self.runs.partition_point(|run| run.from <= from).checked_sub(1)?;
        let run = self.runs.get(index)?;
        let skipped = from.checked_sub(run.from)?;
        let left = run.len.checked_sub(skipped).filter(|left| *left > 0)?;
        Some((run.at.checked_add(skipped)?, left))
    }

    /// Fills `buf` from byte `from` on.
    pub(crate) fn read(&self, disk: &dyn ReadAt, from: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let (mut position, mut rest) = (from, buf);
        while !rest.is_empty() {
            let (at, left) = self.locate(position).ok_or(ReadError::OutOfRange {
                at: ByteOffset(position),
                len: ByteLen::of(rest),
                size: ByteLen(self.len),
            })?;
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (head, tail) = rest.split_at_mut(take);
            disk.read_exact_at(ByteOffset(at), head)?;
            position = position.saturating_add(ByteLen::of(head).0);
            rest = tail;
        }
        Ok(())
    }

    /// No byte of the volume may belong to a file twice: a chain that comes back to itself would read as more of the same.
    pub(crate) fn check_apart(&self, what: &str) -> Result<(), FsError> {
        let mut places: Vec<_> = self.pieces().collect();
        places.sort_unstable();
        let meet = |pair: &[(u64, u64)]| match pair {
            [(at, len), (next, _)] if at.saturating_add(*len) > *next => Some(*next),
            _ => None,
        };
        match places.windows(2).find_map(meet) {
            Some(at) => Err(corrupt(what, "cluster chain", format!("at byte {at:#x} twice"), "no cluster comes twice")),
            None => Ok(()),
        }
    }

    /// Every byte must lie on a disk of this size.
    pub(crate) fn check_inside(&self, size: u64, what: &str) -> Result<(), FsError> {
        match self.pieces().map(|(at, len)| at.saturating_add(len)).find(|end| *end > size) {
            Some(end) => {
                Err(corrupt(what, "end", ByteOffset(end), "inside the partition, which is smaller than the volume"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use blockdev::MemDisk;

    use super::*;

    #[test]
    fn adjacent_clusters_are_joined_and_reads_cross_runs() {
        let mut runs = Runs::default();
        for at in [4, 6, 0] {
            assert!(runs.push(at, 2));
        }
        assert_eq!(runs.pieces().collect::<Vec<_>>(), [(4, 4), (0, 2)]);
        let disk = MemDisk::new((0..8).collect());
        let mut buf = [0; 4];
        runs.read(&disk, 2, &mut buf).unwrap();
        assert_eq!(buf, [6, 7, 0, 1]);
        assert!(runs.read(&disk, 3, &mut buf).is_err());
    }

    #[test]
    fn a_run_that_meets_another_is_refused() {
        let mut runs = Runs::one(8, 8);
        assert!(runs.push(0, 8));
        assert!(runs.check_apart("it").is_ok());
        assert!(runs.push(12, 1));
        let error = runs.check_apart("it").unwrap_err();
        assert_eq!(error.to_string(), "cluster chain of it is at byte 0xc twice: no cluster comes twice");
    }
}
