use super::*;
use crate::machine::DriveAddress;
use crate::machine::disks::Source;

const RUNNING: &str = include_str!("../fixtures/running-efi.xml");
const INACTIVE: &str = include_str!("../fixtures/inactive-efi.xml");

fn running() -> Domain {
    Domain::parse(RUNNING).unwrap()
}

fn with(devices: &str) -> Domain {
    Domain::parse(&format!("<domain type='kvm'><name>a</name><devices>{devices}</devices></domain>")).unwrap()
}

#[test]
fn a_running_machine_says_what_it_is_made_of() {
    let domain = running();
    assert_eq!((domain.name().as_str(), domain.kind(), domain.id()), ("full & odd", "qemu", Some(1)));
    assert_eq!(domain.uuid().as_deref(), Some("9910db5a-17c2-4183-9bb0-8ad2f2a64d41"));
    assert_eq!((domain.machine(), domain.arch()), (Some("pc-q35-10.0"), Some("x86_64")));
    assert_eq!((domain.memory(), domain.cpus()), (Some(256 << 20), Some(2)));
    assert_eq!((domain.title().as_deref(), domain.description().as_deref()), (Some("A title"), Some("Two\nlines")));
    assert_eq!((domain.firmware(), domain.secure_boot()), (Firmware::Efi, false));
    let nvram = domain.nvram().unwrap();
    assert_eq!(nvram.path.as_deref(), Some("/var/lib/libvirt/qemu/nvram/full & odd_VARS.fd"));
    assert_eq!(nvram.format.as_deref(), Some("raw"));
    assert_eq!(domain.loader().unwrap().path.as_deref(), Some("/usr/share/OVMF/OVMF_CODE_4M.fd"));
    let tpm = domain.tpm().unwrap();
    assert_eq!((tpm.backend.as_str(), tpm.version.as_deref(), tpm.secret), ("emulator", Some("2.0"), None));
    assert!(domain.has_agent() && !domain.agent_connected());
    let answered = RUNNING.replace("state='disconnected'", "state='connected'");
    assert!(Domain::parse(&answered).unwrap().agent_connected());
}

#[test]
fn disks_say_their_places_and_chains() {
    let disks = running().disks();
    let names: Vec<_> = disks.iter().map(|d| (d.target.as_str(), d.bus.as_str(), d.device.as_str())).collect();
    let expected =
        [("vda", "virtio", "disk"), ("sdb", "scsi", "disk"), ("sdc", "sata", "cdrom"), ("sdd", "sata", "disk")];
    assert_eq!(names, expected);
    let (vda, sdb, sdc, sdd) = (&disks[0], &disks[1], &disks[2], &disks[3]);
    assert_eq!(vda.source, Some(Source::File("/var/lib/images/top.qcow2".into())));
    let qcow2 = |name: &str| (Source::File(format!("/var/lib/images/{name}.qcow2")), Some("qcow2".to_owned()));
    assert_eq!(vda.backing, [qcow2("mid"), qcow2("base")]);
    assert_eq!((vda.format.as_deref(), vda.boot_order, vda.index), (Some("qcow2"), Some(1), Some(4)));
    assert_eq!((vda.serial.as_deref(), vda.alias.as_deref(), vda.drive), (Some("S1"), Some("virtio-disk0"), None));
    assert_eq!(sdb.drive, Some(DriveAddress { controller: 0, bus: 0, target: 0, unit: 1 }));
    assert!(sdc.read_only && !sdc.is_disk() && sdd.shareable && sdd.is_disk());
    assert!(Domain::parse(INACTIVE).unwrap().disks()[0].backing.is_empty(), "a stored domain says no chain");
}

#[test]
fn the_stored_form_comes_out_as_it_came_in() {
    let read = Domain::parse(INACTIVE).unwrap();
    let written = read.to_string();
    assert_eq!(Domain::parse(&written).unwrap(), read);
    assert_eq!(written.replace('"', "'").trim(), INACTIVE.replace('"', "'").trim());
}

#[test]
fn a_running_machine_without_its_runtime_is_the_stored_one() {
    let mut domain = running();
    domain.drop_runtime();
    let text = domain.to_string();
    for gone in
        ["alias", "<seclabel", "'qemu' id='1'", "qcow2' index=", "backingStore", "/dev/pts", "state=", "partition"]
    {
        assert!(!text.contains(gone), "{gone}: {text}");
    }
    assert!(text.contains("<qemu:env name='X' value='1'/>") && text.contains("<app:z/>"));
    assert!(text.contains("port='-1' autoport='yes'"));
}

#[test]
fn names_given_by_people_stay() {
    let mut domain = with(
        "<disk><alias name='ua-mine'/><target dev='vda'/></disk><disk><alias name='virtio-disk1'/><target dev='vdb'/></disk>",
    );
    domain.drop_runtime();
    let aliases: Vec<_> = domain.disks().into_iter().map(|disk| disk.alias).collect();
    assert_eq!(aliases, [Some("ua-mine".to_owned()), None]);
}

