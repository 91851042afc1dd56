//! A policy that takes the broker away is undone, whatever happens meanwhile; one that does not stays, whatever happens.

use tidegate_tests::{need, requires};

use crate::managed::{Managed, block_broker, block_right};

#[test]
fn a_policy_is_enforced_confirmed_and_enforced_again_at_the_next_start() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = Managed::start("");
    assert!(gateway.passes());
    gateway.desire(block_right(1));
    let report = gateway.stands(1, "confirmed");
    assert_eq!(report["enforced"]["version"], 1, "{report}");
    assert!(!gateway.passes());

    gateway.daemon.kill();
    gateway.daemon.start_again();
    gateway.daemon.wait_for_log("ready", crate::managed::SOON);
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
    let mut gateway = Managed::start("");
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
    let mut gateway = Managed::start("");
    gateway.desire(block_right(1));
    gateway.stands(1, "confirmed");
    gateway.desire(block_broker(2));
    tidegate_tests::eventually(crate::managed::SOON, "the lock-out is in force", || {
        let enforced = gateway.daemon.status()["bundles"]["enforced"]["version"].clone();
        if enforced == 2 { Ok(()) } else { Err(enforced.to_string()) }
    });
    gateway.daemon.kill();
    gateway.daemon.start_again();
    let enforced = gateway.daemon.status()["bundles"]["enforced"].clone();
    assert_eq!(enforced["version"], 1, "{enforced}");
    // Until then the programs of the daemon before judge, by the policy that they had.
    gateway.daemon.wait_for_log("ready", crate::managed::SOON);
    assert!(!gateway.passes());
    gateway.connected();
    gateway.stands(2, "rolled-back");
    gateway.assert_all_valid();
}
