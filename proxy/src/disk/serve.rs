//! Disks for NBD clients.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blockdev::ReadAt;
use nbd::server::{Clients, Export, Exports, Limits, Listener, ReadOnly, Server};
use nbd::{TlsFiles, Uri};
use serde::Serialize;
use tokio::sync::watch;

use super::overlay::Overlay;
use super::source::{Source, SourceSpec};
use crate::error::{Context, Error, Family, Result};
use crate::export::CATALOG_NAME;
use crate::job::Cancel;
use crate::restore::Backup;
use crate::transport::from_nbd;

/// A client that has gone may come back at once: programs look first and then open again.
const LINGER: Duration = Duration::from_millis(500);

/// Where clients come in.
#[derive(Clone, Debug)]
pub enum Place {
    /// A unix socket.
    Socket(PathBuf),
    /// A TCP port, 0 for any.
    Tcp(SocketAddr),
}

/// What is served, where and how.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// An image, or the directory of a backup.
    pub source: SourceSpec,
    /// The name of an image's export.
    pub export_name: Option<String>,
    /// Where.
    pub place: Place,
    /// The folder with certificates; without it nothing is encrypted.
    pub certificates: Option<PathBuf>,
    /// Only clients with a certificate are let in.
    pub verify_peer: bool,
    /// Clear text over TCP to other machines is meant so.
    pub insecure_plain: bool,
    /// Clients may write, into an overlay that lies in this folder.
    pub overlay: Option<PathBuf>,
}

/// One export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// How clients reach it.
    pub uri: String,
}

/// A server that takes clients.
pub struct Serving {
    /// What is served.
    pub exports: Vec<Shown>,
    server: Server,
    accepting: tokio::task::JoinHandle<()>,
}

/// A disk to be served: name, description, bytes, and the size of requests that suits it.
struct Served(String, String, Arc<dyn ReadAt>, u32);

impl Serving {
    /// Opens the disks and begins to take clients.
    ///
    /// # Errors
    /// [`Family::Usage`] for what does not go together; [`Family::Exists`] if somebody answers on the socket, or its file is no socket;
    /// and those of the disks and of the network.
    pub async fn begin(options: ServeOptions) -> Result<Self> {
        check(&options)?;
        let tls = match &options.certificates {
            Some(folder) => Some(TlsFiles::new(folder).server_config(options.verify_peer).map_err(from_nbd)?),
            None => None,
        };
        let (place, encrypted) = (options.place.clone(), tls.is_some());
        let disks = super::blocking(move || open(&options)).await?;
        let mut exports = Exports::new();
        for (served, export) in &disks {
            let added = exports.add(&served.0, &served.1, Arc::clone(export));
            added.map_err(|e| Error::new(Family::Usage, "cannot serve these disks").caused_by(e))?;
        }
        let listener = listen(&place).await?;
        let address = listener.address();
        let shown = |(served, _): &(Served, Arc<dyn Export>)| Shown {
            name: served.0.clone(),
            description: served.1.clone(),
            size: served.2.size().0,
            uri: uri_of(&place, address, encrypted, &served.0),
        };
        let shown = disks.iter().map(shown).collect();
        let server = Server::with(exports, tls, Limits::default());
        let accepting = tokio::spawn(server.clone().serve(listener));
        Ok(Self { exports: shown, server, accepting })
    }

    /// Serves until a signal; with `once` until the last client has gone, with `idle` until for so long there was none. What is under way
    /// then is finished.
    ///
    /// # Errors
    /// [`Family::Failed`] if the server broke off.
    pub async fn run(self, once: bool, idle: Option<Duration>, cancel: &Cancel) -> Result<()> {
        let clients = self.server.clients();
        let mut accepting = self.accepting;
        let broken = tokio::select! {
            _ = cancel.or_stop(std::future::pending::<Result<()>>()) => None,
            () = last_gone(clients.clone()), if once => None,
            () = none_for(clients, idle.unwrap_or_default()), if idle.is_some() => None,
            broken = &mut accepting => Some(broken),
        };
        self.server.stop().await;
        match broken {
            Some(broken) => broken.failed(|| "the server broke off".into()),
            // The listener goes with its task, and the socket's file with the listener.
            None => accepting.await.failed(|| "the server broke off".into()),
        }
    }
}

