//! Documents that somebody means ill, or got wrong: each is refused with a reason that names what is wrong, nothing else
//! changes, and the session lives on.

use serde_json::{Value, json};
use tidegate_tests::{Publisher, Subscriber, eventually, memory_kib, mqtt::Post, need, requires};

use crate::{SOON, managed::Managed};

const DESIRED: &str = "tidegate/v1/gw-test/config/desired";

/// What [`Managed`] starts from.
const RUNS: &str = "7s";

/// A gateway on which version 100 is confirmed.
fn managed() -> (Managed, Value) {
    let mut gateway = Managed::start("");
    gateway.desire(100, &json!({ "host": { "interval": RUNS } }));
    let report = gateway.confirmed(100);
    (gateway, report["confirmed"].clone())
}

#[track_caller]
fn refused(gateway: &Managed, reason: &str, confirmed: &Value) {
    let report = gateway.reported(reason, SOON, |report| {
        report["state"] == "refused" && report["reason"].as_str().is_some_and(|told| told.contains(reason))
    });
    assert_eq!(report["confirmed"], *confirmed, "{report}");
    assert_eq!(gateway.runs("host.interval")["value"], RUNS, "after {reason}");
}

#[track_caller]
fn lives_on(mut gateway: Managed) {
    let uplink = gateway.daemon.status()["uplink"].clone();
    assert_eq!((&uplink["state"], &uplink["reconnects"]), (&json!("connected"), &json!(0)), "{uplink}");
    gateway.desire(1000, &json!({ "host": { "interval": "9s" } }));
    gateway.confirmed(1000);
    assert_eq!(gateway.runs("host.interval")["value"], "9s");
    gateway.assert_all_valid();
}

