//! An NBD export as a disk for readers that wait: small reads go through the cache, large ones straight to the server.

use std::time::Duration;

use async_trait::async_trait;
use blockdev::{ByteLen, ByteOffset, Extent, ReadAt, ReadError};
use bytes::Bytes;
use nbd::{Client, Disk};
use tokio::runtime::Handle;

use super::cached::{AHEAD, BLOCK, Cached, Source};
use crate::error::{Error, Family};

/// An open export. Its reads block, and must not be made on a thread of the runtime.
pub(crate) struct NbdDisk {
    cache: Cached<Client>,
    direct: Disk,
    runtime: Handle,
}

/// So long a server may take for a good-bye.
const LONGEST_GOODBYE: Duration = Duration::from_millis(1500);

impl NbdDisk {
    /// The whole export of `client`.
    pub(crate) fn new(client: Client, runtime: Handle) -> Self {
        let direct = client.disk(runtime.clone());
        let size = ByteLen(client.size());
        Self { cache: Cached::new(client, size, AHEAD, runtime.clone()), direct, runtime }
    }
}

/// Servers write into their logs who leaves without a word.
impl Drop for NbdDisk {
    fn drop(&mut self) {
        let client = self.direct.client().clone();
        let (done, wait) = std::sync::mpsc::channel();
        self.runtime.spawn(async move {
            client.close().await;
            let _ = done.send(()); // nobody may wait any more
        });
        let _ = wait.recv_timeout(LONGEST_GOODBYE); // a runtime that has ended says nothing
    }
}

#[async_trait]
impl Source for Client {
    async fn fetch(&self, at: u64, len: u64) -> crate::Result<Bytes> {
        let len = u32::try_from(len).map_err(|_| Error::new(Family::Failed, "a block is too long"))?;
        self.read(at, len).await.map_err(from_nbd) // it tries again by itself
    }
}

impl ReadAt for NbdDisk {
    fn size(&self) -> ByteLen {
        self.cache.size()
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        if buf.len() as u64 >= BLOCK { self.direct.read_exact_at(at, buf) } else { self.cache.read_exact_at(at, buf) }
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        self.direct.extent_at(at)
    }

    fn will_need(&self, at: ByteOffset, len: ByteLen) {
        self.direct.will_need(at, len);
    }
}

/// An error of an NBD client, in the product's families.
pub(crate) fn from_nbd(error: nbd::Error) -> Error {
    let family = match error.family() {
        nbd::Family::Usage => Family::Usage,
        nbd::Family::Unsupported => Family::Unsupported,
        nbd::Family::Changed => Family::Corrupt,
        _ => Family::Failed,
    };
    Error::new(family, error.line())
}
