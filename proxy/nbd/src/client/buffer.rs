//! Where the bytes of a read land: straight from the socket in the buffer that is handed out.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{Error, Result};

/// Pieces of one reply that may lie apart from each other. Servers answer in order, or nearly; this bounds what a hostile one costs.
const MOST_ISLANDS: usize = 1024;

/// Buffers of one length that are used again when who got the bytes has dropped them: fresh memory costs as much as a copy.
#[derive(Debug)]
pub(crate) struct Pool {
    len: usize,
    most: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// Keeps at most `most` buffers of `len` bytes.
    pub(crate) fn new(len: u32, most: usize) -> Arc<Self> {
        Arc::new(Self { len: len as usize, most, free: Mutex::default() })
    }

    fn take(self: &Arc<Self>) -> Vec<u8> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.pop().unwrap_or_else(|| Vec::with_capacity(self.len))
    }
}

/// A buffer that goes back to its pool.
struct Pooled {
    bytes: Vec<u8>,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.pool.most {
            free.push(bytes);
        }
    }
}

/// The answer to one read while its chunks arrive ("Structured reply types").
#[derive(Debug)]
pub(crate) struct Assembly {
    start: u64,
    len: usize,
    bytes: Vec<u8>,
    pool: Option<Arc<Pool>>,
    /// What is filled: in order, apart from each other.
    islands: Vec<(usize, usize)>,
}

