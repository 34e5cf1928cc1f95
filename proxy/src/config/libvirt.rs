//! libvirt's connection URIs. They go to libvirt as they are, but for a few options of ours, which it never sees.

use std::fmt;
use std::path::{Path, PathBuf};

use super::connection::{percent_decode, percent_encode, usage};
use crate::error::{Error, Family, Result};

/// A libvirt connection that runs QEMU machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibvirtUri {
    /// `qemu+tls` and so on.
    pub scheme: String,
    /// `user@host:port`, empty for this machine.
    pub authority: String,
    /// `system` or `session`.
    pub path: String,
    /// The options that libvirt reads, as they were written.
    pub options: Vec<String>,
    /// `nbd-tls=DIR`: certificates for reading disks over TLS, in gnutls' names.
    pub nbd_tls: Option<PathBuf>,
    /// `nbd-host=NAME`: where the disks of a remote host are read, if not where libvirt answers.
    pub nbd_host: Option<String>,
    /// `nbd-ports=FIRST-LAST`: the ports that QEMU may listen on.
    pub nbd_ports: Option<(u16, u16)>,
    /// `scratch=DIR`: the folder on the host where QEMU keeps what the guest overwrites during a backup.
    pub scratch: Option<PathBuf>,
}

const SCHEMES: [&str; 5] = ["qemu", "qemu+unix", "qemu+ssh", "qemu+tls", "qemu+tcp"];
const FORMS: &str = "write qemu:///system, qemu:///session, qemu+unix:///system?socket=PATH, qemu+ssh://[USER@]HOST/system or qemu+tls://HOST/system";

impl LibvirtUri {
    /// Whether a scheme is one of libvirt's for QEMU.
    #[must_use]
    pub fn is_one(scheme: &str) -> bool {
        scheme == "qemu" || scheme.starts_with("qemu+")
    }

    /// Reads what follows `scheme://`. The other answer is whether `insecure=1` was said.
    pub(super) fn parse(scheme: &str, rest: &str) -> Result<(Self, bool)> {
        let refuse = |what: String| Error::new(Family::Usage, what).hint(FORMS);
        if !SCHEMES.contains(&scheme) {
            return Err(refuse(format!("unknown connection scheme {scheme}://")));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !["system", "session"].contains(&path) {
            return Err(refuse(format!(
                "the connection URI has the path \"/{path}\", which is neither /system nor /session"
            )));
        }
        if authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) {
            return Err(refuse("the connection URI holds a password, which libvirt does not take".into()));
        }
        let local = scheme == "qemu+unix" || (scheme == "qemu" && authority.is_empty());
        if local && !authority.is_empty() {
            return Err(refuse(format!("{scheme}:// names a host, and its socket is on this machine")));
        }
        if !local && authority.rsplit('@').next().unwrap_or_default().is_empty() {
            return Err(refuse(format!("{scheme}:// names no host")));
        }
        let mut uri = Self {
            scheme: scheme.into(),
            authority: authority.into(),
            path: path.into(),
            options: Vec::new(),
            nbd_tls: None,
            nbd_host: None,
            nbd_ports: None,
            scratch: None,
        };
        let mut insecure = false;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "nbd-tls" => uri.nbd_tls = Some(folder(key, value)?),
                "scratch" => uri.scratch = Some(folder(key, value)?),
                "nbd-host" => uri.nbd_host = Some(percent_decode(value)?).filter(|host| !host.is_empty()),
                "nbd-ports" => uri.nbd_ports = Some(ports(value)?),
                "insecure" => insecure = value == "1",
                "password-file" | "ca-file" | "thumbprint" => {
                    return Err(usage(format!("{key}= means nothing to libvirt")).hint(
                        "libvirt's own options are socket, pkipath, keyfile and so on; nobody asks for a password",
                    ));
                }
                _ => uri.options.push(pair.to_owned()),
            }
        }
        Ok((uri, insecure))
    }

    /// What libvirt is given. No program that it starts may ask anybody anything.
    #[must_use]
    pub fn for_libvirt(&self) -> String {
        let mut options = self.options.clone();
        if self.scheme == "qemu+ssh" && !options.iter().any(|option| option.starts_with("no_tty=")) {
            options.push("no_tty=1".into());
        }
        self.written(&options)
    }

    /// Whether its host is this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.authority.is_empty()
    }

    /// Whether what is said over it can be read on the way.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.scheme == "qemu+tcp"
    }

    /// Whether it is the user's own libvirt.
    #[must_use]
    pub fn is_session(&self) -> bool {
        self.path == "session"
    }

    /// Host name or address; empty for this machine.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.authority.rsplit('@').next().unwrap_or_default();
        match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => host.rsplit_once(':').map_or(host, |(host, _)| host),
        }
    }

    /// What stands for this connection in messages and in names of locks: without options, but for the socket.
    #[must_use]
    pub fn place(&self) -> String {
        let socket: Vec<_> = self.options.iter().filter(|option| option.starts_with("socket=")).cloned().collect();
        self.written(&socket)
    }

    fn written(&self, options: &[String]) -> String {
        let Self { scheme, authority, path, .. } = self;
        let query = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
        format!("{scheme}://{authority}/{path}{query}")
    }

    /// The URI again, with all options.
    pub(super) fn write(&self, f: &mut fmt::Formatter<'_>, insecure: bool) -> fmt::Result {
        let mut options = self.options.clone();
        let path = |path: &Path| percent_encode(&path.display().to_string());
        options.extend(self.nbd_tls.as_deref().map(|dir| format!("nbd-tls={}", path(dir))));
        options.extend(self.nbd_host.as_deref().map(|host| format!("nbd-host={}", percent_encode(host))));
        options.extend(self.nbd_ports.map(|(first, last)| format!("nbd-ports={first}-{last}")));
        options.extend(self.scratch.as_deref().map(|dir| format!("scratch={}", path(dir))));
        if insecure {
            options.push("insecure=1".into());
        }
        f.write_str(&self.written(&options))
    }
}

