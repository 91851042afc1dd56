//! Bundles at random whose rules meet: few networks and their neighbours, one in the other, with conditions at the edges
//! of their ranges; and packets that are about them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use fastrand::Rng;
use tidegate::policy::{
    Action, Bundle, DefaultAction, Directions, Prefix, Scope,
    bundle::{Conditions, Limit, NewRule, Ports},
};

use crate::generate::{Aim, pick};

/// Where networks are. Bytes 0 and 1 of IPv4 and 4 and 5 of IPv6 are those that the kernel takes for the type of a packet
/// without a link header: see `generate::headerless`.
const V4: [[u8; 4]; 4] = [[8, 0, 7, 200], [8, 0, 7, 64], [192, 0, 2, 1], [255, 255, 255, 255]];
const V6: [&str; 5] =
    ["2001:db8:86dd::1", "2001:db8:86dd::8000:0:0:0", "2001:db8:86dd:ffff::", "::ffff:8.0.7.200", "fe80::1"];
const V4_LENGTHS: [u8; 12] = [0, 1, 8, 15, 16, 23, 24, 25, 28, 31, 32, 32];
const V6_LENGTHS: [u8; 14] = [0, 1, 16, 32, 47, 48, 63, 64, 65, 96, 127, 128, 128, 128];
const PROTOCOLS: [u8; 10] = [6, 6, 6, 17, 17, 1, 58, 47, 50, 132];
/// Edges of port ranges.
const PORTS: [u16; 12] = [0, 1, 67, 68, 79, 80, 443, 546, 1023, 1024, 65534, 65535];
const ICMP_TYPES: [u8; 8] = [0, 3, 8, 128, 132, 133, 137, 255];
/// The interface that packets are on is called `lan0`.
const INTERFACES: [&[&str]; 6] = [&["lan0"], &["lan*"], &["lan1", "wan*"], &["*"], &["lan1"], &["[a-m]an?", "x"]];
/// What one prefix may have at most.
const CANDIDATES: usize = 64;
/// Between which neighbours alternate.
const RULES_OF_DEEPEST: usize = 8;

/// A bundle, and what packets shall be about so that they meet its rules.
pub(super) fn bundle(rng: &mut Rng) -> (Bundle, Aim) {
    let default = if rng.bool() { DefaultAction::Allow } else { DefaultAction::Drop };
    let mut bundle = Bundle::new(1, Scope::Gateway("gw-7".into()), default);
    let crowd = (rng.u8(..4) == 0).then(|| prefix(rng));
    let count = if crowd.is_some() { CANDIDATES } else { rng.usize(..24) };
    let mut prefixes = Vec::new();
    for number in 1..=count {
        let own = match crowd {
            Some(crowd) => vec![crowd],
            None => (0..rng.usize(1..4)).map(|_| prefix(rng)).collect(),
        };
        push(rng, &mut bundle, &format!("r{number}"), own.clone());
        prefixes.extend(own);
    }
    let aim = aim(rng, &prefixes);
    (bundle, aim)
}

/// As many prefixes as there may be, no two neighbours of one rule: trees have all levels.
pub(super) fn deepest(rng: &mut Rng) -> (Bundle, Aim) {
    let mut bundle = Bundle::new(1, Scope::Gateway("gw-7".into()), DefaultAction::Drop);
    let v4 = |n: u32| Prefix::new(Ipv4Addr::from_bits(0x0800_0000 + n).into(), 32).unwrap();
    let v6 = |n: u32| Ipv6Addr::from_bits((0x2001_0DB8_86DD_0000 + u128::from(2 * n)) << 64 | 7);
    let all: Vec<_> = (0..40_000).map(v4).chain((0..25_000).map(|n| Prefix::new(v6(n).into(), 128).unwrap())).collect();
    for number in 0..RULES_OF_DEEPEST {
        let own = all.iter().skip(number).step_by(RULES_OF_DEEPEST).copied().collect();
        push(rng, &mut bundle, &format!("r{number}"), own);
    }
    let some: Vec<_> = (0..200).map(|_| *pick(rng, &all)).collect();
    let aim = aim(rng, &some);
    (bundle, aim)
}

