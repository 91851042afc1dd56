//! What to make of what the broker has: versions, digests, and what they are held against.

use super::{
    MARK_WAITS, Now, Outcome, Protocol, Step,
    memory::{Candidate, Document, Mark, Refusal, Slot, Stamp, Standing, Wish, stamp},
    trial::Stage,
};
use crate::control::link::Source;

impl<D: Clone> Protocol<D> {
    /// See [`super::Event::Offered`].
    pub(super) fn offered(
        &mut self,
        source: Source,
        stamp: Stamp,
        judged: Result<D, String>,
        now: Now,
        steps: &mut Vec<Step>,
    ) {
        let slot = self.slots.entry(source.clone()).or_default();
        if let Some(reason) = slot.out_of_sequence(stamp) {
            return self.refuse(source, Some(stamp), reason, steps);
        }
        if slot.wished().is_some_and(|wished| wished.stamp == stamp) {
            // In use, or being tried; it may have been withdrawn or refused in between.
            slot.refusal = None;
            if slot.forgotten {
                slot.forgotten = false;
                self.changed();
            }
            return;
        }
        slot.forgotten = false;
        slot.mark = Some(Mark { stamp, refused: judged.as_ref().err().cloned() });
        match judged {
            Ok(body) => {
                self.wish(&source, Some(Document { stamp, body }));
                self.changed();
            }
            Err(reason) => {
                self.refuse(source, Some(stamp), reason, steps);
                self.mark_due.get_or_insert(now.up + MARK_WAITS);
            }
        }
    }

    /// See [`super::Event::Deferred`].
    pub(super) fn deferred(&mut self, source: Source, stamp: Stamp, reason: String, steps: &mut Vec<Step>) {
        let slot = self.slots.entry(source.clone()).or_default();
        match slot.out_of_sequence(stamp) {
            Some(reason) => self.refuse(source, Some(stamp), reason, steps),
            None if slot.wished().is_some_and(|wished| wished.stamp == stamp) => {}
            None => self.refuse(source, Some(stamp), reason, steps),
        }
    }

    /// See [`super::Event::Held`].
    pub(super) fn hold(&mut self, source: Source, reason: Option<String>) {
        if reason.is_some() {
            self.slots.entry(source).or_default().held = reason;
            return;
        }
        let Some(slot) = self.slots.get_mut(&source) else { return };
        slot.held = None;
        // What did not fit because of that might, now.
        if let Some(candidate) = slot.candidate.as_mut().filter(|it| matches!(it.standing, Standing::Unfit { .. })) {
            *candidate = Candidate::waiting(candidate.wish.take());
            self.changed();
        }
    }

    /// See [`super::Event::Urged`].
    pub(super) fn urge(&mut self, source: &Source) {
        if let Some(candidate) = self.slots.get_mut(source).and_then(|slot| slot.candidate.as_mut()) {
            candidate.urged = true;
            // It may have begun with the link.
            if let Some(trial) = self.trial.as_mut().filter(|trial| trial.source == *source)
                && stamp(trial.wish.as_ref()) == stamp(candidate.wish.as_ref())
            {
                trial.urged = true;
            }
        }
    }

    /// See [`super::Event::Absent`]. A broker that has forgotten learns from our own report what there was; that is no
    /// memory of its own.
    pub(super) fn absent(&mut self, source: &Source, remembered: bool) {
        let Some(slot) = self.slots.get_mut(source) else { return };
        if remembered && !slot.forgotten {
            self.wish(source, None);
        } else if slot.wished().is_some() && !slot.forgotten {
            slot.forgotten = true;
            self.changed();
        }
    }

    /// See [`super::Event::Retry`]. What was refused is judged anew when it is read again.
    pub(super) fn retry(&mut self, source: Option<&Source>) {
        let mut found = false;
        for (_, slot) in self.slots.iter_mut().filter(|(of, _)| source.is_none_or(|source| source == *of)) {
            if let Some(mark) = &mut slot.mark {
                found |= mark.refused.take().is_some();
            }
            if let Some(candidate) = &mut slot.candidate
                && matches!(candidate.standing, Standing::RolledBack { .. } | Standing::Unfit { .. })
            {
                *candidate = Candidate::waiting(candidate.wish.take());
                found = true;
            }
        }
        if found {
            self.changed();
        }
    }

