//! TLS on the server's side.

use std::io;
use std::sync::Arc;

pub(super) use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The handshake of TLS.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    config: &Arc<ServerConfig>,
    stream: S,
) -> io::Result<TlsStream<S>> {
    TlsAcceptor::from(Arc::clone(config)).accept(stream).await
}
