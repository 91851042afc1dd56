//! `event/policy` of dropped packets: see `docs/schema/event-policy.json`.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use serde_json::{Value, json};

use super::{Reading, RuleKey};
use crate::{
    kernel::{DroppedPacket, RuleAction, RuleCounts, Rules},
    record::Record,
};

/// Rules whose first packet is told at once, between two summaries. The first ones of further rules are in the summary.
const MAX_FIRST: usize = 60;
/// Rules that one summary tells one by one, those that dropped most; the others are told together.
const MAX_SUMMARIES: usize = 32;
/// Rules of which peers are remembered between two summaries: 40 KB.
const MAX_REMEMBERED: usize = 256;
/// Peers that are remembered of a rule.
const MAX_PEERS: usize = 8;

/// What was told of dropped packets, and what is to be told next.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Rules of which somebody heard before.
    known: HashSet<RuleKey>,
    /// Rules whose first packet was told since the last summary.
    first: HashSet<RuleKey>,
    peers: HashMap<RuleKey, Peers>,
}

#[derive(Debug, Default)]
struct Peers {
    some: Vec<IpAddr>,
    more: bool,
}

impl Peers {
    fn add(&mut self, peer: IpAddr) {
        if self.some.contains(&peer) {
            return;
        }
        if self.some.len() < MAX_PEERS {
            self.some.push(peer);
        } else {
            self.more = true;
        }
    }
}

impl Events {
    /// Whether nothing is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.peers.is_empty()
    }

    /// Forgets rules that are no more: one that comes back is a new one.
    pub(super) fn retain(&mut self, keep: impl Fn(&RuleKey) -> bool) {
        self.known.retain(&keep);
        self.first.retain(&keep);
        self.peers.retain(|key, _| keep(key));
    }

    /// Takes a packet in; the record that tells of it, where it is its rule's first.
    pub(super) fn note(&mut self, key: RuleKey, dropped: &DroppedPacket) -> Option<Record> {
        if self.peers.len() < MAX_REMEMBERED || self.peers.contains_key(&key) {
            self.peers.entry(key).or_default().add(dropped.peer);
        }
        if self.first.len() >= MAX_FIRST || !self.known.insert(key) {
            return None;
        }
        self.first.insert(key);
        let mut data = of_rule("drop", &dropped.rules, dropped.rule);
        data["peer"] = dropped.peer.to_string().into();
        data["protocol"] = dropped.protocol.into();
        if let Some((source, destination)) = dropped.ports {
            data["source_port"] = source.into();
            data["destination_port"] = destination.into();
        }
        data["interface"] = dropped.interface.as_str().into();
        data["direction"] = if dropped.ingress { "ingress" } else { "egress" }.into();
        tracing::info!(
            rule = dropped.rules.name(dropped.rule).unwrap_or("default"),
            peer = %dropped.peer,
            protocol = dropped.protocol,
            interface = dropped.interface,
            "the policy drops packets"
        );
        Some(Record::event("policy", &data))
    }

    /// What rules dropped in the last `seconds`. `growth` says by which key a rule is known, and what it counted since it was
    /// asked last.
    pub(super) fn summarize(
        &mut self,
        reading: &Reading,
        seconds: u64,
        mut growth: impl FnMut(Option<&str>, RuleCounts) -> (RuleKey, RuleCounts),
    ) -> Vec<Record> {
        let rules = &reading.in_force.rules;
        // The least one first.
        let mut most: Vec<(u32, RuleKey, RuleCounts)> = Vec::with_capacity(MAX_SUMMARIES + 1);
        let (mut others, mut other_counts) = (0_u64, RuleCounts::default());
        for &(rule, counts) in reading.counts.iter().filter(|(_, counts)| counts.dropped_packets > 0) {
            let (key, grown) = growth(rules.name(rule), counts);
            // One that was told when it happened needs no second word.
            if grown.dropped_packets <= u64::from(self.first.contains(&key)) {
                continue;
            }
            self.known.insert(key);
            let place = most.partition_point(|(_, _, less)| less.dropped_packets < grown.dropped_packets);
            most.insert(place, (rule, key, grown));
            if most.len() > MAX_SUMMARIES {
                let (_, _, least) = most.remove(0);
                others += 1;
                other_counts += least;
            }
        }
        let mut records: Vec<Record> = most
            .into_iter()
            .rev()
            .map(|(rule, key, grown)| {
                let peers = self.peers.remove(&key).unwrap_or_default();
                let mut data = of_rule("drops", rules, rule);
                data["packets"] = grown.dropped_packets.into();
                data["bytes"] = grown.dropped_bytes.into();
                data["seconds"] = seconds.into();
                data["peers"] = peers.some.iter().map(|peer| Value::from(peer.to_string())).collect();
                data["more_peers"] = peers.more.into();
                Record::event("policy", &data)
            })
            .collect();
        if others > 0 {
            let data = json!({
                "what": "drops-of-others",
                "version": rules.version(),
                "rules": others,
                "packets": other_counts.dropped_packets,
                "bytes": other_counts.dropped_bytes,
                "seconds": seconds,
            });
            records.push(Record::event("policy", &data));
        }
        self.first.clear();
        self.peers.clear();
        records
    }
}

