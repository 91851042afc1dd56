//! The configuration under the protocol: what documents mean, what then runs, and what is told of it.
//!
//! Without effects: a happening and the time go in, [`Effect`]s come out. The daemon carries them out (`keeper`);
//! a simulation of a thousand gateways does so in one process.
//!
//! # Operation
//!
//! What runs is always the local layers with the documents that [`Protocol::running`] names over them, but for keys that
//! take effect with a start: those stay as they were when [`Agent::begin`] was called. A document that does not fit beside
//! the others is refused in its trial; one that ran and fits no longer, because the local layers changed, is set aside.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tracing::{error, info, warn};

use super::{
    super::{
        desired,
        link::{MAX_CONFIG_BYTES, Payload, Source},
        protocol::{Applied, Document, Event, Memory, Now, Outcome, Protocol, Stamp, State, Step},
        report::{statuses, versions},
        store,
    },
    report::{ConfigStatus, Content, Reload},
};
use crate::{
    config::{Config, ConfigError, Drift, Effect as TakesEffect, Loaded, Local, Remote, changes, compose, drift, live},
    gather::Gather as _,
    record::{self, Record},
};

/// What is kept of a document: its sections and keys.
pub type Kept = Memory<Value>;

/// The first, and three more: a broker that was away by chance only delays a change.
const ATTEMPTS: u32 = 4;
/// How long drift stands before it is told of: a change on its way passes through states that are apart.
const DRIFT_STANDS: Duration = Duration::from_secs(10);
/// One `event/config` about refused messages of a source within this time; the report always has the latest.
const REFUSALS_APART: Duration = Duration::from_secs(10);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A message on `config/desired`.
    Desired(Source, Payload),
    /// All that the broker retains was read.
    ReadInFull {
        /// The sources that have a document.
        present: BTreeSet<Source>,
        /// Our own last report, as the broker has it.
        witness: Option<Bytes>,
    },
    /// Answers [`Effect::Persist`].
    Written {
        /// Its number.
        write: u64,
        /// Whether it is on stable storage, or why not.
        result: Result<(), String>,
    },
    /// Answers [`Effect::Probe`].
    Probed(u64),
    /// Whether our own messages come back from the broker.
    Linked(bool),
    /// `cmd/retry`.
    Retry,
    /// The local layers were read, to be run.
    Reload(Result<Local, Vec<ConfigError>>),
    /// The local layers were read, only to be compared.
    Look(Result<Local, Vec<ConfigError>>),
    /// [`Agent::wake`] has come.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Put this on stable storage; answered by [`Input::Written`].
    Persist {
        /// Its number.
        write: u64,
        /// The file's content.
        content: Vec<u8>,
    },
    /// Run this.
    Run(Arc<Config>),
    /// Complete a round trip with the broker; answered by [`Input::Probed`].
    Probe(u64),
    /// Publish this as `config/reported`.
    Report(Bytes),
    /// Put this into the spool.
    Record(Record),
}

/// The configuration's side of control.
#[derive(Debug)]
pub struct Agent {
    protocol: Protocol<Value>,
    /// What is kept of groups that the gateway is not in: it is written again as it was found, and is of no effect.
    foreign: Kept,
    /// In the order in which they apply.
    sources: Vec<Source>,
    local: Local,
    /// What the local layers say now, where that was looked at and is something else.
    unread: Option<Local>,
    /// What is wrong with the local layers as they are now, where that was looked at.
    broken: Vec<String>,
    /// The layers that run, as if nothing needed a restart.
    loaded: Loaded,
    /// What runs.
    running: Arc<Config>,
    /// What the process began with; absent while it begins.
    began: Option<Arc<Config>>,
    reload: Reload,
    /// Why nothing can be remembered.
    memory: Option<String>,
    told: Content,
    told_drift: BTreeMap<&'static str, Drift>,
    tell_drift_at: Option<Duration>,
    refusals: BTreeMap<Source, Duration>,
}

