//! Real machines under libvirt: quiesced or not, over every route, whatever the guest's hooks do, and whoever is killed.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use acceptance::kvm::{Agent, Content, DiskSpec, Guest, GuestSpec, Hook, KvmHost, has_adapter, judge, wait_for};
use acceptance::{Outcome, tool};

/// Options of ours behind a URI of libvirt's.
fn with(uri: &str, options: &str) -> String {
    let joint = if uri.contains('?') { '&' } else { '?' };
    format!("{uri}{joint}{options}")
}

/// The host's URI with its folder for scratch files.
fn uri(host: &KvmHost) -> String {
    with(&host.uri(), &format!("scratch={}", host.scratch().display()))
}

fn command(host: &KvmHost, args: &[&str]) -> tokio::process::Command {
    let mut command = host.stillframe(args);
    command.env("STILLFRAME_URI", uri(host)).stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn outcome(mut command: tokio::process::Command) -> Outcome {
    let output = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Outcome { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Backs a guest up into `out/NAME`.
async fn backup(host: &KvmHost, guest: &Guest, name: &str, more: &[&str]) -> Outcome {
    let (spec, to) = (format!("name:{}", guest.name()), host.out(name));
    let args = [&["backup", &spec, "-o", to.to_str().unwrap(), "--json"], more].concat();
    outcome(command(host, &args)).await
}

fn manifest(host: &KvmHost, name: &str) -> serde_json::Value {
    let manifest = fs::read(host.out(name).join("manifest.json")).unwrap();
    serde_json::from_slice(&manifest).unwrap()
}

/// The images of a backup as raw files, by qemu-img.
fn raw(host: &KvmHost, name: &str) -> Vec<PathBuf> {
    let disks = manifest(host, name)["disks"].as_array().unwrap().clone();
    let convert = |disk: &serde_json::Value| {
        let image = host.out(name).join(disk["file"].as_str().unwrap());
        let raw = host.out(&format!("{name}-{}.raw", disk["address"].as_str().unwrap()));
        let args = ["convert", "-f", "vmdk", "-O", "raw"].map(std::ffi::OsStr::new);
        tool("qemu-img", &[&args[..], &[image.as_os_str(), raw.as_os_str()]].concat());
        raw
    };
    disks.iter().map(convert).collect()
}

fn assert_quiesced(host: &KvmHost, guest: &Guest, name: &str) {
    assert_eq!(manifest(host, name)["consistency"], "quiesced");
    let files = raw(host, name);
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    judge::assert_quiesced(paths[0], &paths[1..], guest.frozen_at().unwrap());
}

fn assert_crash_consistent(host: &KvmHost, name: &str) {
    assert_eq!(manifest(host, name)["consistency"], "crash-consistent");
    let files = raw(host, name);
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    judge::assert_crash_consistent(paths[0], &paths[1..]);
}

fn assert_nothing_left(host: &KvmHost) {
    assert_eq!(host.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_running_guest_is_frozen_read_and_thawed_over_a_socket_in_clear_and_over_tls() {
    if !has_adapter() {
        return;
    }
    let Some(host) = KvmHost::start_with_tls() else { return };
    let guest = host.guest(GuestSpec::new("g"));
    let scratch = format!("scratch={}", host.scratch().display());
    let remote = with(&host.tls_uri(), &scratch);
    let secured = with(&remote, &format!("nbd-tls={}", host.pki("nbd-client").display()));
    let local = uri(&host);
    let ways = [("unix", &local, "auto", "nbd"), ("tcp", &remote, "nbd", "nbd"), ("tls", &secured, "auto", "nbdssl")];
    for (name, uri, transport, route) in ways {
        guest.wait_for_records(2);
        let options = ["--quiesce", "require", "--transport", transport, "-c", uri];
        backup(&host, &guest, name, &options).await.succeeds();
        assert_quiesced(&host, &guest, name);
        assert!(manifest(&host, name)["disks"].as_array().unwrap().iter().all(|disk| disk["route"] == route));
        assert_nothing_left(&host);
    }
    assert_eq!(guest.hooks().len(), 6, "{:?}", guest.hooks());
    // A stranger's certificate, and none.
    for (certificates, words) in [("nbd-stranger", "certificate"), ("nbd-nameless", "certificate")] {
        let uri = with(&remote, &format!("nbd-tls={}", host.pki(certificates).display()));
        let refused = backup(&host, &guest, "x", &["-c", &uri]).await;
        refused.fails(1, &[words]);
        assert_nothing_left(&host);
        assert!(!host.out("x").exists());
    }
}

#[tokio::test]
async fn without_an_agent_a_backup_is_crash_consistent_or_refused_before_anything_is_made() {
    if !has_adapter() {
        return;
    }
    let Some(host) = KvmHost::start() else { return };
    let guest = host.guest(GuestSpec::new("mute").agent(Agent::Absent));
    guest.wait_for_records(2);
    backup(&host, &guest, "x", &["--quiesce", "require"]).await.fails(1, &["no channel"]);
    assert_nothing_left(&host);
    assert!(guest.checkpoints().is_empty() && !host.out("x").exists());
    for (name, quiesce) in [("try", "try"), ("none", "none")] {
        backup(&host, &guest, name, &["--quiesce", quiesce]).await.succeeds();
        assert_crash_consistent(&host, name);
        assert_nothing_left(&host);
    }
    // Paused it can be read, and not asked.
    guest.virsh("suspend", &[]).succeeds();
    backup(&host, &guest, "x", &["--quiesce", "require"]).await.fails(1, &["paused"]);
    backup(&host, &guest, "paused", &[]).await.succeeds();
    assert_eq!(guest.power(), "paused");
    assert_crash_consistent(&host, "paused");
    assert_nothing_left(&host);
}

#[tokio::test]
async fn hooks_that_fail_or_hang_stop_a_backup_that_requires_them_and_the_guest_goes_on() {
    if !has_adapter() {
        return;
    }
    let Some(host) = KvmHost::start() else { return };
    let guest = host.guest(GuestSpec::new("g").hook("fail"));
    backup(&host, &guest, "x", &["--quiesce", "require"]).await.fails(1, &["freeze hook"]);
    assert_nothing_left(&host);
    backup(&host, &guest, "failed", &[]).await.succeeds();
    assert_crash_consistent(&host, "failed");
    guest.wait_for_records(2);
    // A hook that hangs for longer than the limit: the guest freezes when it ends, and is thawed then.
    guest.set_hook("hang:12");
    let began = Instant::now();
    backup(&host, &guest, "x", &["--quiesce", "require", "--snapshot-timeout", "3"]).await.fails(1, &["in time"]);
    assert!(began.elapsed().as_secs() < 100, "{:?}", began.elapsed());
    guest.set_hook("ok");
    let _ = outcome(command(&host, &["cleanup", "-y"])).await;
    wait_for("the guest to thaw", || (!guest.is_frozen()).then_some(()));
    guest.wait_for_records(2);
    let _ = outcome(command(&host, &["cleanup", "-y"])).await.succeeds();
    assert_nothing_left(&host);
    backup(&host, &guest, "after", &["--quiesce", "require"]).await.succeeds();
    assert_quiesced(&host, &guest, "after");
}

#[tokio::test]
async fn what_a_killed_backup_leaves_is_undone_whether_it_died_in_the_freeze_or_while_copying() {
    if !has_adapter() {
        return;
    }
    let Some(host) = KvmHost::start() else { return };
    let guest = host.guest(GuestSpec::new("g"));
    let to = host.out("killed");
    let args = ["backup", "name:g", "-o", to.to_str().unwrap(), "--bandwidth", "200K"];
    let mut copying = command(&host, &args).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the job to begin", || guest.has_job().then_some(()));
    copying.start_kill().unwrap();
    copying.wait().await.unwrap();
    assert!(guest.has_job());
    outcome(command(&host, &["cleanup", "-y"])).await.succeeds();
    assert_nothing_left(&host);
    assert!(guest.checkpoints().is_empty(), "{:?}", guest.checkpoints());
    // In the middle of the freeze: the hook takes its time.
    guest.set_hook("hang:4");
    let mut freezing = command(&host, &args).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the hook to be called", || matches!(guest.hooks().last(), Some(Hook::Hangs)).then_some(()));
    freezing.start_kill().unwrap();
    freezing.wait().await.unwrap();
    guest.set_hook("ok");
    outcome(command(&host, &["cleanup", "-y"])).await.succeeds();
    assert_nothing_left(&host);
    backup(&host, &guest, "next", &["--quiesce", "require"]).await.succeeds();
    assert_quiesced(&host, &guest, "next");
    assert_nothing_left(&host);
}

#[tokio::test]
async fn a_stopped_machine_is_read_under_locks_that_keep_it_from_starting() {
    if !has_adapter() {
        return;
    }
    let Some(host) = KvmHost::start() else { return };
    let guest = host.guest(GuestSpec::new("g"));
    guest.wait_for_records(3);
    guest.shut_down();
    let to = host.out("slow");
    let args = ["backup", "name:g", "-o", to.to_str().unwrap(), "--bandwidth", "300K"];
    let mut reading = command(&host, &args).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the images to be locked", || {
        let locked = fs::read_dir(host.scratch()).unwrap().flatten().any(|run| run.path().join("vdc").exists());
        locked.then_some(())
    });
    let start = guest.virsh("start", &[]);
    assert!(start.code != 0 && start.stderr.contains("lock"), "{start:?}");
    reading.start_kill().unwrap();
    reading.wait().await.unwrap();
    // The locks end with us; what else is left is undone by the next backup.
    backup(&host, &guest, "off", &[]).await.succeeds();
    assert_eq!(manifest(&host, "off")["consistency"], "powered-off");
    let files = raw(&host, "off");
    let log = judge::log_of(&files[0], 0);
    assert!(log.clean && log.problems.is_empty() && log.last >= 3, "{log:?}");
    assert_nothing_left(&host);
    guest.start();
    guest.wait_for_records(1);
}

#[tokio::test]
async fn a_job_of_somebody_else_is_named_at_once_and_left_alone() {
    if !has_adapter() {
        return;
    }
    let Some(host) = KvmHost::start() else { return };
    let guest = host.guest(GuestSpec::new("g"));
    let xml = host.out("foreign.xml");
    let scratch = host.scratch();
    let text = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{0}/foreign'/><disks><disk name='vda' backup='yes' \
         type='file'><scratch file='{0}/foreign.scratch'/></disk></disks></domainbackup>",
        scratch.display()
    );
    fs::write(&xml, text).unwrap();
    guest.virsh("backup-begin", &[xml.to_str().unwrap()]).succeeds();
    let began = Instant::now();
    backup(&host, &guest, "x", &[]).await.fails(6, &["another backup"]);
    assert!(began.elapsed().as_secs() < 25, "{:?}", began.elapsed());
    assert!(guest.has_job());
    guest.virsh("domjobabort", &[]).succeeds();
    wait_for("the job to end", || (!guest.has_job()).then_some(()));
    let _ = fs::remove_file(scratch.join("foreign"));
    backup(&host, &guest, "mine", &[]).await.succeeds();
    assert_nothing_left(&host);
}

#[tokio::test]
async fn only_what_changed_since_a_checkpoint_is_read_and_a_lost_bitmap_makes_a_full() {
    if !has_adapter() {
        return;
    }
    let Some(host) = KvmHost::start() else { return };
    let guest = host.guest(GuestSpec::new("g"));
    backup(&host, &guest, "full", &[]).await.succeeds();
    let mut last = "full".to_owned();
    for n in 1..=3 {
        guest.wait_for_records(2);
        let name = format!("inc{n}");
        let since = host.out(&last);
        backup(&host, &guest, &name, &["--quiesce", "require", "--since", since.to_str().unwrap()]).await.succeeds();
        let disks = manifest(&host, &name)["disks"].clone();
        let of = |at: usize, key: &str| disks[at][key].clone();
        assert!(of(0, "bytes_read").as_u64().unwrap() < 64 << 20, "{disks}");
        assert!(of(0, "read_all_because").is_null() && of(2, "read_all_because").is_null(), "{disks}");
        assert!(of(1, "read_all_because").as_str().unwrap().contains("qcow2"), "{disks}");
        assert_quiesced(&host, &guest, &name);
        assert_nothing_left(&host);
        last = name;
    }
    assert_eq!(guest.checkpoints().len(), 4);
    // QEMU dies, and with it the bitmaps that it had not stored.
    guest.kill_qemu();
    guest.start();
    let since = host.out(&last);
    let after = backup(&host, &guest, "after", &["--since", since.to_str().unwrap()]).await.succeeds();
    let disks = manifest(&host, "after")["disks"].clone();
    assert!(disks[0]["read_all_because"].as_str().unwrap().contains("bitmap"), "{disks} {after:?}");
    assert_quiesced(&host, &guest, "after");
    // Old checkpoints go, the newest stay.
    backup(&host, &guest, "last", &["--keep-points", "1"]).await.succeeds();
    assert_eq!(guest.checkpoints().len(), 1);
    assert_nothing_left(&host);
}

#[tokio::test]
async fn disks_are_read_directly_under_overlays_that_are_gone_afterwards() {
    if !has_adapter() {
        return;
    }
    let Some(host) = KvmHost::start() else { return };
    let guest = host.guest(GuestSpec::new("g").disk(DiskSpec::new("vdd", "raw", Content::Blank, 16)));
    backup(&host, &guest, "direct", &["--quiesce", "require", "--transport", "file", "--exclude-disk", "vdd"])
        .await
        .succeeds();
    assert_quiesced(&host, &guest, "direct");
    assert_nothing_left(&host);
    guest.wait_for_records(2);
    // Killed with the overlays in place; and QEMU dies too.
    let to = host.out("killed");
    let args = ["backup", "name:g", "-o", to.to_str().unwrap(), "--bandwidth", "200K", "--transport", "san"];
    let mut copying = command(&host, &args).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the overlays", || (!guest.snapshots().is_empty()).then_some(()));
    guest.wait_for_records(2);
    copying.start_kill().unwrap();
    copying.wait().await.unwrap();
    outcome(command(&host, &["cleanup", "-y"])).await.succeeds();
    assert_nothing_left(&host);
    guest.wait_for_records(2);
    backup(&host, &guest, "next", &["--quiesce", "require"]).await.succeeds();
    let files = raw(&host, "next");
    judge::assert_quiesced(&files[0], &[&files[1], &files[2]], guest.frozen_at().unwrap());
}
