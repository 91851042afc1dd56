//! The policy under the protocol: which bundle is to be enforced, and what is told of it.
//!
//! Without effects: a happening and the time go in, [`Effect`]s come out; [`keeper`](super) carries them out. `force` decides what
//! is in force, `told` says what is told of it.
//!
//! # Operation
//!
//! ```text
//!  message, stick ──► Judge ──► what it says ──► Protocol ──► documents that are to run
//!                                                                  │ the device's, else that of the last group
//!  not_after, ttl, fragments, opened by hand ────────────────────► │ that has one, while its time is not over
//!                                                                  ▼
//!                                         what is in the kernel ◄── wanted: Enforce, one at a time,
//!                                                                   until both are the same
//! ```
//!
//! Whatever changes, what is wanted is computed anew and compared with what the kernel has: a trial, putting back, the end of
//! a rule and a person who opens are one path. What the kernel refused is tried again after [`AGAIN_AFTER`], and until then is
//! nowhere called enforced. A policy that another one hides, or that nobody can see because everything is open, is held:
//! it is not tried, and not called confirmed, until it can be.

mod force;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_values::Digest;
use tracing::{info, warn};

use self::told::event;
use super::{
    Held,
    ages::{Ages, KeptAge, KeptRules},
    judge::{Judged, Origin, Task, Verdict},
    report::Content,
    trust::Trust,
};
use crate::{
    config::{Config, PublicKey},
    control::{
        link::{MAX_POLICY_BYTES, Payload, Source},
        protocol::{Event, Memory, Now, Protocol, Stamp, State, Step},
        report::versions,
        store,
    },
    gather::Gather as _,
    policy::Fragments,
    record::{self, Record},
};

/// A policy that took the broker away, or seemed to, is not tried again unless somebody asks: each trial may cut the plant off
/// for as long as it lasts.
const ATTEMPTS: u32 = 1;
/// Between two attempts to enforce what the kernel refused: a person may have mended the reason.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Between two looks at the wall clock, while something depends on it: it may be set, and may jump.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(10);
/// One `event/policy` about refused messages of a source within this time; the report always has the latest.
const REFUSALS_APART: Duration = Duration::from_secs(10);
/// Longest time for which a person may open.
pub const MAX_OPEN: Duration = Duration::from_hours(24);

/// `policy.json`: in one write, so that keys and the bundle that brought them are confirmed together.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::control) struct Kept {
    sources: Memory<Held>,
    #[serde(default)]
    trust: Trust,
}

/// What the configuration says of policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Settings {
    pub(super) confirm_within: Duration,
    pub(super) fragments_allow: bool,
}

impl Settings {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            confirm_within: config.policy.confirm_within,
            fragments_allow: config.policy.fragments == Fragments::Allow,
        }
    }
}

/// What the kernel is to judge by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Wanted {
    /// Whose bundle.
    pub source: Source,
    /// Which.
    pub stamp: Stamp,
    /// `[policy] fragments`
    pub fragments_allow: bool,
    /// Names of rules that count no more.
    pub expired: Arc<BTreeSet<Box<str>>>,
}

/// What is known of a policy once the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::control) struct Facts {
    pub(super) rules: usize,
    pub(super) prefixes: usize,
    pub(super) table_bytes: usize,
    /// Names and seconds of rules with a `ttl`, expired ones among them.
    pub(super) timed: Vec<(Box<str>, u32)>,
}

/// Why something is not enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) enum Failure {
    /// The bundle cannot be enforced, whatever the kernel does.
    Bundle(String),
    /// The kernel does not take it for now.
    Kernel(String),
}

