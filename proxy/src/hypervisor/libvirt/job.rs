//! Pull backup jobs: QEMU exports the disks as they were when the job began, and keeps what the guest overwrites in scratch files.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libvirt::{Code, Domain as Handle, JobKind};

use super::LibvirtHost;
use super::backup_xml::{Point, Running, Server, Wanted, backup_xml, checkpoint_xml, name_of};
use super::config::{live, owner};
use super::errors::from_libvirt;
use super::id::{Id, Kind};
use super::points::Usable;
use super::window::{Begin, Failure, Passed, Window};
use crate::error::{Error, Family, Result};
use crate::hypervisor::fault::{Fault, with_fault};
use crate::hypervisor::{Disk, FreezeRequest, Frozen, NativeDisk, NbdExport, VmId};
use crate::job::RunId;
use crate::machine::Domain;
use crate::transport::Route;

/// Ports that QEMU may listen on unless others are named.
const PORTS: (u16, u16) = (10809, 10872);
/// How often a window is passed again because of something that could be put right in between.
const WINDOWS: usize = 8;
/// A port that answers this late is none.
const KNOCK: Duration = Duration::from_millis(300);
/// How long QEMU may take to end a job, with all its scratch files.
const END_LIMIT: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(20);
/// Where libnbd looks for certificates.
const CERTIFICATES: &str = "/etc/pki/libnbd";

/// A job that is to begin.
struct Plan {
    server: Server,
    wanted: Vec<Wanted>,
    others: Vec<String>,
    /// Ports that turned out to be taken.
    taken: HashSet<u16>,
}

impl LibvirtHost {
    /// Begins a pull backup, with the guest standing still if asked to.
    pub(super) async fn create_job(&self, request: &FreezeRequest<'_>) -> Result<Frozen> {
        let vm = &request.vm.info.moref;
        let domain = self.connections.domain(vm).await?;
        refuse_busy(&domain).await?;
        let live = live(&domain).await?;
        let mut plan = self.plan(request, &domain, &live).await?;
        self.scratch.make(request.run, vm, request.description, owner(&live))?;
        match self.begin(request, &domain, &mut plan).await {
            Ok(passed) => {
                self.note_addresses(&domain).await;
                let id = Id { kind: Kind::Job, run: request.run, vm: vm.clone() }.to_snapshot();
                Ok(Frozen { id, quiesced: Some(passed.quiesced), still: passed.still, warnings: passed.warnings })
            }
            Err(error) => {
                // A job that was begun all the same is undone by its scratch folder's name; without one the folder is nobody's.
                let began = matches!(self.running(vm, request.run).await, Ok(Some(_)) | Err(_));
                if !began && let Err(left) = self.scratch.remove(request.run) {
                    tracing::warn!("{}", left.line());
                }
                Err(error)
            }
        }
    }

    async fn plan(&self, request: &FreezeRequest<'_>, domain: &Handle, live: &Domain) -> Result<Plan> {
        let disks = live.disks();
        let format = |target: &str| disks.iter().find(|disk| disk.target == target)?.format.clone();
        let mut points: HashMap<&str, Usable> = HashMap::new();
        let mut wanted = Vec::new();
        for disk in request.vm.disks.iter().filter(|disk| request.disks.contains(&disk.address)) {
            let target = disk.alias.clone().unwrap_or_default();
            let qcow2 = format(&target).as_deref() == Some("qcow2");
            let since =
                request.since.iter().find(|(address, _)| *address == disk.address).map(|(_, point)| point.as_str());
            let since = match since {
                Some(point) => {
                    if !points.contains_key(point) {
                        points.insert(point, self.look_at_point(domain, point).await?);
                    }
                    self.usable(request.run, &target, qcow2, point, &points[point])
                }
                None => None,
            };
            let scratch = self.scratch.file(request.run, &target);
            wanted.push(Wanted { target, scratch, since, point: qcow2 && request.keep_point });
        }
        let mut others: Vec<_> = disks.iter().map(|disk| disk.target.clone()).collect();
        others.retain(|target| !wanted.iter().any(|disk| disk.target == *target));
        let server = self.server(request, &HashSet::new()).await?;
        Ok(Plan { server, wanted, others, taken: HashSet::new() })
    }

