use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use blockdev::{ByteOffset, MemDisk, ReadAt};
use nix::mount::{MntFlags, umount2};
use rustix::fs::FileType;
use rustix::process::{Pid, Signal, kill_process};

use super::memory::{Content, Memory};
use super::{guest, may_mount};
use crate::config::StateDir;
use crate::error::Family;
use crate::job::{Cancel, CleanupReport, Progress, Retry, RunId, runs, undo_run};
use crate::mount::{Disks, Guest, MountSpec, Program, Started, link, open_disks, server_main_with, start, unmount};

fn shown(spec: &MountSpec, disks: &Disks) -> Guest {
    let mut memory = Memory::new();
    for (name, disk) in disks {
        let mut bytes = vec![0; disk.size().to_usize().unwrap()];
        disk.read_exact_at(ByteOffset(0), &mut bytes).unwrap();
        memory.add(name, Content::Bytes(bytes));
    }
    memory.add("file.txt", Content::Bytes(b"hello".to_vec()));
    memory.add("big", Content::Pattern(64 << 20));
    memory.add("torn", Content::Torn(1 << 20));
    let content = if spec.source == "nothing" { None } else { Some(memory) };
    guest(vec![content], &[('C', 1)])
}

/// No test, but the server that the others start: this program again, with a socket as its standard input.
#[test]
fn serves_when_told_to() {
    let stat = rustix::fs::fstat(std::io::stdin()).unwrap();
    if !FileType::from_raw_mode(stat.st_mode).is_socket() || !std::env::args().any(|arg| arg == "--exact") {
        return;
    }
    let told = std::cell::RefCell::new(None);
    let open = |spec: &MountSpec, streams: Vec<UnixStream>| {
        told.replace(Some(spec.clone()));
        if streams.is_empty() { Ok(Vec::new()) } else { open_disks(spec, streams) }
    };
    let code = server_main_with(open, |disks, _| shown(told.borrow().as_ref().unwrap(), &disks));
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
}

struct Place {
    folder: tempfile::TempDir,
    spec: MountSpec,
    state: StateDir,
}

impl Place {
    fn new(source: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::at(&folder.path().join("state")).unwrap();
        let directory = folder.path().join("mnt");
        let spec = MountSpec {
            run: RunId::new(),
            state: state.path().to_owned(),
            command: "mount".into(),
            images: Vec::new(),
            source: source.into(),
            directory,
            ..MountSpec::default()
        };
        Self { folder, spec, state }
    }

    async fn start(&self) -> crate::Result<Started> {
        self.start_with(Vec::new(), &Cancel::never()).await
    }

    async fn start_with(&self, links: Vec<UnixStream>, cancel: &Cancel) -> crate::Result<Started> {
        let name = "mount::tests::process::serves_when_told_to";
        let arguments = ["--exact", name, "--nocapture", "--test-threads=1"].map(str::to_owned).into();
        let program = Program { path: std::env::current_exe().unwrap(), arguments };
        start(&self.spec, &program, links, cancel).await
    }

    async fn unmount(&self, force: bool) -> crate::Result<crate::mount::Unmounted> {
        unmount(&self.state, &self.spec.directory, force, &Progress::silent()).await
    }

    fn journals(&self) -> Vec<PathBuf> {
        fs::read_dir(self.state.journals()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn server(&self) -> Pid {
        let journal = fs::read_to_string(&self.journals()[0]).unwrap();
        let head: serde_json::Value = serde_json::from_str(journal.lines().next().unwrap()).unwrap();
        Pid::from_raw(i32::try_from(head["pid"].as_i64().unwrap()).unwrap()).unwrap()
    }

    fn is_clean(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        !self.spec.directory.exists() && self.journals().is_empty() && !table.contains(&self.spec.run.to_string())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = umount2(&self.spec.directory, MntFlags::MNT_DETACH); // only there if the test failed
    }
}

#[tokio::test]
async fn a_mount_lives_in_a_locked_in_process_and_leaves_nothing() {
    if !may_mount() {
        return;
    }
    let place = Place::new("disk");
    let started = place.start().await.unwrap();
    let file = |name: &str| place.spec.directory.join(name);
    assert_eq!(fs::read(file("letters/C/file.txt")).unwrap(), b"hello");
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(file(".stillframe/report.json")).unwrap()).unwrap();
    assert_eq!(report["volumes"][0]["letter"], "C");
    assert!(fs::read_to_string(file(".stillframe/report.txt")).unwrap().contains("letters/C"));
    // As root every layer holds that this kernel has.
    let broken: Vec<_> = started.report.sandbox.iter().filter(|layer| !layer.holds).collect();
    assert_eq!(started.report.warnings.len(), broken.len());
    eprintln!("layers that this machine lacks: {broken:?}");
    let server = place.server();
    let worker = worker(server);
    let status = fs::read_to_string(worker.join("status")).unwrap();
    for expected in ["Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(expected), "{expected} in {status}");
    }
    assert!(fs::read_dir(worker.join("root/")).unwrap().next().is_none());
    assert_eq!(fs::read(file("letters/C/big")).unwrap().len(), 64 << 20);
    eprintln!("the server takes {} KiB for itself", private_kib(server));
    assert!(private_kib(server) < 24 << 10, "{} KiB", private_kib(server));
    let again = place.start().await.map(|_| ()).unwrap_err();
    assert_eq!(again.family(), Family::Exists);
    fs::read(file("letters/C/torn")).unwrap_err();
    let unmounted = place.unmount(false).await.unwrap();
    assert!(unmounted.was_mounted && unmounted.errors[0].contains("a torn run"), "{unmounted:?}");
    assert!(place.is_clean());
    assert!(!place.unmount(false).await.unwrap().was_mounted);
}

/// A thread that serves. The first thread of a test program does not.
fn worker(server: Pid) -> PathBuf {
    let threads = fs::read_dir(format!("/proc/{}/task", server.as_raw_nonzero())).unwrap();
    let mut threads = threads.map(|thread| thread.unwrap().path());
    threads.find(|thread| fs::read_to_string(thread.join("comm")).unwrap().starts_with("fuser-")).unwrap()
}

/// What the process takes for itself alone.
fn private_kib(process: Pid) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.as_raw_nonzero())).unwrap();
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    private.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn a_killed_server_is_cleaned_up_by_unmount_and_by_cleanup() {
    if !may_mount() {
        return;
    }
    for by_cleanup in [false, true] {
        let place = Place::new("disk");
        let mut started = place.start().await.unwrap();
        kill_process(place.server(), Signal::KILL).unwrap();
        started.wait_for_test();
        let error = fs::read_dir(&place.spec.directory).map(|_| ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENOTCONN));
        if by_cleanup {
            let mut report = CleanupReport::default();
            for dead in runs(&place.state).unwrap().dead {
                undo_run(dead, None, Retry::ONCE, &mut report).await.unwrap();
            }
            assert_eq!((report.undone.len(), report.left.len()), (1, 0));
        } else {
            assert!(place.unmount(false).await.unwrap().was_mounted);
        }
        assert!(place.is_clean());
    }
}

