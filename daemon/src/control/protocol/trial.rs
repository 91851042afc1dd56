//! A trial, from its turn to its end.

use std::time::Duration;

use super::{
    Applied, Disk, Link, Now, Outcome, Protocol, SETTLE, START_WITHOUT_LINK, Step, WRITE_AGAIN,
    memory::{Candidate, Slot, Standing, Wish, stamp},
};
use crate::control::link::Source;

/// What is being tried.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Trial<D> {
    pub(super) source: Source,
    pub(super) wish: Wish<D>,
    /// What was confirmed when it began, and is until the proof is on disk.
    pub(super) before: Wish<D>,
    pub(super) stage: Stage,
    /// It tries what waited for this start.
    pub(super) at_start: bool,
    /// Somebody on site will vouch for it.
    pub(super) urged: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// This write counts the attempt.
    Recording {
        write: u64,
    },
    /// From here on it may run.
    Applying {
        deadline: Duration,
    },
    Settling {
        until: Duration,
        deadline: Duration,
        partly: bool,
    },
    Probing {
        deadline: Duration,
        partly: bool,
    },
    /// It is proven, and in the settled state; this write puts it there for good.
    Confirming {
        write: u64,
        partly: bool,
    },
}

impl<D> Trial<D> {
    /// Whether it may run without having been proven.
    pub(super) const fn unproven(&self) -> bool {
        self.deadline().is_some()
    }

    /// When what is not proven must be gone.
    const fn deadline(&self) -> Option<Duration> {
        match self.stage {
            Stage::Applying { deadline } | Stage::Settling { deadline, .. } | Stage::Probing { deadline, .. } => {
                Some(deadline)
            }
            Stage::Recording { .. } | Stage::Confirming { .. } => None,
        }
    }

    const fn deadline_mut(&mut self) -> Option<&mut Duration> {
        match &mut self.stage {
            Stage::Applying { deadline } | Stage::Settling { deadline, .. } | Stage::Probing { deadline, .. } => {
                Some(deadline)
            }
            Stage::Recording { .. } | Stage::Confirming { .. } => None,
        }
    }

    /// When time ends the stage.
    pub(super) fn wake(&self) -> Option<Duration> {
        match self.stage {
            Stage::Settling { until, deadline, .. } => Some(until.min(deadline)),
            _ => self.deadline(),
        }
    }
}

#[cfg(test)]
impl<D> Trial<D> {
    /// For the model: with other times, and its write as it was before the last one.
    pub(super) fn rebase(&mut self, last: u64, shift: impl Fn(&mut Duration)) {
        match &mut self.stage {
            Stage::Recording { write } | Stage::Confirming { write, .. } => *write = last.wrapping_sub(*write),
            Stage::Applying { deadline } | Stage::Probing { deadline, .. } => shift(deadline),
            Stage::Settling { until, deadline, .. } => {
                shift(until);
                shift(deadline);
            }
        }
    }
}

impl<D> Candidate<D> {
    /// When it is tried again.
    pub(super) const fn due(&self) -> Option<Duration> {
        match self.standing {
            Standing::RolledBack { next, .. } => next,
            _ => None,
        }
    }

    fn may_begin(&self, now: Now) -> bool {
        match self.standing {
            Standing::Waiting { .. } => true,
            Standing::RolledBack { next, .. } => next.is_some_and(|next| next <= now.up),
            Standing::Trying | Standing::Unfit { .. } => false,
        }
    }
}

/// When a wish that failed so often is tried again by itself, if ever: after one `confirm_within`, then two, then four.
pub(super) fn next_attempt(failed: u32, attempts: u32, confirm_within: Duration, now: Now) -> Option<Duration> {
    (failed < attempts).then(|| now.up + confirm_within * 2_u32.pow(failed.saturating_sub(1)))
}

impl<D: Clone> Protocol<D> {
    /// Whether a trial may begin: one at a time, with a disk that can remember it.
    pub(super) fn may_try(&self) -> bool {
        self.trial.is_none() && self.disk == Disk::Fine
    }

