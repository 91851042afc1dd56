//! Somebody may publish to the gateway, and does nothing else.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tidegate_tests::{Broker, Daemon, Publisher, Subscriber, memory_kib, mqtt::Post, need, requires};

use crate::{SOON, managed::Managed};

/// For how long at least, and how many messages a second in all.
const FLOOD: Duration = Duration::from_secs(20);
const RATE: u64 = 10_000;
/// So many are a flood. Where three processes share two processors with others, they take longer.
const ENOUGH: u64 = 50_000;

/// Resident memory beyond what it was, in KiB: what may wait (8 MiB), a packet in the library, and room for the allocator.
const BEYOND: u64 = 24 << 10;

/// What is sent to each topic.
fn garbage(topic: &str, number: u64) -> Post {
    let payload = match number % 5 {
        0 => "?".repeat(200),
        1 => format!(r#"{{"version":{number},"config":{{"host":{{"interval":"nonsense"}}}}}}"#),
        2 => format!(r#"{{"v":1,"nonce":"{number:016x}"}}"#),
        3 => "[".repeat(2000),
        _ => format!(r#"{{"version":{number}}}"#),
    };
    Post::new(topic, payload)
}

#[test]
fn ten_thousand_messages_a_second_on_every_topic_leave_the_gateway_at_work() {
    requires!(need::program("mosquitto"));
    let topics = [
        "tidegate/v1/gw-test/config/desired",
        "tidegate/v1/@plant/config/desired",
        "tidegate/v1/gw-test/cmd/status",
        "tidegate/v1/gw-test/cmd/flows",
        "tidegate/v1/gw-test/echo",
        "tidegate/v1/gw-test/echo/desired",
    ];
    // As mosquitto comes, but for its log.
    let broker = Broker::builder().quiet().line("max_inflight_messages 20\nmax_queued_messages 1000").start();
    let config = "[traffic]\ninterfaces = []\n\n[host]\ninterval = \"1s\"";
    let mut gateway = Managed::of(broker, |broker| {
        Daemon::builder().broker(broker.port()).config(config).env("TIDEGATE__GATEWAY__GROUPS", "plant").log("info")
    });
    let pid = gateway.daemon.running().pid();
    let before = memory_kib(pid, "VmRSS");
    let telemetry = || gateway.daemon.status()["uplink"]["acknowledged"]["telemetry"].as_u64().unwrap();
    let delivered = telemetry();

    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut slowest, mut largest) = (Duration::ZERO, before);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = Publisher::connect(&gateway.broker);
            let began = Instant::now();
            let mut number = 0;
            while began.elapsed() < FLOOD || number < ENOUGH {
                for topic in topics {
                    publisher.shout(garbage(topic, number));
                    number += 1;
                }
                let due = Duration::from_micros(number * 1_000_000 / RATE);
                thread::sleep(due.saturating_sub(began.elapsed()));
            }
            sent.store(number, Ordering::Relaxed);
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let _answer = gateway.daemon.status();
            slowest = slowest.max(asked.elapsed());
            largest = largest.max(memory_kib(pid, "VmRSS"));
            thread::sleep(Duration::from_millis(200));
        }
    });
    let status = gateway.daemon.status();
    let sent = sent.into_inner();
    let went_on = telemetry() - delivered;
    println!(
        "{sent} messages: {went_on} telemetry records, status within {slowest:?}, \
         resident {before} KiB, at most {largest} KiB; {}",
        status["uplink"]
    );
    assert!(slowest < Duration::from_secs(5), "the control socket answers");
    assert!(largest < before + BEYOND, "the memory is bounded: {before} KiB, then {largest} KiB");
    assert!(went_on > FLOOD.as_secs() / 2, "telemetry goes on: {went_on}");
    assert!(status["uplink"]["unexpected_messages"].as_u64() > Some(0), "{status}");

    // Whoever saw the flood may see it still, or may have missed the report in it.
    let operator = Subscriber::start(gateway.broker.port(), &gateway.daemon.topic("config/reported"));
    gateway.desire(u64::from(u32::MAX), &json!({ "host": { "interval": "7s" } }));
    operator.wait_for("what is desired after the flood is confirmed", SOON, |message| {
        let report = message.json();
        report["state"] == "confirmed" && report["version"] == u32::MAX
    });
}
