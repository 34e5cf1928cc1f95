//! NBD URIs, as `doc/uri.md` of the NBD project and libnbd write them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::constants::MAX_STRING;
use crate::{Error, Family, Result};

/// The port that IANA gave to NBD.
pub const DEFAULT_PORT: u16 = 10809;

/// What is encoded in a path or a query: what RFC 3986 reserves, and what is no character of a URI.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host name or IP address (without brackets), and a port.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A server, an export of it, and whether and how TLS is used.
///
/// `nbd://HOST[:PORT]/EXPORT`, `nbds://` with TLS, `nbd+unix:///EXPORT?socket=PATH`, `nbds+unix://` with TLS. Parameters for TLS:
/// `tls-certificates=DIR` (see [`crate::TlsFiles`]), `tls-hostname=NAME`, `tls-verify-peer=0|1`. `nbd` is plain: here it never
/// means "TLS if the server likes".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Uri {
    address: Address,
    export: String,
    tls: bool,
    certificates: Option<PathBuf>,
    hostname: Option<String>,
    verify_peer: bool,
}

impl Uri {
    /// An export, without TLS.
    pub fn new(address: Address, export: impl Into<String>) -> Self {
        let export = export.into();
        Self { address, export, tls: false, certificates: None, hostname: None, verify_peer: true }
    }

    /// An export behind a Unix socket, without TLS.
    pub fn unix(socket: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        Self::new(Address::Unix(socket.into()), export)
    }

    /// An export behind TCP, without TLS.
    pub fn tcp(host: impl Into<String>, port: u16, export: impl Into<String>) -> Self {
        Self::new(Address::Tcp { host: host.into(), port }, export)
    }

    /// The same with TLS.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// The same with TLS and a folder of certificates.
    #[must_use]
    pub fn with_certificates(mut self, folder: impl Into<PathBuf>) -> Self {
        self.certificates = Some(folder.into());
        self.with_tls()
    }

    /// The same with TLS, and the name that the server's certificate must be for.
    #[must_use]
    pub fn with_hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self.with_tls()
    }

    /// The same with another export of that server.
    #[must_use]
    pub fn with_export(mut self, export: impl Into<String>) -> Self {
        self.export = export.into();
        self
    }

    /// Whether `text` begins as an NBD URI does, so that it is not the name of a file.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        text.split_once(':').is_some_and(|(scheme, rest)| {
            let scheme = scheme.to_ascii_lowercase();
            (scheme.starts_with("nbd+") || scheme.starts_with("nbds+") || scheme == "nbd" || scheme == "nbds")
                && rest.starts_with("//")
        })
    }

    /// Where the server listens.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The name of the export; empty for the default one.
    #[must_use]
    pub fn export(&self) -> &str {
        &self.export
    }

    /// Whether TLS is wanted; then nothing goes on without it.
    #[must_use]
    pub const fn tls(&self) -> bool {
        self.tls
    }

    /// The folder of certificates, if the URI names one.
    #[must_use]
    pub fn certificates(&self) -> Option<&Path> {
        self.certificates.as_deref()
    }

    /// Whether the server's certificate is checked.
    #[must_use]
    pub const fn verify_peer(&self) -> bool {
        self.verify_peer
    }

    /// The name that the server's certificate must be for: `tls-hostname`, or the host; `localhost` behind a Unix socket.
    #[must_use]
    pub fn tls_name(&self) -> &str {
        match (&self.hostname, &self.address) {
            (Some(name), _) => name,
            (None, Address::Tcp { host, .. }) => host,
            (None, Address::Unix(_)) => "localhost",
        }
    }
}

impl FromStr for Uri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|error| error.within(format!("the NBD URI {text:?}")))
    }
}

