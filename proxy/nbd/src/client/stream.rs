//! A span in order, with reads in flight ahead of who consumes it.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;

use super::Client;
use super::buffer::Pool;
use crate::Result;

type Reading = Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>;

/// The bytes of a span in order, see [`Client::stream`].
///
/// At most `connections × in_flight` requests of [`Options::request`](crate::Options::request) bytes are on their way or wait to be taken; that
/// is all the memory it holds, besides what the caller keeps. A buffer that the caller drops is filled again.
pub struct ReadStream {
    client: Client,
    pool: Arc<Pool>,
    ahead: FuturesOrdered<Reading>,
    window: usize,
    request: u32,
    rest: Range<u64>,
}

impl ReadStream {
    pub(super) fn new(client: &Client, span: Range<u64>) -> Self {
        let (options, block) = (client.options(), client.export().block());
        let minimum = u64::from(block.minimum);
        // Requests end where blocks end, so that none has to be widened but the first and the last.
        let request = options.request.min(block.maximum);
        let request = (request - request % block.minimum).max(block.minimum);
        let window = client.connections() * options.in_flight;
        debug_assert!(minimum > 0);
        let pool = Pool::new(request, window.saturating_add(2));
        Self { client: client.clone(), pool, ahead: FuturesOrdered::new(), window, request, rest: span }
    }

    /// The next bytes: [`Options::request`](crate::Options::request) of them, fewer at either end; `None` behind the span.
    ///
    /// # Errors
    /// What [`Client::read`] ends with. The bytes that failed are skipped if it is called again.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.ahead.len() < self.window && !self.rest.is_empty() {
            let at = self.rest.start;
            let request = u64::from(self.request);
            let to = (at - at % request).saturating_add(request).min(self.rest.end);
            self.rest.start = to;
            let (client, pool) = (self.client.clone(), self.pool.clone());
            let len = u32::try_from(to - at).unwrap_or(self.request);
            self.ahead.push_back(Box::pin(async move { client.read_piece(at, len, Some(pool)).await }));
        }
        self.ahead.next().await.transpose()
    }
}

impl fmt::Debug for ReadStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadStream").field("rest", &self.rest).field("ahead", &self.ahead.len()).finish_non_exhaustive()
    }
}
