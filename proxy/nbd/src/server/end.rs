use std::io;

/// Why a connection ended other than by the client's wish.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// TLS did not come about.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The client did what the protocol does not allow, so that nothing it says can be understood any more.
    #[error("the client broke the protocol: {0}")]
    Protocol(String),
    /// The client kept us waiting.
    #[error("the client was too slow: {0}")]
    Slow(&'static str),
    /// Disks kept us waiting.
    #[error("requests under way did not end in time")]
    Stuck,
}

impl End {
    pub(super) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }
}