#[test]
fn identity_and_places_can_be_changed() {
    let mut domain = running();
    domain.set_name("new <name>");
    domain.set_uuid(Some("11111111-2222-3333-4444-555555555555"));
    domain.set_mac(0, Some("52:54:00:00:00:01"));
    domain.set_network(0, "default");
    domain.set_disk("vda", &Source::File("/new/a.qcow2".into()), "qcow2").unwrap();
    domain.set_disk("sdb", &Source::Block("/dev/x".into()), "raw").unwrap();
    domain.eject("sdc").unwrap();
    domain.remove_disk("sdd").unwrap();
    domain.set_nvram(Some("/new/vars.fd"));
    let domain = Domain::parse(&domain.to_string()).unwrap();
    assert_eq!(domain.name(), "new <name>");
    assert_eq!(domain.uuid().as_deref(), Some("11111111-2222-3333-4444-555555555555"));
    let card = &domain.interfaces()[0];
    assert_eq!((card.mac.as_deref(), card.kind.as_str()), (Some("52:54:00:00:00:01"), "network"));
    assert_eq!((card.source.as_deref(), card.model.as_deref()), (Some("default"), Some("virtio")));
    let disks = domain.disks();
    assert_eq!(disks[0].source, Some(Source::File("/new/a.qcow2".into())));
    assert!(disks[0].backing.is_empty() && disks[0].serial.as_deref() == Some("S1"));
    assert_eq!(
        (disks[1].source.clone(), disks[1].format.as_deref()),
        (Some(Source::Block("/dev/x".into())), Some("raw"))
    );
    assert_eq!((disks[2].source.clone(), disks.len()), (None, 3));
    let nvram = domain.nvram().unwrap();
    assert_eq!(nvram.path.as_deref(), Some("/new/vars.fd"));
    assert_eq!(nvram.template.as_deref(), Some("/usr/share/OVMF/OVMF_VARS_4M.fd"));
    assert!(domain.to_string().contains("discard='unmap'"), "options of the driver stay");
}

#[test]
fn edits_of_what_is_not_there_are_errors() {
    let mut domain = running();
    let nowhere = Source::File("/x".into());
    assert_eq!(domain.set_disk("vdz", &nowhere, "raw").unwrap_err().family(), Family::Corrupt);
    assert_eq!(domain.remove_disk("vdz").unwrap_err().family(), Family::Corrupt);
    let other = Source::Other("nvme".into());
    assert_eq!(domain.set_disk("vda", &other, "raw").unwrap_err().family(), Family::Unsupported);
}

#[test]
fn a_mark_in_the_metadata_says_which_run_restored_it() {
    for text in [INACTIVE.to_owned(), with("").to_string()] {
        let mut domain = Domain::parse(&text).unwrap();
        let before = domain.clone();
        assert_eq!(domain.mark(), None);
        domain.set_mark("r1");
        domain.set_mark("r2");
        let mut read = Domain::parse(&domain.to_string()).unwrap();
        assert_eq!(read.mark().as_deref(), Some("r2"));
        read.remove_mark();
        assert_eq!(read, before);
    }
}

#[test]
fn firmware_is_known_by_wish_or_by_its_code() {
    let os = |os: &str| Domain::parse(&format!("<domain><name>a</name><os>{os}</os></domain>")).unwrap();
    assert_eq!(os("<type>hvm</type>").firmware(), Firmware::Bios);
    assert_eq!(os("<loader type='rom'>/usr/share/seabios/bios.bin</loader>").firmware(), Firmware::Bios);
    assert_eq!(os("<loader type='rom'>/usr/share/ovmf/OVMF.fd</loader>").firmware(), Firmware::Efi);
    assert_eq!(os("<loader readonly='yes' secure='yes' type='pflash'>/x</loader>").firmware(), Firmware::Efi);
    assert!(os("<loader readonly='yes' secure='yes' type='pflash'>/x</loader>").secure_boot());
    let newer = os("<nvram type='file'><source file='/a/vars.fd'/></nvram>");
    assert_eq!(newer.nvram().unwrap().path.as_deref(), Some("/a/vars.fd"));
}

#[test]
fn what_is_no_domain_is_data_gone_wrong() {
    let twice = "<domain><name>a</name><devices><disk><target dev='vda'/></disk><disk><target dev='vda'/></disk></devices></domain>";
    for bad in ["<network><name>a</name></network>", "<domain/>", "<domain><name/></domain>", twice, "x"] {
        assert_eq!(Domain::parse(bad).unwrap_err().family(), Family::Corrupt, "{bad}");
    }
}

#[test]
fn sizes_are_read_in_every_unit_and_never_overflow() {
    assert_eq!(bytes("1", None), Some(1024));
    assert_eq!((bytes("2", Some("GiB")), bytes("2", Some("GB"))), (Some(2 << 30), Some(2_000_000_000)));
    assert_eq!((bytes("99999999999999", Some("T")), bytes("1", Some("x")), bytes("-1", None)), (None, None, None));
}

#[test]
fn a_new_uuid_is_also_the_one_in_the_firmware_tables() {
    let text = "<domain><name>a</name><uuid>9910db5a-17c2-4183-9bb0-8ad2f2a64d41</uuid><sysinfo type='smbios'><system><entry name='uuid'>9910db5a-17c2-4183-9bb0-8ad2f2a64d41</entry><entry name='serial'>x</entry></system></sysinfo></domain>";
    let mut domain = Domain::parse(text).unwrap();
    domain.set_uuid(Some("11111111-2222-3333-4444-555555555555"));
    assert_eq!(domain.to_string().matches("11111111-2222").count(), 2);
    domain.set_uuid(None);
    assert!(!domain.to_string().contains("uuid") && domain.to_string().contains("serial"));
}
