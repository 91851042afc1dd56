//! One rule.

use std::{borrow::Cow, num::NonZeroU32, time::Duration};

use serde::de::{Error as _, MapAccess};
use tidegate_values::{Patterns, Span, excerpt};

use super::{
    Fault, Reading, prefix,
    values::{Content, Found, Many, Members, One, Value},
};
use crate::bundle::{
    self, Action, Conditions, Directions, ICMP, ICMPV6, Limit, MAX_NAME_BYTES, MAX_PORTS, MAX_RATE, MAX_REASON_BYTES,
    MAX_TTL_S, NewRule, Ports, TCP, UDP,
};

const MEMBERS: &[&str] = &[
    "name",
    "cidrs",
    "direction",
    "protocol",
    "ports",
    "peer_ports",
    "icmp_types",
    "interfaces",
    "action",
    "limit",
    "ttl",
    "reason",
];
const NAME: &str = "1 to 64 of A-Z a-z 0-9 _ . : -";
const CIDRS: &str = r#"a list of prefixes and addresses such as "192.0.2.0/24", "2001:db8::/32" and "192.0.2.7""#;
const DIRECTION: &str = r#""ingress", "egress" or "both""#;
const PROTOCOL: &str = r#""any", "tcp", "udp", "icmp", "icmpv6" or a number from 0 to 255"#;
const PORTS: &str = r#"a list of texts such as "443" and "8000-8100""#;
const ICMP_TYPES: &str = "a list of numbers from 0 to 255";
const INTERFACES: &str = "a list of at most 64 names and globs of interfaces, without exclusions";
const ACTION: &str = r#""drop", "allow", "limit" or "sample""#;
const LIMIT: &str = r#"{"pps":N,"burst":N,"per":"rule" or "peer"}, where burst and per may be absent"#;
const RATE: &str = "a whole number from 1 to 1000000";
const PER: &str = r#""rule" or "peer""#;
const TTL: &str = r#"whole seconds from "1s" to "365d", such as "90m" or "1h30m""#;
const REASON: &str = "a text of at most 256 bytes without control characters";

/// A rule, which is put behind the others.
pub(super) struct OneRule;

impl<'de> Content<'de> for OneRule {
    type Output = ();

    fn accepted(&self) -> &'static str {
        "a rule: an object"
    }

    fn object<A: MapAccess<'de>>(self, reading: &mut Reading, mut object: A) -> Result<(), A::Error> {
        let mut draft = Draft::default();
        let mut members = Members::new("", MEMBERS);
        reading.prefixes.clear();
        while let Some(member) = members.next(reading, &mut object)? {
            draft.member(reading, member, &mut object)?;
        }
        draft.check().map_err(|(member, fault)| {
            reading.at("", member);
            reading.stop::<A::Error>(fault)
        })?;
        draft.keep(reading).map_err(|()| A::Error::custom(""))
    }
}

/// What is known of a rule so far.
#[derive(Default)]
struct Draft<'de> {
    name: Option<Cow<'de, str>>,
    reason: Cow<'de, str>,
    directions: Option<Directions>,
    protocol: Option<u8>,
    action: Option<Effect>,
    limit: Option<Limit>,
    ttl_s: Option<NonZeroU32>,
    has_cidrs: bool,
    conditions: Conditions,
}

/// An action before its limit is known.
#[derive(Clone, Copy, PartialEq)]
enum Effect {
    Allow,
    Drop,
    Limit,
    Sample,
}

