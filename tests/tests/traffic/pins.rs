//! Links that outlive their daemon, and the one that comes after it.

use std::{collections::BTreeMap, path::Path, time::Duration};

use aya::programs::{
    SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
};
use serde_json::Value;
use tidegate_tests::{
    Daemon, DaemonBuilder, Gateway, Mounts, Netns, eventually,
    net::{UdpSender, UdpSink},
    requires,
};

use crate::needs;

const FOLDER: &str = "/run/tidegate-bpf";

/// Pins by name, each with the id of its link and that of its program.
fn pins(mounts: &Mounts) -> BTreeMap<String, (u32, u32)> {
    mounts.enter(|| {
        let entries = std::fs::read_dir(FOLDER).expect("the BPF file system is mounted");
        entries
            .filter_map(|entry| {
                let entry = entry.unwrap();
                // A daemon may have removed it meanwhile.
                let link = FdLink::from(PinnedLink::from_pin(entry.path()).ok()?);
                let info = link.info().expect("what the kernel knows of it");
                Some((entry.file_name().into_string().unwrap(), (info.id(), info.program_id())))
            })
            .collect()
    })
}

/// Ids of the programs on an interface's hook, by TCX.
fn programs(namespace: &Netns, interface: &str, direction: TcAttachType) -> Vec<u32> {
    let (_revision, programs) = namespace.enter(|| SchedClassifier::query_tcx(interface, direction)).unwrap();
    programs.iter().map(aya::programs::ProgramInfo::id).collect()
}

fn watches(daemon: &Daemon, interfaces: usize) -> Value {
    eventually(Duration::from_secs(10), "the interfaces are watched", || {
        let traffic = daemon.status()["traffic"].clone();
        if traffic["interfaces"].as_array().map_or(0, Vec::len) == interfaces {
            Ok(traffic)
        } else {
            Err(format!("{traffic:#}"))
        }
    })
}

fn builder(net: &Gateway, mounts: &Mounts, interfaces: &str, attach: &str) -> DaemonBuilder {
    let config = format!("[traffic]\ninterfaces = [\"{interfaces}\"]\nattach = \"{attach}\"\nexport_interval = \"1s\"");
    Daemon::builder().inside(&net.gateway).mounts(mounts).config(&config)
}

/// A gateway, its mounts, and whether this machine has what it takes.
fn stage() -> Result<(Gateway, Mounts), String> {
    needs()?;
    let mounts = Mounts::with_bpffs()?;
    let net = Gateway::new();
    match net.gateway.enter(|| SchedClassifier::query_tcx("eth0", TcAttachType::Ingress)) {
        Ok(_) => Ok((net, mounts)),
        Err(error) => Err(format!("needs TCX (Linux 6.6): {error}")),
    }
}

#[test]
fn a_killed_daemons_links_run_on_and_the_next_one_takes_them_over() {
    let (net, mounts) = match stage() {
        Ok(stage) => stage,
        Err(why) => tidegate_tests::skip!("{why}"),
    };
    let mut daemon = builder(&net, &mounts, "eth*", "tcx").start();
    let traffic = watches(&daemon, 2);
    assert_eq!(traffic["not_pinned"], Value::Null);
    let first = pins(&mounts);
    assert_eq!(first.len(), 4, "{first:?}");
    for round in 0..3 {
        let before = pins(&mounts);
        daemon.kill();
        assert_eq!(pins(&mounts), before, "links and programs outlive their daemon");
        daemon.start_again();
        watches(&daemon, 2);
        let now = pins(&mounts);
        for (name, (link, program)) in &now {
            let (first_link, _) = first[name];
            let (_, program_before) = before[name];
            assert_eq!(*link, first_link, "round {round}: {name} is the same link");
            assert_ne!(*program, program_before, "round {round}: {name} has the new daemon's program");
        }
        for interface in ["eth0", "eth1"] {
            for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
                let attached = programs(&net.gateway, interface, direction);
                assert_eq!(attached.len(), 1, "round {round}: one program on {interface} {direction:?}");
                assert!(now.values().any(|(_, program)| *program == attached[0]), "{now:?} {attached:?}");
            }
        }
    }
    assert!(daemon.log().iter().any(|line| line.contains("taking over the link")), "{:?}", daemon.log());
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut sender = UdpSender::connect(&net.left.host, sink.address());
    let counted = |daemon: &Daemon| daemon.status()["traffic"]["interfaces"][0]["ingress"]["packets"].as_u64().unwrap();
    let before = counted(&daemon);
    for _ in 0..100 {
        sender.send(b"x");
    }
    eventually(Duration::from_secs(10), "each packet is counted, once", || {
        let now = counted(&daemon) - before;
        // ARP and neighbour discovery of the moment are a handful, a second program would be a hundred.
        if (100..150).contains(&now) { Ok(()) } else { Err(format!("{now} of 100")) }
    });
    let (status, _took) = daemon.stop(Duration::from_secs(5));
    assert!(status.success(), "{status}");
    assert_eq!(pins(&mounts), BTreeMap::new(), "an orderly stop leaves no pin");
    for interface in ["eth0", "eth1"] {
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            assert_eq!(programs(&net.gateway, interface, direction), [0; 0], "{interface} {direction:?}");
        }
    }
}

