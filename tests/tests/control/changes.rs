//! Remote configuration comes, runs, is proven, and goes.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::{Broker, Daemon, need, requires};

use crate::{SOON, managed::Managed};

#[test]
fn a_gateway_that_was_never_told_anything_reports_that_it_runs_what_it_has() {
    requires!(need::program("mosquitto"));
    let gateway = Managed::start("");
    let report = gateway.reported("there is a report", SOON, Value::is_object);
    assert_eq!((&report["state"], &report["version"]), (&json!("confirmed"), &json!(null)));
    assert_eq!(gateway.daemon.status()["configuration"]["state"], "running");
    gateway.assert_all_valid();
}

#[test]
fn a_remote_change_runs_at_once_is_confirmed_and_withdrawn() {
    requires!(need::program("mosquitto"));
    let mut gateway = Managed::start("");
    gateway.desire(1, &json!({ "host": { "interval": "7s" } }));
    gateway.confirmed(1);
    let key = gateway.runs("host.interval");
    assert_eq!((&key["value"], &key["from"]), (&json!("7s"), &json!("remote device v1")));
    assert_eq!(gateway.event("confirmed", SOON)["version"], 1);

    gateway.withdraw();
    let report = gateway.reported("the withdrawal is confirmed", SOON, |report| {
        report["state"] == "confirmed" && report["version"].is_null() && report["confirmed"].is_null()
    });
    assert_eq!(report["drift"], json!({}));
    assert_eq!(gateway.runs("host.interval")["value"], "1m");
    gateway.event("withdrawn", SOON);
    gateway.assert_all_valid();
}

#[test]
fn groups_apply_in_their_order_and_the_device_over_them() {
    requires!(need::program("mosquitto"));
    let mut gateway = Managed::of(Broker::start(), |broker| {
        Daemon::builder().broker(broker.port()).env("TIDEGATE__GATEWAY__GROUPS", "plant,canary")
    });
    gateway.desire_of_group("canary", 1, &json!({ "host": { "interval": "8s" } }));
    gateway.desire_of_group("plant", 4, &json!({ "host": { "interval": "9s" }, "traffic": { "sample_rate": 9 } }));
    gateway.desire(2, &json!({ "traffic": { "sample_rate": 2 } }));
    let report = gateway.reported("all three are confirmed", SOON, |report| {
        let groups = report["groups"].as_array().into_iter().flatten();
        groups.chain([report]).all(|source| source["state"] == "confirmed" && source["version"].is_u64())
    });
    let groups: Vec<_> = report["groups"].as_array().unwrap().iter().map(|group| &group["group"]).collect();
    assert_eq!(groups, ["plant", "canary"]);
    assert_eq!(gateway.runs("host.interval")["value"], "8s", "canary stands behind plant");
    assert_eq!(gateway.runs("traffic.sample_rate")["value"], 2);
    gateway.assert_all_valid();
}

#[test]
fn a_key_that_needs_a_restart_is_pending_until_then_and_confirmed_after_it() {
    requires!(need::program("mosquitto"));
    let mut gateway = Managed::start("");
    gateway.desire(1, &json!({ "host": { "interval": "7s" }, "traffic": { "flow_capacity": 5000 } }));
    let report = gateway.reported("a restart is pending", SOON, |report| report["state"] == "pending-restart");
    assert_eq!(report["pending_restart"], json!(["traffic.flow_capacity"]));
    assert_eq!(report["confirmed"], json!(null));
    assert_eq!(gateway.runs("host.interval")["value"], "7s", "what can change live has");
    assert_eq!(gateway.runs("traffic.flow_capacity")["next_start"], 5000);

    gateway.daemon.stop(SOON);
    gateway.daemon.start_again();
    let report = gateway.confirmed(1);
    assert_eq!(report.get("pending_restart"), None);
    assert_eq!(gateway.runs("traffic.flow_capacity")["value"], 5000);
    gateway.assert_all_valid();
}

#[test]
fn what_is_confirmed_runs_after_a_start_without_a_broker() {
    requires!(need::program("mosquitto"));
    let mut gateway = Managed::start("");
    gateway.desire(1, &json!({ "host": { "interval": "7s" } }));
    gateway.confirmed(1);
    gateway.daemon.kill();
    gateway.broker.kill();
    gateway.daemon.start_again();
    let key = gateway.runs("host.interval");
    assert_eq!((&key["value"], &key["from"]), (&json!("7s"), &json!("remote device v1")));
}

#[test]
fn what_cannot_be_used_is_refused_by_name_and_changes_nothing() {
    requires!(need::program("mosquitto"));
    let mut gateway = Managed::start("");
    gateway.desire(3, &json!({ "host": { "interval": "7s" } }));
    let good = gateway.confirmed(3);
    for (version, config, reason) in [
        (4, json!({ "mqtt": { "url": "mqtt://elsewhere" } }), "[mqtt] url: can be set on the gateway only"),
        (5, json!({ "host": { "interval": 7 } }), "[host] interval: found 7, accepted is a duration"),
        (5, json!({ "host": { "interval": "8s" } }), "conflict: version 5"),
        (2, json!({ "host": { "interval": "9s" } }), "stale: version 2 is lower than 5"),
    ] {
        gateway.desire(version, &config);
        let report = gateway.reported(reason, SOON, |report| {
            report["state"] == "refused" && report["reason"].as_str().is_some_and(|told| told.contains(reason))
        });
        assert_eq!((&report["version"], &report["confirmed"]), (&json!(version), &good["confirmed"]));
        assert_eq!(gateway.runs("host.interval")["value"], "7s");
    }
    let status = gateway.daemon.status();
    let problems = status["problems"].to_string();
    assert!(problems.contains("the remote configuration for device, version 2, is refused: stale"), "{problems}");
    gateway.assert_all_valid();
}

#[test]
fn drift_that_somebody_causes_on_site_is_told_within_a_minute_and_a_reload_is_told_of() {
    requires!(need::program("mosquitto"));
    let mut gateway = Managed::start("");
    gateway.desire(1, &json!({ "host": { "interval": "7s" } }));
    gateway.confirmed(1);
    // In front of what the test's own file says.
    let file = gateway.daemon.config_file().parent().unwrap().join("conf.d/a-technician.toml");
    std::fs::write(&file, "[host]\ninterval = \"30s\"\n\n[traffic]\nsample_rate = 77\n").unwrap();
    let event = gateway.event("drift", Duration::from_mins(1));
    assert_eq!(
        event["began"]["host.interval"],
        json!({ "kind": "local", "desired": "7s", "file": "30s", "running": "7s" })
    );
    assert_eq!(event["began"]["traffic.sample_rate"]["kind"], "unread");
    let drift = &gateway.reports().pop().unwrap()["drift"];
    assert_eq!(drift.as_object().unwrap().len(), 2, "{drift}");
    let problems = gateway.daemon.status()["problems"].to_string();
    assert!(problems.contains("the files say something that does not run: traffic.sample_rate\""), "{problems}");

    gateway.daemon.running().signal(rustix::process::Signal::HUP);
    let event = gateway.event("local-change", SOON);
    assert_eq!(event["changes"], json!({ "traffic.sample_rate": { "old": 1000, "new": 77 } }));
    assert_eq!(gateway.runs("host.interval")["value"], "7s", "what is desired stays in force");
    std::fs::remove_file(&file).unwrap();
    gateway.daemon.running().signal(rustix::process::Signal::HUP);
    gateway.reported("nothing is apart any more", SOON, |report| report["drift"] == json!({}));
    gateway.assert_all_valid();
}
