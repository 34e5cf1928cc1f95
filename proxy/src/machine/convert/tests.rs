use super::*;
use crate::error::Family;
use crate::machine::{Domain, Firmware, Source};

const VMX: &str = r#".encoding = "UTF-8"
displayName = "web 1"
guestOS = "windows2019srv-64"
memSize = "2048"
numvcpus = "4"
cpuid.coresPerSocket = "2"
annotation = "the web server"
uuid.bios = "42 1a 2b 3c 4d 5e 6f 70-81 92 a3 b4 c5 d6 e7 f8"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsilogic"
scsi1.present = "TRUE"
scsi1.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "a.vmdk"
scsi1:3.present = "TRUE"
scsi1:3.fileName = "b.vmdk"
sata0:1.present = "TRUE"
sata0:1.fileName = "c.vmdk"
ide0:1.present = "TRUE"
ide0:1.fileName = "d.vmdk"
nvme0:0.present = "TRUE"
nvme0:0.fileName = "e.vmdk"
scsi0:5.present = "TRUE"
scsi0:5.fileName = "left-out.vmdk"
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-image"
ide1:0.fileName = "/iso/x.iso"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "generated"
ethernet0.generatedAddress = "00:0C:29:01:02:03"
ethernet1.present = "TRUE"
ethernet1.virtualDev = "vlance"
ethernet1.addressType = "static"
ethernet1.address = "00:50:56:00:00:09"
bios.hddOrder = "sata0:1,scsi0:0"
sound.present = "TRUE"
sound0.present = "TRUE"
"#;

fn host(kvm: bool) -> HostFacts {
    HostFacts { machines: Vec::new(), kvm, emulation: true }
}

fn disk(address: &str) -> VmxDisk {
    VmxDisk { address: address.into(), source: Source::File(format!("/images/{address}")), format: "qcow2" }
}

fn converted(vmx: &str, disks: &[VmxDisk], bus: Option<DiskBus>) -> Result<(Domain, Vec<String>), crate::Error> {
    let wish = FromVmx {
        name: "new",
        uuid: Some("421a2b3c-4d5e-6f70-8192-a3b4c5d6e7f8"),
        keep_macs: true,
        disks,
        network: Network::Unplugged,
        disk_bus: bus,
        host: &host(true),
    };
    domain_of_vmx(vmx, &wish)
}

fn all() -> Vec<VmxDisk> {
    ["scsi0:0", "scsi1:3", "sata0:1", "ide0:1", "nvme0:0"].map(disk).to_vec()
}

#[test]
fn each_controller_becomes_one_that_the_same_driver_knows() {
    let (domain, notes) = converted(VMX, &all(), None).unwrap();
    let places: Vec<String> = domain
        .disks()
        .iter()
        .filter(|disk| disk.is_disk())
        .map(|disk| {
            let drive = disk.drive.unwrap();
            let source = disk.source.as_ref().unwrap();
            format!(
                "{source} {} {} {}:{}:{}:{}",
                disk.target, disk.bus, drive.controller, drive.bus, drive.target, drive.unit
            )
        })
        .collect();
    let expected = [
        "/images/scsi0:0 sda scsi 0:0:0:0",
        "/images/scsi1:3 sdb scsi 1:0:0:0",
        "/images/ide0:1 hda ide 0:0:0:0",
        "/images/sata0:1 sdc sata 0:0:0:0",
        "/images/nvme0:0 sdd sata 0:0:0:1",
    ];
    let mut sorted = places.clone();
    sorted.sort_by_key(|place| expected.iter().position(|e| e == place));
    assert_eq!(sorted, expected);
    assert_eq!(
        (domain.scsi_model(0).as_deref(), domain.scsi_model(1).as_deref()),
        (Some("lsisas1068"), Some("vmpvscsi"))
    );
    let boot: Vec<_> = domain.disks().into_iter().filter(|disk| disk.boot_order.is_some()).map(|d| d.target).collect();
    assert_eq!(boot, ["sdc"], "the first of bios.hddOrder that the backup holds");
    let said = |text: &str| assert!(notes.iter().any(|note| note.contains(text)), "{text}: {notes:#?}");
    said("scsi0:0 comes to target 0 of a lsisas1068 controller");
    said("nvme0:0 comes to port 1 of an AHCI controller");
    said("scsi0:5 is not in the backup");
    said("the CD-ROM drive ide1:0 comes back empty");
    said("ethernet0 was plugged into VM Network and is plugged into nothing");
    said("its model vlance becomes pcnet");
}

