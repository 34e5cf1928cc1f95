//! A user who changes their mind, at any point: exit code 130, and nothing of the run is left.
#![expect(clippy::unwrap_used, reason = "helpers of tests: clippy lets only the marked functions unwrap")]

use std::time::Duration;

use acceptance::{Outcome, Stage};
use lab::face::{FaultKind, Happening};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

const VM: &str = "linux-01";

fn start(stage: &Stage, args: &[&str]) -> Child {
    stage.command(args).spawn().unwrap()
}

fn start_backup(stage: &Stage) -> Child {
    let out = stage.out("x");
    start(stage, &["backup", "name:linux-01", "-o", &out.to_string_lossy(), "--progress", "none"])
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

async fn end(child: Child) -> Outcome {
    let output = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Outcome { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
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

/// How often a file has come to a stop for long.
fn standing(stage: &Stage) -> bool {
    stage.lab.faults().armed().is_empty()
}

#[track_caller]
fn clean(stage: &Stage) {
    assert_eq!((stage.leftovers(), stage.out_names()), (Vec::new(), Vec::new()));
    stage.lab.faults().clear();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_in_mid_copy_ends_the_run_and_nothing_is_left() {
    let stage = Stage::demo().await;
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        stage.stall_in_mid_copy(VM, 600, &[]).await;
        let child = start_backup(&stage);
        until(|| standing(&stage)).await;
        assert_eq!(stage.ours(VM).len(), 1);
        send(&child, signal);
        let outcome = end(child).await.fails(130, &["cancelled"]);
        assert!(outcome.stderr.contains("Cancelling"), "{outcome:?}");
        clean(&stage);
    }
    stage.backup("name:linux-01", "x", &[]).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_before_the_snapshot_ends_the_run_without_one() {
    let stage = Stage::demo().await;
    stage.lab.faults().arm(FaultKind::Stall { seconds: 600 }); // in the first configuration file
    let child = start_backup(&stage);
    until(|| standing(&stage)).await;
    send(&child, Signal::INT);
    end(child).await.fails(130, &["cancelled"]);
    assert_eq!(stage.calls("CreateSnapshot_Task"), 0);
    clean(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_while_the_host_makes_the_snapshot_is_obeyed_when_it_is_made_and_removed_again() {
    let stage = Stage::demo().await;
    stage.lab.faults().arm(FaultKind::SnapshotCreateHangs { seconds: 3 });
    let child = start_backup(&stage);
    until(|| stage.calls("CreateSnapshot_Task") == 1).await;
    send(&child, Signal::TERM);
    end(child).await.fails(130, &["cancelled"]);
    assert_eq!(stage.calls("RemoveSnapshot_Task"), 1);
    clean(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once_and_a_cleanup_does_the_rest() {
    let stage = Stage::demo().await;
    stage.stall_in_mid_copy(VM, 600, &[]).await;
    let child = start_backup(&stage);
    until(|| standing(&stage)).await;
    stage.lab.faults().arm(FaultKind::SnapshotRemoveHangs { seconds: 5 });
    let before = stage.calls("RemoveSnapshot_Task");
    send(&child, Signal::INT);
    until(|| stage.calls("RemoveSnapshot_Task") > before).await;
    send(&child, Signal::INT); // so soon after the first it is the same wish
    tokio::time::sleep(Duration::from_millis(1500)).await;
    send(&child, Signal::INT);
    let outcome = end(child).await;
    assert!(outcome.code == 130 && outcome.stderr.contains("stillframe cleanup"), "{outcome:?}");
    assert!(!stage.journals().is_empty(), "what is left is forgotten");
    stage.run(&["cleanup", "-y"]).await.succeeds();
    clean(&stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_while_the_snapshot_is_removed_does_not_stop_the_removal() {
    let stage = Stage::demo().await;
    stage.lab.faults().arm(FaultKind::SnapshotRemoveHangs { seconds: 3 });
    let child = start_backup(&stage);
    until(|| stage.calls("RemoveSnapshot_Task") == 1).await;
    send(&child, Signal::INT);
    let outcome = end(child).await;
    // The data may be complete by then; what matters is that the answer and what stands there agree.
    assert!([0, 130].contains(&outcome.code), "{outcome:?}");
    assert_eq!(stage.out_names().len(), usize::from(outcome.code == 0), "{outcome:?}");
    assert_eq!(stage.leftovers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_cancelled_takes_its_files_back() {
    let stage = Stage::demo().await;
    stage.backup("name:linux-01", "x", &[]).await.succeeds();
    let stored = stage.stored();
    stage.lab.faults().arm(FaultKind::Stall { seconds: 600 }); // in the reading back
    let out = stage.out("x");
    let args = ["restore", &out.to_string_lossy(), "--name", "again", "--progress", "none"];
    let child = start(&stage, &args);
    until(|| standing(&stage)).await;
    let written = |what: &Happening| matches!(what, Happening::Written { .. });
    assert!(stage.lab.events().iter().any(|event| written(&event.what)), "nothing was written yet");
    send(&child, Signal::INT);
    end(child).await.fails(130, &["cancelled"]);
    assert_eq!((stage.stored(), stage.leftovers()), (stored, Vec::new()));
    assert_eq!(stage.world().vms().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_lab_ends_well_at_a_signal() {
    let stage = Stage::demo().await;
    let dir = stage.out("lab");
    let child = start(&stage, &["lab", "serve", "--dir", &dir.to_string_lossy(), "--listen", "127.0.0.1:0"]);
    until(|| dir.join("endpoint.json").exists()).await;
    send(&child, Signal::TERM);
    end(child).await.succeeds();
    assert!(!dir.join("endpoint.json").exists());
}
