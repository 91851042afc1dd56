//! A file that is uploaded over a link that breaks: it arrives whole, and hardly a byte goes twice.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use tidegate_tests::{
    Daemon, Netns, Scratch, Subscriber,
    mqtt::Envelope,
    upload::{End, Fault, FaultProxy, Kind, sample, sha256},
};

use crate::{receiver::Receiver, screen::Screen};

/// The file.
const NAME: &str = "recording.bin";
const BYTES: u64 = 50_000_000;
/// Each of the first two connections is cut after so many bytes.
const CUT_AFTER: u64 = 15_000_000;
/// What the link passes: so that one sees it happen.
const BYTES_PER_S: u64 = 25_000_000;
/// The file takes two seconds, and the daemon waits a little after each cut.
const ARRIVED_WITHIN: Duration = Duration::from_secs(30);

/// The folder, the link and the server.
#[derive(Debug)]
pub(crate) struct Upload {
    outbox: Scratch,
    // Dropped before the server that it leads to.
    link: FaultProxy,
    receiver: Receiver,
}

impl Upload {
    /// A server on the loopback of the gateway, behind a link that is cut twice.
    pub(crate) fn new(gateway: Option<&Netns>) -> Self {
        let start = || {
            let receiver = Receiver::start();
            let cut = || Fault::cut_up(CUT_AFTER, End::Reset);
            (FaultProxy::before(receiver.port()).schedule([cut(), cut()]).rate(BYTES_PER_S).start(), receiver)
        };
        let (link, receiver) = gateway.map_or_else(start, |gateway| gateway.enter(start));
        Self { outbox: Scratch::new("outbox"), link, receiver }
    }

    /// The table of the configuration by which the gateway uploads what lies in the folder.
    pub(crate) fn config(&self) -> String {
        let (port, outbox) = (self.link.port(), self.outbox.path().display());
        format!("[upload]\nendpoint = \"http://127.0.0.1:{port}/files\"\noutbox = [\"{outbox}\"]\nsplay = \"0s\"")
    }

    /// A file is put into the folder, and arrives.
    pub(crate) fn arrives(&self, daemon: &Daemon, subscriber: &Subscriber, screen: &Screen) {
        let part = sample(self.outbox.path(), &format!("{NAME}.part"), BYTES, Kind::Random, 7);
        let path = self.outbox.path().join(NAME);
        fs::rename(&part.path, &path).expect("the outbox is ours");
        screen.say(format_args!("a program puts {NAME} with {} MB into the outbox", BYTES / 1_000_000));
        let told = subscriber.wait_for("event/upload tells that the file arrived", ARRIVED_WITHIN, |message| {
            let event = event(message);
            event["name"] == NAME && event["state"] == "sent"
        });
        let (event, counts) = (event(&told), self.link.counts());
        assert_eq!((counts.of("cut"), counts.connections), (2, 3), "{counts:?}");
        screen.say(format_args!(
            "it arrived within {:.1} s though its connection was reset twice, each time after {} MB; event/upload tells:",
            Duration::from_millis(event["duration_ms"].as_u64().unwrap_or_default()).as_secs_f32(),
            CUT_AFTER / 1_000_000,
        ));
        let told: serde_json::Map<String, Value> = ["name", "bytes", "state", "duration_ms", "retries", "sha256"]
            .into_iter()
            .map(|key| (key.to_owned(), event[key].clone()))
            .collect();
        screen.quote(&json!(told).to_string());
        assert_eq!(event["bytes"], BYTES, "{event}");
        assert_eq!(event["sha256"], part.sha256, "what the gateway says that it sent");
        assert_eq!(sha256(&self.receiver.file()), part.sha256, "what the server received");
        assert!(!path.exists(), "what has arrived is removed");
        let twice = daemon.status()["upload"]["counters"]["resent_bytes"].as_u64().expect("it is counted");
        screen.say(format_args!(
            "the server has each byte of it, by SHA-256; {} KB went twice, and the file is gone from the outbox",
            twice / 1000
        ));
    }
}

/// What a message on `event/upload` carries; null for another one.
fn event(message: &tidegate_tests::Message) -> Value {
    let of_topic = message.topic.ends_with("/event/upload").then(|| Envelope::of(message)).flatten();
    of_topic.map_or(Value::Null, |envelope| envelope.data)
}
