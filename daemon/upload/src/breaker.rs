//! Leaves an endpoint alone that fails again and again.
//!
//! ```text
//!               5 failures in a row
//!    ┌────────┐                     ┌──────┐   the cool-down is over    ┌───────────┐
//! ──►│ closed ├────────────────────►│ open ├───────────────────────────►│ half-open │
//!    └────────┘                     └──────┘                            └───────────┘
//!      ▲    ▲                        │    ▲                               │      │
//!      │    └────────────────────────┘    └───────────────────────────────┘      │
//!      │      an attempt from before        the probe failed: cool down longer   │
//!      │      succeeded after all                                                │
//!      └─────────────────────────────────────────────────────────────────────────┘
//!                                    the probe succeeded
//! ```
//!
//! Closed, anything may be tried. Open, nothing. Half-open, one attempt: the probe. A cool-down has full jitter
//! ([`jitter`]) with a ceiling of a minute that doubles up to half an hour with each probe that fails.
//!
//! A failure here is one of the endpoint: it cannot be reached, it is overloaded or broken. That it refuses one file is
//! none, and neither is an attempt that was given up for our own reasons: tell [`Breaker::abandoned`]. Pure: the moment
//! and the random number are handed in.

use std::time::{Duration, Instant};

use crate::retry::jitter;

/// Failures in a row that open it.
pub const FAILURES: u32 = 5;

/// The first cool-down is below.
pub const FIRST_CEILING: Duration = Duration::from_mins(1);

/// No cool-down is above.
pub const LAST_CEILING: Duration = Duration::from_mins(30);

/// The breaker of one endpoint.
#[derive(Debug, Default)]
pub struct Breaker {
    state: State,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, ceiling: Duration },
    HalfOpen { probing: bool, ceiling: Duration },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

/// What may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Anything.
    Free,
    /// This one attempt, on whose outcome all depends.
    Probe,
}

/// Nothing may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barred {
    /// Not before that moment.
    Until(Instant),
    /// Not before the probe that is under way has an outcome.
    Probing,
}

impl Breaker {
    /// Asks for an attempt that begins now. Whoever is given one tells its outcome, once: [`Self::succeeded`],
    /// [`Self::failed`] or [`Self::abandoned`].
    ///
    /// # Errors
    ///
    /// Where none may begin.
    pub fn attempt(&mut self, now: Instant) -> Result<Leave, Barred> {
        match self.state {
            State::Closed { .. } => Ok(Leave::Free),
            State::Open { until, .. } if now < until => Err(Barred::Until(until)),
            State::Open { ceiling, .. } | State::HalfOpen { probing: false, ceiling } => {
                self.state = State::HalfOpen { probing: true, ceiling };
                Ok(Leave::Probe)
            }
            State::HalfOpen { probing: true, .. } => Err(Barred::Probing),
        }
    }

    /// What would bar an attempt now, without making one.
    #[must_use]
    pub fn barred(&self, now: Instant) -> Option<Barred> {
        match self.state {
            State::Open { until, .. } if now < until => Some(Barred::Until(until)),
            State::HalfOpen { probing: true, .. } => Some(Barred::Probing),
            _ => None,
        }
    }

