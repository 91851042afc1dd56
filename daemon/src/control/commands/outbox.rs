//! The way of answers to the uplink.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{answer::Reply, refusal::Refusal, status::CommandsStatus};
use crate::{control::link::Answer, record::Clock};

/// Answers on their way to the uplink: with [`super::flows`] the largest are 48 KiB, so 192 KiB wait at most, and what
/// they carry of the request.
pub const ANSWERS: usize = 4;
/// How long the uplink may take for the next answer: a slow modem sends 48 KiB in half of that.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends answers.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    pub(super) answers: mpsc::Sender<Answer>,
    pub(super) status: watch::Sender<CommandsStatus>,
    pub(super) clock: Clock,
}

/// The uplink took no answer for as long as one may wait: nobody hears us.
#[derive(Debug)]
pub(super) struct NotTaken;

impl Outbox {
    /// Says that it was done.
    pub(super) async fn done(&self, reply: &Reply, data: &impl serde::Serialize) -> Result<(), NotTaken> {
        self.send(reply.done(&self.clock.now(), data)).await
    }

    /// Says that it was refused.
    pub(super) async fn refused(&self, reply: &Reply, refusal: &Refusal) -> Result<(), NotTaken> {
        self.send(reply.refused(&self.clock.now(), refusal)).await
    }

    /// Counts a refusal.
    pub(super) fn count(&self, refusal: &Refusal) {
        self.status.send_modify(|status| *status.refused.entry(refusal.code.name()).or_default() += 1);
    }

    async fn send(&self, answer: Answer) -> Result<(), NotTaken> {
        if let Ok(Ok(())) = timeout(PATIENCE, self.answers.send(answer)).await {
            return Ok(());
        }
        self.status.send_modify(|status| status.unanswered += 1);
        Err(NotTaken)
    }

    /// Waits until the uplink has taken all answers.
    pub(super) async fn taken(&self) {
        // An error says that it has ended.
        let _all_free = self.answers.reserve_many(self.answers.max_capacity()).await;
    }
}