    /// The point since which a disk can tell changes; why not is remembered for its report.
    fn usable(&self, run: RunId, target: &str, qcow2: bool, point: &str, usable: &Usable) -> Option<String> {
        let why = match usable.get(target) {
            Some(Ok(())) => return Some(point.to_owned()),
            Some(Err(why)) => why.clone(),
            None if !qcow2 => "only qcow2 images note what changes".into(),
            None => format!("the machine does not know the checkpoint {point} of this disk"),
        };
        self.remember(run, target, why);
        None
    }

    /// Where QEMU shall listen.
    async fn server(&self, request: &FreezeRequest<'_>, taken: &HashSet<u16>) -> Result<Server> {
        let tls = request.route == Route::NbdSsl;
        if self.uri.is_local() && !tls {
            return Ok(Server::Unix(self.scratch.socket(request.run, "s")?));
        }
        if tls && self.certificates().is_none() {
            return Err(Error::new(
                Family::Usage,
                format!("there are no certificates for NBD over TLS in {CERTIFICATES}"),
            )
            .hint(
                "name their folder by nbd-tls=DIR in the connection URI: ca-cert.pem, client-cert.pem, client-key.pem",
            ));
        }
        if !tls {
            tracing::warn!("the disks of {} cross the network in clear, as --transport nbd says", request.vm.info.name);
        }
        let host = self.nbd_host();
        let (first, last) = self.uri.nbd_ports.unwrap_or(PORTS);
        let count = u32::from(last - first) + 1;
        let start = request.run.0.as_fields().0 % count;
        for n in 0..count {
            let port = u16::try_from(u32::from(first) + (start + n) % count).unwrap_or(first);
            if !taken.contains(&port) && !answers(&host, port).await {
                return Ok(Server::Tcp { host, port, tls });
            }
        }
        Err(Error::new(Family::Exists, format!("all ports from {first} to {last} of {host} are taken"))
            .hint("name others by nbd-ports=FIRST-LAST in the connection URI"))
    }

    fn nbd_host(&self) -> String {
        let host = self.uri.nbd_host.clone().unwrap_or_else(|| self.uri.host().to_owned());
        if host.is_empty() { "localhost".into() } else { host }
    }

    fn certificates(&self) -> Option<PathBuf> {
        let usual = Path::new(CERTIFICATES);
        self.uri.nbd_tls.clone().or_else(|| usual.join(nbd::CA_CERT).exists().then(|| usual.to_owned()))
    }

    /// Passes the window; what can be put right is, and the window is passed again.
    async fn begin(&self, request: &FreezeRequest<'_>, domain: &Handle, plan: &mut Plan) -> Result<Passed> {
        for _ in 0..WINDOWS {
            let begin = Begin::Backup {
                backup: backup_xml(&plan.server, &plan.wanted, &plan.others),
                checkpoint: checkpoint_xml(request.run, request.description, &plan.wanted, &plan.others),
            };
            match self.window(domain, &request.vm.info.moref).pass(request.quiesce, begin).await {
                Ok(passed) => return Ok(passed),
                Err(Failure::Freeze(error)) => return Err(error),
                Err(Failure::Begin(error)) => self.put_right(request, plan, error).await?,
            }
        }
        Err(Error::new(Family::Failed, "libvirt does not begin the backup, for another reason each time"))
    }

    pub(super) fn window(&self, domain: &Handle, vm: &VmId) -> Window {
        Window {
            connections: self.connections.clone(),
            debts: self.debts.clone(),
            domain: domain.clone(),
            vm: vm.clone(),
            limit: self.freeze_limit,
        }
    }

