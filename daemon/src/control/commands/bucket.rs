//! A token bucket: so many at once, so many in the long run.

use std::time::Duration;

use tokio::time::Instant;

/// Lets `burst` through at once, and one in each `period` after that.
///
/// Kept as the moment at which the bucket is full again, which each token taken moves by one period: there is nothing
/// to fill up in between, and nothing to round.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    period: Duration,
    /// How far ahead that moment may lie for a token to be left.
    ahead: Duration,
    full_at: Option<Instant>,
}

impl Bucket {
    pub(super) const fn new(period: Duration, burst: u32) -> Self {
        Self { period, ahead: period.saturating_mul(burst - 1), full_at: None }
    }

    /// Takes a token, where there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now));
        let left = full_at - now <= self.ahead;
        if left {
            self.full_at = Some(full_at + self.period);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_one_in_each_period() {
        let mut bucket = Bucket::new(Duration::from_millis(100), 20);
        let begun = Instant::now();
        let passed = |bucket: &mut Bucket, at_ms: u64| {
            let now = begun + Duration::from_millis(at_ms);
            (0..100).filter(|_| bucket.take(now)).count()
        };
        assert_eq!(passed(&mut bucket, 0), 20);
        assert_eq!(passed(&mut bucket, 99), 0);
        assert_eq!(passed(&mut bucket, 100), 1);
        assert_eq!(passed(&mut bucket, 1_100), 10);
        assert_eq!(passed(&mut bucket, 60_000), 20, "it holds no more than a burst");
    }
}