/// What happened.
#[derive(Debug)]
pub(in crate::control) enum Input {
    /// A message on `policy/desired`.
    Desired(Source, Payload),
    /// All that the broker retains was read.
    ReadInFull { present: BTreeSet<Source>, witness: Option<Bytes> },
    /// Answers [`Effect::Judge`].
    Judged(Judged),
    /// Answers [`Effect::Persist`].
    Written { write: u64, result: Result<(), String> },
    /// Answers [`Effect::Enforce`].
    Enforced(Result<Facts, Failure>),
    /// Answers [`Effect::Probe`].
    Probed(u64),
    /// Whether our own messages come back from the broker.
    Linked(bool),
    /// `cmd/retry`.
    Retry,
    /// The running configuration changed.
    Settings(Settings),
    /// A technician has this envelope, and will vouch for it.
    Apply { envelope: Bytes, offline: bool },
    /// A technician says that what is on trial is right.
    Vouch(Source, u64),
    /// A technician wants everything to pass for a time.
    Open(Duration),
    /// … no longer.
    Close,
    /// [`Agent::wake`] has come.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub(in crate::control) enum Effect {
    /// Find out what an envelope says, and keep it where it can be used; answered by [`Input::Judged`].
    Judge(Box<Task>),
    /// Tell the technician what became of the request; where a bundle stands that was handed over.
    Answer(Result<Option<Placed>, String>),
    /// Put this on stable storage; answered by [`Input::Written`].
    Persist { write: u64, content: Vec<u8> },
    /// Put the age of policy on stable storage, and that of its rules where it changed.
    KeepAges(Vec<u8>, Option<Vec<u8>>),
    /// Keep these envelopes and no others.
    Sweep(BTreeSet<Digest>),
    /// Have the kernel judge by this, or let everything pass; answered by [`Input::Enforced`].
    Enforce(Option<Wanted>),
    /// Complete a round trip with the broker; answered by [`Input::Probed`].
    Probe(u64),
    /// Read again what the broker retains: it may be judged otherwise now.
    Reread,
    /// Publish this as `policy/reported`.
    Report(Bytes),
    /// Put this into the spool.
    Record(Record),
}

/// Where a technician's bundle stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Whose it is: `device`, or `@` and the group.
    pub source: Source,
    /// Its version.
    pub version: u64,
}

/// What the kernel has, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InKernel {
    wanted: Option<Wanted>,
    facts: Facts,
    since_ms: u64,
}

/// What the kernel is being told.
#[derive(Clone, Debug)]
struct UnderWay(Option<Wanted>);

/// By hand.
#[derive(Clone, Copy, Debug)]
struct Opened {
    until: Duration,
    /// The same on the wall clock as it was.
    until_ms: u64,
}

#[derive(Clone, Debug)]
struct Failed {
    wanted: Option<Wanted>,
    reason: String,
    again: Duration,
}

/// The policy's side of control.
#[derive(Debug)]
pub(in crate::control) struct Agent {
    protocol: Protocol<Held>,
    foreign: Memory<Held>,
    /// In the order in which they apply: the last one that has a bundle decides.
    sources: Vec<Source>,
    gateway: String,
    public_keys: Vec<PublicKey>,
    settings: Settings,
    trust: Trust,
    /// Ids of the configured keys, as they were read last.
    configured: BTreeSet<Digest>,
    ages: Ages,
    in_kernel: InKernel,
    under_way: Option<UnderWay>,
    failed: Option<Failed>,
    /// The trial that asked for what is being enforced.
    applying: Option<u64>,
    opened: Option<Opened>,
    /// Sources whose document was refused only because the clock is not set.
    await_clock: bool,
    held: BTreeMap<Source, String>,
    expired: BTreeSet<Source>,
    expired_rules: Arc<BTreeSet<Box<str>>>,
    /// What was said of a source where the protocol says something else, and since when.
    said: BTreeMap<Source, (State, u64)>,
    look_at_clock: Option<Duration>,
    memory: Option<String>,
    told: Content,
    refusals: BTreeMap<Source, Duration>,
}

impl Agent {
    /// Begins with what is kept. What [`Self::standing`] names is to be enforced before anything is attached.
    #[must_use]
    pub(super) fn start(
        kept: Kept,
        ages: (&KeptAge, KeptRules),
        config: &Config,
        configured: BTreeSet<Digest>,
        now: &record::Stamp,
    ) -> (Self, Vec<Effect>) {
        let groups = config.gateway.groups.iter().map(|group| Source::Group(group.as_str().into()));
        let sources: Vec<_> = groups.chain([Source::Device]).collect();
        let (ours, foreign) = kept.sources.part(&sources);
        let settings = Settings::of(config);
        let (protocol, steps) = Protocol::start(ours, ATTEMPTS, settings.confirm_within, moment(now));
        let mut agent = Self {
            protocol,
            foreign,
            sources,
            gateway: config.gateway.id.clone(),
            public_keys: config.policy.public_keys.clone(),
            settings,
            trust: kept.trust,
            configured,
            ages: Ages::new(ages.0, ages.1, now),
            in_kernel: InKernel { wanted: None, facts: Facts::default(), since_ms: now.ts_ms },
            under_way: None,
            failed: None,
            applying: None,
            opened: None,
            await_clock: false,
            held: BTreeMap::new(),
            expired: BTreeSet::new(),
            expired_rules: Arc::default(),
            said: BTreeMap::new(),
            look_at_clock: None,
            memory: None,
            told: Content::default(),
            refusals: BTreeMap::new(),
        };
        let mut effects = Vec::new();
        agent.carry_out(steps, now, &mut effects);
        agent.finish(now, &mut effects);
        (agent, effects)
    }

