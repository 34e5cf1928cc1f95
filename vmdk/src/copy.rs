//! From one disk to another: what is in use is read, side by side, and written in the order of the disk.
//!
//! ```text
//!   plan (what is in use, in blocks) --> thread: read -> prepare (find zeros, compress) -\            /-> store
//!                                    \-> thread: read -> prepare                         -- place, in turn --> store
//! ```

use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use blockdev::{ByteOffset, ExtentKind, ReadAt, ReadError};

use crate::convert::{round_up, to_usize};
use crate::write::{GRAIN_LEN, Prepared, difference};
use crate::{ImageWriter, PackedGrains, RawStream, RawWriter, StreamWriter, VmdkError};

/// What is read and written at once. Pieces of split images are whole multiples of it.
const BLOCK_LEN: u64 = 1 << 20;

/// Where in memory a block begins: writers hand such blocks to the disk as they are.
const ALIGNMENT: usize = 4096;

/// The most threads: each holds a block and what comes of it, about 2 MiB.
const MAX_THREADS: usize = 32;

/// Where a copy goes. A write has three steps, so that threads can share the work and files still come out in order.
pub trait CopyTarget: Sync {
    /// What is known of a block between the steps.
    type Prepared: Send;

    /// Does what needs no order: looks for zeros, compresses. Called by many threads.
    ///
    /// # Errors
    /// Those of the target.
    fn prepare(&self, at: ByteOffset, data: &[u8]) -> Result<Self::Prepared, VmdkError>;

    /// Does what needs order. Called for one block after the other, in the order of the disk.
    ///
    /// # Errors
    /// Those of the target.
    fn place(&self, at: ByteOffset, data: &[u8], prepared: &mut Self::Prepared) -> Result<(), VmdkError>;

    /// Does the rest. Called by many threads.
    ///
    /// # Errors
    /// Those of the target.
    fn store(&self, at: ByteOffset, data: &[u8], prepared: Self::Prepared) -> Result<(), VmdkError>;

    /// The content of the disk that shows wherever nothing is written, if the target is a delta.
    fn parent_content_id(&self) -> Option<u32> {
        None
    }
}

/// Why a copy ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The source could not be read.
    #[error("cannot read the source")]
    Source(#[source] ReadError),
    /// The target could not be written.
    #[error("cannot write the target")]
    Target(#[source] VmdkError),
    /// The caller wanted no more.
    #[error("the copy was cancelled")]
    Cancelled,
}

/// Copies what `source` holds to `target`. Holes and zeros are not read. `watch` is told how far the copy is, in bytes of
/// the disk, and ends it by [`ControlFlow::Break`].
///
/// # Errors
/// Those of source and target, whichever is met first; a target that is a delta is refused, as its parent would show
/// through the source's holes. After an error the target is not complete: discard it.
pub fn copy<T: CopyTarget>(
    source: &dyn ReadAt,
    target: &T,
    watch: &(dyn Fn(u64) -> ControlFlow<()> + Sync),
) -> Result<(), CopyError> {
    if let Some(parent) = target.parent_content_id() {
        return Err(CopyError::Target(VmdkError::Request {
            field: "the content ID of the target's parent",
            actual: parent.into(),
            expected: "no parent; a delta is written by copy_difference",
        }));
    }
    copy_where(&[source], source, target, watch)
}

/// Copies to a new delta what `source` does not have in common with `parent`, the disk that the delta is to. Both are read
/// wherever one of them holds anything.
///
/// # Errors
/// As [`copy()`]; a target that is no delta is refused. What cannot be read of the parent is an error of the target.
pub fn copy_difference(
    source: &dyn ReadAt,
    parent: &dyn ReadAt,
    delta: &ImageWriter,
    watch: &(dyn Fn(u64) -> ControlFlow<()> + Sync),
) -> Result<(), CopyError> {
    if delta.descriptor().parent_content_id.is_none() {
        return Err(CopyError::Target(VmdkError::Request {
            field: "the number of parents of the target",
            actual: 0,
            expected: "one, as only the difference to it is written",
        }));
    }
    copy_where(&[source, parent], source, &Difference { delta, parent }, watch)
}

/// Copies `source` wherever one of the disks `in_use` holds anything.
pub(crate) fn copy_where<T: CopyTarget>(
    in_use: &[&dyn ReadAt],
    source: &dyn ReadAt,
    target: &T,
    watch: &(dyn Fn(u64) -> ControlFlow<()> + Sync),
) -> Result<(), CopyError> {
    // One more than processors: while one waits for the disk, the others go on.
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).saturating_add(1).min(MAX_THREADS);
    let copy =
        Copy { source, target, watch, plan: Mutex::new(Plan::new(in_use, source.size().0)), turn: Turn::default() };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // With fewer threads than wished for it takes longer, and that is all.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || copy.work());
        }
        copy.work();
    });
    match copy.turn.end() {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

struct Copy<'a, T> {
    source: &'a dyn ReadAt,
    target: &'a T,
    watch: &'a (dyn Fn(u64) -> ControlFlow<()> + Sync),
    plan: Mutex<Plan<'a>>,
    turn: Turn,
}

