use std::time::Duration;

use crate::tls::TlsPolicy;

/// A vCenter or a host, and how to talk to it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// Usually 443.
    pub port: u16,
    /// How the server proves who it is.
    pub tls: TlsPolicy,
    /// How long we wait for what.
    pub timeouts: Timeouts,
    /// An API version such as `6.7`, instead of negotiating one.
    pub api_version: Option<String>,
}

impl Endpoint {
    /// `host` on port 443, trusting the system's authorities.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port: 443,
            tls: TlsPolicy::SystemRoots,
            timeouts: Timeouts::default(),
            api_version: None,
        }
    }

    /// `host:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// How long we wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a TCP and TLS connection. 10 s.
    pub connect: Duration,
    /// For the whole answer to one API call. 60 s.
    pub call: Duration,
    /// For the next piece of a file in either direction. 60 s.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), call: Duration::from_secs(60), stall: Duration::from_secs(60) }
    }
}
