//! HTTP requests, and what their failures mean.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};

use crate::endpoint::{Endpoint, Timeouts};
use crate::error::{ConnectFailure, Error};
use crate::tls::{self, Refused, TlsPolicy};

/// An answer to an API call is read up to this size. The largest known are property lists of some ten thousand VMs,
/// asked for in pages; a `config` of one VM stays below 1 MiB.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// An idle connection is given up before the server does it: a change that is sent on one that just closed must not be
/// repeated, so its outcome would be unknown.
const REUSED_WITHIN: Duration = Duration::from_secs(15);

/// One server's HTTP side: a pool of TLS connections.
#[derive(Debug)]
pub(crate) struct Http {
    client: reqwest::Client,
    address: String,
    pub(crate) timeouts: Timeouts,
}

/// The answer to an API call.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Http {
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        if endpoint.host.is_empty() || endpoint.host.contains(['/', '@', '?', '#', '[', ']', ' ']) {
            return Err(Error::Argument { what: endpoint.host.clone(), reason: "it is no host name or address" });
        }
        if endpoint.tls == TlsPolicy::Insecure {
            tracing::warn!(server = endpoint.address(), "the server's certificate is not checked");
        }
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(&endpoint.tls)?)
            .user_agent(concat!("stillframe/", env!("CARGO_PKG_VERSION")))
            .https_only(true)
            .http1_only()
            .no_proxy() // a proxy in the environment is meant for the web, not for the hypervisor
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .tcp_nodelay(true)
            .pool_idle_timeout(REUSED_WITHIN)
            .connect_timeout(endpoint.timeouts.connect)
            .build()
            .map_err(|e| Error::Setup { source: Box::new(e) })?;
        Ok(Self { client, address: endpoint.address(), timeouts: endpoint.timeouts })
    }

    /// The address of `path_and_query` on this server.
    pub(crate) fn url(&self, path_and_query: &str) -> String {
        format!("https://{}{path_and_query}", self.address)
    }

    /// A request without body or time limit.
    pub(crate) fn request(&self, method: Method, url: &str, cookie: Option<&HeaderValue>) -> RequestBuilder {
        let request = self.client.request(method, url);
        match cookie {
            Some(cookie) => request.header(COOKIE, cookie.clone()),
            None => request,
        }
    }

    /// Sends a SOAP envelope. `body` may hold a password.
    pub(crate) async fn post_sdk(
        &self,
        what: &str,
        version: &str,
        cookie: Option<&HeaderValue>,
        body: Bytes,
    ) -> Result<Answer, Error> {
        let request = self
            .request(Method::POST, &self.url("/sdk"), cookie)
            .header(CONTENT_TYPE, "text/xml; charset=utf-8")
            .header(HeaderName::from_static("soapaction"), format!("\"urn:vim25/{version}\""))
            .body(body);
        self.answer(what, request).await
    }

    /// Sends `request` and reads all of a text answer, within the time of one call.
    pub(crate) async fn answer(&self, what: &str, request: RequestBuilder) -> Result<Answer, Error> {
        let sent = request.timeout(self.timeouts.call).send().await;
        let mut response = sent.map_err(|e| self.explain(what, e))?;
        let body = self.collect(what, &mut response, MAX_ANSWER_BYTES).await?;
        let text = String::from_utf8(body)
            .map_err(|e| Error::protocol(what, "UTF-8", format!("a byte out of place at {}", e.utf8_error())))?;
        Ok(Answer { status: response.status(), headers: std::mem::take(response.headers_mut()), text })
    }

    /// Reads the rest of a body, at most `limit` bytes, each piece within the stall time.
    pub(crate) async fn collect(&self, what: &str, response: &mut Response, limit: usize) -> Result<Vec<u8>, Error> {
        let too_long = || Error::protocol(what, format!("at most {limit} bytes"), "more");
        let mut all = Vec::new();
        while let Some(piece) = self.next_piece(what, response).await? {
            if piece.len() > limit.saturating_sub(all.len()) {
                return Err(too_long());
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// The next piece of a body, or nothing at its end.
    pub(crate) async fn next_piece(&self, what: &str, response: &mut Response) -> Result<Option<Bytes>, Error> {
        match tokio::time::timeout(self.timeouts.stall, response.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(e)) => Err(self.explain(what, e)),
            Err(_) => Err(self.stalled(what)),
        }
    }

    /// Sends a request whose answer's head must come within the stall time.
    pub(crate) async fn send(&self, what: &str, request: RequestBuilder) -> Result<Response, Error> {
        match tokio::time::timeout(self.timeouts.stall, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) => Err(self.explain(what, e)),
            Err(_) => Err(self.stalled(what)),
        }
    }

    pub(crate) fn stalled(&self, what: &str) -> Error {
        Error::Timeout { what: what.to_owned(), after: self.timeouts.stall }
    }

    /// Turns a failure of the HTTP library into ours.
    pub(crate) fn explain(&self, what: &str, error: reqwest::Error) -> Error {
        let address = self.address.clone();
        if let Some(tls) = cause::<rustls::Error>(&error) {
            return tls_failure(address, tls);
        }
        if error.is_connect() {
            let reason = connect_failure(&error);
            return Error::Connect { address, reason, source: Some(error) };
        }
        if error.is_timeout() {
            return Error::Timeout { what: what.to_owned(), after: self.timeouts.call };
        }
        if error.is_builder() {
            return Error::Setup { source: Box::new(error) };
        }
        Error::Dropped { address, what: what.to_owned(), source: error.without_url() }
    }
}

fn connect_failure(error: &reqwest::Error) -> ConnectFailure {
    match cause::<io::Error>(error).map(io::Error::kind) {
        _ if error.is_dns() => ConnectFailure::Dns,
        _ if error.is_timeout() => ConnectFailure::TimedOut,
        Some(io::ErrorKind::ConnectionRefused) => ConnectFailure::Refused,
        _ => ConnectFailure::Other,
    }
}

fn tls_failure(address: String, error: &rustls::Error) -> Error {
    if let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error
        && let Some(refused) = other.0.downcast_ref::<Refused>()
    {
        return Error::Tls {
            address,
            expected: refused.expected.clone(),
            found: Box::new(refused.found.clone()),
            reason: refused.reason.clone(),
        };
    }
    let reason = match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature) => {
            "the handshake is not signed by the certificate's key, or that is RSA of less than 2048 bits".to_owned()
        }
        other => other.to_string(),
    };
    Error::Handshake { address, reason }
}

/// The first error of type `T` in the chain. An `io::Error` hides what it wraps from `source`, so that is looked into too.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inside.map(|e| -> &(dyn StdError + 'static) { e }).or_else(|| error.source());
    }
    None
}
