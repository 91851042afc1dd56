use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_values::json::MAX_WHOLE;

use super::*;
use crate::bundle::{Action, Conditions, Directions, Limit, Ports, TCP};

/// A bundle with these rules.
fn with_rules(rules: &str) -> String {
    format!(r#"{{"version":7,"scope":{{"gateway":"gw-7"}},"default":"allow","rules":[{rules}]}}"#)
}

/// What is said of a bundle that is not accepted.
fn complaint(text: impl AsRef<[u8]>) -> String {
    read(text.as_ref()).expect_err("a wrong bundle was accepted").to_string()
}

/// The same of one with this one rule, whose other members are well.
fn of_rule(members: &str) -> String {
    complaint(with_rules(&format!(r#"{{"name":"x","cidrs":["192.0.2.0/24"],"action":"drop",{members}}}"#)))
}

#[test]
fn a_bundle_is_read_with_all_that_it_may_have() {
    let text = r#"{
        "version": 42, "scope": {"group": "plant.2"}, "not_after": "2027-01-01T00:00:00Z", "default": "drop",
        "keys": {"add": ["ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
                         {"key": "ed25519:PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=", "not_after": "1970-01-01T00:00:01Z"}],
                 "remove": ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]},
        "rules": [
            {"name": "block-malicious", "cidrs": ["2001:db8::/32", "192.0.2.0/24", "198.51.100.7"], "direction": "ingress",
             "protocol": "tcp", "ports": ["8000-8100", "443", "8101", "8050-8060"], "peer_ports": ["0-65535"],
             "interfaces": ["wwan*", "eth0"], "action": "drop", "reason": "CVE-2024-21413 – \u00fcber", "ttl": "1h"},
            {"name": "\u0061ll", "cidrs": ["0.0.0.0/0"], "protocol": 47, "action": "sample"},
            {"name": "slow", "cidrs": ["::/0"], "protocol": "icmpv6", "icmp_types": [129, 128], "action": "limit",
             "limit": {"pps": 100, "burst": 200, "per": "peer"}, "interfaces": ["eth0", "wwan*"]},
            {"name": "plain", "cidrs": ["10.0.0.0/8"], "action": "limit", "limit": {"pps": 5}}]}"#;
    let bundle = read(text.as_bytes()).unwrap();
    assert_eq!((bundle.version, bundle.default), (42, DefaultAction::Drop));
    assert_eq!((bundle.scope.clone(), bundle.not_after_ms), (Scope::Group("plant.2".into()), Some(1_798_761_600_000)));
    assert_eq!((bundle.keys.add[0].not_after_ms, bundle.keys.add[1].not_after_ms), (None, Some(1000)));
    assert_eq!((bundle.keys.add[0].key[0], bundle.keys.remove[0].0[0]), (0xd7, 0xba));

    let rules = &bundle.rules;
    let names: Vec<_> = rules.iter().map(|rule| bundle.name(rule)).collect();
    assert_eq!(names, ["block-malicious", "all", "slow", "plain"]);
    assert_eq!(bundle.reason(&rules[0]), "CVE-2024-21413 – über");
    let prefixes: Vec<_> = bundle.prefixes(&rules[0]).iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32"]);
    assert_eq!((rules[0].directions, rules[0].protocol), (Directions::Ingress, Some(TCP)));
    assert_eq!(rules[0].ttl_s.map(Into::into), Some(3600));
    let first = rules[0].conditions.as_deref().unwrap();
    assert_eq!(first.ports, [Ports { first: 443, last: 443 }, Ports { first: 8000, last: 8101 }]);
    assert_eq!(first.peer_ports, [Ports { first: 0, last: 65_535 }]);
    assert_eq!(first.interfaces[..], ["eth0", "wwan*"]);
    assert_eq!((rules[1].protocol, &rules[1].conditions, rules[1].directions), (Some(47), &None, Directions::Both));
    let third = rules[2].conditions.as_deref().unwrap();
    assert_eq!(third.icmp_types, [128, 129]);
    assert!(Arc::ptr_eq(&first.interfaces, &third.interfaces), "one list, whatever its order");
    let limit = |rule: &crate::Rule| match &rule.action {
        Action::Limit(limit) => **limit,
        other => panic!("{other:?}"),
    };
    assert_eq!(limit(&rules[2]), Limit { pps: 100, burst: 200, per_peer: true });
    assert_eq!(limit(&rules[3]), Limit { pps: 5, burst: 5, per_peer: false });
}

#[test]
fn the_order_of_members_is_nobodys_business() {
    let text = r#"{"rules":[{"limit":{"per":"rule","pps":9},"ports":["1"],"action":"limit","protocol":"udp","cidrs":["::1"],"name":"x"}],
        "default":"allow","scope":{"gateway":"g"},"version":9007199254740991}"#;
    let bundle = read(text.as_bytes()).unwrap();
    assert_eq!((bundle.version, bundle.rules.len()), (MAX_WHOLE, 1));
    assert_eq!(read(with_rules("").as_bytes()).unwrap().rules, []);
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_what_is_accepted() {
    let rule = |members| of_rule(members);
    for (found, expected) in [
        (rule(r#""ports":["443"]"#), r#"rule 1 (x): ports: wants "protocol":"tcp" or "protocol":"udp" beside it"#),
        (rule(r#""protocol":"icmp","peer_ports":["443"]"#), r#"rule 1 (x): peer_ports: wants "protocol":"tcp" or"#),
        (rule(r#""protocol":"tcp","icmp_types":[8]"#), r#"rule 1 (x): icmp_types: wants "protocol":"icmp" or"#),
        (rule(r#""protocol":"tcp","ports":["90-80"]"#), r#"rule 1 (x): ports: found "90-80", accepted is a list of"#),
        (rule(r#""protocol":"tcp","ports":[443]"#), "rule 1 (x): ports: found 443, accepted is a list of texts"),
        (rule(r#""protocol":"tcp","ports":["65536"]"#), r#"rule 1 (x): ports: found "65536", accepted is a list"#),
        (rule(r#""protocol":"tcp","ports":["0443"]"#), r#"rule 1 (x): ports: found "0443", accepted is"#),
        (rule(r#""protocol":"tcp","ports":["80","80"]"#), "rule 1 (x): ports: 80 stands there twice"),
        (rule(r#""protocol":"tcp","ports":[]"#), "rule 1 (x): ports: found an empty list, accepted is"),
        (rule(r#""protocol":"tcp","ports":"443""#), r#"rule 1 (x): ports: found "443", accepted is a list"#),
        (rule(r#""protocol":"TCP""#), r#"rule 1 (x): protocol: found "TCP", accepted is "any", "tcp", "udp","#),
        (rule(r#""protocol":256"#), r#"rule 1 (x): protocol: found 256, accepted is "any", "tcp""#),
        (rule(r#""protocol":null"#), "rule 1 (x): protocol: found null, accepted is"),
        (rule(r#""direction":"in""#), r#"rule 1 (x): direction: found "in", accepted is "ingress", "egress""#),
        (rule(r#""limit":{"pps":5}"#), r#"rule 1 (x): limit: has a meaning with "action":"limit" only"#),
        (rule(r#""ttl":"0s""#), r#"rule 1 (x): ttl: found "0s", accepted is whole seconds from "1s" to "365d""#),
        (rule(r#""ttl":"366d""#), r#"rule 1 (x): ttl: found "366d", accepted is"#),
        (rule(r#""ttl":"1500ms""#), r#"rule 1 (x): ttl: found "1500ms", accepted is"#),
        (rule(r#""ttl":60"#), "rule 1 (x): ttl: found 60, accepted is"),
        (rule(r#""reason":"a\nb""#), r#"rule 1 (x): reason: found "a\nb", accepted is a text of at most 256"#),
        (rule(r#""reason":"\u202edrop""#), "rule 1 (x): reason: found "),
        (rule(r#""reason":"\u200fdrop""#), "rule 1 (x): reason: found "),
        (rule(r#""interfaces":["!eth0"]"#), "rule 1 (x): interfaces: found an exclusion, accepted is a list"),
        (rule(r#""interfaces":["eth0","eth0"]"#), "rule 1 (x): interfaces: eth0 stands there twice"),
        (rule(r#""interfaces":["a b"]"#), r#"rule 1 (x): interfaces: found interface pattern "a b" has ' '"#),
        (rule(r#""interface":["eth0"]"#), "rule 1 (x): unknown member interface, was interfaces meant?; accepted are"),
        (rule(r#""\u0430ction":"drop""#), "rule 1 (x): unknown member аction, was action meant?; accepted are name,"),
        (rule(r#""name":"y""#), "rule 1 (x): name: stands twice"),
        (rule(r#""protocol":"icmp","icmp_types":[8,8]"#), "rule 1 (x): icmp_types: 8 stands there twice"),
        (rule(r#""protocol":"icmp","icmp_types":[256]"#), "rule 1 (x): icmp_types: found 256, accepted is"),
    ] {
        assert!(found.starts_with(expected), "{found}\nexpected: {expected}");
    }
    for (rule, expected) in [
        (r#"{"cidrs":["::1"],"action":"drop"}"#, "rule 1: name: is missing; accepted is 1 to 64 of"),
        (r#"{"name":"x","action":"drop"}"#, "rule 1 (x): cidrs: is missing; accepted is a list of prefixes"),
        (r#"{"name":"x","cidrs":["::1"]}"#, r#"rule 1 (x): action: is missing; accepted is "drop", "allow""#),
        (r#"{"name":"x","cidrs":["::1"],"action":"limit"}"#, r#"rule 1 (x): limit: is missing; accepted is {"pps":N"#),
        (r#"{"name":"x","cidrs":["::1"],"action":"limit","limit":{"burst":1}}"#, "rule 1 (x): limit.pps: is missing"),
        (
            r#"{"name":"x","limit":{"pps":0}}"#,
            "rule 1 (x): limit.pps: found 0, accepted is a whole number from 1 to 1000000",
        ),
        (r#"{"name":"x","limit":{"pps":1000001}}"#, "rule 1 (x): limit.pps: found 1000001, accepted is"),
        (r#"{"name":"x","limit":{"pps":1e2}}"#, "rule 1 (x): limit.pps: found 100.0, accepted is"),
        (r#"{"name":"x","limit":{"rate":1}}"#, "rule 1 (x): limit: unknown member rate"),
        (r#"{"name":"x","cidrs":[]}"#, "rule 1 (x): cidrs: found an empty list, accepted is"),
        (
            r#"{"name":"x","cidrs":["192.0.2.1/24"]}"#,
            "rule 1 (x): cidrs: 192.0.2.1/24 has bits behind its length; was 192.0.2.0/24 meant?",
        ),
        (
            r#"{"name":"x","cidrs":["192.0.2.1","::1","192.0.2.1/32"]}"#,
            "rule 1 (x): cidrs: 192.0.2.1/32 stands there twice",
        ),
        (r#"{"name":"x","cidrs":["10/8"]}"#, r#"rule 1 (x): cidrs: found "10/8", accepted is a list of prefixes"#),
        (r#"{"name":"x","cidrs":[["::1"]]}"#, "rule 1 (x): cidrs: found a list, accepted is"),
        (r#"{"name":""}"#, r#"rule 1: name: found "", accepted is 1 to 64"#),
        (r#"{"name":"bl\u043eck"}"#, r#"rule 1: name: found "blоck", accepted is 1 to 64"#),
        (
            r#"{"name":"a","cidrs":["::1"],"action":"drop"},{"name":"b","cidrs":["::1"],"action":"drop"},{"name":"a","cidrs":["::2"],"action":"drop"}"#,
            "rule 3 (a): name: rule 1 has this name, too; names tell rules apart",
        ),
        (r#"{"name":"a","cidrs":["::1"],"action":"drop"},7"#, "rule 2: found 7, accepted is a rule"),
        ("[]", "rule 1: found a list, accepted is a rule"),
    ] {
        let found = complaint(with_rules(rule));
        assert!(found.starts_with(expected), "{found}\nexpected: {expected}");
    }
}

#[test]
fn what_stands_around_the_rules_is_judged_alike() {
    let whole = |changes: Value| {
        let mut bundle = json!({ "version": 7, "scope": { "gateway": "gw-7" }, "default": "allow", "rules": [] });
        for (name, value) in changes.as_object().unwrap() {
            bundle[name] = value.clone();
            if value == "absent" {
                bundle.as_object_mut().unwrap().remove(name);
            }
        }
        complaint(bundle.to_string())
    };
    for (found, expected) in [
        (whole(json!({ "version": 0 })), "version: found 0, accepted is a whole number from 1 to 9007199254740991"),
        (whole(json!({ "version": MAX_WHOLE + 1 })), "version: found 9007199254740992, accepted is"),
        (whole(json!({ "version": "7" })), r#"version: found "7", accepted is"#),
        (whole(json!({ "version": 7.5 })), "version: found 7.5, accepted is"),
        (whole(json!({ "version": -7 })), "version: found -7, accepted is"),
        (whole(json!({ "version": "absent" })), "version: is missing; accepted is a whole number"),
        (whole(json!({ "rules": "absent" })), "rules: is missing; accepted is a list of rules"),
        (whole(json!({ "scope": "absent" })), r#"scope: is missing; accepted is {"gateway":"ID"} or"#),
        (whole(json!({ "default": "absent" })), "default: is missing; accepted is"),
        (whole(json!({ "scope": {} })), "scope: found an empty object, accepted is"),
        (whole(json!({ "scope": "gw-7" })), r#"scope: found "gw-7", accepted is {"gateway":"ID"}"#),
        (
            whole(json!({ "scope": { "gateway": "a", "group": "b" } })),
            "scope.group: a bundle is for one gateway or for",
        ),
        (whole(json!({ "scope": { "gateway": "a/b" } })), r#"scope.gateway: found "a/b", accepted is 1 to 64"#),
        (whole(json!({ "not_after": "2027-02-30T00:00:00Z" })), r#"not_after: found "2027-02-30T00:00:00Z", accepted"#),
        (whole(json!({ "not_after": 1 })), "not_after: found 1, accepted is a moment in UTC"),
        (whole(json!({ "default": "deny" })), r#"default: found "deny", accepted is "allow" or "drop""#),
        (whole(json!({ "rules": {} })), "rules: found an object, accepted is a list of rules"),
        (
            whole(json!({ "keys": { "add": ["/etc/key.pem"] } })),
            r#"keys.add: found "/etc/key.pem", accepted is "ed25519:""#,
        ),
        (whole(json!({ "keys": { "add": [{}] } })), "keys.add.key: is missing"),
        (whole(json!({ "keys": { "remove": ["AB"] } })), "keys.remove: found \"AB\", accepted is a list of key ids"),
        (whole(json!({ "keys": { "remove": vec!["0".repeat(64); 2] } })), "keys.remove: 0000"),
        (whole(json!({ "comment": "x" })), "unknown member comment; accepted are version, scope, not_after, default"),
        (complaint(""), "not JSON: EOF while parsing a value"),
        (complaint("[]"), r#"found a list, accepted is {"version":N"#),
        (complaint("{}}"), "version: is missing"),
        (complaint(with_rules("") + "x"), "not JSON: trailing characters"),
        (complaint(b"\xef\xbb\xbf{}"), "not JSON: expected value at line 1 column 1"),
        (complaint(b"{\"version\xc0\xae\":1}"), "not UTF-8 text (first wrong byte at offset 9)"),
        (complaint(r#"{"default":"\ud800"}"#), "not JSON: "),
        (complaint(r#"{"version":1e999}"#), "not JSON: number out of range"),
        (complaint(r#"{"version":7,"version":7}"#), "version: stands twice"),
        (complaint(r#"{"version":7,"\u0076ersion":7}"#), "version: stands twice"),
        (complaint(vec![b' '; MAX_BUNDLE_BYTES + 1]), "too-large: a bundle of 4194305 bytes, at most 4194304 are"),
        (
            complaint(format!(r#"{{"a":"\n{}"}}"#, "x".repeat(5000))),
            "too much text: over 4096 bytes with escapes at offset 5",
        ),
    ] {
        assert!(found.starts_with(expected), "{found}\nexpected: {expected}");
    }
}

#[test]
fn the_version_of_what_is_refused_is_told_wherever_it_stands() {
    let version = |text: &str| read(text.as_bytes()).unwrap_err().version;
    assert_eq!(version(r#"{"rules":[[[[{"a":"\u0000"}]]]],"version":7}"#), Some(7));
    assert_eq!(version(r#"{"version":7,"scope":"x","n\u00e4":1}"#), Some(7));
    assert_eq!(version(r#"{"version":7,"scope":"x","version":7}"#), None);
    assert_eq!(version(r#"{"version":7,"scope":"x""#), None);
    assert_eq!(version(r#"{"version":"7"}"#), None);
    assert_eq!(version("[7]"), None);
    let deep = format!(r#"{{"rules":{}{},"version":7}}"#, "[".repeat(1 << 20), "]".repeat(1 << 20));
    assert_eq!(version(&deep), Some(7));
}

#[test]
fn there_are_as_many_rules_prefixes_and_lists_as_the_design_says_and_no_more() {
    let rules = |count: usize| {
        let rule = |n: usize| format!(r#"{{"name":"{n}","cidrs":["::1"],"action":"drop"}}"#);
        with_rules(&(0..count).map(rule).collect::<Vec<_>>().join(","))
    };
    assert_eq!(read(rules(MAX_RULES).as_bytes()).unwrap().rules.len(), MAX_RULES);
    assert!(complaint(rules(MAX_RULES + 1)).starts_with("rule 65537: more than 65536 rules in a bundle"));

    let prefixes = |count: usize| {
        let prefix = |n: usize| format!(r#""10.{}.{}.{}""#, n >> 16, n >> 8 & 255, n & 255);
        let list = |range: std::ops::Range<usize>| range.map(prefix).collect::<Vec<_>>().join(",");
        let rule = |name, list| format!(r#"{{"name":"{name}","action":"drop","cidrs":[{list}]}}"#);
        with_rules(&(rule("a", list(0..1000)) + "," + &rule("b", list(1000..count))))
    };
    assert_eq!(read(prefixes(MAX_PREFIXES).as_bytes()).unwrap().prefix_count(), MAX_PREFIXES);
    let complaint_of_prefixes = complaint(prefixes(MAX_PREFIXES + 1));
    assert!(
        complaint_of_prefixes.starts_with("rule 2 (b): cidrs: more than 65536 prefixes"),
        "{complaint_of_prefixes}"
    );

    let lists = |count: usize| {
        let rule = |n: usize| format!(r#"{{"name":"{n}","cidrs":["::1"],"action":"drop","interfaces":["eth{n}"]}}"#);
        with_rules(&(0..count).map(rule).collect::<Vec<_>>().join(","))
    };
    assert!(read(lists(MAX_INTERFACE_LISTS).as_bytes()).is_ok());
    let found = complaint(lists(MAX_INTERFACE_LISTS + 1));
    assert_eq!(found, "rule 17 (16): interfaces: more than 16 different lists of interfaces in a bundle");
}

#[test]
fn a_rule_without_conditions_has_none() {
    let bundle = read(with_rules(r#"{"name":"x","cidrs":["::1"],"action":"drop"}"#).as_bytes()).unwrap();
    assert_eq!(bundle.rules[0].conditions, None);
    assert!(Conditions::default().interfaces.is_empty());
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(
        text in r#"([{}\[\],:"0-9. \\]|"(version|scope|gateway|default|rules|name|cidrs|action|limit|pps|ports)":|"(allow|drop|tcp|::1)"|null){0,60}"#,
    ) {
        if let Err(refused) = read(text.as_bytes()) {
            prop_assert!(!refused.to_string().is_empty());
        }
        if let Err(refused) = read(with_rules(&text).as_bytes()) {
            prop_assert!(refused.to_string().lines().count() == 1);
        }
    }
}
