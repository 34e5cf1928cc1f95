//! Files on datastores, by the server's `/folder` address.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, RANGE};
use reqwest::{Body, Method, Response, StatusCode};

use crate::client::Client;
use crate::datastore_path::DatastorePath;
use crate::error::Error;
use crate::range::RangeBody;

/// Everything but RFC 3986's unreserved characters is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const ENCODED_IN_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// A file on a datastore. Nothing is asked before one of the methods is called.
#[derive(Clone, Debug)]
pub struct DatastoreFile {
    client: Client,
    datacenter: String,
    path: DatastorePath,
}

impl Client {
    /// The file at `path`. `datacenter` is the datacenter's inventory path (`North/DC1`); empty on a host that has only one.
    #[must_use]
    pub fn datastore_file(&self, datacenter: &str, path: &DatastorePath) -> DatastoreFile {
        DatastoreFile { client: self.clone(), datacenter: datacenter.to_owned(), path: path.clone() }
    }
}

impl DatastoreFile {
    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &DatastorePath {
        &self.path
    }

    /// The file's size in bytes. Some servers refuse `HEAD`; then the first byte is asked for.
    ///
    /// # Errors
    /// [`Error::Http`] with status 404 if there is no such file, or how the connection failed.
    pub async fn size(&self) -> Result<u64, Error> {
        let head = self.request(Method::HEAD, None).await?;
        match head.status() {
            StatusCode::OK => {
                if let Some(size) = length_in(head.headers()) {
                    return Ok(size);
                }
            }
            StatusCode::NOT_FOUND => return Err(self.refused(&head)),
            status => tracing::debug!(%status, file = %self.path, "HEAD is refused"),
        }
        let response = self.request(Method::GET, Some("bytes=0-0".to_owned())).await?;
        let total =
            response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).and_then(|v| v.rsplit('/').next());
        let size = match response.status() {
            // "bytes */0" is the answer for an empty file.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => total.and_then(|t| t.parse().ok()),
            StatusCode::OK => length_in(response.headers()),
            _ => return Err(self.refused(&response)),
        };
        size.ok_or_else(|| Error::protocol(response.url().as_str(), "the size of the file", "none"))
    }

    /// `len` bytes from byte `start` on. No bytes at all need no request.
    ///
    /// # Errors
    /// [`Error::RangeIgnored`] if the server would send the whole file, [`Error::Protocol`] if it would send another range
    /// (as it does when the range passes the end of the file), [`Error::Http`] if it refuses.
    pub async fn get_range(&self, start: u64, len: u64) -> Result<RangeBody, Error> {
        let Some(last) = len.checked_sub(1).map(|more| start.saturating_add(more)) else {
            return Ok(RangeBody::empty(self.client.clone(), start));
        };
        let response = self.request(Method::GET, Some(format!("bytes={start}-{last}"))).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => RangeBody::new(self.client.clone(), response, start, last),
            StatusCode::OK => Err(Error::RangeIgnored { url: response.url().to_string() }),
            _ => Err(self.refused(&response)),
        }
    }

    /// All of a small file, at most `limit` bytes.
    ///
    /// # Errors
    /// [`Error::Protocol`] if it is longer, [`Error::Http`] if the server refuses.
    pub async fn read_all(&self, limit: u64) -> Result<Bytes, Error> {
        let mut response = self.request(Method::GET, None).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(&response));
        }
        let url = response.url().to_string();
        let announced = length_in(response.headers());
        if let Some(size) = announced.filter(|size| *size > limit) {
            return Err(Error::protocol(url, format!("at most {limit} bytes"), format!("{size}")));
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let all = self.client.http().collect(&url, &mut response, limit).await?;
        Ok(all.into())
    }

    /// Writes the file: exactly `len` bytes of `body`. There is no way to go on after a failure but from the beginning.
    ///
    /// # Errors
    /// [`Error::Upload`] if `body` fails or has another length, [`Error::Timeout`] if the server takes nothing for the stall
    /// time, [`Error::Http`] if it refuses.
    pub async fn put(
        &self,
        len: u64,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), Error> {
        // The body can be sent only once, so the session must hold and the encoding be known.
        self.client.check_session().await?;
        let folder = DatastorePath::new(&self.path.datastore, self.path.folder());
        if !folder.path.is_empty() {
            self.client.datastore_file(&self.datacenter, &folder).request(Method::HEAD, None).await?;
        }
        let http = self.client.http();
        let url = self.url(self.doubled())?;
        let progress = Arc::new(Progress { wanted: len, ..Progress::default() });
        let request = http
            .request(Method::PUT, &url, self.client.session().cookie().as_ref())
            .header(CONTENT_LENGTH, len)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(Body::wrap_stream(counted(body, progress.clone())));
        let mut sending = std::pin::pin!(request.send());
        let mut seen = 0;
        let sent = loop {
            match tokio::time::timeout(http.timeouts.stall, &mut sending).await {
                Ok(sent) => break sent,
                Err(_) if progress.sent.load(Ordering::Relaxed) > seen => seen = progress.sent.load(Ordering::Relaxed),
                Err(_) => return Err(http.stalled(&url)),
            }
        };
        let failure = progress.failure.lock().ok().and_then(|mut failure| failure.take());
        match (sent, failure) {
            (_, Some(reason)) => Err(Error::Upload { url, reason }),
            (Err(error), None) => Err(http.explain(&url, error)),
            (Ok(response), None) if response.status().is_success() => Ok(()),
            (Ok(response), None) => Err(self.refused(&response)),
        }
    }

    /// Deletes the file.
    ///
    /// # Errors
    /// [`Error::Http`] if the server refuses, or how the connection failed.
    pub async fn delete(&self) -> Result<(), Error> {
        let response = self.request(Method::DELETE, None).await?;
        if response.status().is_success() { Ok(()) } else { Err(self.refused(&response)) }
    }

    fn refused(&self, response: &Response) -> Error {
        Error::Http { status: response.status().as_u16(), url: response.url().to_string() }
    }

    fn doubled(&self) -> bool {
        self.client.double_encoding().load(Ordering::Relaxed)
    }

    /// A request without body: in a new session on 401, with the parameters encoded the other way on 404.
    async fn request(&self, method: Method, range: Option<String>) -> Result<Response, Error> {
        let doubled = self.doubled();
        let response = self.in_new_session(&method, range.as_deref(), doubled).await?;
        if response.status() != StatusCode::NOT_FOUND || self.url(true)? == self.url(false)? {
            return Ok(response);
        }
        let other = self.in_new_session(&method, range.as_deref(), !doubled).await?;
        if other.status() == StatusCode::NOT_FOUND {
            return Ok(response);
        }
        self.client.double_encoding().store(!doubled, Ordering::Relaxed);
        Ok(other)
    }

    async fn in_new_session(&self, method: &Method, range: Option<&str>, doubled: bool) -> Result<Response, Error> {
        let before = self.client.session().generation();
        let response = self.send(method, range, doubled).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        self.client.renew(before, self.refused(&response)).await?;
        self.send(method, range, doubled).await
    }

    /// Sends once; once more if the connection broke, as one does that the server closed while it was idle.
    async fn send(&self, method: &Method, range: Option<&str>, doubled: bool) -> Result<Response, Error> {
        let url = self.url(doubled)?;
        let http = self.client.http();
        let request = || {
            let request = http.request(method.clone(), &url, self.client.session().cookie().as_ref());
            let request = request.header(ACCEPT_ENCODING, "identity");
            range.iter().fold(request, |request, range| request.header(RANGE, *range))
        };
        match http.send(&url, request()).await {
            Err(Error::Dropped { .. }) if *method != Method::DELETE => http.send(&url, request()).await,
            done => done,
        }
    }

    fn url(&self, doubled: bool) -> Result<String, Error> {
        let bad = |reason| Err(Error::Argument { what: self.path.to_string(), reason });
        if self.path.datastore.is_empty() || self.path.path.is_empty() {
            return bad("it names no file on a datastore");
        }
        if self.path.path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return bad("its folders are not plain names");
        }
        let encode = |value: &str| {
            let once = utf8_percent_encode(value, ENCODED).to_string();
            if doubled { utf8_percent_encode(&once, ENCODED).to_string() } else { once }
        };
        let datacenter = match self.datacenter.as_str() {
            "" => String::new(),
            path => format!("dcPath={}&", encode(path)),
        };
        let path = utf8_percent_encode(&self.path.path, ENCODED_IN_PATH);
        Ok(self.client.http().url(&format!("/folder/{path}?{datacenter}dsName={}", encode(&self.path.datastore))))
    }
}

/// The length that a header announces. (The library's own method knows the body's, and `HEAD` has none.)
fn length_in(headers: &HeaderMap) -> Option<u64> {
    header(headers, CONTENT_LENGTH)?.parse().ok()
}

pub(crate) fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// How far an upload got, and why its source stopped.
#[derive(Default)]
struct Progress {
    wanted: u64,
    sent: AtomicU64,
    failure: std::sync::Mutex<Option<String>>,
}

impl Progress {
    fn check(&self, piece: Option<io::Result<Bytes>>) -> io::Result<Bytes> {
        let end = piece.is_none();
        let checked = piece.unwrap_or_else(|| Ok(Bytes::new())).and_then(|piece| {
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            let sent = self.sent.fetch_add(length, Ordering::Relaxed).saturating_add(length);
            if sent > self.wanted || (end && sent < self.wanted) {
                let reason = format!("{} bytes were promised, the source has {sent}", self.wanted);
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            Ok(piece)
        });
        if let (Err(error), Ok(mut failure)) = (&checked, self.failure.lock()) {
            *failure = Some(error.to_string());
        }
        checked
    }
}

fn counted(
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    progress: Arc<Progress>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    body.map(Some).chain(stream::iter([None])).map(move |piece| progress.check(piece))
}
