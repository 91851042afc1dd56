//! Sorts what the broker sends, before anything of it is kept.
//!
//! ```text
//!   echo, echo/desired ── the nonce that is waited for ──► session
//!   …/desired ────────── at most 4 or 5.7 MiB, else its length ─► inbox
//!   …/reported ───────── while desired state is read ────► witness
//!   cmd/NAME ────────────────────────────────────────────► inbox
//!   anything else ───────────────────────────────────────► counted
//! ```
//!
//! This happens where the library is polled, so it never waits, and each place has a bound: a broker, or whoever may
//! publish to us, can send as fast as the link allows without more than 9 MiB being held here at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::topics::Topics;
use crate::{
    control::{
        inbox::{Inbox, Offered},
        link::{Incoming, MAX_REQUEST_BYTES, Payload, Request, Source, Subject},
    },
    gather::Gather as _,
};

/// Longest report that counts as our own: what is longer was written by someone else.
const MAX_WITNESS_BYTES: usize = 256 << 10;

/// What a request may have in names and properties; topics and user names are short.
const MAX_REQUEST_PROPERTIES_BYTES: usize = 4 << 10;

/// A message as it came, in the read buffer. What is kept of it is copied: a slice would keep all of the buffer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrival<'a> {
    /// Whole topic.
    pub(super) topic: &'a str,
    /// Payload.
    pub(super) payload: &'a [u8],
    /// Whether it was published with the retain flag: the broker had kept it, or keeps it for others.
    pub(super) retained: bool,
    /// MQTT 5 response topic.
    pub(super) response_topic: Option<&'a str>,
    /// MQTT 5 correlation data.
    pub(super) correlation_data: Option<&'a [u8]>,
    /// User property `user`.
    pub(super) user: Option<&'a str>,
}

/// Our own message that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Returned {
    /// On `echo`.
    Echo(u64),
    /// On `echo/desired`.
    Barrier(u64),
}

/// What came while desired state was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Came {
    /// Topics with a document.
    pub(super) present: BTreeSet<(Subject, Source)>,
    /// Our last reports, as the broker retains them.
    pub(super) witness: BTreeMap<Subject, Bytes>,
}

/// The sorter of one connection.
#[derive(Debug)]
pub(super) struct Arrivals {
    echo: String,
    barrier: String,
    /// `ROOT/ID/cmd/`
    requests: String,
    desired: BTreeMap<String, (Subject, Source)>,
    reported: Vec<(String, Subject)>,
    inbox: Inbox,
    awaited: Mutex<Awaited>,
    arrived: AtomicU64,
    unexpected: AtomicU64,
    dropped_requests: AtomicU64,
}

#[derive(Debug, Default)]
struct Awaited {
    echo: Option<u64>,
    barrier: Option<u64>,
    reading: Option<Came>,
}

impl Arrivals {
    /// For a gateway with these topics; what control needs goes to `inbox`.
    pub(super) fn new(topics: &Topics, inbox: Inbox) -> Self {
        let desired =
            topics.desired().map(|(subject, source)| (topics.desired_of(subject, &source), (subject, source)));
        let reported = Subject::ALL.iter().map(|subject| (topics.reported(*subject), *subject));
        Self {
            echo: topics.echo(),
            barrier: topics.barrier(),
            requests: topics.requests(),
            desired: desired.gather(),
            reported: reported.gather(),
            inbox,
            awaited: Mutex::default(),
            arrived: AtomicU64::new(0),
            unexpected: AtomicU64::new(0),
            dropped_requests: AtomicU64::new(0),
        }
    }

    /// From now on, this nonce on `echo` is waited for, and no other.
    pub(super) fn expect_echo(&self, nonce: u64) {
        self.awaited().echo = Some(nonce);
    }

    /// From now on, this nonce on `echo/desired` is waited for.
    pub(super) fn expect_barrier(&self, nonce: u64) {
        self.awaited().barrier = Some(nonce);
    }

    /// Desired state is read: what comes is noted, until [`Self::finish_reading`].
    pub(super) fn begin_reading(&self) {
        self.awaited().reading = Some(Came::default());
    }

    /// What came since.
    pub(super) fn finish_reading(&self) -> Came {
        self.awaited().reading.take().unwrap_or_default()
    }

    /// From now on, a report that comes back proves nothing: we publish new ones.
    pub(super) fn forget_witness(&self) {
        if let Some(reading) = &mut self.awaited().reading {
            reading.witness.clear();
        }
    }

    /// Where documents and requests go.
    pub(super) const fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Messages in this connection: while this grows, the link moves.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Messages in this connection that are none of what was asked for.
    pub(super) fn unexpected(&self) -> u64 {
        self.unexpected.load(Ordering::Relaxed)
    }

