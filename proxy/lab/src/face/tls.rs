//! The server's certificate: self-signed, kept in the lab's folder so that its thumbprint can be pinned.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::ServeError;

/// A certificate that can be served.
pub(super) struct Identity {
    pub(super) config: Arc<ServerConfig>,
    pub(super) sha1: String,
    pub(super) sha256: String,
}

/// The lab's certificate and the one it is changed for by a fault.
pub(super) struct Certificates {
    kept: Identity,
    other: OnceLock<Identity>,
}

impl Certificates {
    /// Reads the certificate kept in `dir`, or makes one there.
    pub(super) fn open(dir: &Path) -> Result<Self, ServeError> {
        let (cert_file, key_file) = (dir.join("cert.pem"), dir.join("key.pem"));
        if !cert_file.exists() || !key_file.exists() {
            let (cert, key) = generate()?;
            fs::create_dir_all(dir).map_err(ServeError::io("create", dir))?;
            write(&key_file, key.as_bytes(), 0o600).map_err(ServeError::io("write", &key_file))?;
            write(&cert_file, cert.as_bytes(), 0o644).map_err(ServeError::io("write", &cert_file))?;
        }
        let cert = fs::read(&cert_file).map_err(ServeError::io("read", &cert_file))?;
        let key = fs::read(&key_file).map_err(ServeError::io("read", &key_file))?;
        Ok(Self { kept: identity(&cert, &key)?, other: OnceLock::new() })
    }

    /// The lab's own certificate, the one in `endpoint.json`.
    pub(super) fn kept(&self) -> &Identity {
        &self.kept
    }

    /// Another certificate, the same one for the life of this server.
    pub(super) fn other(&self) -> Result<&Identity, ServeError> {
        if let Some(other) = self.other.get() {
            return Ok(other);
        }
        let (cert, key) = generate()?;
        let other = identity(cert.as_bytes(), key.as_bytes())?;
        Ok(self.other.get_or_init(|| other))
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A certificate and its key, both as PEM.
fn generate() -> Result<(String, String), ServeError> {
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.distinguished_name.push(DnType::OrganizationName, "stillframe lab");
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn identity(cert: &[u8], key: &[u8]) -> Result<Identity, ServeError> {
    let cert = CertificateDer::from_pem_slice(cert)?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let (sha1, sha256) = (colons(&Sha1::digest(&cert)), colons(&Sha256::digest(&cert)));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Identity { config: Arc::new(config), sha1, sha256 })
}

fn colons(digest: &[u8]) -> String {
    let mut out = String::with_capacity(digest.len().saturating_mul(3));
    for byte in digest {
        let separator = if out.is_empty() { "" } else { ":" };
        let _ = write!(out, "{separator}{byte:02X}"); // a String takes everything
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_kept_and_the_other_one_differs() {
        let dir = tempfile::tempdir().unwrap();
        let tls = dir.path().join("tls");
        let first = Certificates::open(&tls).unwrap();
        let again = Certificates::open(&tls).unwrap();
        assert_eq!(first.kept().sha256, again.kept().sha256);
        assert_eq!(first.kept().sha1.len(), 59);
        assert_ne!(first.other().unwrap().sha256, first.kept().sha256);
        assert_eq!(first.other().unwrap().sha1, first.other().unwrap().sha1);
    }
}
