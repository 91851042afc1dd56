//! One connection, from the birth message to the farewell.
//!
//! ```text
//!   subscribe to our echo ─► birth ─► first nonce ──came back──► connected: deliver, repeat the nonce,
//!                                         │                      read desired state, then report
//!                                         │                          │
//!                                         └── no answer, refused, closed by either side ──► broken
//! ```
//!
//! Only our own echo is indispensable. Whatever else the broker's access list forbids is said in the status, and the
//! session goes on without it.

use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    mem,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use tidegate_spool::Spool;
use tokio::{
    select,
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    arrivals::{Came, Returned},
    birth::{self, Farewell, Features},
    client::{Connection, Granted, LinkError, Message, NotSent, Outcome, WhileAway},
    delivery::{Answers, Delivery, Ending, Memory, Sent, publish},
    forbidden::Forbidden,
    probes::{Probes, Question},
    reading::{Next, Reading},
    refusal::Refusal,
    reports::Reports,
    roundtrip::{RoundTrip, Step},
    status::{LinkState, UplinkStatus},
    topics::Topics,
};
use crate::{
    config::Config,
    control::link::{Answer, Incoming, Source, Subject},
    record::Clock,
    sources::Sink,
    supervisor::Pulse,
};

/// For the farewell to be acknowledged, and the answers to records before it to come in.
const FAREWELL_WITHIN: Duration = Duration::from_millis(800);
/// For DISCONNECT to leave. Together with the farewell, `offline` stands within a second of the stop.
const DISCONNECT_WITHIN: Duration = Duration::from_millis(150);

/// Answers to requests with the broker at a time: with parts of 48 KiB they are 192 KiB, beside the records.
const MAX_REPLIES_IN_FLIGHT: usize = 4;

/// Type and length of correlation data (MQTT 5, 3.3.2.3.6), and a longer length of all properties.
const MAX_PROPERTY_HEADER_BYTES: usize = 6;

/// Complaints about the broker's access list that the status shows.
const MAX_FORBIDDEN: usize = 32;

/// Messages between two of our own nonces from which on the broker may have dropped some, which it does not tell: mosquitto
/// queues 1000 for a client that reads more slowly than others publish.
const FLOOD: u64 = 500;

/// Between two topics that are asked for again because their document found no room: whoever floods us with documents shall
/// not have us ask for each of them.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a subscription of the session is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscribed {
    /// A desired document, by its place among [`Topics::desired`].
    Desired(usize),
    /// The nonce behind them.
    Barrier,
    /// Our own last report.
    Reported(Subject),
    /// A document that had found no room.
    Again,
    /// Requests.
    Requests,
    /// One that is given up.
    Ended,
}

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
    pub(super) pulse: &'a mut Pulse,
    /// Whether requests are taken is followed.
    pub(super) config: watch::Receiver<Arc<Config>>,
    /// What control reports.
    pub(super) reports: &'a mut watch::Receiver<BTreeMap<Subject, Bytes>>,
    /// Control's answers to requests.
    pub(super) replies: &'a mut mpsc::Receiver<Answer>,
    /// What control asks of us.
    pub(super) probes: &'a mut Probes,
    /// Remembered from connection to connection, too.
    pub(super) forbidden: &'a mut Forbidden,
}

/// A running session.
pub(super) struct Session<'a> {
    context: Context<'a>,
    topics: Topics,
    link: Connection,
    retain: bool,
    max_packet_bytes: usize,
    answers: Answers,
    round_trip: RoundTrip,
    /// Messages that had arrived when the round trip was last told that the link moves.
    arrived: u64,
    /// And when the last nonce came back.
    arrived_by_echo: u64,
    /// Set by the first round trip.
    connected: Option<Instant>,
    delivery: Delivery,
    reading: Reading,
    reports: Reports,
    /// Topics of the answers that are with the broker, in order.
    replies_in_flight: VecDeque<String>,
    /// Sources whose documents the broker does not let us read: that none comes says nothing.
    unreadable: Vec<(Subject, Source)>,
    /// Whether we subscribe to requests; `None` before the first time: a kept session may have either.
    takes_requests: Option<bool>,
    /// Before this, no topic is asked for again.
    again_at: Instant,
    /// Of the connection's count, what the status has.
    dropped_requests: u64,
}