impl<T: CopyTarget> Copy<'_, T> {
    fn work(&self) {
        let _alarm = StopOnPanic(&self.turn);
        let mut memory = vec![0; to_usize(BLOCK_LEN).saturating_add(ALIGNMENT)];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        let block = memory.get_mut(start..).unwrap_or_default();
        loop {
            match self.next(block) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.turn.stop(error),
            }
        }
    }

    /// Copies the next block; false when there is none.
    fn next(&self, memory: &mut [u8]) -> Result<bool, CopyError> {
        let Some((number, at, len)) = self.plan.lock().unwrap_or_else(PoisonError::into_inner).next()? else {
            return Ok(false);
        };
        let data = memory.get_mut(..len).unwrap_or_default();
        self.source.read_exact_at(at, data).map_err(CopyError::Source)?;
        let mut prepared = self.target.prepare(at, data).map_err(CopyError::Target)?;
        let Some(turn) = self.turn.wait(number) else { return Ok(false) };
        let placed = match (self.watch)(at.0) {
            ControlFlow::Break(()) => Err(CopyError::Cancelled),
            ControlFlow::Continue(()) => self.target.place(at, data, &mut prepared).map_err(CopyError::Target),
        };
        if let Err(error) = placed {
            self.turn.stop(error); // before the turn is passed on, so that nothing is placed behind it
            return Ok(false);
        }
        drop(turn);
        self.target.store(at, data, prepared).map_err(CopyError::Target)?;
        Ok(true)
    }
}

/// The blocks to copy, in order: all grains of which a part is in use, none twice.
struct Plan<'a> {
    disks: Vec<InUse<'a>>,
    size: u64,
    at: u64,
    number: u64,
}

/// The next run of a disk that is in use.
struct InUse<'a> {
    disk: &'a dyn ReadAt,
    run: Option<(u64, u64)>,
}

impl<'a> Plan<'a> {
    fn new(disks: &[&'a dyn ReadAt], size: u64) -> Self {
        let disks = disks.iter().map(|disk| InUse { disk: *disk, run: Some((0, 0)) }).collect();
        Self { disks, size, at: 0, number: 0 }
    }

    /// The number, place and length of the next block.
    fn next(&mut self) -> Result<Option<(u64, ByteOffset, usize)>, CopyError> {
        let Some((data, _)) = self.in_use_from(self.at)? else { return Ok(None) };
        let start = data & !(GRAIN_LEN - 1);
        let limit = round_up(start.saturating_add(1), BLOCK_LEN).min(self.size);
        let mut end = start;
        while end < limit {
            match self.in_use_from(end)? {
                // The grain at `end` is in use: on to the last one that is.
                Some((from, to)) if from < end.saturating_add(GRAIN_LEN) => end = round_up(to, GRAIN_LEN).min(limit),
                _ => break,
            }
        }
        let number = self.number;
        (self.at, self.number) = (end, number.saturating_add(1));
        Ok(Some((number, ByteOffset(start), to_usize(end.saturating_sub(start)))))
    }

    /// The first run that is in use on any of the disks, of what lies behind `at`. It never goes back.
    fn in_use_from(&mut self, at: u64) -> Result<Option<(u64, u64)>, CopyError> {
        let mut first: Option<(u64, u64)> = None;
        for disk in &mut self.disks {
            let run = disk.from(at, self.size).map_err(CopyError::Source)?;
            first = [first, run].into_iter().flatten().min();
        }
        Ok(first)
    }
}

impl InUse<'_> {
    fn from(&mut self, at: u64, size: u64) -> Result<Option<(u64, u64)>, ReadError> {
        let size = size.min(self.disk.size().0);
        let mut here = at;
        while self.run.is_some_and(|(_, end)| end <= at) {
            if here >= size {
                self.run = None;
                break;
            }
            let extent = self.disk.extent_at(ByteOffset(here))?;
            here = extent.end().0.min(size);
            if extent.kind == ExtentKind::Data {
                self.run = Some((extent.start.0, here));
            }
        }
        Ok(self.run.map(|(start, end)| (start.max(at), end)))
    }
}

/// Whose turn it is, and why there are no more turns.
#[derive(Default)]
struct Turn {
    state: Mutex<TurnState>,
    changed: Condvar,
}

#[derive(Default)]
struct TurnState {
    next: u64,
    stopped: Option<CopyError>,
}

