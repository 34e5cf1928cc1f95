//! One disk on its way into a backup: as a delta if one can be made, else whole.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use vmdk_rs::{CreateOptions, ImageWriter};

use super::Retry;
use super::backup::{Work, image_name, image_options};
use super::since::DiskBase;
use super::snapshot::Made;
use crate::error::{Context, Error, Family, Result};
use crate::export::{
    Buffers, Copied, CopyOptions, Delta, DeltaWork, Discard, DiskEntry, DiskKind, copy_changes, copy_disk,
    with_space_hint,
};
use crate::hypervisor::Disk;
use crate::transport::{self, Allocation, FrozenDisk};

/// One disk that is copied, and not finished yet.
pub(super) struct Copying {
    pub(super) entry: DiskEntry,
    writer: Arc<ImageWriter>,
    hashes: Arc<File>,
}

/// The files that a disk is copied into.
struct Target {
    writer: Arc<ImageWriter>,
    hashes: Arc<File>,
}

/// A frozen disk of a run.
pub(super) struct OneDisk<'a> {
    pub(super) work: &'a Work<'a>,
    pub(super) snapshot: &'a Made,
    pub(super) disk: &'a Disk,
    pub(super) buffers: &'a Buffers,
}

impl OneDisk<'_> {
    /// Copies the disk.
    pub(super) async fn copy(&self) -> Result<Copying> {
        let within = |error: Error| {
            let (address, name) = (self.disk.address, &self.work.config.info.name);
            error.within(format!("cannot copy {address} of {name}"))
        };
        let because = match &self.work.since {
            None => None,
            Some(since) => match since.base_of(self.disk) {
                Err(why) => Some(why),
                Ok(base) => match self.delta(base).await.map_err(within)? {
                    Ok(copying) => return Ok(copying),
                    Err(why) => Some(why),
                },
            },
        };
        if let Some(why) = &because {
            tracing::warn!("{}: {why}; the whole disk is backed up", self.label());
        }
        self.whole(because).await.map_err(within)
    }

    fn label(&self) -> String {
        format!("{} {}", self.work.config.info.name, self.disk.address)
    }

    async fn open(&self) -> Result<Arc<dyn FrozenDisk>> {
        let link = self.work.connected.link();
        let open = transport::open(&link, self.work.route, &self.work.config, &self.snapshot.id, self.disk);
        let disk = self.work.cancel.or_stop(open).await?;
        Ok(match &self.work.throttle {
            Some(throttle) => throttle.limit(disk).into(),
            None => disk.into(),
        })
    }

    fn hashes_name(&self) -> String {
        let file = image_name(self.disk);
        format!("{}.hashes", file.strip_suffix(".vmdk").unwrap_or(&file))
    }

    fn create(&self, options: &CreateOptions) -> Result<Target> {
        let file = image_name(self.disk);
        let folder = self.work.staging.path();
        let writer = ImageWriter::create(folder, &file, options).failed(|| format!("cannot create {file}"));
        let hashes = folder.join(self.hashes_name());
        let opened = File::options().read(true).write(true).create_new(true).open(&hashes);
        let opened = opened.failed(|| format!("cannot create {}", hashes.display()));
        Ok(Target {
            writer: Arc::new(writer.map_err(with_space_hint)?),
            hashes: Arc::new(opened.map_err(with_space_hint)?),
        })
    }

    /// Removes what was written in vain.
    async fn discard(&self, target: Target) -> Result<()> {
        // Blocks on their way know the files by their names, which the next image will have.
        while Arc::strong_count(&target.writer) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if let Some(writer) = Arc::into_inner(target.writer) {
            writer.discard();
        }
        let hashes = self.work.staging.path().join(self.hashes_name());
        std::fs::remove_file(&hashes).failed(|| format!("cannot remove {}", hashes.display()))
    }

    fn options(&self, round: &str, hashes: Option<&Arc<File>>) -> CopyOptions {
        CopyOptions {
            streams: self.work.options.streams,
            retry: Retry::READS,
            seed: format!("{}{round}{}", self.work.run, self.disk.address).into_bytes(),
            hashes: hashes.cloned(),
        }
    }

    /// Copies what changed, or says why that cannot be done.
    async fn delta(&self, base: &DiskBase) -> Result<Result<Copying, String>> {
        let cancel = self.work.cancel;
        let source = self.open().await?;
        let changed = match cancel.or_stop(async { Ok(source.changes(&base.point).await) }).await? {
            Allocation::Known(changed) => changed,
            Allocation::Unknown(why) => return Ok(Err(why)),
        };
        let target = self.create(&base.options)?;
        let meter = self.work.progress.meter(&self.label(), self.disk.capacity);
        let work = DeltaWork { source, changed, base: base.base.clone(), target: target.writer.clone() };
        let options = self.options(" since ", Some(&target.hashes));
        let copied = match copy_changes(work, self.buffers, &options, &meter, cancel).await? {
            Delta::Copied(copied) => copied,
            Delta::Useless(why) => {
                self.discard(target).await?;
                return Ok(Err(why));
            }
        };
        meter.finish();
        if self.work.options.audit && self.read_again().await?.digest != copied.digest {
            self.discard(target).await?;
            return Ok(Err("the host calls blocks unchanged that changed, which a whole reading found".into()));
        }
        Ok(Ok(self.copied(target, copied, DiskKind::Delta)))
    }

    /// Copies the whole disk.
    async fn whole(&self, because: Option<String>) -> Result<Copying> {
        let source = self.open().await?;
        let target = self.create(&image_options(&self.work.config, self.work.options.subformat, self.disk))?;
        let meter = self.work.progress.meter(&self.label(), self.disk.capacity);
        let options = self.options("", Some(&target.hashes));
        let copying = copy_disk(source, target.writer.clone(), self.buffers, &options, &meter, self.work.cancel);
        let mut copied = copying.await?;
        meter.finish();
        if self.work.options.audit {
            let again = self.read_again().await?;
            if again.digest != copied.digest {
                let what = format!(
                    "two readings of the frozen {} differ: {} and {}",
                    self.disk.address, copied.digest, again.digest
                );
                return Err(
                    Error::new(Family::Corrupt, what).hint("the host or the way to it changes bytes; check both")
                );
            }
        }
        let reasons: Vec<String> = because.into_iter().chain(copied.read_all_because.take()).collect();
        copied.read_all_because = (!reasons.is_empty()).then(|| reasons.join("; "));
        Ok(self.copied(target, copied, DiskKind::Full))
    }

    /// Reads the disk a second time, whole.
    async fn read_again(&self) -> Result<Copied> {
        let meter = self.work.progress.meter(&format!("{} (second reading)", self.label()), self.disk.capacity);
        // Other samples than the first time, so that more of what the host calls unused is looked at.
        let options = self.options(" again", None);
        // Opened again, because what was read through a chain is kept for a while.
        let source = self.open().await?;
        let again = copy_disk(source, Arc::new(Discard), self.buffers, &options, &meter, self.work.cancel).await?;
        meter.finish();
        Ok(again)
    }

    fn copied(&self, target: Target, copied: Copied, kind: DiskKind) -> Copying {
        let (disk, file) = (self.disk, image_name(self.disk));
        let entry = DiskEntry {
            address: disk.address.to_string(),
            files: vec![file.clone()],
            file,
            kind,
            hashes: Some(self.hashes_name()),
            capacity: disk.capacity,
            source: disk.root_file(),
            uuid: disk.uuid.clone(),
            change_id: disk.change_id.clone(),
            digest: copied.digest,
            bytes_read: copied.read,
            bytes_stored: copied.stored,
            route: self.work.route.to_string(),
            read_all_because: copied.read_all_because,
        };
        Copying { entry, writer: target.writer, hashes: target.hashes }
    }
}

impl Copying {
    /// Writes tables and descriptor and syncs the files.
    pub(super) async fn finish(self) -> Result<DiskEntry> {
        let Self { mut entry, writer, hashes } = self;
        let writer =
            Arc::into_inner(writer).ok_or_else(|| Error::new(Family::Failed, "an image is still being written"))?;
        let finishing = tokio::task::spawn_blocking(move || (writer.finish(), hashes.sync_all()));
        let (files, synced) = finishing.await.failed(|| "an image was not finished".into())?;
        let files = files.failed(|| format!("cannot finish {}", entry.file)).map_err(with_space_hint)?;
        synced.failed(|| format!("cannot finish the hashes of {}", entry.file)).map_err(with_space_hint)?;
        entry.files = files.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
        Ok(entry)
    }
}
