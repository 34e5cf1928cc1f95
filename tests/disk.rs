//! `stillframe disk`: what it says of an image, qemu-img says too; what it writes, qemu-img reads; what it must not open stays closed.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use acceptance::{Outcome, finish, program as installed, stillframe, tool};
use serde_json::Value;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 70 * MIB + 1536;
const FORMATS: [&str; 6] =
    ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "vmfs", "streamOptimized"];

/// A folder with a raw disk in it: text, noise and holes.
struct Bench {
    home: TempDir,
}

impl Bench {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let disk = File::create(home.path().join("disk.raw")).unwrap();
        disk.set_len(SIZE).unwrap();
        let text: Vec<u8> = (0..200_000u32).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let mut state = 7u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        })
        .take(3 << 20)
        .collect();
        disk.write_all_at(&text, 512).unwrap();
        disk.write_all_at(&noise, 40 * MIB - 1000).unwrap();
        disk.write_all_at(&[1; 700], SIZE - 700).unwrap();
        Self { home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    async fn run(&self, args: &[&str]) -> Outcome {
        let mut command = stillframe(&[&["disk"], args].concat());
        command.current_dir(self.home.path()).env("STILLFRAME_STATE_DIR", self.path("state"));
        finish(command).await
    }

    async fn convert(&self, from: &str, format: &str, to: &str) -> Outcome {
        self.run(&["convert", from, "--format", format, "-o", to, "--progress", "none"]).await
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.home.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name != "state");
        names.sort();
        names
    }

    fn qemu(&self, args: &[&str], last: &[&str]) -> String {
        let mut all: Vec<std::ffi::OsString> = args.iter().map(Into::into).collect();
        all.extend(last.iter().map(|name| self.path(name).into_os_string()));
        let all: Vec<&std::ffi::OsStr> = all.iter().map(std::ffi::OsString::as_os_str).collect();
        tool("qemu-img", &all)
    }

    fn same(&self, a: &str, b: &str) {
        assert!(fs::read(self.path(a)).unwrap() == fs::read(self.path(b)).unwrap(), "{a} and {b} differ");
    }
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[tokio::test]
async fn every_form_is_written_read_back_and_called_identical_by_qemu() {
    let bench = Bench::new();
    for format in FORMATS {
        let name = format!("{format}.vmdk");
        bench.convert("disk.raw", format, &name).await.succeeds();
        bench.run(&["compare", &name, "disk.raw"]).await.succeeds();
        bench.run(&["check", &name, "--read-data", "--progress", "none"]).await.succeeds();
        bench.convert(&name, "raw", "back.raw").await.succeeds();
        bench.same("back.raw", "disk.raw");
        fs::remove_file(bench.path("back.raw")).unwrap();
        if installed("qemu-img").is_some() {
            let said = bench.qemu(&["compare", "-f", "vmdk", "-F", "raw"], &[&name, "disk.raw"]);
            assert!(said.contains("identical"), "{format}: {said}");
        }
    }
    assert!(bench.names().iter().all(|name| !name.starts_with('.')), "{:?}", bench.names());
}

#[tokio::test]
async fn info_and_map_have_the_fields_and_values_of_qemu() {
    if installed("qemu-img").is_none() {
        return;
    }
    let bench = Bench::new();
    for format in FORMATS {
        let name = format!("{format}.vmdk");
        bench.convert("disk.raw", format, &name).await.succeeds();
        let full = bench.path(&name);
        let full = full.to_string_lossy();
        let ours = json(&bench.run(&["info", "--json", &full]).await.succeeds());
        let theirs: Value =
            serde_json::from_str(&bench.qemu(&["info", "-f", "vmdk", "--output=json"], &[&name])).unwrap();
        for field in ["virtual-size", "filename", "format", "dirty-flag"] {
            assert_eq!(ours[field], theirs[field], "{format}: {field}");
        }
        let (ours, theirs) = (&ours["format-specific"]["data"], &theirs["format-specific"]["data"]);
        for field in ["cid", "parent-cid", "create-type"] {
            assert_eq!(ours[field], theirs[field], "{format}: {field}");
        }
        let sizes = |data: &Value| -> Vec<Value> {
            data["extents"].as_array().unwrap().iter().map(|extent| extent["virtual-size"].clone()).collect()
        };
        assert_eq!(sizes(ours), sizes(theirs), "{format}");
        let ours = runs(&bench.run(&["map", "--json", &full]).await.succeeds().stdout);
        let theirs = runs(&bench.qemu(&["map", "-f", "vmdk", "--output=json"], &[&name]));
        assert_eq!(ours, theirs, "{format}");
    }
}

