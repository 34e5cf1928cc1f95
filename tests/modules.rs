//! The integration modules as backup products call them: their scripts, run against a lab.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use acceptance::{Outcome, Stage, binary, finish, program, vm_of};
use lab::face::{Fault, FaultKind, Happening};
use lab::world::VmSpec;
use tokio::process::Command;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../integration-modules").join(name)
}

/// A script of a module, with settings for the stage in the environment.
fn module(stage: &Stage, name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(script(name));
    let set = |key: &str| format!("STILLFRAME_GENERIC_{key}");
    command
        .args(args)
        .env_remove("STILLFRAME_URI")
        .env("STILLFRAME_PROGRAM", binary())
        .env("STILLFRAME_STATE_DIR", stage.home.path().join("state"))
        .env(set("BACKUPROOT"), stage.out(""))
        .env(set("HOST"), stage.lab.address().to_string())
        .env(set("USERNAME"), &stage.world().identity().user)
        .env(set("PASSWORD_FILE"), stage.home.path().join("password"))
        .env(set("THUMBPRINT"), stage.lab.sha256())
        .env(set("VM_LOOKUP_METHOD"), "name")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn pre(stage: &Stage, args: &[&str]) -> Outcome {
    finish(module(stage, "generic/pre-command", args)).await
}

async fn post(stage: &Stage, args: &[&str]) -> Outcome {
    finish(module(stage, "generic/post-command", args)).await
}

async fn verify(directory: &Path) -> Outcome {
    finish(acceptance::stillframe(&["verify", &directory.to_string_lossy(), "--progress", "none"])).await
}

/// A script in the stage's home that stands for a program.
fn stand_in(stage: &Stage, name: &str, text: &str) -> PathBuf {
    let path = stage.home.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Waits until `there` is true; the runner's limit ends a wait that is in vain.
async fn until(there: impl Fn() -> bool) {
    while !there() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn terminate(child: &tokio::process::Child) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pre_gives_a_complete_image_and_post_takes_it_away_and_may_come_again() {
    let stage = Stage::demo().await;
    let image = stage.out("linux-01-fullVM");
    for call in [&["linux-01", "fullvm"][..], &["/opt/a framework/", "linux-01", "FullVM"]] {
        let made = pre(&stage, call).await.succeeds();
        assert_eq!(made.stdout, format!("{}\n", image.display()), "standard output is for the directory alone");
        assert!(stage.snapshots("linux-01").is_empty());
        verify(&image).await.succeeds();
        for after in [&["/opt/a framework/", "linux-01"][..], &["linux-01"], &["linux-01", "fullvm"]] {
            post(&stage, after).await.succeeds();
            assert!(stage.out_names().is_empty(), "{:?}", stage.out_names());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pre_mounts_the_files_of_a_guest_and_post_takes_mount_and_snapshot_away() {
    if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "mounting takes root and /dev/fuse");
        eprintln!("skipped: mounting takes root and /dev/fuse");
        return;
    }
    let stage = Stage::demo().await;
    let vm = "Windows Server 01";
    let tree = stage.out(vm);
    for call in [&[vm, "file"][..], &["/opt/a framework/", vm], &[vm], &["/opt/fw", vm, "FILE"]] {
        let made = pre(&stage, call).await.succeeds();
        assert_eq!(made.stdout, format!("{}\n", tree.display()), "standard output is for the directory alone");
        assert!(tree.join("letters/C/Users").is_dir() && tree.join("digits/1").is_dir());
        assert_eq!(stage.snapshots(vm).len(), 1);
        pre(&stage, call).await.fails(6, &["exists"]);
        for after in [&["/opt/fw", vm][..], &[vm, "file"], &[vm]] {
            post(&stage, after).await.succeeds();
            assert!(stage.out_names().is_empty() && stage.snapshots(vm).is_empty());
        }
    }
    // What a job that broke off left is replaced, if that is allowed.
    pre(&stage, &[vm]).await.succeeds();
    let mut again = module(&stage, "generic/pre-command", &[vm]);
    again.env("STILLFRAME_GENERIC_PREEXISTING_MOUNTPOINT", "delete");
    finish(again).await.succeeds();
    assert_eq!(stage.snapshots(vm).len(), 1);
    post(&stage, &[vm, "file"]).await.succeeds();
    assert!(stage.out_names().is_empty() && stage.snapshots(vm).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn post_without_pre_is_fine_and_needs_no_host() {
    let stage = Stage::demo().await;
    let mut command = module(&stage, "generic/post-command", &["fw", "never seen", "fullvm"]);
    command.env_remove("STILLFRAME_GENERIC_HOST").env_remove("STILLFRAME_GENERIC_USERNAME");
    finish(command).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_found_by_its_address_unless_names_are_asked_for() {
    let stage = Stage::demo().await;
    let address = stage.vm("linux-01").ip.unwrap();
    let mut command = module(&stage, "generic/pre-command", &[&address, "fullvm"]);
    command.env_remove("STILLFRAME_GENERIC_VM_LOOKUP_METHOD");
    finish(command).await.succeeds();
    verify(&stage.out(&format!("{address}-fullVM"))).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_file_is_read_and_never_executed() {
    let stage = Stage::demo().await;
    let framework = stage.home.path().join("frame work");
    fs::create_dir_all(framework.join("config")).unwrap();
    let trap = stage.home.path().join("executed");
    let root = stage.home.path().join("$(touch executed)`touch executed` root");
    let password = stage.home.path().join("pass wörd & 100%?");
    fs::copy(stage.home.path().join("password"), &password).unwrap();
    fs::create_dir(&root).unwrap();
    let text = format!(
        "# a remark\r\n\r\n BACKUPROOT = \"{}\" \r\nHOST={}\nUSERNAME={}\nPASSWORD_FILE={}\nTHUMBPRINT={}\nVM_LOOKUP_METHOD=NAME",
        root.display(),
        stage.lab.address(),
        stage.world().identity().user,
        password.display(),
        stage.lab.sha256(),
    );
    let call = |name: &str, text: &str| {
        fs::write(framework.join("config/stillframe-generic.conf"), text).unwrap();
        let mut command = Command::new(script(name));
        command.args([&framework.to_string_lossy(), "linux-01", "fullvm"]).current_dir(stage.home.path());
        command.env("STILLFRAME_PROGRAM", binary()).env("STILLFRAME_STATE_DIR", stage.home.path().join("state"));
        command
    };
    finish(call("generic/pre-command", &text)).await.succeeds();
    assert!(root.join("linux-01-fullVM/catalog").exists() && !trap.exists());
    finish(call("generic/post-command", &text)).await.succeeds();
    assert!(fs::read_dir(&root).unwrap().next().is_none());
    for (line, said) in
        [("PASSWORD=x", "PASSWORD_FILE"), ("HOTS=x", "HOTS"), ("nonsense", "KEY=value"), ("$(x)=1", "KEY")]
    {
        let wrong = format!("{text}\n{line}\n");
        finish(call("generic/pre-command", &wrong)).await.fails(2, &[".conf:9", said]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_that_fails_says_why_and_leaves_nothing() {
    let stage = Stage::demo().await;
    pre(&stage, &[]).await.fails(2, &["usage"]);
    pre(&stage, &["fw", "linux-01", "tape"]).await.fails(2, &["tape"]);
    pre(&stage, &["no such VM", "fullvm"]).await.fails(3, &["no such VM"]);
    pre(&stage, &["../linux-01", "fullvm"]).await.fails(2, &["slash"]);
    for (key, value, code, said) in [
        ("BACKUPROOT", "/no/such/root", 2, "/no/such/root"),
        ("BACKUPROOT", "C:\\mnt", 2, "full path"),
        ("VM_LOOKUP_METHOD", "dns", 2, "VM_LOOKUP_METHOD"),
        ("PREEXISTING_MOUNTPOINT", "keep", 2, "PREEXISTING_MOUNTPOINT"),
        ("TRANSPORT_MODE", "san", 4, "san"),
        ("VMDK_FORMAT", "vhd", 2, "VMDK_FORMAT"),
        ("PASSWORD_FILE", "/no/such/file", 2, "/no/such/file"),
        ("USERNAME", "nobody", 1, "nobody"),
    ] {
        let mut command = module(&stage, "generic/pre-command", &["linux-01", "fullvm"]);
        command.env(format!("STILLFRAME_GENERIC_{key}"), value);
        finish(command).await.fails(code, &[said]);
    }
    stage.lab.faults().arm(FaultKind::SnapshotCreateFails);
    pre(&stage, &["linux-01", "fullvm"]).await.fails(1, &["snapshot"]);
    assert!(stage.out_names().is_empty(), "{:?}", stage.out_names());
    assert!(stage.snapshots("linux-01").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_says_success_and_made_nothing_is_a_failure() {
    let stage = Stage::demo().await;
    let mut command = module(&stage, "generic/pre-command", &["linux-01", "fullvm"]);
    command.env("STILLFRAME_PROGRAM", "true");
    finish(command).await.fails(1, &["catalog"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_all_kinds_reach_the_vm_and_the_directory_unchanged() {
    let names =
        ["Büro 7 100%", "it's $(touch x) `y` & ; *", "-U -x", "--", "file", "fullvm", "a%2fb %25", "x[a-z]?", "100%s"];
    // The lab takes no such display name; a guest calls itself what it likes.
    let quoted = "say \"hi\" 100%s";
    let raws = tempfile::tempdir().unwrap();
    let raw = raws.path().join("disk.raw");
    fs::write(&raw, vec![7; 1 << 20]).unwrap();
    let stage = Stage::empty(move |world| {
        for name in names {
            world.add_vm(&vm_of(name, &raw)).unwrap();
        }
        let host_name = Some(quoted.to_owned());
        world.add_vm(&VmSpec { host_name, power_on: true, tools: true, ..vm_of("quoted", &raw) }).unwrap();
    })
    .await;
    for name in names.into_iter().chain([quoted]) {
        let mut command = module(&stage, "generic/pre-command", &["fw", name, "fullvm"]);
        if name == quoted {
            command.env("STILLFRAME_GENERIC_VM_LOOKUP_METHOD", "ipaddr");
        }
        finish(command).await.succeeds();
        assert_eq!(stage.out_names(), [format!("{name}-fullVM")]);
        verify(&stage.out(&format!("{name}-fullVM"))).await.succeeds();
        post(&stage, &["fw", name, "fullvm"]).await.succeeds();
        assert!(stage.out_names().is_empty(), "{name}: {:?}", stage.out_names());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_there_fails_the_job_or_is_replaced_as_the_setting_says() {
    let stage = Stage::demo().await;
    pre(&stage, &["linux-01", "fullvm"]).await.succeeds();
    let manifest = stage.out("linux-01-fullVM/manifest.json");
    let first = fs::read(&manifest).unwrap();
    pre(&stage, &["linux-01", "fullvm"]).await.fails(6, &["PREEXISTING_MOUNTPOINT=delete"]);
    assert_eq!(fs::read(&manifest).unwrap(), first);
    let mut command = module(&stage, "generic/pre-command", &["linux-01", "fullvm"]);
    command.env("STILLFRAME_GENERIC_PREEXISTING_MOUNTPOINT", "delete");
    finish(command).await.succeeds();
    assert_ne!(fs::read(&manifest).unwrap(), first);
    assert_eq!(stage.out_names(), ["linux-01-fullVM"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_a_backup_of_ours_is_ever_removed() {
    let stage = Stage::demo().await;
    pre(&stage, &["linux-01", "fullvm"]).await.succeeds();
    let image = stage.out("linux-01-fullVM");
    let refuse = async |left: &[&Path]| {
        post(&stage, &["linux-01", "fullvm"]).await.fails(6, &["linux-01-fullVM was left alone"]);
        let mut command = module(&stage, "generic/pre-command", &["linux-01", "fullvm"]);
        command.env("STILLFRAME_GENERIC_PREEXISTING_MOUNTPOINT", "delete");
        finish(command).await.fails(6, &["left alone"]);
        assert!(left.iter().all(|path| fs::symlink_metadata(path).is_ok()), "{left:?}");
        assert!(image.join("scsi0-0-0-linux-01.vmdk").exists());
    };
    // A file of somebody, hidden or named like something in the manifest; a folder; a link in place of a disk.
    for name in ["notes.txt", ".notes", "linux-01", "name", "hashes", "scsi0-0-0-other.hashes"] {
        let notes = image.join(name);
        fs::write(&notes, "mine").unwrap();
        refuse(&[&notes]).await;
        fs::remove_file(&notes).unwrap();
    }
    let folder = image.join("folder");
    fs::create_dir(&folder).unwrap();
    refuse(&[&folder]).await;
    fs::remove_dir(&folder).unwrap();
    let (log, elsewhere) = (image.join("vmware.log"), stage.home.path().join("elsewhere"));
    fs::rename(&log, &elsewhere).unwrap();
    symlink(&elsewhere, &log).unwrap();
    refuse(&[&log, &elsewhere]).await;
    fs::remove_file(&log).unwrap();
    // What VCB itself wrote has no manifest of ours; neither has an incomplete copy.
    for name in ["manifest.json", "catalog"] {
        let kept = stage.home.path().join(name);
        fs::rename(image.join(name), &kept).unwrap();
        refuse(&[]).await;
        fs::rename(&kept, image.join(name)).unwrap();
    }
    // A link to an image is not an image.
    let real = stage.home.path().join("real");
    fs::rename(&image, &real).unwrap();
    symlink(&real, &image).unwrap();
    refuse(&[&image]).await;
    fs::remove_file(&image).unwrap();
    fs::rename(&real, &image).unwrap();
    // A manifest that names files elsewhere harms none of them.
    let manifest = fs::read_to_string(image.join("manifest.json")).unwrap();
    let hostile = manifest.replace("\"name\": \"vmware.log\"", "\"name\": \"../../elsewhere\"");
    assert_ne!(hostile, manifest);
    fs::write(image.join("manifest.json"), hostile).unwrap();
    post(&stage, &["linux-01", "fullvm"]).await.succeeds();
    assert!(elsewhere.exists() && stage.out_names().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_broken_off_is_finished_by_the_next_one() {
    let stage = Stage::demo().await;
    let (image, going) = (stage.out("linux-01-fullVM"), stage.out(".linux-01-fullVM.removing"));
    for gone in [&["catalog"][..], &["catalog", "scsi0-0-0-linux-01.vmdk", "linux-01.vmx"]] {
        pre(&stage, &["linux-01", "fullvm"]).await.succeeds();
        fs::rename(&image, &going).unwrap();
        gone.iter().for_each(|name| fs::remove_file(going.join(name)).unwrap());
        post(&stage, &["linux-01", "fullvm"]).await.succeeds();
        assert!(stage.out_names().is_empty(), "{:?}", stage.out_names());
    }
    fs::create_dir(&going).unwrap();
    post(&stage, &["linux-01", "fullvm"]).await.succeeds();
    fs::create_dir(&going).unwrap();
    fs::write(going.join("mine"), "x").unwrap();
    post(&stage, &["linux-01", "fullvm"]).await.fails(6, &["removing stands in the way"]);
    assert!(going.join("mine").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pre_ends_with_130_and_nothing_is_left() {
    let stage = Stage::demo().await;
    // The host makes the snapshot after the signal, for it was asked before.
    stage.lab.faults().arm(FaultKind::SnapshotCreateHangs { seconds: 1 });
    let child = module(&stage, "generic/pre-command", &["linux-01", "fullvm"]).spawn().unwrap();
    until(|| stage.lab.events().iter().any(|event| matches!(event.what, Happening::Fault { .. }))).await;
    terminate(&child);
    assert_eq!(child.wait_with_output().await.unwrap().status.code(), Some(130));
    assert!(stage.snapshots("linux-01").is_empty() && stage.out_names().is_empty(), "{:?}", stage.out_names());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_program_left_is_undone_by_pre_itself() {
    let stage = Stage::demo().await;
    stage.lab.faults().arm(Fault { kind: FaultKind::SnapshotRemoveFails, times: 50 });
    // The program's own process id, so that the test can kill it and not the script.
    let pid = stage.home.path().join("pid");
    let killed = stand_in(
        &stage,
        "killed",
        &format!(
            "#!/bin/sh\n[ \"$1\" = cleanup ] || echo $$ >'{}'\nexec '{}' \"$@\"\n",
            pid.display(),
            binary().display()
        ),
    );
    let mut command = module(&stage, "generic/pre-command", &["linux-01", "fullvm"]);
    let child = command.env("STILLFRAME_PROGRAM", killed).spawn().unwrap();
    until(|| !stage.snapshots("linux-01").is_empty()).await;
    stage.lab.faults().clear();
    let pid = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    assert_eq!(child.wait_with_output().await.unwrap().status.code(), Some(137));
    assert!(stage.snapshots("linux-01").is_empty() && stage.out_names().is_empty(), "{:?}", stage.out_names());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_pre_left_is_undone_by_post() {
    let stage = Stage::demo().await;
    stage.lab.faults().arm(Fault { kind: FaultKind::SnapshotRemoveFails, times: 50 });
    let mut command = module(&stage, "generic/pre-command", &["linux-01", "fullvm"]);
    let mut child = command.process_group(0).spawn().unwrap();
    until(|| !stage.snapshots("linux-01").is_empty()).await;
    stage.lab.faults().clear();
    let group = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    child.wait().await.unwrap();
    assert!(!stage.snapshots("linux-01").is_empty());
    post(&stage, &["fw", "linux-01"]).await.succeeds();
    assert!(stage.snapshots("linux-01").is_empty() && stage.out_names().is_empty(), "{:?}", stage.out_names());
}

#[tokio::test(flavor = "multi_thread")]
async fn data_whose_snapshot_is_left_is_not_handed_to_the_product() {
    let stage = Stage::demo().await;
    // Its removal is tried for two minutes, so a stand-in plays the end of that story: complete data, exit code 8.
    let text = format!("#!/bin/sh\n'{}' \"$@\"\nexit 8\n", binary().display());
    let left = stand_in(&stage, "left", &text);
    let mut command = module(&stage, "generic/pre-command", &["linux-01", "fullvm"]);
    command.env("STILLFRAME_PROGRAM", left);
    let outcome = finish(command).await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (8, ""), "{outcome:#?}");
    assert!(stage.out_names().is_empty(), "{:?}", stage.out_names());
}

/// Bytes that no program makes smaller.
fn noise(bytes: &mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for piece in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        piece.copy_from_slice(&state.to_le_bytes()[..piece.len()]);
    }
}

/// A repository of restic, and the module's command for it; `None` when restic is absent.
async fn restic(stage: &Stage, args: &[&str]) -> Option<Command> {
    let restic = program("restic")?;
    let (repository, password) = (stage.home.path().join("repository"), stage.home.path().join("restic-password"));
    fs::write(&password, "secret").unwrap();
    let mut command = module(stage, "restic/stillframe-restic", args);
    command.env("RESTIC", &restic);
    let mut init = Command::new(&restic);
    for command in [&mut command, &mut init] {
        command.env("RESTIC_REPOSITORY", &repository).env("RESTIC_PASSWORD_FILE", &password);
        command.env("RESTIC_CACHE_DIR", stage.home.path().join("cache"));
    }
    if !repository.exists() {
        init.arg("init").stdout(Stdio::null());
        assert!(init.status().await.unwrap().success());
    }
    Some(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_restic_gives_back_is_what_was_backed_up() {
    let stage = Stage::demo().await;
    let vm = "Windows Server 01";
    let Some(command) = restic(&stage, &[vm, "--tag", "nightly"]).await else { return };
    finish(command).await.succeeds();
    assert!(stage.out_names().is_empty() && stage.snapshots(vm).is_empty());
    let target = stage.home.path().join("back");
    let mut ask = Command::new(program("restic").unwrap());
    ask.env("RESTIC_REPOSITORY", stage.home.path().join("repository"));
    ask.env("RESTIC_PASSWORD_FILE", stage.home.path().join("restic-password")).arg("--no-cache");
    ask.args(["restore", "latest", "--host", vm, "--tag", "nightly", "--target"]).arg(&target);
    ask.stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(ask).await.succeeds();
    let image = stage.out(&format!("{vm}-fullVM"));
    let restored = target.join(image.strip_prefix("/").unwrap());
    verify(&restored).await.succeeds();
    stage
        .run(&["restore", &restored.to_string_lossy(), "--name", "from restic", "--progress", "none"])
        .await
        .succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_did_not_change_is_not_stored_again() {
    let raws = tempfile::tempdir().unwrap();
    let raw = raws.path().join("disk.raw");
    let mut bytes = vec![0; 48 << 20];
    noise(&mut bytes);
    fs::write(&raw, bytes).unwrap();
    let stage = Stage::empty(move |world| drop(world.add_vm(&vm_of("off", &raw)).unwrap())).await;
    let mut stored = Vec::new();
    for _ in 0..2 {
        let Some(command) = restic(&stage, &["off"]).await else { return };
        finish(command).await.succeeds();
        let packs = fs::read_dir(stage.home.path().join("repository/data")).unwrap();
        let packs = packs.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        stored.push(packs.map(|pack| pack.unwrap().metadata().unwrap().len()).sum::<u64>());
    }
    assert!(stored[0] >= 48 << 20 && stored[1] - stored[0] < 1 << 20, "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_restic_fails_the_job_and_the_image_goes_all_the_same() {
    let stage = Stage::demo().await;
    let said = stage.home.path().join("said");
    for code in [1, 3] {
        let text = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >'{}'\nexit {code}\n", said.display());
        let mut command = module(&stage, "restic/stillframe-restic", &["linux-01", "--exclude-caches"]);
        command.env("RESTIC", stand_in(&stage, "restic", &text));
        let outcome = finish(command).await;
        assert_eq!(outcome.code, 1, "{outcome:#?}");
        assert!(outcome.stderr.contains(&format!("restic ended with {code}")), "{outcome:#?}");
        assert!(stage.out_names().is_empty(), "{:?}", stage.out_names());
    }
    let said = fs::read_to_string(said).unwrap();
    let image = stage.out("linux-01-fullVM");
    let image = image.to_string_lossy();
    let words: Vec<_> = said.lines().collect();
    assert!(words[2].strip_prefix("--tag=").is_some_and(|run| run.len() == 36), "{said}");
    assert_eq!(
        [words[0], words[1], words[3], words[4], words[5]],
        ["backup", "--host=linux-01", "--exclude-caches", "--", image.as_ref()]
    );
    // A pre that fails: the product is not called, and the code is that of pre.
    fs::remove_file(stage.home.path().join("said")).unwrap();
    let mut command = module(&stage, "restic/stillframe-restic", &["no such VM"]);
    command.env("RESTIC", stage.home.path().join("restic"));
    finish(command).await.fails(3, &["no such VM"]);
    assert!(!stage.home.path().join("said").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_restic_and_the_image_goes() {
    let stage = Stage::demo().await;
    // At one KiB a second it would take over an hour.
    let Some(mut command) = restic(&stage, &["linux-01", "--limit-upload", "1"]).await else { return };
    let child = command.spawn().unwrap();
    let files_in = |folder: &str| {
        let folders = fs::read_dir(stage.home.path().join("repository").join(folder)).unwrap();
        folders.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).count()
    };
    let data = stage.home.path().join("repository/data");
    let packs: Vec<_> = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    until(|| packs.iter().any(|pack| files_in(&format!("data/{}", pack.to_string_lossy())) > 0)).await;
    assert_eq!(files_in("locks"), 1);
    assert_eq!(stage.out_names(), ["linux-01-fullVM"]);
    terminate(&child);
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert_eq!(files_in("locks"), 0, "restic was not given the time to unlock: {said}");
    assert!(stage.out_names().is_empty() && stage.snapshots("linux-01").is_empty());
}