    /// Changes the plan so that what libvirt complains of does not come again, or answers the complaint.
    async fn put_right(&self, request: &FreezeRequest<'_>, plan: &mut Plan, error: libvirt::Error) -> Result<()> {
        let text = error.to_string();
        if let Server::Tcp { port, .. } = plan.server
            && text.contains("Address already in use")
            && plan.taken.insert(port)
        {
            plan.server = self.server(request, &plan.taken).await?;
            return Ok(());
        }
        let complained_of = |disk: &Wanted| disk.since.is_some() && text.contains(&format!("'{}'", disk.target));
        if error.is(Code::CHECKPOINT_INCONSISTENT) || error.is(Code::NO_DOMAIN_CHECKPOINT) {
            let all = !plan.wanted.iter().any(complained_of);
            let since = plan.wanted.iter_mut().filter(|disk| disk.since.is_some() && (all || complained_of(disk)));
            let mut changed = false;
            for disk in since {
                disk.since = None;
                self.remember(request.run, &disk.target, text.clone());
                changed = true;
            }
            if changed {
                return Ok(());
            }
        }
        let about_bitmaps = text.contains("bitmap") || text.contains("checkpoint");
        if about_bitmaps && plan.wanted.iter().any(|disk| disk.point) {
            tracing::warn!(
                "libvirt makes no checkpoint of these disks, so the next backup cannot be incremental: {text}"
            );
            plan.wanted.iter_mut().for_each(|disk| disk.point = false);
            return Ok(());
        }
        Err(explain(error, self.scratch.path()))
    }

    /// The backup of `vm` that is at work, if `run` began it.
    pub(super) async fn running(&self, vm: &VmId, run: RunId) -> Result<Option<Running>> {
        let domain = self.connections.domain(vm).await?;
        Ok(self.any_running(&domain).await?.filter(|running| running.run == Some(run)))
    }

    /// The backup that is at work, whoever began it.
    pub(super) async fn any_running(&self, domain: &Handle) -> Result<Option<Running>> {
        match domain.backup_xml().await {
            Ok(xml) => Running::parse(&xml).map(Some),
            Err(error) if is_none(&error) => Ok(None),
            Err(error) => Err(from_libvirt(error)),
        }
    }

    /// The disks of a job of ours.
    pub(super) async fn job_disks(&self, id: &Id) -> Result<Vec<Disk>> {
        let config = self.vm_config(&id.vm).await?;
        let domain = self.connections.domain(&id.vm).await?;
        let running = self.running(&id.vm, id.run).await?.ok_or_else(|| {
            Error::new(Family::Failed, format!("the backup job of {} is gone", config.info.name))
                .hint("did the machine stop? run it again")
        })?;
        let server = running
            .server
            .ok_or_else(|| Error::new(Family::Unsupported, "libvirt does not say where QEMU listens for the backup"))?;
        let name = name_of(id.run);
        let points = domain.checkpoints().await.map_err(from_libvirt)?;
        let point = points.iter().find(|(point, _)| *point == name).map(|(_, xml)| Point::parse(xml)).transpose()?;
        let noted = point.map(|point| point.disks).unwrap_or_default();
        let mut frozen = Vec::new();
        for disk in running.disks {
            let Some(known) = config.disks.iter().find(|known| known.alias.as_deref() == Some(&disk.target)) else {
                continue;
            };
            let native = NbdExport {
                uri: self.export_uri(&server, &disk.export),
                changes: disk.changes.map(|(point, bitmap)| (point, format!("qemu:dirty-bitmap:{bitmap}"))),
                unknown: self.recall(id.run, &disk.target),
            };
            let in_point = noted.iter().any(|(target, _)| *target == disk.target);
            frozen.push(Disk {
                change_id: in_point.then(|| name.clone()),
                native: NativeDisk::Nbd(Box::new(native)),
                ..known.clone()
            });
        }
        Ok(frozen)
    }