/// Runs with data, joined, with the place in the file where there is one.
fn runs(map: &str) -> Vec<(u64, u64, u64, bool, Option<u64>)> {
    let entries: Vec<Value> = serde_json::from_str(map).unwrap();
    let number = |entry: &Value, field: &str| entry[field].as_u64();
    let with_data = entries.iter().filter(|e| e["data"] == true && e["zero"] == false);
    with_data
        .map(|entry| {
            let place = number(entry, "offset");
            let depth = number(entry, "depth").unwrap();
            let (start, len) = (number(entry, "start").unwrap(), number(entry, "length").unwrap());
            (start, len, depth, entry["compressed"] == true, place)
        })
        .collect()
}

#[tokio::test]
async fn a_delta_holds_the_difference_and_qemu_reads_and_commits_it() {
    let bench = Bench::new();
    bench.convert("disk.raw", "monolithicSparse", "base.vmdk").await.succeeds();
    fs::copy(bench.path("disk.raw"), bench.path("changed.raw")).unwrap();
    patch(&bench.path("changed.raw"), 41 * MIB, &[9; 4096]);
    patch(&bench.path("changed.raw"), 512, &[0; 65536 * 3]);
    let delta = ["convert", "changed.raw", "--format", "monolithicSparse", "-o", "delta.vmdk", "--parent", "base.vmdk"];
    bench.run(&[&delta[..], &["--progress", "none"]].concat()).await.succeeds();
    bench.run(&["compare", "delta.vmdk", "changed.raw"]).await.succeeds();
    let info = json(&bench.run(&["info", "--json", "delta.vmdk"]).await.succeeds());
    assert_eq!(info["backing-filename"], "base.vmdk");
    let own = json(&bench.run(&["map", "--json", "delta.vmdk"]).await.succeeds());
    let own: u64 =
        own.as_array().unwrap().iter().filter(|e| e["depth"] == 0).map(|e| e["length"].as_u64().unwrap()).sum();
    assert!(own <= 5 * 65536, "{own} bytes for 65 grains that did not change");
    bench.run(&["create", "empty.vmdk", "--format", "monolithicSparse", "--parent", "delta.vmdk"]).await.succeeds();
    bench.run(&["compare", "empty.vmdk", "changed.raw"]).await.succeeds();
    if installed("qemu-img").is_some() {
        let said = bench.qemu(&["compare", "-f", "vmdk", "-F", "raw"], &["empty.vmdk", "changed.raw"]);
        assert!(said.contains("identical"), "{said}");
        bench.qemu(&["commit", "-f", "vmdk"], &["delta.vmdk"]);
        bench.run(&["compare", "base.vmdk", "changed.raw"]).await.succeeds();
    }
}

#[tokio::test]
async fn streams_come_out_of_standard_output_and_nothing_else_does() {
    let bench = Bench::new();
    for (format, name) in [("streamOptimized", "piped.vmdk"), ("raw", "piped.raw")] {
        let mut command = stillframe(&["disk", "convert", "disk.raw", "--format", format, "-o", "-"]);
        command.current_dir(bench.home.path());
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::write(bench.path(name), output.stdout).unwrap();
        bench.run(&["compare", name, "disk.raw"]).await.succeeds();
    }
    bench.same("piped.raw", "disk.raw");
    bench.run(&["check", "piped.vmdk"]).await.succeeds();
    bench.convert("disk.raw", "monolithicSparse", "-").await.fails(2, &["streamOptimized"]);
}

