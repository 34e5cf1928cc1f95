//! A server by script: what it says, and how much it hears before that. It can say anything, also what no server should.

use std::time::Duration;

use nbd::{Client, Error, Options, Retry};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// One thing that the server does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Takes that many bytes from the client.
    Hear(usize),
    /// Says these.
    Say(Vec<u8>),
    /// Says one byte again and again, with a wait before each.
    Drip(Duration, u8),
    /// Says these again and again.
    Forever(Vec<u8>),
    /// Says and hears nothing more, but stays.
    Hang,
}
use Step::{Drip, Forever, Hang, Hear, Say};

pub(crate) const EXTENDED: u32 = 11;
pub(crate) const STRUCTURED: u32 = 8;
pub(crate) const SET_META_CONTEXT: u32 = 10;
pub(crate) const GO: u32 = 7;
pub(crate) const ACK: u32 = 1;
pub(crate) const INFO: u32 = 3;
pub(crate) const META_CONTEXT: u32 = 4;
pub(crate) const UNSUP: u32 = 0x8000_0001;
/// `NBD_FLAG_HAS_FLAGS`, `READ_ONLY`, `SEND_DF`.
pub(crate) const FLAGS: u16 = 1 | 2 | 128;
/// Bytes of an export in these tests.
pub(crate) const SIZE: u64 = 1 << 20;
/// The number of `base:allocation`.
pub(crate) const CONTEXT: u32 = 7;

/// How the scripted server frames its replies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Framing {
    Simple,
    Structured,
    Extended,
}

pub(crate) fn greeting() -> Vec<u8> {
    [&b"NBDMAGICIHAVEOPT"[..], &[0, 3]].concat()
}

/// A reply to an option.
pub(crate) fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let fields = [option.to_be_bytes(), kind.to_be_bytes(), (data.len() as u32).to_be_bytes()].concat();
    [&0x0003_e889_0455_65a9_u64.to_be_bytes()[..], &fields, data].concat()
}

pub(crate) fn info_export(size: u64, flags: u16) -> Vec<u8> {
    [&[0, 0][..], &size.to_be_bytes(), &flags.to_be_bytes()].concat()
}

/// The greeting, and options up to framing. `OPT_GO` comes next, or a context.
pub(crate) fn framed(framing: Framing) -> Vec<Step> {
    let mut steps = vec![Say(greeting()), Hear(4), Hear(16)];
    let answer = |granted: bool| if granted { ACK } else { UNSUP };
    steps.push(Say(reply(EXTENDED, answer(framing == Framing::Extended), &[])));
    if framing != Framing::Extended {
        steps.push(Hear(16));
        steps.push(Say(reply(STRUCTURED, answer(framing == Framing::Structured), &[])));
    }
    steps
}

/// What the client sends to ask for the context `base:allocation` of the export without a name.
pub(crate) const CONTEXT_OPTION: usize = 16 + 4 + 4 + 4 + 15;
/// What it sends with `OPT_GO`.
pub(crate) const GO_OPTION: usize = 16 + 4 + 2 + 6;

/// All up to transmission.
pub(crate) fn handshake(framing: Framing, size: u64, flags: u16) -> Vec<Step> {
    let mut steps = framed(framing);
    if framing != Framing::Simple {
        let context = [&CONTEXT.to_be_bytes()[..], b"base:allocation"].concat();
        steps.push(Hear(CONTEXT_OPTION));
        steps.push(Say([reply(SET_META_CONTEXT, META_CONTEXT, &context), reply(SET_META_CONTEXT, ACK, &[])].concat()));
    }
    steps.push(Hear(GO_OPTION));
    steps.push(Say([reply(GO, INFO, &info_export(size, flags)), reply(GO, ACK, &[])].concat()));
    steps
}

/// The length of a request without payload.
pub(crate) fn request(framing: Framing) -> Step {
    Hear(if framing == Framing::Extended { 32 } else { 28 })
}

/// A chunk of a structured reply.
pub(crate) fn chunk(framing: Framing, cookie: u64, (done, kind): (bool, u16), payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u64;
    let fields = [u16::from(done).to_be_bytes(), kind.to_be_bytes()].concat();
    match framing {
        Framing::Extended => {
            let lens = [0_u64.to_be_bytes(), len.to_be_bytes()].concat();
            [&0x6e8a_278c_u32.to_be_bytes()[..], &fields, &cookie.to_be_bytes(), &lens, payload].concat()
        }
        _ => [&0x668e_33ef_u32.to_be_bytes()[..], &fields, &cookie.to_be_bytes(), &(len as u32).to_be_bytes(), payload]
            .concat(),
    }
}

/// The payload of `OFFSET_DATA`.
pub(crate) fn data(at: u64, bytes: &[u8]) -> Vec<u8> {
    [&at.to_be_bytes()[..], bytes].concat()
}

pub(crate) fn simple(error: u32, cookie: u64, bytes: &[u8]) -> Vec<u8> {
    [&0x6744_6698_u32.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes(), bytes].concat()
}

/// Does what the script says, then leaves.
pub(crate) async fn play<S>(steps: Vec<Step>, mut stream: S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    for step in steps {
        let went = match step {
            Hear(len) => stream.read_exact(&mut vec![0; len]).await.map(drop),
            Say(bytes) => stream.write_all(&bytes).await,
            Forever(bytes) => loop {
                if let Err(e) = stream.write_all(&bytes).await {
                    break Err(e);
                }
            },
            Drip(wait, byte) => loop {
                tokio::time::sleep(wait).await;
                if let Err(e) = stream.write_all(&[byte]).await {
                    break Err(e);
                }
            },
            Hang => std::future::pending().await,
        };
        if went.is_err() {
            return; // the client has left
        }
    }
    let _ = stream.shutdown().await;
}

/// Our end of a connection to such a server.
pub(crate) fn serve(steps: Vec<Step>) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    tokio::spawn(play(steps, theirs));
    ours
}

pub(crate) fn options() -> Options {
    Options { timeout: Duration::from_secs(5), retry: Retry::NEVER, ..Options::default() }
}

/// A client of such a server.
pub(crate) async fn connect(steps: Vec<Step>) -> Result<Client, Error> {
    Client::over(serve(steps), "", &options()).await
}

/// A client of a server that is right up to here, and then plays `rest`.
pub(crate) async fn opened(framing: Framing, rest: Vec<Step>) -> Client {
    connect([handshake(framing, SIZE, FLAGS), rest].concat()).await.unwrap()
}
