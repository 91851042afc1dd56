//! The daemon's own control code on a simulated kernel, clock and disk.
//!
//! What decides is what decides on a gateway: an [`Agent`]. Simulated is what its effects touch:
//!
//! - the *kernel* is the configuration that runs, one value in memory;
//! - the *disk* is what was last written to it, and all that a crash leaves;
//! - the *clock* is the real one, but what a gateway would only wait for is skipped. While it waits for the broker the
//!   time passes as it does: the deadline of a trial is a real one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde_json::Value;
use tidegate::{
    config::{Config, KEYS, Local},
    control::{
        config::agent::{Agent, Effect, Input, Kept},
        link::{Payload, Source},
    },
    record::Stamp,
};
use tidegate_values::Digest;
use tokio::time::Instant;

/// Waits that are skipped in a row: a document that is tried four times has three at each, and more would be a loop.
const MAX_SKIPPED: usize = 64;
/// 2026-06-01: any time at which a clock counts as set.
const EPOCH_MS: u64 = 1_780_272_000_000;

/// What is wrong with a gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    #[default]
    None,
    /// Its kernel cuts the link to the broker while this key is not as it was at the start.
    CutOffBy(&'static str),
}

/// What a gateway runs, seen from inside.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// The documents that its disk has as confirmed, by source (`device`, `@GROUP`): version and digest.
    pub documents: BTreeMap<String, (u64, Digest)>,
    /// The configuration that its kernel has.
    pub config: Arc<Config>,
}

/// What a step needs the network for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// A round trip that begins now; answered by [`Control::probed`].
    Probe(u64),
}

/// One gateway's control.
#[derive(Debug)]
pub(super) struct Control {
    local: Arc<Local>,
    /// Layers in the order in which they apply.
    sources: Vec<Source>,
    flaw: Flaw,
    agent: Agent,
    disk: Vec<u8>,
    kernel: Arc<Config>,
    /// What the kernel had when the process began.
    started: Arc<Config>,
    report: Bytes,
    began: Instant,
    skipped: Duration,
    linked: bool,
    /// The round trip that is under way.
    probe: Option<u64>,
}

impl Control {
    /// A gateway that was never told anything.
    pub(super) fn new(local: Arc<Local>, flaw: Flaw) -> Self {
        let config = local.composed().config;
        let groups = config.gateway.groups.iter().map(|group| Source::Group(group.as_str().into()));
        let sources = groups.chain([Source::Device]).collect();
        let config = Arc::new(config);
        let began = Instant::now();
        let (agent, effects) = Agent::start(Kept::default(), Local::clone(&local), &stamp(Duration::ZERO));
        let mut control = Self {
            local,
            sources,
            flaw,
            agent,
            disk: Vec::new(),
            kernel: Arc::clone(&config),
            started: config,
            report: Bytes::new(),
            began,
            skipped: Duration::ZERO,
            linked: false,
            probe: None,
        };
        control.begin(effects);
        control
    }

    /// The process is killed and started again: what was written is all there is.
    pub(super) fn crash(&mut self) {
        let json = self.disk.iter().position(|byte| *byte == b'\n').map_or(&b"{}"[..], |end| &self.disk[end + 1..]);
        let kept: Kept = serde_json::from_slice(json).expect("what was written is read");
        let (agent, effects) = Agent::start(kept, Local::clone(&self.local), &self.now());
        self.agent = agent;
        (self.linked, self.probe) = (false, None);
        self.begin(effects);
    }

    fn begin(&mut self, effects: Vec<Effect>) {
        let mut inputs = VecDeque::new();
        // Before there is a link nothing needs it.
        self.carry_out(effects, &mut inputs, &mut Vec::new());
        for input in inputs {
            let _none = self.handle(input);
        }
        self.agent.begin();
        self.started = Arc::clone(&self.kernel);
    }

    /// The sources that it listens to.
    pub(super) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The payload of `config/reported`.
    pub(super) fn report(&self) -> Bytes {
        self.report.clone()
    }

