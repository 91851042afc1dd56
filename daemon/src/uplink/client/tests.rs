//! A connection against a broker that says what a script tells it, in bytes.

use std::future::Future;

use rumqttc::mqttbytes::v5::Publish;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::{
    control::{
        inbox::{Inbox, inbox},
        link::{Incoming, MAX_CONFIG_BYTES, Payload, Request, Source},
    },
    uplink::topics::Topics,
};

const SOON: Duration = Duration::from_secs(10);

/// CONNACK (MQTT 5, 3.2) with success.
const ACCEPTED: [u8; 5] = [0x20, 3, 0, 0, 0];

fn options(port: u16, inbox: Inbox) -> Options {
    Options {
        client_id: "gw-7".to_owned(),
        broker: Broker { host: "127.0.0.1".to_owned(), port, tls: false },
        login: Login::default(),
        keep_alive: Duration::from_secs(10),
        session_expiry: Duration::from_hours(1),
        will: message("r/gw-7/status", "{}"),
        arrivals: Arc::new(Arrivals::new(&Topics::new("r", "gw-7", &[]), inbox)),
        max_in_flight: 8,
    }
}

fn message(topic: &str, payload: &str) -> Message {
    Message { topic: topic.to_owned(), payload: Bytes::from(payload.to_owned()) }
}

/// Reads one packet: first byte and body.
async fn packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let first = stream.read_u8().await.unwrap();
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await.unwrap();
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (first, body)
}

/// The broker reads CONNECT and answers with `answer`, then does what `script` says and keeps the connection.
async fn against<F: Future<Output = TcpStream> + Send + 'static>(
    answer: &[u8],
    script: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> Result<(Connection, Granted), LinkError> {
    let (inbox, _) = inbox();
    against_with(inbox, answer, script).await
}

async fn against_with<F: Future<Output = TcpStream> + Send + 'static>(
    inbox: Inbox,
    answer: &[u8],
    script: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> Result<(Connection, Granted), LinkError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = answer.to_vec();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_eq!(packet(&mut stream).await.0, 0x10, "CONNECT comes first");
        stream.write_all(&answer).await.unwrap();
        let _held_open = script(stream).await;
        std::future::pending::<()>().await;
    });
    timeout(SOON, Connection::open(options(port, inbox))).await.expect("connecting does not hang")
}

async fn silent(stream: TcpStream) -> TcpStream {
    stream
}

