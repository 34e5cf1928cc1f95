//! Over a bad network a read is right, or fails and says why. It is never wrong, and never hangs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what only tests call may fail as tests do")]

mod common;

use std::time::Duration;

use common::chaos::{Chaos, Weather};
use common::peers::{self, Server, have};
use nbd::{Client, Family, Options, Retry, Uri};

const SIZE: usize = 8 << 20;

/// Reads a whole export and pieces of it through the weather. Answers how many connections it took.
async fn read_through(weather: Weather, seed: u64, options: &Options) -> nbd::Result<u64> {
    let folder = tempfile::tempdir().unwrap();
    let (disk, truth) = peers::noisy(folder.path(), SIZE);
    let (back, front) = (folder.path().join("back"), folder.path().join("front"));
    let _server = Server::qemu(&back, &["-r", "-f", "raw", peers::text(&disk)]);
    let chaos = Chaos::start(&front, &back, weather, seed);
    let client = Client::connect(&Uri::unix(&front, ""), options).await?;
    let whole = peers::read_all(&client).await?;
    assert!(whole == truth, "{weather:?} seed {seed}: the bytes are wrong");
    for at in (0..SIZE).step_by(SIZE / 64) {
        let piece = client.read(at as u64 + 7, 4099).await?;
        assert!(piece == truth[at + 7..at + 7 + 4099], "{weather:?} seed {seed}: the bytes at {at} are wrong");
    }
    let runs = client.block_status("base:allocation", 0..SIZE as u64).await?;
    assert_eq!(runs.iter().map(|run| run.len).sum::<u64>(), SIZE as u64);
    Ok(chaos.connections())
}

async fn many(weather: Weather, seeds: std::ops::Range<u64>, options: &Options) -> (Vec<u64>, Vec<nbd::Error>) {
    let (mut right, mut failed) = (Vec::new(), Vec::new());
    for seed in seeds {
        match tokio::time::timeout(Duration::from_secs(120), read_through(weather, seed, options)).await {
            Ok(Ok(connections)) => right.push(connections),
            Ok(Err(error)) => failed.push(error),
            Err(_) => panic!("{weather:?} seed {seed}: hangs"),
        }
    }
    (right, failed)
}

fn options(times: u32) -> Options {
    let retry = Retry { times, first_wait: Duration::from_millis(1), longest_wait: Duration::from_millis(20) };
    Options { timeout: Duration::from_secs(2), retry, request: 64 << 10, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_come_split_and_late_are_right() {
    if have(&["qemu-nbd"]) {
        let (right, failed) = many(Weather { piece: 1000, delayed: 2, cut: 0, stuck: 0 }, 0..2, &options(5)).await;
        assert_eq!(right, [4, 4], "{failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_where_connections_were_cut() {
    if have(&["qemu-nbd"]) {
        let (right, failed) =
            many(Weather { piece: 16 << 10, delayed: 1, cut: 1000, stuck: 0 }, 0..6, &options(50)).await;
        // The first handshake is not tried again, so that one in many may fail.
        assert!(right.len() >= 4 && right.iter().all(|connections| *connections > 8), "{right:?} {failed:?}");
        assert!(failed.iter().all(|error| matches!(error.family(), Family::Io | Family::Timeout)), "{failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_where_a_connection_stood_still() {
    if have(&["qemu-nbd"]) {
        let mut options = options(20);
        options.timeout = Duration::from_millis(400);
        let (right, failed) = many(Weather { piece: 64 << 10, delayed: 0, cut: 0, stuck: 1000 }, 0..2, &options).await;
        assert!(right.iter().any(|connections| *connections > 4), "{right:?} {failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_lets_nothing_through_ends_within_the_limits() {
    if have(&["qemu-nbd"]) {
        let (right, failed) = many(Weather { piece: 100, delayed: 0, cut: 8000, stuck: 0 }, 0..6, &options(3)).await;
        assert!(right.is_empty(), "8 MiB cannot come through this");
        for error in failed {
            assert!(matches!(error.family(), Family::Io | Family::Timeout), "{:?} {error}", error.family());
        }
    }
}
