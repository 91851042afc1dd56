//! What systemd is told, and what the units that it reads are like.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tidegate_tests::{Daemon, DaemonBuilder, Gateway, NotifySocket, eventually, need, requires};

/// Short, so that three beats take little; the unit has a minute.
const WATCHDOG: Duration = Duration::from_millis(1500);
const SOON: Duration = Duration::from_secs(20);

fn supervised_by(systemd: &NotifySocket) -> DaemonBuilder {
    Daemon::builder().env("NOTIFY_SOCKET", systemd.path()).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
}

/// Microseconds of the monotonic clock.
fn monotonic_usec() -> i128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000
}

#[test]
fn systemd_is_told_when_it_is_ready_reloads_and_stops() {
    let systemd = NotifySocket::open();
    let begun = Instant::now();
    let mut daemon = supervised_by(&systemd).start();
    let ready = systemd.wait_for(begun, "READY=1", SOON);
    assert!(ready.value("STATUS").is_some_and(|status| status.ends_with(" waiting")), "{ready:?}");
    let problem = "not provisioned: there is no broker to deliver to";
    eventually(SOON, "the status line says what is wrong", || {
        systemd.told().iter().any(|told| told.value("STATUS").is_some_and(|status| status.contains(problem)))
    });

    let (asked, asked_usec) = (Instant::now(), monotonic_usec());
    daemon.running().signal(Signal::HUP);
    let reloading = systemd.wait_for(asked, "RELOADING=1", SOON);
    let since: i128 = reloading.value("MONOTONIC_USEC").expect("in the same message").parse().unwrap();
    assert!(since >= asked_usec, "systemd takes it for the answer to an earlier reload");
    systemd.wait_for(reloading.at, "READY=1", SOON);

    let (status, _took) = daemon.stop(Duration::from_secs(5));
    assert!(status.success(), "{status}");
    systemd.wait_for(asked, "STOPPING=1", SOON);
}

#[test]
fn the_watchdog_is_fed_until_the_process_hangs() {
    let systemd = NotifySocket::open();
    let begun = Instant::now();
    let mut daemon = supervised_by(&systemd).start();
    let fed = |since: Instant| systemd.since(since, "WATCHDOG=1").len();
    eventually(SOON, "it is fed time and again", || fed(begun) >= 4);
    daemon.running().freeze();
    // What was sent before it froze has arrived.
    sleep(WATCHDOG / 3);
    let frozen = Instant::now();
    sleep(WATCHDOG);
    assert_eq!(fed(frozen), 0);
    daemon.running().thaw();
    eventually(SOON, "it is fed again", || fed(frozen) >= 2);
    // A part is late for one of these short beats where the kernel takes a second to verify a program; it is not for long.
    // A part that never answers would stay in the line, be it one whose wait for the disk is excused.
    eventually(SOON, "all parts answer in a daemon that is well", || {
        let line = systemd.told().iter().rev().find_map(|told| told.value("STATUS").map(str::to_owned));
        line.filter(|line| line.starts_with("no progress")).map_or(Ok(()), Err)
    });
}

#[test]
fn a_watchdog_for_another_process_is_not_fed() {
    let systemd = NotifySocket::open();
    let begun = Instant::now();
    let _daemon = supervised_by(&systemd).env("WATCHDOG_PID", "1").start();
    systemd.wait_for(begun, "READY=1", SOON);
    sleep(WATCHDOG);
    assert!(systemd.since(begun, "WATCHDOG=1").is_empty());
}

#[test]
fn it_is_ready_once_the_interfaces_that_are_there_are_watched() {
    requires!(need::root(), need::program("ip"));
    let net = Gateway::new();
    let systemd = NotifySocket::open();
    let begun = Instant::now();
    let daemon = supervised_by(&systemd).inside(&net.gateway).config("[traffic]\ninterfaces = [\"eth*\"]").start();
    systemd.wait_for(begun, "READY=1", SOON);
    // The log may be read later than the datagram that was sent after it.
    daemon.wait_for_log("ready gateway", SOON);
    let log = daemon.log();
    let place = |text: &str| log.iter().position(|line| line.contains(text));
    let (watching, ready) = (place("watching"), place("ready gateway"));
    assert!(watching.is_some() && watching < ready, "watching {watching:?}, ready {ready:?} in {log:#?}");
}

/// `systemd/` of the repository.
fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd")
}

#[test]
fn the_unit_is_as_closed_as_the_daemon_allows() {
    requires!(need::program("systemd-analyze"));
    let unit = units().join("tidegate.service");
    // In tenths of the score that is shown: 2.2.
    let judged = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=22"])
        .arg(unit)
        .output()
        .expect("it was found");
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));
}

/// `cmd/restart` ends the daemon with 75; that it does is in the scenarios of commands.
#[test]
fn the_unit_starts_again_what_was_asked_to_restart_and_takes_it_for_no_failure() {
    let unit = std::fs::read_to_string(units().join("tidegate.service")).expect("the unit is there");
    for line in ["RestartForceExitStatus=75", "SuccessExitStatus=75"] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
}