impl Agent {
    /// Begins with what is kept. Until [`Self::begin`], whatever runs is what the process begins with.
    #[must_use]
    pub fn start(kept: Kept, local: Local, now: &record::Stamp) -> (Self, Vec<Effect>) {
        let loaded = local.composed();
        let groups = loaded.config.gateway.groups.iter().map(|group| Source::Group(group.as_str().into()));
        let sources: Vec<_> = groups.chain([Source::Device]).collect();
        let (ours, foreign) = kept.part(&sources);
        let (protocol, steps) = Protocol::start(ours, ATTEMPTS, loaded.config.policy.confirm_within, moment(now));
        let mut agent = Self {
            protocol,
            foreign,
            sources,
            running: Arc::new(loaded.config.clone()),
            loaded,
            local,
            unread: None,
            broken: Vec::new(),
            began: None,
            reload: Reload::default(),
            memory: None,
            told: Content::default(),
            told_drift: BTreeMap::new(),
            tell_drift_at: None,
            refusals: BTreeMap::new(),
        };
        let mut effects = Vec::new();
        agent.run_settled(now, &mut effects);
        // What was confirmed before says how long it may take to prove what comes after, also across a start.
        agent.protocol.set_confirm_within(agent.running.policy.confirm_within);
        agent.carry_out(steps, now, &mut effects);
        agent.finish(now, &mut effects);
        (agent, effects)
    }

    /// The process begins to work with what runs now: from here on some keys need a restart.
    pub fn begin(&mut self) {
        self.began = Some(Arc::clone(&self.running));
    }

    /// What runs.
    #[must_use]
    pub const fn running(&self) -> &Arc<Config> {
        &self.running
    }

