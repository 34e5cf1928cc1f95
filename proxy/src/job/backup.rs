//! The straight line of an image backup: intent, snapshot, copy, directory, catalog, snapshot gone, done.

use std::path::PathBuf;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use vmdk_rs::{AdapterType, CreateOptions, ImageWriter, Subformat};

use super::freeze::{choose_disks, consistency_of, frozen_disks, refuse_changed, refuse_preexisting};
use super::one_disk::{Copying, OneDisk};
use super::since::Since;
use super::snapshot::{Made, Quiesce, Wish, make, remove_and_verify, still_there, thaw_late};
use super::{Act, Cancel, HostLimit, Journal, Progress, Retry, RunId, cleanup};
use crate::config::StateDir;
use crate::error::{Context, Error, Family, Result};
use crate::export::{
    Buffers, CATALOG_NAME, Catalog, Consistency, DiskEntry, DiskKind, FileEntry, MANIFEST_NAME, Manifest, SkippedDisk,
    Staging, VmEntry,
};
use crate::hypervisor::{Bus, Connected, Disk, DiskAddress, Power, VmConfig, VmInfo};
use crate::transport::{self, Route, Throttle, Transport};

/// A `.vmx` has some kilobytes, an NVRAM less than one megabyte.
const MAX_REQUIRED_FILE: u64 = 16 << 20;
/// Logs may grow; a longer one is left out with a warning.
const MAX_OTHER_FILE: u64 = 8 << 20;

/// Points that are kept of a VM unless somebody says otherwise: a week of days, and one.
pub const KEEP_POINTS: usize = 8;

/// How a backup is made.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// The directory to make.
    pub target: PathBuf,
    /// An earlier backup of the VM beside it: only what changed since then is copied.
    pub since: Option<PathBuf>,
    /// The kind of VMDK.
    pub subformat: Subformat,
    /// What is asked of the guest.
    pub quiesce: Quiesce,
    /// The route wished for.
    pub transport: Transport,
    /// Requests in flight per disk.
    pub streams: usize,
    /// Disks to leave out, by address.
    pub exclude: Vec<String>,
    /// Read every disk a second time and compare: finds bytes that the host or the way to it got wrong.
    pub audit: bool,
    /// Disks copied side by side.
    pub disks_at_once: usize,
    /// How many runs may burden the host.
    pub host: HostLimit,
    /// Bytes a second that may be read from it, over all disks.
    pub bandwidth: Option<u64>,
    /// Points in the change log that are kept of this VM, where points are things of their own.
    pub keep_points: usize,
    /// How often the removal of the snapshot is tried.
    pub removals: Retry,
    /// The command, for the journal.
    pub command: String,
}

/// What a backup gave.
#[derive(Clone, Debug, Serialize)]
pub struct BackupReport {
    /// The directory.
    pub directory: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// Seconds from beginning to end.
    pub seconds: f64,
}

