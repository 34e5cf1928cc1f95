//! What a backup is held against: the lab's own disks, a foreign reader, the guest's log. And what must not be left of a run.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blockdev::{ExtentKind, ReadAt, ReadAtExt};
use lab::face::{Fault, FaultKind, Happening};
use lab::world::{DatastorePath, SnapshotView};
use serde_json::Value;

use crate::{Stage, tool};

/// The name of every snapshot that the program makes.
const SNAPSHOT: &str = "_VCB-BACKUP_";

/// Writes a disk out as a raw file, holes kept.
///
/// # Panics
/// If the disk cannot be read or the file not be written.
#[expect(clippy::unwrap_used, reason = "a test whose truth cannot be had is over")]
pub fn dump(disk: &dyn ReadAt, to: &Path) {
    let file = File::create(to).unwrap();
    file.set_len(disk.size().0).unwrap();
    for extent in disk.extents() {
        let extent = extent.unwrap();
        if extent.kind == ExtentKind::Data {
            let mut bytes = vec![0; extent.len.to_usize().unwrap()];
            disk.read_exact_at(extent.start, &mut bytes).unwrap();
            file.write_all_at(&bytes, extent.start.0).unwrap();
        }
    }
}

/// Whether qemu-img finds the image and the raw file to be one disk.
#[must_use]
pub fn is_identical(vmdk: &Path, raw: &Path) -> bool {
    let compare = ["compare", "-f", "vmdk", "-F", "raw"];
    let mut command = std::process::Command::new("qemu-img");
    command.args(compare).arg(vmdk).arg(raw).output().is_ok_and(|output| output.status.success())
}

/// What qemu-img says of an image.
///
/// # Panics
/// If it cannot be read.
#[track_caller]
pub fn info_of(vmdk: &Path) -> String {
    tool("qemu-img", &["info", "-f", "vmdk"].map(OsStr::new).into_iter().chain([vmdk.as_os_str()]).collect::<Vec<_>>())
}

/// The manifest of a backup.
///
/// # Panics
/// If there is none.
#[track_caller]
#[expect(clippy::unwrap_used, reason = "a backup without a manifest is none")]
pub fn manifest(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("manifest.json")).unwrap()).unwrap()
}

