//! Disks that are full or out of reach.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use serde_json::json;
use tidegate_tests::{Broker, Daemon, Ingest, Refused, Tap, eventually, faults::Disk, need, requires, skip};

use crate::{SOON, all_arrive, put, reading};

#[test]
fn a_full_disk_stops_intake_until_there_is_room_and_loses_nothing() {
    requires!(need::root(), need::program("mosquitto"));
    let disk = match Disk::ext4(96) {
        Ok(disk) => disk,
        Err(why) => skip!("{why}"),
    };
    let mut broker = Broker::start();
    let tap = Tap::before(&broker);
    let daemon = Daemon::builder().broker(tap.port()).on(&disk).start();
    let mut accepted = put(&daemon, 0, 100);
    all_arrive(&tap, &accepted);

    // With the broker away nothing is delivered, so that nothing makes room either.
    broker.kill();
    disk.fill();
    let mut ingest = Ingest::connect(&daemon);
    let text = "x".repeat(30_000);
    let refused = (100..2_000).find_map(|number| match ingest.put("meter", &json!({"number": number, "text": text})) {
        Ok(seq) => {
            accepted.insert(seq, number);
            None
        }
        Err(Refused::Error(answer)) => Some(answer),
        Err(Refused::Gone(error)) => panic!("the connection ended: {error}"),
    });
    let refused = refused.expect("a full disk takes no 60 MB");
    assert_eq!(refused["error"], "full", "{refused}");
    assert!(refused["retry_ms"].is_u64(), "{refused}");
    let paused = eventually(Duration::from_secs(10), "status says why intake is paused", || {
        daemon.status()["spool"]["paused"].as_str().map(str::to_owned)
    });
    assert!(paused.contains("space"), "{paused}");

    disk.free();
    let seq = eventually(SOON, "intake goes on when there is room", || {
        match ingest.put("meter", &json!({"number": 5_000})) {
            Ok(seq) => Ok(seq),
            Err(Refused::Error(answer)) => Err(answer.to_string()),
            Err(Refused::Gone(error)) => panic!("the connection ended: {error}"),
        }
    });
    accepted.insert(seq, 5_000);
    broker.start_again();
    let ledger = all_arrive(&tap, &accepted);
    assert_eq!(ledger.losses(), []);
}

#[test]
fn an_unreadable_spool_folder_is_reported_and_used_again_once_it_can_be_read() {
    requires!(need::root(), need::program("mosquitto"));
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let mut daemon = Daemon::builder().broker(tap.port()).unprivileged().start();
    let mut accepted = put(&daemon, 0, 50);
    daemon.stop(Duration::from_secs(5));

    let folder = daemon.spool();
    let shut = |closed: bool| {
        let mode = if closed { 0o000 } else { 0o700 };
        fs::set_permissions(&folder, PermissionsExt::from_mode(mode)).unwrap();
    };
    shut(true);
    daemon.start_again();
    let paused = daemon.status()["spool"]["paused"].to_string();
    assert!(paused.contains("ermission denied") && paused.contains(&*folder.to_string_lossy()), "{paused}");
    let mut ingest = Ingest::connect(&daemon);
    match ingest.put("meter", &reading(50)) {
        Err(Refused::Error(answer)) => assert_eq!(answer["error"], "full", "{answer}"),
        other => panic!("a record goes nowhere: {other:?}"),
    }

    shut(false);
    let seq = eventually(SOON, "the spool is opened and takes records", || match ingest.put("meter", &reading(50)) {
        Ok(seq) => Ok(seq),
        Err(refused) => Err(format!("{refused:?}")),
    });
    accepted.insert(seq, 50);
    all_arrive(&tap, &accepted);
}
