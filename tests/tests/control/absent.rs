//! The retained document is gone: somebody cleared it, or the broker lost its memory. The gateway tells the two apart.

use serde_json::{Value, json};
use tidegate_tests::{Broker, Daemon, Publisher, Tap, eventually, need, requires};

use crate::{SOON, managed::Managed};

const DESIRED: &str = "tidegate/v1/gw-test/config/desired";

/// A gateway that reaches its broker through a tap, with a document that is confirmed.
fn managed(session_expiry: &str) -> (Managed, Tap) {
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let port = tap.port();
    let mut gateway = Managed::of(broker, |_| {
        Daemon::builder().mqtt(&format!(
            "url = \"mqtt://127.0.0.1:{port}\"\nsession_expiry = \"{session_expiry}\"\nkeep_alive = \"5s\""
        ))
    });
    gateway.desire(5, &json!({ "host": { "interval": "7s" } }));
    gateway.confirmed(5);
    (gateway, tap)
}

#[track_caller]
fn is_withdrawn(gateway: &Managed) {
    gateway.reported("it is withdrawn", SOON, |report| report["state"] == "confirmed" && report["confirmed"].is_null());
    assert_eq!(gateway.runs("host.interval")["value"], "1m");
    gateway.assert_all_valid();
}

#[track_caller]
fn read_in_full(gateway: &Managed, connects: u64) -> Value {
    eventually(SOON, "desired state is read in full", || {
        let uplink = gateway.daemon.status()["uplink"].clone();
        let done = uplink["desired_read"] == true && uplink["reconnects"].as_u64() >= Some(connects);
        if done { Ok(uplink) } else { Err(uplink.to_string()) }
    })
}

#[test]
fn a_document_that_is_cleared_while_the_gateway_is_stopped_is_withdrawn() {
    requires!(need::program("mosquitto"));
    for session_expiry in ["1h", "0s"] {
        let (mut gateway, _tap) = managed(session_expiry);
        gateway.daemon.stop(SOON);
        gateway.operator.clear(DESIRED);
        gateway.daemon.start_again();
        is_withdrawn(&gateway);
    }
}

#[test]
fn a_broker_that_lost_its_memory_withdraws_nothing_however_often_the_gateway_comes_back() {
    requires!(need::program("mosquitto"));
    let (mut gateway, tap) = managed("1h");
    gateway.broker.kill();
    gateway.broker.start_again();
    for connects in 1..=3 {
        read_in_full(&gateway, connects);
        let report = gateway.reported("it is still confirmed", SOON, |report| report["confirmed"]["version"] == 5);
        assert_eq!(report["state"], "confirmed", "{report}");
        assert_eq!(gateway.runs("host.interval")["value"], "7s", "after connect {connects}");
        // Now our own report is there again. It proves nothing: the document never was.
        tap.cut();
    }
    let mut operator = Publisher::connect(&gateway.broker);
    operator.retain(DESIRED, json!({ "version": 6, "config": { "host": { "interval": "8s" } } }).to_string());
    gateway.confirmed(6);
    operator.clear(DESIRED);
    is_withdrawn(&gateway);
}

#[test]
fn a_change_goes_through_though_the_broker_is_killed_in_the_middle_of_it() {
    requires!(need::program("mosquitto"));
    let broker = Broker::builder().persistent().start();
    let mut gateway = Managed::of(broker, |broker| {
        Daemon::builder().mqtt(&format!("url = \"mqtt://127.0.0.1:{}\"\nkeep_alive = \"5s\"", broker.port()))
    });
    gateway.desire(1, &json!({ "host": { "interval": "7s" } }));
    gateway.confirmed(1);
    gateway.desire(2, &json!({ "host": { "interval": "8s" } }));
    // The broker writes each second; it has the document then, and the round trip may be anywhere.
    gateway.broker.stop();
    gateway.broker.start_again();
    gateway.confirmed(2);
    assert_eq!(gateway.runs("host.interval")["value"], "8s");
    gateway.assert_all_valid();
}
