//! What is told of packets that are dropped.

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use tidegate_abi::{
    direction,
    policy::{Dropped, TELLS_PER_SECOND},
    programs,
};
use tidegate_tests::{need, requires};

use super::{
    TC_ACT_SHOT,
    stand::{PORT, Stand, udp},
};

#[test]
fn the_first_drop_of_a_rule_is_told_at_once_and_one_a_second_after_that() {
    requires!(need::root(), need::program("ip"));
    let mut stand = Stand::new();
    let rules = r#"{"name":"a","cidrs":["10.0.0.1"],"action":"drop"},
                   {"name":"b","cidrs":["10.0.0.2"],"action":"limit","limit":{"pps":1,"burst":1}},
                   {"name":"c","cidrs":["10.0.0.3"],"action":"allow"}"#;
    let generation = stand.enforce("drop", rules);
    let told = |stand: &mut Stand| {
        for peer in 1..=4 {
            let _last = stand.run(programs::EGRESS, &udp(Ipv4Addr::new(10, 0, 0, peer), 1_234), 50);
        }
        let mut told = stand.probes.take_drops();
        told.sort_by_key(|drop| drop.rule);
        told
    };
    let first = told(&mut stand);
    let expected = [(0, 4, false), (1, 1, false), (2, 2, true)].map(|(rule, peer, limited)| Dropped {
        boot_ns: 0,
        generation: generation.header().number,
        rule,
        ifindex: stand.ifindex,
        source_port: PORT,
        destination_port: 1_234,
        peer: Ipv4Addr::new(10, 0, 0, peer).to_ipv6_mapped().octets(),
        protocol: 17,
        direction: direction::EGRESS,
        ip_version: 4,
        limited: limited.into(),
        reserved: 0,
    });
    let without_time: Vec<_> = first.iter().map(|drop| Dropped { boot_ns: 0, ..*drop }).collect();
    assert_eq!(without_time, expected);
    thread::sleep(Duration::from_millis(1_100));
    assert_eq!(told(&mut stand).len(), 3);
}

#[test]
fn a_sweep_over_many_rules_is_told_of_within_bounds() {
    const RULES: u16 = 1_000;
    requires!(need::root(), need::program("ip"));
    let mut stand = Stand::new();
    let mut rules = String::new();
    for rule in 0..RULES {
        let separator = if rule == 0 { "" } else { "," };
        write!(rules, r#"{separator}{{"name":"r{rule}","cidrs":["{}"],"action":"drop"}}"#, address(rule)).unwrap();
    }
    let generation = stand.enforce("allow", &rules);
    let began = Instant::now();
    for rule in 0..RULES {
        assert_eq!(stand.run(programs::EGRESS, &udp(address(rule), 1), 1), TC_ACT_SHOT);
    }
    assert_eq!(generation.rule(u32::from(RULES)).packets, 1);
    let told = stand.probes.take_drops().len();
    let cpus = thread::available_parallelism().unwrap().get();
    // It takes far less than a second, and in emulation some; it may cross the end of one more.
    let windows = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;
    let bound = TELLS_PER_SECOND as usize;
    assert!((bound..=windows * bound * cpus).contains(&told), "{told} in {:?}", began.elapsed());
}

fn address(rule: u16) -> Ipv4Addr {
    let [high, low] = rule.to_be_bytes();
    Ipv4Addr::new(10, 1, high, low)
}
