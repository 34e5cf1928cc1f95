//! Connections that are lost: reads go on over new ones, within limits; an export that is another one then is an error.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what only tests call may fail as tests do")]

mod common;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::peers::{self, Server, have, open, options, text};
use common::script::{self, Framing, Step};
use nbd::{Client, Family, Options, Retry, Uri};
use tokio::net::UnixListener;

fn serve(socket: &Path, disk: &Path) -> Server {
    Server::qemu(socket, &["-f", "raw", text(disk)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_survives_servers_that_are_killed_and_come_back() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (disk, truth) = peers::noisy(folder.path(), 32 << 20);
    let socket = folder.path().join("s");
    let mut server = Some(serve(&socket, &disk));
    let client = open(&Uri::unix(&socket, "")).await;
    let mut stream = client.stream(0..client.size());
    let mut read = Vec::new();
    while let Some(bytes) = stream.next().await.unwrap() {
        read.extend_from_slice(&bytes);
        if read.len() % (8 << 20) == 0 {
            server.take().unwrap().kill();
            server = Some(serve(&socket, &disk));
        }
    }
    assert!(read == truth);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_away_ends_the_read_within_the_limits() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (disk, _) = peers::noisy(folder.path(), 1 << 20);
    let socket = folder.path().join("s");
    let server = serve(&socket, &disk);
    let client = open(&Uri::unix(&socket, "")).await;
    server.kill();
    let reads = (0..32).map(|n| client.read(n * 4096, 4096));
    for read in futures_util::future::join_all(reads).await {
        let error = read.unwrap_err();
        assert!(error.to_string().contains("5 attempts to connect again failed"), "{error}");
    }
    // The next request tries anew.
    let _server = serve(&socket, &disk);
    client.read(0, 4096).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_another_size_is_not_taken_for_the_same() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (disk, _) = peers::noisy(folder.path(), 1 << 20);
    let socket = folder.path().join("s");
    let server = serve(&socket, &disk);
    let client = open(&Uri::unix(&socket, "")).await;
    server.kill();
    std::fs::OpenOptions::new().write(true).open(&disk).unwrap().set_len(2 << 20).unwrap();
    let _server = serve(&socket, &disk);
    let error = client.read(0, 4096).await.unwrap_err();
    let words = "the size of the export \"\" changed from 1048576 bytes to 2097152 bytes";
    assert!(error.family() == Family::Changed && error.to_string().contains(words), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_does_not_vouch_for_writes_that_a_dead_server_may_have_lost() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (disk, _) = peers::noisy(folder.path(), 1 << 20);
    let socket = folder.path().join("s");
    let server = serve(&socket, &disk);
    let client = Client::connect(&Uri::unix(&socket, ""), &Options { connections: 1, ..options() }).await.unwrap();
    client.write(0, Bytes::from_static(b"flushed"), false).await.unwrap();
    client.flush().await.unwrap();
    client.write(0, Bytes::from_static(b"durable"), true).await.unwrap();
    client.write(0, Bytes::from_static(b"written"), false).await.unwrap();
    server.kill();
    let _server = serve(&socket, &disk);
    client.write(512, Bytes::from_static(b"after"), false).await.unwrap();
    let error = client.flush().await.unwrap_err();
    assert!(error.family() == Family::Io && error.to_string().contains("write them again"), "{error}");
    client.write(0, Bytes::from_static(b"written"), false).await.unwrap();
    client.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_client_does_not_connect_again() {
    if !have(&["qemu-nbd"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (disk, _) = peers::noisy(folder.path(), 1 << 20);
    let socket = folder.path().join("s");
    let _server = serve(&socket, &disk);
    let client = open(&Uri::unix(&socket, "")).await;
    client.close().await;
    tokio::time::timeout(Duration::from_secs(5), client.read(0, 1)).await.expect("no answer").unwrap_err();
}

/// A server that plays a script for each connection in turn, and the last one again and again.
fn scripted(socket: &Path, scripts: Vec<Vec<Step>>) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let steps = scripts.get(number).or(scripts.last()).unwrap().clone();
            tokio::spawn(script::play(steps, stream));
        }
    });
}

#[tokio::test]
async fn a_server_that_drops_each_request_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let drops = [
        script::handshake(Framing::Structured, script::SIZE, script::FLAGS),
        vec![script::request(Framing::Structured)],
    ];
    scripted(&socket, vec![drops.concat()]);
    let retry = Retry { times: 3, first_wait: Duration::from_millis(1), longest_wait: Duration::from_millis(2) };
    let client = Client::connect(&Uri::unix(&socket, ""), &Options { retry, ..options() }).await.unwrap();
    let error = client.read(0, 512).await.unwrap_err();
    assert!(error.to_string().contains("lost 4 times during one request"), "{error}");
}

#[tokio::test]
async fn while_one_connection_cannot_be_had_again_the_others_serve() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let framing = Framing::Structured;
    let several = script::FLAGS | 1 << 8;
    let answers = |cookie| {
        vec![
            script::request(framing),
            Step::Say(script::chunk(framing, cookie, (true, 1), &script::data(0, &[7; 512]))),
        ]
    };
    let start = || script::handshake(framing, script::SIZE, several);
    let good = [start(), (0..100).flat_map(answers).collect()].concat();
    let drops = [start(), vec![script::request(framing)]].concat();
    scripted(&socket, vec![good, drops, Vec::new()]);
    let retry = Retry { times: 2, first_wait: Duration::from_millis(1), longest_wait: Duration::from_millis(2) };
    let client =
        Client::connect(&Uri::unix(&socket, ""), &Options { retry, connections: 2, ..options() }).await.unwrap();
    assert_eq!(client.connections(), 2);
    for _ in 0..50 {
        assert_eq!(client.read(0, 512).await.unwrap(), [7; 512][..]);
    }
}

