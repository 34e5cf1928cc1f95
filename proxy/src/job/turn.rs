//! How many runs may burden one host at a time: a run waits for its turn.

use std::fs::File;
use std::time::{Duration, Instant};

use super::{Cancel, Progress};
use crate::config::StateDir;
use crate::error::{Error, Family, Result};

/// How often it is looked whether a turn is free. The kernel wakes nobody who waits for one of several locks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// How many runs of this machine may burden one host, and how long one waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostLimit {
    /// Runs at a time.
    pub runs: u32,
    /// The longest wait.
    pub wait: Duration,
}

impl Default for HostLimit {
    fn default() -> Self {
        Self { runs: 8, wait: Duration::from_secs(6 * 3600) }
    }
}

impl HostLimit {
    /// Waits until fewer than `runs` runs are at work on `server`. The turn lasts as long as what this answers is held.
    ///
    /// # Errors
    /// [`Family::Exists`] if it is nobody's turn to end in time; [`Family::Cancelled`].
    pub async fn turn(&self, state: &StateDir, server: &str, progress: &Progress, cancel: &Cancel) -> Result<File> {
        let began = Instant::now();
        let mut told = false;
        loop {
            if let Some(turn) = state.try_turn(server, self.runs)? {
                return Ok(turn);
            }
            if began.elapsed() >= self.wait {
                let what =
                    format!("{} other runs are at work on {server}, and none ended within {:?}", self.runs, self.wait);
                return Err(Error::new(Family::Exists, what)
                    .hint("run it later, or allow more with --host-jobs or a longer --wait"));
            }
            if !told {
                progress.step(&format!("waiting: {} other runs are at work on {server}", self.runs));
                told = true;
            }
            let pause = async {
                tokio::time::sleep(BETWEEN_LOOKS).await;
                Ok(())
            };
            cancel.or_stop(pause).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_run_beyond_the_limit_waits_until_one_ends_or_gives_up_with_a_reason() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::at(home.path()).unwrap();
        let (progress, cancel) = (Progress::silent(), Cancel::never());
        let limit = HostLimit { runs: 2, wait: Duration::ZERO };
        let first = limit.turn(&state, "kvm1", &progress, &cancel).await.unwrap();
        let _second = limit.turn(&state, "kvm1", &progress, &cancel).await.unwrap();
        let refused = limit.turn(&state, "kvm1", &progress, &cancel).await.unwrap_err();
        assert_eq!(refused.family(), Family::Exists);
        limit.turn(&state, "kvm2", &progress, &cancel).await.unwrap(); // another host
        drop(first);
        limit.turn(&state, "kvm1", &progress, &cancel).await.unwrap();
    }

    #[tokio::test]
    async fn a_cancel_ends_the_wait() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::at(home.path()).unwrap();
        let progress = Progress::silent();
        let limit = HostLimit { runs: 1, wait: Duration::from_secs(60) };
        let _first = limit.turn(&state, "kvm1", &progress, &Cancel::never()).await.unwrap();
        let (sender, cancel) = Cancel::by_hand();
        sender.send(true).unwrap();
        let stopped = limit.turn(&state, "kvm1", &progress, &cancel).await.unwrap_err();
        assert_eq!(stopped.family(), Family::Cancelled);
    }
}
