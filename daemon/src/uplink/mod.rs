//! Delivers what is in the spool to an MQTT 5 broker, and says over it that this gateway lives.
//!
//! # Operation
//!
//! ```text
//!   not-provisioned ◄─── no [mqtt] url
//!         │ url                                    ┌────────── back-off over, or [mqtt] changed
//!         ▼                                        │
//!     connecting ──── refused, no route, no echo ──► unreachable
//!         │ own message came back
//!         ▼                                        ┌────────── back-off over, or [mqtt] changed
//!     connected ───── lost, silent, no echo ───────► backing-off
//! ```
//!
//! Each connection begins anew: birth message, own round trip, then the records from the spool's cursors on. A
//! cursor moves only when the broker acknowledged the record and all before it in its lane, so a record can be
//! delivered twice and is never skipped; `(gateway, epoch, stream, seq)` tells consumers the duplicates.
//!
//! # Files
//!
//! [`client`] is the one that knows the MQTT library; [`session`] the life of one connection; [`delivery`] the way
//! of the records; [`arrivals`] sorts what comes in. [`inflight`], [`roundtrip`], [`reading`], [`reports`], [`caution`],
//! [`forbidden`], [`backoff`] and [`refusal`] decide, without clock or network. [`probes`] is what control asks of the uplink.
//!
//! Files go another way: [`uploads`] tells `tidegate-upload` what to go by.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;