/// Backs one VM up.
///
/// # Errors
/// Whatever went wrong; then nothing stands under the final name, and what could not be undone is named beside it.
/// [`Family::LeftBehind`] means that the backup is complete and only its snapshot could not be removed.
pub async fn backup(
    connected: &Connected,
    state: &StateDir,
    vm: &VmInfo,
    options: &BackupOptions,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<BackupReport> {
    let began = std::time::Instant::now();
    let run = RunId::new();
    let route = options.transport.route(&connected.uri.scheme)?;
    let staging = Staging::plan(&options.target, run)?;
    let hypervisor = connected.hypervisor.as_ref();
    let _only_one = state.lock_vm(&connected.uri.place(), &vm.moref.0)?;
    let _turn = options.host.turn(state, &connected.uri.place(), progress, cancel).await?;
    cleanup::reap(state, hypervisor, &connected.uri.to_string()).await;
    let config = cancel.or_stop(hypervisor.config(&vm.moref)).await?;
    let (disks, skipped) = choose_disks(&config, &options.exclude)?;
    check_format(&config, &disks, options.subformat)?;
    refuse_preexisting(connected, &config).await?;
    let since = match &options.since {
        None => None,
        Some(earlier) => Some(Since::open(earlier, &staging, connected, &config, &disks, progress, cancel).await?),
    };

    if since.is_some() {
        // Opening an earlier backup may have taken long.
        let now = cancel.or_stop(hypervisor.config(&vm.moref)).await?;
        refuse_changed(&config, &now)?;
    }

    let mut journal = Journal::begin(state, run, &options.command, &connected.uri.to_string())?;
    let throttle = options.bandwidth.map(Throttle::new);
    let work = Work { connected, config, options, progress, cancel, route, throttle, staging, since, skipped, run };
    let result = cleanup::no_panic(work.run(&mut journal, &disks)).await;
    let manifest = match result {
        Ok(manifest) => manifest,
        // The data is good, only the snapshot is left: the directory stays, and so does the journal.
        Err(error) if error.family() == Family::LeftBehind => return Err(error),
        Err(error) => return Err(cleanup::undone(error, hypervisor, journal, options.removals).await),
    };
    journal.finish()?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(BackupReport { directory: work.staging.target().to_owned(), manifest, seconds })
}

pub(super) struct Work<'a> {
    pub(super) connected: &'a Connected,
    pub(super) config: VmConfig,
    pub(super) options: &'a BackupOptions,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a Cancel,
    pub(super) route: Route,
    pub(super) throttle: Option<Throttle>,
    pub(super) staging: Staging,
    pub(super) since: Option<Since>,
    pub(super) run: RunId,
    skipped: Vec<SkippedDisk>,
}

