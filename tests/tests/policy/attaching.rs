//! `[traffic] attach` is changed while packets come: each of them is judged, and what is dropped is counted once.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use serde_json::json;
use tidegate::{
    config::Attach,
    kernel::{AttachMode, Options, RuleCounts},
};
use tidegate_tests::{
    Gateway, Mounts,
    net::{UdpSender, UdpSink},
    policy::Policy,
    requires,
};

use crate::{
    Guard,
    guard::{everything, generation, passes},
    needs,
};

/// Back and forth: each way of attaching follows on the other, by name and by what the kernel has.
const WAYS: [Attach; 8] = [
    Attach::Netlink,
    Attach::Tcx,
    Attach::Netlink,
    Attach::Auto,
    Attach::Netlink,
    Attach::Tcx,
    Attach::Auto,
    Attach::Netlink,
];

/// A rule that decides what the left host sends, at ingress alone, and nothing else.
fn decides_datagrams(action: &str) -> Policy {
    let rule = json!({ "name": "datagrams", "cidrs": ["10.77.1.2"], "protocol": "udp", "action": action });
    Policy::new(1).rule(rule)
}

/// What came of steady datagrams while the way of attaching was changed.
struct Outcome {
    sent: u64,
    arrived: u64,
    counted: RuleCounts,
}

fn change_while_datagrams_come(net: &Gateway, pins: Option<PathBuf>, action: &str) -> Outcome {
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut sender = UdpSender::connect(&net.left.host, sink.address());
    let guard = Guard::start(&net.gateway, Options { flow_capacity: None, pins });
    guard.enforce(Some(generation(&decides_datagrams(action))));
    guard.watch(&["eth*"], Attach::Tcx);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            while !done.load(Relaxed) {
                sender.send(b"x");
                thread::sleep(Duration::from_micros(100));
            }
        });
        for way in WAYS {
            thread::sleep(Duration::from_millis(50));
            guard.watch(&["eth*"], way);
            for side in [&net.left, &net.right] {
                let filters = net.gateway.run(&format!("tc filter show dev {} ingress", side.interface));
                assert_eq!(filters.contains("tidegate"), way == Attach::Netlink, "{way:?}: {filters}");
            }
        }
        thread::sleep(Duration::from_millis(50));
        done.store(true, Relaxed);
        sending.join().unwrap();
    });
    // What is on its way arrives.
    thread::sleep(Duration::from_millis(200));
    let outcome = Outcome { sent: sender.datagrams, arrived: sink.received(), counted: guard.counts()["datagrams"] };
    assert!(outcome.sent > 1_000, "{}", outcome.sent);
    guard.enforce(None);
    assert!(passes(&mut sender, &sink), "it is the policy that drops them");
    outcome
}

#[test]
fn no_packet_passes_and_each_is_counted_once_while_the_way_of_attaching_changes() {
    requires!(needs());
    let mounts = match Mounts::with_bpffs() {
        Ok(mounts) => mounts,
        Err(why) => tidegate_tests::skip!("{why}"),
    };
    let pinning =
        mounts.enter(|| change_while_datagrams_come(&Gateway::new(), Some(PathBuf::from("/run/tidegate-bpf")), "drop"));
    let holding = change_while_datagrams_come(&Gateway::new(), None, "drop");
    for Outcome { sent, arrived, counted } in [pinning, holding] {
        assert_eq!(arrived, 0, "of {sent}");
        assert_eq!((counted.packets, counted.dropped_packets), (sent, sent));
    }
}

/// What passes is counted by both ways while both are there; one packet or two are lost where the kernel adds the clsact
/// qdisc, for which it stops the interface's queue.
#[test]
fn no_packet_that_passes_is_missed_while_the_way_of_attaching_changes() {
    requires!(needs());
    let Outcome { sent, arrived, counted } = change_while_datagrams_come(&Gateway::new(), None, "allow");
    let twice = counted.packets.saturating_sub(sent);
    println!("{twice} of {sent} were counted by both; {arrived} arrived");
    assert!(counted.packets >= sent, "{} of {sent} were counted", counted.packets);
    assert_eq!(counted.dropped_packets, 0);
    assert!(sent - arrived <= 100, "{arrived} of {sent} arrived");
}

#[test]
fn an_interface_that_cannot_be_attached_in_the_new_way_is_guarded_as_before_until_it_can() {
    requires!(needs());
    let net = Gateway::new();
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut sender = UdpSender::connect(&net.left.host, sink.address());
    let guard = Guard::with(&net.gateway, Attach::Tcx, Some(everything(1, "drop", false)));
    // Somebody else's, of another kind, at our preference: the kernel refuses ours.
    net.gateway.run("tc qdisc add dev eth0 clsact");
    let other = "tc filter add dev eth0 egress pref 3 protocol all u32 match ip dst 203.0.113.9/32";
    if let Err(error) = net.gateway.try_run(other) {
        tidegate_tests::skip!("no u32 filter here: {error}");
    }
    guard.watch(&["eth*"], Attach::Netlink);
    assert!(!passes(&mut sender, &sink), "it is guarded by the link");
    assert_eq!(guard.readings().attach, Some(AttachMode::Tcx), "and told as it is");

    net.gateway.run("tc filter del dev eth0 egress pref 3");
    assert_eq!(guard.readings().attach, Some(AttachMode::Netlink));
    assert!(net.gateway.run("tc filter show dev eth0 egress").contains("tidegate_egress"));
    assert!(!passes(&mut sender, &sink));
    guard.enforce(None);
    assert!(passes(&mut sender, &sink), "it is the policy that drops them");
}
