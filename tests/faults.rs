//! What hosts and networks do wrong, one fault at a time, while a VM is backed up: the run ends right, or red with one clear line and
//! nothing left; never green and wrong.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use acceptance::{Outcome, Stage, dump, images, is_identical, manifest, program, vm_of};
use blockdev::ByteOffset;
use lab::face::{Fault, FaultKind, Options};
use lab::world::{Template, VmSpec, World};

/// Running, its blocks tracked.
const TRACKED: &str = "linux-01";
/// Running, two disks, nothing tracked.
const UNTRACKED: &str = "Windows Server 01";
/// Off, so that its images can be compared byte by byte.
const OFF: &str = "off";
/// The same with somebody's snapshots, so that it is read through deltas.
const CHAINED: &str = "chained";
/// A small one, which is read through deltas that fit into every cache.
const SMALL: &str = "small";
const ALL: [&str; 4] = [TRACKED, UNTRACKED, OFF, CHAINED];
/// Tries that cost no time.
const QUICK: [&str; 4] = ["--retries", "1", "--backoff", "0"];
const OFTEN: u32 = 10_000;

/// A raw disk with noise in its first half, and some in its last sectors.
fn half_full(to: &Path, megabytes: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(megabytes << 19)
    .collect();
    let file = File::create(to).unwrap();
    file.set_len((megabytes as u64) << 20).unwrap();
    file.write_all_at(&noise, 0).unwrap();
    file.write_all_at(b"the last sector", ((megabytes as u64) << 20) - 512).unwrap();
}

fn add_vms(world: &World, raw: &Path) {
    world.add_vm(&vm_of(OFF, raw)).unwrap();
    world.add_vm(&VmSpec { change_tracking: true, ..vm_of("lied to", raw) }).unwrap();
    let small = raw.with_extension("small");
    half_full(&small, 2);
    let small = world.add_vm(&vm_of(SMALL, &small)).unwrap();
    world.create_snapshot(&small, "before the update", "by hand", false).unwrap();
    let chained = world.add_vm(&vm_of(CHAINED, raw)).unwrap();
    for (round, name) in ["before the update", "after it"].into_iter().enumerate() {
        world.create_snapshot(&chained, name, "by hand", false).unwrap();
        for piece in 0..20_u64 {
            let at = ByteOffset((piece * 1_300_000 + round as u64 * 700_000) / 512 * 512);
            world.write_disk(&chained, 2000, at, &vec![round as u8 + 1; 512 * (piece as usize + 1)]).unwrap();
        }
    }
}

/// The demonstration's VMs and three that are off.
async fn stage() -> Stage {
    let raws = tempfile::tempdir().unwrap();
    let raw = raws.path().join("disk.raw");
    half_full(&raw, 40);
    Stage::with(Template::Demo, Options::default(), move |world| add_vms(world, &raw)).await
}

fn times(times: u32, kind: FaultKind) -> Fault {
    Fault { kind, times }
}

/// Demands that what stands under the final name is what was frozen.
async fn is_right(stage: &Stage, vm: &str, name: &str) {
    let directory = stage.out(name);
    let quiesced = manifest(&directory)["consistency"] == "quiesced";
    let frozen_at = if quiesced { stage.frozen_at() } else { None };
    let wrong = stage.faults_of(vm, &directory, frozen_at).await;
    assert!(wrong.is_empty(), "green and wrong: {vm}: {wrong:#?}");
}

