//! What one bundle says otherwise than another: by rule, which is the same where its name is, and member by member.
//!
//! The order of rules counts on each prefix by itself. So it is told where two rules that both have a prefix, and could both
//! match a packet, changed places.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde_json::Value;

use super::{
    bundle::{Bundle, Directions, Prefix, Rule},
    show,
};

/// Changes of order that are told at most: who turns a policy around sees it by the first ones.
pub const MAX_ORDER_CHANGES: usize = 100;

/// What is different; nothing of it is where both judge all packets alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Diff {
    /// Members of the bundle, the version apart.
    pub bundle: Vec<Change>,
    /// Names of rules that only the new one has, in its order.
    pub added: Vec<String>,
    /// Names of rules that only the old one has.
    pub removed: Vec<String>,
    /// Rules that both have, in the new one's order.
    pub changed: Vec<ChangedRule>,
    /// At most [`MAX_ORDER_CHANGES`].
    pub order: Vec<OrderChange>,
}

/// A rule that is not what it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangedRule {
    /// Its name.
    pub name: String,
    /// What is different.
    pub members: Vec<Change>,
}

/// A member that is not what it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Its name.
    pub member: &'static str,
    /// `None` where it was absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    /// `None` where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
}

/// Two rules that changed places on a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrderChange {
    /// The rule that comes first now.
    pub first: String,
    /// The one that came first before.
    pub second: String,
    /// A prefix that both have.
    pub prefix: String,
}

