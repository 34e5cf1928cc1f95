//! The way to a server.

use tokio::net::{TcpStream, UnixStream};

use super::secure::TlsWish;
use super::{Options, Stream};
use crate::{Address, Error, Result, Uri};

/// A connection of any kind.
pub(crate) type Wire = Box<dyn Stream>;

/// Where and how to connect; enough to do it again.
#[derive(Debug)]
pub(crate) struct Dial {
    address: Address,
    tls: Option<TlsWish>,
}

impl Dial {
    pub(crate) fn new(uri: &Uri, options: &Options) -> Result<Self> {
        let tls = if uri.tls() { Some(TlsWish::new(uri, options)?) } else { None };
        Ok(Self { address: uri.address().clone(), tls })
    }

    pub(crate) const fn tls(&self) -> Option<&TlsWish> {
        self.tls.as_ref()
    }

    pub(crate) async fn connect(&self) -> Result<Wire> {
        let connected = match &self.address {
            Address::Tcp { host, port } => match TcpStream::connect((host.as_str(), *port)).await {
                Ok(stream) => stream.set_nodelay(true).map(|()| Box::new(stream) as Wire),
                Err(e) => Err(e),
            },
            Address::Unix(path) => UnixStream::connect(path).await.map(|stream| Box::new(stream) as Wire),
        };
        connected.map_err(|e| Error::io(format!("cannot connect to the NBD server at {}", self.address), e))
    }
}
