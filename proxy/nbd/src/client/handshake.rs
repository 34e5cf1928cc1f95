//! From the first byte to transmission ("Fixed newstyle negotiation").

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::dial::Wire;
use super::export::{BlockSizes, Export, Replies};
use super::haggle::{Haggle, Refusal, put_string, string};
use super::secure::TlsWish;
use crate::constants::{CLISERV, IHAVEOPT, MAX_PAYLOAD, NBDMAGIC, handshake, info, option, reply};
use crate::{Error, Family, Result};

/// Replies that are taken to one `NBD_OPT_GO` or `NBD_OPT_SET_META_CONTEXT`.
const MOST_INFOS: usize = 256;
/// Zeros behind the answer to `NBD_OPT_EXPORT_NAME`.
const ZEROES: usize = 124;
/// The largest smallest block ("Block size constraints").
const LARGEST_MINIMUM: u32 = 64 << 10;

/// A connection that is ready for requests.
pub(crate) struct Opened {
    pub(crate) wire: Wire,
    pub(crate) export: Export,
    /// The numbers of the contexts on this connection, by name.
    pub(crate) contexts: Vec<(u32, String)>,
}

/// A connection that is ready for options, which know of each other only that TLS comes first and framing second.
pub(crate) struct Greeted {
    pub(crate) haggle: Haggle,
    pub(crate) replies: Replies,
    no_zeroes: bool,
    tls: bool,
}

/// Opens `name`, asking for `contexts`.
pub(crate) async fn open(wire: Wire, tls: Option<&TlsWish>, name: &str, contexts: &[String]) -> Result<Opened> {
    let mut greeted = greet(wire, tls).await?;
    let contexts = match greeted.replies {
        Replies::Simple => Vec::new(),
        _ if contexts.is_empty() => Vec::new(),
        _ => greeted.set_contexts(name, contexts).await?,
    };
    let mut export = greeted.go(name).await?;
    export.contexts = contexts.iter().map(|(_, name)| name.clone()).collect();
    Ok(Opened { wire: greeted.haggle.wire, export, contexts })
}

/// The greeting, TLS where it is wanted, and the best framing that the server has.
pub(crate) async fn greet(wire: Wire, tls: Option<&TlsWish>) -> Result<Greeted> {
    let mut haggle = Haggle { wire, unproven: None };
    let magic = u64::from_be_bytes(haggle.read().await?);
    if magic != NBDMAGIC {
        return Err(Error::protocol(format!("this is no NBD server: it begins with {magic:#018x}, not NBDMAGIC")));
    }
    match u64::from_be_bytes(haggle.read().await?) {
        IHAVEOPT => {}
        CLISERV => {
            let what =
                "the server speaks the oldstyle handshake, which is not supported; newstyle has been there since 2011";
            return Err(Error::new(Family::Unsupported, what));
        }
        other => return Err(Error::protocol(format!("the server's second word is {other:#018x}, not IHAVEOPT"))),
    }
    let flags = u16::from_be_bytes(haggle.read().await?);
    if flags & handshake::FIXED_NEWSTYLE == 0 {
        let what = "the server's handshake is newstyle, but not fixed newstyle, which is not supported";
        return Err(Error::new(Family::Unsupported, what));
    }
    let ours = handshake::FIXED_NEWSTYLE | flags & handshake::NO_ZEROES;
    haggle.write(&u32::from(ours).to_be_bytes()).await?;
    if let Some(wish) = tls {
        haggle = start_tls(haggle, wish).await?;
    }
    let replies = framing(&mut haggle).await?;
    Ok(Greeted { haggle, replies, no_zeroes: flags & handshake::NO_ZEROES != 0, tls: tls.is_some() })
}

