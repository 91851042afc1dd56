//! Policy: what its rules decided, and whom they dropped.
//!
//! - `telemetry/policy`, each `[traffic] export_interval`: the counters of the rules that decided anything since they were
//!   told last.
//! - `event/policy`: `drop` when a rule drops its first packet, at once, with that packet; `drops` a minute later and each
//!   minute from then on in which it dropped more: how many, and whom.
//!
//! The programs tell of a packet a second and rule, and of 100 a second and CPU in all. *Whom* comes from those, *how
//! many* from the counters, which miss nothing. Whatever is told is bounded: a sweep over 65,536 rules costs as much as
//! one over 64.
//!
//! Rules are known by their names here, whatever policy they stand in.

mod events;
mod report;
mod status;

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time::{Interval, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use self::{events::Events, report::Report};
pub use self::{
    report::Entry,
    status::{InForceStatus, PolicyStatus, RuleStatus},
};
use super::{Sink, outbox::Outbox};
use crate::{
    config::Config,
    kernel::{DroppedPacket, InForce, Kernel, KernelError, RuleCounts, Rules},
    supervisor::Pulse,
};

/// How often counters are read for the status: what a person who watches it takes for live.
const REFRESH: Duration = Duration::from_secs(2);
/// Between two summaries of whom a rule dropped.
const SUMMARY: Duration = Duration::from_mins(1);
/// How long what is told may wait for the spool; stopping has 5 s in all.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tells of the policy until shut down; then once more.
pub async fn run(
    kernel: Kernel,
    mut drops: mpsc::Receiver<DroppedPacket>,
    mut config: watch::Receiver<Arc<Config>>,
    sink: Sink,
    status: watch::Sender<PolicyStatus>,
    mut pulse: Pulse,
    shutdown: CancellationToken,
) {
    let mut every = config.borrow_and_update().traffic.export_interval;
    let mut source = Source::new(kernel, sink, status);
    let (mut refresh, mut summary, mut export) = (timer(REFRESH), timer(SUMMARY), timer(every));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = pulse.asked() => {}
            Ok(()) = config.changed() => {
                let now = config.borrow_and_update().traffic.export_interval;
                if now != every {
                    every = now;
                    export = timer(every);
                }
            }
            Some(dropped) = drops.recv() => pulse.during(source.note(dropped)).await,
            _ = refresh.tick() => drop(pulse.during(source.refresh()).await),
            _ = summary.tick() => pulse.during(source.summarize()).await,
            _ = export.tick() => pulse.during(source.export()).await,
        }
    }
    // What was told meanwhile is still of interest.
    while let Ok(dropped) = drops.try_recv() {
        source.note(dropped).await;
    }
    source.summarize().await;
    source.export().await;
}