#[tokio::test]
async fn disks_of_another_process_are_read_from_within_the_lock_in() {
    if !may_mount() {
        return;
    }
    let mut place = Place::new("linked");
    place.spec.kept = vec!["disk0".into(), "disk1".into()];
    let connection = |_| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let kept: Vec<Arc<dyn ReadAt>> =
            vec![Arc::new(MemDisk::new(vec![1; 3 << 20])), Arc::new(MemDisk::new(vec![2]))];
        std::thread::spawn(move || link::serve_disks(ours, &kept));
        theirs
    };
    let started = place.start_with((0..2).map(connection).collect(), &Cancel::never()).await.unwrap();
    let file = |name: &str| fs::read(place.spec.directory.join("letters/C").join(name)).unwrap();
    assert_eq!((file("disk0"), file("disk1")), (vec![1; 3 << 20], vec![2]));
    // Who keeps the disks has the journal, and undoes the rest.
    assert!(place.journals().is_empty());
    let refused = place.unmount(false).await.unwrap_err();
    assert!(refused.family() == Family::Usage && refused.line().contains("STILLFRAME_STATE_DIR"), "{}", refused.line());
    assert!(place.unmount(true).await.unwrap().was_mounted);
    started.ended(place.spec.run, &place.spec.directory, &Cancel::never()).await.unwrap();
    crate::mount::undo(place.spec.run, &place.spec.directory, true).unwrap();
    assert!(place.is_clean());
}

#[tokio::test]
async fn a_mount_in_use_is_busy_unless_forced() {
    if !may_mount() {
        return;
    }
    let place = Place::new("disk");
    let _started = place.start().await.unwrap();
    let open = File::open(place.spec.directory.join("letters/C/file.txt")).unwrap();
    let error = place.unmount(false).await.unwrap_err();
    assert!(error.family() == Family::Failed && error.line().contains("--force"), "{}", error.line());
    assert!(error.line().contains(&format!("({})", std::process::id())), "{}", error.line());
    let (forced, ()) = tokio::join!(place.unmount(true), async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        drop(open);
    });
    assert!(forced.unwrap().was_mounted && place.is_clean());
}

#[tokio::test]
async fn where_nothing_can_be_read_nothing_is_left() {
    if !may_mount() {
        return;
    }
    let place = Place::new("nothing");
    let error = place.start().await.map(|_| ()).unwrap_err();
    assert!(error.family() == Family::Corrupt && error.line().contains("it is of no use"), "{}", error.line());
    assert!(place.is_clean());
}

#[tokio::test]
async fn a_cancel_before_the_mount_is_ready_leaves_nothing() {
    let place = Place::new("disk");
    let (wish, cancel) = Cancel::by_hand();
    wish.send(true).unwrap();
    let error = place.start_with(Vec::new(), &cancel).await.map(|_| ()).unwrap_err();
    assert_eq!(error.family(), Family::Cancelled, "{}", error.line());
    assert!(place.is_clean());
}

#[tokio::test]
async fn only_a_free_place_is_mounted_on_and_nothing_else_unmounted() {
    let place = Place::new("disk");
    let family = async |directory: &Path| {
        let mut tried = Place::new("disk");
        directory.clone_into(&mut tried.spec.directory);
        let family = tried.start().await.map(|_| ()).unwrap_err().family();
        tried.spec.directory = tried.folder.path().join("mnt"); // what is named is not to be unmounted
        family
    };
    let full = place.folder.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("x"), "x").unwrap();
    assert_eq!(family(&full).await, Family::Exists);
    assert_eq!(family(&full.join("x")).await, Family::Exists);
    assert_eq!(family(Path::new("/proc")).await, Family::Exists);
    assert_eq!(family(&place.folder.path().join("no/parent")).await, Family::Usage);
    let refused =
        async |path: &Path| unmount(&place.state, path, false, &Progress::silent()).await.unwrap_err().family();
    assert_eq!((refused(&full).await, refused(Path::new("/proc")).await), (Family::Usage, Family::Usage));
    assert_eq!(fs::read(full.join("x")).unwrap(), b"x");
}