impl Assembly {
    pub(crate) const fn new(start: u64, len: u32, pool: Option<Arc<Pool>>) -> Self {
        Self { start, len: len as usize, bytes: Vec::new(), pool, islands: Vec::new() }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn start(&self) -> u64 {
        self.start
    }

    /// Fills `len` bytes at `at` of the export from `reader`.
    pub(crate) async fn fill<R: AsyncRead + Unpin>(&mut self, at: u64, len: u64, reader: &mut R) -> Result<()> {
        let (from, to) = self.claim(at, len)?;
        self.stretch(from);
        if from == self.bytes.len() {
            // Most often: the next bytes in order, into memory that nobody has set to zero before.
            while self.bytes.len() < to {
                let left = to - self.bytes.len();
                let mut room = (&mut self.bytes).limit(left);
                if reader.read_buf(&mut room).await.map_err(lost)? == 0 {
                    return Err(lost(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            return Ok(());
        }
        self.stretch(to);
        let hole = self.bytes.get_mut(from..to).ok_or_else(|| Error::protocol("a chunk outside its read"))?;
        reader.read_exact(hole).await.map(drop).map_err(lost)
    }

    /// Fills `len` bytes at `at` of the export with zeros.
    pub(crate) fn zero(&mut self, at: u64, len: u64) -> Result<()> {
        // What is skipped is zero already: `stretch` made it so.
        let (_, to) = self.claim(at, len)?;
        self.stretch(to);
        Ok(())
    }

    /// The bytes, if all of them came.
    pub(crate) fn finish(self) -> Result<Bytes> {
        if self.len > 0 && self.islands != [(0, self.len)] {
            let first = match self.islands.first() {
                Some((0, end)) => *end,
                _ => 0,
            };
            let at = self.start + first as u64;
            return Err(Error::protocol(format!("the server ends its reply, but the bytes at {at:#x} are missing")));
        }
        Ok(match self.pool {
            Some(pool) if self.bytes.capacity() >= pool.len => Bytes::from_owner(Pooled { bytes: self.bytes, pool }),
            _ => Bytes::from(self.bytes),
        })
    }

    /// Room up to `to`, zeros where nothing was.
    fn stretch(&mut self, to: usize) {
        if self.bytes.capacity() == 0 {
            self.bytes = match &self.pool {
                Some(pool) if pool.len == self.len => pool.take(),
                _ => Vec::with_capacity(self.len),
            };
        }
        if to > self.bytes.len() {
            self.bytes.resize(to, 0);
        }
    }

    /// Takes `len` bytes at `at` for a chunk: inside the request, at least one, none of them taken before.
    fn claim(&mut self, at: u64, len: u64) -> Result<(usize, usize)> {
        let outside = || {
            let (start, whole) = (self.start, self.len);
            Error::protocol(format!(
                "a chunk of {len} bytes at {at:#x} in reply to a read of {whole} bytes at {start:#x}"
            ))
        };
        let from = at.checked_sub(self.start).and_then(|from| usize::try_from(from).ok()).ok_or_else(outside)?;
        let to = usize::try_from(len).ok().and_then(|len| from.checked_add(len)).ok_or_else(outside)?;
        if to > self.len || from == to {
            return Err(outside());
        }
        let next = self.islands.partition_point(|(start, _)| *start < from);
        let before = next.checked_sub(1).and_then(|before| self.islands.get(before)).copied();
        let after = self.islands.get(next).copied();
        if before.is_some_and(|(_, end)| end > from) || after.is_some_and(|(start, _)| start < to) {
            return Err(Error::protocol(format!(
                "a chunk of {len} bytes at {at:#x} overlaps an earlier one of its reply"
            )));
        }
        let (joins_before, joins_after) =
            (before.is_some_and(|(_, end)| end == from), after.is_some_and(|(start, _)| start == to));
        match (joins_before, joins_after) {
            (true, true) => {
                let (_, end) = self.islands.remove(next);
                self.islands[next - 1].1 = end;
            }
            (true, false) => self.islands[next - 1].1 = to,
            (false, true) => self.islands[next].0 = from,
            (false, false) => self.islands.insert(next, (from, to)),
        }
        if self.islands.len() > MOST_ISLANDS {
            return Err(Error::protocol(format!("a reply in more than {MOST_ISLANDS} pieces that lie apart")));
        }
        Ok((from, to))
    }
}

/// The connection ended or failed between two bytes that belong together.
pub(crate) fn lost(error: io::Error) -> Error {
    Error::new(crate::Family::Io, "the connection to the NBD server was lost").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn filled(chunks: &[(u64, u64)]) -> Result<Bytes> {
        let whole: Vec<u8> = (100..116).collect();
        let mut assembly = Assembly::new(100, 16, None);
        for (at, len) in chunks {
            let piece = at.checked_sub(100).and_then(|from| whole.get(from as usize..)).unwrap_or(&[]);
            assembly.fill(*at, *len, &mut &piece[..]).await?;
        }
        assembly.finish()
    }

    #[tokio::test]
    async fn chunks_in_any_order_make_the_whole() {
        let whole: Vec<u8> = (100..116).collect();
        for chunks in [
            &[(100, 16)][..],
            &[(100, 4), (104, 12)],
            &[(112, 4), (100, 4), (108, 4), (104, 4)],
            &[(104, 4), (112, 4), (100, 4), (108, 4)],
        ] {
            assert_eq!(filled(chunks).await.unwrap(), whole, "{chunks:?}");
        }
    }

    #[tokio::test]
    async fn chunks_that_overlap_leave_gaps_or_pass_the_request_are_refused() {
        for (chunks, reason) in [
            (&[(100, 8), (107, 9)][..], "overlaps"),
            (&[(104, 4), (100, 5)], "overlaps"),
            (&[(104, 4), (104, 4)], "overlaps"),
            (&[(100, 16), (100, 16)], "overlaps"),
            (&[(100, 4), (108, 8)], "0x68 are missing"),
            (&[(104, 12)], "0x64 are missing"),
            (&[], "0x64 are missing"),
            (&[(100, 17)], "in reply to a read of 16"),
            (&[(99, 1)], "in reply to a read of 16"),
            (&[(116, 1)], "in reply to a read of 16"),
            (&[(100, 0)], "in reply to a read of 16"),
            (&[(101, u64::MAX)], "in reply to a read of 16"),
            (&[(u64::MAX, 1)], "in reply to a read of 16"),
        ] {
            let said = filled(chunks).await.unwrap_err().to_string();
            assert!(said.contains(reason), "{chunks:?}: {said}");
        }
    }

    #[tokio::test]
    async fn holes_read_as_zeros_wherever_they_come() {
        for hole_first in [false, true] {
            let mut assembly = Assembly::new(0, 8, None);
            if hole_first {
                assembly.zero(2, 4).unwrap();
            }
            assembly.fill(0, 2, &mut &[1, 1][..]).await.unwrap();
            assembly.fill(6, 2, &mut &[2, 2][..]).await.unwrap();
            if !hole_first {
                assembly.zero(2, 4).unwrap();
            }
            assert_eq!(&assembly.finish().unwrap()[..], [1, 1, 0, 0, 0, 0, 2, 2]);
        }
    }

    #[tokio::test]
    async fn a_buffer_that_was_used_before_shows_nothing_of_it() {
        let pool = Pool::new(4, 1);
        let mut first = Assembly::new(0, 4, Some(pool.clone()));
        first.fill(0, 4, &mut &[9; 4][..]).await.unwrap();
        drop(first.finish().unwrap());
        let mut second = Assembly::new(0, 4, Some(pool));
        second.zero(0, 4).unwrap();
        assert_eq!(&second.finish().unwrap()[..], [0; 4]);
    }

    #[tokio::test]
    async fn a_reply_in_endless_islands_is_refused() {
        let mut assembly = Assembly::new(0, 1 << 20, None);
        let refused = (0..1 << 19).find_map(|n| assembly.zero(n * 2, 1).err());
        assert!(refused.unwrap().to_string().contains("pieces"));
    }
}
