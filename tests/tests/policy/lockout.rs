//! A policy that takes the broker away is undone, whatever happens meanwhile; one that does not stays, whatever happens.

use std::thread;

use serde_json::json;
use tidegate_tests::{
    eventually,
    mqtt::{Post, Publisher},
    need,
    policy::Policy,
    requires,
};

use crate::managed::{CONFIRM_WITHIN, Managed, SOON, block_broker, block_right};

#[test]
fn a_policy_is_enforced_confirmed_and_enforced_again_at_the_next_start() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = Managed::start();
    assert!(gateway.passes());
    gateway.desire(block_right(1));
    let report = gateway.stands(1, "confirmed");
    assert_eq!(report["enforced"]["version"], 1, "{report}");
    assert!(!gateway.passes());

    gateway.daemon.kill();
    gateway.daemon.start_again();
    gateway.daemon.wait_for_log("ready", SOON);
    assert!(!gateway.passes(), "it is in force when the daemon is ready");
    gateway.connected();
    gateway.reported("the policy is enforced in the next process", |report| {
        report["state"] == "confirmed" && report["enforced"]["version"] == 1
    });

    gateway.publish("gw-test", b"");
    gateway.reported("the policy is withdrawn", |report| {
        report["state"] == "confirmed" && report["version"].is_null() && report["enforced"].is_null()
    });
    assert!(gateway.passes());
    gateway.assert_all_valid();
}

#[test]
fn a_policy_that_drops_the_broker_is_rolled_back_and_the_one_before_enforced() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = Managed::start();
    gateway.desire(block_right(1));
    gateway.stands(1, "confirmed");
    gateway.desire(block_broker(2));
    let report = gateway.stands(2, "rolled-back");
    assert_eq!(report["confirmed"]["version"], 1, "{report}");
    assert!(!gateway.passes(), "the one before is in force");
    gateway.desire(block_right(3));
    gateway.stands(3, "confirmed");
    assert!(!gateway.events("rolled-back").is_empty());
    gateway.assert_all_valid();
}

#[test]
fn a_crash_in_the_middle_of_a_lock_out_ends_in_the_confirmed_policy() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = Managed::start();
    gateway.desire(block_right(1));
    gateway.stands(1, "confirmed");
    gateway.desire(block_broker(2));
    eventually(SOON, "the lock-out is in force", || {
        let enforced = gateway.daemon.status()["bundles"]["enforced"]["version"].clone();
        if enforced == 2 { Ok(()) } else { Err(enforced.to_string()) }
    });
    gateway.daemon.kill();
    gateway.daemon.start_again();
    let enforced = gateway.daemon.status()["bundles"]["enforced"].clone();
    assert_eq!(enforced["version"], 1, "{enforced}");
    // Until then the programs of the daemon before judge, by the policy that they had.
    gateway.daemon.wait_for_log("ready", SOON);
    assert!(!gateway.passes());
    gateway.connected();
    gateway.stands(2, "rolled-back");
    gateway.assert_all_valid();
}

/// A policy that was tried by itself would be tried as soon as the link is back, one `confirm_within` after the roll-back at the
/// earliest: twice that is long enough to see it.
#[test]
fn a_policy_whose_broker_is_away_in_its_trial_is_taken_again_on_request_only() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = Managed::start();
    gateway.desire(block_right(1));
    gateway.stands(1, "confirmed");
    gateway.desire(Policy::new(2));
    gateway.stands(2, "applied");
    gateway.broker.stop();
    assert!(gateway.passes());
    eventually(SOON, "it is rolled back, and the one before in force again", || {
        let bundles = gateway.daemon.status()["bundles"].clone();
        let undone = bundles["sources"][0]["state"] == "rolled-back" && bundles["enforced"]["version"] == 1;
        if undone { Ok(()) } else { Err(bundles.to_string()) }
    });
    assert!(!gateway.passes(), "the one before is in force");

    gateway.broker.start_again();
    gateway.connected();
    gateway.stands(2, "rolled-back");
    let before = gateway.reports().len();
    thread::sleep(2 * CONFIRM_WITHIN);
    let told: Vec<_> = gateway.reports().split_off(before);
    assert!(told.iter().all(|report| report["state"] == "rolled-back"), "it is tried again by itself: {told:#?}");
    let report = gateway.stands(2, "rolled-back");
    assert_eq!((&report["attempts"], &report["enforced"]["version"]), (&json!(1), &json!(1)), "{report}");
    assert!(!gateway.passes());
    assert_eq!(gateway.events("rolled-back").len(), 1);

    gateway.operator = Publisher::connect(&gateway.broker);
    gateway.operator.post(Post::new(gateway.daemon.topic("cmd/retry"), r#"{"subject":"policy"}"#));
    gateway.stands(2, "confirmed");
    assert!(gateway.passes());
    gateway.assert_all_valid();
}
