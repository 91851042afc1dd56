//! Stands between a client and its broker and notes what the broker acknowledged.
//!
//! ```text
//!   daemon ── PUBLISH ──► tap ── PUBLISH ──► broker
//!          ◄── PUBACK ───  │  ◄── PUBACK ───
//!                          └─ published, acknowledged
//! ```
//!
//! Bytes pass unchanged. A PUBACK is noted before it is passed on, so that whatever the daemon regards as
//! delivered has been noted. TLS cannot be read here.

use std::{
    collections::HashMap,
    io::{self, Read, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rumqttc::mqttbytes::{
    QoS,
    v5::{Packet, PubAckReason},
};

use super::{
    Broker,
    wire::{Message, Packets},
};
use crate::Netns;
#[cfg(feature = "schema")]
use crate::schema::{Schemas, Seen};

/// A relay to a broker that may come and go. While the broker is away, a connection to the tap ends at once.
#[derive(Debug)]
pub struct Tap {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    namespace: Option<Netns>,
    broker: SocketAddr,
    notes: Mutex<Notes>,
    cut: AtomicBool,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Notes {
    published: Vec<Message>,
    acknowledged: Vec<Message>,
    refused: Vec<(Message, PubAckReason)>,
    sessions: Vec<bool>,
    unreadable: Option<String>,
}

/// How often a silent connection looks whether it is to end.
const TICK: Duration = Duration::from_millis(50);

impl Tap {
    /// A tap on the loopback where the broker listens.
    #[must_use]
    #[track_caller]
    pub fn before(broker: &Broker) -> Self {
        Self::before_port(broker.namespace(), broker.port())
    }

    /// A tap before whatever listens on a loopback port, of the host or of a namespace.
    ///
    /// # Panics
    ///
    /// Where no port is free.
    #[must_use]
    #[track_caller]
    pub fn before_port(namespace: Option<&Netns>, port: u16) -> Self {
        Self::reached_at(Ipv4Addr::LOCALHOST, namespace, port)
    }

    /// The same, reached by clients at this address of the namespace.
    ///
    /// # Panics
    ///
    /// Where the address is not there.
    #[must_use]
    #[track_caller]
    pub fn reached_at(address: Ipv4Addr, namespace: Option<&Netns>, port: u16) -> Self {
        let namespace = namespace.cloned();
        let listen = || TcpListener::bind((address, 0));
        let listener = namespace.as_ref().map_or_else(listen, |namespace| namespace.enter(listen));
        let listener = listener.unwrap_or_else(|error| panic!("a free port of {address}: {error}"));
        let own_port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared {
            namespace,
            broker: SocketAddr::from(([127, 0, 0, 1], port)),
            notes: Mutex::default(),
            cut: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self { port: own_port, shared, thread: Some(thread) }
    }

    /// Where the client is to connect, on the loopback or the address that was asked for.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Every PUBLISH that the client sent, repeated ones too.
    #[must_use]
    #[track_caller]
    pub fn published(&self) -> Vec<Message> {
        self.notes().published.clone()
    }

    /// Every PUBLISH that the broker acknowledged with success, in the order of the acknowledgements.
    #[must_use]
    #[track_caller]
    pub fn acknowledged(&self) -> Vec<Message> {
        self.notes().acknowledged.clone()
    }

    /// How many were acknowledged: cheaper than to copy them.
    #[must_use]
    #[track_caller]
    pub fn acknowledged_count(&self) -> usize {
        self.notes().acknowledged.len()
    }

    /// Each PUBLISH that the broker answered with a failure.
    #[must_use]
    #[track_caller]
    pub fn refused(&self) -> Vec<(Message, PubAckReason)> {
        self.notes().refused.clone()
    }

    /// For each CONNACK, whether the broker still had the session.
    #[must_use]
    #[track_caller]
    pub fn sessions(&self) -> Vec<bool> {
        self.notes().sessions.clone()
    }

    /// Ends the connections that are open; the client may connect again.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::Relaxed);
        thread::sleep(3 * TICK);
        self.shared.cut.store(false, Ordering::Relaxed);
    }

    #[track_caller]
    fn notes(&self) -> MutexGuard<'_, Notes> {
        let notes = self.shared.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unreadable) = &notes.unreadable {
            panic!("the tap could not read what passed, so its notes prove nothing: {unreadable}");
        }
        notes
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
        #[cfg(feature = "schema")]
        if !thread::panicking() {
            let notes = self.shared.notes.lock().unwrap_or_else(PoisonError::into_inner);
            Schemas::assert_published_valid(Seen::FromTheGateway, &notes.published);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    listener.set_nonblocking(true).expect("a socket can be made non-blocking");
    thread::scope(|scope| {
        while !shared.stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((client, _)) => {
                    scope.spawn(move || {
                        // Peers come and go: an error ends this connection and nothing else.
                        let _ended = relay(&client, shared);
                        let _gone = client.shutdown(Shutdown::Both);
                    });
                }
                Err(_) => thread::sleep(TICK / 5),
            }
        }
    });
}

/// Who sends.
#[derive(Clone, Copy, Debug)]
enum Side {
    Client,
    Broker,
}

/// What both directions of one connection know.
#[derive(Debug, Default)]
struct Connection {
    waiting: Mutex<HashMap<u16, Message>>,
    over: AtomicBool,
}

fn relay(client: &TcpStream, shared: &Shared) -> io::Result<()> {
    let connect = || TcpStream::connect_timeout(&shared.broker, Duration::from_secs(1));
    let broker = shared.namespace.as_ref().map_or_else(connect, |namespace| namespace.enter(connect))?;
    for stream in [client, &broker] {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
    }
    let connection = Connection::default();
    thread::scope(|scope| {
        scope.spawn(|| pump(Side::Client, client, &broker, shared, &connection));
        pump(Side::Broker, &broker, client, shared, &connection);
    });
    Ok(())
}

/// Passes bytes one way until either side ends, noting their packets first.
fn pump(side: Side, mut from: &TcpStream, mut to: &TcpStream, shared: &Shared, connection: &Connection) {
    let mut packets = Packets::default();
    let mut buffer = vec![0; 1 << 16];
    while !(shared.stop.load(Ordering::Relaxed)
        || shared.cut.load(Ordering::Relaxed)
        || connection.over.load(Ordering::Relaxed))
    {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                packets.feed(&buffer[..count]);
                loop {
                    match packets.next() {
                        Ok(Some(packet)) => note(shared, connection, side, packet),
                        Ok(None) => break,
                        Err(error) => {
                            let mut notes = shared.notes.lock().unwrap_or_else(PoisonError::into_inner);
                            notes.unreadable.get_or_insert(error.to_string());
                            break;
                        }
                    }
                }
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    connection.over.store(true, Ordering::Relaxed);
    for stream in [from, to] {
        let _gone = stream.shutdown(Shutdown::Both);
    }
}

fn note(shared: &Shared, connection: &Connection, side: Side, packet: Packet) {
    let notes = || shared.notes.lock().unwrap_or_else(PoisonError::into_inner);
    let waiting = || connection.waiting.lock().unwrap_or_else(PoisonError::into_inner);
    // The two directions number their packets separately; only what the client publishes is of interest.
    match (side, packet) {
        (Side::Client, Packet::Publish(publish)) => {
            let message = Message::from(&publish);
            if publish.qos == QoS::AtLeastOnce {
                waiting().insert(publish.pkid, message.clone());
            }
            notes().published.push(message);
        }
        (Side::Broker, Packet::PubAck(ack)) => {
            if let Some(message) = waiting().remove(&ack.pkid) {
                match ack.reason {
                    PubAckReason::Success | PubAckReason::NoMatchingSubscribers => notes().acknowledged.push(message),
                    reason => notes().refused.push((message, reason)),
                }
            }
        }
        (Side::Broker, Packet::ConnAck(ack)) => notes().sessions.push(ack.session_present),
        _ => {}
    }
}