fn folder(key: &str, value: &str) -> Result<PathBuf> {
    let path = PathBuf::from(percent_decode(value)?);
    if path.is_absolute() { Ok(path) } else { Err(usage(format!("{key}={value} is no absolute path"))) }
}

fn ports(value: &str) -> Result<(u16, u16)> {
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if 0 < first && first <= last => Ok((first, last)),
        _ => Err(usage(format!("nbd-ports={value} is no range of ports")).hint("write nbd-ports=10809-10872")),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{ConnectionUri, Scheme};
    use crate::error::Family;

    fn libvirt(uri: &str) -> super::LibvirtUri {
        match uri.parse::<ConnectionUri>().unwrap().scheme {
            Scheme::Libvirt(uri) => *uri,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn libvirt_sees_its_own_options_and_none_of_ours() {
        let uri =
            libvirt("qemu+tls://root@h:16514/system?pkipath=/a%20b&nbd-tls=/c%20d&scratch=/s&nbd-ports=5-9&nbd-host=n");
        assert_eq!(uri.for_libvirt(), "qemu+tls://root@h:16514/system?pkipath=/a%20b");
        assert_eq!((uri.host(), uri.is_local(), uri.nbd_ports), ("h", false, Some((5, 9))));
        assert_eq!(uri.nbd_tls.unwrap().to_str(), Some("/c d"));
        assert_eq!(libvirt("qemu+ssh://h/system").for_libvirt(), "qemu+ssh://h/system?no_tty=1");
        assert!(libvirt("qemu+unix:///system?socket=/s").is_local());
        assert_eq!(libvirt("qemu+tls://[::1]:1/system").host(), "::1");
    }

    #[test]
    fn a_libvirt_uri_survives_being_written_and_read_again() {
        for uri in [
            "qemu:///system",
            "qemu:///session",
            "qemu+unix:///system?socket=/tmp/a%20b",
            "qemu+tls://h/system?pkipath=/p&nbd-tls=/q%26r&nbd-host=other&nbd-ports=10809-10872&scratch=/var/tmp&insecure=1",
        ] {
            let connection: ConnectionUri = uri.parse().unwrap();
            assert_eq!(connection.to_string(), uri);
        }
    }

    #[test]
    fn what_libvirt_would_misread_is_refused_as_usage() {
        for bad in [
            "qemu://",
            "qemu:///",
            "qemu:///vms",
            "qemu+magic:///system",
            "qemu+unix://h/system",
            "qemu+ssh:///system",
            "qemu+ssh://u:p@h/system",
            "qemu:///system?scratch=here",
            "qemu:///system?nbd-ports=9-5",
            "qemu:///system?nbd-ports=0",
            "qemu:///system?password-file=/x",
        ] {
            assert_eq!(bad.parse::<ConnectionUri>().unwrap_err().family(), Family::Usage, "{bad}");
        }
    }
}
