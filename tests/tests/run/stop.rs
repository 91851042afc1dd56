//! The order in which it stops: sources, then the spool, then `offline`, all within five seconds.

use std::{collections::BTreeMap, sync::Mutex, thread, time::Duration};

use tidegate_tests::{Broker, Daemon, Ingest, Tap, need, requires};

use crate::{all_arrive, put, reading};

/// What the design grants.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_stop_says_offline_last_and_keeps_what_was_accepted() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let mut daemon = Daemon::builder().broker(tap.port()).start();
    let accepted = Mutex::new(put(&daemon, 0, 10));
    // Records are handed over while it stops.
    let mut ingest = Ingest::connect(&daemon);
    let (status, took) = thread::scope(|scope| {
        scope.spawn(|| {
            for number in 10.. {
                match ingest.put("meter", &reading(number)) {
                    Ok(seq) => accepted.lock().unwrap().insert(seq, number),
                    Err(_stopping) => break,
                };
            }
        });
        thread::sleep(Duration::from_millis(300));
        daemon.stop(LIMIT)
    });
    assert!(status.success(), "{status}");
    assert!(took < LIMIT, "it took {took:?}");
    let last = tap.published().pop().expect("something was published");
    assert_eq!((last.topic.as_str(), &last.json()["state"]), (&*daemon.topic("status"), &"offline".into()));

    let accepted: BTreeMap<u64, u64> = accepted.into_inner().unwrap();
    daemon.start_again();
    let ledger = all_arrive(&tap, &accepted);
    assert_eq!(ledger.losses(), []);
}

#[test]
fn a_frozen_broker_does_not_hold_up_the_stop() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let mut daemon = Daemon::builder().broker(tap.port()).start();
    let mut accepted = put(&daemon, 0, 10);
    all_arrive(&tap, &accepted);
    broker.freeze();
    accepted.extend(put(&daemon, 10, 10));
    let (status, took) = daemon.stop(LIMIT);
    assert!(status.success(), "{status}");
    assert!(took < LIMIT, "it took {took:?}");

    broker.thaw();
    daemon.start_again();
    all_arrive(&tap, &accepted);
}
