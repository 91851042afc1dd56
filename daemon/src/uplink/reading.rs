//! Reading all that the broker retains for us, and knowing when that is all.
//!
//! ```text
//!   Idle ──begin──► Desired ──all granted──► Witness ──granted──► Barrier ──came back──► Idle, read in full
//!                    subscribe to each        subscribe to our      send a nonce,
//!                    …/desired                own …/reported        behind all of it
//! ```
//!
//! A broker sends what it retains when it is subscribed to, and does not say when that was all. So a nonce of our own goes
//! after it, with the same quality of service: messages of one quality and client arrive in order (MQTT 5, 4.6), while one
//! of `QoS` 0, as the echo is, overtakes what waits behind the Receive Maximum (seen with mosquitto 2.0).
//!
//! Our own last report is read last, by itself. Whoever finds it, but no document, may conclude that the document was
//! cleared; a broker that hands out retained messages in the background does so in the order in which it was asked.
//! For the same reason no report is published before: it would be found in place of the last one. But no longer
//! than one keep-alive: then reports go, what is read as the last one proves nothing, and the nonce is sent again.

use std::time::Duration;

use tokio::time::Instant;

/// The state of reading on one connection.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    patience: Duration,
    stage: Stage,
    /// When patience ends.
    overdue_at: Option<Instant>,
    holds_reports: bool,
    /// It was asked for again in the meantime.
    again: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is read.
    Idle,
    /// This many subscriptions to documents are not answered.
    Desired(usize),
    /// This many subscriptions to reports are not answered.
    Witness(usize),
    /// This nonce did not come back.
    Barrier(u64),
    /// It is to be sent again.
    BarrierDue(u64),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Subscribe to the documents, then say [`Reading::begin`].
    SubscribeToDesired,
    /// Subscribe to the reports, then say [`Reading::asked_for_witness`].
    SubscribeToReported,
    /// Publish this nonce behind it.
    SendBarrier(u64),
}

impl Reading {
    /// On a new connection: everything is to be read. `patience` is how long reports wait for it.
    pub(super) const fn new(patience: Duration) -> Self {
        Self { patience, stage: Stage::Idle, overdue_at: None, holds_reports: true, again: true }
    }

    /// Whether reports must wait.
    pub(super) const fn holds_reports(&self) -> bool {
        self.holds_reports
    }

    /// Whether all has been read.
    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Idle && !self.again
    }

    /// Everything is to be read again, now or when the reading that runs is over.
    pub(super) const fn ask(&mut self) {
        self.again = true;
    }

    /// What to do now; `fresh` makes a nonce.
    pub(super) fn next(&mut self, fresh: impl FnOnce() -> u64) -> Option<Next> {
        match self.stage {
            Stage::Idle if self.again => Some(Next::SubscribeToDesired),
            Stage::Desired(0) => Some(Next::SubscribeToReported),
            Stage::Witness(0) => Some(self.send_barrier(fresh())),
            Stage::BarrierDue(nonce) => Some(self.send_barrier(nonce)),
            _ => None,
        }
    }

    const fn send_barrier(&mut self, nonce: u64) -> Next {
        self.stage = Stage::Barrier(nonce);
        Next::SendBarrier(nonce)
    }

    /// Whether this takes longer than reports can wait: then they go, and what is read as the last one proves nothing.
    pub(super) fn is_overdue(&mut self, now: Instant) -> bool {
        let overdue = self.overdue_at.is_some_and(|at| at <= now);
        if overdue {
            self.overdue_at = Some(now + self.patience);
            self.holds_reports = false;
            if let Stage::Barrier(nonce) = self.stage {
                self.stage = Stage::BarrierDue(nonce);
            }
        }
        overdue
    }

    /// Subscriptions to this many documents are under way.
    pub(super) fn begin(&mut self, subscriptions: usize, now: Instant) {
        self.stage = Stage::Desired(subscriptions);
        self.overdue_at = Some(now + self.patience);
        self.holds_reports = true;
        self.again = false;
    }

    /// Subscriptions to this many reports are under way.
    pub(super) const fn asked_for_witness(&mut self, subscriptions: usize) {
        self.stage = Stage::Witness(subscriptions);
    }

    /// The broker answered a subscription of this reading, one way or the other.
    pub(super) const fn subscribed(&mut self) {
        if let Stage::Desired(waiting) | Stage::Witness(waiting) = &mut self.stage {
            *waiting = waiting.saturating_sub(1);
        }
    }

    /// A nonce came back: whether all has come.
    pub(super) fn returned(&mut self, nonce: u64) -> bool {
        let done = matches!(self.stage, Stage::Barrier(wanted) | Stage::BarrierDue(wanted) if wanted == nonce);
        if done {
            self.stage = Stage::Idle;
            self.overdue_at = None;
            self.holds_reports = false;
        }
        done
    }

    /// When there is something to do though nothing happens.
    pub(super) const fn wakes_at(&self) -> Option<Instant> {
        self.overdue_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn at_the_barrier() -> (Reading, Instant) {
        let (mut reading, now) = (Reading::new(PATIENCE), Instant::now());
        assert_eq!(reading.next(|| 7), Some(Next::SubscribeToDesired));
        reading.begin(2, now);
        assert_eq!(reading.next(|| 7), None);
        reading.subscribed();
        assert_eq!(reading.next(|| 7), None, "one of two is granted");
        reading.subscribed();
        assert_eq!(reading.next(|| 7), Some(Next::SubscribeToReported));
        reading.asked_for_witness(1);
        assert_eq!(reading.next(|| 7), None);
        reading.subscribed();
        assert_eq!(reading.next(|| 7), Some(Next::SendBarrier(7)));
        assert!(reading.holds_reports());
        (reading, now)
    }

    #[test]
    fn all_has_come_when_the_nonce_is_back_and_reports_wait_for_it() {
        let (mut reading, _) = at_the_barrier();
        assert!(!reading.returned(8));
        assert!(reading.returned(7));
        assert!(reading.is_done() && !reading.holds_reports());
        assert!(!reading.returned(7), "once");
        assert_eq!((reading.next(|| 9), reading.wakes_at()), (None, None));
    }

    #[test]
    fn reports_do_not_wait_for_ever_and_the_nonce_goes_again() {
        let (mut reading, now) = at_the_barrier();
        assert_eq!(reading.wakes_at(), Some(now + PATIENCE));
        assert!(!reading.is_overdue(now));
        assert!(reading.is_overdue(now + PATIENCE));
        assert!(!reading.holds_reports());
        assert_eq!(reading.next(|| 9), Some(Next::SendBarrier(7)), "the same: either may come");
        assert_eq!((reading.next(|| 9), reading.wakes_at()), (None, Some(now + 2 * PATIENCE)));
        assert!(reading.returned(7));
    }

    #[test]
    fn what_is_asked_for_while_reading_is_read_afterwards() {
        let (mut reading, now) = at_the_barrier();
        reading.ask();
        assert_eq!(reading.next(|| 9), None);
        assert!(reading.returned(7));
        assert_eq!(reading.next(|| 9), Some(Next::SubscribeToDesired));
        reading.begin(1, now);
        assert!(reading.holds_reports(), "the witness is to be the one before");
    }
}
