//! What requests do to an export, and what comes of it. Everything here may block.

use std::io;

use blockdev::{ByteLen, ByteOffset, ExtentKind, ReadAt, ReadError};
use bytes::Bytes;

use super::export::{Export, WriteAt, Zeroing};
use super::handshake::Style;
use super::request::{Refusal, Request};
use crate::constants::{command, command_flag, errno};

/// A shorter run of zeros inside data is sent as it is: its own chunk would cost more.
const SHORTEST_HOLE: u64 = 4096;
/// Descriptors in one answer to BLOCK_STATUS: 64 KiB, or 128 KiB with extended headers.
const MOST_DESCRIPTORS: usize = 8192;
/// Runs that are looked at for one answer, so that a disk of a million pieces cannot keep a thread.
const MOST_RUNS: usize = 1 << 16;

/// What is sent for a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is done.
    Done,
    /// The bytes of a read, in order and without gaps.
    Runs(Vec<Run>),
    /// Lengths and flags of `base:allocation`.
    Status(Vec<(u64, u32)>),
    /// It failed.
    Refused(Refusal),
}

/// A part of what was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Run {
    Data(u64, Bytes),
    Zeros(u64, u32),
}

/// Does what a request asks for, which was checked before.
pub(super) fn perform(export: &dyn Export, request: &Request, style: Style, data: &[u8]) -> Answer {
    let done = match request.command {
        command::READ => read(export.disk(), request, style).map(Answer::Runs),
        command::BLOCK_STATUS => status(export.disk(), request, style).map(Answer::Status),
        command::CACHE => {
            export.disk().will_need(ByteOffset(request.at), ByteLen(request.len));
            Ok(Answer::Done)
        }
        _ => match export.writer() {
            Some(writer) => change(writer, request, data).map(|()| Answer::Done).map_err(|error| from_io(&error)),
            None => Ok(Answer::Done), // a flush of what was never written
        },
    };
    done.unwrap_or_else(Answer::Refused)
}

fn change(writer: &dyn WriteAt, request: &Request, data: &[u8]) -> io::Result<()> {
    let Request { at, len, .. } = *request;
    match request.command {
        command::FLUSH => return writer.flush(),
        _ if len == 0 => {}
        command::WRITE => writer.write_at(at, data)?,
        command::TRIM => writer.trim(at, len)?,
        command::WRITE_ZEROES => {
            let may_punch = !request.has(command_flag::NO_HOLE);
            writer.write_zeroes(at, len, Zeroing { may_punch, only_fast: request.has(command_flag::FAST_ZERO) })?;
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    if request.has(command_flag::FUA) { writer.flush() } else { Ok(()) }
}

/// What a failure is on the wire. Other numbers of the system are not known to clients elsewhere.
fn from_io(error: &io::Error) -> Refusal {
    use io::ErrorKind::{
        FileTooLarge, InvalidInput, OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
        Unsupported,
    };
    let errno = match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => errno::ENOSPC,
        PermissionDenied | ReadOnlyFilesystem => errno::EPERM,
        OutOfMemory => errno::ENOMEM,
        InvalidInput => errno::EINVAL,
        Unsupported => errno::ENOTSUP,
        _ => errno::EIO,
    };
    Refusal::new(errno, chain(error))
}

fn from_read(error: &ReadError) -> Refusal {
    let errno = if matches!(error, ReadError::OutOfRange { .. }) { errno::EINVAL } else { errno::EIO };
    tracing::warn!("a read of an export failed: {}", chain(error));
    Refusal::new(errno, chain(error))
}

/// An error with its causes, for people.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn read_bytes(disk: &dyn ReadAt, at: u64, len: u64) -> Result<Bytes, Refusal> {
    let len = usize::try_from(len).map_err(|_| Refusal::new(errno::EOVERFLOW, "too long"))?;
    let mut bytes = vec![0; len]; // at most the longest read, which was checked
    disk.read_exact_at(ByteOffset(at), &mut bytes).map_err(|error| from_read(&error))?;
    Ok(Bytes::from(bytes))
}

/// The bytes of a read. Where the style has chunks, what is known to be zero is not sent.
fn read(disk: &dyn ReadAt, request: &Request, style: Style) -> Result<Vec<Run>, Refusal> {
    let (start, end) = (request.at, request.at.saturating_add(request.len));
    if request.len == 0 {
        return Ok(Vec::new());
    }
    if style == Style::Simple || request.has(command_flag::DF) {
        return Ok(vec![Run::Data(start, read_bytes(disk, start, request.len)?)]);
    }
    let mut runs = Vec::new();
    let (mut data, mut at) = (start, start); // from `data` to `at` there is something to read
    while at < end {
        let extent = disk.extent_at(ByteOffset(at)).map_err(|error| from_read(&error))?;
        let next = extent.end().0.clamp(at.saturating_add(1), end);
        let zeros = u32::try_from(next.saturating_sub(at)).unwrap_or(u32::MAX); // no longer than the read
        if extent.kind != ExtentKind::Data
            && (u64::from(zeros) >= SHORTEST_HOLE || next.saturating_sub(at) == request.len)
        {
            if data < at {
                runs.push(Run::Data(data, read_bytes(disk, data, at.saturating_sub(data))?));
            }
            runs.push(Run::Zeros(at, zeros));
            data = next;
        }
        at = next;
    }
    if data < end {
        runs.push(Run::Data(data, read_bytes(disk, data, end.saturating_sub(data))?));
    }
    Ok(runs)
}