/// What the next daemon watches less, or in another way, and what belongs to an interface that is gone.
#[test]
fn pins_that_nobody_takes_over_are_removed() {
    let (net, mounts) = match stage() {
        Ok(stage) => stage,
        Err(why) => tidegate_tests::skip!("{why}"),
    };
    let mut daemon = builder(&net, &mounts, "eth*", "tcx").start();
    watches(&daemon, 2);
    daemon.kill();
    let gone = net.gateway.ifindex("eth1");
    net.gateway.run("ip link del eth1");
    let mut daemon = builder(&net, &mounts, "eth*", "tcx").start();
    watches(&daemon, 1);
    let left = pins(&mounts);
    assert!(left.len() == 2 && !left.keys().any(|name| name.contains(&format!("-{gone}-"))), "{left:?}");
    daemon.kill();

    let mut daemon = builder(&net, &mounts, "none*", "tcx").start();
    eventually(Duration::from_secs(10), "the pins are removed", || pins(&mounts).is_empty());
    assert_eq!(programs(&net.gateway, "eth0", TcAttachType::Ingress), [0; 0]);
    daemon.kill();

    let mut daemon = builder(&net, &mounts, "eth*", "tcx").start();
    watches(&daemon, 1);
    daemon.kill();
    let daemon = builder(&net, &mounts, "eth*", "netlink").start();
    watches(&daemon, 1);
    eventually(Duration::from_secs(10), "filters stand in the links' place", || pins(&mounts).is_empty());
    assert_eq!(programs(&net.gateway, "eth0", TcAttachType::Ingress), [0; 0]);
    drop(daemon);
}

/// Interfaces of two namespaces have the same indices; their daemons may share a BPF file system.
#[test]
fn pins_of_another_network_namespace_are_left_alone() {
    let (net, mounts) = match stage() {
        Ok(stage) => stage,
        Err(why) => tidegate_tests::skip!("{why}"),
    };
    let mut daemon = builder(&net, &mounts, "eth*", "tcx").start();
    watches(&daemon, 2);
    daemon.kill();
    let before = pins(&mounts);
    let elsewhere = Gateway::new();
    let other = builder(&elsewhere, &mounts, "eth*", "tcx").start();
    watches(&other, 2);
    drop(other);
    let now = pins(&mounts);
    assert_eq!(now.len(), 8, "{now:?}");
    for (name, link) in &before {
        assert_eq!(now[name], *link);
    }
    // Once a namespace is gone, so are its interfaces: whoever comes next clears up.
    drop(elsewhere);
    eventually(Duration::from_secs(20), "the namespace's links are attached to nothing, and removed", || {
        let mut daemon = builder(&net, &mounts, "eth*", "tcx").start();
        watches(&daemon, 2);
        daemon.kill();
        let left = pins(&mounts);
        if left.len() == 4 { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn without_a_bpf_file_system_links_end_with_the_daemon_and_it_says_so() {
    requires!(needs());
    let net = Gateway::new();
    let mounts = match Mounts::new(|| Ok(())) {
        Ok(mounts) => mounts,
        Err(why) => tidegate_tests::skip!("{why}"),
    };
    if Path::new(FOLDER).exists() {
        tidegate_tests::skip!("{FOLDER} is there");
    }
    let mut daemon = builder(&net, &mounts, "eth*", "tcx").start();
    let traffic = watches(&daemon, 2);
    assert!(traffic["not_pinned"].as_str().is_some_and(|why| why.contains(FOLDER)), "{traffic:#}");
    assert_eq!(traffic["unavailable"], serde_json::json!([]), "that is no problem");
    daemon.kill();
    assert_eq!(programs(&net.gateway, "eth0", TcAttachType::Ingress), [0; 0]);
}
