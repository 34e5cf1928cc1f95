//! What the data of an option holds. Nothing is taken that does not fit, and nothing may be left over.

use crate::constants::MAX_STRING;

/// A step through bytes; each step is `None` where too few are left.
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.bytes(8)?.try_into().ok()?))
    }

    /// A string of the protocol, with its length in front.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.u32().filter(|len| *len <= MAX_STRING)?;
        self.bytes(usize::try_from(len).ok()?)
    }

    pub(super) const fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}

/// The data of INFO and GO: the export, and what is wanted to be known of it.
pub(super) fn infos(data: &[u8]) -> Option<(&[u8], Vec<u16>)> {
    let mut cursor = Cursor::new(data);
    let name = cursor.string()?;
    let count = cursor.u16()?;
    // As many as the data has, which is bounded.
    let wanted = (0..count).map(|_| cursor.u16()).collect::<Option<Vec<_>>>()?;
    cursor.is_at_end().then_some((name, wanted))
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT: the export, and the contexts.
pub(super) fn queries(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut cursor = Cursor::new(data);
    let name = cursor.string()?;
    let count = cursor.u32()?;
    let mut queries = Vec::new(); // the count is not believed: data of that length must be there
    for _ in 0..count {
        queries.push(cursor.string()?);
    }
    cursor.is_at_end().then_some((name, queries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_contradicts_its_lengths_is_not_taken() {
        let good = [0, 0, 0, 1, b'x', 0, 1, 0, 3];
        assert_eq!(infos(&good), Some((&b"x"[..], vec![3])));
        for end in 0..good.len() {
            assert_eq!(infos(&good[..end]), None, "{end}");
        }
        assert_eq!(infos(&[&good[..], &[0]].concat()), None, "a byte is left over");
        let good = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, b'a', b':'];
        assert_eq!(queries(&good), Some((&b""[..], vec![&b"a:"[..]])));
        for end in 0..good.len() {
            assert_eq!(queries(&good[..end]), None, "{end}");
        }
        assert_eq!(queries(&[0, 0, 0, 0, 255, 255, 255, 255]), None, "a count without contexts");
    }

    #[test]
    fn a_string_may_have_4096_bytes_and_no_more() {
        let name = |len: u32| [&len.to_be_bytes()[..], &vec![b'n'; 5000][..len as usize], &[0, 0]].concat();
        assert!(infos(&name(4096)).is_some());
        assert_eq!(infos(&name(4097)), None);
    }
}
