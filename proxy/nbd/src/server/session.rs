//! The transmission phase of one connection: requests are read one after the other, done side by side, and answered as they end.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::Shared;
use super::end::End;
use super::handshake::Agreed;
use super::reply;
use super::request::{Refusal, Request, check, header_len};
use super::work::{Answer, perform};
use crate::constants::{command, errno};

/// Headers are read this far ahead. Data of writes goes past the buffer.
const READ_AHEAD: usize = 32 << 10;
/// What a request counts for that carries no data: its answer may have so many bytes.
const SMALL: u32 = 4 << 10;
/// A write that is too long, and its data, are passed over up to this length.
const LONGEST_SKIPPED: u64 = 64 << 20;

/// An answer on its way, and what it holds of the limits until it is sent.
struct Outgoing {
    pieces: Vec<Bytes>,
    _held: Held,
}

/// A request's share of what a connection, and the server, may have under way.
#[derive(Default)]
struct Held(#[expect(dead_code, reason = "held until it is dropped")] Vec<OwnedSemaphorePermit>);

/// Serves an export until the client has had enough.
pub(super) async fn serve<S>(stream: S, shared: &Arc<Shared>, agreed: Agreed) -> Result<(), End>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (read_half, write_half) = tokio::io::split(stream);
    let (replies, queue) = mpsc::unbounded_channel(); // bounded by what is held
    let mut writing = tokio::spawn(write_replies(write_half, queue, shared.limits.stalled));
    let mut session = Session {
        reader: BufReader::with_capacity(READ_AHEAD, read_half),
        requests: Arc::new(Semaphore::new(shared.limits.requests)),
        bytes: Arc::new(Semaphore::new(usize::try_from(shared.limits.connection_bytes).unwrap_or(usize::MAX))),
        shared: Arc::clone(shared),
        agreed: Arc::new(agreed),
        replies,
        stop: shared.stop.subscribe(),
    };
    let read = session.read_requests().await;
    // Those under way hold the other ends of the queue: when the last is answered, the writer ends.
    drop(session);
    match timeout(shared.limits.drain, &mut writing).await {
        Ok(Ok(written)) => read.and(written.map_err(End::from)),
        Ok(Err(_)) => read.and(Err(End::Stuck)),
        Err(_) => {
            writing.abort();
            read.and(Err(End::Stuck))
        }
    }
}

struct Session<R> {
    reader: BufReader<R>,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    shared: Arc<Shared>,
    agreed: Arc<Agreed>,
    replies: mpsc::UnboundedSender<Outgoing>,
    stop: watch::Receiver<bool>,
}

/// What to do about the next request.
enum Begun {
    Request,
    /// The server stops.
    Stopping,
    Ended,
}

impl<R: AsyncRead + Unpin> Session<R> {
    async fn read_requests(&mut self) -> Result<(), End> {
        loop {
            match self.begun().await? {
                Begun::Request => {}
                Begun::Stopping => return self.turn_away().await,
                Begun::Ended => return Ok(()),
            }
            let Some(request) = self.receive().await? else { return Ok(()) };
            self.handle(request).await?;
        }
    }