    /// What runs.
    pub(super) fn running(&self) -> Running {
        let json = self.disk.iter().position(|byte| *byte == b'\n').map_or(&b"{}"[..], |end| &self.disk[end + 1..]);
        let slots: BTreeMap<String, Value> = serde_json::from_slice(json).expect("what was written is read");
        let confirmed = slots.into_iter().filter_map(|(source, slot)| {
            let confirmed = &slot["confirmed"];
            Some((source, (confirmed["version"].as_u64()?, confirmed["digest"].as_str()?.parse().ok()?)))
        });
        Running { documents: confirmed.collect(), config: Arc::clone(&self.kernel) }
    }

    /// A message on a topic `…/desired`.
    pub(super) fn desired(&mut self, source: Source, payload: Payload) -> Vec<Act> {
        self.handle(Input::Desired(source, payload))
    }

    /// All that the broker retains has come; the witness is our own last report, where the broker has one.
    pub(super) fn read_in_full(&mut self, present: BTreeSet<Source>, witness: Option<Bytes>) -> Vec<Act> {
        self.handle(Input::ReadInFull { present, witness })
    }

    /// Whether messages pass. A round trip that was under way begins anew with the next connection.
    pub(super) fn linked(&mut self, linked: bool) -> Vec<Act> {
        self.linked = linked;
        let mut acts = self.handle(Input::Linked(linked));
        if linked && acts.is_empty() && !self.is_cut_off() {
            acts.extend(self.probe.map(Act::Probe));
        }
        acts
    }

    /// A round trip is complete.
    pub(super) fn probed(&mut self, trial: u64) -> Vec<Act> {
        if self.probe == Some(trial) {
            self.probe = None;
        }
        self.handle(Input::Probed(trial))
    }

    /// When [`Self::tick`] is due, if ever.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.agent.wake().map(|up| self.began + up.saturating_sub(self.skipped))
    }

    /// Time has passed.
    pub(super) fn tick(&mut self) -> Vec<Act> {
        self.handle(Input::Tick)
    }

    fn now(&self) -> Stamp {
        stamp(self.began.elapsed() + self.skipped)
    }

    /// Whether what runs cuts the link.
    fn is_cut_off(&self) -> bool {
        let Flaw::CutOffBy(name) = self.flaw else { return false };
        KEYS.iter().any(|key| key.name == name && key.get(&self.kernel) != key.get(&self.started))
    }

    fn handle(&mut self, input: Input) -> Vec<Act> {
        let mut acts = Vec::new();
        let mut inputs = VecDeque::from([input]);
        for _ in 0..MAX_SKIPPED {
            while let Some(input) = inputs.pop_front() {
                let effects = self.agent.handle(input, &self.now());
                self.carry_out(effects, &mut inputs, &mut acts);
            }
            // What waits for nothing but time, or for an answer that cannot come, has waited.
            let idle = self.linked && (self.probe.is_none() || self.is_cut_off());
            let Some(due) = self.agent.wake().filter(|_| idle) else { break };
            self.skipped += due.saturating_sub(self.began.elapsed() + self.skipped) + Duration::from_millis(1);
            inputs.push_back(Input::Tick);
        }
        acts
    }

    fn carry_out(&mut self, effects: Vec<Effect>, inputs: &mut VecDeque<Input>, acts: &mut Vec<Act>) {
        for effect in effects {
            match effect {
                Effect::Persist { write, content } => {
                    self.disk = content;
                    inputs.push_back(Input::Written { write, result: Ok(()) });
                }
                Effect::Run(config) => {
                    self.kernel = config;
                    // A trial begins, or has ended.
                    self.probe = None;
                }
                Effect::Probe(trial) => {
                    self.probe = Some(trial);
                    if !self.is_cut_off() {
                        acts.push(Act::Probe(trial));
                    }
                }
                Effect::Report(report) => self.report = report,
                // What goes through the spool is another story.
                Effect::Record(_) => {}
            }
        }
    }
}

fn stamp(up: Duration) -> Stamp {
    let up_ms = u64::try_from(up.as_millis()).unwrap_or(u64::MAX);
    Stamp { boot: [0; 16], ts_ms: EPOCH_MS + up_ms, up_ms, synced: true }
}