impl<'a> Session<'a> {
    /// On a connection that the broker accepted.
    pub(super) fn new(context: Context<'a>, topics: Topics, link: Connection, granted: &Granted) -> Self {
        let memory = mem::take(context.memory);
        let now = Instant::now();
        let delivery = Delivery::new(context.spool, context.sink.clone(), topics.clone(), granted, memory, now);
        context.status.send_modify(|status| {
            status.desired_read = false;
            status.reading_since = None;
            status.forbidden.clear();
        });
        Self {
            context,
            topics,
            link,
            retain: granted.retain,
            max_packet_bytes: granted.max_packet_bytes,
            answers: Answers::new(),
            round_trip: RoundTrip::new(granted.keep_alive, now),
            arrived: 0,
            arrived_by_echo: 0,
            connected: None,
            delivery,
            reading: Reading::new(granted.keep_alive),
            reports: Reports::default(),
            replies_in_flight: VecDeque::new(),
            unreadable: Vec::new(),
            takes_requests: None,
            again_at: now,
            dropped_requests: 0,
        }
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
            status.desired_read = false;
            status.reading_since = None;
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
        let granted = self.link.subscribe(&self.topics.echo(), WhileAway::Forget).map_err(closed)?;
        self.answers.push(Box::pin(async move { (Sent::EchoSubscription, granted.await) }));
        self.publish_birth()
    }

    fn subscribe(&self, subscribed: Subscribed, filter: &str) -> Result<(), Broken> {
        let granted = self.link.subscribe(filter, WhileAway::Keep).map_err(closed)?;
        self.answers.push(Box::pin(async move { (Sent::Subscription(subscribed), granted.await) }));
        Ok(())
    }

    fn unsubscribe(&self, filter: &str) -> Result<(), Broken> {
        let ended = self.link.unsubscribe(filter).map_err(closed)?;
        self.answers.push(Box::pin(async move { (Sent::Subscription(Subscribed::Ended), ended.await) }));
        Ok(())
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
        let connected = self.connected.is_some();
        if connected {
            self.delivery.advance(&self.link, &self.answers, now).map_err(closed)?;
            self.read(now)?;
            self.report(now)?;
            let due = [self.delivery.wakes_at(), self.reading.wakes_at(), self.report_wakes_at()];
            wake = due.into_iter().flatten().fold(wake, Instant::min);
        }
        let inbox = self.link.arrivals().inbox().clone();
        let missed = async {
            sleep_until(self.again_at).await;
            inbox.missed().await
        };
        select! {
            biased;
            () = self.context.pulse.asked() => {}
            returned = self.link.next() => self.returned(returned?)?,
            Some(answer) = self.answers.next(), if !self.answers.is_empty() => self.take_answers(answer)?,
            question = self.context.probes.next() => self.asked(question),
            Some(reply) = self.context.replies.recv(), if connected && self.replies_in_flight.len() < MAX_REPLIES_IN_FLIGHT => {
                self.reply(reply)?;
            }
            () = changed(self.context.reports), if connected => {}
            () = self.delivery.ready(), if connected => {}
            (subject, source) = missed, if self.reading.is_done() => self.ask_again(subject, &source)?,
            () = changed(self.context.features) => self.publish_birth()?,
            () = changed(&mut self.context.config), if connected => self.follow_requests()?,
            () = sleep_until(wake) => {}
        }
        // The spool has a pulse of its own.
        self.context.pulse.during(self.delivery.move_cursors()).await;
        self.account();
        Ok(())
    }

