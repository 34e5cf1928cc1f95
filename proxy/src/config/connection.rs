//! Connections are URIs, as libvirt writes them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use vsphere::{Thumbprint, TlsPolicy};

use super::libvirt::LibvirtUri;
use crate::error::{Error, Family, Result};

/// Which kind of hypervisor a URI names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `vpx://user@host[:port]/`: a vCenter.
    VCenter,
    /// `esx://user@host[:port]/`: one ESX host.
    Esx,
    /// `lab:DIR`: the built-in lab whose state is in DIR.
    Lab(PathBuf),
    /// `qemu:///system` and its kin: QEMU machines under libvirt.
    Libvirt(Box<LibvirtUri>),
}

/// How a server proves that it is the right one. Nothing said means: the system's certificate authorities and the host name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsChoice {
    /// A file of certificate authorities (PEM) instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Accepted certificates, by digest.
    pub pins: Vec<Thumbprint>,
    /// Accept any certificate. Warned about in every run.
    pub insecure: bool,
}

impl TlsChoice {
    /// The client's policy for this choice.
    #[must_use]
    pub fn policy(&self) -> TlsPolicy {
        match (&self.ca_file, self.pins.is_empty(), self.insecure) {
            (_, _, true) => TlsPolicy::Insecure,
            (None, true, _) => TlsPolicy::SystemRoots,
            (Some(ca), true, _) => TlsPolicy::CaFile(ca.clone()),
            (None, false, _) => TlsPolicy::Pins(self.pins.clone()),
            (Some(ca), false, _) => TlsPolicy::CaFileAndPins(ca.clone(), self.pins.clone()),
        }
    }
}

/// Where a hypervisor is, who logs in, and how it is recognised. Never holds a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionUri {
    /// The kind of hypervisor.
    pub scheme: Scheme,
    /// The user, if named.
    pub user: Option<String>,
    /// Host name or address; empty for a lab.
    pub host: String,
    /// TCP port; 443 unless named.
    pub port: u16,
    /// The certificate rules.
    pub tls: TlsChoice,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
}

const DEFAULT_PORT: u16 = 443;
const FORMS: &str = "write vpx://USER@HOST/, esx://USER@HOST/, qemu:///system or lab:DIR";

pub(super) fn usage(what: String) -> Error {
    Error::new(Family::Usage, what).hint(FORMS)
}

impl ConnectionUri {
    fn lab(dir: &str) -> Result<Self> {
        if dir.is_empty() {
            return Err(usage("the connection lab: names no directory".into()));
        }
        Ok(Self {
            scheme: Scheme::Lab(PathBuf::from(dir)),
            user: None,
            host: String::new(),
            port: DEFAULT_PORT,
            tls: TlsChoice::default(),
            password_file: None,
        })
    }

    /// A vSphere server without a user: what `-h host[:port]` of the VCB tools names.
    ///
    /// # Errors
    /// [`Family::Usage`] if `authority` is no host and port.
    pub fn server(scheme: Scheme, authority: &str) -> Result<Self> {
        let (host, port) = split_authority(authority)?;
        Ok(Self { scheme, user: None, host, port, tls: TlsChoice::default(), password_file: None })
    }

    fn option(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "ca-file" => self.tls.ca_file = Some(PathBuf::from(value)),
            "thumbprint" => {
                let pin =
                    value.parse().map_err(|e| usage(format!("thumbprint={value} is not a digest")).caused_by(e))?;
                self.tls.pins.push(pin);
            }
            "insecure" => self.tls.insecure = value == "1",
            "password-file" => self.password_file = Some(PathBuf::from(value)),
            _ => {
                return Err(Error::new(Family::Usage, format!("the connection URI has an unknown option {key}"))
                    .hint("known are ca-file, thumbprint, insecure=1 and password-file"));
            }
        }
        Ok(())
    }

    /// `host:port` for messages, or the lab's directory.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.scheme {
            Scheme::Lab(dir) => format!("lab {}", dir.display()),
            Scheme::Libvirt(libvirt) => libvirt.place(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

/// A piece of a URI for a message: what stands before an `@` may hold a password.
fn without_user(text: &str) -> String {
    text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, rest)| format!("…@{rest}"))
}

fn split_authority(authority: &str) -> Result<(String, u16)> {
    let bad_port = || usage(format!("the port in \"{authority}\" is not a number from 1 to 65535"));
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(|| usage(format!("\"{authority}\" lacks a closing ]")))?;
        (host, rest.strip_prefix(':'))
    } else {
        match authority.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => (host, Some(port)),
            _ => (authority, None),
        }
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|p| *p != 0).ok_or_else(bad_port)?,
        None => DEFAULT_PORT,
    };
    let more = if authority.starts_with('[') { ".-_:%" } else { ".-_" };
    let plain = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
    if host.is_empty() || !host.chars().all(plain) {
        return Err(usage(format!("\"{authority}\" names no host")));
    }
    Ok((host.to_owned(), port))
}

