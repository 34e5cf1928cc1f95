//! The straight line of an image backup: intent, snapshot, copy, directory, catalog, snapshot gone, done.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use vmdk_rs::{AdapterType, CreateOptions, ImageWriter, Subformat};

use super::freeze::{choose_disks, consistency_of, frozen_disks, refuse_preexisting};
use super::snapshot::{Made, Quiesce, Wish, make, remove_and_verify, still_there};
use super::{Act, Cancel, HostLimit, Journal, Progress, Retry, RunId, cleanup};
use crate::config::StateDir;
use crate::error::{Context, Error, Family, Result};
use crate::export::{
    Buffers, CATALOG_NAME, Catalog, Consistency, CopyOptions, Discard, DiskEntry, FileEntry, MANIFEST_NAME, Manifest,
    SkippedDisk, Staging, VmEntry, copy_disk, with_space_hint,
};
use crate::hypervisor::{Bus, Connected, Disk, DiskAddress, Power, VmConfig, VmInfo};
use crate::transport::{self, Route, Throttle, Transport};

/// Disks copied side by side.
const DISKS_AT_ONCE: usize = 4;
/// A `.vmx` has some kilobytes, an NVRAM less than one megabyte.
const MAX_REQUIRED_FILE: u64 = 16 << 20;
/// Logs may grow; a longer one is left out with a warning.
const MAX_OTHER_FILE: u64 = 8 << 20;

/// How a backup is made.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// The directory to make.
    pub target: PathBuf,
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
    /// How many runs may burden the host.
    pub host: HostLimit,
    /// Bytes a second that may be read from it, over all disks.
    pub bandwidth: Option<u64>,
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

    let mut journal = Journal::begin(state, run, &options.command, &connected.uri.to_string())?;
    let throttle = options.bandwidth.map(Throttle::new);
    let work = Work { connected, config, options, progress, cancel, route, throttle, staging, skipped, run };
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

struct Work<'a> {
    connected: &'a Connected,
    config: VmConfig,
    options: &'a BackupOptions,
    progress: &'a Progress,
    cancel: &'a Cancel,
    route: Route,
    throttle: Option<Throttle>,
    staging: Staging,
    skipped: Vec<SkippedDisk>,
    run: RunId,
}

/// One disk on its way.
struct Copying {
    entry: DiskEntry,
    writer: Arc<ImageWriter>,
}