/// Bits of `base:allocation`.
const HOLE: u32 = 1 << 0;
const ZERO: u32 = 1 << 1;

fn status(disk: &dyn ReadAt, request: &Request, style: Style) -> Result<Vec<(u64, u32)>, Refusal> {
    let end = request.at.saturating_add(request.len);
    // A descriptor of the compact style has 32 bits for its length, and no request there is longer.
    let longest = if style == Style::Extended { u64::MAX } else { u32::MAX.into() };
    let most = if request.has(command_flag::REQ_ONE) { 1 } else { MOST_DESCRIPTORS };
    let mut found: Vec<(u64, u32)> = Vec::new();
    let mut at = request.at;
    for _ in 0..MOST_RUNS {
        if at >= end {
            break;
        }
        let extent = disk.extent_at(ByteOffset(at)).map_err(|error| from_read(&error))?;
        let next = extent.end().0.clamp(at.saturating_add(1), end);
        let len = next.saturating_sub(at).min(longest);
        let flags = match extent.kind {
            ExtentKind::Data => 0,
            ExtentKind::Zero => ZERO,
            ExtentKind::Hole => HOLE | ZERO,
        };
        let full = found.len() >= most;
        match found.last_mut() {
            Some(last) if last.1 == flags && last.0.checked_add(len).is_some_and(|sum| sum <= longest) => {
                last.0 = last.0.saturating_add(len);
            }
            _ if full => break,
            _ => found.push((len, flags)),
        }
        at = at.saturating_add(len);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use blockdev::Extent;

    use super::*;

    /// 64 KiB: data, a hole, data with a short hole inside, zeros.
    struct Pieces;
    const KINDS: [(u64, ExtentKind); 6] = [
        (8192, ExtentKind::Data),
        (24576, ExtentKind::Hole),
        (28672, ExtentKind::Data),
        (29184, ExtentKind::Hole),
        (32768, ExtentKind::Data),
        (65536, ExtentKind::Zero),
    ];

    impl ReadAt for Pieces {
        fn size(&self) -> ByteLen {
            ByteLen(65536)
        }
        fn read_exact_at(&self, _: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
            buf.fill(1);
            Ok(())
        }
        fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
            let (end, kind) = KINDS.into_iter().find(|(end, _)| at.0 < *end).unwrap();
            Ok(Extent { start: at, len: ByteLen(end - at.0), kind })
        }
    }

    fn request(command: u16, flags: u16, at: u64, len: u64) -> Request {
        Request { flags, command, cookie: 0, at, len }
    }

    fn shape(runs: &[Run]) -> Vec<(char, u64, u64)> {
        let shape = |run: &Run| match run {
            Run::Data(at, bytes) => ('d', *at, bytes.len() as u64),
            Run::Zeros(at, len) => ('z', *at, u64::from(*len)),
        };
        runs.iter().map(shape).collect()
    }

    #[test]
    fn holes_are_not_sent_unless_they_are_short() {
        let of = |flags, style, at, len| shape(&read(&Pieces, &request(command::READ, flags, at, len), style).unwrap());
        let whole = [('d', 0, 8192), ('z', 8192, 16384), ('d', 24576, 8192), ('z', 32768, 32768)];
        assert_eq!(of(0, Style::Structured, 0, 65536), whole);
        assert_eq!(of(0, Style::Extended, 4096, 8192), [('d', 4096, 4096), ('z', 8192, 4096)]);
        assert_eq!(of(command_flag::DF, Style::Structured, 0, 65536), [('d', 0, 65536)]);
        assert_eq!(of(0, Style::Simple, 0, 65536), [('d', 0, 65536)]);
        assert_eq!(of(0, Style::Structured, 9000, 100), [('z', 9000, 100)]);
        assert_eq!(of(0, Style::Structured, 0, 0), []);
    }

    #[test]
    fn status_covers_what_was_asked_for_and_not_more() {
        let of = |flags, at, len| {
            status(&Pieces, &request(command::BLOCK_STATUS, flags, at, len), Style::Structured).unwrap()
        };
        assert_eq!(of(0, 0, 30000), [(8192, 0), (16384, 3), (4096, 0), (512, 3), (816, 0)]);
        assert_eq!(of(command_flag::REQ_ONE, 9000, 50000), [(15576, 3)]);
        assert_eq!(of(0, 60000, 10), [(10, 2)]);
    }

    struct Full;
    impl WriteAt for Full {
        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn write_zeroes(&self, _: u64, _: u64, _: Zeroing) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn flush(&self) -> io::Result<()> {
            Err(io::Error::other("no light on path"))
        }
    }

    #[test]
    fn failures_of_the_storage_have_their_numbers() {
        let of = |command| from_io(&change(&Full, &request(command, 0, 0, 1), &[0]).unwrap_err()).errno;
        assert_eq!(of(command::WRITE), errno::ENOSPC);
        assert_eq!(of(command::WRITE_ZEROES), errno::ENOTSUP);
        assert_eq!(of(command::FLUSH), errno::EIO);
        let trimmed = change(&Full, &request(command::TRIM, command_flag::FUA, 0, 1), &[]);
        assert!(trimmed.is_err(), "FUA waits for the flush, whose failure is told");
    }
}
