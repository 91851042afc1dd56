//! One policy takes another's place.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tidegate::{config::Attach, kernel::Generation};
use tidegate_tests::{
    Gateway, eventually, need,
    net::{UdpSender, UdpSink},
    policy::Policy,
    requires,
};

use crate::{
    Guard,
    guard::{everything, generation, large, passes},
    needs,
    stream::Stream,
};

#[test]
fn a_policy_of_any_size_takes_the_place_of_one_of_any_size() {
    requires!(needs());
    let net = Gateway::new();
    for attach in [Attach::Tcx, Attach::Netlink] {
        let guard = Guard::with(&net.gateway, attach, None);
        let sink = UdpSink::open(&net.right.host, net.right.address(false));
        let mut sender = UdpSender::connect(&net.left.host, sink.address());
        assert!(passes(&mut sender, &sink), "there is no policy");
        // Every pair of none, small and large, from a policy that drops to one that allows and back.
        let sizes = [None, Some(false), Some(true)];
        let mut version = 0;
        for from in sizes {
            for to in sizes {
                for (size, drops) in [(from, true), (to, false), (from, true)] {
                    version += 1;
                    let action = if drops { "drop" } else { "allow" };
                    guard.enforce(size.map(|large| everything(version, action, large)));
                    let expected = size.is_none() || !drops;
                    assert_eq!(passes(&mut sender, &sink), expected, "{attach:?} {from:?} {to:?} {size:?}");
                }
            }
        }
    }
}

#[test]
fn counters_of_a_rule_go_on_in_the_policies_that_follow() {
    requires!(needs());
    let net = Gateway::new();
    let mut guard = Guard::with(&net.gateway, Attach::Auto, Some(everything(1, "drop", false)));
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut sender = UdpSender::connect(&net.left.host, sink.address());
    for round in 1..=20_u64 {
        guard.enforce(Some(everything(round + 1, "drop", round % 3 == 0)));
        for _ in 0..50 {
            sender.send(&[0; 100]);
        }
        eventually(Duration::from_secs(5), "each packet was dropped and counted", || {
            let counted = guard.counts()["all"];
            // Beside ours there is only what the hosts say of themselves, such as IGMP.
            let expected = round * 50..round * 50 + 40;
            if expected.contains(&counted.dropped_packets) { Ok(()) } else { Err(format!("{counted:?} {expected:?}")) }
        });
    }
    assert_eq!(sink.received(), 0);
    let told = guard.drops();
    let ours = told.iter().find(|dropped| dropped.peer == net.left.address(false)).expect("the peer is told");
    assert_eq!((ours.rules.name(ours.rule), ours.interface.as_str(), ours.ingress), (Some("all"), "eth0", true));
    assert_eq!(ours.ports, Some((sender.local().port(), sink.address().port())));
}

/// Two policies that agree on everything that is sent here, and on nothing else: one allows what it names and drops the
/// rest, the other the reverse. A judgement by half of the one and half of the other would be wrong.
fn alternatives(net: &Gateway, sizes: [bool; 2], canary: u16) -> [Generation; 2] {
    let hosts = [net.left.ipv4.to_string(), net.right.ipv4.to_string()];
    let everywhere = ["0.0.0.0/0", "::/0"];
    let canary = json!({
        "name": "canary", "cidrs": hosts, "protocol": "udp", "ports": [canary.to_string()], "action": "drop",
    });
    let closed = Policy::new(1)
        .with("default", "drop".into())
        .rule(json!({ "name": "tcp", "cidrs": hosts, "protocol": "tcp", "action": "allow" }))
        .rule(json!({ "name": "igmp", "cidrs": everywhere, "protocol": 2, "action": "allow" }))
        .rule(json!({ "name": "icmpv6", "cidrs": everywhere, "protocol": "icmpv6", "action": "allow" }))
        .rule(canary.clone());
    let open = Policy::new(2).drop("elsewhere", &["198.51.100.0/24", "2001:db8::/32"]).rule(canary);
    [(closed, sizes[0]), (open, sizes[1])].map(|(policy, is_large)| {
        let generation = generation(&policy);
        if is_large { large(generation) } else { generation }
    })
}

#[test]
fn a_thousand_switches_under_load_misjudge_not_one_packet() {
    requires!(needs());
    let net = Gateway::new();
    let guard = Guard::with(&net.gateway, Attach::Auto, None);
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut canary = UdpSender::connect(&net.left.host, sink.address());
    let stream = Stream::open(&net);
    let cut = Stream::open(&net);
    let same = alternatives(&net, [false, false], sink.address().port());
    let other = alternatives(&net, [true, false], sink.address().port());
    guard.enforce(Some(same[0].clone()));

    let stop = AtomicBool::new(false);
    let (switches, slowest) = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                canary.send(b"canary");
                thread::sleep(Duration::from_micros(200));
            }
        });
        let mut slowest = Duration::ZERO;
        let begun = Instant::now();
        let wanted = if need::long() { 10_000 } else { 1_000 };
        for switch in 0..wanted {
            let pair = if switch / 10 % 4 < 3 { &same } else { &other };
            let enforced = guard.enforce(Some(pair[switch % 2].clone()));
            slowest = slowest.max(enforced.switch);
        }
        println!("{wanted} switches in {:?}, the slowest visible after {slowest:?}", begun.elapsed());
        stop.store(true, Relaxed);
        (wanted, slowest)
    });
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(sink.received(), 0, "{switches} switches: both policies drop the canary");
    let counts = guard.counts();
    let dropped = |rule: &str| counts.get(rule).copied().unwrap_or_default().dropped_packets;
    assert_eq!(dropped("canary"), canary.datagrams, "each was dropped at ingress, and counted through all policies");
    assert_eq!((dropped(""), dropped("elsewhere")), (0, 0), "nothing else was dropped: {counts:?}");
    assert!(stream.moved() > 0 && cut.moved() > 0, "data flows");

    // A drop cuts a connection that is there, and no other.
    let port = cut.server_port().to_string();
    let cuts = Policy::new(3).rule(
        json!({ "name": "cut", "cidrs": [net.left.ipv4.to_string()], "protocol": "tcp", "ports": [port], "action": "drop" }),
    );
    guard.enforce(Some(generation(&cuts)));
    thread::sleep(Duration::from_millis(50));
    let (before, other_before) = (cut.moved(), stream.moved());
    thread::sleep(Duration::from_millis(500));
    assert_eq!(cut.moved(), before, "nothing passes any more");
    assert!(stream.moved() > other_before, "the other goes on");
    guard.enforce(None);
    eventually(Duration::from_secs(10), "it goes on once nothing drops it", || cut.moved() > before);
}
