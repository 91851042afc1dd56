//! One connection, from the birth message to the farewell.
//!
//! ```text
//!   subscribe to our echo ─► birth ─► first nonce ──came back──► connected: deliver, repeat the nonce
//!                                         │                          │
//!                                         └── no answer, refused, closed by either side ──► broken
//! ```

use std::{future::pending, mem, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use tidegate_spool::Spool;
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    birth::{self, Farewell, Features},
    client::{Connection, Granted, LinkError, Message, NotSent, Outcome},
    delivery::{Answers, Delivery, Ending, Memory, Sent, publish},
    roundtrip::{RoundTrip, Step},
    status::{LinkState, UplinkStatus},
    topics::Topics,
};
use crate::{record::Clock, sources::Sink};

/// For the farewell to be acknowledged, and the answers to records before it to come in.
const FAREWELL_WITHIN: Duration = Duration::from_millis(800);
/// For DISCONNECT to leave. Together with the farewell, `offline` stands within a second of the stop.
const DISCONNECT_WITHIN: Duration = Duration::from_millis(150);

/// Why a session ended that worked or might have.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Our own message did not come back.
    #[error("our own message did not come back on {topic} within {} s: the broker is stuck, or its access list forbids reading there", waited.as_secs())]
    NoEcho {
        /// Where it should have come.
        topic: String,
        /// For how long.
        waited: Duration,
    },
    /// The broker does not let us do what every gateway must.
    #[error("the broker's access list does not let this gateway {what} {topic}")]
    Forbidden {
        /// What.
        what: &'static str,
        /// Where.
        topic: String,
    },
}

/// How a session ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Orderly.
    Left,
    /// Otherwise. `connected_for` says how long it worked, if it ever did.
    Broken {
        /// Why.
        cause: Broken,
        /// Since the first round trip.
        connected_for: Option<Duration>,
    },
}

/// What a session needs of the daemon.
pub(super) struct Context<'a> {
    pub(super) spool: &'a Spool,
    pub(super) sink: &'a Sink,
    pub(super) clock: &'a Clock,
    pub(super) features: &'a mut watch::Receiver<Features>,
    pub(super) status: &'a watch::Sender<UplinkStatus>,
    /// Remembered from connection to connection.
    pub(super) memory: &'a mut Memory,
}

/// A running session.
pub(super) struct Session<'a> {
    context: Context<'a>,
    topics: Topics,
    link: Connection,
    retain: bool,
    answers: Answers,
    round_trip: RoundTrip,
    /// Set by the first round trip.
    connected: Option<Instant>,
    delivery: Delivery,
}

impl<'a> Session<'a> {
    /// On a connection that the broker accepted.
    pub(super) fn new(context: Context<'a>, topics: Topics, link: Connection, granted: &Granted) -> Self {
        let memory = mem::take(context.memory);
        let delivery = Delivery::new(context.spool, context.sink.clone(), topics.clone(), granted, memory);
        let round_trip = RoundTrip::new(granted.keep_alive, Instant::now());
        let retain = granted.retain;
        Self { context, topics, link, retain, answers: Answers::new(), round_trip, connected: None, delivery }
    }

    /// Delivers until the connection breaks, or until it is time to leave.
    pub(super) async fn run(mut self, leave: impl Future<Output = Farewell>) -> Ended {
        let outcome = select! {
            farewell = leave => Ok(farewell),
            broken = self.deliver() => Err(broken),
        };
        let (ended, ending) = match outcome {
            Ok(farewell) => {
                self.say_farewell(farewell).await;
                (Ended::Left, Ending::Left)
            }
            Err(cause) => {
                let ending = match &cause {
                    Broken::Link(error) if error.is_objection() => Ending::Objection,
                    _ => Ending::Broken,
                };
                let cause = self.take_last_answers().unwrap_or(cause);
                (Ended::Broken { cause, connected_for: self.connected.map(|since| since.elapsed()) }, ending)
            }
        };
        self.delivery.move_cursors().await;
        let Self { context, mut delivery, .. } = self;
        context.status.send_modify(|status| {
            delivery.account(status);
            status.in_flight = 0;
        });
        *context.memory = delivery.finish(ending);
        ended
    }

    /// What was answered before the end counts: a broker may refuse something and close the connection at once.
    /// Returns what says more than the end itself.
    fn take_last_answers(&mut self) -> Option<Broken> {
        let mut cause = None;
        while let Some(Some((sent, outcome))) = self.answers.next().now_or_never() {
            cause = self.take_answer(sent, outcome, Instant::now()).err().or(cause);
        }
        cause
    }

    async fn deliver(&mut self) -> Broken {
        if let Err(broken) = self.introduce() {
            return self.or_the_reason(broken).await;
        }
        loop {
            if let Err(broken) = self.step().await {
                return self.or_the_reason(broken).await;
            }
        }
    }

    /// A request that could not be queued says less than the connection's own end.
    async fn or_the_reason(&mut self, broken: Broken) -> Broken {
        match broken {
            Broken::Link(LinkError::Ended(_)) => loop {
                if let Err(error) = self.link.next().await {
                    return error.into();
                }
            },
            other => other,
        }
    }

    fn introduce(&mut self) -> Result<(), Broken> {
        let granted = self.link.subscribe(&self.topics.echo()).map_err(closed)?;
        self.answers.push(Box::pin(async move { (Sent::Subscription, granted.await) }));
        self.publish_birth()
    }

