//! qemu-nbd and nbdkit serve, qemu-img, nbdinfo and nbdcopy judge.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what only tests call may fail as tests do")]

mod common;

use std::path::Path;

use blockdev::{ByteOffset, ExtentKind, ReadAt, ReadAtExt};
use bytes::Bytes;
use common::peers::{self, Server, have, open, options, run, text};
use nbd::{Client, Family, Options, Replies, Status, Uri, state};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A qcow2 image of 64 MiB with data, zeros and holes; its path.
fn image(folder: &Path) -> String {
    let path = text(&folder.join("disk.qcow2")).to_owned();
    run("qemu-img", &["create", "-q", "-f", "qcow2", &path, "64M"]);
    let writes =
        ["write -P 1 0 1M", "write -P 2 5M 64k", "write -z 8M 2M", "write -P 3 40M 3M", "write -P 4 67043328 65536"];
    run("qemu-io", &[&["-f", "qcow2", &path][..], &writes.map(|w| ["-c", w]).concat()].concat());
    path
}

/// What nbdinfo says of a context, joined as ours is.
fn oracle(uri: &Uri, context: &str) -> Vec<Status> {
    let said = run("nbdinfo", &["--json", &format!("--map={context}"), &uri.to_string()]);
    let mut runs: Vec<Status> = Vec::new();
    for entry in serde_json::from_str::<Value>(&said).unwrap().as_array().unwrap() {
        let number = |name| entry[name].as_u64().unwrap();
        let run = Status { start: number("offset"), len: number("length"), flags: number("type") };
        match runs.last_mut() {
            Some(last) if last.flags == run.flags => last.len += run.len,
            _ => runs.push(run),
        }
    }
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_behind_qemu_reads_as_qemu_img_reads_it_and_has_its_map() {
    if !have(&["qemu-nbd", "qemu-img", "qemu-io", "nbdinfo"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, socket, raw) = (image(folder.path()), folder.path().join("s"), folder.path().join("raw"));
    run("qemu-img", &["convert", "-O", "raw", &image, text(&raw)]);
    let _server = Server::qemu(&socket, &["-r", "-x", "a disk/1", "-D", "of a test", "-f", "qcow2", &image]);
    let uri = Uri::unix(&socket, "a disk/1");
    let client = open(&uri).await;
    let export = client.export();
    assert_eq!((export.size(), export.name(), export.description()), (64 * MIB, "a disk/1", "of a test"));
    assert_eq!((export.replies(), export.is_read_only(), export.is_encrypted()), (Replies::Extended, true, false));
    assert_eq!((export.block().maximum, export.block().preferred, client.connections()), (32 << 20, 4096, 4));
    let truth = std::fs::read(&raw).unwrap();
    assert!(peers::read_all(&client).await.unwrap() == truth);
    for (at, len) in [(0, 1), (MIB - 1, 2), (3, 70_000), (64 * MIB - 1, 1), (5, (64 * MIB - 5) as u32)] {
        let read = client.read(at, len).await.unwrap();
        assert!(read == truth[at as usize..][..len as usize], "{len} bytes at {at}");
    }
    let runs = client.block_status("base:allocation", 0..client.size()).await.unwrap();
    assert_eq!(runs, oracle(&uri, "base:allocation"));
    let part = client.block_status("base:allocation", 5 * MIB + 1..9 * MIB - 1).await.unwrap();
    assert_eq!((part[0].start, part.last().unwrap().end()), (5 * MIB + 1, 9 * MIB - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dirty_bitmap_tells_what_was_written_since() {
    if !have(&["qemu-nbd", "qemu-img", "qemu-io", "nbdinfo"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, socket) = (image(folder.path()), folder.path().join("s"));
    run("qemu-img", &["bitmap", "--add", "-f", "qcow2", &image, "b0"]);
    run(
        "qemu-io",
        &["-f", "qcow2", &image, "-c", "write -P 9 3M 192k", "-c", "write -P 9 60M 1", "-c", "discard 41M 1M"],
    );
    let _server = Server::qemu(&socket, &["-r", "-f", "qcow2", "-A", "-B", "b0", &image]);
    let uri = Uri::unix(&socket, "");
    let (bitmap, depth) = ("qemu:dirty-bitmap:b0", "qemu:allocation-depth");
    let contexts =
        vec![bitmap.to_owned(), "base:allocation".to_owned(), depth.to_owned(), "qemu:dirty-bitmap:no".to_owned()];
    let client = Client::connect(&uri, &Options { contexts, ..options() }).await.unwrap();
    assert_eq!(client.export().contexts().len(), 3, "{:?}", client.export().contexts());
    let runs = client.block_status(bitmap, 0..client.size()).await.unwrap();
    assert_eq!(runs, oracle(&uri, bitmap));
    let dirty: Vec<_> =
        runs.iter().filter(|run| run.flags & state::DIRTY != 0).map(|run| (run.start, run.len)).collect();
    assert_eq!(dirty, [(3 * MIB, 192 << 10), (41 * MIB, MIB), (60 * MIB, 64 << 10)]);
    assert_eq!(client.block_status(depth, 0..client.size()).await.unwrap(), oracle(&uri, depth));
    let missing = client.block_status("qemu:dirty-bitmap:no", 0..1).await.unwrap_err();
    assert_eq!(missing.family(), Family::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_disk_has_the_bytes_and_the_extents() {
    if !have(&["qemu-nbd", "qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, socket) = (image(folder.path()), folder.path().join("s"));
    let _server = Server::qemu(&socket, &["-r", "-f", "qcow2", &image]);
    let client = open(&Uri::unix(&socket, "")).await;
    let disk = client.disk(tokio::runtime::Handle::current());
    let checked = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; 3 << 20];
        disk.read_exact_at(ByteOffset(4 * MIB), &mut bytes).unwrap();
        assert!(bytes[..1 << 20].iter().all(|b| *b == 0) && bytes[1 << 20..][..65536].iter().all(|b| *b == 2));
        assert!(disk.read_exact_at(ByteOffset(64 * MIB - 1), &mut [0; 2]).is_err());
        assert!(disk.extent_at(ByteOffset(64 * MIB)).is_err());
        disk.extents()
            .map(|extent| extent.map(|e| (e.start.0, e.len.0, e.kind)))
            .collect::<Result<Vec<_>, _>>()
            .unwrap()
    });
    use ExtentKind::{Data, Hole, Zero};
    let kinds = checked.await.unwrap();
    let of = |kind| kinds.iter().filter(|e| e.2 == kind).map(|e| (e.0, e.1)).collect::<Vec<_>>();
    assert_eq!(of(Data), [(0, MIB), (5 * MIB, 65536), (40 * MIB, 3 * MIB), (67_043_328, 65536)]);
    assert_eq!(of(Zero).iter().chain(&of(Hole)).map(|e| e.1).sum::<u64>(), 64 * MIB - 4 * MIB - 2 * 65536);
}

#[tokio::test(flavor = "multi_thread")]
async fn older_framings_serve_the_same_bytes() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (disk, truth) = peers::noisy(folder.path(), 3 << 20);
    let file = ["-r", "file", text(&disk)];
    for (number, (arguments, replies)) in [
        (&[][..], Replies::Structured),
        (&["--no-sr"], Replies::Simple),
        (&["--mask-handshake=1", "--no-sr"], Replies::Simple),
    ]
    .into_iter()
    .enumerate()
    {
        let socket = folder.path().join(format!("s{number}"));
        let _server = Server::nbdkit(&socket, &[arguments, &file].concat());
        let client = open(&Uri::unix(&socket, "")).await;
        assert_eq!(client.export().replies(), replies, "{arguments:?}");
        assert_eq!(client.export().has_context("base:allocation"), replies != Replies::Simple);
        assert!(peers::read_all(&client).await.unwrap() == truth, "{arguments:?}");
    }
    for (arguments, words) in [("--oldstyle", "oldstyle"), ("--mask-handshake=0", "fixed newstyle")] {
        let socket = folder.path().join("old");
        let _server = Server::nbdkit(&socket, &[&[arguments][..], &file].concat());
        let error = Client::connect(&Uri::unix(&socket, ""), &options()).await.unwrap_err();
        assert!(error.family() == Family::Unsupported && error.to_string().contains(words), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_write_zero_and_trim_nbdcopy_reads() {
    if !have(&["nbdkit", "nbdcopy"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (number, filters) in [&[][..], &["--filter=nozero"], &["--no-sr"]].into_iter().enumerate() {
        let (socket, copy) = (folder.path().join(format!("s{number}")), folder.path().join("copy"));
        let _server = Server::nbdkit(&socket, &[filters, &["memory", "80M"]].concat());
        let uri = Uri::unix(&socket, "");
        let client = open(&uri).await;
        let mut truth = peers::noise(80 << 20, 3);
        client.write(0, Bytes::from(truth.clone()), false).await.unwrap(); // longer than one request may be
        client.write(1000, Bytes::from_static(b"a few bytes"), true).await.unwrap();
        client.write_zeroes(MIB + 1, 3 * MIB, number == 0).await.unwrap();
        client.trim(70 * MIB, MIB).await.unwrap();
        client.flush().await.unwrap();
        truth[1000..1011].copy_from_slice(b"a few bytes");
        truth[MIB as usize + 1..4 * MIB as usize + 1].fill(0);
        truth[70 << 20..71 << 20].fill(0); // what nbdkit's memory does
        run("nbdcopy", &[&uri.to_string(), text(&copy)]);
        assert!(std::fs::read(&copy).unwrap() == truth, "{filters:?}");
        assert_eq!(client.write(80 * MIB, Bytes::from_static(b"x"), false).await.unwrap_err().family(), Family::Usage);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_whole_blocks_is_asked_for_whole_blocks() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (disk, truth) = peers::noisy(folder.path(), 1 << 20);
    let socket = folder.path().join("s");
    let sizes = [
        "blocksize-minimum=4096",
        "blocksize-preferred=8192",
        "blocksize-maximum=65536",
        "blocksize-error-policy=error",
    ];
    let server = [&["--filter=blocksize-policy", "file", text(&disk)][..], &sizes].concat();
    let _server = Server::nbdkit(&socket, &server);
    let client = open(&Uri::unix(&socket, "")).await;
    let block = client.export().block();
    assert_eq!((block.minimum, block.preferred, block.maximum), (4096, 8192, 65536));
    for (at, len) in [(1, 1), (4095, 2), (0, 65536), (1, 65536), (4097, 70_000), (100, 900_000)] {
        assert!(client.read(at, len).await.unwrap() == truth[at as usize..][..len as usize], "{len} at {at}");
    }
    assert!(peers::read_all(&client).await.unwrap() == truth);
    let unaligned = client.write(1, Bytes::from_static(b"x"), false).await.unwrap_err();
    assert!(unaligned.to_string().contains("whole blocks of 4096"), "{unaligned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_are_listed_with_what_they_are() {
    if !have(&["qemu-nbd", "nbdkit"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (disk, _) = peers::noisy(folder.path(), 1 << 20);
    let socket = folder.path().join("s");
    let _server = Server::qemu(&socket, &["-r", "-x", "one", "-D", "the first", "-f", "raw", text(&disk)]);
    let listed = nbd::list(&Uri::unix(&socket, ""), &options()).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_str(), listed[0].description.as_str()), ("one", "the first"));
    let export = listed[0].export.as_ref().unwrap();
    assert_eq!((export.size(), export.contexts()), (MIB, &["base:allocation".to_owned()][..]));
    let missing = Client::connect(&Uri::unix(&socket, "two"), &options()).await.unwrap_err();
    assert!(missing.family() == Family::NotFound && missing.to_string().contains("\"two\""), "{missing}");
    let absent = Client::connect(&Uri::unix(folder.path().join("none"), ""), &options()).await.unwrap_err();
    assert_eq!(absent.family(), Family::NotFound, "{absent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_server_is_told_and_not_asked_again() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let _server =
        Server::nbdkit(&socket, &["--filter=error", "memory", "1M", "error-pread=EIO", "error-pread-rate=100%"]);
    let client = open(&Uri::unix(&socket, "")).await;
    let error = client.read(0, 512).await.unwrap_err();
    assert!(error.family() == Family::Io && error.to_string().contains("input/output error"), "{error}");
    client.write(0, Bytes::from_static(b"the connection goes on"), false).await.unwrap();
}