/// What must hold after any run whatever happened to it; the fault is over then.
async fn is_honest(stage: &Stage, vm: &str, outcome: &Outcome) {
    let stands = stage.out("x").exists();
    if outcome.code == 0 {
        assert!(stands, "{outcome:#?}");
        is_right(stage, vm, "x").await;
        assert_eq!(stage.leftovers(), [""; 0], "{outcome:#?}");
    } else {
        let lines = outcome.stderr.lines().filter(|line| line.starts_with("Error: ")).count();
        assert!(lines == 1 && outcome.message().starts_with("Error: "), "{outcome:#?}");
        let left = stage.leftovers();
        assert_eq!(left.is_empty(), !outcome.message().contains(" left"), "{left:?}: {outcome:#?}");
        // Exit code 8 means that the data is good.
        assert_eq!(stands, outcome.code == 8, "{outcome:#?}");
        if stands {
            is_right(stage, vm, "x").await;
        }
    }
    stage.lab.faults().clear();
    if !stage.leftovers().is_empty() {
        stage.run(&["cleanup", "-y"]).await.succeeds();
        assert_eq!(stage.leftovers(), [""; 0], "{outcome:#?}");
    }
    if stands {
        fs::remove_dir_all(stage.out("x")).unwrap();
    }
    stage.backup(&format!("name:{vm}"), "x", &[]).await.succeeds();
    is_right(stage, vm, "x").await;
    fs::remove_dir_all(stage.out("x")).unwrap();
    assert_eq!(stage.leftovers(), [""; 0]);
    let theirs = [CHAINED, SMALL].into_iter().position(|theirs| theirs == vm).map_or(0, |at| 2 - at);
    assert_eq!(stage.snapshots(vm).len(), theirs, "somebody's snapshots are gone");
}

/// One fault, or several, and what must come of it.
struct Case {
    faults: Vec<Fault>,
    more: Vec<&'static str>,
    code: i32,
    words: Vec<&'static str>,
}

