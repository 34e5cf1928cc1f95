//! What the tests of the server share: disks, a client that says exactly what it is told, and real programs.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test program uses a part, and all of it is test code"
)]

pub(crate) mod certificates;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, RwLock};

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, FileDisk, ReadAt, ReadError};
use nbd::server::{Export, Exports, Limits, ReadOnly, Server, WriteAt, Zeroing};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// A disk in memory that can be written, with a note of what was punched and how often it was flushed.
pub(crate) struct Memory {
    pub(crate) bytes: RwLock<Vec<u8>>,
    pub(crate) calls: Mutex<Vec<String>>,
}

impl Memory {
    pub(crate) fn new(len: usize) -> Arc<Self> {
        Arc::new(Self { bytes: RwLock::new(vec![0; len]), calls: Mutex::default() })
    }

    fn note(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

impl ReadAt for Memory {
    fn size(&self) -> ByteLen {
        ByteLen(self.bytes.read().unwrap().len() as u64)
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        buf.copy_from_slice(&self.bytes.read().unwrap()[at.0 as usize..][..buf.len()]);
        Ok(())
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        let bytes = self.bytes.read().unwrap();
        let zero = |block: u64| bytes[block as usize..].iter().take(4096).all(|byte| *byte == 0);
        let first = at.0 & !4095;
        let kind = if zero(first) { ExtentKind::Hole } else { ExtentKind::Data };
        let mut end = first;
        while end < bytes.len() as u64 && zero(end) == (kind == ExtentKind::Hole) {
            end += 4096;
        }
        Ok(Extent { start: at, len: ByteLen(end - at.0), kind })
    }
}

impl Export for Memory {
    fn disk(&self) -> &dyn ReadAt {
        self
    }
    fn writer(&self) -> Option<&dyn WriteAt> {
        Some(self)
    }
}

impl WriteAt for Memory {
    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.note(format!("write {at} {}", data.len()));
        self.bytes.write().unwrap()[at as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn write_zeroes(&self, at: u64, len: u64, how: Zeroing) -> io::Result<()> {
        self.note(format!("zero {at} {len} punch={} fast={}", how.may_punch, how.only_fast));
        self.bytes.write().unwrap()[at as usize..][..len as usize].fill(0);
        Ok(())
    }

    fn trim(&self, at: u64, len: u64) -> io::Result<()> {
        self.note(format!("trim {at} {len}"));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.note("flush");
        Ok(())
    }
}

/// A file of `len` bytes with data in some places and holes in the others.
pub(crate) fn sparse_file(path: &Path, len: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(len).unwrap();
    for (number, at) in [0, 1 << 20, (3 << 20) + 65536, len - 65536].into_iter().enumerate() {
        let data: Vec<u8> = (0..65536u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ number as u8).collect();
        file.write_all_at(&data, at).unwrap();
    }
    file.sync_all().unwrap();
}

pub(crate) fn file_export(path: &Path) -> Arc<dyn Export> {
    Arc::new(ReadOnly::new(Arc::new(FileDisk::open(path).unwrap())))
}

/// A server of one export with limits of its own.
pub(crate) fn server_of(export: Arc<dyn Export>, change: impl FnOnce(&mut Limits)) -> Server {
    let mut exports = Exports::new();
    exports.add("disk", "a disk of the tests", export).unwrap();
    let mut limits = Limits::default();
    change(&mut limits);
    Server::with(exports, None, limits)
}

/// A client that says what it is told to.
pub(crate) struct Peer {
    pub(crate) stream: DuplexStream,
}

pub(crate) const STRUCTURED: u32 = 8;
pub(crate) const EXTENDED: u32 = 11;

impl Peer {
    /// Connects to a server, and takes its greeting.
    pub(crate) async fn of(server: &Server) -> Self {
        let (stream, theirs) = tokio::io::duplex(1 << 20);
        let server = server.clone();
        tokio::spawn(async move { server.serve_stream(theirs).await });
        let mut peer = Self { stream };
        assert_eq!(peer.take(18).await, *b"NBDMAGICIHAVEOPT\0\x03");
        peer
    }

    /// The same with flags of the client.
    pub(crate) async fn greeted(server: &Server) -> Self {
        let mut peer = Self::of(server).await;
        peer.say(&3u32.to_be_bytes()).await;
        peer
    }

    /// The same, gone to the export "disk", with replies of a style and base:allocation.
    pub(crate) async fn serving(server: &Server, style: u32) -> Self {
        let mut peer = Self::greeted(server).await;
        if style != 0 {
            assert_eq!(peer.option(style, &[]).await, [(1, vec![])]);
            let query =
                [&4u32.to_be_bytes()[..], b"disk", &1u32.to_be_bytes(), &15u32.to_be_bytes(), b"base:allocation"];
            let contexts = peer.option(10, &query.concat()).await;
            assert_eq!(contexts[0], (4, [&1u32.to_be_bytes()[..], b"base:allocation"].concat()));
        }
        let replies = peer.option(7, &[&4u32.to_be_bytes()[..], b"disk", &[0, 0]].concat()).await;
        assert_eq!(replies.last().unwrap().0, 1, "{replies:?}");
        peer
    }

    pub(crate) async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    pub(crate) async fn number(&mut self, len: usize) -> u64 {
        self.take(len).await.into_iter().fold(0, |sum, byte| sum << 8 | u64::from(byte))
    }

    /// Whether the server hangs up without another word.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(std::time::Duration::from_secs(20), self.stream.read_to_end(&mut rest)).await;
        read.expect("the server does not hang up").is_ok() && rest.is_empty()
    }

    pub(crate) async fn say_option(&mut self, option: u32, data: &[u8]) {
        self.say(&[b"IHAVEOPT", &option.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()).await;
    }

    /// Asks for an option; answers kinds and data of the replies, to the last.
    pub(crate) async fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.say_option(option, data).await;
        let mut replies = Vec::new();
        loop {
            assert_eq!(self.number(8).await, 0x0003_e889_0455_65a9);
            assert_eq!(self.number(4).await, u64::from(option));
            let (kind, len) = (self.number(4).await as u32, self.number(4).await as usize);
            replies.push((kind, self.take(len).await));
            if kind == 1 || kind >= 1 << 31 {
                return replies;
            }
        }
    }

    pub(crate) async fn request(&mut self, flags: u16, command: u16, at: u64, len: u32) {
        let head = [&0x2560_9513u32.to_be_bytes()[..], &flags.to_be_bytes(), &command.to_be_bytes()].concat();
        self.say(&[&head[..], &77u64.to_be_bytes(), &at.to_be_bytes(), &len.to_be_bytes()].concat()).await;
    }

    pub(crate) async fn long_request(&mut self, flags: u16, command: u16, at: u64, len: u64) {
        let head = [&0x21e4_1c71u32.to_be_bytes()[..], &flags.to_be_bytes(), &command.to_be_bytes()].concat();
        self.say(&[&head[..], &77u64.to_be_bytes(), &at.to_be_bytes(), &len.to_be_bytes()].concat()).await;
    }

    /// A simple reply's error number.
    pub(crate) async fn simple(&mut self) -> u32 {
        assert_eq!(self.number(4).await, 0x6744_6698);
        let errno = self.number(4).await as u32;
        assert_eq!(self.number(8).await, 77);
        errno
    }

    /// The chunks of a structured reply: kinds and contents.
    pub(crate) async fn chunks(&mut self) -> Vec<(u16, Vec<u8>)> {
        let mut chunks = Vec::new();
        loop {
            assert_eq!(self.number(4).await, 0x668e_33ef);
            let (flags, kind) = (self.number(2).await, self.number(2).await as u16);
            assert_eq!(self.number(8).await, 77);
            let len = self.number(4).await as usize;
            chunks.push((kind, self.take(len).await));
            if flags & 1 == 1 {
                return chunks;
            }
        }
    }

    /// The only chunk of an extended reply to a request at `at`: its kind and content.
    pub(crate) async fn long_chunk(&mut self, at: u64) -> (u16, Vec<u8>) {
        assert_eq!(self.number(4).await, 0x6e8a_278c);
        assert_eq!(self.number(2).await, 1, "it is the last");
        let kind = self.number(2).await as u16;
        assert_eq!((self.number(8).await, self.number(8).await), (77, at));
        let len = self.number(8).await as usize;
        (kind, self.take(len).await)
    }

    /// The error number of a structured reply that is nothing but an error, 0 for success.
    pub(crate) async fn errno(&mut self) -> u32 {
        let chunks = self.chunks().await;
        match &chunks[..] {
            [(0, _)] => 0,
            [(0x8001, content)] => u32::from_be_bytes(content[..4].try_into().unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

/// A real program, `None` after a printed reason if it is not here; in CI that is an error.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} is missing, and CI must have it");
        eprintln!("skipped: there is no program {name}");
    }
    found
}

/// Runs a program beside the server, on another thread.
pub(crate) async fn run(name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(name);
    command.args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The same; it must succeed. Answers what it printed.
pub(crate) async fn must(name: &str, arguments: &[&str]) -> String {
    let output = run(name, arguments).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} {arguments:?}: {out}{err}");
    out.into_owned()
}
