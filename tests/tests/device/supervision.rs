//! What systemd does when the daemon hangs, dies, cannot start, or is told to stop.

use std::{
    thread,
    time::{Duration, Instant},
};

use tidegate_tests::{
    Broker, Tap, eventually, requires,
    vm::{self, Machine},
};

use crate::gateway::{self, QUIET, SOON};

/// Hands over records numbered from 1, each by a `tidegate send` of its own, and writes the number of each that it
/// acknowledged into /root/acknowledged, until /root/enough is there.
const SEND_ONE_BY_ONE: &str = "
    n=1
    until [ -e /root/enough ]; do
        if echo \"{\\\"n\\\":$n}\" | tidegate send meter; then echo $n >>/root/acknowledged; fi
        n=$((n + 1))
    done";

#[test]
fn a_daemon_that_hangs_is_started_again_by_the_watchdog_and_loses_nothing() {
    requires!(vm::available());
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let machine = Machine::debian().with_tidegate().resume();
    machine.configure_port(tap.port(), "[host]\ninterval = \"1h\"\n");
    // A minute in the unit.
    machine.write("/etc/systemd/system/tidegate.service.d/test.conf", "[Service]\nWatchdogSec=9s");
    machine.run("systemctl daemon-reload && systemctl start tidegate").ok();
    let pins = |machine: &Machine| machine.run("ls -i /run/tidegate-bpf").ok();
    let (process, pinned) = (machine.unit("tidegate", "MainPID"), pins(&machine));
    assert_eq!(pinned.lines().count(), 2, "a link for each direction of eth0");

    let acknowledged = || machine.run("wc -l </root/acknowledged").ok().parse::<u64>().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| machine.run(SEND_ONE_BY_ONE).ok());
        machine.until(SOON, "[ \"$(wc -l </root/acknowledged)\" -ge 20 ]");
        machine.run(&format!("kill -STOP {process}")).ok();
        let frozen = Instant::now();
        eventually(SOON, "another process runs", || {
            let pid = machine.unit("tidegate", "MainPID");
            pid != process && pid != "0" && machine.unit("tidegate", "ActiveState") == "active"
        });
        println!("running again {:?} after it froze (WatchdogSec=9s, RestartSec=5s)", frozen.elapsed());
        let before = acknowledged();
        eventually(SOON, "records are acknowledged again", || acknowledged() >= before + 20);
        machine.run("touch /root/enough").ok();
    });
    assert_eq!(machine.unit("tidegate", "NRestarts"), "1");
    let journal = machine.run("journalctl -u tidegate --output cat").ok();
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    assert!(journal.contains("taking over the link"), "{journal}");
    assert_eq!(pins(&machine), pinned, "the same links, taken over");
    assert_eq!(gateway::programs(&machine, "eth0"), 2);

    let arrived = gateway::until_delivered(&tap, "ingest/meter", acknowledged());
    let acknowledged = machine.run("cat /root/acknowledged").ok();
    let missing: Vec<&str> = acknowledged.lines().filter(|n| !arrived.contains(&n.parse().unwrap())).collect();
    assert!(missing.is_empty(), "acknowledged, and never arrived: {missing:?}");
}

#[test]
fn a_daemon_that_dies_again_and_again_is_started_ever_less_often_and_a_wrong_configuration_is_left_alone() {
    requires!(vm::available());
    let machine = Machine::debian().with_tidegate().resume();
    // Nobody listens there.
    machine.configure_port(1, QUIET);
    machine.run("systemctl start tidegate").ok();
    machine.send("meter", 1, 10);
    let written = || machine.run("journalctl -u tidegate --output export | wc -c").ok().parse::<u64>().unwrap();
    let at_first = written();
    let mut waits = Vec::new();
    for restarts in 1..=3 {
        machine.run("kill -KILL $(systemctl show --value -p MainPID tidegate)").ok();
        let again =
            format!("[ $(systemctl show --value -p NRestarts tidegate) = {restarts} ] && systemctl is-active tidegate");
        machine.until(SOON, &again);
        let entered = |property: &str| machine.unit("tidegate", &format!("{property}TimestampMonotonic"));
        // From the end of one process to the start of the next.
        waits.push(gateway::seconds_between(&entered("InactiveEnter"), &entered("ExecMainStart")));
    }
    // RestartSec=5s, RestartSteps=5, RestartMaxDelaySec=2min; a busy host adds to each.
    assert!(waits.iter().zip([5.0, 9.0, 17.5]).all(|(wait, least)| *wait >= least), "{waits:?}");
    let bytes = (written() - at_first) / 3;
    println!("restarted after {waits:.1?} s; {bytes} bytes of journal for each");
    assert!(bytes < 32 * 1024, "{bytes} bytes of journal a restart");
    assert!(machine.status()["spool"]["pending_records"].as_u64() >= Some(10), "what was acknowledged is there");

    machine.write("/etc/tidegate/conf.d/zz.toml", "[spool]\nmax_size = \"1KiB\"");
    machine.run("systemctl restart tidegate; [ $? -ne 0 ]").ok();
    assert_eq!(machine.unit("tidegate", "ExecMainStatus"), "78");
    thread::sleep(Duration::from_secs(8));
    let after = ["ActiveState", "NRestarts"].map(|property| machine.unit("tidegate", property));
    assert_eq!(after, ["failed", "0"], "a wrong configuration does not mend itself");
    let told = machine.run("systemctl status tidegate; true").ok();
    assert!(told.contains("zz.toml:2: [spool] max_size"), "{told}");
}

#[test]
fn a_stop_takes_at_most_5_s_and_delivers_what_it_can() {
    requires!(vm::available());
    let mut broker = Broker::start();
    let tap = Tap::before(&broker);
    let machine = Machine::debian().with_tidegate().resume();
    machine.configure_port(tap.port(), QUIET);
    machine.run("systemctl start tidegate").ok();
    machine.send("meter", 1, 1);
    gateway::until_delivered(&tap, "ingest/meter", 1);

    machine.run("seq 2 200 | sed 's/.*/{\"n\":&}/' | tidegate send meter && systemctl stop tidegate").ok();
    stopped_in_time(&machine);
    assert_eq!(tap.acknowledged().iter().filter(|message| message.topic.ends_with("/meter")).count(), 200);
    assert_eq!(gateway::programs(&machine, "eth0"), 0, "an orderly stop takes all programs off");

    broker.kill();
    machine.run("systemctl start tidegate").ok();
    machine.send("meter", 201, 5_000);
    machine.run("systemctl stop tidegate").ok();
    stopped_in_time(&machine);
    broker.start_again();
    machine.run("systemctl start tidegate").ok();
    let arrived = gateway::until_delivered(&tap, "ingest/meter", 5_000);
    assert_eq!(arrived, (1..=5_000).collect::<Vec<_>>());
}

#[track_caller]
fn stopped_in_time(machine: &Machine) {
    let entered = |property: &str| machine.unit("tidegate", &format!("{property}TimestampMonotonic"));
    let took = gateway::seconds_between(&entered("ActiveExit"), &entered("ExecMainExit"));
    println!("stopped in {took:.1} s");
    assert!(took < 5.0, "{took} s");
    assert_eq!(machine.unit("tidegate", "Result"), "success");
}
