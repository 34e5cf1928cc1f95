//! Datastore files: `/folder/<path>?dcPath=<datacenter>&dsName=<datastore>`.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, RANGE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use tokio::sync::mpsc;

use super::Service;
use super::errors;
use super::events::Happening;
use super::faults::FaultKind;
use super::inventory::DATACENTER_NAME;
use super::range::{Asked, asked};
use super::server::{Body, blocking, cookie, reply};
use super::upload;
use crate::world::{DatastorePath, FileError};

/// Read at once: large enough that the hand-over between threads costs nothing, small enough to stay in the cache.
const BLOCK: u64 = 512 << 10;
/// Blocks that may wait for the network: the disk and the network work side by side.
const AHEAD: usize = 3;

/// The file that a request names; `None` if it names none.
fn file_of(uri: &Uri) -> Option<DatastorePath> {
    let decode = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    let path = decode(uri.path().strip_prefix("/folder")?.trim_start_matches('/'))?;
    let mut store = None;
    for pair in uri.query().unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(&value.replace('+', " "))?;
        match name {
            "dsName" => store = Some(value),
            "dcPath" if value.trim_matches('/') != DATACENTER_NAME => return None,
            _ => {}
        }
    }
    Some(DatastorePath::new(store?, path.trim_end_matches('/')))
}

fn plain(status: StatusCode) -> Response<Body> {
    reply(status, "text/plain", format!("{status}\n"))
}

/// The answer to a file that cannot be used. The status of a locked file is what hosts are said to give.
pub(super) fn refusal(error: &FileError) -> Response<Body> {
    let status = match error {
        FileError::NotFound | FileError::Bad(_) => StatusCode::NOT_FOUND,
        FileError::Exists => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    reply(status, "text/plain", format!("{status}: {}\n", errors::text(error)))
}

/// Answers one request.
pub(super) async fn answer(service: &Arc<Service>, request: Request<Incoming>) -> Response<Body> {
    if !service.sessions.touch(&cookie(request.headers())) {
        let mut response = plain(StatusCode::UNAUTHORIZED);
        let scheme = HeaderValue::from_static("Basic realm=\"stillframe lab\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        return response;
    }
    let Some(file) = file_of(request.uri()) else { return plain(StatusCode::NOT_FOUND) };
    match *request.method() {
        Method::GET | Method::HEAD => {
            let range = request.headers().get(RANGE).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let head = request.method() == Method::HEAD;
            let worker = Arc::clone(service);
            blocking(move || get(&worker, &file, range.as_deref(), head)).await
        }
        Method::PUT => Some(upload::put(service, file, request).await),
        Method::DELETE => {
            let worker = Arc::clone(service);
            blocking(move || match worker.world.delete_file(&file.datastore, &file.path) {
                Ok(()) => plain(StatusCode::OK),
                Err(error) => refusal(&error),
            })
            .await
        }
        _ => Some(plain(StatusCode::METHOD_NOT_ALLOWED)),
    }
    .unwrap_or_else(|| plain(StatusCode::INTERNAL_SERVER_ERROR))
}

/// What of a file is sent, and how it is said.
struct Plan {
    /// What `Content-Range` says.
    said: Option<(u64, u64)>,
    start: u64,
    len: u64,
    /// One byte that is not what it should be.
    flip: Option<u64>,
    /// So many bytes, then the connection closes.
    drop_after: Option<u64>,
    /// Half of the bytes, then nothing for so long.
    stall: Option<Duration>,
}

/// What is sent for what was asked, with the faults that are due.
fn plan(service: &Service, asked: Asked, size: u64) -> Plan {
    let faults = &service.faults;
    let mut plan = Plan { said: None, start: 0, len: size, flip: None, drop_after: None, stall: None };
    if let Asked::Part(start, len) = asked
        && !faults.strikes(&FaultKind::RangeRefused)
    {
        (plan.start, plan.len) = (start, len);
        if faults.strikes(&FaultKind::RangeWrong) {
            // The same number of bytes from somewhere else; a range of the whole file can only be shortened.
            (plan.start, plan.len) = match (start.checked_sub(512), size.saturating_sub(start).saturating_sub(len)) {
                (Some(before), _) => (before, len),
                (None, 0) => (start, len.saturating_sub(1).max(1)),
                (None, after) => (start.saturating_add(after.min(512)), len),
            };
        }
        if faults.strikes(&FaultKind::ShortBody) {
            plan.len = plan.len.div_ceil(2);
        }
        plan.said = Some((plan.start, plan.len));
    }
    let end = plan.start.saturating_add(plan.len);
    plan.flip = faults.take(|kind| match kind {
        FaultKind::WrongBytes { at } if (plan.start..end).contains(at) => Some(*at),
        _ => None,
    });
    plan.drop_after = faults.take(|kind| match kind {
        FaultKind::DropConnection { after_bytes } if *after_bytes < plan.len => Some(*after_bytes),
        _ => None,
    });
    plan.stall = faults.take(|kind| match kind {
        FaultKind::Stall { seconds } => Some(Duration::from_secs(*seconds)),
        _ => None,
    });
    plan
}

/// Opens the file and answers with what is asked of it. Called on a thread for blocking work.
fn get(service: &Arc<Service>, file: &DatastorePath, range: Option<&str>, head: bool) -> Response<Body> {
    let opened = match service.world.open_file(&file.datastore, &file.path) {
        Ok(opened) => opened,
        Err(error) => return listing(service, file).unwrap_or_else(|| refusal(&error)),
    };
    let size = match opened.metadata() {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return plain(StatusCode::NOT_FOUND),
        Err(error) => return refusal(&FileError::Io(error)),
    };
    let mut response = reply(StatusCode::OK, "application/octet-stream", Body::Full(None));
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if head {
        response.headers_mut().insert(CONTENT_LENGTH, size.into());
        return response;
    }
    let asked = asked(range, size);
    if asked == Asked::Outside {
        let mut response = plain(StatusCode::RANGE_NOT_SATISFIABLE);
        set_range(&mut response, &format!("bytes */{size}"));
        return response;
    }
    let plan = plan(service, asked, size);
    record(service, file, asked, size);
    if let Some((start, len)) = plan.said {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let last = start.saturating_add(len).saturating_sub(1);
        set_range(&mut response, &format!("bytes {start}-{last}/{size}"));
    }
    response.headers_mut().insert(CONTENT_LENGTH, plan.len.into());
    *response.body_mut() = body(service, opened, plan);
    response
}

fn set_range(response: &mut Response<Body>, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
}

fn record(service: &Service, file: &DatastorePath, asked: Asked, size: u64) {
    let file = file.to_string();
    service.events.add(match asked {
        Asked::Part(start, len) => Happening::RangeRead { file, start, len },
        Asked::Whole | Asked::Outside => Happening::Read { file, len: size },
    });
}

fn body(service: &Arc<Service>, file: File, plan: Plan) -> Body {
    if plan.len <= BLOCK && plan.drop_after.is_none() && plan.stall.is_none() {
        // Already on the right thread, and the whole answer fits in one block.
        return match block(&file, plan.start, plan.len, plan.flip) {
            Ok(bytes) => Body::Full(Some(bytes)),
            Err(error) => failed(error),
        };
    }
    let (sender, receiver) = mpsc::channel(AHEAD);
    let service = Arc::clone(service);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = send(&service, &file, &plan, &sender) {
            let _ = sender.blocking_send(Err(error)); // nobody listens any more: as good
        }
    });
    Body::Stream(receiver)
}

