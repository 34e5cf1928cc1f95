//! The backup that the changes are taken since: is it one of this VM, and which of its disks can be the base of a delta?

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blockdev::{ByteLen, ReadAt};
use vmdk_rs::{CreateOptions, Image, ImageWriter, ParentLink, PlainName, Subformat};

use super::backup::{image_name, image_options};
use super::{Cancel, Progress};
use crate::error::{Context, Error, Family, Result};
use crate::export::{Base, BaseEntry, BlockHashes, DiskEntry, Manifest, Staging, VmEntry, open_hashes, write_hashes};
use crate::hypervisor::{Connected, Disk, DiskAddress, VmConfig};
use crate::restore::Backup;
use crate::restore::base::find;
use crate::transport::from_read;

/// The most disks of a chain that readers open.
const LONGEST_CHAIN: usize = 64;

/// The earlier backup, opened.
pub(super) struct Since {
    directory: PathBuf,
    entry: BaseEntry,
    folder: PlainName,
    disks: HashMap<DiskAddress, Result<DiskBase, String>>,
}

/// The disk that a delta can be to.
pub(super) struct DiskBase {
    entry: DiskEntry,
    /// The point in the change log that it stands for.
    pub(super) point: String,
    pub(super) base: Arc<Base>,
    /// What the delta is to be.
    pub(super) options: CreateOptions,
}