fn push(rng: &mut Rng, bundle: &mut Bundle, name: &str, mut prefixes: Vec<Prefix>) {
    prefixes.sort();
    prefixes.dedup();
    let protocol = rng.bool().then(|| *pick(rng, &PROTOCOLS));
    let mut conditions = Conditions::default();
    match protocol {
        Some(6 | 17) => {
            if rng.bool() {
                conditions.ports = ranges(rng);
            }
            if rng.u8(..3) == 0 {
                conditions.peer_ports = ranges(rng);
            }
        }
        Some(1 | 58) if rng.bool() => {
            conditions.icmp_types = (0..rng.usize(1..4)).map(|_| *pick(rng, &ICMP_TYPES)).collect();
            conditions.icmp_types.sort_unstable();
            conditions.icmp_types.dedup();
        }
        _ => {}
    }
    if rng.u8(..4) == 0 {
        conditions.interfaces = pick(rng, &INTERFACES).iter().map(|&name| name.to_owned()).collect::<Arc<[_]>>();
    }
    let action = match rng.u8(..8) {
        0..3 => Action::Drop,
        3..5 => Action::Allow,
        5 => Action::Sample,
        _ => Action::Limit(Box::new(Limit {
            pps: *pick(rng, &[1, 7, 1_000, 50_000, 1_000_000]),
            burst: *pick(rng, &[1, 2, 5, 60]),
            per_peer: rng.bool(),
        })),
    };
    bundle.push(NewRule {
        name,
        reason: "",
        prefixes: &prefixes,
        protocol,
        directions: *pick(rng, &[Directions::Both, Directions::Both, Directions::Ingress, Directions::Egress]),
        action,
        ttl_s: None,
        conditions,
    });
}

fn prefix(rng: &mut Rng) -> Prefix {
    let (address, length) = if rng.bool() {
        (IpAddr::V4(Ipv4Addr::from(*pick(rng, &V4))), *pick(rng, &V4_LENGTHS))
    } else {
        (pick(rng, &V6).parse().unwrap(), *pick(rng, &V6_LENGTHS))
    };
    Prefix::around(address, length).unwrap()
}

/// Some ranges, sorted and apart from each other as bundles are read.
fn ranges(rng: &mut Rng) -> Vec<Ports> {
    let mut edges: Vec<u16> = (0..2 * rng.usize(1..4)).map(|_| *pick(rng, &PORTS)).collect();
    edges.sort_unstable();
    let mut ranges: Vec<Ports> = Vec::new();
    for pair in edges.chunks(2) {
        match ranges.last_mut() {
            Some(last) if pair[0] <= last.last.saturating_add(1) => last.last = pair[1],
            _ => ranges.push(Ports { first: pair[0], last: pair[1] }),
        }
    }
    ranges
}

/// Addresses in the prefixes, at their ends and right beside them.
fn aim(rng: &mut Rng, prefixes: &[Prefix]) -> Aim {
    let mut aim = Aim {
        ether_types: vec![0x0800, 0x86DD],
        protocols: PROTOCOLS.to_vec(),
        ports: PORTS.iter().flat_map(|port| [port.wrapping_sub(1), *port, port.wrapping_add(1)]).collect(),
        icmp_types: ICMP_TYPES.to_vec(),
        ..Aim::default()
    };
    for prefix in prefixes {
        match prefix.address() {
            IpAddr::V4(first) => {
                let first = first.to_bits();
                let others = u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
                let within = first | (rng.u32(..) & others);
                aim.v4.extend([first, first | others, within, first.wrapping_sub(1), (first | others).wrapping_add(1)]);
            }
            IpAddr::V6(first) => {
                let first = first.to_bits();
                let others = u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
                let within = first | (rng.u128(..) & others);
                aim.v6.extend([first, first | others, within, first.wrapping_sub(1), (first | others).wrapping_add(1)]);
            }
        }
    }
    aim.v4.extend(V4.map(u32::from_be_bytes));
    aim.v6.extend(V6.map(|text| text.parse::<Ipv6Addr>().unwrap().to_bits()));
    aim
}
