//! One connection in transmission: many requests in flight, replies sorted to them by cookie.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::buffer::{Assembly, Pool, lost};
use super::export::{Export, Replies, Status};
use super::handshake::Opened;
use super::reply::{self, Body, Expect, Runs, Told};
use crate::constants::{EXTENDED_REQUEST, REQUEST, command, errno};
use crate::{Error, Family, Result};

/// Read at once from the socket: headers come in one go, and the rest of a payload goes past this buffer into its own.
const HEADERS: usize = 4 << 10;
/// Requests that are written at once.
const BATCH: usize = 64;
/// Payloads up to this length are copied beside their header, so that both leave in one packet.
const SMALL: usize = 16 << 10;
/// A request that others overtake again and again has this many timeouts.
const STARVED: u32 = 10;
/// The longest that saying good-bye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// What is asked of a server.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Read { at: u64, len: u32, flags: u16, pool: Option<Arc<Pool>> },
    Status { at: u64, len: u64, context: String },
    Write { at: u64, data: Bytes, flags: u16 },
    Other { command: u16, at: u64, len: u64, flags: u16 },
}

/// What a server answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Data(Bytes),
    Runs(Vec<Status>),
    Done,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection is gone; another one may do better.
    Lost(Error),
    /// The server answered an error, or what no other connection would change.
    Final(Error),
}

struct Pending {
    expect: Expect,
    told: Option<Told>,
    since: Instant,
    answer: oneshot::Sender<Result<Answer, Failure>>,
    _room: OwnedSemaphorePermit,
}

struct Outgoing {
    header: BytesMut,
    payload: Bytes,
}

#[derive(Default)]
struct Flights {
    pending: HashMap<u64, Pending>,
    next: u64,
    lost: Option<Error>,
    /// When the last reply was complete.
    progress: Option<Instant>,
    goodbye: bool,
}

#[derive(Default)]
struct Shared {
    flights: Mutex<Flights>,
    /// There is something to wait for, or nothing any more.
    changed: Notify,
}

/// A connection in transmission. It ends when it is dropped.
pub(crate) struct Link {
    export: Export,
    contexts: Vec<(u32, String)>,
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    queue: mpsc::UnboundedSender<Outgoing>,
    /// Its other end goes with the task.
    alive: watch::Receiver<()>,
}

impl Link {
    /// Takes a connection over. Its task ends with it.
    pub(crate) fn start(opened: Opened, in_flight: usize, timeout: Duration) -> Self {
        let (queue, outgoing) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let Opened { wire, export, contexts } = opened;
        let (reader, writer) = tokio::io::split(wire);
        let (living, alive) = watch::channel(());
        let task = Task { shared: shared.clone(), replies: export.replies, timeout, _living: living };
        tokio::spawn(task.run(BufReader::with_capacity(HEADERS, reader), writer, outgoing));
        Self { export, contexts, shared, room: Arc::new(Semaphore::new(in_flight)), queue, alive }
    }

    pub(crate) const fn export(&self) -> &Export {
        &self.export
    }

    /// Why the connection is lost, if it is.
    pub(crate) fn lost(&self) -> Option<Error> {
        self.shared.flights().lost.clone()
    }

    /// How many requests could be sent without waiting for others.
    pub(crate) fn room(&self) -> usize {
        self.room.available_permits()
    }

    /// Says good-bye, after what was sent before.
    pub(crate) fn goodbye(&self) {
        self.shared.flights().goodbye = true;
        self.shared.changed.notify_one();
    }

    /// Returns when the connection is closed, after a good-bye or a loss.
    pub(crate) async fn ended(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
    }

