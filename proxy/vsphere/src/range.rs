use bytes::Bytes;
use reqwest::Response;
use reqwest::header::{CONTENT_ENCODING, CONTENT_RANGE};

use crate::client::Client;
use crate::error::Error;
use crate::folder::header;

/// The bytes of one range, in pieces as they come. Exactly the bytes that were asked for, or an error.
#[derive(Debug)]
pub struct RangeBody {
    client: Client,
    response: Option<Response>,
    remaining: u64,
    position: u64,
    total: Option<u64>,
}

impl RangeBody {
    pub(crate) fn empty(client: Client, position: u64) -> Self {
        Self { client, response: None, remaining: 0, position, total: None }
    }

    /// Takes over a response of status 206 that should hold bytes `start` to `last`.
    pub(crate) fn new(client: Client, response: Response, start: u64, last: u64) -> Result<Self, Error> {
        let url = response.url().as_str();
        let wanted = format!("bytes {start}-{last}");
        let sent = header(response.headers(), CONTENT_RANGE).unwrap_or("no Content-Range");
        let total = sent.strip_prefix(wanted.as_str()).and_then(|rest| rest.strip_prefix('/'));
        let total = total.and_then(|total| total.trim().parse::<u64>().ok()).filter(|total| *total > last);
        if total.is_none() {
            return Err(Error::protocol(url, format!("{wanted} of the file's size"), sent));
        }
        if let Some(encoding) = header(response.headers(), CONTENT_ENCODING).filter(|e| *e != "identity") {
            return Err(Error::protocol(url, "plain bytes", encoding));
        }
        let remaining = last.saturating_sub(start).saturating_add(1);
        Ok(Self { client, response: Some(response), remaining, position: start, total })
    }

    /// The size of the whole file, as this answer says.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// The next piece; nothing after the last one. Each comes within the stall time.
    ///
    /// # Errors
    /// [`Error::Protocol`] if the body is longer or shorter than the range, [`Error::Timeout`] if nothing comes,
    /// [`Error::Dropped`] if the connection breaks. After an error there is nothing more.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(mut response) = self.response.take() else { return Ok(None) };
        let http = self.client.http();
        let url = response.url().to_string();
        let piece = http.next_piece(&url, &mut response).await?;
        let length = piece.as_ref().map_or(0, |piece| u64::try_from(piece.len()).unwrap_or(u64::MAX));
        let Some(left) = self.remaining.checked_sub(length) else { return Err(self.wrong_length(url, "more")) };
        let Some(piece) = piece else { return Err(self.wrong_length(url, "its end")) };
        self.remaining = left;
        self.position = self.position.saturating_add(length);
        if left > 0 {
            self.response = Some(response);
        } else if http.next_piece(&url, &mut response).await?.is_some_and(|extra| !extra.is_empty()) {
            // Reading up to the end also gives the connection back.
            return Err(self.wrong_length(url, "more"));
        }
        Ok(Some(piece))
    }

    fn wrong_length(&self, url: String, found: &str) -> Error {
        Error::protocol(url, format!("{} more bytes at byte {}", self.remaining, self.position), found)
    }
}
