//! `tidegate policy test`: what becomes of a packet under a policy, and why.

use std::{net::IpAddr, process::ExitCode};

use serde_json::{Value, json};

use super::{failed, input::Input, plain, print, show::action};
use crate::{
    cli::table::Table,
    policy::{
        Bundle, Fragments, Judgement, Packet, Rule,
        bundle::{ICMP, ICMPV6, TCP, UDP},
        evaluate::{By, Candidate, Content, Direction, Mismatch, Upper, Verdict, candidates, evaluate},
        show,
    },
};

/// Exit status of a packet that would be dropped.
const DROPPED: u8 = 4;
/// A port as programs get one that ask for any (the first of the dynamic ones, RFC 6335).
const ANY_PORT: u16 = 49_152;

/// Say what becomes of a packet under a policy, by which rule, and why not by another.
///
/// The rules that are written for the packet's peer are told in the order in which they are asked: the most specific prefix
/// first, on one prefix in the order of the bundle. The first that matches decides. All rules count as if their ttl were not
/// over. Nothing is verified.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate policy test bundle.json --peer 192.0.2.7 --protocol tcp --port 443
  tidegate policy test bundle.json --direction egress --interface wwan0 --peer 2001:db8::7 --protocol udp --port 53
  tidegate policy test bundle.json --peer 192.0.2.7 --protocol icmp --icmp-type 8
  tidegate policy test bundle.json --peer 192.0.2.7 --protocol udp --fragment --json

Exit status: 0 it passes (allow, sample, or limit within the rate), 4 it is dropped, 1 the file cannot be read, 2 usage.")]
pub(super) struct Args {
    /// A bundle or an envelope; - is standard input
    #[arg(value_name = "FILE")]
    file: Input,
    /// The address at the other end: the source of what is received, the destination of what is sent
    #[arg(long, value_name = "ADDRESS")]
    peer: IpAddr,
    /// Whether the packet is received (ingress) or sent (egress); a forwarded one is both, one after the other
    #[arg(long, value_name = "WAY", default_value = "ingress", value_parser = ["ingress", "egress"])]
    direction: String,
    /// Interface that it comes in by, or goes out by
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    interface: String,
    /// tcp, udp, icmp, icmpv6 or a number from 0 to 255
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    protocol: u8,
    /// Destination port, of TCP and UDP
    #[arg(long, value_name = "PORT", conflicts_with = "fragment")]
    port: Option<u16>,
    /// Port of the peer, of TCP and UDP; at egress that is the destination port [default at ingress: 49152]
    #[arg(long, value_name = "PORT", conflicts_with = "fragment")]
    peer_port: Option<u16>,
    /// Type, of ICMP and ICMPv6
    #[arg(long, value_name = "TYPE", conflicts_with_all = ["port", "peer_port", "fragment"])]
    icmp_type: Option<u8>,
    /// A later fragment: its ports or type are in another packet
    #[arg(long)]
    fragment: bool,
    /// [policy] fragments of the gateway
    #[arg(long, value_name = "WHAT", default_value = "drop", value_parser = ["drop", "allow"])]
    fragments: String,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

fn protocol(text: &str) -> Result<u8, String> {
    match text {
        "tcp" => Ok(TCP),
        "udp" => Ok(UDP),
        "icmp" => Ok(ICMP),
        "icmpv6" => Ok(ICMPV6),
        _ => text.parse().map_err(|_| "accepted are tcp, udp, icmp, icmpv6 and numbers from 0 to 255".to_owned()),
    }
}

pub(super) fn run(args: &Args) -> ExitCode {
    let packet = match args.packet() {
        Ok(packet) => packet,
        Err(what) => {
            let _failure = failed(&what);
            return ExitCode::from(2);
        }
    };
    let bundle = match args.file.document() {
        Ok(document) => document.bundle,
        Err(what) => return failed(&what),
    };
    let tested =
        Tested::new(&bundle, packet, if args.fragments == "allow" { Fragments::Allow } else { Fragments::Drop });
    let text = if args.json { format!("{}\n", tested.as_json()) } else { tested.as_text() };
    match print(&text) {
        code if code != ExitCode::SUCCESS => code,
        _ if tested.judgement.verdict == Verdict::Drop => ExitCode::from(DROPPED),
        code => code,
    }
}

impl Args {
    fn packet(&self) -> Result<Packet<'_>, String> {
        let direction = if self.direction == "egress" { Direction::Egress } else { Direction::Ingress };
        Ok(Packet {
            direction,
            interface: &self.interface,
            content: Content::Ip { peer: self.peer, upper: self.upper(direction)? },
        })
    }

