//! Dates of the Gregorian calendar, in UTC, as certificates and policies have them.
//!
//! Few lines instead of a library: nothing here needs a time zone, a locale or arithmetic with months.

const MS_PER_DAY: u64 = 86_400_000;

/// Reads `YYYY-MM-DDThh:mm:ssZ` (RFC 3339, section 5.6, in UTC and without fractions), from 1970 on, as milliseconds since
/// 1970. `None` for everything else, a day that its month does not have and a leap second included.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let part = |begin: usize, length: usize| {
        let digits = text.get(begin..begin + length)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten()
    };
    let days = days_since_1970(part(0, 4)?, part(5, 2).filter(|month| (1..=12).contains(month))?, part(8, 2)?.max(1))?;
    let ms = (((days * 24 + part(11, 2)?) * 60 + part(14, 2)?) * 60 + part(17, 2)?) * 1000;
    // What does not exist comes back as something else, and so does what stands in other places.
    (format(ms) == text).then_some(ms)
}

/// Milliseconds since 1970 as [`parse`] reads them; fractions of a second are left out.
#[must_use]
pub fn format(ms: u64) -> String {
    let (days, seconds) = (ms / MS_PER_DAY, ms % MS_PER_DAY / 1000);
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Days from the first of January 1970 to that date; the month is 1 to 12, the day at least 1.
#[must_use]
pub fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    // Years are counted from March, so that the leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1;
    // From the first of March of the year 0 to 1970.
    days.checked_sub(719_468)
}

/// Year, month and day of a day since 1970.
fn date(days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // A year has 365 to 366 days: the quotient is the year, or the one behind it.
    let mut year = 1970 + days / 365;
    let first_of = |year: u64| days_since_1970(year, 1, 1).unwrap_or_default();
    while first_of(year) > days {
        year -= 1;
    }
    let mut left = days - first_of(year);
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_are_those_that_date_shows() {
        // date -u -d 2027-01-01T00:00:00Z +%s, and so on.
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2027-01-01T00:00:00Z", 1_798_761_600),
            ("2024-02-29T23:59:59Z", 1_709_251_199),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(parse(text), Some(seconds * 1000), "{text}");
            assert_eq!(format(seconds * 1000), text);
        }
    }

    #[test]
    fn what_is_no_moment_in_utc_is_refused() {
        for text in [
            "",
            "2027-01-01",
            "2027-01-01T00:00:00",
            "2027-01-01T00:00:00+00:00",
            "2027-01-01T00:00:00.5Z",
            "2027-01-01 00:00:00Z",
            "2027-01-01t00:00:00z",
            "2027-02-29T00:00:00Z",
            "2027-04-31T00:00:00Z",
            "2027-00-01T00:00:00Z",
            "2027-13-01T00:00:00Z",
            "2027-01-00T00:00:00Z",
            "2027-01-01T24:00:00Z",
            "2027-01-01T00:60:00Z",
            "2027-01-01T00:00:60Z",
            "1969-12-31T23:59:59Z",
            "0000-01-01T00:00:00Z",
            "+027-01-01T00:00:00Z",
            "２０２７-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn each_moment_is_read_back(seconds in 0_u64..253_402_300_800) {
            prop_assert_eq!(parse(&format(seconds * 1000)), Some(seconds * 1000));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in r"[0-9é]{4}-[0-9]{2}-..T[0-9]{2}:[0-9]{2}:[0-9]{2}Z|.{0,24}") {
            let _either = parse(&text);
        }
    }
}
