//! Writing. A write that got no answer is sent again after a lost connection: the same bytes at the same place are the same as once.
//!
//! Two things follow, which the caller must know. First, the server may still be busy with the lost one: who writes the same place twice must
//! [`flush`](Client::flush) between. Second, what was acknowledged, but not flushed, may be gone when the server itself went down: the next
//! `flush` then fails and says so, instead of vouching for it.

use bytes::Bytes;

use super::Client;
use super::link::Request;
use crate::constants::{command, command_flag};
use crate::{Error, Family, Result};

/// Zeroed or trimmed by one request. Servers that cannot do it fast do it by writing, and should answer in time.
const AT_ONCE: u64 = 128 << 20;
/// Zeros that are written where the server has no command for it.
const ZEROES: usize = 1 << 20;

impl Client {
    /// Writes `data` at `at`; with `fua` it is on stable storage when this returns.
    ///
    /// # Errors
    /// [`Family::Refused`] on a read-only export, [`Family::Usage`] outside it or not in whole blocks.
    pub async fn write(&self, at: u64, mut data: Bytes, fua: bool) -> Result<()> {
        let len = data.len() as u64;
        let what = || format!("writing {len} bytes at {at:#x}");
        self.check_write(at, len).map_err(|e| e.within(what()))?;
        let (block, flags) = (self.export().block(), self.fua(fua));
        let mut place = at;
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(block.maximum as usize));
            let len = piece.len() as u64;
            self.slots.ask(Request::Write { at: place, data: piece, flags }).await.map_err(|e| e.within(what()))?;
            place += len;
        }
        self.written(flags, fua).await
    }

    /// Makes `len` bytes at `at` read as zeros. Unless `keep_allocated`, the server may free them.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_zeroes(&self, at: u64, len: u64, keep_allocated: bool) -> Result<()> {
        if self.export().can_write_zeroes() {
            let flags = if keep_allocated { command_flag::NO_HOLE } else { 0 };
            return self.command(command::WRITE_ZEROES, flags, "zeroing", at, len).await;
        }
        self.check_write(at, len)?;
        let zeroes = Bytes::from(vec![0; ZEROES]);
        let mut done = 0;
        while done < len {
            let piece = zeroes.slice(..zeroes.len().min(usize::try_from(len - done).unwrap_or(ZEROES)));
            let written = piece.len() as u64;
            self.write(at + done, piece, false).await?;
            done += written;
        }
        Ok(())
    }

    /// Says that nobody needs `len` bytes at `at` any more. What they read as then is undefined.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`Family::Unsupported`] where the server has no such command.
    pub async fn trim(&self, at: u64, len: u64) -> Result<()> {
        if !self.export().can_trim() {
            return Err(Error::new(Family::Unsupported, "the server has no NBD_CMD_TRIM for this export"));
        }
        self.command(command::TRIM, 0, "trimming", at, len).await
    }

    /// Returns when all that was written is on stable storage. Nothing else must be in flight that is to be covered.
    ///
    /// # Errors
    /// [`Family::Io`] also when a connection was lost since the last flush: what was written meanwhile has to be written again.
    pub async fn flush(&self) -> Result<()> {
        if !self.export().can_flush() {
            return Ok(()); // such a server has no volatile cache
        }
        let request = Request::Other { command: command::FLUSH, at: 0, len: 0, flags: 0 };
        if self.slots.flush(request).await.map_err(|e| e.within("flushing"))? {
            return Ok(());
        }
        let what = "a connection was lost after writes that were not flushed, and they may be lost: write them again";
        Err(Error::new(Family::Io, what))
    }

    async fn command(&self, command: u16, flags: u16, doing: &str, at: u64, len: u64) -> Result<()> {
        let what = || format!("{doing} {len} bytes at {at:#x}");
        self.check_write(at, len).map_err(|e| e.within(what()))?;
        let mut done = 0;
        while done < len {
            let piece = AT_ONCE.min(len - done);
            let request = Request::Other { command, at: at + done, len: piece, flags };
            self.slots.ask(request).await.map_err(|e| e.within(what()))?;
            done += piece;
        }
        self.slots.wrote();
        Ok(())
    }

    fn fua(&self, wanted: bool) -> u16 {
        if wanted && self.export().can_fua() { command_flag::FUA } else { 0 }
    }

    async fn written(&self, flags: u16, fua: bool) -> Result<()> {
        if flags & command_flag::FUA == 0 {
            self.slots.wrote();
            if fua {
                self.flush().await?;
            }
        }
        Ok(())
    }

    fn check_write(&self, at: u64, len: u64) -> Result<()> {
        if self.export().is_read_only() {
            return Err(Error::new(Family::Refused, "the export is read-only"));
        }
        self.check(at, len)?;
        let minimum = u64::from(self.export().block().minimum);
        if !at.is_multiple_of(minimum) || !len.is_multiple_of(minimum) {
            return Err(Error::usage(format!("the server wants whole blocks of {minimum} bytes")));
        }
        Ok(())
    }
}