/// A body that fails at once: the connection closes.
fn failed(error: io::Error) -> Body {
    let (sender, receiver) = mpsc::channel(1);
    let _ = sender.try_send(Err(error)); // there is room for one
    Body::Stream(receiver)
}

fn send(service: &Service, file: &File, plan: &Plan, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let end = plan.start.saturating_add(plan.drop_after.unwrap_or(plan.len));
    let mut stall = plan.stall;
    let mut here = plan.start;
    while here < end {
        if let Some(time) = stall
            && here.saturating_sub(plan.start) >= plan.len / 2
        {
            stall = None;
            stand_still(service, time, sender);
        }
        let len = BLOCK.min(end.saturating_sub(here));
        // A stall comes in the middle, also of a short body.
        let len = if stall.is_some() { len.min((plan.len / 2).max(1)) } else { len };
        let flip = plan.flip.filter(|at| (here..here.saturating_add(len)).contains(at));
        if sender.blocking_send(Ok(block(file, here, len, flip)?)).is_err() {
            return Ok(()); // the client is gone
        }
        here = here.saturating_add(len);
    }
    if plan.drop_after.is_some() {
        return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
    }
    Ok(())
}

/// Waits, but not for a client that is gone.
fn stand_still(service: &Service, time: Duration, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let end = std::time::Instant::now() + time;
    while std::time::Instant::now() < end && !sender.is_closed() && !service.stopping() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads `len` bytes, at most one block.
fn block(file: &File, start: u64, len: u64, flip: Option<u64>) -> io::Result<Bytes> {
    let len = usize::try_from(len.min(BLOCK)).unwrap_or(0);
    let mut buffer = Vec::with_capacity(len);
    while buffer.len() < len {
        let at = start.saturating_add(buffer.len() as u64);
        // Read into the spare room: zeroing half a MiB first would cost as much as reading it from the cache.
        let read = rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    // The allocation may be larger than asked for.
    buffer.truncate(len);
    if let Some(byte) = flip.and_then(|at| buffer.get_mut(usize::try_from(at.checked_sub(start)?).ok()?)) {
        *byte ^= 0x01;
    }
    Ok(buffer.into())
}

/// A folder as a page of links; `None` if it is no folder.
fn listing(service: &Service, folder: &DatastorePath) -> Option<Response<Body>> {
    let entries = service.world.list_dir(&folder.datastore, &folder.path).ok()?;
    let mut page = String::from("<html><head><title>Index</title></head><body><table>\n");
    for entry in entries {
        let slash = if entry.is_dir { "/" } else { "" };
        let name = entry.name.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        // Writing to a String cannot fail.
        let _ = writeln!(page, "<tr><td><a href=\"{name}{slash}\">{name}{slash}</a></td><td>{}</td></tr>", entry.len);
    }
    page.push_str("</table></body></html>\n");
    Some(reply(StatusCode::OK, "text/html; charset=utf-8", page))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(uri: &str) -> Option<String> {
        file_of(&uri.parse().unwrap()).map(|file| file.to_string())
    }

    #[test]
    fn a_file_is_named_by_path_and_datastore() {
        let named = file("/folder/Windows%20Server%2001/a%2Bb.vmx?dcPath=Lab-DC&dsName=datastore1");
        assert_eq!(named.as_deref(), Some("[datastore1] Windows Server 01/a+b.vmx"));
        assert_eq!(file("/folder/a?dsName=my%20store").as_deref(), Some("[my store] a"));
        assert_eq!(file("/folder?dsName=d").as_deref(), Some("[d] "));
    }

    #[test]
    fn another_datacenter_or_no_datastore_names_nothing() {
        assert_eq!(file("/folder/a?dcPath=Elsewhere&dsName=d"), None);
        assert_eq!(file("/folder/a?dcPath=Lab-DC"), None);
        assert_eq!(file("/folder/%ff?dsName=d"), None);
    }
}