fn parse(text: &str) -> Result<Uri> {
    let (scheme, rest) =
        text.split_once("://").ok_or_else(|| Error::usage("it has no scheme, as in nbd://host/export"))?;
    let (tls, unix) = match scheme.to_ascii_lowercase().as_str() {
        "nbd" => (false, false),
        "nbds" => (true, false),
        "nbd+unix" => (false, true),
        "nbds+unix" => (true, true),
        _ => {
            let known = "nbd, nbds, nbd+unix and nbds+unix are known";
            return Err(Error::new(Family::Unsupported, format!("the scheme {scheme:?} is not supported: {known}")));
        }
    };
    if rest.contains('#') {
        return Err(Error::usage("it has a fragment; a # in a name is written %23"));
    }
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = before.split_once('/').unwrap_or((before, ""));
    let mut parameters = Parameters::parse(query)?;
    let address = match (unix, parameters.socket.take()) {
        (true, Some(_)) if !authority.is_empty() => {
            return Err(Error::usage("a host and a socket exclude each other; after nbd+unix:// comes a third slash"));
        }
        (true, Some(socket)) => Address::Unix(socket),
        (true, None) => return Err(Error::usage("nbd+unix wants ?socket=PATH")),
        (false, Some(_)) => return Err(Error::usage("socket= goes with nbd+unix or nbds+unix")),
        (false, None) => parse_authority(authority)?,
    };
    let export = decode(path, "the name of the export")?;
    if export.len() > MAX_STRING as usize || export.contains('\0') {
        return Err(Error::usage(format!("the name of an export has at most {MAX_STRING} bytes, none of them 0")));
    }
    let Parameters { certificates, hostname, verify_peer, .. } = parameters;
    if !tls && (certificates.is_some() || hostname.is_some() || verify_peer.is_some()) {
        return Err(Error::usage("parameters for TLS go with nbds or nbds+unix; nbd is plain"));
    }
    Ok(Uri { address, export, tls, certificates, hostname, verify_peer: verify_peer.unwrap_or(true) })
}

fn parse_authority(authority: &str) -> Result<Address> {
    if authority.contains('@') {
        return Err(Error::new(
            Family::Unsupported,
            "it names a user, which is for TLS with pre-shared keys: not supported",
        ));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(|| Error::usage("a [ without its ]"))?;
            let port = match after {
                "" => None,
                _ => Some(after.strip_prefix(':').ok_or_else(|| Error::usage("after ] comes :PORT or /"))?),
            };
            (host, port)
        }
        None => match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(Error::usage("an IPv6 address stands in brackets: nbd://[::1]/"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let host = match decode(host, "the host")? {
        empty if empty.is_empty() => "localhost".to_owned(),
        host => host,
    };
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(digits) => digits
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| Error::usage(format!("the port is {digits:?}: a number from 1 to 65535 is expected")))?,
    };
    Ok(Address::Tcp { host, port })
}

#[derive(Default)]
struct Parameters {
    socket: Option<PathBuf>,
    certificates: Option<PathBuf>,
    hostname: Option<String>,
    verify_peer: Option<bool>,
}

impl Parameters {
    fn parse(query: &str) -> Result<Self> {
        let mut all = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value, key)?;
            let twice = match key {
                "socket" => all.socket.replace(socket_path(value)?).is_some(),
                "tls-certificates" => all.certificates.replace(value.into()).is_some(),
                "tls-hostname" => all.hostname.replace(value).is_some(),
                "tls-verify-peer" => all.verify_peer.replace(truth(key, &value)?).is_some(),
                "tls-type" if value == "x509" => false,
                "tls-type" | "tls-psk-file" | "tls-username" => {
                    let only = "only TLS with certificates is (tls-certificates=DIR)";
                    return Err(Error::new(Family::Unsupported, format!("{key}={value} is not supported: {only}")));
                }
                _ => return Err(Error::usage(format!("the parameter {key:?} is not known"))),
            };
            if twice {
                return Err(Error::usage(format!("{key} is there twice")));
            }
        }
        Ok(all)
    }
}

fn socket_path(value: String) -> Result<PathBuf> {
    if value.is_empty() || value.contains('\0') {
        return Err(Error::usage("socket= wants the path of a socket in the file system"));
    }
    Ok(value.into())
}

fn truth(key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(Error::usage(format!("{key} is {value:?}: 0 or 1 is expected"))),
    }
}