impl<'de> Draft<'de> {
    fn member<A: MapAccess<'de>>(
        &mut self,
        reading: &mut Reading,
        member: &'static str,
        object: &mut A,
    ) -> Result<(), A::Error> {
        match member {
            "name" => {
                let name =
                    object.next_value_seed(Value { reading, content: Text { accepted: NAME, accepts: is_name } })?;
                name.as_ref().clone_into(&mut reading.place.name);
                self.name = Some(name);
            }
            "reason" => {
                let content = Text { accepted: REASON, accepts: is_reason };
                self.reason = object.next_value_seed(Value { reading, content })?;
            }
            "cidrs" => {
                object.next_value_seed(Value { reading, content: Many { accepted: CIDRS, take: take_prefix } })?;
                self.has_cidrs = true;
                sort_prefixes(reading).map_err(|fault| reading.stop(fault))?;
            }
            "direction" => {
                let content = One { accepted: DIRECTION, judge: |found: &Found<'de>| direction(found.text()?) };
                self.directions = Some(object.next_value_seed(Value { reading, content })?);
            }
            "protocol" => {
                self.protocol =
                    object.next_value_seed(Value { reading, content: One { accepted: PROTOCOL, judge: protocol } })?;
            }
            "ports" => self.conditions.ports = ports(reading, object)?,
            "peer_ports" => self.conditions.peer_ports = ports(reading, object)?,
            "icmp_types" => self.conditions.icmp_types = icmp_types(reading, object)?,
            "interfaces" => self.interfaces(reading, object)?,
            "action" => {
                let content = One { accepted: ACTION, judge: |found: &Found<'de>| effect(found.text()?) };
                self.action = Some(object.next_value_seed(Value { reading, content })?);
            }
            "limit" => self.limit = Some(object.next_value_seed(Value { reading, content: Rate })?),
            "ttl" => {
                let content = One { accepted: TTL, judge: |found: &Found<'de>| ttl(found.text()?) };
                self.ttl_s = Some(object.next_value_seed(Value { reading, content })?);
            }
            other => unreachable!("{other} is none of the members"),
        }
        Ok(())
    }

    fn interfaces<A: MapAccess<'de>>(&mut self, reading: &mut Reading, object: &mut A) -> Result<(), A::Error> {
        let mut list: Vec<String> = Vec::new();
        let take = |_: &mut Reading, found: &Found<'de>| {
            // `Patterns` has the same bound; this one is about memory.
            let pattern =
                found.judged(INTERFACES, |found| found.text().filter(|_| list.len() < 64).map(str::to_owned))?;
            list.push(pattern);
            Ok(())
        };
        object.next_value_seed(Value { reading, content: Many { accepted: INTERFACES, take } })?;
        let fault = match Patterns::parse(&list) {
            _ if list.is_empty() => Some("an empty list".to_owned()),
            _ if list.iter().any(|pattern| pattern.starts_with('!')) => Some("an exclusion".to_owned()),
            Ok(_) => None,
            Err(error) => Some(excerpt(&error.to_string())),
        };
        list.sort_unstable();
        let twice = list.windows(2).find(|two| two[0] == two[1]).map(|two| two[0].clone());
        let shared = match (fault, twice) {
            (Some(found), _) => Err(Fault::NotAccepted { found, accepted: INTERFACES }),
            (None, Some(found)) => Err(Fault::Repeated { found }),
            (None, None) => reading.share(list),
        };
        self.conditions.interfaces = shared.map_err(|fault| reading.stop(fault))?;
        Ok(())
    }

    /// What is missing, and what does not go together.
    fn check(&self) -> Result<(), (&'static str, Fault)> {
        let conditions = &self.conditions;
        let has_ports = !conditions.ports.is_empty() || !conditions.peer_ports.is_empty();
        let missing = |member, accepted| Err((member, Fault::Missing { accepted }));
        let apart = |member, what| Err((member, Fault::Apart(what)));
        match (self.action, self.protocol) {
            _ if self.name.is_none() => missing("name", NAME),
            _ if !self.has_cidrs => missing("cidrs", CIDRS),
            (None, _) => missing("action", ACTION),
            (Some(Effect::Limit), _) if self.limit.is_none() => missing("limit", LIMIT),
            (Some(action), _) if action != Effect::Limit && self.limit.is_some() => {
                apart("limit", r#"has a meaning with "action":"limit" only"#)
            }
            (_, protocol) if has_ports && !matches!(protocol, Some(TCP | UDP)) => {
                let member = if conditions.ports.is_empty() { "peer_ports" } else { "ports" };
                apart(member, r#"wants "protocol":"tcp" or "protocol":"udp" beside it; for both, write two rules"#)
            }
            (_, protocol) if !conditions.icmp_types.is_empty() && !matches!(protocol, Some(ICMP | ICMPV6)) => {
                apart("icmp_types", r#"wants "protocol":"icmp" or "protocol":"icmpv6" beside it"#)
            }
            _ => Ok(()),
        }
    }

    /// Puts it behind the others. What [`Self::check`] let through is complete; an error would say otherwise.
    fn keep(self, reading: &mut Reading) -> Result<(), ()> {
        let name = self.name.ok_or(())?;
        let action = match (self.action.ok_or(())?, self.limit) {
            (Effect::Allow, _) => Action::Allow,
            (Effect::Drop, _) => Action::Drop,
            (Effect::Sample, _) => Action::Sample,
            (Effect::Limit, limit) => Action::Limit(Box::new(limit.ok_or(())?)),
        };
        reading.note_name(&name);
        reading.bundle.push(NewRule {
            name: &name,
            reason: &self.reason,
            prefixes: &reading.prefixes,
            protocol: self.protocol,
            directions: self.directions.unwrap_or(Directions::Both),
            action,
            ttl_s: self.ttl_s,
            conditions: self.conditions,
        });
        Ok(())
    }
}

/// A text, borrowed where it has no escapes.
struct Text {
    accepted: &'static str,
    accepts: fn(&str) -> bool,
}

impl<'de> Content<'de> for Text {
    type Output = Cow<'de, str>;

    fn accepted(&self) -> &'static str {
        self.accepted
    }

    fn single(self, found: Found<'de>) -> Result<Cow<'de, str>, Fault> {
        match found {
            Found::Text(text) if (self.accepts)(&text) => Ok(text),
            other => Err(other.refused(self.accepted)),
        }
    }
}

fn is_name(text: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'-');
    matches!(text.len(), 1..=MAX_NAME_BYTES) && text.bytes().all(valid)
}

/// What is shown in terminals, logs and events: nothing in it moves a cursor, breaks a line or turns the direction of text.
fn is_reason(text: &str) -> bool {
    let obeyed = |c: char| {
        let turns =
            matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
    };
    text.len() <= MAX_REASON_BYTES && !text.contains(obeyed)
}

fn take_prefix(reading: &mut Reading, found: &Found<'_>) -> Result<(), Fault> {
    reading.room_for_prefix()?;
    let parsed = found.judged(CIDRS, |found| match prefix::parse(found.text()?) {
        Ok(prefix) => Some(Ok(prefix)),
        Err(prefix::Unreadable::HostBits(meant)) => Some(Err(meant)),
        Err(prefix::Unreadable::NoPrefix) => None,
    })?;
    let prefix =
        parsed.map_err(|meant| Fault::HostBits { found: found.text().map(excerpt).unwrap_or_default(), meant })?;
    reading.prefixes.push(prefix);
    Ok(())
}

fn sort_prefixes(reading: &mut Reading) -> Result<(), Fault> {
    let prefixes = &mut reading.prefixes;
    if prefixes.is_empty() {
        return Err(Fault::NotAccepted { found: "an empty list".to_owned(), accepted: CIDRS });
    }
    bundle::sort(prefixes);
    match prefixes.windows(2).find(|two| two[0] == two[1]) {
        Some(two) => Err(Fault::Repeated { found: two[0].to_string() }),
        None => Ok(()),
    }
}

fn direction(text: &str) -> Option<Directions> {
    match text {
        "ingress" => Some(Directions::Ingress),
        "egress" => Some(Directions::Egress),
        "both" => Some(Directions::Both),
        _ => None,
    }
}

#[expect(clippy::option_option, reason = "the outer one says whether it is accepted")]
fn protocol(found: &Found<'_>) -> Option<Option<u8>> {
    match found {
        Found::Whole(number) => u8::try_from(*number).ok().map(Some),
        Found::Text(text) => match text.as_ref() {
            "any" => Some(None),
            "tcp" => Some(Some(TCP)),
            "udp" => Some(Some(UDP)),
            "icmp" => Some(Some(ICMP)),
            "icmpv6" => Some(Some(ICMPV6)),
            _ => None,
        },
        Found::Other(_) => None,
    }
}

fn effect(text: &str) -> Option<Effect> {
    match text {
        "allow" => Some(Effect::Allow),
        "drop" => Some(Effect::Drop),
        "limit" => Some(Effect::Limit),
        "sample" => Some(Effect::Sample),
        _ => None,
    }
}

fn ttl(text: &str) -> Option<NonZeroU32> {
    let Span(span) = text.parse().ok()?;
    let whole = span == Duration::from_secs(span.as_secs()) && span.as_secs() <= u64::from(MAX_TTL_S);
    u32::try_from(span.as_secs()).ok().filter(|_| whole).and_then(NonZeroU32::new)
}

/// Sorted, and joined where they touch or overlap.
fn ports<'de, A: MapAccess<'de>>(reading: &mut Reading, object: &mut A) -> Result<Vec<Ports>, A::Error> {
    let mut list: Vec<u32> = Vec::new();
    let take = |_: &mut Reading, found: &Found<'de>| {
        if list.len() == MAX_PORTS {
            return Err(Fault::TooMany { limit: MAX_PORTS, what: "ports and ranges in a list" });
        }
        list.push(found.judged(PORTS, |found| port_range(found.text()?))?.number());
        Ok(())
    };
    object.next_value_seed(Value { reading, content: Many { accepted: PORTS, take } })?;
    list.sort_unstable();
    if let Some(two) = list.windows(2).find(|two| two[0] == two[1]) {
        return Err(reading.stop(Fault::Repeated { found: Ports::of_number(two[0]).to_string() }));
    }
    if list.is_empty() {
        return Err(reading.not_accepted("an empty list", PORTS));
    }
    let mut joined: Vec<Ports> = Vec::new();
    for range in list.into_iter().map(Ports::of_number) {
        match joined.last_mut() {
            Some(before) if u32::from(range.first) <= u32::from(before.last) + 1 => {
                before.last = before.last.max(range.last);
            }
            _ => joined.push(range),
        }
    }
    joined.shrink_to_fit();
    Ok(joined)
}

fn port_range(text: &str) -> Option<Ports> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let ports = Ports { first: port(first)?, last: port(last)? };
    (ports.first <= ports.last).then_some(ports)
}

