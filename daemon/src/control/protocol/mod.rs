//! Desired and reported: how any managed thing gets from what it is to what it should be without being lost on the way.
//!
//! Configuration and policy follow this protocol, and whatever else is managed by documents from afar. It is pure: events and
//! the time go in, [`Step`]s come out. It knows no broker, no disk and no clock, and does not look into documents.
//!
//! # Versions
//!
//! Each [`Source`] has a sequence of its own, and a *mark*: the highest version that was ever read, usable or not.
//!
//! | a document with | is |
//! |---|---|
//! | a lower version | refused, `stale` |
//! | the version of the mark, another digest | refused, `conflict` |
//! | the version of the mark, its digest | nothing new; where it was withdrawn, asked for again |
//! | a higher version | the new mark; refused where it cannot be used, else tried |
//!
//! What is refused disturbs neither what is confirmed nor what is being tried.
//!
//! # A trial
//!
//! A change is tried, and so is a withdrawal: one at a time, while the others wait. The question is always the same:
//! does the broker still hear us with it?
//!
//! ```text
//!  higher version,       turn, link or urged            written              taken over
//!  withdrawal ──► Waiting ─────────────► Recording ──────────────► Applying ───────────► Settling
//!                  ▲  ▲ ▲                    │                        │                     │ SETTLE
//!                  │  │ └── cannot write ────┘      does not fit      │                     ▼
//!                  │  │                         ┌─────────────────────┤                  Probing ──────────┐
//!                  │  │                         ▼                     ▼                     │              │
//!                  │  └── other layers ────── Unfit          confirm_within passed ◄────────┘     round trip
//!                  │      retry                              or the process died                           │
//!                  │                                                  ▼                                    ▼
//!                  └──── back-off (if tries are left), retry ── RolledBack   or vouched ►  Confirming ◄─┐ cannot
//!                                                                                              │  └─────┘ write
//!                                                                        whole  ◄── written ───┴──► but for keys that
//!                                                                          │                        need a restart
//!                                                                          ▼                           ▼
//!                                                                      Confirmed ◄── tried whole ── PendingRestart
//!                                                                                at the next start
//! ```
//!
//! - One write is under way at a time. What changes meanwhile goes into the next one, all of it together.
//! - *Recording* counts the attempt on disk before anything happens, so that a document which kills the process kills
//!   it at most as often as it is tried.
//! - A source that is *held* does not get its turn: what it wishes would not take effect, so nothing would be proven.
//! - Somebody on site can *urge* a wish, which then needs no link to begin, and *vouch* for it from *Settling* on, which is
//!   as good as the round trip. They have `confirm_within` for that; where nobody does, it is an attempt like any other.
//! - What runs without having been proven does so for `confirm_within` at most, from *Applying* on.
//! - How often a wish is tried before it waits for a request, or for a higher version, is the subject's choice. A broker that is
//!   away looks like a change that cuts the link: who tries again by itself gets over the one, and repeats the other.
//! - The probe is a round trip that begins [`SETTLE`] after the change was taken over: what cuts the link seldom does so
//!   in the same millisecond.
//! - *Confirming*: it is proven, but a crash would still end in the state before. It goes on running and is written
//!   again until the disk takes it.
//! - Until a candidate is confirmed, the disk has the confirmed state beside it. Whatever the moment of a crash, the next
//!   start finds and runs that; a candidate that was on trial is then rolled back.
//! - A newer wish replaces a candidate that waits. One that is on trial finishes its trial first: its outcome tells
//!   whether the link bears it, and the newer one follows.
//! - With keys that need a restart, a trial proves the rest. At the next start the whole is tried; death in that ends in
//!   the confirmed state, as always. Its `confirm_within` begins with the first link, within [`START_WITHOUT_LINK`]. Where
//!   it fails, what needs a restart goes with the next start only, and the reason says so.
//!
//! # Files
//!
//! `memory` is what survives a restart, `offers` the table above, `trial` the drawing, `view` what is reported. `model`
//! walks through all that can happen, crashes included.
//!
//! # Contract
//!
//! Steps are carried out in the order in which they come; those that say so are answered by an event. Whoever holds a
//! [`Protocol`] calls [`Protocol::handle`] with [`Event::Tick`] at [`Protocol::wake`].

mod memory;
#[cfg(test)]
mod model;
mod offers;
#[cfg(test)]
mod tests;
mod trial;
mod view;