/// First of all options, so that nobody between can change the others ("Protocol downgrade attacks").
async fn start_tls(mut haggle: Haggle, wish: &TlsWish) -> Result<Haggle> {
    if let Err(refusal) = haggle.ask(option::STARTTLS).await? {
        let what = "the server has no TLS, which nbds:// requires; nbd:// and nbd+unix:// are plain";
        return Err(match refusal.kind {
            reply::ERR_UNSUP | reply::ERR_POLICY | reply::ERR_PLATFORM | reply::ERR_INVALID => {
                Error::new(Family::Tls, format!("{what} (0x{:x})", refusal.kind))
            }
            _ => refusal.into_error("starting TLS"),
        });
    }
    // Nothing was read beyond the reply, so that what comes next is TLS or an error.
    let wire = wish.upgrade(haggle.wire).await?;
    Ok(Haggle { wire, unproven: Some(wish.clone()) })
}

async fn framing(haggle: &mut Haggle) -> Result<Replies> {
    for (option, replies) in
        [(option::EXTENDED_HEADERS, Replies::Extended), (option::STRUCTURED_REPLY, Replies::Structured)]
    {
        match haggle.ask(option).await? {
            Ok(()) => return Ok(replies),
            Err(refusal) if matches!(refusal.kind, reply::ERR_TLS_REQD | reply::ERR_SHUTDOWN) => {
                return Err(refusal.into_error("opening the export"));
            }
            Err(_) => {}
        }
    }
    Ok(Replies::Simple)
}

impl Greeted {
    async fn set_contexts(&mut self, name: &str, wanted: &[String]) -> Result<Vec<(u32, String)>> {
        let found = self.contexts(option::SET_META_CONTEXT, name, wanted).await?;
        let mut granted: Vec<(u32, String)> = Vec::new();
        for (number, context) in found.map_or_else(|refusal| no_contexts(refusal, name), Ok)? {
            if granted.iter().any(|(known, _)| *known == number) {
                return Err(Error::protocol(format!("two contexts have the number {number}")));
            }
            granted.push((number, context));
        }
        Ok(granted)
    }

    /// What the server answers to a query of contexts.
    pub(crate) async fn contexts(
        &mut self,
        option: u32,
        name: &str,
        wanted: &[String],
    ) -> Result<Result<Vec<(u32, String)>, Refusal>> {
        let mut data = BytesMut::new();
        put_string(&mut data, name)?;
        data.put_u32(u32::try_from(wanted.len()).unwrap_or(u32::MAX));
        for context in wanted {
            put_string(&mut data, context)?;
        }
        self.haggle.send(option, &data).await?;
        let mut found = Vec::new();
        let each = |mut data: Bytes| {
            let number = data.try_get_u32().map_err(|_| Error::protocol("a context without its number"))?;
            found.push((number, string(&data, "the name of a context")?));
            Ok(())
        };
        let end = self.haggle.replies(option, reply::META_CONTEXT, MOST_INFOS, each).await?;
        Ok(end.map(|()| found))
    }

    /// Enters transmission.
    async fn go(&mut self, name: &str) -> Result<Export> {
        match self.describe(option::GO, name).await? {
            Ok(export) => Ok(export),
            Err(refusal) if refusal.kind == reply::ERR_UNSUP => self.export_name(name).await,
            Err(refusal) => Err(refusal.into_error(&format!("opening the export {name:?}"))),
        }
    }

