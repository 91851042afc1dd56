//! Takes what comes and what happens to whatever it concerns: one loop, and in it all that is managed.
//!
//! Nothing is waited for in the loop: what takes time is under way beside it ([`super::beside`]) and comes back as
//! something that happened. Each thing that is managed has a keeper, who asks its agent what is to be done and does it.

use std::{
    collections::BTreeMap,
    future::{Future, pending},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    select,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    commands::Intake,
    config::{self, ConfigStatus, agent::Input},
    inbox::InboxReceiver,
    link::{Incoming, Source, Subject},
    outward::Outward,
    policy::{self, Ask, BundleStatus, agent::Input as PolicyInput},
};
use crate::{
    config::{Config, Local, MainFile, Shown},
    gather::Gather as _,
    kernel::Kernel,
    logging::FilterHandle,
    record::Clock,
    sources::Sink,
    supervisor::Pulse,
    uplink::{LinkState, Prober, UplinkStatus},
};

/// After a document, before the next thing is taken: fifty a second keep no gateway from its work, and whoever publishes
/// faster is not served faster. What comes meanwhile is superseded where it waits.
const AFTER_A_DOCUMENT: Duration = Duration::from_millis(20);
/// Between two readings of all that the broker retains for us, however often somebody asks for a retry.
const REREAD_EVERY: Duration = Duration::from_secs(1);

/// What to start with, and all that comes after it.
#[derive(Debug)]
pub struct Begun {
    config: config::Begun,
    policy: policy::Begun,
}

/// Reads what is remembered below `state_dir` and decides what to start with, so that all else can be built from it.
/// Blocks on the disk.
#[must_use]
pub fn begin(state_dir: &Path, local: Local, clock: &Clock) -> Begun {
    let folder = state_dir.join("control");
    let config = config::Begun::new(&folder, local, clock);
    let policy = policy::Begun::new(&folder, config.running(), clock);
    Begun { config, policy }
}

impl Begun {
    /// What to build everything from.
    #[must_use]
    pub const fn running(&self) -> &Arc<Config> {
        self.config.running()
    }

    /// Has the kernel enforce the confirmed policy, or say that there is none: until then it attaches nothing.
    pub async fn enforce(&mut self, kernel: &Kernel, clock: &Clock) {
        self.policy.enforce(kernel, clock).await;
    }
}

/// What control needs of the daemon.
#[derive(Debug)]
pub struct Control {
    /// Where it begins.
    pub begun: Begun,
    /// The local layers, for a reload.
    pub main_file: MainFile,
    /// The running configuration.
    pub config: watch::Sender<Arc<Config>>,
    /// The same, for `tidegate config show`.
    pub shown: watch::Sender<Shown>,
    /// For `tidegate status`.
    pub status: watch::Sender<ConfigStatus>,
    /// The same for the policy.
    pub bundles: watch::Sender<BundleStatus>,
    /// Enforces it.
    pub kernel: Kernel,
    /// What technicians ask of it.
    pub asks: mpsc::Receiver<Ask>,
    /// `[log] filter` goes here.
    pub log: FilterHandle,
    /// Where `event/config` goes.
    pub sink: Sink,
    /// The clocks of this boot.
    pub clock: Clock,
    /// What the uplink has for us.
    pub inbox: InboxReceiver,
    /// To the commands.
    pub requests: Intake,
    /// From the commands: try once more.
    pub retries: mpsc::Receiver<Subject>,
    /// Asks for a reload, and is told when it is done.
    pub reloads: mpsc::Receiver<oneshot::Sender<()>>,
    /// Asks the uplink for round trips.
    pub prober: Prober,
    /// What is to be published as reported.
    pub reports: watch::Sender<BTreeMap<Subject, Bytes>>,
    /// Whether there is a link.
    pub uplink: watch::Receiver<UplinkStatus>,
    /// Answers the supervisor.
    pub pulse: Pulse,
    /// Ends this.
    pub shutdown: CancellationToken,
}

/// What happened, or is to be done.
enum Happening {
    Came(Incoming),
    Linked(bool),
    Retry(Subject),
    Reread,
    Reload(oneshot::Sender<()>),
    Config(Input),
    Policy(PolicyInput),
    Ask(Ask),
    Asked,
    End,
}

