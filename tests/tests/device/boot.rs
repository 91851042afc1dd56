//! When the daemon starts.

use tidegate_tests::{
    requires,
    vm::{self, Machine},
};

use crate::gateway::{self, seconds_between};

#[test]
fn at_boot_it_is_ready_before_the_network_begins_and_without_a_broker() {
    requires!(vm::available());
    let machine = Machine::debian().with_tidegate().boot();
    assert_eq!(machine.run("systemctl is-system-running; systemctl --failed --plain --no-legend").ok(), "running");
    let at = |unit: &str, property: &str| machine.unit(unit, &format!("{property}TimestampMonotonic"));
    let micros = |text: String| text.parse::<u64>().unwrap();
    let (started, ready) = (at("tidegate", "ExecMainStart"), at("tidegate", "ActiveEnter"));
    println!(
        "started {:.1} s after the kernel, ready {:.1} s later",
        seconds_between("0", &started),
        seconds_between(&started, &ready)
    );
    let ready = micros(ready);
    assert!(ready > 0 && ready <= micros(at("network-pre.target", "ActiveEnter")), "ready at {ready} µs");
    assert!(ready <= micros(at("systemd-networkd", "ExecMainStart")), "ready at {ready} µs");
    // The network card's driver was there before: it is watched before the network sets it up.
    let watching = machine.journal("-b -u tidegate TIDEGATE_INTERFACE=eth0");
    assert_eq!(watching[0]["MESSAGE"], "watching");
    assert!(micros(watching[0]["__MONOTONIC_TIMESTAMP"].as_str().unwrap().to_owned()) <= ready);
    assert_eq!(machine.status()["uplink"]["state"], "not-provisioned");
    assert_eq!(machine.run("journalctl --quiet -b -p err -u tidegate").ok(), "");

    gateway::connect_plant(&machine);
    let interface = gateway::until_watched(&machine, "eth1");
    println!("eth1 was there unwatched for {} µs", interface["attached_after_us"]);
    assert!(interface["attached_after_us"].is_u64(), "{interface:#}");
}
