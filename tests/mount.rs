//! The files of a guest under a mount: of a running VM, of images, and what is left when a process dies.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use acceptance::{Outcome, Stage, binary, finish, program, stillframe, vm_of};
use lab::face::{Fault, FaultKind};
use lab::world::{DiskSource, DiskSpec, VmSpec};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Whether this machine lets us mount, and the named programs are here. In CI both must be so.
fn able(programs: &[&str]) -> bool {
    let mounts = Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root();
    if !mounts {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "mounting takes root and /dev/fuse");
        eprintln!("skipped: mounting takes root and /dev/fuse");
    }
    mounts && programs.iter().all(|name| program(name).is_some())
}

fn maker(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/guestfs").join(name)
}

/// Runs a program of the peers; answers what it printed, and demands success.
fn run(program: &Path, args: &[&Path]) -> String {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = std::process::Command::new(program).args(args).env("PATH", path).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} {args:?}: {said}", program.display());
    said
}

/// A directory that is unmounted whatever happens to the test.
struct Point(PathBuf);

impl Point {
    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        let quiet = std::process::Stdio::null;
        drop(std::process::Command::new("umount").arg("-l").arg(&self.0).stderr(quiet()).stdout(quiet()).status());
    }
}

/// The disks of a Windows machine, and what is on them.
struct Windows {
    folder: TempDir,
    truth: Value,
}

impl Windows {
    fn make() -> Self {
        let folder = TempDir::new().unwrap();
        let stem = folder.path().join("win");
        run(&maker("make_windows_disk.py"), &[&stem]);
        let truth = fs::read(stem.with_extension("truth.json")).unwrap();
        Self { folder, truth: serde_json::from_slice(&truth).unwrap() }
    }

    fn disks(&self) -> [PathBuf; 2] {
        ["win1.raw", "win2.raw"].map(|name| self.folder.path().join(name))
    }

    fn volumes(&self) -> impl Iterator<Item = &Value> {
        let disks = self.truth["disks"].as_array().unwrap();
        disks.iter().flat_map(|disk| disk["volumes"].as_array().unwrap())
    }

    /// A VM with these disks.
    fn vm(&self) -> VmSpec {
        let disks = self.disks().map(|disk| DiskSpec { source: DiskSource::RawFile(disk) });
        VmSpec { disks: disks.into(), ..vm_of("windows", Path::new("")) }
    }
}

fn sha256(path: &Path) -> String {
    let mut file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (mut hash, mut buf) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buf).unwrap() {
            0 => return hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            len => hash.update(&buf[..len]),
        }
    }
}

/// Everything that the truth says is under its letter and its number; what cannot be read is named in the report.
fn check_windows(tree: &Path, windows: &Windows) {
    let report: Value = serde_json::from_slice(&fs::read(tree.join(".stillframe/report.json")).unwrap()).unwrap();
    let reported = report["volumes"].as_array().unwrap();
    let mut letters = Vec::new();
    for (volume, reported) in windows.volumes().zip(reported) {
        let number = volume["number"].as_u64().unwrap();
        assert_eq!(reported["number"].as_u64(), Some(number));
        assert_eq!(reported["kind"], volume["kind"], "volume {number}");
        assert_eq!(reported["letter"], volume["letter"], "volume {number}");
        let by_number = tree.join(format!("digits/{number}"));
        let files = volume["files"].as_object().unwrap();
        assert_eq!(by_number.exists(), !files.is_empty(), "volume {number}");
        assert_eq!(reported["unreadable"].is_null(), !files.is_empty(), "volume {number}");
        let mut roots = vec![by_number];
        if let Some(letter) = volume["letter"].as_str().filter(|_| !files.is_empty()) {
            letters.push(letter.to_owned());
            roots.push(tree.join("letters").join(letter));
        }
        for (path, facts) in files {
            for root in &roots {
                let path = root.join(path);
                assert_eq!(fs::metadata(&path).unwrap().len(), facts["size"].as_u64().unwrap(), "{}", path.display());
                assert_eq!(sha256(&path), facts["sha256"].as_str().unwrap(), "{}", path.display());
            }
        }
    }
    letters.sort();
    assert_eq!(names_in(&tree.join("letters")), letters);
    // A volume that is mounted on a folder is there too, and links lead to where they lead in the guest.
    assert_eq!(fs::read(tree.join("letters/C/mnt/data/number.txt")).unwrap(), b"volume 5\n");
    assert_eq!(fs::read_link(tree.join("letters/C/to-d")).unwrap(), Path::new("../../letters/D/docs"));
    let gone = fs::read_link(tree.join("letters/C/to-nothing")).unwrap();
    assert!(!gone.as_os_str().as_bytes().contains(&b'/'), "{}", gone.display());
}