#[tokio::test]
async fn the_first_difference_is_told_with_both_places() {
    let bench = Bench::new();
    bench.convert("disk.raw", "monolithicSparse", "a.vmdk").await.succeeds();
    fs::copy(bench.path("disk.raw"), bench.path("b.raw")).unwrap();
    patch(&bench.path("b.raw"), 60 * MIB, b"x");
    patch(&bench.path("b.raw"), 41 * MIB + 7, b"x");
    let outcome = bench.run(&["compare", "a.vmdk", "b.raw"]).await;
    outcome.fails(5, &["differ at byte 0x2900007", "a.vmdk has", "stored in a.vmdk at byte", "b.raw has 0x78"]);
    let found = json(&bench.run(&["compare", "a.vmdk", "b.raw", "--json"]).await);
    assert_eq!(found["difference"]["offset"], 41 * MIB + 7);
    let larger = File::create(bench.path("larger.raw")).unwrap();
    larger.write_all_at(&fs::read(bench.path("disk.raw")).unwrap(), 0).unwrap();
    larger.set_len(SIZE + MIB).unwrap();
    bench.run(&["compare", "a.vmdk", "larger.raw"]).await.fails(5, &["the rest is zeros"]);
}

#[tokio::test]
async fn a_damaged_second_copy_is_mended_into_a_copy_and_lost_grains_are_not() {
    let bench = Bench::new();
    bench.convert("disk.raw", "monolithicSparse", "x.vmdk").await.succeeds();
    let path = bench.path("x.vmdk");
    let bytes = fs::read(&path).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (directory, redundant) = (u64::from(word(0x38)) * 512, u64::from(word(0x30)) * 512);
    patch(&path, directory, &[0xff; 4]);
    patch(&path, 0x48, &[1]);
    let outcome = bench.run(&["check", "x.vmdk"]).await.fails(5, &["0 corruptions, 2 mendable", "--repair"]);
    assert!(outcome.stdout.contains("uncleanShutdown"), "{}", outcome.stdout);
    let repair = ["check", "x.vmdk", "--repair", "y.vmdk", "--progress", "none"];
    bench.run(&repair).await.succeeds();
    bench.run(&["check", "y.vmdk"]).await.succeeds();
    bench.run(&["compare", "y.vmdk", "disk.raw"]).await.succeeds();
    bench.run(&repair).await.fails(6, &["y.vmdk exists"]);
    let ids = |info: Value| (info["format-specific"]["data"]["cid"].clone(), info["virtual-size"].clone());
    let (x, y) = (bench.run(&["info", "--json", "x.vmdk"]).await, bench.run(&["info", "--json", "y.vmdk"]).await);
    assert_eq!(ids(json(&x)), ids(json(&y)));
    patch(&path, redundant, &[0xff; 4]);
    let report = bench.run(&["check", "x.vmdk", "--json"]).await;
    assert_eq!(json(&report)["corruptions"], 1);
    let refused = ["check", "x.vmdk", "--repair", "z.vmdk", "--progress", "none"];
    bench.run(&refused).await.fails(5, &["cannot be mended without guessing", "nothing was written"]);
    assert!(!bench.path("z.vmdk").exists());
}

#[tokio::test]
async fn damaged_compressed_data_is_found_by_reading_it() {
    let bench = Bench::new();
    bench.convert("disk.raw", "streamOptimized", "x.vmdk").await.succeeds();
    patch(&bench.path("x.vmdk"), 65536 + 40, &[0xaa; 8]);
    bench.run(&["check", "x.vmdk"]).await.succeeds();
    let data = ["check", "x.vmdk", "--read-data", "--progress", "none"];
    bench.run(&data).await.fails(5, &["the compressed grain at byte 0x10000 of x.vmdk is damaged"]);
    bench.convert("x.vmdk", "raw", "y.raw").await.fails(5, &["x.vmdk", "damaged"]);
    assert_eq!(bench.names(), ["disk.raw", "x.vmdk"]);
}