#[test]
fn only_sas_disks_have_world_wide_names_each_its_own() {
    let (domain, _) = converted(VMX, &[disk("scsi0:0"), disk("scsi1:3"), disk("sata0:1")], None).unwrap();
    let devices = domain.root().child("devices").unwrap();
    let names: Vec<_> = devices.named("disk").filter_map(|disk| disk.text_of("wwn")).collect();
    assert_eq!(names.len(), 1, "{domain}");
    assert!(names[0].len() == 16 && names[0].starts_with('3'), "{names:?}");
    let vmx = VMX.replace("scsi1:3", "scsi0:3");
    let (domain, _) = converted(&vmx, &[disk("scsi0:0"), disk("scsi0:3")], None).unwrap();
    let devices = domain.root().child("devices").unwrap();
    let names: Vec<_> = devices.named("disk").filter_map(|disk| disk.text_of("wwn")).collect();
    assert!(names.len() == 2 && names[0] != names[1]);
}

#[test]
fn size_clock_and_cards_are_as_they_were() {
    let (domain, _) = converted(VMX, &all(), None).unwrap();
    assert_eq!((domain.memory(), domain.cpus(), domain.kind()), (Some(2 << 30), Some(4), "kvm"));
    assert_eq!((domain.name().as_str(), domain.machine()), ("new", Some("pc")));
    assert_eq!(domain.description().as_deref(), Some("the web server"));
    assert_eq!(domain.firmware(), Firmware::Bios);
    assert_eq!(domain.root().get_at(&["clock"], "offset"), Some("localtime"), "Windows counts in local time");
    assert_eq!(domain.root().get_at(&["cpu", "topology"], "cores"), Some("2"));
    let cards = domain.interfaces();
    let seen: Vec<_> = cards.iter().map(|c| (c.model.as_deref(), c.mac.as_deref(), c.link_up)).collect();
    let expected =
        [(Some("vmxnet3"), Some("00:0c:29:01:02:03"), false), (Some("pcnet"), Some("00:50:56:00:00:09"), false)];
    assert_eq!(seen, expected);
    assert!(domain.has_agent());
}

#[test]
fn efi_brings_q35_and_no_ide() {
    let vmx = format!("{VMX}firmware = \"efi\"\nuefi.secureBoot.enabled = \"TRUE\"\nvtpm.present = \"TRUE\"\n");
    let (domain, notes) = converted(&vmx, &all(), None).unwrap();
    assert_eq!((domain.firmware(), domain.machine(), domain.secure_boot()), (Firmware::Efi, Some("q35"), true));
    assert!(domain.disks().iter().all(|disk| disk.bus != "ide"));
    assert_eq!(domain.tpm().unwrap().backend, "emulator");
    assert!(notes.iter().any(|note| note.contains("no boot entries")) && notes.iter().any(|note| note.contains("TPM")));
}

#[test]
fn a_wished_bus_takes_all_disks() {
    for (bus, name) in [(DiskBus::Virtio, "virtio"), (DiskBus::Scsi, "scsi"), (DiskBus::Sata, "sata")] {
        let (domain, notes) = converted(VMX, &all(), Some(bus)).unwrap();
        assert!(domain.disks().iter().filter(|disk| disk.is_disk()).all(|disk| disk.bus == name), "{name}");
        assert!(notes.iter().any(|note| note.contains("scsi0:0 comes to")), "{notes:?}");
    }
    let (domain, _) = converted(VMX, &all(), Some(DiskBus::Scsi)).unwrap();
    assert_eq!(domain.scsi_model(0).as_deref(), Some("virtio-scsi"));
    assert_eq!(converted(VMX, &all(), Some(DiskBus::Ide)).unwrap_err().family(), Family::Unsupported);
}

#[test]
fn more_disks_than_a_controller_has_room_for_go_to_the_next_one() {
    let mut vmx = String::new();
    let mut disks = Vec::new();
    for unit in (0..16).filter(|unit| *unit != 7) {
        vmx.push_str(&format!("scsi0:{unit}.present = \"TRUE\"\nscsi0:{unit}.fileName = \"{unit}.vmdk\"\n"));
        disks.push(disk(&format!("scsi0:{unit}")));
    }
    let (domain, _) = converted(&vmx, &disks, None).unwrap();
    let mut seen: Vec<_> = domain.disks().iter().map(|disk| disk.drive.unwrap()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 15, "no two share a place");
    assert!(seen.iter().all(|drive| drive.controller < 2 && drive.target < 8 && drive.unit == 0));
    assert_eq!(domain.scsi_model(1).as_deref(), Some("lsisas1068"));
}

#[test]
fn a_disk_that_is_plugged_in_nowhere_is_data_gone_wrong() {
    assert_eq!(converted(VMX, &[disk("scsi0:9")], None).unwrap_err().family(), Family::Corrupt);
}

#[test]
fn values_out_of_all_bounds_are_cut() {
    let (domain, _) = converted("memSize = \"99999999999999\"\nnumvcpus = \"0\"\n", &[], None).unwrap();
    assert_eq!((domain.memory(), domain.cpus()), (Some(24 << 40), Some(1)));
}

