//! A client that publishes: the operator who says what a gateway should be, and whoever means it ill.

use std::{
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rumqttc::mqttbytes::{
    QoS,
    v5::{
        Connect, ConnectAuth, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode, Packet, PubAck,
        PubAckReason, Publish, PublishProperties, Subscribe, SubscribeFilter,
    },
};

use super::{
    Broker,
    wire::{Message, Wire},
};
use crate::Netns;

/// For the broker to answer: 9 MiB through a loopback, on a machine that is busy.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often a wait looks at its deadline.
const TICK: Duration = Duration::from_millis(20);

/// A message to publish, with what MQTT 5 can say of it.
#[derive(Clone, Debug)]
pub struct Post {
    topic: String,
    payload: Bytes,
    retain: bool,
    properties: PublishProperties,
}

impl Post {
    /// To a topic. An empty payload that is retained clears the topic.
    #[must_use]
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        let properties = PublishProperties::default();
        Self { topic: topic.into(), payload: payload.into(), retain: false, properties }
    }

    /// The broker is to keep it.
    #[must_use]
    pub const fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    /// Where an answer is to go.
    #[must_use]
    pub fn respond_to(mut self, topic: impl Into<String>) -> Self {
        self.properties.response_topic = Some(topic.into());
        self
    }

    /// What the answer is to carry back.
    #[must_use]
    pub fn correlation(mut self, data: impl Into<Bytes>) -> Self {
        self.properties.correlation_data = Some(data.into());
        self
    }

    /// A user property: `("user", "anna")` says who asks.
    #[must_use]
    pub fn property(mut self, name: &str, value: &str) -> Self {
        self.properties.user_properties.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// One connection to a broker that publishes, and reads the answers to its requests. It does not connect again: whoever
/// restarts the broker makes another one.
#[derive(Debug)]
pub struct Publisher {
    wire: Wire,
    id: String,
    packet_id: u16,
    requests: u64,
    answers_to: Option<String>,
}

impl Publisher {
    /// Connects to a broker without users.
    ///
    /// # Panics
    ///
    /// Where the broker does not accept.
    #[must_use]
    #[track_caller]
    pub fn connect(broker: &Broker) -> Self {
        Self::inside(broker.namespace(), broker.port())
    }

    /// The same, at whatever broker listens on a loopback port, of the host or of a namespace.
    ///
    /// # Panics
    ///
    /// Where it does not accept.
    #[must_use]
    #[track_caller]
    pub fn inside(namespace: Option<&Netns>, port: u16) -> Self {
        Self::with(namespace, port, ConnectAuth::None)
    }

    /// Connects as a user.
    ///
    /// # Panics
    ///
    /// Where the broker does not accept.
    #[must_use]
    #[track_caller]
    pub fn connect_as(broker: &Broker, user: &str, password: &str) -> Self {
        let password = Bytes::copy_from_slice(password.as_bytes());
        Self::with(
            broker.namespace(),
            broker.port(),
            ConnectAuth::UsernamePassword { username: user.to_owned(), password },
        )
    }

    #[track_caller]
    fn with(namespace: Option<&Netns>, port: u16, auth: ConnectAuth) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("publisher-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(5));
        let stream = namespace.map_or_else(connect, |namespace| namespace.enter(connect));
        let wire = stream.and_then(|stream| Wire::new(stream, TICK));
        let wire = wire.unwrap_or_else(|error| panic!("connect to the broker: {error}"));
        let mut publisher = Self { wire, id, packet_id: 0, requests: 0, answers_to: None };
        let connect = Connect {
            // None would suit a client that is silent for as long as it likes; rumqttd takes no client without one.
            keep_alive: u16::MAX,
            client_id: publisher.id.clone(),
            clean_start: true,
            properties: Some(ConnectProperties::default()),
        };
        publisher.send(&Packet::Connect(connect, None, auth));
        let code = publisher.until("the broker accepts", DEADLINE, |packet| match packet {
            Packet::ConnAck(answer) => Some(answer.code),
            _ => None,
        });
        assert_eq!(code, ConnectReturnCode::Success, "the broker refused the publisher");
        publisher
    }

    /// Publishes at `QoS` 1, and waits for the broker's answer; access lists of mosquitto refuse by it.
    ///
    /// # Panics
    ///
    /// Where none comes.
    #[track_caller]
    pub fn post(&mut self, post: Post) -> PubAckReason {
        let id = self.next_packet_id();
        self.write(post, QoS::AtLeastOnce, id);
        self.until("the broker answers a publish", DEADLINE, |packet| match packet {
            Packet::PubAck(ack) if ack.pkid == id => Some(ack.reason),
            _ => None,
        })
    }

    /// Publishes a retained message at `QoS` 1: how desired state is set.
    ///
    /// # Panics
    ///
    /// Where the broker does not take it.
    #[track_caller]
    pub fn retain(&mut self, topic: impl Into<String>, payload: impl Into<Bytes>) {
        let reason = self.post(Post::new(topic, payload).retained());
        assert!(matches!(reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers), "{reason:?}");
    }

    /// Clears what is retained: how desired state is withdrawn.
    ///
    /// # Panics
    ///
    /// Where the broker does not take it.
    #[track_caller]
    pub fn clear(&mut self, topic: impl Into<String>) {
        self.retain(topic, Bytes::new());
    }

    /// Publishes at `QoS` 0, as fast as the broker reads.
    ///
    /// # Panics
    ///
    /// Where the connection is over.
    #[track_caller]
    pub fn shout(&mut self, post: Post) {
        self.write(post, QoS::AtMostOnce, 0);
    }

    /// Sends a request to `ROOT/ID/cmd/NAME`, and returns its answer, which comes to `ROOT/ID/response/…`.
    ///
    /// # Panics
    ///
    /// Where none comes in time, or one with other correlation data.
    #[track_caller]
    pub fn request(&mut self, topic: &str, payload: impl Into<Bytes>) -> Message {
        self.request_in_parts(Post::new(topic, payload), |_| true).remove(0)
    }

    /// Sends a request whose answer comes in parts, and returns all up to the one that is the `last`.
    ///
    /// # Panics
    ///
    /// As [`Self::request`].
    #[track_caller]
    pub fn request_in_parts(&mut self, post: Post, last: impl Fn(&Message) -> bool) -> Vec<Message> {
        let correlation = Bytes::from(format!("{}/{}", self.id, self.requests));
        self.requests += 1;
        let response = self.answers_to(&post.topic);
        let packet_id = self.next_packet_id();
        self.write(post.respond_to(&response).correlation(correlation.clone()), QoS::AtLeastOnce, packet_id);
        let mut parts: Vec<Message> = Vec::new();
        while !parts.last().is_some_and(&last) {
            let answer = self.until("an answer", DEADLINE, |packet| match packet {
                Packet::Publish(publish) if publish.topic == response.as_bytes() => Some(publish),
                _ => None,
            });
            let data = answer.properties.as_ref().and_then(|properties| properties.correlation_data.clone());
            assert_eq!(data, Some(correlation.clone()), "an answer carries the correlation data of its request");
            parts.push(Message::from(&answer));
        }
        parts
    }

    /// Subscribes to where the answers of this gateway go.
    #[track_caller]
    fn answers_to(&mut self, request: &str) -> String {
        let (gateway, _command) = request.rsplit_once("/cmd/").expect("requests go to ROOT/ID/cmd/NAME");
        let response = format!("{gateway}/response/{}", self.id);
        if self.answers_to.as_ref() != Some(&response) {
            let mut subscribe = Subscribe::new(SubscribeFilter::new(response.clone(), QoS::AtLeastOnce), None);
            subscribe.pkid = self.next_packet_id();
            self.send(&Packet::Subscribe(subscribe));
            self.until("the subscription to answers is granted", DEADLINE, |packet| {
                matches!(packet, Packet::SubAck(_)).then_some(())
            });
            self.answers_to = Some(response.clone());
        }
        response
    }

    #[track_caller]
    fn write(&mut self, post: Post, qos: QoS, packet_id: u16) {
        let Post { topic, payload, retain, properties } = post;
        let properties = (properties != PublishProperties::default()).then_some(properties);
        let publish = Publish { retain, pkid: packet_id, ..Publish::new(topic, qos, payload, properties) };
        self.send(&Packet::Publish(publish));
    }

    #[track_caller]
    fn send(&mut self, packet: &Packet) {
        self.wire.write(packet).unwrap_or_else(|error| panic!("write to the broker: {error}"));
    }

    fn next_packet_id(&mut self) -> u16 {
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        self.packet_id
    }

    /// Reads until a packet is what is wanted; what is not is acknowledged, and forgotten.
    #[track_caller]
    fn until<T>(&mut self, what: &str, deadline: Duration, wanted: impl Fn(Packet) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            let packet = self.wire.read().unwrap_or_else(|error| panic!("{what}: {error}"));
            if let Some(Packet::Publish(Publish { qos: QoS::AtLeastOnce, pkid, .. })) = packet {
                self.send(&Packet::PubAck(PubAck::new(pkid, None)));
            }
            if let Some(found) = packet.and_then(&wanted) {
                return found;
            }
            assert!(started.elapsed() < deadline, "not within {deadline:?}: {what}");
        }
    }
}

/// Ends the connection in order, so that the broker does not log an error.
impl Drop for Publisher {
    fn drop(&mut self) {
        let leave = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
        let _already_gone = self.wire.write(&Packet::Disconnect(leave));
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::{need, requires};

    /// The other side of a request: answers the first one with `parts` messages to where it says.
    fn answer(port: u16, parts: usize) -> thread::JoinHandle<Vec<(String, String)>> {
        let mut wire = Wire::new(TcpStream::connect(("127.0.0.1", port)).unwrap(), DEADLINE).unwrap();
        let connect = Connect { keep_alive: 0, client_id: "gw".to_owned(), clean_start: true, properties: None };
        wire.write(&Packet::Connect(connect, None, ConnectAuth::None)).unwrap();
        let mut subscribe = Subscribe::new(SubscribeFilter::new("r/gw/cmd/+", QoS::AtMostOnce), None);
        subscribe.pkid = 1;
        wire.write(&Packet::Subscribe(subscribe)).unwrap();
        while !matches!(wire.read().unwrap(), Some(Packet::SubAck(_))) {}
        thread::spawn(move || {
            loop {
                let Some(Packet::Publish(request)) = wire.read().unwrap() else { continue };
                let PublishProperties { response_topic, correlation_data, user_properties, .. } =
                    request.properties.unwrap();
                for part in 0..parts {
                    let properties =
                        PublishProperties { correlation_data: correlation_data.clone(), ..Default::default() };
                    let topic = response_topic.clone().unwrap();
                    let publish = Publish::new(topic, QoS::AtMostOnce, format!("part {part}"), Some(properties));
                    wire.write(&Packet::Publish(publish)).unwrap();
                }
                return user_properties;
            }
        })
    }

    #[test]
    fn a_request_gets_all_parts_of_the_answer_that_carries_its_correlation_data() {
        requires!(need::program("mosquitto"));
        let broker = Broker::start();
        let other_side = answer(broker.port(), 3);
        let mut publisher = Publisher::connect(&broker);
        let request = Post::new("r/gw/cmd/count", "{}").property("user", "anna");
        let parts = publisher.request_in_parts(request, |part| part.payload == "part 2");
        assert_eq!(parts.len(), 3);
        assert_eq!(other_side.join().unwrap(), [("user".to_owned(), "anna".to_owned())]);
    }
}
