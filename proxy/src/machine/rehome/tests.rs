use super::*;
use crate::error::Family;

const RUNNING: &str = include_str!("../fixtures/running-efi.xml");

fn disks() -> Vec<NewDisk> {
    let disk = |target: &str, format| NewDisk {
        target: target.into(),
        source: Source::File(format!("/new/{target}")),
        format,
    };
    vec![disk("vda", "qcow2"), disk("sdb", "raw")]
}

fn moved(text: &str, change: impl FnOnce(&mut Rehome<'_>)) -> Result<(Domain, Vec<String>)> {
    let facts = HostFacts { machines: vec!["pc-q35-10.0".into(), "q35".into()], kvm: true, emulation: true };
    let disks = disks();
    let mut wish = Rehome {
        name: "new",
        uuid: "11111111-2222-3333-4444-555555555555",
        macs: None,
        disks: &disks,
        nvram: Some("/new/vars"),
        host: &facts,
        networks: &[],
        network: None,
        has_path: &|_| true,
        may_insert: &|_| true,
    };
    change(&mut wish);
    rehome(Domain::parse(text).unwrap(), &wish)
}

#[test]
fn a_machine_at_its_new_place_has_new_files_and_nothing_of_its_last_run() {
    let (domain, notes) = moved(RUNNING, |_| {}).unwrap();
    assert_eq!(
        (domain.name().as_str(), domain.uuid().as_deref()),
        ("new", Some("11111111-2222-3333-4444-555555555555"))
    );
    let sources: Vec<_> = domain.disks().iter().map(|d| d.source.as_ref().map(ToString::to_string)).collect();
    let iso = Some("/var/lib/images/cd.iso".to_owned());
    assert_eq!(sources, [Some("/new/vda".into()), Some("/new/sdb".into()), iso]);
    assert_eq!(domain.nvram().unwrap().path.as_deref(), Some("/new/vars"));
    assert!(domain.disks().iter().all(|disk| disk.backing.is_empty() && disk.alias.is_none()));
    assert_eq!(domain.interfaces()[0].mac.as_deref(), Some("52:54:00:12:34:56"));
    assert!(notes.iter().any(|note| note.contains("sdd is not in the backup")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("qemu:commandline")), "{notes:?}");
}

#[test]
fn what_the_host_lacks_is_replaced_and_said() {
    let facts = HostFacts { machines: vec!["q35".into()], kvm: false, emulation: true };
    let text = RUNNING
        .replace("type='qemu' id", "type='kvm' id")
        .replace("cpu mode='maximum'", "cpu mode='host-passthrough'")
        .replace("<interface type='user'>", "<interface type='network'><source network='gone'/>");
    let (domain, notes) = moved(&text, |wish| {
        wish.host = Box::leak(Box::new(facts));
        wish.has_path = &|_| false;
    })
    .unwrap();
    assert_eq!((domain.kind(), domain.machine(), domain.emulator()), ("qemu", Some("q35"), None));
    assert_eq!(domain.root().get_at(&["cpu"], "mode"), Some("maximum"));
    assert_eq!((domain.loader(), domain.firmware()), (None, crate::machine::Firmware::Efi));
    let card = &domain.interfaces()[0];
    assert_eq!((card.kind.as_str(), card.link_up), ("user", false));
    assert_eq!(domain.disks()[2].source, None, "the CD-ROM is empty");
    for said in ["no KVM", "pc-q35-10.0", "emulator", "network gone", "cd.iso", "OVMF_CODE_4M.fd"] {
        assert!(notes.iter().any(|note| note.contains(said)), "{said}: {notes:#?}");
    }
}

#[test]
fn cards_go_to_the_network_that_is_there_or_wished_for() {
    let text = RUNNING.replace("<interface type='user'>", "<interface type='bridge'><source bridge='br7'/>");
    let networks = ["default".to_owned(), "lan".to_owned()];
    let lacks_bridge = |path: &str| !path.contains("br7");
    let network = |wished: Option<&str>, has_path: &dyn Fn(&str) -> bool| {
        let (domain, _) = moved(&text, |wish| {
            wish.networks = Box::leak(Box::new(networks.clone()));
            wish.network = wished.map(|name| &*Box::leak(name.to_owned().into_boxed_str()));
            wish.has_path = Box::leak(Box::new(|path: &str| !path.contains("none")));
            let _ = has_path;
            if wished.is_none() {
                wish.has_path = &|path| !path.contains("br7");
            }
        })
        .unwrap();
        let card = domain.interfaces().remove(0);
        (card.kind, card.source)
    };
    assert_eq!(network(None, &lacks_bridge), ("network".into(), Some("default".into())));
    assert_eq!(network(Some("lan"), &lacks_bridge), ("network".into(), Some("lan".into())));
    let (kept, _) = moved(&text, |_| {}).unwrap();
    assert_eq!(kept.interfaces()[0].source.as_deref(), Some("br7"));
}

#[test]
fn new_addresses_are_set_and_the_generation_is_a_new_one() {
    let macs = ["52:54:00:aa:bb:cc".to_owned()];
    let text = RUNNING.replace("<memory ", "<genid>9910db5a-17c2-4183-9bb0-8ad2f2a64d41</genid><memory ");
    let (domain, notes) = moved(&text, |wish| wish.macs = Some(Box::leak(Box::new(macs)))).unwrap();
    assert_eq!(domain.interfaces()[0].mac.as_deref(), Some("52:54:00:aa:bb:cc"));
    assert_eq!(domain.root().child("genid").unwrap().content(), "");
    assert!(notes.iter().any(|note| note.contains("generation")));
}

#[test]
fn variables_that_the_backup_lacks_start_anew() {
    let (domain, notes) = moved(RUNNING, |wish| wish.nvram = None).unwrap();
    assert_eq!(domain.nvram().and_then(|nvram| nvram.path), None);
    assert!(notes.iter().any(|note| note.contains("start anew")), "{notes:?}");
}

#[test]
fn a_disk_that_the_domain_lacks_is_data_gone_wrong() {
    let bare = "<domain><name>a</name><devices/></domain>";
    assert_eq!(moved(bare, |_| {}).unwrap_err().family(), Family::Corrupt);
}

#[test]
fn media_that_lie_anywhere_else_are_taken_out() {
    let (domain, notes) = moved(RUNNING, |wish| wish.may_insert = &|path| !path.ends_with("cd.iso")).unwrap();
    assert_eq!(domain.disks()[2].source, None);
    assert!(notes.iter().any(|note| note.contains("cd.iso") && note.contains("pools")), "{notes:?}");
    let folder = RUNNING
        .replace("<disk type='file' device='cdrom'>", "<disk type='dir' device='floppy'>")
        .replace("<source file='/var/lib/images/cd.iso'", "<source dir='/etc'");
    let (domain, _) = moved(&folder, |_| {}).unwrap();
    assert!(domain.disks()[2].source.is_none() && !domain.to_string().contains("/etc"));
}

#[test]
fn only_an_emulator_among_the_hosts_programs_is_run() {
    let with = |path: &str| moved(&RUNNING.replace("/usr/bin/qemu-system-x86_64", path), |_| {}).unwrap();
    for path in ["/usr/bin/q", "/usr/libexec/q", "/usr/lib/x/q"] {
        assert_eq!(with(path).0.emulator().as_deref(), Some(path));
    }
    for path in ["/tmp/q", "/usr/bin/../../tmp/q", "/usr/binary/q", "usr/bin/q"] {
        let (domain, notes) = with(path);
        assert_eq!(domain.emulator(), None, "{path}");
        assert!(notes.iter().any(|note| note.contains(path)), "{notes:?}");
    }
}

#[test]
fn files_of_the_host_are_looked_for_in_the_whole_domain() {
    let text = RUNNING.replace("<serial type='pty'>", "<serial type='file'>").replace("/dev/pts/0", "/h/serial");
    let (domain, _) = moved(&text, |_| {}).unwrap();
    assert!(!domain.to_string().contains("/h/serial"));
    for second in ["<devices><serial type='file'/></devices>", "<os><kernel>/k</kernel></os>"] {
        let text = RUNNING.replace("<qemu:commandline>", &format!("{second}<qemu:commandline>"));
        assert_eq!(moved(&text, |_| {}).unwrap_err().family(), Family::Corrupt, "{second}");
    }
}
