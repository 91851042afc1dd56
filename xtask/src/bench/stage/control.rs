//! `bench control`: how long a change takes on one gateway, and what an idle gateway sends in a day.
//!
//! The daemon is the built one, the broker is on the loopback of a namespace of its own.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use tidegate_tests::{Broker, Daemon, Gateway, Publisher, Subscriber};

use crate::{
    Plan,
    row::{Row, summary},
};

/// Changes of one run.
const CHANGES: usize = 200;
/// For one change: its trial settles for 2 s.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the idle gateway is watched: whole periods of what it sends (echo 15 s, telemetry 1 min).
const IDLE: Duration = Duration::from_mins(5);
const DAY: Duration = Duration::from_hours(24);
const KIB: f64 = 1024.0;

/// Measures.
pub(crate) fn run(_: Plan) -> Vec<Row> {
    let net = Gateway::new();
    let broker = Broker::builder().inside(&net.gateway).quiet().start();
    let daemon = Daemon::builder().inside(&net.gateway).broker(broker.port()).log("info").start();
    let connected = || daemon.status()["uplink"]["state"] == "connected";
    wait("the daemon is connected", connected);
    let mut rows = vec![idle(&net)];
    rows.extend(changes(&net, &broker, &daemon));
    rows
}

/// Bytes of IP packets, both ways, extrapolated to a day. The broker is on the loopback, whose packets are larger than
/// those of a modem: a message above 1,448 bytes would have more headers there.
fn idle(net: &Gateway) -> Row {
    // The birth, and whatever follows a start.
    thread::sleep(Duration::from_secs(20));
    eprintln!("an idle gateway, {} s", IDLE.as_secs());
    let before = loopback_bytes(net);
    thread::sleep(IDLE);
    let bytes = loopback_bytes(net) - before;
    let a_day = bytes as f64 / KIB * (DAY.as_secs_f64() / IDLE.as_secs_f64());
    row("idle/day", vec![a_day], "KiB")
}

fn loopback_bytes(net: &Gateway) -> u64 {
    // proc_pid_net(5): what the interface received, which on the loopback is all that was sent.
    let table = net.gateway.enter(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default());
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a namespace has a loopback")
}

/// From the publisher's acknowledgement on: to the report that it runs, and to the one that it is confirmed.
fn changes(net: &Gateway, broker: &Broker, daemon: &Daemon) -> Vec<Row> {
    let reports = Subscriber::inside(Some(&net.gateway), broker.port(), &daemon.topic("config/reported"));
    let mut publisher = Publisher::connect(broker);
    let (mut applied, mut confirmed) = (Vec::new(), Vec::new());
    let mut seen = reports.messages().len();
    for version in 1..=CHANGES {
        let document =
            format!(r#"{{"version":{version},"config":{{"traffic":{{"sample_rate":{}}}}}}}"#, 1000 + version);
        let started = Instant::now();
        publisher.retain(daemon.topic("config/desired"), document);
        let mut runs = None;
        loop {
            assert!(started.elapsed() < PATIENCE, "version {version} is not confirmed");
            let news = reports.messages_after(seen);
            seen += news.len();
            let states = news.iter().map(tidegate_tests::Message::json);
            let states: Vec<_> = states.filter(|report| report["version"] == version).collect();
            if runs.is_none()
                && states.iter().any(|report| report["state"] == "applied" || report["state"] == "confirmed")
            {
                runs = Some(started.elapsed());
            }
            if states.iter().any(|report| report["state"] == "confirmed") {
                confirmed.push(ms(started.elapsed()));
                applied.extend(runs.map(ms));
                break;
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
    let (applied_p50, applied_p99) = percentiles(applied);
    let (confirmed_p50, confirmed_p99) = percentiles(confirmed);
    vec![
        row("applied/p50", vec![applied_p50], "ms"),
        row("applied/p99", vec![applied_p99], "ms"),
        row("confirmed/p50", vec![confirmed_p50], "ms"),
        row("confirmed/p99", vec![confirmed_p99], "ms"),
    ]
}

fn percentiles(mut figures: Vec<f64>) -> (f64, f64) {
    figures.sort_by(f64::total_cmp);
    let at = |share: usize| {
        figures.get((figures.len() * share).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::NAN)
    };
    (at(50), at(99))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn row(case: &str, figures: Vec<f64>, unit: &'static str) -> Row {
    let (value, range) = summary(figures);
    Row { bench: "control", case: case.to_owned(), value, range, unit, reference: None }
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
