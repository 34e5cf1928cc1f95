//! Options and their replies ("Option haggling"). Every reply is bounded in length, and their number for each option.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::dial::Wire;
use super::secure::TlsWish;
use crate::constants::{IHAVEOPT, OPTION_REPLY, option, reply};
use crate::{Error, Family, Result};

/// The longest reply that is read: two strings of the protocol's longest, with room.
const LONGEST_REPLY: u32 = 16 << 10;

/// A connection before transmission.
pub(crate) struct Haggle {
    pub(crate) wire: Wire,
    /// What to say if the server leaves before its first word over TLS.
    pub(crate) unproven: Option<TlsWish>,
}

/// A reply to an option that is no error.
pub(crate) enum Reply {
    Ack,
    Other(u32, Bytes),
    Error(Refusal),
}

/// An error in reply to an option.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) kind: u32,
    message: String,
}

impl Refusal {
    /// The same as an error of ours, for who tried `what`.
    pub(crate) fn into_error(self, what: &str) -> Error {
        let (family, meaning) = match self.kind {
            reply::ERR_UNSUP => (Family::Unsupported, "it does not know the option"),
            reply::ERR_POLICY => (Family::Refused, "its policy forbids it"),
            reply::ERR_INVALID => (Family::Protocol, "it takes the option for invalid"),
            reply::ERR_PLATFORM => (Family::Unsupported, "its platform does not support it"),
            reply::ERR_TLS_REQD => (Family::Tls, "it wants TLS first; nbds:// or nbds+unix:// asks for it"),
            reply::ERR_UNKNOWN => (Family::NotFound, "it has no such export"),
            reply::ERR_SHUTDOWN => (Family::Io, "it is shutting down"),
            reply::ERR_BLOCK_SIZE_REQD => (Family::Unsupported, "it wants other block sizes"),
            reply::ERR_TOO_BIG => (Family::Refused, "the request is too big for it"),
            reply::ERR_EXT_HEADER_REQD => (Family::Unsupported, "it wants extended headers"),
            _ => (Family::Refused, "an error that the protocol does not define"),
        };
        let words = if self.message.is_empty() { String::new() } else { format!(": {}", self.message) };
        Error::new(family, format!("{what}: the server refuses, {meaning} (0x{:x}){words}", self.kind))
    }
}

impl Haggle {
    /// Sends an option.
    pub(crate) async fn send(&mut self, option: u32, data: &[u8]) -> Result<()> {
        let mut message = BytesMut::with_capacity(16 + data.len());
        message.put_u64(IHAVEOPT);
        message.put_u32(option);
        message.put_u32(u32::try_from(data.len()).map_err(|_| Error::usage("an option of more than 4 GiB"))?);
        message.put_slice(data);
        self.write(&message).await
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = async {
            self.wire.write_all(bytes).await?;
            self.wire.flush().await
        };
        match written.await {
            Ok(()) => Ok(()),
            Err(e) => Err(self.failed(e)),
        }
    }

    pub(crate) async fn read<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        match self.wire.read_exact(&mut bytes).await {
            Ok(_) => Ok(bytes),
            Err(e) => Err(self.failed(e)),
        }
    }

    fn failed(&mut self, error: io::Error) -> Error {
        match self.unproven.take() {
            Some(wish) => wish.first_word_failed(error),
            None => Error::new(Family::Io, "the server ended the connection during the handshake").caused_by(error),
        }
    }

    /// The next reply to `option`.
    pub(crate) async fn reply(&mut self, option: u32) -> Result<Reply> {
        let header = self.read::<20>().await?;
        self.unproven = None;
        let mut header = &header[..];
        let (magic, to, kind, len) = (header.get_u64(), header.get_u32(), header.get_u32(), header.get_u32());
        if magic != OPTION_REPLY {
            return Err(Error::protocol(format!(
                "a reply to option {option} begins with {magic:#x}, not {OPTION_REPLY:#x}"
            )));
        }
        if to != option {
            return Err(Error::protocol(format!("a reply to option {to} where one to option {option} is due")));
        }
        if len > LONGEST_REPLY {
            let limit = format!("at most {LONGEST_REPLY} are read");
            return Err(Error::protocol(format!("a reply of {len} bytes to option {option}: {limit}")));
        }
        let mut data = vec![0; len as usize];
        if let Err(e) = self.wire.read_exact(&mut data).await {
            return Err(self.failed(e));
        }
        match kind {
            reply::ACK if data.is_empty() => Ok(Reply::Ack),
            reply::ACK => Err(Error::protocol(format!("an ACK to option {option} with {len} bytes, which has none"))),
            kind if kind & reply::ERROR != 0 => {
                Ok(Reply::Error(Refusal { kind, message: String::from_utf8_lossy(&data).trim().to_owned() }))
            }
            kind => Ok(Reply::Other(kind, data.into())),
        }
    }

    /// Replies of one `kind` to `option` until its end, each through `each`; `Err` inside is the server's refusal.
    pub(crate) async fn replies(
        &mut self,
        option: u32,
        kind: u32,
        most: usize,
        mut each: impl FnMut(Bytes) -> Result<()>,
    ) -> Result<Result<(), Refusal>> {
        for _ in 0..=most {
            match self.reply(option).await? {
                Reply::Ack => return Ok(Ok(())),
                Reply::Error(refusal) => return Ok(Err(refusal)),
                Reply::Other(found, data) if found == kind => each(data)?,
                Reply::Other(found, _) => {
                    return Err(Error::protocol(format!("a reply of type {found} to option {option}, not {kind}")));
                }
            }
        }
        Err(Error::protocol(format!("more than {most} replies to option {option}")))
    }

    /// An option without data that is granted or not.
    pub(crate) async fn ask(&mut self, option: u32) -> Result<Result<(), Refusal>> {
        self.send(option, &[]).await?;
        self.replies(option, reply::ACK, 0, |_| Ok(())).await
    }

    /// Ends the haggling politely; the server may answer or just leave.
    pub(crate) async fn abort(mut self) {
        let _ = self.send(option::ABORT, &[]).await;
        let _ = self.wire.shutdown().await;
    }
}

/// A string with its length before it.
pub(crate) fn put_string(data: &mut BytesMut, text: &str) -> Result<()> {
    let len = u32::try_from(text.len()).ok().filter(|len| *len <= crate::constants::MAX_STRING);
    let len = len.ok_or_else(|| Error::usage(format!("a name of {} bytes: at most 4096 are possible", text.len())))?;
    data.put_u32(len);
    data.put_slice(text.as_bytes());
    Ok(())
}

/// A string of a reply; all of `bytes`.
pub(crate) fn string(bytes: &[u8], what: &str) -> Result<String> {
    if bytes.len() > crate::constants::MAX_STRING as usize {
        return Err(Error::protocol(format!("{what} has {} bytes: at most 4096 are allowed", bytes.len())));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::protocol(format!("{what} is not UTF-8")))
}
