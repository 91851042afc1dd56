//! One MQTT 5 connection. The only module that names `rumqttc`.
//!
//! # Shape
//!
//! A [`Connection`] is made for one TCP connection and thrown away with it: nothing is replayed by the library,
//! because the spool is the session's memory. What is not acknowledged when a connection ends is read from the
//! spool again. That leaves out, by construction, what makes `rumqttc` lose or repeat messages when a broker
//! comes back without the session: its own queue of unacknowledged publishes.
//!
//! One task polls the library's event loop and does nothing else; it never waits for whoever publishes, and
//! whoever publishes never waits for it (`try_publish` only). Dropping the [`Connection`] ends the task.
//!
//! # The session
//!
//! The broker is asked to keep the session (`clean start` = 0), for the messages it queues for us. The library
//! refuses a session that it did not make itself, and offers to restore one from a store: [`SpoolIsTheStore`]
//! tells it that nothing was in flight. For a client of QoS 1 this is sound: the broker keeps no state for what
//! it has acknowledged, and what it has not comes again as a new PUBLISH.

use std::{error::Error as _, io, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ClientError, ConnectionError, Event, EventLoop, LastWill, MqttOptions, Outgoing, PersistedAckMode,
    PersistedSession, PublishNoticeError, PublishOptions, PublishResult, SessionStore, SessionStoreError,
    SessionStoreKey, StateError, SubscribeFilterInput, SubscribeNoticeError, TlsConfiguration, TlsError, Transport,
    mqttbytes::{
        QoS,
        v5::{ConnAck, ConnectReturnCode, DisconnectReasonCode, Packet, PubAckReason, Publish, PublishProperties},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    arrivals::{Arrival, Arrivals, Returned},
    login::Login,
    net,
    refusal::Refusal,
};
use crate::{
    config::Broker,
    control::link::Subject,
    credentials::{self, BROKER, CredentialError},
    task,
};

/// Name, address, TLS handshake and CONNACK together: a TLS handshake over a modem takes a few seconds.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// Maximum Packet Size that is announced (design, MQTT): a broker discards what is larger.
const MAX_INCOMING_PACKET_BYTES: u32 = 8 << 20;

/// Our own messages that came back and wait for the session: it has sent one of each kind at most.
const RETURNED: usize = 4;

/// From this size on, a packet's buffer is not the library's to keep.
const LARGE_PACKET_BYTES: usize = 64 << 10;

/// Requests beside the records in flight: birth, will's counterpart, nonces, reports, answers, and subscriptions: 16 groups
/// and the gateway itself, for each subject, each with its own verdict.
const SPARE_REQUESTS: usize = 128;
const _: () = assert!(SPARE_REQUESTS > 32 + 17 * Subject::ALL.len());

/// Publishes that the library writes before it flushes: one system call for many small records.
const WRITE_BATCH: usize = 64;

/// Packets that the library reads before it hands them over. One: it stops at each PUBACK anyhow, and a hostile
/// broker can then make us hold one packet of the maximum size, not a batch of them.
const READ_BATCH: usize = 1;

/// Receive Maximum announced: QoS 1 messages that the broker may send us before we acknowledge.
const RECEIVE_MAXIMUM: u16 = 16;

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Whole topic.
    pub(super) topic: String,
    /// Payload.
    pub(super) payload: Bytes,
}

impl Message {
    /// Bytes of the PUBLISH packet at QoS 1 without properties (MQTT 5, 3.3).
    pub(super) fn packet_bytes(&self) -> usize {
        let (topic_length, packet_identifier, no_properties) = (2, 2, 1);
        let remaining = topic_length + self.topic.len() + packet_identifier + no_properties + self.payload.len();
        let remaining_length = match remaining {
            0..0x80 => 1,
            0x80..0x4000 => 2,
            0x4000..0x0020_0000 => 3,
            _ => 4,
        };
        1 + remaining_length + remaining
    }
}

/// How to connect.
#[derive(Debug)]
pub(super) struct Options {
    /// Client identifier: the gateway's id.
    pub(super) client_id: String,
    /// Where.
    pub(super) broker: Broker,
    /// Certificates and password.
    pub(super) login: Login,
    /// Keep-alive.
    pub(super) keep_alive: Duration,
    /// How long the broker keeps the session.
    pub(super) session_expiry: Duration,
    /// Published by the broker, retained, when we vanish.
    pub(super) will: Message,
    /// Takes what the broker sends.
    pub(super) arrivals: Arc<Arrivals>,
    /// Publishes at QoS 1 before the first is acknowledged, at most.
    pub(super) max_in_flight: u16,
}