#[tokio::test]
async fn a_server_that_shuts_down_is_left_and_asked_again_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let framing = Framing::Structured;
    let start = || [script::handshake(framing, script::SIZE, script::FLAGS), vec![script::request(framing)]].concat();
    let shutdown = script::chunk(framing, 0, (true, 0x8001), &[0, 0, 0, 108, 0, 0]);
    let answer = script::chunk(framing, 0, (true, 1), &script::data(0, &[7; 512]));
    let first = [start(), vec![Step::Say(shutdown), script::request(framing)]].concat();
    let second = [start(), vec![Step::Say(answer), Step::Hang]].concat();
    scripted(&socket, vec![first, second]);
    let client = open(&Uri::unix(&socket, "")).await;
    assert_eq!(client.read(0, 512).await.unwrap(), [7; 512][..]);
}

#[tokio::test]
async fn replies_in_any_order_find_their_requests() {
    let framing = Framing::Structured;
    let part = |cookie: u64, at: u64, done: bool| {
        script::chunk(framing, cookie, (done, 1), &script::data(at, &[cookie as u8; 8]))
    };
    let steps = vec![
        Step::Hear(3 * 28),
        Step::Say([part(2, 40, false), part(0, 0, false), part(2, 32, true), part(1, 16, false)].concat()),
        Step::Say([part(0, 8, true), part(1, 24, true)].concat()),
        Step::Hang,
    ];
    let client = script::opened(framing, steps).await;
    let (a, b, c) = tokio::join!(client.read(0, 16), client.read(16, 16), client.read(32, 16));
    assert_eq!(
        [a.unwrap(), b.unwrap(), c.unwrap()],
        [[0; 16], [1; 16], [2; 16]].map(|bytes| Bytes::from(bytes.to_vec()))
    );
}

#[tokio::test]
async fn a_server_without_opt_go_is_opened_the_older_way() {
    for zeroes in [false, true] {
        let framing = Framing::Simple;
        let mut greeting = script::greeting();
        greeting[17] = if zeroes { 1 } else { 3 };
        let told =
            [&script::SIZE.to_be_bytes()[..], &script::FLAGS.to_be_bytes(), if zeroes { &[0; 124] } else { &[] }]
                .concat();
        let mut steps = script::framed(framing);
        steps[0] = Step::Say(greeting);
        steps.extend([
            Step::Hear(script::GO_OPTION),
            Step::Say(script::reply(script::GO, script::UNSUP, &[])),
            Step::Hear(16),
            Step::Say(told),
            script::request(framing),
            Step::Say(script::simple(0, 0, &[7; 16])),
            Step::Hang,
        ]);
        let client = script::connect(steps).await.unwrap();
        assert_eq!(client.size(), script::SIZE);
        assert_eq!(client.read(0, 16).await.unwrap(), [7; 16][..]);
    }
}

#[tokio::test]
async fn a_connection_that_was_handed_over_is_not_opened_again() {
    let client = script::opened(Framing::Structured, vec![script::request(Framing::Structured)]).await;
    assert_eq!(client.read(0, 16).await.unwrap_err().family(), Family::Io);
    assert_eq!(client.read(0, 16).await.unwrap_err().family(), Family::Io);
}