    /// The layers that run, as if nothing needed a restart.
    #[must_use]
    pub const fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// When time itself is something that happens, in milliseconds since boot.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        self.protocol.wake().into_iter().chain(self.tell_drift_at).min()
    }

    /// For `tidegate status`.
    #[must_use]
    pub fn status(&self) -> ConfigStatus {
        ConfigStatus {
            local: match &self.reload {
                Reload::Running { .. } => Reload::Running { pending_restart: self.told.pending_restart.clone() },
                refused @ Reload::Refused { .. } => refused.clone(),
            },
            remote: statuses(&self.told.sources),
            drift: self.told.drift.iter().map(|(key, drift)| (*key, drift.kind)).gather(),
            broken: self.broken.clone(),
            memory: self.memory.clone(),
        }
    }

    /// Takes in what happened; returns what is to be done.
    #[must_use]
    pub fn handle(&mut self, input: Input, now: &record::Stamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut report_again = false;
        match input {
            Input::Desired(source, payload) => {
                report_again = true;
                if let Some(event) = self.judge(source, &payload) {
                    self.tell(event, now, &mut effects);
                }
            }
            Input::ReadInFull { present, witness } => {
                report_again = true;
                let known = versions(&witness.unwrap_or_default());
                for source in self.sources.clone().into_iter().filter(|source| !present.contains(source)) {
                    let wished =
                        self.protocol.wished().find(|(of, _)| **of == source).map(|(_, document)| document.stamp);
                    let remembered = wished.is_some_and(|wished| known.get(&source) >= Some(&wished.version));
                    self.tell(Event::Absent { source, remembered }, now, &mut effects);
                }
            }
            Input::Written { write, result } => {
                self.memory =
                    result.as_ref().err().map(|reason| format!("what is desired cannot be remembered: {reason}"));
                self.tell(Event::Written { write, result }, now, &mut effects);
            }
            Input::Probed(trial) => self.tell(Event::Probed(trial), now, &mut effects),
            Input::Linked(linked) => self.tell(Event::Linked(linked), now, &mut effects),
            Input::Retry => self.tell(Event::Retry(None), now, &mut effects),
            Input::Reload(read) => self.reload(read, now, &mut effects),
            Input::Look(read) => self.look(read),
            Input::Tick => self.tell(Event::Tick, now, &mut effects),
        }
        if report_again {
            self.told = Content::default();
        }
        self.finish(now, &mut effects);
        effects
    }

    /// What a message says by itself; nothing, where it is for nobody here.
    fn judge(&self, source: Source, payload: &Payload) -> Option<Event<Value>> {
        if !self.sources.contains(&source) {
            return None;
        }
        let payload = match payload {
            Payload::Empty => return Some(Event::Withdrawn(source)),
            Payload::TooLarge { bytes } => {
                let reason = format!("too-large: {bytes} bytes, at most {MAX_CONFIG_BYTES} are judged");
                return Some(Event::Unreadable(source, reason));
            }
            Payload::Document(payload) => payload,
        };
        Some(match desired::read(&source, payload) {
            Ok(desired::Document { version, digest, config }) => {
                Event::Offered(source, Stamp { version, digest }, Ok(sections(&config)))
            }
            Err(refused) => match refused.version {
                Some(version) => {
                    let stamp = Stamp { version, digest: refused.digest };
                    Event::Offered(source, stamp, Err(refused.reason.to_string()))
                }
                None => Event::Unreadable(source, refused.reason.to_string()),
            },
        })
    }

    fn tell(&mut self, event: Event<Value>, now: &record::Stamp, effects: &mut Vec<Effect>) {
        let steps = self.protocol.handle(event, moment(now));
        self.carry_out(steps, now, effects);
    }

    fn carry_out(&mut self, steps: Vec<Step>, now: &record::Stamp, effects: &mut Vec<Effect>) {
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            match step {
                Step::Persist(write) => {
                    effects.push(Effect::Persist { write, content: store::encode(&self.memory()) });
                }
                Step::Apply(trial) => {
                    let applied = match self.compose() {
                        Ok(loaded) => {
                            let applied = self.fit(&loaded);
                            self.run(loaded, effects);
                            applied
                        }
                        Err((_, reason)) => Applied::Unfit(reason),
                    };
                    steps.extend(self.protocol.handle(Event::Applied(trial, applied), moment(now)));
                }
                Step::PutBack => self.run_settled(now, effects),
                Step::Probe(trial) => effects.push(Effect::Probe(trial)),
                Step::Tell(source, outcome) => self.record(&source, &outcome, now, effects),
            }
        }
    }

    /// What is written.
    fn memory(&self) -> Kept {
        let mut memory = self.foreign.clone();
        memory.0.extend(self.protocol.memory().0);
        memory
    }

    /// The layers with all documents that are to run; or which document does not fit to those before it, and why.
    fn compose(&self) -> Result<Loaded, (Source, String)> {
        let running: BTreeMap<_, _> = self.protocol.running().gather();
        let mut remotes: Vec<Remote> = Vec::new();
        let mut loaded = self.local.composed();
        for source in &self.sources {
            let Some(document) = running.get(source) else { continue };
            let fits = remote(source, document).and_then(|remote| {
                remotes.push(remote);
                compose(&self.local, &remotes.iter().collect::<Vec<_>>())
            });
            loaded = fits.map_err(|errors| (source.clone(), lines(&errors)))?;
        }
        Ok(loaded)
    }

    /// Whether all of what is on trial runs with `loaded`, or some of its keys need a restart.
    fn fit(&self, loaded: &Loaded) -> Applied {
        let (Some(began), Some((source, wish))) = (&self.began, self.protocol.trial()) else { return Applied::Whole };
        let documents = [wish, self.protocol.settled(source)].into_iter().flatten();
        let layers: Vec<_> = documents.filter_map(|document| remote(source, document).ok()).collect();
        let waits = restart_keys(began, &loaded.config).any(|key| layers.iter().any(|layer| layer.get(key).is_some()));
        if waits { Applied::Partly } else { Applied::Whole }
    }

    /// Runs what is settled; what does not fit any more is set aside.
    fn run_settled(&mut self, now: &record::Stamp, effects: &mut Vec<Effect>) {
        // Each turn takes one document away.
        for _ in 0..=self.sources.len() {
            match self.compose() {
                Ok(loaded) => return self.run(loaded, effects),
                Err((source, reason)) => {
                    let steps = self.protocol.handle(Event::SetAside(source, reason), moment(now));
                    self.carry_out(steps, now, effects);
                }
            }
        }
    }

    fn run(&mut self, loaded: Loaded, effects: &mut Vec<Effect>) {
        let config = match &self.began {
            Some(began) => live(began, &loaded.config),
            None => loaded.config.clone(),
        };
        self.loaded = loaded;
        if config != *self.running {
            let changed: Vec<_> = changes(&self.running, &config).iter().map(|key| key.name).collect();
            info!(?changed, "configuration changed");
            self.running = Arc::new(config);
        }
        effects.push(Effect::Run(Arc::clone(&self.running)));
    }

    /// The local layers are compared with what runs.
    fn look(&mut self, read: Result<Local, Vec<ConfigError>>) {
        let broken = read.as_ref().err().map(|errors| errors.iter().map(ToString::to_string).collect());
        let broken: Vec<String> = broken.unwrap_or_default();
        if !broken.is_empty() && broken != self.broken {
            warn!(errors = broken.join("; "), "the local configuration is wrong: the daemon would not start with it");
        }
        self.broken = broken;
        self.unread = read.ok().filter(|local| *local != self.local);
    }

    /// What runs of the local layers is what was read now.
    fn reload(&mut self, read: Result<Local, Vec<ConfigError>>, now: &record::Stamp, effects: &mut Vec<Effect>) {
        match read {
            Err(errors) => {
                for error in &errors {
                    error!(%error, "configuration refused; the running one stays");
                }
                self.reload = Reload::Refused { errors: errors.iter().map(ToString::to_string).collect() };
            }
            Ok(local) => {
                let before = Arc::clone(&self.running);
                self.reload = Reload::default();
                self.unread = None;
                self.broken.clear();
                self.local = local;
                match self.compose() {
                    Ok(loaded) => self.run(loaded, effects),
                    Err((_, reason)) => self.tell_unfit(reason, now, effects),
                }
                self.tell(Event::Refit, now, effects);
                let changed: Map<_, _> = changes(&before, &self.running)
                    .into_iter()
                    .map(|key| {
                        let shown = |config| key.shown(key.get(config));
                        (key.name.to_owned(), json!({ "old": shown(&before), "new": shown(&self.running) }))
                    })
                    .gather();
                if !changed.is_empty() {
                    effects.push(event(&json!({ "what": "local-change", "changes": changed })));
                }
            }
        }
    }

    /// Other local layers do not fit to what runs: what is on trial ends, and of the rest goes what has to.
    fn tell_unfit(&mut self, reason: String, now: &record::Stamp, effects: &mut Vec<Effect>) {
        if let Some(trial) = self.protocol.unproven() {
            self.tell(Event::Applied(trial, Applied::Unfit(reason)), now, effects);
        }
        self.run_settled(now, effects);
    }

    fn record(&mut self, source: &Source, outcome: &Outcome, now: &record::Stamp, effects: &mut Vec<Effect>) {
        let version = |stamp: &Option<Stamp>| stamp.map(|stamp| stamp.version);
        let digest = |stamp: &Option<Stamp>| stamp.map(|stamp| stamp.digest.to_string());
        let data = match outcome {
            Outcome::Confirmed(None) => {
                info!(%source, "remote configuration withdrawn");
                json!({ "what": "withdrawn", "source": source })
            }
            Outcome::Confirmed(stamp) => {
                info!(%source, version = version(stamp), "remote configuration confirmed");
                json!({ "what": "confirmed", "source": source, "version": version(stamp), "digest": digest(stamp) })
            }
            Outcome::RolledBack(stamp, reason, attempts) => {
                warn!(%source, version = version(stamp), reason, attempts, "remote configuration rolled back");
                json!({
                    "what": "rolled-back", "source": source, "version": version(stamp), "digest": digest(stamp),
                    "reason": reason, "attempts": attempts,
                })
            }
            Outcome::Refused(stamp, reason) => {
                let up = Duration::from_millis(now.up_ms);
                if self.refusals.get(source).is_some_and(|last| up < *last + REFUSALS_APART) {
                    return;
                }
                self.refusals.insert(source.clone(), up);
                warn!(%source, version = version(stamp), reason, "remote configuration refused");
                json!({
                    "what": "refused", "source": source, "version": version(stamp), "digest": digest(stamp),
                    "reason": reason,
                })
            }
            Outcome::SetAside(stamp, reason) => {
                warn!(%source, version = version(stamp), reason, "remote configuration set aside");
                if stamp.is_none() {
                    return;
                }
                json!({
                    "what": "set-aside", "source": source, "version": version(stamp), "digest": digest(stamp),
                    "reason": reason,
                })
            }
        };
        effects.push(event(&data));
    }

    /// After whatever happened: what is told of it.
    fn finish(&mut self, now: &record::Stamp, effects: &mut Vec<Effect>) {
        if self.protocol.trial().is_none() {
            self.protocol.set_confirm_within(self.running.policy.confirm_within);
        }
        let content = Content {
            sources: self.sources.iter().map(|source| (source.clone(), self.protocol.view(source))).collect(),
            pending_restart: self.pending_restart(),
            drift: self.drift(),
        };
        if content != self.told {
            effects.push(Effect::Report(content.report(now)));
            self.told = content;
        }
        self.tell_drift(now, effects);
    }

    fn pending_restart(&self) -> Vec<&'static str> {
        let began = self.began.as_ref();
        began.map_or_else(Vec::new, |began| restart_keys(began, &self.loaded.config).map(|key| key.name).collect())
    }

    fn drift(&self) -> BTreeMap<&'static str, Drift> {
        let wished: BTreeMap<_, _> = self.protocol.wished().gather();
        let documents = self.sources.iter().filter_map(|source| Some((source, wished.get(source)?)));
        let desired: Vec<_> = documents.filter_map(|(source, document)| remote(source, document).ok()).collect();
        drift(self.unread.as_ref().unwrap_or(&self.local), &desired.iter().collect::<Vec<_>>(), &self.running)
    }

    /// Says which keys began or ceased to drift, once that stands.
    fn tell_drift(&mut self, now: &record::Stamp, effects: &mut Vec<Effect>) {
        let up = Duration::from_millis(now.up_ms);
        if self.told.drift == self.told_drift {
            self.tell_drift_at = None;
            return;
        }
        if *self.tell_drift_at.get_or_insert(up + DRIFT_STANDS) > up {
            return;
        }
        let began: BTreeMap<_, _> =
            self.told.drift.iter().filter(|(key, drift)| self.told_drift.get(*key) != Some(*drift)).gather();
        let ceased: Vec<_> = self.told_drift.keys().filter(|key| !self.told.drift.contains_key(*key)).collect();
        effects.push(event(&json!({ "what": "drift", "began": began, "ceased": ceased })));
        self.told_drift.clone_from(&self.told.drift);
        self.tell_drift_at = None;
    }

    /// Where a source stands.
    #[must_use]
    pub fn state(&self, source: &Source) -> State {
        self.protocol.view(source).state
    }
}