    /// See [`super::Event::Refit`].
    pub(super) fn refit(&mut self) {
        let mut found = false;
        for candidate in self.slots.values_mut().filter_map(|slot| slot.candidate.as_mut()) {
            if matches!(candidate.standing, Standing::Unfit { .. }) {
                *candidate = Candidate::waiting(candidate.wish.take());
                found = true;
            }
        }
        if found {
            self.changed();
        }
    }

    /// See [`super::Event::SetAside`]. It waits as a candidate for better times.
    pub(super) fn set_aside(&mut self, source: &Source, reason: String, steps: &mut Vec<Step>) {
        let Some(slot) = self.slots.get_mut(source) else { return };
        let confirmed = slot.confirmed.take();
        let wish = slot.partly.take().map_or(confirmed, |partly| partly.wish);
        steps.push(Step::Tell(source.clone(), Outcome::SetAside(stamp(wish.as_ref()), reason.clone())));
        if slot.candidate.is_none() && wish.is_some() {
            slot.candidate = Some(Candidate { standing: Standing::Unfit { reason }, ..Candidate::waiting(wish) });
        }
        if let Some(trial) = &self.trial
            && trial.source == *source
            && matches!(trial.stage, Stage::Confirming { .. })
        {
            // What was about to be confirmed is gone with it.
            self.trial = None;
        }
        self.changed();
    }

    /// Says that a message cannot be used. Nothing else changes by it.
    pub(super) fn refuse(&mut self, source: Source, stamp: Option<Stamp>, reason: String, steps: &mut Vec<Step>) {
        let slot = self.slots.entry(source.clone()).or_default();
        let refusal = Refusal { stamp, reason };
        if slot.refusal.as_ref() != Some(&refusal) {
            steps.push(Step::Tell(source, Outcome::Refused(stamp, refusal.reason.clone())));
            slot.refusal = Some(refusal);
        }
    }

    /// Something is asked for, or that there be nothing ([`super::Event::Withdrawn`]).
    pub(super) fn wish(&mut self, source: &Source, wish: Wish<D>) {
        let Some(slot) = self.slots.get_mut(source) else { return };
        slot.refusal = None;
        slot.forgotten = false;
        if stamp(slot.wished()) != stamp(wish.as_ref()) {
            slot.candidate = Some(Candidate::waiting(wish));
            self.changed();
            self.drop_what_is_granted(source);
        }
    }

    /// A wish for what is settled anyway needs no trial: it was withdrawn and made again, or replaced and restored.
    pub(super) fn drop_what_is_granted(&mut self, source: &Source) {
        if self.trial.as_ref().is_some_and(|trial| trial.source == *source) {
            // The trial's end settles something else, perhaps.
            return;
        }
        if let Some(slot) = self.slots.get_mut(source)
            && slot.candidate.as_ref().is_some_and(|candidate| stamp(candidate.wish.as_ref()) == stamp(slot.settled()))
        {
            slot.candidate = None;
            self.changed();
        }
    }
}

impl<D> Slot<D> {
    /// Why a document with this stamp is refused whatever it says, if it is.
    pub(super) fn out_of_sequence(&self, stamp: Stamp) -> Option<String> {
        let Mark { stamp: mark, refused } = self.mark.as_ref()?;
        if stamp.version < mark.version {
            Some(format!("stale: version {} is lower than {}, the highest so far", stamp.version, mark.version))
        } else if stamp.version == mark.version && stamp.digest != mark.digest {
            Some(format!(
                "conflict: version {} was another document before; publish this one with a higher version",
                stamp.version
            ))
        } else if stamp == *mark {
            refused.clone()
        } else {
            None
        }
    }
}