impl Diff {
    /// Whether both say the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares two bundles.
#[must_use]
pub fn diff(old: &Bundle, new: &Bundle) -> Diff {
    let (before, after) = (by_name(old), by_name(new));
    let names = |of: &Bundle, without: &HashMap<&str, usize>| {
        let names = of.rules.iter().map(|rule| of.name(rule));
        names.filter(|name| !without.contains_key(name)).map(str::to_owned).collect()
    };
    let changed = new.rules.iter().filter_map(|rule| {
        let name = new.name(rule);
        let members = changes(show::members(old, &old.rules[*before.get(name)?]), show::members(new, rule));
        (!members.is_empty()).then(|| ChangedRule { name: name.to_owned(), members })
    });
    Diff {
        bundle: changes(show::head(old), show::head(new)),
        added: names(new, &before),
        removed: names(old, &after),
        changed: changed.collect(),
        order: order(old, new, &before),
    }
}

fn by_name(bundle: &Bundle) -> HashMap<&str, usize> {
    bundle.rules.iter().enumerate().map(|(index, rule)| (bundle.name(rule), index)).collect()
}

/// In the order of the new members, then those that are absent now.
fn changes(old: Vec<(&'static str, Value)>, new: Vec<(&'static str, Value)>) -> Vec<Change> {
    let mut old: BTreeMap<_, _> = old.into_iter().collect();
    let mut changes = Vec::new();
    for (member, value) in new {
        let before = old.remove(member);
        if before.as_ref() != Some(&value) {
            changes.push(Change { member, old: before, new: Some(value) });
        }
    }
    changes.extend(old.into_iter().map(|(member, value)| Change { member, old: Some(value), new: None }));
    changes
}

/// `before` has the place of each rule in the old bundle.
fn order(old: &Bundle, new: &Bundle, before: &HashMap<&str, usize>) -> Vec<OrderChange> {
    // By prefix, the rules of the new bundle that the old one has with this prefix, too.
    let mut on: BTreeMap<Prefix, Vec<(usize, &Rule)>> = BTreeMap::new();
    for rule in &new.rules {
        let Some(place) = before.get(new.name(rule)) else { continue };
        for prefix in new.prefixes(rule) {
            if old.prefixes(&old.rules[*place]).binary_search(prefix).is_ok() {
                on.entry(*prefix).or_default().push((*place, rule));
            }
        }
    }
    let mut told = Vec::new();
    for (prefix, rules) in on {
        for (at, (place, first)) in rules.iter().enumerate() {
            for (_, second) in rules[at + 1..].iter().filter(|(other, second)| other < place && may_meet(first, second))
            {
                let name = |rule| new.name(rule).to_owned();
                let change = OrderChange { first: name(first), second: name(second), prefix: prefix.to_string() };
                let is_told = |told: &OrderChange| (&told.first, &told.second) == (&change.first, &change.second);
                if told.len() < MAX_ORDER_CHANGES && !told.iter().any(is_told) {
                    told.push(change);
                }
            }
        }
    }
    told
}

/// Whether one packet could match both.
fn may_meet(left: &Rule, right: &Rule) -> bool {
    let directions = left.directions == right.directions
        || left.directions == Directions::Both
        || right.directions == Directions::Both;
    directions && (left.protocol == right.protocol || left.protocol.is_none() || right.protocol.is_none())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::read;

    fn bundle(version: u64, default: &str, rules: &Value) -> Bundle {
        let text = json!({ "version": version, "scope": { "gateway": "g" }, "default": default, "rules": rules });
        read(text.to_string().as_bytes()).unwrap()
    }

    fn rule(name: &str, cidr: &str, action: &str) -> Value {
        json!({ "name": name, "cidrs": [cidr], "action": action })
    }

    #[test]
    fn another_version_of_the_same_is_no_difference() {
        let rules = json!([rule("a", "::1", "drop"), rule("b", "::2", "allow")]);
        assert!(diff(&bundle(1, "drop", &rules), &bundle(2, "drop", &rules)).is_empty());
    }

    #[test]
    fn rules_are_told_apart_by_name_and_compared_member_by_member() {
        let mut slow = rule("slow", "::1", "limit");
        slow["limit"] = json!({ "pps": 5 });
        let old = bundle(1, "allow", &json!([rule("gone", "::1", "drop"), rule("same", "::1", "drop"), slow]));
        let mut now = rule("slow", "::2", "drop");
        now["reason"] = json!("too slow");
        let new = bundle(2, "drop", &json!([now, rule("same", "::1", "drop"), rule("came", "::1", "drop")]));
        let found = diff(&old, &new);
        assert_eq!((found.added, found.removed), (vec!["came".to_owned()], vec!["gone".to_owned()]));
        let change = |member, old: Value, new: Value| Change {
            member,
            old: Some(old).filter(|value| !value.is_null()),
            new: Some(new).filter(|value| !value.is_null()),
        };
        assert_eq!(found.bundle, [change("default", json!("allow"), json!("drop"))]);
        let members = vec![
            change("cidrs", json!(["::1/128"]), json!(["::2/128"])),
            change("action", json!("limit"), json!("drop")),
            change("reason", Value::Null, json!("too slow")),
            change("limit", json!({ "pps": 5, "burst": 5, "per": "rule" }), Value::Null),
        ];
        assert_eq!(found.changed, [ChangedRule { name: "slow".to_owned(), members }]);
        assert_eq!(found.order, []);
    }

    #[test]
    fn order_is_told_where_it_decides() {
        let udp = |name: &str| json!({ "name": name, "cidrs": ["192.0.2.0/24"], "action": "drop", "protocol": "udp" });
        let tcp = |name: &str| json!({ "name": name, "cidrs": ["192.0.2.0/24"], "action": "allow", "protocol": "tcp" });
        let any = |name: &str| rule(name, "192.0.2.0/24", "sample");
        let old = bundle(1, "allow", &json!([udp("udp"), tcp("tcp"), any("any"), rule("far", "::1", "drop")]));
        let new = bundle(2, "allow", &json!([rule("far", "::1", "drop"), any("any"), tcp("tcp"), udp("udp")]));
        let change = |first: &str, second: &str| OrderChange {
            first: first.to_owned(),
            second: second.to_owned(),
            prefix: "192.0.2.0/24".to_owned(),
        };
        let found = diff(&old, &new);
        assert_eq!(found.order, [change("any", "tcp"), change("any", "udp")], "no packet is both TCP and UDP");
        assert!(found.changed.is_empty() && !found.is_empty());
    }
}
