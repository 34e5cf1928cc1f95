//! The connections of a client: opened, chosen by room, and opened again when they are lost.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::dial::{Dial, Wire};
use super::export::Export;
use super::handshake;
use super::link::{Answer, Failure, Link, Request};
use super::{Options, within};
use crate::{Error, Family, Result};

/// How long the connections after the first may take: a server with a limit on clients lets more connect, and never answers.
const EXTRA: Duration = Duration::from_secs(2);

/// How long a connection that could not be opened again is left alone, while there are others.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// All connections to one export.
pub(crate) struct Slots {
    dial: Option<Dial>,
    pub(crate) options: Options,
    pub(crate) export: Export,
    slots: Vec<Slot>,
    turn: AtomicUsize,
    closed: AtomicBool,
    /// Writes that were acknowledged, and how many of them a flush covers.
    writes: AtomicU64,
    flushed: AtomicU64,
    /// A connection was lost while they differed.
    suspect: AtomicBool,
}

struct Slot {
    link: Mutex<Arc<Link>>,
    /// Held by who connects again.
    again: tokio::sync::Mutex<()>,
    /// The last failure of that, and when it was.
    failed: Mutex<Option<(Instant, Error)>>,
}

impl Slot {
    fn new(link: Link) -> Self {
        Self { link: Mutex::new(Arc::new(link)), again: tokio::sync::Mutex::default(), failed: Mutex::default() }
    }

    fn link(&self) -> Arc<Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last failure to connect again, if it was not before `since`.
    fn failed(&self, since: Instant) -> Option<Error> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().filter(|(when, _)| *when >= since).map(|(_, error)| error.clone())
    }
}

impl Slots {
    /// Opens the first connection, and more if the server says that several agree on what they see.
    pub(crate) async fn open(dial: Dial, name: &str, options: Options) -> Result<Self> {
        let first = open_one(&dial, name, &options).await.map_err(|(error, _)| error)?;
        let export = first.export().clone();
        let more = if export.can_multi_conn() { options.connections.saturating_sub(1) } else { 0 };
        let hurried = Options { timeout: options.timeout.min(EXTRA), ..options.clone() };
        let mut slots = vec![Slot::new(first)];
        for opened in join_all((0..more).map(|_| open_one(&dial, name, &hurried))).await {
            match opened {
                Ok(link) => {
                    agree(&export, link.export())?;
                    slots.push(Slot::new(link));
                }
                Err((error, _)) => tracing::debug!(error = error.line(), "one connection less to the NBD server"),
            }
        }
        Ok(Self::with(Some(dial), options, export, slots))
    }

    /// Takes a connection that cannot be opened again.
    pub(crate) async fn over(wire: Wire, name: &str, options: Options) -> Result<Self> {
        let opened =
            within(options.timeout, "the handshake", handshake::open(wire, None, name, &options.contexts)).await?;
        let export = opened.export.clone();
        let slot = Slot::new(Link::start(opened, options.in_flight, options.timeout));
        Ok(Self::with(None, options, export, vec![slot]))
    }

    fn with(dial: Option<Dial>, options: Options, export: Export, slots: Vec<Slot>) -> Self {
        Self {
            dial,
            options,
            export,
            slots,
            turn: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            suspect: AtomicBool::new(false),
        }
    }

    /// How many connections there are.
    pub(crate) fn count(&self) -> usize {
        self.slots.len()
    }