#[tokio::test]
async fn formats_are_never_guessed_from_what_a_guest_may_have_written() {
    let bench = Bench::new();
    bench.convert("disk.raw", "monolithicFlat", "vm.vmdk").await.succeeds();
    // The guest writes a descriptor into its first sector, which names another file of the folder.
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW {} FLAT \"disk.raw\" 0\n",
        SIZE / 512
    );
    patch(&bench.path("vm-flat.vmdk"), 0, text.as_bytes());
    bench.run(&["info", "vm-flat.vmdk"]).await.fails(2, &["a guest wrote", "descriptor", "--from raw"]);
    let info = json(&bench.run(&["info", "vm-flat.vmdk", "--from", "raw", "--json"]).await.succeeds());
    assert_eq!((&info["format"], &info["virtual-size"]), (&Value::from("raw"), &Value::from(SIZE)));
    fs::copy(bench.path("vm-flat.vmdk"), bench.path("disk2")).unwrap();
    bench.run(&["info", "disk2"]).await.fails(2, &["does not tell its format", "--from"]);
}

#[tokio::test]
async fn files_outside_the_folder_are_opened_by_name_only() {
    let bench = Bench::new();
    fs::create_dir(bench.path("other")).unwrap();
    bench.convert("disk.raw", "vmfs", "other/base.vmdk").await.succeeds();
    let rdm = |extent: &str, create_type: &str| {
        let text = format!("version=1\nCID=1\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n{extent}\n");
        fs::write(bench.path("x.vmdk"), text).unwrap();
    };
    let sectors = SIZE / 512;
    let map = |name: &str| format!("{name}={}", bench.path("disk.raw").display());
    rdm(&format!("RW {sectors} VMFSRDM \"x-rdm.vmdk\""), "vmfsRawDeviceMap");
    bench.run(&["info", "x.vmdk"]).await.fails(4, &["stands for the device \"x-rdm.vmdk\"", "--map"]);
    bench.run(&["compare", "x.vmdk", "disk.raw", "--map", &map("x-rdm.vmdk")]).await.succeeds();
    rdm(&format!("RW {sectors} FLAT \"/dev/sda\" 0"), "fullDevice");
    bench.run(&["compare", "x.vmdk", "disk.raw", "--map", &map("/dev/sda")]).await.succeeds();
    bench.run(&["info", "x.vmdk"]).await.fails(4, &["/dev/sda"]);
    rdm(&format!("RW {sectors} FLAT \"/etc/passwd\" 0"), "monolithicFlat");
    bench.run(&["info", "x.vmdk", "--map", &map("/etc/passwd")]).await.fails(5, &["/etc/passwd", "path"]);
    rdm(&format!("RW {sectors} FLAT \"base-flat.vmdk\" 0"), "monolithicFlat");
    bench.run(&["info", "x.vmdk"]).await.fails(1, &["base-flat.vmdk", "--map"]);
    symlink(bench.path("other/base-flat.vmdk"), bench.path("base-flat.vmdk")).unwrap();
    bench.run(&["info", "x.vmdk"]).await.fails(5, &["symbolic link"]);
    let map = format!("base-flat.vmdk={}", bench.path("other/base-flat.vmdk").display());
    bench.run(&["compare", "x.vmdk", "disk.raw", "--map", &map]).await.succeeds();
}