    /// When time itself is something that happens, in milliseconds since boot.
    #[must_use]
    pub(super) fn wake(&self, now: &record::Stamp) -> Option<Duration> {
        let failed = self.failed.as_ref().filter(|_| self.under_way.is_none()).map(|failed| failed.again);
        let ages = self.ages.wake(up(now));
        [self.protocol.wake(), failed, self.opened.map(|opened| opened.until), self.look_at_clock, ages]
            .into_iter()
            .flatten()
            .min()
    }

    /// The envelope that the kernel judges by.
    #[must_use]
    pub(super) fn enforced(&self) -> Option<Digest> {
        self.in_kernel.wanted.as_ref().map(|wanted| wanted.stamp.digest)
    }

    /// Whether nothing is left to be enforced: what is wanted is in force, as far as is known.
    pub(super) const fn is_settled(&self) -> bool {
        self.under_way.is_none() && self.failed.is_none()
    }

    /// Takes in what happened; returns what is to be done.
    #[must_use]
    pub(super) fn handle(&mut self, input: Input, now: &record::Stamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut report_again = false;
        match input {
            Input::Desired(source, payload) => {
                report_again = true;
                self.desired(source, payload, now, &mut effects);
            }
            Input::ReadInFull { present, witness } => {
                report_again = true;
                self.read_in_full(&present, &witness.unwrap_or_default(), now, &mut effects);
            }
            Input::Judged(judged) => {
                report_again = true;
                self.judged(judged, now, &mut effects);
            }
            Input::Written { write, result } => self.written(write, result, now, &mut effects),
            Input::Enforced(result) => self.enforced_now(result, now, &mut effects),
            Input::Probed(trial) => self.tell(Event::Probed(trial), now, &mut effects),
            Input::Linked(linked) => self.tell(Event::Linked(linked), now, &mut effects),
            Input::Retry => {
                self.failed = None;
                self.tell(Event::Retry(None), now, &mut effects);
            }
            Input::Settings(settings) => self.settings = settings,
            Input::Apply { envelope, offline } => {
                effects.push(Effect::Judge(Box::new(self.task(Origin::Stick { offline }, envelope, now))));
            }
            Input::Vouch(source, version) => self.vouch(&source, version, now, &mut effects),
            Input::Open(time) => self.open(time, now, &mut effects),
            Input::Close => {
                if self.opened.is_some() {
                    self.close("by hand", &mut effects);
                }
                effects.push(Effect::Answer(Ok(None)));
            }
            Input::Tick => self.tell(Event::Tick, now, &mut effects),
        }
        if report_again {
            self.told = Content::default();
        }
        self.finish(now, &mut effects);
        effects
    }

    fn desired(&mut self, source: Source, payload: Payload, now: &record::Stamp, effects: &mut Vec<Effect>) {
        if !self.sources.contains(&source) {
            return;
        }
        match payload {
            Payload::Empty => self.tell(Event::Withdrawn(source), now, effects),
            Payload::TooLarge { bytes } => {
                let reason = format!("too-large: {bytes} bytes, at most {MAX_POLICY_BYTES} are judged");
                self.tell(Event::Unreadable(source, reason), now, effects);
            }
            Payload::Document(envelope) => {
                effects.push(Effect::Judge(Box::new(self.task(Origin::Broker(source), envelope, now))));
            }
        }
    }

    fn task(&self, origin: Origin, envelope: Bytes, now: &record::Stamp) -> Task {
        let wished: BTreeMap<_, _> = self.protocol.wished().gather();
        Task {
            origin,
            envelope,
            gateway: self.gateway.clone(),
            marks: self.sources.iter().filter_map(|of| Some((of.clone(), self.protocol.mark(of)?))).gather(),
            wished: wished.into_iter().map(|(source, document)| (source.clone(), document.clone())).gather(),
            expired: self.sources.iter().map(|of| (of.clone(), self.ages.expired(of, up(now)))).gather(),
            sources: self.sources.clone(),
            public_keys: self.public_keys.clone(),
            trust: self.trust.clone(),
            fragments_allow: self.settings.fragments_allow,
            now: *now,
        }
    }

