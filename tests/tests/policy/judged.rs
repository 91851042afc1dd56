//! What is judged over MQTT: keys and their rotation, scope, `ttl`, `not_after`; and what is refused changes nothing.

use serde_json::{Value, json};
use tidegate_tests::{
    need,
    policy::{Key, Policy, sign},
    requires,
};

use crate::managed::{Managed, block_right};

/// A policy for this gateway.
fn ours(version: u64) -> Policy {
    block_right(version).gateway("gw-test")
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason_and_changes_nothing() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = Managed::start("");
    gateway.desire(block_right(5));
    let before = gateway.stands(5, "confirmed")["enforced"].clone();
    let (key, stranger) = (Key::numbered(1), Key::numbered(2));
    let good = String::from_utf8(ours(6).signed_by(&key)).unwrap();
    let mut twice: Value = serde_json::from_str(&String::from_utf8(ours(7).payload()).unwrap()).unwrap();
    let rule = twice["rules"][0].clone();
    twice["rules"].as_array_mut().unwrap().push(rule);
    let crowd = (0..65).fold(ours(7), |policy, n| {
        policy.rule(json!({ "name": format!("r{n}"), "cidrs": ["0.0.0.0/0"], "ports": ["443"], "protocol": "tcp", "action": "drop" }))
    });
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("no signed envelope", b"{}".to_vec()),
        ("no signed envelope", b"[[[[".to_vec()),
        ("no signed envelope", "\u{fe}\u{ff}".as_bytes().to_vec()),
        ("unknown key", ours(6).signed_by(&stranger)),
        ("payloadType", good.replace("tidegate.policy", "tidegate.pilicy").into_bytes()),
        ("wrong signature", good.replacen("payload\":\"ey", "payload\":\"fy", 1).into_bytes()),
        ("gateway gw-8", block_right(9).gateway("gw-8").signed_by(&key)),
        ("stale", ours(4).signed_by(&key)),
        ("conflict", ours(5).with("default", json!("drop")).signed_by(&key)),
        ("expired", ours(6).with("not_after", json!("2020-01-01T00:00:00Z")).signed_by(&key)),
        ("this name", sign(&twice.to_string().into_bytes(), &key)),
        ("found a list", sign(&[b'['; 100_000], &key)),
        ("face", crowd.signed_by(&key)),
        ("too-large", vec![b' '; 6 << 20]),
    ];
    for (reason, envelope) in hostile {
        gateway.publish("gw-test", &envelope);
        let report = gateway.reported(reason, |report| {
            report["state"] == "refused" && report["reason"].as_str().is_some_and(|found| found.contains(reason))
        });
        assert_eq!(report["enforced"], before, "{report}");
        assert_eq!(report["confirmed"]["version"], 5, "{report}");
    }
    assert!(!gateway.passes());
    gateway.desire(block_right(10));
    gateway.stands(10, "confirmed");
    gateway.assert_all_valid();
}

#[test]
fn a_key_is_rotated_by_a_confirmed_policy_and_the_old_one_counts_no_more() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = Managed::start("");
    let (old, new) = (Key::numbered(1), Key::numbered(2));
    gateway.publish("gw-test", &ours(1).signed_by(&new));
    gateway.reported("it is unknown", |report| report["state"] == "refused");
    let keys = json!({ "add": [new.literal()], "remove": [old.id()] });
    gateway.desire(block_right(1).with("keys", keys));
    gateway.stands(1, "confirmed");
    gateway.reported("the new key is trusted, alone", |report| report["keys"] == json!([new.id()]));
    gateway.publish("gw-test", &ours(2).signed_by(&new));
    gateway.stands(2, "confirmed");
    gateway.daemon.kill();
    gateway.daemon.start_again();
    gateway.connected();
    gateway.publish("gw-test", &ours(3).signed_by(&old));
    gateway.reported("the old key is unknown", |report| {
        report["reason"].as_str().is_some_and(|reason| reason.starts_with("unknown key"))
    });
    assert!(!gateway.events("keys").is_empty());
    gateway.assert_all_valid();
}

#[test]
fn time_ends_rules_and_policies() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = Managed::start("");
    let rule = json!({ "name": "right", "cidrs": ["10.77.2.0/24"], "action": "drop", "ttl": "4s" });
    gateway.desire(Policy::new(1).rule(rule));
    gateway.reported("the rule's time is over", |report| report["expired_rules"] == json!(["right"]));
    assert!(gateway.passes());
    let soon = tidegate::record::Clock::of_this_boot().now().ts_ms + 8_000;
    gateway.desire(block_right(2).with("not_after", json!(tidegate_values::calendar::format(soon))));
    gateway.stands(2, "confirmed");
    assert!(!gateway.passes());
    gateway
        .reported("the policy's time is over", |report| report["state"] == "expired" && report["enforced"].is_null());
    assert!(gateway.passes());
    assert_eq!((gateway.events("rule-expired").len(), gateway.events("expired").len()), (1, 1));
    gateway.assert_all_valid();
}
