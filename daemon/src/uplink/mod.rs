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
//! of the records. [`inflight`], [`roundtrip`], [`caution`], [`backoff`] and [`refusal`] decide, without clock or network.

use std::{sync::Arc, time::Duration};

use tidegate_spool::Spool;
use tokio::{
    select,
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

mod backoff;
mod birth;
mod caution;
mod client;
mod delivery;
mod inflight;
mod lanes;
mod net;
mod refusal;
mod roundtrip;
mod session;
mod status;
mod tls;
mod topics;

pub use birth::{Feature, Features};
pub use refusal::Refusal;
pub use status::{Delivered, LinkState, UplinkStatus};

use self::{
    backoff::Backoff,
    client::{Connection, Granted, LinkError, Message, Options},
    delivery::Memory,
    session::{Context, Ended, Session, changed, time_to_leave},
    topics::Topics,
};
use crate::{
    config::{Broker, Config, Mqtt},
    record::Clock,
    sources::Sink,
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
    /// The live configuration; `[mqtt]` and `[gateway] id` are followed.
    pub config: watch::Receiver<Arc<Config>>,
    /// Where its figures go.
    pub status: watch::Sender<UplinkStatus>,
    /// Leaves the broker in order when cancelled: `offline` stands within a second, or the will does.
    pub shutdown: CancellationToken,
}

/// The keys that a session depends on.
#[derive(Clone, Debug, PartialEq)]
struct Identity {
    gateway: String,
    mqtt: Mqtt,
}

impl Identity {
    fn of(config: &Config) -> Self {
        Self { gateway: config.gateway.id.clone(), mqtt: config.mqtt.clone() }
    }
}

impl Uplink {
    /// Connects and delivers until shutdown.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut memory = Memory::default();
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
            let ended = match self.open(&identity, &broker).await {
                None => continue,
                Some(Ok((link, granted))) => {
                    self.status.send_modify(|status| {
                        status.session_present = Some(granted.session_present);
                        status.reconnects = sessions;
                    });
                    sessions += 1;
                    self.session(&identity, link, &granted, &mut memory).await
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
        let topics = Topics::new(&identity.mqtt.root, &identity.gateway);
        let will = Message { topic: topics.status(), payload: birth::will(&self.clock) };
        let shutdown = self.shutdown.clone();
        select! {
            opened = connect(identity, broker, &topics, will) => Some(opened),
            () = shutdown.cancelled() => None,
            () = reconfigured(&mut self.config, identity) => None,
        }
    }

    async fn session(
        &mut self,
        identity: &Identity,
        link: Connection,
        granted: &Granted,
        memory: &mut Memory,
    ) -> Ended {
        let topics = Topics::new(&identity.mqtt.root, &identity.gateway);
        let context = Context {
            spool: &self.spool,
            sink: &self.sink,
            clock: &self.clock,
            features: &mut self.features,
            status: &self.status,
            memory,
        };
        let leave = time_to_leave(&self.shutdown, reconfigured(&mut self.config, identity));
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
        let next_attempt = self.clock.now().ts_ms + u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.status.send_modify(|status| status.next_attempt_ts_ms = Some(next_attempt));
        let wake = Instant::now() + wait;
        select! {
            () = sleep_until(wake) => {}
            () = self.until_reconfigured(identity) => backoff.reset(),
        }
    }

    /// Waits for other keys, or for shutdown.
    async fn until_reconfigured(&mut self, identity: &Identity) {
        self.shutdown.clone().run_until_cancelled(reconfigured(&mut self.config, identity)).await;
    }

    fn enter(&self, state: LinkState, reason: Option<String>) {
        let ts_ms = self.clock.now().ts_ms;
        self.status.send_modify(|status| status.enter(state, reason, ts_ms));
    }
}

async fn connect(
    identity: &Identity,
    broker: &Broker,
    topics: &Topics,
    will: Message,
) -> Result<(Connection, Granted), LinkError> {
    let (mqtt, tls) = (identity.mqtt.clone(), broker.tls);
    let credentials = spawn_blocking(move || tls::read(&mqtt, tls)).await.expect("reading files does not panic")?;
    Connection::open(Options {
        client_id: identity.gateway.clone(),
        broker: broker.clone(),
        credentials,
        keep_alive: identity.mqtt.keep_alive,
        session_expiry: identity.mqtt.session_expiry,
        will,
        inbox: topics.echo(),
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