#[test]
fn what_is_no_document_is_refused_with_the_reason_and_changes_nothing() {
    requires!(need::program("mosquitto"));
    let (mut gateway, confirmed) = managed();
    let nested = format!(r#"{{"version":101,"config":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    for (payload, reason) in [
        (b"{\"version\":101,\"config\":{\"host\":{\"interval\":\"\xff\"}}}".to_vec(), "not UTF-8"),
        (br#"{"version":101,"config":"#.to_vec(), "not JSON"),
        (b"[]".to_vec(), "not an object"),
        (nested.into_bytes(), "nested too deeply"),
        (br#"{"version":"101","config":{}}"#.to_vec(), "version: found"),
        (br#"{"version":9007199254740992,"config":{}}"#.to_vec(), "version: found"),
        (br#"{"version":0,"config":{}}"#.to_vec(), "version: found"),
        (br#"{"version":101,"version":102,"config":{}}"#.to_vec(), "stands twice"),
        (br#"{"config":{}}"#.to_vec(), "version is missing"),
        (br#"{"version":103}"#.to_vec(), "config is missing"),
        (br#"{"version":104,"config":{},"signature":"x"}"#.to_vec(), "unknown member signature"),
    ] {
        gateway.operator.retain(DESIRED, payload);
        refused(&gateway, reason, &confirmed);
    }
    lives_on(gateway);
}

#[test]
fn each_key_that_cannot_be_accepted_is_named_and_none_of_its_document_runs() {
    requires!(need::program("mosquitto"));
    let (mut gateway, confirmed) = managed();
    for (version, config, reason) in [
        (101, json!({ "host": { "interval": 5 } }), "[host] interval: found 5"),
        (102, json!({ "host": { "interval": "1ms" } }), "[host] interval"),
        (103, json!({ "host": { "intervall": "5s" } }), "[host] intervall"),
        (104, json!({ "hots": { "interval": "5s" } }), "[hots]"),
        (105, json!({ "traffic": { "interfaces": [{ "name": 1 }] } }), "[traffic] interfaces"),
        (106, json!({ "gateway": { "id": "gw-other" } }), "[gateway] id"),
        (107, json!({ "mqtt": { "url": "mqtt://203.0.113.9" } }), "[mqtt] url"),
        (108, json!({ "mqtt": { "password_file": "/etc/shadow" } }), "[mqtt] password_file"),
        (109, json!({ "spool": { "dir": "/etc" } }), "[spool] dir"),
        (110, json!({ "commands": { "enabled": [] } }), "[commands] enabled"),
        (111, json!({ "log": { "filter": "trace" } }), "[log] filter"),
    ] {
        // What stands beside it would be good, and must not run.
        let mut config = config;
        config["traffic"]["export_interval"] = json!("17s");
        gateway.desire(version, &config);
        gateway.reported(reason, SOON, |report| report["version"] == version);
        refused(&gateway, reason, &confirmed);
        assert_ne!(gateway.runs("traffic.export_interval")["value"], "17s", "{reason}");
    }
    lives_on(gateway);
}

#[test]
fn what_is_replayed_older_or_another_document_of_the_same_version_is_refused() {
    requires!(need::program("mosquitto"));
    let (mut gateway, confirmed) = managed();
    gateway.desire(100, &json!({ "host": { "interval": "8s" } }));
    refused(&gateway, "conflict", &confirmed);
    gateway.desire(99, &json!({ "host": { "interval": "8s" } }));
    refused(&gateway, "stale", &confirmed);
    // The very bytes that are confirmed are no news.
    gateway.desire(100, &json!({ "host": { "interval": RUNS } }));
    gateway.confirmed(100);
    lives_on(gateway);
}

#[test]
fn a_document_that_is_too_large_is_answered_or_never_arrives_and_the_memory_comes_back() {
    requires!(need::program("mosquitto"));
    let (mut gateway, confirmed) = managed();
    let pid = gateway.daemon.running().pid();
    let before = memory_kib(pid, "VmRSS");
    let document = |bytes: usize| {
        let frame = r#"{"version":101,"config":{"log":{"filter":""}}}"#;
        let (head, tail) = frame.split_at(frame.len() - 4);
        format!("{head}{}{tail}", "x".repeat(bytes - frame.len()))
    };
    gateway.operator.retain(DESIRED, document(4 << 20));
    refused(&gateway, "[log] filter", &confirmed);
    for bytes in [(4 << 20) + 1, (8 << 20) - 1024] {
        gateway.operator.retain(DESIRED, document(bytes));
        refused(&gateway, &format!("too-large: {bytes} bytes"), &confirmed);
    }
    let reports = gateway.reports().len();
    for bytes in [8 << 20, 9 << 20] {
        gateway.operator.retain(DESIRED, document(bytes));
    }
    // What the library held of the last packet goes when the next one comes: an echo at the latest.
    let after = eventually(SOON, "the memory comes back", || {
        let now = memory_kib(pid, "VmRSS");
        if now < before + 3 * 1024 { Ok(now) } else { Err(format!("{now} KiB, before: {before} KiB")) }
    });
    println!("resident before {before} KiB, after documents of up to 9 MiB {after} KiB");
    assert_eq!(gateway.reports().len(), reports, "the broker discarded what we do not take");
    lives_on(gateway);
}

#[test]
fn documents_of_others_concern_nobody_else() {
    requires!(need::program("mosquitto"));
    let (mut gateway, confirmed) = managed();
    let payload = json!({ "version": 200, "config": { "host": { "interval": "8s" } } }).to_string();
    for topic in [
        "tidegate/v1/gw-other/config/desired",
        "tidegate/v1/@not-ours/config/desired",
        "tidegate/v1/gw-test/policy/desired",
        "tidegate/v2/gw-test/config/desired",
    ] {
        gateway.operator.retain(topic, payload.clone());
    }
    gateway.desire(101, &json!({ "host": { "interval": 5 } }));
    refused(&gateway, "[host] interval: found 5", &confirmed);
    lives_on(gateway);
}

#[test]
fn of_two_publishers_that_race_the_last_one_is_followed_or_told_that_it_is_behind() {
    requires!(need::program("mosquitto"));
    let (gateway, _) = managed();
    // Odd versions and even ones, each unaware of the other; the broker retains whichever came last.
    std::thread::scope(|scope| {
        for first in [101, 102] {
            let broker = &gateway.broker;
            scope.spawn(move || {
                let mut publisher = Publisher::connect(broker);
                for version in (first..=160).step_by(2) {
                    let config = json!({ "host": { "interval": format!("{version}s") } });
                    let document = json!({ "version": version, "config": config }).to_string();
                    publisher.post(Post::new(DESIRED, document).retained());
                }
            });
        }
    });
    let reader = Subscriber::start(gateway.broker.port(), DESIRED);
    let retained = reader.wait_for("what is retained", SOON, |message| message.retain).json()["version"].clone();
    // That it is behind is said at once, while what is ahead of it is still on trial.
    let report = eventually(SOON, "what is confirmed is no older, and runs", || {
        let report = gateway.reports().pop().unwrap_or_default();
        let confirmed = report["confirmed"]["version"].as_u64();
        let key = gateway.runs("host.interval");
        let runs = confirmed.is_some_and(|version| key["from"] == format!("remote device v{version}"));
        if confirmed >= retained.as_u64() && runs { Ok(report) } else { Err(format!("{retained}: {key}, {report}")) }
    });
    let followed_or_told = |report: &Value| {
        let behind = report["reason"].as_str().is_some_and(|reason| reason.contains("stale"));
        report["version"] == retained && (report["state"] == "confirmed" || report["state"] == "refused" && behind)
    };
    assert!(gateway.reports().iter().any(followed_or_told), "{retained}: {report}");
    lives_on(gateway);
}