    /// `NBD_OPT_GO` or `NBD_OPT_INFO`.
    pub(crate) async fn describe(&mut self, option: u32, name: &str) -> Result<Result<Export, Refusal>> {
        let mut data = BytesMut::new();
        put_string(&mut data, name)?;
        let wanted = [info::BLOCK_SIZE, info::NAME, info::DESCRIPTION];
        data.put_u16(wanted.len() as u16);
        wanted.iter().for_each(|kind| data.put_u16(*kind));
        self.haggle.send(option, &data).await?;
        let mut told = Told::default();
        match self.haggle.replies(option, reply::INFO, MOST_INFOS, |data| told.take(data)).await? {
            Ok(()) => Ok(Ok(told.export(name, self.replies, self.tls)?)),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// The older way into transmission: no error can be told, the server just leaves.
    async fn export_name(&mut self, name: &str) -> Result<Export> {
        self.haggle.send(option::EXPORT_NAME, name.as_bytes()).await?;
        let answer = self.haggle.read::<10>().await.map_err(|e| {
            let what = format!("the server left when asked for the export {name:?}: probably it has none of that name");
            Error::new(Family::NotFound, what).caused_by(e)
        })?;
        if !self.no_zeroes {
            self.haggle.read::<ZEROES>().await?;
        }
        let mut answer = &answer[..];
        let told = Told { export: Some((answer.get_u64(), answer.get_u16())), ..Told::default() };
        told.export(name, self.replies, self.tls)
    }
}

/// A server may grant no context at all, and even say so by an error; only an unknown export is one here.
fn no_contexts(refusal: Refusal, name: &str) -> Result<Vec<(u32, String)>> {
    match refusal.kind {
        reply::ERR_UNKNOWN | reply::ERR_TLS_REQD | reply::ERR_SHUTDOWN => {
            Err(refusal.into_error(&format!("opening the export {name:?}")))
        }
        _ => Ok(Vec::new()),
    }
}

/// What the replies to one `NBD_OPT_GO` or `NBD_OPT_INFO` have told so far.
#[derive(Default)]
struct Told {
    export: Option<(u64, u16)>,
    name: Option<String>,
    description: Option<String>,
    block: Option<BlockSizes>,
}

impl Told {
    fn take(&mut self, mut data: Bytes) -> Result<()> {
        let short = |_| Error::protocol("information on an export is cut off");
        match data.try_get_u16().map_err(short)? {
            info::EXPORT => {
                exactly(&data, 10, "NBD_INFO_EXPORT")?;
                self.export = Some((data.get_u64(), data.get_u16()));
            }
            info::NAME => self.name = Some(string(&data, "the name of the export")?),
            info::DESCRIPTION => self.description = Some(string(&data, "the description of the export")?),
            info::BLOCK_SIZE => {
                exactly(&data, 12, "NBD_INFO_BLOCK_SIZE")?;
                self.block = Some(block_sizes(data.get_u32(), data.get_u32(), data.get_u32())?);
            }
            _ => {} // to be ignored, says the protocol
        }
        Ok(())
    }

    fn export(self, name: &str, replies: Replies, tls: bool) -> Result<Export> {
        let Some((size, flags)) = self.export else {
            return Err(Error::protocol(format!("the server opens the export {name:?} without telling its size")));
        };
        if size > i64::MAX as u64 {
            return Err(Error::protocol(format!(
                "the server says that the export has {size} bytes, more than a disk can have"
            )));
        }
        Ok(Export {
            name: self.name.unwrap_or_else(|| name.to_owned()),
            description: self.description.unwrap_or_default(),
            size,
            flags,
            block: self.block.unwrap_or_default(),
            replies,
            contexts: Vec::new(),
            tls,
        })
    }
}

fn exactly(data: &[u8], len: usize, what: &str) -> Result<()> {
    if data.len() == len {
        return Ok(());
    }
    Err(Error::protocol(format!("{what} has {} bytes, not {len}", data.len())))
}

fn block_sizes(minimum: u32, preferred: u32, maximum: u32) -> Result<BlockSizes> {
    let right = minimum.is_power_of_two()
        && minimum <= LARGEST_MINIMUM
        && preferred.is_power_of_two()
        && minimum <= preferred
        && minimum <= maximum;
    if !right {
        let rule = "powers of two are expected, the first at most 64 KiB and not above the others";
        let what = format!("the block sizes are {minimum}, {preferred} and at most {maximum}: {rule}");
        return Err(Error::protocol(what));
    }
    let maximum = maximum.min(MAX_PAYLOAD);
    Ok(BlockSizes { minimum, preferred: preferred.min(MAX_PAYLOAD), maximum: maximum - maximum % minimum })
}
