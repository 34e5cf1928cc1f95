use std::future::Future;
use std::time::Duration;

use super::Cancel;
use crate::error::{Error, Result};

/// How often something is tried again, and how long we wait between.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Retry {
    /// Tries after the first one.
    pub times: u32,
    /// The wait before the first repetition; doubled each time.
    pub wait: Duration,
    /// No wait is longer.
    pub longest: Duration,
}

impl Retry {
    /// No repetition.
    pub const ONCE: Self = Self { times: 0, wait: Duration::ZERO, longest: Duration::ZERO };
    /// For reads of a frozen disk: five tries from where the last one stopped (vsphere.md section 4).
    pub const READS: Self = Self { times: 5, wait: Duration::from_millis(200), longest: Duration::from_secs(10) };
    /// For removals, which must succeed in the end: about two minutes in all.
    pub const REMOVALS: Self = Self { times: 6, wait: Duration::from_secs(2), longest: Duration::from_secs(60) };

    /// For the leftovers of dead runs that a new run meets: it has its own work to do.
    pub const IN_PASSING: Self = Self { times: 1, wait: Duration::from_secs(1), longest: Duration::from_secs(1) };

    /// The wait before repetition `n`, counted from 0.
    #[must_use]
    pub fn wait_before(&self, n: u32) -> Duration {
        self.wait.saturating_mul(2u32.saturating_pow(n.min(16))).min(self.longest)
    }
}

/// Does `work` until it succeeds, fails for good, or was tried often enough. The last error is returned.
///
/// # Errors
/// Those of `work`; a cancel ends the waiting.
pub async fn with_retries<T, F>(
    retry: Retry,
    cancel: &Cancel,
    what: &str,
    can_pass: impl Fn(&Error) -> bool,
    mut work: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut n = 0;
    loop {
        match work().await {
            Err(error) if n < retry.times && can_pass(&error) => {
                let wait = retry.wait_before(n);
                n += 1;
                tracing::warn!("{what}: {}; try {n} of {} in {wait:?}", error.line(), retry.times);
                cancel
                    .or_stop(async {
                        tokio::time::sleep(wait).await;
                        Ok(())
                    })
                    .await?;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Family;

    const QUICK: Retry = Retry { times: 2, wait: Duration::from_millis(1), longest: Duration::from_millis(2) };

    #[tokio::test]
    async fn the_limit_counts_repetitions_and_the_last_error_is_returned() {
        let mut tries = 0;
        let result: Result<()> = with_retries(
            QUICK,
            &Cancel::never(),
            "it",
            |_| true,
            || {
                tries += 1;
                async move { Err(Error::new(Family::Failed, "busy")) }
            },
        )
        .await;
        assert_eq!((tries, result.unwrap_err().line().as_str()), (3, "busy"));
    }

    #[tokio::test]
    async fn an_error_that_cannot_pass_is_not_repeated() {
        let mut tries = 0;
        let result: Result<()> = with_retries(
            QUICK,
            &Cancel::never(),
            "it",
            |_| false,
            || {
                tries += 1;
                async move { Err(Error::new(Family::Failed, "bad login")) }
            },
        )
        .await;
        assert!(result.is_err() && tries == 1);
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits: Vec<_> = (0..4).map(|n| Retry::REMOVALS.wait_before(n).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16]);
        assert_eq!(Retry::REMOVALS.wait_before(60).as_secs(), 60);
    }
}
