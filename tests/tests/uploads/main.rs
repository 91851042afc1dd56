//! Uploads: what is renamed into the outbox arrives whole at servers nobody here wrote, whatever lies between.

mod changes;
mod faults;
mod kills;
mod kind;
mod limits;
mod ways;
mod whole;

use std::{fs, time::Duration};

use serde_json::{Value, json};
use tidegate_tests::{
    Broker, Daemon, DaemonBuilder, Subscriber, eventually,
    mqtt::Publisher,
    upload::{Kind, Received, Sample, sample},
};

/// Most that an upload may take on a busy machine.
const SOON: Duration = Duration::from_mins(1);

/// Seed of what is in files where it matters no further.
const SEED: u64 = 7;

/// A gateway that uploads.
struct Sender {
    daemon: Daemon,
}

impl Sender {
    /// One that sends to `endpoint`, with these further lines of `[upload]`.
    #[track_caller]
    fn start(endpoint: &str, lines: &str) -> Self {
        Self::of(Daemon::builder(), endpoint, lines)
    }

    #[track_caller]
    fn of(daemon: DaemonBuilder, endpoint: &str, lines: &str) -> Self {
        let daemon = daemon.config("[traffic]\ninterfaces = []\ntime_tcp_sendmsg = false");
        Self { daemon: daemon.upload(&format!("endpoint = \"{endpoint}\"\n{lines}")).start() }
    }

    /// Makes a file beside the outbox and renames it in, over what has its name there.
    #[track_caller]
    fn put(&self, name: &str, size: u64, kind: Kind, seed: u64) -> Sample {
        let made = sample(self.daemon.scratch().path(), name, size, kind, seed);
        let path = self.daemon.outbox().join(name);
        fs::rename(&made.path, &path).expect("the outbox is there");
        Sample { path, ..made }
    }

    /// What it says of uploads.
    #[track_caller]
    fn upload(&self) -> Value {
        self.daemon.status()["upload"].take()
    }

    /// One of its counters.
    #[track_caller]
    fn counter(&self, name: &str) -> Value {
        self.upload()["counters"][name].take()
    }

    /// Waits until it has let go of every file, as it does with what has arrived.
    #[track_caller]
    fn is_done(&self) {
        eventually(SOON, "the outbox is empty", || {
            let left = self.outbox();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}; {}", self.upload())) }
        });
    }

    /// Names of what lies in the outbox, the daemon's own folders apart.
    fn outbox(&self) -> Vec<String> {
        names(&self.daemon.outbox()).into_iter().filter(|name| name != ".tidegate-sent").collect()
    }

    /// Has changed lines of `[upload]` read.
    fn configure(&mut self, lines: &str) {
        self.daemon.reconfigure(&format!("[upload]\n{lines}\n"));
    }

    /// Tries at once what waits, as an operator does who has mended something.
    fn retry(&self) {
        let answer = self.daemon.ask(&json!({"upload": "retry"}));
        assert!(answer["files"].is_u64(), "{answer}");
    }
}

/// A gateway that uploads, and what it tells of that.
struct Told {
    // Dropped first, so that its log is whole.
    sender: Sender,
    seen: Subscriber,
    broker: Broker,
}

impl Told {
    #[track_caller]
    fn start(endpoint: &str, lines: &str) -> Self {
        let broker = Broker::start();
        let seen = Subscriber::start(broker.port(), "tidegate/v1/gw-test/#");
        let daemon = Daemon::builder().broker(broker.port()).config("[host]\ninterval = \"1s\"");
        Self { sender: Sender::of(daemon, endpoint, lines), seen, broker }
    }

    /// Whoever sends commands, once the daemon has subscribed to them.
    #[track_caller]
    fn operator(&self) -> Publisher {
        self.sender.daemon.until_connected();
        Publisher::connect(&self.broker)
    }

    /// What was told of files so far: the data of `event/upload`.
    fn events(&self) -> Vec<Value> {
        self.data("event/upload")
    }

    fn data(&self, topic: &str) -> Vec<Value> {
        let messages = self.seen.messages().into_iter();
        messages.filter(|message| message.topic.ends_with(topic)).map(|message| message.json()["data"].take()).collect()
    }

    /// Waits for an event about this file.
    #[track_caller]
    fn event(&self, name: &str, state: &str) -> Value {
        eventually(SOON, &format!("event/upload says that {name} is {state}"), || {
            let events = self.events();
            let found = events.iter().find(|event| event["name"] == name && event["state"] == state).cloned();
            found.ok_or_else(|| format!("{events:?}; {}", self.sender.upload()))
        })
    }
}

/// Waits until the server has the file whole.
#[track_caller]
fn arrives(sample: &Sample, received: impl Fn() -> Vec<Received>) -> Received {
    eventually(SOON, &format!("{} arrives", sample.name), || {
        let all = received();
        // A later upload of the same name may have another content.
        let found = all.iter().find(|it| it.name == sample.name && it.content_sha256() == sample.sha256).cloned();
        found.ok_or_else(|| format!("{all:?}"))
    })
}

/// Names in a folder, in order.
fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there").map_while(Result::ok);
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
