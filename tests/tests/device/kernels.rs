//! The same eBPF object on the kernels that gateways run: Debian 12's and Debian 13's.

use std::time::Duration;

use serde_json::Value;
use tidegate_tests::{
    Broker, Subscriber, requires,
    schema::Schemas,
    vm::{self, Kernel, Machine},
};

const SOON: Duration = Duration::from_mins(2);

/// A plant behind the gateway: `veth0` here, `veth1` in the namespace `plant`, with a tagged network (10) and one
/// with stacked tags (20, in it 30) besides the plain one.
const PLANT: &str = "set -e
    modprobe 8021q
    ip netns add plant
    ip link add veth0 type veth peer name veth1 netns plant
    for side in '' '-n plant'; do
        if [ -z \"$side\" ]; then here=veth0 last=1; else here=veth1 last=2; fi
        ip $side link set $here up
        ip $side link add link $here name tag10 type vlan id 10
        ip $side link add link $here name outer20 type vlan proto 802.1ad id 20
        ip $side link add link outer20 name inner30 type vlan id 30
        for link in tag10 outer20 inner30; do ip $side link set $link up; done
        ip $side address add 192.0.2.$last/24 dev $here
        ip $side address add 198.51.100.$last/24 dev tag10
        ip $side address add 203.0.113.$last/24 dev inner30
    done";

/// Packets that a test sends, each way, to each of the networks.
const PINGS: u64 = 5;

fn machine(kernel: Kernel, broker: &Broker) -> Machine {
    let machine = Machine::debian().kernel(kernel).with_tidegate().resume();
    machine.run(PLANT).ok();
    machine.configure(
        broker,
        "[traffic]\ninterfaces = [\"veth0\", \"tag10\", \"inner30\"]\nsample_rate = 1\nexport_interval = \"5s\"\n",
    );
    machine.run("systemctl start tidegate").ok();
    machine
}

/// ICMP packets of an interface, received and sent, in a report of `telemetry/traffic`.
fn icmp(report: &Value, interface: &str) -> Option<[u64; 2]> {
    let interfaces = report.pointer("/data/interfaces")?.as_array()?;
    let found = interfaces.iter().find(|entry| entry["interface"] == interface)?;
    let packets = |direction: &str| found[direction]["classes"]["ipv4_icmp"]["packets"].as_u64();
    Some([packets("ingress")?, packets("egress_local")?])
}

fn main_pid(machine: &Machine) -> String {
    machine.unit("tidegate", "MainPID")
}

/// Kills the daemon as nothing else would, and waits for the one that systemd starts.
fn kill_9(machine: &Machine) {
    let before = main_pid(machine);
    machine.run("systemctl kill --signal=KILL tidegate").ok();
    machine.until(SOON, &format!("pid=$(systemctl show --value --property=MainPID tidegate); [ $pid != 0 ] && [ $pid != {before} ] && systemctl is-active tidegate && tidegate status --json | grep -q veth0"));
}

#[test]
fn on_6_12_links_are_pinned_and_taken_over_and_tcp_sendmsg_is_timed() {
    requires!(vm::available());
    let broker = Broker::start();
    let telemetry = Subscriber::start(broker.port(), "tidegate/v1/gw-test/telemetry/+");
    let machine = machine(Kernel::Linux6_12, &broker);
    assert_eq!(machine.status()["traffic"]["attach"], "tcx");
    assert_eq!(machine.status()["traffic"]["not_pinned"], Value::Null);
    let pins = "ls -i /run/tidegate-bpf | sort";
    let before = machine.run(pins).ok();
    assert_eq!(before.lines().count(), 6, "one pin each way, on three interfaces: {before}");

    kill_9(&machine);
    assert_eq!(machine.run(pins).ok(), before, "the links are the ones from before");
    every_frame_is_counted_once(&machine, &telemetry);

    let report = telemetry.wait_for("tcp_sendmsg is timed", SOON, |message| {
        message.topic.ends_with("/ebpf") && message.json()["data"]["tcp_sendmsg"]["count"].as_u64() > Some(0)
    });
    // The daemon's own connection to the broker is among them.
    let sends = &report.json()["data"]["tcp_sendmsg"];
    let buckets = sends["buckets"].as_array().expect("a histogram");
    let sum: u64 = buckets.iter().filter_map(|bucket| bucket["count"].as_u64()).sum();
    assert_eq!(sends["count"].as_u64(), Some(sum), "{sends}");

    machine.run("systemctl stop tidegate").ok();
    assert_eq!(machine.run(pins).ok(), "", "an orderly stop leaves nothing");
}

#[test]
fn on_6_1_filters_are_taken_over_and_what_the_kernel_lacks_is_told_with_the_reason() {
    requires!(vm::available());
    let broker = Broker::start();
    let telemetry = Subscriber::start(broker.port(), "tidegate/v1/gw-test/telemetry/+");
    let machine = machine(Kernel::Linux6_1, &broker);
    assert!(machine.run("uname -r").ok().starts_with("6.1."));
    assert_eq!(machine.status()["traffic"]["attach"], "netlink");
    // A line each for the filter and for the program in it.
    let filters = "for way in ingress egress; do tc filter show dev veth0 $way; done | grep -c 'handle 0x74696465'";
    assert_eq!(machine.run(filters).ok(), "2");

    kill_9(&machine);
    assert_eq!(machine.run(filters).ok(), "2", "no second filter beside the one that was there");
    every_frame_is_counted_once(&machine, &telemetry);

    // ARM64 lets functions be traced since 6.4.
    let report = telemetry.wait_for("why tcp_sendmsg is not timed", SOON, |message| {
        message.topic.ends_with("/ebpf") && message.json()["data"]["tcp_sendmsg_unavailable"].is_object()
    });
    let data = &report.json()["data"];
    assert_eq!(data["tcp_sendmsg"], Value::Null);
    assert!(data["tcp_sendmsg_unavailable"]["fix"].as_str().is_some_and(|fix| fix.contains("6.4")), "{data}");

    machine.run("systemctl stop tidegate").ok();
    assert_eq!(machine.run(&format!("{filters} || true")).ok(), "0", "an orderly stop leaves nothing");
}

/// Plain, tagged and doubly tagged: on each device a frame counts once, as what it carries.
fn every_frame_is_counted_once(machine: &Machine, telemetry: &Subscriber) {
    for address in ["192.0.2.2", "198.51.100.2", "203.0.113.2"] {
        machine.run(&format!("ping -q -c {PINGS} -i 0.2 {address}")).ok();
    }
    let what = format!("{} ICMP packets each way", 3 * PINGS);
    let report = telemetry.wait_for(&what, SOON, |message| {
        icmp(&message.json(), "veth0").is_some_and(|packets| packets.iter().all(|packets| *packets >= 3 * PINGS))
    });
    let report = report.json();
    assert_eq!(icmp(&report, "veth0"), Some([3 * PINGS; 2]), "{report}");
    // Each VLAN device counts its own, which its parent counted, too.
    for device in ["tag10", "inner30"] {
        assert_eq!(icmp(&report, device), Some([PINGS; 2]), "{device}: {report}");
    }
    Schemas::load().assert_valid("gw-test", &telemetry.messages());
}
