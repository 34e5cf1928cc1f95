//! What the commands print, and that they work for somebody who has only the command line.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::process::Stdio;
use std::time::Duration;

use acceptance::{Outcome, Stage, finish, stillframe};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn names(outcome: &Outcome) -> Vec<String> {
    let text = |vm: &Value| vm["name"].as_str().unwrap().to_owned();
    json(outcome).as_array().unwrap().iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_search_specification_finds_what_it_names() {
    let stage = Stage::demo().await;
    let vm = stage.vm("Windows Server 01");
    stage.world().power_off(&stage.vm("linux-01").id).unwrap();
    let (uuid, moref) = (format!("uuid:{}", vm.uuid), format!("moref:{}", vm.id));
    let one = ["Windows Server 01"];
    let cases: [(&str, &[&str]); 9] = [
        ("any:", &["Windows Server 01", "linux-01"]),
        ("none:", &[]),
        ("powerstate:on", &one),
        ("powerstate:off", &["linux-01"]),
        ("name:Windows Server 01", &one),
        ("ipaddr:10.17.5.31", &one),
        ("ipaddr:win01.example.com", &one),
        (&uuid, &one),
        (&moref, &one),
    ];
    for (spec, expected) in cases {
        let outcome = stage.run(&["vm", "list", spec, "--json"]).await.succeeds();
        assert_eq!(names(&outcome), expected, "{spec}");
    }
    stage.run(&["vm", "list", "name:windows server 01"]).await.fails(3, &["windows server 01"]);
    let table = stage.run(&["vm", "list"]).await.succeeds().stdout;
    assert!(table.starts_with("MOREF") && table.lines().count() == 3, "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_snapshot_of_ours_is_removed_unless_it_is_said_twice() {
    let stage = Stage::demo().await;
    let vm = stage.vm("linux-01").id;
    let foreign = stage.world().create_snapshot(&vm, "before the update", "by hand", false).unwrap();
    let run = "stillframe run=6f2d3b1e-0001-4000-8000-000000000001 time=now host=elsewhere version=0";
    let ours = stage.world().create_snapshot(&vm, "_VCB-BACKUP_", run, false).unwrap();
    let listed = stage.run(&["snapshot", "list", "--json"]).await.succeeds();
    let listed = json(&listed);
    let whose: Vec<bool> = listed.as_array().unwrap().iter().map(|row| row["ours"].as_bool().unwrap()).collect();
    assert_eq!(whose, [false, true]);

    let id = foreign.to_string();
    stage.run(&["snapshot", "remove", "name:linux-01", &id]).await.fails(6, &[&id, "not ours", "--not-ours"]);
    stage.run(&["snapshot", "remove", "name:linux-01", "snapshot-999"]).await.fails(3, &["snapshot-999"]);
    stage.backup("name:linux-01", "refused", &[]).await.fails(6, &["backup snapshot already", "cleanup"]);
    // A journal elsewhere knows of it; cleanup here takes it only when it is told to look.
    stage.run(&["cleanup", "-y"]).await.succeeds();
    assert_eq!(stage.snapshots("linux-01").len(), 2);
    stage.run(&["cleanup", "-y", "--unjournaled"]).await.fails(8, &["made elsewhere", "--force"]);
    assert_eq!(stage.snapshots("linux-01").len(), 2);
    stage.run(&["cleanup", "-y", "--unjournaled", "--force"]).await.succeeds();
    assert_eq!(stage.snapshots("linux-01").iter().map(|s| s.id.clone()).collect::<Vec<_>>(), [foreign]);
    assert!(stage.world().snapshot(&ours).is_none());
    stage.run(&["snapshot", "remove", "name:linux-01", &id, "--not-ours"]).await.succeeds();
    assert!(stage.snapshots("linux-01").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_of_ones_own_serves_other_commands_and_works_without_being_served() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("lab");
    let uri = format!("lab:{}", dir.display());
    let with_home = |args: &[&str]| {
        let mut command = stillframe(args);
        command.env("STILLFRAME_STATE_DIR", home.path().join("state"));
        command
    };
    let mut serve = with_home(&["lab", "serve", "--listen", "127.0.0.1:0", "--dir"]);
    let mut server = serve.arg(&dir).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(first.contains("https://127.0.0.1:"), "{first}");
    let list = finish(with_home(&["vm", "list", "--json", "--connect", &uri])).await.succeeds();
    assert_eq!(names(&list), ["Windows Server 01", "linux-01"]);
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(server.wait().await.unwrap().success());

    let out = home.path().join("linux");
    let out = out.to_string_lossy();
    let args = ["backup", "name:linux-01", "-o", &out, "--connect", &uri, "--json", "--progress", "json"];
    let outcome = finish(with_home(&args)).await.succeeds();
    assert_eq!(json(&outcome)["manifest"]["consistency"], "quiesced");
    for line in outcome.stderr.lines().filter(|line| line.starts_with('{')) {
        assert!(serde_json::from_str::<Value>(line).unwrap()["event"].is_string(), "{line}");
    }
    assert!(outcome.stderr.lines().any(|line| line.contains("\"progress\"")), "{}", outcome.stderr);
    finish(with_home(&["verify", &out])).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_added_to_a_lab_is_backed_up_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let raw = home.path().join("disk.raw");
    std::fs::write(&raw, vec![7; 3 << 20]).unwrap();
    let (dir, out) = (home.path().join("lab"), home.path().join("out"));
    let uri = format!("lab:{}", dir.display());
    let run = |args: &[&str]| {
        let mut command = stillframe(args);
        command.env("STILLFRAME_STATE_DIR", home.path().join("state"));
        finish(command)
    };
    let (dir, raw, out) = (dir.to_string_lossy(), raw.to_string_lossy(), out.to_string_lossy());
    run(&["lab", "add-vm", "--dir", &dir, "--name", "mine", "--disk", &raw, "--off"]).await.succeeds();
    run(&["backup", "any:", "-o", &out, "--connect", &uri, "--format", "monolithicFlat"]).await.succeeds();
    let flat =
        std::fs::read_dir(&*out).unwrap().map(|e| e.unwrap().path()).find(|p| p.ends_with("scsi0-0-0-mine-flat.vmdk"));
    assert!(std::fs::read(flat.unwrap()).unwrap() == vec![7; 3 << 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_comes_from_a_file_the_environment_or_the_keyring() {
    let stage = Stage::demo().await;
    let (place, identity) = (stage.lab.address(), stage.world().identity());
    let uri = format!("vpx://{}@{place}/?thumbprint={}", identity.user, stage.lab.sha256());
    let list = || {
        let mut command = stage.command(&["vm", "list"]);
        command.env("STILLFRAME_URI", &uri);
        command
    };
    finish(list()).await.fails(2, &["no password", "--password-file"]);
    let mut command = list();
    command.env("STILLFRAME_PASSWORD", &identity.password);
    finish(command).await.succeeds();
    let mut command = list();
    command.arg("--password-file").arg(stage.home.path().join("password"));
    finish(command).await.succeeds();

    let mut login = stage.command(&["login", &uri]);
    let mut child = login.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{}\n", identity.password).as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    if output.status.code() == Some(4) {
        eprintln!("skipped: this kernel has no keyring for us");
        return;
    }
    assert!(output.status.success());
    finish(list()).await.succeeds();
    stage.run(&["logout", &uri]).await.succeeds();
    finish(list()).await.fails(2, &["no password"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_and_manual_pages_come_out_of_the_program_itself() {
    let home = tempfile::tempdir().unwrap();
    let bash = finish(stillframe(&["completions", "bash"])).await.succeeds().stdout;
    assert!(bash.contains("_stillframe") && bash.contains("cleanup"));
    let page = finish(stillframe(&["man"])).await.succeeds().stdout;
    assert!(page.contains(".TH stillframe 1") && page.contains("Exit codes"));
    finish(stillframe(&["man", &home.path().to_string_lossy()])).await.succeeds();
    assert!(home.path().join("stillframe-backup.1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_the_program_quietly() {
    let stage = Stage::demo().await;
    let mut child = stage.command(&["vm", "list"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