impl Since {
    /// Opens `directory` and looks what of it the disks of `config` can be based on. May read whole images, so it is done before the
    /// snapshot; `staging` is where the new backup will be.
    ///
    /// # Errors
    /// [`Family::Usage`] if it is no backup of this VM, or does not lie beside the new one; [`Family::Corrupt`] if it is damaged.
    pub(super) async fn open(
        directory: &Path,
        staging: &Staging,
        connected: &Connected,
        config: &VmConfig,
        wanted: &[DiskAddress],
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Self> {
        let (directory, folder) = beside(directory, staging.target())?;
        let opening = {
            let directory = directory.clone();
            tokio::task::spawn_blocking(move || {
                let backup = Backup::open(&directory, None)?;
                let digest = backup.manifest.is_some().then(|| backup.manifest_digest()).transpose()?;
                Ok::<_, Error>((backup, digest))
            })
        };
        let (backup, digest) = opening.await.failed(|| "the earlier backup was not opened".into())??;
        let (Some(manifest), Some(digest)) = (backup.manifest.clone(), digest) else {
            return Err(Error::new(Family::Usage, format!("{} has no manifest", directory.display()))
                .hint("changes can be taken since a backup that stillframe made; make a full one first"));
        };
        check_vm(&manifest.vm, config, &manifest.server, &connected.hypervisor.describe(), &directory)?;
        let entry = BaseEntry { directory: folder.to_string(), run: manifest.run, manifest: digest };
        let mut since = Self { directory, entry, folder, disks: HashMap::new() };
        since.open_disks(backup, &manifest, config, wanted, progress, cancel).await?;
        Ok(since)
    }

    async fn open_disks(
        &mut self,
        backup: Backup,
        manifest: &Manifest,
        config: &VmConfig,
        wanted: &[DiskAddress],
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<()> {
        let mut hashes = HashMap::new();
        for disk in &backup.disks {
            hashes.insert(disk.address.clone(), backup.hashes(&disk.address)?);
        }
        let mut images: HashMap<_, _> = backup.disks.into_iter().map(|disk| (disk.address, disk.image)).collect();
        for disk in config.disks.iter().filter(|disk| wanted.contains(&disk.address)) {
            let address = disk.address.to_string();
            let entry = manifest.disks.iter().find(|entry| entry.address == address);
            let fitting = match (entry, images.remove(&address)) {
                (Some(entry), Some(image)) => fits(entry, disk).map(|point| (entry, image, point)),
                _ => Err(format!("it is not in {}", self.folder)),
            };
            let base = match fitting {
                Err(why) => Err(why),
                Ok((entry, image, point)) => match delta_options(config, disk, entry, &image, &self.folder) {
                    Err(why) => Err(why),
                    Ok(options) => {
                        let file = hashes.remove(&address).flatten();
                        let label = format!("{} {address} in {}", config.info.name, self.folder);
                        let hashed = hashes_of(file, entry, image, &label, progress, cancel).await?;
                        hashed.map(|base| DiskBase { entry: entry.clone(), point, base: Arc::new(base), options })
                    }
                },
            };
            self.disks.insert(disk.address, base);
        }
        Ok(())
    }

    /// The points since which changes will be asked.
    pub(super) fn points(&self) -> Vec<(DiskAddress, String)> {
        let points = self.disks.iter().filter_map(|(at, base)| Some((*at, base.as_ref().ok()?.point.clone())));
        let mut points: Vec<_> = points.collect();
        points.sort();
        points
    }

    /// What a frozen disk can be based on, or why on nothing.
    pub(super) fn base_of(&self, frozen: &Disk) -> Result<&DiskBase, String> {
        match self.disks.get(&frozen.address) {
            Some(Ok(base)) => fits(&base.entry, frozen).map(|_| base),
            Some(Err(why)) => Err(why.clone()),
            None => Err(format!("it is not in {}", self.folder)),
        }
    }

    /// What the manifest says of it.
    pub(super) fn entry(&self) -> BaseEntry {
        self.entry.clone()
    }

    /// Looks whether it is still there: a backup of changes is nothing without it.
    ///
    /// # Errors
    /// [`Family::Corrupt`] if it is not.
    pub(super) fn still_there(&self, staging: &Staging) -> Result<()> {
        find(staging.path(), &self.entry).map(drop)?;
        fs::symlink_metadata(self.directory.join(crate::export::CATALOG_NAME))
            .map(drop)
            .failed(|| format!("{} was taken apart meanwhile", self.directory.display()))
    }
}

/// The whole path of the earlier backup and its name beside the new one.
fn beside(directory: &Path, target: &Path) -> Result<(PathBuf, PlainName)> {
    let usage = |what: String| Error::new(Family::Usage, what);
    let path = fs::canonicalize(directory)
        .map_err(|e| usage(format!("{} cannot be used", directory.display())).caused_by(e))?;
    if path.parent() != target.parent() {
        let what = format!("{} does not lie beside {}", path.display(), target.display());
        return Err(
            usage(what).hint("a backup of changes finds its base in the folder that it lies in; write it there")
        );
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match PlainName::new(name) {
        Ok(name) => Ok((path, name)),
        Err(e) => Err(usage(format!("{} cannot be named by a backup of changes", path.display()))
            .caused_by(e)
            .hint("give the directory a plain name")),
    }
}

/// Refuses the backup of another VM. What the hypervisor keeps unique decides; else the BIOS UUID, and the id on the same server.
fn check_vm(theirs: &VmEntry, config: &VmConfig, made_at: &str, here: &str, directory: &Path) -> Result<()> {
    let ours = &config.info;
    let same_server = || made_at == here || place_in(made_at) == place_in(here);
    let same = match (&theirs.instance_uuid, &ours.instance_uuid, &theirs.uuid, &ours.uuid) {
        (Some(a), Some(b), ..) => a.eq_ignore_ascii_case(b),
        (_, _, Some(a), Some(b)) => a.eq_ignore_ascii_case(b) && theirs.moref == ours.moref.0 && same_server(),
        _ => theirs.moref == ours.moref.0 && same_server(),
    };
    if same {
        return Ok(());
    }
    let id = |uuid: &Option<String>| uuid.clone().unwrap_or_else(|| "without a UUID".into());
    let what = format!(
        "{} is a backup of {} ({}), and not of {} ({})",
        directory.display(),
        theirs.name,
        id(&theirs.instance_uuid),
        ours.name,
        id(&ours.instance_uuid)
    );
    Err(Error::new(Family::Usage, what).hint("name a backup of this VM, or make a full one without --since"))
}

/// `VMware vCenter Server 8.0 at host:443` names the product, which may have been upgraded, and the place.
fn place_in(server: &str) -> &str {
    server.rsplit_once(" at ").map_or(server, |(_, place)| place)
}

/// Whether a disk is still the one of the base; then the point that changes are asked since.
fn fits(entry: &DiskEntry, disk: &Disk) -> Result<String, String> {
    if entry.capacity != disk.capacity {
        return Err(format!("it had {} bytes then, and has {} now", entry.capacity, disk.capacity));
    }
    if let (Some(then), Some(now)) = (&entry.uuid, &disk.uuid)
        && !then.eq_ignore_ascii_case(now)
    {
        return Err("another disk was plugged in there then".into());
    }
    // Where disks have no UUID, only the image tells whether it is the same one.
    if (entry.uuid.is_none() || disk.uuid.is_none()) && entry.source != disk.root_file() {
        return Err(format!("it was {} then, and is {} now", entry.source, disk.root_file()));
    }
    entry.change_id.clone().ok_or_else(|| "its blocks were not tracked then".into())
}

/// What the delta to a disk is to be: one sparse file, or several where one cannot hold it.
fn delta_options(
    config: &VmConfig,
    disk: &Disk,
    entry: &DiskEntry,
    image: &Image,
    folder: &PlainName,
) -> Result<CreateOptions, String> {
    if image.chain().count() >= LONGEST_CHAIN {
        return Err(format!("its chain has {LONGEST_CHAIN} links already"));
    }
    let file = PlainName::new(&entry.file).map_err(|e| e.to_string())?;
    let parent = ParentLink { file, content_id: image.descriptor().content_id };
    let mut last = String::new();
    for subformat in [Subformat::MonolithicSparse, Subformat::TwoGbMaxExtentSparse] {
        let options = CreateOptions {
            parent: Some(parent.clone()),
            parent_folder: Some(folder.clone()),
            ..image_options(config, subformat, disk)
        };
        match ImageWriter::check(&image_name(disk), &options) {
            Ok(()) => return Ok(options),
            Err(error) => last = error.to_string(),
        }
    }
    Err(format!("no delta can be made of {}: {last}", ByteLen(disk.capacity)))
}

/// The base with the hashes of its blocks: those in the backup, or else made from the image.
async fn hashes_of(
    file: Option<File>,
    entry: &DiskEntry,
    image: Image,
    label: &str,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Result<Base, String>> {
    let (capacity, digest) = (entry.capacity, entry.digest.clone());
    let image: Arc<dyn ReadAt> = Arc::new(image);
    let there = tokio::task::spawn_blocking(move || match file {
        Some(file) => open_hashes(file, capacity, &digest),
        None => Ok(None),
    });
    if let Some(hashes) = there.await.failed(|| "the hashes were not read".into())?? {
        return Ok(Ok(Base { image, hashes }));
    }
    tracing::warn!("{label}: there are no hashes of its blocks; the image is read to make them");
    let meter = progress.meter(label, capacity);
    let (disk, digest, passed) = (image.clone(), entry.digest.clone(), meter.clone());
    let made = tokio::task::spawn_blocking(move || make_hashes(disk.as_ref(), capacity, &digest, |n| passed.add(n)));
    let made = cancel.or_stop(async { made.await.failed(|| "the hashes were not made".into())? }).await?;
    meter.finish();
    Ok(made.map(|hashes| Base { image, hashes }))
}

fn make_hashes(
    disk: &dyn ReadAt,
    capacity: u64,
    digest: &crate::export::DiskDigest,
    passed: impl FnMut(u64),
) -> Result<Result<BlockHashes, String>> {
    let what = || "cannot keep the hashes of the base".to_owned();
    let file = nameless().failed(what)?;
    match write_hashes(disk, file.try_clone().failed(what)?, passed) {
        Err(error) => return Ok(Err(from_read(error, "the base cannot be read").line())),
        Ok(written) => {
            if written.failed(what)? != *digest {
                return Ok(Err("the base is damaged".into()));
            }
        }
    }
    Ok(open_hashes(file, capacity, digest)?.ok_or_else(|| "the base changes while it is read".to_owned()))
}

/// A file that is gone when it is closed. Not every file system makes one without a name.
fn nameless() -> std::io::Result<File> {
    let path = std::env::temp_dir().join(format!(".stillframe-{}.hashes", uuid::Uuid::new_v4()));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_server_stays_when_its_product_is_upgraded() {
        assert_eq!(place_in("VMware vCenter Server 8.0.2 at vc:443"), "vc:443");
        assert_eq!(place_in("VMware at home 7 at vc"), "vc");
        assert_eq!(place_in("vc"), "vc");
    }

    #[test]
    fn a_base_lies_beside_the_new_backup_and_has_a_plain_name() {
        let top = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(top.path()).unwrap();
        for name in ["a", "b\"c", "C:x"] {
            fs::create_dir(top.join(name)).unwrap();
        }
        let (path, name) = beside(&top.join("a/../a"), &top.join("new")).unwrap();
        assert_eq!((path, name.as_str()), (top.join("a"), "a"));
        for wrong in ["b\"c", "C:x", "missing", "."] {
            assert_eq!(beside(&top.join(wrong), &top.join("new")).unwrap_err().family(), Family::Usage, "{wrong}");
        }
        assert_eq!(beside(&top.join("a"), &top.join("a/new")).unwrap_err().family(), Family::Usage);
    }
}
