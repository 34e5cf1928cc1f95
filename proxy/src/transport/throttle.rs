//! A limit on how fast frozen disks are read, shared by all disks of a run.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use blockdev::ReadAt;
use bytes::Bytes;
use tokio::time::Instant;

use super::{Allocation, ByteStream, FrozenDisk, Span};
use crate::error::Result;

/// What was not used may be made up for, but for no longer than this.
const CREDIT: Duration = Duration::from_millis(100);

/// So many bytes a second, over all that hold a clone.
#[derive(Clone, Debug)]
pub struct Throttle {
    bytes_per_second: u64,
    /// When all that was let through so far would have come at that rate.
    paid_until: Arc<Mutex<Instant>>,
}

impl Throttle {
    /// At most `bytes_per_second`, which is at least 1.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid_until: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Waits for as long as `bytes` are too early.
    async fn pay(&self, bytes: u64) {
        let cost = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.bytes_per_second);
        let due = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = Instant::now().checked_sub(CREDIT).unwrap_or(*paid_until);
            *paid_until = (*paid_until).max(earliest) + cost;
            *paid_until
        };
        tokio::time::sleep_until(due).await;
    }

    /// The same disk, read no faster than this.
    #[must_use]
    pub fn limit(&self, disk: Box<dyn FrozenDisk>) -> Box<dyn FrozenDisk> {
        Box::new(Limited { disk, throttle: self.clone() })
    }
}

struct Limited {
    disk: Box<dyn FrozenDisk>,
    throttle: Throttle,
}

#[async_trait]
impl FrozenDisk for Limited {
    fn capacity(&self) -> u64 {
        self.disk.capacity()
    }

    async fn allocation(&self) -> Allocation {
        self.disk.allocation().await
    }

    async fn changes(&self, point: &str) -> Allocation {
        self.disk.changes(point).await
    }

    async fn open(&self, span: Span) -> Result<Box<dyn ByteStream>> {
        Ok(Box::new(LimitedStream { stream: self.disk.open(span).await?, throttle: self.throttle.clone() }))
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        self.disk.reader()
    }
}

struct LimitedStream {
    stream: Box<dyn ByteStream>,
    throttle: Throttle,
}

#[async_trait]
impl ByteStream for LimitedStream {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let bytes = self.stream.next().await?;
        if let Some(bytes) = &bytes {
            self.throttle.pay(bytes.len() as u64).await;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_that_share_a_throttle_get_its_rate_together() {
        let began = Instant::now();
        let throttle = Throttle::new(1000);
        let one = |bytes: u64| {
            let throttle = throttle.clone();
            async move {
                for _ in 0..10 {
                    throttle.pay(bytes).await;
                }
            }
        };
        tokio::join!(one(500), one(1500));
        assert_eq!(began.elapsed().as_secs(), 20); // 20,000 bytes
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_made_up_for() {
        let throttle = Throttle::new(1000);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        throttle.pay(2000).await;
        assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_beyond_all_reason_do_not_overflow_the_sum() {
        Throttle::new(u64::MAX).pay(u64::MAX).await;
    }
}