impl Work<'_> {
    async fn run(&self, journal: &mut Journal, disks: &[DiskAddress]) -> Result<Manifest> {
        let hypervisor = self.connected.hypervisor.as_ref();
        let started = jiff::Timestamp::now().to_string();
        let directory = journal.intend(Act::Directory { path: self.staging.path().to_owned() })?;
        self.staging.create()?;
        let mut warnings = Vec::new();
        let files = self.cancel.or_stop(self.save_config_files(&mut warnings)).await?;
        let name = self.config.info.name.clone();
        self.progress.step(&format!("{name}: taking the snapshot"));
        let wish = Wish { quiesce: self.options.quiesce, disks, route: self.route, since: &[], keep_point: true };
        let snapshot = make(hypervisor, &self.config, &wish, journal, self.cancel).await?;
        let consistency = consistency_of(hypervisor.quiescer(), &self.config, &snapshot, wish.quiesce, &mut warnings)?;
        let frozen = frozen_disks(hypervisor, &self.config, &snapshot, disks, &self.skipped).await?;
        let buffers = Buffers::default();
        let copies = self.copy_all(&snapshot, &frozen, &buffers).await;
        buffers.idle().await;
        let mut copies = copies?;
        still_there(hypervisor, &self.config, &snapshot.id).await?;
        self.progress.step(&format!("{name}: completing {}", self.staging.target().display()));
        warnings.extend(copies.iter().filter_map(|copy| {
            let why = copy.entry.read_all_because.as_ref()?;
            why.contains("holds data").then(|| format!("{}: {why}", copy.entry.address))
        }));

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
        }
        removed.map_err(|left| {
            left.within(format!(
                "the backup in {} is complete, but its snapshot is not gone",
                self.staging.target().display()
            ))
        })?;
        Ok(manifest)
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
        let copies = frozen.iter().map(|disk| self.copy_one(snapshot, disk, buffers));
        stream::iter(copies).buffered(DISKS_AT_ONCE).try_collect().await
    }

    async fn copy_one(&self, snapshot: &Made, disk: &Disk, buffers: &Buffers) -> Result<Copying> {
        let address = disk.address;
        let label = format!("{} {address}", self.config.info.name);
        let within = |error: Error| error.within(format!("cannot copy {address} of {}", self.config.info.name));
        let link = self.connected.link();
        let open = || async {
            let open = transport::open(&link, self.route, &self.config, &snapshot.id, disk);
            let disk = self.cancel.or_stop(open).await.map_err(within)?;
            let disk = match &self.throttle {
                Some(throttle) => throttle.limit(disk),
                None => disk,
            };
            Ok::<Arc<dyn transport::FrozenDisk>, Error>(disk.into())
        };
        let source = open().await?;
        let file = image_name(disk);
        let options = image_options(&self.config, self.options.subformat, disk);
        let writer = ImageWriter::create(self.staging.path(), &file, &options)
            .failed(|| format!("cannot create {file}"))
            .map_err(|e| within(with_space_hint(e)))?;
        let writer = Arc::new(writer);
        let meter = self.progress.meter(&label, disk.capacity);
        let copy = CopyOptions {
            streams: self.options.streams,
            retry: Retry::READS,
            seed: format!("{}{address}", self.run).into_bytes(),
        };
        let copied = copy_disk(source, writer.clone(), buffers, &copy, &meter, self.cancel).await;
        let copied = copied.map_err(within)?;
        meter.finish();
        if self.options.audit {
            let meter = self.progress.meter(&format!("{label} (second reading)"), disk.capacity);
            // Other samples than the first time, so that more of what the host calls unused is looked at.
            let copy = CopyOptions { seed: format!("{} again{address}", self.run).into_bytes(), ..copy };
            // Opened again, because what was read through a chain is kept for a while.
            let again = copy_disk(open().await?, Arc::new(Discard), buffers, &copy, &meter, self.cancel).await;
            let again = again.map_err(within)?;
            meter.finish();
            if again.digest != copied.digest {
                let what =
                    format!("two readings of the frozen {address} differ: {} and {}", copied.digest, again.digest);
                return Err(within(
                    Error::new(Family::Corrupt, what).hint("the host or the way to it changes bytes; check both"),
                ));
            }
        }
        let entry = DiskEntry {
            address: address.to_string(),
            files: vec![file.clone()],
            file,
            capacity: disk.capacity,
            source: disk.root_file(),
            uuid: disk.uuid.clone(),
            change_id: disk.change_id.clone(),
            digest: copied.digest,
            bytes_read: copied.read,
            bytes_stored: copied.stored,
            route: self.route.to_string(),
            read_all_because: copied.read_all_because,
        };
        Ok(Copying { entry, writer })
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
            disks.push(finish_image(copy).await?);
        }
        let info = &self.config.info;
        let manifest = Manifest {
            format: Manifest::FORMAT,
            stillframe: env!("CARGO_PKG_VERSION").into(),
            run: self.run,
            started,
            finished: jiff::Timestamp::now().to_string(),
            server: self.connected.hypervisor.describe(),
            vm: VmEntry {
                name: info.name.clone(),
                uuid: info.uuid.clone(),
                instance_uuid: info.instance_uuid.clone(),
                moref: info.moref.0.clone(),
                power: info.power,
                firmware: self.config.firmware.clone(),
                hardware_version: self.config.hardware_version,
                config_path: self.config.config_path.clone(),
                place: self.config.place.clone(),
            },
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

/// Writes tables and descriptor and syncs the files.
async fn finish_image(copy: Copying) -> Result<DiskEntry> {
    let Copying { mut entry, writer } = copy;
    let writer =
        Arc::into_inner(writer).ok_or_else(|| Error::new(Family::Failed, "an image is still being written"))?;
    let files =
        tokio::task::spawn_blocking(move || writer.finish()).await.failed(|| "an image was not finished".into())?;
    let files = files.failed(|| format!("cannot finish {}", entry.file)).map_err(with_space_hint)?;
    entry.files = files.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    Ok(entry)
}

fn image_options(config: &VmConfig, subformat: Subformat, disk: &Disk) -> CreateOptions {
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
fn image_name(disk: &Disk) -> String {
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