/// The images of a backup in the order of its disks, by address.
///
/// # Panics
/// If the manifest cannot be understood.
#[track_caller]
#[expect(clippy::unwrap_used, reason = "a backup without a manifest is none")]
pub fn images(directory: &Path) -> Vec<(String, PathBuf)> {
    let manifest = manifest(directory);
    let disks = manifest["disks"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    disks.iter().map(|disk| (text(&disk["address"]), directory.join(text(&disk["file"])))).collect()
}

impl Stage {
    /// The snapshots of the VM that the program made.
    pub fn ours(&self, vm: &str) -> Vec<SnapshotView> {
        self.snapshots(vm).into_iter().filter(|snapshot| snapshot.name == SNAPSHOT).collect()
    }

    /// Everything of the program's that is not complete: snapshots, directories, journals, hidden files on datastores.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for vm in self.world().vms() {
            left.extend(self.ours(&vm.name).into_iter().map(|s| format!("snapshot {} of {}", s.id, vm.name)));
            if vm.consolidation_needed {
                left.push(format!("layers of {}", vm.name));
            }
        }
        left.extend(self.out_names().into_iter().filter(|name| name.starts_with('.')));
        let hidden = |name: &String| name.rsplit('/').next().is_some_and(|name| name.starts_with('.'));
        left.extend(self.stored().into_iter().filter(hidden));
        left.extend(self.journals().into_iter().map(|name| format!("journal {name}")));
        left
    }

    /// What the state directory holds, hidden names included.
    pub fn journals(&self) -> Vec<String> {
        names_in(&self.home.path().join("state/journal"))
    }

    /// Every file and folder of the datastores, as a path below them.
    pub fn stored(&self) -> Vec<String> {
        let top = self.home.path().join("lab/datastores");
        let mut found = Vec::new();
        for store in names_in(&top) {
            for folder in names_in(&top.join(&store)) {
                let inside = names_in(&top.join(&store).join(&folder));
                found.extend(inside.into_iter().map(|file| format!("{store}/{folder}/{file}")));
                found.push(format!("{store}/{folder}"));
            }
        }
        found
    }

    /// Where a file of a datastore lies on this machine.
    pub fn on_disk(&self, file: &DatastorePath) -> PathBuf {
        self.home.path().join("lab/datastores").join(&file.datastore).join(&file.path)
    }

    /// The last transaction that the guest had committed at the latest freeze.
    pub fn frozen_at(&self) -> Option<u64> {
        self.lab.events().into_iter().rev().find_map(|event| match event.what {
            Happening::Freeze { guest_log, .. } => guest_log,
            _ => None,
        })
    }

    /// How often a fault of this name took effect.
    pub fn struck(&self, fault: &str) -> usize {
        let is = |what: &Happening| matches!(what, Happening::Fault { kind } if *kind == fault);
        self.lab.events().iter().filter(|event| is(&event.what)).count()
    }

    /// How often the server was called so.
    pub fn calls(&self, wanted: &str) -> usize {
        let is = |what: &Happening| matches!(what, Happening::Call { method, .. } if method == wanted);
        self.lab.events().iter().filter(|event| is(&event.what)).count()
    }

    /// Starts a backup of `vm` into `out(name)` and kills it when its data is copied and its snapshot is there: the host refuses to remove
    /// it meanwhile.
    ///
    /// # Panics
    /// If the program ends by itself.
    #[expect(clippy::expect_used, reason = "a test whose victim lives is over")]
    pub async fn die_with_snapshot(&self, vm: &str, name: &str) {
        self.lab.faults().arm(Fault { kind: FaultKind::SnapshotRemoveFails, times: u32::MAX });
        let before = self.struck("snapshot-remove-fails");
        let out = self.out(name);
        let spec = format!("name:{vm}");
        let args = ["backup", &spec, "-o", &out.to_string_lossy(), "--progress", "none", "--backoff", "3600"];
        let mut dying = self.command(&args).spawn().expect("the program starts");
        while self.struck("snapshot-remove-fails") == before {
            assert_eq!(dying.try_wait().expect("a child"), None, "it ended by itself");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        dying.kill().await.expect("a child that was killed");
        self.lab.faults().clear();
    }

    /// Lets the host stall for `seconds` in the last read that a backup of `vm` makes, which is in the middle of its copy. One backup is
    /// made before, to count.
    pub async fn stall_in_mid_copy(&self, vm: &str, seconds: u64, more: &[&str]) {
        let reads = |stage: &Self| {
            let events = stage.lab.events();
            let is = |what: &Happening| matches!(what, Happening::Read { .. } | Happening::RangeRead { .. });
            events.iter().filter(|event| is(&event.what)).count()
        };
        let before = reads(self);
        self.backup(&format!("name:{vm}"), "counted", more).await.succeeds();
        let count = u32::try_from(reads(self) - before).unwrap_or(u32::MAX);
        drop(fs::remove_dir_all(self.out("counted")));
        let faults = self.lab.faults();
        faults.arm(Fault { kind: FaultKind::Stall { seconds: 0 }, times: count.saturating_sub(1) });
        faults.arm(FaultKind::Stall { seconds });
    }

    /// Why a backup is not what was frozen: the program's own check, then the guest's log against what the lab knows, or (`off`) a
    /// comparison of each image with the VM's disk by a foreign reader. Empty if it is right.
    ///
    /// # Panics
    /// If the lab's disks cannot be read.
    #[expect(clippy::unwrap_used, reason = "a test whose truth cannot be had is over")]
    pub async fn faults_of(&self, vm: &str, directory: &Path, frozen_at: Option<u64>) -> Vec<String> {
        let mut wrong = Vec::new();
        let verified = self.run(&["verify", &directory.to_string_lossy(), "--progress", "none"]).await;
        if verified.code != 0 {
            wrong.push(format!("verify: {verified:?}"));
        }
        let view = self.vm(vm);
        let paths = images(directory);
        if paths.len() != view.disks.len() {
            wrong.push(format!("{} images of {} disks", paths.len(), view.disks.len()));
        }
        let images: Vec<_> = paths.iter().map(|(_, path)| vmdk_rs::open_path(path).unwrap()).collect();
        if view.power == lab::world::Power::PoweredOn {
            let disks: Vec<&dyn ReadAt> = images.iter().map(|image| image as &dyn ReadAt).collect();
            let report = lab::guest::check(&disks, frozen_at).unwrap();
            if frozen_at.is_some() && !report.consistent {
                wrong.extend(report.problems);
            }
            if report.logs == 0 || report.records_checked == 0 {
                wrong.push("no log was found".to_owned());
            }
            return wrong;
        }
        let raw = self.home.path().join("truth.raw");
        for ((address, image), disk) in paths.iter().zip(&view.disks) {
            dump(self.world().running_disk(&view.id, disk.key).unwrap().as_ref(), &raw);
            if !is_identical(image, &raw) {
                wrong.push(format!("{address} differs from the VM's disk"));
            }
        }
        wrong
    }
}

/// The names in a folder, hidden ones too, sorted; none if it cannot be read.
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
