//! Indexes: B-trees of folders' names (`$I30`) and of security ids (`$SII`).

use std::cmp::Ordering;
use std::ops::ControlFlow;

use super::record::{Record, fix_up, kind};
use super::stream::Stream;
use super::volume::{Volume, what_of};
use super::{Place, Reference};
use crate::FsError;
use crate::bytes::{index, u16_at, u32_at, u64_at};

/// A tree of names that is deeper than this is a loop: each level multiplies by ten at least.
const MAX_DEPTH: u32 = 20;
/// A bitmap that tells of so many blocks: 2 GiB of index at 4 KiB each.
const MAX_BITMAP: usize = 64 << 10;

/// Index entry flags.
const HAS_CHILD: u16 = 1;
const LAST: u16 = 2;

/// An index, opened.
pub(super) struct Index<'v> {
    volume: &'v Volume,
    number: u64,
    /// The value of `$INDEX_ROOT`.
    root: Vec<u8>,
    blocks: Option<Stream>,
    block: usize,
    /// Log2 of the bytes that the numbers of blocks count in.
    unit: u32,
}

/// An entry of an index, its key first.
#[derive(Clone, Copy, Debug)]
pub(super) struct IndexEntry<'a> {
    bytes: &'a [u8],
    key_len: usize,
    flags: u16,
}

impl<'a> IndexEntry<'a> {
    pub(super) fn key(&self) -> &'a [u8] {
        self.bytes.get(16..16_usize.saturating_add(self.key_len)).unwrap_or_default() // it was checked
    }

    /// What a name leads to.
    pub(super) fn reference(&self) -> Reference {
        Reference(u64_at(self.bytes, 0).unwrap_or(0))
    }

    /// What stands behind the key, in indexes that are no folders.
    pub(super) fn data(&self) -> Option<&'a [u8]> {
        let (at, len) = (usize::from(u16_at(self.bytes, 0)?), usize::from(u16_at(self.bytes, 2)?));
        self.bytes.get(at..at.checked_add(len)?)
    }

    /// The block of the entries that come before this one.
    fn child(&self) -> Option<u64> {
        if self.flags & HAS_CHILD == 0 {
            return None;
        }
        u64_at(self.bytes, self.bytes.len().checked_sub(8)?)
    }
}

/// Gets each entry and where to go on behind it; may break off.
type Each<'e> = &'e mut dyn FnMut(&IndexEntry<'_>, u64) -> Result<ControlFlow<()>, FsError>;

/// Walks the entries of a node: `bytes` begins with its header.
fn node<'a>(bytes: &'a [u8], place: &Place) -> Result<Vec<IndexEntry<'a>>, FsError> {
    let corrupt = |field, found: u64, expected| FsError::Corrupt {
        what: place.to_string(),
        field,
        found: found.to_string(),
        expected,
    };
    let field = |at| u32_at(bytes, at).unwrap_or(0);
    let (first, used, total) = (field(0), field(4), field(8));
    if index(total) > bytes.len() {
        return Err(corrupt("bytes of the node", total.into(), "at most those of the block or value that holds it"));
    }
    let node = bytes.get(..index(used.min(total))).and_then(|node| node.get(index(first)..));
    let node = node.filter(|_| used <= total && first >= 16 && first.is_multiple_of(8));
    let node =
        node.ok_or_else(|| corrupt("bytes in use", used.into(), "at most those of the node, first entry included"))?;
    let mut entries = Vec::new();
    let mut rest = node;
    loop {
        let len = u16_at(rest, 8).unwrap_or(0);
        let entry = rest.get(..len.into()).filter(|entry| entry.len() >= 16 && len.is_multiple_of(8));
        let Some(entry) = entry else {
            return Err(corrupt("length of an entry", len.into(), "a multiple of 8 from 16 to the end of the node"));
        };
        let (key_len, flags) = (u16_at(entry, 10).unwrap_or(0), u16_at(entry, 12).unwrap_or(0));
        let tail = if flags & HAS_CHILD == 0 { 16 } else { 24 };
        let last = flags & LAST != 0;
        if !last && usize::from(key_len).saturating_add(tail) > entry.len() {
            return Err(corrupt("length of a key", key_len.into(), "inside its entry"));
        }
        let key_len = if last { 0 } else { usize::from(key_len) };
        entries.push(IndexEntry { bytes: entry, key_len, flags });
        rest = rest.get(entry.len()..).unwrap_or_default();
        if last {
            break;
        }
    }
    // A wrong flag would hide what is behind or below an entry, and nobody would know.
    if !rest.is_empty() {
        let behind = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        return Err(corrupt("bytes behind the last entry", behind, "none, for the bytes in use end with it"));
    }
    let children = entries.iter().filter(|entry| entry.flags & HAS_CHILD != 0).count();
    if children != 0 && children != entries.len() {
        let children = u64::try_from(children).unwrap_or(u64::MAX);
        return Err(corrupt("number of entries with a child", children, "all or none: a node is a leaf or it is not"));
    }
    Ok(entries)
}