    fn upper(&self, direction: Direction) -> Result<Upper, String> {
        let own_icmp = if self.peer.is_ipv4() { ICMP } else { ICMPV6 };
        match self.protocol {
            protocol if self.fragment => Ok(Upper::Fragment { protocol }),
            protocol @ (TCP | UDP) => {
                if self.icmp_type.is_some() {
                    return Err("--icmp-type is for --protocol icmp and icmpv6".to_owned());
                }
                let (source, destination) = self.ports(direction)?;
                Ok(if protocol == TCP {
                    Upper::Tcp { source, destination }
                } else {
                    Upper::Udp { source, destination }
                })
            }
            _ if self.port.is_some() || self.peer_port.is_some() => {
                Err("--port and --peer-port are for --protocol tcp and udp".to_owned())
            }
            protocol if protocol == own_icmp => match self.icmp_type {
                Some(kind) => Ok(Upper::Icmp { kind }),
                None => {
                    Err("--icmp-type is needed with this protocol, such as 8 (icmp) or 128 (icmpv6) for a ping"
                        .to_owned())
                }
            },
            _ if self.icmp_type.is_some() => {
                Err("--icmp-type is for icmp with an IPv4 peer, and for icmpv6 with an IPv6 peer".to_owned())
            }
            protocol => Ok(Upper::Other { protocol }),
        }
    }

    /// Source and destination.
    fn ports(&self, direction: Direction) -> Result<(u16, u16), String> {
        let needed = || "--port is needed with tcp and udp, or --fragment".to_owned();
        match (direction, self.port, self.peer_port) {
            (Direction::Ingress, port, peer) => Ok((peer.unwrap_or(ANY_PORT), port.ok_or_else(needed)?)),
            (Direction::Egress, Some(port), Some(peer)) if port != peer => {
                Err("at egress the peer's port is the destination port: --port and --peer-port say different ones"
                    .to_owned())
            }
            (Direction::Egress, port, peer) => Ok((ANY_PORT, port.or(peer).ok_or_else(needed)?)),
        }
    }
}

struct Tested<'a> {
    bundle: &'a Bundle,
    packet: Packet<'a>,
    judgement: Judgement,
    candidates: Vec<Candidate>,
}

impl<'a> Tested<'a> {
    fn new(bundle: &'a Bundle, packet: Packet<'a>, fragments: Fragments) -> Self {
        let judgement = evaluate(bundle, &packet, fragments, &|_| false);
        Self { bundle, packet, judgement, candidates: candidates(bundle, &packet, &|_| false) }
    }

