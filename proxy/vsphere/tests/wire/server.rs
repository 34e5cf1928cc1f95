//! A scripted HTTPS server on loopback.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, ServerConfig};
use vsphere::{Client, Endpoint, Moref, Presented, Timeouts, TlsPolicy};

pub(crate) const COOKIE: &str = "vmware_soap_session=\"52 ab=\"";

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The API method in a SOAP request, else the HTTP method.
    pub(crate) fn call(&self) -> &str {
        let inside = self.body.split("Body><").nth(1).and_then(|rest| rest.split([' ', '>']).next());
        inside.unwrap_or(&self.method)
    }

    /// The text of a leaf of the body.
    pub(crate) fn argument(&self, name: &str) -> Option<&str> {
        self.body.split(&format!("<{name}>")).nth(1)?.split('<').next()
    }
}

/// What happens after a request.
pub(crate) enum Reply {
    /// An HTTP answer; Content-Length is added.
    Http(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Bytes as they are, then the connection closes.
    Raw(Vec<u8>),
    /// Bytes as they are, then nothing ever.
    Stall(Vec<u8>),
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::Http(status, vec![], vec![])
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: String) -> Self {
        if let Self::Http(_, headers, _) = &mut self {
            headers.push((name, value));
        }
        self
    }

    /// A response to `method`.
    pub(crate) fn soap(method: &str, inner: &str) -> Self {
        Self::xml(200, &format!(r#"<{method}Response xmlns="urn:vim25">{inner}</{method}Response>"#))
    }

    /// A fault of type `kind`.
    pub(crate) fn fault(kind: &str, fields: &str) -> Self {
        let fault = format!(
            "<s:Fault><faultcode>ServerFaultCode</faultcode><faultstring>no: {kind}</faultstring><detail>\
             <{kind}Fault i:type=\"{kind}\">{fields}</{kind}Fault></detail></s:Fault>"
        );
        Self::xml(500, &fault)
    }

    pub(crate) fn xml(status: u16, body: &str) -> Self {
        let xml = format!(
            r#"<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
            xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><s:Body>{body}</s:Body></s:Envelope>"#
        );
        Self::Http(status, vec![], xml.into_bytes())
    }
}

type Script = Arc<Mutex<dyn FnMut(&Request) -> Option<Reply> + Send>>;

/// The server. It ends with the test's runtime.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) presented: Presented,
    pub(crate) pem: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Starts a server that asks `script` first and behaves like an idle vCenter 6.7 where that says nothing.
    pub(crate) async fn start(script: impl FnMut(&Request) -> Option<Reply> + Send + 'static) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (script, kept): (Script, _) = (Arc::new(Mutex::new(script)), log.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, script, log) = (acceptor.clone(), script.clone(), log.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = serve(stream, script, log).await;
                    }
                });
            }
        });
        Self { port, presented: Presented::of(made.cert.der()), pem: made.cert.pem(), log: kept }
    }

    /// Requests so far, by API or HTTP method.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.log.lock().unwrap().iter().map(|r| r.call().to_owned()).collect()
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|c| *c == call).count()
    }

    /// The requests of one API or HTTP method.
    pub(crate) fn requests(&self, call: &str) -> Vec<Request> {
        self.log.lock().unwrap().iter().filter(|r| r.call() == call).cloned().collect()
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        let mut endpoint = Endpoint::new("127.0.0.1");
        endpoint.port = self.port;
        endpoint.tls = TlsPolicy::Pins(vec![self.presented.sha256]);
        endpoint.timeouts = Timeouts {
            connect: Duration::from_secs(5),
            call: Duration::from_secs(5),
            stall: Duration::from_millis(500),
        };
        endpoint
    }

    /// A client that is logged in.
    pub(crate) async fn client(&self) -> Client {
        let client = Client::connect(self.endpoint()).await.unwrap();
        client.login("u", "p").await.unwrap();
        client
    }

    pub(crate) fn pem_file(&self, folder: &Path) -> std::path::PathBuf {
        let path = folder.join("ca.pem");
        std::fs::write(&path, &self.pem).unwrap();
        path
    }
}

/// A server that needs no script.
pub(crate) fn nothing(_: &Request) -> Option<Reply> {
    None
}

pub(crate) fn vm() -> Moref {
    Moref::new("VirtualMachine", "vm-1")
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: Script,
    log: Arc<Mutex<Vec<Request>>>,
) -> io::Result<()> {
    loop {
        let Some(request) = read_request(&mut stream).await? else { return Ok(()) };
        log.lock().unwrap().push(request.clone());
        let scripted = (script.lock().unwrap())(&request);
        match scripted.or_else(|| idle_vcenter(&request)).unwrap_or_else(|| Reply::status(404)) {
            Reply::Http(status, headers, body) => {
                let mut head = format!("HTTP/1.1 {status} X\r\n");
                if !headers.iter().any(|(name, _)| *name == "Content-Length") {
                    head += &format!("Content-Length: {}\r\n", body.len());
                }
                headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
                stream.write_all(format!("{head}\r\n").as_bytes()).await?;
                if request.method != "HEAD" {
                    stream.write_all(&body).await?;
                }
                stream.flush().await?;
            }
            Reply::Raw(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Reply::Stall(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ').map(str::to_owned);
    let mut request = Request {
        method: first.next().unwrap(),
        target: first.next().unwrap(),
        headers: lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        body: String::new(),
    };
    let length = request.header("content-length").map_or(0, |l| l.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(request))
}

fn idle_vcenter(request: &Request) -> Option<Reply> {
    if request.target == "/sdk/vimServiceVersions.xml" {
        let xml = "<namespaces><namespace><name>urn:vim25</name><version>6.7.1</version></namespace></namespaces>";
        return Some(Reply::Http(200, vec![], xml.into()));
    }
    match request.call() {
        "RetrieveServiceContent" => {
            let managers = [
                ("rootFolder", "Folder"),
                ("propertyCollector", "PropertyCollector"),
                ("viewManager", "ViewManager"),
                ("sessionManager", "SessionManager"),
                ("searchIndex", "SearchIndex"),
                ("fileManager", "FileManager"),
            ];
            let managers: String =
                managers.iter().map(|(field, kind)| format!("<{field} type='{kind}'>{kind}</{field}>")).collect();
            let about = "<about><name>S</name><fullName>Scripted 6.7</fullName><version>6.7.0</version><build>1</build>\
                         <apiType>VirtualCenter</apiType><apiVersion>6.7.1</apiVersion></about>";
            Some(Reply::soap("RetrieveServiceContent", &format!("<returnval>{about}{managers}</returnval>")))
        }
        "Login" => {
            let reply = Reply::soap("Login", "<returnval><key>k</key></returnval>");
            Some(reply.with_header("Set-Cookie", format!("{COOKIE}; Path=/; HttpOnly; Secure")))
        }
        "CurrentTime" => Some(Reply::soap("CurrentTime", "<returnval>2020-01-01T00:00:00Z</returnval>")),
        "Logout" => Some(Reply::soap("Logout", "")),
        _ => None,
    }
}
