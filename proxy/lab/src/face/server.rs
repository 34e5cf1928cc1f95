//! Connections and requests: TLS, HTTP/1.1, and which part answers which address.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Polling, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::events::Happening;
use super::faults::FaultKind;
use super::methods::{self, Context};
use super::soap::{self, Call, Fault};
use super::{Service, control, folder, session};

/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// The largest request that the API needs is a filter of a few KiB; this bounds what a client can make us hold.
const LARGEST_CALL: usize = 4 << 20;

/// The body of an answer: in memory, or read while it is sent.
pub(super) enum Body {
    Full(Option<Bytes>),
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Full(Some(text.into()))
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::Full(Some(Bytes::from_static(text.as_bytes())))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(blocks) => blocks.poll_recv(cx).map(|block| block.map(|block| block.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// An answer with a status and a body.
pub(super) fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed on purpose")]
pub(super) struct Hangup;

/// Takes connections until the server stops, then closes them all.
pub(super) async fn accept(service: Arc<Service>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = service.stop_signal() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(Arc::clone(&service), stream));
                }
                // Out of file descriptors or the like: the next one may do.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
    connections.shutdown().await;
}

async fn connection(service: Arc<Service>, stream: TcpStream) {
    let _ = stream.set_nodelay(true); // only a matter of speed
    let identity = if service.faults.thumbprint_changed() {
        service.events.add(Happening::Fault { kind: FaultKind::ThumbprintChanges.name() });
        service.certificates.other().unwrap_or_else(|_| service.certificates.kept())
    } else {
        service.certificates.kept()
    };
    let acceptor = TlsAcceptor::from(Arc::clone(&identity.config));
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    let handler = service_fn(|request| {
        let service = Arc::clone(&service);
        async move { route(&service, request).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(None);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), handler).await {
        tracing::debug!(%error, "connection ended");
    }
}

/// The session's cookie, empty if the request has none.
pub(super) fn cookie(headers: &HeaderMap) -> String {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    values.filter_map(session::cookie_value).next().unwrap_or_default().to_owned()
}

async fn route(service: &Arc<Service>, request: Request<Incoming>) -> Result<Response<Body>, Hangup> {
    let path = request.uri().path().to_owned();
    if path.starts_with("/lab/") {
        return Ok(control::answer(service, request).await);
    }
    if service.faults.strikes(&FaultKind::Http503) {
        return Ok(reply(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "503 Service Unavailable\n"));
    }
    let for_files = path == "/folder" || path.starts_with("/folder/");
    if service.faults.session_expires(for_files) {
        for _ in 0..service.sessions.close_all() {
            service.events.add(Happening::SessionExpired);
        }
    }
    if for_files {
        return Ok(folder::answer(service, request).await);
    }
    match (request.method(), path.as_str()) {
        (&Method::GET, "/sdk/vimServiceVersions.xml") => {
            Ok(reply(StatusCode::OK, "text/xml", soap::versions_document()))
        }
        (&Method::POST, "/sdk" | "/sdk/" | "/sdk/vimService") => call(service, request).await,
        _ => Ok(reply(StatusCode::NOT_FOUND, "text/plain", "404 Not Found\n")),
    }
}

async fn call(service: &Arc<Service>, request: Request<Incoming>) -> Result<Response<Body>, Hangup> {
    let cookie = cookie(request.headers());
    let action = request.headers().get("soapaction").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let Ok(body) = Limited::new(request.into_body(), LARGEST_CALL).collect().await else {
        return Ok(reply(StatusCode::BAD_REQUEST, "text/plain", "the request ends early or is too long\n"));
    };
    let body = body.to_bytes();
    let service = Arc::clone(service);
    let work = tokio::task::spawn_blocking(move || soap_answer(&service, &cookie, action.as_deref(), &body));
    let answered = work.await.map_err(|_| Hangup)?;
    let (status, text, login) = answered?;
    let mut response = reply(status, "text/xml; charset=utf-8", text);
    if let Some(Ok(value)) = login.map(|cookie| HeaderValue::from_str(&session::set_cookie(&cookie))) {
        response.headers_mut().insert(SET_COOKIE, value);
    }
    Ok(response)
}

type SoapAnswer = (StatusCode, String, Option<String>);

fn soap_answer(service: &Arc<Service>, cookie: &str, action: Option<&str>, body: &[u8]) -> Result<SoapAnswer, Hangup> {
    let parsed = soap::check_version(action).and_then(|()| {
        let text = std::str::from_utf8(body).map_err(|_| Fault::invalid_request("the request is not UTF-8"))?;
        Call::parse(text)
    });
    let answer = parsed.and_then(|call| {
        let answer = methods::answer(&Context { service, cookie, call: &call })?;
        Ok((call.method, answer))
    });
    match answer {
        Ok((method, answer)) => {
            if method.ends_with("_Task") && service.faults.strikes(&FaultKind::LostReply) {
                return Err(Hangup);
            }
            Ok((StatusCode::OK, soap::response(&method, answer.returned.as_ref()), answer.login))
        }
        Err(fault) => Ok((StatusCode::INTERNAL_SERVER_ERROR, fault.document(), None)),
    }
}

/// Reads a small body to its end.
pub(super) async fn small_body(request: Request<Incoming>, limit: usize) -> Option<Bytes> {
    Limited::new(request.into_body(), limit).collect().await.ok().map(|body| body.to_bytes())
}

/// Does work on a thread for blocking work; `None` if it panicked.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