    /// Waits for the first byte of a request.
    async fn begun(&mut self) -> Result<Begun, End> {
        if !self.reader.buffer().is_empty() && !*self.stop.borrow() {
            return Ok(Begun::Request);
        }
        loop {
            let idle = self.shared.limits.idle;
            let first = async {
                match idle {
                    Some(longest) => timeout(longest, self.reader.fill_buf()).await.map_err(|_| ()),
                    None => Ok(self.reader.fill_buf().await),
                }
            };
            let first = tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => return Ok(Begun::Stopping),
                () = self.replies.closed() => return Ok(Begun::Ended), // the writer knows why
                first = first => first,
            };
            match first {
                Ok(bytes) => return Ok(if bytes?.is_empty() { Begun::Ended } else { Begun::Request }),
                Err(()) if self.requests.available_permits() == self.shared.limits.requests => {
                    return Err(End::Slow("no request came"));
                }
                Err(()) => {} // it waits for answers
            }
        }
    }

    /// Reads the header of a request that has begun; `None` if the client takes its leave.
    async fn receive(&mut self) -> Result<Option<Request>, End> {
        let style = self.agreed.style;
        let mut header = [0; 32];
        let header = header.get_mut(..header_len(style)).unwrap_or_default();
        let read = timeout(self.shared.limits.stalled, self.reader.read_exact(header)).await;
        read.map_err(|_| End::Slow("a request stopped in its middle"))??;
        let request = Request::parse(style, header)
            .ok_or_else(|| End::protocol(format!("{:02x?} is no request", header.get(..4).unwrap_or_default())))?;
        Ok((request.command != command::DISC).then_some(request))
    }

    /// Checks a request, takes its data, and has it done.
    async fn handle(&mut self, request: Request) -> Result<(), End> {
        let limits = &self.shared.limits;
        let style = self.agreed.style;
        let payload = request.payload(style);
        if let Err(refusal) = check(&request, &self.agreed, limits.payload) {
            self.skip(payload).await?;
            return self.refuse(&request, refusal).await;
        }
        let counted = match request.command {
            command::READ | command::WRITE => u32::try_from(request.len).unwrap_or(u32::MAX).max(SMALL),
            _ => SMALL,
        };
        let Some(held) = self.hold(counted).await else { return Ok(()) };
        let mut data = Vec::new();
        if payload > 0 {
            data.resize(usize::try_from(payload).unwrap_or_default(), 0); // a write, whose length was checked
            self.fill(&mut data).await?;
        }
        let thread = Arc::clone(&self.shared.threads).acquire_owned().await;
        let (agreed, replies) = (Arc::clone(&self.agreed), self.replies.clone());
        tokio::task::spawn_blocking(move || {
            // A client must not wait for ever because an export is faulty.
            let work = AssertUnwindSafe(|| perform(&*agreed.entry.export, &request, style, &data));
            let answer = catch_unwind(work).unwrap_or_else(|_| {
                Answer::Refused(Refusal::new(errno::EIO, "the server has a fault, which its log describes"))
            });
            drop(thread);
            let pieces = reply::encode(&request, style, answer);
            let _ = replies.send(Outgoing { pieces, _held: held }); // a writer that is gone has told why
        });
        Ok(())
    }

    /// Waits until a request of so many bytes may be under way; `None` when nobody writes answers any more.
    async fn hold(&self, bytes: u32) -> Option<Held> {
        let wait = async {
            let request = Arc::clone(&self.requests).acquire_owned().await.ok()?;
            let own = Arc::clone(&self.bytes).acquire_many_owned(bytes).await.ok()?;
            let all = Arc::clone(&self.shared.bytes).acquire_many_owned(bytes).await.ok()?;
            Some(Held(vec![request, own, all]))
        };
        tokio::select! {
            held = wait => held,
            () = self.replies.closed() => None,
        }
    }

    async fn refuse(&self, request: &Request, refusal: Refusal) -> Result<(), End> {
        tracing::debug!("command {} is refused: {}", request.command, refusal.why);
        if let Some(held) = self.hold(SMALL).await {
            let pieces = reply::encode(request, self.agreed.style, Answer::Refused(refusal));
            let _ = self.replies.send(Outgoing { pieces, _held: held }); // see above
        }
        Ok(())
    }

    /// Reads the data of a write; something must come in time, again and again.
    async fn fill(&mut self, mut data: &mut [u8]) -> Result<(), End> {
        while !data.is_empty() {
            let read = timeout(self.shared.limits.stalled, self.reader.read(data)).await;
            let read = read.map_err(|_| End::Slow("data of a write stopped in its middle"))??;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            data = data.get_mut(read..).unwrap_or_default();
        }
        Ok(())
    }

    /// Passes over the data of a request that is refused.
    async fn skip(&mut self, len: u64) -> Result<(), End> {
        if len > LONGEST_SKIPPED {
            return Err(End::protocol(format!("{len} bytes of data in one request")));
        }
        let mut left = usize::try_from(len).unwrap_or_default();
        let mut waste = vec![0; left.min(16 << 10)];
        while left > 0 {
            let next = left.min(waste.len());
            self.fill(waste.get_mut(..next).unwrap_or_default()).await?;
            left = left.saturating_sub(next);
        }
        Ok(())
    }

    /// The server stops: for a while requests are answered by ESHUTDOWN, so that clients know.
    async fn turn_away(&mut self) -> Result<(), End> {
        let end = Instant::now().checked_add(self.shared.limits.grace);
        let end = end.unwrap_or_else(Instant::now);
        loop {
            match timeout_at(end, self.reader.fill_buf()).await {
                Ok(Ok(bytes)) if !bytes.is_empty() => {}
                _ => return Ok(()),
            }
            let Some(request) = self.receive().await? else { return Ok(()) };
            self.skip(request.payload(self.agreed.style)).await?;
            self.refuse(&request, Refusal::new(errno::ESHUTDOWN, "the server stops")).await?;
        }
    }
}

/// Sends answers as they come. A client that takes none for too long loses its connection.
async fn write_replies<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
    stalled: Duration,
) -> io::Result<()> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the client takes no answers");
    while let Some(outgoing) = queue.recv().await {
        let mut pieces = outgoing.pieces.into_iter().peekable();
        while let Some(head) = pieces.next() {
            // A head and its data go out together where the stream can do that.
            let data = if head.len() < 64 { pieces.next_if(|next| next.len() >= 64) } else { None };
            let mut both = head.chain(data.unwrap_or_default());
            while both.has_remaining() {
                if timeout(stalled, writer.write_buf(&mut both)).await.map_err(|_| late())?? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
        }
        if queue.is_empty() {
            timeout(stalled, writer.flush()).await.map_err(|_| late())??;
        }
    }
    timeout(stalled, writer.shutdown()).await.map_err(|_| late())?
}
