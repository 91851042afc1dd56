//! MQTT 5 packets on a blocking socket: as much of a client as the harness needs, without the session logic
//! of the client library that the daemon uses. Only that library's packet codec is shared.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{
    self,
    v5::{Packet, Publish},
};

/// An application message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whole topic.
    pub topic: String,
    /// Its bytes.
    pub payload: Bytes,
    /// Sent by the broker because it was retained, or asking the broker to retain it.
    pub retain: bool,
}

impl Message {
    /// The payload as JSON.
    ///
    /// # Panics
    ///
    /// Where it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|error| {
            panic!("{}: not JSON ({error}): {}", self.topic, String::from_utf8_lossy(&self.payload))
        })
    }
}

impl From<&Publish> for Message {
    fn from(publish: &Publish) -> Self {
        Self {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload.clone(),
            retain: publish.retain,
        }
    }
}

/// Packets cut out of a stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct Packets(BytesMut);

impl Packets {
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole packet; `None` where more bytes are needed.
    pub(crate) fn next(&mut self) -> io::Result<Option<Packet>> {
        match Packet::read(&mut self.0, None) {
            Ok(packet) => Ok(Some(packet)),
            Err(mqttbytes::Error::InsufficientBytes(_)) => Ok(None),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

/// A connection that reads and writes packets.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    packets: Packets,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, read_timeout: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(read_timeout))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, packets: Packets::default() })
    }

    /// The next packet; `None` after the read timeout.
    pub(crate) fn read(&mut self) -> io::Result<Option<Packet>> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            if let Some(packet) = self.packets.next()? {
                return Ok(Some(packet));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.packets.feed(&buffer[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn write(&mut self, packet: &Packet) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.stream.write_all(&bytes)
    }
}
