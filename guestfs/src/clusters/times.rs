use crate::Timestamp;

/// Date and time of day as a guest wrote them down. Any numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) year: u16,
    pub(crate) month: u16,
    pub(crate) day: u16,
    pub(crate) hour: u16,
    pub(crate) minute: u16,
    pub(crate) second: u16,
    pub(crate) millis: u16,
}

/// Takes date, time and hundredths of a second apart, as FAT and exFAT pack them: years from 1980 on, units of two seconds
/// (Microsoft FAT Specification, 2005, section 6.3; exFAT specification, sections 7.4.8 and 7.4.9).
pub(crate) fn dos(date: u16, time: u16, hundredths: u8) -> Moment {
    let hundredths = u16::from(hundredths);
    Moment {
        year: (date >> 9).saturating_add(1980),
        month: date >> 5 & 15,
        day: date & 31,
        hour: time >> 11,
        minute: time >> 5 & 63,
        second: (time & 31).saturating_mul(2).saturating_add(hundredths / 100),
        millis: (hundredths % 100).saturating_mul(10),
    }
}

impl Moment {
    /// This moment, as if the guest's clock had shown UTC. A date whose month and day are 0 was never set, which is 1970; other
    /// numbers out of range count as the nearest that are in.
    pub(crate) fn read_as_utc(self) -> Timestamp {
        if self.month == 0 && self.day == 0 {
            return Timestamp::default();
        }
        let month = self.month.clamp(1, 12);
        let leap = self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        let last = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let days = days_since_1970(self.year.into(), month.into(), self.day.clamp(1, last).into());
        let minutes = i64::from(self.hour.min(23)).saturating_mul(60).saturating_add(self.minute.min(59).into());
        let seconds = minutes.saturating_mul(60).saturating_add(self.second.min(59).into());
        let nanos = u32::from(self.millis.min(999)).saturating_mul(1_000_000);
        Timestamp { seconds: days.saturating_mul(86400).saturating_add(seconds), nanos }
    }
}

/// Days of the Gregorian calendar: years counted from March on, so that the leap day is the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (years, months) =
        if month > 2 { (year, month.saturating_sub(3)) } else { (year.saturating_sub(1), month.saturating_add(9)) };
    let leap_days = (years / 4).saturating_sub(years / 100).saturating_add(years / 400);
    let in_year = months.saturating_mul(153).saturating_add(2) / 5; // 153 days in five months, from March on
    let days = years.saturating_mul(365).saturating_add(leap_days).saturating_add(in_year).saturating_add(day);
    days.saturating_sub(719_469) // 1 March of year 0 is day 1, and 1 January 1970 day 719469
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(date: u16, time: u16, hundredths: u8) -> (i64, u32) {
        let stamp = dos(date, time, hundredths).read_as_utc();
        (stamp.seconds, stamp.nanos)
    }

    fn date(year: u16, month: u16, day: u16) -> u16 {
        year.wrapping_sub(1980) << 9 | month << 5 | day
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // `date -u -d ... +%s` of coreutils
        assert_eq!(seconds(date(1980, 1, 1), 0, 0), (315_532_800, 0));
        assert_eq!(seconds(date(2000, 2, 29), 23 << 11 | 59 << 5 | 29, 199), (951_868_799, 990_000_000));
        assert_eq!(seconds(date(2024, 12, 31), 12 << 11, 1), (1_735_646_400, 10_000_000));
        assert_eq!(seconds(date(2107, 12, 31), 0, 0), (4_354_732_800, 0));
    }

    #[test]
    fn impossible_dates_are_near_possible_ones() {
        assert_eq!(seconds(0, 0, 0), (0, 0));
        assert_eq!(seconds(date(2001, 2, 31), 0, 0), seconds(date(2001, 2, 28), 0, 0));
        assert_eq!(seconds(date(2001, 15, 0), 0, 0), seconds(date(2001, 12, 1), 0, 0));
        assert_eq!(seconds(date(2001, 1, 1), u16::MAX, 255), seconds(date(2001, 1, 1), 23 << 11 | 59 << 5 | 29, 155));
    }
}
