//! Walks through everything that can happen to a [`Protocol`], and checks after each step what it promises.
//!
//! The world around it is small: two sources, three versions, two digests, one document that cannot be used and one that
//! needs a restart. In it every run is walked that has so many messages and so many faults at any moments. A fault is
//! that the process dies (before a step, or after a write and before its answer), a write fails, the link goes, a round
//! trip does not come back in time, what is applied does not fit, other layers change, a document cannot be judged for now,
//! a source is held or released, a person asks for a retry, urges a wish or vouches for it. States
//! that were seen are not walked again. All of that for a subject that is tried several times, and for one that is tried once. From each, with a link, a disk and time, the world must come to rest with what is
//! reported being what is desired.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use tidegate_values::Digest;

use super::{memory::Mark, *};

const CONFIRM_WITHIN: Duration = Duration::from_secs(5);

/// A document's body: whether it needs a restart.
type Body = bool;
type Place = (Source, Option<Stamp>);

const A: Digest = Digest([0xa; 32]);
const B: Digest = Digest([0xb; 32]);

fn group() -> Source {
    Source::Group("g".into())
}

/// What can be published for a source. Version 2 with digest B cannot be used; version 3 needs a restart.
fn documents(source: &Source) -> Vec<(Stamp, Result<Body, String>)> {
    let document = |version, digest| {
        let unusable = version == 2 && digest == B;
        (Stamp { version, digest }, if unusable { Err("unusable".to_owned()) } else { Ok(version == 3) })
    };
    match source {
        // One sequence is walked in all its forms, the other one only so that there are two.
        Source::Device => {
            [1, 2, 3].into_iter().flat_map(|version| [document(version, A), document(version, B)]).collect()
        }
        Source::Group(_) => vec![document(1, A), document(2, A)],
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    protocol: Protocol<Body>,
    disk: Memory<Body>,
    /// Steps that were not carried out yet.
    steps: VecDeque<Step>,
    /// What the writes among them are to write.
    writes: VecDeque<Memory<Body>>,
    probe: Option<u64>,
    linked: bool,
    now: Duration,
    messages: u8,
    faults: u8,
    /// What the broker retains.
    retained: BTreeMap<Source, Stamp>,
    /// What runs, and what of it the process began with.
    runs: BTreeMap<Source, Document<Body>>,
    began_with: BTreeSet<Source>,
    /// Since when something runs that no round trip has proven.
    unproven_since: Option<Duration>,
    /// What a round trip has proven, whole.
    proven: BTreeSet<Place>,
    /// How often each source's latest wish was applied.
    applied: BTreeMap<Source, (Option<Stamp>, u32)>,
}

#[derive(Clone, Debug)]
enum Action {
    Publish(Source, Stamp, Result<Body, String>),
    Clear(Source),
    /// The next step is carried out.
    Do,
    RoundTrip,
    Wait,
    // Faults.
    FailToWrite,
    DoesNotFit,
    Die,
    /// The next process has no link at first.
    DieOffline,
    WriteAndDie,
    Link(bool),
    Retry(Option<Source>),
    SetAside(Source),
    Refit,
    /// The document on the broker cannot be judged for now.
    Defer(Source),
    Hold(Source),
    Release(Source),
    Urge(Source),
    Vouch,
}

impl World {
    fn new(attempts: u32, messages: u8, faults: u8) -> Self {
        let (protocol, steps) = Protocol::start(Memory::default(), attempts, CONFIRM_WITHIN, Now::default());
        Self {
            protocol,
            disk: Memory::default(),
            steps: steps.into(),
            writes: VecDeque::new(),
            probe: None,
            linked: true,
            now: Duration::ZERO,
            messages,
            faults,
            retained: BTreeMap::new(),
            runs: BTreeMap::new(),
            began_with: BTreeSet::new(),
            unproven_since: None,
            proven: [(Source::Device, None), (group(), None)].into(),
            applied: BTreeMap::new(),
        }
        .told(Event::Linked(true))
    }

    fn told(mut self, event: Event<Body>) -> Self {
        let now = Now { up: self.now, ts_ms: 0 };
        for step in self.protocol.handle(event, now) {
            match step {
                // Nothing depends on when these two are carried out.
                Step::Tell(..) => {}
                Step::Probe(trial) => self.probe = Some(trial),
                step => self.do_later(step),
            }
        }
        self
    }

    fn do_later(&mut self, step: Step) {
        if let Step::Persist(_) = step {
            assert!(self.writes.is_empty(), "two writes are under way");
            self.writes.push_back(self.protocol.memory().kept());
        }
        self.steps.push_back(step);
    }

    /// Everything that can happen next.
    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut fault = |action| {
            if self.faults > 0 {
                actions.push(action);
            }
        };
        fault(Action::Die);
        if self.disk.0.values().any(|slot| slot.partly.is_some()) {
            fault(Action::DieOffline);
        }
        match self.steps.front() {
            Some(Step::Persist(_)) => {
                fault(Action::FailToWrite);
                fault(Action::WriteAndDie);
            }
            Some(Step::Apply(_)) => fault(Action::DoesNotFit),
            _ => {}
        }
        fault(Action::Link(!self.linked));
        fault(Action::Retry(None));
        fault(Action::Refit);
        for (source, slot) in &self.protocol.slots {
            if self.retained.contains_key(source) {
                fault(Action::Defer(source.clone()));
            }
            if slot.candidate.is_some() {
                fault(Action::Urge(source.clone()));
                fault(Action::Retry(Some(source.clone())));
            }
            fault(if slot.held.is_some() { Action::Release(source.clone()) } else { Action::Hold(source.clone()) });
        }
        if self.unproven_since.is_some() {
            fault(Action::Vouch);
        }
        for source in self.runs.keys() {
            fault(Action::SetAside(source.clone()));
        }
        let too_late = self.probe.is_some() && self.unproven_since.is_some();
        match self.steps.front() {
            None if too_late => fault(Action::Wait),
            Some(_) => actions.push(Action::Do),
            // Steps take no time.
            None if self.protocol.wake().is_some() => actions.push(Action::Wait),
            None => {}
        }
        if self.probe.is_some() && self.linked {
            actions.push(Action::RoundTrip);
        }
        if self.messages > 0 && self.linked {
            for source in [Source::Device, group()] {
                actions.extend(
                    documents(&source).into_iter().map(|(stamp, body)| Action::Publish(source.clone(), stamp, body)),
                );
                actions.push(Action::Clear(source));
            }
        }
        actions
    }

    fn after(&self, action: &Action) -> Self {
        let mut next = self.clone();
        match action {
            Action::Publish(..) | Action::Clear(_) => next.messages -= 1,
            Action::Wait if next.probe.is_some() && next.unproven_since.is_some() => {
                next.faults = next.faults.saturating_sub(1);
            }
            Action::Do | Action::RoundTrip | Action::Wait => {}
            _ => next.faults -= 1,
        }
        match action {
            Action::Publish(source, stamp, judged) => {
                next.retained.insert(source.clone(), *stamp);
                let next = next.told(Event::Offered(source.clone(), *stamp, judged.clone()));
                self.check_refusal(&next, source, *stamp, judged);
                next
            }
            Action::Clear(source) => {
                next.retained.remove(source);
                next.told(Event::Withdrawn(source.clone()))
            }
            Action::Do => next.carry_out(None),
            Action::DoesNotFit => next.carry_out(Some("does not fit")),
            Action::FailToWrite => {
                let Some(Step::Persist(write)) = next.steps.pop_front() else { unreachable!("a write is next") };
                next.writes.pop_front();
                next.told(Event::Written { write, result: Err("no space".to_owned()) })
            }
            Action::WriteAndDie => {
                next.disk = next.writes.pop_front().expect("a write is next");
                next.reborn()
            }
            Action::Die => next.reborn(),
            Action::DieOffline => next.reborn_offline(),
            Action::RoundTrip => {
                let trial = next.probe.take().expect("a probe is under way");
                if trial == next.protocol.trials {
                    next.prove();
                }
                next.told(Event::Probed(trial))
            }
            Action::Vouch => {
                if next.protocol.trial.as_ref().is_some_and(|trial| trial.urged) {
                    next.prove();
                }
                let trial = next.protocol.trials;
                next.told(Event::Vouched(trial))
            }
            Action::Defer(source) => {
                let stamp = next.retained[source];
                next.told(Event::Deferred(source.clone(), stamp, "not for now".to_owned()))
            }
            Action::Hold(source) => next.told(Event::Held(source.clone(), Some("held".to_owned()))),
            Action::Release(source) => next.told(Event::Held(source.clone(), None)),
            Action::Urge(source) => next.told(Event::Urged(source.clone())),
            Action::Wait => {
                next.now = next.protocol.wake().expect("something is waited for").max(next.now);
                next.told(Event::Tick)
            }
            Action::Link(linked) => next.link(*linked),
            Action::Retry(source) => {
                next.applied.retain(|of, _| source.as_ref().is_some_and(|source| source != of));
                next.told(Event::Retry(source.clone()))
            }
            Action::SetAside(source) => {
                next.runs.remove(source);
                // What was proven, and fits again, is tried anew.
                let settled = stamp(next.protocol.settled(source));
                next.applied.retain(|of, (wish, _)| of != source || *wish != settled);
                let mut next = next.told(Event::SetAside(source.clone(), "set aside".to_owned()));
                // Whoever says so runs the others at once.
                next.run();
                next
            }
            Action::Refit => next.told(Event::Refit),
        }
    }

    /// What runs is proven.
    fn prove(&mut self) {
        if self.unproven_since.take().is_some() {
            let source = self.protocol.last.clone().expect("somebody was tried");
            let runs = self.runs.get(&source).map(|document| document.stamp);
            if self.whole(&source) {
                self.proven.insert((source, runs));
            }
        }
    }

    /// Whether nothing of the source waits for a restart.
    fn whole(&self, source: &Source) -> bool {
        let needs_restart = self.runs.get(source).is_some_and(|document| document.body);
        needs_restart == self.began_with.contains(source)
    }

    fn begin_with_what_runs(&mut self) {
        let running = self.protocol.running();
        self.began_with = running.filter(|(_, document)| document.body).map(|(source, _)| source.clone()).collect();
    }

    fn run(&mut self) {
        self.runs = self.protocol.running().map(|(source, document)| (source.clone(), document.clone())).collect();
    }

    fn carry_out(mut self, unfit: Option<&str>) -> Self {
        match self.steps.pop_front().expect("there is a step") {
            Step::Persist(write) => {
                let written = self.writes.pop_front().expect("each write has its content");
                for (source, slot) in &self.disk.0 {
                    let mark = |slot: &Slot<Body>| slot.mark.as_ref().map(|mark| mark.stamp.version);
                    assert!(mark(&written.0[source]) >= mark(slot), "the mark on disk fell");
                }
                for (source, slot) in &written.0 {
                    let confirmed = (source.clone(), stamp(slot.confirmed.as_ref()));
                    assert!(
                        self.proven.contains(&confirmed) || slot.confirmed.is_none(),
                        "{confirmed:?} is called confirmed, but was never proven"
                    );
                }
                self.disk = written;
                self.told(Event::Written { write, result: Ok(()) })
            }
            Step::Apply(trial) => {
                if let Some(reason) = unfit {
                    return self.told(Event::Applied(trial, Applied::Unfit(reason.to_owned())));
                }
                self.run();
                self.check_attempt_is_on_disk();
                self.unproven_since = Some(self.now);
                let source = self.protocol.last.clone().expect("somebody is tried");
                let applied = if self.whole(&source) { Applied::Whole } else { Applied::Partly };
                self.count_application();
                self.told(Event::Applied(trial, applied))
            }
            Step::PutBack => {
                self.run();
                self.unproven_since = None;
                self
            }
            Step::Probe(_) | Step::Tell(..) => unreachable!("not kept"),
        }
    }

    /// Whatever the document does to the process, this attempt counts.
    fn check_attempt_is_on_disk(&self) {
        let source = self.protocol.last.as_ref().expect("somebody is tried");
        let candidate = self.protocol.slots[source].candidate.as_ref();
        if let Some(candidate) = candidate.filter(|candidate| candidate.standing == Standing::Trying) {
            let written = self.disk.0.get(source).and_then(|slot| slot.candidate.as_ref());
            let count = |candidate: &Candidate<Body>| (candidate.wish.clone(), candidate.attempts);
            assert_eq!(written.map(count), Some(count(candidate)), "the attempt is not on disk");
        }
    }

    fn count_application(&mut self) {
        let Some(trial) = &self.protocol.trial else { return };
        let wish = stamp(trial.wish.as_ref());
        let count = self.applied.entry(trial.source.clone()).or_insert((wish, 0));
        if count.0 != wish {
            *count = (wish, 0);
        }
        count.1 += 1;
    }

    /// The process died; the next one begins with the disk, and carries out what comes before all else.
    fn reborn(self) -> Self {
        self.reborn_offline().link(true).read_in_full()
    }

    /// The time for a proof begins with the first link of a process.
    fn link(mut self, linked: bool) -> Self {
        if linked && self.protocol.link == Link::Never && self.unproven_since.is_some() {
            self.unproven_since = Some(self.now);
        }
        self.linked = linked;
        self.told(Event::Linked(linked))
    }

    fn reborn_offline(mut self) -> Self {
        let now = Now { up: self.now, ts_ms: 0 };
        let (protocol, steps) = Protocol::start(self.disk.clone(), self.protocol.attempts, CONFIRM_WITHIN, now);
        self.protocol = protocol;
        self.run();
        for (source, slot) in &self.disk.0 {
            let runs = self.runs.get(source).map(|document| document.stamp);
            assert_eq!(
                runs,
                stamp(slot.confirmed.as_ref()),
                "the next process runs something else than what is confirmed"
            );
        }
        self.unproven_since = None;
        self.probe = None;
        self.steps.clear();
        self.writes.clear();
        for step in steps.into_iter().filter(|step| !matches!(step, Step::Tell(..))) {
            self.do_later(step);
        }
        self.begin_with_what_runs();
        // Whatever is applied before anything runs is what the process begins with.
        while !self.steps.is_empty() {
            if let Some(Step::Apply(_)) = self.steps.front() {
                self.begin_with_what_runs();
            }
            self = self.carry_out(None);
        }
        self.linked = false;
        self
    }

    /// What the broker retains is read again.
    fn read_in_full(mut self) -> Self {
        for source in [Source::Device, group()] {
            self = match self.retained.get(&source).copied() {
                Some(stamp) => {
                    let judged = documents(&source).into_iter().find(|(known, _)| *known == stamp);
                    self.told(Event::Offered(source, stamp, judged.expect("it was published").1))
                }
                None => self.told(Event::Absent { source, remembered: true }),
            };
        }
        self
    }

    /// What is stale or in conflict changes nothing but what is said of the source.
    fn check_refusal(&self, next: &Self, source: &Source, stamp: Stamp, judged: &Result<Body, String>) {
        let before = self.protocol.slots.get(source);
        let refused = match before.and_then(|slot| slot.mark.as_ref()) {
            Some(Mark { stamp: mark, .. }) => {
                stamp.version < mark.version || (stamp.version == mark.version && stamp.digest != mark.digest)
            }
            None => false,
        };
        let after = &next.protocol.slots[source];
        if refused {
            let mut unchanged = before.expect("it has a mark").clone();
            unchanged.refusal.clone_from(&after.refusal);
            unchanged.forgotten = after.forgotten;
            assert_eq!(*after, unchanged, "a refused document changed something");
            assert_eq!(next.protocol.trial, self.protocol.trial);
        }
        let state = next.protocol.view(source).state;
        if refused || judged.is_err() {
            assert_eq!(state, State::Refused);
        }
    }

    /// What holds in every state.
    fn check(&self) {
        for (source, slot) in &self.protocol.slots {
            let mark = |slot: &Slot<Body>| slot.mark.as_ref().map(|mark| mark.stamp.version);
            assert!(mark(slot) >= self.disk.0.get(source).and_then(mark), "the mark fell");
            for attempts in slot.candidate.iter().chain(&slot.partly).map(|candidate| candidate.attempts) {
                assert!(attempts <= self.protocol.attempts, "{attempts} attempts");
            }
        }
        for (wish, count) in self.applied.values() {
            assert!(*count <= self.protocol.attempts, "{wish:?} was applied {count} times");
        }
        if self.steps.is_empty() {
            if let Some(since) = self.unproven_since {
                let within = if self.protocol.link == Link::Never { START_WITHOUT_LINK } else { CONFIRM_WITHIN };
                assert!(self.now < since + within, "something runs unproven since {since:?}, it is {:?}", self.now);
            }
            let wanted = self.protocol.running().map(|(source, document)| (source.clone(), document.clone()));
            assert_eq!(self.runs, wanted.collect(), "something else runs than is said");
        }
    }

    /// With a link, a disk and time, everything ends as it is wanted, or says why not.
    fn check_rest(&self) {
        let mut world = self.clone().link(true).read_in_full();
        for source in [Source::Device, group()] {
            world = world.told(Event::Held(source, None));
        }
        for _ in 0..1000 {
            world.check();
            let next = if world.steps.front().is_some() {
                Action::Do
            } else if world.probe.is_some() {
                Action::RoundTrip
            } else if world.protocol.wake().is_some() {
                Action::Wait
            } else {
                break;
            };
            world = world.after(&next);
        }
        assert!(world.protocol.wake().is_none() && world.steps.is_empty(), "it never rests: {world:#?}");
        assert_eq!(world.disk, world.protocol.memory().kept(), "something was not written");
        for source in [Source::Device, group()] {
            let view = world.protocol.view(&source);
            let reported = view.version.zip(view.digest).map(|(version, digest)| Stamp { version, digest });
            assert_eq!(reported, world.retained.get(&source).copied(), "reported is not desired: {view:?}");
            let runs = world.runs.get(&source).map(|document| document.stamp);
            match view.state {
                State::Confirmed => assert_eq!(
                    (runs, world.disk.0.get(&source).and_then(|slot| stamp(slot.confirmed.as_ref()))),
                    (reported, reported)
                ),
                State::PendingRestart => assert_eq!(runs, reported),
                // Tried as often as anything is, refused by a rule, or not fit for what is beside it.
                State::RolledBack => {
                    assert_eq!((view.attempts, view.next_attempt), (Some(world.protocol.attempts), None));
                }
                State::Refused => {
                    let slot = &world.protocol.slots[&source];
                    let marked = slot.mark.as_ref().map(|mark| mark.stamp);
                    let unfit = slot
                        .candidate
                        .as_ref()
                        .is_some_and(|candidate| matches!(candidate.standing, Standing::Unfit { .. }));
                    let unusable = reported.is_some_and(|stamp| (stamp.version, stamp.digest) == (2, B));
                    assert!(unfit || unusable || reported != marked, "there is no reason to refuse: {view:?}");
                }
                State::Pending | State::Applied | State::Expired => panic!("{view:?} is no place to rest"),
            }
        }
    }

    /// The same for all worlds that differ only in when they are and how much was counted before.
    fn essence(&self) -> u64 {
        let mut essence = self.clone();
        essence.protocol.rebase(self.now);
        let (trials, writes) = (self.protocol.trials, self.protocol.writes);
        essence.probe = self.probe.filter(|probe| *probe == trials);
        for step in &mut essence.steps {
            match step {
                Step::Persist(write) => *write = writes - *write,
                Step::Apply(trial) | Step::Probe(trial) => *trial = trials - *trial,
                Step::PutBack | Step::Tell(..) => {}
            }
        }
        essence.unproven_since = self.unproven_since.map(|since| self.now.saturating_sub(since));
        essence.now = Duration::ZERO;
        let mut hasher = DefaultHasher::new();
        essence.hash(&mut hasher);
        hasher.finish()
    }
}

