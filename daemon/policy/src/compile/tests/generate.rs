//! Bundles and packets at random, from few addresses, ports and interfaces, so that everything meets at its edges.

use std::{net::IpAddr, sync::Arc};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};

use super::empty;
use crate::{
    Action, Bundle, DefaultAction, Directions, Packet, Prefix,
    bundle::{Conditions, Limit, MAX_CANDIDATES, NewRule, Ports},
    evaluate::{Content, Direction, Upper},
};

/// Interfaces that packets are on.
const INTERFACES: [&str; 4] = ["eth0", "eth1", "wwan0", "tun0"];
/// Lists that rules name.
const LISTS: [&[&str]; 6] = [&["eth0"], &["eth1"], &["eth*"], &["eth0", "wwan*"], &["tun?"], &["absent"]];
const PROTOCOLS: [u8; 6] = [1, 6, 17, 47, 58, 255];
const PORTS: [u16; 10] = [0, 1, 79, 80, 81, 443, 8000, 8001, 65534, 65535];
const ICMP_TYPES: [u8; 5] = [0, 1, 8, 128, 255];

/// A bundle of up to 64 rules, and packets many of which its rules are for.
pub(super) fn bundle_and_packets() -> impl Strategy<Value = (Bundle, Vec<Packet<'static>>)> {
    let bundle =
        (any::<bool>(), prop_oneof![0..6_usize, Just(MAX_CANDIDATES)].prop_flat_map(|count| vec(rule(), count)));
    let bundle = bundle.prop_map(|(drop, rules)| {
        let mut bundle = empty(if drop { DefaultAction::Drop } else { DefaultAction::Allow });
        for (number, rule) in rules.iter().enumerate() {
            bundle.push(NewRule { name: &format!("rule-{number}"), ..rule.borrow() });
        }
        bundle
    });
    bundle.prop_flat_map(|bundle| {
        let prefixes: Vec<_> = bundle.rules.iter().flat_map(|rule| bundle.prefixes(rule)).copied().collect();
        (Just(bundle), vec(packet(prefixes), 48))
    })
}

#[derive(Clone, Debug)]
struct Owned {
    prefixes: Vec<Prefix>,
    protocol: Option<u8>,
    directions: Directions,
    action: Action,
    conditions: Conditions,
}

impl Owned {
    fn borrow(&self) -> NewRule<'_> {
        NewRule {
            name: "",
            reason: "",
            prefixes: &self.prefixes,
            protocol: self.protocol,
            directions: self.directions,
            action: self.action.clone(),
            ttl_s: None,
            conditions: self.conditions.clone(),
        }
    }
}

fn rule() -> impl Strategy<Value = Owned> {
    let prefixes = vec(any_prefix(), 1..5).prop_map(|mut prefixes| {
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes
    });
    let directions = select(vec![Directions::Ingress, Directions::Egress, Directions::Both]);
    let limit = Box::new(Limit { pps: 3, burst: 5, per_peer: true });
    let action = select(vec![Action::Allow, Action::Drop, Action::Sample, Action::Limit(limit)]);
    let lists = prop_oneof![3 => Just(Arc::default()), 1 => select(LISTS.to_vec()).prop_map(owned)];
    let icmp_types = subsequence(ICMP_TYPES.to_vec(), 0..3);
    (prefixes, option::of(select(PROTOCOLS.to_vec())), directions, action, ports(), ports(), icmp_types, lists)
        .prop_map(|(prefixes, protocol, directions, action, ports, peer_ports, icmp_types, interfaces)| {
            let mut conditions = Conditions { interfaces, ..Conditions::default() };
            match protocol {
                Some(6 | 17) => (conditions.ports, conditions.peer_ports) = (ports, peer_ports),
                Some(1 | 58) => conditions.icmp_types = icmp_types,
                _ => {}
            }
            Owned { prefixes, protocol, directions, action, conditions }
        })
}

fn owned(list: &[&str]) -> Arc<[String]> {
    list.iter().map(ToString::to_string).collect()
}

