use crate::{ByteLen, ByteOffset, ReadAt, ReadError};

/// What is known of a run of bytes without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// Stored bytes. They may still all be zero.
    Data,
    /// Known to read as zeros, and to have been written so (or marked so) by somebody.
    Zero,
    /// Not allocated. Reads as zeros, or as the parent's bytes where there is a parent.
    Hole,
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The first byte.
    pub start: ByteOffset,
    /// The number of bytes, never 0.
    pub len: ByteLen,
    /// What is known of them.
    pub kind: ExtentKind,
}

impl Extent {
    /// The first byte behind this run.
    #[must_use]
    pub const fn end(&self) -> ByteOffset {
        ByteOffset(self.start.0.saturating_add(self.len.0))
    }
}

/// The runs of a disk in order, adjacent runs of one kind joined. Made by [`crate::ReadAtExt::extents`].
#[derive(Debug)]
pub struct Extents<'a, D: ?Sized> {
    pub(crate) disk: &'a D,
    pub(crate) at: ByteOffset,
    pub(crate) pending: Option<Extent>,
}

impl<D: ReadAt + ?Sized> Extents<'_, D> {
    fn next_raw(&mut self) -> Option<Result<Extent, ReadError>> {
        if let Some(extent) = self.pending.take() {
            return Some(Ok(extent));
        }
        if self.at.0 >= self.disk.size().0 {
            return None;
        }
        let next = self.disk.extent_at(self.at);
        match &next {
            Ok(extent) => self.at = extent.end(),
            Err(_) => self.at = ByteOffset(u64::MAX), // an error ends the walk
        }
        Some(next)
    }
}

impl<D: ReadAt + ?Sized> Iterator for Extents<'_, D> {
    type Item = Result<Extent, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut run = match self.next_raw()? {
            Ok(extent) => extent,
            Err(error) => return Some(Err(error)),
        };
        loop {
            match self.next_raw() {
                Some(Ok(next)) if next.kind == run.kind => {
                    run.len = ByteLen(run.len.0.saturating_add(next.len.0));
                }
                Some(Ok(next)) => {
                    self.pending = Some(next);
                    return Some(Ok(run));
                }
                Some(Err(error)) => return Some(Err(error)),
                None => return Some(Ok(run)),
            }
        }
    }
}