#[tokio::test]
async fn a_parent_in_another_folder_has_its_files_there() {
    let bench = Bench::new();
    for folder in ["a", "b"] {
        fs::create_dir(bench.path(folder)).unwrap();
    }
    bench.convert("disk.raw", "monolithicFlat", "b/base.vmdk").await.succeeds();
    let create = ["create", "b/delta.vmdk", "--format", "monolithicSparse", "--parent", "b/base.vmdk"];
    bench.run(&create).await.succeeds();
    fs::rename(bench.path("b/delta.vmdk"), bench.path("a/delta.vmdk")).unwrap();
    // A file of the same name beside the delta is another disk's.
    fs::write(bench.path("a/base-flat.vmdk"), vec![7; SIZE as usize]).unwrap();
    bench.run(&["info", "a/delta.vmdk"]).await.fails(1, &["base.vmdk", "--map"]);
    let map = format!("base.vmdk={}", bench.path("b/base.vmdk").display());
    bench.run(&["compare", "a/delta.vmdk", "disk.raw", "--map", &map]).await.succeeds();
    bench.run(&["check", "a/delta.vmdk", "--map", &map]).await.succeeds();
    let entries = json(&bench.run(&["map", "a/delta.vmdk", "--map", &map, "--json"]).await.succeeds());
    assert!(entries[0]["filename"].as_str().unwrap().ends_with("b/base-flat.vmdk"), "{entries}");
    patch(&bench.path("a/delta.vmdk"), 0x48, &[1]);
    let repair = ["check", "a/delta.vmdk", "--map", &map, "--repair", "a/mended.vmdk", "--progress", "none"];
    bench.run(&repair).await.fails(2, &["does not lie beside"]);
}

#[tokio::test]
async fn a_parent_whose_content_id_stands_for_none_is_no_parent() {
    let bench = Bench::new();
    bench.convert("disk.raw", "monolithicFlat", "base.vmdk").await.succeeds();
    let text = fs::read_to_string(bench.path("base.vmdk")).unwrap();
    let line = text.lines().find(|line| line.starts_with("CID=")).unwrap();
    fs::write(bench.path("base.vmdk"), text.replace(line, "CID=ffffffff")).unwrap();
    let create = ["create", "delta.vmdk", "--format", "monolithicSparse", "--parent", "base.vmdk"];
    bench.run(&create).await.fails(4, &["content ID of the parent"]);
    let delta = text.replace(line, "CID=1\nparentFileNameHint=\"base.vmdk\"");
    fs::write(bench.path("delta.vmdk"), delta).unwrap();
    bench.run(&["info", "delta.vmdk"]).await.fails(5, &["names the parent \"base.vmdk\"", "ffffffff"]);
}

