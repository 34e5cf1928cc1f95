//! The manifest: what we know of a backup beyond VCB's catalog, as JSON beside it.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use vmdk_rs::PlainName;

use super::DiskDigest;
use crate::error::{Error, Family, Result};
use crate::hypervisor::{HypervisorKind, Place, Power};
use crate::job::{Quiesce, RunId};

/// The manifest's name in a backup directory.
pub const MANIFEST_NAME: &str = "manifest.json";

/// The number of this layout. A reader refuses newer ones.
const FORMAT: u32 = 1;
/// A manifest has some hundred bytes per disk.
const MAX_LEN: usize = 16 << 20;

/// What the guest was asked before the snapshot, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// File systems and applications were quiesced.
    Quiesced,
    /// As after a power cut.
    CrashConsistent,
    /// The VM was not running.
    PoweredOff,
}

/// The VM that was backed up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmEntry {
    /// Display name.
    pub name: String,
    /// What it ran under: whose configuration the files hold. Of libvirt, `config.xml` is the domain's XML.
    #[serde(default)]
    pub hypervisor: HypervisorKind,
    /// BIOS UUID.
    pub uuid: Option<String>,
    /// The UUID that the hypervisor keeps unique.
    pub instance_uuid: Option<String>,
    /// Id on its server at that time.
    pub moref: String,
    /// Whether it ran.
    pub power: Option<Power>,
    /// `bios` or `efi`.
    pub firmware: String,
    /// Virtual hardware version.
    pub hardware_version: u32,
    /// The configuration file's place.
    pub config_path: String,
    /// Where it lived.
    pub place: Place,
}

/// One disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskEntry {
    /// Where it was plugged in, such as `scsi0:0`.
    pub address: String,
    /// The descriptor's file name.
    pub file: String,
    /// All files of the image.
    pub files: Vec<String>,
    /// Capacity in bytes.
    pub capacity: u64,
    /// The file it ran from, as the hypervisor named it.
    pub source: String,
    /// The disk's own UUID.
    pub uuid: Option<String>,
    /// The point in the change log that the image stands for.
    pub change_id: Option<String>,
    /// The digest of its bytes.
    pub digest: DiskDigest,
    /// Bytes that were read from the host.
    pub bytes_read: u64,
    /// Bytes that were not zeros.
    pub bytes_stored: u64,
    /// The route they took.
    pub route: String,
    /// Why everything was read, if it was.
    pub read_all_because: Option<String>,
}

/// A disk that was left out on request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SkippedDisk {
    /// Where it is plugged in.
    pub address: String,
    /// Why.
    pub reason: String,
}

/// One configuration file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name in the directory.
    pub name: String,
    /// Where it lay.
    pub source: String,
    /// Size in bytes.
    pub size: u64,
    /// BLAKE3 of its bytes, hex.
    pub blake3: String,
}

/// A whole manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// `FORMAT` of the writer.
    pub format: u32,
    /// The program version of the writer.
    pub stillframe: String,
    /// The run.
    pub run: RunId,
    /// When the snapshot was asked for, RFC 3339.
    pub started: String,
    /// When everything was on disk, RFC 3339.
    pub finished: String,
    /// The server's product and version.
    pub server: String,
    /// The VM.
    pub vm: VmEntry,
    /// What was asked of the guest.
    pub quiesce: Quiesce,
    /// What came of it.
    pub consistency: Consistency,
    /// From the snapshot call to its answer, in milliseconds.
    pub snapshot_ms: u64,
    /// The disks.
    pub disks: Vec<DiskEntry>,
    /// Disks that were left out.
    pub skipped: Vec<SkippedDisk>,
    /// Configuration files.
    pub files: Vec<FileEntry>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl Manifest {
    /// The number of the layout that this version writes.
    pub const FORMAT: u32 = FORMAT;

    /// Reads a manifest and checks every name in it.
    ///
    /// # Errors
    /// [`Family::Corrupt`], or [`Family::Unsupported`] if it is of a newer layout.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let corrupt = |what: String| Error::new(Family::Corrupt, what);
        if bytes.len() > MAX_LEN {
            return Err(corrupt(format!("{MANIFEST_NAME} is longer than 16 MiB")));
        }
        let not_json = |e| corrupt(format!("{MANIFEST_NAME} cannot be understood")).caused_by(e);
        let head: Head = serde_json::from_slice(bytes).map_err(not_json)?;
        if head.format == 0 {
            return Err(corrupt(format!("{MANIFEST_NAME} has no layout 0")));
        }
        if head.format > FORMAT {
            let what = format!("{MANIFEST_NAME} has layout {}, and this version knows up to {FORMAT}", head.format);
            return Err(
                Error::new(Family::Unsupported, what).hint("use the version that made the backup, or a newer one")
            );
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(not_json)?;
        let mut seen = HashSet::new();
        let files = manifest.disks.iter().flat_map(|disk| &disk.files).chain(manifest.files.iter().map(|f| &f.name));
        for name in files {
            if PlainName::new(name).is_err() {
                return Err(corrupt(format!("{MANIFEST_NAME} names the file \"{name}\": expected a plain file name")));
            }
            if !seen.insert(name.to_lowercase()) {
                return Err(corrupt(format!("{MANIFEST_NAME} names the file \"{name}\" twice")));
            }
        }
        if let Some(disk) = manifest.disks.iter().find(|disk| !disk.files.contains(&disk.file)) {
            return Err(corrupt(format!("{MANIFEST_NAME}: \"{}\" is not among its disk's files", disk.file)));
        }
        Ok(manifest)
    }
}