fn timer(every: Duration) -> Interval {
    let mut timer = interval_at(tokio::time::Instant::now() + every, every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// A rule, by its name, in eight bytes: there may be 65,536 of them. The default has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RuleKey(u64);

/// Makes keys. Seeded at random, so that nobody can choose names that meet in one.
#[derive(Debug, Default)]
struct Keys(RandomState);

impl Keys {
    fn of(&self, name: Option<&str>) -> RuleKey {
        RuleKey(self.0.hash_one(name))
    }
}

/// What was told of a rule's counters.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// In telemetry.
    exported: RuleCounts,
    /// In events.
    summarized: RuleCounts,
}

/// The counters of all rules at one time.
#[derive(Debug)]
struct Reading {
    in_force: InForce,
    /// Rules that ever decided anything, by number.
    counts: Vec<(u32, RuleCounts)>,
    departed: RuleCounts,
    drops_missed: u64,
}

struct Source {
    kernel: Kernel,
    sink: Sink,
    status: watch::Sender<PolicyStatus>,
    keys: Keys,
    /// The policy that [`Self::told`] is about.
    rules: Option<Arc<Rules>>,
    told: HashMap<RuleKey, Told>,
    events: Events,
    exported: Instant,
    summarized: Instant,
    /// Rule from which the next export goes on, where the one before was full.
    export_from: u32,
}

impl Source {
    fn new(kernel: Kernel, sink: Sink, status: watch::Sender<PolicyStatus>) -> Self {
        Self {
            kernel,
            sink,
            status,
            keys: Keys::default(),
            rules: None,
            told: HashMap::new(),
            events: Events::default(),
            exported: Instant::now(),
            summarized: Instant::now(),
            export_from: 0,
        }
    }

    /// Tells of a dropped packet, where it is its rule's first.
    async fn note(&mut self, dropped: DroppedPacket) {
        self.turn_to(&dropped.rules);
        let key = self.keys.of(dropped.rules.name(dropped.rule));
        if let Some(record) = self.events.note(key, &dropped) {
            let mut outbox = Outbox::new(&self.sink, PATIENCE);
            outbox.push(record).await;
            let lost = outbox.finish().await;
            self.status.send_modify(|status| status.dropped_records += lost);
        }
    }

    /// Forgets rules that are no more.
    fn turn_to(&mut self, rules: &Arc<Rules>) {
        if self.rules.as_ref().is_some_and(|known| Arc::ptr_eq(known, rules)) {
            return;
        }
        let Self { keys, told, events, .. } = self;
        if !told.is_empty() || !events.is_empty() {
            let mut present: std::collections::HashSet<_> =
                rules.names().map(|(_, name)| keys.of(Some(name))).collect();
            present.insert(keys.of(None));
            told.retain(|key, _| present.contains(key));
            events.retain(|key| present.contains(key));
        }
        self.rules = Some(Arc::clone(rules));
    }

    /// `None` where no policy is in force, or it cannot be read.
    async fn read(&mut self) -> Option<Reading> {
        let mut reading: Option<Reading> = None;
        let mut from = 0;
        loop {
            let part = match self.kernel.policy_counts(from).await {
                Ok(part) => part,
                // Without programs: the status of traffic says so.
                Err(KernelError::Unavailable(_) | KernelError::Stopped) => return None,
                Err(error) => {
                    tracing::error!(%error, "cannot read the policy's counters");
                    return None;
                }
            };
            let in_force = part.in_force?;
            match &mut reading {
                Some(reading) if Arc::ptr_eq(&reading.in_force.rules, &in_force.rules) => {
                    reading.counts.extend(part.counts);
                }
                // The first part, or another policy since: its rules have other numbers.
                Some(_) if from > 0 => {
                    (reading, from) = (None, 0);
                    continue;
                }
                _ => {
                    let (counts, departed, drops_missed) = (part.counts, part.departed, part.drops_missed);
                    reading = Some(Reading { in_force, counts, departed, drops_missed });
                }
            }
            match part.next {
                Some(next) => from = next,
                None => return reading,
            }
        }
    }

    async fn refresh(&mut self) -> Option<Reading> {
        let reading = self.read().await;
        if let Some(reading) = &reading {
            self.turn_to(&reading.in_force.rules);
        }
        self.status.send_modify(|status| status.tell(reading.as_ref()));
        reading
    }

    /// Tells whom rules dropped since the summary before.
    async fn summarize(&mut self) {
        let seconds = self.summarized.elapsed().as_secs();
        let Some(reading) = self.refresh().await else { return };
        self.summarized = Instant::now();
        let Self { keys, told, events, .. } = self;
        let records = events.summarize(&reading, seconds, |name, counts| {
            let key = keys.of(name);
            let before = std::mem::replace(&mut told.entry(key).or_default().summarized, counts);
            (key, counts - before)
        });
        let mut outbox = Outbox::new(&self.sink, PATIENCE);
        for record in records {
            outbox.push(record).await;
        }
        let lost = outbox.finish().await;
        self.status.send_modify(|status| status.dropped_records += lost);
    }

    async fn export(&mut self) {
        let Some(reading) = self.refresh().await else { return };
        let interval = self.exported.elapsed();
        self.exported = Instant::now();
        let mut report = Report::new(&reading, interval);
        let mut outbox = Outbox::new(&self.sink, PATIENCE);
        // Where the one before was full it goes on, so that each rule gets its turn.
        let split = reading.counts.partition_point(|(rule, _)| *rule < self.export_from);
        self.export_from = 0;
        let (done, rest) = reading.counts.split_at(split);
        for &(rule, counts) in rest.iter().chain(done) {
            let told = &mut self.told.entry(self.keys.of(reading.in_force.rules.name(rule))).or_default().exported;
            if *told == counts {
                continue;
            }
            if report.is_full() {
                if report.left_off() == 0 {
                    self.export_from = rule;
                }
                report.leave_off();
                continue;
            }
            *told = counts;
            if let Some(part) = report.push(&reading.in_force.rules, rule, counts) {
                outbox.telemetry("policy", part).await;
            }
        }
        outbox.telemetry("policy", report.finish(&reading)).await;
        let lost = outbox.finish().await;
        self.status.send_modify(|status| status.dropped_records += lost);
    }
}