    fn account(&mut self) {
        let arrivals = self.link.arrivals();
        let unexpected = arrivals.unexpected();
        let dropped =
            arrivals.dropped_requests() - mem::replace(&mut self.dropped_requests, arrivals.dropped_requests());
        let delivery = &mut self.delivery;
        self.context.status.send_if_modified(|status| {
            let heard = mem::replace(&mut status.unexpected_messages, unexpected) != unexpected;
            status.dropped_requests += dropped;
            delivery.account(status) || heard || dropped > 0
        });
    }

    /// Does what is next in reading what the broker retains for us.
    fn read(&mut self, now: Instant) -> Result<(), Broken> {
        if self.reading.is_overdue(now) {
            self.link.arrivals().forget_witness();
        }
        while let Some(next) = self.reading.next(|| fastrand::u64(..)) {
            match next {
                Next::SubscribeToDesired => {
                    self.link.arrivals().begin_reading();
                    self.unreadable.clear();
                    let mut subscriptions = 0;
                    for (place, (subject, source)) in self.topics.desired().enumerate() {
                        let topic = self.topics.desired_of(subject, &source);
                        self.subscribe(Subscribed::Desired(place), &topic)?;
                        subscriptions += 1;
                    }
                    self.subscribe(Subscribed::Barrier, &self.topics.barrier())?;
                    self.reading.begin(subscriptions + 1, now);
                    self.follow_requests()?;
                }
                Next::SubscribeToReported => {
                    for subject in Subject::ALL {
                        let topic = self.topics.reported(*subject);
                        self.subscribe(Subscribed::Reported(*subject), &topic)?;
                    }
                    self.reading.asked_for_witness(Subject::ALL.len());
                }
                // Reading does not end then, and reports go when they have waited for long enough.
                Next::SendBarrier(_) if self.context.forbidden.holds(&self.topics.barrier(), now) => {
                    self.complain("publish to", &self.topics.barrier(), Refusal::NotAuthorized);
                }
                Next::SendBarrier(nonce) => {
                    self.link.arrivals().expect_barrier(nonce);
                    let message = Message { topic: self.topics.barrier(), payload: Topics::echo_payload(nonce).into() };
                    publish(&self.link, &self.answers, Sent::Barrier, message, false).map_err(closed)?;
                }
            }
        }
        Ok(())
    }

    /// Subscribes to requests where one of them is enabled, and only there.
    fn follow_requests(&mut self) -> Result<(), Broken> {
        let takes = !self.context.config.borrow_and_update().commands.enabled.is_empty();
        if self.takes_requests.replace(takes) == Some(takes) {
            return Ok(());
        }
        let filter = self.topics.all_requests();
        if takes { self.subscribe(Subscribed::Requests, &filter) } else { self.unsubscribe(&filter) }
    }

    fn asked(&mut self, question: Question) {
        match question {
            Question::RoundTrip => self.round_trip.want(Instant::now()),
            Question::Reread => self.read_again(),
        }
    }

    fn read_again(&mut self) {
        self.reading.ask();
        self.context.status.send_modify(|status| {
            status.desired_read = false;
            status.reading_since.get_or_insert_with(Instant::now);
            status.rereads += 1;
        });
    }

    fn ask_again(&mut self, subject: Subject, source: &Source) -> Result<(), Broken> {
        info!(subject = subject.name(), %source, "asking again for a document that had found no room");
        self.again_at = Instant::now() + AGAIN_AFTER;
        self.context.status.send_modify(|status| status.rereads += 1);
        self.subscribe(Subscribed::Again, &self.topics.desired_of(subject, source))
    }

    /// All that the broker retains for us has come.
    fn read_in_full(&mut self) -> Result<(), Broken> {
        let Came { mut present, witness } = self.link.arrivals().finish_reading();
        info!(documents = present.len(), reports = witness.len(), "desired state is read in full");
        present.extend(self.unreadable.iter().cloned());
        let present = present.into_iter().collect();
        self.link.arrivals().inbox().offer(Incoming::ReadInFull { present, witness });
        self.context.status.send_modify(|status| {
            status.desired_read = true;
            status.reading_since = None;
        });
        // What we report from now on need not come back.
        Subject::ALL.iter().try_for_each(|subject| self.unsubscribe(&self.topics.reported(*subject)))
    }