#[tokio::test]
async fn what_is_written_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    bench.convert("disk.raw", "twoGbMaxExtentSparse", "x.vmdk").await.succeeds();
    for name in ["x.vmdk", "x-s001.vmdk"] {
        assert_eq!(fs::metadata(bench.path(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn what_cannot_be_printed_is_an_error() {
    let bench = Bench::new();
    let mut command = stillframe(&["disk", "map", "disk.raw", "--json"]);
    command.current_dir(bench.home.path()).stdout(OpenOptions::new().write(true).open("/dev/full").unwrap());
    assert_eq!(command.status().await.unwrap().code(), Some(1));
}

#[tokio::test]
async fn nothing_is_overwritten_and_a_failed_conversion_leaves_nothing() {
    let bench = Bench::new();
    fs::write(bench.path("x-s001.vmdk"), "mine").unwrap();
    bench.convert("disk.raw", "twoGbMaxExtentSparse", "x.vmdk").await.fails(6, &["x-s001.vmdk exists"]);
    bench.convert("disk.raw", "raw", "disk.raw").await.fails(6, &["exists"]);
    bench.convert("disk.raw", "raw", "y.vmdk").await.fails(2, &["is to be raw"]);
    bench.convert("disk.raw", "vmfs", "y-flat.vmdk").await.fails(2, &["is to be a VMDK"]);
    assert_eq!(fs::read_to_string(bench.path("x-s001.vmdk")).unwrap(), "mine");
    bench.convert("nothing.vmdk", "raw", "x.raw").await.fails(1, &["nothing.vmdk"]);
    bench.convert("disk.raw", "monolithicSparse", "x.img").await.fails(2, &[".vmdk"]);
    bench.convert("disk.raw", "raw", "no/x.raw").await.fails(2, &["make it first"]);
    assert_eq!(bench.names(), ["disk.raw", "x-s001.vmdk"]);
    let odd = File::create(bench.path("odd.raw")).unwrap();
    odd.set_len(1000).unwrap();
    bench.convert("odd.raw", "monolithicSparse", "x.vmdk").await.fails(4, &["1000", "multiple of 512"]);
    assert_eq!(bench.names(), ["disk.raw", "odd.raw", "x-s001.vmdk"]);
}

/// A conversion that takes its time, and is at it.
async fn converting(bench: &Bench) -> tokio::process::Child {
    let large = File::create(bench.path("large.raw")).unwrap();
    for gap in 0..40 {
        large.write_all_at(&vec![gap as u8 + 1; 16 << 20], gap * (16 << 20)).unwrap();
    }
    let args = ["disk", "convert", "large.raw", "--format", "streamOptimized", "--level", "12", "-o", "x.vmdk"];
    let mut command = stillframe(&args);
    command.current_dir(bench.home.path()).env("STILLFRAME_STATE_DIR", bench.path("state"));
    let child = command.spawn().unwrap();
    for _ in 0..2000 {
        if bench.names().iter().any(|name| name.ends_with(".partial")) {
            return child;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("nothing was begun: {:?}", bench.names());
}

#[tokio::test]
async fn what_a_killed_conversion_left_is_removed_by_cleanup() {
    let bench = Bench::new();
    converting(&bench).await.kill().await.unwrap();
    assert!(bench.names().iter().any(|name| name.ends_with(".partial")), "{:?}", bench.names());
    let mut cleanup = stillframe(&["cleanup", "-y"]);
    cleanup.env("STILLFRAME_STATE_DIR", bench.path("state"));
    let outcome = finish(cleanup).await.succeeds();
    assert!(outcome.stdout.contains("undone: incomplete directory"), "{outcome:#?}");
    assert_eq!(bench.names(), ["disk.raw", "large.raw"]);
}

#[tokio::test]
async fn a_cancelled_conversion_leaves_nothing_and_says_so() {
    let bench = Bench::new();
    let child = converting(&bench).await;
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(bench.names(), ["disk.raw", "large.raw"]);
}

#[tokio::test]
async fn what_a_disk_was_made_for_survives_its_conversion() {
    let bench = Bench::new();
    let create = ["create", "a.vmdk", "--format", "monolithicFlat", "--size", "40M", "--adapter", "ide"];
    bench.run(&create).await.succeeds();
    let text = fs::read_to_string(bench.path("a.vmdk")).unwrap();
    let text = text.replace("virtualHWVersion = \"4\"", "virtualHWVersion = \"21\"");
    let more = "ddb.uuid = \"60 00 c2 93 7a 0f 9e 6e-3c 1f 9a b2 c3 d4 e5 f6\"\nddb.toolsVersion = \"12389\"\n";
    fs::write(bench.path("a.vmdk"), format!("{text}{more}")).unwrap();
    bench.convert("a.vmdk", "streamOptimized", "b.vmdk").await.succeeds();
    bench.convert("b.vmdk", "twoGbMaxExtentSparse", "c.vmdk").await.succeeds();
    let facts = |info: &Value| {
        let data = &info["format-specific"]["data"];
        ["adapter-type", "hardware-version", "tools-version", "uuid", "geometry"].map(|field| data[field].clone())
    };
    let (a, c) = (bench.run(&["info", "--json", "a.vmdk"]).await, bench.run(&["info", "--json", "c.vmdk"]).await);
    let (a, c) = (facts(&json(&a)), facts(&json(&c)));
    assert_eq!(a, c);
    assert_eq!((&a[0], &a[1], &a[2]), (&Value::from("ide"), &Value::from(21), &Value::from(12389)));
}
