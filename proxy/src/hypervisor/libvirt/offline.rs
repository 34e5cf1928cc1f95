//! Machines that do not run: each image is read through a `qemu-nbd` of ours, whose locks keep the machine from starting meanwhile.
//!
//! A server ends with its last client. One client is kept for as long as the disks are needed, so the servers end when we do, however
//! that happens.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use libvirt::{Domain as Handle, XmlKind};
use nbd::{Client, Options, Uri};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::LibvirtHost;
use super::config::Standing;
use super::errors::from_libvirt;
use super::id::{Id, Kind};
use crate::error::{Context, Error, Family, Result};
use crate::hypervisor::{Disk, FreezeRequest, Frozen, NativeDisk, NbdExport, VmId};
use crate::machine::{Domain, NetworkHost, Source};
use crate::transport::from_nbd;

/// Clients of one server: ours that keeps it, and those that read.
const CLIENTS: usize = 64;
const START_LIMIT: Duration = Duration::from_secs(30);
const END_LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);
/// What a program may say of its failure.
const MAX_SAID: u64 = 4096;

/// A server of ours.
pub(super) struct Server {
    /// Keeps QEMU from writing to a raw image, which the server alone does not.
    lock: Option<File>,
    target: String,
    uri: Uri,
    process: Child,
    keeper: Client,
}

/// The servers of one run.
#[derive(Default)]
pub(super) struct Offline {
    servers: Vec<Server>,
}

impl Offline {
    pub(super) fn add(&mut self, server: Server) {
        self.servers.push(server);
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter()
    }

    /// Ends them all, and waits for that.
    pub(super) async fn end(self) {
        for server in self.servers {
            server.end().await;
        }
    }
}

impl LibvirtHost {
    /// Opens the images of a machine that does not run.
    pub(super) async fn open_images(&self, request: &FreezeRequest<'_>) -> Result<Frozen> {
        let name = &request.vm.info.name;
        if !self.uri.is_local() {
            return Err(Error::new(
                Family::Unsupported,
                format!("{name} does not run, and its images lie on another host"),
            )
            .hint("start it, or run stillframe on that host"));
        }
        let vm = &request.vm.info.moref;
        let domain = self.connections.domain(vm).await?;
        let xml = domain.xml(XmlKind { inactive: true, ..XmlKind::default() }).await.map_err(from_libvirt)?;
        let stored = Domain::parse(&xml)?;
        self.scratch.make(request.run, vm, request.description, None)?;
        let opened = self.open_all(request, &domain, &stored).await;
        match opened {
            Ok(offline) => {
                let id = Id { kind: Kind::Offline, run: request.run, vm: vm.clone() }.to_snapshot();
                self.offline.lock().await.insert(id.0.clone(), offline);
                Ok(Frozen { id, quiesced: Some(false), still: None, warnings: Vec::new() })
            }
            Err(error) => {
                if let Err(left) = self.scratch.remove(request.run) {
                    tracing::warn!("{}", left.line());
                }
                Err(error)
            }
        }
    }

    async fn open_all(&self, request: &FreezeRequest<'_>, domain: &Handle, stored: &Domain) -> Result<Offline> {
        let mut offline = Offline::default();
        for disk in request.vm.disks.iter().filter(|disk| request.disks.contains(&disk.address)) {
            let target = disk.alias.clone().unwrap_or_default();
            let within = |error: Error| error.within(format!("cannot open {target} of {}", request.vm.info.name));
            let stored = stored.disks().into_iter().find(|stored| stored.target == target);
            let (source, format) = stored
                .and_then(|disk| Some((disk.source?, disk.format)))
                .ok_or_else(|| within(Error::new(Family::Failed, "it was taken out of the machine meanwhile")))?;
            let options = self.image_options(&source, format.as_deref().unwrap_or("raw")).await.map_err(within)?;
            let socket = self.scratch.socket(request.run, &target)?;
            let mut server = Server::start(&target, &options, &socket).await.map_err(within)?;
            if let Source::File(path) = &source {
                server.lock(Path::new(path)).map_err(within)?;
            }
            offline.add(server);
        }
        // Between the look at its state and the locks it may have started; then the locks were not had, or it does not start any more.
        if Standing::of(domain).await?.is_active() {
            return Err(Error::new(Family::Failed, format!("{} was started meanwhile", request.vm.info.name))
                .hint("run it again: a running machine is backed up another way"));
        }
        Ok(offline)
    }

