//! The handshake, `proto.md` "Newstyle negotiation" and "Option types": fixed newstyle only. Nothing is read ahead, so that what a client
//! (or somebody between) sends in clear text before TLS begins can never be taken for what it says under it.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Shared;
use super::end::End;
use super::export::Entry;
use super::parse::{infos, queries};
use crate::constants::{IHAVEOPT, NBDMAGIC, OPTION_REPLY, handshake, info, option, reply, transmission};

/// What an option may carry: a name, and contexts.
const LONGEST_OPTION: u32 = 64 << 10;
/// A longer one is not even skipped.
const LONGEST_SKIPPED: u32 = 1 << 20;
/// The only metadata context that there is.
const ALLOCATION: &str = "base:allocation";
/// Its number on the wire.
pub(super) const ALLOCATION_ID: u32 = 1;

/// How requests and replies look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Style {
    Simple,
    Structured,
    Extended,
}

/// What client and server agreed on.
pub(super) struct Agreed {
    pub(super) entry: Arc<Entry>,
    pub(super) size: u64,
    pub(super) style: Style,
    /// Whether `base:allocation` may be asked for.
    pub(super) allocation: bool,
    pub(super) flags: u16,
}

/// How a round of options ended.
pub(super) enum Next {
    Serve(Agreed),
    StartTls,
    /// The client left in good order.
    Over,
}

/// What the client said of itself.
#[derive(Clone, Copy)]
pub(super) struct Greeting {
    fixed: bool,
    no_zeroes: bool,
}

/// Says who we are, and takes the client's flags.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<Greeting, End> {
    let mut hello = [0; 18];
    hello[..8].copy_from_slice(&NBDMAGIC.to_be_bytes());
    hello[8..16].copy_from_slice(&IHAVEOPT.to_be_bytes());
    hello[16..].copy_from_slice(&(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES).to_be_bytes());
    stream.write_all(&hello).await?;
    stream.flush().await?;
    let flags = stream.read_u32().await?;
    let known = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
    if flags & !known != 0 {
        return Err(End::protocol(format!("handshake flags {flags:#x} are not known")));
    }
    let has = |flag: u16| flags & u32::from(flag) != 0;
    Ok(Greeting { fixed: has(handshake::FIXED_NEWSTYLE), no_zeroes: has(handshake::NO_ZEROES) })
}

/// Answers the client's options until it has chosen an export.
pub(super) async fn options<S>(stream: &mut S, shared: &Shared, greeting: Greeting, secure: bool) -> Result<Next, End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut round = Round { shared, greeting, secure, style: Style::Simple, chosen: None, out: Vec::new() };
    for _ in 0..shared.limits.options {
        let (option, data) = round.receive(stream).await?;
        let next = round.answer(option, data.as_deref());
        stream.write_all(&round.out).await?;
        stream.flush().await?;
        round.out.clear();
        if let Some(next) = next? {
            return Ok(next);
        }
    }
    Err(End::protocol("too many options"))
}

/// The options of one connection, before TLS or under it.
struct Round<'a> {
    shared: &'a Shared,
    greeting: Greeting,
    secure: bool,
    style: Style,
    /// The export whose contexts were set, and whether ours is among them.
    chosen: Option<(Vec<u8>, bool)>,
    /// Replies that are not yet sent.
    out: Vec<u8>,
}

