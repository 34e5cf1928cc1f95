//! Replies, one header and payload at a time ("Transmission"). Each length is bounded by the request before anything is read by it.

use tokio::io::{AsyncRead, AsyncReadExt};

use super::buffer::{Assembly, lost};
use super::export::{Replies, Status};
use crate::constants::{EXTENDED_REPLY, SIMPLE_REPLY, STRUCTURED_REPLY, chunk};
use crate::{Error, Result};

/// Runs that are remembered of one reply. Those behind are asked for again.
pub(crate) const MOST_RUNS: usize = 64 << 10;
/// The longest answer to a block status that is read through: 2 Mi runs.
const LONGEST_STATUS: u64 = 32 << 20;
/// The longest error chunk: its message has a 16-bit length.
const LONGEST_ERROR: u64 = 128 << 10;

/// What is expected in reply to a request.
#[derive(Debug)]
pub(crate) enum Expect {
    /// `NBD_CMD_READ`.
    Data(Assembly),
    /// `NBD_CMD_BLOCK_STATUS`: runs of one context of those that were granted.
    Status(Runs),
    /// Only that it was done.
    Nothing,
}

/// What one context says, while its chunk arrives.
#[derive(Debug)]
pub(crate) struct Runs {
    pub(crate) start: u64,
    pub(crate) len: u64,
    /// The context that is wanted, and all that the server may speak of.
    pub(crate) context: u32,
    pub(crate) granted: Vec<u32>,
    pub(crate) seen: Vec<u32>,
    pub(crate) found: Vec<Status>,
}

/// The fixed part of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) cookie: u64,
    pub(crate) body: Body,
}

/// What follows a header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// All that a simple reply says, but for the data of a successful read.
    Simple {
        error: u32,
    },
    Chunk {
        kind: u16,
        done: bool,
        len: u64,
    },
}

/// An error that a server answered.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) number: u32,
    pub(crate) message: String,
}

pub(crate) async fn header<R: AsyncRead + Unpin>(reader: &mut R, replies: Replies) -> Result<Header> {
    let magic = reader.read_u32().await.map_err(lost)?;
    match (magic, replies) {
        (SIMPLE_REPLY, Replies::Simple | Replies::Structured) => {
            let error = reader.read_u32().await.map_err(lost)?;
            let cookie = reader.read_u64().await.map_err(lost)?;
            Ok(Header { cookie, body: Body::Simple { error } })
        }
        (STRUCTURED_REPLY, Replies::Structured) | (EXTENDED_REPLY, Replies::Extended) => {
            let flags = reader.read_u16().await.map_err(lost)?;
            let kind = reader.read_u16().await.map_err(lost)?;
            let cookie = reader.read_u64().await.map_err(lost)?;
            let len = if replies == Replies::Extended {
                reader.read_u64().await.map_err(lost)?; // the offset of the request once more
                reader.read_u64().await.map_err(lost)?
            } else {
                u64::from(reader.read_u32().await.map_err(lost)?)
            };
            Ok(Header { cookie, body: Body::Chunk { kind, done: flags & chunk::DONE != 0, len } })
        }
        _ => Err(Error::protocol(format!("a reply begins with {magic:#010x}, which none does that was agreed on"))),
    }
}

/// Reads the payload of a chunk into what is expected. Answers an error that the chunk tells.
pub(crate) async fn payload<R: AsyncRead + Unpin>(
    reader: &mut R,
    (kind, done, len): (u16, bool, u64),
    expect: &mut Expect,
    replies: Replies,
) -> Result<Option<Told>> {
    match (kind, expect) {
        (chunk::NONE, _) if len == 0 && done => Ok(None),
        (chunk::OFFSET_DATA, Expect::Data(data)) if len > 8 => {
            let at = reader.read_u64().await.map_err(lost)?;
            data.fill(at, len - 8, reader).await?;
            Ok(None)
        }
        (chunk::OFFSET_HOLE, Expect::Data(data)) if len == 12 => {
            let at = reader.read_u64().await.map_err(lost)?;
            data.zero(at, u64::from(reader.read_u32().await.map_err(lost)?))?;
            Ok(None)
        }
        (chunk::BLOCK_STATUS, Expect::Status(runs)) if len >= 12 && (len - 4) % 8 == 0 && len <= LONGEST_STATUS => {
            let context = reader.read_u32().await.map_err(lost)?;
            runs.read(reader, context, (len - 4) / 8, false).await?;
            Ok(None)
        }
        (chunk::BLOCK_STATUS_EXT, Expect::Status(runs))
            if replies == Replies::Extended && len >= 24 && (len - 8) % 16 == 0 && len <= LONGEST_STATUS =>
        {
            let context = reader.read_u32().await.map_err(lost)?;
            let count = u64::from(reader.read_u32().await.map_err(lost)?);
            if count != (len - 8) / 16 {
                return Err(Error::protocol(format!("{count} runs of block status in a payload of {len} bytes")));
            }
            runs.read(reader, context, count, true).await?;
            Ok(None)
        }
        (kind, _) if kind & (1 << 15) != 0 && (6..=LONGEST_ERROR).contains(&len) => {
            told(reader, kind, len).await.map(Some)
        }
        (kind, expect) => {
            let to = match expect {
                Expect::Data(_) => "a read",
                Expect::Status(_) => "a block status",
                Expect::Nothing => "a request without data",
            };
            let done = if done { "last" } else { "not last" };
            Err(Error::protocol(format!("a chunk of type {kind:#x} with {len} bytes, {done}, in reply to {to}")))
        }
    }
}

