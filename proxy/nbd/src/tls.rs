//! TLS by X.509 certificates: settings of clients and servers, and what a failure means.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};

use crate::certificates::{CA_CERT, CA_CRL, CLIENT_CERT, CLIENT_KEY, SERVER_CERT, SERVER_KEY, TlsFiles};
use crate::{Error, Family, Result};

impl TlsFiles {
    /// The settings of a client, TLS 1.2 and 1.3. Without `verify` anybody is taken for the server.
    ///
    /// # Errors
    /// [`Family::NotFound`] for a missing file, [`Family::Tls`] for one that holds no certificate or key.
    pub fn client_config(&self, verify: bool) -> Result<Arc<ClientConfig>> {
        let identity = match (self.folder().join(CLIENT_CERT).exists(), self.folder().join(CLIENT_KEY).exists()) {
            (false, false) => None,
            _ => Some((self.certificates(CLIENT_CERT)?, self.key(CLIENT_KEY)?)),
        };
        let roots = if verify { Some((self.roots()?, self.revoked()?)) } else { None };
        client_config(roots, identity).map_err(|e| self.unusable(e))
    }

    /// The settings of a server, TLS 1.2 and 1.3. With `verify` only clients are let in that show a certificate of [`CA_CERT`].
    ///
    /// # Errors
    /// As [`client_config`](Self::client_config).
    pub fn server_config(&self, verify: bool) -> Result<Arc<ServerConfig>> {
        let provider = provider();
        let (chain, key) = (self.certificates(SERVER_CERT)?, self.key(SERVER_KEY)?);
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| self.unusable(e))?;
        let builder = if verify {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider);
            let verifier = verifier.with_crls(self.revoked()?).allow_unknown_revocation_status().build();
            builder.with_client_cert_verifier(verifier.map_err(|e| self.unusable(e))?)
        } else {
            builder.with_no_client_auth()
        };
        builder.with_single_cert(chain, key).map(Arc::new).map_err(|e| self.unusable(e))
    }

    fn unusable(&self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        let what = format!("the certificates in {} cannot be used", self.folder().display());
        Error::new(Family::Tls, what).caused_by(source)
    }

    fn certificates(&self, name: &str) -> Result<Vec<CertificateDer<'static>>> {
        let path = self.folder().join(name);
        let read = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(found) if !found.is_empty() => Ok(found),
            Ok(_) => Err(Error::new(Family::Tls, format!("{} holds no certificate in PEM", path.display()))),
            Err(e) => Err(bad_pem(&path, e)),
        }
    }

    fn key(&self, name: &str) -> Result<PrivateKeyDer<'static>> {
        let path = self.folder().join(name);
        PrivateKeyDer::from_pem_file(&path).map_err(|e| bad_pem(&path, e))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(CA_CERT)? {
            roots.add(certificate).map_err(|e| {
                let path = self.folder().join(CA_CERT);
                Error::new(Family::Tls, format!("{} holds what is no authority", path.display())).caused_by(e)
            })?;
        }
        Ok(roots)
    }

    fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>> {
        let path = self.folder().join(CA_CRL);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let read = CertificateRevocationListDer::pem_file_iter(&path).and_then(Iterator::collect);
        read.map_err(|e| bad_pem(&path, e))
    }
}

/// The settings of a client that trusts the authorities of the system and shows no certificate.
pub(crate) fn system_client_config(verify: bool) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if verify {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            let what = "the system trusts no authority: name a folder with ca-cert.pem (tls-certificates=DIR)";
            return Err(Error::new(Family::Tls, what));
        }
    }
    let made = client_config(verify.then_some((roots, Vec::new())), None);
    made.map_err(|e| Error::new(Family::Tls, "the certificates of the system cannot be used").caused_by(e))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);
type Trust = (RootCertStore, Vec<CertificateRevocationListDer<'static>>);

/// A client that trusts `trust`, or anybody, and shows `identity`, or nothing.
fn client_config(trust: Option<Trust>, identity: Option<Identity>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match trust {
        Some((roots, revoked)) => {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.with_crls(revoked).allow_unknown_revocation_status().build();
            builder.with_webpki_verifier(verifier.map_err(|e| rustls::Error::General(e.to_string()))?)
        }
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
    };
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map(Arc::new),
        None => Ok(Arc::new(builder.with_no_client_auth())),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn bad_pem(path: &Path, error: rustls_pki_types::pem::Error) -> Error {
    match error {
        rustls_pki_types::pem::Error::Io(e) => Error::io(format!("cannot read {}", path.display()), e),
        other => Error::new(Family::Tls, format!("{} is not what its name says", path.display())).caused_by(other),
    }
}

/// Takes anybody for the server, if it owns the key of the certificate that it shows. For `tls-verify-peer=0`.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The TLS error inside an I/O error, if that is what it is.
pub(crate) fn cause_of(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What a failed handshake means for who runs the client. `name` is whom the server should be.
pub(crate) fn explain(error: &rustls::Error, name: &str) -> String {
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer | Bad::BadSignature => {
                "the server's certificate is not signed by an authority that is trusted (ca-cert.pem)".to_owned()
            }
            Bad::Expired | Bad::ExpiredContext { .. } => "the server's certificate has expired".to_owned(),
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => "the server's certificate is not valid yet".to_owned(),
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                format!("the server's certificate is not for {name:?}; tls-hostname=NAME says which name to expect")
            }
            Bad::Revoked => "the server's certificate is revoked".to_owned(),
            Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => {
                "the server's certificate is not one for a server".to_owned()
            }
            _ => "the server's certificate cannot be accepted".to_owned(),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "the server wants a client certificate (client-cert.pem and client-key.pem)".to_owned()
            }
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied => "the server does not accept the client certificate".to_owned(),
            AlertDescription::HandshakeFailure => {
                "the server ended the handshake; perhaps it wants a client certificate, or TLS with pre-shared keys"
                    .to_owned()
            }
            _ => "the server ended the handshake".to_owned(),
        },
        rustls::Error::InvalidMessage(_) => "the server does not speak TLS after it agreed to".to_owned(),
        rustls::Error::PeerIncompatible(_) => "the server and we have no version or cipher of TLS in common".to_owned(),
        _ => "the TLS handshake failed".to_owned(),
    }
}