impl Round<'_> {
    /// The next option, without data if that is too long.
    async fn receive<S: AsyncRead + Unpin>(&self, stream: &mut S) -> Result<(u32, Option<Vec<u8>>), End> {
        let magic = stream.read_u64().await?;
        if magic != IHAVEOPT {
            return Err(End::protocol(format!("an option begins with {magic:#018x}")));
        }
        let option = stream.read_u32().await?;
        let len = stream.read_u32().await?;
        match len {
            0..=LONGEST_OPTION => {
                let mut data = vec![0; usize::try_from(len).unwrap_or_default()];
                stream.read_exact(&mut data).await?;
                Ok((option, Some(data)))
            }
            len if len <= LONGEST_SKIPPED => {
                let skipped = tokio::io::copy(&mut stream.take(len.into()), &mut tokio::io::sink()).await?;
                if skipped < u64::from(len) {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                }
                Ok((option, None))
            }
            _ => Err(End::protocol(format!("option {option} has {len} bytes"))),
        }
    }

    /// Appends the reply to an option; answers how the round ends, if it does.
    fn answer(&mut self, option: u32, data: Option<&[u8]>) -> Result<Option<Next>, End> {
        if !self.greeting.fixed && option != option::EXPORT_NAME {
            return Err(End::protocol("options without the flag FIXED_NEWSTYLE"));
        }
        let locked = self.shared.tls.is_some() && !self.secure;
        let Some(data) = data else {
            if option == option::EXPORT_NAME {
                return Err(End::protocol("a name that is too long"));
            }
            self.error(option, reply::ERR_TOO_BIG, "the option is too long");
            return Ok(None);
        };
        match option {
            option::ABORT => {
                self.reply(option, reply::ACK, &[]);
                return Ok(Some(Next::Over));
            }
            option::STARTTLS => return Ok(self.start_tls(data)),
            option::EXPORT_NAME if locked => return Err(End::protocol("clear text, where TLS is required")),
            _ if locked => self.error(option, reply::ERR_TLS_REQD, "TLS is required: begin with STARTTLS"),
            option::EXPORT_NAME => return self.export_name(data).map(Some),
            option::LIST => self.list(data),
            option::INFO | option::GO => return Ok(self.go(option, data)),
            option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => self.take_style(option, data),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(option, data),
            _ => self.error(option, reply::ERR_UNSUP, "the option is not known"),
        }
        Ok(None)
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) {
        self.out.extend_from_slice(&OPTION_REPLY.to_be_bytes());
        let len = u32::try_from(data.len()).unwrap_or(0); // at most two strings of the protocol
        for field in [option, kind, len] {
            self.out.extend_from_slice(&field.to_be_bytes());
        }
        self.out.extend_from_slice(data);
    }

    fn error(&mut self, option: u32, kind: u32, why: &str) {
        self.reply(option, kind, why.as_bytes());
    }

    fn invalid(&mut self, option: u32, why: &str) {
        self.error(option, reply::ERR_INVALID, why);
    }

    fn start_tls(&mut self, data: &[u8]) -> Option<Next> {
        let option = option::STARTTLS;
        match () {
            () if !data.is_empty() => self.invalid(option, "STARTTLS takes no data"),
            () if self.secure => self.invalid(option, "this is TLS already"),
            () if self.shared.tls.is_none() => self.error(option, reply::ERR_UNSUP, "this server has no certificate"),
            () => {
                self.reply(option, reply::ACK, &[]);
                return Some(Next::StartTls);
            }
        }
        None
    }

    fn take_style(&mut self, option: u32, data: &[u8]) {
        match () {
            () if !data.is_empty() => self.invalid(option, "the option takes no data"),
            () if self.style == Style::Extended && option == option::STRUCTURED_REPLY => {
                self.error(option, reply::ERR_EXT_HEADER_REQD, "extended headers are agreed on already");
            }
            () if option == option::EXTENDED_HEADERS => {
                self.style = Style::Extended;
                self.reply(option, reply::ACK, &[]);
            }
            () => {
                self.style = Style::Structured;
                self.reply(option, reply::ACK, &[]);
            }
        }
    }

    fn list(&mut self, data: &[u8]) {
        if !data.is_empty() {
            return self.invalid(option::LIST, "LIST takes no data");
        }
        let shared = self.shared;
        for entry in shared.exports.iter() {
            let len = u32::try_from(entry.name.len()).unwrap_or(0); // bounded when it was added
            let data = [&len.to_be_bytes(), entry.name.as_bytes(), entry.description.as_bytes()].concat();
            self.reply(option::LIST, reply::SERVER, &data);
        }
        self.reply(option::LIST, reply::ACK, &[]);
    }

    /// The oldest way to choose: it knows no errors but to hang up.
    fn export_name(&mut self, name: &[u8]) -> Result<Next, End> {
        if self.style == Style::Extended {
            return Err(End::protocol("EXPORT_NAME does not go with extended headers"));
        }
        let Some(agreed) = self.agree(name) else {
            return Err(End::protocol(format!("there is no export {:?}", String::from_utf8_lossy(name))));
        };
        self.out.extend_from_slice(&agreed.size.to_be_bytes());
        self.out.extend_from_slice(&agreed.flags.to_be_bytes());
        if !self.greeting.no_zeroes {
            self.out.extend_from_slice(&[0; 124]);
        }
        Ok(Next::Serve(agreed))
    }

    fn go(&mut self, option: u32, data: &[u8]) -> Option<Next> {
        let Some((name, wanted)) = infos(data) else {
            self.invalid(option, "lengths in the option contradict each other");
            return None;
        };
        let Some(agreed) = self.agree(name) else {
            self.unknown(option, name);
            return None;
        };
        let mut export = info::EXPORT.to_be_bytes().to_vec();
        export.extend_from_slice(&agreed.size.to_be_bytes());
        export.extend_from_slice(&agreed.flags.to_be_bytes());
        self.reply(option, reply::INFO, &export);
        if wanted.contains(&info::NAME) {
            let name = agreed.entry.name.as_bytes();
            self.reply(option, reply::INFO, &[&info::NAME.to_be_bytes(), name].concat());
        }
        if wanted.contains(&info::DESCRIPTION) && !agreed.entry.description.is_empty() {
            let text = agreed.entry.description.as_bytes();
            self.reply(option, reply::INFO, &[&info::DESCRIPTION.to_be_bytes(), text].concat());
        }
        if wanted.contains(&info::BLOCK_SIZE) {
            let most = self.shared.limits.payload;
            let preferred = agreed.entry.export.preferred_block().clamp(512, most);
            let mut sizes = info::BLOCK_SIZE.to_be_bytes().to_vec();
            [1, preferred, most].iter().for_each(|size| sizes.extend_from_slice(&size.to_be_bytes()));
            self.reply(option, reply::INFO, &sizes);
        }
        self.reply(option, reply::ACK, &[]);
        (option == option::GO).then_some(Next::Serve(agreed))
    }

    fn unknown(&mut self, option: u32, name: &[u8]) {
        let shown = String::from_utf8_lossy(name.get(..256).unwrap_or(name)).into_owned();
        self.error(option, reply::ERR_UNKNOWN, &format!("there is no export {shown:?}"));
    }

    fn agree(&self, name: &[u8]) -> Option<Agreed> {
        let entry = Arc::clone(self.shared.exports.find(name)?);
        // Contexts that were set for another export are void.
        let allocation = self.chosen.as_ref().is_some_and(|(export, granted)| export == name && *granted);
        let size = entry.export.disk().size().0;
        let mut flags = transmission::HAS_FLAGS
            | transmission::SEND_FLUSH
            | transmission::CAN_MULTI_CONN
            | transmission::SEND_CACHE;
        flags |= match entry.export.writer() {
            None => transmission::READ_ONLY,
            Some(_) => {
                transmission::SEND_FUA
                    | transmission::SEND_TRIM
                    | transmission::SEND_WRITE_ZEROES
                    | transmission::SEND_FAST_ZERO
            }
        };
        if self.style >= Style::Structured {
            flags |= transmission::SEND_DF;
        }
        Some(Agreed { entry, size, style: self.style, allocation, flags })
    }

    fn contexts(&mut self, option: u32, data: &[u8]) {
        let set = option == option::SET_META_CONTEXT;
        if set {
            self.chosen = None; // also by a request that fails
        }
        if self.style == Style::Simple {
            return self.invalid(option, "contexts need structured replies");
        }
        let Some((name, queries)) = queries(data) else {
            return self.invalid(option, "lengths in the option contradict each other");
        };
        if self.shared.exports.find(name).is_none() {
            return self.unknown(option, name);
        }
        let meant = |query: &&[u8]| *query == ALLOCATION.as_bytes() || (!set && *query == b"base:");
        let granted = queries.iter().any(meant) || (!set && queries.is_empty());
        if granted {
            let id = if set { ALLOCATION_ID } else { 0 };
            self.reply(option, reply::META_CONTEXT, &[&id.to_be_bytes(), ALLOCATION.as_bytes()].concat());
        }
        if set {
            self.chosen = Some((name.to_vec(), granted));
        }
        self.reply(option, reply::ACK, &[]);
    }
}
