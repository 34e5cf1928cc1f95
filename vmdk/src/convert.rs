//! Conversions between counts in memory and numbers on disk, none of which can wrap.

use blockdev::{SECTOR_SIZE, Sectors};

/// A count as a 64-bit number. A `usize` fits on every platform Rust supports.
pub(crate) fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// A number as a count; one that the platform cannot address becomes the largest count.
pub(crate) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The bytes of a count of sectors that was checked against [`MAX_CAPACITY`] or is 32 bits wide.
pub(crate) const fn sectors_to_bytes(sectors: u64) -> u64 {
    sectors.saturating_mul(SECTOR_SIZE)
}

/// The largest disk that is opened or made: 64 TiB. The largest VMware makes is 62 TiB (vSphere configuration maximums).
pub(crate) const MAX_CAPACITY: Sectors = Sectors((64 << 40) / SECTOR_SIZE);

/// The smallest multiple of `step` that is at least `number`. `step` is never 0 here.
pub(crate) fn round_up(number: u64, step: u64) -> u64 {
    number.checked_next_multiple_of(step).unwrap_or(u64::MAX)
}

/// The quotient rounded up; 0 for a division by 0, which no caller does.
pub(crate) fn div_up(number: u64, by: u64) -> u64 {
    if by == 0 { 0 } else { number.div_ceil(by) }
}

/// The quotient and the remainder; both 0 for a division by 0, which no caller does.
pub(crate) fn div_rem(number: u64, by: u64) -> (u64, u64) {
    (number.checked_div(by).unwrap_or(0), number.checked_rem(by).unwrap_or(0))
}