impl Memory<Body> {
    /// As it is read again: without what is not written.
    fn kept(mut self) -> Self {
        for slot in self.0.values_mut() {
            slot.refusal = None;
            slot.held = None;
            if let Some(candidate) = &mut slot.candidate {
                candidate.urged = false;
            }
            if let Some(Candidate { standing: Standing::RolledBack { next, .. }, .. }) = &mut slot.candidate {
                *next = None;
            }
        }
        self
    }
}

impl Protocol<Body> {
    /// Times as they are from `now` on, and numbers as they are before the last one.
    fn rebase(&mut self, now: Duration) {
        let shift = |at: &mut Duration| *at = at.saturating_sub(now);
        for candidate in self.slots.values_mut().filter_map(|slot| slot.candidate.as_mut()) {
            if let Standing::RolledBack { next: Some(next), .. } = &mut candidate.standing {
                shift(next);
            }
        }
        if let Disk::Failed { again } = &mut self.disk {
            shift(again);
        }
        if let Some(due) = &mut self.mark_due {
            shift(due);
        }
        if let Some(trial) = &mut self.trial {
            trial.rebase(self.writes, shift);
        }
        (self.trials, self.writes) = (0, 0);
    }
}

/// How a state was reached: printed where a promise was broken.
#[derive(Default)]
struct Trail(Vec<(usize, Option<Action>)>, usize);