fn names_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// The program without a hypervisor, its state in `folder`.
async fn local(folder: &Path, args: &[&str]) -> Outcome {
    let mut command = stillframe(args);
    command.env("STILLFRAME_STATE_DIR", folder.join("state"));
    finish(command).await
}

/// The processes at work for runs of a state directory, by their hidden command: those that hold its journals, and what these started.
fn processes(state: &Path, command: &str) -> Vec<rustix::process::Pid> {
    let journals = fs::read_dir(state.join("journal")).into_iter().flatten().flatten();
    let heads = journals.filter_map(|journal| {
        let text = fs::read_to_string(journal.path()).ok()?;
        serde_json::from_str::<Value>(text.lines().next()?).ok()?["pid"].as_i64()
    });
    let heads: Vec<i64> = heads.collect();
    let parent_of = |pid: i64| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<i64>().ok())
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i64>().ok());
    let ours = |pid: &i64| heads.contains(pid) || parent_of(*pid).is_some_and(|parent| heads.contains(&parent));
    let is_it = |pid: &i64| {
        let said = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        said.windows(command.len()).any(|part| part == command.as_bytes())
    };
    let found = pids.filter(ours).filter(is_it);
    found.filter_map(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).unwrap())).collect()
}

/// Waits until something is so; the runner's limit ends a wait that is in vain.
async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_volumes_of_a_vm_are_under_the_letters_that_its_registry_gave_them() {
    if !able(&["ntfs-3g", "mkfs.exfat", "mount.exfat-fuse", "mcopy"]) {
        return;
    }
    let windows = Windows::make();
    let vm = windows.vm();
    let stage = Stage::empty(move |world| drop(world.add_vm(&vm).unwrap())).await;
    let point = Point(stage.out("windows"));
    let mounted = stage.run(&["mount", "name:windows", "-o", point.text(), "--json"]).await.succeeds();
    let report: Value = serde_json::from_str(&mounted.stdout).unwrap();
    assert_eq!(stage.snapshots("windows").len(), 1);
    assert!(report["snapshot"].as_str().unwrap().contains(&stage.snapshots("windows")[0].id.to_string()));
    // A chroot or a container may keep it from a root of its own; the rest suffices without.
    let layers = report["sandbox"].as_array().unwrap();
    let holds =
        |layer: &&Value| layer["holds"] == true || ["namespaces", "root"].contains(&layer["name"].as_str().unwrap());
    assert!(layers.len() == 7 && layers.iter().all(|layer| holds(&layer)), "{report:#}");
    check_windows(&point.0, &windows);
    stage.run(&["unmount", point.text()]).await.succeeds();
    assert!(stage.snapshots("windows").is_empty() && stage.out_names().is_empty());
    // The second time there is nothing to do.
    stage.run(&["unmount", point.text()]).await.succeeds();
    assert_eq!(stage.leftovers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_backups_are_mounted_without_a_hypervisor() {
    if !able(&["ntfs-3g", "mkfs.exfat", "mount.exfat-fuse", "mcopy"]) {
        return;
    }
    let windows = Windows::make();
    let vm = windows.vm();
    let stage = Stage::empty(move |world| drop(world.add_vm(&vm).unwrap())).await;
    let point = Point(stage.out("files"));
    let [first, second] = windows.disks().map(|disk| disk.to_str().unwrap().to_owned());
    let home = stage.home.path();
    local(home, &["mount", "--image", &first, "--image", &second, point.text()]).await.succeeds();
    check_windows(&point.0, &windows);
    // What is there already is left alone.
    local(home, &["mount", "--image", &first, point.text()]).await.fails(6, &["is a mount already"]);
    local(home, &["unmount", point.text()]).await.succeeds();
    stage.backup("name:windows", "backup", &["--format", "twoGbMaxExtentSparse"]).await.succeeds();
    let backup = stage.out("backup");
    local(home, &["mount", "--image", backup.to_str().unwrap(), point.text()]).await.succeeds();
    check_windows(&point.0, &windows);
    local(home, &["unmount", point.text()]).await.succeeds();
    // VCB's own tool for one disk of an image.
    let disk = names_in(&backup)
        .into_iter()
        .find(|name| name.starts_with("scsi0-0") && name.ends_with(".vmdk") && !name.contains("-s0"))
        .unwrap();
    let disk = backup.join(disk);
    local(home, &["mountvm", "-d", disk.to_str().unwrap(), "-cycleId", point.text()]).await.succeeds();
    assert_eq!(fs::read(point.0.join("letters/C/number.txt")).unwrap(), b"volume 2\n");
    local(home, &["mountvm", "-u", point.text()]).await.succeeds();
    assert!(!point.0.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_while_the_guest_writes_on_is_what_was_frozen() {
    if !able(&[]) {
        return;
    }
    let stage = Stage::demo().await;
    let vm = "Windows Server 01";
    let point = Point(stage.out("live"));
    stage.run(&["mount", &format!("name:{vm}"), "-o", point.text(), "--quiesce", "require"]).await.succeeds();
    let log = point.0.join("letters/C/ProgramData/Guest/guest.log");
    let first = sha256(&log);
    let id = stage.vm(vm).id;
    let before = stage.committed(&id);
    until(|| stage.committed(&id) > before + 20).await;
    // Read again from the disk, not from the kernel's memory.
    rustix::fs::fadvise(fs::File::open(&log).unwrap(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert_eq!(sha256(&log), first);
    for (spec, words) in [("mount", "another backup"), ("backup", "another backup")] {
        let other = stage.out("other");
        let other = other.to_str().unwrap();
        stage.run(&[spec, &format!("name:{vm}"), "-o", other]).await.fails(6, &[words]);
    }
    assert_eq!(sha256(&log), first, "the refused ones did no harm");
    stage.run(&["unmount", point.text()]).await.succeeds();
    assert!(stage.snapshots(vm).is_empty());
    stage.backup(&format!("name:{vm}"), "after", &[]).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_without_a_readable_volume_is_refused_with_their_names_and_nothing_is_left() {
    if !able(&[]) {
        return;
    }
    let stage = Stage::demo().await;
    let point = Point(stage.out("linux"));
    let mounted = stage.run(&["mount", "name:linux-01", "-o", point.text()]).await;
    mounted.fails(4, &["no volume can be read", "ext4"]);
    assert!(stage.snapshots("linux-01").is_empty() && stage.out_names().is_empty());
    assert_eq!(stage.leftovers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn vcb_mounter_mounts_files_and_takes_them_down_twice() {
    if !able(&[]) {
        return;
    }
    let stage = Stage::demo().await;
    let point = Point(stage.out("vcb"));
    let identity = stage.world().identity();
    let host = stage.lab.address().to_string();
    let mut mounter = stillframe(&["vcbMounter", "-h", &host, "-u", &identity.user, "-p", &identity.password]);
    mounter.args(["-a", "name:Windows Server 01", "-r", point.text(), "-t", "file", "-m", "nbdssl", "-M", "1"]);
    mounter.env("STILLFRAME_STATE_DIR", stage.home.path().join("state"));
    mounter.env("STILLFRAME_THUMBPRINT", stage.lab.sha256());
    finish(mounter).await.succeeds();
    assert_eq!(names_in(&point.0.join("letters")), ["C", "D"]);
    assert!(point.0.join("digits/2").is_dir());
    let lasting = processes(&stage.home.path().join("state"), "mount-");
    assert_eq!(lasting.len(), 2, "keeper and server");
    for process in lasting {
        let pid = process.as_raw_nonzero();
        let secret = identity.password.as_bytes();
        for file in ["cmdline", "environ"] {
            let said = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default(); // a locked-in one shows none
            assert!(!said.windows(secret.len()).any(|part| part == secret), "the password shows in {file}");
        }
        // Nothing of the caller's stays open in it: sockets, pipes of its own, the device, its log.
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            let shown = fs::read_link(entry.unwrap().path()).unwrap_or_default();
            assert!(!shown.to_string_lossy().contains("memfd"), "{}", shown.display());
        }
    }
    for _ in 0..2 {
        stage.run(&["vcbMounter", "-U", "-r", point.text()]).await.succeeds();
        assert!(stage.snapshots("Windows Server 01").is_empty() && !point.0.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_or_keeper_leaves_nothing_that_stays() {
    if !able(&[]) {
        return;
    }
    let stage = Stage::demo().await;
    let (vm, state) = ("Windows Server 01", stage.home.path().join("state"));
    let kill = |command: &str| {
        let found = processes(&state, command);
        assert_eq!(found.len(), 1, "{command}");
        rustix::process::kill_process(found[0], rustix::process::Signal::KILL).unwrap();
    };
    let point = Point(stage.out("killed"));
    let mount = ["mount", &format!("name:{vm}"), "-o", point.text()];
    // The keeper sees to what the server left, by itself.
    stage.run(&mount).await.succeeds();
    kill("mount-server");
    until(|| stage.snapshots(vm).is_empty() && processes(&state, "mount-keeper").is_empty()).await;
    stage.run(&["unmount", point.text()]).await.succeeds();
    // A plain umount ends the run as well, snapshot and all.
    stage.run(&mount).await.succeeds();
    run(Path::new("umount"), &[&point.0]);
    until(|| stage.snapshots(vm).is_empty() && processes(&state, "mount-keeper").is_empty()).await;
    stage.run(&["unmount", point.text()]).await.succeeds();
    // What the keeper left is for a cleanup: reads fail until then, and never give zeros.
    stage.run(&mount).await.succeeds();
    kill("mount-keeper");
    until(|| processes(&state, "mount-keeper").is_empty()).await;
    let read = fs::read(point.0.join("letters/C/Data/customers.csv"));
    assert!(read.is_err() || !read.unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(stage.snapshots(vm).len(), 1);
    stage.run(&["cleanup", "-y"]).await.succeeds();
    until(|| processes(&state, "mount-server").is_empty()).await;
    assert!(stage.snapshots(vm).is_empty() && stage.out_names().is_empty());
    // The next run is not hindered.
    stage.run(&mount).await.succeeds();
    stage.run(&["unmount", point.text()]).await.succeeds();
    assert!(stage.leftovers().is_empty() && stage.snapshots(vm).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_transport_dies_reads_fail_and_the_mount_can_be_taken_down() {
    if !able(&["mkntfs", "ntfs-3g"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let raw = folder.path().join("disk.raw");
    run(&maker("make_ntfs.py"), &[Path::new("sparse"), &raw]);
    let vm = vm_of("dying", &raw);
    let stage = Stage::empty(move |world| drop(world.add_vm(&vm).unwrap())).await;
    let point = Point(stage.out("dying"));
    stage.run(&["mount", "name:dying", "-o", point.text()]).await.succeeds();
    let file = point.0.join("digits/1/sparse/holes-between");
    let size = fs::metadata(&file).unwrap().len();
    assert!(size > 8 << 20);
    stage.lab.faults().arm(Fault { kind: FaultKind::DropConnection { after_bytes: 0 }, times: 100_000 });
    let error = fs::read(&file).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    stage.lab.faults().clear();
    assert_eq!(u64::try_from(fs::read(&file).unwrap().len()).unwrap(), size, "it comes back with the transport");
    let unmounted = stage.run(&["unmount", point.text()]).await.succeeds();
    assert!(unmounted.stdout.contains("reading"), "the errors are told: {unmounted:#?}");
    assert!(stage.snapshots("dying").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_removed_makes_unmounting_red() {
    if !able(&[]) {
        return;
    }
    let stage = Stage::demo().await;
    let point = Point(stage.out("left"));
    let vm = "Windows Server 01";
    let mount = ["mount", &format!("name:{vm}"), "-o", point.text(), "--retries", "1", "--backoff", "0"];
    stage.run(&mount).await.succeeds();
    stage.lab.faults().arm(Fault { kind: FaultKind::SnapshotRemoveFails, times: 10 });
    stage.run(&["unmount", point.text()]).await.fails(8, &["snapshot", "cleanup"]);
    assert!(!point.0.exists(), "the mount itself is gone");
    stage.lab.faults().clear();
    stage.run(&["cleanup", "-y"]).await.succeeds();
    assert!(stage.snapshots(vm).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_vanished_while_it_was_read_makes_unmounting_red() {
    if !able(&[]) {
        return;
    }
    let stage = Stage::demo().await;
    let point = Point(stage.out("vanished"));
    let vm = "Windows Server 01";
    stage.run(&["mount", &format!("name:{vm}"), "-o", point.text()]).await.succeeds();
    let snapshot = stage.snapshots(vm)[0].id.clone();
    stage.world().remove_snapshot(&snapshot).unwrap();
    stage.run(&["unmount", point.text()]).await.fails(5, &["vanished", "cannot be trusted"]);
    assert!(!point.0.exists());
    assert_eq!(stage.leftovers(), [""; 0]);
}

#[test]
fn ntfs_3g_the_truth_and_backup_products_see_what_we_show() {
    let programs = ["ntfs-3g", "mkntfs", "wimlib-imagex", "tar", "rsync", "restic", "borg"];
    if !able(&programs) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let image = folder.path().join("small.img");
    run(&maker("make_ntfs.py"), &[Path::new("small"), &image]);
    let ours = Point(folder.path().join("ours"));
    let theirs = Point(folder.path().join("theirs"));
    let state = folder.path().join("state");
    let call = |args: &[&Path]| {
        let output =
            std::process::Command::new(binary()).args(args).env("STILLFRAME_STATE_DIR", &state).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let word = Path::new;
    call(&[word("mount"), word("--image"), &image, &ours.0]);
    fs::create_dir(&theirs.0).unwrap();
    run(word("ntfs-3g"), &[word("-o"), word("ro,streams_interface=xattr"), &image, &theirs.0]);
    let tree = ours.0.join("digits/1");
    let truth = folder.path().join("small.img.truth.json");
    run(&maker("compare_trees.py"), &[&tree, &theirs.0, word("--xattrs"), word("--truth"), &truth]);
    run(&maker("products.sh"), &[&tree]);
    call(&[word("unmount"), &ours.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fs_commands_read_without_a_mount() {
    if !able(&["ntfs-3g", "mkfs.exfat", "mount.exfat-fuse", "mcopy"]) {
        return;
    }
    let windows = Windows::make();
    let home = windows.folder.path();
    let [first, second] = windows.disks().map(|disk| disk.to_str().unwrap().to_owned());
    let listed = local(home, &["fs", "ls", &first, &second, r"c:\windows"]).await.succeeds();
    assert!(listed.stdout.contains("notepad.exe") && listed.stdout.contains("System32"), "{}", listed.stdout);
    let read = local(home, &["fs", "cat", &first, "letters/C/Users/me/letter.txt"]).await.succeeds();
    assert_eq!(read.stdout.len(), 5000);
    let found = local(home, &["fs", "find", &first, &second, "--name", "*.EXE"]).await.succeeds();
    assert!(found.stdout.contains("letters/C/Windows/notepad.exe"), "{}", found.stdout);
    let told = local(home, &["fs", "stat", &first, "C:/Windows/notepad.exe", "--json"]).await.succeeds();
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(told["size"].as_u64(), Some(100_002), "{told:#}");
    local(home, &["fs", "verify", &first, &second, "--progress", "none"]).await.succeeds();
    local(home, &["fs", "cat", &first, r"C:\no\such"]).await.fails(2, &["no"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn eighty_mounts_at_once_all_answer_and_stay_small() {
    if !able(&["mkntfs", "ntfs-3g"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let image = folder.path().join("tiny.img");
    run(&maker("make_ntfs.py"), &[Path::new("sizes"), &image]);
    let points: Vec<Point> = (0..80).map(|number| Point(folder.path().join(number.to_string()))).collect();
    for point in &points {
        local(folder.path(), &["mount", "--image", image.to_str().unwrap(), point.text()]).await.succeeds();
    }
    let files: BTreeMap<_, _> =
        points.iter().map(|point| (point.text(), names_in(&point.0.join("letters/C/sizes")).len())).collect();
    assert!(files.values().all(|count| *count == files[points[0].text()] && *count > 10), "{files:?}");
    let servers = processes(&folder.path().join("state"), "mount-server");
    assert_eq!(servers.len(), points.len());
    for process in servers {
        // What it shares with others of its kind counts once for the machine, not once for each.
        let pid = process.as_raw_nonzero();
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let kib = |name: &str| {
            let line = maps.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0)
        };
        let own = kib("Private_Clean:") + kib("Private_Dirty:");
        assert!(own < 24 << 10, "{own} KiB of its own");
    }
    for point in &points {
        local(folder.path(), &["unmount", point.text()]).await.succeeds();
    }
}
