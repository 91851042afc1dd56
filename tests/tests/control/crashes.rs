//! The daemon dies, its disk is full, or what it remembers is damaged.

use std::{thread, time::Duration};

use serde_json::{Value, json};
use tidegate::control::store::{Store, encode};
use tidegate_tests::{Broker, Daemon, eventually, faults::Disk, need, requires, skip};

use crate::{SOON, managed::Managed};

#[test]
fn whenever_the_daemon_is_killed_it_starts_with_what_was_confirmed_and_ends_with_what_is_desired() {
    requires!(need::program("mosquitto"));
    let mut gateway = Managed::of(Broker::start(), |broker| {
        Daemon::builder().broker(broker.port()).config("[policy]\nconfirm_within = \"5s\"")
    });
    let kills = if need::long() { 50 } else { 8 };
    let interval = |version: u64| format!("{}s", 100 + version);
    for version in 1..=kills {
        gateway.desire(version, &json!({ "host": { "interval": interval(version) } }));
        // At random, so that the kills fall into every step of a trial, which takes little over 2 s.
        thread::sleep(Duration::from_millis(fastrand::u64(..3_000)));
        gateway.daemon.kill();
        let told = gateway.reports().last().and_then(|report| report["confirmed"]["version"].as_u64());
        // Nothing new is tried while the broker says nothing.
        gateway.broker.freeze();
        gateway.daemon.start_again();
        let status = gateway.daemon.status()["configuration"].take();
        let confirmed = status["remote"][0]["confirmed"].as_u64();
        let runs = gateway.runs("host.interval")["value"].take();
        let expected = confirmed.map_or("1m".to_owned(), |version| as_written(100 + version));
        assert_eq!(runs, expected, "{status}");
        assert!(confirmed >= told, "what was told to be confirmed is: {told:?}, {status}");
        gateway.broker.thaw();
        gateway.daemon.until_connected();
    }
    gateway.reported("the last version is confirmed", 2 * SOON, |report| {
        report["state"] == "confirmed" && report["version"] == kills
    });
    assert_eq!(gateway.reports().pop().unwrap()["drift"], json!({}));
    gateway.assert_all_valid();
}

/// Seconds in the notation of the files.
fn as_written(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (minutes, 0) => format!("{minutes}m"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[test]
fn with_a_full_disk_nothing_is_changed_until_there_is_room_again() {
    requires!(need::program("mosquitto"));
    let disk = match Disk::ext4(64) {
        Ok(disk) => disk,
        Err(why) => skip!("{why}"),
    };
    let mut gateway = Managed::of(Broker::start(), |broker| Daemon::builder().broker(broker.port()).on(&disk));
    disk.fill();
    gateway.desire(1, &json!({ "host": { "interval": "7s" } }));
    gateway.reported("it waits for the disk, and says so", SOON, |report| {
        let reason = report["reason"].as_str().unwrap_or_default();
        report["state"] == "pending" && reason.starts_with("cannot be recorded: No space left")
    });
    assert_eq!(gateway.runs("host.interval")["value"], "1m");
    let problems = gateway.daemon.status()["problems"].to_string();
    assert!(problems.contains("cannot be remembered"), "{problems}");
    disk.free();
    gateway.confirmed(1);
    assert_eq!(gateway.runs("host.interval")["value"], "7s");
}

#[test]
fn a_kept_document_that_no_longer_validates_is_set_aside_and_the_local_layers_run() {
    requires!(need::program("mosquitto"));
    let mut gateway = Managed::start("");
    gateway.desire(1, &json!({ "host": { "interval": "7s" } }));
    gateway.confirmed(1);
    gateway.daemon.kill();
    // As a newer version would have kept it, before it was taken back.
    let mut store = Store::new(&gateway.daemon.state().join("control"), "config.json");
    let mut kept: Value = store.load().unwrap();
    kept["device"]["confirmed"]["body"]["host"]["colour"] = json!("blue");
    store.save(&encode(&kept)).unwrap();
    gateway.daemon.start_again();
    assert_eq!(gateway.runs("host.interval")["value"], "1m");
    let event = gateway.event("set-aside", SOON);
    assert_eq!(event["version"], 1);
    assert!(event["reason"].as_str().is_some_and(|reason| reason.contains("[host] colour")), "{event}");
    gateway.reported("the operator is told", SOON, |report| report["state"] == "refused");
    gateway.desire(2, &json!({ "host": { "interval": "8s" } }));
    gateway.confirmed(2);
    gateway.assert_all_valid();
}

#[test]
fn a_damaged_memory_is_put_aside_and_what_is_desired_is_read_anew() {
    requires!(need::program("mosquitto"));
    let mut gateway = Managed::start("");
    gateway.desire(1, &json!({ "host": { "interval": "7s" } }));
    gateway.confirmed(1);
    gateway.daemon.kill();
    let file = gateway.daemon.state().join("control/config.json");
    std::fs::write(&file, "rotten").unwrap();
    gateway.daemon.start_again();
    let problems = gateway.daemon.status()["problems"].to_string();
    assert!(problems.contains("config.json is damaged"), "{problems}");
    eventually(SOON, "what is desired runs again", || {
        let runs = gateway.runs("host.interval");
        if runs["value"] == "7s" { Ok(()) } else { Err(runs.to_string()) }
    });
    assert!(file.with_extension("json.bad").exists());
}