    /// Publishes reports that are due.
    fn report(&mut self, now: Instant) -> Result<(), Broken> {
        if self.reading.holds_reports() {
            return Ok(());
        }
        loop {
            let Some((subject, payload)) = self.reports.due(&self.context.reports.borrow_and_update(), now) else {
                return Ok(());
            };
            let message = Message { topic: self.topics.reported(subject), payload };
            if self.context.forbidden.holds(&message.topic, now) {
                self.complain("publish to", &message.topic, Refusal::NotAuthorized);
                self.reports.unsendable(subject, now);
                continue;
            }
            if message.packet_bytes() > self.max_packet_bytes {
                self.complain("publish to", &message.topic, Refusal::TooLarge);
                self.reports.unsendable(subject, now);
                continue;
            }
            publish(&self.link, &self.answers, Sent::Report(subject), message, self.retain).map_err(closed)?;
        }
    }

    fn report_wakes_at(&self) -> Option<Instant> {
        if self.reading.holds_reports() { None } else { self.reports.wakes_at(&self.context.reports.borrow()) }
    }

    fn reply(&mut self, reply: Answer) -> Result<(), Broken> {
        let Answer { topic, correlation_data, payload } = reply;
        let message = Message { topic: topic.clone(), payload };
        let property_bytes = correlation_data.as_ref().map_or(0, |data| data.len() + MAX_PROPERTY_HEADER_BYTES);
        if self.context.forbidden.holds_response(&topic, &self.topics.responses(), Instant::now()) {
            return Ok(());
        }
        if message.packet_bytes() + property_bytes > self.max_packet_bytes {
            self.complain("publish to", &topic, Refusal::TooLarge);
            return Ok(());
        }
        match self.link.reply(message, correlation_data) {
            Ok(answer) => {
                self.replies_in_flight.push_back(topic);
                self.answers.push(Box::pin(async move { (Sent::Reply, answer.await) }));
                Ok(())
            }
            Err(NotSent::BadTopic) => {
                self.complain("publish to", &topic, Refusal::TopicNameInvalid);
                Ok(())
            }
            Err(NotSent::Closed) => Err(closed(NotSent::Closed)),
        }
    }

    /// The broker did not take what is of use to us, and not indispensable.
    fn denied(&mut self, topic: &str, refusal: Refusal, now: Instant) {
        self.context.forbidden.note(topic, now);
        self.complain("publish to", topic, refusal);
    }

    fn complain(&self, what: &'static str, topic: &str, why: Refusal) {
        warn!(what, topic, %why, "the broker does not let this gateway do all it wants to");
        self.context.status.send_modify(|status| {
            if status.forbidden.len() < MAX_FORBIDDEN {
                status.forbidden.insert(format!("{what} {topic}: {why}"));
            }
        });
    }

    fn check_round_trip(&mut self, now: Instant) -> Result<Instant, Broken> {
        let arrived = self.link.arrivals().arrived();
        if mem::replace(&mut self.arrived, arrived) != arrived {
            self.round_trip.heard(now);
        }
        loop {
            match self.round_trip.step(now, || fastrand::u64(..)) {
                Step::Wait(until) => return Ok(until),
                Step::Dead { waited } => return Err(Broken::NoEcho { topic: self.topics.echo(), waited }),
                Step::Send(nonce) => {
                    self.link.arrivals().expect_echo(nonce);
                    let payload = Bytes::from(Topics::echo_payload(nonce));
                    let message = Message { topic: self.topics.echo(), payload };
                    publish(&self.link, &self.answers, Sent::Echo, message, false).map_err(closed)?;
                }
            }
        }
    }

