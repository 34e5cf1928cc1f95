//! What stands for a vSphere snapshot here: `job:RUN@VM` and its kin.

use uuid::Uuid;

use crate::error::{Error, Family, Result};
use crate::hypervisor::{SnapshotId, VmId};
use crate::job::RunId;

/// A way of keeping disks still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A pull backup job: QEMU keeps what the guest overwrites.
    Job,
    /// What a pull backup job left when QEMU died: files and a socket.
    Scratch,
    /// External overlays: the guest writes to them, and the base stands still.
    Overlay,
    /// Servers of ours on the images of a machine that does not run, whose locks keep it from starting.
    Offline,
}

const WORDS: [(&str, Kind); 4] =
    [("job", Kind::Job), ("scratch", Kind::Scratch), ("overlay", Kind::Overlay), ("offline", Kind::Offline)];

/// Which disks of which machine are kept still by which run, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) kind: Kind,
    pub(super) run: RunId,
    pub(super) vm: VmId,
}

impl Id {
    pub(super) fn parse(id: &SnapshotId) -> Result<Self> {
        let parts = || {
            let (word, rest) = id.0.split_once(':')?;
            let (run, vm) = rest.split_once('@')?;
            let kind = WORDS.iter().find(|(known, _)| *known == word)?.1;
            Some(Self { kind, run: RunId(run.parse::<Uuid>().ok()?), vm: VmId(vm.to_owned()) })
        };
        parts().ok_or_else(|| {
            Error::new(Family::Usage, format!("\"{id}\" is no snapshot of ours, and no other is touched"))
                .hint("`virsh snapshot-list` and `virsh snapshot-delete` care for all others")
        })
    }

    pub(super) fn to_snapshot(&self) -> SnapshotId {
        let word = WORDS.iter().find(|(_, kind)| *kind == self.kind).map_or("job", |(word, _)| word);
        SnapshotId(format!("{word}:{}@{}", self.run, self.vm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_being_written_and_read_again_and_no_other_is_taken() {
        let id = Id { kind: Kind::Overlay, run: RunId::new(), vm: VmId("564d78a1-8c1c-59b4-fa02-be14138797be".into()) };
        assert_eq!(Id::parse(&id.to_snapshot()).unwrap(), id);
        for other in ["snapshot-1", "job:x@y", "before the update"] {
            assert!(Id::parse(&SnapshotId(other.into())).is_err(), "{other}");
        }
    }
}
