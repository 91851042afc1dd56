//! What a bundle means, in plain Rust: the reference that the compiler and the kernel's programs are held against.
//!
//! Made to be read, not to be fast: it goes over all rules. The judgement of a packet:
//!
//! 1. What is neither IPv4 nor IPv6, what keeps a link alive (neighbour discovery, DHCP), and `lo` pass.
//! 2. Of all prefixes that hold the peer (source at ingress, destination at egress) and have a rule that matches, the most
//!    specific one decides; on one prefix, the first rule in the bundle that matches.
//! 3. Where none matches, `default` does. Under `drop`, `[policy] fragments` decides on what has no known port.

use std::{fmt, net::IpAddr};

use tidegate_values::Patterns;

use super::bundle::{
    Action, Bundle, Conditions, DefaultAction, Directions, ICMP, ICMPV6, Ports, Prefix, Rule, TCP, UDP,
};

/// The interface that no policy is for.
pub const LOOPBACK: &str = "lo";

/// A packet, as far as policies look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// At which hook it is.
    pub direction: Direction,
    /// Name of the interface.
    pub interface: &'a str,
    /// What is in it.
    pub content: Content,
}

/// At which hook a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It was received.
    Ingress,
    /// It is about to be sent.
    Egress,
}

/// What is in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Neither IPv4 nor IPv6, or a frame whose Ethernet header or VLAN tags are not well-formed.
    Foreign,
    /// IPv4 or IPv6 by its type, but its headers are not well-formed.
    Malformed,
    /// IPv4 or IPv6.
    Ip {
        /// Source at ingress, destination at egress.
        peer: IpAddr,
        /// What the packet carries.
        upper: Upper,
    },
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper {
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// UDP.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp {
        /// First byte of its header.
        kind: u8,
    },
    /// Another protocol: no ports.
    Other {
        /// Its number (IANA).
        protocol: u8,
    },
    /// A later fragment: ports and type are in another packet.
    Fragment {
        /// Number of the protocol that it is a fragment of.
        protocol: u8,
    },
    /// Behind more IPv6 extension headers than anybody looks at.
    TooDeep,
}

/// `[policy] fragments`: what becomes of packets without a known port under `"default":"drop"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragments {
    /// As of others.
    #[default]
    Drop,
    /// They pass.
    Allow,
}

/// What becomes of a packet, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What becomes of it.
    pub verdict: Verdict,
    /// Who says so.
    pub by: By,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Allow,
    /// It ends here.
    Drop,
    /// It goes on within the rate of the rule.
    Limit,
    /// It goes on, and is sampled.
    Sample,
}

/// Who decides on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The rule of this index.
    Rule(usize),
    /// No rule: the bundle's default.
    Default,
    /// No rule, and no known port: `[policy] fragments`.
    Fragments,
    /// Nobody: it always passes.
    Exempt(Exemption),
}

/// Why a packet passes whatever a policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// On the loopback interface.
    Loopback,
    /// See [`Content::Foreign`].
    Foreign,
    /// ICMPv6 133 to 137 (RFC 4861).
    NeighbourDiscovery,
    /// DHCP (RFC 2131) or `DHCPv6` (RFC 8415), by its ports.
    Dhcp,
}

/// The first condition of a rule that a packet does not fulfil.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Its `ttl` is over.
    Expired,
    /// `direction`.
    Direction,
    /// `interfaces`.
    Interface,
    /// `protocol`; or it is not known, and the rule is for one.
    Protocol,
    /// `ports`; or the packet's are not known.
    Ports,
    /// `peer_ports`; or the packet's are not known.
    PeerPorts,
    /// `icmp_types`; or the packet's is not known.
    IcmpType,
}

/// A rule that is for a packet's peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Index of the rule.
    pub rule: usize,
    /// The one of its prefixes that holds the peer; the most specific one, where several do.
    pub prefix: Prefix,
    /// Why it does not decide; `None` where it matches.
    pub mismatch: Option<Mismatch>,
}

