use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name of every snapshot we make (vcb.md section 8).
pub const SNAPSHOT_NAME: &str = "_VCB-BACKUP_";
/// The two spellings in which tools of the time wrote it; both are recognised.
pub const SNAPSHOT_NAMES: [&str; 2] = [SNAPSHOT_NAME, "_VCB_BACKUP_"];

/// The identity of one run, written into everything it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub Uuid);

impl RunId {
    /// A new identity.
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::new_v4())
    }

    /// The description of a snapshot that this run makes: how anybody can tell whose it is.
    #[must_use]
    pub fn description(&self) -> String {
        let time = jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default();
        format!("stillframe run={self} time={time} host={} version={}", host_name(), env!("CARGO_PKG_VERSION"))
    }
}

impl Default for RunId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// This machine's name, for people who find a snapshot and ask whose it is.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.replace(char::is_whitespace, "-")
}

/// Whether a snapshot's description says that it was made on this machine.
#[must_use]
pub fn made_here(description: &str) -> bool {
    let host = description.split_whitespace().find_map(|word| word.strip_prefix("host="));
    host == Some(host_name().as_str())
}

/// The run that made a snapshot, from its name and description. `None` for everybody else's.
#[must_use]
pub fn run_of(name: &str, description: &str) -> Option<RunId> {
    if !SNAPSHOT_NAMES.contains(&name) {
        return None;
    }
    let mut words = description.split_whitespace();
    if words.next() != Some("stillframe") {
        return None;
    }
    let run = words.find_map(|word| word.strip_prefix("run="))?;
    Uuid::from_str(run).ok().map(RunId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_snapshot_with_our_name_and_our_mark_is_ours() {
        let run = RunId::new();
        assert_eq!(run_of(SNAPSHOT_NAME, &run.description()), Some(run));
        assert_eq!(run_of("_VCB_BACKUP_", &run.description()), Some(run));
        assert_eq!(run_of("before the update", &run.description()), None);
        assert_eq!(run_of(SNAPSHOT_NAME, "made by hand"), None);
        assert_eq!(run_of(SNAPSHOT_NAME, "stillframe run=nonsense"), None);
    }
}
