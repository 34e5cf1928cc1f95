//! The ordered record of what the lab did, for tests and for people who watch a demonstration.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

/// The record keeps this many events and forgets the oldest: a run reads each disk in ranges of about a MiB, and a lab that is
/// left running must not grow without end.
const KEPT: usize = 100_000;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Position in the record, from 0, without gaps.
    pub number: u64,
    /// When.
    #[serde(serialize_with = "rfc3339")]
    pub time: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

fn rfc3339<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Happening {
    /// Somebody logged in.
    Login {
        /// As whom.
        user: String,
    },
    /// Somebody tried to, with a wrong name or password.
    LoginRefused {
        /// As whom.
        user: String,
    },
    /// A session was ended by its owner.
    Logout,
    /// A fault made the server forget a session.
    SessionExpired,
    /// A method of a VM, a snapshot, a folder or the file manager was called.
    Call {
        /// Its name on the wire.
        method: String,
        /// The id of the object it was called on.
        object: String,
    },
    /// A guest was held at a clean point.
    Freeze {
        /// Which VM.
        vm: String,
        /// The last transaction that it had committed then, if it keeps a log.
        guest_log: Option<u64>,
    },
    /// A VM's disks were switched to new layers.
    Snapshot {
        /// Which VM.
        vm: String,
        /// The new snapshot.
        snapshot: String,
    },
    /// A guest goes on.
    Thaw {
        /// Which VM.
        vm: String,
    },
    /// A snapshot was removed and its layers merged.
    Remove {
        /// Which VM.
        vm: String,
        /// Which snapshot.
        snapshot: String,
    },
    /// A part of a datastore file was asked for.
    RangeRead {
        /// `[datastore] path`.
        file: String,
        /// First byte.
        start: u64,
        /// Bytes.
        len: u64,
    },
    /// A whole datastore file was asked for.
    Read {
        /// `[datastore] path`.
        file: String,
        /// Its length in bytes.
        len: u64,
    },
    /// A datastore file was written to its end.
    Written {
        /// `[datastore] path`.
        file: String,
        /// Its length in bytes.
        len: u64,
    },
    /// A task ended.
    TaskEnded {
        /// Its id.
        task: String,
        /// The fault it ended with.
        fault: Option<String>,
    },
    /// An injected fault took effect.
    Fault {
        /// Its name.
        kind: &'static str,
    },
}

/// The record itself.
#[derive(Debug, Default)]
pub(super) struct Events {
    kept: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    next: u64,
    events: std::collections::VecDeque<Event>,
}

impl Events {
    pub(super) fn add(&self, what: Happening) {
        tracing::debug!(?what, "lab event");
        let mut record = self.record();
        let event = Event { number: record.next, time: Timestamp::now(), what };
        record.next = record.next.saturating_add(1);
        if record.events.len() >= KEPT {
            record.events.pop_front();
        }
        record.events.push_back(event);
    }

    pub(super) fn all(&self) -> Vec<Event> {
        self.record().events.iter().cloned().collect()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
