//! What a bundle says, in little memory: 65,536 rules and prefixes are some 6 MB.

use std::{cmp::Ordering, net::IpAddr, num::NonZeroU32, ops::Range, sync::Arc};

use tidegate_values::Digest;

/// Rules of one bundle at most.
pub const MAX_RULES: usize = 65_536;
/// Prefixes of one bundle at most, and pairs of prefix and rule.
pub const MAX_PREFIXES: usize = 65_536;
/// Rules that one address may face at most.
pub const MAX_CANDIDATES: usize = 64;
/// Entries of one list of ports at most.
pub const MAX_PORTS: usize = 1_024;
/// Different lists of interfaces in one bundle at most.
pub const MAX_INTERFACE_LISTS: usize = tidegate_abi::policy::MAX_INTERFACE_LISTS as usize;
/// Longest name of a rule, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// Longest reason, in bytes.
pub const MAX_REASON_BYTES: usize = 256;
/// Greatest rate, in wire segments a second, and the greatest burst.
pub const MAX_RATE: u32 = 1_000_000;
/// Longest time that a rule may count, in seconds: 365 days.
pub const MAX_TTL_S: u32 = 365 * 86_400;
/// Keys that a bundle may add at most, and remove.
pub const MAX_KEYS: usize = 16;
/// Longest bundle (the payload of the envelope), in bytes.
pub const MAX_BUNDLE_BYTES: usize = 4 << 20;

/// Protocol numbers (IANA) of those that have names in bundles.
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const TCP: u8 = 6;
/// See [`ICMP`].
pub const UDP: u8 = 17;
/// See [`ICMP`].
pub const ICMPV6: u8 = 58;

/// A policy, as signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// 1 to 2^53 - 1.
    pub version: u64,
    /// Whom it is for.
    pub scope: Scope,
    /// Milliseconds since 1970 from which on it counts no more.
    pub not_after_ms: Option<u64>,
    /// What becomes of packets that no rule decides.
    pub default: DefaultAction,
    /// Which keys are trusted from now on, and which no more.
    pub keys: KeyChanges,
    /// In the order of the bundle.
    pub rules: Vec<Rule>,
    /// Of all rules, one after the other.
    prefixes: Vec<Prefix>,
    /// Names and reasons of all rules.
    text: String,
}

/// What a bundle changes in whose signatures count; taken over with its confirmation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChanges {
    /// Trusted from now on.
    pub add: Vec<NewKey>,
    /// Trusted no more: SHA-256 of the key's SPKI.
    pub remove: Vec<Digest>,
}

/// A public ed25519 key that a bundle brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// RFC 8032, section 5.1.5.
    pub key: [u8; 32],
    /// Milliseconds since 1970 from which on its signatures count no more.
    pub not_after_ms: Option<u64>,
}

/// Whom a bundle is for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One gateway, by id.
    Gateway(String),
    /// The members of a group.
    Group(String),
}

/// What becomes of packets that no rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// They pass.
    Allow,
    /// They do not.
    Drop,
}

/// An IPv4 or IPv6 prefix. Bits behind its length are zero. Sorted, IPv4 comes first, then by address, then by length.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    v6: bool,
    /// Network order; IPv4 in the first four, else zero.
    octets: [u8; 16],
    length: u8,
}

/// One rule; its texts and prefixes are the bundle's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    name: Range<u32>,
    reason: Range<u32>,
    prefixes: Range<u32>,
    /// IP protocol number; `None` where it is for all.
    pub protocol: Option<u8>,
    /// Which hooks.
    pub directions: Directions,
    /// What it does.
    pub action: Action,
    /// How long it counts, in seconds of boot time since it was first enforced.
    pub ttl_s: Option<NonZeroU32>,
    /// What few rules have.
    pub conditions: Option<Box<Conditions>>,
}

/// Which way packets go that a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directions {
    /// Received ones.
    Ingress,
    /// Sent ones.
    Egress,
    /// All.
    Both,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The packet goes on.
    Allow,
    /// The packet ends here.
    Drop,
    /// It goes on within a rate.
    Limit(Box<Limit>),
    /// It goes on, and each is sampled.
    Sample,
}

/// A rate in wire segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// A second.
    pub pps: u32,
    /// At once.
    pub burst: u32,
    /// For each peer by itself, instead of all together.
    pub per_peer: bool,
}

