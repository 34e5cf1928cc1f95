//! The client.

mod export;
mod options;

use std::ops::Range;

use blockdev::{ByteLen, ByteOffset, Extent, ReadAt, ReadError};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;

use crate::{Error, Family, Result, Uri};

pub use export::{BlockSizes, Export, ListedExport, Replies, Status, state};
pub use options::{Options, Retry};

/// What NBD can be spoken over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

fn later<T>() -> Result<T> {
    Err(Error::new(Family::Unsupported, "this part of the client is not there yet"))
}

/// An export that is open. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    export: Export,
}

impl Client {
    /// Opens the export that `uri` names.
    pub async fn connect(uri: &Uri, options: &Options) -> Result<Self> {
        let _ = (uri, options.checked()?);
        later()
    }

    /// Opens an export over a connection that is there already. It cannot be opened again when it is lost.
    pub async fn over(stream: impl Stream, export: &str, options: &Options) -> Result<Self> {
        let _ = (stream, export, options.checked()?);
        later()
    }

    /// Bytes of the export.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.export().size()
    }

    /// What the server says of the export.
    #[must_use]
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// Reads `len` bytes at `at`.
    pub async fn read(&self, at: u64, len: u32) -> Result<Bytes> {
        let _ = (at, len);
        later()
    }

    /// The bytes of `span` in order, read ahead.
    #[must_use]
    pub fn stream(&self, span: Range<u64>) -> ReadStream {
        let _ = span;
        ReadStream {}
    }

    /// What `context` says of the whole `span`: in order, without gaps, adjacent runs of equal flags joined.
    pub async fn block_status(&self, context: &str, span: Range<u64>) -> Result<Vec<Status>> {
        let _ = (context, span);
        later()
    }

    /// What one request tells of `span` in `context`: a beginning of it, never nothing. For spans with more runs than memory should hold.
    pub async fn block_status_once(&self, context: &str, span: Range<u64>) -> Result<Vec<Status>> {
        let _ = (context, span);
        later()
    }

    /// Writes `data` at `at`; with `fua` it is on stable storage when this returns.
    pub async fn write(&self, at: u64, data: Bytes, fua: bool) -> Result<()> {
        let _ = (at, data, fua);
        later()
    }

    /// Makes `len` bytes at `at` read as zeros; with `may_trim` the server may free them.
    pub async fn write_zeroes(&self, at: u64, len: u64, may_trim: bool) -> Result<()> {
        let _ = (at, len, may_trim);
        later()
    }

    /// Says that nobody needs `len` bytes at `at` any more. What they read as then is undefined.
    pub async fn trim(&self, at: u64, len: u64) -> Result<()> {
        let _ = (at, len);
        later()
    }

    /// Returns when all that was written is on stable storage.
    pub async fn flush(&self) -> Result<()> {
        later()
    }

    /// The export for readers that block, on threads that are not the runtime's.
    #[must_use]
    pub fn disk(&self, runtime: Handle) -> Disk {
        Disk { client: self.clone(), runtime }
    }

    /// Says good-bye on each connection (`NBD_CMD_DISC`). Requests in flight fail.
    pub async fn close(&self) {}
}

/// The bytes of a span in order, see [`Client::stream`].
#[derive(Debug)]
pub struct ReadStream {}

impl ReadStream {
    /// The next bytes: [`Options::request`] of them, fewer at the end; `None` behind it.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        later()
    }
}

/// An export for readers that block, see [`Client::disk`].
#[derive(Debug)]
pub struct Disk {
    client: Client,
    runtime: Handle,
}

impl Disk {
    /// The client.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }
}

impl ReadAt for Disk {
    fn size(&self) -> ByteLen {
        ByteLen(self.client.size())
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let _ = (&self.runtime, buf);
        later().map_err(|e| ReadError::Io { at, source: std::io::Error::other(e) })
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        later().map_err(|e| ReadError::Io { at, source: std::io::Error::other(e) })
    }
}

/// The exports that a server lists, with what it says of each. The export in `uri` does not matter.
pub async fn list(uri: &Uri, options: &Options) -> Result<Vec<ListedExport>> {
    let _ = (uri, options.checked()?);
    later()
}
