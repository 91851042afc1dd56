//! Rates, to the packet.

use std::{net::Ipv4Addr, thread};

use tidegate_abi::programs;
use tidegate_tests::{need, probes::Context, requires};

use super::{
    TC_ACT_SHOT,
    rate::boot_ns,
    stand::{Stand, udp},
};
use crate::TC_ACT_UNSPEC;

fn limit(limit: &str) -> String {
    format!(r#"{{"name":"r1","cidrs":["10.0.0.0/8"],"action":"limit","limit":{limit}}}"#)
}

#[test]
fn several_cpus_share_the_rate_of_a_rule_to_the_packet() {
    const THREADS: u16 = 4;
    const REPEAT: u32 = 150_000;
    // So much at once that the rate is never idle, be the machine as busy as it may.
    const INTERVAL_NS: u64 = 100_000;
    const BURST: u64 = 2_000;
    requires!(need::root(), need::program("ip"));
    let mut stand = Stand::new();
    let generation = stand.enforce("allow", &limit(r#"{"pps":10000,"burst":2000}"#));
    let start_ns = boot_ns();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let stand = &stand;
            scope.spawn(move || stand.run(programs::INGRESS, &udp([10, 0, 0, 1].into(), thread), REPEAT));
        }
    });
    let end_ns = boot_ns();

    let (rule, limit) = (generation.rule(1), generation.limit(0));
    assert_eq!(rule.packets, u64::from(THREADS) * u64::from(REPEAT));
    let passed = rule.packets - limit.dropped_packets;
    // Each packet that passed moved it by one interval, from the time of the first: none was lost, none counted twice.
    let first_ns = limit.tat_ns - passed * INTERVAL_NS;
    assert!((start_ns..end_ns).contains(&first_ns), "{passed} passed from {first_ns}, within {start_ns}..{end_ns}");
    let most = BURST + (end_ns - first_ns) / INTERVAL_NS;
    assert!((BURST..=most).contains(&passed), "{passed} of at most {most}");
    println!("{passed} of {} passed, {most} could", rule.packets);
}

#[test]
fn each_peer_has_a_rate_of_its_own() {
    requires!(need::root(), need::program("ip"));
    let mut stand = Stand::new();
    let generation = stand.enforce("allow", &limit(r#"{"pps":1,"burst":5,"per":"peer"}"#));
    for (peer, seen) in (1..=20).zip(1..) {
        let last = stand.run(programs::INGRESS, &udp(Ipv4Addr::new(10, 0, 0, peer), 1), 40);
        assert_eq!(last, TC_ACT_SHOT);
        assert_eq!(generation.limit(0).dropped_packets, seen * 35, "5 of 40 packets of each peer pass");
    }
    assert_eq!(generation.rule(1).packets, 20 * 40);
}

#[test]
fn a_buffer_of_more_segments_than_the_burst_passes_alone_and_takes_its_time() {
    requires!(need::root(), need::program("ip"));
    let mut stand = Stand::new();
    let generation = stand.enforce("allow", &limit(r#"{"pps":10,"burst":10}"#));
    let packet = udp([10, 0, 0, 1].into(), 1);
    let buffer = Context { gso_segs: 44, gso_size: 1_000, ..Context::default() };
    let begin_ns = boot_ns();
    assert_eq!(stand.run_in(programs::INGRESS, &packet, buffer, 1), TC_ACT_UNSPEC);
    assert_eq!(stand.run(programs::INGRESS, &packet, 1), TC_ACT_SHOT);
    assert_eq!(stand.run_in(programs::INGRESS, &packet, buffer, 1), TC_ACT_SHOT);
    assert_eq!((generation.rule(1).packets, generation.limit(0).dropped_packets), (44 + 1 + 44, 1 + 44));
    assert!(generation.limit(0).tat_ns >= begin_ns + 44 * 100_000_000);
}
