//! How fast bytes go out: a token bucket.
//!
//! It fills at the rate and holds what one second gives, but never less than [`LEAST_BURST`]: a slow rate must not cut
//! a body into crumbs. Over any span `t` no more than `rate * t + burst` is given away, whatever the rate was changed
//! to meanwhile (then with the highest of them). Pure: the moment is handed in, and one before the last counts as the
//! last.

use std::time::{Duration, Instant};

/// What it holds at least when it is full.
pub const LEAST_BURST: u64 = 64 * 1024;

/// About so many pieces a second are given away to one who wants more than there is: less would be bursts, more would
/// be system calls.
const PIECES: u64 = 8;
const LEAST_PIECE: u64 = 256;
const MOST_PIECE: u64 = 16 * 1024;

const NS: u128 = 1_000_000_000;

/// Gives bytes away at a rate. Begins full.
#[derive(Debug)]
pub struct Bucket {
    /// Bytes a second; `None`: as many as are wanted.
    rate: Option<u64>,
    /// Bytes that may go at once.
    level: u64,
    /// What was filled in beyond whole bytes, in billionths.
    fraction: u64,
    /// Until when it was filled.
    filled: Instant,
}

impl Bucket {
    /// Of a rate in bytes a second, at least one; `None`: without a limit.
    #[must_use]
    pub fn new(rate: Option<u64>, now: Instant) -> Self {
        let rate = rate.map(|rate| rate.max(1));
        Self { rate, level: rate.map_or(0, burst), fraction: 0, filled: now }
    }

    /// Goes on at another rate, with what there is.
    pub fn set_rate(&mut self, rate: Option<u64>, now: Instant) {
        let rate = rate.map(|rate| rate.max(1));
        if self.rate == rate {
            return;
        }
        self.fill(now);
        let was_unlimited = self.rate.is_none();
        self.rate = rate;
        if let Some(rate) = rate {
            // Without a limit nobody counted what went.
            self.level = if was_unlimited { 0 } else { self.level.min(burst(rate)) };
        }
    }

    /// Gives away some of what is wanted: all of it, or a piece that is worth a system call.
    ///
    /// # Errors
    ///
    /// How long to wait before that much is there; then nothing was given.
    pub fn take(&mut self, now: Instant, wanted: u64) -> Result<u64, Duration> {
        self.fill(now);
        let Some(rate) = self.rate else { return Ok(wanted) };
        let piece = wanted.min((rate / PIECES).clamp(LEAST_PIECE, MOST_PIECE));
        if self.level < piece {
            let missing = u128::from(piece - self.level) * NS - u128::from(self.fraction);
            // At most a piece at one byte a second: minutes.
            return Err(Duration::from_nanos(u64::try_from(missing.div_ceil(rate.into())).unwrap_or(u64::MAX)));
        }
        let given = wanted.min(self.level);
        self.level -= given;
        Ok(given)
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        self.filled += passed;
        let Some(rate) = self.rate else { return };
        let gained = passed.as_nanos() * u128::from(rate) + u128::from(self.fraction);
        let level = u128::from(self.level) + gained / NS;
        if level < u128::from(burst(rate)) {
            self.level = u64::try_from(level).unwrap_or(u64::MAX);
            self.fraction = u64::try_from(gained % NS).unwrap_or(0);
        } else {
            (self.level, self.fraction) = (burst(rate), 0);
        }
    }
}

