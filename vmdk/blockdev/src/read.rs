use std::sync::Arc;

use crate::{ByteLen, ByteOffset, Extent, ExtentKind, Extents, ReadError};

/// Bytes that any number of threads can read at any position.
pub trait ReadAt: Send + Sync {
    /// Length in bytes. It does not change while the value is alive.
    fn size(&self) -> ByteLen;

    /// Fills `buf` from byte `at`. Never reads short.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] if the range passes [`size`](Self::size); `buf` may be partly filled after any error.
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError>;

    /// The run that begins at `at`, as far as can be told cheaply; the bytes themselves are not read.
    /// Without better knowledge everything up to the end is [`ExtentKind::Data`].
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] if `at` is not before the end.
    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        let len = check_range(self.size(), at, ByteLen(1))?;
        Ok(Extent { start: at, len, kind: ExtentKind::Data })
    }

    /// Says that bytes will be wanted soon. Whoever can bring them nearer without keeping the caller does; nothing may come of it.
    fn will_need(&self, at: ByteOffset, len: ByteLen) {
        let _ = (at, len);
    }
}

/// What every [`ReadAt`] can do beside.
pub trait ReadAtExt: ReadAt {
    /// All runs of the disk in order.
    fn extents(&self) -> Extents<'_, Self> {
        self.extents_from(ByteOffset(0))
    }

    /// All runs in order from byte `at` on.
    fn extents_from(&self, at: ByteOffset) -> Extents<'_, Self> {
        Extents { disk: self, at, pending: None }
    }
}

impl<D: ReadAt + ?Sized> ReadAtExt for D {}

impl<D: ReadAt + ?Sized> ReadAt for &D {
    fn size(&self) -> ByteLen {
        (**self).size()
    }
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        (**self).read_exact_at(at, buf)
    }
    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        (**self).extent_at(at)
    }
    fn will_need(&self, at: ByteOffset, len: ByteLen) {
        (**self).will_need(at, len);
    }
}

impl<D: ReadAt + ?Sized> ReadAt for Arc<D> {
    fn size(&self) -> ByteLen {
        (**self).size()
    }
    fn read_exact_at(&self, at: ByteOffset, buf: &mut [u8]) -> Result<(), ReadError> {
        (**self).read_exact_at(at, buf)
    }
    fn extent_at(&self, at: ByteOffset) -> Result<Extent, ReadError> {
        (**self).extent_at(at)
    }
    fn will_need(&self, at: ByteOffset, len: ByteLen) {
        (**self).will_need(at, len);
    }
}

/// Checks that `len` bytes at `at` lie inside a disk of `size`; answers how many bytes follow from `at` to the end.
pub(crate) fn check_range(size: ByteLen, at: ByteOffset, len: ByteLen) -> Result<ByteLen, ReadError> {
    match size.0.checked_sub(at.0) {
        Some(left) if left >= len.0 => Ok(ByteLen(left)),
        _ => Err(ReadError::OutOfRange { at, len, size }),
    }
}
