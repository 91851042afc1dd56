//! What the scenarios say of a machine that runs the daemon.

use std::{thread, time::Duration};

use serde_json::Value;
use tidegate_tests::{Tap, eventually, vm::Machine};

/// For what takes some seconds on a gateway, in emulation on a busy host.
pub(crate) const SOON: Duration = Duration::from_mins(1);

/// Samples each packet and exports often, but not as often that a busy host's disk is too slow for it.
pub(crate) const WATCHFUL: &str = "[traffic]\nsample_rate = 1\nexport_interval = \"3s\"\n\n[host]\ninterval = \"1h\"\n";

/// Without sources of its own, so that what arrives is what was handed over.
pub(crate) const QUIET: &str = "[traffic]\ninterfaces = []\n\n[host]\ninterval = \"1h\"\n";

/// Makes `eth1`, 10.9.0.1, which leads to the namespace `plant`, 10.9.0.2.
pub(crate) fn connect_plant(machine: &Machine) {
    machine
        .run(
            "set -e
             ip netns add plant
             ip link add eth1 type veth peer name eth0 netns plant
             ip address add 10.9.0.1/24 dev eth1
             ip link set eth1 up
             ip -n plant address add 10.9.0.2/24 dev eth0
             ip -n plant link set eth0 up",
        )
        .ok();
}

/// Waits until the daemon's own messages come back from the broker.
#[track_caller]
pub(crate) fn until_connected(machine: &Machine) {
    eventually(Duration::from_mins(2), "the daemon is connected", || {
        let uplink = machine.status()["uplink"].take();
        if uplink["state"] == "connected" { Ok(()) } else { Err(uplink.to_string()) }
    });
}

/// The interface's entry in the status, once it is watched.
#[track_caller]
pub(crate) fn until_watched(machine: &Machine, interface: &str) -> Value {
    eventually(SOON, &format!("{interface} is watched"), || {
        let status = machine.status();
        let interfaces = status["traffic"]["interfaces"].as_array().expect("a list");
        let found = interfaces.iter().find(|entry| entry["interface"] == interface);
        found.cloned().ok_or_else(|| format!("{:#}", status["traffic"]))
    })
}

/// Waits until the broker acknowledged so many different records of a stream, and returns the `n` of each.
#[track_caller]
pub(crate) fn until_delivered(tap: &Tap, stream: &str, count: u64) -> Vec<u64> {
    let ledger = eventually(Duration::from_mins(2), &format!("{count} records of {stream}"), || {
        let ledger = tidegate_tests::mqtt::Ledger::of(&tap.acknowledged());
        let found = ledger.stream(stream).count() as u64;
        if found >= count {
            return Ok(ledger);
        }
        thread::sleep(Duration::from_millis(100));
        Err(format!("{found}"))
    });
    ledger.assert_complete();
    assert!(ledger.losses().is_empty(), "nothing forced a loss: {:?}", ledger.losses());
    ledger.stream(stream).filter_map(|record| record.data["n"].as_u64()).collect()
}

/// How many programs the kernel runs on an interface, of both directions of TCX: asked of the kernel itself, whoever
/// attached them.
pub(crate) fn programs(machine: &Machine, interface: &str) -> u32 {
    // bpf(2) has number 280 on ARM64; BPF_PROG_QUERY is 16; BPF_TCX_INGRESS and BPF_TCX_EGRESS are 46 and 47. The answer
    // stands behind the pointer to program ids, of which none are asked for.
    let script = format!(
        r#"perl -e '
            my $sum = 0;
            for my $direction (46, 47) {{
                my $query = pack("L4 Q L x4 Q4", $ARGV[0], $direction, 0, 0, 0, 0, 0, 0, 0, 0);
                syscall(280, 16, $query, length $query) == 0 or die "BPF_PROG_QUERY: $!";
                $sum += (unpack "L4 Q L", $query)[5];
            }}
            print $sum' "$(cat /sys/class/net/{interface}/ifindex)""#
    );
    machine.run(&script).ok().parse().expect("a number")
}

/// Seconds between two moments of the machine's boot, each given as systemd has it, in microseconds.
pub(crate) fn seconds_between(earlier: &str, later: &str) -> f64 {
    let micros = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("microseconds, not {text:?}"));
    let (earlier, later) = (micros(earlier), micros(later));
    assert!(later >= earlier, "{later} µs after the boot is before {earlier} µs");
    Duration::from_micros(later - earlier).as_secs_f64()
}