/// What the broker granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// It still had our session.
    pub(super) session_present: bool,
    /// Publishes at QoS 1 before the first is acknowledged, at most.
    pub(super) receive_maximum: u16,
    /// Largest packet it takes.
    pub(super) max_packet_bytes: usize,
    /// Whether it keeps retained messages.
    pub(super) retain: bool,
    /// Its keep-alive where it sets one, else ours.
    pub(super) keep_alive: Duration,
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The broker has it.
    Acknowledged,
    /// The broker answered that it does not take it.
    Refused(Refusal),
    /// The connection ended first: nobody knows.
    Unknown,
}

/// What the broker does with what comes for us while we are not connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhileAway {
    /// Nothing (`QoS` 0): our own echo is of no use to a later connection.
    Forget,
    /// It queues it, as far as it keeps the session (`QoS` 1).
    Keep,
}

/// Why a publish was not even tried; the message comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    /// The connection is over or its queue is full.
    Closed,
    /// The topic is not one that can be published to.
    BadTopic,
}

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// Files that `[mqtt]` names cannot be used. Passes when they are mended.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The network: name, address, route, reset.
    #[error("{0}")]
    Network(String),
    /// TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// The broker answered, and refused the connection.
    #[error("the broker refused the connection: {0}")]
    Refused(String),
    /// The broker ended the connection, for a reason of its own.
    #[error("the broker ended the connection: {0}")]
    Ended(String),
    /// The broker ended the connection because of what it was sent.
    #[error("the broker ended the connection over what it was sent: {0}")]
    Objected(String),
    /// It did not answer in time.
    #[error("the broker did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// It does not keep to the protocol.
    #[error("the broker does not keep to MQTT 5: {0}")]
    Protocol(String),
}

impl LinkError {
    /// Whether it may be about a record that was sent: the broker says so, or its answer was not one of MQTT 5.
    pub(super) const fn is_objection(&self) -> bool {
        matches!(self, Self::Objected(_) | Self::Protocol(_))
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    client: AsyncClient,
    returned: mpsc::Receiver<Returned>,
    arrivals: Arc<Arrivals>,
    poller: AbortOnDropHandle<LinkError>,
}

impl Connection {
    /// Connects, and returns once the broker accepted.
    ///
    /// # Errors
    ///
    /// See [`LinkError`].
    pub(super) async fn open(options: Options) -> Result<(Self, Granted), LinkError> {
        let arrivals = Arc::clone(&options.arrivals);
        // Whoever respects `max_in_flight` never finds the queue full.
        let requests = usize::from(options.max_in_flight) + SPARE_REQUESTS;
        let (client, event_loop) = AsyncClient::builder(library_options(options)).capacity(requests).build();
        let (granted, accepted) = oneshot::channel();
        let (came_back, returned) = mpsc::channel(RETURNED);
        let driver = Driver { arrivals: Arc::clone(&arrivals), came_back, granted: Some(granted), last_large: None };
        let poller = AbortOnDropHandle::new(task::spawn(driver.run(event_loop)));
        let mut connection = Self { client, returned, arrivals, poller };
        match accepted.await {
            Ok(granted) => Ok((connection, granted)),
            Err(_) => Err(connection.closed().await),
        }
    }

    /// Publishes at QoS 1 without waiting; the future resolves with the broker's answer.
    ///
    /// # Errors
    ///
    /// [`NotSent`].
    pub(super) fn publish(
        &self,
        message: Message,
        retain: bool,
    ) -> Result<impl Future<Output = Outcome> + Send + use<>, NotSent> {
        self.publish_with(message, PublishOptions::at_least_once().retain(retain))
    }

    /// Publishes the answer to a request, which carries back what that one brought.
    ///
    /// # Errors
    ///
    /// [`NotSent`].
    pub(super) fn reply(
        &self,
        message: Message,
        correlation_data: Option<Bytes>,
    ) -> Result<impl Future<Output = Outcome> + Send + use<>, NotSent> {
        let properties = PublishProperties { correlation_data, ..PublishProperties::default() };
        self.publish_with(message, PublishOptions::at_least_once().properties(properties))
    }