    /// Requests in this connection that found no room.
    pub(super) fn dropped_requests(&self) -> u64 {
        self.dropped_requests.load(Ordering::Relaxed)
    }

    /// Takes a message; returns what the session waits for.
    pub(super) fn receive(&self, arrival: Arrival<'_>) -> Option<Returned> {
        self.arrived.fetch_add(1, Ordering::Relaxed);
        let Arrival { topic, payload, .. } = arrival;
        if topic == self.echo || topic == self.barrier {
            let returned = self.returned(topic, payload);
            if returned.is_none() {
                self.unexpected.fetch_add(1, Ordering::Relaxed);
            }
            return returned;
        }
        if let Some((subject, source)) = self.desired.get(topic) {
            self.receive_desired(*subject, source, payload);
        } else if let Some((_, subject)) = self.reported.iter().find(|(reported, _)| reported == topic) {
            self.receive_report(*subject, payload);
        } else if let Some(name) = topic.strip_prefix(self.requests.as_str()) {
            self.receive_request(name, arrival);
        } else {
            self.unexpected.fetch_add(1, Ordering::Relaxed);
        }
        None
    }

    /// Once for each nonce: whoever repeats it is someone else.
    fn returned(&self, topic: &str, payload: &[u8]) -> Option<Returned> {
        let nonce = Topics::nonce_of(payload)?;
        let mut awaited = self.awaited();
        if topic == self.echo {
            awaited.echo.take_if(|wanted| *wanted == nonce).map(Returned::Echo)
        } else {
            awaited.barrier.take_if(|wanted| *wanted == nonce).map(Returned::Barrier)
        }
    }

    fn receive_desired(&self, subject: Subject, source: &Source, payload: &[u8]) {
        let payload = match payload.len() {
            0 => Payload::Empty,
            bytes if bytes > subject.max_document_bytes() => Payload::TooLarge { bytes },
            _ => Payload::Document(Bytes::copy_from_slice(payload)),
        };
        if let Some(reading) = &mut self.awaited().reading {
            reading.present.insert((subject, source.clone()));
        }
        // What finds no room is asked for again: the inbox names it.
        self.inbox.offer(Incoming::Desired { subject, source: source.clone(), payload });
    }

