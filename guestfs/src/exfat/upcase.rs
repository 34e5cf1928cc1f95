use crate::clusters::{Runs, upper};
use crate::{CachedDisk, FsError};

/// The table that says which characters are the same but for their case.
pub(super) struct UpCase(Vec<u16>);

/// The most bytes of a table: an entry for each unit of UTF-16. Each is one or, in a row of those that are their own upper case,
/// less.
pub(super) const MOST: u64 = 65536 * 2;

impl UpCase {
    /// Unicode's own.
    pub(super) fn standard() -> Self {
        Self((0..=u16::MAX).map(upper).collect())
    }

    /// Reads `len` bytes, at most [`MOST`] (exFAT specification, section 7.2). `None` if the checksum is another.
    pub(super) fn read(disk: &CachedDisk, runs: &Runs, len: u64, sum: u32) -> Result<Option<Self>, FsError> {
        let mut bytes = vec![0; usize::try_from(len.min(MOST)).unwrap_or(0)];
        let what = || "the up-case table".to_owned();
        runs.read(disk, 0, &mut bytes).map_err(|source| FsError::Read { what: what(), source })?;
        let found = bytes.iter().fold(0u32, |sum, byte| sum.rotate_right(1).wrapping_add((*byte).into()));
        Ok(if found == sum { Some(Self::decode(&bytes)) } else { None })
    }

    /// 0xffff and a number stand for so many units that are their own upper case. Where the table ends early, the rest are too.
    fn decode(bytes: &[u8]) -> Self {
        let mut table: Vec<u16> = Vec::with_capacity(65536);
        let mut units = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
        let next = |table: &Vec<u16>| u16::try_from(table.len()).ok();
        while let (Some(own), Some(unit)) = (next(&table), units.next()) {
            match (unit, units.len()) {
                (0xffff, 1..) => {
                    let count = units.next().unwrap_or(0);
                    table.extend((own..=u16::MAX).take(count.into()));
                }
                _ => table.push(unit),
            }
        }
        if let Some(own) = next(&table) {
            table.extend(own..=u16::MAX);
        }
        Self(table)
    }

    /// The upper case of a unit.
    pub(super) fn upper(&self, unit: u16) -> u16 {
        self.0.get(usize::from(unit)).copied().unwrap_or(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_left_out_and_what_is_missing_is_its_own_upper_case() {
        let units = [0xffff, 0x61, 0x41, 0xffff, 2, 0x44];
        let bytes: Vec<u8> = units.iter().flat_map(|unit: &u16| unit.to_le_bytes()).collect();
        let table = UpCase::decode(&bytes);
        assert_eq!(table.0.len(), 65536);
        let upper: Vec<_> = (0x60..0x66).map(|unit| table.upper(unit)).collect();
        assert_eq!(upper, [0x60, 0x41, 0x62, 0x63, 0x44, 0x65]);
        assert_eq!(table.upper(0xffff), 0xffff);
        assert_eq!(UpCase::decode(&[0xff, 0xff, 0xff, 0xff].repeat(9)).0.len(), 65536);
    }
}
