use std::ops::ControlFlow;
use std::path::Path;

use async_trait::async_trait;
use blockdev::{ByteLen, MemDisk};
use serde_json::json;
use vmdk_rs::{CreateOptions, ImageWriter, Subformat};

use super::*;
use crate::hypervisor::VmId;

const XML: &str = include_str!("../../../machine/fixtures/inactive-efi.xml");
const UUID: &str = "9910db5a-17c2-4183-9bb0-8ad2f2a64d41";
const CAPACITY: u64 = 1 << 20;

/// A host that has what a test gives it.
#[derive(Default)]
struct FakeHost {
    remote: bool,
    domains: Vec<(&'static str, &'static str)>,
    pools: Vec<(&'static str, PathBuf)>,
    tpm: PathBuf,
}

#[async_trait]
impl DomainHost for FakeHost {
    fn is_local(&self) -> bool {
        !self.remote
    }
    async fn facts(&self) -> Result<HostFacts> {
        Ok(HostFacts { machines: Vec::new(), kvm: false, emulation: true })
    }
    async fn by_name(&self, name: &str) -> Result<Option<VmId>> {
        Ok(self.domains.iter().find(|(known, _)| *known == name).map(|(_, uuid)| VmId((*uuid).into())))
    }
    async fn by_uuid(&self, uuid: &str) -> Result<Option<String>> {
        Ok(self.domains.iter().find(|(_, known)| *known == uuid).map(|(name, _)| (*name).into()))
    }
    async fn stored_xml(&self, _: &VmId) -> Result<Option<String>> {
        Ok(None)
    }
    async fn define(&self, _: &str) -> Result<VmId> {
        Err(Error::new(Family::Unsupported, "a plan defines nothing"))
    }
    async fn undefine(&self, _: &VmId) -> Result<()> {
        Ok(())
    }
    async fn start(&self, _: &VmId) -> Result<()> {
        Err(Error::new(Family::Unsupported, "a plan starts nothing"))
    }
    async fn pool_folder(&self, pool: &str) -> Result<Option<PathBuf>> {
        Ok(self.pools.iter().find(|(name, _)| *name == pool).map(|(_, folder)| folder.clone()))
    }
    async fn pool_folders(&self) -> Result<Vec<PathBuf>> {
        Ok(self.pools.iter().map(|(_, folder)| folder.clone()).collect())
    }
    async fn networks(&self) -> Result<Vec<String>> {
        Ok(vec!["lan".into()])
    }
    fn tpm_folder(&self) -> PathBuf {
        self.tpm.clone()
    }
}

/// A backup directory of a libvirt machine with vda and sdb, or of a vSphere machine.
fn backup(dir: &Path, config: (&str, &str), disks: &[&str], files: &[(&str, &str)]) -> Backup {
    let mut catalog = format!("version= esx-3.0\nconfig.vmx= \"{}\"\n", config.0);
    let mut entries = Vec::new();
    let mut saved: Vec<(&str, &str)> = files.to_vec();
    saved.push(config);
    for address in disks {
        let file = format!("{}.vmdk", address.replace(':', "-"));
        let disk = MemDisk::new(vec![7; CAPACITY as usize]);
        let options = CreateOptions::new(Subformat::MonolithicSparse, ByteLen(CAPACITY));
        let writer = ImageWriter::create(dir, &file, &options).unwrap();
        vmdk_rs::copy(&disk, &writer, &|_| ControlFlow::Continue(())).unwrap();
        writer.finish().unwrap();
        catalog.push_str(&format!("disk.{address}.filename= \"{file}\"\n"));
        let digest = crate::export::digest_of(&disk, |_| {}).unwrap();
        entries.push(json!({
            "address": address, "file": file, "files": [file], "capacity": CAPACITY, "source": "", "uuid": null,
            "change_id": null, "digest": digest, "bytes_read": 0, "bytes_stored": CAPACITY, "route": "nbd",
            "read_all_because": null,
        }));
    }
    let mut listed = Vec::new();
    for (source, text) in &saved {
        let name = if *source == "config.xml" { source } else { source.rsplit('/').next().unwrap() };
        std::fs::write(dir.join(name), text).unwrap();
        let blake3 = blake3::hash(text.as_bytes()).to_hex().to_string();
        listed.push(json!({ "name": name, "source": source, "size": text.len(), "blake3": blake3 }));
    }
    let hypervisor = if config.0 == "config.xml" { "libvirt" } else { "vsphere" };
    let manifest = json!({
        "format": 1, "stillframe": "0", "run": crate::job::RunId::new(), "started": "", "finished": "", "server": "",
        "vm": {
            "name": "x", "hypervisor": hypervisor, "uuid": null, "instance_uuid": null, "moref": "", "power": null,
            "firmware": "bios", "hardware_version": 19, "config_path": config.0,
            "place": { "datacenter": "", "folder": "", "resource_pool": "", "host": "" },
        },
        "quiesce": "try", "consistency": "quiesced", "snapshot_ms": 0, "disks": entries, "skipped": [],
        "files": listed, "warnings": [],
    });
    std::fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    std::fs::write(dir.join(crate::export::CATALOG_NAME), catalog).unwrap();
    Backup::open(dir, None).unwrap()
}

/// Folders for a backup, for storage, and for TPMs.
struct Folders(tempfile::TempDir);

impl Folders {
    fn new() -> Self {
        let folders = Self(tempfile::tempdir().unwrap());
        for name in ["backup", "storage", "old", "tpm"] {
            std::fs::create_dir(folders.path(name)).unwrap();
        }
        folders
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }
    fn backup(&self) -> Backup {
        let xml = XML.replace("/var/lib/images/top.qcow2", &self.path("old/top.qcow2").display().to_string());
        let nvram = ("/var/lib/libvirt/qemu/nvram/full & odd_VARS.fd", "VARS");
        let tpm = ("/var/lib/libvirt/swtpm/x/tpm2/tpm2-00.permall", "TPM");
        backup(&self.path("backup"), ("config.xml", &xml), &["virtio0:0", "scsi0:1"], &[nvram, tpm])
    }
    fn host(&self) -> FakeHost {
        let pools = vec![("default", self.path("storage")), ("old", self.path("old"))];
        FakeHost { pools, tpm: self.path("tpm"), ..FakeHost::default() }
    }
}

fn named(name: &str) -> Options {
    Options { name: Some(name.into()), ..Options::default() }
}

#[tokio::test]
async fn under_its_old_name_a_machine_comes_back_as_itself_to_its_old_place() {
    let folders = Folders::new();
    let plan = plan(&folders.host(), "here", &folders.backup(), &Options::default()).await.unwrap();
    assert_eq!(
        (plan.name.as_str(), plan.uuid.as_str(), plan.new_uuid, plan.new_macs),
        ("full & odd", UUID, false, false)
    );
    let places: Vec<_> = plan.disks.iter().map(|d| (d.target.as_str(), d.format, d.to.clone())).collect();
    let expected = [
        ("vda", Format::Qcow2, folders.path("old/top.qcow2")),
        ("sdb", Format::Raw, folders.path("storage/full _ odd-sdb.img")), // its old folder is not here
    ];
    assert_eq!(places, expected);
    let nvram = plan.nvram.unwrap();
    assert_eq!((nvram.from.as_str(), nvram.to), ("full & odd_VARS.fd", folders.path("old/full _ odd_VARS.fd")));
    assert_eq!(plan.tpm[0].to, folders.path("tpm").join(UUID).join("tpm2/tpm2-00.permall"));
    let domain = plan.domain.unwrap();
    assert_eq!(domain.interfaces()[0].mac.as_deref(), Some("52:54:00:12:34:56"));
    assert_eq!(domain.disks()[0].source, Some(file(&folders.path("old/top.qcow2"))));
}

#[tokio::test]
async fn under_another_name_it_is_another_machine_in_files_of_its_own() {
    let folders = Folders::new();
    let options = Options { format: Some(Format::Qcow2), ..named("copy") };
    let plan = plan(&folders.host(), "here", &folders.backup(), &options).await.unwrap();
    assert!(plan.new_uuid && plan.new_macs && plan.uuid != UUID);
    let files: Vec<_> = plan.disks.iter().map(|disk| disk.to.clone()).collect();
    assert_eq!(files, [folders.path("storage/copy-vda.qcow2"), folders.path("storage/copy-sdb.qcow2")]);
    let domain = plan.domain.unwrap();
    let mac = domain.interfaces()[0].mac.clone().unwrap();
    assert!(mac.starts_with("52:54:00:") && mac != "52:54:00:12:34:56");
    assert_eq!(domain.uuid(), Some(plan.uuid));
}

#[tokio::test]
async fn identity_is_kept_or_new_as_it_is_asked_for() {
    let folders = Folders::new();
    let options = Options { uuid: Choice::Keep, macs: Choice::Keep, ..named("copy") };
    let kept = plan(&folders.host(), "here", &folders.backup(), &options).await.unwrap();
    assert!(kept.uuid == UUID && !kept.new_macs);
    let options = Options { uuid: Choice::New, macs: Choice::New, ..Options::default() };
    let folders = Folders::new();
    let new = plan(&folders.host(), "here", &folders.backup(), &options).await.unwrap();
    assert!(new.uuid != UUID && new.new_macs && new.name == "full & odd");
}

#[tokio::test]
async fn nothing_that_is_there_is_replaced() {
    let folders = Folders::new();
    let backup = folders.backup();
    let family =
        async |host: &FakeHost, options: &Options| plan(host, "here", &backup, options).await.unwrap_err().family();
    let with = |domain| FakeHost { domains: vec![domain], ..folders.host() };
    assert_eq!(family(&with(("full & odd", "other")), &Options::default()).await, Family::Exists);
    assert_eq!(family(&with(("other", UUID)), &Options::default()).await, Family::Exists);
    assert!(plan(&with(("other", UUID)), "here", &backup, &named("copy")).await.is_ok());
    std::fs::write(folders.path("storage/copy-vda.qcow2"), "mine").unwrap();
    assert_eq!(family(&folders.host(), &named("copy")).await, Family::Exists);
    std::fs::create_dir(folders.path("tpm").join(UUID)).unwrap();
    assert_eq!(family(&folders.host(), &Options::default()).await, Family::Exists);
}

#[tokio::test]
async fn wishes_that_cannot_be_met_are_refused_with_their_own_codes() {
    let folders = Folders::new();
    let backup = folders.backup();
    let family =
        async |host: &FakeHost, options: Options| plan(host, "here", &backup, &options).await.unwrap_err().family();
    let remote = FakeHost { remote: true, ..folders.host() };
    assert_eq!(family(&remote, Options::default()).await, Family::Unsupported);
    let host = folders.host();
    for options in [
        named("a/b"),
        named(".."),
        Options { storage: Some("no-such-pool".into()), ..named("x") },
        Options { storage: Some("/no/such/folder".into()), ..named("x") },
        Options { network: Some("no-such".into()), ..named("x") },
        Options { disk_bus: Some(DiskBus::Sata), ..named("x") },
    ] {
        assert_eq!(family(&host, options.clone()).await, Family::Usage, "{options:?}");
    }
}

#[tokio::test]
async fn a_vsphere_machine_becomes_a_domain_with_the_disks_of_the_backup() {
    let folders = Folders::new();
    let vmx = "displayName = \"web\"\nuuid.bios = \"42 1a 2b 3c 4d 5e 6f 70-81 92 a3 b4 c5 d6 e7 f8\"\nscsi0.virtualDev = \"pvscsi\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"web.vmdk\"\nethernet0.present = \"TRUE\"\n";
    let backup =
        backup(&folders.path("backup"), ("[ds] web/web.vmx", vmx), &["scsi0:0"], &[("[ds] web/web.nvram", "N")]);
    let options = Options { network: Some("lan".into()), ..Options::default() };
    let plan = plan(&folders.host(), "here", &backup, &options).await.unwrap();
    assert_eq!((plan.name.as_str(), plan.uuid.as_str()), ("web", "421a2b3c-4d5e-6f70-8192-a3b4c5d6e7f8"));
    let disk = &plan.disks[0];
    assert_eq!((disk.target.as_str(), disk.to.clone()), ("sda", folders.path("storage/web-scsi0-0.qcow2")));
    assert!(plan.nvram.is_none() && plan.tpm.is_empty());
    let domain = plan.domain.unwrap();
    assert_eq!(domain.scsi_model(0).as_deref(), Some("vmpvscsi"));
    assert_eq!(domain.interfaces()[0].source.as_deref(), Some("lan"));
}

#[tokio::test]
async fn a_disk_that_the_xml_lacks_is_data_gone_wrong() {
    let folders = Folders::new();
    let bare = "<domain><name>a</name><devices/></domain>";
    let backup = backup(&folders.path("backup"), ("config.xml", bare), &["virtio0:0"], &[]);
    let error = plan(&folders.host(), "here", &backup, &Options::default()).await.unwrap_err();
    assert_eq!(error.family(), Family::Corrupt);
}

#[tokio::test]
async fn a_folder_that_only_the_backup_names_is_not_written_to() {
    let folders = Folders::new();
    let backup = folders.backup();
    let host = FakeHost { pools: vec![("default", folders.path("storage"))], ..folders.host() };
    let error = plan(&host, "here", &backup, &Options::default()).await.unwrap_err();
    assert_eq!(error.family(), Family::Usage);
    assert!(error.to_string().contains(&folders.path("old").display().to_string()), "{error}");
    // Named by the user it is as good as any, and another name needs no old place.
    let there = Options { storage: Some(folders.path("old").display().to_string()), ..Options::default() };
    let named_place = plan(&host, "here", &backup, &there).await.unwrap();
    assert_eq!(named_place.disks[0].to, folders.path("old/full _ odd-vda.qcow2"));
    assert!(plan(&host, "here", &backup, &named("copy")).await.is_ok());
}

#[tokio::test]
async fn variables_and_tpm_state_go_only_to_places_of_our_choice() {
    let folders = Folders::new();
    let elsewhere = folders.path("cron.d/job");
    let xml = XML.replace("/var/lib/libvirt/qemu/nvram/full &amp; odd_VARS.fd", &elsewhere.display().to_string());
    let nvram = elsewhere.display().to_string();
    let files = [
        (nvram.as_str(), "VARS"),
        ("/var/lib/libvirt/swtpm/x/tpm2/tpm2-00.permall", "TPM"),
        ("/var/lib/libvirt/swtpm/x/tpm2/evil.sh", "x"),
        ("/var/lib/libvirt/swtpm/x/tpm2/.lock", ""),
    ];
    let backup = backup(&folders.path("backup"), ("config.xml", &xml), &["virtio0:0", "scsi0:1"], &files);
    let plan = plan(&folders.host(), "here", &backup, &Options::default()).await.unwrap();
    let nvram = plan.nvram.unwrap();
    assert_eq!((nvram.from.as_str(), nvram.to.parent()), ("job", plan.disks[0].to.parent()));
    assert_eq!(plan.tpm.iter().map(|file| file.from.as_str()).collect::<Vec<_>>(), ["tpm2-00.permall"]);
    let notes: Vec<_> = plan.notes.iter().filter(|note| note.contains("TPM")).collect();
    assert!(notes.len() == 1 && notes[0].contains("evil.sh") && !notes[0].contains(".lock"), "{notes:?}");
}