/// Further conditions; an empty list is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The packet's destination port is in one of these; sorted, apart from each other.
    pub ports: Vec<Ports>,
    /// The peer's port is: source at ingress, destination at egress.
    pub peer_ports: Vec<Ports>,
    /// ICMP or ICMPv6 type; sorted.
    pub icmp_types: Vec<u8>,
    /// Names and globs of interfaces, sorted; rules that name the same ones share the list.
    pub interfaces: Arc<[String]>,
}

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// First.
    pub first: u16,
    /// Last, that is in it, too.
    pub last: u16,
}

impl Prefix {
    /// The prefix of that length which begins with the address; `None` where the length is more than the address has
    /// bits, or bits behind it are set.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        Self::around(address, length).filter(|prefix| prefix.address() == address)
    }

    /// The prefix of that length which the address is in; `None` where the length is more than the address has bits.
    #[must_use]
    pub fn around(address: IpAddr, length: u8) -> Option<Self> {
        let mut octets = [0; 16];
        let (bits, v6) = match address {
            IpAddr::V4(v4) => {
                octets[..4].copy_from_slice(&v4.octets());
                (32, false)
            }
            IpAddr::V6(v6) => {
                octets = v6.octets();
                (128, true)
            }
        };
        let whole = Self { octets, length: length.min(bits), v6 };
        let octets = (u128::from_be_bytes(octets) & whole.mask()).to_be_bytes();
        (length <= bits).then_some(Self { octets, ..whole })
    }

    /// Its first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        let [a, b, c, d, ..] = self.octets;
        if self.v6 { self.octets.into() } else { [a, b, c, d].into() }
    }

    /// Bits of the address that count.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether it holds the address.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let other = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        address.is_ipv6() == self.v6 && (other ^ u128::from_be_bytes(self.octets)) & self.mask() == 0
    }

    /// What it is sorted by.
    const fn key(&self) -> (bool, u128, u8) {
        (self.v6, u128::from_be_bytes(self.octets), self.length)
    }

    /// One of IPv4 as a number, in the same order; `None` for IPv6.
    const fn v4_number(&self) -> Option<u64> {
        let [a, b, c, d, ..] = self.octets;
        if self.v6 { None } else { Some((u32::from_be_bytes([a, b, c, d]) as u64) << 8 | self.length as u64) }
    }

    fn of_v4_number(number: u64) -> Self {
        // The number's low five bytes: address and length.
        let [_, _, _, a, b, c, d, length] = number.to_be_bytes();
        let mut octets = [0; 16];
        octets[..4].copy_from_slice(&[a, b, c, d]);
        Self { v6: false, octets, length }
    }

    /// Of the octets.
    const fn mask(&self) -> u128 {
        if self.length == 0 { 0 } else { u128::MAX << (128 - self.length as u32) }
    }
}

impl Ord for Prefix {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl std::fmt::Debug for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address(), self.length)
    }
}

impl Bundle {
    /// An empty one, to which rules are added.
    #[must_use]
    pub fn new(version: u64, scope: Scope, default: DefaultAction) -> Self {
        Self {
            version,
            scope,
            not_after_ms: None,
            default,
            keys: KeyChanges::default(),
            rules: Vec::new(),
            prefixes: Vec::new(),
            text: String::new(),
        }
    }

    /// The rule's name, which no other rule of the bundle has.
    #[must_use]
    pub fn name(&self, rule: &Rule) -> &str {
        &self.text[rule.name.start as usize..rule.name.end as usize]
    }

    /// Why it is there; empty where nobody said.
    #[must_use]
    pub fn reason(&self, rule: &Rule) -> &str {
        &self.text[rule.reason.start as usize..rule.reason.end as usize]
    }

    /// Which peers it is for, each once and sorted.
    #[must_use]
    pub fn prefixes(&self, rule: &Rule) -> &[Prefix] {
        &self.prefixes[rule.prefixes.start as usize..rule.prefixes.end as usize]
    }

    /// How many pairs of prefix and rule it has.
    #[must_use]
    pub const fn prefix_count(&self) -> usize {
        self.prefixes.len()
    }

    /// Gives back what was allocated ahead: for a bundle to which no rule will be added.
    pub fn shrink(&mut self) {
        self.rules.shrink_to_fit();
        self.prefixes.shrink_to_fit();
        self.text.shrink_to_fit();
    }