    fn returned(&mut self, returned: Returned) -> Result<(), Broken> {
        match returned {
            Returned::Echo(nonce) => {
                self.echo_returned(nonce);
                Ok(())
            }
            Returned::Barrier(nonce) if self.reading.returned(nonce) => self.read_in_full(),
            Returned::Barrier(_) => Ok(()),
        }
    }

    fn echo_returned(&mut self, nonce: u64) {
        let now = Instant::now();
        let Some(took) = self.round_trip.returned(nonce, now) else { return };
        self.context.probes.completed(now - took);
        let arrived = self.link.arrivals().arrived();
        if arrived - mem::replace(&mut self.arrived_by_echo, arrived) > FLOOD {
            self.read_again();
        }
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
                status.enter(LinkState::Connected, None);
                status.reading_since = Some(now);
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
            (Sent::EchoSubscription, Outcome::Refused(_)) => {
                return Err(Broken::Forbidden { what: "subscribe to", topic: self.topics.echo() });
            }
            (Sent::EchoSubscription, Outcome::Acknowledged) => self.round_trip.subscribed(now),
            (Sent::Subscription(subscribed), outcome) => self.subscription_answered(subscribed, outcome),
            (Sent::Report(subject), outcome) => {
                self.reports.answered(subject, outcome, now);
                if let Outcome::Refused(refusal) = outcome {
                    self.denied(&self.topics.reported(subject), refusal, now);
                }
            }
            (Sent::Reply, outcome) => {
                // A broker answers in order (MQTT 5, 4.6).
                let topic = self.replies_in_flight.pop_front().unwrap_or_default();
                if let Outcome::Refused(refusal) = outcome {
                    self.context.forbidden.note_response(&topic, now);
                    self.complain("publish to", &topic, refusal);
                }
            }
            (Sent::Barrier, Outcome::Refused(refusal)) => {
                self.denied(&self.topics.barrier(), refusal, now);
            }
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

    fn subscription_answered(&mut self, subscribed: Subscribed, outcome: Outcome) {
        let topic = match subscribed {
            Subscribed::Desired(place) => {
                self.reading.subscribed();
                let Some((subject, source)) = self.topics.desired().nth(place) else { return };
                let topic = self.topics.desired_of(subject, &source);
                if let Outcome::Refused(_) = outcome {
                    self.unreadable.push((subject, source));
                }
                topic
            }
            Subscribed::Barrier => {
                self.reading.subscribed();
                self.topics.barrier()
            }
            Subscribed::Reported(subject) => {
                self.reading.subscribed();
                self.topics.reported(subject)
            }
            Subscribed::Requests => self.topics.all_requests(),
            Subscribed::Again | Subscribed::Ended => return,
        };
        if let Outcome::Refused(refusal) = outcome {
            self.complain("subscribe to", &topic, refusal);
        }
    }

    /// Publishes `offline`, takes the answers to what is in flight, and leaves: all of it if the broker answers
    /// at once, none of it if it does not.
    async fn say_farewell(&mut self, farewell: Farewell) {
        let payload = birth::offline(self.context.clock, farewell);
        let message = Message { topic: self.topics.status(), payload };
        let deadline = Instant::now() + FAREWELL_WITHIN;
        // Whoever told us to leave waits for the answer.
        let _the_link_is_gone = self.last_words();
        if publish(&self.link, &self.answers, Sent::Farewell, message, self.retain).is_ok() {
            let acknowledged = timeout_at(deadline, self.answers_until_farewell()).await.unwrap_or(false);
            if !acknowledged {
                warn!("the broker did not acknowledge our farewell; it will publish the will");
                return;
            }
        }
        self.link.disconnect(DISCONNECT_WITHIN).await;
    }

    /// Sends what control handed over before the end.
    fn last_words(&mut self) -> Result<(), Broken> {
        if self.connected.is_none() {
            return Ok(());
        }
        while let Ok(reply) = self.context.replies.try_recv() {
            self.reply(reply)?;
        }
        self.report(Instant::now())
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
