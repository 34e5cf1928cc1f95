//! What a caller may set.

use std::time::Duration;

use crate::constants::MAX_PAYLOAD;
use crate::{Error, Result, TlsFiles};

/// The context that tells data from holes and zeros.
pub(crate) const BASE_ALLOCATION: &str = "base:allocation";

/// How a client connects and how much it asks for at once. The default is meant for reading a whole disk.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections to open, if the server says that several agree on what they see; else one.
    pub connections: usize,
    /// Requests in flight on each connection.
    pub in_flight: usize,
    /// Bytes of one request of a [`ReadStream`](crate::ReadStream). With the two above it bounds the memory of a stream.
    pub request: u32,
    /// The metadata contexts to ask for. What the server does not have is left out of [`Export::contexts`](crate::Export::contexts).
    pub contexts: Vec<String>,
    /// Certificates, where the URI names no folder. Without either the authorities of the system are trusted.
    pub tls: Option<TlsFiles>,
    /// The longest wait for a connection, for a handshake, and for a reply.
    pub timeout: Duration,
    /// What to do when a connection is lost.
    pub retry: Retry,
    /// Whether reads forbid the server to answer in pieces (`NBD_CMD_FLAG_DF`), where it can be forbidden.
    pub unfragmented: bool,
}

/// How often, and after which waits, a lost connection is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts to connect again before it is given up, and times that one request is asked again.
    pub times: u32,
    /// The wait before the second attempt; the first follows at once. It doubles each time.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { times: 5, first_wait: Duration::from_millis(200), longest_wait: Duration::from_secs(10) }
    }
}

impl Retry {
    /// Nothing is tried again.
    pub const NEVER: Self = Self { times: 0, first_wait: Duration::ZERO, longest_wait: Duration::ZERO };

    /// The wait before attempt `number`, which counts from 0.
    pub(crate) fn wait(&self, number: u32) -> Duration {
        let Some(doubled) = number.checked_sub(1) else { return Duration::ZERO };
        self.first_wait.saturating_mul(1_u32.checked_shl(doubled).unwrap_or(u32::MAX)).min(self.longest_wait)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 4,
            in_flight: 4,
            request: 256 << 10,
            contexts: vec![BASE_ALLOCATION.to_owned()],
            tls: None,
            timeout: Duration::from_secs(60),
            retry: Retry::default(),
            unfragmented: false,
        }
    }
}

impl Options {
    /// The same with limits that make sense.
    pub(crate) fn checked(&self) -> Result<Self> {
        if self.request == 0 || self.request > MAX_PAYLOAD {
            return Err(Error::usage(format!("a request of {} bytes: 1 to {MAX_PAYLOAD} are possible", self.request)));
        }
        if self.timeout.is_zero() {
            return Err(Error::usage("a timeout of zero: nothing answers so fast"));
        }
        let mut options = self.clone();
        options.connections = options.connections.clamp(1, 64);
        options.in_flight = options.in_flight.clamp(1, 1024);
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempt_does_not_wait_and_later_ones_double_up_to_the_longest() {
        let retry = Retry { times: 9, first_wait: Duration::from_secs(1), longest_wait: Duration::from_secs(5) };
        let waits: Vec<_> = [0, 1, 2, 3, 4, 40, u32::MAX].iter().map(|n| retry.wait(*n).as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 4, 5, 5, 5]);
    }
}