    fn read_in_full(
        &mut self,
        present: &BTreeSet<Source>,
        witness: &[u8],
        now: &record::Stamp,
        effects: &mut Vec<Effect>,
    ) {
        let known = versions(witness);
        for source in self.sources.clone().into_iter().filter(|source| !present.contains(source)) {
            let wished = self.protocol.wished().find(|(of, _)| **of == source);
            let wished = wished.map(|(_, document)| (document.stamp, document.body.local));
            match wished {
                // It came by hand: the broker may never have had it.
                Some((_, true)) => {}
                wished => {
                    let remembered = wished.is_some_and(|(stamp, _)| known.get(&source) >= Some(&stamp.version));
                    self.tell(Event::Absent { source, remembered }, now, effects);
                }
            }
        }
    }

    fn judged(&mut self, judged: Judged, now: &record::Stamp, effects: &mut Vec<Effect>) {
        let Judged { origin, source, verdict, configured, restored, awaits_clock } = judged;
        self.configured = configured;
        self.await_clock |= awaits_clock;
        let (by_hand, offline) = match origin {
            Origin::Broker(_) => (false, false),
            Origin::Stick { offline } => (true, offline),
        };
        let Some(source) = source else {
            let reason = match verdict {
                Verdict::Unreadable(reason) | Verdict::Unusable(_, reason) | Verdict::NotForNow(_, reason) => reason,
                Verdict::Usable(..) => "it is for nobody here".to_owned(),
            };
            return effects.push(Effect::Answer(Err(reason)));
        };
        if by_hand {
            match verdict {
                Verdict::Usable(stamp, held) => match self.protocol.out_of_sequence(&source, stamp) {
                    None => {
                        let placed = Placed { source: source.clone(), version: stamp.version };
                        self.tell(Event::Offered(source.clone(), stamp, Ok(held)), now, effects);
                        // Where it was rolled back, handing it in again is the request to try again.
                        self.tell(Event::Retry(Some(source.clone())), now, effects);
                        if offline {
                            self.tell(Event::Urged(source), now, effects);
                        }
                        effects.push(Effect::Answer(Ok(Some(placed))));
                    }
                    Some(reason) => effects.push(Effect::Answer(Err(reason))),
                },
                // What a person on site sees at once needs no report.
                Verdict::Unusable(stamp, reason) => {
                    let reason = self.protocol.out_of_sequence(&source, stamp).unwrap_or(reason);
                    effects.push(Effect::Answer(Err(reason)));
                }
                Verdict::NotForNow(_, reason) | Verdict::Unreadable(reason) => {
                    effects.push(Effect::Answer(Err(reason)));
                }
            }
        } else {
            let event = match verdict {
                Verdict::Usable(stamp, held) => Event::Offered(source, stamp, Ok(held)),
                Verdict::Unusable(stamp, reason) => Event::Offered(source, stamp, Err(reason)),
                Verdict::NotForNow(stamp, reason) => Event::Deferred(source, stamp, reason),
                Verdict::Unreadable(reason) => Event::Unreadable(source, reason),
            };
            self.tell(event, now, effects);
        }
        if restored {
            // What could not be read from the disk can, now.
            self.failed = None;
            self.tell(Event::Refit, now, effects);
        }
    }

    fn written(&mut self, write: u64, result: Result<(), String>, now: &record::Stamp, effects: &mut Vec<Effect>) {
        let written = result.is_ok();
        self.memory = result.as_ref().err().map(|reason| format!("the policy cannot be remembered: {reason}"));
        self.tell(Event::Written { write, result }, now, effects);
        // Only what is on disk may decide what is removed from it.
        if written && !effects.iter().any(|effect| matches!(effect, Effect::Persist { .. })) {
            effects.push(Effect::Sweep(self.referred()));
        }
    }

    /// Envelopes that something refers to: the memory, what is tried, and what the kernel has.
    fn referred(&self) -> BTreeSet<Digest> {
        let memory = self.kept().sources;
        let kept = memory.documents().map(|document| document.stamp);
        let running = self.protocol.running().map(|(_, document)| document.stamp);
        let tried = self.protocol.trial().and_then(|(_, wish)| wish).map(|document| document.stamp);
        let in_kernel = self
            .in_kernel
            .wanted
            .iter()
            .chain(self.under_way.iter().filter_map(|UnderWay(wanted)| wanted.as_ref()))
            .map(|wanted| wanted.stamp);
        kept.chain(running).chain(tried).chain(in_kernel).map(|stamp| stamp.digest).gather()
    }

