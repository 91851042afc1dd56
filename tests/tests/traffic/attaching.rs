//! Programs stand beside those of others, and leave when they should.

use std::time::Duration;

use tidegate::config::Attach;
use tidegate_abi::{class, row};
use tidegate_tests::{
    Gateway, eventually,
    net::{UdpSender, UdpSink},
    requires,
};

use crate::{Watcher, needs};

/// Three watchers of the same packets: by a link, by a link behind that, and by a filter behind both. Each of
/// ours returns `TC_ACT_UNSPEC`; with `TC_ACT_OK` the first would keep the packets from the others.
#[test]
fn other_tc_programs_see_every_packet() {
    requires!(needs());
    let net = Gateway::new();
    let watchers =
        [Attach::Tcx, Attach::Tcx, Attach::Netlink].map(|attach| Watcher::start(&net.gateway, &["eth0"], attach, 1));
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut sender = UdpSender::connect(&net.left.host, sink.address());
    for _ in 0..100 {
        sender.send(b"x");
    }
    for watcher in &watchers {
        eventually(Duration::from_secs(5), "every watcher saw every packet", || {
            let seen = watcher.count("eth0", row::INGRESS, class::IPV4_UDP).packets;
            if seen == 100 { Ok(()) } else { Err(format!("{seen} of 100")) }
        });
    }
}

#[test]
fn filters_of_others_see_every_packet_and_stay_when_ours_leave() {
    requires!(needs());
    for attach in [Attach::Tcx, Attach::Netlink] {
        let net = Gateway::new();
        net.gateway.run("tc qdisc add dev eth0 clsact");
        if let Err(error) = net.gateway.try_run("tc filter add dev eth0 ingress pref 10 handle 7 matchall action ok") {
            tidegate_tests::skip!("no matchall filter here: {error}");
        }
        let watcher = Watcher::start(&net.gateway, &["eth0"], attach, 1);
        let sink = UdpSink::open(&net.right.host, net.right.address(false));
        let mut sender = UdpSender::connect(&net.left.host, sink.address());
        for _ in 0..100 {
            sender.send(b"x");
        }
        eventually(Duration::from_secs(5), "ours sees them", || {
            watcher.count("eth0", row::INGRESS, class::IPV4_UDP).packets == 100
        });
        drop(watcher);
        let left = net.gateway.run("tc -s filter show dev eth0 ingress");
        assert!(left.contains("matchall") && !left.contains("tidegate"), "{attach:?}: {left}");
        let seen: u64 = left
            .split("Sent ")
            .nth(1)
            .and_then(|text| text.split(" bytes ").nth(1))
            .and_then(|text| text.split(' ').next())
            .and_then(|packets| packets.parse().ok())
            .unwrap_or_else(|| panic!("no statistics in {left}"));
        assert!(seen >= 100, "{attach:?}: the other filter saw {seen} packets: {left}");
    }
}

#[test]
fn nothing_is_attached_once_the_watcher_has_stopped() {
    requires!(needs());
    for attach in [Attach::Tcx, Attach::Netlink] {
        let net = Gateway::new();
        let watcher = Watcher::start(&net.gateway, &["eth*"], attach, 2);
        drop(watcher);
        for interface in ["eth0", "eth1"] {
            for direction in ["ingress", "egress"] {
                let filters = net.gateway.run(&format!("tc filter show dev {interface} {direction}"));
                assert_eq!(filters, "", "{attach:?}");
            }
            let link = net.gateway.run(&format!("ip -details link show dev {interface}"));
            assert!(!link.contains("tcx"), "{link}");
        }
    }
}
