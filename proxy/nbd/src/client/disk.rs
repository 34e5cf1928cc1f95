//! An export for readers that block.

use std::io;
use std::sync::{Mutex, PoisonError};

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, ReadAt, ReadError};
use tokio::runtime::Handle;

use super::options::BASE_ALLOCATION;
use super::{Client, Status, state};
use crate::{Error, Family};

/// An export for readers that block, see [`Client::disk`].
///
/// Nothing is cached but the last answer on what is allocated. It must not be used on a thread of a runtime, which would block it.
#[derive(Debug)]
pub struct Disk {
    client: Client,
    runtime: Handle,
    /// What the server said last of `base:allocation`: runs without a gap between them.
    allocation: Mutex<Vec<Status>>,
}

impl Disk {
    pub(super) const fn new(client: Client, runtime: Handle) -> Self {
        Self { client, runtime, allocation: Mutex::new(Vec::new()) }
    }

    /// The client.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    fn known(&self, at: u64) -> Option<Extent> {
        let runs = self.allocation.lock().unwrap_or_else(PoisonError::into_inner);
        let run = runs.get(runs.partition_point(|run| run.end() <= at)).filter(|run| run.start <= at)?;
        Some(Extent { start: ByteOffset(at), len: ByteLen(run.end() - at), kind: kind_of(run.flags) })
    }
}

/// A hole that does not read as zeros is data: its bytes are whatever the server sends.
const fn kind_of(flags: u64) -> ExtentKind {
    match (flags & state::ZERO != 0, flags & state::HOLE != 0) {
        (true, true) => ExtentKind::Hole,
        (true, false) => ExtentKind::Zero,
        (false, _) => ExtentKind::Data,
    }
}

impl ReadAt for Disk {
    fn size(&self) -> ByteLen {
        ByteLen(self.client.size())
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        let (len, size) = (ByteLen::of(buf), self.size());
        if at.checked_add(len).is_none_or(|end| end.0 > size.0) {
            return Err(ReadError::OutOfRange { at, len, size });
        }
        let copied = async {
            let mut stream = self.client.stream(at.0..at.0 + len.0);
            let mut rest = buf;
            while let Some(bytes) = stream.next().await? {
                let Some((now, later)) = rest.split_at_mut_checked(bytes.len()) else {
                    return Err(Error::protocol("more bytes than were asked for"));
                };
                now.copy_from_slice(&bytes);
                rest = later;
            }
            Ok(())
        };
        self.runtime.block_on(copied).map_err(|e| read_error(at, e))
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        let size = self.size();
        let left = size.0.checked_sub(at.0).filter(|left| *left > 0);
        let left = left.ok_or(ReadError::OutOfRange { at, len: ByteLen(1), size })?;
        if !self.client.export().has_context(BASE_ALLOCATION) {
            return Ok(Extent { start: at, len: ByteLen(left), kind: ExtentKind::Data });
        }
        if let Some(extent) = self.known(at.0) {
            return Ok(extent);
        }
        let asked = self.client.block_status_once(BASE_ALLOCATION, at.0..size.0);
        let runs = self.runtime.block_on(asked).map_err(|e| read_error(at, e))?;
        *self.allocation.lock().unwrap_or_else(PoisonError::into_inner) = runs;
        self.known(at.0).ok_or_else(|| read_error(at, Error::protocol("a block status of another place")))
    }
}

fn read_error(at: ByteOffset, error: Error) -> ReadError {
    match error.family() {
        Family::Protocol | Family::Changed => ReadError::Corrupt { at, source: Box::new(error) },
        Family::Unsupported => ReadError::Unsupported { at, source: Box::new(error) },
        Family::Timeout => ReadError::Io { at, source: io::Error::new(io::ErrorKind::TimedOut, error) },
        _ => ReadError::Io { at, source: io::Error::other(error) },
    }
}
