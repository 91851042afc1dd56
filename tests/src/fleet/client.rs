//! MQTT 5 packets on an asynchronous socket: as little of a client as a gateway that is simulated by the thousand needs.

use std::{io, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{
    QoS,
    v5::{
        Connect, ConnectAuth, ConnectProperties, ConnectReturnCode, LastWill, Packet, PubAck, Publish, Subscribe,
        SubscribeFilter,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::mqtt::Packets;

/// For a broker that ten thousand connect to at once.
const CONNECT_WITHIN: Duration = Duration::from_mins(1);
/// Messages that the broker may send before the first is acknowledged; the daemon's.
const RECEIVE_MAXIMUM: u16 = 256;

/// An open connection.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    packets: Packets,
    packet_id: u16,
}

/// What the broker sends.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A message; it is to be acknowledged.
    Message { topic: String, payload: Bytes, packet_id: u16 },
    /// The answer to a subscription.
    Subscribed,
}

impl Client {
    /// Connects; `will` is published, retained, when the connection is lost.
    pub(super) async fn connect(port: u16, id: &str, will: (String, Bytes)) -> io::Result<Self> {
        timeout(CONNECT_WITHIN, Self::open(port, id, will))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn open(port: u16, id: &str, (will_topic, will): (String, Bytes)) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        let stream = socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, packets: Packets::default(), packet_id: 0 };
        let connect = Connect {
            keep_alive: 0,
            client_id: id.to_owned(),
            clean_start: true,
            properties: Some(ConnectProperties {
                receive_maximum: Some(RECEIVE_MAXIMUM),
                ..ConnectProperties::default()
            }),
        };
        let will = LastWill::new(will_topic, will, QoS::AtLeastOnce, true, None);
        client.send(&Packet::Connect(connect, Some(will), ConnectAuth::None)).await?;
        match client.packet().await? {
            Packet::ConnAck(answer) if answer.code == ConnectReturnCode::Success => Ok(client),
            other => Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("{other:?}"))),
        }
    }

    /// Subscribes at `QoS` 1.
    pub(super) async fn subscribe(&mut self, filters: impl IntoIterator<Item = String>) -> io::Result<()> {
        let filters = filters.into_iter().map(|filter| SubscribeFilter::new(filter, QoS::AtLeastOnce));
        let mut subscribe = Subscribe::new_many(filters, None);
        subscribe.pkid = self.next_id();
        self.send(&Packet::Subscribe(subscribe)).await
    }

    /// Publishes at `QoS` 1. What is lost with the connection is said again on the next one.
    pub(super) async fn publish(&mut self, topic: String, payload: impl Into<Bytes>, retain: bool) -> io::Result<()> {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload, None);
        publish.retain = retain;
        publish.pkid = self.next_id();
        self.send(&Packet::Publish(publish)).await
    }

    /// The next arrival. Only reads: cancelling loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Arrival> {
        loop {
            match self.packet().await? {
                Packet::Publish(publish) => {
                    let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                    let payload = Bytes::copy_from_slice(&publish.payload);
                    return Ok(Arrival::Message { topic, payload, packet_id: publish.pkid });
                }
                Packet::SubAck(_) => return Ok(Arrival::Subscribed),
                Packet::Disconnect(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
                _ => {}
            }
        }
    }

    /// Acknowledges a message.
    pub(super) async fn acknowledge(&mut self, packet_id: u16) -> io::Result<()> {
        self.send(&Packet::PubAck(PubAck::new(packet_id, None))).await
    }

    async fn packet(&mut self) -> io::Result<Packet> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(packet) = self.packets.next()? {
                return Ok(packet);
            }
            match self.stream.read(&mut buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.packets.feed(&buffer[..count]),
            }
        }
    }

    async fn send(&mut self, packet: &Packet) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.stream.write_all(&bytes).await
    }

    fn next_id(&mut self) -> u16 {
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        self.packet_id
    }
}
