//! Back to life under libvirt: from vSphere's backups and from libvirt's own, and the way back to vSphere.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use acceptance::kvm::{Boot, Content, DiskSpec, GuestSpec, KvmHost, judge};
use acceptance::{Outcome, Stage, finish, peer, tool, vm_of};

/// A folder of the host that guests can reach.
fn storage(host: &KvmHost) -> PathBuf {
    let folder = host.folder().join("restored");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o711)).unwrap();
    folder
}

async fn restore(host: &KvmHost, backup: &Path, more: &[&str]) -> Outcome {
    let backup = backup.to_string_lossy();
    finish(host.stillframe(&[&["restore", &backup, "--progress", "none"], more].concat())).await
}

fn is_equal(disk: &Path, format: &str, raw: &Path) {
    let words = ["compare", "-f", format, "-F", "raw"].map(OsStr::new);
    tool("qemu-img", &words.into_iter().chain([disk.as_os_str(), raw.as_os_str()]).collect::<Vec<_>>());
}

/// Backs a guest of the host up, with its scratch folder, which QEMU can reach.
async fn backup_of(host: &KvmHost, name: &str, more: &[&str]) -> PathBuf {
    let (uri, to) = (format!("{}&scratch={}", host.uri(), host.scratch().display()), host.out("b"));
    let (spec, directory) = (format!("name:{name}"), to.to_string_lossy());
    let words = ["backup", &spec, "-c", &uri, "-o", &directory, "--progress", "none"];
    finish(host.stillframe(&[&words, more].concat())).await.succeeds();
    to
}