/// Judges a packet. `expired` says of the rule of an index whether its `ttl` is over.
#[must_use]
pub fn evaluate(
    bundle: &Bundle,
    packet: &Packet<'_>,
    fragments: Fragments,
    expired: &dyn Fn(usize) -> bool,
) -> Judgement {
    if let Some(exemption) = exemption(packet) {
        return Judgement { verdict: Verdict::Allow, by: By::Exempt(exemption) };
    }
    let mut best: Option<(u8, usize)> = None;
    for (index, rule) in bundle.rules.iter().enumerate() {
        let Some(prefix) = holding(bundle, rule, packet) else { continue };
        // Rules come in the order of the bundle: on one prefix the first stays.
        let is_better = best.is_none_or(|(length, _)| prefix.length() > length);
        if is_better && mismatch(rule, packet, expired(index)).is_none() {
            best = Some((prefix.length(), index));
        }
    }
    match (best, bundle.default) {
        (Some((_, index)), _) => Judgement { verdict: verdict(&bundle.rules[index].action), by: By::Rule(index) },
        (None, DefaultAction::Drop) if packet.has_unknown_port() && fragments == Fragments::Allow => {
            Judgement { verdict: Verdict::Allow, by: By::Fragments }
        }
        (None, DefaultAction::Allow) => Judgement { verdict: Verdict::Allow, by: By::Default },
        (None, DefaultAction::Drop) => Judgement { verdict: Verdict::Drop, by: By::Default },
    }
}

/// All rules that are for the packet's peer, in the order in which they are asked: the first without a mismatch decides.
#[must_use]
pub fn candidates(bundle: &Bundle, packet: &Packet<'_>, expired: &dyn Fn(usize) -> bool) -> Vec<Candidate> {
    let candidate = |(index, rule)| {
        let prefix = holding(bundle, rule, packet)?;
        Some(Candidate { rule: index, prefix, mismatch: mismatch(rule, packet, expired(index)) })
    };
    let mut all: Vec<_> = bundle.rules.iter().enumerate().filter_map(candidate).collect();
    all.sort_by_key(|candidate| (std::cmp::Reverse(candidate.prefix.length()), candidate.rule));
    all
}

/// Why the packet passes whatever the policy says.
#[must_use]
pub fn exemption(packet: &Packet<'_>) -> Option<Exemption> {
    if packet.interface == LOOPBACK {
        return Some(Exemption::Loopback);
    }
    match packet.content {
        Content::Foreign => Some(Exemption::Foreign),
        Content::Ip { peer: IpAddr::V6(_), upper: Upper::Icmp { kind: 133..=137 } } => {
            Some(Exemption::NeighbourDiscovery)
        }
        Content::Ip { peer: IpAddr::V4(_), upper: Upper::Udp { source: 67 | 68, destination: 67 | 68 } }
        | Content::Ip { peer: IpAddr::V6(_), upper: Upper::Udp { source: 546 | 547, destination: 546 | 547 } } => {
            Some(Exemption::Dhcp)
        }
        _ => None,
    }
}

fn verdict(action: &Action) -> Verdict {
    match action {
        Action::Allow => Verdict::Allow,
        Action::Drop => Verdict::Drop,
        Action::Limit(_) => Verdict::Limit,
        Action::Sample => Verdict::Sample,
    }
}

/// The most specific of the rule's prefixes that holds the peer.
fn holding(bundle: &Bundle, rule: &Rule, packet: &Packet<'_>) -> Option<Prefix> {
    let Content::Ip { peer, .. } = packet.content else { return None };
    bundle.prefixes(rule).iter().copied().filter(|prefix| prefix.holds(peer)).max_by_key(Prefix::length)
}

/// Why the rule is not for the packet, its peer apart.
fn mismatch(rule: &Rule, packet: &Packet<'_>, is_expired: bool) -> Option<Mismatch> {
    let none = Conditions::default();
    let conditions = rule.conditions.as_deref().unwrap_or(&none);
    let direction = match packet.direction {
        Direction::Ingress => rule.directions != Directions::Egress,
        Direction::Egress => rule.directions != Directions::Ingress,
    };
    let interface = || {
        // Valid since the bundle was read; of another, nothing matches.
        let matches = |patterns: Patterns| patterns.matches(packet.interface);
        conditions.interfaces.is_empty() || Patterns::parse(&conditions.interfaces).is_ok_and(matches)
    };
    let protocol = rule.protocol.is_none() || rule.protocol == packet.protocol();
    let is_in = |ranges: &[Ports], port: Option<u16>| {
        ranges.is_empty() || port.is_some_and(|port| ranges.iter().any(|range| range.hold(port)))
    };
    let icmp_type = || match packet.content {
        _ if conditions.icmp_types.is_empty() => true,
        Content::Ip { upper: Upper::Icmp { kind }, .. } => conditions.icmp_types.contains(&kind),
        _ => false,
    };
    if is_expired {
        Some(Mismatch::Expired)
    } else if !direction {
        Some(Mismatch::Direction)
    } else if !interface() {
        Some(Mismatch::Interface)
    } else if !protocol {
        Some(Mismatch::Protocol)
    } else if !is_in(&conditions.ports, packet.destination_port()) {
        Some(Mismatch::Ports)
    } else if !is_in(&conditions.peer_ports, packet.peer_port()) {
        Some(Mismatch::PeerPorts)
    } else if !icmp_type() {
        Some(Mismatch::IcmpType)
    } else {
        None
    }
}