    fn publish_with(
        &self,
        message: Message,
        options: PublishOptions,
    ) -> Result<impl Future<Output = Outcome> + Send + use<>, NotSent> {
        match self.client.try_publish_tracked(message.topic, message.payload, options) {
            Ok(notice) => Ok(async move { outcome(&notice.wait_async().await) }),
            Err(error) => Err(not_sent(&error)),
        }
    }

    /// Subscribes without waiting. The future resolves with whether the broker grants it.
    ///
    /// # Errors
    ///
    /// [`NotSent`].
    pub(super) fn subscribe(
        &self,
        filter: &str,
        away: WhileAway,
    ) -> Result<impl Future<Output = Outcome> + Send + use<>, NotSent> {
        let qos = match away {
            WhileAway::Forget => QoS::AtMostOnce,
            WhileAway::Keep => QoS::AtLeastOnce,
        };
        // With Retain As Published, whoever sets the retain flag is known also while we listen.
        let filter = SubscribeFilterInput::new(filter, qos).preserve_retain(true);
        match self.client.try_subscribe_many_tracked([filter]) {
            Ok(notice) => Ok(async move {
                match notice.wait_completion_async().await {
                    Ok(()) => Outcome::Acknowledged,
                    Err(SubscribeNoticeError::V5SubAckFailure(_)) => Outcome::Refused(Refusal::NotAuthorized),
                    Err(_) => Outcome::Unknown,
                }
            }),
            Err(error) => Err(not_sent(&error)),
        }
    }

    /// Ends a subscription without waiting; that there was none is no failure.
    ///
    /// # Errors
    ///
    /// [`NotSent`].
    pub(super) fn unsubscribe(&self, filter: &str) -> Result<impl Future<Output = Outcome> + Send + use<>, NotSent> {
        match self.client.try_unsubscribe_tracked(filter) {
            Ok(notice) => Ok(async move {
                match notice.wait_async().await {
                    Ok(_) => Outcome::Acknowledged,
                    Err(_) => Outcome::Unknown,
                }
            }),
            Err(error) => Err(not_sent(&error)),
        }
    }

    /// Our next message that came back, or why the connection ended. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> Result<Returned, LinkError> {
        match self.returned.recv().await {
            Some(returned) => Ok(returned),
            None => Err(self.closed().await),
        }
    }

    /// Where everything else that comes goes.
    pub(super) fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// Sends DISCONNECT (normal: the will is not published) and ends the connection.
    pub(super) async fn disconnect(&mut self, within: Duration) {
        if self.client.try_disconnect_now().is_ok() {
            let _late = timeout(within, &mut self.poller).await;
        }
    }

    async fn closed(&mut self) -> LinkError {
        match (&mut self.poller).await {
            Ok(error) => error,
            Err(ended) => LinkError::Network(format!("the MQTT library failed: {ended}")),
        }
    }
}

fn library_options(options: Options) -> MqttOptions {
    let Options { client_id, broker, login, keep_alive, session_expiry, will, max_in_flight, arrivals: _ } = options;
    let mut library = MqttOptions::new(client_id, (broker.host.clone(), broker.port));
    let keep_alive_s = u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX).max(1);
    library
        .set_keep_alive(keep_alive_s)
        .set_clean_start(false)
        .set_session_store(SpoolIsTheStore { max_in_flight })
        .set_session_expiry_interval(Some(u32::try_from(session_expiry.as_secs()).unwrap_or(u32::MAX)))
        .set_max_packet_size(Some(MAX_INCOMING_PACKET_BYTES))
        .set_receive_maximum(Some(RECEIVE_MAXIMUM))
        .set_outgoing_inflight_upper_limit(max_in_flight)
        .set_max_request_batch(WRITE_BATCH)
        .set_read_batch_size(READ_BATCH)
        .set_connect_timeout(CONNECT_WITHIN)
        .set_last_will(LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, true, None));
    if let Some((user, password)) = login.user {
        library.set_credentials(user, password);
    }
    if let Some(config) = login.tls {
        library.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    }
    // The library's own connector takes "host:port" as one text, which an IPv6 address breaks.
    library.set_socket_connector(move |_, _| {
        let broker = broker.clone();
        async move { net::connect(&broker, keep_alive).await }
    });
    library
}

