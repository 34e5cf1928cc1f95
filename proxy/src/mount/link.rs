//! The disks of another process: the one that holds the network and the passwords keeps them, and hands out bytes over socket pairs. The
//! one that reads what a guest wrote then needs neither.
//!
//! Numbers are little-endian. The keeper begins with `SFL1`, the number of disks (32 bits) and the size of each (64 bits). A request has 24
//! bytes: kind (1 bytes, 2 extent), disk, length (32 bits each), 4 bytes of zeros, offset (64 bits). An answer has a status and the length of
//! what follows (32 bits each): 0 and the bytes, or 0 and an extent (length 64 bits, kind 32 bits), or an error's family and its text.
//! Each connection carries one request at a time; several connections carry as many.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, ReadAt, ReadError};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use crate::error::{Context, Error, Family, Result};

const MAGIC: [u8; 4] = *b"SFL1";
const BYTES: u32 = 1;
const EXTENT: u32 = 2;
/// What one request may ask for: larger reads are several.
const MOST_BYTES: u32 = 1 << 20;
/// A VM has at most some hundred disks.
const MOST_DISKS: u32 = 1024;
/// The text of an error is cut here.
const MOST_TEXT: usize = 4096;
const REQUEST: usize = 24;
/// Connections that are handed over at once: requests in flight.
pub const MOST_STREAMS: usize = 16;

const OK: u32 = 0;
const IO: u32 = 1;
const CORRUPT: u32 = 2;
const UNSUPPORTED: u32 = 3;
const OUT_OF_RANGE: u32 = 4;

struct Request {
    kind: u32,
    disk: u32,
    len: u32,
    offset: u64,
}

