//! The server against a client that says exactly what it is told, right or wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod server_common;

use std::sync::Arc;
use std::time::Duration;

use blockdev::{ByteLen, ByteOffset, ReadAt, ReadError};
use nbd::server::ReadOnly;
use server_common::{EXTENDED, Memory, Peer, STRUCTURED, server_of};

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const ZEROES: u16 = 6;
const STATUS: u16 = 7;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ESHUTDOWN: u32 = 108;

/// A mebibyte, of which the second 64 KiB hold data.
fn memory() -> Arc<Memory> {
    let memory = Memory::new(1 << 20);
    memory.bytes.write().unwrap()[65536..131072].fill(7);
    memory
}

fn read_only(len: usize) -> Arc<ReadOnly> {
    Arc::new(ReadOnly::new(Arc::new(blockdev::MemDisk::new(vec![5; len]))))
}

#[tokio::test]
async fn options_that_make_no_sense_are_answered_and_the_next_one_is_understood() {
    let server = server_of(memory(), |_| {});
    let mut peer = Peer::greeted(&server).await;
    let invalid = (1 << 31) + 3;
    for (option, data, kind) in [
        (3, &b"x"[..], invalid),
        (5, b"", (1 << 31) + 1),
        (6, b"\0\0\0\x09disk\0\0", invalid),
        (7, b"\0\0\0\x02no\0\0", (1 << 31) + 6),
        (8, b"x", invalid),
        (10, b"\0\0\0\x04disk\0\0\0\0", invalid), // contexts before structured replies
        (9999, b"", (1 << 31) + 1),
        (6, &vec![0; 70_000], (1 << 31) + 9),
    ] {
        let replies = peer.option(option, data).await;
        assert_eq!(replies.last().unwrap().0, kind, "option {option}");
    }
    let listed = peer.option(3, &[]).await;
    assert_eq!(listed[0], (2, b"\0\0\0\x04diska disk of the tests".to_vec()));
    let info = peer.option(6, b"\0\0\0\0\0\x03\0\x01\0\x02\0\x03").await;
    assert_eq!(info[0].1[..10], [&[0, 0][..], &(1u64 << 20).to_be_bytes()].concat());
    assert_eq!(info[1].1, b"\0\x01disk", "the default export tells its name");
    assert_eq!(info[3].1, [&[0, 3][..], &[0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]].concat());
    assert_eq!(peer.option(2, &[]).await, [(1, vec![])]);
    assert!(peer.is_closed().await);
}

#[tokio::test]
async fn what_cannot_be_answered_ends_the_connection() {
    let server = server_of(memory(), |limits| limits.options = 4);
    for bytes in [
        &b"\0\0\0\x10"[..],                              // flags that are not known
        b"\0\0\0\x03IHAVENOT\0\0\0\x03\0\0\0\0",         // no option
        b"\0\0\0\x03IHAVEOPT\0\0\0\x03\xff\xff\xff\xff", // too long to skip
        b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x02no",     // no such export, the old way
        b"\0\0\0\x02IHAVEOPT\0\0\0\x03\0\0\0\0",         // options without fixed newstyle
    ] {
        let mut peer = Peer::of(&server).await;
        peer.say(bytes).await;
        assert!(peer.is_closed().await, "{bytes:?}");
    }
    let mut peer = Peer::greeted(&server).await;
    for _ in 0..4 {
        peer.option(3, &[]).await;
    }
    assert!(peer.is_closed().await, "options have an end");
}

#[tokio::test]
async fn the_old_way_to_choose_an_export_works_with_and_without_zeroes() {
    let server = server_of(read_only(4096), |_| {});
    for (flags, len) in [(3u32, 10), (0, 134)] {
        let mut peer = Peer::of(&server).await;
        peer.say(&flags.to_be_bytes()).await;
        peer.say_option(1, b"disk").await;
        let told = peer.take(len).await;
        assert_eq!(told[..8], 4096u64.to_be_bytes());
        assert_eq!(told[9] & 0b11, 0b11, "it has flags, and is read-only");
        peer.request(0, READ, 4000, 96).await;
        assert_eq!(peer.simple().await, 0);
        assert_eq!(peer.take(96).await, [5; 96]);
    }
}

