//! What hosts and networks do wrong while a VM is restored: it comes back right, or nothing of it is there.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::time::Duration;

use acceptance::{Outcome, Stage, dump, images, is_identical, program};
use lab::face::{Fault, FaultKind, Happening};
use lab::world::VmId;

const OFTEN: u32 = 10_000;

/// A stage with a backup of both disks of the larger VM in `out(good)`.
async fn with_backup() -> Stage {
    let stage = Stage::demo().await;
    stage.backup("name:Windows Server 01", "good", &[]).await.succeeds();
    stage
}

async fn restore(stage: &Stage) -> Outcome {
    let good = stage.out("good");
    stage.run(&["restore", &good.to_string_lossy(), "--name", "again", "--progress", "none"]).await
}

fn restored(stage: &Stage) -> Option<VmId> {
    stage.world().vms().into_iter().find(|vm| vm.name == "again").map(|vm| vm.id)
}

/// What must hold after any restore. `stored` is what the datastores held before.
async fn is_honest(stage: &Stage, outcome: &Outcome, stored: &[String]) {
    assert_eq!(stage.leftovers(), [""; 0], "{outcome:#?}");
    let Some(vm) = restored(stage) else {
        assert_ne!(outcome.code, 0, "green, and there is no VM: {outcome:#?}");
        assert_eq!(stage.stored(), stored, "{outcome:#?}");
        return;
    };
    assert_eq!(outcome.code, 0, "red, and there is a VM: {outcome:#?}");
    let raw = stage.home.path().join("truth.raw");
    let disks = stage.world().vm(&vm).unwrap().disks;
    for ((address, image), disk) in images(&stage.out("good")).into_iter().zip(disks) {
        dump(stage.world().running_disk(&vm, disk.key).unwrap().as_ref(), &raw);
        assert!(is_identical(&image, &raw), "green and wrong: {address}");
    }
    stage.world().destroy_vm(&vm).unwrap();
    assert_eq!(stage.stored(), stored, "{outcome:#?}");
}

async fn play(cases: Vec<(Fault, i32, &[&str])>) {
    if program("qemu-img").is_none() {
        return;
    }
    let stage = with_backup().await;
    let stored = stage.stored();
    for (fault, code, words) in cases {
        let kind = fault.kind.name();
        let before = stage.struck(kind);
        println!("{fault:?}");
        stage.lab.faults().arm(fault);
        let outcome = restore(&stage).await;
        println!("  {} {}", outcome.code, outcome.message());
        assert!(stage.struck(kind) > before, "it did not happen: {outcome:#?}");
        stage.lab.faults().clear();
        if code == 0 {
            assert_eq!(outcome.code, 0, "{outcome:#?}");
            is_honest(&stage, &outcome, &stored).await;
        } else {
            let outcome = outcome.fails(code, words);
            is_honest(&stage, &outcome, &stored).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datastore_that_gets_full_keeps_nothing() {
    play(vec![(FaultKind::NoSpace.into(), 1, &["[datastore1] again", "500"])]).await;
    let stage = with_backup().await;
    let stored = stage.stored();
    let full = async {
        let written = |what: &Happening| matches!(what, Happening::Written { .. });
        while !stage.lab.events().iter().any(|event| written(&event.what)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stage.lab.faults().arm(FaultKind::NoSpace);
    };
    let (outcome, ()) = tokio::join!(restore(&stage), full);
    assert_eq!(stage.struck("no-space"), 1);
    is_honest(&stage, &outcome.fails(1, &["again", "500"]), &stored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_wrong_is_found_when_it_is_read_back() {
    let words: &[&str] = &["cannot restore scsi0:0 of again", "does not hold what was sent"];
    play(vec![(FaultKind::WrongBytes { at: 2_000_077 }.into(), 5, words)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_back_goes_on_where_it_broke_or_ends_the_restore() {
    let drop = |times| Fault { kind: FaultKind::DropConnection { after_bytes: 3_000_000 }, times };
    play(vec![
        (drop(1), 0, &[]),
        (FaultKind::RangeWrong.into(), 0, &[]),
        (FaultKind::ShortBody.into(), 0, &[]),
        (FaultKind::RangeRefused.into(), 4, &["ignores ranges"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_is_begun_anew() {
    let expires = |after_requests| Fault::from(FaultKind::SessionExpires { after_requests });
    play(vec![(expires(0), 0, &[]), (expires(2), 0, &[]), (expires(4), 0, &[])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_leaves_no_vm_that_nobody_knows_of() {
    // The first task of a restore is the registration, the next the removal of what was made.
    let lost = |times| Fault { kind: FaultKind::LostReply, times };
    play(vec![(lost(1), 1, &["cannot register", "broke"]), (lost(2), 1, &["cannot register", "broke"])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_server_and_another_certificate_are_told() {
    let stage = with_backup().await;
    let stored = stage.stored();
    for times in [1, 2, 3, 5, 8, 13, OFTEN] {
        stage.lab.faults().arm(Fault { kind: FaultKind::Http503, times });
        let outcome = restore(&stage).await;
        println!("{times}: {} {}", outcome.code, outcome.message());
        stage.lab.faults().clear();
        is_honest(&stage, &outcome, &stored).await;
    }
    stage.lab.faults().arm(FaultKind::ThumbprintChanges);
    let outcome = restore(&stage).await.fails(1, &["is not trusted"]);
    stage.lab.faults().clear();
    is_honest(&stage, &outcome, &stored).await;
}