/// An error chunk. What stands behind its message, an offset most often, is skipped.
async fn told<R: AsyncRead + Unpin>(reader: &mut R, kind: u16, len: u64) -> Result<Told> {
    let number = reader.read_u32().await.map_err(lost)?;
    let words = u64::from(reader.read_u16().await.map_err(lost)?);
    let fixed = if kind == chunk::ERROR_OFFSET { 14 } else { 6 };
    let rest = len.checked_sub(fixed).and_then(|room| room.checked_sub(words));
    if rest.is_none() || number == 0 {
        let what = format!("an error chunk of {len} bytes with number {number} and a message of {words} bytes");
        return Err(Error::protocol(what));
    }
    let mut bytes = vec![0; (len - 6) as usize]; // at most LONGEST_ERROR
    reader.read_exact(&mut bytes).await.map_err(lost)?;
    bytes.truncate(words.min(u64::from(crate::constants::MAX_STRING)) as usize);
    Ok(Told { number, message: String::from_utf8_lossy(&bytes).trim().to_owned() })
}

impl Runs {
    /// Reads `count` runs, remembering the first of them, joined.
    async fn read<R: AsyncRead + Unpin>(&mut self, reader: &mut R, context: u32, count: u64, wide: bool) -> Result<()> {
        if !self.granted.contains(&context) {
            return Err(Error::protocol(format!("block status of context {context}, which was not granted")));
        }
        if self.seen.contains(&context) {
            return Err(Error::protocol(format!("block status of context {context} twice in one reply")));
        }
        self.seen.push(context);
        let end = self.start.saturating_add(self.len);
        let mut at = self.start;
        for number in 0..count {
            let (len, flags) = if wide {
                (reader.read_u64().await.map_err(lost)?, reader.read_u64().await.map_err(lost)?)
            } else {
                let len = reader.read_u32().await.map_err(lost)?;
                (u64::from(len), u64::from(reader.read_u32().await.map_err(lost)?))
            };
            if len == 0 {
                return Err(Error::protocol(format!("run {number} of block status at {at:#x} has no length")));
            }
            if at >= end {
                return Err(Error::protocol(format!(
                    "run {number} of block status lies behind the request's end {end:#x}"
                )));
            }
            // Only the last may pass the end, and what passes it is cut.
            let run = Status { start: at, len: len.min(end - at), flags };
            at = at.saturating_add(len);
            if context == self.context {
                self.remember(run);
            }
        }
        Ok(())
    }

    fn remember(&mut self, run: Status) {
        let count = self.found.len();
        match self.found.last_mut() {
            Some(last) if last.end() != run.start => {} // behind one that was forgotten
            Some(last) if last.flags == run.flags => last.len += run.len,
            _ if count >= MOST_RUNS => {}
            _ => self.found.push(run),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(start: u64, len: u64) -> Runs {
        Runs { start, len, context: 7, granted: vec![7, 9], seen: Vec::new(), found: Vec::new() }
    }

    async fn status(descriptors: &[(u32, u32)]) -> Result<Vec<Status>> {
        let bytes: Vec<u8> =
            descriptors.iter().flat_map(|(len, flags)| [len.to_be_bytes(), flags.to_be_bytes()].concat()).collect();
        let mut runs = runs(1000, 100);
        runs.read(&mut &bytes[..], 7, descriptors.len() as u64, false).await?;
        Ok(runs.found)
    }

    #[tokio::test]
    async fn runs_are_joined_and_the_last_is_cut_at_the_end() {
        let found = status(&[(10, 3), (20, 3), (30, 0), (1000, 1)]).await.unwrap();
        let expected = [(1000, 30, 3), (1030, 30, 0), (1060, 40, 1)];
        assert_eq!(found.iter().map(|run| (run.start, run.len, run.flags)).collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn runs_without_length_or_behind_the_end_are_refused() {
        assert!(status(&[(10, 3), (0, 0)]).await.unwrap_err().to_string().contains("no length"));
        assert!(status(&[(100, 3), (1, 0)]).await.unwrap_err().to_string().contains("behind the request's end"));
    }

    #[tokio::test]
    async fn only_a_bounded_number_of_runs_is_remembered_and_they_have_no_gap() {
        let many: Vec<u8> =
            (0..200_000_u32).flat_map(|n| [1_u32.to_be_bytes(), (n % 2).to_be_bytes()].concat()).collect();
        let mut runs = runs(0, 1 << 20);
        runs.read(&mut &many[..], 7, 200_000, false).await.unwrap();
        assert_eq!(runs.found.len(), MOST_RUNS);
        assert_eq!(runs.found.last().unwrap().end(), MOST_RUNS as u64);
    }

    #[tokio::test]
    async fn contexts_that_were_not_granted_or_come_twice_are_refused() {
        let one = [[0, 0, 0, 100], [0; 4]].concat();
        let mut runs = runs(0, 100);
        runs.read(&mut &one[..], 9, 1, false).await.unwrap();
        assert!(runs.found.is_empty());
        assert!(runs.read(&mut &one[..], 9, 1, false).await.unwrap_err().to_string().contains("twice"));
        assert!(runs.read(&mut &one[..], 8, 1, false).await.unwrap_err().to_string().contains("not granted"));
    }
}