/// Polls the library until the connection ends.
struct Driver {
    arrivals: Arc<Arrivals>,
    came_back: mpsc::Sender<Returned>,
    granted: Option<oneshot::Sender<Granted>>,
    /// A part of the last large packet, until the next one has come. The library reads on in the same memory where nobody else
    /// holds it, and would keep 8 MiB for as long as the connection lasts; held, it takes a small new buffer instead.
    last_large: Option<Bytes>,
}

impl Driver {
    async fn run(mut self, mut event_loop: EventLoop) -> LinkError {
        loop {
            let event = event_loop.poll().await;
            if matches!(event, Ok(Event::Incoming(_))) {
                self.last_large = None;
            }
            match event {
                Ok(Event::Incoming(Packet::ConnAck(answer))) => {
                    // Its job is done, and with a store the library would copy what is in flight at each write.
                    event_loop.options.clear_session_store();
                    if answer.properties.as_ref().is_some_and(|properties| properties.max_qos == Some(0)) {
                        return LinkError::Protocol("it takes only QoS 0, and acknowledges nothing then".to_owned());
                    }
                    if let Some(granted) = self.granted.take() {
                        let _abandoned = granted.send(what_is_granted(&answer, event_loop.options.keep_alive()));
                    }
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => self.receive(&publish),
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return LinkError::Ended("we left".to_owned()),
                Ok(_) => {}
                Err(error) => return explain(error),
            }
        }
    }

    fn receive(&mut self, publish: &Publish) {
        let properties = publish.properties.as_ref();
        let user = properties.and_then(|all| all.user_properties.iter().find(|(name, _)| name == "user"));
        let arrival = Arrival {
            // The library lets no other topic through (MQTT 5, 1.5.4).
            topic: str::from_utf8(&publish.topic).unwrap_or_default(),
            payload: &publish.payload,
            retained: publish.retain,
            response_topic: properties.and_then(|all| all.response_topic.as_deref()),
            correlation_data: properties.and_then(|all| all.correlation_data.as_deref()),
            user: user.map(|(_, name)| name.as_str()),
        };
        if let Some(returned) = self.arrivals.receive(arrival) {
            // Never full: each nonce comes back once, and the session waits for one of a kind.
            let _session_ended = self.came_back.try_send(returned);
        }
        if publish.payload.len() > LARGE_PACKET_BYTES {
            self.last_large = Some(publish.topic.clone());
        }
    }
}

const fn not_sent(error: &ClientError) -> NotSent {
    if matches!(error, ClientError::InvalidRequest(_)) { NotSent::BadTopic } else { NotSent::Closed }
}

fn what_is_granted(answer: &ConnAck, keep_alive: Duration) -> Granted {
    let properties = answer.properties.as_ref();
    Granted {
        session_present: answer.session_present,
        receive_maximum: properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX),
        max_packet_bytes: properties
            .and_then(|properties| properties.max_packet_size)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(usize::MAX),
        retain: properties.and_then(|properties| properties.retain_available) != Some(0),
        keep_alive,
    }
}

fn outcome(answer: &Result<PublishResult, PublishNoticeError>) -> Outcome {
    let reason = match answer {
        Ok(PublishResult::Qos1(answer)) => answer.reason,
        Err(PublishNoticeError::V5PubAck(reason)) => *reason,
        Ok(_) | Err(_) => return Outcome::Unknown,
    };
    Outcome::Refused(match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => return Outcome::Acknowledged,
        PubAckReason::UnspecifiedError | PubAckReason::ImplementationSpecificError => Refusal::Unspecified,
        PubAckReason::NotAuthorized => Refusal::NotAuthorized,
        PubAckReason::TopicNameInvalid => Refusal::TopicNameInvalid,
        PubAckReason::PacketIdentifierInUse => Refusal::PacketIdentifierInUse,
        PubAckReason::QuotaExceeded => Refusal::QuotaExceeded,
        PubAckReason::PayloadFormatInvalid => Refusal::PayloadFormatInvalid,
    })
}

