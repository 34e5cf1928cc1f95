//! `vcbMounter` by each of its names, as scripts of its time called it.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use acceptance::{Outcome, Stage, binary, finish, images, info_of, is_identical, manifest, names_in, program, vm_of};
use lab::face::{FaultKind, Options};
use lab::world::{Template, VmSpec};
use tokio::process::Command;

const OFF: &str = "Büro 37 \u{fc}";

/// The demonstration's VMs, one that is off, and two with one address.
async fn stage() -> (Stage, PathBuf) {
    let raws = tempfile::tempdir().unwrap();
    let raw = raws.path().join("disk.raw");
    let file = File::create(&raw).unwrap();
    file.set_len(5 << 20).unwrap();
    for piece in 0..5_u64 {
        file.write_all_at(&vec![piece as u8 + 1; 300_000], piece << 20).unwrap();
    }
    let from = raw.clone();
    let stage = Stage::with(Template::Demo, Options::default(), move |world| {
        world.add_vm(&vm_of(OFF, &from)).unwrap();
        for name in ["twin 1", "twin 2"] {
            let twin = VmSpec { ip: Some("10.1.1.1".into()), power_on: true, tools: true, ..vm_of(name, &from) };
            world.add_vm(&twin).unwrap();
        }
    })
    .await;
    let kept = stage.home.path().join("disk.raw");
    fs::copy(&raw, &kept).unwrap();
    (stage, kept)
}

/// The program called as `tool`, with the certificate in the environment and without the login.
fn bare(stage: &Stage, tool: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(tool);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env_remove("STILLFRAME_URI").env_remove("STILLFRAME_PASSWORD").env_remove("STILLFRAME_CA_FILE");
    command.env("STILLFRAME_THUMBPRINT", stage.lab.sha256());
    command.env("STILLFRAME_STATE_DIR", stage.home.path().join("state"));
    command
}

/// `vcbMounter` through a symlink of that name.
fn mounter(stage: &Stage) -> PathBuf {
    let link = stage.home.path().join("vcbMounter");
    if !link.exists() {
        symlink(binary(), &link).unwrap();
    }
    link
}

/// The login as the tools took it: `-h HOST:PORT -u USER -p PASSWORD`.
fn login(stage: &Stage) -> Vec<String> {
    let identity = stage.world().identity();
    ["-h", &stage.lab.address().to_string(), "-u", &identity.user, "-p", &identity.password].map(str::to_owned).into()
}

async fn run(stage: &Stage, args: &[&str]) -> Outcome {
    let login = login(stage);
    let args: Vec<&str> = login.iter().map(String::as_str).chain(args.iter().copied()).collect();
    finish(bare(stage, &mounter(stage), &args)).await
}

