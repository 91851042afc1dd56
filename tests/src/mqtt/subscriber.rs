//! A consumer that collects all that reaches it.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rumqttc::mqttbytes::{
    QoS,
    v5::{Connect, ConnectAuth, ConnectProperties, Packet, PubAck, Subscribe, SubscribeFilter},
};

use super::wire::{Message, Wire};
#[cfg(feature = "schema")]
use crate::schema::{Schemas, Seen};
use crate::{Netns, eventually};

/// Subscribes with QoS 1 and a session that outlives the connection; connects again, and subscribes again,
/// until it is dropped.
///
/// What a broker forgets while it is down, no subscriber gets: where that matters, count at a
/// [`Tap`](super::Tap).
#[derive(Debug)]
pub struct Subscriber {
    state: Arc<State>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    messages: Mutex<Vec<Message>>,
    /// Times that a subscription was granted.
    subscribed: AtomicU32,
    stop: AtomicBool,
}

/// How often a silent connection looks whether it is to stop.
const TICK: Duration = Duration::from_millis(100);
/// Announced to the broker; a ping goes out at a third of it.
const KEEP_ALIVE: Duration = Duration::from_mins(1);

impl Subscriber {
    /// Subscribes to `filter` at a broker on this host, and returns when that is granted.
    ///
    /// # Panics
    ///
    /// Where it is not granted in 10 seconds.
    #[must_use]
    #[track_caller]
    pub fn start(port: u16, filter: &str) -> Self {
        Self::inside(None, port, filter)
    }

    /// The same, at a broker on the loopback of a namespace.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    #[must_use]
    #[track_caller]
    pub fn inside(namespace: Option<&Netns>, port: u16, filter: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("subscriber-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let state = Arc::new(State::default());
        let thread = thread::spawn({
            let (state, namespace, filter) = (Arc::clone(&state), namespace.cloned(), filter.to_owned());
            move || {
                while !state.stop.load(Ordering::Relaxed) {
                    // The broker is killed and frozen on purpose: whatever the error, connect again.
                    if session(&state, namespace.as_ref(), port, &id, &filter).is_err() {
                        thread::sleep(Duration::from_millis(20));
                    }
                }
            }
        });
        let subscriber = Self { state, thread: Some(thread) };
        eventually(Duration::from_secs(10), &format!("the subscription to {filter} is granted"), || {
            subscriber.state.subscribed.load(Ordering::Relaxed) > 0
        });
        subscriber
    }

    /// All messages so far.
    ///
    /// # Panics
    ///
    /// Never: the lock's holders do not panic.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.state.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The messages behind the first `seen`: for those who follow what comes in.
    #[must_use]
    pub fn messages_after(&self, seen: usize) -> Vec<Message> {
        self.state.messages.lock().unwrap_or_else(PoisonError::into_inner).get(seen..).unwrap_or_default().to_vec()
    }

    /// How often a subscription was granted: one more for each connection.
    #[must_use]
    pub fn subscribed(&self) -> u32 {
        self.state.subscribed.load(Ordering::Relaxed)
    }

    /// Waits for a message that satisfies `wanted`.
    ///
    /// # Panics
    ///
    /// Where none comes in time.
    #[track_caller]
    pub fn wait_for(&self, what: &str, deadline: Duration, wanted: impl Fn(&Message) -> bool) -> Message {
        eventually(deadline, what, || {
            let messages = self.messages();
            let count = messages.len();
            messages.into_iter().find(&wanted).ok_or_else(|| format!("not among {count} messages"))
        })
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
        #[cfg(feature = "schema")]
        if !thread::panicking() {
            Schemas::assert_published_valid(Seen::AtTheBroker, &self.messages());
        }
    }
}

fn session(state: &State, namespace: Option<&Netns>, port: u16, id: &str, filter: &str) -> io::Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1));
    let stream = namespace.map_or_else(connect, |namespace| namespace.enter(connect))?;
    let mut wire = Wire::new(stream, TICK)?;
    wire.write(&Packet::Connect(
        Connect {
            keep_alive: u16::try_from(KEEP_ALIVE.as_secs()).unwrap_or(u16::MAX),
            client_id: id.to_owned(),
            clean_start: false,
            properties: Some(ConnectProperties { session_expiry_interval: Some(3600), ..ConnectProperties::default() }),
        },
        None,
        ConnectAuth::None,
    ))?;
    // Subscribed to at each connection: the broker may have forgotten, and granting it twice does no harm.
    let mut subscribe = Subscribe::new(SubscribeFilter::new(filter.to_owned(), QoS::AtLeastOnce), None);
    subscribe.pkid = 1;
    let mut pinged = Instant::now();
    while !state.stop.load(Ordering::Relaxed) {
        match wire.read()? {
            Some(Packet::ConnAck(_)) => wire.write(&Packet::Subscribe(subscribe.clone()))?,
            Some(Packet::SubAck(_)) => {
                state.subscribed.fetch_add(1, Ordering::Relaxed);
            }
            Some(Packet::Publish(publish)) => {
                state.messages.lock().unwrap_or_else(PoisonError::into_inner).push(Message::from(&publish));
                if publish.qos == QoS::AtLeastOnce {
                    wire.write(&Packet::PubAck(PubAck::new(publish.pkid, None)))?;
                }
            }
            Some(Packet::Disconnect(_)) => return Err(io::ErrorKind::ConnectionAborted.into()),
            _ => {}
        }
        if pinged.elapsed() > KEEP_ALIVE / 3 {
            wire.write(&Packet::PingReq)?;
            pinged = Instant::now();
        }
    }
    Ok(())
}
