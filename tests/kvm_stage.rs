//! The stage of real guests, before anything is proven on it: virsh alone freezes, copies and thaws.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use acceptance::kvm::{Agent, Content, DiskSpec, Guest, GuestSpec, Hook, KvmHost, judge, wait_for};
use acceptance::tool;

/// A pull backup of all disks by virsh, into one raw file for each.
struct Pull<'a> {
    guest: &'a Guest,
    folder: PathBuf,
}

impl<'a> Pull<'a> {
    /// Begins the job; its point in time is when this returns.
    fn begin(host: &KvmHost, guest: &'a Guest, name: &str, disks: &[&str]) -> Self {
        let folder = host.scratch().join(name);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        let mut xml =
            format!("<domainbackup mode='pull'><server transport='unix' socket='{}/nbd'/><disks>", folder.display());
        for disk in disks {
            let scratch = format!("<scratch file='{}/{disk}.scratch'/>", folder.display());
            xml += &format!("<disk name='{disk}' backup='yes' type='file' exportname='{disk}'>{scratch}</disk>");
        }
        fs::write(folder.join("backup.xml"), xml + "</disks></domainbackup>").unwrap();
        guest.virsh("backup-begin", &[&folder.join("backup.xml").to_string_lossy()]).succeeds();
        Self { guest, folder }
    }

    fn copy(&self, disk: &str) -> PathBuf {
        let to = self.folder.join(format!("{disk}.raw"));
        let uri = format!("nbd+unix:///{disk}?socket={}/nbd", self.folder.display());
        tool("nbdcopy", &[uri.as_ref(), to.as_os_str()]);
        to
    }

    fn end(self) {
        self.guest.virsh("domjobabort", &[]).succeeds();
        wait_for("the job to end", || (!self.guest.has_job()).then_some(()));
        fs::remove_dir_all(self.folder).unwrap();
    }
}

fn paths(files: &[PathBuf]) -> Vec<&Path> {
    files.iter().map(PathBuf::as_path).collect()
}

#[test]
fn a_frozen_guest_is_copied_as_it_stood_at_the_freeze() {
    let Some(host) = KvmHost::start() else { return };
    let guest = host.guest(GuestSpec::new("frozen"));
    guest.wait_for_records(3);
    guest.virsh("domfsfreeze", &[]).succeeds();
    assert!(guest.is_frozen() && guest.state().quiet);
    let number = guest.frozen_at().unwrap();
    assert_eq!(guest.counter(), number);
    let pull = Pull::begin(&host, &guest, "a", &["vda", "vdb", "vdc"]);
    assert!(host.leftovers().len() >= 2, "{:?}", host.leftovers());
    guest.virsh("domfsthaw", &[]).succeeds();
    guest.wait_for_records(3);
    let [log, raw, qcow2] = ["vda", "vdb", "vdc"].map(|disk| pull.copy(disk));
    judge::assert_quiesced(&log, &[&raw, &qcow2], number);
    pull.end();
    assert!(matches!(guest.hooks()[..], [Hook::Freeze(at), Hook::Thaw(seconds)] if at == number && seconds > 0.0));
    assert_eq!(host.leftovers(), Vec::<String>::new());
    // The volume of a guest that was shut down is clean too, and holds what it counted.
    guest.shut_down();
    let raw = host.out("vda.raw");
    tool(
        "qemu-img",
        &["convert".as_ref(), "-O".as_ref(), "raw".as_ref(), guest.disk("vda").as_os_str(), raw.as_os_str()],
    );
    let log = judge::log_of(&raw, 0);
    assert!(log.clean && log.problems.is_empty() && log.last >= number + 3, "{log:?}");
}

#[test]
fn a_guest_that_is_not_frozen_is_copied_at_one_moment_of_all_disks() {
    let Some(host) = KvmHost::start() else { return };
    let guest = host.guest(GuestSpec::new("running").agent(Agent::Absent).rate(50));
    let refused = guest.virsh("domfsfreeze", &[]);
    assert!(refused.code != 0 && refused.stderr.contains("QEMU guest agent is not configured"), "{refused:?}");
    guest.wait_for_records(20);
    let pull = Pull::begin(&host, &guest, "a", &["vda", "vdb", "vdc"]);
    guest.wait_for_records(20);
    let files = ["vda", "vdb", "vdc"].map(|disk| pull.copy(disk));
    let last = judge::assert_crash_consistent(&files[0], &paths(&files[1..]));
    assert!(last >= 20 && last < guest.counter(), "{last}");
    pull.end();
}