/// The keys that differ and take effect with a start.
fn restart_keys<'a>(
    began: &'a Config,
    wanted: &'a Config,
) -> impl Iterator<Item = &'static crate::config::Key> + use<'a> {
    changes(began, wanted).into_iter().filter(|key| key.effect == TakesEffect::Restart)
}

const fn moment(now: &record::Stamp) -> Now {
    Now { up: Duration::from_millis(now.up_ms), ts_ms: now.ts_ms }
}

fn event(data: &Value) -> Effect {
    Effect::Record(Record::event("config", data))
}

fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A kept document as a layer.
fn remote(source: &Source, document: &Document<Value>) -> Result<Remote, Vec<ConfigError>> {
    Remote::read(&format!("remote {source} v{}", document.stamp.version), &document.body.to_string())
}

/// A layer as it is kept: each key once, in the notation of the files.
fn sections(remote: &Remote) -> Value {
    let mut root = Map::new();
    for (key, value) in remote.values() {
        let (section, name) = key.split();
        let mut table = &mut root;
        for part in section.split('.') {
            let Value::Object(inner) = table.entry(part).or_insert_with(|| json!({})) else {
                unreachable!("a section is no key")
            };
            table = inner;
        }
        table.insert(name.to_owned(), value);
    }
    Value::Object(root)
}

#[cfg(test)]
mod tests;
