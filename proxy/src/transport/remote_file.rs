//! A datastore file as a synchronous [`ReadAt`], for the image reader: deltas are read in small pieces all over the file, so whole
//! blocks are fetched and a bounded number of them kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};
use bytes::Bytes;
use tokio::runtime::Handle;
use vmdk_rs::VmdkError;
use vsphere::DatastoreFile;

use super::https::size_of;
use crate::hypervisor::worth_rereading;
use crate::job::{Cancel, Retry, with_retries};

/// Bytes fetched at once.
const BLOCK: u64 = 256 << 10;
/// Blocks kept per file: 8 MiB, whatever the size of the disk.
const KEPT: usize = 32;

pub(super) struct RemoteFile {
    file: DatastoreFile,
    size: ByteLen,
    runtime: Handle,
    kept: Mutex<VecDeque<(u64, Bytes)>>,
}

impl RemoteFile {
    pub(super) fn open(file: DatastoreFile, runtime: Handle) -> Result<Self, VmdkError> {
        let size = runtime.block_on(size_of(&file)).map_err(|e| VmdkError::Io {
            action: "open",
            file: file.path().to_string(),
            source: std::io::Error::other(e),
        })?;
        Ok(Self { file, size: ByteLen(size), runtime, kept: Mutex::new(VecDeque::new()) })
    }

    fn block(&self, index: u64) -> crate::Result<Bytes> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = kept.iter().position(|(at, _)| *at == index)
            && let Some(entry) = kept.remove(found)
        {
            kept.push_back(entry.clone());
            return Ok(entry.1);
        }
        drop(kept);
        let start = index * BLOCK;
        let len = BLOCK.min(self.size.0 - start);
        let what = format!("reading {}", self.file.path());
        let cancel = Cancel::never();
        let fetch = with_retries(Retry::READS, &cancel, &what, worth_rereading, || self.fetch(start, len));
        let bytes = self.runtime.block_on(fetch)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((index, bytes.clone()));
        Ok(bytes)
    }

    async fn fetch(&self, start: u64, len: u64) -> crate::Result<Bytes> {
        let mut body = self.file.get_range(start, len).await.map_err(crate::hypervisor::from_vsphere)?;
        let mut bytes = Vec::with_capacity(len as usize); // at most BLOCK
        while let Some(piece) = body.next().await.map_err(crate::hypervisor::from_vsphere)? {
            bytes.extend_from_slice(&piece);
        }
        Ok(Bytes::from(bytes))
    }
}

impl ReadAt for RemoteFile {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let end = at.0.checked_add(buf.len() as u64).filter(|end| *end <= self.size.0);
        if end.is_none() {
            return Err(ReadError::OutOfRange { at, len: ByteLen::of(buf), size: self.size });
        }
        let mut done = 0;
        while done < buf.len() {
            let position = at.0 + done as u64;
            let block = self
                .block(position / BLOCK)
                .map_err(|e| ReadError::Io { at: ByteOffset(position), source: std::io::Error::other(Arc::new(e)) })?;
            let from = (position % BLOCK) as usize;
            let len = (block.len() - from).min(buf.len() - done);
            buf[done..done + len].copy_from_slice(&block[from..from + len]);
            done += len;
        }
        Ok(())
    }
}