    fn receive_report(&self, subject: Subject, payload: &[u8]) {
        match &mut self.awaited().reading {
            Some(reading) if payload.len() <= MAX_WITNESS_BYTES => {
                reading.witness.insert(subject, Bytes::copy_from_slice(payload));
            }
            _ => {
                self.unexpected.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn receive_request(&self, name: &str, arrival: Arrival<'_>) {
        let Arrival { payload, retained, response_topic, correlation_data, user, .. } = arrival;
        let properties = name.len()
            + response_topic.map_or(0, str::len)
            + correlation_data.map_or(0, <[u8]>::len)
            + user.map_or(0, str::len);
        let request = || Request {
            name: name.to_owned(),
            payload: (payload.len() <= MAX_REQUEST_BYTES).then(|| Bytes::copy_from_slice(payload)),
            response_topic: response_topic.map(str::to_owned),
            correlation_data: correlation_data.map(Bytes::copy_from_slice),
            user: user.map(str::to_owned),
            retained,
        };
        let fits = properties <= MAX_REQUEST_PROPERTIES_BYTES;
        if !fits || self.inbox.offer(Incoming::Request(request())) == Offered::Dropped {
            self.dropped_requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn awaited(&self) -> MutexGuard<'_, Awaited> {
        // Nothing panics while it is held.
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::control::inbox::{InboxReceiver, MAX_WAITING_REQUESTS, inbox};

    fn arrivals() -> (Arrivals, InboxReceiver) {
        let (inbox, receiver) = inbox();
        (Arrivals::new(&Topics::new("r", "gw-7", &["plant".to_owned()]), inbox), receiver)
    }

    fn arrival<'a>(topic: &'a str, payload: &'a [u8]) -> Arrival<'a> {
        Arrival { topic, payload, ..Arrival::default() }
    }

    fn nonce(number: u64) -> Vec<u8> {
        Topics::echo_payload(number).into_bytes()
    }

    fn next(receiver: &mut InboxReceiver) -> Option<Incoming> {
        receiver.next().now_or_never()
    }

    fn document(source: Source, payload: Payload) -> Incoming {
        Incoming::Desired { subject: Subject::Config, source, payload }
    }

    #[test]
    fn only_the_nonce_that_is_waited_for_reaches_the_session_and_only_once() {
        let (arrivals, _receiver) = arrivals();
        arrivals.expect_echo(7);
        arrivals.expect_barrier(8);
        assert_eq!(arrivals.receive(arrival("r/gw-7/echo", &nonce(8))), None);
        assert_eq!(arrivals.receive(arrival("r/gw-7/echo", b"?")), None);
        assert_eq!(arrivals.receive(arrival("r/gw-7/echo", &nonce(7))), Some(Returned::Echo(7)));
        assert_eq!(arrivals.receive(arrival("r/gw-7/echo", &nonce(7))), None);
        assert_eq!(arrivals.receive(arrival("r/gw-7/echo/desired", &nonce(8))), Some(Returned::Barrier(8)));
        assert_eq!((arrivals.arrived(), arrivals.unexpected()), (5, 3));
    }

    #[test]
    fn documents_are_known_by_their_topic_and_kept_up_to_what_their_subject_allows() {
        let (arrivals, mut receiver) = arrivals();
        let group = || Source::Group("plant".into());
        arrivals.receive(arrival("r/@plant/config/desired", b"{}"));
        assert_eq!(next(&mut receiver), Some(document(group(), Payload::Document("{}".into()))));
        arrivals.receive(arrival("r/gw-7/config/desired", b""));
        assert_eq!(next(&mut receiver), Some(document(Source::Device, Payload::Empty)));
        for subject in Subject::ALL.iter().copied() {
            let most = subject.max_document_bytes();
            for (bytes, kept) in [(most, true), (most + 1, false)] {
                let payload = vec![b' '; bytes];
                arrivals.receive(arrival(&format!("r/gw-7/{}/desired", subject.name()), &payload));
                let payload = if kept { Payload::Document(payload.into()) } else { Payload::TooLarge { bytes } };
                let expected = Incoming::Desired { subject, source: Source::Device, payload };
                assert_eq!(next(&mut receiver), Some(expected));
            }
        }
        for foreign in ["r/@other/config/desired", "r/gw-8/config/desired", "r/gw-7/config", "x/r/gw-7/config/desired"]
        {
            arrivals.receive(arrival(foreign, b"{}"));
            assert_eq!(next(&mut receiver), None, "{foreign}");
        }
        assert_eq!(arrivals.unexpected(), 4);
    }

    #[test]
    fn a_reading_notes_what_came_and_our_own_last_report() {
        let (arrivals, _receiver) = arrivals();
        arrivals.receive(arrival("r/gw-7/config/desired", b"{}"));
        arrivals.begin_reading();
        arrivals.receive(arrival("r/@plant/config/desired", b"{}"));
        arrivals.receive(arrival("r/gw-7/config/reported", b"{\"v\":1}"));
        let came = arrivals.finish_reading();
        assert_eq!(Vec::from_iter(came.present), [(Subject::Config, Source::Group("plant".into()))]);
        assert_eq!(came.witness[&Subject::Config], "{\"v\":1}");

        arrivals.receive(arrival("r/gw-7/config/reported", b"{}"));
        assert_eq!((arrivals.finish_reading(), arrivals.unexpected()), (Came::default(), 1));
        arrivals.begin_reading();
        arrivals.receive(arrival("r/gw-7/config/reported", &vec![b' '; MAX_WITNESS_BYTES + 1]));
        assert_eq!(arrivals.finish_reading(), Came::default(), "no report of ours is that long");
    }

    #[test]
    fn a_request_carries_what_mqtt_5_says_of_it() {
        let (arrivals, mut receiver) = arrivals();
        arrivals.receive(Arrival {
            topic: "r/gw-7/cmd/status",
            payload: b"{}",
            retained: true,
            response_topic: Some("r/gw-7/response/a"),
            correlation_data: Some(b"1"),
            user: Some("anna"),
        });
        let expected = Request {
            name: "status".to_owned(),
            payload: Some("{}".into()),
            response_topic: Some("r/gw-7/response/a".to_owned()),
            correlation_data: Some("1".into()),
            user: Some("anna".to_owned()),
            retained: true,
        };
        assert_eq!(next(&mut receiver), Some(Incoming::Request(expected)));

        arrivals.receive(arrival("r/gw-7/cmd/status", &vec![b' '; MAX_REQUEST_BYTES + 1]));
        let Some(Incoming::Request(Request { payload, .. })) = next(&mut receiver) else { panic!("it is answered") };
        assert_eq!(payload, None, "its payload is not kept");
    }

    #[test]
    fn requests_that_find_no_room_or_are_all_properties_are_dropped_and_counted() {
        let (arrivals, _receiver) = arrivals();
        for _ in 0..MAX_WAITING_REQUESTS + 3 {
            arrivals.receive(arrival("r/gw-7/cmd/status", b""));
        }
        assert_eq!(arrivals.dropped_requests(), 3);
        let long = "x".repeat(MAX_REQUEST_PROPERTIES_BYTES);
        arrivals.receive(Arrival { user: Some(&long), ..arrival("r/gw-7/cmd/status", b"") });
        assert_eq!(arrivals.dropped_requests(), 4);
    }
}
