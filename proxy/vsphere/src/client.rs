//! A connection to one server: negotiation, and the single place that every method call goes through.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::fault::Fault;
use crate::http::Http;
use crate::places::Nodes;
use crate::session::Session;
use crate::version::{self, ApiVersion};
use crate::xml::{self, Element, Moref};

/// A server that knows none of this many ids, each older than the one before, will not know the next one either.
const MAX_STEPS_DOWN: usize = 6;

/// A connection to a vCenter or a host. Cloning is cheap; clones share session and connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: Http,
    version: ApiVersion,
    about: About,
    content: Element,
    session: Session,
    nodes: Nodes,
    /// Whether `/folder` wants its parameters encoded twice.
    double_encoding: AtomicBool,
}

/// What a server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// `VMware vCenter Server`.
    pub name: String,
    /// With version and build.
    pub full_name: String,
    /// The product's version.
    pub version: String,
    /// The product's build.
    pub build: String,
    /// `VirtualCenter` or `HostAgent`.
    pub api_type: String,
    /// The newest API version of the server; see [`Client::api_version`] for the one in use.
    pub api_version: String,
    /// From 4.0.
    pub instance_uuid: Option<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("http", &self.inner.http)
            .field("about", &self.inner.about)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects, agrees on an API version and asks who is there. Nobody is logged in yet.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Tls`] with the certificate that was found, or what the server said.
    pub async fn connect(endpoint: Endpoint) -> Result<Self, Error> {
        let http = Http::new(&endpoint)?;
        let wanted = match &endpoint.api_version {
            Some(text) => Some(ApiVersion::parse(text).ok_or_else(|| Error::Argument {
                what: text.clone(),
                reason: "an API version is written like 6.7 or 7.0.3.0",
            })?),
            None => offered(&http).await?,
        };
        let (version, content) = match wanted {
            Some(version) => content_stepping_down(&http, version).await?,
            None => {
                let content = content_of(&http, &ApiVersion::oldest()).await?;
                let said = content.at(&["about", "apiVersion"]).and_then(|e| ApiVersion::parse(&e.text));
                let version = said.and_then(|v| v.known_or_older()).unwrap_or_else(ApiVersion::oldest);
                // An old dialect hides managers, so ask again in the right one.
                content_stepping_down(&http, version).await?
            }
        };
        let about = About::from_content(&content)?;
        tracing::info!(server = endpoint.address(), product = about.full_name, api = version.as_str(), "connected");
        let inner = Inner {
            http,
            version,
            about,
            content,
            session: Session::default(),
            nodes: Nodes::default(),
            double_encoding: AtomicBool::new(false),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What the server says about itself.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.inner.about
    }

    /// Whether this is a vCenter, not a single host.
    #[must_use]
    pub fn is_vcenter(&self) -> bool {
        self.inner.about.api_type == "VirtualCenter"
    }

    /// The API version in use, such as `6.7.1`.
    #[must_use]
    pub fn api_version(&self) -> &str {
        self.inner.version.as_str()
    }

    pub(crate) fn at_least(&self, major: u32, minor: u32) -> bool {
        self.inner.version.at_least(major, minor)
    }

    pub(crate) fn http(&self) -> &Http {
        &self.inner.http
    }

    pub(crate) fn session(&self) -> &Session {
        &self.inner.session
    }

    pub(crate) fn nodes(&self) -> &Nodes {
        &self.inner.nodes
    }

    pub(crate) fn double_encoding(&self) -> &AtomicBool {
        &self.inner.double_encoding
    }

    /// One of the server's managers by its field in `ServiceContent`.
    pub(crate) fn manager(&self, field: &'static str) -> Result<Moref, Error> {
        self.inner.content.child(field).and_then(Element::moref).ok_or(Error::Missing { feature: field })
    }

    /// Calls any method: `request` is the method's element with `_this` first and its arguments in schema order. The answer
    /// is the `...Response` element. Logs in again if the session is gone; is not repeated when the connection breaks.
    ///
    /// # Errors
    /// What the server says, or how the connection failed.
    pub async fn call(&self, request: &Element) -> Result<Element, Error> {
        self.in_session(|| self.call_once(request, false)).await
    }

    /// [`call`](Self::call) for methods that only read: repeated once on a broken connection.
    pub(crate) async fn read(&self, request: &Element) -> Result<Element, Error> {
        self.in_session(|| self.call_once(request, true)).await
    }

    /// One call in the session as it is.
    pub(crate) async fn call_once(&self, request: &Element, only_reads: bool) -> Result<Element, Error> {
        let body = Bytes::from(xml::envelope(request));
        let cookie = self.session().cookie();
        match self.post(&request.name, cookie.as_ref(), body.clone()).await {
            // A pooled connection that the server closed meanwhile looks like this.
            Err(error @ Error::Dropped { .. }) if only_reads => {
                tracing::debug!(%error, "repeating");
                Ok(self.post(&request.name, cookie.as_ref(), body).await?.0)
            }
            done => Ok(done?.0),
        }
    }

    /// Sends an envelope, returns the `...Response` element.
    pub(crate) async fn post(
        &self,
        method: &str,
        cookie: Option<&HeaderValue>,
        body: Bytes,
    ) -> Result<(Element, HeaderMap), Error> {
        exchange(self.http(), &self.inner.version, method, cookie, body).await
    }
}

impl About {
    fn from_content(content: &Element) -> Result<Self, Error> {
        let about = content
            .child("about")
            .ok_or_else(|| Error::protocol("RetrieveServiceContent", "about", "a service content without it"))?;
        let text = |name| about.text_of(name).unwrap_or_default().to_owned();
        Ok(Self {
            name: text("name"),
            full_name: text("fullName"),
            version: text("version"),
            build: text("build"),
            api_type: text("apiType"),
            api_version: text("apiVersion"),
            instance_uuid: about.text_of("instanceUuid").map(str::to_owned),
        })
    }
}

/// The newest API version that the server's own list and ours share; nothing if the server has no list, as 3.5 has none.
async fn offered(http: &Http) -> Result<Option<ApiVersion>, Error> {
    let request = http.request(Method::GET, &http.url("/sdk/vimServiceVersions.xml"), None);
    let answer = http.answer("vimServiceVersions.xml", request).await?;
    // An overloaded server, unlike an old one, has a list: taken for an old one it would refuse us for the wrong reason.
    if matches!(answer.status.as_u16(), 502..=504) {
        return Err(Error::Http { status: answer.status.as_u16(), url: http.url("/sdk/vimServiceVersions.xml") });
    }
    if answer.status != StatusCode::OK {
        return Ok(None);
    }
    Ok(Element::parse(&answer.text).ok().and_then(|document| version::newest_common(&document)))
}

async fn content_stepping_down(http: &Http, first: ApiVersion) -> Result<(ApiVersion, Element), Error> {
    let mut version = first;
    for _ in 0..MAX_STEPS_DOWN {
        match content_of(http, &version).await {
            Err(error) if error.fault_kind() == Some("VersionMismatch") => match version.step_down() {
                Some(older) => version = older,
                None => return Err(error),
            },
            content => return Ok((version, content?)),
        }
    }
    let content = content_of(http, &version).await?;
    Ok((version, content))
}

async fn content_of(http: &Http, version: &ApiVersion) -> Result<Element, Error> {
    let instance = Moref::new("ServiceInstance", "ServiceInstance");
    let request = method("RetrieveServiceContent", &instance);
    let (response, _) = exchange(http, version, &request.name, None, Bytes::from(xml::envelope(&request))).await?;
    returnval(response)
}

async fn exchange(
    http: &Http,
    version: &ApiVersion,
    method: &str,
    cookie: Option<&HeaderValue>,
    body: Bytes,
) -> Result<(Element, HeaderMap), Error> {
    let start = Instant::now();
    let answer = http.post_sdk(method, version.as_str(), cookie, body).await?;
    tracing::debug!(method, status = answer.status.as_u16(), elapsed = ?start.elapsed(), "call");
    let soap = matches!(answer.status.as_u16(), 200 | 500);
    let parsed = match soap.then(|| Element::parse(&answer.text)) {
        Some(Ok(document)) => document,
        Some(Err(source)) if answer.status == 200 => return Err(Error::Xml { what: method.to_owned(), source }),
        _ => return Err(Error::Http { status: answer.status.as_u16(), url: http.url("/sdk") }),
    };
    Ok((response_in(method, parsed)?, answer.headers))
}

/// The `...Response` element of an envelope, or the fault in it.
fn response_in(method: &str, envelope: Element) -> Result<Element, Error> {
    let bad = |found: &str| Error::protocol(method, format!("{method}Response in a SOAP body"), found);
    if envelope.name != "Envelope" {
        return Err(bad(&envelope.name));
    }
    let body =
        envelope.children.into_iter().find(|c| c.name == "Body").ok_or_else(|| bad("an envelope without body"))?;
    let first = body.children.into_iter().next().ok_or_else(|| bad("an empty body"))?;
    if first.name == "Fault" {
        return Err(Error::fault(method, Fault::from_soap(&first)));
    }
    match first.name.strip_suffix("Response") == Some(method) {
        true => Ok(first),
        false => Err(bad(&first.name)),
    }
}

/// The element of a call of `name` on `this`.
pub(crate) fn method(name: &str, this: &Moref) -> Element {
    Element::new(name).with(Element::reference("_this", this))
}

/// The `returnval` of a response that must have one.
pub(crate) fn returnval(response: Element) -> Result<Element, Error> {
    let Element { name, children, .. } = response;
    children
        .into_iter()
        .find(|c| c.name == "returnval")
        .ok_or_else(|| Error::protocol(name, "a returnval", "an empty response"))
}

/// The managed object that a response refers to.
pub(crate) fn returned_object(response: Element) -> Result<Moref, Error> {
    let name = response.name.clone();
    let value = returnval(response)?;
    value.moref().ok_or_else(|| Error::protocol(name, "a managed object reference", value.text.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(inner: &str) -> Result<Element, Error> {
        let xml = format!(
            r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>{inner}</s:Body></s:Envelope>"#
        );
        response_in("CurrentTime", Element::parse(&xml).unwrap())
    }

    #[test]
    fn only_the_response_to_the_method_is_taken() {
        assert!(
            body(r#"<CurrentTimeResponse xmlns="urn:vim25"><returnval>x</returnval></CurrentTimeResponse>"#).is_ok()
        );
        assert!(matches!(body("<LoginResponse/>"), Err(Error::Protocol { .. })));
        assert!(matches!(body(""), Err(Error::Protocol { .. })));
        assert!(matches!(response_in("x", Element::new("html")), Err(Error::Protocol { .. })));
    }

    #[test]
    fn calls_can_run_on_any_thread() {
        fn any_thread<T: Send>(_: impl Fn(Client, Moref) -> T) {}
        any_thread(|client, vm| async move {
            client.login("u", "p").await?;
            client.virtual_machines().await?;
            client.vm_config(&vm).await?;
            client.find_by_uuid("").await?;
            let task = client.create_snapshot(&vm, "", "", false).await?;
            client.wait_task(&task, &mut |_| {}, None).await?;
            client.place(None, None).await?;
            client.logout().await;
            let file = client.datastore_file("", &"[a] b".parse().unwrap());
            file.get_range(0, file.size().await?).await?.next().await?;
            file.put(0, futures_util::stream::empty()).await
        });
    }

    #[test]
    fn a_fault_is_an_error_with_the_servers_text() {
        let fault = "<s:Fault><faultcode>ServerFaultCode</faultcode><faultstring>no such thing</faultstring>\
                     <detail><ManagedObjectNotFoundFault><obj type='Task'>t-1</obj></ManagedObjectNotFoundFault></detail></s:Fault>";
        let error = body(fault).unwrap_err();
        assert!(error.is_object_gone());
        assert_eq!(error.fault_field("obj"), Some("t-1"));
        assert_eq!(error.to_string(), "CurrentTime failed with ManagedObjectNotFound: no such thing");
    }
}
