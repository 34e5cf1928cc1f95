//! Certificates in files named as gnutls, QEMU, nbdkit and libnbd name them.

use std::path::{Path, PathBuf};

/// The authorities that are trusted.
pub const CA_CERT: &str = "ca-cert.pem";
/// What they have revoked; may be absent.
pub const CA_CRL: &str = "ca-crl.pem";
/// A server's certificate, with intermediate ones behind it.
pub const SERVER_CERT: &str = "server-cert.pem";
/// Its key.
pub const SERVER_KEY: &str = "server-key.pem";
/// A client's certificate; a client without one leaves both away.
pub const CLIENT_CERT: &str = "client-cert.pem";
/// Its key.
pub const CLIENT_KEY: &str = "client-key.pem";

/// A folder with certificates: [`CA_CERT`] and, for a server, [`SERVER_CERT`] and [`SERVER_KEY`], for a client, if the server wants
/// to know it, [`CLIENT_CERT`] and [`CLIENT_KEY`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsFiles {
    folder: PathBuf,
}

impl TlsFiles {
    /// The files in `folder`, which are read when a configuration is made.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether there is a certificate for a client.
    #[must_use]
    pub fn has_client_certificate(&self) -> bool {
        self.folder.join(CLIENT_CERT).exists()
    }
}