impl Control {
    /// Manages what is desired until shutdown.
    pub async fn run(self) {
        let Self { begun, main_file, mut inbox, mut requests, mut retries, mut reloads, mut uplink, .. } = self;
        let (mut asks, mut pulse) = (self.asks, self.pulse);
        let outward = Outward::new(self.clock, self.prober, self.reports, self.sink);
        let outlets = config::Outlets { config: self.config, shown: self.shown, status: self.status, log: self.log };
        let mut config = config::Keeper::new(begun.config, main_file, outlets, outward.clone());

        let outlets = policy::Outlets { status: self.bundles, kernel: self.kernel };
        let mut policy = policy::Keeper::new(begun.policy, config.running(), outlets, outward.clone());

        let mut linked = false;
        let (mut take_after, mut reread_after) = (Instant::now(), Instant::now());
        let mut rereads = false;
        loop {
            let happening = select! {
                () = self.shutdown.cancelled() => Happening::End,
                () = pulse.asked() => Happening::Asked,
                incoming = after(take_after, inbox.next()), if !policy.is_busy() => Happening::Came(incoming),
                Ok(()) = uplink.changed() => {
                    Happening::Linked(uplink.borrow_and_update().state == LinkState::Connected)
                }
                Some(subject) = retries.recv() => Happening::Retry(subject),
                () = sleep_until(reread_after), if rereads => Happening::Reread,
                Some(done) = reloads.recv() => Happening::Reload(done),
                Some(ask) = asks.recv(), if !policy.is_busy() => Happening::Ask(ask),
                input = config.next() => Happening::Config(input),
                input = policy.next() => Happening::Policy(input),
            };
            match happening {
                Happening::Came(Incoming::Desired { subject, source, payload }) => {
                    take_after = Instant::now() + AFTER_A_DOCUMENT;
                    match subject {
                        Subject::Config => config.take(Input::Desired(source, payload)),
                        Subject::Policy => policy.take(PolicyInput::Desired(source, payload)),
                    }
                }
                Happening::Came(Incoming::ReadInFull { present, mut witness }) => {
                    let of = |wanted| {
                        let present = present.iter().filter(move |(subject, _)| *subject == wanted);
                        present.map(|(_, source): &(Subject, Source)| source.clone()).gather()
                    };
                    config.take(Input::ReadInFull {
                        present: of(Subject::Config),
                        witness: witness.remove(&Subject::Config),
                    });
                    policy.take(PolicyInput::ReadInFull {
                        present: of(Subject::Policy),
                        witness: witness.remove(&Subject::Policy),
                    });
                }
                Happening::Came(Incoming::Request(request)) => requests.offer(request),
                Happening::Linked(now) if now == linked => {}
                Happening::Linked(now) => {
                    linked = now;
                    config.take(Input::Linked(linked));
                    policy.take(PolicyInput::Linked(linked));
                }
                Happening::Retry(subject) => {
                    match subject {
                        Subject::Config => config.take(Input::Retry),
                        Subject::Policy => policy.take(PolicyInput::Retry),
                    }
                    // What was refused is judged anew when it comes again.
                    rereads = true;
                }
                Happening::Reread => {
                    (rereads, reread_after) = (false, Instant::now() + REREAD_EVERY);
                    outward.prober.reread();
                }
                Happening::Reload(done) => {
                    config.reload(&mut pulse).await;
                    let _gone = done.send(());
                }
                Happening::Config(input) => config.take(input),
                Happening::Policy(input) => policy.take(input),
                Happening::Ask(ask) => policy.ask(ask),
                Happening::Asked => {}
                Happening::End => break,
            }
            // The policy follows the configuration, never the other way.
            policy.follow(config.running());
        }
        config.end().await;
        policy.end().await;
    }
}

/// Waits until it is so late, on the clock of this boot; for ever, where there is nothing to wait for.
pub(super) async fn time_comes(wake: Option<Duration>, clock: &Clock) {
    let Some(wake) = wake else { return pending().await };
    sleep(wake.saturating_sub(Duration::from_millis(clock.now().up_ms))).await;
}

/// Waits for `next` from `at` on.
async fn after<T>(at: Instant, next: impl Future<Output = T>) -> T {
    sleep_until(at).await;
    next.await
}