impl Packet<'_> {
    /// Protocol number, where it is known.
    #[must_use]
    pub const fn protocol(&self) -> Option<u8> {
        let Content::Ip { peer, upper } = self.content else { return None };
        match upper {
            Upper::Tcp { .. } => Some(TCP),
            Upper::Udp { .. } => Some(UDP),
            Upper::Icmp { .. } => Some(if peer.is_ipv4() { ICMP } else { ICMPV6 }),
            Upper::Other { protocol } | Upper::Fragment { protocol } => Some(protocol),
            Upper::TooDeep => None,
        }
    }

    /// Whether it may have a port that is not in it.
    #[must_use]
    pub const fn has_unknown_port(&self) -> bool {
        matches!(self.content, Content::Ip { upper: Upper::Fragment { .. } | Upper::TooDeep, .. })
    }

    /// Source and destination.
    const fn ports(&self) -> Option<(u16, u16)> {
        match self.content {
            Content::Ip { upper: Upper::Tcp { source, destination } | Upper::Udp { source, destination }, .. } => {
                Some((source, destination))
            }
            _ => None,
        }
    }

    fn destination_port(&self) -> Option<u16> {
        self.ports().map(|(_, destination)| destination)
    }

    fn peer_port(&self) -> Option<u16> {
        self.ports().map(|(source, destination)| match self.direction {
            Direction::Ingress => source,
            Direction::Egress => destination,
        })
    }
}

impl Verdict {
    /// As bundles have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Drop => "drop",
            Self::Limit => "limit",
            Self::Sample => "sample",
        }
    }
}

