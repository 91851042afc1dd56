//! When an attempt is repeated: exponential backoff with full jitter, and never before the server wants it.
//!
//! Full jitter draws the wait evenly from nothing up to a ceiling that doubles: of many gateways that failed at one
//! moment few come back at another one (the AWS Architecture Blog, "Exponential Backoff And Jitter", has the
//! comparison). An attempt that made progress begins the doubling anew, and lower: the link works, it was cut. Pure:
//! the random number is handed in.

use std::time::{Duration, SystemTime};

/// The first ceiling after an attempt that made progress.
pub const AFTER_PROGRESS: Duration = Duration::from_millis(500);

/// The first ceiling after one that made none.
pub const FIRST_CEILING: Duration = Duration::from_secs(1);

/// Where the doubling ends.
pub const LAST_CEILING: Duration = Duration::from_mins(5);

/// Longest that a server may put us off at a time: it may have a wrong clock.
pub const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// What the server must have confirmed anew for an attempt to have made progress, unless the file is shorter. A
/// handshake with certificates costs some 8 KiB: an attempt for less would spend more on connecting than on content.
pub const PROGRESS_BYTES: u64 = 64 * 1024;

/// Longest header field that is looked at; an HTTP-date has 29 bytes.
const MAX_FIELD_BYTES: usize = 64;

/// 2026-06-01, in seconds since 1970: a clock before this version was written was never set. The date from which on the
/// daemon believes the clock that it stamps records with.
pub const CLOCK_IS_SET_S: u64 = 1_780_272_000;

/// The waits of one file, or of one endpoint.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    /// The ceiling of the wait before; zero before the first.
    ceiling: Duration,
}

impl Backoff {
    /// After an attempt that failed: how long to wait for the next one. `random` is even over its whole range.
    ///
    /// What the server asked for passes in any case, and the jitter after it: it says the same to everybody.
    pub fn failed(&mut self, progressed: bool, retry_after: Option<Duration>, random: u64) -> Duration {
        self.ceiling = match self.ceiling {
            _ if progressed => AFTER_PROGRESS,
            Duration::ZERO => FIRST_CEILING,
            before => (before * 2).min(LAST_CEILING),
        };
        retry_after.unwrap_or_default() + jitter(self.ceiling, random)
    }

    /// After one that succeeded, and where a person or the configuration says that all is different now.
    pub const fn reset(&mut self) {
        self.ceiling = Duration::ZERO;
    }
}

/// An even share of `ceiling`, below it: as much of it as `random` is of its range.
#[must_use]
pub fn jitter(ceiling: Duration, random: u64) -> Duration {
    // The upper half of the product of two numbers of 64 bits has 64.
    Duration::from_nanos(u64::try_from((ceiling.as_nanos() * u128::from(random)) >> 64).unwrap_or(u64::MAX))
}

/// How long a `Retry-After` (RFC 9110, section 10.2.3) puts us off, at most [`MAX_RETRY_AFTER`]; a date that has passed
/// not at all. `None` where it is neither a number of seconds nor a date, or a date while the clock is not set.
#[must_use]
pub fn parse_retry_after(field: &str, now: SystemTime) -> Option<Duration> {
    let field = field.trim_matches([' ', '\t']);
    if field.is_empty() || field.len() > MAX_FIELD_BYTES {
        return None;
    }
    let wait = if field.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(field.parse().unwrap_or(u64::MAX))
    } else {
        let date = httpdate::parse_http_date(field).ok()?;
        if now < SystemTime::UNIX_EPOCH + Duration::from_secs(CLOCK_IS_SET_S) {
            return None;
        }
        date.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// With all but the whole of the jitter, rounded: the ceiling.
    fn ceiling(backoff: &mut Backoff, progressed: bool) -> Duration {
        backoff.failed(progressed, None, u64::MAX) + Duration::from_nanos(1)
    }

    #[test]
    fn ceilings_double_from_a_second_to_five_minutes() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<u64> = (0..11).map(|_| ceiling(&mut backoff, false).as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        backoff.reset();
        assert_eq!(ceiling(&mut backoff, false), SECOND);
    }

    #[test]
    fn after_progress_they_begin_anew_from_half_a_second() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            ceiling(&mut backoff, false);
        }
        assert_eq!(ceiling(&mut backoff, true), AFTER_PROGRESS);
        assert_eq!(ceiling(&mut backoff, true), AFTER_PROGRESS);
        assert_eq!(ceiling(&mut backoff, false), SECOND);
        assert_eq!(ceiling(&mut backoff, false), 2 * SECOND);
    }

    #[test]
    fn what_the_server_asks_for_passes_before_the_jitter() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.failed(false, Some(60 * SECOND), 0), 60 * SECOND);
        assert_eq!(backoff.failed(false, Some(60 * SECOND), 1 << 63), 61 * SECOND);
    }

    #[test]
    fn seconds_and_dates_are_read() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(CLOCK_IS_SET_S);
        for (field, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 120\t", Some(120)),
            ("99999", Some(3600)),
            ("99999999999999999999999999", Some(3600)),
            ("Mon, 01 Jun 2026 00:01:00 GMT", Some(60)),
            ("Monday, 01-Jun-26 00:01:00 GMT", Some(60)),
            ("Mon Jun  1 00:01:00 2026", Some(60)),
            ("Sun, 31 May 2026 23:59:59 GMT", Some(0)),
            ("Fri, 01 Jan 2100 00:00:00 GMT", Some(3600)),
            ("", None),
            (" ", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("Mon, 32 Jun 2026 00:01:00 GMT", None),
            (&"1".repeat(65), None),
        ] {
            assert_eq!(parse_retry_after(field, now), seconds.map(Duration::from_secs), "{field}");
        }
    }

    #[test]
    fn without_a_clock_a_date_says_nothing_and_seconds_do() {
        let unset = SystemTime::UNIX_EPOCH + Duration::from_secs(CLOCK_IS_SET_S - 1);
        assert_eq!(parse_retry_after("Mon, 01 Jun 2026 00:01:00 GMT", unset), None);
        assert_eq!(parse_retry_after("7", unset), Some(7 * SECOND));
    }

    proptest! {
        #[test]
        fn jitter_is_even_and_below_its_ceiling(ms in 1_u64..3_600_000, random: u64) {
            let ceiling = Duration::from_millis(ms);
            let wait = jitter(ceiling, random);
            prop_assert!(wait < ceiling);
            let share = random as f64 / u64::MAX as f64;
            prop_assert!((wait.as_secs_f64() - ceiling.as_secs_f64() * share).abs() < 1e-6);
        }

        #[test]
        fn no_field_makes_the_reader_panic(
            field in ".{0,80}|[A-Z][a-z]{2,8},? [0-9]{1,2}[ -][A-Z][a-z]{2}[ -][0-9]{2,4} [0-9:]{8} GMT",
            s in 0_u64..1 << 34,
        ) {
            let wait = parse_retry_after(&field, SystemTime::UNIX_EPOCH + Duration::from_secs(s));
            prop_assert!(wait.unwrap_or_default() <= MAX_RETRY_AFTER);
        }
    }
}