/// Digits without a sign and without zeros in front.
pub(super) fn port(digits: &str) -> Option<u16> {
    let plain = digits == "0" || !digits.starts_with(['0', '+']);
    digits.parse().ok().filter(|_| plain)
}

fn icmp_types<'de, A: MapAccess<'de>>(reading: &mut Reading, object: &mut A) -> Result<Vec<u8>, A::Error> {
    let mut list: Vec<u8> = Vec::new();
    let take = |_: &mut Reading, found: &Found<'de>| {
        let kind = found.judged(ICMP_TYPES, |found| match found {
            Found::Whole(number) => u8::try_from(*number).ok(),
            _ => None,
        })?;
        // Sorted, so there are never more than there are numbers.
        match list.binary_search(&kind) {
            Ok(_) => Err(Fault::Repeated { found: kind.to_string() }),
            Err(place) => {
                list.insert(place, kind);
                Ok(())
            }
        }
    };
    object.next_value_seed(Value { reading, content: Many { accepted: ICMP_TYPES, take } })?;
    if list.is_empty() { Err(reading.not_accepted("an empty list", ICMP_TYPES)) } else { Ok(list) }
}

/// `{"pps":N,"burst":N,"per":"rule"|"peer"}`
struct Rate;

impl<'de> Content<'de> for Rate {
    type Output = Limit;

