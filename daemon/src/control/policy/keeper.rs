//! Carries out what the [`Agent`] decides: the only one that has the kernel enforce a policy.
//!
//! Nothing is waited for: judging, writing, enforcing and round trips are under way beside it and come back as inputs. At
//! the start alone all of it is done at once, so that the confirmed policy is enforced before anything is attached.

use std::{collections::VecDeque, io, ops::Range, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    select,
    sync::{oneshot, watch},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tracing::{error, warn};

use super::{
    agent::{Agent, Effect, Facts, Failure, Input, Kept, Placed, Settings, Wanted},
    ages::{KeptAge, KeptRules},
    judge::{self, Judged, Ready},
    report::{BundleStatus, Standing, TimeLeft},
    shelf::Shelf,
};
use crate::{
    config::Config,
    control::{
        beside::Beside,
        link::{Source, Subject},
        outward::{Outward, show},
        run::time_comes,
        store::{LoadError, Store},
    },
    heap,
    kernel::{Kernel, Rules},
    record::Clock,
};

/// How long what was compiled to be judged is kept to be enforced: a trial with a link begins after one write. Compiling it
/// again costs milliseconds; keeping it, megabytes.
const READY_FOR: Duration = Duration::from_secs(3);

/// What a technician asks for.
#[derive(Debug)]
pub enum Ask {
    /// That a bundle be tried, and with `offline` that it be tried without a link.
    Apply {
        /// Its envelope.
        envelope: Bytes,
        /// Somebody will say [`Ask::Vouch`].
        offline: bool,
        /// Where it stands, or why not.
        reply: Reply<Option<Placed>>,
    },
    /// That what is on trial be confirmed.
    Vouch {
        /// Whose.
        source: Source,
        /// Which version.
        version: u64,
        /// Whether it was on trial.
        reply: Reply<Option<Placed>>,
    },
    /// That everything pass for so long.
    Open {
        /// At most [`MAX_OPEN`](super::MAX_OPEN).
        time: Duration,
        /// Done.
        reply: Reply<Option<Placed>>,
    },
    /// No longer.
    Close {
        /// Done.
        reply: Reply<Option<Placed>>,
    },
    /// The envelope that is enforced.
    Show {
        /// As it came; nothing where none is.
        reply: Reply<Option<Vec<u8>>>,
    },
    /// How it stands.
    Standing {
        /// That.
        reply: Reply<Standing>,
    },
    /// What time some of its rules have left.
    TimeLeft {
        /// All rules.
        rules: Arc<Rules>,
        /// Numbers of those that are asked for.
        numbers: Range<u32>,
        /// Those that have a `ttl`, by number.
        reply: Reply<Vec<TimeLeft>>,
    },
}

type Reply<T> = oneshot::Sender<Result<T, String>>;

/// Where everything is kept.
#[derive(Clone, Debug)]
struct Stores {
    memory: Store,
    age: Store,
    rules: Store,
    shelf: Shelf,
}

/// The policy to start with.
#[derive(Debug)]
pub(in crate::control) struct Begun {
    agent: Agent,
    stores: Stores,
    /// Effects that could wait until there is somebody to carry them out.
    later: Vec<Effect>,
    /// Why what was remembered is lost.
    lost: Option<String>,
}

impl Begun {
    /// Reads what is remembered in `folder`. Blocks on the disk.
    pub(in crate::control) fn new(folder: &Path, config: &Config, clock: &Clock) -> Self {
        let mut stores = Stores {
            memory: Store::new(folder, "policy.json"),
            age: Store::new(folder, "policy-age.json"),
            rules: Store::new(folder, "policy-ttl.json"),
            shelf: Shelf::new(&folder.join("policies")),
        };
        let mut lost = None;
        let mut forget = |error: LoadError, what: &str| {
            error!(%error, "{what}");
            lost.get_or_insert(error.to_string());
        };
        let kept = stores.memory.load::<Kept>().unwrap_or_else(|error| {
            forget(error, "the policy is forgotten: nothing is enforced until it is read again");
            Kept::default()
        });
        let age = stores.age.load::<KeptAge>().unwrap_or_else(|error| {
            forget(error, "how long rules have counted is forgotten: those with a ttl count anew");
            KeptAge::default()
        });
        let rules = stores.rules.load::<KeptRules>().unwrap_or_else(|error| {
            forget(error, "how long rules have counted is forgotten: those with a ttl count anew");
            KeptRules::default()
        });
        let configured = judge::ids(&judge::configured(&config.policy.public_keys));
        let (agent, effects) = Agent::start(kept, (&age, rules), config, configured, &clock.now());
        let mut begun = Self { agent, stores, later: Vec::new(), lost };
        begun.carry_out(effects, clock);
        begun
    }

    fn carry_out(&mut self, effects: Vec<Effect>, clock: &Clock) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Persist { write, content } => {
                    let result = self.stores.memory.save(&content).map_err(|error| error.to_string());
                    effects.extend(self.agent.handle(Input::Written { write, result }, &clock.now()));
                }
                effect => self.later.push(effect),
            }
        }
    }

    /// Has the kernel enforce what is confirmed, or nothing, before anything is attached. What the kernel refuses is tried
    /// again later, and reported until then.
    pub(in crate::control) async fn enforce(&mut self, kernel: &Kernel, clock: &Clock) {
        let mut decided = false;
        while let Some(place) = self.later.iter().position(|effect| matches!(effect, Effect::Enforce(_))) {
            let Effect::Enforce(wanted) = self.later.remove(place) else { unreachable!("it was found there") };
            let result = enforce(kernel.clone(), self.stores.shelf.clone(), wanted, None).await;
            decided = result.is_ok();
            let effects = self.agent.handle(Input::Enforced(result), &clock.now());
            self.carry_out(effects, clock);
        }
        if !decided
            && self.agent.is_settled()
            && let Err(error) = kernel.enforce(None).await
        {
            // Nothing is to be enforced, so nothing is missing; what the kernel lacks is told by whoever watches.
            tracing::debug!(%error, "no programs yet");
        }
    }
}