impl FromStr for ConnectionUri {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self> {
        if let Some(dir) = uri.strip_prefix("lab:") {
            return Self::lab(dir);
        }
        let (scheme, rest) =
            uri.split_once("://").ok_or_else(|| usage(format!("\"{}\" is no connection URI", without_user(uri))))?;
        let scheme = match scheme {
            "vpx" => Scheme::VCenter,
            "esx" => Scheme::Esx,
            _ if LibvirtUri::is_one(scheme) => {
                let (libvirt, insecure) = LibvirtUri::parse(scheme, rest)?;
                let tls = TlsChoice { insecure, ..TlsChoice::default() };
                let scheme = Scheme::Libvirt(Box::new(libvirt));
                return Ok(Self {
                    scheme,
                    user: None,
                    host: String::new(),
                    port: DEFAULT_PORT,
                    tls,
                    password_file: None,
                });
            }
            other => return Err(usage(format!("unknown connection scheme {other}://"))),
        };
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !path.is_empty() {
            return Err(usage(format!("the connection URI has a path \"/{}\" that means nothing", without_user(path))));
        }
        // The last @ separates the user, so administrator@vsphere.local@vcenter works unescaped.
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(Error::new(Family::Usage, "the connection URI holds a password")
                .hint("leave it out; use --password-file, STILLFRAME_PASSWORD, `stillframe login` or the prompt"));
        }
        let mut connection = Self::server(scheme, authority)?;
        connection.user = user.map(percent_decode).transpose()?;
        for pair in options.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            connection.option(key, &percent_decode(value)?)?;
        }
        Ok(connection)
    }
}

pub(super) fn percent_decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.ok_or_else(|| usage(format!("\"{text}\" has a % that is not followed by two hex digits")))?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|e| usage(format!("\"{text}\" does not decode to UTF-8")).caused_by(e))
}

pub(super) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The URI again, with every option, so that a journal can find the same server.
impl fmt::Display for ConnectionUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scheme {
            Scheme::Lab(dir) => return write!(f, "lab:{}", dir.display()),
            Scheme::Libvirt(libvirt) => return libvirt.write(f, self.tls.insecure),
            Scheme::VCenter => f.write_str("vpx://")?,
            Scheme::Esx => f.write_str("esx://")?,
        }
        if let Some(user) = &self.user {
            write!(f, "{}@", percent_encode(user).replace(':', "%3A"))?;
        }
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{host}")?;
        if self.port != DEFAULT_PORT {
            write!(f, ":{}", self.port)?;
        }
        f.write_str("/")?;
        let mut options: Vec<String> = Vec::new();
        if let Some(ca) = &self.tls.ca_file {
            options.push(format!("ca-file={}", percent_encode(&ca.display().to_string())));
        }
        options.extend(self.tls.pins.iter().map(|pin| format!("thumbprint={pin}")));
        if self.tls.insecure {
            options.push("insecure=1".into());
        }
        if let Some(file) = &self.password_file {
            options.push(format!("password-file={}", percent_encode(&file.display().to_string())));
        }
        if options.is_empty() { Ok(()) } else { write!(f, "?{}", options.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_survives_being_written_and_read_again() {
        for uri in [
            "vpx://administrator%40vsphere.local@vc.example.com/",
            "esx://root@[fe80::1]:8443/?insecure=1",
            "vpx://vc/?ca-file=/etc/a%20b.pem&password-file=/run/pw",
            "lab:/tmp/a lab",
        ] {
            let connection: ConnectionUri = uri.parse().unwrap();
            assert_eq!(connection.to_string().parse::<ConnectionUri>().unwrap(), connection, "{uri}");
        }
    }

    #[test]
    fn the_last_at_sign_separates_the_user() {
        let connection: ConnectionUri = "vpx://administrator@vsphere.local@vc:444/".parse().unwrap();
        assert_eq!(connection.user.as_deref(), Some("administrator@vsphere.local"));
        assert_eq!((connection.host.as_str(), connection.port), ("vc", 444));
    }

    #[test]
    fn passwords_paths_and_nonsense_in_uris_are_refused_as_usage() {
        for bad in [
            "vpx://root:secret@vc/",
            "vpx://vc/path",
            "vpx://",
            "vc",
            "lab:",
            "vpx://vc:0/",
            "ftp://x/",
            "vpx://vc/?thumbprint=zz",
            "vpx://vc/?x=1",
            "vpx://a%2/",
        ] {
            assert_eq!(bad.parse::<ConnectionUri>().unwrap_err().family(), Family::Usage, "{bad}");
        }
    }
}