/// A PUBLISH at `QoS` 0 to us.
fn publish_to_us(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x30, u8::try_from(2 + topic.len() + 1 + payload.len()).unwrap(), 0];
    bytes.push(u8::try_from(topic.len()).unwrap());
    bytes.extend_from_slice(topic.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads PUBLISH packets for ever and answers each with `reason`.
async fn answer_publishes(mut stream: TcpStream, reason: u8) -> TcpStream {
    loop {
        let (first, body) = packet(&mut stream).await;
        assert_eq!(first & 0xf6, 0x32, "PUBLISH at QoS 1");
        let topic_length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let id = &body[2 + topic_length..][..2];
        stream.write_all(&[0x40, 3, id[0], id[1], reason]).await.unwrap();
    }
}

#[tokio::test]
async fn a_session_that_the_broker_still_has_is_taken_up_by_a_new_process() {
    let (connection, granted) = against(&[0x20, 3, 1, 0, 0], |stream| answer_publishes(stream, 0)).await.unwrap();
    assert!(granted.session_present);
    let answer = connection.publish(message("r/gw-7/telemetry/host", "{}"), false).unwrap();
    assert_eq!(timeout(SOON, answer).await.unwrap(), Outcome::Acknowledged);
}

#[tokio::test]
async fn each_publish_gets_its_own_answer() {
    for (reason, outcome) in [
        (0x00, Outcome::Acknowledged),
        (0x10, Outcome::Acknowledged),
        (0x80, Outcome::Refused(Refusal::Unspecified)),
        (0x83, Outcome::Refused(Refusal::Unspecified)),
        (0x87, Outcome::Refused(Refusal::NotAuthorized)),
        (0x90, Outcome::Refused(Refusal::TopicNameInvalid)),
        (0x97, Outcome::Refused(Refusal::QuotaExceeded)),
        (0x99, Outcome::Refused(Refusal::PayloadFormatInvalid)),
    ] {
        let (connection, _) = against(&ACCEPTED, move |stream| answer_publishes(stream, reason)).await.unwrap();
        let answer = connection.publish(message("r/gw-7/event/loss", "{}"), false).unwrap();
        assert_eq!(timeout(SOON, answer).await.unwrap(), outcome, "reason {reason:#x}");
    }
}

#[tokio::test]
async fn what_the_broker_grants_is_known() {
    // Receive Maximum 20 (0x21), Maximum Packet Size 1000 (0x27), Retain Available 0 (0x25), Server Keep Alive 5 (0x13).
    let properties = [0x21, 0, 20, 0x27, 0, 0, 3, 232, 0x25, 0, 0x13, 0, 5];
    let mut answer = vec![0x20, 3 + 13, 0, 0, 13];
    answer.extend_from_slice(&properties);
    let (_connection, granted) = against(&answer, silent).await.unwrap();
    let expected = Granted {
        session_present: false,
        receive_maximum: 20,
        max_packet_bytes: 1000,
        retain: false,
        keep_alive: Duration::from_secs(5),
    };
    assert_eq!(granted, expected);
}

#[tokio::test]
async fn a_refused_login_says_which_keys_to_look_at() {
    let error = against(&[0x20, 3, 0, 0x86, 0], silent).await.unwrap_err();
    assert!(matches!(error, LinkError::Refused(_)));
    assert!(error.to_string().contains("[mqtt] user and password_file"), "{error}");
}

#[tokio::test]
async fn a_broker_of_another_protocol_version_is_named() {
    let error = against(&[0x20, 3, 0, 0x84, 0], silent).await.unwrap_err();
    assert!(error.to_string().contains("MQTT version 5"), "{error}");
}

#[tokio::test]
async fn a_broker_that_acknowledges_nothing_is_not_used() {
    let error = against(&[0x20, 5, 0, 0, 2, 0x24, 0], silent).await.unwrap_err();
    assert!(error.to_string().contains("QoS 0"), "{error}");
}

#[tokio::test]
async fn garbage_ends_the_attempt() {
    for garbage in [&[b'H'; 200][..], &[0x20, 0xff, 0xff, 0xff, 0xff], &[0; 16], &[0x20, 3, 9, 0, 0]] {
        let error = against(garbage, silent).await.unwrap_err();
        assert!(matches!(error, LinkError::Protocol(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_packet_beyond_what_we_announced_ends_the_connection_before_it_is_read() {
    // PUBLISH of 9 MiB: 9,437,184 = 0x80 0x80 0xc0 0x04 as a variable byte integer.
    let script = |mut stream: TcpStream| async move {
        stream.write_all(&[0x30, 0x80, 0x80, 0xc0, 0x04, 0, 1, b'a']).await.unwrap();
        stream
    };
    let (mut connection, _) = against(&ACCEPTED, script).await.unwrap();
    let error = timeout(SOON, connection.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, LinkError::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn the_brokers_farewell_is_passed_on_and_told_from_an_objection() {
    for (code, name, objection) in
        [(0x8b, "ServerShuttingDown", false), (0x8e, "SessionTakenOver", false), (0x95, "PacketTooLarge", true)]
    {
        let script = move |mut stream: TcpStream| async move {
            stream.write_all(&[0xe0, 2, code, 0]).await.unwrap();
            stream
        };
        let (mut connection, _) = against(&ACCEPTED, script).await.unwrap();
        let error = timeout(SOON, connection.next()).await.unwrap().unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(error.is_objection(), objection, "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_of_mqtt_5_is_an_objection() {
    // mosquitto 2.0 beyond its message_size_limit.
    let (mut connection, _) = against(&ACCEPTED, |stream| answer_publishes(stream, 0x95)).await.unwrap();
    let answer = connection.publish(message("r/gw-7/ingest/a", "{}"), false).unwrap();
    assert!(timeout(SOON, connection.next()).await.unwrap().unwrap_err().is_objection());
    drop(connection);
    assert_eq!(timeout(SOON, answer).await.unwrap(), Outcome::Unknown);
}

#[tokio::test]
async fn our_nonce_is_found_in_a_flood_that_is_counted_and_dropped() {
    let script = |mut stream: TcpStream| async move {
        // The first publish says that the nonce is waited for.
        packet(&mut stream).await;
        let foreign = publish_to_us("r/other/x", b"?");
        let invented = publish_to_us("r/gw-7/echo", Topics::echo_payload(6).as_bytes());
        for _ in 0..1000 {
            stream.write_all(&foreign).await.unwrap();
            stream.write_all(&invented).await.unwrap();
        }
        stream.write_all(&publish_to_us("r/gw-7/echo", Topics::echo_payload(7).as_bytes())).await.unwrap();
        stream
    };
    let (mut connection, _) = against(&ACCEPTED, script).await.unwrap();
    connection.arrivals().expect_echo(7);
    let _answer = connection.publish(message("r/gw-7/echo", "{}"), false).unwrap();
    assert_eq!(timeout(SOON, connection.next()).await.unwrap().unwrap(), Returned::Echo(7));
    assert_eq!(connection.arrivals().unexpected(), 2000);
}

/// A PUBLISH at `QoS` 1 to us, of any length, with these properties (MQTT 5, 3.3.2.3).
fn large_publish_to_us(topic: &str, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut rest = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
    rest.extend_from_slice(topic.as_bytes());
    rest.extend_from_slice(&[0, 1, u8::try_from(properties.len()).unwrap()]);
    rest.extend_from_slice(properties);
    rest.extend_from_slice(payload);
    let mut bytes = vec![0x32];
    let mut length = rest.len();
    while length >= 0x80 {
        bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    bytes.extend_from_slice(&rest);
    bytes
}

#[tokio::test]
async fn a_document_is_handed_over_and_acknowledged_and_only_the_length_of_one_that_is_too_large() {
    for (bytes, kept) in [(10, true), (MAX_CONFIG_BYTES, true), (MAX_CONFIG_BYTES + 1, false)] {
        let (inbox, mut receiver) = inbox();
        let script = move |mut stream: TcpStream| async move {
            let publish = large_publish_to_us("r/gw-7/config/desired", &[], &vec![b' '; bytes]);
            stream.write_all(&publish).await.unwrap();
            assert_eq!(packet(&mut stream).await.0, 0x40, "PUBACK");
            stream
        };
        let (_connection, _) = against_with(inbox, &ACCEPTED, script).await.unwrap();
        let Incoming::Desired { source, payload, .. } = timeout(SOON, receiver.next()).await.unwrap() else {
            panic!("a document");
        };
        assert_eq!(source, Source::Device);
        let expected = if kept { Payload::Document(vec![b' '; bytes].into()) } else { Payload::TooLarge { bytes } };
        assert!(payload == expected, "{bytes}");
    }
}

#[tokio::test]
async fn a_request_brings_where_its_answer_goes_and_the_answer_brings_its_correlation_data_back() {
    let (inbox, mut receiver) = inbox();
    let script = |mut stream: TcpStream| async move {
        // Response topic (8), correlation data (9), user properties (38), of which one names the user.
        let mut properties = vec![8, 0, 3, b'r', b'/', b'a', 9, 0, 2, 0, 0xff];
        for (name, value) in [("via", "cli"), ("user", "anna")] {
            properties.extend_from_slice(&[38, 0, u8::try_from(name.len()).unwrap()]);
            properties.extend_from_slice(name.as_bytes());
            properties.extend_from_slice(&[0, u8::try_from(value.len()).unwrap()]);
            properties.extend_from_slice(value.as_bytes());
        }
        let publish = large_publish_to_us("r/gw-7/cmd/status", &properties, b"{}");
        stream.write_all(&publish).await.unwrap();
        assert_eq!(packet(&mut stream).await.0, 0x40, "PUBACK");
        let (first, body) = packet(&mut stream).await;
        assert_eq!(first, 0x32, "PUBLISH at QoS 1, not retained");
        assert_eq!(body, [&[0, 3][..], b"r/a", &[0, 1, 5, 9, 0, 2, 0, 0xff], b"{}"].concat());
        stream.write_all(&[0x40, 2, 0, 1]).await.unwrap();
        stream
    };
    let (connection, _) = against_with(inbox, &ACCEPTED, script).await.unwrap();
    let Incoming::Request(request) = timeout(SOON, receiver.next()).await.unwrap() else { panic!("a request") };
    let expected = Request {
        name: "status".to_owned(),
        payload: Some("{}".into()),
        response_topic: Some("r/a".to_owned()),
        correlation_data: Some(Bytes::from_static(&[0, 0xff])),
        user: Some("anna".to_owned()),
        retained: false,
    };
    assert_eq!(request, expected);
    let answer = connection.reply(message("r/a", "{}"), request.correlation_data).unwrap();
    assert_eq!(timeout(SOON, answer).await.unwrap(), Outcome::Acknowledged);
}

#[tokio::test]
async fn a_connection_that_ends_leaves_no_publish_without_an_answer() {
    let script = |mut stream: TcpStream| async move {
        packet(&mut stream).await;
        stream.shutdown().await.unwrap();
        stream
    };
    let (mut connection, _) = against(&ACCEPTED, script).await.unwrap();
    let answer = connection.publish(message("r/gw-7/telemetry/host", "{}"), false).unwrap();
    assert!(timeout(SOON, connection.next()).await.unwrap().is_err());
    drop(connection);
    assert_eq!(timeout(SOON, answer).await.unwrap(), Outcome::Unknown);
}

#[tokio::test]
async fn a_topic_that_nobody_may_publish_to_is_told_from_a_closed_connection() {
    let (connection, _) = against(&ACCEPTED, silent).await.unwrap();
    assert!(matches!(connection.publish(message("r/gw-7/#", "{}"), false), Err(NotSent::BadTopic)));
}

#[test]
fn packet_size_is_the_codecs() {
    for length in [0, 1, 100, 118, 119, 120, 1000, 16_370, 16_380, 70_000, 2_097_100, 2_097_200] {
        let message = message("r/gw-7/ingest/meter", &"x".repeat(length));
        let mut publish = Publish::new(message.topic.clone(), QoS::AtLeastOnce, message.payload.clone(), None);
        publish.pkid = 1;
        let mut bytes = bytes::BytesMut::new();
        Packet::Publish(publish).write(&mut bytes, None).unwrap();
        assert_eq!(message.packet_bytes(), bytes.len(), "payload of {length}");
    }
}
