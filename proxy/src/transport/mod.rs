//! How do I get the bytes of this frozen disk? Each route hands out a [`FrozenDisk`]; none knows what the bytes are for.

pub(crate) mod cached;
mod host_file;
mod https;
mod nbd;
mod nbd_disk;
mod throttle;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use blockdev::ReadAt;
use bytes::Bytes;

pub(crate) use self::https::from_read;
pub use self::https::{download, download_small, upload};
pub(crate) use self::nbd_disk::{NbdDisk, from_nbd};
pub use self::throttle::Throttle;
use crate::config::Scheme;
use crate::error::{Error, Family, Result};
use crate::hypervisor::{Disk, Link, NativeDisk, SnapshotId, VmConfig};

/// A route as users name it: the VCB modes and ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Transport {
    /// The best route there is.
    Auto,
    /// LUNs read by the proxy itself.
    San,
    /// VCB's LAN mode, in clear where the host offers it.
    Nbd,
    /// VCB's LAN mode, encrypted.
    NbdSsl,
    /// Datastore files over HTTPS.
    Https,
    /// Disks attached to the proxy VM.
    HotAdd,
    /// The service console, or datastores that the proxy has mounted.
    Cos,
    /// Files and devices of this machine.
    File,
}

const NAMES: [(&str, Transport); 8] = [
    ("auto", Transport::Auto),
    ("san", Transport::San),
    ("nbd", Transport::Nbd),
    ("nbdssl", Transport::NbdSsl),
    ("https", Transport::Https),
    ("hotadd", Transport::HotAdd),
    ("cos", Transport::Cos),
    ("file", Transport::File),
];

impl FromStr for Transport {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        NAMES.iter().find(|(name, _)| *name == text).map(|(_, transport)| *transport).ok_or_else(|| {
            Error::new(Family::Usage, format!("\"{text}\" is no transport"))
                .hint("auto, https, nbd, nbdssl, san, file, hotadd and cos are known")
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.iter().find(|(_, transport)| transport == self).map_or("auto", |(name, _)| name))
    }
}

/// A route that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Datastore files over HTTPS.
    Https,
    /// The hypervisor's own NBD server, in clear or over a local socket.
    Nbd,
    /// The hypervisor's own NBD server over TLS.
    NbdSsl,
    /// Files, LUNs and volumes that this machine reaches itself.
    Direct,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Https => f.write_str("https"),
            Self::Nbd => f.write_str("nbd"),
            Self::NbdSsl => f.write_str("nbdssl"),
            Self::Direct => f.write_str("direct"),
        }
    }
}

impl Transport {
    /// The route that serves this wish at a hypervisor of this kind.
    ///
    /// # Errors
    /// [`Family::Unsupported`] if there is none yet.
    pub fn route(self, at: &Scheme) -> Result<Route> {
        match at {
            Scheme::VCenter | Scheme::Esx | Scheme::Lab(_) => self.vsphere_route(),
            Scheme::Libvirt(uri) => self.libvirt_route(uri.is_local()),
        }
    }

    fn libvirt_route(self, local: bool) -> Result<Route> {
        match self {
            Self::Auto if local => Ok(Route::Nbd),
            Self::Nbd => Ok(Route::Nbd),
            // Over a network nothing goes in clear unless it is asked for.
            Self::Auto | Self::NbdSsl => Ok(Route::NbdSsl),
            Self::San | Self::File | Self::Cos if local => Ok(Route::Direct),
            Self::San | Self::File | Self::Cos => Err(Error::new(
                Family::Unsupported,
                format!("the transport {self} reads what this machine reaches, and the host is another one"),
            )
            .hint("run stillframe on that host, or use nbdssl")),
            Self::Https | Self::HotAdd => {
                Err(Error::new(Family::Unsupported, format!("a libvirt host has no transport {self}"))
                    .hint("use auto, nbd, nbdssl, san or file"))
            }
        }
    }

    fn vsphere_route(self) -> Result<Route> {
        match self {
            Self::Auto | Self::Https | Self::Nbd | Self::NbdSsl => Ok(Route::Https),
            Self::San | Self::HotAdd | Self::Cos | Self::File => {
                Err(Error::new(Family::Unsupported, format!("the transport {self} is not there yet"))
                    .hint("use https, or nbdssl, which take the LAN"))
            }
        }
    }
}

/// A run of bytes, `start` to `end`.
pub type Span = std::ops::Range<u64>;

/// What is known of a disk before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Only these spans can hold data: sorted, apart, inside the disk.
    Known(Vec<Span>),
    /// Everything has to be read, for this reason.
    Unknown(String),
}

/// Bytes that arrive in order.
#[async_trait]
pub trait ByteStream: Send {
    /// The next bytes, never empty; `None` when exactly what was asked for has come.
    async fn next(&mut self) -> Result<Option<Bytes>>;
}

/// A disk as it was at the freeze.
#[async_trait]
pub trait FrozenDisk: Send + Sync {
    /// Capacity in bytes.
    fn capacity(&self) -> u64;

    /// Which spans need to be read.
    async fn allocation(&self) -> Allocation;

    /// Which spans changed since an earlier `point` of this disk, as [`Disk::change_id`] named it then.
    async fn changes(&self, point: &str) -> Allocation {
        Allocation::Unknown(format!("this route cannot ask what changed since {point}"))
    }

    /// The bytes of `span`, which lies inside the disk.
    async fn open(&self, span: Span) -> Result<Box<dyn ByteStream>>;

    /// The same disk for readers that wait: its reads block, and must not be made on a thread of the runtime.
    fn reader(&self) -> Arc<dyn ReadAt>;
}

/// Opens a frozen disk of `snapshot` over `route`.
///
/// # Errors
/// Those of the route; [`Family::Corrupt`] if the disk's descriptor makes no sense.
pub async fn open(
    link: &Link,
    route: Route,
    vm: &VmConfig,
    snapshot: &SnapshotId,
    disk: &Disk,
) -> Result<Box<dyn FrozenDisk>> {
    if let NativeDisk::Nbd(frozen) = &disk.native {
        return nbd::open(frozen, disk).await;
    }
    match (link, route) {
        (Link::Host { .. }, _) => Err(Error::new(Family::Failed, format!("{} is not frozen", disk.file))),
        (Link::VSphere(client), Route::Https) => https::open(client, vm, snapshot, disk).await,
        (Link::VSphere(_), Route::Nbd | Route::NbdSsl | Route::Direct) => {
            Err(Error::new(Family::Unsupported, format!("vSphere disks are not read over {route} yet")))
        }
    }
}
