//! Where the structures of a whole NTFS image lie, so that tests can damage one field after the other. Knows no bounds: the image is
//! one that a foreign tool has just written.
#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(clippy::unwrap_used, reason = "what only tests call may fail as tests do")]

/// Some bytes of the image that mean something.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// What they are: kinds are counted by this.
    pub(crate) label: String,
    /// Where in the thing so called they begin.
    pub(crate) offset: usize,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

pub(crate) fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn size(bytes: &[u8], at: usize, len: usize) -> usize {
    usize::try_from(number(bytes, at, len)).unwrap()
}

/// The structures of an image with clusters of 4 KiB and records of 1 KiB, by group.
pub(crate) struct Map<'a> {
    image: &'a [u8],
    pub(crate) groups: Vec<(&'static str, Vec<Span>)>,
}

const CLUSTER: usize = 4096;
const RECORD: usize = 1024;

impl<'a> Map<'a> {
    pub(crate) fn of(image: &'a [u8]) -> Self {
        let mut map = Self { image, groups: Vec::new() };
        map.add("boot", span("boot sector", 0, 0, 0x54));
        for at in (0..image.len()).step_by(RECORD) {
            if image[at..].starts_with(b"FILE") && number(image, at + 0x16, 2) & 1 != 0 {
                map.record(at);
            }
        }
        for at in (0..image.len()).step_by(CLUSTER) {
            if image[at..].starts_with(b"INDX") {
                map.index_block(at);
            }
        }
        map
    }

    fn add(&mut self, group: &'static str, span: Span) {
        if span.len == 0 {
            return;
        }
        match self.groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, spans)) => spans.push(span),
            None => self.groups.push((group, vec![span])),
        }
    }

    fn record(&mut self, at: usize) {
        let bytes = fixed_up(&self.image[at..at + RECORD]);
        let first = size(&bytes, 0x14, 2);
        self.add("record head", span("FILE", 0, at, first));
        let mut place = first;
        while number(&bytes, place, 4) != 0xffff_ffff {
            let len = size(&bytes, place + 4, 4);
            self.attribute(at + place, &bytes[place..place + len]);
            place += len;
        }
        self.add("record head", span("end marker", 0, at + place, 4));
    }

    fn attribute(&mut self, at: usize, bytes: &[u8]) {
        let kind = number(bytes, 0, 4);
        let name = &bytes[size(bytes, 0xa, 2)..][..2 * size(bytes, 9, 1)];
        let name: String = name.chunks(2).map(|unit| char::from(unit[0])).collect();
        let label = |part: &str| format!("{kind:#x} {part}");
        if bytes[8] == 0 {
            let (len, value) = (size(bytes, 0x10, 4), size(bytes, 0x14, 2));
            self.add("attribute head", span(&label("resident"), 0, at, value));
            match kind {
                0x20 => self.list(at + value, len),
                0x90 => {
                    self.add("index", span("index root", 0, at + value, 0x20));
                    self.node(at + value + 0x10, &bytes[value + 0x10..]);
                }
                _ => self.add("resident value", span(&label("value"), 0, at + value, len)),
            }
            return;
        }
        let pairs = size(bytes, 0x20, 2);
        self.add("attribute head", span(&label("clusters"), 0, at, pairs));
        self.add("runs", span(&label("runs"), 0, at + pairs, bytes.len() - pairs));
        let compressed = number(bytes, 0xc, 2) & 1 != 0;
        let (group, most) = match (kind, name.as_str()) {
            (0x20, _) => ("attribute list", size(bytes, 0x30, 8)),
            (0x80, "$SDS") => ("$Secure", CLUSTER),
            (0x80, "WofCompressedData") => ("WOF", usize::MAX),
            (0x80, "") if compressed => ("LZNT1", usize::MAX),
            (0xb0, _) => ("index bitmap", CLUSTER),
            _ => return,
        };
        for (lcn, clusters) in runs(&bytes[pairs..]) {
            let stored = &self.image[lcn * CLUSTER..][..clusters * CLUSTER];
            let used = stored.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).min(most);
            match kind {
                0x20 => self.list(lcn * CLUSTER, used),
                _ => self.add(group, span(group, 0, lcn * CLUSTER, used)),
            }
        }
    }

    fn list(&mut self, at: usize, len: usize) {
        let mut place = at;
        while place + 0x1a <= at + len {
            let entry = size(self.image, place + 4, 2);
            self.add("attribute list", span("list entry", 0, place, entry));
            place += entry;
        }
    }

    fn index_block(&mut self, at: usize) {
        let bytes = fixed_up(&self.image[at..at + CLUSTER]);
        self.add("index", span("INDX", 0, at, 0x18 + size(&bytes, 0x18, 4)));
        self.node(at + 0x18, &bytes[0x18..]);
    }

    /// The entries of a node whose header is at the start of `bytes`.
    fn node(&mut self, at: usize, bytes: &[u8]) {
        let mut place = size(bytes, 0, 4);
        loop {
            let (len, key, flags) = (size(bytes, place + 8, 2), size(bytes, place + 10, 2), bytes[place + 12]);
            self.add("index", span("index entry", 0, at + place, 16));
            self.add("index", span("index key", 0, at + place + 16, if flags & 2 != 0 { 0 } else { key }));
            self.add("index", span("index child", 0, at + place + len - 8, if flags & 1 != 0 { 8 } else { 0 }));
            if flags & 2 != 0 {
                return;
            }
            place += len;
        }
    }
}

fn span(label: &str, offset: usize, start: usize, len: usize) -> Span {
    Span { label: label.to_owned(), offset, start, len }
}

/// A copy without its update sequence.
pub(crate) fn fixed_up(bytes: &[u8]) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    let array = size(bytes, 4, 2);
    for (sector, tail) in copy.chunks_mut(512).enumerate() {
        tail[510..].copy_from_slice(&bytes[array + 2 + 2 * sector..][..2]);
    }
    copy
}

/// First cluster and length of each run that is none of a hole.
fn runs(pairs: &[u8]) -> Vec<(usize, usize)> {
    let (mut found, mut at, mut lcn) = (Vec::new(), 0, 0i64);
    while pairs[at] != 0 {
        let (count, step) = (usize::from(pairs[at] & 15), usize::from(pairs[at] >> 4));
        if step > 0 {
            let moved = number(pairs, at + 1 + count, step) << (64 - 8 * step);
            lcn += i64::from_le_bytes(moved.to_le_bytes()) >> (64 - 8 * step);
            found.push((usize::try_from(lcn).unwrap(), size(pairs, at + 1, count)));
        }
        at += 1 + count + step;
    }
    found
}
