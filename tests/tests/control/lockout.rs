//! A change that takes the link away is undone, and the gateway is online again.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tidegate_tests::{Broker, Daemon, Gateway, Over, eventually, mqtt::Post, need, requires};

use crate::{SOON, managed::Managed};

/// Short trials, and a link whose death is noticed soon.
const IMPATIENT: &str = "[policy]\nconfirm_within = \"5s\"\n";
const KEEP_ALIVE: &str = "keep_alive = \"5s\"";

/// Where the device's document stands, seen from the gateway itself; null before it has one.
fn device(daemon: &Daemon) -> Value {
    daemon.status()["configuration"]["remote"][0].clone()
}

#[track_caller]
fn stands(daemon: &Daemon, state: &str) -> Value {
    eventually(SOON, &format!("the document of the device is {state}"), || {
        let device = device(daemon);
        if device["state"] == state { Ok(device) } else { Err(device.to_string()) }
    })
}

#[test]
fn an_interface_list_that_cuts_the_link_is_rolled_back_and_the_gateway_is_online_again() {
    requires!(need::root(), need::program("mosquitto"), need::program("ip"), need::program("tc"));
    let net = Gateway::new();
    let inside = net.gateway.clone();
    let broker = Broker::builder().inside(&inside).start();
    let mut gateway = Managed::of(broker, |broker| {
        let daemon = Daemon::builder().inside(&inside).broker(broker.port()).mqtt(KEEP_ALIVE);
        daemon.config(IMPATIENT).config("[traffic]\ninterfaces = [\"eth1\"]\nattach = \"netlink\"")
    });

    // What a driver does that stumbles over programs on its interface: no link while eth0 is watched. The kernel is asked,
    // for the change is confirmed two seconds after it, which `tidegate status` may take on a busy machine.
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over::when_dropped(&done);
        scope.spawn(|| {
            let mut is_up = true;
            while !done.load(Ordering::Relaxed) {
                let up = !inside.run("tc filter show dev eth0 ingress").contains("tidegate_ingress");
                if up != is_up {
                    inside.run(&format!("ip link set lo {}", if up { "up" } else { "down" }));
                    is_up = up;
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
        gateway.desire(1, &json!({ "traffic": { "interfaces": ["eth0", "eth1"] } }));
        let undone = stands(&gateway.daemon, "rolled-back");
        assert_eq!(undone["reason"], "no round trip with the broker within 5 s");
        assert_eq!(gateway.runs("traffic.interfaces")["value"], json!(["eth1"]));
        gateway.daemon.until_connected();
        gateway.reported("the operator is told", SOON, |report| report["state"] == "rolled-back");
        if need::long() {
            let report = gateway.reported("it is not tried for ever", 4 * SOON, |report| {
                report["state"] == "rolled-back" && report["attempts"] == 4
            });
            assert_eq!(report.get("next_attempt_s"), None, "{report}");
            assert_eq!(gateway.events("rolled-back").len(), 4);
            gateway.daemon.until_connected();
            let retry = json!({ "subject": "config" }).to_string();
            gateway.operator.post(Post::new(gateway.daemon.topic("cmd/retry"), retry));
            gateway.reported("whoever asks is served once more", SOON, |report| {
                report["state"] == "rolled-back" && report["attempts"] == 1
            });
            gateway.daemon.until_connected();
        }
        gateway.desire(2, &json!({ "traffic": { "interfaces": ["eth1"], "sample_rate": 7 } }));
        gateway.confirmed(2);
    });
    assert_eq!(gateway.runs("traffic.sample_rate")["value"], 7);
    gateway.assert_all_valid();
}

#[test]
fn a_broker_that_fails_during_a_trial_only_delays_the_change() {
    requires!(need::program("mosquitto"));
    let mut gateway = Managed::of(Broker::start(), |broker| {
        Daemon::builder().broker(broker.port()).mqtt(KEEP_ALIVE).config(IMPATIENT)
    });
    gateway.desire(1, &json!({ "host": { "interval": "7s" } }));
    gateway.on_trial(1);
    gateway.broker.freeze();
    assert_eq!(gateway.runs("host.interval")["value"], "7s");
    stands(&gateway.daemon, "rolled-back");
    assert_eq!(gateway.runs("host.interval")["value"], "1m");
    gateway.broker.thaw();
    gateway.confirmed(1);
    assert_eq!(gateway.runs("host.interval")["value"], "7s");
    assert_eq!(gateway.events("rolled-back").len(), 1);
    gateway.assert_all_valid();
}