    /// Asks until there is an answer, over as many connections as that takes, within the limit.
    pub(crate) async fn ask(&self, request: Request) -> Result<Answer> {
        let began = Instant::now();
        let mut losses = 0;
        loop {
            let link = self.link(began).await?;
            match link.ask(&request).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Lost(error)) if self.dial.is_none() || self.closed.load(Ordering::Relaxed) => {
                    return Err(error);
                }
                Err(Failure::Lost(error)) if losses >= self.options.retry.times => {
                    return Err(
                        error.within(format_args!("the connection was lost {} times during one request", losses + 1))
                    );
                }
                Err(Failure::Lost(error)) => {
                    tracing::warn!(error = error.line(), "asking again after a lost connection");
                    tokio::time::sleep(self.options.retry.wait(losses)).await;
                    losses += 1;
                }
            }
        }
    }

    /// The connection with the most room, in turn among equals, opened again if it was lost. While one of several cannot be had, the others serve.
    async fn link(&self, began: Instant) -> Result<Arc<Link>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.slots.len();
        let in_turn = || (0..count).filter_map(|n| self.slots.get(turn.wrapping_add(n) % count));
        let (mut best, mut most) = (None, 0);
        for slot in in_turn() {
            let link = slot.link();
            let alone = || Instant::now().checked_sub(LEFT_ALONE).is_none_or(|since| slot.failed(since).is_none());
            if (best.is_none() || link.room() > most) && (link.lost().is_none() || alone()) {
                (best, most) = (Some(slot), link.room());
            }
        }
        let slot = best.or_else(|| in_turn().next()).ok_or_else(|| Error::usage("a client without connections"))?;
        let link = slot.link();
        let Some(lost) = link.lost() else { return Ok(link) };
        match self.again(slot, began, lost).await {
            Err(error) if matches!(error.family(), Family::Io | Family::Timeout | Family::NotFound) => {
                in_turn().map(Slot::link).find(|link| link.lost().is_none()).ok_or(error)
            }
            done => done,
        }
    }

    /// Connects a slot again. Who waits meanwhile takes what comes of it, also the failure.
    async fn again(&self, slot: &Slot, began: Instant, lost: Error) -> Result<Arc<Link>> {
        let Some(dial) = &self.dial else { return Err(lost) };
        let _one_at_a_time = slot.again.lock().await;
        let link = slot.link();
        if link.lost().is_none() {
            return Ok(link);
        }
        if let Some(error) = slot.failed(began) {
            return Err(error);
        }
        if self.is_unflushed() {
            self.suspect.store(true, Ordering::Release);
        }
        let opened = self.connect_again(dial, lost).await;
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        match opened {
            Ok(opened) => {
                let link = Arc::new(opened);
                *slot.link.lock().unwrap_or_else(PoisonError::into_inner) = link.clone();
                *slot.failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Ok(link)
            }
            Err(error) => {
                let failed = Some((Instant::now(), error.clone()));
                *slot.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
                Err(error)
            }
        }
    }

    async fn connect_again(&self, dial: &Dial, mut lost: Error) -> Result<Link> {
        let retry = self.options.retry;
        for attempt in 0..retry.times {
            tokio::time::sleep(retry.wait(attempt)).await;
            if self.closed.load(Ordering::Acquire) {
                return Err(closed());
            }
            match open_one(dial, &self.export.name, &self.options).await {
                Ok(link) => {
                    agree(&self.export, link.export())?;
                    return Ok(link);
                }
                Err((error, true)) => lost = error,
                Err((error, false)) => return Err(error.within("connecting again after the connection was lost")),
            }
        }
        Err(lost.within(format_args!("the connection was lost, and {} attempts to connect again failed", retry.times)))
    }

    /// Remembers that a write was acknowledged which may not be on stable storage yet.
    pub(crate) fn wrote(&self) {
        self.writes.fetch_add(1, Ordering::AcqRel);
    }

    fn is_unflushed(&self) -> bool {
        self.writes.load(Ordering::Acquire) != self.flushed.load(Ordering::Acquire)
    }

    /// Asks for a flush. Answers whether it covers all writes: a server that went down meanwhile may have lost some.
    pub(crate) async fn flush(&self, request: Request) -> Result<bool> {
        let writes = self.writes.load(Ordering::Acquire);
        let lost = self.is_unflushed() && self.slots.iter().any(|slot| slot.link().lost().is_some());
        let flushed = self.ask(request).await;
        let suspect = self.suspect.swap(false, Ordering::AcqRel);
        if flushed.is_ok() || suspect {
            self.flushed.store(writes, Ordering::Release);
        }
        flushed.map(|_| !lost && !suspect)
    }

    /// Says good-bye on all connections, and waits until it is said.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let links: Vec<_> = self.slots.iter().map(Slot::link).collect();
        links.iter().for_each(|link| link.goodbye());
        // Each ends within the second that it has for its good-bye.
        join_all(links.iter().map(|link| link.ended())).await;
    }
}

fn closed() -> Error {
    Error::usage("the client is closed")
}

/// One connection. An error comes with whether it may pass.
async fn open_one(dial: &Dial, name: &str, options: &Options) -> Result<Link, (Error, bool)> {
    let wire = within(options.timeout, "connecting", dial.connect()).await.map_err(|error| {
        let passes = matches!(error.family(), Family::Io | Family::Timeout | Family::NotFound);
        (error, passes)
    })?;
    let opened = handshake::open(wire, dial.tls(), name, &options.contexts);
    match within(options.timeout, "the handshake", opened).await {
        Ok(opened) => Ok(Link::start(opened, options.in_flight, options.timeout)),
        Err(error) => {
            let passes = matches!(error.family(), Family::Io | Family::Timeout);
            Err((error, passes))
        }
    }
}

/// Whether two connections show the same export.
fn agree(first: &Export, other: &Export) -> Result<()> {
    let changed = |what: &str, before: &dyn std::fmt::Display, now: &dyn std::fmt::Display| {
        let export = &first.name;
        Err(Error::new(Family::Changed, format!("the {what} of the export {export:?} changed from {before} to {now}")))
    };
    if first.size != other.size {
        return changed("size", &format_args!("{} bytes", first.size), &format_args!("{} bytes", other.size));
    }
    if first.flags != other.flags {
        return changed("flags", &format_args!("{:#x}", first.flags), &format_args!("{:#x}", other.flags));
    }
    if first.block != other.block {
        return changed("block sizes", &format_args!("{:?}", first.block), &format_args!("{:?}", other.block));
    }
    if first.replies != other.replies || first.contexts != other.contexts {
        let shown = |export: &Export| format!("{:?} replies with {:?}", export.replies, export.contexts);
        return changed("protocol", &shown(first), &shown(other));
    }
    Ok(())
}

/// `work` within `timeout`.
pub(super) async fn bounded<T>(timeout: Duration, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(timeout, work).await {
        Ok(done) => done,
        Err(_) => Err(Error::new(Family::Timeout, format!("{what} took longer than {timeout:?}"))),
    }
}