/// Holds the turn; dropping it passes it on.
struct Held<'a> {
    turn: &'a Turn,
    number: u64,
}

impl Turn {
    /// Waits for the turn of a block; none comes when the copy was stopped.
    fn wait(&self, number: u64) -> Option<Held<'_>> {
        let mut state = self.lock();
        while state.next < number && state.stopped.is_none() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.stopped.is_none().then(|| Held { turn: self, number })
    }

    fn stop(&self, error: CopyError) {
        self.lock().stopped.get_or_insert(error);
        self.changed.notify_all();
    }

    fn end(self) -> Option<CopyError> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).stopped
    }

    fn lock(&self) -> MutexGuard<'_, TurnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that panics must not let the others wait for its turn; the panic itself goes on to the caller.
struct StopOnPanic<'a>(&'a Turn);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop(CopyError::Cancelled);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return; // nobody may go on; see `StopOnPanic`
        }
        self.turn.lock().next = self.number.saturating_add(1);
        self.turn.changed.notify_all();
    }
}

impl CopyTarget for ImageWriter {
    type Prepared = Prepared;

    fn prepare(&self, at: ByteOffset, data: &[u8]) -> Result<Prepared, VmdkError> {
        self.prepare_part(at, data)
    }
    fn place(&self, _: ByteOffset, data: &[u8], prepared: &mut Prepared) -> Result<(), VmdkError> {
        self.place_part(prepared, data.len())
    }
    fn store(&self, _: ByteOffset, data: &[u8], prepared: Prepared) -> Result<(), VmdkError> {
        self.store_part(&prepared, data)
    }
    fn parent_content_id(&self) -> Option<u32> {
        self.descriptor().parent_content_id
    }
}

impl<W: std::io::Write + Send> CopyTarget for StreamWriter<W> {
    type Prepared = PackedGrains;

    fn prepare(&self, at: ByteOffset, data: &[u8]) -> Result<PackedGrains, VmdkError> {
        Self::prepare(self, at, data)
    }
    fn place(&self, _: ByteOffset, _: &[u8], prepared: &mut PackedGrains) -> Result<(), VmdkError> {
        self.append(prepared)
    }
    fn store(&self, _: ByteOffset, _: &[u8], _: PackedGrains) -> Result<(), VmdkError> {
        Ok(())
    }
}

impl CopyTarget for RawWriter {
    type Prepared = ();

    fn prepare(&self, _: ByteOffset, _: &[u8]) -> Result<(), VmdkError> {
        Ok(())
    }
    fn place(&self, _: ByteOffset, _: &[u8], (): &mut ()) -> Result<(), VmdkError> {
        Ok(())
    }
    fn store(&self, at: ByteOffset, data: &[u8], (): ()) -> Result<(), VmdkError> {
        self.write_at(at, data)
    }
}

impl<W: std::io::Write + Send> CopyTarget for RawStream<W> {
    type Prepared = ();

    fn prepare(&self, _: ByteOffset, _: &[u8]) -> Result<(), VmdkError> {
        Ok(())
    }
    fn place(&self, at: ByteOffset, data: &[u8], (): &mut ()) -> Result<(), VmdkError> {
        self.write_at(at, data)
    }
    fn store(&self, _: ByteOffset, _: &[u8], (): ()) -> Result<(), VmdkError> {
        Ok(())
    }
}

/// Writes to a delta what its parent does not have.
struct Difference<'a> {
    delta: &'a ImageWriter,
    parent: &'a dyn ReadAt,
}

impl Difference<'_> {
    /// The parent's bytes, zeros behind its end.
    fn parent_at(&self, at: ByteOffset, len: usize) -> Result<Vec<u8>, VmdkError> {
        let mut bytes = vec![0; len]; // at most a block
        let there = to_usize(self.parent.size().0.saturating_sub(at.0)).min(len);
        if there > 0 {
            let part = bytes.get_mut(..there).unwrap_or_default();
            self.parent.read_exact_at(at, part).map_err(VmdkError::read("the parent"))?;
        }
        Ok(bytes)
    }
}

impl CopyTarget for Difference<'_> {
    type Prepared = Prepared;

    fn prepare(&self, at: ByteOffset, data: &[u8]) -> Result<Prepared, VmdkError> {
        let parent = self.parent_at(at, data.len())?;
        self.delta.prepare_with(at, data, |data| difference(data, &parent))
    }
    fn place(&self, at: ByteOffset, data: &[u8], prepared: &mut Prepared) -> Result<(), VmdkError> {
        self.delta.place(at, data, prepared)
    }
    fn store(&self, at: ByteOffset, data: &[u8], prepared: Prepared) -> Result<(), VmdkError> {
        self.delta.store(at, data, prepared)
    }
}

#[cfg(test)]
mod tests;
