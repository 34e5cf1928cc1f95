//! Datastore files over HTTPS: `/folder` with ranges (vsphere.md 3.8).

use std::sync::Arc;

use async_trait::async_trait;
use blockdev::{ByteLen, ByteOffset, ReadAt};
use bytes::Bytes;
use futures_util::Stream;
use tokio::runtime::Handle;
use vmdk_rs::{Descriptor, ExtentType, FnGate, Image, PlainName, VmdkError};
use vsphere::{Client, DatastoreFile, DatastorePath, Moref, RangeBody};

use super::cached::{AHEAD, Cached, Source};
use super::{Allocation, ByteStream, FrozenDisk, Span};
use crate::error::{Context, Error, Family, Result};
use crate::hypervisor::{Disk, Link, NativeDisk, SnapshotId, VmConfig, from_vsphere, worth_rereading};
use crate::job::{Cancel, Retry, with_retries};

/// A descriptor is text; a longer one is no descriptor.
const MAX_DESCRIPTOR: u64 = 1 << 20;
/// Reads through a chain of deltas go in pieces of this size.
const CHAIN_READ: u64 = 1 << 20;

fn path_of(text: &str) -> Result<DatastorePath> {
    text.parse().map_err(|e: vsphere::DatastorePathError| Error::new(Family::Usage, e.to_string()))
}

/// Asks for something small until it comes, as long as trying again can help.
async fn persistent<T, F>(what: &str, work: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    with_retries(Retry::READS, &Cancel::never(), what, worth_rereading, work).await
}

async fn read_small(file: &DatastoreFile, limit: u64) -> Result<Bytes> {
    let what = format!("reading {}", file.path());
    persistent(&what, || async { file.read_all(limit).await.map_err(from_vsphere) }).await
}

/// A datastore file, trying again what can pass.
#[async_trait]
impl Source for DatastoreFile {
    async fn fetch(&self, at: u64, len: u64) -> Result<Bytes> {
        let what = format!("reading {}", self.path());
        let once = || async {
            let mut body = self.get_range(at, len).await.map_err(from_vsphere)?;
            let mut bytes = Vec::with_capacity(len as usize);
            while let Some(piece) = body.next().await.map_err(from_vsphere)? {
                bytes.extend_from_slice(&piece);
            }
            Ok(Bytes::from(bytes))
        };
        persistent(&what, once).await
    }
}

/// The size of a datastore file in bytes.
async fn size_of(file: &DatastoreFile) -> Result<u64> {
    let what = format!("reading {}", file.path());
    persistent(&what, || async { file.size().await.map_err(from_vsphere) }).await
}

/// Opens a frozen disk: a plain flat file is streamed as it lies, anything else goes through the image reader.
pub(super) async fn open(
    client: &Client,
    vm: &VmConfig,
    snapshot: &SnapshotId,
    disk: &Disk,
) -> Result<Box<dyn FrozenDisk>> {
    let NativeDisk::VSphere(native) = &disk.native else {
        return Err(Error::new(Family::Unsupported, format!("{} is no vSphere disk", disk.file)));
    };
    let datacenter = &vm.place.datacenter;
    let what = || format!("cannot open {}", disk.file);
    let text = read_small(&client.datastore_file(datacenter, &native.file), MAX_DESCRIPTOR).await;
    let text = text.map_err(|e| e.within(what()))?;
    let descriptor = Descriptor::parse(&text).map_err(|e| corrupt(e, disk))?;
    let areas = Areas {
        client: client.clone(),
        vm: Moref::new("VirtualMachine", &vm.info.moref.0),
        snapshot: Moref::new("VirtualMachineSnapshot", &snapshot.0),
        disk: (**native).clone(),
        tracked: vm.change_tracking && disk.change_id.is_some(),
    };
    if let Some(name) = flat_name(&descriptor, disk.capacity) {
        let name = PlainName::new(&name).map_err(|e| corrupt(e, disk))?;
        let file = client.datastore_file(datacenter, &native.file.in_same_folder(name.as_str()));
        let size = size_of(&file).await.map_err(|e| e.within(what()))?;
        if size < disk.capacity {
            return Err(Error::new(
                Family::Corrupt,
                format!("{} has {size} bytes, and its disk {}", file.path(), disk.capacity),
            ));
        }
        return Ok(Box::new(FlatDisk { file, capacity: disk.capacity, areas, runtime: Handle::current() }));
    }
    let image = open_chain(client.clone(), datacenter.clone(), native.file.clone(), Arc::new(text.to_vec())).await;
    let image = image.map_err(|e| e.within(what()))?;
    // A host's deltas are as large as what they are deltas to; a shorter parent would be read as zeros behind its end.
    for (file, descriptor) in image.chain() {
        let sectors = descriptor.extents.iter().map(|extent| extent.sectors.0).fold(0, u64::saturating_add);
        let described = sectors.saturating_mul(blockdev::SECTOR_SIZE);
        if described != disk.capacity {
            let what = format!("{file} describes {described} bytes, and its disk has {}", disk.capacity);
            return Err(Error::new(Family::Corrupt, what).within(format!("cannot open {}", disk.file)));
        }
    }
    Ok(Box::new(ChainDisk { image: Arc::new(image), areas }))
}