/// A vSphere backup of the disk that boots by itself.
async fn vsphere_backup(disk: &Path) -> (Stage, PathBuf) {
    let disk = disk.to_owned();
    let stage = Stage::empty(move |world| {
        world.add_vm(&vm_of("web 1", &disk)).unwrap();
    })
    .await;
    stage.backup("name:web 1", "b", &[]).await.succeeds();
    let backup = stage.out("b");
    (stage, backup)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vsphere_machine_boots_under_libvirt_from_a_controller_of_its_kind() {
    if !acceptance::kvm::has_adapter() {
        return;
    }
    let (Some(host), Some(disk)) = (KvmHost::start(), peer("kvm/boot.raw")) else { return };
    let (_stage, backup) = vsphere_backup(&disk).await;
    let folder = storage(&host);
    let place = folder.to_string_lossy();
    let planned = restore(&host, &backup, &["--storage", &place, "--dry-run"]).await.succeeds();
    assert!(planned.stdout.contains("note: scsi0:0 comes to target 0 of a lsisas1068 controller"), "{planned:#?}");
    assert!(host.domains().is_empty() && acceptance::names_in(&folder).is_empty());
    restore(&host, &backup, &["--storage", &place]).await.succeeds();
    let file = folder.join("web 1-scsi0-0.qcow2");
    let checked = tool("qemu-img", &["check".as_ref(), file.as_os_str()]);
    assert!(checked.contains("No errors"), "{checked}");
    is_equal(&file, "qcow2", &disk);
    // Its definition stays as it is, and so do its files.
    for name in ["web 1", "other"] {
        restore(&host, &backup, &["--storage", &place, "--name", name, "--keep-uuid"]).await.fails(6, &["already"]);
    }
    assert_eq!(host.domains(), ["web 1"]);
    let guest = host.found("web 1");
    guest.virsh("start", &[]).succeeds();
    guest.wait_for_agent();
    let xml = guest.xml();
    assert!(xml.contains("model='lsisas1068'") && xml.contains("bus='scsi'"), "{xml}");
    guest.destroy();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vsphere_machine_starts_from_the_bus_that_is_wished_for() {
    if !acceptance::kvm::has_adapter() {
        return;
    }
    let (Some(host), Some(disk)) = (KvmHost::start(), peer("kvm/boot.raw")) else { return };
    let (_stage, backup) = vsphere_backup(&disk).await;
    let place = storage(&host).to_string_lossy().into_owned();
    let wish = ["--storage", &place, "--disk-bus", "sata", "--format", "raw", "--name", "copy", "--start"];
    let told = restore(&host, &backup, &wish).await.succeeds();
    assert!(
        told.stdout.contains("copy: restored and defined as moref:") && told.stdout.contains("started"),
        "{told:#?}"
    );
    let guest = host.found("copy");
    guest.wait_for_agent();
    assert!(guest.xml().contains("bus='sata'") && !guest.xml().contains("42 1a"));
    guest.destroy();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_the_host_refuses_leaves_nothing() {
    if !acceptance::kvm::has_adapter() {
        return;
    }
    let (Some(host), Some(disk)) = (KvmHost::start(), peer("kvm/boot.raw")) else { return };
    let (_stage, backup) = vsphere_backup(&disk).await;
    let folder = storage(&host);
    let place = folder.to_string_lossy();
    // A byte of the image is not what was backed up.
    let image = backup.join("scsi0-0-0-web 1.vmdk");
    let mut bytes = fs::read(&image).unwrap();
    let at = bytes.len() - 70_000;
    bytes[at] ^= 1;
    fs::write(&image, bytes).unwrap();
    restore(&host, &backup, &["--storage", &place]).await.fails(5, &["digest"]);
    assert!(host.domains().is_empty(), "{:?}", host.domains());
    assert_eq!(acceptance::names_in(&folder), [""; 0]);
    assert_eq!(host.leftovers(), [""; 0]);
    restore(&host, &backup, &["--storage", &place, "--datastore", "x"]).await.fails(2, &["--datastore"]);
    restore(&host, &backup, &["--storage", "no-such-pool"]).await.fails(2, &["no-such-pool"]);
}

/// A guest that boots from its own disk, with another disk beside.
fn guest_spec(name: &str, disk: &Path) -> GuestSpec {
    GuestSpec {
        boot: Boot::Disk,
        disks: vec![
            DiskSpec::new("vda", "qcow2", Content::Copy(disk.to_owned()), 0),
            DiskSpec::new("vdb", "raw", Content::Ring, 16),
        ],
        ..GuestSpec::new(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_guest_boots_and_its_agent_answers() {
    if !acceptance::kvm::has_adapter() {
        return;
    }
    let (Some(host), Some(disk)) = (KvmHost::start(), peer("kvm/boot.raw")) else { return };
    let guest = host.guest(guest_spec("one", &disk));
    guest.wait_for_records(3);
    let backup = backup_of(&host, "one", &["--quiesce", "require"]).await;
    let frozen = guest.frozen_at().unwrap();
    let folder = storage(&host);
    let place = folder.to_string_lossy();
    // Beside the original, while that runs.
    restore(&host, &backup, &["--storage", &place, "--name", "two"]).await.succeeds();
    let flat = host.out("flat.raw");
    let words = ["convert", "-f", "qcow2", "-O", "raw"].map(OsStr::new);
    let file = folder.join("two-vda.qcow2");
    tool("qemu-img", &words.into_iter().chain([file.as_os_str(), flat.as_os_str()]).collect::<Vec<_>>());
    let log = judge::log_of(&flat, data_offset());
    assert_eq!((log.consistent, log.problems), (Some(frozen), Vec::new()));
    let (one, two) = (guest.xml(), host.found("two"));
    two.virsh("start", &[]).succeeds();
    two.wait_for_agent();
    let uuid = |xml: &str| xml.split("<uuid>").nth(1).unwrap()[..36].to_owned();
    assert_ne!(uuid(&one), uuid(&two.xml()));
    two.destroy();
    // In place of the original, as itself.
    guest.destroy();
    let home = guest.folder().to_owned();
    host.virsh(&["undefine", "one", "--checkpoints-metadata"]).succeeds();
    // Only the backup says that images may lie there, until the host has a pool of it.
    let place = home.to_string_lossy();
    restore(&host, &backup, &["--start"]).await.fails(2, &[&place, "--storage"]);
    host.virsh(&["pool-define-as", "guests", "dir", "--target", &place]).succeeds();
    restore(&host, &backup, &["--start"]).await.fails(6, &["exists"]);
    for name in ["vda.qcow2", "vdb.raw"] {
        fs::remove_file(home.join(name)).unwrap();
    }
    restore(&host, &backup, &["--start"]).await.succeeds();
    let again = host.found("one");
    again.wait_for_agent();
    assert_eq!(uuid(&again.xml()), uuid(&one));
    again.destroy();
    assert_eq!(host.leftovers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_libvirt_machine_goes_to_vsphere_with_every_byte() {
    if !acceptance::kvm::has_adapter() {
        return;
    }
    let (Some(host), Some(disk)) = (KvmHost::start(), peer("kvm/boot.raw")) else { return };
    let _guest = host.define(guest_spec("one", &disk));
    let backup = backup_of(&host, "one", &[]).await;
    let stage = Stage::empty(|_| {}).await;
    let told = stage.run(&["restore", &backup.to_string_lossy(), "--progress", "none"]).await.succeeds();
    assert!(told.stdout.contains("note: vda was a virtio disk and comes to scsi0:0"), "{told:#?}");
    let vm = stage.vm("one");
    let raw = stage.home.path().join("vda.raw");
    acceptance::dump(stage.world().running_disk(&vm.id, vm.disks[0].key).unwrap().as_ref(), &raw);
    is_equal(&disk, "raw", &raw);
    // And from there to libvirt again, where it boots.
    stage.backup("name:one", "again", &[]).await.succeeds();
    let place = storage(&host).to_string_lossy().into_owned();
    restore(&host, &stage.out("again"), &["--storage", &place, "--name", "three", "--start"]).await.succeeds();
    let three = host.found("three");
    three.wait_for_agent();
    three.destroy();
}

fn data_offset() -> u64 {
    let facts = fs::read(peer("kvm/boot.json").unwrap()).unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
    facts["data_offset"].as_u64().unwrap()
}