#[tokio::test]
async fn each_request_has_its_own_error_and_the_connection_lives_on() {
    let server = server_of(read_only(1 << 20), |limits| limits.payload = 1 << 16);
    let mut peer = Peer::serving(&server, STRUCTURED).await;
    for (flags, command, at, len, errno) in [
        (0, READ, (1 << 20) - 1, 2, EINVAL),
        (0, READ, u64::MAX, u32::MAX, EOVERFLOW),
        (0, READ, u64::MAX, 16, EINVAL),
        (0, READ, 0, (1 << 16) + 1, EOVERFLOW),
        (1 << 9, READ, 0, 16, EINVAL),
        (0, TRIM, 0, 512, EPERM),
        (0, ZEROES, 0, 512, EPERM),
        (0, STATUS, 0, 0, EINVAL),
        (0, STATUS, 1 << 20, 1, EINVAL),
        (0, FLUSH, 0, 1, EINVAL),
        (0, 8, 0, 0, EINVAL),
        (0, 4711, 0, 0, EINVAL),
        (0, FLUSH, 0, 0, 0),
        (0, READ, 0, 0, 0),
    ] {
        peer.request(flags, command, at, len).await;
        assert_eq!(peer.errno().await, errno, "command {command} at {at}, {len} bytes");
    }
    peer.request(0, WRITE, 0, 4).await;
    peer.say(b"data").await;
    assert_eq!(peer.errno().await, EPERM);
    peer.request(0, READ, 100, 16).await;
    assert_eq!(peer.chunks().await, [(1, [&100u64.to_be_bytes()[..], &[5; 16]].concat())]);
    peer.request(0, DISC, 0, 0).await;
    assert!(peer.is_closed().await);
}

#[tokio::test]
async fn what_is_no_request_ends_the_connection() {
    let server = server_of(memory(), |_| {});
    let mut peer = Peer::serving(&server, STRUCTURED).await;
    peer.say(&[0x25; 28]).await;
    assert!(peer.is_closed().await);
    let mut peer = Peer::serving(&server, EXTENDED).await;
    peer.request(0, READ, 0, 1).await;
    peer.say(&[0; 4]).await;
    assert!(peer.is_closed().await, "a compact header where extended ones were agreed on");
    let mut peer = Peer::serving(&server, STRUCTURED).await;
    peer.request(0, WRITE, 0, u32::MAX).await;
    assert!(peer.is_closed().await, "data of 4 GiB is not even skipped");
}

#[tokio::test]
async fn writes_of_all_kinds_arrive_and_beyond_the_end_there_is_no_space() {
    let memory = memory();
    let server = server_of(memory.clone(), |limits| limits.payload = 1 << 16);
    let mut peer = Peer::serving(&server, STRUCTURED).await;
    peer.request(1, WRITE, 10, 4).await;
    peer.say(b"data").await;
    assert_eq!(peer.errno().await, 0);
    peer.request(0b10010, ZEROES, 12, 1).await;
    assert_eq!(peer.errno().await, 0);
    peer.request(0, ZEROES, 13, 1).await;
    assert_eq!(peer.errno().await, 0);
    peer.request(0, TRIM, 0, 512).await;
    assert_eq!(peer.errno().await, 0);
    assert_eq!(memory.bytes.read().unwrap()[9..15], *b"\0da\0\0\0");
    let calls = memory.calls();
    let expected =
        ["write 10 4", "flush", "zero 12 1 punch=false fast=true", "zero 13 1 punch=true fast=false", "trim 0 512"];
    assert_eq!(calls, expected, "FUA is a flush before the answer");
    for (command, len, errno) in
        [(WRITE, 100_000, EOVERFLOW), (WRITE, 2, ENOSPC), (ZEROES, 2, ENOSPC), (TRIM, 2, EINVAL)]
    {
        peer.request(0, command, (1 << 20) - 1, len).await;
        if command == WRITE {
            peer.say(&vec![1; len as usize]).await;
        }
        assert_eq!(peer.errno().await, errno, "command {command}, {len} bytes");
    }
    assert_eq!(memory.calls().len(), 5, "nothing of it reached the disk");
}

#[tokio::test]
async fn with_extended_headers_lengths_have_64_bits() {
    let memory = memory();
    let server = server_of(memory.clone(), |_| {});
    let mut peer = Peer::serving(&server, EXTENDED).await;
    peer.long_request(0, STATUS, 0, 1 << 20).await;
    let (kind, content) = peer.long_chunk(0).await;
    let word = |value: u64| value.to_be_bytes();
    let runs = [word(65536), word(3), word(65536), word(0), word((1 << 20) - 131_072), word(3)].concat();
    assert_eq!((kind, content), (6, [&[0, 0, 0, 1, 0, 0, 0, 3][..], &runs].concat()));
    peer.long_request(0, READ, 65530, 8).await;
    assert_eq!(peer.long_chunk(65530).await, (1, [&word(65530)[..], &[0, 0, 0, 0, 0, 0, 7, 7]].concat()));
    peer.long_request(1 << 5, WRITE, 5, 3).await;
    peer.say(b"xyz").await;
    assert_eq!(peer.long_chunk(5).await, (0, vec![]));
    // A payload that nobody asked for is passed over.
    peer.long_request(1 << 5, STATUS, 0, 12).await;
    peer.say(&[9; 12]).await;
    assert_eq!(peer.long_chunk(0).await.0, 0x8001);
    peer.long_request(0, ZEROES, 0, 1 << 40).await;
    let (kind, content) = peer.long_chunk(0).await;
    assert_eq!((kind, content[3]), (0x8001, ENOSPC as u8));
    assert_eq!(memory.calls(), ["write 5 3"]);
}