fn corrupt(error: impl std::error::Error + Send + Sync + 'static, disk: &Disk) -> Error {
    Error::new(Family::Corrupt, format!("the descriptor {} cannot be used", disk.file)).caused_by(error)
}

/// The file of a disk that is one flat extent from its beginning, and has no parent.
fn flat_name(descriptor: &Descriptor, capacity: u64) -> Option<String> {
    let [extent] = descriptor.extents.as_slice() else { return None };
    let flat = matches!(extent.kind, ExtentType::Flat | ExtentType::Vmfs) && extent.offset.is_none_or(|at| at.0 == 0);
    let whole = extent.sectors.to_bytes().is_some_and(|bytes| bytes.0 == capacity);
    if flat && whole && descriptor.parent_content_id.is_none() { extent.file.clone() } else { None }
}

async fn open_chain(
    client: Client,
    datacenter: String,
    path: DatastorePath,
    descriptor: Arc<Vec<u8>>,
) -> Result<Image> {
    let runtime = Handle::current();
    // The image reader is synchronous; its reads block a thread of the blocking pool.
    let work = move || {
        let name = path.path.rsplit('/').next().unwrap_or_default().to_owned();
        let gate = FnGate::new(|name: &PlainName| {
            let file = client.datastore_file(&datacenter, &path.in_same_folder(name.as_str()));
            let size = runtime.block_on(size_of(&file)).map_err(|e| VmdkError::Io {
                action: "open",
                file: file.path().to_string(),
                source: std::io::Error::other(e),
            })?;
            // Deltas are read here and there: what lies behind a block is seldom wanted next.
            Ok(Arc::new(Cached::new(file, ByteLen(size), 0, runtime.clone())) as Arc<dyn ReadAt>)
        });
        let head = Arc::new(blockdev::MemDisk::new(descriptor.to_vec()));
        Image::open(head, &name, &gate)
    };
    let image = tokio::task::spawn_blocking(work).await.failed(|| "the image reader was stopped".into())?;
    image.map_err(|error| crate::image_error(error, "the disk's files cannot be read".into()))
}

/// Asks the host which areas of a frozen disk are in use.
struct Areas {
    client: Client,
    vm: Moref,
    snapshot: Moref,
    disk: vsphere::DiskConfig,
    tracked: bool,
}

impl Areas {
    async fn allocation(&self) -> Allocation {
        if !self.tracked {
            return Allocation::Unknown("the host does not track this disk's blocks".into());
        }
        match self.client.allocated_areas(&self.vm, &self.snapshot, &self.disk).await {
            Ok(areas) => Allocation::Known(areas.into_iter().map(|(start, len)| start..start + len).collect()),
            Err(error) => Allocation::Unknown(format!("the host does not say which blocks are in use ({error})")),
        }
    }

    async fn changes(&self, point: &str) -> Allocation {
        if !self.tracked {
            return Allocation::Unknown("the host does not track this disk's blocks".into());
        }
        match self.client.changed_areas(&self.vm, &self.snapshot, &self.disk, point).await {
            Ok(areas) => Allocation::Known(areas.into_iter().map(|(start, len)| start..start + len).collect()),
            Err(error) => Allocation::Unknown(format!("the host does not say what changed since then ({error})")),
        }
    }
}

struct FlatDisk {
    file: DatastoreFile,
    capacity: u64,
    areas: Areas,
    runtime: Handle,
}

#[async_trait]
impl FrozenDisk for FlatDisk {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    async fn allocation(&self) -> Allocation {
        self.areas.allocation().await
    }

