//! What a client sends to an NBD server, in memory. The first byte says how far the two have come: nothing was said yet, or an export is
//! open with simple replies, structured ones or extended headers (each read-only or writable). The server answers or hangs up, within
//! 16 MiB (the longest read and write are 64 KiB, of which four may be under way), and what it sends is whole: heads, lengths and
//! cookies as agreed on.
#![no_main]

use std::sync::{Arc, LazyLock};

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, MemDisk, ReadAt, ReadError};
use fuzz::limited;
use libfuzzer_sys::fuzz_target;
use nbd::server::{Export, Exports, Limits, ReadOnly, Server, WriteAt, Zeroing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

/// The size of the disk.
const SIZE: u64 = 1 << 20;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().expect("a runtime")
});

/// A disk of data and holes by turns, that takes writes and forgets them.
struct Stripes;

impl ReadAt for Stripes {
    fn size(&self) -> ByteLen {
        ByteLen(SIZE)
    }
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        assert!(
            at.0.checked_add(buf.len() as u64).is_some_and(|end| end <= SIZE),
            "a read of {} bytes at {at}",
            buf.len()
        );
        buf.fill(7);
        Ok(())
    }
    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        assert!(at.0 < SIZE, "an extent at {at}");
        let kind = [ExtentKind::Data, ExtentKind::Hole, ExtentKind::Data, ExtentKind::Zero][(at.0 / 5000 % 4) as usize];
        Ok(Extent { start: at, len: ByteLen((5000 - at.0 % 5000).min(SIZE - at.0)), kind })
    }
}

fn check(at: u64, len: u64) -> std::io::Result<()> {
    assert!(at.checked_add(len).is_some_and(|end| end <= SIZE) && len > 0, "{len} bytes at {at}");
    Ok(())
}

impl WriteAt for Stripes {
    fn write_at(&self, at: u64, data: &[u8]) -> std::io::Result<()> {
        check(at, data.len() as u64)
    }
    fn write_zeroes(&self, at: u64, len: u64, how: Zeroing) -> std::io::Result<()> {
        check(at, len)?;
        if how.only_fast { Err(std::io::ErrorKind::Unsupported.into()) } else { Ok(()) }
    }
    fn trim(&self, at: u64, len: u64) -> std::io::Result<()> {
        check(at, len)
    }
    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Export for Stripes {
    fn disk(&self) -> &dyn ReadAt {
        self
    }
    fn writer(&self) -> Option<&dyn WriteAt> {
        Some(self)
    }
}

fn server() -> Server {
    let mut exports = Exports::new();
    exports.add("w", "stripes", Arc::new(Stripes)).expect("a name");
    let memory = ReadOnly::new(Arc::new(MemDisk::new(vec![1; 70_000])));
    exports.add("r", "", Arc::new(memory)).expect("a name");
    let mut limits = Limits::default();
    (limits.payload, limits.connection_bytes, limits.bytes) = (1 << 16, 1 << 18, 1 << 18);
    (limits.requests, limits.threads) = (4, 1);
    Server::with(exports, None, limits)
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [&b"IHAVEOPT"[..], &number.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

/// What a client says to open an export, and how much the server answers to it.
fn opening(style: u8, export: u8) -> (Vec<u8>, usize) {
    let go = [&[0, 0, 0, 1, export][..], &[0, 0]].concat();
    let contexts = [&[0, 0, 0, 1, export, 0, 0, 0, 1, 0, 0, 0, 15][..], b"base:allocation"].concat();
    let flags = vec![0, 0, 0, 3];
    let (reply, info) = (20, 12);
    match style {
        1 => ([flags, option(7, &go)].concat(), 18 + reply + info + reply),
        number => {
            let style = if number == 2 { 8 } else { 11 };
            let said = [flags, option(style, &[]), option(10, &contexts), option(7, &go)].concat();
            (said, 18 + reply + (reply + 19) + reply + reply + info + reply)
        }
    }
}

/// Heads, lengths and magics of replies follow each other to the end.
fn check_replies(style: u8, mut sent: &[u8]) {
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    while !sent.is_empty() {
        let (magic, head, len) = match style {
            2 => (0x668e_33ef, 20, number(&sent[16..20])),
            _ => (0x6e8a_278c, 32, number(&sent[24..32])),
        };
        assert_eq!(number(&sent[..4]), magic);
        assert!(len <= 1 << 20, "a chunk of {len} bytes");
        sent = &sent[head + len as usize..];
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, said)) = data.split_first() else { return };
    let (style, export) = (first % 4, if first & 4 == 0 { b'w' } else { b'r' });
    LazyLock::force(&RUNTIME);
    limited(16 << 20, || {
        let sent = RUNTIME.block_on(async {
            let (client, theirs) = tokio::io::duplex(1 << 16);
            let (mut reader, mut writer) = tokio::io::split(client);
            let (opening, _) = if style == 0 { (Vec::new(), 0) } else { opening(style, export) };
            let said = said.to_vec();
            let saying = async move {
                // A server that hung up takes no more.
                let _ = writer.write_all(&opening).await;
                let _ = writer.write_all(&said).await;
                let _ = writer.shutdown().await;
            };
            let hearing = async move {
                let mut sent = Vec::new();
                let mut piece = [0; 4096];
                while let Ok(read @ 1..) = reader.read(&mut piece).await {
                    // What is sent is more than what may be under way: only its beginning is looked at.
                    if sent.len() < 4 << 20 {
                        sent.extend_from_slice(&piece[..read]);
                    }
                }
                sent
            };
            let server = server();
            let (_, _, sent) = tokio::join!(server.serve_stream(theirs), saying, hearing);
            sent
        });
        assert!(sent.starts_with(b"NBDMAGICIHAVEOPT"));
        if style >= 2 && sent.len() < 4 << 20 {
            check_replies(style, &sent[opening(style, export).1..]);
        }
    });
});
