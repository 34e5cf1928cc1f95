//! What people type wrong, what is not there, what is full: each has one clear message and its exit code, and leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use acceptance::{Outcome, Stage, finish, names_in, program, stillframe, vm_of};
use lab::face::{FaultKind, Happening};
use lab::world::{DiskSource, DiskSpec, VmSpec};

const VM: &str = "name:linux-01";

/// Demands that nothing was touched: no snapshot was asked for, and nothing is left.
#[track_caller]
fn untouched(stage: &Stage) {
    assert_eq!(stage.calls("CreateSnapshot_Task"), 0, "a snapshot was taken");
    assert_eq!(stage.leftovers(), [""; 0]);
    assert_eq!(stage.out_names(), [""; 0]);
}

/// A backup over another connection, without anything in the environment.
async fn backup_over(stage: &Stage, uri: &str, more: &[&str]) -> Outcome {
    let out = stage.out("x");
    let mut command = stillframe(&[&["backup", VM, "-o", &out.to_string_lossy(), "--progress", "none"], more].concat());
    command.env("STILLFRAME_STATE_DIR", stage.home.path().join("state")).arg("--connect").arg(uri);
    finish(command).await
}

fn user(stage: &Stage) -> String {
    stage.world().identity().user
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_tried_once_and_told() {
    let stage = Stage::demo().await;
    fs::write(stage.home.path().join("password"), "not it").unwrap();
    let outcome = stage.backup(VM, "x", &[]).await;
    let outcome = outcome.fails(1, &["cannot log in to 127.0.0.1:", &user(&stage), "check the user and the password"]);
    assert!(!outcome.stderr.contains("not it"), "{outcome:?}");
    let refused = |what: &Happening| matches!(what, Happening::LoginRefused { .. });
    assert_eq!(stage.lab.events().iter().filter(|event| refused(&event.what)).count(), 1, "accounts lock");
    untouched(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_reached_is_named_with_its_port() {
    let stage = Stage::demo().await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(); // closed again at once
    let password = stage.home.path().join("password");
    let password = password.to_string_lossy();
    let flags = ["--password-file", &password];
    let uri = format!("vpx://somebody@127.0.0.1:{port}/");
    let outcome = backup_over(&stage, &uri, &flags).await;
    let place = format!("127.0.0.1:{port}");
    let outcome = outcome.fails(1, &[&place, "refused", "check the host name, the port and the firewall"]);
    assert_eq!(outcome.message().matches("cannot connect to").count(), 1, "said twice: {}", outcome.message());
    let outcome = backup_over(&stage, "vpx://somebody@no-such-host.invalid/", &flags).await;
    outcome.fails(1, &["no-such-host.invalid", "does not resolve", "check the host name"]);
    untouched(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_is_refused_with_what_was_expected_and_what_was_found() {
    let stage = Stage::demo().await;
    let password = stage.home.path().join("password");
    let password = password.to_string_lossy();
    let uri = format!("vpx://{}@{}/", user(&stage), stage.lab.address());
    let wrong = ["AA"; 32].join(":");
    let found = [stage.lab.sha256(), stage.lab.sha1()];
    let pinned = backup_over(&stage, &uri, &["--password-file", &password, "--thumbprint", &wrong]).await;
    pinned.fails(1, &["is not trusted", "expected", &wrong, "found", &found[0], &found[1], "--thumbprint"]);
    let unpinned = backup_over(&stage, &uri, &["--password-file", &password]).await;
    unpinned.fails(1, &["is not trusted", "expected", "found", &found[0], "--thumbprint", "--ca-file"]);
    let ca = stage.home.path().join("ca.pem");
    for (content, words) in [(None, "ca.pem"), (Some("no certificate"), "ca.pem")] {
        content.into_iter().for_each(|content| fs::write(&ca, content).unwrap());
        let flags = ["--password-file", &password, "--ca-file", &ca.to_string_lossy()];
        backup_over(&stage, &uri, &flags).await.fails(1, &["no certificate authorities", words]);
    }
    let insecure = backup_over(&stage, &uri, &["--password-file", &password, "--insecure"]).await.succeeds();
    assert_eq!(insecure.stderr.matches("NOT checked").count(), 1, "{insecure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_to_log_in_and_no_password_are_usage_errors_that_name_the_ways() {
    let stage = Stage::demo().await;
    let pin = stage.lab.sha256();
    let address = stage.lab.address();
    let anonymous = backup_over(&stage, &format!("vpx://{address}/"), &["--thumbprint", &pin]).await;
    anonymous.fails(2, &["nobody is named", "vpx://USER@HOST/"]);
    let uri = format!("vpx://{}@{address}/", user(&stage));
    backup_over(&stage, &uri, &["--thumbprint", &pin]).await.fails(2, &["no password for", "--password-file"]);
    let missing = ["--thumbprint", &pin, "--password-file", "/nonexistent/password"];
    backup_over(&stage, &uri, &missing).await.fails(2, &["/nonexistent/password"]);
    let empty = stage.home.path().join("empty");
    fs::write(&empty, "").unwrap();
    let empty = ["--thumbprint", &pin, "--password-file", &empty.to_string_lossy()];
    backup_over(&stage, &uri, &empty).await.fails(2, &["is empty"]);
    let out = stage.out("x");
    let nowhere = finish(stillframe(&["backup", VM, "-o", &out.to_string_lossy()])).await;
    nowhere.fails(2, &["no connection is named", "--connect", "STILLFRAME_URI"]);
    untouched(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_uri_that_makes_no_sense_is_refused_and_a_password_in_it_is_not_repeated() {
    let stage = Stage::empty(|_| {}).await;
    let nobody = "qemu+unix:///system?socket=/nonexistent/socket";
    let adapter = match acceptance::kvm::has_adapter() {
        true => (nobody, 1, "/nonexistent/socket"),
        false => (nobody, 4, "--features libvirt"),
    };
    for (uri, code, words) in [
        ("vpx://root:Gehe1m@vc/", 2, "holds a password"),
        ("root:Gehe1m@vc", 2, "no connection URI"),
        ("vpx:root:Gehe1m@vc", 2, "no connection URI"),
        ("vpx://root:x/Gehe1m@vc/", 2, ""),
        ("vpx://root:Gehe1m@vc:port/", 2, "holds a password"),
        ("https://root:Gehe1m@vc/sdk", 2, "unknown connection scheme"),
        ("vpx://vc:port/", 2, "port"),
        ("vpx:///", 2, "no host"),
        ("vpx://vc/dc1", 2, "path"),
        ("vpx://vc/?thumbprint=xyz", 2, "not a digest"),
        ("vpx://vc/?tumbprint=AA", 2, "unknown option"),
        ("vpx://a%zz@vc/", 2, "hex"),
        ("lab:", 2, "names no directory"),
        ("lab:/nonexistent/lab", 1, "/nonexistent/lab"),
        ("qemu:///nonsense", 2, "neither /system nor /session"),
        ("qemu+tls://root:Gehe1m@kvm1/system", 2, "holds a password"),
        adapter,
    ] {
        let outcome = backup_over(&stage, uri, &[]).await.fails(code, &[words]);
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(!said.contains("Gehe1m"), "{uri}: the password is repeated: {said}");
    }
    untouched(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_not_there_or_not_the_only_one_is_told_with_what_there_is() {
    let raws = tempfile::tempdir().unwrap();
    let raw = raws.path().join("disk.raw");
    fs::write(&raw, vec![1; 1 << 20]).unwrap();
    let stage = Stage::empty(move |world| {
        for name in ["twin 1", "twin 2"] {
            let twin = VmSpec { ip: Some("10.1.1.1".into()), power_on: true, tools: true, ..vm_of(name, &raw) };
            world.add_vm(&twin).unwrap();
        }
    })
    .await;
    for spec in ["name:nobody", "name:TWIN 1", "moref:vm-99999", "uuid:00000000-0000-0000-0000-000000000000"] {
        stage.backup(spec, "x", &[]).await.fails(3, &["no VM matches", spec, "stillframe vm list"]);
    }
    let two = stage.backup("ipaddr:10.1.1.1", "x", &[]).await;
    let ids = ["twin 1", "twin 2"].map(|name| format!("moref:{} ({name})", stage.vm(name).id));
    two.fails(3, &["matches 2 VMs", &ids[0], &ids[1], "moref: or uuid:"]);
    stage.backup("any:", "x", &[]).await.fails(3, &["matches 2 VMs"]);
    stage.backup("none:", "x", &[]).await.fails(3, &["no VM matches none:"]);
    stage.backup("twin 1", "x", &[]).await.fails(2, &["no search specification", "name:"]);
    stage.backup("dns:twin", "x", &[]).await.fails(2, &["dns:"]);
    untouched(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_without_a_disk_and_a_disk_that_is_not_there_are_refused_before_anything_is_done() {
    let stage = Stage::empty(|world| {
        let empty = VmSpec { disks: Vec::new(), ..vm_of("diskless", Path::new("")) };
        world.add_vm(&empty).unwrap();
        let source = DiskSource::Empty(1 << 20);
        let one = VmSpec { disks: vec![DiskSpec { source }], ..vm_of("one", Path::new("")) };
        world.add_vm(&one).unwrap();
        let source = DiskSource::Empty(3 << 40);
        let huge = VmSpec { disks: vec![DiskSpec { source }], ..vm_of("huge", Path::new("")) };
        drop(world.add_vm(&huge)); // a host without room for it has no such VM
    })
    .await;
    stage.backup("name:diskless", "x", &[]).await.fails(4, &["diskless has no disk"]);
    let unknown = stage.backup("name:one", "x", &["--exclude-disk", "scsi9:9"]).await;
    unknown.fails(2, &["one has no disk scsi9:9 to exclude", "it has scsi0:0"]);
    let all = stage.backup("name:one", "x", &["--exclude-disk", "scsi0:0"]).await;
    all.fails(4, &["one has no disk to back up"]);
    if stage.world().vms().iter().any(|vm| vm.name == "huge") {
        let huge = stage.backup("name:huge", "x", &["--format", "monolithicSparse"]).await;
        huge.fails(4, &["scsi0:0 of huge", "--format monolithicFlat"]);
    }
    untouched(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_that_are_not_known_or_out_of_range_are_usage_errors_with_the_usage() {
    let stage = Stage::demo().await;
    for (flags, word) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["--format", "vhd"], "monolithicSparse"),
        (&["--quiesce", "maybe"], "require"),
        (&["--streams", "0"], "1..=16"),
        (&["--streams", "17"], "1..=16"),
        (&["--retries=-1"], "--retries"),
        (&["--snapshot-timeout", "0"], "1..=86400"),
        (&["--progress", "dots"], "json"),
        (&["stray"], "stray"),
    ] {
        let out = stage.out("x");
        let outcome = stage.run(&[&["backup", VM, "-o", &out.to_string_lossy()], flags].concat()).await;
        assert_eq!(outcome.code, 2, "{flags:?}: {outcome:?}");
        assert!(outcome.stderr.contains(word) && outcome.stderr.starts_with("error: "), "{outcome:?}");
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
    }
    for args in [&["backup"][..], &["backup", VM], &["restore"], &["no-such-command"], &["snapshot", "remove", VM]] {
        let outcome = stage.run(args).await;
        assert_eq!(outcome.code, 2, "{args:?}: {outcome:?}");
    }
    let outcome = stage.backup(VM, "x", &["--transport", "pigeon"]).await;
    outcome.fails(2, &["\"pigeon\" is no transport", "nbdssl"]);
    for transport in ["san", "hotadd", "cos"] {
        let outcome = stage.backup(VM, "x", &["--transport", transport]).await;
        let outcome = outcome.fails(4, &[transport, "not there yet", "https"]);
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
    untouched(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_exists_has_no_parent_or_no_name_is_left_as_it_is() {
    let stage = Stage::demo().await;
    let outside = stage.home.path().join("targets");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(outside.join("folder")).unwrap();
    fs::write(outside.join("folder/file"), "theirs").unwrap();
    fs::write(outside.join("file"), "theirs").unwrap();
    std::os::unix::fs::symlink("/nonexistent", outside.join("dangling")).unwrap();
    let before = names_in(&outside);
    for (target, code, words) in [
        ("folder", 6, &["folder exists", "another directory"][..]),
        ("folder/", 6, &["folder exists"]),
        ("file", 6, &["file exists"]),
        ("dangling", 6, &["dangling exists"]),
        ("missing/x", 2, &["missing cannot be used", "make it first"]),
        ("file/x", 2, &["file cannot be used"]),
        ("..", 2, &["no name for a directory"]),
    ] {
        let target = outside.join(target);
        let outcome = stage.run(&["backup", VM, "-o", &target.to_string_lossy()]).await;
        outcome.fails(code, words);
    }
    stage.run(&["backup", VM, "-o", "/"]).await.fails(2, &["no name for a directory"]);
    let long = "n".repeat(300);
    stage.backup(VM, &long, &[]).await.fails(2, &["cannot be used", "too long"]);
    assert_eq!(names_in(&outside), before);
    assert_eq!(fs::read_to_string(outside.join("folder/file")).unwrap(), "theirs");
    untouched(&stage);
}

/// A small file system of its own, gone with the value.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None` after a printed reason where none can be made.
    fn mount(at: PathBuf, bytes: u64) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let size = format!("size={bytes},mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at));
        }
        eprintln!("skipped: no tmpfs can be mounted here");
        None
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.0).output());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_gets_full_at_any_point_is_emptied_again_and_the_snapshot_is_gone() {
    if program("mount").is_none() {
        return;
    }
    let stage = Stage::demo().await;
    stage.backup(VM, "whole", &[]).await.succeeds();
    let whole: u64 = fs::read_dir(stage.out("whole"))
        .unwrap()
        .map(|entry| std::os::unix::fs::MetadataExt::blocks(&entry.unwrap().metadata().unwrap()) * 512)
        .sum();
    let page = 4096;
    for (round, room) in [page, 16 * page, whole / 2, whole - 3 * page].into_iter().enumerate() {
        let at = stage.home.path().join(format!("small {round}"));
        let Some(small) = Tmpfs::mount(at, room) else { return };
        let target = small.0.join("vm");
        let outcome = stage.run(&["backup", VM, "-o", &target.to_string_lossy(), "--progress", "none"]).await;
        outcome.fails(1, &[&small.0.to_string_lossy(), "No space left", "Hint"]);
        assert_eq!(names_in(&small.0), [""; 0], "{room} bytes");
        assert_eq!(stage.leftovers(), [""; 0], "{room} bytes");
    }
}

/// The program under a limit on the size of each file, in blocks of 512 bytes.
fn limited(stage: &Stage, prefix: &str, blocks: u64, args: &[&str]) -> tokio::process::Command {
    let of_stage = stage.command(&[]);
    let mut command = tokio::process::Command::new("sh");
    let line = format!("{prefix} ulimit -f {blocks} && exec \"$@\"");
    command.args(["-c", &line, "sh"]).arg(acceptance::binary()).args(args).kill_on_drop(true);
    for (name, value) in of_stage.as_std().get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_file_sizes_is_an_error_like_a_full_disk_and_no_sudden_death() {
    let stage = Stage::demo().await;
    let target = stage.out("x");
    let target = target.to_string_lossy();
    // The second way the signal is ignored from outside, as some job systems do.
    for prefix in ["", "trap '' XFSZ;"] {
        let args = ["backup", VM, "-o", &target, "--progress", "none"];
        let outcome = finish(limited(&stage, prefix, 512, &args)).await;
        outcome.fails(1, &["scsi0:0 of linux-01", "too large", "Hint"]);
        assert_eq!((stage.leftovers(), stage.out_names()), (Vec::new(), Vec::new()));
    }
    assert!(stage.calls("CreateSnapshot_Task") > 0, "it never came to the disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_stops_the_run_before_the_act() {
    let stage = Stage::demo().await;
    if program("mount").is_none() {
        return;
    }
    let at = stage.home.path().join("state");
    let Some(state) = Tmpfs::mount(at, 16 << 10) else { return };
    fs::create_dir(state.0.join("journal")).unwrap();
    fs::write(state.0.join("filler"), vec![1; 16 << 10]).unwrap();
    let outcome = stage.backup(VM, "x", &[]).await;
    outcome.fails(1, &["journal", "No space left"]);
    fs::remove_file(state.0.join("filler")).unwrap();
    assert_eq!(stage.journals(), [""; 0]);
    untouched(&stage);
    stage.backup(VM, "x", &[]).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_cannot_be_made_is_named() {
    let stage = Stage::demo().await;
    fs::write(stage.home.path().join("state"), "a file").unwrap();
    let outcome = stage.backup(VM, "x", &[]).await;
    outcome.fails(1, &["cannot make the state directory", &stage.home.path().join("state").to_string_lossy()]);
    fs::remove_file(stage.home.path().join("state")).unwrap();
    untouched(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_damaged_is_named_and_our_snapshot_is_found_without_it() {
    let stage = Stage::demo().await;
    stage.run(&["cleanup", "-y"]).await.succeeds();
    stage.die_with_snapshot("linux-01", "x").await;
    let name = stage.journals().remove(0);
    let path = stage.home.path().join("state/journal").join(&name);
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replacen("{\"entry\":\"intent\"", "{\"entry\":", 1)).unwrap();
    stage.run(&["cleanup", "-y"]).await.fails(5, &[&name, "cannot be understood", "--unjournaled"]);
    assert_eq!(stage.ours("linux-01").len(), 1, "a damaged journal was believed");
    fs::rename(&path, stage.home.path().join("damaged.jsonl")).unwrap();
    stage.run(&["cleanup", "-y", "--unjournaled", "--connect", &stage.uri()]).await.succeeds();
    assert!(stage.ours("linux-01").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_that_cannot_ask_says_which_flag_answers() {
    let stage = Stage::demo().await;
    stage.run(&["cleanup"]).await.succeeds();
    stage.die_with_snapshot("linux-01", "x").await;
    stage.run(&["cleanup"]).await.fails(2, &["no terminal", "-y"]);
    assert_eq!(stage.ours("linux-01").len(), 1);
    stage.run(&["cleanup", "-y"]).await.succeeds();
    assert_eq!(stage.leftovers(), [""; 0]);
}

/// A VM that is off, with somebody's snapshot or without, and the text of its disk's descriptor.
async fn with_descriptor(snapshot: bool) -> (Stage, PathBuf, String) {
    let raws = tempfile::tempdir().unwrap();
    let raw = raws.path().join("disk.raw");
    fs::write(&raw, vec![1; 4 << 20]).unwrap();
    let stage = Stage::empty(move |world| drop(world.add_vm(&vm_of("off", &raw)).unwrap())).await;
    let vm = stage.vm("off");
    if snapshot {
        stage.world().create_snapshot(&vm.id, "before the update", "by hand", false).unwrap();
    }
    let path = stage.on_disk(&vm.disks[0].file);
    let good = fs::read_to_string(&path).unwrap();
    assert!(good.contains("off-flat.vmdk"), "{good}");
    (stage, path, good)
}

/// What is done to a descriptor, and the exit code.
fn damaged(good: &str, too_large: i32) -> Vec<(&'static str, String, i32)> {
    let flat = "off-flat.vmdk";
    vec![
        ("empty", String::new(), 5),
        ("binary", "\u{0}\u{1}\u{2}KDMV\u{0}".repeat(50), 5),
        ("html", "<html><body>503</body></html>".to_owned(), 5),
        ("cut", good[..good.len() / 3].to_owned(), 5),
        ("leaves the folder", good.replace(flat, "../../../../etc/passwd"), 5),
        ("absolute", good.replace(flat, "/etc/passwd"), 5),
        ("without its data", good.replace(flat, "other-flat.vmdk"), 1),
        ("another size", good.replace("RW 8192", "RW 4096"), 5),
        ("too large", "#".repeat(2 << 20), too_large),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_descriptor_that_is_damaged_or_hostile_ends_the_run_and_the_snapshot_goes() {
    let (stage, path, good) = with_descriptor(false).await;
    for (what, text, code) in damaged(&good, 1) {
        fs::write(&path, text).unwrap();
        // The host needs it again to merge the disk, so it is mended when the run is about to remove its snapshot.
        stage.lab.faults().arm(FaultKind::SnapshotRemoveHangs { seconds: 2 });
        let before = stage.calls("RemoveSnapshot_Task");
        let run = stage.backup("name:off", "x", &[]);
        let mend = async {
            while stage.calls("RemoveSnapshot_Task") == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            fs::write(&path, &good).unwrap();
        };
        let (outcome, ()) =
            tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(run, mend) }).await.unwrap();
        println!("{what}: {}", outcome.message());
        outcome.fails(code, &["scsi0:0 of off", "[datastore1] off/off.vmdk"]);
        assert_eq!((stage.leftovers(), stage.out_names()), (Vec::new(), Vec::new()), "{what}");
    }
    stage.backup("name:off", "x", &[]).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_descriptor_at_the_end_of_a_chain_ends_the_run_and_the_snapshot_goes() {
    let (stage, base, good) = with_descriptor(true).await;
    for (what, text, code) in damaged(&good, 5) {
        fs::write(&base, text).unwrap();
        let outcome = stage.backup("name:off", "x", &[]).await;
        println!("{what}: {}", outcome.message());
        outcome.fails(code, &["scsi0:0 of off", "[datastore1] off/off-000001.vmdk"]);
        assert_eq!((stage.leftovers(), stage.out_names()), (Vec::new(), Vec::new()), "{what}");
    }
    fs::remove_file(&base).unwrap();
    stage.backup("name:off", "x", &[]).await.fails(1, &["scsi0:0 of off", "off.vmdk"]);
    fs::write(&base, good).unwrap();
    stage.backup("name:off", "x", &[]).await.succeeds();
    let vmx = stage.on_disk(&stage.vm("off").vmx);
    fs::remove_file(vmx).unwrap();
    stage.backup("name:off", "y", &[]).await.fails(1, &["off.vmx", "404"]);
    assert_eq!(stage.leftovers(), [""; 0]);
}