use tidegate_spool::Spool;
use tokio::{
    select,
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

mod arrivals;
mod backoff;
mod birth;
mod caution;
mod client;
mod credentials;
mod delivery;
mod forbidden;
mod inflight;
mod lanes;
mod login;
mod net;
pub mod precedence;
mod probes;
mod reading;
mod refusal;
mod reports;
mod roundtrip;
mod session;
mod status;
mod topics;
pub mod uploads;

pub use birth::{Feature, Features};
pub use probes::{Prober, Probes, probes};
pub use refusal::Refusal;
pub use status::{Delivered, LinkState, UplinkStatus};

use self::{
    arrivals::Arrivals,
    backoff::Backoff,
    client::{Connection, Granted, LinkError, Message, Options},
    credentials::Contents,
    delivery::Memory,
    forbidden::Forbidden,
    session::{Context, Ended, Session, changed, time_to_leave},
    topics::Topics,
};
use crate::{
    config::{Broker, Config, Mqtt},
    control::{
        inbox::Inbox,
        link::{Answer, Subject},
    },
    record::Clock,
    sources::Sink,
    supervisor::Pulse,
};

/// What the uplink needs of the daemon.
#[derive(Debug)]
pub struct Uplink {
    /// Where the records are.
    pub spool: Spool,
    /// Where reports of losses go.
    pub sink: Sink,
    /// The clocks of this boot.
    pub clock: Clock,
    /// What the birth message says of this gateway; published again when it changes.
    pub features: watch::Receiver<Features>,
    /// The live configuration; `[mqtt]`, `[gateway]` and whether commands are enabled are followed.
    pub config: watch::Receiver<Arc<Config>>,
    /// Where its figures go.
    pub status: watch::Sender<UplinkStatus>,
    /// Where desired documents and requests go.
    pub inbox: Inbox,
    /// What control reports: the latest of each subject is published, retained, and again at each connect.
    pub reports: watch::Receiver<BTreeMap<Subject, Bytes>>,
    /// Control's answers to requests; taken while connected.
    pub answers: mpsc::Receiver<Answer>,
    /// What control asks of the uplink.
    pub probes: Probes,
    /// Answers the supervisor.
    pub pulse: Pulse,
    /// Leaves the broker in order when cancelled: `offline` stands within a second, or the will does.
    pub shutdown: CancellationToken,
}

/// The keys that a session depends on.
#[derive(Clone, Debug, PartialEq)]
struct Identity {
    gateway: String,
    groups: Vec<String>,
    mqtt: Mqtt,
}

impl Identity {
    fn of(config: &Config) -> Self {
        Self { gateway: config.gateway.id.clone(), groups: config.gateway.groups.clone(), mqtt: config.mqtt.clone() }
    }

    fn topics(&self) -> Topics {
        Topics::new(&self.mqtt.root, &self.gateway, &self.groups)
    }
}

impl Uplink {
    /// Connects and delivers until shutdown.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut memory = Memory::default();
        let mut forbidden = Forbidden::default();
        let mut sessions: u64 = 0;
        while !self.shutdown.is_cancelled() {
            let identity = Identity::of(&self.config.borrow_and_update());
            let Some(broker) = identity.mqtt.broker.clone() else {
                self.enter(LinkState::NotProvisioned, Some("[mqtt] url is not set".to_owned()));
                self.until_reconfigured(&identity).await;
                continue;
            };
            self.status.send_modify(|status| status.broker = Some(broker.to_string()));
            self.enter(LinkState::Connecting, None);
            let credentials = credentials::contents(&identity.mqtt).await;
            let ended = match self.open(&identity, &broker).await {
                None => continue,
                Some(Ok((link, granted))) => {
                    self.status.send_modify(|status| {
                        status.session_present = Some(granted.session_present);
                        status.reconnects = sessions;
                    });
                    sessions += 1;
                    self.session(&identity, credentials, link, &granted, &mut memory, &mut forbidden).await
                }
                Some(Err(error)) => Ended::Broken { cause: error.into(), connected_for: None },
            };
            match ended {
                Ended::Left => backoff.reset(),
                Ended::Broken { cause, connected_for } => {
                    backoff.worked_for(connected_for.unwrap_or_default());
                    let wait = backoff.failed(fastrand::f64);
                    let state = if connected_for.is_some() { LinkState::BackingOff } else { LinkState::Unreachable };
                    warn!(%broker, %cause, wait_ms = wait.as_millis(), "no connection to the broker; records wait in the spool");
                    self.wait_for_next_attempt(&identity, state, cause.to_string(), wait, &mut backoff).await;
                }
            }
        }
        info!("the uplink has ended");
    }

    /// Connects; `None` where that is no longer wanted.
    async fn open(&mut self, identity: &Identity, broker: &Broker) -> Option<Result<(Connection, Granted), LinkError>> {
        let topics = identity.topics();
        let arrivals = Arc::new(Arrivals::new(&topics, self.inbox.clone()));
        let will = Message { topic: topics.status(), payload: birth::will(&self.clock) };
        let shutdown = self.shutdown.clone();
        let config = &mut self.config;
        // Connecting has a deadline of its own.
        let opening = async {
            select! {
                opened = connect(identity, broker, arrivals, will) => Some(opened),
                () = shutdown.cancelled() => None,
                () = reconfigured(config, identity) => None,
            }
        };
        self.pulse.during(opening).await
    }

    async fn session(
        &mut self,
        identity: &Identity,
        credentials: Contents,
        link: Connection,
        granted: &Granted,
        memory: &mut Memory,
        forbidden: &mut Forbidden,
    ) -> Ended {
        let topics = identity.topics();
        let context = Context {
            spool: &self.spool,
            sink: &self.sink,
            clock: &self.clock,
            features: &mut self.features,
            status: &self.status,
            memory,
            pulse: &mut self.pulse,
            config: self.config.clone(),
            reports: &mut self.reports,
            replies: &mut self.answers,
            probes: &mut self.probes,
            forbidden,
        };
        let (config, status) = (&mut self.config, &self.status);
        status.send_modify(|status| status.not_renewed = None);
        let another_wanted = async {
            select! {
                () = reconfigured(config, identity) => {}
                () = credentials::renewed(&identity.mqtt, credentials, status) => {}
            }
        };
        let leave = time_to_leave(&self.shutdown, another_wanted);
        Session::new(context, topics, link, granted).run(leave).await
    }

    async fn wait_for_next_attempt(
        &mut self,
        identity: &Identity,
        state: LinkState,
        reason: String,
        wait: Duration,
        backoff: &mut Backoff,
    ) {
        self.enter(state, Some(reason));
        let wake = Instant::now() + wait;
        self.status.send_modify(|status| status.next_attempt = Some(wake));
        select! {
            () = sleep_until(wake) => {}
            () = self.until_reconfigured(identity) => backoff.reset(),
        }
    }

    /// Waits for other keys, or for shutdown.
    async fn until_reconfigured(&mut self, identity: &Identity) {
        let reconfigured = self.pulse.during(reconfigured(&mut self.config, identity));
        self.shutdown.run_until_cancelled(reconfigured).await;
    }

    fn enter(&self, state: LinkState, reason: Option<String>) {
        self.status.send_modify(|status| status.enter(state, reason));
    }
}

async fn connect(
    identity: &Identity,
    broker: &Broker,
    arrivals: Arc<Arrivals>,
    will: Message,
) -> Result<(Connection, Granted), LinkError> {
    let (mqtt, tls) = (identity.mqtt.clone(), broker.tls);
    let login = spawn_blocking(move || login::read(&mqtt, tls)).await.expect("reading files does not panic")?;
    Connection::open(Options {
        client_id: identity.gateway.clone(),
        broker: broker.clone(),
        login,
        keep_alive: identity.mqtt.keep_alive,
        session_expiry: identity.mqtt.session_expiry,
        will,
        arrivals,
        max_in_flight: delivery::MAX_IN_FLIGHT,
    })
    .await
}

/// Resolves once the configuration asks for another session than this one.
async fn reconfigured(config: &mut watch::Receiver<Arc<Config>>, identity: &Identity) {
    loop {
        changed(config).await;
        if Identity::of(&config.borrow_and_update()) != *identity {
            return;
        }
    }
}
