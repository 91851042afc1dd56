//! What is judged over MQTT: keys and their rotation, `ttl`, `not_after`.

use serde_json::json;
use tidegate_tests::{
    need,
    policy::{Key, Policy},
    requires,
};

use crate::managed::{Managed, block_right};

/// A policy for this gateway.
fn ours(version: u64) -> Policy {
    block_right(version).gateway("gw-test")
}

#[test]
fn a_key_is_rotated_by_a_confirmed_policy_and_the_old_one_counts_no_more() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = Managed::start();
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
    let mut gateway = Managed::start();
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