fn check(options: &ServeOptions) -> Result<()> {
    let Place::Tcp(address) = &options.place else { return Ok(()) };
    if options.certificates.is_some() || options.insecure_plain || address.ip().is_loopback() {
        return Ok(());
    }
    let what = format!("on {address} anybody in the network could read the disk");
    Err(Error::new(Family::Usage, what)
        .hint("--tls-certificates DIR encrypts, and --tls-verify-peer says who may; --insecure-plain means it so"))
}

fn open(options: &ServeOptions) -> Result<Vec<(Served, Arc<dyn Export>)>> {
    let path = &options.source.path;
    let disks = if path.is_dir() { backup(path, options)? } else { vec![image(options)?] };
    let export = |served: Served| {
        let export: Arc<dyn Export> = match &options.overlay {
            Some(folder) => Arc::new(Overlay::new(Arc::clone(&served.2), folder)?),
            None => Arc::new(ReadOnly::new(Arc::clone(&served.2)).with_preferred_block(served.3)),
        };
        Ok((served, export))
    };
    disks.into_iter().map(export).collect()
}

fn image(options: &ServeOptions) -> Result<Served> {
    let source = Source::open(&options.source)?;
    let preferred = source.image().map_or(4096, |_| 64 << 10);
    let description = options.source.name();
    let name = options.export_name.clone().unwrap_or_default();
    Ok(Served(name, description, source.into_disk(), preferred))
}

fn backup(directory: &Path, options: &ServeOptions) -> Result<Vec<Served>> {
    if !directory.join(CATALOG_NAME).is_file() {
        return Err(Error::new(Family::Usage, format!("{} holds no catalog", directory.display()))
            .hint("name a disk image, or the directory of a complete backup"));
    }
    if options.export_name.is_some() || options.source.format.is_some() || !options.source.map.is_empty() {
        let what = "--export-name, --from and --map do not go with a backup";
        return Err(Error::new(Family::Usage, what).hint("its exports are called by the addresses of its disks"));
    }
    let backup = Backup::open(directory, None)?;
    let vm = backup.catalog.get("display_name").map(|name| format!("{name}, ")).unwrap_or_default();
    let disk = |disk: crate::restore::BackupDisk| {
        let description = format!("{vm}{}", disk.file);
        Served(disk.address, description, Arc::new(disk.image), 64 << 10)
    };
    Ok(backup.disks.into_iter().map(disk).collect())
}

async fn listen(place: &Place) -> Result<Listener> {
    let (listener, shown) = match place {
        Place::Socket(path) => (Listener::unix(path).await, path.display().to_string()),
        Place::Tcp(address) => (Listener::tcp(*address).await, address.to_string()),
    };
    listener.map_err(|error| {
        let family = match error.kind() {
            ErrorKind::AddrInUse | ErrorKind::AlreadyExists => Family::Exists,
            ErrorKind::InvalidInput | ErrorKind::InvalidFilename => Family::Usage, // too long for a socket, as a rule
            _ => Family::Failed,
        };
        Error::new(family, format!("cannot listen on {shown}")).caused_by(error)
    })
}

fn uri_of(place: &Place, address: Option<SocketAddr>, encrypted: bool, name: &str) -> String {
    let uri = match (place, address) {
        (Place::Socket(path), _) => Uri::unix(std::path::absolute(path).unwrap_or_else(|_| path.clone()), name),
        (Place::Tcp(asked), bound) => {
            let address = bound.unwrap_or(*asked);
            // A certificate is for a name, and nobody is called 0.0.0.0.
            let local = address.ip().is_unspecified() || (encrypted && address.ip().is_loopback());
            let host = if local { "localhost".to_owned() } else { address.ip().to_string() };
            Uri::tcp(host, address.port(), name)
        }
    };
    if encrypted { uri.with_tls() } else { uri }.to_string()
}

/// Returns when there was a client and none is left.
async fn last_gone(mut clients: watch::Receiver<Clients>) {
    loop {
        let gone = clients.wait_for(|clients| clients.served > 0 && clients.connected == 0).await.is_ok();
        if !gone || nobody_comes(&mut clients, LINGER).await {
            return;
        }
    }
}

/// Returns when for `long` nobody was connected.
async fn none_for(mut clients: watch::Receiver<Clients>, long: Duration) {
    loop {
        let gone = clients.wait_for(|clients| clients.connected == 0).await.is_ok();
        if !gone || nobody_comes(&mut clients, long).await {
            return;
        }
    }
}

async fn nobody_comes(clients: &mut watch::Receiver<Clients>, long: Duration) -> bool {
    tokio::time::timeout(long, clients.wait_for(|clients| clients.connected > 0)).await.is_err()
}