    /// What of a source may be tried, now or once its time comes: with a link, or a person, that can prove it.
    pub(super) fn provable<'a>(&self, slot: &'a Slot<D>) -> Option<&'a Candidate<D>> {
        let candidate = slot.candidate.as_ref().filter(|_| slot.held.is_none());
        candidate.filter(|candidate| self.link == Link::Up || candidate.urged)
    }

    /// Begins the next trial, the sources taking turns.
    pub(super) fn begin_next(&mut self, now: Now) {
        if !self.may_try() {
            return;
        }
        let ready = |(source, slot): (&Source, &Slot<D>)| {
            self.provable(slot).is_some_and(|candidate| candidate.may_begin(now)).then(|| source.clone())
        };
        let after_last = self.slots.iter().filter(|(source, _)| Some(*source) > self.last.as_ref());
        if let Some(source) = after_last.chain(&self.slots).find_map(ready) {
            self.begin(source, false);
        }
    }

    /// At the start: what was proven but for a restart is tried whole, without waiting for the link; one source at a
    /// start. Another's runs in part again, and waits for the next.
    pub(super) fn try_pending_restart(&mut self, now: Now, steps: &mut Vec<Step>) {
        let mut first = None;
        for (source, slot) in &mut self.slots {
            let Some(mut candidate) = slot.partly.take() else { continue };
            if candidate.attempts >= self.attempts {
                let reason = "needs a restart, and was tried as often as anything is".to_owned();
                let wish = stamp(candidate.wish.as_ref());
                steps.push(Step::Tell(source.clone(), Outcome::RolledBack(wish, reason.clone(), candidate.attempts)));
                candidate.standing = Standing::RolledBack { reason, next: None };
                slot.since_ms = now.ts_ms;
            } else if first.is_none() {
                first = Some(source.clone());
            }
            slot.candidate = Some(candidate);
            self.dirty = true;
        }
        if let Some(source) = first {
            self.begin(source, true);
        }
    }

    fn begin(&mut self, source: Source, at_start: bool) {
        let write = self.changed();
        let Some(slot) = self.slots.get_mut(&source) else { return };
        let Some(candidate) = &mut slot.candidate else { return };
        candidate.attempts += 1;
        candidate.standing = Standing::Trying;
        self.trials += 1;
        self.last = Some(source.clone());
        let (wish, before, urged) = (candidate.wish.clone(), slot.confirmed.clone(), candidate.urged);
        self.trial = Some(Trial { source, wish, before, stage: Stage::Recording { write }, at_start, urged });
    }

    /// Ends the trial without a proof: whoever stands as candidate on trial stands so from now on.
    fn end(&mut self, standing: impl FnOnce(&Candidate<D>) -> Standing) {
        let Some(trial) = self.trial.take() else { return };
        if let Some(candidate) = self.slots.get_mut(&trial.source).and_then(Slot::on_trial) {
            candidate.standing = standing(candidate);
            // Whoever wanted to vouch did not.
            candidate.urged = false;
        }
        self.drop_what_is_granted(&trial.source);
        self.changed();
    }

    /// See [`super::Event::Written`].
    pub(super) fn written(&mut self, write: u64, result: Result<(), String>, now: Now, steps: &mut Vec<Step>) {
        self.writing = false;
        let stage = self.trial.as_ref().map(|trial| trial.stage);
        let urged = self.trial.as_ref().is_some_and(|trial| trial.urged);
        match result {
            Ok(()) => {
                self.disk = Disk::Fine;
                match stage {
                    Some(Stage::Recording { write: wanted }) if wanted <= write => {
                        let waits_for_link = self.link == Link::Never && !urged;
                        let within = if waits_for_link { START_WITHOUT_LINK } else { self.confirm_within };
                        self.enter(Stage::Applying { deadline: now.up + within });
                        steps.push(Step::Apply(self.trials));
                    }
                    Some(Stage::Confirming { write: wanted, partly }) if wanted <= write => self.proven(partly, steps),
                    _ => {}
                }
            }
            Err(reason) => {
                self.disk = Disk::Failed { again: now.up + WRITE_AGAIN };
                self.dirty = true;
                if matches!(stage, Some(Stage::Recording { .. })) {
                    // It was not tried.
                    if let Some(candidate) = self.on_trial() {
                        candidate.attempts -= 1;
                    }
                    self.end(|_| Standing::Waiting { reason: Some(format!("cannot be recorded: {reason}")) });
                }
            }
        }
    }

    /// See [`super::Event::Applied`].
    pub(super) fn applied(&mut self, applied: Applied, now: Now, steps: &mut Vec<Step>) {
        let Some(Trial { stage, source, wish, .. }) = &self.trial else { return };
        match (stage, applied) {
            (Stage::Applying { deadline }, applied @ (Applied::Whole | Applied::Partly)) => {
                let (deadline, partly) = (*deadline, applied == Applied::Partly);
                self.enter(Stage::Settling { until: now.up + SETTLE, deadline, partly });
            }
            (Stage::Applying { .. } | Stage::Settling { .. } | Stage::Probing { .. }, Applied::Unfit(reason)) => {
                steps.push(Step::PutBack);
                steps.push(Step::Tell(source.clone(), Outcome::Refused(stamp(wish.as_ref()), reason.clone())));
                self.end(|_| Standing::Unfit { reason });
            }
            _ => {}
        }
    }

    /// See [`super::Event::Probed`].
    pub(super) fn probed(&mut self) {
        if let Some(Trial { stage: Stage::Probing { partly, .. }, .. }) = self.trial {
            self.confirm(partly);
        }
    }

    /// See [`super::Event::Vouched`].
    pub(super) fn vouched(&mut self) {
        if let Some(Trial {
            stage: Stage::Settling { partly, .. } | Stage::Probing { partly, .. }, urged: true, ..
        }) = self.trial
        {
            self.confirm(partly);
        }
    }

    /// There is a proof.
    fn confirm(&mut self, partly: bool) {
        let Some(Trial { source, wish, .. }) = &self.trial else { return };
        let (source, wish) = (source.clone(), wish.clone());
        let write = self.changed();
        if let Some(slot) = self.slots.get_mut(&source) {
            let candidate = slot.on_trial().is_some().then(|| slot.candidate.take()).flatten();
            if partly {
                let attempts = candidate.map_or(0, |candidate| candidate.attempts);
                slot.partly = Some(Candidate { attempts, ..Candidate::waiting(wish) });
            } else {
                slot.confirmed = wish;
                slot.partly = None;
            }
        }
        self.enter(Stage::Confirming { write, partly });
    }

    /// The proof is on disk.
    fn proven(&mut self, partly: bool, steps: &mut Vec<Step>) {
        let Some(trial) = self.trial.take() else { return };
        if !partly {
            steps.push(Step::Tell(trial.source.clone(), Outcome::Confirmed(stamp(trial.wish.as_ref()))));
        }
        self.drop_what_is_granted(&trial.source);
    }

    /// What time alone brings about.
    pub(super) fn pass_time(&mut self, now: Now, steps: &mut Vec<Step>) {
        if matches!(self.disk, Disk::Failed { again } if again <= now.up) {
            self.disk = Disk::TryingAgain;
            self.write(steps);
        }
        if self.mark_due.is_some_and(|due| due <= now.up) {
            self.mark_due = None;
            self.changed();
        }
        let Some(trial) = &self.trial else { return };
        if trial.deadline().is_some_and(|deadline| deadline <= now.up) {
            let reason = self.why_unproven(trial);
            let (source, wish) = (trial.source.clone(), stamp(trial.wish.as_ref()));
            let attempts = self.on_trial().map_or(1, |candidate| candidate.attempts);
            steps.push(Step::PutBack);
            steps.push(Step::Tell(source, Outcome::RolledBack(wish, reason.clone(), attempts)));
            let (most, confirm_within) = (self.attempts, self.confirm_within);
            self.end(|candidate| Standing::RolledBack {
                reason,
                next: next_attempt(candidate.attempts, most, confirm_within, now),
            });
        } else if let Stage::Settling { until, deadline, partly } = trial.stage
            && until <= now.up
        {
            self.enter(Stage::Probing { deadline, partly });
            steps.push(Step::Probe(self.trials));
        }
    }

    fn why_unproven(&self, trial: &Trial<D>) -> String {
        let unproven = match self.link {
            _ if trial.urged => {
                format!(
                    "nobody vouched for it, and no round trip with the broker, within {} s",
                    self.confirm_within.as_secs()
                )
            }
            Link::Never => format!("no link to the broker within {} s of the start", START_WITHOUT_LINK.as_secs()),
            Link::Up | Link::Down => {
                format!("no round trip with the broker within {} s", self.confirm_within.as_secs())
            }
        };
        let left = if trial.at_start { "; its keys that need a restart still run until the next start" } else { "" };
        unproven + left
    }

    /// See [`super::Event::Linked`].
    pub(super) fn linked(&mut self, linked: bool, now: Now) {
        if linked
            && self.link == Link::Never
            && let Some(deadline) = self.trial.as_mut().and_then(Trial::deadline_mut)
        {
            *deadline = (*deadline).min(now.up + self.confirm_within);
        }
        self.link = match (linked, self.link) {
            (true, _) => Link::Up,
            (false, Link::Never) => Link::Never,
            (false, _) => Link::Down,
        };
    }

    fn enter(&mut self, stage: Stage) {
        if let Some(trial) = &mut self.trial {
            trial.stage = stage;
        }
    }

    /// The candidate that is on trial.
    fn on_trial(&mut self) -> Option<&mut Candidate<D>> {
        let source = &self.trial.as_ref()?.source;
        self.slots.get_mut(source)?.on_trial()
    }
}
