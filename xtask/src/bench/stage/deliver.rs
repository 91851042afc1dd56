//! `bench deliver`: records a second from a local program's line to the broker's acknowledgement, through disk,
//! beside a bare client of the same library that publishes the same bytes from memory and keeps nothing.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, PublishOptions, QoS};
use tidegate_tests::{Broker, Daemon};

use crate::{
    Plan,
    footprint::resident,
    row::{Row, summary},
};

/// Records of one round.
const RECORDS: usize = 50_000;
/// Lines that the program sends ahead of their answers: what the contract allows.
const AHEAD: usize = 256;
/// What both have in flight to the broker at most.
const IN_FLIGHT: u16 = 512;
/// A round that takes longer has failed.
const PATIENCE: Duration = Duration::from_mins(2);

/// Measures.
pub(crate) fn run(plan: Plan) -> Vec<Row> {
    let data = format!(r#"{{"value":"{}"}}"#, "7".repeat(188));
    let broker = Broker::builder().quiet().start();
    let mut ours = Vec::new();
    let mut on_disk = Vec::new();
    let mut bare = Vec::new();
    let mut rss = Vec::new();
    for round in 0..plan.rounds {
        eprintln!("round {} of {}: tidegate, bare client", round + 1, plan.rounds);
        let daemon = Daemon::builder().broker(broker.port()).config("[traffic]\ninterfaces = []").log("warn").start();
        wait(|| daemon.status()["uplink"]["state"] == "connected");
        let before = delivered(&daemon);
        let started = Instant::now();
        hand_over(&daemon.ingest_socket(), &data);
        on_disk.push(rate(started));
        wait(|| delivered(&daemon) >= before + RECORDS as u64);
        ours.push(rate(started));
        rss.push(resident(daemon.status()["pid"].as_u64().unwrap_or_default(), "VmRSS"));
        drop(daemon);
        // As long as the envelope around the data makes it.
        let envelope = data.len() + 230;
        let started = Instant::now();
        publish(broker.port(), &vec![b'x'; envelope]);
        bare.push(rate(started));
    }
    let (reference, _) = summary(bare.clone());
    let row = |case: &str, figures, unit, reference| {
        let (value, range) = summary(figures);
        Row { bench: "deliver", case: case.to_owned(), value, range, unit, reference }
    };
    let beside = Some(("a bare client".to_owned(), reference));
    vec![
        row("bare", bare, "records/s", None),
        row("ingest/200B", on_disk, "records/s", beside.clone()),
        row("acknowledged/200B", ours, "records/s", beside),
        row("rss/loaded", rss, "MiB", None),
    ]
}

fn rate(started: Instant) -> f64 {
    RECORDS as f64 / started.elapsed().as_secs_f64()
}

fn delivered(daemon: &Daemon) -> u64 {
    daemon.status()["uplink"]["acknowledged"]["ingest"].as_u64().unwrap_or_default()
}

fn wait(done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Sends the records and reads their answers: all are on disk when it returns.
fn hand_over(socket: &Path, data: &str) {
    let stream = UnixStream::connect(socket).expect("the ingest socket");
    let mut answers = BufReader::new(stream.try_clone().expect("a second descriptor"));
    let mut stream = stream;
    let line = format!("{{\"name\":\"bench\",\"data\":{data}}}\n");
    let mut answer = String::new();
    let (mut sent, mut answered) = (0, 0);
    while answered < RECORDS {
        let ahead = (AHEAD - (sent - answered)).min(RECORDS - sent);
        stream.write_all(line.repeat(ahead).as_bytes()).expect("the daemon takes lines");
        sent += ahead;
        // A half of the window at a time keeps both sides busy.
        for _ in 0..(sent - answered).min(AHEAD / 2) {
            answer.clear();
            answers.read_line(&mut answer).expect("an answer");
            assert!(answer.contains(r#""ok":true"#), "{answer}");
            answered += 1;
        }
    }
}

/// The bare client: publishes and counts acknowledgements.
fn publish(port: u16, payload: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an event queue");
    runtime.block_on(async {
        let mut options = MqttOptions::new("bare", ("127.0.0.1", port));
        options.set_outgoing_inflight_upper_limit(IN_FLIGHT);
        // As ours: the library's default writes each packet by itself.
        options.set_max_request_batch(64).set_read_batch_size(1);
        let (client, mut events) = AsyncClient::builder(options).capacity(usize::from(IN_FLIGHT)).build();
        let sending = async {
            for _ in 0..RECORDS {
                let at_least_once = PublishOptions::new(QoS::AtLeastOnce);
                client.publish("bench/bare", payload.to_vec(), at_least_once).await.expect("a live event loop");
            }
            std::future::pending::<()>().await;
        };
        let counting = async {
            let mut acknowledged = 0;
            while acknowledged < RECORDS {
                if let Event::Incoming(Incoming::PubAck(_)) = events.poll().await.expect("the broker stays") {
                    acknowledged += 1;
                }
            }
        };
        tokio::select! {
            () = sending => {}
            () = counting => {}
        }
    });
}
