//! Faults that are made on purpose: what a real host does wrong now and then, on request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::events::{Events, Happening};

/// A fault to inject. In JSON `{"kind": "short-body", "times": 2}`; fields of the kind stand beside `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// What goes wrong.
    #[serde(flatten)]
    pub kind: FaultKind,
    /// How often, each time at the next occasion; 1 if it is not said.
    #[serde(default = "once")]
    pub times: u32,
}

const fn once() -> u32 {
    1
}

impl From<FaultKind> for Fault {
    /// That fault once.
    fn from(kind: FaultKind) -> Self {
        Self { kind, times: once() }
    }
}

/// What can go wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FaultKind {
    /// The guest cannot be quiesced: the task ends with ApplicationQuiesceFault. Snapshots without quiescing work.
    QuiesceFails,
    /// The task that creates a snapshot ends with GenericVmConfigFault and there is no snapshot.
    SnapshotCreateFails,
    /// The task that creates a snapshot stands still before it does anything.
    SnapshotCreateHangs {
        /// For how long.
        seconds: u64,
    },
    /// The task that removes a snapshot ends with GenericVmConfigFault and the snapshot stays.
    SnapshotRemoveFails,
    /// The task that removes a snapshot stands still before it does anything.
    SnapshotRemoveHangs {
        /// For how long.
        seconds: u64,
    },
    /// The task that removes a snapshot says success and the snapshot stays.
    SnapshotRemoveLeaves,
    /// All sessions are forgotten.
    SessionExpires {
        /// After this many more requests for datastore files; at the next request of any kind if 0.
        #[serde(default)]
        after_requests: u32,
    },
    /// The connection closes in the middle of a datastore file.
    DropConnection {
        /// Bytes of the body that are sent before.
        after_bytes: u64,
    },
    /// A request for a range is answered with 200 and the whole file.
    RangeRefused,
    /// The answer to a request for a range says, and holds, another range.
    RangeWrong,
    /// One byte of a datastore file is not what is on the disk, in the next answer that holds it.
    WrongBytes {
        /// Its position in the file.
        at: u64,
    },
    /// The answer to a request for a range ends early, though its own length is consistent.
    ShortBody,
    /// A datastore file stops coming in the middle.
    Stall {
        /// For how long.
        seconds: u64,
    },
    /// The server is overloaded: status 503, for any request.
    #[serde(rename = "http-503")]
    Http503,
    /// New connections meet another certificate, until the faults are cleared; `times` does not count here.
    ThumbprintChanges,
    /// The next task starts, and the connection closes without an answer.
    LostReply,
    /// QueryChangedDiskAreas throws FileFault.
    QueryAreasFails,
    /// QueryChangedDiskAreas leaves the first data area out.
    QueryAreasLies,
    /// An upload fails in its middle because the datastore is full.
    NoSpace,
}

impl FaultKind {
    /// The name in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::QuiesceFails => "quiesce-fails",
            Self::SnapshotCreateFails => "snapshot-create-fails",
            Self::SnapshotCreateHangs { .. } => "snapshot-create-hangs",
            Self::SnapshotRemoveFails => "snapshot-remove-fails",
            Self::SnapshotRemoveHangs { .. } => "snapshot-remove-hangs",
            Self::SnapshotRemoveLeaves => "snapshot-remove-leaves",
            Self::SessionExpires { .. } => "session-expires",
            Self::DropConnection { .. } => "drop-connection",
            Self::RangeRefused => "range-refused",
            Self::RangeWrong => "range-wrong",
            Self::WrongBytes { .. } => "wrong-bytes",
            Self::ShortBody => "short-body",
            Self::Stall { .. } => "stall",
            Self::Http503 => "http-503",
            Self::ThumbprintChanges => "thumbprint-changes",
            Self::LostReply => "lost-reply",
            Self::QueryAreasFails => "query-areas-fails",
            Self::QueryAreasLies => "query-areas-lies",
            Self::NoSpace => "no-space",
        }
    }
}

