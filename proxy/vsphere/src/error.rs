use std::path::PathBuf;
use std::time::Duration;

use crate::fault::Fault;
use crate::thumbprint::Presented;
use crate::xml::XmlError;

/// Why a call did not give what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection could be made.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// `host:port`.
        address: String,
        /// Which step failed.
        reason: ConnectFailure,
        /// What the system said.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// The server's certificate is not the one that was configured.
    #[error(
        "the certificate of {address} is not trusted: expected {expected}, found SHA-1 {} SHA-256 {} ({reason})",
        found.sha1, found.sha256
    )]
    Tls {
        /// `host:port`.
        address: String,
        /// What the policy asked for.
        expected: String,
        /// Digests of the leaf certificate that the server presented.
        found: Box<Presented>,
        /// Why that one does not do.
        reason: String,
    },
    /// The TLS handshake failed for another reason than the certificate, for example because the server is too old for TLS 1.2.
    #[error("no TLS connection to {address}: {reason}")]
    Handshake {
        /// `host:port`.
        address: String,
        /// What the TLS library said.
        reason: String,
    },
    /// The trust anchors could not be read.
    #[error("no certificate authorities can be read from {}: {reason}", path.as_ref().map_or("the system".into(), |p| p.display().to_string()))]
    TrustAnchors {
        /// The file, or nothing for the system's own.
        path: Option<PathBuf>,
        /// What is wrong with it.
        reason: String,
    },
    /// The connection broke during `what`.
    #[error("the connection to {address} broke during {what}")]
    Dropped {
        /// `host:port`.
        address: String,
        /// The method or the file.
        what: String,
        /// What the HTTP library said.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing came within the time allowed.
    #[error("{what}: no progress or end within {after:?}")]
    Timeout {
        /// The method, task or file.
        what: String,
        /// How long we waited.
        after: Duration,
    },
    /// The caller's own data stream failed while it was being sent.
    #[error("cannot send {url}: {reason}")]
    Upload {
        /// Where it was to go.
        url: String,
        /// What the stream said, or how its length differs.
        reason: String,
    },
    /// The server answers a request for a range with the whole file.
    #[error("the server ignores ranges ({url})")]
    RangeIgnored {
        /// The file.
        url: String,
    },
    /// The server has no such manager or method.
    #[error("the server has no {feature}")]
    Missing {
        /// The manager or method.
        feature: &'static str,
    },
    /// User or password are wrong. Not to be repeated: accounts lock.
    #[error("the server refuses the login: {message}")]
    InvalidLogin {
        /// The server's own text.
        message: String,
    },
    /// The server refused a call, or a task ended in error.
    #[error("{method} failed with {kind}: {message}")]
    Fault {
        /// The method or task.
        method: String,
        /// The fault's type, such as `NoPermission`.
        kind: String,
        /// The server's own text, unmodified.
        message: String,
        /// The fault with its fields.
        detail: Box<crate::xml::Element>,
    },
    /// An HTTP status that is no part of the protocol.
    #[error("HTTP status {status} for {url}")]
    Http {
        /// The status.
        status: u16,
        /// The address. It holds no secrets.
        url: String,
    },
    /// The answer is not what the API promises.
    #[error("{what}: expected {expected}, found {found}")]
    Protocol {
        /// The method, property or file.
        what: String,
        /// What should have come.
        expected: String,
        /// What came.
        found: String,
    },
    /// The answer is not XML.
    #[error("the answer to {what} cannot be read")]
    Xml {
        /// The method.
        what: String,
        /// What is wrong with it.
        #[source]
        source: XmlError,
    },
    /// A name, path or address that cannot be sent.
    #[error("{what} cannot be used: {reason}")]
    Argument {
        /// The value.
        what: String,
        /// Why not.
        reason: &'static str,
    },
    /// The HTTP or TLS library refuses its settings.
    #[error("the HTTP client cannot be set up")]
    Setup {
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// At which step a connection attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// The name has no address.
    Dns,
    /// Nobody listens there.
    Refused,
    /// No answer in time.
    TimedOut,
    /// Anything else: no route, connection reset.
    Other,
}

impl std::fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Dns => "the name does not resolve",
            Self::Refused => "connection refused",
            Self::TimedOut => "no answer in time",
            Self::Other => "the network failed",
        })
    }
}

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// The network or a file failed under us.
    Io,
    /// The server cannot do it, or we cannot.
    Unsupported,
    /// The server refused, or its answer contradicts the API.
    Server,
}

/// Faults that pass by themselves (vsphere API, HostSystem and VirtualMachine faults).
const PASSING: &[&str] = &[
    "TaskInProgress",
    "ResourceInUse",
    "ConcurrentAccess",
    "HostNotConnected",
    "HostNotReachable",
    "HostCommunication",
    "Timedout",
    "FileLocked",
];

/// Faults that mean "this server does not have that".
pub(crate) const ABSENT: &[&str] = &["MethodNotFound", "NotSupported", "NotImplemented", "ManagedObjectTypeNotFound"];

impl Error {
    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { reason, .. } => *reason != ConnectFailure::Dns,
            Self::Dropped { .. } | Self::Timeout { .. } => true,
            Self::Http { status, .. } => matches!(status, 502..=504),
            Self::Fault { kind, .. } => PASSING.contains(&kind.as_str()),
            _ => false,
        }
    }

    /// Which of the three families this belongs to.
    #[must_use]
    pub fn family(&self) -> Family {
        match self {
            Self::Connect { .. }
            | Self::Dropped { .. }
            | Self::Timeout { .. }
            | Self::Upload { .. }
            | Self::TrustAnchors { .. }
            | Self::Setup { .. } => Family::Io,
            Self::RangeIgnored { .. } | Self::Missing { .. } | Self::Handshake { .. } | Self::Argument { .. } => {
                Family::Unsupported
            }
            Self::Fault { kind, .. } if ABSENT.contains(&kind.as_str()) || kind == "RestrictedVersion" => {
                Family::Unsupported
            }
            Self::Http { status: 502..=504, .. } => Family::Io,
            _ => Family::Server,
        }
    }

    /// The type of the fault, if the server sent one.
    #[must_use]
    pub fn fault_kind(&self) -> Option<&str> {
        match self {
            Self::Fault { kind, .. } => Some(kind),
            Self::InvalidLogin { .. } => Some("InvalidLogin"),
            _ => None,
        }
    }

    /// The text of one field of the fault, such as `privilegeId` of `NoPermission`.
    #[must_use]
    pub fn fault_field(&self, name: &str) -> Option<&str> {
        match self {
            Self::Fault { detail, .. } => detail.text_of(name),
            _ => None,
        }
    }

    /// Whether the object of the call does not exist (any more).
    #[must_use]
    pub fn is_object_gone(&self) -> bool {
        self.fault_kind() == Some("ManagedObjectNotFound")
    }

    pub(crate) fn is_not_authenticated(&self) -> bool {
        self.fault_kind() == Some("NotAuthenticated") || matches!(self, Self::Http { status: 401, .. })
    }

    pub(crate) fn is_absent(&self) -> bool {
        self.fault_kind().is_some_and(|kind| ABSENT.contains(&kind))
    }

    pub(crate) fn fault(method: &str, fault: Fault) -> Self {
        if fault.kind == "InvalidLogin" {
            return Self::InvalidLogin { message: fault.message };
        }
        Self::Fault { method: method.into(), kind: fault.kind, message: fault.message, detail: Box::new(fault.detail) }
    }

    pub(crate) fn protocol(what: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Protocol { what: what.into(), expected: expected.into(), found: found.into() }
    }
}