    fn vouch(&mut self, source: &Source, version: u64, now: &record::Stamp, effects: &mut Vec<Effect>) {
        let tried = self.protocol.trial().map(|(of, wish)| (of, wish.map(|wish| wish.stamp.version)));
        let answer = match self.protocol.unproven() {
            Some(trial) if tried == Some((source, Some(version))) && self.applying.is_none() => {
                self.tell(Event::Vouched(trial), now, effects);
                Ok(None)
            }
            _ => Err(format!("version {version} for {source} is not on trial")),
        };
        effects.push(Effect::Answer(answer));
    }

    fn open(&mut self, time: Duration, now: &record::Stamp, effects: &mut Vec<Effect>) {
        let time = time.min(MAX_OPEN);
        let seconds = time.as_secs();
        let until_ms = now.ts_ms + 1000 * seconds;
        self.opened = Some(Opened { until: up(now) + time, until_ms });
        warn!(seconds, "opened by hand: no policy is enforced until then");
        effects.push(event(&json!({ "what": "opened", "for_s": seconds, "until_ms": until_ms })));
        effects.push(Effect::Answer(Ok(None)));
    }

    fn close(&mut self, why: &str, effects: &mut Vec<Effect>) {
        self.opened = None;
        info!(why, "closed again: the policy is enforced");
        effects.push(event(&json!({ "what": "closed", "reason": why })));
    }

    fn tell(&mut self, event: Event<Held>, now: &record::Stamp, effects: &mut Vec<Effect>) {
        let steps = self.protocol.handle(event, moment(now));
        self.carry_out(steps, now, effects);
    }

    fn carry_out(&mut self, steps: Vec<Step>, now: &record::Stamp, effects: &mut Vec<Effect>) {
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            match step {
                Step::Persist(write) => {
                    self.take_keys(effects);
                    effects.push(Effect::Persist { write, content: store::encode(&self.kept()) });
                }
                // What is wanted follows from the protocol's state: see `reconcile`.
                Step::Apply(trial) => self.applying = Some(trial),
                Step::PutBack => self.applying = None,
                Step::Probe(trial) => effects.push(Effect::Probe(trial)),
                Step::Tell(source, outcome) => self.record(&source, &outcome, now, effects),
            }
        }
    }

    /// Takes over what confirmed bundles change in whose signatures count.
    fn take_keys(&mut self, effects: &mut Vec<Effect>) {
        let mut changed = false;
        for source in &self.sources {
            if let Some(document) = self.protocol.settled(source) {
                changed |= self.trust.take(source, document, &self.configured);
            }
        }
        if changed {
            let keys: Vec<_> = self.trust.ids(&self.configured).iter().map(ToString::to_string).collect();
            info!(?keys, "other keys are trusted");
            effects.push(event(&json!({ "what": "keys", "trusted": keys })));
            effects.push(Effect::Reread);
        }
    }

    fn kept(&self) -> Kept {
        let mut sources = self.foreign.clone();
        sources.0.extend(self.protocol.memory().0);
        Kept { sources, trust: self.trust.clone() }
    }

    /// After whatever happened.
    fn finish(&mut self, now: &record::Stamp, effects: &mut Vec<Effect>) {
        if self.opened.is_some_and(|opened| opened.until <= up(now)) {
            self.close("its time is over", effects);
        }
        if self.await_clock && now.synced {
            self.await_clock = false;
            effects.push(Effect::Reread);
        }
        if self.protocol.trial().is_none() {
            self.protocol.set_confirm_within(self.settings.confirm_within);
        }
        self.expire(now, effects);
        // Holding and releasing may begin a trial, and what is enforced may end one: few turns, for each ends something.
        for _ in 0..=2 * self.sources.len() {
            self.hold(now, effects);
            if !self.reconcile(now, effects) {
                break;
            }
        }
        self.write_ages(false, now, effects);
        let clock_matters = self.await_clock || self.protocol.running().any(|(_, it)| it.body.not_after_ms.is_some());
        self.look_at_clock = clock_matters.then(|| up(now) + LOOK_AT_CLOCK);
        self.tell_all(now, effects);
    }
}

const fn up(now: &record::Stamp) -> Duration {
    Duration::from_millis(now.up_ms)
}

const fn moment(now: &record::Stamp) -> Now {
    Now { up: up(now), ts_ms: now.ts_ms }
}

#[cfg(test)]
mod tests;