#[track_caller]
fn untouched(stage: &Stage) {
    assert_eq!((stage.leftovers(), stage.out_names()), (Vec::new(), Vec::new()));
    assert_eq!(stage.calls("CreateSnapshot_Task"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_four_forms_are_read_byte_by_byte_by_another_program() {
    if program("qemu-img").is_none() {
        return;
    }
    let (stage, raw) = stage().await;
    let spec = format!("name:{OFF}");
    for (pieces, flat, kind) in [
        ("0", "0", "twoGbMaxExtentSparse"),
        ("0", "1", "twoGbMaxExtentFlat"),
        ("1", "0", "monolithicSparse"),
        ("1", "1", "monolithicFlat"),
    ] {
        let out = stage.out(kind);
        let out = out.to_string_lossy();
        let args = ["-a", &spec, "-r", &out, "-t", "fullvm", "-m", "nbd", "-M", pieces, "-F", flat];
        run(&stage, &args).await.succeeds();
        let (_, image) = images(&stage.out(kind)).remove(0);
        assert!(info_of(&image).contains(&format!("create type: {kind}")), "{}", info_of(&image));
        assert!(is_identical(&image, &raw), "{kind}");
        assert_eq!(image.file_name().unwrap().to_string_lossy(), format!("scsi0-0-0-{OFF}.vmdk"));
    }
    let out = stage.out("default");
    run(&stage, &["-a", &spec, "-r", &out.to_string_lossy(), "-m", "nbdssl"]).await.succeeds();
    assert!(info_of(&images(&out).remove(0).1).contains("create type: twoGbMaxExtentSparse"));
    assert_eq!(stage.leftovers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_of_the_tool_does_the_same() {
    let (stage, _) = stage().await;
    let login = login(&stage);
    for (round, name) in ["vcbMounter", "vcbmounter", "vcbmounter.exe", "VCBMOUNTER.BAT"].into_iter().enumerate() {
        let link = stage.home.path().join(name);
        if !link.exists() {
            symlink(binary(), &link).unwrap();
        }
        let out = stage.out(&round.to_string());
        let mut args: Vec<&str> = login.iter().map(String::as_str).collect();
        let out = out.to_string_lossy();
        args.extend(["-aname:linux-01", "-r", &out, "-mnbd"]);
        finish(bare(&stage, &link, &args)).await.succeeds();
    }
    let out = stage.out("word");
    let mut args = vec!["vcbMounter"];
    args.extend(login.iter().map(String::as_str));
    let out = out.to_string_lossy();
    args.extend(["-a", "Name: linux-01 ", "-r", &out, "-m", "NBD"]);
    finish(bare(&stage, &binary(), &args)).await.succeeds();
    assert_eq!(names_in(&stage.out("")), ["0", "1", "2", "3", "word"]);
    for tool in ["vcbRestore", "vcbSnapAll", "vcbVmName", "vcbCleanup"] {
        let outcome = finish(bare(&stage, &binary(), &[tool, "-h", "x"])).await.fails(4, &[tool, "not there yet"]);
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_is_what_scripts_of_its_time_take_apart() {
    let (stage, _) = stage().await;
    let out = stage.out("x");
    run(&stage, &["-a", "ipaddr:win01.example.com", "-r", &out.to_string_lossy(), "-m", "nbd"]).await.succeeds();
    let catalog = fs::read_to_string(out.join("catalog")).unwrap();
    assert!(catalog.ends_with('\n') && !catalog.contains('\r'), "{catalog:?}");
    for line in catalog.lines() {
        let (key, value) = line.split_once("= ").unwrap_or_else(|| panic!("{line}"));
        assert!(!key.contains(char::is_whitespace), "{line}");
        let bare = ["version", "state"].contains(&key);
        assert_eq!(bare, !(value.starts_with('"') && value.ends_with('"') && value.len() >= 2), "{line}");
    }
    for line in [
        "version= esx-3.0",
        "state= poweredOn",
        "display_name= \"Windows Server 01\"",
        "disk.scsi0:0.filename= \"scsi0-0-0-Windows Server 01.vmdk\"",
        "disk.scsi0:1.filename= \"scsi0-1-0-Windows Server 01_1.vmdk\"",
        "disk.scsi0:0.diskname= \"[datastore1] Windows Server 01/Windows Server 01.vmdk\"",
        "config.vmx= \"[datastore1] Windows Server 01/Windows Server 01.vmx\"",
    ] {
        assert!(catalog.lines().any(|found| found == line), "{line} is not in {catalog}");
    }
    let uuid = stage.vm("Windows Server 01").uuid.to_string();
    assert!(catalog.contains(&format!("uuid= \"{uuid}\"")), "{catalog}");
    let names = names_in(&out);
    for name in ["Windows Server 01.vmx", "Windows Server 01.nvram", "catalog", "manifest.json"] {
        assert!(names.contains(&name.to_owned()), "{names:?}");
    }
    stage.run(&["verify", &out.to_string_lossy(), "--progress", "none"]).await.succeeds();
    assert_eq!(manifest(&out)["consistency"], "quiesced");
}

fn proc_file(pid: u32, name: &str) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_nowhere_to_be_seen_while_it_runs_nor_in_what_it_says() {
    let (stage, _) = stage().await;
    let password = stage.world().identity().password;
    let out = stage.out("x");
    let glued = format!("-p{password}");
    for form in [vec!["-p", &password], vec![&glued]] {
        let login = login(&stage);
        let mut args: Vec<&str> = login[..4].iter().map(String::as_str).collect();
        args.extend(form);
        let target = out.to_string_lossy();
        args.extend(["-a", "name:linux-01", "-r", &target, "-m", "nbd", "-L", "6"]);
        stage.lab.faults().arm(FaultKind::SnapshotCreateHangs { seconds: 2 });
        let before = stage.calls("CreateSnapshot_Task");
        let child = bare(&stage, &mounter(&stage), &args).spawn().unwrap();
        let pid = child.id().unwrap();
        while stage.calls("CreateSnapshot_Task") == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (line, environment) = (proc_file(pid, "cmdline"), proc_file(pid, "environ"));
        assert!(line.starts_with("vcbMounter\0") && line.contains("name:linux-01"), "{line:?}");
        assert!(!line.contains(&password) && !environment.contains(&password), "{line:?} {environment:?}");
        let journals = fs::read_to_string(stage.home.path().join("state/journal").join(stage.journals().remove(0)));
        assert!(!journals.unwrap().contains(&password), "the journal has the password");
        let output = child.wait_with_output().await.unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "{said:?}");
        assert!(!said.concat().contains(&password), "{said:?}");
        assert_eq!(said[1].matches("-p shows the password").count(), 1, "{said:?}");
        assert!(said[1].lines().count() > 10, "-L 6 says little: {said:?}");
        for name in names_in(&out) {
            let bytes = fs::read(out.join(&name)).unwrap();
            assert!(!bytes.windows(password.len()).any(|bytes| bytes == password.as_bytes()), "{name}");
        }
        fs::remove_dir_all(&out).unwrap();
    }
}

/// Whether a line is `[2007-08-07 12:13:47.418 'App' 2144 warning] text`.
fn is_log_line(line: &str) -> bool {
    let Some((head, text)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else { return false };
    let words: Vec<&str> = head.split(' ').collect();
    let [date, time, app, pid, level] = words.as_slice() else { return false };
    let shaped = |text: &str, shape: &str| {
        let fits = |(c, s): (char, char)| if s == '0' { c.is_ascii_digit() } else { c == s };
        text.chars().count() == shape.chars().count() && text.chars().zip(shape.chars()).all(fits)
    };
    shaped(date, "0000-00-00")
        && shaped(time, "00:00:00.000")
        && *app == "'App'"
        && pid.parse::<u32>().is_ok()
        && ["error", "warning", "info", "verbose", "trivia"].contains(level)
        && !text.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_have_their_brackets_and_the_cause_comes_last_and_once() {
    let (stage, _) = stage().await;
    let out = stage.out("x");
    let out = out.to_string_lossy();
    for level in ["0", "3", "6"] {
        let spec = ["-a", "name:linux-01", "-r", &out, "-m", "nbd", "-L", level];
        stage.lab.faults().arm(FaultKind::SnapshotCreateFails);
        let outcome = run(&stage, &spec).await.fails(1, &["cannot snapshot linux-01", "GenericVmConfigFault"]);
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        let (last, before) = lines.split_last().unwrap();
        assert!(last.starts_with("Error: "), "{outcome:?}");
        let odd: Vec<_> = before.iter().filter(|line| !is_log_line(line)).collect();
        // Progress is not log.
        assert!(odd.iter().all(|line| line.starts_with("linux-01")), "{odd:#?}");
        let said = before.iter().filter(|line| is_log_line(line)).count();
        match level {
            "0" => assert!(said <= 1, "{outcome:?}"),
            "3" => assert!((1..=3).contains(&said), "{outcome:?}"),
            _ => assert!(said > 10 && outcome.stderr.contains("method=\"CreateSnapshot_Task\""), "{outcome:?}"),
        }
    }
    assert_eq!((stage.leftovers(), stage.out_names()), (Vec::new(), Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_exit_code_and_changes_nothing() {
    let (stage, _) = stage().await;
    let out = stage.out("x");
    let out: &str = &out.to_string_lossy();
    let missing = stage.out("missing/x");
    let missing: &str = &missing.to_string_lossy();
    let existing = stage.home.path().join("existing");
    fs::create_dir(&existing).unwrap();
    fs::write(existing.join("theirs"), "theirs").unwrap();
    let existing: &str = &existing.to_string_lossy();
    let linux = "name:linux-01";
    for (args, code, words) in [
        (&["-a", "ipaddr:10.1.1.1", "-r", out, "-m", "nbd"][..], 3, &["matches 2 VMs", "vcbSnapAll"][..]),
        (&["-a", "name:nobody", "-r", out, "-m", "nbd"], 3, &["no VM matches name:nobody"]),
        (&["-a", "name:LINUX-01", "-r", out, "-m", "nbd"], 3, &["no VM matches name:LINUX-01"]),
        (&["-a", linux, "-r", missing, "-m", "nbd"], 2, &["missing", "make it first"]),
        (&["-a", linux, "-r", existing, "-m", "nbd"], 6, &["existing exists"]),
        (&["-a", linux, "-r", out, "-m", "san"], 4, &["the transport san is not there yet", "nbdssl"]),
        (&["-a", linux, "-r", out, "-m", "hotadd"], 4, &["the transport hotadd is not there yet"]),
        (&["-a", linux, "-r", out], 4, &["the transport san is not there yet"]),
        (&["-a", linux, "-r", out, "-m", "tape"], 2, &["-m tape", "usage: vcbMounter"]),
        (&["-a", linux, "-r", out, "-m", "https"], 2, &["-m https", "usage: vcbMounter"]),
        (&["-a", linux, "-r", out, "-m", "nbd", "-x"], 2, &["-x is not known", "usage: vcbMounter"]),
        (&["-a", linux, "-r", out, "-m", "nbd", "-b"], 2, &["-b is not known", "usage: vcbMounter"]),
        (&["-a", linux, "-r", out, "-m", "nbd", "word"], 2, &["word", "usage: vcbMounter"]),
        (&["-a", linux, "-r", out, "-m", "nbd", "-M", "2"], 2, &["-M 2", "usage: vcbMounter"]),
        (&["-a", linux, "-r", out, "-m", "nbd", "-L", "7"], 2, &["-L 7", "usage: vcbMounter"]),
        (&["-a", linux, "-r", out, "-m", "nbd", "-t", "half"], 2, &["-t half", "usage: vcbMounter"]),
        (&["-a", linux, "-r", out, "-m", "tape", "-t", "file"], 2, &["-m tape", "usage: vcbMounter"]),
        (&["-U"], 2, &["-r is missing", "usage: vcbMounter"]),
        (&["-a", linux, "-r", "scp://u@h:/x", "-m", "nbd"], 4, &["remote destinations are not there yet"]),
        (&["-a", "dns:x", "-r", out, "-m", "nbd"], 2, &["dns:"]),
        (&["-r", out, "-m", "nbd"], 2, &["-a is missing", "usage: vcbMounter"]),
        (&["-a", linux, "-m", "nbd"], 2, &["-r is missing", "usage: vcbMounter"]),
        (&["-a", linux, "-m", "nbd", "-r"], 2, &["-r lacks its value", "usage: vcbMounter"]),
    ] {
        println!("{args:?}");
        let outcome = run(&stage, args).await.fails(code, words);
        let said = outcome.stderr.lines().filter(|line| !is_log_line(line)).count();
        assert_eq!(said, 1, "one line says it: {outcome:?}");
    }
    assert_eq!(fs::read_to_string(Path::new(existing).join("theirs")).unwrap(), "theirs");
    let usage = run(&stage, &["-?"]).await.succeeds();
    assert!(usage.stdout.starts_with("usage: vcbMounter"), "{usage:?}");
    untouched(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_and_certificates_that_do_not_fit_are_told() {
    let (stage, _) = stage().await;
    let out = stage.out("x");
    let rest = ["-a", "name:linux-01", "-r", &out.to_string_lossy(), "-m", "nbd"].map(str::to_owned);
    let login = login(&stage);
    let with = |login: &[String]| {
        let args: Vec<&str> = login.iter().chain(&rest).map(String::as_str).collect();
        bare(&stage, &mounter(&stage), &args)
    };
    let mut wrong = login.clone();
    wrong[5] = "Gehe1m".to_owned();
    let outcome = finish(with(&wrong)).await.fails(1, &["cannot log in", "check the user and the password"]);
    assert!(!outcome.stderr.contains("Gehe1m"), "{outcome:?}");
    finish(with(&login[..4])).await.fails(2, &["there is no password"]);
    finish(with(&login[..2])).await.fails(2, &["nobody is named"]);
    finish(with(&login[2..])).await.fails(2, &["-h is missing", "usage: vcbMounter"]);
    let mut unpinned = with(&login);
    unpinned.env_remove("STILLFRAME_THUMBPRINT");
    finish(unpinned).await.fails(1, &["is not trusted", "found", &stage.lab.sha256()]);
    let mut other = with(&login);
    other.env("STILLFRAME_THUMBPRINT", ["AA"; 32].join(":"));
    finish(other).await.fails(1, &["is not trusted", "expected", "found", &stage.lab.sha256()]);
    let mut nonsense = with(&login);
    nonsense.env("STILLFRAME_THUMBPRINT", "nonsense");
    finish(nonsense).await.fails(2, &["nonsense"]);
    untouched(&stage);
    let mut by_sha1 = with(&login);
    by_sha1.env("STILLFRAME_THUMBPRINT", stage.lab.sha1());
    finish(by_sha1).await.succeeds();
    fs::remove_dir_all(&out).unwrap();
    let mut by_environment = with(&login[..4]);
    by_environment.env("STILLFRAME_PASSWORD", &stage.world().identity().password);
    finish(by_environment).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounter_that_is_killed_is_cleaned_up_after_with_a_password_file() {
    let (stage, _) = stage().await;
    stage.lab.faults().arm(FaultKind::SnapshotRemoveHangs { seconds: 3 });
    let login = login(&stage);
    let out = stage.out("x");
    let out = out.to_string_lossy();
    let mut args: Vec<&str> = login.iter().map(String::as_str).collect();
    args.extend(["-a", "name:linux-01", "-r", &out, "-m", "nbd"]);
    let mut child = bare(&stage, &mounter(&stage), &args).spawn().unwrap();
    while stage.calls("RemoveSnapshot_Task") == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    child.kill().await.unwrap();
    // The journal has no password, so the cleanup needs one from elsewhere; without it, it says what is left.
    let left = finish(bare(&stage, &binary(), &["cleanup", "-y"])).await.fails(8, &["left", "snapshot of linux-01"]);
    assert!(left.stderr.contains("there is no password"), "{left:?}");
    let mut cleanup = bare(&stage, &binary(), &["cleanup", "-y"]);
    cleanup.env("STILLFRAME_PASSWORD", &stage.world().identity().password);
    finish(cleanup).await.succeeds();
    assert_eq!(stage.leftovers(), [""; 0]);
}
