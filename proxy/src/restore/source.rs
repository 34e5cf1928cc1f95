//! A backup directory as it is found: possibly moved, edited or damaged.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use blockdev::ReadAt;
use rustix::fs::{Mode, OFlags};
use vmdk_rs::{Gate, Image, PlainName};

use super::base::ChainGate;
use crate::error::{Context, Error, Family, Result};
use crate::export::{CATALOG_NAME, Catalog, DiskDigest, FileEntry, MANIFEST_NAME, Manifest};
use crate::hypervisor::HypervisorKind;
use crate::machine::{Domain, vmx};

/// Catalogs and configuration files are small; nothing larger is read into memory.
const MAX_SMALL_FILE: u64 = 64 << 20;

/// One disk of a backup.
pub struct BackupDisk {
    /// Where it was plugged in, such as `scsi0:0`.
    pub address: String,
    /// The descriptor's file name.
    pub file: String,
    /// Where it lived, `[datastore] folder/name.vmdk`.
    pub disk_name: Option<String>,
    /// The opened image.
    pub image: Image,
    /// What its bytes should be, if there is a manifest.
    pub digest: Option<DiskDigest>,
}

/// The configuration in a backup, in the words of its hypervisor.
pub enum SavedMachine {
    /// The text of a `.vmx`.
    Vmx(String),
    /// A domain of libvirt.
    Domain(Box<Domain>),
}

/// The file with a domain's XML, or with what a vSphere server said of a VM.
const CONFIG_XML: &str = "config.xml";

/// A backup directory, opened and checked as far as that is cheap.
pub struct Backup {
    /// The directory.
    pub directory: PathBuf,
    /// VCB's text.
    pub catalog: Catalog,
    /// Our own facts. VCB's images have none.
    pub manifest: Option<Manifest>,
    /// The disks.
    pub disks: Vec<BackupDisk>,
}

impl Backup {
    /// Opens the backup in `directory`, with another catalog if `alternate` names one.
    ///
    /// # Errors
    /// [`Family::Corrupt`] if it is incomplete or contradicts itself; [`Family::Usage`] if it is no backup.
    pub fn open(directory: &Path, alternate: Option<&Path>) -> Result<Self> {
        let catalog_path = alternate.map_or_else(|| directory.join(CATALOG_NAME), Path::to_owned);
        let text = read_small(&catalog_path).map_err(|e| {
            Error::new(Family::Usage, format!("{} is no complete backup", directory.display()))
                .caused_by(e)
                .hint("a complete backup holds a catalog, which is written last")
        })?;
        let within = || format!("cannot use {}", catalog_path.display());
        let catalog = Catalog::parse(&text).map_err(|e| Error::new(Family::Corrupt, within()).caused_by(e))?;
        let manifest_path = directory.join(MANIFEST_NAME);
        let manifest = match read_small(&manifest_path) {
            Ok(json) => {
                Some(Manifest::parse(&json).map_err(|e| e.within(format!("cannot use {}", manifest_path.display())))?)
            }
            Err(error) if is_missing(&error) => None,
            Err(error) => return Err(error),
        };
        let disks = open_disks(directory, &catalog, manifest.as_ref())?;
        Ok(Self { directory: directory.to_owned(), catalog, manifest, disks })
    }

    /// The digest of the manifest's bytes, by which backups of later changes know this one.
    ///
    /// # Errors
    /// It cannot be read any more.
    pub fn manifest_digest(&self) -> Result<String> {
        Ok(blake3::hash(&read_small(&self.directory.join(MANIFEST_NAME))?).to_hex().to_string())
    }

