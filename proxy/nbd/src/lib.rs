#![doc = include_str!("../README.md")]

mod certificates;
mod client;
mod constants;
mod error;
pub mod server;
#[cfg(feature = "tls")]
mod tls;
mod uri;

pub use certificates::{CA_CERT, CA_CRL, CLIENT_CERT, CLIENT_KEY, SERVER_CERT, SERVER_KEY, TlsFiles};
pub use client::{
    BlockSizes, Client, Disk, Export, ListedExport, Options, ReadStream, Replies, Retry, Status, Stream, list, state,
};
pub use error::{Error, Family, Result};
pub use uri::{Address, DEFAULT_PORT, Uri};