    /// An image in QEMU's words. Its format is what the machine's description says, whatever stands in the image.
    pub(super) async fn image_options(&self, source: &Source, format: &str) -> Result<String> {
        let file = match source {
            Source::File(path) | Source::Block(path) => path_options(Path::new(path))?,
            Source::Volume { pool, volume } => path_options(&self.volume_path(pool, volume).await?)?,
            Source::Network { protocol, name, hosts, .. } => {
                network_options(protocol, name.as_deref().unwrap_or_default(), hosts)?
            }
            Source::Other(kind) => {
                return Err(Error::new(Family::Unsupported, format!("a source of type {kind} is not read directly")));
            }
        };
        Ok(format!("driver={},{file}", escaped(format)))
    }

    async fn volume_path(&self, pool: &str, volume: &str) -> Result<PathBuf> {
        let volumes = self.connections.get().await?.volumes(pool).await.map_err(from_libvirt)?;
        let found = volumes.into_iter().find(|(name, _)| name == volume).map(|(_, path)| PathBuf::from(path));
        found.ok_or_else(|| Error::new(Family::Failed, format!("the pool {pool} has no volume {volume}")))
    }

    /// The disks of a machine whose images we hold.
    pub(super) async fn offline_disks(&self, id: &Id) -> Result<Vec<Disk>> {
        let config = self.vm_config(&id.vm).await?;
        let held = self.offline.lock().await;
        let offline = held.get(&id.to_snapshot().0).ok_or_else(|| {
            Error::new(Family::Failed, format!("the images of {} are not held any more", config.info.name))
        })?;
        let disks = offline.servers.iter().filter_map(|server| {
            let known = config.disks.iter().find(|disk| disk.alias.as_deref() == Some(&server.target))?;
            let native = NbdExport {
                uri: server.uri.clone(),
                changes: None,
                unknown: Some("the machine does not run, and only a running one tells what changed".into()),
            };
            Some(Disk { capacity: server.keeper.size(), native: NativeDisk::Nbd(Box::new(native)), ..known.clone() })
        });
        Ok(disks.collect())
    }

    /// Whether we hold the images of that run, all of them.
    /// A machine that runs writes to them, whatever locks there are: network disks have none.
    pub(super) async fn holds_images(&self, id: &Id) -> bool {
        if id.kind == Kind::Offline && !self.stands_still(&id.vm).await {
            return false;
        }
        let mut held = self.offline.lock().await;
        let Some(offline) = held.get_mut(&id.to_snapshot().0) else { return false };
        offline.servers.iter_mut().all(|server| matches!(server.process.try_wait(), Ok(None)))
    }

    /// Whether the machine is known not to run.
    async fn stands_still(&self, vm: &VmId) -> bool {
        let Ok(domain) = self.connections.domain(vm).await else { return false };
        Standing::of(&domain).await.is_ok_and(|standing| !standing.is_active())
    }

    /// Lets the images go.
    pub(super) async fn close_images(&self, id: &Id) -> Result<()> {
        let held = self.offline.lock().await.remove(&id.to_snapshot().0);
        if let Some(offline) = held {
            offline.end().await;
        }
        self.scratch.remove(id.run)
    }
}

impl Server {
    pub(super) async fn start(target: &str, image: &str, socket: &Path) -> Result<Self> {
        let what = || "cannot run qemu-nbd".to_owned();
        let mut command = Command::new("qemu-nbd");
        command
            .args(["--read-only", "--export-name=disk", "--image-opts"])
            .arg(format!("--shared={CLIENTS}"))
            .arg(format!("--socket={}", socket.display()))
            .arg(image)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A signal for us, from a terminal, is not one for it: it ends with us.
            .process_group(0)
            .kill_on_drop(true);
        let mut process = command.spawn().map_err(|e| {
            Error::new(Family::Failed, what())
                .caused_by(e)
                .hint("install qemu-utils: it reads images of machines that do not run")
        })?;
        let uri = Uri::unix(socket, "disk");
        let keeper = keep(&mut process, &uri, socket).await?;
        Ok(Self { lock: None, target: target.to_owned(), uri, process, keeper })
    }

    /// Locks an image as QEMU does that lets nobody write: a shared lock on the byte which says so (`RAW_LOCK_SHARED_BASE` and
    /// `BLK_PERM_WRITE` of its `block/file-posix.c`), after a look whether somebody writes.
    fn lock(&mut self, path: &Path) -> Result<()> {
        let what = || format!("cannot lock {}", path.display());
        let file = File::open(path).failed(what)?;
        let busy = || {
            Error::new(Family::Failed, format!("its image {} is in use", path.display()))
                .hint("the machine was started meanwhile, or something else writes to the image")
        };
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock_of(MAY_NOT_WRITE))).map_err(|_| busy())?;
        let mut writes = lock_of(WRITES);
        writes.l_type = nix::libc::F_WRLCK as nix::libc::c_short;
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut writes)).failed(what)?;
        if writes.l_type != nix::libc::F_UNLCK as nix::libc::c_short {
            return Err(busy());
        }
        self.lock = Some(file);
        Ok(())
    }

    pub(super) fn target(&self) -> &str {
        &self.target
    }

    pub(super) const fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(super) fn size(&self) -> u64 {
        self.keeper.size()
    }

    /// Ends it, and waits for that: then the locks are gone.
    pub(super) async fn end(mut self) {
        self.keeper.close().await;
        if tokio::time::timeout(END_LIMIT, self.process.wait()).await.is_err() {
            let _ = self.process.kill().await; // it is our child, and nobody reads from it
        }
    }
}

