use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use blockdev::{ByteLen, ByteOffset, ExtentKind, MemDisk, ReadAt, ReadError};

use super::memory::{Pattern, pattern};
use crate::mount::link::{disks, serve_disks};

/// Connections to a keeper of these disks.
fn connected(count: usize, kept: fn() -> Vec<Arc<dyn ReadAt>>) -> Vec<UnixStream> {
    let one = |_| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || serve_disks(theirs, &kept()));
        ours
    };
    (0..count).map(one).collect()
}

struct Bad;

impl ReadAt for Bad {
    fn size(&self) -> ByteLen {
        ByteLen(1 << 20)
    }
    fn read_exact_at(&self, at: ByteOffset, _: &mut [u8]) -> Result<(), ReadError> {
        Err(match at.0 {
            0 => ReadError::Io { at, source: std::io::Error::other("no light on path") },
            512 => ReadError::Corrupt { at, source: "a torn grain".into() },
            _ => ReadError::Unsupported { at, source: "a new kind of grain".into() },
        })
    }
}

fn kept() -> Vec<Arc<dyn ReadAt>> {
    vec![Arc::new(Pattern((3 << 20) + 5, u64::MAX)), Arc::new(MemDisk::new(vec![7; 100])), Arc::new(Bad)]
}

#[test]
fn many_threads_read_over_few_connections_what_is_there() {
    let linked = disks(connected(3, kept)).unwrap();
    let sizes: Vec<_> = linked.iter().map(|disk| disk.size().0).collect();
    assert_eq!(sizes, [(3 << 20) + 5, 100, 1 << 20]);
    std::thread::scope(|scope| {
        for reader in 0..8u64 {
            let disk = &linked[0];
            scope.spawn(move || {
                for step in 0..20u64 {
                    let at = (reader * 7919 + step * 104_729) % (2 << 20);
                    let mut buf = vec![0; if step == 7 { (1 << 20) + 3 } else { 3000 }];
                    disk.read_exact_at(ByteOffset(at), &mut buf).unwrap();
                    assert!(buf.iter().zip(at..).all(|(byte, at)| *byte == pattern(at)));
                }
            });
        }
    });
    let extent = linked[0].extent_at(ByteOffset((1 << 20) + 9)).unwrap();
    assert_eq!((extent.kind, extent.len.0), (ExtentKind::Hole, (1 << 20) - 9));
    assert!(matches!(linked[1].read_exact_at(ByteOffset(99), &mut [0; 2]), Err(ReadError::OutOfRange { .. })));
}

#[test]
fn errors_keep_their_family_and_text() {
    let linked = disks(connected(1, kept)).unwrap();
    let error = |at| linked[2].read_exact_at(ByteOffset(at), &mut [0; 8]).unwrap_err();
    let text = |error: &ReadError| std::error::Error::source(error).unwrap().to_string();
    let (io, corrupt, unsupported) = (error(0), error(512), error(1024));
    assert!(matches!(io, ReadError::Io { .. }) && text(&io) == "no light on path", "{io:?}");
    assert!(matches!(corrupt, ReadError::Corrupt { .. }) && text(&corrupt) == "a torn grain");
    assert!(matches!(unsupported, ReadError::Unsupported { .. }) && text(&unsupported) == "a new kind of grain");
    let mut one = [0; 1];
    linked[1].read_exact_at(ByteOffset(3), &mut one).unwrap(); // and the connection goes on
    assert_eq!(one, [7]);
}

/// A keeper that answers the first request like this, and then is gone.
fn keeper(answer: Vec<u8>) -> Arc<dyn ReadAt> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        theirs.write_all(&[b"SFL1".as_slice(), &1u32.to_le_bytes(), &4096u64.to_le_bytes()].concat()).unwrap();
        theirs.read_exact(&mut [0; 24]).unwrap();
        theirs.write_all(&answer).unwrap();
    });
    disks(vec![ours]).unwrap().remove(0)
}

#[test]
fn a_keeper_that_dies_or_lies_gives_errors_for_ever_and_never_zeros() {
    let head = |status: u32, len: u32| [status.to_le_bytes(), len.to_le_bytes()].concat();
    let answers =
        [Vec::new(), head(0, 512), [head(0, 512), vec![1; 300]].concat(), head(0, u32::MAX), head(1, 1 << 30)];
    for answer in answers {
        let disk = keeper(answer);
        for _ in 0..3 {
            let error = disk.read_exact_at(ByteOffset(0), &mut [0; 512]).unwrap_err();
            assert!(matches!(error, ReadError::Io { .. }), "{error:?}");
        }
    }
}

#[test]
fn requests_that_break_the_rules_end_the_connection() {
    let request = |kind: u32, disk: u32, len: u32| {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || serve_disks(theirs, &kept()));
        let mut head = [0; 8 + 3 * 8];
        ours.read_exact(&mut head).unwrap();
        let fields = [kind, disk, len, 0, 0, 0];
        ours.write_all(&fields.map(u32::to_le_bytes).concat()).unwrap();
        drop(ours);
        server.join().unwrap()
    };
    assert!(request(9, 0, 1).is_err() && request(1, 3, 1).is_err() && request(1, 0, (1 << 20) + 1).is_err());
}
