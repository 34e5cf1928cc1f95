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

/// The number of the newest layout. A reader refuses newer ones.
const FORMAT: u32 = 2;
/// The layout of backups that need no other one. Versions that know no deltas read it.
const WHOLE: u32 = 1;
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

/// What an image holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskKind {
    /// The whole disk.
    #[default]
    Full,
    /// What differs from the same disk in the base.
    Delta,
}

/// The backup that this one is a delta to. Its directory lies beside this one's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseEntry {
    /// The directory's name then. It is found under other names too, by its run.
    pub directory: String,
    /// The run that made it.
    pub run: RunId,
    /// BLAKE3 of its manifest, hex: a base that was changed since is none.
    pub manifest: String,
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
    /// What the image holds.
    #[serde(default)]
    pub kind: DiskKind,
    /// The file with the hashes of the disk's blocks. Backups of older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<String>,
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
    /// Why everything was read, or why this is no delta though one was asked for.
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
    /// The number of its layout: 1, or 2 if there is a base.
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
    /// The backup that this one needs, if it holds deltas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseEntry>,
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
    /// The number of the layout that is written: the oldest that tells everything.
    #[must_use]
    pub const fn layout(base: Option<&BaseEntry>) -> u32 {
        if base.is_some() { FORMAT } else { WHOLE }
    }

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
        manifest.check_names()?;
        manifest.check_base()?;
        Ok(manifest)
    }

    fn check_names(&self) -> Result<()> {
        let corrupt = |what: String| Error::new(Family::Corrupt, what);
        let mut seen = HashSet::new();
        let images = self.disks.iter().flat_map(|disk| disk.files.iter().chain(&disk.hashes));
        for name in images.chain(self.files.iter().map(|file| &file.name)) {
            if PlainName::new(name).is_err() {
                return Err(corrupt(format!("{MANIFEST_NAME} names the file \"{name}\": expected a plain file name")));
            }
            if !seen.insert(name.to_lowercase()) {
                return Err(corrupt(format!("{MANIFEST_NAME} names the file \"{name}\" twice")));
            }
        }
        match self.disks.iter().find(|disk| !disk.files.contains(&disk.file)) {
            Some(disk) => Err(corrupt(format!("{MANIFEST_NAME}: \"{}\" is not among its disk's files", disk.file))),
            None => Ok(()),
        }
    }

    fn check_base(&self) -> Result<()> {
        let corrupt = |what: String| Error::new(Family::Corrupt, what);
        if self.format != Self::layout(self.base.as_ref()) {
            let layout = self.format;
            return Err(corrupt(format!("{MANIFEST_NAME} has layout {layout}: expected 1 without a base, 2 with one")));
        }
        if let Some(base) = &self.base
            && (PlainName::new(&base.directory).is_err() || base.run == self.run)
        {
            let name = &base.directory;
            return Err(corrupt(format!(
                "{MANIFEST_NAME} names the base \"{name}\": expected another folder beside it"
            )));
        }
        match self.disks.iter().find(|disk| disk.kind == DiskKind::Delta) {
            Some(disk) if self.base.is_none() => {
                Err(corrupt(format!("{MANIFEST_NAME}: {} is a delta, and there is no base", disk.address)))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn manifest() -> Value {
        json!({
            "format": 1, "stillframe": "0", "run": "6f2d3b1e-0001-4000-8000-000000000001", "started": "", "finished": "",
            "server": "", "quiesce": "try", "consistency": "powered-off", "snapshot_ms": 0,
            "vm": { "name": "a", "uuid": null, "instance_uuid": null, "moref": "vm-1", "power": null, "firmware": "bios",
                "hardware_version": 4, "config_path": "", "place": Place::default() },
            "disks": [{ "address": "scsi0:0", "file": "a.vmdk", "files": ["a.vmdk"], "capacity": 512, "source": "",
                "uuid": null, "change_id": null, "digest": format!("blake3-blocks:{}", "0".repeat(64)), "bytes_read": 0,
                "bytes_stored": 0, "route": "https", "read_all_because": null }],
            "skipped": [], "files": [], "warnings": [],
        })
    }

    fn parse(edit: impl FnOnce(&mut Value)) -> Result<Manifest> {
        let mut value = manifest();
        edit(&mut value);
        Manifest::parse(value.to_string().as_bytes())
    }

    fn base(name: &str, run: &str) -> Value {
        json!({ "directory": name, "run": run, "manifest": "00" })
    }

    const OTHER: &str = "6f2d3b1e-0002-4000-8000-000000000001";

    #[test]
    fn a_manifest_of_before_there_were_deltas_is_one_of_full_disks() {
        let read = parse(|_| ()).unwrap();
        assert_eq!((read.base, read.disks[0].kind, &read.disks[0].hashes), (None, DiskKind::Full, &None));
    }

    #[test]
    fn a_base_takes_layout_2_which_older_versions_refuse() {
        let with = |format: u32, name: &str, run: &str| {
            parse(|m| {
                m["format"] = json!(format);
                m["base"] = base(name, run);
                m["disks"][0]["kind"] = json!("delta");
            })
        };
        assert_eq!(with(2, "full 1", OTHER).unwrap().base.unwrap().directory, "full 1");
        for (format, name, run) in [
            (1, "full 1", OTHER),
            (2, "../full 1", OTHER),
            (2, "..", OTHER),
            (2, "full 1", "6f2d3b1e-0001-4000-8000-000000000001"),
        ] {
            assert_eq!(with(format, name, run).unwrap_err().family(), Family::Corrupt, "{format} {name}");
        }
        assert_eq!(with(3, "full 1", OTHER).unwrap_err().family(), Family::Unsupported);
    }

    #[test]
    fn deltas_without_a_base_and_hashes_that_are_another_file_are_refused() {
        for edit in [
            (|m| m["disks"][0]["kind"] = json!("delta")) as fn(&mut Value),
            |m| m["disks"][0]["hashes"] = json!("A.vmdk"),
            |m| m["disks"][0]["hashes"] = json!("../a.hashes"),
            |m| m["format"] = json!(2),
        ] {
            assert_eq!(parse(edit).unwrap_err().family(), Family::Corrupt);
        }
        assert!(parse(|m| m["disks"][0]["hashes"] = json!("a.hashes")).is_ok());
    }
}
