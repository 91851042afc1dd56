//! One MQTT 5 connection. The only module that names `rumqttc`.
//!
//! A [`Link`] is made for one TCP connection and thrown away with it, as the daemon's is: nothing is replayed by the
//! library. What was lost with a connection is found by reading everything anew.
//!
//! One task polls the library's event loop and hands over what comes, in order; whoever publishes never waits
//! (`try_…` only), so neither can hold up the other.
//!
//! # Ten thousand retained messages at once
//!
//! They come at QoS 1, and the Receive Maximum is the highest there is: a broker sends so many before the first is
//! acknowledged, and queues the rest. mosquitto bounds that queue (`max_queued_messages`, 1,000) and drops what is
//! beyond; at QoS 0 it does so from the first message on.

use std::{io, time::Duration};

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, PublishNoticeError, PublishOptions, PublishResult,
    StateError, SubscribeFilterInput, TlsConfiguration, TlsError, Transport,
    mqttbytes::{
        QoS,
        v5::{ConnectReturnCode, Packet, PubAckReason, RetainForwardRule, SubscribeReasonCode},
    },
};
use tidegate::config::Broker;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::credentials::Credentials;

/// Name, address, TLS handshake and CONNACK together.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// A dead broker is noticed after one and a half of it.
const KEEP_ALIVE_S: u16 = 30;
/// Largest packet that is taken: a document of the largest size that there may be (4 MiB) and its topic.
const MAX_PACKET_BYTES: u32 = (4 << 20) + (64 << 10);
/// Publishes whose acknowledgement is waited for, at most.
pub const WINDOW: usize = 256;
/// Requests beside publishes: subscriptions.
const SPARE_REQUESTS: usize = 16;
/// Events that wait to be taken; then reading from the broker stops.
const EVENTS: usize = 256;

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where.
    pub broker: Broker,
    /// Certificates and password.
    pub credentials: Credentials,
}

/// What comes over the connection, in order.
#[derive(Debug)]
pub enum Arrival {
    /// A message.
    Message {
        /// Whole topic.
        topic: String,
        /// Its bytes.
        payload: Bytes,
        /// It was retained, and came with the subscription (MQTT 5, 3.3.1.3); others happen now.
        retained: bool,
    },
    /// The answer to the oldest unanswered subscription: which of its filters are granted.
    Subscribed(Vec<bool>),
}

/// What became of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it.
    Acknowledged,
    /// The broker does not take it.
    Refused(String),
    /// The connection ended first: nobody knows.
    Unknown,
}

/// Why there is no connection, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The network: name, address, route, reset.
    #[error("{0}")]
    Network(String),
    /// TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// The broker answered, and refuses this client: trying again does not help.
    #[error("the broker refuses the connection: {0}")]
    Refused(String),
    /// A subscription is not granted: trying again does not help.
    #[error("the broker does not let this user read {0}; see docs/fleet.md for what it has to grant")]
    Forbidden(String),
    /// It did not answer in time.
    #[error("the broker did not answer within {} s", .0.as_secs())]
    Silent(Duration),
}

impl LinkError {
    /// Whether a person has to mend something before it can work.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Refused(_) | Self::Forbidden(_))
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Link {
    client: AsyncClient,
    arrivals: mpsc::Receiver<Arrival>,
    poller: AbortOnDropHandle<LinkError>,
}

impl Link {
    /// Connects, and returns once the broker accepted.
    ///
    /// # Errors
    ///
    /// [`LinkError`]
    pub async fn open(options: Options) -> Result<Self, LinkError> {
        let (client, mut event_loop) =
            AsyncClient::builder(library_options(options)).capacity(WINDOW + SPARE_REQUESTS).build();
        match timeout(CONNECT_WITHIN, event_loop.poll()).await {
            Ok(Ok(Event::Incoming(Packet::ConnAck(_)))) => {}
            Ok(Ok(other)) => return Err(LinkError::Network(format!("{other:?} instead of an answer to the connect"))),
            Ok(Err(error)) => return Err(explain(error)),
            Err(_) => return Err(LinkError::Silent(CONNECT_WITHIN)),
        }
        let (sender, arrivals) = mpsc::channel(EVENTS);
        Ok(Self { client, arrivals, poller: AbortOnDropHandle::new(tokio::spawn(drive(event_loop, sender))) })
    }

    /// Subscribes at QoS 1; the answer comes as [`Arrival::Subscribed`]. Retained messages come with it, or not.
    pub fn subscribe(&self, filters: &[String], retained: bool) {
        let rule = if retained { RetainForwardRule::OnEverySubscribe } else { RetainForwardRule::Never };
        let filters = filters
            .iter()
            .map(|filter| SubscribeFilterInput::new(filter, QoS::AtLeastOnce).retain_forward_rule(rule.clone()));
        // Where it cannot be queued the connection is over, which the next arrival says.
        let _over = self.client.try_subscribe_many(filters);
    }

    /// Publishes at QoS 1, retained. Nobody else may have more than [`WINDOW`] of these under way.
    pub fn publish(&self, topic: String, payload: Bytes) -> impl Future<Output = Outcome> + Send + use<> {
        let notice = self.client.try_publish_tracked(topic, payload, PublishOptions::at_least_once().retain(true));
        async move {
            match notice {
                Ok(notice) => outcome(&notice.wait_async().await),
                Err(_) => Outcome::Unknown,
            }
        }
    }