impl Work<'_> {
    async fn run(&self, journal: &mut Journal, disks: &[DiskAddress]) -> Result<Manifest> {
        let hypervisor = self.connected.hypervisor.as_ref();
        let started = jiff::Timestamp::now().to_string();
        let directory = journal.intend(Act::Directory { path: self.staging.path().to_owned() })?;
        self.staging.create()?;
        let mut warnings = self.config.notes.clone();
        let files = self.cancel.or_stop(self.save_config_files(&mut warnings)).await?;
        let name = self.config.info.name.clone();
        self.progress.step(&format!("{name}: taking the snapshot"));
        let points = self.since.as_ref().map(Since::points).unwrap_or_default();
        let wish = Wish { quiesce: self.options.quiesce, disks, route: self.route, since: &points, keep_point: true };
        let snapshot = make(hypervisor, &self.config, &wish, journal, self.cancel).await?;
        let consistency = consistency_of(hypervisor.quiescer(), &self.config, &snapshot, wish.quiesce, &mut warnings)?;
        let frozen = frozen_disks(hypervisor, &self.config, &snapshot, disks, &self.skipped).await?;
        let buffers = Buffers::default();
        let copies = self.copy_all(&snapshot, &frozen, &buffers).await;
        buffers.idle().await;
        let mut copies = copies?;
        still_there(hypervisor, &self.config, &snapshot.id).await?;
        self.progress.step(&format!("{name}: completing {}", self.staging.target().display()));
        warnings.extend(copies.iter().filter_map(|copy| self.warning(&copy.entry)));

        // The frozen disks are not needed any more: the snapshot goes while the files are being synced.
        let info = &self.config.info;
        let (unconsolidated, tries) = (snapshot.unconsolidated, self.options.removals);
        let removal = remove_and_verify(hypervisor, &info.moref, &info.name, &snapshot.id, unconsolidated, tries);
        let completion = self.complete(&mut copies, files, consistency, &snapshot, started, warnings);
        let (removed, completed) = tokio::join!(removal, completion);
        if removed.is_ok() {
            journal.settle(snapshot.act)?;
        }
        let manifest = completed?;
        journal.settle(directory)?;
        if let Some(point) = snapshot.point {
            journal.settle(point)?; // its backup is there: from now on it stands for it
            self.prune().await;
        }
        let thawed = thaw_late(hypervisor, &self.config, &snapshot, journal).await;
        removed.and(thawed).map_err(|left| {
            left.within(format!(
                "the backup in {} is complete, but not all that it needed is undone",
                self.staging.target().display()
            ))
        })?;
        Ok(manifest)
    }

    /// Old points cost the host memory and writes. Those that nobody can remove now are removed by a later run.
    async fn prune(&self) {
        let vm = &self.config.info;
        // Who names one full backup every day has differentials, and goes on needing its points.
        let points = self.since.as_ref().map(Since::points).unwrap_or_default();
        let needed: Vec<String> = points.into_iter().map(|(_, point)| point).collect();
        match self.connected.hypervisor.prune_points(&vm.moref, self.options.keep_points, &needed).await {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => tracing::info!("{}: removed old checkpoints: {}", vm.name, gone.join(", ")),
            Err(error) => tracing::warn!("{}: old checkpoints are not removed: {}", vm.name, error.line()),
        }
    }

    /// Copies `.vmx`, NVRAM and the like into the directory.
    async fn save_config_files(&self, warnings: &mut Vec<String>) -> Result<Vec<FileEntry>> {
        let (link, place) = (self.connected.link(), &self.config.place);
        let mut entries: Vec<FileEntry> = Vec::new();
        if let Some(raw) = &self.config.raw {
            entries.push(self.save("config.xml", "the configuration as the host sent it", raw.as_bytes())?);
        }
        for file in &self.config.files {
            let Some(name) = file_name(&file.path, &entries) else {
                let what = format!("{} was left out: its name cannot be used", file.path);
                if file.required {
                    return Err(Error::new(Family::Unsupported, what));
                }
                warnings.push(what);
                continue;
            };
            let limit = if file.required { MAX_REQUIRED_FILE } else { MAX_OTHER_FILE };
            match transport::download_small(&link, &place.datacenter, &file.path, limit).await {
                Ok(bytes) => entries.push(self.save(&name, &file.path, &bytes)?),
                Err(error) if file.required => return Err(error),
                Err(error) => warnings.push(format!("{} was left out: {}", file.path, error.line())),
            }
        }
        Ok(entries)
    }

    fn save(&self, name: &str, source: &str, bytes: &[u8]) -> Result<FileEntry> {
        self.staging.write_file(name, bytes)?;
        let blake3 = blake3::hash(bytes).to_hex().to_string();
        Ok(FileEntry { name: name.into(), source: source.into(), size: bytes.len() as u64, blake3 })
    }

    async fn copy_all(&self, snapshot: &Made, frozen: &[Disk], buffers: &Buffers) -> Result<Vec<Copying>> {
        let copies = frozen.iter().map(|disk| OneDisk { work: self, snapshot, disk, buffers });
        stream::iter(copies.map(async |one: OneDisk<'_>| one.copy().await))
            .buffered(self.options.disks_at_once.max(1))
            .try_collect()
            .await
    }

    /// What a person should know of a disk that was read whole.
    fn warning(&self, entry: &DiskEntry) -> Option<String> {
        let why = entry.read_all_because.as_ref()?;
        if self.since.is_some() {
            return Some(format!("{}: backed up whole, because {why}", entry.address));
        }
        why.contains("holds data").then(|| format!("{}: {why}", entry.address))
    }

    /// Finishes the images, writes manifest and catalog, and gives the directory its name.
    async fn complete(
        &self,
        copies: &mut Vec<Copying>,
        files: Vec<FileEntry>,
        consistency: Consistency,
        snapshot: &Made,
        started: String,
        warnings: Vec<String>,
    ) -> Result<Manifest> {
        let mut disks = Vec::new();
        for copy in copies.drain(..) {
            disks.push(copy.finish().await?);
        }
        let base = match &self.since {
            Some(since) if disks.iter().any(|disk| disk.kind == DiskKind::Delta) => {
                since.still_there(&self.staging)?;
                Some(since.entry())
            }
            _ => None,
        };
        let info = &self.config.info;
        let manifest = Manifest {
            format: Manifest::layout(base.as_ref()),
            stillframe: env!("CARGO_PKG_VERSION").into(),
            run: self.run,
            started,
            finished: jiff::Timestamp::now().to_string(),
            server: self.connected.hypervisor.describe(),
            vm: VmEntry {
                name: info.name.clone(),
                hypervisor: self.connected.hypervisor.kind(),
                uuid: info.uuid.clone(),
                instance_uuid: info.instance_uuid.clone(),
                moref: info.moref.0.clone(),
                power: info.power,
                firmware: self.config.firmware.clone(),
                hardware_version: self.config.hardware_version,
                config_path: self.config.config_path.clone(),
                place: self.config.place.clone(),
            },
            base,
            quiesce: self.options.quiesce,
            consistency,
            snapshot_ms: snapshot.took_ms,
            disks,
            skipped: self.skipped.clone(),
            files,
            warnings,
        };
        let json = serde_json::to_vec_pretty(&manifest).failed(|| "cannot write the manifest".into())?;
        self.staging.write_file(MANIFEST_NAME, &json)?;
        self.staging.write_file(CATALOG_NAME, catalog(&manifest).to_string().as_bytes())?;
        self.staging.commit()?;
        Ok(manifest)
    }
}

pub(super) fn image_options(config: &VmConfig, subformat: Subformat, disk: &Disk) -> CreateOptions {
    CreateOptions {
        adapter: if disk.address.bus == Bus::Scsi { AdapterType::LsiLogic } else { AdapterType::Ide },
        hardware_version: config.hardware_version,
        uuid: disk.uuid.as_deref().and_then(|uuid| uuid.parse().ok()),
        ..CreateOptions::new(subformat, blockdev::ByteLen(disk.capacity))
    }
}

/// Whether every wanted disk fits the wanted form, asked before anything is done.
fn check_format(config: &VmConfig, wanted: &[DiskAddress], subformat: Subformat) -> Result<()> {
    for disk in config.disks.iter().filter(|disk| wanted.contains(&disk.address)) {
        let checked = ImageWriter::check(&image_name(disk), &image_options(config, subformat, disk));
        checked.map_err(|e| {
            crate::image_error(e, format!("{} of {} cannot be written in this format", disk.address, config.info.name))
                .hint("use --format monolithicFlat, or twoGbMaxExtentSparse up to 8 TiB")
        })?;
    }
    Ok(())
}

/// What a configuration file is called in the backup: as on the datastore, if that is a plain name that is free.
fn file_name(path: &str, taken: &[FileEntry]) -> Option<String> {
    let name = path.rsplit(['/', ']']).next().unwrap_or_default().trim();
    let free = !taken.iter().any(|entry| entry.name.eq_ignore_ascii_case(name));
    (free && vmdk_rs::PlainName::new(name).is_ok()).then(|| name.to_owned())
}

/// VCB's name of a disk's image: `scsi0-1-0-data.vmdk` for `data.vmdk` at scsi0:1. The base is the disk's own file, not that of a delta.
pub(super) fn image_name(disk: &Disk) -> String {
    let root = disk.root_file();
    let base = root.rsplit_once('/').map_or(root.as_str(), |(_, name)| name);
    let base = base.strip_suffix(".vmdk").unwrap_or(base);
    let DiskAddress { bus, controller, unit } = disk.address;
    format!("{bus}{controller}-{unit}-0-{base}.vmdk")
}

fn catalog(manifest: &Manifest) -> Catalog {
    let vm = &manifest.vm;
    let folder = vm.config_path.rsplit_once('/').map_or(vm.config_path.as_str(), |(folder, _)| folder);
    let mut catalog = Catalog::new();
    catalog.push_bare("version", "esx-3.0");
    catalog.push_bare(
        "state",
        match vm.power {
            Some(Power::On) => "poweredOn",
            Some(Power::Suspended) => "suspended",
            Some(Power::Off) | None => "poweredOff",
        },
    );
    catalog.push("display_name", &vm.name);
    catalog.push("uuid", vm.uuid.as_deref().unwrap_or_default());
    catalog.push("timestamp", &manifest.started);
    for disk in &manifest.disks {
        catalog.push(&format!("disk.{}.filename", disk.address), &disk.file);
        catalog.push(&format!("disk.{}.diskname", disk.address), &disk.source);
    }
    catalog.push("config.vmx", &vm.config_path);
    catalog.push("config.suspenddir", &format!("{folder}/"));
    catalog.push("config.logdir", &format!("{folder}/"));
    catalog.push("host", &vm.place.host);
    catalog.push("folderpath", &vm.place.folder);
    catalog.push("resourcepool", &vm.place.resource_pool);
    catalog
}
