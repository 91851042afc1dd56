//! What changes in the middle of an upload: the server forgets it, the file is another one; and what outboxes hold beside.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::json;
use tidegate_tests::{
    eventually, memory_kib, need, requires,
    upload::{Dav, Kind, Sample, TusNode, sample},
};

use crate::{SEED, SOON, Sender, Told, arrives};

/// Slow enough to do something meanwhile, and through in a few seconds.
const SLOWLY: &str = "compression = \"none\"\nrate_limit = \"512KiB\"\npart_size = \"256KiB\"";
/// Of a file that is on its way for four seconds.
const SIZE: u64 = 2 << 20;

/// A file that is a quarter on its way to a server.
#[track_caller]
fn in_the_middle(told: &Told, server: &TusNode) -> Sample {
    let sample = told.sender.put("a.bin", SIZE, Kind::Random, SEED);
    eventually(SOON, "a quarter has arrived", || server.unfinished().iter().any(|upload| upload.offset > SIZE / 4));
    sample
}

fn has_what_it_needs() -> need::Need {
    need::tus_node()?;
    need::program("mosquitto")
}

#[test]
fn a_server_that_was_wiped_in_the_middle_gets_the_file_from_its_first_byte() {
    requires!(has_what_it_needs());
    let mut server = TusNode::start();
    let told = Told::start(&server.url(), SLOWLY);
    let sample = in_the_middle(&told, &server);
    server.wipe();
    let event = told.event("a.bin", "restarted");
    assert!(event["reason"].as_str().is_some_and(|reason| reason.contains("404")), "{event}");
    arrives(&sample, || server.received());
    assert_eq!(told.event("a.bin", "sent")["sha256"], sample.sha256);
    told.sender.is_done();
    assert_eq!(told.sender.counter("restarts"), json!({"forgotten": 1}));
    assert_eq!((server.received().len(), server.unfinished().len()), (1, 0));
}

#[test]
fn a_server_that_was_killed_in_the_middle_gets_the_rest() {
    requires!(has_what_it_needs());
    let mut server = TusNode::start();
    let told = Told::start(&server.url(), SLOWLY);
    let sample = in_the_middle(&told, &server);
    server.kill();
    eventually(SOON, "it is missed", || told.sender.upload()["state"] == "backing-off");
    server.start_again();
    arrives(&sample, || server.received());
    let event = told.event("a.bin", "sent");
    let (sent, retries) = (event["sent_bytes"].as_u64().unwrap(), event["retries"].as_u64().unwrap());
    assert!((SIZE..SIZE + SIZE / 4).contains(&sent) && retries > 0, "{event}");
}

#[test]
fn a_file_that_is_replaced_in_the_middle_arrives_as_the_new_one_and_nothing_of_that_is_removed() {
    requires!(has_what_it_needs());
    let server = TusNode::start();
    let told = Told::start(&server.url(), SLOWLY);
    let old = in_the_middle(&told, &server);
    let new = told.sender.put("a.bin", SIZE + 1, Kind::Random, SEED + 1);
    arrives(&new, || server.received());
    told.sender.is_done();
    let events = eventually(SOON, "both are told of", || {
        let events = told.events();
        let of_new = events.iter().filter(|event| event["sha256"] == new.sha256).count();
        if of_new == 1 && events.len() > 1 { Ok(events) } else { Err(format!("{events:?}")) }
    });
    let of_old = events.iter().find(|event| event["bytes"] == SIZE).expect("the old one is told of");
    // Whole, as it was open, or not at all.
    match of_old["state"].as_str() {
        Some("sent") => drop(arrives(&old, || server.received())),
        state => assert_eq!(state, Some("parked"), "{of_old}"),
    }
    eventually(SOON, "nothing is half there", || server.unfinished().is_empty());
}

#[test]
fn a_file_that_is_truncated_in_the_middle_is_told_of_and_arrives_as_it_is_then() {
    requires!(has_what_it_needs());
    let server = TusNode::start();
    let told = Told::start(&server.url(), SLOWLY);
    let old = in_the_middle(&told, &server);
    OpenOptions::new().write(true).open(&old.path).unwrap().set_len(SIZE / 3).unwrap();
    let event = told.event("a.bin", "parked");
    assert_eq!(event["bytes"], SIZE, "{event}");
    let sha256 = tidegate_tests::upload::sha256(&old.path);
    let new = Sample { sha256, size: SIZE / 3, ..old };
    arrives(&new, || server.received());
    told.sender.is_done();
    assert_eq!(told.sender.counter("parked"), json!({"changed": 1}));
    eventually(SOON, "nothing is half there", || server.unfinished().is_empty());
}

#[test]
fn a_file_that_is_deleted_in_the_middle_is_told_of_and_leaves_nothing_behind() {
    requires!(has_what_it_needs());
    let server = TusNode::start();
    let told = Told::start(&server.url(), SLOWLY);
    let old = in_the_middle(&told, &server);
    fs::remove_file(&old.path).unwrap();
    let event = eventually(SOON, "it is told of", || told.events().into_iter().next());
    assert_eq!((&event["state"], &event["bytes"]), (&json!("parked"), &json!(SIZE)), "{event}");
    eventually(SOON, "nothing is half there", || server.unfinished().is_empty());
    assert_eq!(server.received(), []);
    let next = told.sender.put("next.bin", 1000, Kind::Random, SEED);
    arrives(&next, || server.received());
    assert_eq!(told.sender.upload()["parked_files"], 0);
}