/// Where what is known goes.
#[derive(Debug)]
pub(in crate::control) struct Outlets {
    pub(in crate::control) status: watch::Sender<BundleStatus>,
    pub(in crate::control) kernel: Kernel,
}

/// Keeps the policy in force.
#[derive(Debug)]
pub(in crate::control) struct Keeper {
    agent: Agent,
    stores: Stores,
    lost: Option<String>,
    outlets: Outlets,
    outward: Outward,
    write: Beside<(u64, Result<(), String>)>,
    probe: Beside<u64>,
    judge: Beside<(Judged, Option<Ready>)>,
    enforce: Beside<Result<Facts, Failure>>,
    sweep: Beside<io::Result<()>>,
    ages: Beside<Result<(), String>>,
    /// The latest that waits for the write before it.
    ages_next: Option<(Vec<u8>, Option<Vec<u8>>)>,
    /// What was judged last, for a while.
    ready: Option<(Instant, Ready)>,
    /// Who waits for [`Effect::Answer`].
    asking: Option<Reply<Option<Placed>>>,
    settings: Settings,
}

impl Keeper {
    pub(in crate::control) fn new(begun: Begun, config: &Config, outlets: Outlets, outward: Outward) -> Self {
        let Begun { agent, stores, later, lost } = begun;
        let mut keeper = Self {
            agent,
            stores,
            lost,
            outlets,
            outward,
            write: Beside::default(),
            probe: Beside::default(),
            judge: Beside::default(),
            enforce: Beside::default(),
            sweep: Beside::default(),
            ages: Beside::default(),
            ages_next: None,
            ready: None,
            asking: None,
            settings: Settings::of(config),
        };
        keeper.carry_out(later);
        keeper
    }

    /// Whether something is judged, or envelopes are removed: nothing else is judged meanwhile.
    pub(in crate::control) const fn is_busy(&self) -> bool {
        !self.judge.is_idle() || !self.sweep.is_idle()
    }

    /// The next thing that happens by itself. Cancelling loses nothing.
    pub(in crate::control) async fn next(&mut self) -> Input {
        loop {
            let ready_until = self.ready.as_ref().map_or_else(Instant::now, |(until, _)| *until);
            select! {
                (write, result) = self.write.done() => return Input::Written { write, result },
                (judged, ready) = self.judge.done() => {
                    self.ready = ready.map(|ready| (Instant::now() + READY_FOR, ready));
                    return Input::Judged(judged);
                }
                result = self.enforce.done() => {
                    // Bundle and tables are gone by now.
                    heap::give_back();
                    return Input::Enforced(result);
                }
                trial = self.probe.done() => return Input::Probed(trial),
                () = time_comes(self.agent.wake(&self.outward.clock.now()), &self.outward.clock) => return Input::Tick,
                swept = self.sweep.done() => {
                    if let Err(error) = swept {
                        warn!(%error, "old policies were not removed; it is tried again after the next change");
                    }
                    // Nothing is busy any more, which whoever waits for that sees when something has happened.
                    return Input::Tick;
                }
                kept = self.ages.done() => {
                    if let Err(error) = kept {
                        warn!(error, "how long rules have counted was not written");
                    }
                    self.keep_ages();
                }
                () = sleep_until(ready_until), if self.ready.is_some() => {
                    self.ready = None;
                    heap::give_back();
                }
            }
        }
    }

    /// Takes in what happened, and does what follows from it.
    pub(in crate::control) fn take(&mut self, input: Input) {
        let effects = self.agent.handle(input, &self.outward.clock.now());
        self.carry_out(effects);
    }

