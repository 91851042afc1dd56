//! Rates go on where they stand when a policy takes over that has the rule, too.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tidegate::{config::Attach, kernel::Generation};
use tidegate_tests::{
    Gateway, Over, eventually,
    net::{UdpSender, UdpSink},
    policy::Policy,
    requires,
};

use crate::{
    Guard,
    guard::{generation, large},
    needs,
};

const PPS: u64 = 500;
const BURST: u64 = 100;
/// A switch that filled the bucket would let a whole burst pass, five times what the rate has earned since the one before.
const SWITCHES: u64 = 100;
const BETWEEN: Duration = Duration::from_millis(40);

/// A policy with the rate, whose rule has another number in each of three versions, in a map of either size.
fn limiting(version: u64, net: &Gateway, ports: &[String], per: &str) -> Generation {
    let others = (0..version % 3)
        .fold(Policy::new(version), |policy, n| policy.drop(&format!("other-{n}"), &["198.51.100.0/24"]));
    let policy = others.rule(json!({
        "name": "slow", "cidrs": [net.left.ipv4.to_string(), net.left.ipv6.to_string()], "direction": "ingress",
        "protocol": "udp", "ports": ports, "action": "limit", "limit": { "pps": PPS, "burst": BURST, "per": per },
    }));
    let generation = generation(&policy);
    if version.is_multiple_of(2) { large(generation) } else { generation }
}

#[test]
fn a_hundred_switches_refill_no_rate_and_lose_no_count() {
    requires!(needs());
    for (per, rates) in [("rule", 1), ("peer", 2)] {
        let net = Gateway::new();
        let guard = Guard::with(&net.gateway, Attach::Auto, None);
        // The left is two peers, of which each has its own rate, or both share that of the rule.
        let sinks = [false, true].map(|ipv6| UdpSink::open(&net.right.host, net.right.address(ipv6)));
        let mut senders = sinks.each_ref().map(|sink| UdpSender::connect(&net.left.host, sink.address()));
        let ports = sinks.each_ref().map(|sink| sink.address().port().to_string());
        let versions: Vec<_> = (0..=SWITCHES).map(|version| limiting(version + 1, &net, &ports, per)).collect();

        let done = AtomicBool::new(false);
        let mut versions = versions.into_iter();
        guard.enforce(versions.next());
        let began = Instant::now();
        thread::scope(|scope| {
            let over = Over::when_dropped(&done);
            let sending = scope.spawn(|| {
                while !done.load(Relaxed) {
                    for sender in &mut senders {
                        sender.send(&[0; 100]);
                    }
                    thread::sleep(Duration::from_micros(300));
                }
            });
            for generation in versions {
                guard.enforce(Some(generation));
                thread::sleep(BETWEEN);
            }
            // What two versions let pass at once is owed, a burst at most. By then it is paid back.
            thread::sleep(Duration::from_millis(1000 * BURST / PPS));
            drop(over);
            sending.join().unwrap();
        });
        let sent: u64 = senders.iter().map(|sender| sender.datagrams).sum();
        let counted = eventually(Duration::from_secs(5), "each was judged, and counted in whichever version", || {
            let counted = guard.counts()["slow"];
            if counted.packets == sent { Ok(counted) } else { Err(format!("{counted:?} of {sent}")) }
        });
        let lasted = began.elapsed();
        let passed = sent - counted.dropped_packets;
        eventually(Duration::from_secs(5), "what passed arrives", || {
            let received: u64 = sinks.iter().map(UdpSink::received).sum();
            if received == passed { Ok(()) } else { Err(format!("{received} of {passed}")) }
        });
        let earned = PPS * u64::try_from(lasted.as_millis()).unwrap() / 1000 + 1;
        let most = rates * (BURST + earned);
        println!("{per}: {passed} of {sent} passed in {lasted:?}, {most} could");
        assert!(sent > 2 * most, "{per}: {sent} are more than may pass, {most}");
        assert!((most / 2..=most).contains(&passed), "{per}: {passed} passed in {lasted:?}, at most {most} may");
    }
}