fn decode(text: &str, what: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| Error::usage(format!("{what} is not UTF-8")))
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn encoded(text: &str) -> impl fmt::Display {
            utf8_percent_encode(text, ENCODED)
        }
        f.write_str(if self.tls { "nbds" } else { "nbd" })?;
        let mut separator = '?';
        match &self.address {
            Address::Tcp { host, port } => {
                f.write_str("://")?;
                if host.contains(':') {
                    write!(f, "[{host}]")?;
                } else {
                    write!(f, "{}", encoded(host))?;
                }
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{}", encoded(&self.export))?;
            }
            Address::Unix(path) => {
                let socket = path.to_string_lossy();
                write!(f, "+unix:///{}?socket={}", encoded(&self.export), encoded(&socket))?;
                separator = '&';
            }
        }
        let folder = self.certificates.as_ref().map(|folder| folder.to_string_lossy());
        let parameters = [
            ("tls-certificates", folder.as_deref()),
            ("tls-hostname", self.hostname.as_deref()),
            ("tls-verify-peer", (!self.verify_peer).then_some("0")),
        ];
        for (key, value) in parameters {
            if let Some(value) = value {
                write!(f, "{separator}{key}={}", encoded(value))?;
                separator = '&';
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Uri {
        text.parse().unwrap()
    }

    fn refused(text: &str) -> String {
        text.parse::<Uri>().unwrap_err().to_string()
    }

    #[test]
    fn the_path_without_its_first_slash_is_the_export() {
        for (text, export) in [
            ("nbd://example.com/disk", "disk"),
            ("nbd+unix:///disk?socket=sock", "disk"),
            ("nbd://example.com/", ""),
            ("nbd://example.com", ""),
            ("nbd://example.com//disk", "/disk"),
            ("nbd://example.com/hello%20world", "hello world"),
        ] {
            assert_eq!(parsed(text).export(), export, "{text}");
        }
    }

    #[test]
    fn host_and_port_have_defaults_and_addresses_of_both_kinds() {
        for (text, address) in [
            ("nbd://host", "host:10809"),
            ("nbd://host:1234/x", "host:1234"),
            ("NBD://[::1]:1234/x", "[::1]:1234"),
            ("nbd://[fe80::1]/", "[fe80::1]:10809"),
            ("nbd:///", "localhost:10809"),
        ] {
            assert_eq!(parsed(text).address().to_string(), address, "{text}");
        }
    }

    #[test]
    fn parameters_of_tls_are_taken_with_tls_and_refused_without() {
        let uri =
            parsed("nbds+unix:///?socket=/run/a%26b&tls-certificates=/etc/pki/x&tls-hostname=vm1&tls-verify-peer=0");
        assert_eq!(uri.address(), &Address::Unix("/run/a&b".into()));
        assert_eq!(uri.certificates(), Some(Path::new("/etc/pki/x")));
        assert_eq!((uri.tls_name(), uri.verify_peer(), uri.tls()), ("vm1", false, true));
        assert!(refused("nbd://h/?tls-certificates=/x").contains("nbd is plain"));
        assert_eq!(parsed("nbds://h/").tls_name(), "h");
    }

    #[test]
    fn what_is_written_reads_as_the_same() {
        for text in [
            "nbd://host/",
            "nbds://[::1]:99/a/b?tls-certificates=/c%20d",
            "nbd+unix:///%2523?socket=/run/x",
            "nbds+unix:///e?socket=s&tls-hostname=n&tls-verify-peer=0",
            "nbd://h//abs",
        ] {
            assert_eq!(parsed(text).to_string(), text);
        }
        let odd = Uri::unix("/run/ä ?&#", "a?b&c=d#e%41\u{7f}");
        assert_eq!(parsed(&odd.to_string()), odd);
    }

    #[test]
    fn what_is_no_uri_of_ours_is_refused_with_the_reason() {
        for (text, reason) in [
            ("file.raw", "no scheme"),
            ("nbd+vsock://2/", "not supported"),
            ("nbd+unix:///x", "?socket=PATH"),
            ("nbd+unix://host/x?socket=s", "third slash"),
            ("nbd://h/?socket=s", "goes with nbd+unix"),
            ("nbd://h:0/", "the port is \"0\""),
            ("nbd://h:70000/", "1 to 65535"),
            ("nbd://::1/", "brackets"),
            ("nbds://alice@h/?tls-psk-file=k", "tls-psk-file"),
            ("nbd://alice@h/", "pre-shared"),
            ("nbd://h/a%00b", "none of them 0"),
            ("nbd://h/%ff", "not UTF-8"),
            ("nbd://h/?tsl-hostname=a", "not known"),
            ("nbds://h/?tls-hostname=a&tls-hostname=b", "twice"),
        ] {
            let said = refused(text);
            assert!(said.contains(reason), "{text}: {said}");
        }
        assert!(refused(&format!("nbd://h/{}", "x".repeat(4097))).contains("at most 4096"));
    }

    #[test]
    fn uris_are_told_from_file_names() {
        for text in ["nbd://h", "NBDS://h", "nbd+unix:///", "nbds+vsock://"] {
            assert!(Uri::is_one(text), "{text}");
        }
        for text in ["nbd", "disk.vmdk", "nbd:h", "/nbd://h", "qemu://h", "nbdx://"] {
            assert!(!Uri::is_one(text), "{text}");
        }
    }
}
