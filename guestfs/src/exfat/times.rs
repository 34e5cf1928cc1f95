use crate::Timestamp;
use crate::clusters::dos;

/// A time with the guest's distance from UTC, in quarters of an hour from -64 to 63 (exFAT specification, sections 7.4.8 to 7.4.10).
/// Where the distance is not given, what the guest's user saw is given as if it were UTC.
pub(super) fn stamp(packed: u32, hundredths: u8, offset: u8) -> Timestamp {
    let half = |bits: u32| u16::try_from(bits & 0xffff).unwrap_or(0);
    let mut stamp = dos(half(packed >> 16), half(packed), hundredths).read_as_utc();
    if offset & 0x80 != 0 && packed != 0 {
        let quarters = i64::from(offset & 0x7f);
        let quarters = if quarters < 64 { quarters } else { quarters.saturating_sub(128) };
        stamp.seconds = stamp.seconds.saturating_sub(quarters.saturating_mul(15 * 60));
    }
    stamp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_from_utc_counts_where_it_is_given() {
        let packed = (20 << 9 | 1 << 5 | 1) << 16; // 2000-01-01 00:00
        assert_eq!(stamp(packed, 0, 0).seconds, 946_684_800);
        assert_eq!(stamp(packed, 0, 0x80 | 4).seconds, 946_684_800 - 3600);
        assert_eq!(stamp(packed, 50, 0xfc), Timestamp { seconds: 946_684_800 + 3600, nanos: 500_000_000 });
        assert_eq!(stamp(0, 0, 0xfc), Timestamp::default());
    }
}
