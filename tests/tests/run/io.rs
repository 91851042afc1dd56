//! The spool's two ways to the disk.

use tidegate_tests::{Broker, Daemon, Tap, faults::Syscalls, need, requires, schema::Schemas, skip};

use crate::{all_arrive, put};

#[test]
fn io_uring_is_used_where_the_kernel_grants_it() {
    requires!(need::program("mosquitto"));
    if let Err(why) = Syscalls::uring_granted() {
        skip!("{why}");
    }
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let daemon = Daemon::builder().broker(tap.port()).start();
    assert_eq!(daemon.status()["spool"]["io"], "uring");
    all_arrive(&tap, &put(&daemon, 0, 100));
    Schemas::load().assert_valid(daemon.id(), &tap.published());
}

#[test]
fn io_uring_refused_with_eperm_falls_back_to_threads_and_says_why() {
    requires!(need::program("mosquitto"));
    falls_back(Syscalls::uring_forbidden(), &["EPERM", "not permitted"]);
}

#[test]
fn io_uring_refused_with_enosys_falls_back_to_threads_and_says_why() {
    requires!(need::program("mosquitto"));
    falls_back(Syscalls::uring_unknown(), &["ENOSYS", "not implemented"]);
}

#[track_caller]
fn falls_back(refused: Syscalls, reasons: &[&str]) {
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let daemon = Daemon::builder().broker(tap.port()).refused(refused).start();
    let spool = &daemon.status()["spool"];
    assert_eq!(spool["io"], "threads");
    let said = spool["io_reason"].as_str().unwrap_or_default();
    assert!(reasons.iter().any(|reason| said.contains(reason)), "none of {reasons:?} in {spool}");
    all_arrive(&tap, &put(&daemon, 0, 100));
}

#[test]
fn io_uring_demanded_and_refused_is_an_error_that_names_the_key() {
    let mut daemon = Daemon::builder().refused(Syscalls::uring_forbidden()).config("[spool]\nio = \"uring\"").prepare();
    daemon.start_only();
    daemon.wait_for_log("[spool] io", std::time::Duration::from_secs(10));
}
