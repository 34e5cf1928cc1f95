//! The lab's network face: a server that looks like a vCenter to its clients.
//!
//! HTTPS with a self-signed certificate; SOAP at `/sdk` as far as a backup product needs it; datastore files at `/folder`;
//! faults on request at `/lab/faults`. What hosts really do was never seen by the authors: the shapes come from published type
//! tables and are held to a foreign client.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

mod collector;
mod control;
mod endpoint;
mod errors;
mod events;
mod faults;
mod folder;
mod inventory;
mod methods;
mod places;
mod range;
mod search;
mod server;
mod session;
mod soap;
mod tasks;
mod tls;
mod updates;
mod upload;
mod value;
mod vm_devices;
mod vm_files;
mod vm_methods;
mod vm_props;

pub use endpoint::{EndpointInfo, endpoint_of};
pub use events::{Event, Happening};
pub use faults::{Fault, FaultKind, Faults};

use crate::guest::Guests;
use crate::world::{Identity, LabError, World, WorldEvent};
use events::Events;
use session::Sessions;
use tasks::Tasks;
use tls::Certificates;

/// So long [`Lab::stop`] waits for work on disks to end. Merging a large layer can take longer; it then ends by itself.
const LAST_WORK: Duration = Duration::from_secs(10);

/// How the server behaves. The defaults are those of a patient host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A session that nothing used for so long is forgotten: 30 minutes, as on real servers.
    pub idle: Duration,
    /// At most so many objects in one answer of the property collector, whatever the client asks for.
    pub page: usize,
    /// At most so many areas in one answer of QueryChangedDiskAreas.
    pub area_extents: usize,
    /// One answer of QueryChangedDiskAreas covers at most so many bytes of the disk.
    pub area_span: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { idle: Duration::from_secs(30 * 60), page: 100, area_extents: 500, area_span: 16 << 30 }
    }
}

/// Why a lab cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the lab's folder failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No certificate could be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// The kept certificate or key is no PEM.
    #[error("the kept certificate or its key cannot be read")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// The certificate and its key cannot be used.
    #[error("the certificate cannot be served")]
    Tls(#[from] rustls::Error),
    /// The lab itself failed.
    #[error(transparent)]
    Lab(#[from] LabError),
}

impl ServeError {
    /// For `map_err` on file operations.
    fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// What all connections share.
struct Service {
    world: World,
    identity: Identity,
    options: Options,
    certificates: Certificates,
    sessions: Sessions,
    tasks: Tasks,
    faults: Faults,
    events: Arc<Events>,
    started: Timestamp,
    stop: watch::Receiver<bool>,
    stopped: AtomicBool,
}

impl Service {
    /// Whether the server is shutting down: long waits end then.
    fn stopping(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Ends when the server stops.
    async fn stop_signal(&self) {
        // It fails when the sender is gone, which is the same.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    /// Waits; false if the server stops before the time is over.
    async fn pause(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stop_signal()).await.is_err()
    }
}

/// A lab that is being served. Dropping it stops the server; [`Lab::stop`] also waits for the guests.
pub struct Lab {
    address: SocketAddr,
    service: Arc<Service>,
    guests: Option<Guests>,
    stop: watch::Sender<bool>,
    accepting: Option<JoinHandle<()>>,
}

impl fmt::Debug for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Lab {
    /// Serves `world` on `listen` (port 0 takes a free one), starts its guests and writes `endpoint.json` into its folder.
    ///
    /// # Errors
    /// [`ServeError`] if the address or the files in the lab's folder cannot be used.
    pub async fn serve(world: World, listen: SocketAddr) -> Result<Self, ServeError> {
        Self::serve_with(world, listen, Options::default()).await
    }

    /// The same with other behaviour.
    ///
    /// # Errors
    /// As [`Lab::serve`].
    pub async fn serve_with(world: World, listen: SocketAddr, options: Options) -> Result<Self, ServeError> {
        let certificates = Certificates::open(&world.dir().join("tls"))?;
        let unusable = |source| ServeError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let events = Arc::new(Events::default());
        watch_world(&world, &events);
        let (stop, stopped) = watch::channel(false);
        let service = Arc::new(Service {
            identity: world.identity(),
            world,
            certificates,
            sessions: Sessions::new(options.idle),
            options,
            tasks: Tasks::new(Handle::current()),
            faults: Faults::new(Arc::clone(&events)),
            events,
            started: Timestamp::now(),
            stop: stopped,
            stopped: AtomicBool::new(false),
        });
        let kept = service.certificates.kept();
        let info =
            EndpointInfo { address, sha1: kept.sha1.clone(), sha256: kept.sha256.clone(), pid: std::process::id() };
        let guests = Some(service.world.start_guests());
        let accepting = Some(tokio::spawn(server::accept(Arc::clone(&service), listener)));
        endpoint::write(service.world.dir(), &info)?;
        Ok(Self { address, service, guests, stop, accepting })
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// SHA-1 of the lab's own certificate, as `AA:BB:…`.
    #[must_use]
    pub fn sha1(&self) -> String {
        self.service.certificates.kept().sha1.clone()
    }

    /// SHA-256 of the lab's own certificate, as `AA:BB:…`.
    #[must_use]
    pub fn sha256(&self) -> String {
        self.service.certificates.kept().sha256.clone()
    }

    /// The faults to inject.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.service.faults
    }

    /// What happened so far, in order.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.service.events.all()
    }

    /// The world that is served.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.service.world
    }

    /// Closes all connections and stops the guests. Tasks that already work on a disk end first.
    pub async fn stop(mut self) {
        self.signal();
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.await; // it only fails if it was aborted
        }
        let guests = self.guests.take();
        let _ = tokio::task::spawn_blocking(move || drop(guests)).await;
        // Threads that still work hold the lab; its next opener must not meet them.
        let patience = std::time::Instant::now() + LAST_WORK;
        while Arc::strong_count(&self.service) > 1 && std::time::Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn signal(&self) {
        self.service.stopped.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
        endpoint::remove(self.service.world.dir());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.signal();
    }
}

/// Copies what happens in the world into the record.
fn watch_world(world: &World, events: &Arc<Events>) {
    let events = Arc::downgrade(events);
    world.on_event(move |event| {
        let Some(events) = events.upgrade() else { return };
        let text = |id: &dyn fmt::Display| id.to_string();
        events.add(match event {
            WorldEvent::Frozen(vm, last) => Happening::Freeze { vm: text(vm), guest_log: *last },
            WorldEvent::Switched(vm, snapshot) => Happening::Snapshot { vm: text(vm), snapshot: text(snapshot) },
            WorldEvent::Thawed(vm) => Happening::Thaw { vm: text(vm) },
            WorldEvent::Merged(vm, snapshot) => Happening::Remove { vm: text(vm), snapshot: text(snapshot) },
        });
    });
}
