//! A server: any number of exports, any number of clients, over unix sockets, TCP and TLS.
//!
//! ```text
//!   Listener -> handshake (TLS, options) -> session: read requests -> threads: disks -> answers
//! ```
//!
//! Nothing a client says is believed: each number is checked against the export and the limits, each wait has an end, and what one
//! client can make the server hold is bounded ([`Limits`]). A request that cannot be served is answered by its error, and the connection
//! lives on; only what makes all that follows unreadable ends it.
//!
//! ```no_run
//! # async fn example(disk: std::sync::Arc<dyn blockdev::ReadAt>) -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use nbd::server::{Exports, Listener, ReadOnly, Server};
//!
//! let mut exports = Exports::new();
//! exports.add("disk", "the first disk", Arc::new(ReadOnly::new(disk)))?;
//! let server = Server::new(exports);
//! let listener = Listener::unix("/run/disk.sock".as_ref()).await?;
//! tokio::spawn(server.clone().serve(listener));
//! // clients come: nbd+unix:///disk?socket=/run/disk.sock
//! server.stop().await;
//! # Ok(())
//! # }
//! ```

mod end;
mod export;
mod handshake;
mod limits;
mod listen;
mod parse;
mod reply;
mod request;
#[cfg_attr(not(feature = "tls"), path = "insecure.rs")]
mod secure;
mod session;
mod work;

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

pub use self::export::{Export, ExportError, Exports, ReadOnly, WriteAt, Zeroing};
pub use self::limits::Limits;
pub use self::listen::Listener;

use self::end::End;
use self::handshake::{Next, greet, options};
use self::secure::{ServerConfig, accept};

/// What all connections share.
struct Shared {
    exports: Exports,
    tls: Option<Arc<ServerConfig>>,
    limits: Limits,
    /// Bytes that may still be put under way.
    bytes: Arc<Semaphore>,
    /// Calls to exports that may still begin.
    threads: Arc<Semaphore>,
    stop: watch::Sender<bool>,
    clients: watch::Sender<Clients>,
}

/// How many clients there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// Connections that are open.
    pub connected: usize,
    /// Connections that have chosen an export since the server began, those that are gone among them.
    pub served: u64,
}

/// A server. Clones are the same server.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

impl Server {
    /// A server for these exports, in clear text and with the usual limits.
    #[must_use]
    pub fn new(exports: Exports) -> Self {
        Self::with(exports, None, Limits::default())
    }

    /// A server with limits of its own. With `tls` nothing is served in clear text, and whether clients need certificates is what the
    /// configuration says.
    #[must_use]
    pub fn with(exports: Exports, tls: Option<Arc<ServerConfig>>, limits: Limits) -> Self {
        let limits = limits.sane();
        let shared = Shared {
            exports,
            tls,
            bytes: Arc::new(Semaphore::new(usize::try_from(limits.bytes).unwrap_or(usize::MAX))),
            threads: Arc::new(Semaphore::new(limits.threads)),
            limits,
            stop: watch::Sender::new(false),
            clients: watch::Sender::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Serves one client that came by any way; returns when it is gone. Why it went is logged.
    pub async fn serve_stream<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Some(_counted) = self.count() else {
            tracing::warn!("a client was sent away: {} are connected", self.shared.limits.connections);
            return;
        };
        if let Err(end) = converse(stream, &self.shared).await {
            let cause = std::error::Error::source(&end).map(|cause| format!(": {cause}")).unwrap_or_default();
            tracing::info!("a client was cut off: {end}{cause}");
        }
    }

    /// How many clients there are, for who wants to wait for the last.
    #[must_use]
    pub fn clients(&self) -> watch::Receiver<Clients> {
        self.shared.clients.subscribe()
    }

    /// Takes no more clients, finishes what is under way, and returns when all connections are closed.
    pub async fn stop(&self) {
        self.shared.stop.send_replace(true);
        let mut clients = self.clients();
        let _ = clients.wait_for(|clients| clients.connected == 0).await; // the sender is here
    }

    /// Takes note of a connection until the answer is dropped.
    fn count(&self) -> Option<Counted> {
        let taken = self.shared.clients.send_if_modified(|clients| {
            let free = clients.connected < self.shared.limits.connections;
            clients.connected = clients.connected.saturating_add(usize::from(free));
            free
        });
        taken.then(|| Counted(Arc::clone(&self.shared)))
    }
}

/// A connection that counts.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.clients.send_modify(|clients| clients.connected = clients.connected.saturating_sub(1));
    }
}

/// Handshake, TLS, and the rest.
async fn converse<S>(mut stream: S, shared: &Arc<Shared>) -> Result<(), End>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let late = |_| End::Slow("the handshake took too long");
    let deadline = tokio::time::Instant::now().checked_add(shared.limits.handshake);
    let deadline = deadline.unwrap_or_else(tokio::time::Instant::now);
    let mut stopped = shared.stop.subscribe();
    let first = async {
        let greeting = greet(&mut stream).await?;
        options(&mut stream, shared, greeting, false).await.map(|next| (greeting, next))
    };
    let first = tokio::select! {
        first = tokio::time::timeout_at(deadline, first) => first.map_err(late)??,
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    };
    match (first, &shared.tls) {
        ((_, Next::Over), _) => Ok(()),
        ((_, Next::Serve(agreed)), _) => {
            shared.clients.send_modify(|clients| clients.served = clients.served.saturating_add(1));
            session::serve(stream, shared, agreed).await
        }
        ((_, Next::StartTls), None) => Err(End::protocol("TLS without a certificate")), // it is not answered so
        ((greeting, Next::StartTls), Some(config)) => {
            let second = async {
                let mut stream = accept(config, stream).await.map_err(End::Tls)?;
                // Nothing that was agreed on in clear text counts any more.
                options(&mut stream, shared, greeting, true).await.map(|next| (stream, next))
            };
            let second = tokio::select! {
                second = tokio::time::timeout_at(deadline, second) => second.map_err(late)??,
                _ = stopped.wait_for(|stop| *stop) => return Ok(()),
            };
            let (mut stream, next) = second;
            match next {
                Next::Serve(agreed) => {
                    shared.clients.send_modify(|clients| clients.served = clients.served.saturating_add(1));
                    session::serve(stream, shared, agreed).await
                }
                Next::StartTls | Next::Over => {
                    let shutdown = tokio::io::AsyncWriteExt::shutdown(&mut stream);
                    Ok(timeout(shared.limits.stalled, shutdown).await.map_err(late)??)
                }
            }
        }
    }
}
