use std::time::Duration;

use crate::constants::MAX_PAYLOAD;

/// What a server spends on its clients.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at once; more are closed as they come.
    pub connections: usize,
    /// Requests of one connection that are under way.
    pub requests: usize,
    /// Bytes of data under way on one connection. At least one request of the greatest length is always allowed.
    pub connection_bytes: u32,
    /// Bytes of data under way on all connections.
    pub bytes: u32,
    /// The longest read, and the longest write.
    pub payload: u32,
    /// Calls to exports that are under way, each on a thread of its own.
    pub threads: usize,
    /// Options of a client before it must have chosen an export.
    pub options: usize,
    /// How long the handshake may take, TLS and all.
    pub handshake: Duration,
    /// How long nothing may move in the middle of a request or a reply.
    pub stalled: Duration,
    /// How long a client may ask for nothing; `None` for ever, as virtual machines do.
    pub idle: Option<Duration>,
    /// At a stop, how long clients are told so before they are cut off.
    pub grace: Duration,
    /// At a stop or a disconnect, how long what is under way may take.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            connections: 64,
            requests: 64,
            connection_bytes: MAX_PAYLOAD,
            bytes: 256 << 20,
            payload: MAX_PAYLOAD,
            threads: cores.saturating_mul(2).clamp(4, 32),
            options: 512,
            handshake: Duration::from_secs(30),
            stalled: Duration::from_secs(60),
            idle: None,
            grace: Duration::from_millis(500),
            drain: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// The same, with values that a server can work with.
    pub(super) fn sane(mut self) -> Self {
        self.payload = self.payload.clamp(1 << 16, MAX_PAYLOAD);
        self.connection_bytes = self.connection_bytes.max(self.payload);
        self.bytes = self.bytes.max(self.connection_bytes);
        (self.connections, self.requests) = (self.connections.max(1), self.requests.clamp(1, 1024));
        self.threads = self.threads.clamp(1, 256);
        self
    }
}
