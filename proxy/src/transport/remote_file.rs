//! A datastore file as a synchronous [`ReadAt`], for readers of images and file systems.

use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};
use bytes::Bytes;
use tokio::runtime::Handle;
use vmdk_rs::VmdkError;
use vsphere::DatastoreFile;

use super::block_cache::{BlockCache, BlockSource};
use super::https::size_of;
use crate::hypervisor::worth_rereading;
use crate::job::{Cancel, Retry, with_retries};

pub(super) struct RemoteFile(BlockCache<DatastoreFile>);

impl RemoteFile {
    /// Asks for the size of `file`, from a thread that may block.
    pub(super) fn open(file: DatastoreFile, runtime: Handle) -> Result<Self, VmdkError> {
        let size = runtime.block_on(size_of(&file)).map_err(|e| VmdkError::Io {
            action: "open",
            file: file.path().to_string(),
            source: std::io::Error::other(e),
        })?;
        // Deltas are read here and there: what lies behind a block is seldom wanted next.
        Ok(Self(BlockCache::new(file, ByteLen(size), runtime).without_read_ahead()))
    }

    /// The first `size` bytes of `file`, which has at least as many.
    pub(super) fn with_size(file: DatastoreFile, size: ByteLen, runtime: Handle) -> Self {
        Self(BlockCache::new(file, size, runtime))
    }
}

impl BlockSource for DatastoreFile {
    async fn fetch(&self, at: u64, len: u64) -> crate::Result<Bytes> {
        let what = format!("reading {}", self.path());
        let once = || async {
            let range = self.get_range(at, len).await;
            let mut body = range.map_err(crate::hypervisor::from_vsphere)?;
            let mut bytes = Vec::with_capacity(len as usize); // at most a block
            while let Some(piece) = body.next().await.map_err(crate::hypervisor::from_vsphere)? {
                bytes.extend_from_slice(&piece);
            }
            Ok(Bytes::from(bytes))
        };
        with_retries(Retry::READS, &Cancel::never(), &what, worth_rereading, once).await
    }
}

impl ReadAt for RemoteFile {
    fn size(&self) -> ByteLen {
        self.0.size()
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_exact_at(at, buf)
    }
}