fn case(faults: impl Into<Vec<Fault>>, code: i32, words: &[&'static str]) -> Case {
    Case { faults: faults.into(), more: Vec::new(), code, words: words.to_vec() }
}

impl Case {
    fn with(mut self, more: &[&'static str]) -> Self {
        self.more.extend(more);
        self
    }
}

async fn play(stage: &Stage, vm: &str, case: &Case) {
    println!("{vm}: {:?} {:?}", case.faults, case.more);
    let kinds: Vec<_> = case.faults.iter().map(|fault| fault.kind.name()).collect();
    let before: Vec<_> = kinds.iter().map(|kind| stage.struck(kind)).collect();
    case.faults.iter().for_each(|fault| stage.lab.faults().arm(fault.clone()));
    let outcome = stage.backup(&format!("name:{vm}"), "x", &case.more).await;
    println!("  {} {}", outcome.code, outcome.message());
    for (kind, before) in kinds.iter().zip(before) {
        assert!(stage.struck(kind) > before, "{kind} did not happen: {outcome:#?}");
    }
    if case.code == 0 {
        assert_eq!(outcome.code, 0, "{outcome:#?}");
    } else {
        for word in &case.words {
            assert!(outcome.message().contains(word), "\"{word}\" is not in the message: {outcome:#?}");
        }
        assert_eq!(outcome.code, case.code, "{outcome:#?}");
    }
    is_honest(stage, vm, &outcome).await;
}

async fn play_all(vms: &[&str], cases: &[Case]) {
    if program("qemu-img").is_none() {
        return;
    }
    let stage = stage().await;
    for vm in vms {
        for case in cases {
            play(&stage, vm, case).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_made_leaves_nothing() {
    use FaultKind::{LostReply, SnapshotCreateFails, SnapshotCreateHangs};
    let hangs = |seconds| [SnapshotCreateHangs { seconds }.into()];
    let cases = [
        case([SnapshotCreateFails.into()], 1, &["cannot snapshot", "GenericVmConfigFault", "could not be created"]),
        case(hangs(2), 0, &[]),
        case(hangs(3), 1, &["cannot snapshot", "no progress or end within 1s"]).with(&["--snapshot-timeout", "1"]),
        // The host makes it, and we never hear of it.
        case([LostReply.into()], 1, &["cannot snapshot", "broke"]),
    ];
    play_all(&[TRACKED, CHAINED], &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_removed_is_tried_again_and_then_told() {
    use FaultKind::{SnapshotRemoveFails, SnapshotRemoveHangs, SnapshotRemoveLeaves};
    let cases = [
        case([SnapshotRemoveFails.into()], 0, &[]).with(&QUICK),
        case([times(2, SnapshotRemoveFails)], 8, &["is complete", "is left", "stillframe cleanup"]).with(&QUICK),
        case([SnapshotRemoveLeaves.into()], 0, &[]).with(&QUICK),
        case([times(2, SnapshotRemoveLeaves)], 8, &["is complete", "still lists it"]).with(&QUICK),
        case([SnapshotRemoveFails.into(), SnapshotRemoveLeaves.into()], 8, &["is complete"]).with(&QUICK),
        case([SnapshotRemoveHangs { seconds: 2 }.into()], 0, &[]),
    ];
    play_all(&[TRACKED, CHAINED], &cases).await;
    // Neither the copy nor the removal works: both are told, in one line.
    let both = [FaultKind::RangeRefused.into(), times(OFTEN, SnapshotRemoveFails)];
    let words = ["ignores ranges", "besides", "snapshot of", "is left", "stillframe cleanup"];
    play_all(&[TRACKED], &[case(both, 4, &words).with(&QUICK)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_are_taken_up_where_they_broke() {
    let after = |after_bytes| FaultKind::DropConnection { after_bytes };
    let mut cases = Vec::new();
    // The first ones break the small files too.
    for bytes in [0, 100, 4097, 70_000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1] {
        cases.push(case([after(bytes).into()], 0, &[]));
    }
    play_all(&[TRACKED], &cases).await;
    cases.push(case([after(5_000_000).into()], 0, &[]));
    cases.push(case([times(4, after(3_000_000))], 0, &[]));
    play_all(&[UNTRACKED, OFF], &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_are_no_harm_to_a_chain_of_deltas() {
    let after = |after_bytes| FaultKind::DropConnection { after_bytes };
    // Deltas are read in pieces of 256 KiB, so more than that never breaks.
    let cases = [0, 100, 4097, 70_000, 200_000].map(|bytes| case([after(bytes).into()], 0, &[]));
    play_all(&[CHAINED], &cases).await;
    let often = [case([times(4, after(70_000))], 0, &[]), case([times(OFTEN, after(70_000))], 1, &["broke"])];
    play_all(&[CHAINED], &often).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_always_breaks_ends_the_run_unless_it_gets_on_meanwhile() {
    let after = |after_bytes| times(OFTEN, FaultKind::DropConnection { after_bytes });
    play_all(&[OFF], &[case([after(70_000)], 1, &["cannot copy scsi0:0 of off", "broke"])]).await;
    play_all(&[OFF, TRACKED], &[case([after(1_500_000)], 0, &[])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_what_was_asked_for_are_asked_again() {
    use FaultKind::{RangeRefused, RangeWrong, ShortBody};
    let cases = [
        case([RangeWrong.into()], 0, &[]),
        case([times(3, RangeWrong)], 0, &[]),
        case([ShortBody.into()], 0, &[]),
        case([times(3, ShortBody)], 0, &[]),
    ];
    play_all(&ALL, &cases).await;
    let refused = |code| [case([RangeRefused.into()], code, &["cannot copy scsi0:", "ignores ranges"])];
    play_all(&[TRACKED, UNTRACKED, OFF], &refused(4)).await;
    play_all(&[CHAINED], &refused(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_never_what_was_asked_for_end_the_run() {
    use FaultKind::{RangeWrong, ShortBody};
    let cases = [
        case([times(OFTEN, RangeWrong)], 1, &["cannot copy scsi0:0", "expected", "found"]),
        case([times(OFTEN, ShortBody)], 1, &["cannot copy scsi0:0", "expected", "found"]),
    ];
    play_all(&[OFF, TRACKED], &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_in_mid_copy_is_begun_anew() {
    let expires = |after_requests| FaultKind::SessionExpires { after_requests }.into();
    let cases: Vec<_> = [0, 1, 4, 6].map(|requests| case([expires(requests)], 0, &[])).into();
    play_all(&ALL, &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgets_us_all_the_time_ends_the_run_red() {
    let stage = stage().await;
    let expire = |stage: &Stage| stage.lab.faults().arm(FaultKind::SessionExpires { after_requests: 0 });
    let outcome = {
        stage.stall_in_mid_copy(OFF, 3, &QUICK).await;
        stage.lab.faults().arm(FaultKind::SessionExpires { after_requests: 1 });
        in_stall(&stage, OFF, &QUICK, expire).await
    };
    assert_eq!(stage.struck("session-expires"), 2);
    // We do not log in more than once a minute, so the snapshot can only be removed later.
    let outcome = outcome.fails(1, &["NotAuthenticated", "besides", "snapshot of off is left", "stillframe cleanup"]);
    is_honest(&stage, OFF, &outcome).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_server_is_asked_again_or_told() {
    let stage = stage().await;
    for count in [1, 2, 3, 5, 8, 13, 21, OFTEN] {
        stage.lab.faults().arm(times(count, FaultKind::Http503));
        let outcome = stage.backup("name:off", "x", &QUICK).await;
        println!("{count}: {} {}", outcome.code, outcome.message());
        if [1, OFTEN].contains(&count) {
            assert!(outcome.code == 1 && outcome.message().contains("503"), "{outcome:#?}");
        }
        is_honest(&stage, OFF, &outcome).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_stands_still_for_a_while_goes_on() {
    let stall = |seconds| FaultKind::Stall { seconds }.into();
    play_all(&[TRACKED, CHAINED], &[case([stall(1), stall(2)], 0, &[])]).await;
}

/// Waits until `ready`, at most a minute.
async fn until(mut ready: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if ready() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to that");
}

/// Runs a backup, and `act` while it stands still in the middle of its copy.
async fn in_mid_copy(stage: &Stage, vm: &str, more: &[&str], act: impl FnOnce(&Stage)) -> Outcome {
    stage.stall_in_mid_copy(vm, 3, more).await;
    in_stall(stage, vm, more, act).await
}

/// The same with the stall already armed.
async fn in_stall(stage: &Stage, vm: &str, more: &[&str], act: impl FnOnce(&Stage)) -> Outcome {
    let before = stage.struck("stall");
    let spec = format!("name:{vm}");
    let short = Fault::from(FaultKind::Stall { seconds: 0 }).kind;
    let armed = stage.lab.faults().armed();
    let reads = armed.iter().find(|fault| fault.kind == short).map_or(0, |fault| fault.times as usize);
    let run = stage.backup(&spec, "x", more);
    let acting = async {
        until(|| stage.struck("stall") > before + reads && !stage.ours(vm).is_empty()).await;
        act(stage);
    };
    tokio::join!(run, acting).0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_stands_still_for_good_is_asked_for_again_after_a_minute() {
    let stage = stage().await;
    stage.stall_in_mid_copy(OFF, 600, &[]).await;
    let outcome = stage.backup("name:off", "x", &[]).await.succeeds();
    is_honest(&stage, OFF, &outcome).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_whose_answer_is_lost_is_looked_after() {
    let stage = stage().await;
    for vm in [TRACKED, CHAINED] {
        let lose = |stage: &Stage| stage.lab.faults().arm(FaultKind::LostReply);
        let outcome = in_mid_copy(&stage, vm, &QUICK, lose).await.succeeds();
        assert!(stage.struck("lost-reply") > 0);
        is_honest(&stage, vm, &outcome).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_is_refused_before_and_in_the_middle() {
    let stage = stage().await;
    stage.lab.faults().arm(FaultKind::ThumbprintChanges);
    let outcome = stage.backup("name:off", "x", &[]).await.fails(1, &["is not trusted", "expected", "found"]);
    is_honest(&stage, OFF, &outcome).await;
    let change = |stage: &Stage| stage.lab.faults().arm(FaultKind::ThumbprintChanges);
    let outcome = in_mid_copy(&stage, OFF, &QUICK, change).await;
    println!("{} {}", outcome.code, outcome.message());
    is_honest(&stage, OFF, &outcome).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_cannot_be_quiesced_fails_the_run_or_is_told_in_the_manifest() {
    let stage = stage().await;
    let arm = || stage.lab.faults().arm(FaultKind::QuiesceFails);
    arm();
    let outcome = stage.backup("name:linux-01", "x", &["--quiesce", "require"]).await;
    let outcome = outcome.fails(1, &["linux-01", "quiesc"]);
    is_honest(&stage, TRACKED, &outcome).await;
    let crash_consistent = |wish: &str, warned: bool| {
        let manifest = manifest(&stage.out("x"));
        assert_eq!((&manifest["consistency"], &manifest["quiesce"]), (&"crash-consistent".into(), &wish.into()));
        assert_eq!(manifest["warnings"].to_string().contains("crash-consistent"), warned, "{manifest}");
    };
    arm();
    let outcome = stage.backup("name:linux-01", "x", &["--quiesce", "try"]).await.succeeds();
    assert!(outcome.stderr.contains("crash-consistent"), "{outcome:?}");
    assert_eq!(stage.struck("quiesce-fails"), 2);
    crash_consistent("try", true);
    is_honest(&stage, TRACKED, &outcome).await;
    arm();
    let outcome = stage.backup("name:linux-01", "x", &["--quiesce", "none"]).await.succeeds();
    assert_eq!(stage.struck("quiesce-fails"), 2, "the guest was asked");
    crash_consistent("none", false);
    is_honest(&stage, TRACKED, &outcome).await;
    let id = stage.vm(TRACKED).id;
    stage.world().set_tools(&id, false).unwrap();
    let calls = stage.calls("CreateSnapshot_Task");
    let outcome = stage.backup("name:linux-01", "x", &["--quiesce", "require"]).await;
    let outcome = outcome.fails(1, &["linux-01", "VMware Tools does not run", "--quiesce try"]);
    assert_eq!(stage.calls("CreateSnapshot_Task"), calls);
    is_honest(&stage, TRACKED, &outcome).await;
    let outcome = stage.backup("name:linux-01", "x", &[]).await.succeeds();
    crash_consistent("try", true);
    is_honest(&stage, TRACKED, &outcome).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_or_untrue_areas_mean_that_everything_is_read_and_why_is_written_down() {
    let stage = stage().await;
    for (fault, vm, why, warned) in [
        (FaultKind::QueryAreasFails, TRACKED, "does not say which blocks are in use", false),
        (FaultKind::QueryAreasLies, "lied to", "and it holds data", true),
    ] {
        stage.lab.faults().arm(fault);
        let outcome = stage.backup(&format!("name:{vm}"), "x", &[]).await.succeeds();
        let manifest = manifest(&stage.out("x"));
        let disk = &manifest["disks"][0];
        assert_eq!(disk["bytes_read"], disk["capacity"], "{disk}");
        assert!(disk["read_all_because"].as_str().unwrap_or_default().contains(why), "{disk}");
        assert_eq!(manifest["warnings"].to_string().contains(why), warned, "{manifest}");
        assert_eq!(outcome.stderr.contains("the whole disk is read"), warned, "{outcome:?}");
        is_honest(&stage, vm, &outcome).await;
    }
}

/// A byte at or behind `from` of the first disk that the host calls in use.
fn in_use(stage: &Stage, vm: &str, from: u64) -> u64 {
    let vm = stage.vm(vm);
    let areas = stage.world().allocated_areas(&vm.id, None, vm.disks[0].key).unwrap();
    areas.into_iter().map(|(start, len)| start + len / 2).find(|at| *at >= from).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_is_wrong_on_its_way_is_found_by_an_audit_and_by_nothing_else() {
    if program("qemu-img").is_none() {
        return;
    }
    let stage = stage().await;
    let raw = stage.home.path().join("truth.raw");
    for vm in [OFF, CHAINED, SMALL, TRACKED] {
        // In the flat file that everything lies in at last; the small files end before it.
        let at = match vm {
            TRACKED => in_use(&stage, vm, 200_000),
            SMALL => 700_077,
            _ => (3 << 20) + 77,
        };
        let wrong = FaultKind::WrongBytes { at };
        let before = stage.struck("wrong-bytes");
        stage.lab.faults().arm(wrong.clone());
        let outcome = stage.backup(&format!("name:{vm}"), "x", &["--audit"]).await;
        println!("{vm}: {}", outcome.message());
        assert_eq!(stage.struck("wrong-bytes"), before + 1, "{vm}: it did not happen");
        outcome.fails(5, &["scsi0:0", "two readings", "differ"]);
        assert_eq!((stage.leftovers(), stage.out("x").exists()), (Vec::new(), false));
        stage.backup(&format!("name:{vm}"), "x", &["--audit"]).await.succeeds();
        is_right(&stage, vm, "x").await;
        fs::remove_dir_all(stage.out("x")).unwrap();
        if vm == OFF {
            stage.lab.faults().arm(wrong);
            stage.backup("name:off", "x", &[]).await.succeeds();
            let off = stage.vm(OFF);
            dump(stage.world().running_disk(&off.id, off.disks[0].key).unwrap().as_ref(), &raw);
            assert!(!is_identical(&images(&stage.out("x")).remove(0).1, &raw), "the fault did nothing");
            fs::remove_dir_all(stage.out("x")).unwrap();
        }
    }
}

/// Numbers below `limit` (SplitMix64), from a seed that is printed, or given in `STILLFRAME_STORM_SEED`.
fn random() -> impl FnMut(u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut state = std::env::var("STILLFRAME_STORM_SEED").map_or(now, |given| given.parse().unwrap());
    println!("STILLFRAME_STORM_SEED={state}");
    move |limit| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_faults_at_random_moments_never_give_a_green_and_wrong_backup() {
    use FaultKind::{
        DropConnection, Http503, LostReply, QueryAreasFails, QuiesceFails, RangeWrong, SessionExpires, ShortBody,
        SnapshotCreateFails, SnapshotRemoveFails, SnapshotRemoveLeaves,
    };
    if program("qemu-img").is_none() {
        return;
    }
    let mut random = random();
    let stage = stage().await;
    let (mut green, mut red) = (0, 0);
    for round in 0..30 {
        let vm = ALL[random(4) as usize];
        let faults: Vec<Fault> = (0..=random(3))
            .map(|_| {
                let kinds = [
                    DropConnection { after_bytes: random(3 << 20) },
                    SessionExpires { after_requests: random(8) as u32 },
                    Http503,
                    LostReply,
                    QueryAreasFails,
                    QuiesceFails,
                    RangeWrong,
                    ShortBody,
                    SnapshotCreateFails,
                    SnapshotRemoveFails,
                    SnapshotRemoveLeaves,
                ];
                times(1 + random(3) as u32, kinds[random(kinds.len() as u64) as usize].clone())
            })
            .collect();
        let delay = Duration::from_millis(random(250));
        println!("{round}: {vm} after {delay:?}: {faults:?}");
        let spec = format!("name:{vm}");
        let storm = async {
            tokio::time::sleep(delay).await;
            faults.iter().for_each(|fault| stage.lab.faults().arm(fault.clone()));
        };
        let (outcome, ()) = tokio::join!(stage.backup(&spec, "x", &QUICK), storm);
        println!("  {} {}", outcome.code, outcome.message());
        *if outcome.code == 0 { &mut green } else { &mut red } += 1;
        is_honest(&stage, vm, &outcome).await;
    }
    println!("{green} green, {red} red");
}