/// Sorted ranges apart from each other; many of one port, many that adjoin.
fn ports() -> impl Strategy<Value = Vec<Ports>> {
    let edges = subsequence(PORTS.to_vec(), 0..=6);
    (edges, any::<bool>()).prop_map(|(edges, single)| {
        if single {
            edges.into_iter().map(|port| Ports { first: port, last: port }).collect()
        } else {
            edges.chunks_exact(2).map(|pair| Ports { first: pair[0], last: pair[1] }).collect()
        }
    })
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    let v4 = (v4_bits(), select(vec![0, 1, 7, 8, 24, 30, 31, 32, 32]))
        .prop_map(|(bits, length)| Prefix::around(IpAddr::V4(bits.into()), length).unwrap());
    let v6 = (v6_bits(), select(vec![0, 1, 32, 63, 64, 65, 96, 127, 128, 128]))
        .prop_map(|(bits, length)| Prefix::around(IpAddr::V6(bits.into()), length).unwrap());
    prop_oneof![v4, v6]
}

fn v4_bits() -> impl Strategy<Value = u32> {
    (select(vec![0, 0x0A00_0000, 0x0A00_0100, 0xC000_0200, 0xFFFF_FF00]), select(vec![0, 1, 2, 3, 127, 254, 255]))
        .prop_map(|(high, low)| high | low)
}

fn v6_bits() -> impl Strategy<Value = u128> {
    let high = vec![0, 1, 0x2001_0DB8_0000_0000, 0x2001_0DB8_0000_0001, u64::MAX - 1, u64::MAX];
    let low = vec![0, 1, 2, 7, 1 << 63, u64::MAX - 1, u64::MAX];
    (select(high), select(low)).prop_map(|(high, low)| u128::from(high) << 64 | u128::from(low))
}

fn packet(prefixes: Vec<Prefix>) -> impl Strategy<Value = Packet<'static>> {
    let peer = (any::<prop::sample::Index>(), 0..6_u8, v4_bits(), v6_bits()).prop_map(move |(which, place, v4, v6)| {
        let any = if place % 2 == 0 { IpAddr::V4(v4.into()) } else { IpAddr::V6(v6.into()) };
        if prefixes.is_empty() { any } else { beside(*which.get(&prefixes), place).unwrap_or(any) }
    });
    let port = || prop_oneof![select(PORTS.to_vec()), any::<u16>()];
    let ports = (port(), port()).prop_map(|(source, destination)| [source, destination]);
    let protocol = || select(PROTOCOLS.to_vec());
    let upper = prop_oneof![
        3 => ports.clone().prop_map(|[source, destination]| Upper::Tcp { source, destination }),
        3 => ports.prop_map(|[source, destination]| Upper::Udp { source, destination }),
        2 => select(ICMP_TYPES.to_vec()).prop_map(|kind| Upper::Icmp { kind }),
        1 => protocol().prop_map(|protocol| Upper::Other { protocol }),
        1 => protocol().prop_map(|protocol| Upper::Fragment { protocol }),
        1 => Just(Upper::TooDeep),
    ];
    let direction = select(vec![Direction::Ingress, Direction::Egress]);
    (direction, select(INTERFACES.to_vec()), peer, upper).prop_map(|(direction, interface, peer, upper)| Packet {
        direction,
        interface,
        content: Content::Ip { peer, upper },
    })
}

/// The first or the last address of a prefix, or one that is just outside; `None`: anywhere.
pub(super) fn beside(prefix: Prefix, place: u8) -> Option<IpAddr> {
    let (first, bits) = match prefix.address() {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let all = u128::MAX >> (128 - bits);
    let last = first | all.checked_shr(prefix.length().into()).unwrap_or(0);
    let number = match place {
        0 => first,
        1 => last,
        2 => first.wrapping_sub(1) & all,
        3 => last.wrapping_add(1) & all,
        _ => return None,
    };
    let v4 = u32::try_from(number).unwrap_or_default();
    Some(if bits == 32 { IpAddr::V4(v4.into()) } else { IpAddr::V6(number.into()) })
}