    /// Whether too much failed: it is open, or half-open.
    #[cfg(test)]
    pub(crate) const fn is_broken(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// An attempt succeeded: the endpoint works, whenever the attempt began.
    pub fn succeeded(&mut self) {
        self.state = State::default();
    }

    /// An attempt with this leave failed. `random` is even over its whole range.
    pub fn failed(&mut self, leave: Leave, now: Instant, random: u64) {
        let ceiling = match (&mut self.state, leave) {
            (State::Closed { failures }, _) => {
                *failures += 1;
                if *failures < FAILURES {
                    return;
                }
                FIRST_CEILING
            }
            (State::HalfOpen { ceiling, .. }, Leave::Probe) => (*ceiling * 2).min(LAST_CEILING),
            // One from before it opened: it says nothing new.
            (State::Open { .. } | State::HalfOpen { .. }, _) => return,
        };
        self.state = State::Open { until: now + jitter(ceiling, random), ceiling };
    }

    /// An attempt with this leave ended without an outcome: it was paused, or the window closed, or its file vanished.
    pub fn abandoned(&mut self, leave: Leave) {
        if let (State::HalfOpen { probing, .. }, Leave::Probe) = (&mut self.state, leave) {
            *probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    /// Half of the ceiling.
    const HALF: u64 = 1 << 63;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            assert!(!breaker.is_broken());
            let leave = breaker.attempt(now).unwrap();
            breaker.failed(leave, now, HALF);
        }
        breaker
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_a_success_in_between_does_not_let_them() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for round in 0..20 {
            assert_eq!(breaker.attempt(now), Ok(Leave::Free));
            if round % 5 == 4 { breaker.succeeded() } else { breaker.failed(Leave::Free, now, HALF) }
        }
        assert!(!breaker.is_broken());
        assert_eq!(opened(now).attempt(now), Err(Barred::Until(now + MINUTE / 2)));
    }

    #[test]
    fn after_the_cool_down_one_probe_decides() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + MINUTE / 2;
        assert_eq!(breaker.attempt(now + Duration::from_millis(29_999)), Err(Barred::Until(later)));
        assert_eq!(breaker.attempt(later), Ok(Leave::Probe));
        assert_eq!(breaker.attempt(later), Err(Barred::Probing));
        assert!(breaker.is_broken());
        breaker.succeeded();
        assert!(!breaker.is_broken());
        assert_eq!(breaker.attempt(later), Ok(Leave::Free));
        breaker.failed(Leave::Free, later, HALF);
        assert_eq!(breaker.attempt(later), Ok(Leave::Free), "failures are counted anew");
    }

    #[test]
    fn cool_downs_grow_from_a_minute_to_half_an_hour_and_begin_anew_after_a_success() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        let mut halves = Vec::new();
        for _ in 0..7 {
            let Err(Barred::Until(until)) = breaker.attempt(now) else { panic!("open") };
            halves.push((until - now).as_secs());
            now = until;
            let leave = breaker.attempt(now).unwrap();
            breaker.failed(leave, now, HALF);
        }
        assert_eq!(halves, [30, 60, 120, 240, 480, 900, 900]);
        let Err(Barred::Until(until)) = breaker.attempt(now) else { panic!("open") };
        breaker.attempt(until).unwrap();
        breaker.succeeded();
        for _ in 0..FAILURES {
            breaker.failed(Leave::Free, now, HALF);
        }
        assert_eq!(breaker.attempt(now), Err(Barred::Until(now + MINUTE / 2)));
    }

    #[test]
    fn a_probe_without_an_outcome_is_followed_by_another() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + MINUTE;
        assert_eq!(breaker.attempt(later), Ok(Leave::Probe));
        breaker.abandoned(Leave::Free);
        assert_eq!(breaker.attempt(later), Err(Barred::Probing));
        breaker.abandoned(Leave::Probe);
        assert_eq!(breaker.attempt(later), Ok(Leave::Probe));
    }

    #[test]
    fn attempts_from_before_it_opened_close_it_by_success_and_do_not_decide_by_failure() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.failed(Leave::Free, now, u64::MAX);
        assert_eq!(breaker.attempt(now), Err(Barred::Until(now + MINUTE / 2)));
        breaker.attempt(now + MINUTE).unwrap();
        breaker.failed(Leave::Free, now + MINUTE, HALF);
        assert_eq!(breaker.attempt(now + MINUTE), Err(Barred::Probing));
        breaker.succeeded();
        assert!(!breaker.is_broken());
    }

    proptest! {
        /// Whatever happens: never two probes at once, and never barred for longer than the longest cool-down.
        #[test]
        fn somebody_may_always_try_within_half_an_hour(
            steps in prop::collection::vec((0_u8..4, 0_u64..600, any::<u64>()), 0..200),
        ) {
            let mut now = Instant::now();
            let mut breaker = Breaker::default();
            let mut under_way = Vec::new();
            for (what, seconds, random) in steps {
                now += Duration::from_secs(seconds);
                match (what, under_way.pop()) {
                    (0, leave) => {
                        under_way.extend(leave);
                        match breaker.attempt(now) {
                            Ok(leave) => under_way.push(leave),
                            Err(Barred::Until(until)) => prop_assert!(until > now && until - now <= LAST_CEILING),
                            Err(Barred::Probing) => prop_assert!(under_way.contains(&Leave::Probe)),
                        }
                    }
                    (1, Some(_)) => breaker.succeeded(),
                    (2, Some(leave)) => breaker.failed(leave, now, random),
                    (3, Some(leave)) => breaker.abandoned(leave),
                    _ => {}
                }
            }
        }
    }
}
