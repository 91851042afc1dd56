//! Our own round trip: what "connected" means.
//!
//! A broker that answers pings may still deliver nothing (its event loop lives, its storage hangs), and a TCP
//! connection whose other end vanished looks alive for minutes. So the daemon sends itself a nonce through the
//! broker, and believes in the connection only while it comes back.
//!
//! ```text
//!               subscribed         due               answered
//!   Subscribing ────────────► Idle ─────► Waiting ──────────────► Idle (next one due in `interval`)
//!        │                                   │ bound passed, nothing heard
//!        └───────────────────────────────────┴──► dead: tear the connection down
//! ```
//!
//! The first nonce waits for the subscription's acknowledgement: one that overtakes it never comes back.
//!
//! On a slow link the nonce waits behind the records that are in flight before it. So each acknowledgement,
//! which proves that the link moves, gives it time again; but no more than [`PATIENCE`] bounds in all, since a
//! broker that takes records and never returns what was subscribed to is not one that can manage a gateway.

use std::{mem, time::Duration};

use tokio::time::Instant;

/// Bounds that a nonce may take while acknowledgements still arrive.
const PATIENCE: u32 = 4;
/// Shortest bound: a link by satellite needs 0.6 s.
const SHORTEST_BOUND: Duration = Duration::from_secs(2);

/// The state of our own round trip on one connection.
#[derive(Clone, Debug)]
pub(super) struct RoundTrip {
    interval: Duration,
    bound: Duration,
    state: State,
    /// Someone asked while a nonce was under way; that one began too early to be the answer.
    another: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Subscribing { since: Instant },
    Idle { due: Instant },
    Waiting { nonce: u64, sent: Instant, deadline: Instant },
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before this time.
    Wait(Instant),
    /// Send this nonce, now.
    Send(u64),
    /// It did not come back in time.
    Dead {
        /// How long it was waited for.
        waited: Duration,
    },
}

impl RoundTrip {
    /// The subscription is under way. Half a keep-alive between nonces and half for the answer: a dead broker
    /// is noticed within one keep-alive, sooner than the protocol itself would (1.5 of them, MQTT 5, 3.1.2.10).
    pub(super) fn new(keep_alive: Duration, now: Instant) -> Self {
        let half = (keep_alive / 2).max(SHORTEST_BOUND);
        Self { interval: half, bound: half, state: State::Subscribing { since: now }, another: false }
    }

    /// What we send ourselves will come back from now on: the first nonce is due.
    pub(super) fn subscribed(&mut self, now: Instant) {
        if let State::Subscribing { .. } = self.state {
            self.state = State::Idle { due: now };
        }
    }

    /// Someone wants to know whether we reach the broker: the next nonce goes as soon as may be.
    pub(super) fn want(&mut self, now: Instant) {
        match &mut self.state {
            State::Idle { due } => *due = now.min(*due),
            State::Waiting { .. } => self.another = true,
            // The first one is yet to go.
            State::Subscribing { .. } => {}
        }
    }

    /// What to do at `now`; `fresh` makes a nonce.
    pub(super) fn step(&mut self, now: Instant, fresh: impl FnOnce() -> u64) -> Step {
        match self.state {
            State::Subscribing { since } if now < since + self.bound => Step::Wait(since + self.bound),
            State::Subscribing { since } => Step::Dead { waited: now - since },
            State::Idle { due } if now < due => Step::Wait(due),
            State::Idle { .. } => {
                let nonce = fresh();
                self.state = State::Waiting { nonce, sent: now, deadline: now + self.bound };
                Step::Send(nonce)
            }
            State::Waiting { deadline, .. } if now < deadline => Step::Wait(deadline),
            State::Waiting { sent, .. } => Step::Dead { waited: now - sent },
        }
    }

    /// A nonce came back: how long it took, where it is the one that is waited for.
    pub(super) fn returned(&mut self, nonce: u64, now: Instant) -> Option<Duration> {
        match self.state {
            State::Waiting { nonce: wanted, sent, .. } if nonce == wanted => {
                let wait = if mem::take(&mut self.another) { Duration::ZERO } else { self.interval };
                self.state = State::Idle { due: now + wait };
                Some(now - sent)
            }
            _ => None,
        }
    }

