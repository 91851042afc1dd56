//! Interfaces that appear while a policy is in force.

use serde_json::json;
use tidegate_tests::{
    Netns, eventually, need,
    policy::{Key, Policy},
    requires,
};

use crate::managed::{Managed, SOON};

/// Somebody whom the policy drops on each interface, and somebody whom it drops on `eth9*` only.
const EVERYWHERE: &str = "192.0.2.7";
const THERE: &str = "198.51.100.7";

/// Gives both addresses to the host behind an interface of the gateway.
fn give(gateway: &Netns, interface: &str, host: &Netns) {
    for address in [EVERYWHERE, THERE] {
        host.run(&format!("ip addr replace {address}/32 dev eth0"));
        gateway.run(&format!("ip route replace {address}/32 dev {interface}"));
    }
}

/// Plugs in `eth9`, with a host behind it, and waits until the daemon says that it is attached. Returns its index, too.
#[track_caller]
fn plug_in(gateway: &Managed) -> (Netns, u32) {
    let (inside, late) = (&gateway.net.gateway, Netns::new("late"));
    inside.join("eth9", &late, "eth0");
    inside.run("ip addr add 10.77.9.1/24 dev eth9");
    late.run("ip addr add 10.77.9.2/24 dev eth0");
    late.run("ip route add default via 10.77.9.1");
    let ifindex = inside.ifindex("eth9");
    watches(gateway, Some(ifindex));
    give(inside, "eth9", &late);
    (late, ifindex)
}

/// Waits until the daemon watches an `eth9` of this index, or none.
#[track_caller]
fn watches(gateway: &Managed, ifindex: Option<u32>) {
    eventually(SOON, &format!("eth9 is watched by the index {ifindex:?}"), || {
        let interfaces = gateway.daemon.status()["traffic"]["interfaces"].clone();
        let late = interfaces.as_array().into_iter().flatten().find(|it| it["interface"] == "eth9");
        let found = late.map(|it| it["ifindex"].clone());
        if found == ifindex.map(|ifindex| json!(ifindex)) { Ok(()) } else { Err(interfaces.to_string()) }
    });
}

#[test]
fn what_comes_by_a_new_interface_is_judged_once_the_daemon_says_that_it_is_attached() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    for attach in ["tcx", "netlink"] {
        let mut gateway =
            Managed::of("gw-test", &[Key::numbered(1)], |daemon| daemon.env("TIDEGATE__TRAFFIC__ATTACH", attach));
        let (inside, right) = (gateway.net.gateway.clone(), gateway.net.right.host.clone());
        give(&inside, "eth1", &right);
        assert!(gateway.passes_from(EVERYWHERE) && gateway.passes_from(THERE), "there is no policy");
        let there = json!({ "name": "there", "cidrs": [THERE], "action": "drop", "interfaces": ["eth9*"] });
        gateway.desire(Policy::new(1).drop("everywhere", &[EVERYWHERE]).rule(there));
        gateway.stands(1, "confirmed");

        let mut indices = Vec::new();
        for _ in 0..3 {
            let (late, ifindex) = plug_in(&gateway);
            let passes = ["10.77.9.2", EVERYWHERE, THERE].map(|address| gateway.passes_between(&late, address));
            assert_eq!(passes, [true, false, false], "{attach}: both rules hold on eth9, and drop nobody else");
            give(&inside, "eth1", &right);
            let passes = [EVERYWHERE, THERE].map(|address| gateway.passes_from(address));
            assert_eq!(passes, [false, true], "{attach}: eth1 is not eth9");
            inside.run("ip link del eth9");
            watches(&gateway, None);
            assert!(!indices.contains(&ifindex), "{ifindex} is an interface of its own, not one of {indices:?}");
            indices.push(ifindex);
        }
        gateway.assert_all_valid();
    }
}