#[test]
fn what_the_host_can_do_is_read_from_its_capabilities() {
    let text = "<capabilities><guest><os_type>hvm</os_type><arch name='x86_64'><machine canonical='pc-q35-10.0' maxCpus='288'>q35</machine><machine>pc-i440fx-9.2</machine><domain type='qemu'/></arch></guest><guest><arch name='aarch64'><machine>virt</machine><domain type='kvm'/></arch></guest></capabilities>";
    let facts = HostFacts::of_capabilities(text).unwrap();
    assert!(facts.has_machine("q35") && facts.has_machine("pc-q35-10.0") && !facts.has_machine("virt"));
    assert_eq!((facts.kvm, facts.emulation, facts.kind()), (false, true, "qemu"));
    assert!(HostFacts::default().has_machine("anything"));
}

const RUNNING: &str = include_str!("../fixtures/inactive-efi.xml");

fn back(domain: &Domain, new_identity: bool, disks: &[(&str, &str)]) -> Result<MadeVmx, crate::Error> {
    let disks: Vec<_> = disks.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    vmx_of_domain(domain, &ToVmx { name: "back", new_identity, disks: &disks })
}

#[test]
fn a_domain_becomes_a_vsphere_machine() {
    let domain = Domain::parse(RUNNING).unwrap();
    let made = back(&domain, false, &[("virtio0:0", "vda"), ("scsi0:1", "sdb"), ("sata0:3", "sdd")]).unwrap();
    let pairs = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let expected = [pairs("virtio0:0", "scsi0:0"), pairs("scsi0:1", "scsi0:1"), pairs("sata0:3", "sata0:0")];
    assert_eq!(made.addresses, expected);
    let is = |key: &str, value: &str| {
        assert_eq!(crate::machine::vmx::value(&made.text, key).as_deref(), Some(value), "{key}: {}", made.text);
    };
    is("displayname", "back");
    is("memsize", "256");
    is("numvcpus", "2");
    is("firmware", "efi");
    is("guestos", "other-64");
    is("scsi0.virtualdev", "lsisas1068");
    is("scsi0:0.present", "TRUE");
    is("sata0.present", "TRUE");
    is("ethernet0.virtualdev", "e1000e");
    is("ethernet0.address", "52:54:00:12:34:56");
    is("uuid.bios", "99 10 db 5a 17 c2 41 83-9b b0 8a d2 f2 a6 4d 41");
    is("bios.hddorder", "scsi0:0,sata0:0,scsi0:1");
    let said = |text: &str| assert!(made.notes.iter().any(|note| note.contains(text)), "{text}: {:#?}", made.notes);
    said("vda was a virtio disk and comes to scsi0:0 of an lsisas1068 controller");
    said("the TPM goes");
    said("the cdrom sdc goes");
    said("its model virtio becomes e1000e");
    let copy = back(&domain, true, &[("virtio0:0", "vda")]).unwrap();
    assert_eq!(crate::machine::vmx::value(&copy.text, "uuid.bios"), None);
    assert_eq!(crate::machine::vmx::value(&copy.text, "ethernet0.addresstype").as_deref(), Some("generated"));
}

#[test]
fn the_way_there_and_back_plugs_every_disk_in_once() {
    let disks: Vec<String> = (0..20).map(|n| crate::machine::target_name("vd", n)).collect();
    let xml: String = disks.iter().map(|d| format!("<disk><target dev='{d}' bus='virtio'/></disk>")).collect();
    let domain = Domain::parse(&format!("<domain><name>a</name><devices>{xml}</devices></domain>")).unwrap();
    let addresses: Vec<_> = (0..20).map(|n| (format!("virtio0:{n}"), disks[n].clone())).collect();
    let made = vmx_of_domain(&domain, &ToVmx { name: "b", new_identity: true, disks: &addresses }).unwrap();
    let mut new: Vec<_> = made.addresses.iter().map(|(_, new)| new.clone()).collect();
    assert!(!new.contains(&"scsi0:7".to_owned()), "unit 7 is the controller's own");
    let text =
        new.iter().fold(made.text.clone(), |text, device| format!("{text}{device}.fileName = \"{device}.vmdk\"\n"));
    let disks: Vec<_> = new.iter().map(|address| disk(address)).collect();
    let (again, _) = converted(&text, &disks, Some(DiskBus::Virtio)).unwrap();
    assert_eq!(again.disks().len(), 20);
    new.sort();
    new.dedup();
    assert_eq!(new.len(), 20);
}

#[test]
fn a_domain_without_a_disk_of_the_backup_is_data_gone_wrong() {
    let domain = Domain::parse(RUNNING).unwrap();
    assert_eq!(back(&domain, false, &[("virtio0:7", "vdh")]).unwrap_err().family(), Family::Corrupt);
}