    async fn changes(&self, point: &str) -> Allocation {
        self.areas.changes(point).await
    }

    async fn open(&self, span: Span) -> Result<Box<dyn ByteStream>> {
        let body = self.file.get_range(span.start, span.end - span.start).await.map_err(from_vsphere)?;
        Ok(Box::new(body))
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        Arc::new(Cached::new(self.file.clone(), ByteLen(self.capacity), AHEAD, self.runtime.clone()))
    }
}

#[async_trait]
impl ByteStream for RangeBody {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        Self::next(self).await.map_err(from_vsphere)
    }
}

struct ChainDisk {
    image: Arc<Image>,
    areas: Areas,
}

#[async_trait]
impl FrozenDisk for ChainDisk {
    fn capacity(&self) -> u64 {
        self.image.size().0
    }

    async fn allocation(&self) -> Allocation {
        self.areas.allocation().await
    }

    async fn changes(&self, point: &str) -> Allocation {
        self.areas.changes(point).await
    }

    async fn open(&self, span: Span) -> Result<Box<dyn ByteStream>> {
        Ok(Box::new(ChainStream { image: self.image.clone(), span }))
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        self.image.clone()
    }
}

struct ChainStream {
    image: Arc<Image>,
    span: Span,
}

#[async_trait]
impl ByteStream for ChainStream {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let at = self.span.start;
        let len = CHAIN_READ.min(self.span.end - at);
        if len == 0 {
            return Ok(None);
        }
        let image = self.image.clone();
        let read = move || {
            let mut buf = vec![0; len as usize]; // at most CHAIN_READ
            image.read_exact_at(ByteOffset(at), &mut buf).map(|()| Bytes::from(buf))
        };
        let bytes = tokio::task::spawn_blocking(read).await.failed(|| "the image reader was stopped".into())?;
        let bytes = bytes.map_err(|e| from_read(e, "cannot read the chain of deltas"))?;
        self.span.start += len;
        Ok(Some(bytes))
    }
}

/// A read error in the product's families.
pub(crate) fn from_read(error: blockdev::ReadError, what: &str) -> Error {
    let family = match error {
        blockdev::ReadError::Corrupt { .. } | blockdev::ReadError::OutOfRange { .. } => Family::Corrupt,
        blockdev::ReadError::Unsupported { .. } => Family::Unsupported,
        _ => Family::Failed,
    };
    Error::new(family, what).caused_by(error)
}

fn vsphere(link: &Link) -> Result<&Client> {
    match link {
        Link::VSphere(client) => Ok(client),
        Link::Host { .. } => Err(Error::new(Family::Unsupported, "a libvirt host has no datastores over HTTPS")),
    }
}

/// A small datastore file, or a file of this machine, whole.
///
/// # Errors
/// Those of the server; more than `limit` bytes are an error.
pub async fn download_small(link: &Link, datacenter: &str, path: &str, limit: u64) -> Result<Bytes> {
    if matches!(link, Link::Host { local: true }) {
        return super::host_file::read_small(path, limit).await;
    }
    let client = vsphere(link)?;
    let file = client.datastore_file(datacenter, &path_of(path)?);
    read_small(&file, limit).await.map_err(|e| e.within(format!("cannot read {path}")))
}

/// A datastore file from byte `start` on as a stream, with its whole size.
///
/// # Errors
/// Those of the server.
pub async fn download(link: &Link, datacenter: &str, path: &str, start: u64) -> Result<(u64, Box<dyn ByteStream>)> {
    let client = vsphere(link)?;
    let file = client.datastore_file(datacenter, &path_of(path)?);
    let what = || format!("cannot read {path}");
    let size = size_of(&file).await.map_err(|e| e.within(what()))?;
    let body = file.get_range(start, size.saturating_sub(start)).await.map_err(|e| from_vsphere(e).within(what()))?;
    Ok((size, Box::new(body)))
}

/// Stores `len` bytes as a datastore file.
///
/// # Errors
/// Those of the server, or of `body`.
pub async fn upload(
    link: &Link,
    datacenter: &str,
    path: &str,
    len: u64,
    body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
) -> Result<()> {
    let client = vsphere(link)?;
    let file = client.datastore_file(datacenter, &path_of(path)?);
    file.put(len, body).await.map_err(|e| from_vsphere(e).within(format!("cannot store {path}")))
}
