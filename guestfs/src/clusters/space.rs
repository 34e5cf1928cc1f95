use std::sync::Arc;

use blockdev::ReadAt;

use super::{Runs, Table, corrupt};
use crate::{CachedDisk, FsError};

/// Where the clusters of a volume lie. They are numbered from 2 on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heap {
    /// The first byte of cluster 2.
    pub(crate) start: u64,
    /// Bytes of a cluster.
    pub(crate) cluster: u64,
    /// How many there are.
    pub(crate) count: u32,
}

impl Heap {
    /// The first byte of a cluster, or `None` if the volume has no such cluster.
    pub(crate) fn at(&self, cluster: u32) -> Option<u64> {
        let index = cluster.checked_sub(2).filter(|index| *index < self.count)?;
        self.start.checked_add(u64::from(index).checked_mul(self.cluster)?)
    }

    /// The cluster that holds a byte of the volume.
    pub(crate) fn holding(&self, byte: u64) -> Option<u32> {
        let index = byte.checked_sub(self.start)?.checked_div(self.cluster)?;
        let index = u32::try_from(index).ok().filter(|index| *index < self.count)?;
        index.checked_add(2)
    }

    /// How many clusters hold this many bytes.
    pub(crate) fn clusters_of(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster.max(1))
    }
}

/// How long a chain must be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Needs {
    /// So many clusters, and what may follow does not count.
    Exactly(u64),
    /// Up to its end, which comes after so many clusters at the latest.
    AtMost(u64),
}

/// The clusters of a volume and the table that chains them.
pub(crate) struct Space {
    pub(crate) disk: Arc<CachedDisk>,
    pub(crate) heap: Heap,
    pub(crate) table: Table,
}

impl Space {
    /// Where a chain lies. No cluster is followed twice, and all lie on the disk.
    pub(crate) fn chain(&self, first: u32, needs: Needs, what: &str) -> Result<Runs, FsError> {
        let (Needs::Exactly(most) | Needs::AtMost(most)) = needs;
        let mut runs = Runs::default();
        let mut reader = self.table.reader();
        let (mut next, mut count, mut mark) = (Some(first), 0u64, first);
        while count < most
            && let Some(cluster) = next
        {
            self.add(&mut runs, cluster, what)?;
            count = count.saturating_add(1);
            next = match needs {
                Needs::Exactly(_) if count == most => None,
                _ => reader.next(cluster)?,
            };
            // Brent's search for a cycle: the chain is compared with where it was at the last power of two.
            if next == Some(mark) {
                let found = format!("back at cluster {mark:#x}");
                return Err(corrupt(what, "cluster chain", found, "no cluster comes twice"));
            }
            if count.is_power_of_two() {
                mark = cluster;
            }
        }
        runs.check_apart(what)?;
        match needs {
            Needs::Exactly(_) if count < most => {
                let found = format!("{count} clusters, where {most} are needed");
                return Err(corrupt(what, "cluster chain", found, "it reaches to the end of the file"));
            }
            Needs::AtMost(_) if next.is_some() => {
                let found = format!("more than {most} clusters");
                return Err(corrupt(what, "cluster chain", found, "no longer than a folder may be"));
            }
            _ => (),
        }
        runs.check_inside(self.disk.size().0, what)?;
        Ok(runs)
    }

    /// Clusters that follow each other on the volume, without a chain.
    pub(crate) fn row(&self, first: u32, clusters: u64, what: &str) -> Result<Runs, FsError> {
        let Some(more) = clusters.checked_sub(1) else { return Ok(Runs::default()) };
        let last = u32::try_from(more).ok().and_then(|more| first.checked_add(more));
        match (self.heap.at(first), last.and_then(|last| self.heap.at(last))) {
            (Some(at), Some(_)) => {
                let runs = Runs::one(at, clusters.saturating_mul(self.heap.cluster));
                runs.check_inside(self.disk.size().0, what)?;
                Ok(runs)
            }
            _ => {
                let found = format!("{first}, of {clusters} clusters in a row");
                Err(corrupt(what, "first cluster", found, "a cluster of the volume, and all that follow too"))
            }
        }
    }

    fn add(&self, runs: &mut Runs, cluster: u32, what: &str) -> Result<(), FsError> {
        let Some(at) = self.heap.at(cluster) else {
            return Err(corrupt(what, "cluster", format!("{cluster:#x}"), "a cluster of the volume"));
        };
        if runs.push(at, self.heap.cluster) {
            return Ok(());
        }
        runs.check_apart(what)?;
        Err(FsError::Unsupported { what: what.to_owned(), why: "it lies in more than 1048576 pieces" })
    }
}
