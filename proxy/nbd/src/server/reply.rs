//! How answers look on the wire, `proto.md` "Simple reply message", "Structured reply chunk message", "Extended reply chunk message".

use bytes::{BufMut, Bytes, BytesMut};

use super::handshake::{ALLOCATION_ID, Style};
use super::request::{Refusal, Request};
use super::work::{Answer, Run};
use crate::constants::{EXTENDED_REPLY, SIMPLE_REPLY, STRUCTURED_REPLY, chunk, errno};

/// The text of an error is cut here.
const LONGEST_TEXT: usize = 1024;

/// The bytes of an answer, piece by piece: data is not copied.
pub(super) fn encode(request: &Request, style: Style, answer: Answer) -> Vec<Bytes> {
    let simple = style == Style::Simple;
    match answer {
        Answer::Refused(refusal) if simple => vec![simple_head(request.cookie, refusal.errno)],
        Answer::Done if simple => vec![simple_head(request.cookie, 0)],
        Answer::Runs(runs) if simple => {
            let data = runs.into_iter().filter_map(|run| match run {
                Run::Data(_, bytes) => Some(bytes),
                Run::Zeros(..) => None, // none is made for this style
            });
            std::iter::once(simple_head(request.cookie, 0)).chain(data).collect()
        }
        Answer::Refused(refusal) => vec![error(request, style, &refusal)],
        Answer::Runs(runs) if !runs.is_empty() => content(request, style, runs),
        Answer::Status(found) if !simple => vec![status(request, style, &found)],
        Answer::Status(_) => vec![simple_head(request.cookie, errno::EINVAL)], // contexts take structured replies
        Answer::Done | Answer::Runs(_) => vec![head(request, style, chunk::DONE, chunk::NONE, 0).freeze()],
    }
}

fn simple_head(cookie: u64, errno: u32) -> Bytes {
    let mut head = BytesMut::with_capacity(16);
    head.put_u32(SIMPLE_REPLY);
    head.put_u32(errno);
    head.put_u64(cookie);
    head.freeze()
}

/// The head of a chunk; there is room behind it for the fields of any content.
fn head(request: &Request, style: Style, flags: u16, kind: u16, len: usize) -> BytesMut {
    let mut head = BytesMut::with_capacity(48);
    head.put_u32(if style == Style::Extended { EXTENDED_REPLY } else { STRUCTURED_REPLY });
    head.put_u16(flags);
    head.put_u16(kind);
    head.put_u64(request.cookie);
    let len = u32::try_from(len).unwrap_or(u32::MAX); // the longest is that of a read, and 8
    if style == Style::Extended {
        head.put_u64(request.at);
        head.put_u64(len.into());
    } else {
        head.put_u32(len);
    }
    head
}

fn content(request: &Request, style: Style, runs: Vec<Run>) -> Vec<Bytes> {
    let last = runs.len().saturating_sub(1);
    let mut pieces = Vec::with_capacity(runs.len().saturating_mul(2));
    for (number, run) in runs.into_iter().enumerate() {
        let flags = if number == last { chunk::DONE } else { 0 };
        match run {
            Run::Data(at, bytes) => {
                let mut head = head(request, style, flags, chunk::OFFSET_DATA, bytes.len().saturating_add(8));
                head.put_u64(at);
                pieces.push(head.freeze());
                pieces.push(bytes);
            }
            Run::Zeros(at, len) => {
                let mut head = head(request, style, flags, chunk::OFFSET_HOLE, 12);
                head.put_u64(at);
                head.put_u32(len);
                pieces.push(head.freeze());
            }
        }
    }
    pieces
}

fn status(request: &Request, style: Style, found: &[(u64, u32)]) -> Bytes {
    let extended = style == Style::Extended;
    let (kind, len) = match extended {
        true => (chunk::BLOCK_STATUS_EXT, found.len().saturating_mul(16).saturating_add(8)),
        false => (chunk::BLOCK_STATUS, found.len().saturating_mul(8).saturating_add(4)),
    };
    let mut bytes = head(request, style, chunk::DONE, kind, len);
    bytes.reserve(len);
    bytes.put_u32(ALLOCATION_ID);
    if extended {
        bytes.put_u32(u32::try_from(found.len()).unwrap_or(0)); // at most some thousand
    }
    for (len, flags) in found {
        if extended {
            bytes.put_u64(*len);
            bytes.put_u64((*flags).into());
        } else {
            bytes.put_u32(u32::try_from(*len).unwrap_or(u32::MAX)); // they are made no longer
            bytes.put_u32(*flags);
        }
    }
    bytes.freeze()
}

fn error(request: &Request, style: Style, refusal: &Refusal) -> Bytes {
    let mut end = refusal.why.len().min(LONGEST_TEXT);
    while !refusal.why.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let text = refusal.why.get(..end).unwrap_or_default();
    let mut bytes = head(request, style, chunk::DONE, chunk::ERROR, text.len().saturating_add(6));
    bytes.put_u32(refusal.errno);
    bytes.put_u16(u16::try_from(text.len()).unwrap_or(0)); // cut above
    bytes.put_slice(text.as_bytes());
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constants::command;

    fn request(command: u16) -> Request {
        Request { flags: 0, command, cookie: 0x0102, at: 512, len: 1024 }
    }

    #[test]
    fn each_style_has_its_heads() {
        let refusal = || Answer::Refused(Refusal::new(errno::EPERM, "no"));
        let of = |style, answer| encode(&request(command::READ), style, answer).concat();
        assert_eq!(of(Style::Simple, refusal()), [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2]);
        let structured = of(Style::Structured, refusal());
        let expected = [0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 8, 0, 0, 0, 1, 0, 2];
        assert_eq!(structured, [&expected[..], b"no"].concat());
        let extended = of(Style::Extended, Answer::Done);
        let expected = [&[0x6e, 0x8a, 0x27, 0x8c, 0, 1, 0, 0][..], &[0, 0, 0, 0, 0, 0, 1, 2]].concat();
        assert_eq!(extended, [&expected[..], &[0, 0, 0, 0, 0, 0, 2, 0], &[0; 8]].concat());
    }

    #[test]
    fn the_last_chunk_of_a_read_says_that_it_is_the_last() {
        let runs = vec![Run::Zeros(512, 512), Run::Data(1024, Bytes::from_static(&[7; 512]))];
        let pieces = encode(&request(command::READ), Style::Structured, Answer::Runs(runs));
        let lens: Vec<_> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lens, [32, 28, 512]);
        assert_eq!((&pieces[0][4..8], &pieces[1][4..8]), (&[0, 0, 0, 2][..], &[0, 1, 0, 1][..]));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let refusal = Refusal::new(errno::EIO, "ä".repeat(2000));
        let bytes = error(&request(command::READ), Style::Structured, &refusal);
        assert_eq!(bytes.len(), 20 + 6 + 1024);
    }
}