use std::{collections::BTreeMap, time::Duration};

use self::{
    memory::{Candidate, Refusal, Standing, stamp},
    trial::{Trial, next_attempt},
};
pub use self::{
    memory::{Document, Memory, Slot, Stamp, Wish},
    view::{State, View},
};
use super::link::Source;
use crate::gather::Gather as _;

/// From when a change was taken over until the round trip that proves it begins: interfaces are attached and log lines
/// begin to flow meanwhile. Well below the shortest `confirm_within`, 5 s.
pub const SETTLE: Duration = Duration::from_secs(2);
/// How long what is tried at a start may run before there is a link at all: a modem takes its time to dial in. With the
/// first link begins `confirm_within`.
const START_WITHOUT_LINK: Duration = Duration::from_mins(10);
/// How long a mark waits for a write that is its own: a refused document changes nothing else. One that is lost in a
/// crash does no harm: the document that still stands is read and refused again.
const MARK_WAITS: Duration = Duration::from_secs(10);
/// Between writes that failed.
const WRITE_AGAIN: Duration = Duration::from_secs(5);

/// A moment, on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, from any origin: what is waited for.
    pub up: Duration,
    /// Milliseconds since 1970: what people read.
    pub ts_ms: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<D> {
    /// The source's document was read, and judged by itself: usable, or why not.
    Offered(Source, Stamp, Result<D, String>),
    /// What the source has is no document of which a version could be read.
    Unreadable(Source, String),
    /// The document cannot be judged, or not be kept, for now, or is for somebody else: refused without taking a place in
    /// the sequence.
    Deferred(Source, Stamp, String),
    /// Somebody cleared the source's document.
    Withdrawn(Source),
    /// The broker has no document for the source. It is withdrawn where the broker remembers that there was one;
    /// otherwise the broker has forgotten, and nobody asked for anything.
    Absent {
        /// Whose.
        source: Source,
        /// Whether the broker remembers.
        remembered: bool,
    },
    /// Answers [`Step::Persist`].
    Written {
        /// Its number.
        write: u64,
        /// Whether it is on stable storage now, or why not.
        result: Result<(), String>,
    },
    /// Answers [`Step::Apply`]; [`Applied::Unfit`] may also come later in the same trial, where other layers changed.
    Applied(u64, Applied),
    /// Answers [`Step::Probe`]: the round trip is complete.
    Probed(u64),
    /// Somebody on site says that the wish is right, in place of the round trip: see [`Event::Urged`].
    Vouched(u64),
    /// Whether messages pass between us and the broker.
    Linked(bool),
    /// Somebody on site wants the source's wish tried, link or none, and will vouch for it.
    Urged(Source),
    /// Nothing of the source may be tried, for this reason; or it may be again, what did not fit before included. What is
    /// on trial goes on.
    Held(Source, Option<String>),
    /// A person asks that whatever failed be tried again: of this source, or of all.
    Retry(Option<Source>),
    /// A document that runs does not fit any more, because other layers changed: the source runs without one.
    SetAside(Source, String),
    /// Other layers changed: what did not fit might, now.
    Refit,
    /// Time passed.
    Tick,
}

/// How a change was taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// All of it runs.
    Whole,
    /// All but what needs a restart.
    Partly,
    /// Nothing of it: it does not fit to what is beside it.
    Unfit(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Write [`Protocol::memory`] as it is now; answered by [`Event::Written`], and until then there is no other.
    Persist(u64),
    /// Run [`Protocol::running`]; answered by [`Event::Applied`].
    Apply(u64),
    /// Run [`Protocol::running`], which is what ran before the trial.
    PutBack,
    /// Complete a round trip that begins now; answered by [`Event::Probed`], or never.
    Probe(u64),
    /// Record what became of a source.
    Tell(Source, Outcome),
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It runs, and the broker heard us with it. Without a stamp, the withdrawal does.
    Confirmed(Option<Stamp>),
    /// It ran, and is gone again, after so many attempts.
    RolledBack(Option<Stamp>, String, u32),
    /// It will not be tried.
    Refused(Option<Stamp>, String),
    /// It ran, and cannot any more.
    SetAside(Option<Stamp>, String),
}

