//! Files in memory, and the gate that serves them and counts what is asked of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use blockdev::{ByteLen, ByteOffset, Extent, ExtentKind, ReadAt, ReadError};
use vmdk_rs::{Gate, PlainName, VmdkError};

/// A file of zeros but for its segments. What is not in a segment is a hole.
pub struct File {
    size: u64,
    segments: BTreeMap<u64, Vec<u8>>,
    read: Arc<AtomicU64>,
}

impl File {
    pub(crate) fn new(size: u64, mut segments: BTreeMap<u64, Vec<u8>>) -> Self {
        segments.retain(|start, bytes| {
            bytes.truncate(usize::try_from(size.saturating_sub(*start)).unwrap_or(usize::MAX));
            !bytes.is_empty()
        });
        Self { size, segments, read: Arc::default() }
    }

    /// A file that holds just `bytes`.
    #[must_use]
    pub fn whole(bytes: Vec<u8>) -> Self {
        Self::new(bytes.len() as u64, BTreeMap::from([(0, bytes)]))
    }

    /// The bytes of the first segment, if that begins the file.
    #[must_use]
    pub fn start(&self) -> &[u8] {
        self.segments.get(&0).map_or(&[], Vec::as_slice)
    }

    /// Puts bytes over those that are there.
    pub fn put(&mut self, at: u64, mut bytes: Vec<u8>) {
        bytes.truncate(usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX));
        match self.segments.get_mut(&at) {
            // A segment that begins later lies above, so this one is written to itself.
            Some(there) if there.len() > bytes.len() => there[..bytes.len()].copy_from_slice(&bytes),
            _ => _ = self.segments.insert(at, bytes),
        }
    }

    /// Where each segment begins, and its bytes.
    pub fn segments(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.segments.iter().map(|(start, bytes)| (*start, bytes.as_slice()))
    }

    /// Bytes read until now.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The stored bytes, segment by segment, to be changed.
    pub fn segments_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.segments.values_mut().map(Vec::as_mut_slice)
    }

    fn left(&self, at: ByteOffset, len: u64) -> Result<u64, ReadError> {
        match self.size.checked_sub(at.0) {
            Some(left) if left >= len => Ok(left),
            _ => Err(ReadError::OutOfRange { at, len: ByteLen(len), size: self.size() }),
        }
    }
}

impl ReadAt for File {
    fn size(&self) -> ByteLen {
        ByteLen(self.size)
    }

    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        self.left(at, buf.len() as u64)?;
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        buf.fill(0);
        let (at, end) = (at.0, at.0 + buf.len() as u64);
        for (start, bytes) in self.segments.range(..end) {
            let (from, to) = (at.max(*start), end.min(start + bytes.len() as u64));
            if from < to {
                let within = |base: u64| (from - base) as usize..(to - base) as usize;
                buf[within(at)].copy_from_slice(&bytes[within(*start)]);
            }
        }
        Ok(())
    }

    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        let left = self.left(at, 1)?;
        let ends = self.segments.range(..=at.0).map(|(start, bytes)| start + bytes.len() as u64);
        let next = self.segments.range(at.0..).next();
        let (kind, end) = match ends.max() {
            Some(end) if end > at.0 => (ExtentKind::Data, end),
            _ => (ExtentKind::Hole, next.map_or(u64::MAX, |(start, _)| *start)),
        };
        Ok(Extent { start: at, len: ByteLen(left.min(end - at.0)), kind })
    }
}

/// Which file a name means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// The one of that name, and no other.
    Strict,
    /// The one of that name; else the names stand for the files behind the first, in the order in which they are asked for.
    InOrder,
    /// The one of that name; else this one.
    Else(&'static str),
}

/// The files of an input.
pub struct Files {
    files: Vec<(String, Arc<File>)>,
    naming: Naming,
    /// Names that are not those of files.
    others: Mutex<Vec<String>>,
    read: Arc<AtomicU64>,
    opened: AtomicU64,
    /// The size of the input.
    pub(crate) input_len: u64,
}

impl Files {
    /// Takes the files of an input of `input_len` bytes.
    #[must_use]
    pub fn new(files: Vec<(String, File)>, naming: Naming, input_len: usize) -> Self {
        let read = Arc::<AtomicU64>::default();
        let counted = |(name, file)| (name, Arc::new(File { read: Arc::clone(&read), ..file }));
        let files = files.into_iter().map(counted).collect();
        let (others, opened) = (Mutex::default(), AtomicU64::new(0));
        Self { files, naming, others, read, opened, input_len: input_len as u64 }
    }

    /// The first file: what is opened.
    #[must_use]
    pub fn top(&self) -> Option<&(String, Arc<File>)> {
        self.files.first()
    }

    /// The size of the largest file.
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.files.iter().map(|(_, file)| file.size).max().unwrap_or(0)
    }

    /// Bytes read and files opened until now.
    pub(crate) fn cost(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.opened.load(Ordering::Relaxed))
    }

    /// What a name means.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<File>> {
        let named = |name: &str| self.files.iter().find(|(known, _)| known == name).map(|(_, file)| Arc::clone(file));
        match (named(name), self.naming) {
            (Some(file), _) => return Some(file),
            (None, Naming::Strict) => return None,
            (None, Naming::Else(other)) => return named(other),
            (None, Naming::InOrder) => (),
        }
        let mut others = self.others.lock().expect("nothing panics with the lock");
        let number = others.iter().position(|other| other == name).unwrap_or(others.len());
        if number == others.len() {
            others.push(name.to_owned());
        }
        let below_top = self.files.get(1..)?;
        Some(Arc::clone(&below_top.get(number % below_top.len().max(1))?.1))
    }
}

impl Gate for Files {
    fn open(&self, name: &PlainName) -> Result<Arc<dyn ReadAt>, VmdkError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        match self.find(name.as_str()) {
            Some(file) => Ok(file),
            None => Err(VmdkError::Denied { name: name.as_str().to_owned() }),
        }
    }
}
