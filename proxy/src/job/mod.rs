//! What must be undone, what is retried, how far are we, was it cancelled?
//!
//! The journal comes before the act: whatever will need undoing is on disk before it exists, so that a killed run is undone by
//! the next one or by `stillframe cleanup`.

mod backup;
mod cancel;
mod cleanup;
mod freeze;
mod hold;
mod journal;
mod one_disk;
mod progress;
mod retry;
mod run;
mod since;
mod snapshot;
mod turn;

pub use backup::{BackupOptions, BackupReport, KEEP_POINTS, backup};
pub use cancel::Cancel;
pub use cleanup::{CleanupReport, Leftover, Runs, find_unjournaled, reap, reap_local, runs, undo_run};
pub use hold::{Held, HoldOptions, hold};
pub use journal::{Act, Begin, Journal, OpenAct, Record, Recorded};
pub use progress::{Meter, Progress, ProgressMode};
pub use retry::{Retry, with_retries};
pub use run::{RunId, SNAPSHOT_NAME, SNAPSHOT_NAMES, made_here, run_of};
pub use snapshot::{Quiesce, remove_and_verify};
pub use turn::HostLimit;

pub(crate) use cleanup::{no_panic, undone};