/// The state machine of one subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Protocol<D> {
    slots: BTreeMap<Source, Slot<D>>,
    trial: Option<Trial<D>>,
    /// Whose trial was the last: the next turn is another's.
    last: Option<Source>,
    link: Link,
    attempts: u32,
    confirm_within: Duration,
    /// Number of the last trial.
    trials: u64,
    /// Number of the last write.
    writes: u64,
    /// It is under way.
    writing: bool,
    /// Something changed since that write began.
    dirty: bool,
    /// When a mark that waits is written, whatever else happens.
    mark_due: Option<Duration>,
    disk: Disk,
}

/// How it is with the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Link {
    /// There was none since the start.
    Never,
    Up,
    Down,
}

/// How the last write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Disk {
    Fine,
    /// It failed; nothing is tried until one succeeds.
    Failed {
        again: Duration,
    },
    /// The one after a failure is under way.
    TryingAgain,
}

impl<D: Clone> Protocol<D> {
    /// Begins with what was remembered. The steps are to be carried out before anything runs: where they apply
    /// something, it is what had to wait for a start.
    ///
    /// A wish is tried `attempts` times, with back-off, until a person asks for more. Where a change may need a restart that is
    /// at least two: the one at the start is the second.
    #[must_use]
    pub fn start(memory: Memory<D>, attempts: u32, confirm_within: Duration, now: Now) -> (Self, Vec<Step>) {
        let mut protocol = Self {
            slots: memory.0,
            trial: None,
            last: None,
            link: Link::Never,
            attempts,
            confirm_within,
            trials: 0,
            writes: 0,
            writing: false,
            dirty: false,
            mark_due: None,
            disk: Disk::Fine,
        };
        let mut steps = Vec::new();
        for (source, slot) in &mut protocol.slots {
            slot.refusal = slot.mark.as_ref().and_then(|mark| {
                mark.refused.as_ref().map(|reason| Refusal { stamp: Some(mark.stamp), reason: reason.clone() })
            });
            let Some(candidate) = &mut slot.candidate else { continue };
            // A newer wish took the place of what waited for this start.
            protocol.dirty |= slot.partly.take().is_some();
            let failed = match &candidate.standing {
                Standing::Trying => {
                    protocol.dirty = true;
                    slot.since_ms = now.ts_ms;
                    let reason = "interrupted: the daemon ended during the trial".to_owned();
                    let outcome =
                        Outcome::RolledBack(stamp(candidate.wish.as_ref()), reason.clone(), candidate.attempts);
                    steps.push(Step::Tell(source.clone(), outcome));
                    reason
                }
                Standing::RolledBack { reason, .. } => reason.clone(),
                Standing::Waiting { .. } => {
                    candidate.standing = Standing::Waiting { reason: None };
                    continue;
                }
                // The files may have changed meanwhile. It did not run, so no trial of it counts.
                Standing::Unfit { .. } => {
                    *candidate = Candidate::waiting(candidate.wish.take());
                    continue;
                }
            };
            let next = next_attempt(candidate.attempts, attempts, confirm_within, now);
            candidate.standing = Standing::RolledBack { reason: failed, next };
        }
        protocol.try_pending_restart(now, &mut steps);
        protocol.write_what_changed(&mut steps);
        (protocol, steps)
    }

    /// What is to be written.
    #[must_use]
    pub fn memory(&self) -> Memory<D> {
        Memory(self.slots.clone())
    }

    /// The documents that are to run, by source.
    pub fn running(&self) -> impl Iterator<Item = (&Source, &Document<D>)> {
        let tried = self.trial.as_ref().filter(|trial| trial.unproven());
        self.slots.iter().filter_map(move |(source, slot)| {
            let wish = match tried {
                Some(trial) if trial.source == *source => trial.wish.as_ref(),
                _ => slot.settled(),
            };
            wish.map(|document| (source, document))
        })
    }

    /// The documents that are wanted, by source, as far as they can be used.
    pub fn wished(&self) -> impl Iterator<Item = (&Source, &Document<D>)> {
        self.slots.iter().filter_map(|(source, slot)| slot.wished().map(|document| (source, document)))
    }

    /// What is on trial, from its recording on: whose, and what.
    #[must_use]
    pub fn trial(&self) -> Option<(&Source, Option<&Document<D>>)> {
        self.trial.as_ref().map(|trial| (&trial.source, trial.wish.as_ref()))
    }

