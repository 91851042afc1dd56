//! The whole daemon: killed, and without privileges.

use std::time::Duration;

use serde_json::Value;
use tidegate_tests::{
    Daemon, Gateway, Netns, eventually,
    net::{UdpSender, UdpSink},
    requires,
};

use crate::needs;

/// Our filters of both directions on an interface.
fn filters(namespace: &Netns, interface: &str) -> usize {
    let shown = ["ingress", "egress"]
        .map(|direction| namespace.run(&format!("tc filter show dev {interface} {direction}")))
        .concat();
    shown.lines().filter(|line| line.contains("tidegate_")).count()
}

fn watched(status: &Value) -> usize {
    status["traffic"]["interfaces"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_killed_daemon_leaves_filters_that_the_next_one_takes_over() {
    requires!(needs());
    let net = Gateway::new();
    let config = |attach: &str| {
        format!("[traffic]\ninterfaces = [\"eth*\"]\nattach = \"{attach}\"\nsample_rate = 1\nexport_interval = \"1s\"")
    };
    let mut daemon = Daemon::builder().inside(&net.gateway).config(&config("netlink")).start();
    for round in 0..3 {
        eventually(Duration::from_secs(10), "both interfaces are watched", || {
            let status = daemon.status();
            if watched(&status) == 2 { Ok(()) } else { Err(format!("{:#}", status["traffic"])) }
        });
        for interface in ["eth0", "eth1"] {
            assert_eq!(filters(&net.gateway, interface), 2, "round {round}: one filter a direction on {interface}");
        }
        daemon.kill();
        assert_eq!(filters(&net.gateway, "eth0"), 2, "a filter outlives its daemon");
        daemon.start_again();
    }
    eventually(Duration::from_secs(10), "both filters are taken over", || watched(&daemon.status()) == 2);
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut sender = UdpSender::connect(&net.left.host, sink.address());
    for _ in 0..10 {
        sender.send(b"x");
    }
    eventually(Duration::from_secs(10), "the filter that was taken over counts for the new daemon", || {
        let status = daemon.status();
        let packets = status["traffic"]["interfaces"][0]["ingress"]["packets"].as_u64().unwrap_or(0);
        if packets >= 10 { Ok(()) } else { Err(format!("{:#}", status["traffic"])) }
    });
    assert!(daemon.log().iter().any(|line| line.contains("taking over")), "{:?}", daemon.log());
    daemon.kill();

    // Another one, which attaches by links or watches less, removes what it does not take over.
    let other = Daemon::builder().inside(&net.gateway).config(&config("tcx")).start();
    eventually(Duration::from_secs(10), "both interfaces are watched", || watched(&other.status()) == 2);
    for interface in ["eth0", "eth1"] {
        assert_eq!(filters(&net.gateway, interface), 0, "{interface}");
    }
}

#[test]
fn a_stopped_daemon_leaves_no_filter() {
    requires!(needs());
    let net = Gateway::new();
    let config = "[traffic]\ninterfaces = [\"eth*\"]\nattach = \"netlink\"";
    let mut daemon = Daemon::builder().inside(&net.gateway).config(config).start();
    eventually(Duration::from_secs(10), "both interfaces are watched", || watched(&daemon.status()) == 2);
    let (status, _took) = daemon.stop(Duration::from_secs(5));
    assert!(status.success(), "{status}");
    assert_eq!(filters(&net.gateway, "eth0") + filters(&net.gateway, "eth1"), 0);
}

#[test]
fn without_privileges_it_says_what_is_missing_and_runs_on() {
    requires!(needs());
    let net = Gateway::new();
    let daemon = Daemon::builder()
        .inside(&net.gateway)
        .unprivileged()
        .config("[traffic]\ninterfaces = [\"eth*\"]\nexport_interval = \"1s\"")
        .start();
    eventually(Duration::from_secs(10), "the status says what is missing", || {
        let traffic = daemon.status()["traffic"].clone();
        let missing = &traffic["unavailable"][0];
        let told = missing["fix"].as_str().is_some_and(|fix| fix.contains("CAP_BPF"))
            && traffic["not_watched_count"] == 2
            && watched(&daemon.status()) == 0;
        if told { Ok(()) } else { Err(format!("{traffic:#}")) }
    });
    // Interfaces are followed all the same.
    net.gateway.run("ip link del eth1");
    eventually(Duration::from_secs(10), "the change was seen", || daemon.status()["traffic"]["not_watched_count"] == 1);
}
