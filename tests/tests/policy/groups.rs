//! Policies of groups: which one of them decides, and what becomes of the others.

use serde_json::Value;
use tidegate_tests::{
    need,
    policy::{Key, Policy},
    requires,
};

use crate::managed::{Managed, SOON};

/// Two addresses of the right, of which each policy here drops one.
const FIRST: &str = "10.77.2.2";
const SECOND: &str = "10.77.2.3";

fn block(version: u64, address: &str) -> Policy {
    Policy::new(version).drop("one", &[address])
}

/// A gateway of the groups plant and north, in this order.
fn member() -> Managed {
    let groups = "plant,north";
    let gateway = Managed::of("gw-test", &[Key::numbered(1)], |daemon| daemon.env("TIDEGATE__GATEWAY__GROUPS", groups));
    gateway.net.right.host.run(&format!("ip addr add {SECOND}/24 dev eth0"));
    gateway
}

/// Waits until a group's policy stands so, and returns what is reported of it.
#[track_caller]
fn stands(gateway: &Managed, group: &str, version: u64, state: &str) -> Value {
    let of = |report: &Value| {
        let groups = report["groups"].as_array().into_iter().flatten();
        groups.clone().find(|it| it["group"] == group).cloned().unwrap_or_default()
    };
    let report = gateway.reported(&format!("version {version} of {group} is {state}"), |report| {
        of(report)["version"] == version && of(report)["state"] == state
    });
    of(&report)
}

/// Waits until packets are to be judged by the policy of this source, and checks that they are.
#[track_caller]
fn enforced(gateway: &Managed, source: &str, version: u64, dropped: &str) {
    gateway.reported(&format!("version {version} of {source} is enforced"), |report| {
        report["enforced"]["source"] == source && report["enforced"]["version"] == version
    });
    let passes = [FIRST, SECOND].map(|address| gateway.passes_from(address));
    assert_eq!(passes, [FIRST != dropped, SECOND != dropped], "version {version} of {source} drops {dropped} alone");
}

#[test]
fn a_device_s_own_policy_replaces_that_of_its_group_whole_and_withdrawn_gives_way_to_it_again() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = member();
    gateway.desire_of_group("plant", block(1, FIRST));
    stands(&gateway, "plant", 1, "confirmed");
    enforced(&gateway, "@plant", 1, FIRST);

    gateway.desire(block(1, SECOND));
    gateway.stands(1, "confirmed");
    enforced(&gateway, "device", 1, SECOND);
    let plant = stands(&gateway, "plant", 1, "pending");
    assert_eq!(plant["reason"], "replaced by the policy of device", "{plant}");

    gateway.publish("gw-test", b"");
    gateway.reported("the withdrawal is confirmed, too", |report| {
        report["state"] == "confirmed" && report["version"].is_null()
    });
    stands(&gateway, "plant", 1, "confirmed");
    enforced(&gateway, "@plant", 1, FIRST);
    gateway.daemon.kill();
    gateway.daemon.start_again();
    gateway.daemon.wait_for_log("ready", SOON);
    assert!(!gateway.passes_from(FIRST), "the next process enforces it before anything else");
    gateway.connected();
    stands(&gateway, "plant", 1, "confirmed");
    enforced(&gateway, "@plant", 1, FIRST);
    gateway.assert_all_valid();
}

#[test]
fn of_several_groups_the_last_one_that_has_a_policy_decides() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = member();
    gateway.desire_of_group("north", block(7, SECOND));
    stands(&gateway, "north", 7, "confirmed");
    enforced(&gateway, "@north", 7, SECOND);
    // It comes later, with a higher version: in the sequence of another group that means nothing.
    gateway.desire_of_group("plant", block(9, FIRST));
    let plant = stands(&gateway, "plant", 9, "pending");
    assert_eq!(plant["reason"], "replaced by the policy of @north", "{plant}");
    enforced(&gateway, "@north", 7, SECOND);

    gateway.publish("@north", b"");
    stands(&gateway, "plant", 9, "confirmed");
    enforced(&gateway, "@plant", 9, FIRST);
    gateway.desire_of_group("north", block(8, SECOND));
    stands(&gateway, "north", 8, "confirmed");
    enforced(&gateway, "@north", 8, SECOND);
    gateway.assert_all_valid();
}

#[test]
fn a_policy_for_one_group_on_the_topic_of_another_is_refused() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = member();
    gateway.desire_of_group("north", block(1, SECOND));
    stands(&gateway, "north", 1, "confirmed");
    let envelope = block(2, FIRST).group("plant").signed_by(&gateway.key);
    gateway.publish("@north", &envelope);
    let north = stands(&gateway, "north", 2, "refused");
    assert_eq!(north["reason"], "scope: it is for group plant, and was published to the topic of @north", "{north}");
    enforced(&gateway, "@north", 1, SECOND);
    // It took no place in the sequence of north, and is taken where it belongs.
    gateway.desire_of_group("north", block(2, SECOND));
    stands(&gateway, "north", 2, "confirmed");
    gateway.publish("@plant", &envelope);
    stands(&gateway, "plant", 2, "pending");
    gateway.publish("@north", b"");
    stands(&gateway, "plant", 2, "confirmed");
    enforced(&gateway, "@plant", 2, FIRST);
    gateway.assert_all_valid();
}