/// What all events of a rule say.
fn of_rule(what: &str, rules: &Rules, rule: u32) -> Value {
    let action = match rules.action(rule) {
        RuleAction::Limit => "limit",
        _ => "drop",
    };
    let mut data = json!({ "what": what, "version": rules.version(), "action": action });
    // No rule: the default.
    if let Some(name) = rules.name(rule) {
        data["rule"] = name.into();
    }
    let reason = rules.reason(rule);
    if !reason.is_empty() {
        data["reason"] = reason.into();
    }
    data
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc};

    use super::*;
    use crate::{
        kernel::InForce,
        policy::{
            Action, Bundle, DefaultAction, Directions, Scope,
            bundle::{Conditions, NewRule},
        },
    };

    fn rules(count: u32) -> Arc<Rules> {
        let mut bundle = Bundle::new(7, Scope::Gateway("gw-7".into()), DefaultAction::Drop);
        for number in 1..=count {
            bundle.push(NewRule {
                name: &format!("rule-{number}"),
                reason: "as told",
                prefixes: &[],
                protocol: None,
                directions: Directions::Both,
                action: Action::Drop,
                ttl_s: None,
                conditions: Conditions::default(),
            });
        }
        Arc::new(Rules::of(&bundle))
    }

    fn packet(rules: &Arc<Rules>, rule: u32, last: u8) -> DroppedPacket {
        DroppedPacket {
            rules: Arc::clone(rules),
            rule,
            interface: "eth0".into(),
            ingress: true,
            peer: Ipv4Addr::new(192, 0, 2, last).into(),
            protocol: 6,
            ports: Some((40_000, 443)),
            limited: false,
        }
    }

    fn reading(rules: &Arc<Rules>, dropped: &[(u32, u64)]) -> Reading {
        let counts = |packets| RuleCounts { packets, bytes: 0, dropped_packets: packets, dropped_bytes: 0 };
        Reading {
            in_force: InForce { rules: Arc::clone(rules), table_bytes: 0 },
            counts: dropped.iter().map(|&(rule, packets)| (rule, counts(packets))).collect(),
            departed: RuleCounts::default(),
            drops_missed: 0,
        }
    }

    fn key(name: Option<&str>) -> RuleKey {
        RuleKey(name.map_or(0, |name| name["rule-".len()..].parse().unwrap()))
    }

    fn data(record: &Record) -> Value {
        assert_eq!(&*record.topic, "event/policy");
        serde_json::from_slice(&record.data).unwrap()
    }

    #[test]
    fn a_rules_first_packet_is_told_at_once_and_its_others_in_a_summary() {
        let (rules, mut events) = (rules(2), Events::default());
        let first = data(&events.note(RuleKey(1), &packet(&rules, 1, 9)).unwrap());
        assert_eq!(
            (&first["what"], &first["rule"], &first["peer"]),
            (&"drop".into(), &"rule-1".into(), &"192.0.2.9".into())
        );
        for last in 0..20 {
            assert_eq!(events.note(RuleKey(1), &packet(&rules, 1, last)), None);
        }
        let grown = |name: Option<&str>, counts| (key(name), counts);
        let records = events.summarize(&reading(&rules, &[(1, 500), (2, 0)]), 60, grown);
        let [told] = &records[..] else { panic!("{records:?}") };
        let told = data(told);
        assert_eq!(
            (&told["what"], &told["packets"], &told["more_peers"]),
            (&"drops".into(), &500.into(), &true.into())
        );
        assert_eq!(told["peers"].as_array().unwrap().len(), MAX_PEERS);
    }

    #[test]
    fn one_packet_that_was_told_when_it_happened_is_not_told_again() {
        let (rules, mut events) = (rules(1), Events::default());
        assert!(events.note(RuleKey(1), &packet(&rules, 1, 9)).is_some());
        let grown = |name: Option<&str>, counts| (key(name), counts);
        assert_eq!(events.summarize(&reading(&rules, &[(1, 1)]), 60, grown), []);
    }

    #[test]
    fn the_default_has_no_name() {
        let (rules, mut events) = (rules(1), Events::default());
        let told = data(&events.note(RuleKey(0), &packet(&rules, 0, 9)).unwrap());
        assert_eq!((told.get("rule"), &told["action"]), (None, &"drop".into()));
    }

    #[test]
    fn a_sweep_over_all_rules_is_told_in_bounded_number() {
        let count = 65_536_u32;
        let (rules, mut events) = (rules(count), Events::default());
        let at_once =
            (1..=count).filter(|&rule| events.note(RuleKey(rule.into()), &packet(&rules, rule, 1)).is_some()).count();
        assert_eq!((at_once, events.peers.len()), (MAX_FIRST, MAX_REMEMBERED));
        let all: Vec<(u32, u64)> = (1..=count).map(|rule| (rule, u64::from(rule) + 1)).collect();
        let records = events.summarize(&reading(&rules, &all), 60, |name, counts| (key(name), counts));
        assert_eq!(records.len(), MAX_SUMMARIES + 1);
        assert_eq!(data(&records[0])["rule"], "rule-65536", "the one that dropped most comes first");
        assert_eq!(data(records.last().unwrap())["rules"], u64::from(count) - MAX_SUMMARIES as u64);
    }
}