    /// The number of the trial whose change may run without having been proven, if any.
    #[must_use]
    pub fn unproven(&self) -> Option<u64> {
        self.trial.as_ref().filter(|trial| trial.unproven()).map(|_| self.trials)
    }

    /// What runs of a source where it is not on trial.
    #[must_use]
    pub fn settled(&self, source: &Source) -> Option<&Document<D>> {
        self.slots.get(source)?.settled()
    }

    /// Why a document of the source with this stamp is refused whatever it says, if it is.
    #[must_use]
    pub fn out_of_sequence(&self, source: &Source, stamp: Stamp) -> Option<String> {
        self.slots.get(source)?.out_of_sequence(stamp)
    }

    /// The source's mark: the highest version that was ever read.
    #[must_use]
    pub fn mark(&self, source: &Source) -> Option<Stamp> {
        self.slots.get(source)?.mark.as_ref().map(|mark| mark.stamp)
    }

    /// How long something may run without having been proven; counts from the next trial on.
    pub const fn set_confirm_within(&mut self, confirm_within: Duration) {
        self.confirm_within = confirm_within;
    }

    /// When time itself is an event, if ever.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        let trial = self.trial.as_ref().and_then(Trial::wake);
        let disk = if let Disk::Failed { again } = self.disk { Some(again) } else { None };
        let mark = self.mark_due.filter(|_| self.disk == Disk::Fine);
        let attempts = self.slots.values().filter_map(|slot| self.provable(slot)?.due());
        let attempt = attempts.min().filter(|_| self.may_try());
        [trial, disk, mark, attempt].into_iter().flatten().min()
    }

    /// Takes an event; returns what is to be done.
    #[must_use]
    pub fn handle(&mut self, event: Event<D>, now: Now) -> Vec<Step> {
        let before: BTreeMap<Source, State> =
            self.slots.keys().map(|source| (source.clone(), self.view(source).state)).gather();
        let mut steps = Vec::new();
        // A deadline comes before what came too late for it.
        self.pass_time(now, &mut steps);
        match event {
            Event::Offered(source, stamp, judged) => self.offered(source, stamp, judged, now, &mut steps),
            Event::Unreadable(source, reason) => self.refuse(source, None, reason, &mut steps),
            Event::Deferred(source, stamp, reason) => self.deferred(source, stamp, reason, &mut steps),
            Event::Withdrawn(source) => self.wish(&source, None),
            Event::Absent { source, remembered } => self.absent(&source, remembered),
            Event::Written { write, result } => self.written(write, result, now, &mut steps),
            Event::Applied(trial, applied) if trial == self.trials => self.applied(applied, now, &mut steps),
            Event::Probed(trial) if trial == self.trials => self.probed(),
            Event::Vouched(trial) if trial == self.trials => self.vouched(),
            Event::Linked(linked) => self.linked(linked, now),
            Event::Urged(source) => self.urge(&source),
            Event::Held(source, reason) => self.hold(source, reason),
            Event::Retry(source) => self.retry(source.as_ref()),
            Event::SetAside(source, reason) => self.set_aside(&source, reason, &mut steps),
            Event::Refit => self.refit(),
            // What answers a trial that has ended comes too late.
            Event::Applied(..) | Event::Probed(_) | Event::Vouched(_) | Event::Tick => {}
        }
        self.begin_next(now);
        self.write_what_changed(&mut steps);

        let changed = self.slots.keys().filter(|source| before.get(source) != Some(&self.view(source).state));
        for source in changed.cloned().collect::<Vec<_>>() {
            if let Some(slot) = self.slots.get_mut(&source) {
                slot.since_ms = now.ts_ms;
            }
        }
        steps
    }

    /// Marks what is remembered as changed; returns the number of the write that will have it.
    const fn changed(&mut self) -> u64 {
        self.dirty = true;
        self.writes + 1
    }

    /// One write for all that changed since the last one began. After one that failed, the next waits for its time.
    fn write_what_changed(&mut self, steps: &mut Vec<Step>) {
        if self.dirty && !self.writing && self.disk == Disk::Fine {
            self.write(steps);
        }
    }

    fn write(&mut self, steps: &mut Vec<Step>) {
        self.dirty = false;
        self.mark_due = None;
        self.writing = true;
        self.writes += 1;
        steps.push(Step::Persist(self.writes));
    }
}