/// The byte of an image that QEMU locks when nobody else may write, and the one when it writes itself.
const MAY_NOT_WRITE: i64 = 201;
const WRITES: i64 = 101;

/// A shared lock on one byte.
const fn lock_of(byte: i64) -> nix::libc::flock {
    nix::libc::flock {
        l_type: nix::libc::F_RDLCK as nix::libc::c_short,
        l_whence: nix::libc::SEEK_SET as nix::libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

/// Connects as soon as the server listens.
async fn keep(process: &mut Child, uri: &Uri, socket: &Path) -> Result<Client> {
    let until = Instant::now() + START_LIMIT;
    loop {
        if let Some(status) = process.try_wait().failed(|| "qemu-nbd cannot be watched".into())? {
            return Err(refused(process, &status.to_string()).await);
        }
        if socket.exists() {
            let options = Options { connections: 1, retry: nbd::Retry::NEVER, ..Options::default() };
            match Client::connect(uri, &options).await {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() > until => return Err(from_nbd(error)),
                Err(_) => {}
            }
        }
        if Instant::now() > until {
            return Err(Error::new(Family::Failed, format!("qemu-nbd does not listen within {START_LIMIT:?}")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn refused(process: &mut Child, status: &str) -> Error {
    let mut said = Vec::new();
    if let Some(stderr) = process.stderr.take() {
        let _ = stderr.take(MAX_SAID).read_to_end(&mut said).await; // what there is of it
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    let line = said.lines().next().map_or_else(|| format!("qemu-nbd ended: {status}"), str::to_owned);
    let line = line.strip_prefix("qemu-nbd: ").unwrap_or(&line).to_owned();
    if said.contains("lock") {
        return Error::new(Family::Failed, format!("its image is in use: {line}"))
            .hint("the machine was started meanwhile, or something else writes to the image");
    }
    Error::new(Family::Failed, line)
}

/// QEMU separates options by commas, and takes two for one.
fn escaped(text: &str) -> String {
    text.replace(',', ",,")
}

fn path_options(path: &Path) -> Result<String> {
    let what = || format!("cannot open {}", path.display());
    let kind = std::fs::metadata(path).failed(what)?.file_type();
    let driver = if kind.is_block_device() { "host_device" } else { "file" };
    let text =
        path.to_str().ok_or_else(|| Error::new(Family::Unsupported, format!("{}: its path is not UTF-8", what())))?;
    Ok(format!("file.driver={driver},file.filename={}", escaped(text)))
}

fn network_options(protocol: &str, name: &str, hosts: &[NetworkHost]) -> Result<String> {
    let host = hosts.first().and_then(|host| host.name.as_deref()).unwrap_or("localhost");
    let port = hosts.first().and_then(|host| host.port.as_deref());
    match protocol {
        "iscsi" => {
            let (target, lun) = name.rsplit_once('/').unwrap_or((name, "0"));
            let portal = format!("{host}:{}", port.unwrap_or("3260"));
            Ok(format!(
                "file.driver=iscsi,file.transport=tcp,file.portal={},file.target={},file.lun={}",
                escaped(&portal),
                escaped(target),
                escaped(lun)
            ))
        }
        "nbd" => Ok(format!(
            "file.driver=nbd,file.server.type=inet,file.server.host={},file.server.port={},file.export={}",
            escaped(host),
            escaped(port.unwrap_or("10809")),
            escaped(name)
        )),
        other => Err(Error::new(Family::Unsupported, format!("disks over {other} are not read directly"))
            .hint("start the machine, and use --transport nbd: QEMU then reads it itself")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_add_options_of_its_own() {
        let host =
            NetworkHost { name: Some("h,file.lun=9".into()), port: Some("3261".into()), ..NetworkHost::default() };
        let options = network_options("iscsi", "iqn.2026-11.test:disk1/1", &[host]).unwrap();
        assert!(
            options.contains("file.portal=h,,file.lun=9:3261,file.target=iqn.2026-11.test:disk1,file.lun=1"),
            "{options}"
        );
        assert_eq!(network_options("rbd", "p/i", &[]).unwrap_err().family(), Family::Unsupported);
    }
}
