//! What control asks of the uplink: whether we still reach our broker, and to read desired state again.

use std::{mem, sync::Arc};

use tokio::{
    select,
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};

/// Questions on their way. One trial at a time asks one, and asks the next when it has the answer or gave up.
const ASKED: usize = 8;

/// Makes both ends.
#[must_use]
pub fn probes() -> (Prober, Probes) {
    let (ask, asked) = mpsc::channel(ASKED);
    let reread = Arc::new(Notify::new());
    (Prober { ask, reread: Arc::clone(&reread) }, Probes { asked, waiting: Vec::new(), reread })
}

/// Control's end.
#[derive(Clone, Debug)]
pub struct Prober {
    ask: mpsc::Sender<oneshot::Sender<()>>,
    reread: Arc<Notify>,
}

impl Prober {
    /// Resolves when a round trip to the broker and back was completed that began after the future was first polled: on
    /// this connection, or on the next one that works. Never, where there is none; whoever has a deadline drops it.
    pub async fn probe(&self) {
        let (done, answer) = oneshot::channel();
        let asked = self.ask.send(done).await.is_ok();
        // The uplink has ended: the daemon stops.
        if !asked || answer.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Asks the broker for all that it retains for us, as at a connect; [`ReadInFull`](crate::control::link::Incoming)
    /// follows. Without a connection, the next one does it anyhow.
    pub fn reread(&self) {
        self.reread.notify_one();
    }
}

/// What control asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Whether our messages still come back: [`Probes::completed`] answers.
    RoundTrip,
    /// For all that the broker retains for us.
    Reread,
}

/// The uplink's end.
#[derive(Debug)]
pub struct Probes {
    asked: mpsc::Receiver<oneshot::Sender<()>>,
    waiting: Vec<(Instant, oneshot::Sender<()>)>,
    reread: Arc<Notify>,
}

impl Probes {
    /// Waits for the next question. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> Question {
        select! {
            Some(done) = self.asked.recv() => {
                self.waiting.retain(|(_, earlier)| !earlier.is_closed());
                self.waiting.push((Instant::now(), done));
                Question::RoundTrip
            }
            () = self.reread.notified() => Question::Reread,
        }
    }

    /// A round trip is over that began at `sent`.
    pub(super) fn completed(&mut self, sent: Instant) {
        for (asked, done) in mem::take(&mut self.waiting) {
            if asked <= sent {
                let _gave_up = done.send(());
            } else {
                self.waiting.push((asked, done));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt as _, pin_mut};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_round_trip_that_began_after_the_question_answers_it() {
        let (control, mut uplink) = probes();
        let before = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        let probe = control.probe();
        pin_mut!(probe);
        assert!(probe.as_mut().now_or_never().is_none());
        assert_eq!(uplink.next().await, Question::RoundTrip);
        uplink.completed(before);
        assert!(probe.as_mut().now_or_never().is_none());
        uplink.completed(Instant::now());
        assert!(probe.now_or_never().is_some());
    }

    #[tokio::test]
    async fn questions_that_nobody_waits_for_are_forgotten() {
        let (control, mut uplink) = probes();
        for _ in 0..3 * ASKED {
            assert!(control.probe().now_or_never().is_none());
            assert_eq!(uplink.next().await, Question::RoundTrip);
        }
        assert_eq!(uplink.waiting.len(), 1);
    }
}