impl Drop for Trail {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut actions = Vec::new();
            let mut at = self.1;
            while let Some((from, Some(action))) = self.0.get(at) {
                actions.push(action);
                at = *from;
            }
            actions.reverse();
            eprintln!("after {actions:#?}");
        }
    }
}

/// Walks every run; returns the number of states.
fn walk(attempts: u32, messages: u8, faults: u8) -> usize {
    let mut seen = HashSet::new();
    let mut trail = Trail(vec![(0, None)], 0);
    // The shortest runs first, so that a broken promise is shown by one of them.
    let mut open = VecDeque::from([(World::new(attempts, messages, faults), 0)]);
    while let Some((world, from)) = open.pop_front() {
        for action in world.actions() {
            trail.1 = trail.0.len();
            trail.0.push((from, Some(action.clone())));
            let next = world.after(&action);
            next.check();
            if seen.insert(next.essence()) {
                // Those with steps to carry out come here, too.
                if next.steps.is_empty() {
                    next.check_rest();
                }
                open.push_back((next, trail.1));
            } else {
                trail.0.pop();
            }
        }
    }
    seen.len()
}

#[test]
fn every_promise_holds_at_every_step_of_every_run() {
    // The bigger worlds take a minute on a small machine.
    let worlds: &[_] = if std::env::var_os("TIDEGATE_LONG").is_some() { &[(2, 2)] } else { &[(2, 1), (1, 2)] };
    for attempts in [4, 1] {
        for (messages, faults) in worlds {
            let states = walk(attempts, *messages, *faults);
            println!("{attempts} attempts, {messages} messages and {faults} faults: {states} states");
            assert!(states > 1_000, "{states} states prove little");
        }
    }
}