    fn export_uri(&self, server: &Server, export: &str) -> nbd::Uri {
        match server {
            Server::Unix(socket) => nbd::Uri::unix(socket, export),
            Server::Tcp { host, port, tls: false } => nbd::Uri::tcp(host, *port, export),
            Server::Tcp { host, port, tls: true } => {
                let uri = nbd::Uri::tcp(host, *port, export).with_tls();
                match self.certificates() {
                    Some(folder) => uri.with_certificates(folder),
                    None => uri,
                }
            }
        }
    }

    /// Ends a job of ours and removes what it needed. Gone already counts as success.
    pub(super) async fn end_job(&self, id: &Id) -> Result<()> {
        let domain = match self.connections.domain(&id.vm).await {
            Err(gone) if gone.family() == Family::NoVm => return self.scratch.remove(id.run),
            domain => domain?,
        };
        let until = Instant::now() + END_LIMIT;
        let mut aborted = false;
        while self.any_running(&domain).await?.is_some_and(|running| running.run == Some(id.run)) {
            if !aborted {
                match domain.abort_job().await {
                    Err(error) if !is_none(&error) => return Err(from_libvirt(error)),
                    _ => aborted = true,
                }
            }
            if Instant::now() > until {
                return Err(Error::new(
                    Family::Failed,
                    format!("QEMU does not end the backup job of {}", domain.name()),
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
        // libvirt forgets the job before QEMU has closed its files.
        while domain.id().is_some() && aborted && self.scratch.holds_files(id.run) && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
        self.scratch.remove(id.run)
    }
}

/// Whether there is no job to speak of.
fn is_none(error: &libvirt::Error) -> bool {
    matches!(error.code(), Some(Code::NO_DOMAIN_BACKUP | Code::OPERATION_INVALID | Code::NO_DOMAIN))
}

/// Somebody else's job keeps the machine; libvirt would wait half a minute before it says so.
pub(super) async fn refuse_busy(domain: &Handle) -> Result<()> {
    let what = match domain.job_info().await.map(|job| job.kind) {
        Ok(JobKind::None) => return Ok(()),
        Ok(JobKind::Backup) => "another backup",
        Ok(_) => "another job",
        // So says libvirt of a backup that is just beginning.
        Err(error) if error.to_string().contains("backup job data missing") => "another backup",
        Err(error) => return Err(from_libvirt(error)),
    };
    let error = Error::new(Family::Exists, format!("{what} of {} is at work", domain.name()))
        .hint("wait until it is done; `virsh domjobinfo` shows it, `virsh domjobabort` ends it");
    Err(with_fault(error, Fault::Refused, "libvirt runs one job at a time"))
}

/// Whether something listens there.
async fn answers(host: &str, port: u16) -> bool {
    let knock = async {
        let at: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.ok()?.collect();
        tokio::net::TcpStream::connect(at.as_slice()).await.ok()
    };
    tokio::time::timeout(KNOCK, knock).await.ok().flatten().is_some()
}

/// What libvirt says when it does not begin, with what to do.
fn explain(error: libvirt::Error, scratch: &Path) -> Error {
    let text = error.to_string();
    let hint = if text.contains("No space left") {
        Some(format!(
            "the scratch folder {} is full: name another one by scratch=DIR in the connection URI",
            scratch.display()
        ))
    } else if text.contains("Permission denied") || text.contains("No such file") {
        Some(format!(
            "QEMU must be able to write to {}, which each folder above must let it enter; scratch=DIR in the connection URI names another",
            scratch.display()
        ))
    } else if text.contains("TLS") || text.contains("tls") || text.contains("x509") {
        Some("give QEMU certificates: backup_tls_x509_cert_dir in qemu.conf of the host".into())
    } else {
        None
    };
    let ours = from_libvirt(error).within("libvirt did not begin the backup");
    match hint {
        Some(hint) => ours.hint(hint),
        None => ours,
    }
}