#[test]
fn hooks_fail_and_hang_as_they_are_told_and_agents_die_and_come_again() {
    let Some(host) = KvmHost::start() else { return };
    let small = vec![DiskSpec::new("vda", "qcow2", Content::Ext4, 64)];
    let guest = host.guest(GuestSpec::new("hooks").disks(small).hook("fail"));
    let failed = guest.virsh("domfsfreeze", &[]);
    assert!(failed.code != 0 && failed.stderr.contains("fsfreeze hook has failed with status 3"), "{failed:?}");
    assert!(!guest.is_frozen() && !guest.state().quiet);
    guest.set_hook("hang");
    let limited = guest.virsh("guest-agent-timeout", &["--timeout", "2"]);
    limited.succeeds();
    let hung = guest.virsh("domfsfreeze", &[]);
    assert!(hung.code != 0, "{hung:?}");
    assert!(!guest.agent_answers());
    // The agent goes on where it was: it freezes now, although nobody waits for that any more.
    guest.set_hook("ok");
    wait_for("the late freeze", || guest.is_frozen().then_some(()));
    let before = guest.state().agent;
    guest.kill_agent();
    wait_for("another agent", || (![0, before].contains(&guest.state().agent) && guest.agent_answers()).then_some(()));
    assert!(guest.is_frozen(), "the file systems stay frozen, and the new agent knows");
    guest.virsh("domfsthaw", &[]).succeeds();
    guest.wait_for_records(2);
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[test]
fn a_disk_with_a_loader_of_its_own_boots_behind_a_controller_that_is_not_virtio() {
    let Some(host) = KvmHost::start() else { return };
    let guest = host.guest(host.self_booting("alone", "sda", "sata"));
    guest.wait_for_records(2);
    guest.virsh("domfsfreeze", &[]).succeeds();
    let number = guest.frozen_at().unwrap();
    let pull = Pull::begin(&host, &guest, "a", &["sda"]);
    guest.virsh("domfsthaw", &[]).succeeds();
    let facts = fs::read(host.peer_file("boot.json")).unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
    let log = judge::log_of(&pull.copy("sda"), facts["data_offset"].as_u64().unwrap());
    assert!(log.clean && log.problems.is_empty(), "{log:?}");
    assert_eq!((log.last, log.consistent), (number, Some(number)));
    pull.end();
}

#[test]
fn two_hosts_know_nothing_of_each_other_and_a_killed_libvirtd_leaves_its_guests_alone() {
    let Some(one) = KvmHost::start_with_tls() else { return };
    let Some(other) = KvmHost::start() else { return };
    let small = || vec![DiskSpec::new("vda", "qcow2", Content::Ext4, 64)];
    let guest = one.guest(GuestSpec::new("same-name").disks(small()));
    assert!(other.domains().is_empty());
    other.define(GuestSpec::new("same-name").disks(small()));
    let listed = tool("virsh", &["-c".as_ref(), one.tls_uri().as_ref(), "list".as_ref(), "--name".as_ref()]);
    assert_eq!(listed.trim(), "same-name");
    let before = guest.counter();
    one.kill_libvirtd();
    assert_ne!(one.virsh(&["list"]).code, 0);
    one.start_libvirtd();
    assert_eq!(guest.power(), "running");
    assert!(guest.counter() >= before);
    guest.kill_qemu();
    assert_eq!(guest.power(), "shut off");
    guest.start();
    assert!(guest.counter() >= before);
    let folders = [one.folder().to_owned(), other.folder().to_owned()];
    let qemu = guest.qemu_pid();
    drop((one, other));
    assert!(folders.iter().all(|folder| !folder.exists()));
    assert!(!Path::new("/proc").join(qemu.to_string()).join("exe").exists(), "QEMU goes on without its host");
}