fn explain(error: ConnectionError) -> LinkError {
    match error {
        ConnectionError::Timeout(_) => LinkError::Silent(CONNECT_WITHIN),
        ConnectionError::Tls(TlsError::Io(error)) => match explain_io(&error) {
            LinkError::Network(text) => {
                LinkError::Tls(format!("the handshake broke off ({text}); does the broker speak TLS on this port?"))
            }
            other => other,
        },
        ConnectionError::Io(error) | ConnectionError::MqttState(StateError::Io(error)) => explain_io(&error),
        ConnectionError::MqttState(StateError::Deserialization(rumqttc::mqttbytes::Error::Io(error))) => {
            explain_io(&error)
        }
        ConnectionError::Tls(TlsError::TLS(error)) => LinkError::Tls(credentials::explain(&BROKER, &error)),
        ConnectionError::Tls(error) => LinkError::Tls(error.to_string()),
        ConnectionError::ConnectionRefused(code) => LinkError::Refused(refusal_of_connect(code)),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let detail = reason_string.map(|text| format!(" ({text})")).unwrap_or_default();
            let text = format!("{reason_code:?}{detail}");
            if is_about_a_packet(reason_code) { LinkError::Objected(text) } else { LinkError::Ended(text) }
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            LinkError::Network("the connection was closed".to_owned())
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => {
            LinkError::Network("a ping was not answered".to_owned())
        }
        // Bytes that are no packet of MQTT 5: how mosquitto 2.0 answers a record beyond its `message_size_limit`.
        ConnectionError::MqttState(error @ StateError::Deserialization(_)) => LinkError::Protocol(error.to_string()),
        other => LinkError::Network(other.to_string()),
    }
}

/// The other reasons are about the session or the broker itself: taken over, shutting down, too many connections, its
/// own disk full (0x80 and 0x83). They must not cost a record.
const fn is_about_a_packet(reason: DisconnectReasonCode) -> bool {
    matches!(
        reason,
        DisconnectReasonCode::MalformedPacket
            | DisconnectReasonCode::ProtocolError
            | DisconnectReasonCode::TopicNameInvalid
            | DisconnectReasonCode::PacketTooLarge
            | DisconnectReasonCode::PayloadFormatInvalid
    )
}

/// TLS 1.3 brings the broker's verdict on our certificate after the handshake, inside an I/O error.
fn explain_io(error: &io::Error) -> LinkError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner.or_else(|| error.source().and_then(|source| source.downcast_ref())) {
        Some(tls_error) => LinkError::Tls(credentials::explain(&BROKER, tls_error)),
        None => LinkError::Network(error.to_string()),
    }
}

fn refusal_of_connect(code: ConnectReturnCode) -> String {
    let meaning = match code {
        ConnectReturnCode::BadUserNamePassword => "wrong user name or password: see [mqtt] user and password_file",
        ConnectReturnCode::NotAuthorized => {
            "this gateway is not authorized: see the broker's users and [mqtt] user, password_file, cert"
        }
        ConnectReturnCode::BadClientId | ConnectReturnCode::ClientIdentifierNotValid => {
            "it does not accept [gateway] id as a client identifier"
        }
        ConnectReturnCode::RefusedProtocolVersion | ConnectReturnCode::UnsupportedProtocolVersion => {
            "it does not speak MQTT version 5"
        }
        ConnectReturnCode::RetainNotSupported => "it keeps no retained messages, which the status needs",
        ConnectReturnCode::QoSNotSupported => "it does not support QoS 1",
        _ => return format!("{code:?}"),
    };
    format!("{meaning} ({code:?})")
}

/// Tells the library that it knows this session, and that nothing of it was in flight.
#[derive(Debug)]
struct SpoolIsTheStore {
    max_in_flight: u16,
}

type StoreAnswer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

impl SessionStore for SpoolIsTheStore {
    fn load<'a>(&'a self, key: &'a SessionStoreKey) -> StoreAnswer<'a, Option<PersistedSession>> {
        let session = PersistedSession {
            format_version: 1,
            client_id: key.client_id().to_owned(),
            clean_start: false,
            session_expiry_interval: None,
            outgoing_inflight_upper_limit: Some(self.max_in_flight),
            ack_mode: PersistedAckMode::Automatic,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(async { Ok(Some(session)) })
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> StoreAnswer<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> StoreAnswer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests;
