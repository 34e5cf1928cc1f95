//! A request and what is allowed of it, `proto.md` "Request message" and "Request types".

use super::handshake::{Agreed, Style};
use super::parse::Cursor;
use crate::constants::{EXTENDED_REQUEST, REQUEST, command, command_flag, errno};

/// A compact header.
const COMPACT: usize = 28;
/// An extended one, whose length has 64 bits.
const EXTENDED: usize = 32;

/// A request as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) command: u16,
    /// What the client knows it by.
    pub(super) cookie: u64,
    pub(super) at: u64,
    pub(super) len: u64,
}

/// How long headers of a style are.
pub(super) const fn header_len(style: Style) -> usize {
    match style {
        Style::Extended => EXTENDED,
        _ => COMPACT,
    }
}

impl Request {
    /// The request that a header holds; `None` if that is no header.
    pub(super) fn parse(style: Style, header: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(header);
        let magic = cursor.u32()?;
        let (flags, command, cookie, at) = (cursor.u16()?, cursor.u16()?, cursor.u64()?, cursor.u64()?);
        let len = match (style, magic) {
            (Style::Extended, EXTENDED_REQUEST) => cursor.u64()?,
            (Style::Simple | Style::Structured, REQUEST) => cursor.u32()?.into(),
            _ => return None,
        };
        cursor.is_at_end().then_some(Self { flags, command, cookie, at, len })
    }

    pub(super) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// How many bytes of data follow the header.
    pub(super) const fn payload(&self, style: Style) -> u64 {
        match (style, self.command) {
            (_, command::WRITE) => self.len,
            (Style::Extended, _) if self.has(command_flag::PAYLOAD_LEN) => self.len,
            _ => 0,
        }
    }
}

/// Why a request is answered by an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errno: u32,
    /// For people; it goes along where the protocol has room for it.
    pub(super) why: String,
}

impl Refusal {
    pub(super) fn new(errno: u32, why: impl Into<String>) -> Self {
        Self { errno, why: why.into() }
    }
}

fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::new(errno::EINVAL, why)
}

/// Checks a request against what was agreed on; `most` is the longest read or write.
pub(super) fn check(request: &Request, agreed: &Agreed, most: u32) -> Result<(), Refusal> {
    check_flags(request, agreed)?;
    let writes = matches!(request.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
    if writes && agreed.entry.export.writer().is_none() {
        return Err(Refusal::new(errno::EPERM, "the export is read-only"));
    }
    match request.command {
        command::FLUSH if request.at != 0 || request.len != 0 => {
            return Err(invalid("a flush has neither place nor length"));
        }
        command::FLUSH => return Ok(()),
        command::READ | command::WRITE if request.len > most.into() => {
            return Err(Refusal::new(
                errno::EOVERFLOW,
                format!("{} bytes at once, and {most} are the most", request.len),
            ));
        }
        command::BLOCK_STATUS if request.len == 0 => return Err(invalid("block status of nothing")),
        command::BLOCK_STATUS if !agreed.allocation => return Err(invalid("no context was agreed on")),
        _ => {}
    }
    if request.at.checked_add(request.len).is_none_or(|end| end > agreed.size) {
        let errno = match request.command {
            command::WRITE | command::WRITE_ZEROES => errno::ENOSPC,
            _ => errno::EINVAL,
        };
        let why = format!("{} bytes at {} pass the end of {}", request.len, request.at, agreed.size);
        return Err(Refusal::new(errno, why));
    }
    Ok(())
}

fn check_flags(request: &Request, agreed: &Agreed) -> Result<(), Refusal> {
    let structured = agreed.style >= Style::Structured;
    // Clients are known to set FUA on any command (`proto.md`, "Command flags").
    let allowed = command_flag::FUA
        | match request.command {
            command::READ if structured => command_flag::DF,
            command::WRITE if agreed.style == Style::Extended => command_flag::PAYLOAD_LEN,
            command::WRITE_ZEROES => command_flag::NO_HOLE | command_flag::FAST_ZERO,
            command::BLOCK_STATUS => command_flag::REQ_ONE,
            command::READ | command::WRITE | command::FLUSH | command::TRIM | command::CACHE => 0,
            other => return Err(invalid(format!("command {other} is not known"))),
        };
    match request.flags & !allowed {
        0 => Ok(()),
        unknown => Err(invalid(format!("flags {unknown:#x} do not go with command {}", request.command))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use blockdev::MemDisk;

    use super::*;
    use crate::server::export::{Entry, ReadOnly};

    fn agreed(style: Style) -> Agreed {
        let export = Arc::new(ReadOnly::new(Arc::new(MemDisk::new(vec![0; 4096]))));
        let entry = Entry { name: String::new(), description: String::new(), export };
        Agreed { entry: Arc::new(entry), size: 4096, style, allocation: true, flags: 0 }
    }

    fn request(command: u16, flags: u16, at: u64, len: u64) -> Request {
        Request { flags, command, cookie: 7, at, len }
    }

    fn errno_of(request: &Request, style: Style) -> u32 {
        check(request, &agreed(style), 1 << 20).map_or_else(|refusal| refusal.errno, |()| 0)
    }

    #[test]
    fn a_range_must_lie_inside_the_disk() {
        let of = |at, len| errno_of(&request(command::READ, 0, at, len), Style::Structured);
        assert_eq!((of(0, 4096), of(4095, 1), of(4096, 0)), (0, 0, 0));
        for (at, len) in [(0, 4097), (4096, 1), (u64::MAX, 1), (1, u64::from(u32::MAX >> 12))] {
            assert_eq!(of(at, len), errno::EINVAL, "{at} {len}");
        }
        assert_eq!(of(0, (1 << 20) + 1), errno::EOVERFLOW);
    }

    #[test]
    fn a_read_only_export_permits_no_write_of_any_kind() {
        for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
            assert_eq!(errno_of(&request(command, 0, 0, 512), Style::Structured), errno::EPERM, "{command}");
        }
    }

    #[test]
    fn flags_go_with_their_commands_alone() {
        let of = |command, flags, style| errno_of(&request(command, flags, 0, 512), style);
        assert_eq!(of(command::READ, command_flag::DF, Style::Structured), 0);
        assert_eq!(of(command::READ, command_flag::DF, Style::Simple), errno::EINVAL);
        assert_eq!(of(command::READ, command_flag::FUA, Style::Simple), 0);
        assert_eq!(of(command::READ, command_flag::REQ_ONE, Style::Structured), errno::EINVAL);
        assert_eq!(of(command::BLOCK_STATUS, command_flag::REQ_ONE, Style::Structured), 0);
        assert_eq!(of(command::RESIZE, 0, Style::Structured), errno::EINVAL);
        assert_eq!(of(99, 0, Style::Structured), errno::EINVAL);
    }

    #[test]
    fn headers_are_taken_in_the_agreed_style_alone() {
        let mut header = REQUEST.to_be_bytes().to_vec();
        header.extend_from_slice(&[0, 0, 0, 3]);
        header.extend_from_slice(&7u64.to_be_bytes());
        header.extend_from_slice(&[0; 12]);
        assert_eq!(header.len(), header_len(Style::Structured));
        assert_eq!(Request::parse(Style::Structured, &header), Some(request(command::FLUSH, 0, 0, 0)));
        assert_eq!(Request::parse(Style::Extended, &[&header[..], &[0; 4]].concat()), None);
        header[0] ^= 1;
        assert_eq!(Request::parse(Style::Structured, &header), None);
    }
}