#[test]
fn a_file_whose_mode_changes_in_the_middle_goes_on_where_it_was() {
    requires!(has_what_it_needs());
    let server = TusNode::start();
    let told = Told::start(&server.url(), SLOWLY);
    let sample = in_the_middle(&told, &server);
    fs::set_permissions(&sample.path, fs::Permissions::from_mode(0o644)).unwrap();
    arrives(&sample, || server.received());
    let event = told.event("a.bin", "sent");
    assert!(event["sent_bytes"].as_u64().unwrap() < SIZE + SIZE / 4, "{event}");
    assert_eq!(told.events().len(), 1, "{:?}", told.events());
    assert_eq!((server.received().len(), server.unfinished().len()), (1, 0));
}

#[test]
fn a_file_that_is_changed_whenever_it_is_sent_waits_for_a_person() {
    requires!(has_what_it_needs());
    let server = TusNode::start();
    let told = Told::start(&server.url(), SLOWLY);
    let sample = told.sender.put("a.log", SIZE, Kind::Random, SEED);
    for time in 1..=3 {
        eventually(SOON, "it is under way", || server.unfinished().iter().any(|upload| upload.offset > 0));
        OpenOptions::new().append(true).open(&sample.path).unwrap().write_all(b"more").unwrap();
        eventually(SOON, "it is given up", || {
            let upload = told.sender.upload();
            let is_parked = upload["parked"] == json!([{"name": "a.log", "reason": "changed"}]);
            if is_parked && server.unfinished().is_empty() { Ok(()) } else { Err(format!("{time}: {upload}")) }
        });
    }
    sleep(Duration::from_secs(3));
    assert_eq!((server.unfinished().len(), server.received().len()), (0, 0));
    assert_eq!(told.events().len(), 2, "the first time, and when it stays parked: {:?}", told.events());
    assert_eq!(told.event("a.log", "parked")["bytes"], SIZE);
    told.sender.retry();
    let sha256 = tidegate_tests::upload::sha256(&sample.path);
    arrives(&Sample { sha256, ..sample }, || server.received());
    told.sender.is_done();
}

#[test]
fn a_file_that_is_still_written_to_waits_until_it_has_settled() {
    requires!(need::dav());
    let server = Dav::start();
    let sender = Sender::start(&server.url(), "protocol = \"http\"");
    let path = sender.daemon.outbox().join("slowly.log");
    for line in 0..12 {
        let mut content = fs::read(&path).unwrap_or_default();
        content.extend_from_slice(format!("line {line}\n").as_bytes());
        fs::write(&path, content).unwrap();
        sleep(Duration::from_millis(250));
    }
    assert_eq!(server.requests(), []);
    let sample = Sample { sha256: tidegate_tests::upload::sha256(&path), name: "slowly.log".to_owned(), path, size: 0 };
    arrives(&sample, || server.received());
}

#[test]
fn files_that_are_not_finished_are_not_touched() {
    requires!(need::dav());
    let server = Dav::start();
    let sender = Sender::start(&server.url(), "protocol = \"http\"");
    let names = [".hidden", "a.part", "b.csv.tmp", "c~"];
    for name in names {
        sender.put(name, 1000, Kind::Text, SEED);
    }
    fs::create_dir(sender.daemon.outbox().join("folder")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", sender.daemon.outbox().join("link")).unwrap();
    let seen = sender.put("seen.log", 1000, Kind::Text, SEED);
    arrives(&seen, || server.received());
    sleep(Duration::from_secs(2));
    assert_eq!(server.requests().len(), 1);
    assert_eq!(sender.outbox(), [".hidden", "a.part", "b.csv.tmp", "c~", "folder", "link"]);
    fs::rename(sender.daemon.outbox().join("a.part"), sender.daemon.outbox().join("a")).unwrap();
    eventually(SOON, "a finished one is sent", || server.received().iter().any(|received| received.name == "a"));
}

#[test]
fn thousands_of_small_files_arrive_in_constant_memory() {
    requires!(need::dav());
    let files = if need::long() { 10_000 } else { 2_000 };
    let server = Dav::start();
    let mut sender = Sender::of(
        tidegate_tests::Daemon::builder().log("info"),
        "",
        "protocol = \"http\"\ncompression = \"none\"\nconcurrency = 4",
    );
    let idle = memory_kib(sender.daemon.running().pid(), "RssAnon");
    let one = sample(sender.daemon.scratch().path(), "content", 300, Kind::Text, SEED);
    let content = fs::read(&one.path).unwrap();
    for index in 0..files {
        fs::write(sender.daemon.outbox().join(format!("{index:05}.log")), &content).unwrap();
    }
    let started = Instant::now();
    sender.configure(&format!("endpoint = \"{}\"", server.url()));
    let mut most = 0;
    eventually(Duration::from_mins(4), "all have arrived", || {
        most = most.max(memory_kib(sender.daemon.running().pid(), "RssAnon"));
        sleep(Duration::from_millis(200));
        let left = sender.outbox().len();
        if left == 0 { Ok(()) } else { Err(format!("{left} left: {}", sender.upload())) }
    });
    let took = started.elapsed();
    let received = server.received();
    println!("{files} files in {took:.1?}; memory {idle} KiB idle, {most} KiB at most");
    assert_eq!(received.len(), files);
    assert!(received.iter().all(|file| file.size == one.size));
    assert_eq!(sender.counter("files"), files);
    assert_eq!(sender.counter("content_bytes"), files as u64 * one.size);
    assert!(most < idle + (8 << 10), "{most} KiB, {idle} KiB idle");
}