/// The faults that wait for their occasion.
#[derive(Debug)]
pub struct Faults {
    armed: Mutex<Vec<Fault>>,
    events: Arc<Events>,
}

impl Faults {
    pub(super) fn new(events: Arc<Events>) -> Self {
        Self { armed: Mutex::default(), events }
    }

    /// Lets `fault` happen at its next occasions. Faults of one kind happen in the order they were armed.
    pub fn arm(&self, fault: impl Into<Fault>) {
        let fault = fault.into();
        if fault.times > 0 {
            self.list().push(fault);
        }
    }

    /// Forgets all faults that have not happened yet.
    pub fn clear(&self) {
        self.list().clear();
    }

    /// What still waits.
    #[must_use]
    pub fn armed(&self) -> Vec<Fault> {
        self.list().clone()
    }

    fn list(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses up one occasion of the first fault that `pick` finds something in.
    pub(super) fn take<T>(&self, pick: impl Fn(&FaultKind) -> Option<T>) -> Option<T> {
        let mut list = self.list();
        let (index, found) = list.iter().enumerate().find_map(|(i, fault)| Some((i, pick(&fault.kind)?)))?;
        let fault = list.get_mut(index)?;
        let kind = fault.kind.name();
        fault.times = fault.times.saturating_sub(1);
        if fault.times == 0 {
            list.remove(index);
        }
        drop(list);
        self.events.add(Happening::Fault { kind });
        Some(found)
    }

    /// Uses up one occasion of `kind`.
    pub(super) fn strikes(&self, kind: &FaultKind) -> bool {
        self.take(|armed| (armed == kind).then_some(())).is_some()
    }

    /// Whether the certificate is to be another one; does not use it up.
    pub(super) fn thumbprint_changed(&self) -> bool {
        self.list().iter().any(|fault| fault.kind == FaultKind::ThumbprintChanges)
    }

    /// Whether the sessions expire now, at a request that is or is not for a datastore file.
    pub(super) fn session_expires(&self, folder_request: bool) -> bool {
        for fault in self.list().iter_mut() {
            if let FaultKind::SessionExpires { after_requests } = &mut fault.kind
                && *after_requests > 0
            {
                if folder_request {
                    *after_requests -= 1;
                }
                return false;
            }
        }
        self.strikes(&FaultKind::SessionExpires { after_requests: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults() -> Faults {
        Faults::new(Arc::default())
    }

    #[test]
    fn a_fault_strikes_as_often_as_asked() {
        let faults = faults();
        faults.arm(Fault { kind: FaultKind::Http503, times: 2 });
        assert!(!faults.strikes(&FaultKind::ShortBody));
        assert!(faults.strikes(&FaultKind::Http503));
        assert!(faults.strikes(&FaultKind::Http503));
        assert!(!faults.strikes(&FaultKind::Http503));
        assert_eq!(faults.events.all().len(), 2);
    }

    #[test]
    fn sessions_expire_after_the_requests_that_were_granted() {
        let faults = faults();
        faults.arm(FaultKind::SessionExpires { after_requests: 2 });
        let seen = [true, false, true, false].map(|folder| faults.session_expires(folder));
        assert_eq!(seen, [false, false, false, true]);
    }

    #[test]
    fn the_names_in_json_are_the_names_in_the_record() {
        let json =
            r#"[{"kind":"drop-connection","after_bytes":7,"times":3},{"kind":"http-503"},{"kind":"session-expires"}]"#;
        let read: Vec<Fault> = serde_json::from_str(json).unwrap();
        assert_eq!(read[0], Fault { kind: FaultKind::DropConnection { after_bytes: 7 }, times: 3 });
        assert_eq!(read[2].kind, FaultKind::SessionExpires { after_requests: 0 });
        for fault in read {
            assert_eq!(serde_json::to_value(&fault).unwrap()["kind"], fault.kind.name());
        }
    }
}