    /// Adds a rule behind the others; its prefixes are sorted, each of them once.
    pub fn push(&mut self, rule: NewRule<'_>) {
        let mut keep = |text: &str| {
            let start = small(self.text.len());
            self.text.push_str(text);
            start..small(self.text.len())
        };
        let (name, reason) = (keep(rule.name), keep(rule.reason));
        let start = small(self.prefixes.len());
        self.prefixes.extend_from_slice(rule.prefixes);
        let conditions = (rule.conditions != Conditions::default()).then(|| Box::new(rule.conditions));
        self.rules.push(Rule {
            name,
            reason,
            prefixes: start..small(self.prefixes.len()),
            protocol: rule.protocol,
            directions: rule.directions,
            action: rule.action,
            ttl_s: rule.ttl_s,
            conditions,
        });
    }
}

/// Sorts prefixes. Those of IPv4 are sorted as numbers, a quarter of the work where there are 65,536.
pub(crate) fn sort(prefixes: &mut [Prefix]) {
    let mut v4: Vec<_> = prefixes.iter().filter_map(Prefix::v4_number).collect();
    let mut v6: Vec<_> = prefixes.iter().filter(|prefix| prefix.v6).copied().collect();
    v4.sort_unstable();
    v6.sort_unstable();
    let sorted = v4.into_iter().map(Prefix::of_v4_number).chain(v6);
    for (place, prefix) in prefixes.iter_mut().zip(sorted) {
        *place = prefix;
    }
}

impl Ports {
    /// A number that sorts alike: the code that sorts numbers is there already.
    pub(crate) fn number(self) -> u32 {
        u32::from(self.first) << 16 | u32::from(self.last)
    }

    /// The range of a number.
    pub(crate) fn of_number(number: u32) -> Self {
        let [first, last] = [number >> 16, number & 0xffff].map(|port| u16::try_from(port).expect("16 bits"));
        Self { first, last }
    }

    /// Whether the port is in it.
    #[must_use]
    pub const fn hold(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gateway(id) => write!(f, "gateway {id}"),
            Self::Group(name) => write!(f, "group {name}"),
        }
    }
}

/// A rule before it is a bundle's.
#[derive(Clone, Debug)]
pub struct NewRule<'a> {
    /// See [`Bundle::name`].
    pub name: &'a str,
    /// See [`Bundle::reason`].
    pub reason: &'a str,
    /// See [`Bundle::prefixes`].
    pub prefixes: &'a [Prefix],
    /// See [`Rule::protocol`].
    pub protocol: Option<u8>,
    /// See [`Rule::directions`].
    pub directions: Directions,
    /// See [`Rule::action`].
    pub action: Action,
    /// See [`Rule::ttl_s`].
    pub ttl_s: Option<NonZeroU32>,
    /// See [`Rule::conditions`].
    pub conditions: Conditions,
}

fn small(length: usize) -> u32 {
    u32::try_from(length).expect("a bundle has at most 4 MiB of text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_what_begins_like_it() {
        let prefix = Prefix::new([192, 0, 2, 0].into(), 24).unwrap();
        assert!(prefix.holds([192, 0, 2, 255].into()) && !prefix.holds([192, 0, 3, 0].into()));
        assert!(Prefix::new([0; 4].into(), 0).unwrap().holds([255; 4].into()));
        assert!(!Prefix::new([0; 4].into(), 0).unwrap().holds([0; 16].into()));
        assert_eq!(Prefix::new([192, 0, 2, 1].into(), 24), None);
        assert_eq!(Prefix::new([0; 4].into(), 33), None);
    }

    #[test]
    fn prefixes_are_sorted_by_family_address_and_length() {
        let of = |address: &str, length| Prefix::new(address.parse().unwrap(), length).unwrap();
        let sorted = [
            of("0.0.0.0", 0),
            of("10.0.0.0", 8),
            of("10.0.0.0", 9),
            of("255.255.255.255", 32),
            of("::", 0),
            of("::", 128),
            of("a00::", 8),
        ];
        let mut mixed = sorted;
        mixed.reverse();
        mixed.swap(1, 4);
        sort(&mut mixed);
        assert_eq!(mixed, sorted);
        assert!(mixed.is_sorted());
    }

    #[test]
    fn many_rules_are_small() {
        assert!(size_of::<Rule>() <= 64 && size_of::<Prefix>() <= 18);
    }
}