    fn rule(&self) -> Option<&'a Rule> {
        match self.judgement.by {
            By::Rule(index) => self.bundle.rules.get(index),
            _ => None,
        }
    }

    /// Who decides, in words.
    fn by(&self) -> String {
        let name = |index: usize| self.bundle.name(&self.bundle.rules[index]).to_owned();
        match self.judgement.by {
            By::Rule(index) => format!("rule {}", name(index)),
            By::Default if self.candidates.is_empty() => "default: no rule is for this peer".to_owned(),
            By::Default => "default: no rule for this peer matches".to_owned(),
            By::Fragments => "[policy] fragments: no rule matches, and the packet has no known port".to_owned(),
            By::Exempt(exemption) => format!("{exemption}, whatever a policy says"),
        }
    }

    fn as_text(&self) -> String {
        let mut text = format!("{}: {}\n", self.judgement.verdict.name(), self.by());
        if let Some(rule) = self.rule() {
            let reason = self.bundle.reason(rule);
            text += &if reason.is_empty() { String::new() } else { format!("  reason: {reason}\n") };
        }
        text += &format!("  packet: {}\n", self.packet_in_words());
        if self.candidates.is_empty() {
            return text;
        }
        let mut table = Table::new(["PREFIX", "RULE", "ACTION", "DECIDES"]);
        for candidate in &self.candidates {
            let rule = &self.bundle.rules[candidate.rule];
            let decides = self.decides(candidate);
            table.row([candidate.prefix.to_string(), self.bundle.name(rule).to_owned(), action(rule), decides]);
        }
        text + "  rules for this peer, in the order in which they are asked:\n" + &table.render("    ")
    }

    fn decides(&self, candidate: &Candidate) -> String {
        match candidate.mismatch {
            _ if self.judgement.by == By::Rule(candidate.rule) => "yes".to_owned(),
            Some(mismatch) => format!("no, {}", self.why_not(candidate.rule, mismatch)),
            None if matches!(self.judgement.by, By::Exempt(_)) => "no, such packets always pass".to_owned(),
            None => "no, one before it does".to_owned(),
        }
    }

    /// What the rule is for instead.
    fn why_not(&self, rule: usize, mismatch: Mismatch) -> String {
        let (member, is_unknown) = match mismatch {
            Mismatch::Expired => return "its ttl is over".to_owned(),
            Mismatch::Direction => ("direction", false),
            Mismatch::Interface => ("interfaces", false),
            Mismatch::Protocol => ("protocol", self.packet.protocol().is_none()),
            Mismatch::Ports => ("ports", self.packet.has_unknown_port()),
            Mismatch::PeerPorts => ("peer_ports", self.packet.has_unknown_port()),
            Mismatch::IcmpType => ("icmp_types", self.packet.has_unknown_port()),
        };
        let members = show::members(self.bundle, &self.bundle.rules[rule]);
        let wanted = members.into_iter().find(|(name, _)| *name == member).map_or(Value::Null, |(_, value)| value);
        let wanted = match &wanted {
            Value::Array(items) => items.iter().take(8).map(plain).collect::<Vec<_>>().join(" "),
            other => plain(other),
        };
        let unknown = if is_unknown { ", which a fragment does not tell" } else { "" };
        format!("{member} {wanted}{unknown}")
    }

    fn packet_in_words(&self) -> String {
        let Content::Ip { peer, upper } = self.packet.content else { return String::new() };
        let (way, hook) = match self.packet.direction {
            Direction::Ingress => ("from", "received"),
            Direction::Egress => ("to", "sent"),
        };
        let protocol = self.packet.protocol().map(show::protocol).unwrap_or_default();
        let detail = match upper {
            Upper::Tcp { source, destination } | Upper::Udp { source, destination } => {
                format!(", port {source} to port {destination}")
            }
            Upper::Icmp { kind } => format!(", type {kind}"),
            Upper::Fragment { .. } => ", a later fragment".to_owned(),
            Upper::Other { .. } | Upper::TooDeep => String::new(),
        };
        format!("{} {way} {peer}{detail}, {hook} on {}", plain(&protocol), self.packet.interface)
    }

    fn as_json(&self) -> Value {
        let candidates = self.candidates.iter().map(|candidate| {
            let rule = &self.bundle.rules[candidate.rule];
            let mut told = json!({
                "prefix": candidate.prefix.to_string(),
                "rule": self.bundle.name(rule),
                "action": show::action(&rule.action),
                "decides": self.judgement.by == By::Rule(candidate.rule),
            });
            if let Some(mismatch) = candidate.mismatch {
                told["why_not"] = json!(self.why_not(candidate.rule, mismatch));
            }
            told
        });
        let mut tested = json!({
            "verdict": self.judgement.verdict.name(),
            "why": self.by(),
            "packet": self.packet_in_words(),
            "candidates": candidates.collect::<Vec<_>>(),
        });
        if let Some(rule) = self.rule() {
            tested["rule"] = json!(self.bundle.name(rule));
            tested["reason"] = json!(self.bundle.reason(rule));
        }
        tested
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::policy::read;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn tested(arguments: &str) -> String {
        let text = r#"{"version":7,"scope":{"gateway":"gw-7"},"default":"allow","rules":[
            {"name":"block","cidrs":["192.0.2.0/24"],"protocol":"tcp","ports":["443","8000-8100"],"action":"drop","reason":"because"},
            {"name":"wide","cidrs":["192.0.0.0/16"],"direction":"egress","action":"sample"},
            {"name":"wider","cidrs":["192.0.0.0/8"],"action":"limit","limit":{"pps":5}}]}"#;
        let bundle = read(text.as_bytes()).unwrap();
        let arguments = ["test", "-", "--peer"].into_iter().chain(arguments.split_whitespace());
        let Command { args } = Command::try_parse_from(arguments).unwrap();
        match args.packet() {
            Ok(packet) => Tested::new(&bundle, packet, Fragments::Drop).as_text(),
            Err(what) => what,
        }
    }

    #[test]
    fn the_verdict_comes_with_the_rule_and_why_not_by_another() {
        let expected = "\
drop: rule block
  reason: because
  packet: tcp from 192.0.2.7, port 49152 to port 443, received on eth0
  rules for this peer, in the order in which they are asked:
    PREFIX        RULE   ACTION     DECIDES
    192.0.2.0/24  block  drop       yes
    192.0.0.0/16  wide   sample     no, direction egress
    192.0.0.0/8   wider  limit 5/s  no, one before it does
";
        assert_eq!(tested("192.0.2.7 --protocol tcp --port 443"), expected);
        let fragment = tested("192.0.2.7 --protocol tcp --fragment --direction egress");
        assert!(fragment.starts_with("sample: rule wide\n"), "{fragment}");
        assert!(fragment.contains("no, ports 443 8000-8100, which a fragment does not tell"), "{fragment}");
        let foreign = tested("198.51.100.1 --protocol 47");
        assert_eq!(
            foreign,
            "allow: default: no rule is for this peer\n  packet: 47 from 198.51.100.1, received on eth0\n"
        );
        let discovery = tested("fe80::1 --protocol icmpv6 --icmp-type 135");
        assert!(
            discovery.starts_with("allow: neighbour discovery (ICMPv6 133 to 137) always passes, whatever"),
            "{discovery}"
        );
    }

    #[test]
    fn packets_that_cannot_be_are_told() {
        for (arguments, expected) in [
            ("192.0.2.7 --protocol tcp", "--port is needed with tcp and udp"),
            ("192.0.2.7 --protocol icmp", "--icmp-type is needed with this protocol"),
            ("192.0.2.7 --protocol icmpv6 --icmp-type 128", "--icmp-type is for icmp with an IPv4 peer"),
            ("192.0.2.7 --protocol 47 --port 1", "--port and --peer-port are for"),
            ("192.0.2.7 --protocol tcp --icmp-type 8", "--icmp-type is for --protocol icmp"),
            ("192.0.2.7 --protocol tcp --direction egress --port 1 --peer-port 2", "at egress the peer's port is"),
        ] {
            let said = tested(arguments);
            assert!(said.starts_with(expected), "{said}");
        }
        assert!(protocol("tcp6").is_err() && protocol("256").is_err() && protocol("0") == Ok(0));
    }
}