    /// The broker acknowledged something: the link moves.
    pub(super) fn heard(&mut self, now: Instant) {
        if let State::Waiting { sent, deadline, .. } = &mut self.state {
            *deadline = (now + self.bound).min(*sent + self.bound * PATIENCE).max(*deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP_ALIVE: Duration = Duration::from_secs(20);
    const HALF: Duration = Duration::from_secs(10);

    fn sent() -> (RoundTrip, Instant) {
        let now = Instant::now();
        let mut trip = RoundTrip::new(KEEP_ALIVE, now);
        trip.subscribed(now);
        assert_eq!(trip.step(now, || 7), Step::Send(7));
        (trip, now)
    }

    #[test]
    fn no_nonce_overtakes_the_subscription_and_one_that_is_never_granted_means_dead() {
        let now = Instant::now();
        let mut trip = RoundTrip::new(KEEP_ALIVE, now);
        assert_eq!(trip.step(now, || 7), Step::Wait(now + HALF));
        assert_eq!(trip.step(now + HALF, || 7), Step::Dead { waited: HALF });
    }

    #[test]
    fn first_nonce_is_due_when_subscribed_and_the_next_half_a_keep_alive_after_the_answer() {
        let (mut trip, start) = sent();
        let back = start + Duration::from_millis(30);
        assert_eq!(trip.returned(7, back), Some(Duration::from_millis(30)));
        assert_eq!(trip.step(back, || 8), Step::Wait(back + HALF));
        assert_eq!(trip.step(back + HALF, || 8), Step::Send(8));
    }

    #[test]
    fn a_nonce_that_does_not_return_means_dead() {
        let (mut trip, start) = sent();
        assert_eq!(trip.step(start, || 0), Step::Wait(start + HALF));
        assert_eq!(trip.step(start + HALF, || 0), Step::Dead { waited: HALF });
    }

    #[test]
    fn whoever_asks_gets_a_nonce_that_is_sent_after_that() {
        let (mut trip, start) = sent();
        trip.want(start);
        assert_eq!(trip.step(start, || 8), Step::Wait(start + HALF), "one is under way");
        trip.returned(7, start);
        assert_eq!(trip.step(start, || 8), Step::Send(8));
        trip.returned(8, start);
        assert_eq!(trip.step(start, || 9), Step::Wait(start + HALF));
        trip.want(start);
        assert_eq!(trip.step(start, || 9), Step::Send(9));
    }

    #[test]
    fn a_foreign_or_late_nonce_is_no_answer() {
        let (mut trip, start) = sent();
        assert_eq!(trip.returned(6, start), None);
        assert!(trip.returned(7, start).is_some());
        assert_eq!(trip.returned(7, start), None);
        trip.subscribed(start);
        assert_eq!(trip.step(start, || 0), Step::Wait(start + HALF), "a second grant changes nothing");
    }

    #[test]
    fn acknowledgements_give_time_but_not_for_ever() {
        let (mut trip, start) = sent();
        let mut now = start;
        for _ in 0..20 {
            now += Duration::from_secs(5);
            trip.heard(now);
        }
        assert_eq!(
            trip.step(start + HALF * PATIENCE - Duration::from_millis(1), || 0),
            Step::Wait(start + HALF * PATIENCE)
        );
        assert_eq!(trip.step(start + HALF * PATIENCE, || 0), Step::Dead { waited: HALF * PATIENCE });
    }

    #[test]
    fn a_short_keep_alive_still_leaves_time_for_a_satellite() {
        let now = Instant::now();
        let mut trip = RoundTrip::new(Duration::from_secs(1), now);
        trip.subscribed(now);
        trip.step(now, || 1);
        assert_eq!(trip.step(now + Duration::from_secs(1), || 0), Step::Wait(now + SHORTEST_BOUND));
    }
}