    /// Sends `request` as soon as there is room, and waits for its answer.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        let room = self.room.clone().acquire_owned().await;
        let room = room.map_err(|_| Failure::Lost(Error::new(Family::Io, "the connection is closed")))?;
        let (answer, answered) = oneshot::channel();
        self.send(request, answer, room)?;
        let gone = |_| Failure::Lost(Error::new(Family::Io, "the connection to the NBD server has ended"));
        answered.await.map_err(gone)?
    }

    fn send(
        &self,
        request: &Request,
        answer: oneshot::Sender<Result<Answer, Failure>>,
        room: OwnedSemaphorePermit,
    ) -> Result<(), Failure> {
        let expect = self.expect(request).map_err(Failure::Final)?;
        let mut flights = self.shared.flights();
        if let Some(error) = &flights.lost {
            return Err(Failure::Lost(error.clone()));
        }
        let cookie = flights.next;
        flights.next = flights.next.wrapping_add(1);
        let (header, payload) = self.encode(request, cookie).map_err(Failure::Final)?;
        let idle = flights.pending.is_empty();
        flights.pending.insert(cookie, Pending { expect, told: None, since: Instant::now(), answer, _room: room });
        // Under the lock: requests leave in the order of their cookies, and none after the connection was given up.
        if self.queue.send(Outgoing { header, payload }).is_err() {
            flights.pending.remove(&cookie);
            return Err(Failure::Lost(Error::new(Family::Io, "the connection to the NBD server has ended")));
        }
        drop(flights);
        if idle {
            self.shared.changed.notify_one();
        }
        Ok(())
    }

    fn expect(&self, request: &Request) -> Result<Expect> {
        Ok(match request {
            Request::Read { at, len, pool, .. } => Expect::Data(Assembly::new(*at, *len, pool.clone())),
            Request::Status { at, len, context } => {
                let number = self.contexts.iter().find(|(_, name)| name == context).map(|(number, _)| *number);
                let missing =
                    || Error::new(Family::NotFound, format!("the server has no context {context:?} for this export"));
                let granted = self.contexts.iter().map(|(number, _)| *number).collect();
                let context = number.ok_or_else(missing)?;
                Expect::Status(Runs { start: *at, len: *len, context, granted, seen: Vec::new(), found: Vec::new() })
            }
            Request::Write { .. } | Request::Other { .. } => Expect::Nothing,
        })
    }

    fn encode(&self, request: &Request, cookie: u64) -> Result<(BytesMut, Bytes)> {
        let (flags, kind, at, len, payload) = match request {
            Request::Read { at, len, flags, .. } => (*flags, command::READ, *at, u64::from(*len), Bytes::new()),
            Request::Status { at, len, .. } => (0, command::BLOCK_STATUS, *at, *len, Bytes::new()),
            Request::Write { at, data, flags } => (*flags, command::WRITE, *at, data.len() as u64, data.clone()),
            Request::Other { command, at, len, flags } => (*flags, *command, *at, *len, Bytes::new()),
        };
        let extended = self.export.replies == Replies::Extended;
        // "If extended headers are in use, PAYLOAD_LEN must be set for a write": the length is that of the payload.
        let flags = if extended && kind == command::WRITE {
            flags | crate::constants::command_flag::PAYLOAD_LEN
        } else {
            flags
        };
        let mut header = BytesMut::with_capacity(32);
        header.put_u32(if extended { EXTENDED_REQUEST } else { REQUEST });
        header.put_u16(flags);
        header.put_u16(kind);
        header.put_u64(cookie);
        header.put_u64(at);
        if extended {
            header.put_u64(len);
        } else {
            let narrow = u32::try_from(len);
            header.put_u32(
                narrow.map_err(|_| Error::usage(format!("a request for {len} bytes without extended headers")))?,
            );
        }
        Ok((header, payload))
    }
}

impl Shared {
    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next reply is due; `None` while none is.
    fn due(&self, timeout: Duration) -> Option<Instant> {
        let flights = self.flights();
        let oldest = flights.pending.values().map(|pending| pending.since).min()?;
        let next = flights.progress.map_or(oldest, |progress| progress.max(oldest)) + timeout;
        Some(next.min(oldest + timeout.saturating_mul(STARVED)))
    }

    /// Ends all that waits.
    fn fail(&self, error: &Error) {
        let waiting = {
            let mut flights = self.flights();
            flights.lost.get_or_insert_with(|| error.clone());
            std::mem::take(&mut flights.pending)
        };
        for pending in waiting.into_values() {
            let failure = match error.family() {
                Family::Io | Family::Timeout => Failure::Lost(error.clone()),
                _ => Failure::Final(error.clone()),
            };
            let _ = pending.answer.send(Err(failure)); // nobody may be waiting any more
        }
    }
}

/// What drives a connection.
struct Task {
    shared: Arc<Shared>,
    replies: Replies,
    timeout: Duration,
    _living: watch::Sender<()>,
}

