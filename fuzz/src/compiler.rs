//! Bundles and packets made of bytes, for the policy compiler: nearly any bytes are a bundle, and its packets what is left
//! of them. What the tables say of a packet must be what the bundle says.

use std::net::IpAddr;

use tidegate::policy::{
    Action, Bundle, CompileError, DefaultAction, Directions, Fragments, Options, Packet, Prefix, Scope,
    bundle::{Conditions, ICMP, ICMPV6, Limit, NewRule, Ports, TCP, UDP},
    compile, evaluate,
    evaluate::{By, Content, Direction, Upper},
    tables::{Key, walk},
};

/// Interfaces of packets; rules name them, and globs.
const INTERFACES: [&str; 4] = ["eth0", "eth1", "wwan0", "tun0"];
const PATTERNS: [&str; 6] = ["eth0", "eth1", "wwan*", "tun?", "e*", "absent"];
/// A few more than an address may face.
const MAX_RULES: u8 = 70;
const MAX_PACKETS: usize = 64;

/// See the module.
pub(crate) fn compiler(bytes: &[u8]) {
    let mut input = Input(bytes);
    let bundle = input.bundle();
    let old = input.byte();
    let expired = |rule: usize| old != 0 && rule % 8 == usize::from(old % 8);
    let tables = match compile(&bundle, &Options { number: 1, fragments_allow: false, expired: &expired }) {
        Ok(tables) => tables,
        Err(refused) => {
            super::is_fit_to_be_told(&refused.to_string());
            let small = matches!(refused, CompileError::TooLarge { .. });
            assert!(!small || bytes.len() > 4 << 10, "{} bytes make tables of more than 8 MiB", bytes.len());
            return;
        }
    };
    assert_eq!(tables.blocks.len(), tables.header().blocks as usize);
    for _ in 0..MAX_PACKETS {
        let packet = input.packet(&bundle);
        let rule = match evaluate(&bundle, &packet, Fragments::Drop, &expired).by {
            By::Rule(index) => index + 1,
            By::Default | By::Fragments => 0,
            By::Exempt(_) => continue,
        };
        let key = Key::of(&packet, &tables.interface_lists).expect("it is an IP packet");
        assert_eq!(walk(&tables.blocks, &key), u32::try_from(rule).ok(), "{packet:?}");
        if input.0.is_empty() {
            break;
        }
    }
}

/// Bytes, from the front; zeros behind their end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().map_or((0, &[][..]), |(byte, rest)| (*byte, rest));
        self.0 = rest;
        byte
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    fn bundle(&mut self) -> Bundle {
        let default = self.one_of(&[DefaultAction::Allow, DefaultAction::Drop]);
        let mut bundle = Bundle::new(1, Scope::Gateway("gw-7".into()), default);
        for number in 0..self.byte() % MAX_RULES {
            let mut prefixes: Vec<_> = (0..=self.byte() % 4).map(|_| self.prefix()).collect();
            prefixes.sort_unstable();
            prefixes.dedup();
            let protocol = match self.byte() {
                0 => None,
                number => Some(number),
            };
            let directions = self.one_of(&[Directions::Both, Directions::Ingress, Directions::Egress]);
            let action = match self.byte() % 4 {
                0 => Action::Drop,
                1 => Action::Allow,
                2 => Action::Sample,
                _ => Action::Limit(Box::new(Limit { pps: 100, burst: 200, per_peer: false })),
            };
            let conditions = self.conditions(protocol);
            let name = format!("rule-{number}");
            bundle.push(NewRule {
                name: &name,
                reason: "",
                prefixes: &prefixes,
                protocol,
                directions,
                action,
                ttl_s: None,
                conditions,
            });
        }
        bundle
    }

    fn conditions(&mut self, protocol: Option<u8>) -> Conditions {
        let mut conditions = Conditions::default();
        match protocol {
            Some(TCP | UDP) => {
                conditions.ports = self.ports();
                conditions.peer_ports = self.ports();
            }
            Some(ICMP | ICMPV6) => {
                conditions.icmp_types = (0..self.byte() % 4).map(|_| self.byte()).collect();
                conditions.icmp_types.sort_unstable();
                conditions.icmp_types.dedup();
            }
            _ => {}
        }
        let named = self.byte();
        let patterns = PATTERNS.iter().enumerate().filter(|(bit, _)| named >> bit & 1 == 1);
        conditions.interfaces = patterns.map(|(_, pattern)| (*pattern).to_owned()).collect();
        conditions
    }

    /// Sorted, and apart from each other.
    fn ports(&mut self) -> Vec<Ports> {
        let mut edges: Vec<_> = (0..self.byte() % 8).map(|_| self.word()).collect();
        edges.sort_unstable();
        edges.dedup();
        edges.chunks(2).map(|pair| Ports { first: pair[0], last: pair[pair.len() - 1] }).collect()
    }

    fn prefix(&mut self) -> Prefix {
        let length = self.byte();
        let address = self.address();
        Prefix::around(address, length % if address.is_ipv4() { 33 } else { 129 }).expect("it is short enough")
    }

    /// Any of IPv4; of IPv6 those that differ at the ends and in the middle.
    fn address(&mut self) -> IpAddr {
        let family = self.byte();
        let [a, b, c, d] = [self.byte(), self.byte(), self.byte(), self.byte()];
        if family.is_multiple_of(2) {
            return [a, b, c, d].into();
        }
        let ends = u128::from(a) << 120 | u128::from(d);
        IpAddr::V6((ends | u128::from(u16::from_be_bytes([b, c])) << 56).into())
    }

    fn packet(&mut self, bundle: &Bundle) -> Packet<'static> {
        let peer = match self.byte() {
            0 => self.address(),
            // The first address of a prefix, and one beside it.
            place => {
                let prefixes = bundle.rules.iter().flat_map(|rule| bundle.prefixes(rule));
                let which = usize::from(self.byte()) % bundle.prefix_count().max(1);
                prefixes.copied().nth(which).map_or(IpAddr::from([0; 4]), |prefix| beside(prefix.address(), place))
            }
        };
        let upper = match self.byte() % 6 {
            0 => Upper::Tcp { source: self.word(), destination: self.word() },
            1 => Upper::Udp { source: self.word(), destination: self.word() },
            2 => Upper::Icmp { kind: self.byte() },
            3 => Upper::Other { protocol: self.byte() },
            4 => Upper::Fragment { protocol: self.byte() },
            _ => Upper::TooDeep,
        };
        Packet {
            direction: self.one_of(&[Direction::Ingress, Direction::Egress]),
            interface: self.one_of(&INTERFACES),
            content: Content::Ip { peer, upper },
        }
    }
}

fn beside(address: IpAddr, place: u8) -> IpAddr {
    match (address, place % 3) {
        (IpAddr::V4(address), 1) => IpAddr::V4(address.to_bits().wrapping_sub(1).into()),
        (IpAddr::V4(address), 2) => IpAddr::V4(address.to_bits().wrapping_add(1).into()),
        (IpAddr::V6(address), 1) => IpAddr::V6(address.to_bits().wrapping_sub(1).into()),
        (IpAddr::V6(address), 2) => IpAddr::V6(address.to_bits().wrapping_add(1).into()),
        _ => address,
    }
}