impl fmt::Display for Exemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "what is on lo always passes",
            Self::Foreign => "what is neither IPv4 nor IPv6 always passes",
            Self::NeighbourDiscovery => "neighbour discovery (ICMPv6 133 to 137) always passes",
            Self::Dhcp => "DHCP always passes",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read;

    fn bundle(default: &str, rules: &str) -> Bundle {
        let text = format!(r#"{{"version":1,"scope":{{"gateway":"gw-7"}},"default":"{default}","rules":[{rules}]}}"#);
        read(text.as_bytes()).unwrap()
    }

    fn packet(peer: &str, upper: Upper) -> Packet<'static> {
        Packet {
            direction: Direction::Ingress,
            interface: "eth0",
            content: Content::Ip { peer: peer.parse().unwrap(), upper },
        }
    }

    /// Verdict, and the name of the rule or what else decided.
    fn judged(bundle: &Bundle, packet: &Packet<'_>) -> String {
        let judgement = evaluate(bundle, packet, Fragments::Drop, &|_| false);
        let first = candidates(bundle, packet, &|_| false).into_iter().find(|candidate| candidate.mismatch.is_none());
        if let By::Rule(index) = judgement.by {
            assert_eq!(first.map(|first| first.rule), Some(index), "both say the same");
        }
        let by = match judgement.by {
            By::Rule(index) => bundle.name(&bundle.rules[index]).to_owned(),
            By::Default => "default".to_owned(),
            By::Fragments => "fragments".to_owned(),
            By::Exempt(exemption) => format!("{exemption:?}"),
        };
        format!("{} {by}", judgement.verdict.name())
    }

    const IN: Direction = Direction::Ingress;
    const OUT: Direction = Direction::Egress;
    const TCP_443: Upper = Upper::Tcp { source: 50_000, destination: 443 };

    #[test]
    fn the_most_specific_prefix_with_a_matching_rule_decides_and_on_one_prefix_the_first() {
        let bundle = bundle(
            "allow",
            r#"{"name":"wide","cidrs":["192.0.0.0/16"],"action":"drop"},
               {"name":"narrow-udp","cidrs":["192.0.2.0/24"],"protocol":"udp","action":"sample"},
               {"name":"narrow","cidrs":["192.0.2.0/24","192.0.2.0/28"],"action":"allow"},
               {"name":"later","cidrs":["192.0.2.0/24"],"action":"drop"},
               {"name":"host","cidrs":["192.0.2.200"],"protocol":"udp","action":"drop"}"#,
        );
        let udp = Upper::Udp { source: 1, destination: 2 };
        for (peer, upper, expected) in [
            ("192.0.3.1", TCP_443, "drop wide"),
            ("192.0.2.99", TCP_443, "allow narrow"),
            ("192.0.2.99", udp, "sample narrow-udp"),
            ("192.0.2.1", udp, "allow narrow"),
            ("192.0.2.200", udp, "drop host"),
            ("192.0.2.200", TCP_443, "allow narrow"),
            ("198.51.100.1", TCP_443, "allow default"),
            ("2001:db8::1", TCP_443, "allow default"),
        ] {
            assert_eq!(judged(&bundle, &packet(peer, upper)), expected, "{peer} {upper:?}");
        }
    }

    #[test]
    fn ports_are_the_destination_and_peer_ports_those_of_the_peer() {
        let bundle = bundle(
            "allow",
            r#"{"name":"https","cidrs":["::/0"],"protocol":"tcp","ports":["443"],"action":"drop"},
               {"name":"from-8000","cidrs":["::/0"],"protocol":"tcp","peer_ports":["8000-8100"],"action":"drop"}"#,
        );
        let at = |direction, source, destination| {
            let packet = packet("2001:db8::1", Upper::Tcp { source, destination });
            judged(&bundle, &Packet { direction, ..packet })
        };
        assert_eq!(at(Direction::Ingress, 50_000, 443), "drop https");
        assert_eq!(at(Direction::Egress, 50_000, 443), "drop https");
        assert_eq!(at(Direction::Ingress, 443, 50_000), "allow default");
        assert_eq!(at(Direction::Ingress, 8000, 50_000), "drop from-8000");
        assert_eq!(at(Direction::Egress, 50_000, 8100), "drop from-8000");
        assert_eq!(at(Direction::Egress, 8000, 50_000), "allow default");
        assert_eq!(at(Direction::Ingress, 8101, 7999), "allow default");
    }

    #[test]
    fn direction_interface_protocol_and_icmp_type_are_conditions() {
        let bundle = bundle(
            "allow",
            r#"{"name":"in","cidrs":["192.0.2.1"],"direction":"ingress","action":"drop"},
               {"name":"out","cidrs":["192.0.2.2"],"direction":"egress","action":"drop"},
               {"name":"wan","cidrs":["192.0.2.3"],"interfaces":["wwan*","eth1"],"action":"drop"},
               {"name":"gre","cidrs":["192.0.2.4"],"protocol":47,"action":"drop"},
               {"name":"ping","cidrs":["192.0.2.5","2001:db8::5"],"protocol":"icmp","icmp_types":[8],"action":"drop"},
               {"name":"ping6","cidrs":["2001:db8::5"],"protocol":"icmpv6","icmp_types":[128],"action":"drop"}"#,
        );
        let verdict = |direction, interface, peer: &str, upper| {
            judged(&bundle, &Packet { direction, interface, ..packet(peer, upper) })
        };
        assert_eq!(verdict(IN, "eth0", "192.0.2.1", TCP_443), "drop in");
        assert_eq!(verdict(OUT, "eth0", "192.0.2.1", TCP_443), "allow default");
        assert_eq!(verdict(OUT, "eth0", "192.0.2.2", TCP_443), "drop out");
        assert_eq!(verdict(IN, "wwan0", "192.0.2.3", TCP_443), "drop wan");
        assert_eq!(verdict(IN, "eth1", "192.0.2.3", TCP_443), "drop wan");
        assert_eq!(verdict(IN, "eth0", "192.0.2.3", TCP_443), "allow default");
        assert_eq!(verdict(IN, "eth0", "192.0.2.4", Upper::Other { protocol: 47 }), "drop gre");
        assert_eq!(verdict(IN, "eth0", "192.0.2.4", Upper::Fragment { protocol: 47 }), "drop gre");
        assert_eq!(verdict(IN, "eth0", "192.0.2.5", Upper::Icmp { kind: 8 }), "drop ping");
        assert_eq!(verdict(IN, "eth0", "192.0.2.5", Upper::Icmp { kind: 0 }), "allow default");
        assert_eq!(verdict(IN, "eth0", "2001:db8::5", Upper::Icmp { kind: 128 }), "drop ping6");
        assert_eq!(verdict(IN, "eth0", "2001:db8::5", Upper::Icmp { kind: 8 }), "allow default");
        assert_eq!(verdict(IN, "eth0", "2001:db8::5", Upper::Other { protocol: 1 }), "allow default");
    }

    #[test]
    fn what_has_no_known_port_matches_no_rule_with_ports() {
        let rules = r#"{"name":"dns","cidrs":["192.0.2.1"],"protocol":"udp","ports":["53"],"action":"allow"},
               {"name":"udp","cidrs":["192.0.2.2"],"protocol":"udp","action":"allow"},
               {"name":"any","cidrs":["192.0.2.3"],"action":"allow"}"#;
        let bundle = bundle("drop", rules);
        let later = Upper::Fragment { protocol: UDP };
        for (peer, upper, expected) in [
            ("192.0.2.1", later, "drop default"),
            ("192.0.2.2", later, "allow udp"),
            ("192.0.2.2", Upper::TooDeep, "drop default"),
            ("192.0.2.3", Upper::TooDeep, "allow any"),
        ] {
            assert_eq!(judged(&bundle, &packet(peer, upper)), expected, "{peer} {upper:?}");
        }
        let lenient = |upper| evaluate(&bundle, &packet("192.0.2.1", upper), Fragments::Allow, &|_| false);
        let allowed = Judgement { verdict: Verdict::Allow, by: By::Fragments };
        assert_eq!([lenient(later), lenient(Upper::TooDeep)], [allowed; 2]);
        let dropped = Judgement { verdict: Verdict::Drop, by: By::Default };
        assert_eq!(lenient(TCP_443), dropped);
    }

    #[test]
    fn links_live_whatever_a_policy_says() {
        let bundle = bundle("drop", r#"{"name":"all","cidrs":["0.0.0.0/0","::/0"],"action":"drop"}"#);
        let dhcp = |source, destination| Upper::Udp { source, destination };
        for (peer, upper, expected) in [
            ("fe80::1", Upper::Icmp { kind: 133 }, "allow NeighbourDiscovery"),
            ("fe80::1", Upper::Icmp { kind: 137 }, "allow NeighbourDiscovery"),
            ("fe80::1", Upper::Icmp { kind: 138 }, "drop all"),
            ("192.0.2.1", Upper::Icmp { kind: 135 }, "drop all"),
            ("192.0.2.1", dhcp(67, 68), "allow Dhcp"),
            ("192.0.2.1", dhcp(67, 67), "allow Dhcp"),
            ("192.0.2.1", dhcp(67, 69), "drop all"),
            ("192.0.2.1", dhcp(546, 547), "drop all"),
            ("fe80::1", dhcp(547, 546), "allow Dhcp"),
            ("fe80::1", dhcp(67, 68), "drop all"),
            ("fe80::1", Upper::Fragment { protocol: ICMPV6 }, "drop all"),
        ] {
            assert_eq!(judged(&bundle, &packet(peer, upper)), expected, "{peer} {upper:?}");
        }
        let of = |content, interface| judged(&bundle, &Packet { direction: Direction::Egress, interface, content });
        assert_eq!(of(Content::Foreign, "eth0"), "allow Foreign");
        assert_eq!(of(Content::Malformed, "eth0"), "drop default");
        assert_eq!(of(Content::Malformed, "lo"), "allow Loopback");
    }

    #[test]
    fn an_expired_rule_is_as_if_it_were_absent() {
        let bundle = bundle(
            "drop",
            r#"{"name":"a","cidrs":["192.0.2.0/24"],"ttl":"1h","action":"allow"},
               {"name":"b","cidrs":["192.0.2.0/24"],"action":"sample"}"#,
        );
        let judge = |expired: &dyn Fn(usize) -> bool| {
            evaluate(&bundle, &packet("192.0.2.1", TCP_443), Fragments::Drop, expired).by
        };
        assert_eq!(judge(&|_| false), By::Rule(0));
        assert_eq!(judge(&|index| index == 0), By::Rule(1));
        assert_eq!(judge(&|_| true), By::Default);
    }
}