    /// What comes next, or why the connection ended. Cancelling loses nothing.
    ///
    /// # Errors
    ///
    /// [`LinkError`]; the connection is over then.
    pub async fn next(&mut self) -> Result<Arrival, LinkError> {
        match self.arrivals.recv().await {
            Some(arrival) => Ok(arrival),
            None => Err((&mut self.poller).await.unwrap_or_else(|ended| LinkError::Network(ended.to_string()))),
        }
    }
}

fn library_options(options: Options) -> MqttOptions {
    let Options { broker, credentials } = options;
    let client_id = format!("tidegate-fleet-{:08x}", fastrand::u32(..));
    let mut library = MqttOptions::new(client_id, (broker.host.clone(), broker.port));
    library
        .set_keep_alive(KEEP_ALIVE_S)
        .set_clean_start(true)
        .set_max_packet_size(Some(MAX_PACKET_BYTES))
        .set_receive_maximum(Some(u16::MAX))
        .set_outgoing_inflight_upper_limit(u16::try_from(WINDOW).unwrap_or(u16::MAX))
        .set_connect_timeout(CONNECT_WITHIN);
    if let Some((user, password)) = credentials.login {
        library.set_credentials(user, password);
    }
    if let Some(config) = credentials.tls {
        library.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    }
    // The library's own connector takes "host:port" as one text, which an IPv6 address breaks.
    library.set_socket_connector(move |_, _| {
        let broker = broker.clone();
        async move {
            let stream = TcpStream::connect((broker.host.as_str(), broker.port)).await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(stream)
        }
    });
    library
}

/// Polls the library until the connection ends.
async fn drive(mut event_loop: EventLoop, arrivals: mpsc::Sender<Arrival>) -> LinkError {
    loop {
        let arrival = match event_loop.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => Arrival::Message {
                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                payload: publish.payload,
                retained: publish.retain,
            },
            Ok(Event::Incoming(Packet::SubAck(answer))) => Arrival::Subscribed(
                answer.return_codes.iter().map(|code| matches!(code, SubscribeReasonCode::Success(_))).collect(),
            ),
            Ok(_) => continue,
            Err(error) => return explain(error),
        };
        if arrivals.send(arrival).await.is_err() {
            return LinkError::Network("nobody listens".to_owned());
        }
    }
}

fn outcome(answer: &Result<PublishResult, PublishNoticeError>) -> Outcome {
    let reason = match answer {
        Ok(PublishResult::Qos1(answer)) => answer.reason,
        Err(PublishNoticeError::V5PubAck(reason)) => *reason,
        Err(PublishNoticeError::RetainNotSupported) => {
            return Outcome::Refused("it keeps no retained messages".to_owned());
        }
        Ok(_) | Err(_) => return Outcome::Unknown,
    };
    match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Outcome::Acknowledged,
        PubAckReason::NotAuthorized => Outcome::Refused("this user may not publish there".to_owned()),
        other => Outcome::Refused(format!("{other:?}")),
    }
}

fn explain(error: ConnectionError) -> LinkError {
    match error {
        ConnectionError::Timeout(_) => LinkError::Silent(CONNECT_WITHIN),
        ConnectionError::Tls(TlsError::TLS(error)) => LinkError::Tls(error.to_string()),
        // A broker that goes down breaks handshakes off, too.
        ConnectionError::Io(error)
        | ConnectionError::Tls(TlsError::Io(error))
        | ConnectionError::MqttState(StateError::Io(error)) => explain_io(&error),
        ConnectionError::Tls(error) => LinkError::Tls(error.to_string()),
        ConnectionError::MqttState(StateError::Deserialization(rumqttc::mqttbytes::Error::Io(error))) => {
            explain_io(&error)
        }
        ConnectionError::ConnectionRefused(code) => refused(code),
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            LinkError::Network("the connection was closed".to_owned())
        }
        other => LinkError::Network(other.to_string()),
    }
}

/// TLS 1.3 brings the broker's verdict on our certificate after the handshake, inside an I/O error.
fn explain_io(error: &io::Error) -> LinkError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => LinkError::Tls(tls.to_string()),
        None => LinkError::Network(error.to_string()),
    }
}

fn refused(code: ConnectReturnCode) -> LinkError {
    LinkError::Refused(match code {
        ConnectReturnCode::BadUserNamePassword => {
            "wrong user name or password: see --user and --password-file".to_owned()
        }
        ConnectReturnCode::NotAuthorized => "not authorized: see --user, --password-file, --cert and --key".to_owned(),
        ConnectReturnCode::RefusedProtocolVersion | ConnectReturnCode::UnsupportedProtocolVersion => {
            "it does not speak MQTT version 5".to_owned()
        }
        // It is busy, or goes down: it may be back.
        ConnectReturnCode::ServerUnavailable
        | ConnectReturnCode::ServerBusy
        | ConnectReturnCode::ServiceUnavailable => {
            return LinkError::Network(format!("the broker is not available ({code:?})"));
        }
        other => format!("{other:?}"),
    })
}