fn burst(rate: u64) -> u64 {
    rate.max(LEAST_BURST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn without_a_rate_all_that_is_wanted_goes() {
        let mut bucket = Bucket::new(None, Instant::now());
        assert_eq!(bucket.take(Instant::now(), u64::MAX), Ok(u64::MAX));
    }

    #[test]
    fn a_second_s_worth_goes_at_once_and_then_the_rate() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(Some(1_000_000), begin);
        assert_eq!(bucket.take(begin, 3_000_000), Ok(1_000_000));
        // A piece of 16 KiB at a megabyte a second.
        assert_eq!(bucket.take(begin, 3_000_000), Err(Duration::from_micros(16_384)));
        assert_eq!(bucket.take(begin + Duration::from_micros(16_384), 3_000_000), Ok(16_384));
        assert_eq!(bucket.take(begin + SECOND, 3_000_000), Ok(1_000_000 - 16_384));
        assert_eq!(bucket.take(begin + 100 * SECOND, 3_000_000), Ok(1_000_000), "it does not fill over its brim");
    }

    #[test]
    fn a_slow_rate_gives_pieces_and_a_little_that_is_wanted_does_not_wait_for_more() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(Some(100), begin);
        assert_eq!(bucket.take(begin, u64::MAX), Ok(LEAST_BURST));
        assert_eq!(bucket.take(begin, u64::MAX), Err(Duration::from_millis(2_560)));
        assert_eq!(bucket.take(begin, 10), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(begin + Duration::from_millis(100), 10), Ok(10));
        assert_eq!(bucket.take(begin, 0), Ok(0), "nothing is there at once, even in the past");
    }

    #[test]
    fn a_rate_of_nothing_is_a_byte_a_second() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(Some(0), begin);
        assert_eq!(bucket.take(begin, LEAST_BURST), Ok(LEAST_BURST));
        assert_eq!(bucket.take(begin, 1), Err(SECOND));
    }

    #[test]
    fn a_limit_that_comes_later_begins_empty() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(None, begin);
        bucket.set_rate(Some(1_000), begin + SECOND);
        assert_eq!(bucket.take(begin + SECOND, 1), Err(Duration::from_millis(1)));
        bucket.set_rate(None, begin + SECOND);
        assert_eq!(bucket.take(begin + SECOND, 9_999_999), Ok(9_999_999));
    }

    proptest! {
        #[test]
        fn no_span_gives_more_than_the_rate_and_one_burst(
            steps in prop::collection::vec(
                (0_u64..3_000_000_000, 0_u64..400_000, prop::option::weighted(0.1, 1_u64..300_000)),
                1..60,
            ),
            first in 1_u64..300_000,
        ) {
            let mut now = Instant::now();
            let mut bucket = Bucket::new(Some(first), now);
            let mut rate = first;
            // Each moment with what was given then and the rate from then on.
            let mut given = Vec::new();
            for (ns, wanted, other) in steps {
                now += Duration::from_nanos(ns);
                if let Some(other) = other {
                    bucket.set_rate(Some(other), now);
                    rate = other;
                }
                let got = bucket.take(now, wanted).unwrap_or(0);
                prop_assert!(got <= wanted);
                given.push((now, got, rate));
            }
            for begin in 0..given.len() {
                let (mut sum, mut allowed, mut most) = (0, 0, given[begin].2);
                for end in begin..given.len() {
                    sum += given[end].1;
                    most = most.max(given[end].2);
                    if end > begin {
                        let span = given[end].0 - given[end - 1].0;
                        allowed += span.as_nanos() * u128::from(given[end - 1].2);
                    }
                    prop_assert!(u128::from(sum) * NS <= allowed + u128::from(burst(most)) * NS);
                }
            }
        }

        #[test]
        fn what_one_was_told_to_wait_for_is_there_then_and_not_before(
            rate in 1_u64..10_000_000,
            wanted in 1_u64..1_000_000,
            ns in 0_u64..1_000_000_000,
        ) {
            let begin = Instant::now();
            let mut bucket = Bucket::new(Some(rate), begin);
            prop_assert_eq!(bucket.take(begin, u64::MAX), Ok(burst(rate)));
            let now = begin + Duration::from_nanos(ns);
            match bucket.take(now, wanted) {
                Ok(_) => {}
                Err(wait) => {
                    prop_assert!(bucket.take(now + wait.saturating_sub(Duration::from_nanos(1)), wanted).is_err());
                    prop_assert!(bucket.take(now + wait, wanted).is_ok());
                }
            }
        }

        #[test]
        fn over_a_long_time_the_rate_is_reached(rate in 1_u64..1_000_000, seed: u64) {
            let mut random = fastrand::Rng::with_seed(seed);
            let begin = Instant::now();
            let mut bucket = Bucket::new(Some(rate), begin);
            let (mut now, mut sum) = (begin, 0);
            let emptied = bucket.take(now, u64::MAX).unwrap();
            prop_assert_eq!(emptied, burst(rate));
            for _ in 0..1000 {
                match bucket.take(now, random.u64(1..50_000)) {
                    Ok(given) => sum += given,
                    Err(wait) => now += wait,
                }
            }
            let due = (now - begin).as_nanos() * u128::from(rate) / NS;
            prop_assert!(u128::from(sum) <= due + 1);
            prop_assert!(u128::from(sum) + u128::from(MOST_PIECE) + 1 >= due);
        }
    }
}