    fn accepted(&self) -> &'static str {
        LIMIT
    }

    fn object<A: MapAccess<'de>>(self, reading: &mut Reading, mut object: A) -> Result<Limit, A::Error> {
        let (mut pps, mut burst, mut per_peer) = (None, None, false);
        let mut members = Members::new("limit", &["pps", "burst", "per"]);
        let rate = |found: &Found<'de>| match found {
            Found::Whole(number) => u32::try_from(*number).ok().filter(|rate| (1..=MAX_RATE).contains(rate)),
            _ => None,
        };
        while let Some(member) = members.next(reading, &mut object)? {
            if member == "per" {
                let judge = |found: &Found<'de>| match found.text()? {
                    "rule" => Some(false),
                    "peer" => Some(true),
                    _ => None,
                };
                per_peer = object.next_value_seed(Value { reading, content: One { accepted: PER, judge } })?;
            } else {
                let content = One { accepted: RATE, judge: rate };
                let number = object.next_value_seed(Value { reading, content })?;
                *(if member == "pps" { &mut pps } else { &mut burst }) = Some(number);
            }
        }
        let Some(pps) = pps else {
            reading.at("limit", "pps");
            return Err(reading.stop(Fault::Missing { accepted: RATE }));
        };
        Ok(Limit { pps, burst: burst.unwrap_or(pps), per_peer })
    }
}