impl<'v> Index<'v> {
    /// Opens the index `name` of a file, if it has one.
    pub(super) fn open(volume: &'v Volume, base: &Record, name: &str) -> Result<Option<Self>, FsError> {
        let name: Vec<u16> = name.encode_utf16().collect();
        let limit = volume.device.record;
        let Some(root) = volume.own_value(base, kind::INDEX_ROOT, &name, limit)? else { return Ok(None) };
        let block = u32_at(&root, 8).unwrap_or(0);
        if !block.is_power_of_two() || !(512..=64 << 10).contains(&block) {
            return Err(FsError::Corrupt {
                what: what_of(base.number, kind::INDEX_ROOT, &name),
                field: "size of index blocks",
                found: block.to_string(),
                expected: "a power of two from 512 to 65536",
            });
        }
        let blocks = volume.stream(base, kind::INDEX_ALLOCATION, &name)?;
        // Blocks are numbered by clusters, or by sectors of 512 bytes where clusters are larger.
        let unit = if u64::from(block) >= volume.device.cluster { volume.device.log } else { 9 };
        Ok(Some(Self { volume, number: base.number, root, blocks, block: index(block), unit }))
    }

    /// The record of the file whose index this is.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    fn place(&self, block: u64) -> Place {
        Place::IndexBlock { record: self.number, block }
    }

    fn root_entries(&self) -> Result<Vec<IndexEntry<'_>>, FsError> {
        node(self.root.get(16..).unwrap_or_default(), &Place::Record(self.number))
    }

    /// Reads the block at byte `at` of the index, fixed up.
    fn block_at(&self, at: u64) -> Result<Vec<u8>, FsError> {
        let place = self.place(at >> self.unit.min(63));
        let Some(blocks) = &self.blocks else {
            return Err(FsError::Corrupt {
                what: place.to_string(),
                field: "$INDEX_ALLOCATION",
                found: "missing".into(),
                expected: "there, because an entry leads to it",
            });
        };
        let mut bytes = vec![0; self.block];
        blocks.read(&self.volume.device, self.volume.device.cached(), at, &mut bytes)?;
        fix_up(&mut bytes, "INDX", place)?;
        let number = u64_at(&bytes, 0x10).unwrap_or(0);
        if number != at >> self.unit.min(63) {
            return Err(FsError::Corrupt {
                what: place.to_string(),
                field: "VCN",
                found: number.to_string(),
                expected: "that of its place",
            });
        }
        Ok(bytes)
    }

    /// Looks for the entry to which `compare` says equal. It tells the order of what is looked for against a key.
    pub(super) fn search<T>(
        &self,
        compare: &dyn Fn(&[u8]) -> Ordering,
        found: impl FnOnce(&IndexEntry<'_>) -> T,
    ) -> Result<Option<T>, FsError> {
        let mut child = match step(&self.root_entries()?, compare) {
            Step::Found(entry) => return Ok(Some(found(&entry))),
            Step::Child(child) => child,
        };
        for _ in 0..MAX_DEPTH {
            let Some(block) = child else { return Ok(None) };
            let at = block.checked_shl(self.unit).filter(|at| at >> self.unit == block).unwrap_or(u64::MAX);
            let bytes = self.block_at(at)?;
            child = match step(&node(bytes.get(0x18..).unwrap_or_default(), &self.place(block))?, compare) {
                Step::Found(entry) => return Ok(Some(found(&entry))),
                Step::Child(child) => child,
            };
        }
        Err(FsError::Corrupt {
            what: Place::Record(self.number).to_string(),
            field: "depth of the index",
            found: format!("more than {MAX_DEPTH}"),
            expected: "a tree",
        })
    }

    /// Hands every entry to `each`, the root's first, then block by block, until it breaks off. `from` is where an earlier walk was:
    /// the second value that `each` gets is where to go on behind that entry.
    pub(super) fn walk(&self, from: u64, each: Each<'_>) -> Result<(), FsError> {
        let (mut block, mut skip) = (from >> ENTRY_BITS, usize::try_from(from & ENTRY_MASK).unwrap_or(0));
        let blocks = match &self.blocks {
            Some(stream) => Some(self.blocks_in_use(stream)?),
            None => None,
        };
        if block == 0 {
            let root = self.root_entries()?;
            if pass(&root, 0, skip, each)?.is_break() {
                return Ok(());
            }
            self.check_children(&root, blocks.as_ref(), &Place::Record(self.number))?;
            (block, skip) = (1, 0);
        }
        let Some(blocks) = blocks else { return Ok(()) };
        while block <= blocks.count {
            let nth = block.saturating_sub(1);
            if bit(&blocks.in_use, nth) {
                let (bytes, place) = (self.block_at(nth.saturating_mul(self.block_len()))?, self.place(nth));
                let entries = node(bytes.get(0x18..).unwrap_or_default(), &place)?;
                if pass(&entries, block, skip, each)?.is_break() {
                    return Ok(());
                }
                self.check_children(&entries, Some(&blocks), &place)?;
            }
            (block, skip) = (block.saturating_add(1), 0);
        }
        Ok(())
    }

    fn block_len(&self) -> u64 {
        u64::try_from(self.block).unwrap_or(1).max(1)
    }

    /// Whether the walk comes by every child: it goes by the bitmap, and what that leaves out would be missing without a word.
    fn check_children(
        &self,
        entries: &[IndexEntry<'_>],
        blocks: Option<&Blocks>,
        place: &Place,
    ) -> Result<(), FsError> {
        for child in entries.iter().filter_map(IndexEntry::child) {
            let at = child.checked_shl(self.unit).filter(|at| at >> self.unit == child).unwrap_or(u64::MAX);
            let nth = at.checked_div(self.block_len()).unwrap_or(0);
            if !blocks.is_some_and(|blocks| nth < blocks.count && bit(&blocks.in_use, nth)) {
                return Err(FsError::Corrupt {
                    what: place.to_string(),
                    field: "child of an entry",
                    found: format!("block {child}"),
                    expected: "a block that the index has, and that its bitmap tells to be in use",
                });
            }
        }
        Ok(())
    }

    /// Which blocks are in use: others keep what was in them once.
    fn blocks_in_use(&self, stream: &Stream) -> Result<Blocks, FsError> {
        let base = self.volume.base_record(self.number)?;
        let name: Vec<u16> = "$I30".encode_utf16().collect();
        let there = stream.len().checked_div(self.block_len()).unwrap_or(0);
        let in_use = self.volume.own_value(&base, kind::BITMAP, &name, MAX_BITMAP)?.unwrap_or_default();
        let told = u64::try_from(in_use.len()).unwrap_or(u64::MAX).saturating_mul(8);
        Ok(Blocks { count: there.min(told), in_use })
    }
}

/// The blocks of an index: how many there are of which the bitmap tells, and a bit for each that is in use.
struct Blocks {
    count: u64,
    in_use: Vec<u8>,
}

/// Where a walk is: the block (0 is the root) above, the entry in it below.
const ENTRY_BITS: u32 = 16;
const ENTRY_MASK: u64 = 0xffff;

fn pass(entries: &[IndexEntry<'_>], block: u64, skip: usize, each: Each<'_>) -> Result<ControlFlow<()>, FsError> {
    for (nth, entry) in entries.iter().enumerate().skip(skip) {
        let next = u64::try_from(nth.saturating_add(1)).unwrap_or(ENTRY_MASK).min(ENTRY_MASK);
        if entry.flags & LAST == 0 && each(entry, (block << ENTRY_BITS) | next)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn bit(bits: &[u8], nth: u64) -> bool {
    let byte = usize::try_from(nth / 8).ok().and_then(|at| bits.get(at)).copied().unwrap_or(0);
    byte & (1 << (nth % 8)) != 0
}

enum Step<'a> {
    Found(IndexEntry<'a>),
    Child(Option<u64>),
}

fn step<'a>(entries: &[IndexEntry<'a>], compare: &dyn Fn(&[u8]) -> Ordering) -> Step<'a> {
    for entry in entries {
        let order = if entry.flags & LAST != 0 { Ordering::Less } else { compare(entry.key()) };
        match order {
            Ordering::Greater => {}
            Ordering::Equal => return Step::Found(*entry),
            Ordering::Less => return Step::Child(entry.child()),
        }
    }
    Step::Child(None)
}