    /// The file with the hashes of a disk's blocks, if the backup has one.
    ///
    /// # Errors
    /// [`Family::Corrupt`] if it is no regular file.
    pub fn hashes(&self, address: &str) -> Result<Option<fs::File>> {
        let entry = self.manifest.as_ref().and_then(|m| m.disks.iter().find(|disk| disk.address == address));
        let Some(name) = entry.and_then(|entry| entry.hashes.as_ref()) else { return Ok(None) };
        match open_regular(&self.directory.join(name)) {
            Err(error) if is_missing(&error) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// The bytes of the `.vmx` in the directory.
    ///
    /// # Errors
    /// [`Family::Corrupt`] if there is none.
    pub fn vmx(&self) -> Result<Vec<u8>> {
        let named = self.catalog.get("config.vmx").and_then(file_part).map(str::to_owned);
        let original = self
            .manifest
            .as_ref()
            .and_then(|m| m.files.iter().find(|f| f.source == m.vm.config_path))
            .map(|f| f.name.clone());
        let name = original.or(named).filter(|name| PlainName::new(name).is_ok()).ok_or_else(|| {
            Error::new(Family::Corrupt, "the catalog does not name the configuration file: config.vmx is missing")
        })?;
        self.checked_file(&name)
    }

    /// What the machine was made of.
    ///
    /// # Errors
    /// [`Family::Corrupt`] if the directory lacks it, or it cannot be understood.
    pub fn machine(&self) -> Result<SavedMachine> {
        let vmx = || {
            let named = self.catalog.get("config.vmx").unwrap_or_default().to_ascii_lowercase();
            named.ends_with(".vmx") || !self.directory.join(CONFIG_XML).exists()
        };
        let is_domain = match &self.manifest {
            Some(manifest) => manifest.vm.hypervisor == HypervisorKind::Libvirt,
            None => !vmx(),
        };
        if !is_domain {
            return Ok(SavedMachine::Vmx(vmx::decode(&self.vmx()?)));
        }
        let what = || format!("{CONFIG_XML} cannot be used");
        let bytes = self.checked_file(CONFIG_XML)?;
        let text = String::from_utf8(bytes).map_err(|e| Error::new(Family::Corrupt, what()).caused_by(e))?;
        Ok(SavedMachine::Domain(Box::new(Domain::parse(&text).map_err(|e| e.within(what()))?)))
    }

    /// The names of the saved files that lay at a place of which `is_it` says so.
    #[must_use]
    pub fn files_from(&self, mut is_it: impl FnMut(&FileEntry) -> bool) -> Vec<String> {
        let Some(manifest) = &self.manifest else { return Vec::new() };
        manifest.files.iter().filter(|file| is_it(file)).map(|file| file.name.clone()).collect()
    }

    /// A configuration file, compared with what the manifest says of it.
    ///
    /// # Errors
    /// [`Family::Corrupt`] if it differs.
    pub fn checked_file(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.directory.join(name);
        let bytes = read_small(&path)
            .map_err(|e| Error::new(Family::Corrupt, format!("the backup lacks {}", path.display())).caused_by(e))?;
        let entry = self.manifest.as_ref().and_then(|m| m.files.iter().find(|f| f.name == name));
        if let Some(entry) = entry
            && entry.blake3 != blake3::hash(&bytes).to_hex().as_str()
        {
            return Err(Error::new(
                Family::Corrupt,
                format!("{} is not what was backed up: its digest differs", path.display()),
            ));
        }
        Ok(bytes)
    }

    /// Names of the configuration files beside the `.vmx` that a restored VM needs.
    pub fn nvram(&self) -> Option<String> {
        let manifest = self.manifest.as_ref()?;
        manifest.files.iter().find(|f| f.name.ends_with(".nvram")).map(|f| f.name.clone())
    }
}

/// The part of `[datastore] folder/name` behind the last slash.
fn file_part(path: &str) -> Option<&str> {
    path.rsplit(['/', ']']).next().map(str::trim).filter(|name| !name.is_empty())
}

fn open_disks(directory: &Path, catalog: &Catalog, manifest: Option<&Manifest>) -> Result<Vec<BackupDisk>> {
    let mut disks = Vec::new();
    for (key, file) in catalog.pairs() {
        let Some(address) = key.strip_prefix("disk.").and_then(|rest| rest.strip_suffix(".filename")) else { continue };
        let path = directory.join(file);
        refuse_links(&path)?;
        let image = open_image(directory, file, manifest)?;
        let entry = match manifest {
            None => None,
            Some(manifest) => {
                let found = manifest.disks.iter().find(|disk| disk.address == address && disk.file == file);
                let what = || format!("the catalog's {key} = \"{file}\" is not in the manifest");
                Some(
                    found
                        .ok_or_else(|| Error::new(Family::Corrupt, what()).hint("use the catalog as it was written"))?,
                )
            }
        };
        if let Some(entry) = entry
            && entry.capacity != image.size().0
        {
            let what =
                format!("{} has {} bytes, and the manifest says {}", path.display(), image.size().0, entry.capacity);
            return Err(Error::new(Family::Corrupt, what));
        }
        disks.push(BackupDisk {
            address: address.to_owned(),
            file: file.to_owned(),
            disk_name: catalog.get(&format!("disk.{address}.diskname")).map(str::to_owned),
            image,
            digest: entry.map(|entry| entry.digest.clone()),
        });
    }
    let listed = manifest.map_or(disks.len(), |m| m.disks.len());
    if disks.is_empty() || disks.len() != listed {
        let what = format!("the catalog lists {} disks, and the manifest {listed}", disks.len());
        return Err(Error::new(Family::Corrupt, what).hint("the catalog was cut or edited; use the original"));
    }
    Ok(disks)
}

/// Opens an image and its parents in the backups that this one is based on.
fn open_image(directory: &Path, file: &str, manifest: Option<&Manifest>) -> Result<Image> {
    let path = directory.join(file);
    let what = || format!("cannot open {}", path.display());
    let failed = |e: vmdk_rs::VmdkError| {
        let lacking =
            matches!(&e, vmdk_rs::VmdkError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
        if lacking { Error::new(Family::Corrupt, what()).caused_by(e) } else { crate::image_error(e, what()) }
    };
    let gate = ChainGate::new(directory, manifest).map_err(failed)?;
    let name = PlainName::new(file).map_err(|e| Error::new(Family::Corrupt, what()).caused_by(e))?;
    let opened = gate.open(&name).and_then(|descriptor| Image::open(descriptor, file, &gate));
    opened.map_err(|e| gate.trouble().map_or_else(|| failed(e), |trouble| trouble.within(what())))
}

/// A backup may come from anywhere: a link in it could name any file of this machine, and a pipe would wait for ever.
fn refuse_links(path: &Path) -> Result<()> {
    let what = || format!("cannot read {}", path.display());
    let metadata = fs::symlink_metadata(path).map_err(|e| Error::new(Family::Corrupt, what()).caused_by(e))?;
    if metadata.is_file() {
        return Ok(());
    }
    Err(Error::new(Family::Corrupt, format!("{} is no regular file", path.display())))
}

pub(super) fn read_small(path: &Path) -> Result<Vec<u8>> {
    let what = || format!("cannot read {}", path.display());
    let file = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_SMALL_FILE + 1).read_to_end(&mut bytes).failed(what)?;
    if bytes.len() as u64 > MAX_SMALL_FILE {
        return Err(Error::new(Family::Corrupt, format!("{} is longer than 64 MiB", path.display())));
    }
    Ok(bytes)
}

fn open_regular(path: &Path) -> Result<fs::File> {
    let what = || format!("cannot read {}", path.display());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(std::io::Error::from).failed(what)?);
    if file.metadata().failed(what)?.is_file() {
        return Ok(file);
    }
    Err(Error::new(Family::Corrupt, format!("{} is no regular file", path.display())))
}

fn is_missing(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|s| s.downcast_ref::<std::io::Error>());
    source.is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}