    /// The running configuration may have changed.
    pub(in crate::control) fn follow(&mut self, config: &Config) {
        let settings = Settings::of(config);
        if settings != self.settings {
            self.settings = settings.clone();
            self.take(Input::Settings(settings));
        }
    }

    /// Does what a technician asks; not while [busy](Self::is_busy).
    pub(in crate::control) fn ask(&mut self, ask: Ask) {
        let (input, reply) = match ask {
            Ask::Apply { envelope, offline, reply } => (Input::Apply { envelope, offline }, reply),
            Ask::Vouch { source, version, reply } => (Input::Vouch(source, version), reply),
            Ask::Open { time, reply } => (Input::Open(time), reply),
            Ask::Close { reply } => (Input::Close, reply),
            Ask::Show { reply } => {
                let (policies, enforced) = (self.stores.shelf.clone(), self.agent.enforced());
                spawn_blocking(move || {
                    let _gone = reply.send(enforced.map(|digest| policies.get(&digest)).transpose());
                });
                return;
            }
            Ask::Standing { reply } => {
                let _gone = reply.send(Ok(self.agent.standing()));
                return;
            }
            Ask::TimeLeft { rules, numbers, reply } => {
                let named = numbers.filter_map(|rule| Some((rule, rules.name(rule)?)));
                let _gone = reply.send(Ok(self.agent.time_left(named, &self.outward.clock.now())));
                return;
            }
        };
        self.asking = Some(reply);
        self.take(input);
    }

    /// Waits for the writes that are under way: what comes after them is not on disk, as after a crash.
    pub(in crate::control) async fn end(self) {
        self.write.end().await;
        self.ages.end().await;
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        // Before an answer: whoever has it looks how things stand.
        let mut status = self.agent.status();
        status.memory = status.memory.or_else(|| self.lost.clone());
        show(&self.outlets.status, status);
        for effect in effects {
            match effect {
                Effect::Judge(task) => {
                    let policies = self.stores.shelf.clone();
                    self.judge.work(move || judge::judge(&task, &policies));
                }
                Effect::Answer(answer) => {
                    if let Some(reply) = self.asking.take() {
                        let _gone = reply.send(answer);
                    }
                }
                Effect::Persist { write, content } => {
                    let store = self.stores.memory.clone();
                    self.write.work(move || (write, store.save(&content).map_err(|error| error.to_string())));
                }
                Effect::KeepAges(age, rules) => {
                    let before = self.ages_next.take().and_then(|(_, rules)| rules);
                    self.ages_next = Some((age, rules.or(before)));
                    self.keep_ages();
                }
                // What is being judged may have been put there just now.
                Effect::Sweep(digests) if !self.is_busy() => {
                    let policies = self.stores.shelf.clone();
                    self.sweep.work(move || policies.keep_only(&digests));
                }
                Effect::Sweep(_) => {}
                Effect::Enforce(wanted) => {
                    let ready = self.ready.take().map(|(_, ready)| ready);
                    self.enforce.begin(enforce(self.outlets.kernel.clone(), self.stores.shelf.clone(), wanted, ready));
                }
                Effect::Probe(trial) => {
                    let prober = self.outward.prober.clone();
                    self.probe.begin(async move {
                        prober.probe().await;
                        trial
                    });
                }
                Effect::Reread => self.outward.prober.reread(),
                Effect::Report(report) => self.outward.report(Subject::Policy, report),
                Effect::Record(record) => self.outward.record(record),
            }
        }
    }

    fn keep_ages(&mut self) {
        if !self.ages.is_idle() {
            return;
        }
        let Some((age, rules)) = self.ages_next.take() else { return };
        let (age_store, rules_store) = (self.stores.age.clone(), self.stores.rules.clone());
        self.ages.work(move || {
            let kept = rules.map_or(Ok(()), |rules| rules_store.save(&rules));
            kept.and_then(|()| age_store.save(&age)).map_err(|error| error.to_string())
        });
    }
}

/// Has the kernel judge by what is wanted; `ready` may be that already.
async fn enforce(kernel: Kernel, shelf: Shelf, wanted: Option<Wanted>, ready: Option<Ready>) -> Result<Facts, Failure> {
    let failed = |error: crate::kernel::KernelError| Failure::Kernel(error.to_string());
    let Some(wanted) = wanted else {
        drop(ready);
        return kernel.enforce(None).await.map(|_| Facts::default()).map_err(failed);
    };
    let Ready { generation, facts, .. } = if let Some(ready) = ready.filter(|ready| ready.is_for(&wanted)) {
        ready
    } else {
        let loading = spawn_blocking(move || Ready::load(&shelf, &wanted));
        loading.await.expect("what was judged before compiles without panicking").map_err(Failure::Bundle)?
    };
    kernel.enforce(Some(generation)).await.map(|_| facts).map_err(failed)
}