#[tokio::test]
async fn contexts_of_another_export_are_void() {
    let server = server_of(memory(), |_| {});
    let mut peer = Peer::greeted(&server).await;
    peer.option(STRUCTURED, &[]).await;
    let all = peer.option(9, b"\0\0\0\x04disk\0\0\0\0").await;
    assert_eq!(all[0], (4, b"\0\0\0\0base:allocation".to_vec()));
    let unknown = peer.option(10, b"\0\0\0\0\0\0\0\x01\0\0\0\x03x:y").await;
    assert_eq!(unknown, [(1, vec![])], "what is not known is not granted");
    peer.option(10, b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation").await;
    // Chosen for "", gone to "disk": the names differ, though the export is the same.
    peer.option(7, b"\0\0\0\x04disk\0\0").await;
    peer.request(0, STATUS, 0, 512).await;
    assert_eq!(peer.errno().await, EINVAL);
}

/// A disk that says nothing for a while, and then that it is broken.
struct Slow(Duration);

impl ReadAt for Slow {
    fn size(&self) -> ByteLen {
        ByteLen(1 << 20)
    }
    fn read_exact_at(&self, at: ByteOffset, _: &mut [u8]) -> Result<(), ReadError> {
        std::thread::sleep(self.0);
        Err(ReadError::Io { at, source: std::io::Error::other("no light on path") })
    }
}

#[tokio::test]
async fn a_stop_finishes_what_is_under_way_and_turns_away_the_rest() {
    let slow = Arc::new(ReadOnly::new(Arc::new(Slow(Duration::from_millis(300)))));
    let server = server_of(slow, |limits| limits.grace = Duration::from_secs(5));
    let mut peer = Peer::serving(&server, STRUCTURED).await;
    peer.request(0, READ, 0, 512).await;
    let clients = server.clients();
    while clients.borrow().served == 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await; // the read has begun
    let stopping = tokio::spawn({
        let server = server.clone();
        async move { server.stop().await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    peer.request(0, READ, 0, 512).await;
    let mut found = [peer.errno().await, peer.errno().await];
    found.sort_unstable();
    assert_eq!(found, [EIO, ESHUTDOWN]);
    peer.request(0, DISC, 0, 0).await;
    assert!(peer.is_closed().await);
    stopping.await.unwrap();
    let (mut late, theirs) = tokio::io::duplex(1024);
    server.serve_stream(theirs).await;
    tokio::io::AsyncWriteExt::write_all(&mut late, b"x").await.unwrap_err();
}

#[tokio::test]
async fn clients_that_keep_the_server_waiting_are_cut_off() {
    let short = Duration::from_millis(100);
    let server = server_of(memory(), |limits| {
        (limits.handshake, limits.stalled, limits.idle) = (short, short, Some(short));
    });
    let mut peer = Peer::greeted(&server).await;
    peer.say(b"IHAVEOPT").await;
    assert!(peer.is_closed().await, "in the handshake");
    let mut peer = Peer::serving(&server, STRUCTURED).await;
    peer.say(&[0x25, 0x60]).await;
    assert!(peer.is_closed().await, "in a request");
    let mut peer = Peer::serving(&server, STRUCTURED).await;
    peer.request(0, WRITE, 0, 4096).await;
    peer.say(b"data").await;
    assert!(peer.is_closed().await, "in the data of a write");
    let mut peer = Peer::serving(&server, STRUCTURED).await;
    assert!(peer.is_closed().await, "between requests, if that is wished");
    // One that asks and asks and takes no answer: the pipe of the test holds a mebibyte.
    let mut peer = Peer::serving(&server, 0).await;
    for _ in 0..64 {
        peer.request(0, READ, 0, 1 << 20).await;
    }
    let mut clients = server.clients();
    clients.wait_for(|clients| clients.connected == 0).await.unwrap();
}

#[tokio::test]
async fn more_clients_than_allowed_are_sent_away() {
    let server = server_of(memory(), |limits| limits.connections = 1);
    let mut first = Peer::serving(&server, STRUCTURED).await;
    let (mut second, theirs) = tokio::io::duplex(1024);
    server.serve_stream(theirs).await;
    let mut nothing = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut second, &mut nothing).await.unwrap();
    assert!(nothing.is_empty());
    first.request(0, FLUSH, 0, 0).await;
    assert_eq!(first.errno().await, 0);
}