impl Task {
    async fn run<R, W>(self, mut reader: BufReader<R>, mut writer: W, mut outgoing: mpsc::UnboundedReceiver<Outgoing>)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut whole = true; // no request is half written
        let error = tokio::select! {
            error = self.read_all(&mut reader) => error,
            error = write_all(&mut writer, &mut outgoing, &mut whole) => error,
            error = self.watch() => error,
        };
        let stopped = error.family() != Family::Io || self.shared.flights().goodbye;
        self.shared.fail(&error);
        if whole && stopped {
            let _ = tokio::time::timeout(GOODBYE, disconnect(&mut writer, self.replies)).await;
        }
    }

    /// Replies, until something is wrong.
    async fn read_all<R: AsyncRead + Unpin>(&self, reader: &mut R) -> Error {
        loop {
            if let Err(error) = self.read_one(reader).await {
                return error;
            }
        }
    }

    async fn read_one<R: AsyncRead + Unpin>(&self, reader: &mut R) -> Result<()> {
        let header = reply::header(reader, self.replies).await?;
        let cookie = header.cookie;
        // The rest of the entry stays, so that the clock of the request goes on.
        let mut expect = {
            let mut flights = self.shared.flights();
            let pending = flights.pending.get_mut(&cookie);
            let pending =
                pending.ok_or_else(|| Error::protocol(format!("a reply with the unknown cookie {cookie:#x}")))?;
            std::mem::replace(&mut pending.expect, Expect::Nothing)
        };
        let (told, done) = match header.body {
            Body::Simple { error } => (simple(reader, error, &mut expect, self.replies).await?, true),
            Body::Chunk { kind, done, len } => {
                (reply::payload(reader, (kind, done, len), &mut expect, self.replies).await?, done)
            }
        };
        let shutdown = told.as_ref().is_some_and(|told| told.number == errno::ESHUTDOWN);
        let mut flights = self.shared.flights();
        let Some(pending) = flights.pending.get_mut(&cookie) else { return Ok(()) };
        pending.expect = expect;
        pending.told = pending.told.take().or(told);
        if shutdown {
            // "If the client receives an ESHUTDOWN error it MUST initiate a soft disconnect."
            flights.goodbye = true;
            return Err(Error::new(Family::Io, "the NBD server is shutting down"));
        }
        if done && let Some(pending) = flights.pending.remove(&cookie) {
            flights.progress = Some(Instant::now());
            drop(flights);
            pending.finish()?;
        }
        Ok(())
    }

    /// Ends when a reply is overdue, or when nothing is waited for any more and good-bye was said.
    async fn watch(&self) -> Error {
        loop {
            let due = self.shared.due(self.timeout);
            let goodbye = self.shared.flights().goodbye;
            match due {
                _ if goodbye => return Error::new(Family::Io, "the connection was closed"),
                None => self.shared.changed.notified().await,
                Some(due) if due <= Instant::now() => {
                    let what = format!("the NBD server has not answered for {:?}", self.timeout);
                    return Error::new(Family::Timeout, what);
                }
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.shared.changed.notified() => {}
                },
            }
        }
    }
}

impl Pending {
    /// Gives the answer to who asked; what is missing in it ends the connection.
    fn finish(self) -> Result<()> {
        let answer = match (self.told, self.expect) {
            (Some(told), _) => Err(Failure::Final(Error::answered(told.number, &told.message))),
            (None, Expect::Data(data)) => match data.finish() {
                Ok(bytes) => Ok(Answer::Data(bytes)),
                Err(error) => {
                    let _ = self.answer.send(Err(Failure::Final(error.clone())));
                    return Err(error);
                }
            },
            (None, Expect::Status(runs)) if runs.found.is_empty() => {
                let error = Error::protocol("a reply to a block status without a run of the context");
                let _ = self.answer.send(Err(Failure::Final(error.clone())));
                return Err(error);
            }
            (None, Expect::Status(runs)) => Ok(Answer::Runs(runs.found)),
            (None, Expect::Nothing) => Ok(Answer::Done),
        };
        let _ = self.answer.send(answer); // nobody may be waiting any more
        Ok(())
    }
}

/// The rest of a simple reply.
async fn simple<R: AsyncRead + Unpin>(
    reader: &mut R,
    error: u32,
    expect: &mut Expect,
    replies: Replies,
) -> Result<Option<Told>> {
    match expect {
        Expect::Data(data) if replies == Replies::Simple => {
            if error == 0 {
                let (at, len) = (data.start(), data.len() as u64);
                data.fill(at, len, reader).await?;
            }
        }
        Expect::Data(_) => {
            return Err(Error::protocol("a simple reply to a read, after structured replies were agreed on"));
        }
        Expect::Status(_) if error == 0 => return Err(Error::protocol("a simple reply to a block status")),
        Expect::Status(_) | Expect::Nothing => {}
    }
    Ok((error != 0).then(|| Told { number: error, message: String::new() }))
}

/// Requests as they come, many in one packet. `whole` is false while a request is half written.
async fn write_all<W: AsyncWrite + Unpin>(
    writer: &mut W,
    outgoing: &mut mpsc::UnboundedReceiver<Outgoing>,
    whole: &mut bool,
) -> Error {
    let mut packet = BytesMut::new();
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        if outgoing.recv_many(&mut batch, BATCH).await == 0 {
            return Error::new(Family::Usage, "the client was dropped");
        }
        *whole = false;
        for Outgoing { header, payload } in batch.drain(..) {
            packet.extend_from_slice(&header);
            if payload.len() <= SMALL {
                packet.extend_from_slice(&payload);
            } else {
                let written = async {
                    writer.write_all(&packet).await?;
                    writer.write_all(&payload).await
                };
                if let Err(e) = written.await {
                    return lost(e);
                }
                packet.clear();
            }
        }
        let written = async {
            writer.write_all(&packet).await?;
            writer.flush().await
        };
        if let Err(e) = written.await {
            return lost(e);
        }
        packet.clear();
        *whole = true;
    }
}

/// `NBD_CMD_DISC`.
async fn disconnect<W: AsyncWrite + Unpin>(writer: &mut W, replies: Replies) -> std::io::Result<()> {
    let mut header = BytesMut::with_capacity(32);
    header.put_u32(if replies == Replies::Extended { EXTENDED_REQUEST } else { REQUEST });
    header.put_u16(0);
    header.put_u16(command::DISC);
    header.put_bytes(0, if replies == Replies::Extended { 24 } else { 20 });
    writer.write_all(&header).await?;
    writer.shutdown().await
}