impl Request {
    fn bytes(&self) -> [u8; REQUEST] {
        let mut bytes = [0; REQUEST];
        for (at, field) in [(0, self.kind), (4, self.disk), (8, self.len)] {
            bytes[at..at + 4].copy_from_slice(&field.to_le_bytes());
        }
        bytes[16..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    fn of(bytes: &[u8; REQUEST]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let offset = u64::from(u32_at(16)) | (u64::from(u32_at(20)) << 32);
        Self { kind: u32_at(0), disk: u32_at(4), len: u32_at(8), offset }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Answers the requests of one connection until the other side closes it.
///
/// # Errors
/// What the connection says; and a request that breaks the rules ends it.
pub fn serve_disks(mut stream: UnixStream, disks: &[Arc<dyn ReadAt>]) -> io::Result<()> {
    let count = u32::try_from(disks.len()).ok().filter(|count| *count <= MOST_DISKS);
    let count = count.ok_or_else(|| invalid("too many disks"))?;
    let mut head = [&MAGIC[..], &count.to_le_bytes()].concat();
    head.extend(disks.iter().flat_map(|disk| disk.size().0.to_le_bytes()));
    stream.write_all(&head)?;
    let mut buf = Vec::new();
    loop {
        let mut request = [0; REQUEST];
        if stream.read(&mut request[..1])? == 0 {
            return Ok(());
        }
        stream.read_exact(&mut request[1..])?;
        let request = Request::of(&request);
        let disk = usize::try_from(request.disk).ok().and_then(|index| disks.get(index));
        let disk = disk.ok_or_else(|| invalid("a disk that is not there was asked for"))?;
        let status = match answer(disk.as_ref(), &request, &mut buf)? {
            Ok(()) => OK,
            Err(error) => {
                buf = text_of(&error);
                status_of(&error)
            }
        };
        let len = u32::try_from(buf.len()).map_err(|_| invalid("an answer that is too long"))?;
        stream.write_all(&[status.to_le_bytes(), len.to_le_bytes()].concat())?;
        stream.write_all(&buf)?;
    }
}

fn answer(disk: &dyn ReadAt, request: &Request, buf: &mut Vec<u8>) -> io::Result<Result<(), ReadError>> {
    let at = ByteOffset(request.offset);
    buf.clear();
    match request.kind {
        BYTES if request.len <= MOST_BYTES => {
            buf.resize(usize::try_from(request.len).map_err(|_| invalid("length"))?, 0);
            Ok(disk.read_exact_at(at, buf))
        }
        EXTENT => Ok(disk.extent_at(at).map(|extent| {
            buf.extend(extent.len.0.to_le_bytes());
            buf.extend(extent_code(extent.kind).to_le_bytes());
        })),
        _ => Err(invalid("a request that is not known or too long")),
    }
}

const fn extent_code(kind: ExtentKind) -> u32 {
    match kind {
        ExtentKind::Data => 0,
        ExtentKind::Zero => 1,
        ExtentKind::Hole => 2,
    }
}

fn status_of(error: &ReadError) -> u32 {
    match error {
        ReadError::Corrupt { .. } => CORRUPT,
        ReadError::Unsupported { .. } => UNSUPPORTED,
        ReadError::OutOfRange { .. } => OUT_OF_RANGE,
        _ => IO,
    }
}

/// What the disk said, without the place, which the other side adds.
fn text_of(error: &ReadError) -> Vec<u8> {
    let text = match std::error::Error::source(error) {
        Some(cause) => super::errors::whole_text(cause),
        None => error.to_string(),
    };
    let mut end = text.len().min(MOST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

/// Hands connections to the process at the other end of `over`, in one message of one byte.
///
/// # Errors
/// What `over` says; more than [`MOST_STREAMS`] are refused.
pub fn send_streams(over: &UnixStream, streams: &[UnixStream]) -> io::Result<()> {
    let count = u8::try_from(streams.len()).map_err(|_| invalid("too many connections"))?;
    let fds: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_STREAMS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(invalid("too many connections"));
    }
    sendmsg(over, &[IoSlice::new(&[count])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes what [`send_streams`] hands over.
///
/// # Errors
/// What `over` says, or if some of them did not arrive.
pub fn receive_streams(over: &UnixStream) -> io::Result<Vec<UnixStream>> {
    let mut count = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_STREAMS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(over, &mut [IoSliceMut::new(&mut count)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut streams = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            streams.extend(fds.map(UnixStream::from));
        }
    }
    if got.bytes != 1 || streams.len() != usize::from(count[0]) {
        return Err(invalid("connections got lost on the way"));
    }
    Ok(streams)
}

/// The reading side of all connections to one keeper.
struct Link {
    pool: Mutex<Pool>,
    free: Condvar,
}

struct Pool {
    idle: Vec<UnixStream>,
    /// Why there will never be an answer again.
    broken: Option<String>,
}

/// Takes over connections to a keeper; answers its disks.
///
/// # Errors
/// [`Family::Failed`] if there is none, or they contradict each other.
pub fn disks(streams: Vec<UnixStream>) -> Result<Vec<Arc<dyn ReadAt>>> {
    let what = || "cannot talk to the process that keeps the disks".to_owned();
    let mut idle = Vec::new();
    let mut sizes = None;
    for mut stream in streams {
        let told = read_head(&mut stream).failed(what)?;
        if sizes.get_or_insert_with(|| told.clone()) != &told {
            return Err(Error::new(Family::Failed, "connections to the keeper of the disks differ"));
        }
        idle.push(stream);
    }
    let sizes = sizes.ok_or_else(|| Error::new(Family::Failed, what()))?;
    let link = Arc::new(Link { pool: Mutex::new(Pool { idle, broken: None }), free: Condvar::new() });
    let disk = |(size, number): (u64, u32)| {
        Arc::new(LinkedDisk { link: Arc::clone(&link), number, size: ByteLen(size) }) as Arc<dyn ReadAt>
    };
    Ok(sizes.into_iter().zip(0..).map(disk).collect())
}

fn read_head(stream: &mut UnixStream) -> io::Result<Vec<u64>> {
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let [a, b, c, d, count @ ..] = head;
    let count = u32::from_le_bytes(count);
    if [a, b, c, d] != MAGIC || count > MOST_DISKS {
        return Err(invalid("this is no keeper of disks"));
    }
    let size = |_| {
        let mut size = [0; 8];
        stream.read_exact(&mut size).map(|()| u64::from_le_bytes(size))
    };
    (0..count).map(size).collect()
}

impl Link {
    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request over a connection that is free, and gives back status and answer. What goes wrong with a connection goes wrong for
    /// ever: an answer that was not read to its end would be taken for the next one's.
    fn ask(&self, request: &Request, answer: &mut Vec<u8>) -> io::Result<u32> {
        let mut pool = self.pool();
        let mut stream = loop {
            if let Some(why) = &pool.broken {
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, why.clone()));
            }
            match pool.idle.pop() {
                Some(stream) => break stream,
                None => pool = self.free.wait(pool).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(pool);
        let result = exchange(&mut stream, request, answer);
        let mut pool = self.pool();
        match &result {
            Ok(_) => pool.idle.push(stream),
            Err(error) => pool.broken = Some(format!("the process that keeps the disks is gone: {error}")),
        }
        if result.is_ok() {
            self.free.notify_one()
        } else {
            self.free.notify_all()
        }
        result
    }
}

fn exchange(stream: &mut UnixStream, request: &Request, answer: &mut Vec<u8>) -> io::Result<u32> {
    stream.write_all(&request.bytes())?;
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let [s0, s1, s2, s3, len @ ..] = head;
    let (status, len) = (u32::from_le_bytes([s0, s1, s2, s3]), u32::from_le_bytes(len));
    let fits = match (status, request.kind) {
        (OK, BYTES) => len == request.len,
        (OK, _) => len == 12,
        _ => usize::try_from(len).is_ok_and(|len| len <= MOST_TEXT),
    };
    if !fits {
        return Err(invalid("an answer of the wrong length"));
    }
    answer.resize(usize::try_from(len).map_err(|_| invalid("length"))?, 0);
    stream.read_exact(answer)?;
    Ok(status)
}

/// A disk that another process keeps.
struct LinkedDisk {
    link: Arc<Link>,
    number: u32,
    size: ByteLen,
}

impl LinkedDisk {
    fn ask(&self, kind: u32, at: ByteOffset, len: u32) -> Result<Vec<u8>, ReadError> {
        let request = Request { kind, disk: self.number, len, offset: at.0 };
        let mut answer = Vec::new();
        let status = self.link.ask(&request, &mut answer).map_err(|source| ReadError::Io { at, source })?;
        if status == OK {
            return Ok(answer);
        }
        let text = String::from_utf8_lossy(&answer).into_owned();
        Err(match status {
            CORRUPT => ReadError::Corrupt { at, source: text.into() },
            UNSUPPORTED => ReadError::Unsupported { at, source: text.into() },
            OUT_OF_RANGE => ReadError::OutOfRange { at, len: ByteLen(len.into()), size: self.size },
            _ => ReadError::Io { at, source: io::Error::other(text) },
        })
    }

    fn check(&self, at: ByteOffset, len: ByteLen) -> Result<(), ReadError> {
        match at.checked_add(len) {
            Some(end) if end.0 <= self.size.0 => Ok(()),
            _ => Err(ReadError::OutOfRange { at, len, size: self.size }),
        }
    }
}

impl ReadAt for LinkedDisk {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.check(at, ByteLen::of(buf))?;
        let mut at = at;
        for piece in buf.chunks_mut(1 << 20) {
            let len = u32::try_from(piece.len()).unwrap_or(MOST_BYTES);
            piece.copy_from_slice(&self.ask(BYTES, at, len)?); // its length was checked
            at = ByteOffset(at.0.saturating_add(len.into()));
        }
        Ok(())
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        self.check(at, ByteLen(1))?;
        let answer = self.ask(EXTENT, at, 0)?;
        let bad = || ReadError::Io { at, source: invalid("an extent that cannot be") };
        let (len, code) = answer.split_first_chunk::<8>().ok_or_else(bad)?;
        let kind = match code {
            [0, 0, 0, 0] => ExtentKind::Data,
            [1, 0, 0, 0] => ExtentKind::Zero,
            [2, 0, 0, 0] => ExtentKind::Hole,
            _ => return Err(bad()),
        };
        let left = self.size.0.saturating_sub(at.0);
        match u64::from_le_bytes(*len) {
            len if (1..=left).contains(&len) => Ok(Extent { start: at, len: ByteLen(len), kind }),
            _ => Err(bad()),
        }
    }
}
