//! What a context says of a span ("Metadata querying").

use std::ops::Range;

use super::Client;
use super::export::{Replies, Status};
use super::link::{Answer, Request};
use crate::{Error, Family, Result};

/// What is asked about at once with compact headers, whose lengths have 32 bits.
const NARROW: u64 = 1 << 31;
/// With extended headers; servers walk their maps meanwhile, and should answer in time.
const WIDE: u64 = 1 << 36;
/// Runs that [`Client::block_status`] gathers: 24 MiB of memory.
const MOST_RUNS: usize = 1 << 20;
/// A server that tells less than this at a time, on average, is given up.
const LEAST_PROGRESS: u64 = 4096;
/// Requests that are not counted in that.
const PATIENCE: u64 = 1024;

impl Client {
    /// What `context` says of the whole `span`: in order, without gaps, adjacent runs of equal flags joined.
    ///
    /// # Errors
    /// [`Family::NotFound`] without that context, [`Family::Unsupported`] for more than a million runs: ask for shorter spans then.
    pub async fn block_status(&self, context: &str, span: Range<u64>) -> Result<Vec<Status>> {
        let mut runs: Vec<Status> = Vec::new();
        let mut at = span.start;
        let mut left = (span.end.saturating_sub(span.start) / LEAST_PROGRESS).saturating_add(PATIENCE);
        while at < span.end {
            left = left.checked_sub(1).ok_or_else(|| {
                let (start, end) = (span.start, span.end);
                Error::protocol(format!("the server tells the status of {start:#x} to {end:#x} in too many pieces"))
            })?;
            for run in self.block_status_once(context, at..span.end).await? {
                at = run.end();
                match runs.last_mut() {
                    Some(last) if last.flags == run.flags => last.len += run.len,
                    _ => runs.push(run),
                }
            }
            if runs.len() > MOST_RUNS {
                let what = format!("{context} has more than {MOST_RUNS} runs before {at:#x}: ask for a shorter span");
                return Err(Error::new(Family::Unsupported, what));
            }
        }
        Ok(runs)
    }

    /// What one request tells of `span` in `context`: a beginning of it, never nothing unless `span` is empty. For spans with more runs than memory
    /// should hold: go on at the last one's end.
    ///
    /// # Errors
    /// [`Family::NotFound`] without that context, [`Family::Usage`] for a span that passes the end.
    pub async fn block_status_once(&self, context: &str, span: Range<u64>) -> Result<Vec<Status>> {
        let export = self.export();
        if !export.has_context(context) {
            let granted = export.contexts().join(", ");
            let granted = if granted.is_empty() { "none".to_owned() } else { granted };
            return Err(Error::new(
                Family::NotFound,
                format!("the context {context:?} was not granted; granted: {granted}"),
            ));
        }
        if span.is_empty() {
            return Ok(Vec::new());
        }
        let what = || format!("the status of {:#x} to {:#x} ({context})", span.start, span.end);
        self.check(span.start, span.end - span.start).map_err(|e| e.within(what()))?;
        let minimum = u64::from(export.block().minimum);
        let limit = if export.replies() == Replies::Extended { WIDE } else { NARROW };
        let at = span.start - span.start % minimum;
        let end = span.end.min(at + limit).next_multiple_of(minimum).min(self.size());
        let request = Request::Status { at, len: end - at, context: context.to_owned() };
        let Answer::Runs(mut runs) = self.slots.ask(request).await.map_err(|e| e.within(what()))? else {
            return Err(Error::protocol("another answer than that to a block status"));
        };
        // What widening to whole blocks brought is cut off again.
        runs.retain_mut(|run| {
            let (start, end) = (run.start.max(span.start), run.end().min(span.end));
            *run = Status { start, len: end.saturating_sub(start), flags: run.flags };
            run.len > 0
        });
        if runs.is_empty() {
            return Err(Error::protocol("a block status that ends before the span begins").within(what()));
        }
        Ok(runs)
    }
}
