//! The Network Block Device protocol, client and server, as `doc/proto.md` of the NBD project specifies it.

mod client;
mod constants;
mod error;
mod tls;
mod uri;

pub use client::{
    BlockSizes, Client, Disk, Export, ListedExport, Options, ReadStream, Replies, Retry, Status, Stream, list, state,
};
pub use error::{Error, Family, Result};
pub use tls::{CA_CERT, CA_CRL, CLIENT_CERT, CLIENT_KEY, SERVER_CERT, SERVER_KEY, TlsFiles};
pub use uri::{Address, DEFAULT_PORT, Uri};
