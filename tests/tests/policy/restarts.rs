//! A policy outlives the daemon that enforced it, and the next one takes it over without a packet in between.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use tidegate::{
    config::Attach,
    kernel::{OnStop, Options, Watch},
};
use tidegate_tests::{
    Gateway, Mounts,
    net::{UdpSender, UdpSink},
    requires,
};
use tidegate_values::Patterns;

use crate::{
    Guard,
    guard::{everything, passes},
    needs,
};

/// Filters, since those need no BPF file system.
#[test]
fn programs_are_not_replaced_before_it_is_said_by_which_policy() {
    requires!(needs());
    let net = Gateway::new();
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut sender = UdpSender::connect(&net.left.host, sink.address());
    let guard = Guard::with(&net.gateway, Attach::Netlink, Some(everything(1, "drop", false)));
    assert!(!passes(&mut sender, &sink));
    guard.stop(OnStop::Keep);
    assert!(!passes(&mut sender, &sink), "the policy stays in force without a daemon");

    let guard = Guard::start(&net.gateway, Options::default());
    let kernel = guard.kernel.clone();
    let watching = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let watch = Watch { patterns: Patterns::parse(&["eth*"]).unwrap(), attach: Attach::Netlink };
        runtime.block_on(kernel.watch(watch)).unwrap();
    });
    thread::sleep(Duration::from_millis(500));
    assert!(!watching.is_finished(), "what is to be watched waits for the policy");
    assert!(!passes(&mut sender, &sink), "the daemon before still guards");
    guard.enforce(None);
    watching.join().unwrap();
    assert!(passes(&mut sender, &sink), "the new one has no policy");
    guard.stop(OnStop::Keep);
    assert_eq!(net.gateway.run("tc filter show dev eth0 ingress"), "", "without a policy there is nothing to keep");
}

#[test]
fn a_daemon_that_is_to_open_takes_the_policy_along() {
    requires!(needs());
    let net = Gateway::new();
    let sink = UdpSink::open(&net.right.host, net.right.address(false));
    let mut sender = UdpSender::connect(&net.left.host, sink.address());
    for attach in [Attach::Tcx, Attach::Netlink] {
        let guard = Guard::with(&net.gateway, attach, Some(everything(1, "drop", true)));
        assert!(!passes(&mut sender, &sink));
        guard.stop(OnStop::Open);
        assert!(passes(&mut sender, &sink), "{attach:?}");
    }
}

/// Tells the scenario's process how to attach, and that it is the one that is killed.
const ATTACH: &str = "TIDEGATE_TEST_GUARD";
const FOLDER: &str = "/run/tidegate-bpf";

fn pinning() -> Options {
    Options { flow_capacity: None, pins: Some(PathBuf::from(FOLDER)) }
}

/// A process that guards until it is killed, or the scenario ends.
fn guarding(net: &Gateway, mounts: &Mounts, attach: &str) -> Child {
    let name = "restarts::no_packet_passes_while_daemons_are_killed_stopped_and_replaced";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ATTACH, attach);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = net.gateway.enter(|| mounts.enter(|| command.spawn())).unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with("guarding")), "it guards");
    child
}

fn attach_of(name: &str) -> Attach {
    if name == "tcx" { Attach::Tcx } else { Attach::Netlink }
}

#[test]
fn no_packet_passes_while_daemons_are_killed_stopped_and_replaced() {
    requires!(needs());
    if let Ok(attach) = std::env::var(ATTACH) {
        let guard = Guard::here(pinning());
        guard.enforce(Some(everything(1, "drop", false)));
        guard.watch(&["eth*"], attach_of(&attach));
        println!("guarding");
        let _ended = std::io::stdin().read(&mut [0]);
        return;
    }
    let mounts = match Mounts::with_bpffs() {
        Ok(mounts) => mounts,
        Err(why) => tidegate_tests::skip!("{why}"),
    };
    for attach in ["tcx", "netlink"] {
        let net = Gateway::new();
        let sink = UdpSink::open(&net.right.host, net.right.address(false));
        let mut sender = UdpSender::connect(&net.left.host, sink.address());
        let mut child = guarding(&net, &mounts, attach);
        let done = AtomicBool::new(false);
        let guard = thread::scope(|scope| {
            let sending = scope.spawn(|| {
                while !done.load(Relaxed) {
                    sender.send(b"x");
                    thread::sleep(Duration::from_micros(100));
                }
                sender.datagrams
            });
            for _ in 0..3 {
                child.kill().unwrap();
                child.wait().unwrap();
                thread::sleep(Duration::from_millis(100));
                child = guarding(&net, &mounts, attach);
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let start = || {
                let guard = mounts.enter(|| Guard::start(&net.gateway, pinning()));
                guard.enforce(Some(everything(2, "drop", true)));
                guard.watch(&["eth*"], attach_of(attach));
                guard
            };
            for _ in 0..3 {
                start().stop(OnStop::Keep);
                thread::sleep(Duration::from_millis(100));
            }
            let guard = start();
            done.store(true, Relaxed);
            let sent = sending.join().unwrap();
            assert_eq!(sink.received(), 0, "{attach}: of {sent}");
            assert!(sent > 1_000, "{sent}");
            guard
        });
        guard.enforce(None);
        assert!(passes(&mut sender, &sink), "{attach}: it is the policy that dropped them");
        guard.stop(OnStop::Keep);
        let left = mounts.enter(|| {
            let names = std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().starts_with("link-")).collect::<Vec<_>>()
        });
        assert_eq!(left, [""; 0], "{attach}: nothing is left where there is no policy");
    }
}
