//! Backups that were moved, edited or damaged: `verify` and `restore` say what is wrong with its name, and put nothing anywhere.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use acceptance::{Stage, images, manifest, names_in};
use serde_json::{Value, json};

const VM: &str = "linux-01";

/// A stage with one good backup of the VM in `out(good)`.
async fn with_backup() -> Stage {
    let stage = Stage::demo().await;
    stage.backup(&format!("name:{VM}"), "good", &["--format", "monolithicFlat"]).await.succeeds();
    stage
}

/// A copy of the good backup, holes kept, for one damage.
fn copy(stage: &Stage, name: &str) -> PathBuf {
    let to = stage.out(name);
    let mut copy = std::process::Command::new("cp");
    let status = copy.args(["-r", "--sparse=always"]).arg(stage.out("good")).arg(&to).status().unwrap();
    assert!(status.success());
    to
}

fn edit(file: &Path, edit: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(file).unwrap();
    let edited = edit(text.clone());
    assert_ne!(text, edited, "nothing was damaged");
    fs::write(file, edited).unwrap();
}

fn edit_manifest(directory: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = manifest(directory);
    edit(&mut value);
    fs::write(directory.join("manifest.json"), value.to_string()).unwrap();
}

fn flip(file: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// The flat file of the backup's only disk, and a byte in it that is not zero.
fn data(directory: &Path) -> (PathBuf, u64) {
    let descriptor = images(directory).remove(0).1;
    let flat = directory.join(format!("{}-flat.vmdk", descriptor.file_stem().unwrap().to_string_lossy()));
    let start = 1 << 20; // behind the partition table
    let bytes = fs::read(&flat).unwrap();
    let at = bytes[start..].iter().position(|byte| *byte != 0).unwrap() + start;
    (flat, at as u64)
}

/// What was done to a backup, and what `verify` and `restore` have to say: exit code and words.
struct Damage {
    what: &'static str,
    by: Box<dyn Fn(&Path)>,
    verify: (i32, &'static str),
    restore: (i32, &'static str),
}

/// The same for both.
fn both(what: &'static str, code: i32, words: &'static str, by: impl Fn(&Path) + 'static) -> Damage {
    Damage { what, by: Box::new(by), verify: (code, words), restore: (code, words) }
}

fn of_the_catalog() -> Vec<Damage> {
    let catalog = |directory: &Path| directory.join("catalog");
    vec![
        both("no catalog", 2, "is no complete backup", move |d| fs::remove_file(catalog(d)).unwrap()),
        both("an empty catalog", 5, "the catalog lists 0 disks", move |d| fs::write(catalog(d), "").unwrap()),
        both("a catalog cut in a line", 5, "line 6 of the catalog", move |d| {
            edit(&catalog(d), |text| text[..text.find(".vmdk\"").unwrap()].to_owned());
        }),
        both("a name that leaves the folder", 5, "disk.scsi0:0.filename is \"../../etc/passwd\"", move |d| {
            edit(&catalog(d), |text| text.replace("scsi0-0-0-linux-01.vmdk", "../../etc/passwd"));
        }),
        both("a key twice", 5, "has the key config.vmx again", move |d| {
            edit(&catalog(d), |text| format!("{text}config.vmx= \"[x] y/z.vmx\"\n"));
        }),
        both("binary", 5, "not a text", move |d| fs::write(catalog(d), [0, 159, 146, 150]).unwrap()),
        both("a disk that the manifest lacks", 5, "\"other.vmdk\" is not in the manifest", move |d| {
            fs::copy(d.join("scsi0-0-0-linux-01.vmdk"), d.join("other.vmdk")).unwrap();
            edit(&catalog(d), |text| format!("{text}disk.scsi0:1.filename= \"other.vmdk\"\n"));
        }),
    ]
}

fn of_the_manifest() -> Vec<Damage> {
    let path = |directory: &Path| directory.join("manifest.json");
    vec![
        both("a manifest cut short", 5, "manifest.json cannot be understood", move |d| {
            edit(&path(d), |text| text[..text.len() / 2].to_owned());
        }),
        both("an empty manifest", 5, "manifest.json cannot be understood", move |d| fs::write(path(d), "").unwrap()),
        both("a manifest of the future", 4, "newer", |d| edit_manifest(d, |m| m["format"] = json!(99))),
        both("a file outside", 5, "\"../../etc/passwd\"", |d| {
            edit_manifest(d, |m| m["files"][0]["name"] = json!("../../etc/passwd"));
        }),
        both("a disk file outside", 5, "\"/etc/passwd\"", |d| {
            edit_manifest(d, |m| m["disks"][0]["files"] = json!(["/etc/passwd", m["disks"][0]["file"]]));
        }),
        both("a file twice", 5, "twice", |d| {
            edit_manifest(d, |m| {
                let again = m["files"][0].clone();
                m["files"].as_array_mut().unwrap().push(again);
            });
        }),
        both("another capacity", 5, "and the manifest says 512", |d| {
            edit_manifest(d, |m| m["disks"][0]["capacity"] = json!(512));
        }),
        both("no digest", 5, "manifest.json cannot be understood", |d| {
            edit_manifest(d, |m| m["disks"][0]["digest"] = json!("sha1:00"));
        }),
        Damage {
            what: "another digest",
            by: Box::new(|d| {
                edit_manifest(d, |m| m["disks"][0]["digest"] = json!(format!("blake3-blocks:{}", "0".repeat(64))));
            }),
            verify: (5, "does not hold what was backed up"),
            restore: (5, "does not hold what was backed up"),
        },
        Damage {
            what: "no manifest",
            by: Box::new(move |d| fs::remove_file(path(d)).unwrap()),
            verify: (5, "no manifest to compare with"),
            restore: (0, ""), // as VCB's own images have none
        },
    ]
}

fn of_the_files() -> Vec<Damage> {
    let vmx = |directory: &Path| directory.join("linux-01.vmx");
    vec![
        both("one bit of the disk", 5, "does not hold what was backed up", |d| {
            let (flat, at) = data(d);
            flip(&flat, at);
        }),
        both("data where there was none", 5, "does not hold what was backed up", |d| {
            let (flat, _) = data(d);
            let file = File::options().write(true).open(&flat).unwrap();
            let end = file.metadata().unwrap().len();
            file.write_all_at(&[1], end - 1).unwrap();
        }),
        both("a disk cut short", 5, "linux-01-flat.vmdk", |d| {
            let file = File::options().write(true).open(data(d).0).unwrap();
            file.set_len(file.metadata().unwrap().len() - 512).unwrap();
        }),
        both("no data file", 5, "linux-01-flat.vmdk", |d| fs::remove_file(data(d).0).unwrap()),
        both("no descriptor", 5, "scsi0-0-0-linux-01.vmdk", |d| {
            fs::remove_file(d.join("scsi0-0-0-linux-01.vmdk")).unwrap();
        }),
        both("a descriptor that points outside", 5, "passwd", |d| {
            edit(&d.join("scsi0-0-0-linux-01.vmdk"), |text| {
                text.replace("scsi0-0-0-linux-01-flat.vmdk", "../../../../../../etc/passwd")
            });
        }),
        both("another configuration", 5, "linux-01.vmx is not what was backed up", move |d| {
            edit(&vmx(d), |text| text.replace("memSize", "memsize2"));
        }),
        both("no configuration", 5, "lacks", move |d| fs::remove_file(vmx(d)).unwrap()),
        both("another NVRAM", 5, "linux-01.nvram is not what was backed up", |d| {
            fs::write(d.join("linux-01.nvram"), "other").unwrap();
        }),
    ]
}

/// Lets `verify` and `restore` judge each damage.
async fn judge(damages: Vec<Damage>) {
    let stage = with_backup().await;
    let stored = stage.stored();
    let vms = stage.world().vms().len();
    for (round, damage) in damages.into_iter().enumerate() {
        let directory = copy(&stage, &format!("damaged {round}"));
        (damage.by)(&directory);
        let path = directory.to_string_lossy();
        println!("{}", damage.what);
        let verified = stage.run(&["verify", &path, "--progress", "none"]).await;
        verified.fails(damage.verify.0, &[damage.verify.1]);
        let restored = stage.run(&["restore", &path, "--name", "again", "--progress", "none"]).await;
        let (code, words) = damage.restore;
        if code == 0 {
            assert!(restored.succeeds().stdout.contains("there is no manifest"));
            let id = stage.vm("again").id;
            stage.world().destroy_vm(&id).unwrap();
        } else {
            restored.fails(code, &[words]);
        }
        assert_eq!(stage.stored(), stored, "{}", damage.what);
        assert_eq!((stage.world().vms().len(), stage.leftovers()), (vms, Vec::new()), "{}", damage.what);
        fs::remove_dir_all(&directory).unwrap();
    }
    assert_eq!(names_in(&stage.out("")), ["good"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_is_damaged_or_hostile_is_refused_with_its_line() {
    judge(of_the_catalog()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_damaged_hostile_or_too_new_is_refused() {
    judge(of_the_manifest()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_what_was_backed_up_are_refused_and_nothing_of_them_stays() {
    judge(of_the_files()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_replaces_nothing_and_names_what_is_in_its_way() {
    let stage = with_backup().await;
    let good = stage.out("good");
    let good = good.to_string_lossy();
    let stored = stage.stored();
    for name in ["linux-01", "Windows Server 01"] {
        let outcome = stage.run(&["restore", &good, "--name", name]).await;
        outcome.fails(6, &[name, "already", "--name NEW"]);
    }
    stage.run(&["restore", &good]).await.fails(6, &["linux-01", "already"]);
    // A folder that somebody made, with no VM in it.
    let folder = stage.home.path().join("lab/datastores/datastore1/spare");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("theirs"), "theirs").unwrap();
    stage.run(&["restore", &good, "--name", "spare"]).await.fails(6, &["[datastore1] spare"]);
    assert_eq!(fs::read_to_string(folder.join("theirs")).unwrap(), "theirs");
    // The original was unregistered, its files are still there.
    let id = stage.vm(VM).id;
    stage.world().power_off(&id).unwrap();
    stage.world().unregister_vm(&id).unwrap();
    stage.run(&["restore", &good]).await.fails(6, &["[datastore1] linux-01"]);
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!((stage.stored(), stage.leftovers()), (stored, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_not_there_and_a_name_that_is_none_are_refused_before_anything_is_made() {
    let stage = with_backup().await;
    let good = stage.out("good");
    let good = good.to_string_lossy();
    let stored = stage.stored();
    for (more, code, words) in [
        (&["--datastore", "nowhere"][..], 1, &["datastore nowhere", "--datastore"][..]),
        (&["--folder", "/Lab-DC/vm/nowhere"], 1, &["--folder"]),
        (&["--resource-pool", "/Lab-DC/host/nowhere"], 1, &["--resource-pool"]),
        (&["--name", ".."], 2, &["cannot be a VM's name"]),
        (&["--name", ""], 2, &["cannot be a VM's name"]),
        (&["--catalog", "/nonexistent/catalog"], 2, &["/nonexistent/catalog"]),
    ] {
        let args = [&["restore", &good, "--progress", "none"], more].concat();
        let args = if more[0] == "--name" { args } else { [&args[..], &["--name", "new"]].concat() };
        stage.run(&args).await.fails(code, words);
    }
    stage.run(&["restore", "/nonexistent/backup"]).await.fails(2, &["/nonexistent/backup", "no complete backup"]);
    stage.run(&["verify", "/nonexistent/backup"]).await.fails(2, &["/nonexistent/backup", "no complete backup"]);
    assert_eq!((stage.stored(), stage.leftovers()), (stored, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_try_to_leave_their_folder_make_a_vm_in_a_folder_of_its_own() {
    let stage = with_backup().await;
    let good = stage.out("good");
    for name in ["../../../escape", "a]b[c", "50% off & more", "Büro ünd 日本"] {
        let args = ["restore", &good.to_string_lossy(), "--name", name, "--progress", "none"];
        let outcome = stage.run(&args).await;
        if outcome.code != 0 {
            // What the host refuses is told, and nothing of it stays.
            assert!(outcome.message().starts_with("Error: "), "{outcome:?}");
            println!("{name}: {}", outcome.message());
            assert!(name.contains('/'), "{outcome:?}");
        }
        assert_eq!(stage.leftovers(), [""; 0], "{name}");
    }
    let top = stage.home.path().join("lab");
    assert!(!top.join("escape").exists() && !stage.home.path().join("escape").exists());
    assert_eq!(stage.world().vms().len(), 5);
}
