//! What is reported of a source.

use std::time::Duration;

use serde::Serialize;
use tidegate_values::Digest;

use super::{
    Disk, Protocol,
    memory::{Slot, Stamp, Standing, stamp},
    trial::{Stage, Trial},
};
use crate::control::link::Source;

/// Where a source's wish stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It waits: for its turn, for the link or for the disk.
    Pending,
    /// It runs, and is not proven or not on disk as such.
    Applied,
    /// It runs, and was proven.
    #[default]
    Confirmed,
    /// It ran, and is gone again.
    RolledBack,
    /// The latest message cannot be used.
    Refused,
    /// It runs but for what needs a restart.
    PendingRestart,
    /// It was proven, and its time is over.
    Expired,
}

/// What there is to say of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Where it stands.
    pub state: State,
    /// What this is about; absent where nothing is asked for, or no version could be read.
    pub version: Option<u64>,
    /// Its digest.
    pub digest: Option<Digest>,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// Why, where there is more to say.
    pub reason: Option<String>,
    /// Trials so far, where it is not confirmed.
    pub attempts: Option<u32>,
    /// When it is tried again, on the monotonic clock.
    pub next_attempt: Option<Duration>,
    /// What the daemon ends up with after any crash.
    pub confirmed: Option<Stamp>,
}

impl<D> Protocol<D> {
    /// What there is to say of `source`; of one that was never heard of: nothing is asked for, and nothing runs.
    #[must_use]
    pub fn view(&self, source: &Source) -> View {
        let Some(slot) = self.slots.get(source) else { return View::default() };
        let trial = self.trial.as_ref().filter(|trial| trial.source == *source);
        let mut view = self.of(slot, trial);
        view.since_ms = slot.since_ms;
        // A crash before the proof is on disk brings back what was there before.
        let unwritten = trial.filter(|trial| matches!(trial.stage, Stage::Confirming { .. }));
        view.confirmed = stamp(unwritten.map_or(&slot.confirmed, |trial| &trial.before).as_ref());
        view
    }

    fn of(&self, slot: &Slot<D>, trial: Option<&Trial<D>>) -> View {
        let about = |state, stamp: Option<Stamp>| View {
            state,
            version: stamp.map(|stamp| stamp.version),
            digest: stamp.map(|stamp| stamp.digest),
            ..View::default()
        };
        if let Some(refusal) = &slot.refusal {
            return View { reason: Some(refusal.reason.clone()), ..about(State::Refused, refusal.stamp) };
        }
        if let Some(candidate) = &slot.candidate {
            let (state, reason) = match &candidate.standing {
                Standing::Waiting { reason } => (State::Pending, slot.held.clone().or_else(|| reason.clone())),
                Standing::Trying if trial.is_some_and(Trial::unproven) => (State::Applied, None),
                Standing::Trying => (State::Pending, None),
                Standing::RolledBack { reason, .. } => (State::RolledBack, Some(reason.clone())),
                Standing::Unfit { reason } => (State::Refused, Some(reason.clone())),
            };
            return View {
                reason,
                attempts: Some(candidate.attempts).filter(|attempts| *attempts > 0),
                next_attempt: candidate.due(),
                ..about(state, stamp(candidate.wish.as_ref()))
            };
        }
        let settled = stamp(slot.settled());
        match trial {
            Some(Trial { stage: Stage::Confirming { .. }, wish, .. }) => View {
                reason: (self.disk != Disk::Fine).then(|| "proven, but cannot be recorded yet".to_owned()),
                ..about(State::Applied, stamp(wish.as_ref()))
            },
            _ if slot.partly.is_some() => about(State::PendingRestart, settled),
            _ => View {
                reason: slot.forgotten.then(|| {
                    "the broker has no document for this source and has lost its memory; what was confirmed stays"
                        .to_owned()
                }),
                ..about(State::Confirmed, settled)
            },
        }
    }
}
