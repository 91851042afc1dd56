//! How long to wait before the next attempt.
//!
//! Full jitter: the wait is drawn evenly between nothing and a ceiling that doubles from 1 s to 2 min. When a
//! broker returns after an outage, 100,000 gateways must not return in the same second; a random share of a
//! common wait does not achieve that, an even draw does (AWS Architecture Blog, "Exponential Backoff And
//! Jitter").

use std::time::Duration;

/// Ceiling of the first wait.
const FIRST: Duration = Duration::from_secs(1);
/// Ceiling that waits grow to.
const LONGEST: Duration = Duration::from_mins(2);
/// What worked for this long starts over with short waits.
const STABLE: Duration = Duration::from_mins(1);

/// Waits that grow with every failure in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// One more failure: the wait before the next attempt. `random` draws from `0.0..1.0`.
    pub(super) fn failed(&mut self, random: impl FnOnce() -> f64) -> Duration {
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let ceiling = FIRST.saturating_mul(1 << doublings).min(LONGEST);
        ceiling.mul_f64(random().clamp(0.0, 1.0))
    }

    /// It worked for `lasted` and then failed: after a stable minute, earlier failures no longer count.
    ///
    /// A broker that accepts a connection and drops it at once must not be tried every second for ever.
    pub(super) fn worked_for(&mut self, lasted: Duration) {
        if lasted >= STABLE {
            self.failures = 0;
        }
    }

    /// Forgets earlier failures: what is tried next is something else.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceilings(backoff: &mut Backoff, count: usize) -> Vec<u64> {
        (0..count).map(|_| backoff.failed(|| 1.0).as_secs()).collect()
    }

    #[test]
    fn ceiling_doubles_from_one_second_to_two_minutes() {
        let mut backoff = Backoff::default();
        assert_eq!(ceilings(&mut backoff, 9), [1, 2, 4, 8, 16, 32, 64, 120, 120]);
        backoff.failures = u32::MAX;
        assert_eq!(ceilings(&mut backoff, 2), [120, 120]);
    }

    #[test]
    fn the_wait_is_drawn_from_the_whole_range() {
        for (random, wait) in [(0.0, 0), (0.25, 2), (0.5, 4)] {
            let mut backoff = Backoff { failures: 3 };
            assert_eq!(backoff.failed(|| random), Duration::from_secs(wait));
        }
    }

    #[test]
    fn only_a_stable_minute_resets() {
        let mut backoff = Backoff::default();
        ceilings(&mut backoff, 5);
        backoff.worked_for(Duration::from_secs(59));
        assert_eq!(ceilings(&mut backoff, 1), [32]);
        backoff.worked_for(Duration::from_mins(1));
        assert_eq!(ceilings(&mut backoff, 1), [1]);
    }
}
