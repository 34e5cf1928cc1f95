//! The client.

mod buffer;
mod dial;
mod disk;
mod export;
mod haggle;
mod handshake;
mod link;
mod list;
mod options;
mod reply;
#[cfg_attr(not(feature = "tls"), path = "insecure.rs")]
mod secure;
mod slots;
mod status;
mod stream;
mod write;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;

use self::buffer::Pool;
use self::dial::Dial;
use self::link::{Answer, Request};
use self::slots::{Slots, bounded as within};
use crate::constants::command_flag;
use crate::{Error, Result, Uri};

pub use disk::Disk;
pub use export::{BlockSizes, Export, ListedExport, Replies, Status, state};
pub use list::list;
pub use options::{Options, Retry};
pub use stream::ReadStream;

/// What NBD can be spoken over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// An export that is open. Clones share their connections, which end with the last of them.
///
/// A connection that is lost is opened again, and what was in flight is asked again, within [`Options::retry`]. The export must be the same then:
/// another size or other flags are an error of family [`Changed`](crate::Family::Changed). A server that breaks the protocol is not asked again.
#[derive(Clone)]
pub struct Client {
    slots: Arc<Slots>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("export", self.export()).field("connections", &self.connections()).finish()
    }
}

impl Client {
    /// Opens the export that `uri` names. Must be called in a tokio runtime, which drives the connections.
    ///
    /// # Errors
    /// One line that says what to do, see [`Family`](crate::Family) for who should do it.
    pub async fn connect(uri: &Uri, options: &Options) -> Result<Self> {
        let options = options.checked()?;
        let dial = Dial::new(uri, &options)?;
        let slots = Slots::open(dial, uri.export(), options).await;
        Ok(Self { slots: Arc::new(slots.map_err(|e| e.within(uri.address()))?) })
    }

    /// Opens an export over a connection that is there already. It cannot be opened again when it is lost.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn over(stream: impl Stream, export: &str, options: &Options) -> Result<Self> {
        let slots = Slots::over(Box::new(stream), export, options.checked()?).await?;
        Ok(Self { slots: Arc::new(slots) })
    }

    /// Bytes of the export.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.export().size()
    }

    /// What the server says of the export.
    #[must_use]
    pub fn export(&self) -> &Export {
        &self.slots.export
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.slots.count()
    }

    fn options(&self) -> &Options {
        &self.slots.options
    }

    /// Reads `len` bytes at `at`.
    ///
    /// # Errors
    /// [`Family::Usage`](crate::Family::Usage) for bytes behind the end, else what the server or the network did.
    pub async fn read(&self, at: u64, len: u32) -> Result<Bytes> {
        let what = |e: Error| e.within(format_args!("reading {len} bytes at {at:#x}"));
        self.check(at, u64::from(len)).map_err(what)?;
        if len <= self.export().block().maximum {
            return self.read_piece(at, len, None).await;
        }
        let mut whole = BytesMut::with_capacity(len as usize);
        let mut stream = self.stream(at..at + u64::from(len));
        while let Some(bytes) = stream.next().await? {
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// A read that one request answers, or two where it has to be widened beyond the longest.
    async fn read_piece(&self, at: u64, len: u32, pool: Option<Arc<Pool>>) -> Result<Bytes> {
        let read = async {
            self.check(at, u64::from(len))?;
            let end = at + u64::from(len);
            let block = self.export().block();
            let minimum = u64::from(block.minimum);
            let from = at - at % minimum;
            let to = end.next_multiple_of(minimum).min(self.size());
            let skip = (at - from) as usize;
            if to - from <= u64::from(block.maximum) {
                let bytes = self.read_once(from, to, pool).await?;
                return Ok(bytes.slice(skip..skip + len as usize));
            }
            let between = from + u64::from(block.maximum);
            let mut whole = BytesMut::from(&self.read_once(from, between, None).await?[skip..]);
            let rest = self.read_once(between, to, None).await?;
            whole.extend_from_slice(&rest[..(end.min(to) - between) as usize]);
            Ok(whole.freeze())
        };
        read.await.map_err(|e: Error| e.within(format_args!("reading {len} bytes at {at:#x}")))
    }

    /// One request, of whole blocks and not too long.
    async fn read_once(&self, from: u64, to: u64, pool: Option<Arc<Pool>>) -> Result<Bytes> {
        if from == to {
            return Ok(Bytes::new());
        }
        let whole = self.options().unfragmented && self.export().can_forbid_fragments();
        let flags = if whole { command_flag::DF } else { 0 };
        let len = u32::try_from(to - from).map_err(|_| Error::usage("more than 4 GiB at once"))?;
        match self.slots.ask(Request::Read { at: from, len, flags, pool }).await? {
            Answer::Data(bytes) => Ok(bytes),
            _ => Err(Error::protocol("another answer than that to a read")),
        }
    }

    /// Whether `len` bytes at `at` lie inside the export.
    fn check(&self, at: u64, len: u64) -> Result<()> {
        if at.checked_add(len).is_some_and(|end| end <= self.size()) {
            return Ok(());
        }
        Err(Error::usage(format!("the range passes the end of an export of {} bytes", self.size())))
    }

    /// The bytes of `span` in order, read ahead.
    #[must_use]
    pub fn stream(&self, span: Range<u64>) -> ReadStream {
        ReadStream::new(self, span)
    }

    /// The export for readers that block, on threads that are not the runtime's.
    #[must_use]
    pub fn disk(&self, runtime: Handle) -> Disk {
        Disk::new(self.clone(), runtime)
    }

    /// Says good-bye on each connection (`NBD_CMD_DISC`). What is in flight fails, here and in clones. Returns when it
    /// is said, after a second at most.
    pub async fn close(&self) {
        self.slots.close().await;
    }
}
