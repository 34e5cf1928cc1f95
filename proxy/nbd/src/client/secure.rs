//! TLS over a connection, after the server has agreed to it.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::BufReader;
use tokio_rustls::TlsConnector;

use super::Options;
use super::dial::Wire;
use crate::tls;
use crate::{Error, Family, Result, TlsFiles, Uri};

/// What is read from the socket at once under TLS. Of itself rustls reads 4 KiB, a quarter of a record.
const TLS_READ: usize = 128 << 10;

/// What is expected of the other side of TLS, and shown to it.
#[derive(Clone, Debug)]
pub(crate) struct TlsWish {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    shown: String,
    has_certificate: bool,
}

impl TlsWish {
    pub(crate) fn new(uri: &Uri, options: &Options) -> Result<Self> {
        let files = uri.certificates().map(TlsFiles::new).or_else(|| options.tls.clone());
        let config = match &files {
            Some(files) => files.client_config(uri.verify_peer())?,
            None => tls::system_client_config(uri.verify_peer())?,
        };
        let shown = uri.tls_name().to_owned();
        let name = ServerName::try_from(shown.clone()).map_err(|_| {
            Error::new(
                Family::Tls,
                format!("{shown:?} is no name that a certificate can be for; tls-hostname=NAME says one"),
            )
        })?;
        let has_certificate = files.is_some_and(|files| files.has_client_certificate());
        Ok(Self { config, name, shown, has_certificate })
    }

    /// The TLS handshake, after the server has agreed to it.
    pub(crate) async fn upgrade(&self, wire: Wire) -> Result<Wire> {
        let wire = BufReader::with_capacity(TLS_READ, wire);
        match TlsConnector::from(self.config.clone()).connect(self.name.clone(), wire).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(e) => Err(match tls::cause_of(&e) {
                Some(cause) => Error::new(Family::Tls, tls::explain(cause, &self.shown)).caused_by(cause.clone()),
                None => {
                    Error::new(Family::Tls, "the server ended the connection during the TLS handshake").caused_by(e)
                }
            }),
        }
    }

    /// What an error says that comes before the server's first word over TLS. With TLS 1.3 the client is done with the handshake before the
    /// server looks at its certificate.
    pub(crate) fn first_word_failed(&self, error: std::io::Error) -> Error {
        if let Some(cause @ rustls::Error::AlertReceived(_)) = tls::cause_of(&error) {
            return Error::new(Family::Tls, tls::explain(cause, &self.shown)).caused_by(cause.clone());
        }
        let probably = if self.has_certificate {
            "probably it does not accept the client certificate"
        } else {
            "probably it wants a client certificate (client-cert.pem and client-key.pem), and none was shown"
        };
        Error::new(Family::Tls, format!("the server ended the connection after the TLS handshake: {probably}"))
            .caused_by(error)
    }
}