    fn publish_birth(&mut self) -> Result<(), Broken> {
        let payload = birth::online(self.context.clock, &self.context.features.borrow_and_update());
        let message = Message { topic: self.topics.status(), payload };
        publish(&self.link, &self.answers, Sent::Birth, message, self.retain).map_err(closed)
    }

    /// Waits for one thing to happen, and does what follows from it.
    async fn step(&mut self) -> Result<(), Broken> {
        let now = Instant::now();
        let mut wake = self.check_round_trip(now)?;
        if self.connected.is_some() {
            self.delivery.advance(&self.link, &self.answers, now).map_err(closed)?;
            wake = self.delivery.wakes_at().map_or(wake, |at| at.min(wake));
        }
        select! {
            biased;
            message = self.link.next() => self.returned(&message?),
            Some(answer) = self.answers.next(), if !self.answers.is_empty() => self.take_answers(answer)?,
            () = self.delivery.ready(), if self.connected.is_some() => {}
            () = changed(self.context.features) => self.publish_birth()?,
            () = sleep_until(wake) => {}
        }
        self.delivery.move_cursors().await;
        let (delivery, unexpected) = (&mut self.delivery, self.link.unexpected());
        self.context.status.send_if_modified(|status| {
            let heard = mem::replace(&mut status.unexpected_messages, unexpected) != unexpected;
            delivery.account(status) || heard
        });
        Ok(())
    }

    fn check_round_trip(&mut self, now: Instant) -> Result<Instant, Broken> {
        loop {
            match self.round_trip.step(now, || fastrand::u64(..)) {
                Step::Wait(until) => return Ok(until),
                Step::Dead { waited } => return Err(Broken::NoEcho { topic: self.topics.echo(), waited }),
                Step::Send(nonce) => {
                    let payload = Bytes::from(Topics::echo_payload(nonce));
                    let message = Message { topic: self.topics.echo(), payload };
                    publish(&self.link, &self.answers, Sent::Echo, message, false).map_err(closed)?;
                }
            }
        }
    }

    fn returned(&mut self, payload: &[u8]) {
        let now = Instant::now();
        let Some(took) = Topics::nonce_of(payload).and_then(|nonce| self.round_trip.returned(nonce, now)) else {
            return;
        };
        let first = self.connected.is_none();
        if first {
            self.connected = Some(now);
            info!(round_trip_ms = took.as_millis(), "connected to the broker");
        }
        let ts_ms = self.context.clock.now().ts_ms;
        self.context.status.send_modify(|status| {
            status.round_trip_ms = Some(took.as_secs_f64() * 1000.0);
            status.last_round_trip_ts_ms = Some(ts_ms);
            if first {
                status.enter(LinkState::Connected, None, ts_ms);
            }
        });
    }

    /// Takes one answer and all that came with it.
    fn take_answers(&mut self, first: (Sent, Outcome)) -> Result<(), Broken> {
        let now = Instant::now();
        self.round_trip.heard(now);
        let mut next = Some(first);
        while let Some((sent, outcome)) = next {
            self.take_answer(sent, outcome, now)?;
            next = self.answers.next().now_or_never().flatten();
        }
        Ok(())
    }

    fn take_answer(&mut self, sent: Sent, outcome: Outcome, now: Instant) -> Result<(), Broken> {
        match (sent, outcome) {
            (Sent::Record(token), outcome) => self.delivery.answered(token, outcome, now),
            (Sent::Subscription, Outcome::Refused(_)) => {
                return Err(Broken::Forbidden { what: "subscribe to", topic: self.topics.echo() });
            }
            (Sent::Subscription, Outcome::Acknowledged) => self.round_trip.subscribed(now),
            (Sent::Echo, Outcome::Refused(_)) => {
                return Err(Broken::Forbidden { what: "publish to", topic: self.topics.echo() });
            }
            (Sent::Birth, Outcome::Refused(refusal)) => {
                warn!(%refusal, topic = self.topics.status(), "the broker does not take the status of this gateway");
            }
            _ => {}
        }
        Ok(())
    }

    /// Publishes `offline`, takes the answers to what is in flight, and leaves: all of it if the broker answers
    /// at once, none of it if it does not.
    async fn say_farewell(&mut self, farewell: Farewell) {
        let payload = birth::offline(self.context.clock, farewell);
        let message = Message { topic: self.topics.status(), payload };
        let deadline = Instant::now() + FAREWELL_WITHIN;
        if publish(&self.link, &self.answers, Sent::Farewell, message, self.retain).is_ok() {
            let acknowledged = timeout_at(deadline, self.answers_until_farewell()).await.unwrap_or(false);
            if !acknowledged {
                warn!("the broker did not acknowledge our farewell; it will publish the will");
                return;
            }
        }
        self.link.disconnect(DISCONNECT_WITHIN).await;
    }

    async fn answers_until_farewell(&mut self) -> bool {
        while let Some((sent, outcome)) = self.answers.next().await {
            match (sent, outcome) {
                (Sent::Record(token), outcome) => self.delivery.answered(token, outcome, Instant::now()),
                (Sent::Farewell, outcome) => return outcome == Outcome::Acknowledged,
                _ => {}
            }
        }
        false
    }
}

fn closed(_: NotSent) -> Broken {
    LinkError::Ended("its queue is closed".to_owned()).into()
}

/// Waits for a change; for ever where none can come any more.
pub(super) async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// Resolves when the daemon stops, or when the configuration asks for another session.
pub(super) async fn time_to_leave(shutdown: &CancellationToken, reconfigured: impl Future<Output = ()>) -> Farewell {
    select! {
        () = shutdown.cancelled() => Farewell::Stopping,
        () = reconfigured => Farewell::Reconfigured,
    }
}
