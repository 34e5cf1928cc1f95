//! Why something failed, in families, because different people act on them.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::constants::errno;

/// The families of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// The caller asked for what cannot be: a URI that is none, a range behind the end.
    Usage,
    /// The server understood and does not want to: its policy, a read-only export.
    Refused,
    /// There is no such export, socket, certificate file or context.
    NotFound,
    /// TLS: certificates, names, a side that has it and one that does not.
    Tls,
    /// The peer broke the protocol.
    Protocol,
    /// The network or the storage behind the server failed.
    Io,
    /// The peer did not answer in time.
    Timeout,
    /// The peer, or we, lack a part of the protocol that is needed.
    Unsupported,
    /// The export is not any more what it was when it was opened: another size, other flags.
    Changed,
}

/// What failed, as one line, with its family and its cause. It can be cloned, because one lost connection fails many requests.
#[derive(Clone, Debug)]
pub struct Error {
    family: Family,
    what: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `family` that says `what` failed, and what to do.
    pub fn new(family: Family, what: impl Into<String>) -> Self {
        Self { family, what: printable(&what.into()), source: None }
    }

    /// The same with its cause, which [`Display`](fmt::Display) leaves out: who prints the chain prints it once.
    #[must_use]
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The same with words in front.
    #[must_use]
    pub fn within(mut self, what: impl fmt::Display) -> Self {
        self.what = printable(&format!("{what}: {}", self.what));
        self
    }

    /// The family.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Family::Usage, what)
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::new(Family::Protocol, what)
    }

    /// An error of the system, of the family that its kind belongs to.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let family = match source.kind() {
            io::ErrorKind::NotFound => Family::NotFound,
            io::ErrorKind::PermissionDenied => Family::Refused,
            io::ErrorKind::TimedOut => Family::Timeout,
            _ => Family::Io,
        };
        Self::new(family, what).caused_by(source)
    }

    /// What a reply's error number says ("Error values"), with the server's own words if it sent some.
    pub(crate) fn answered(number: u32, message: &str) -> Self {
        let (family, meaning) = match number {
            errno::EPERM => (Family::Refused, "operation not permitted"),
            errno::EIO => (Family::Io, "input/output error"),
            errno::ENOMEM => (Family::Io, "out of memory"),
            errno::EINVAL => (Family::Protocol, "invalid argument"),
            errno::ENOSPC => (Family::Io, "no space left on the device"),
            errno::EOVERFLOW => (Family::Protocol, "value too large"),
            errno::ENOTSUP => (Family::Unsupported, "operation not supported"),
            errno::ESHUTDOWN => (Family::Io, "the server is shutting down"),
            _ => (Family::Io, "an error that the protocol does not define"),
        };
        let words = if message.is_empty() { String::new() } else { format!(": {message}") };
        Self::new(family, format!("the server says {meaning} (error {number}){words}"))
    }

    /// The chain as one line, each text once.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.what.clone();
        let mut next = StdError::source(self);
        while let Some(cause) = next {
            let text = printable(&cause.to_string());
            if !line.contains(&text) {
                line = format!("{line}: {text}");
            }
            next = cause.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// One line without what a terminal obeys: names and messages come from the peer.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { ' ' } else { c }).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_server_become_one_printable_line() {
        let error = Error::answered(errno::EIO, "disk\ngone \u{1b}[2J");
        assert_eq!(error.to_string(), "the server says input/output error (error 5): disk gone ?[2J");
        assert_eq!(error.family(), Family::Io);
    }

    #[test]
    fn a_line_names_each_cause_once() {
        let error = Error::io("cannot connect", io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(error.line(), "cannot connect: connection refused");
    }
}
