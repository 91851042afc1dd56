//! The daemon is killed while it takes records.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tidegate_tests::{Broker, Daemon, Ingest, Over, Refused, Tap, eventually, need, requires};

use crate::{all_arrive, reading};

/// Local programs that hand over records at once: a commit holds those of several.
const PRODUCERS: usize = 4;

#[test]
fn every_record_answered_ok_arrives_though_the_daemon_is_killed_fifty_times() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let mut daemon = Daemon::builder().broker(tap.port()).start();
    let (stop, next) = (AtomicBool::new(false), AtomicU64::new(0));
    let accepted = Arc::new(Mutex::new(BTreeMap::new()));
    let socket = daemon.ingest_socket();
    thread::scope(|scope| {
        let _over = Over::when_dropped(&stop);
        for _producer in 0..PRODUCERS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut ingest) = Ingest::try_connect(&socket) else {
                        thread::sleep(Duration::from_millis(5));
                        continue;
                    };
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        match ingest.put("meter", &reading(number)) {
                            Ok(seq) => {
                                let twice = accepted.lock().unwrap().insert(seq, number);
                                assert_eq!(twice, None, "sequence {seq} was given to two records");
                            }
                            Err(Refused::Error(answer)) => panic!("record {number} was refused: {answer}"),
                            // Killed in between: on disk or not, nobody promised anything.
                            Err(Refused::Gone(_)) => break,
                        }
                    }
                }
            });
        }
        let count = || accepted.lock().unwrap().len();
        for kill in 0..50 {
            let before = count();
            let what = format!("records are accepted after {kill} kills");
            eventually(Duration::from_secs(10), &what, || count() > before);
            // At random, so that the kills fall into every phase of a commit.
            thread::sleep(Duration::from_micros(fastrand::u64(..100_000)));
            daemon.kill();
            daemon.start_only();
        }
    });
    let accepted = accepted.lock().unwrap().clone();
    assert!(accepted.len() > 500, "{} accepted records prove little", accepted.len());
    let ledger = all_arrive(&tap, &accepted);
    assert_eq!(ledger.losses(), [], "a killed process loses nothing that was written");
}
