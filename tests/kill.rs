//! kill -9 at any moment of a backup: a cleanup puts everything right, nobody else's things are touched, and the next backup succeeds.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use acceptance::{Stage, vm_of};
use lab::face::Options;
use lab::world::{Template, VmSpec};

const VM: &str = "victim";
const SPEC: &str = "name:victim";
/// Kills per test; four tests run side by side.
const KILLS: u32 = 50;

/// Random numbers (SplitMix64) from a seed that is printed, or given in `STILLFRAME_KILL_SEED`.
struct Random(u64);

impl Random {
    fn new(test: u64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let seed = match std::env::var("STILLFRAME_KILL_SEED") {
            Ok(given) => given.parse().unwrap(),
            Err(_) => (now as u64).wrapping_add(test),
        };
        println!("STILLFRAME_KILL_SEED={seed}");
        Self(seed)
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// A running VM of 24 MiB with a guest that writes, and a snapshot that somebody made before.
async fn stage() -> Stage {
    let raws = tempfile::tempdir().unwrap();
    let raw = raws.path().join("disk.raw");
    make_disk(&raw);
    let fill = move |world: &lab::world::World| {
        let spec = VmSpec { power_on: true, tools: true, change_tracking: true, ..vm_of(VM, &raw) };
        let vm = world.add_vm(&spec).unwrap();
        world.create_snapshot(&vm, "before the update", "by hand", false).unwrap();
    };
    Stage::with(Template::Empty, Options::default(), fill).await
}

fn make_disk(raw: &Path) {
    let mut random = Random(7);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.below(256) as u8).take(12 << 20).collect();
    let file = File::create(raw).unwrap();
    file.set_len(24 << 20).unwrap();
    file.write_all_at(&noise, 8 << 20).unwrap();
    file.write_all_at(&lab::guest::log_file(64), 1 << 20).unwrap();
}

/// Starts a backup and kills it after `delay`. False if it was over before.
async fn kill_after(stage: &Stage, name: &str, delay: Duration) -> bool {
    let out = stage.out(name);
    let args = ["backup", SPEC, "-o", &out.to_string_lossy(), "--progress", "none"];
    let mut child = stage.command(&args).spawn().unwrap();
    tokio::time::sleep(delay).await;
    let over = child.try_wait().unwrap().is_some();
    child.kill().await.unwrap();
    !over
}

/// Cleans up; a second call is allowed only if the first one said that it is needed.
async fn clean_up(stage: &Stage) {
    let first = stage.run(&["cleanup", "-y"]).await;
    if first.code != 0 {
        let first = first.fails(8, &["are left", "run it again"]);
        println!("  a second cleanup: {}", first.message());
        stage.run(&["cleanup", "-y"]).await.succeeds();
    }
}

/// What must hold after each kill and its cleanup.
async fn is_clean(stage: &Stage, name: &str) {
    let mut left = stage.leftovers();
    // A journal that was killed before it had its name speaks of nothing.
    left.retain(|left| !left.ends_with(".new"));
    assert_eq!(left, [""; 0]);
    let snapshots: Vec<_> = stage.snapshots(VM).into_iter().map(|snapshot| snapshot.name).collect();
    assert_eq!(snapshots, ["before the update"]);
    let out = stage.out(name);
    if out.exists() {
        stage.run(&["verify", &out.to_string_lossy(), "--progress", "none"]).await.succeeds();
        fs::remove_dir_all(&out).unwrap();
    }
    assert_eq!(stage.out_names(), [""; 0]);
    let vm = stage.vm(VM).id;
    let before = stage.committed(&vm);
    for _ in 0..1000 {
        if stage.committed(&vm) > before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the guest does not write any more");
}

/// Backs the VM up to the end; how long that took and a tenth more, in microseconds.
async fn measured(stage: &Stage, name: &str) -> u64 {
    let began = Instant::now();
    stage.backup(SPEC, name, &["--quiesce", "require"]).await.succeeds();
    u64::try_from(began.elapsed().as_micros() * 11 / 10).unwrap()
}

async fn kill_at_random_moments(test: u64) {
    let mut random = Random::new(test);
    let stage = stage().await;
    // The first one fills caches; the second one tells how long it takes.
    stage.backup(SPEC, "warm", &[]).await.succeeds();
    let mut whole = measured(&stage, "measured").await;
    for name in ["warm", "measured"] {
        fs::remove_dir_all(stage.out(name)).unwrap();
    }
    let (mut killed, mut with_snapshot, mut finished) = (0, 0, 0);
    for round in 1..=KILLS {
        let delay = Duration::from_micros(random.below(whole));
        let name = format!("round {round}");
        let alive = kill_after(&stage, &name, delay).await;
        killed += u32::from(alive);
        with_snapshot += stage.ours(VM).len();
        finished += u32::from(stage.out(&name).exists());
        println!(
            "{round}: {delay:?} {} {:?} {:?}",
            if alive { "killed" } else { "over" },
            stage.leftovers(),
            stage.out_names()
        );
        clean_up(&stage).await;
        is_clean(&stage, &name).await;
        if round % 10 == 0 {
            let name = format!("after {round}");
            whole = measured(&stage, &name).await;
            let wrong = stage.faults_of(VM, &stage.out(&name), stage.frozen_at()).await;
            assert!(wrong.is_empty(), "{wrong:#?}");
            fs::remove_dir_all(stage.out(&name)).unwrap();
        }
    }
    println!("{killed} of {KILLS} were killed alive, {with_snapshot} with a snapshot, {finished} with a whole backup");
    assert!(killed > KILLS / 5 && with_snapshot > 0, "the kills came too late or too early");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills() {
    kill_at_random_moments(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_more_kills() {
    kill_at_random_moments(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_fifty_kills() {
    kill_at_random_moments(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn and_the_last_fifty_kills() {
    kill_at_random_moments(4).await;
}
