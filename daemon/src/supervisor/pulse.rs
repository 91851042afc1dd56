//! Who still makes progress: the supervisor asks in rounds, and each part answers from its own loop.
//!
//! ```text
//!   Heart ── round 7 ──► Pulse of "uplink"  ── its loop comes round ──► answered 7
//!                   ├──► Pulse of "ingest"  ── its loop comes round ──► answered 7
//!                   └──► Pulse of "kernel"  ── asks its thread, which answers ──► answered 7
//! ```
//!
//! A part that is blocked, that waits for something which never comes, or that has ended does not answer. Nobody is
//! asked, and nobody is woken, where there is no watchdog.

use std::{
    future::pending,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{select, sync::watch, time::Instant};

/// Asks all parts.
#[derive(Debug)]
pub(super) struct Heart {
    rounds: watch::Sender<u64>,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    name: &'static str,
    patience: Duration,
    answered: Arc<AtomicU64>,
    /// What it had answered when it was last looked at.
    seen: u64,
    /// When it was last seen to have answered, or was first asked.
    progress: Instant,
}

/// A part that did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silent {
    pub(super) part: &'static str,
    /// For how long at least.
    pub(super) time: Duration,
    /// Whether it may be silent for so long.
    pub(super) excused: bool,
}

impl Heart {
    pub(super) fn new() -> Self {
        Self { rounds: watch::Sender::new(0), parts: Vec::new() }
    }

    pub(super) fn pulse(&mut self, name: &'static str, patience: Duration) -> Pulse {
        let answered = Arc::new(AtomicU64::new(0));
        let part = Part { name, patience, answered: Arc::clone(&answered), seen: 0, progress: Instant::now() };
        self.parts.push(part);
        Pulse { rounds: self.rounds.subscribe(), answered }
    }

    /// Who has not answered since the last call; then asks anew.
    pub(super) fn beat(&mut self) -> Vec<Silent> {
        let now = Instant::now();
        let first = *self.rounds.borrow() == 0;
        let silent = self.parts.iter_mut().filter_map(|part| {
            let answered = part.answered.load(Ordering::Relaxed);
            // The number grows in each round, so that it says nothing but "since the last call".
            if first || answered > part.seen {
                part.seen = answered;
                part.progress = now;
                return None;
            }
            let time = now - part.progress;
            Some(Silent { part: part.name, time, excused: time < part.patience })
        });
        let silent = silent.collect();
        self.rounds.send_modify(|round| *round += 1);
        silent
    }
}

/// One part's side: it answers by coming round to [`Self::asked`] in its loop.
#[derive(Debug)]
pub struct Pulse {
    rounds: watch::Receiver<u64>,
    answered: Arc<AtomicU64>,
}

impl Pulse {
    /// Resolves, having answered, when the supervisor asks: for the `select!` of the part's loop. Safe to cancel.
    pub async fn asked(&mut self) {
        if self.rounds.changed().await.is_err() {
            // The supervisor is gone; nobody will ask.
            pending::<()>().await;
        }
        let round = *self.rounds.borrow_and_update();
        // Only the number itself is read on the other side; nothing else is published with it.
        self.answered.store(round, Ordering::Relaxed);
    }

    /// Waits for what has a deadline or a pulse of its own, such as the network or the spool, and answers meanwhile.
    pub async fn during<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        loop {
            select! {
                biased;
                () = self.asked() => {}
                output = &mut wait => return output,
            }
        }
    }

    /// Answers for a thread that is spoken to by messages: whenever the supervisor asks, by asking it.
    pub async fn relay<F: Future<Output = bool>>(mut self, mut ask: impl FnMut() -> F) {
        while self.rounds.changed().await.is_ok() {
            let round = *self.rounds.borrow_and_update();
            if ask().await {
                self.answered.store(round, Ordering::Relaxed);
            }
        }
    }

    /// One that nobody asks, for a part that runs by itself.
    #[must_use]
    pub fn unasked() -> Self {
        Heart::new().pulse("unasked", Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn names(silent: &[Silent]) -> Vec<&'static str> {
        silent.iter().map(|silent| silent.part).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_answers_by_coming_round_its_loop_and_only_by_that() {
        let mut heart = Heart::new();
        let mut turns = heart.pulse("turns", Duration::ZERO);
        let _held = heart.pulse("held", Duration::ZERO);
        tokio::spawn(async move {
            loop {
                turns.asked().await;
            }
        });
        assert_eq!(heart.beat(), []);
        sleep(SECOND).await;
        assert_eq!(heart.beat(), [Silent { part: "held", time: SECOND, excused: false }]);
        sleep(SECOND).await;
        assert_eq!(heart.beat(), [Silent { part: "held", time: 2 * SECOND, excused: false }]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_waits_for_another_answers_meanwhile() {
        let mut heart = Heart::new();
        let mut pulse = heart.pulse("waits", Duration::ZERO);
        let waiting = tokio::spawn(async move { pulse.during(sleep(10 * SECOND)).await });
        for _ in 0..9 {
            assert_eq!(heart.beat(), []);
            sleep(SECOND).await;
        }
        advance(2 * SECOND).await;
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_does_not_answer_in_time_is_excused_for_as_long_as_its_patience_lasts() {
        let mut heart = Heart::new();
        let (answer, mood) = watch::channel(true);
        let thread = heart.pulse("disk", 3 * SECOND);
        tokio::spawn(thread.relay(move || {
            let mut mood = mood.clone();
            async move { mood.wait_for(|answers| *answers).await.is_ok() }
        }));
        assert_eq!(heart.beat(), []);
        sleep(SECOND).await;
        assert_eq!(heart.beat(), []);
        sleep(SECOND).await;
        answer.send(false).unwrap();
        assert_eq!(heart.beat(), []);
        let mut excused = Vec::new();
        for _ in 0..3 {
            sleep(SECOND).await;
            excused.extend(heart.beat().iter().map(|silent| silent.excused));
        }
        assert_eq!(excused, [true, true, false]);

        answer.send(true).unwrap();
        sleep(SECOND).await;
        assert_eq!(names(&heart.beat()), [""; 0], "it answers again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_has_ended_is_silent() {
        let mut heart = Heart::new();
        drop(heart.pulse("gone", Duration::ZERO));
        assert_eq!(heart.beat(), []);
        sleep(SECOND).await;
        assert_eq!(names(&heart.beat()), ["gone"]);
    }
}
