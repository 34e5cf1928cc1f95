//! Which certificate is accepted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::error::Error;
use crate::thumbprint::{Presented, Thumbprint};

/// How the server proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsPolicy {
    /// A chain to one of the system's authorities, and the host name.
    SystemRoots,
    /// A chain to an authority in this PEM file, and the host name.
    CaFile(PathBuf),
    /// Exactly one of these leaf certificates; neither chain nor name nor date are looked at.
    Pins(Vec<Thumbprint>),
    /// Both of the above.
    CaFileAndPins(PathBuf, Vec<Thumbprint>),
    /// Anything. The password goes to whoever answers.
    Insecure,
}

/// A certificate that the policy does not accept, carried through the layers of HTTP inside a rustls error.
#[derive(Debug, thiserror::Error)]
#[error("certificate refused: {reason}")]
pub(crate) struct Refused {
    pub(crate) expected: String,
    pub(crate) found: Presented,
    pub(crate) reason: String,
}

/// The settings of one TLS client: TLS 1.2 and 1.3, HTTP/1.1 only.
pub(crate) fn client_config(policy: &TlsPolicy) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Verifier::new(policy, provider.clone())?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Setup { source: Box::new(e) })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    pins: Option<Vec<Thumbprint>>,
    expected: String,
}

impl Verifier {
    fn new(policy: &TlsPolicy, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let (roots, pins) = match policy {
            TlsPolicy::SystemRoots => (Some((None, system_roots()?)), None),
            TlsPolicy::CaFile(path) => (Some((Some(path), roots_in(path)?)), None),
            TlsPolicy::Pins(pins) => (None, Some(pins.clone())),
            TlsPolicy::CaFileAndPins(path, pins) => (Some((Some(path), roots_in(path)?)), Some(pins.clone())),
            TlsPolicy::Insecure => (None, None),
        };
        let expected = expectation(roots.as_ref().map(|(path, _)| path.map(PathBuf::as_path)), pins.as_deref());
        let chain = match roots {
            None => None,
            Some((path, roots)) => Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                    .build()
                    .map_err(|e| Error::TrustAnchors { path: path.cloned(), reason: e.to_string() })?,
            ),
        };
        Ok(Self { provider, chain, pins, expected })
    }

    fn refuse(&self, leaf: &CertificateDer<'_>, reason: String) -> rustls::Error {
        let refused = Refused { expected: self.expected.clone(), found: Presented::of(leaf), reason };
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

fn expectation(chain: Option<Option<&Path>>, pins: Option<&[Thumbprint]>) -> String {
    let chain = chain.map(|path| match path {
        Some(path) => format!("an authority in {}", path.display()),
        None => "an authority of the system".to_owned(),
    });
    let pins = pins.map(|pins| match pins {
        [] => "a pin, and none is configured".to_owned(),
        pins => pins.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
    });
    [chain, pins].into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(pins) = &self.pins
            && !pins.iter().any(|pin| pin.matches(leaf))
        {
            return Err(self.refuse(leaf, "another certificate is pinned".to_owned()));
        }
        if let Some(chain) = &self.chain {
            chain
                .verify_server_cert(leaf, intermediates, name, ocsp, now)
                .map_err(|e| self.refuse(leaf, e.to_string()))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn system_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = found.errors.first().map_or("there are none".to_owned(), ToString::to_string);
        return Err(Error::TrustAnchors { path: None, reason });
    }
    Ok(roots)
}

fn roots_in(path: &Path) -> Result<RootCertStore, Error> {
    let bad = |reason: String| Error::TrustAnchors { path: Some(path.to_owned()), reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))? {
        let certificate = certificate.map_err(|e| bad(e.to_string()))?;
        roots.add(certificate).map_err(|e| bad(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("there is no PEM certificate in it".to_owned()));
    }
    Ok(roots)
}
