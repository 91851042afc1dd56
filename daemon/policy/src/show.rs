//! Bundles as people see them: each member as a bundle would have it, those that say nothing left out.

use serde_json::{Map, Value, json};
use tidegate_values::{PublicKey, Span, calendar};

use super::bundle::{Action, Bundle, DefaultAction, Directions, ICMP, ICMPV6, Ports, Rule, Scope, TCP, UDP};

/// A rule's members, its name apart, in the order of `docs/policy.md`.
#[must_use]
pub fn members(bundle: &Bundle, rule: &Rule) -> Vec<(&'static str, Value)> {
    let conditions = rule.conditions.clone().unwrap_or_default();
    let texts = |ports: &[Ports]| ports.iter().map(ToString::to_string).collect::<Vec<_>>();
    let cidrs: Vec<_> = bundle.prefixes(rule).iter().map(ToString::to_string).collect();
    let mut members = vec![("cidrs", json!(cidrs))];
    let mut add = |name, is_said: bool, value: Value| members.extend(is_said.then_some((name, value)));
    add("direction", rule.directions != Directions::Both, json!(direction(rule.directions)));
    add("protocol", rule.protocol.is_some(), rule.protocol.map(protocol).unwrap_or_default());
    add("ports", !conditions.ports.is_empty(), json!(texts(&conditions.ports)));
    add("peer_ports", !conditions.peer_ports.is_empty(), json!(texts(&conditions.peer_ports)));
    add("icmp_types", !conditions.icmp_types.is_empty(), json!(conditions.icmp_types));
    add("interfaces", !conditions.interfaces.is_empty(), json!(conditions.interfaces[..]));
    add("action", true, json!(action(&rule.action)));
    if let Action::Limit(limit) = &rule.action {
        let per = if limit.per_peer { "peer" } else { "rule" };
        add("limit", true, json!({ "pps": limit.pps, "burst": limit.burst, "per": per }));
    }
    if let Some(ttl) = rule.ttl_s {
        let span = Span(std::time::Duration::from_secs(u32::from(ttl).into()));
        add("ttl", true, json!(span.to_string()));
    }
    add("reason", !bundle.reason(rule).is_empty(), json!(bundle.reason(rule)));
    members
}

/// What stands around the rules, the version apart.
#[must_use]
pub fn head(bundle: &Bundle) -> Vec<(&'static str, Value)> {
    let scope = match &bundle.scope {
        Scope::Gateway(id) => json!({ "gateway": id }),
        Scope::Group(name) => json!({ "group": name }),
    };
    let mut head = vec![("scope", scope)];
    head.extend(bundle.not_after_ms.map(|ms| ("not_after", json!(calendar::format(ms)))));
    head.push(("default", json!(default(bundle.default))));
    let keys = &bundle.keys;
    if !keys.add.is_empty() || !keys.remove.is_empty() {
        let add = keys.add.iter().map(|new| {
            let key = PublicKey::Ed25519(new.key).to_string();
            match new.not_after_ms {
                Some(ms) => json!({ "key": key, "not_after": calendar::format(ms) }),
                None => json!(key),
            }
        });
        head.push(("keys", json!({ "add": add.collect::<Vec<_>>(), "remove": keys.remove })));
    }
    head
}

/// All of it, as it could be signed.
#[must_use]
pub fn bundle(bundle: &Bundle) -> Value {
    let rules = bundle.rules.iter().map(|rule| {
        let name = ("name", json!(bundle.name(rule)));
        object(std::iter::once(name).chain(members(bundle, rule)))
    });
    let rules: Vec<_> = rules.collect();
    object([("version", json!(bundle.version))].into_iter().chain(head(bundle)).chain([("rules", json!(rules))]))
}

/// As `default` has it.
#[must_use]
pub const fn default(action: DefaultAction) -> &'static str {
    match action {
        DefaultAction::Allow => "allow",
        DefaultAction::Drop => "drop",
    }
}

/// As `direction` has it.
#[must_use]
pub const fn direction(directions: Directions) -> &'static str {
    match directions {
        Directions::Ingress => "ingress",
        Directions::Egress => "egress",
        Directions::Both => "both",
    }
}

/// As `action` has it.
#[must_use]
pub const fn action(action: &Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Drop => "drop",
        Action::Limit(_) => "limit",
        Action::Sample => "sample",
    }
}

/// As `protocol` has it.
#[must_use]
pub fn protocol(number: u8) -> Value {
    match number {
        TCP => "tcp".into(),
        UDP => "udp".into(),
        ICMP => "icmp".into(),
        ICMPV6 => "icmpv6".into(),
        other => other.into(),
    }
}

fn object(members: impl Iterator<Item = (&'static str, Value)>) -> Value {
    let mut object = Map::new();
    members.for_each(|(name, value)| {
        object.insert(name.to_owned(), value);
    });
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read;

    #[test]
    fn what_is_shown_is_what_was_read() {
        let text = json!({
            "version": 42, "scope": { "group": "plant" }, "not_after": "2027-01-01T00:00:00Z", "default": "drop",
            "keys": { "add": [{ "key": "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", "not_after": "2028-01-01T00:00:00Z" }],
                      "remove": ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"] },
            "rules": [
                { "name": "a", "cidrs": ["192.0.2.0/24", "2001:db8::/32"], "direction": "ingress", "protocol": "tcp",
                  "ports": ["443", "8000-8100"], "peer_ports": ["1-2"], "interfaces": ["eth0"], "action": "limit",
                  "limit": { "pps": 5, "burst": 9, "per": "peer" }, "ttl": "1h30m", "reason": "because" },
                { "name": "b", "cidrs": ["::/0"], "protocol": "icmpv6", "icmp_types": [128], "action": "drop" },
                { "name": "c", "cidrs": ["0.0.0.0/0"], "protocol": 47, "action": "sample" },
            ],
        });
        let read_once = read(text.to_string().as_bytes()).unwrap();
        assert_eq!(bundle(&read_once), text);
        assert_eq!(read(bundle(&read_once).to_string().as_bytes()).as_ref(), Ok(&read_once));
    }
}
