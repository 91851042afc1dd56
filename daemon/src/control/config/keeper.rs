//! Carries out what the [`Agent`] decides: the one owner of the running configuration.
//!
//! Everything that changes it comes through here: what is desired, what the files say after a reload, and what is put
//! back. Nothing is waited for: writes, round trips and looks at the files are under way beside it and come back as inputs.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    select,
    sync::watch,
    task::spawn_blocking,
    time::{Interval, MissedTickBehavior, interval},
};
use tracing::{error, warn};

use super::{
    super::{
        beside::Beside,
        link::Subject,
        outward::{Outward, show},
        run::time_comes,
        store::Store,
    },
    agent::{Agent, Effect, Input, Kept},
    report::ConfigStatus,
};
use crate::{
    config::{Config, ConfigError, Environment, Local, MainFile, Shown},
    logging::FilterHandle,
    record::Clock,
    supervisor::Pulse,
};

/// Between looks at the local files, which are read only where they changed.
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// See [`Local::fingerprint`].
type Fingerprint = BTreeMap<PathBuf, (Option<SystemTime>, u64, u64)>;

/// What the local files say, or what is wrong with them.
type Read = Result<Local, Vec<ConfigError>>;

/// The configuration to start with.
#[derive(Debug)]
pub(in crate::control) struct Begun {
    agent: Agent,
    store: Store,
    /// Effects that could wait until there is somebody to carry them out.
    later: Vec<Effect>,
    /// Why what was remembered is lost.
    lost: Option<String>,
}

impl Begun {
    /// Reads what is remembered in `folder` and decides what to start with. Blocks on the disk.
    pub(in crate::control) fn new(folder: &Path, local: Local, clock: &Clock) -> Self {
        let mut store = Store::new(folder, "config.json");
        let (kept, lost) = match store.load::<Kept>() {
            Ok(kept) => (kept, None),
            Err(error) => {
                error!(%error, "what was desired is forgotten; the local configuration runs");
                (Kept::default(), Some(error.to_string()))
            }
        };
        let (mut agent, effects) = Agent::start(kept, local, &clock.now());
        let mut effects = VecDeque::from(effects);
        let mut later = Vec::new();
        while let Some(effect) = effects.pop_front() {
            match effect {
                // An attempt counts before it is made.
                Effect::Persist { write, content } => {
                    let result = store.save(&content).map_err(|error| error.to_string());
                    effects.extend(agent.handle(Input::Written { write, result }, &clock.now()));
                }
                effect => {
                    if let Effect::Run(_) = effect {
                        // Nothing runs yet: what comes last is what everything begins with.
                        later.retain(|earlier| !matches!(earlier, Effect::Run(_)));
                    }
                    later.push(effect);
                }
            }
        }
        agent.begin();
        Self { agent, store, later, lost }
    }

    /// What to build everything from.
    pub(in crate::control) const fn running(&self) -> &Arc<Config> {
        self.agent.running()
    }
}

/// Where what runs goes.
#[derive(Debug)]
pub(in crate::control) struct Outlets {
    pub(in crate::control) config: watch::Sender<Arc<Config>>,
    pub(in crate::control) shown: watch::Sender<Shown>,
    pub(in crate::control) status: watch::Sender<ConfigStatus>,
    pub(in crate::control) log: FilterHandle,
}

/// Keeps the running configuration.
#[derive(Debug)]
pub(in crate::control) struct Keeper {
    agent: Agent,
    store: Store,
    lost: Option<String>,
    main_file: MainFile,
    outlets: Outlets,
    outward: Outward,
    write: Beside<(u64, Result<(), String>)>,
    probe: Beside<u64>,
    look: Beside<(Fingerprint, Option<Read>)>,
    looks: Interval,
    /// Of the files as they were last read and found to be right.
    seen: Fingerprint,
}

impl Keeper {
    pub(in crate::control) fn new(begun: Begun, main_file: MainFile, outlets: Outlets, outward: Outward) -> Self {
        let Begun { agent, store, later, lost } = begun;
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut keeper = Self {
            agent,
            store,
            lost,
            main_file,
            outlets,
            outward,
            write: Beside::default(),
            probe: Beside::default(),
            look: Beside::default(),
            looks,
            seen: Fingerprint::new(),
        };
        keeper.carry_out(later);
        keeper
    }

    /// The next thing that happens by itself. Cancelling loses nothing.
    pub(in crate::control) async fn next(&mut self) -> Input {
        loop {
            select! {
                (write, result) = self.write.done() => return Input::Written { write, result },
                trial = self.probe.done() => return Input::Probed(trial),
                () = time_comes(self.agent.wake(), &self.outward.clock) => return Input::Tick,
                _ = self.looks.tick() => self.look(),
                (seen, changed) = self.look.done() => {
                    self.seen = seen;
                    if let Some(read) = changed {
                        return Input::Look(read);
                    }
                }
            }
        }
    }

    /// Takes in what happened, and does what follows from it.
    pub(in crate::control) fn take(&mut self, input: Input) {
        let effects = self.agent.handle(input, &self.outward.clock.now());
        self.carry_out(effects);
    }

    /// Reads the local layers and runs them; the supervisor is answered meanwhile.
    pub(in crate::control) async fn reload(&mut self, pulse: &mut Pulse) {
        let main_file = self.main_file.clone();
        let reading = spawn_blocking(move || main_file.read(&Environment::of_process()));
        let read = pulse.during(reading).await.expect("reading files does not panic");
        self.take(Input::Reload(read));
    }

    /// What runs.
    pub(in crate::control) const fn running(&self) -> &Arc<Config> {
        self.agent.running()
    }

    /// Waits for the write that is under way: what comes after it is not on disk, as after a crash.
    pub(in crate::control) async fn end(self) {
        self.write.end().await;
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Persist { write, content } => {
                    let store = self.store.clone();
                    self.write.work(move || (write, store.save(&content).map_err(|error| error.to_string())));
                }
                Effect::Run(config) => {
                    if let Err(error) = self.outlets.log.configure(&config.log.filter) {
                        warn!(%error, "log filter refused");
                    }
                    show(&self.outlets.config, config);
                }
                Effect::Probe(trial) => {
                    let prober = self.outward.prober.clone();
                    self.probe.begin(async move {
                        prober.probe().await;
                        trial
                    });
                }
                Effect::Report(report) => self.outward.report(Subject::Config, report),
                Effect::Record(record) => self.outward.record(record),
            }
        }
        self.publish();
    }

    fn publish(&self) {
        let mut status = self.agent.status();
        status.memory = status.memory.or_else(|| self.lost.clone());
        show(&self.outlets.status, status);
        show(&self.outlets.shown, Shown::new(self.agent.loaded(), self.agent.running()));
    }

    /// Looks whether the local files changed, and reads them if so.
    fn look(&mut self) {
        if !self.look.is_idle() {
            return;
        }
        let (main_file, seen) = (self.main_file.clone(), self.seen.clone());
        self.look.work(move || {
            let environment = Environment::of_process();
            let now = Local::fingerprint(&main_file.path, &environment);
            if now == seen {
                return (now, None);
            }
            match main_file.read(&environment) {
                Ok(local) => (now, Some(Ok(local))),
                // What a file's time and size do not show may mend it: its mode, or the machine. So look again.
                Err(errors) => (Fingerprint::new(), Some(Err(errors))),
            }
        });
    }
}
