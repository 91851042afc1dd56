//! Uploads leave room: to the link, to the server, to MQTT, and to what a person decides.

use std::{
    fs,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use serde_json::json;
use tidegate_tests::{
    Daemon, Ingest, Netns, eventually, need, requires,
    upload::{Dav, Fault, FaultProxy, Kind, TusNode},
};

use crate::{SEED, SOON, Sender, Told, arrives};

#[test]
fn the_rate_limit_is_kept_and_may_change_on_the_way() {
    requires!(need::dav());
    let server = Dav::start();
    let proxy = FaultProxy::before(server.port()).start();
    let lines = "protocol = \"http\"\ncompression = \"none\"\nrate_limit = \"256KiB\"";
    let mut sender = Sender::start(&server.url_through(proxy.port()), lines);
    let sample = sender.put("a.bin", 2 << 20, Kind::Random, SEED);
    eventually(SOON, "it is under way", || proxy.counts().up > 0);
    let (started, before) = (Instant::now(), proxy.counts().up);
    sleep(Duration::from_secs(3));
    let rate = (proxy.counts().up - before) as f64 / started.elapsed().as_secs_f64();
    println!("{rate:.0} bytes/s of 262144");
    assert!((200_000.0..330_000.0).contains(&rate), "{rate}");
    assert!(server.received().is_empty());
    sender.configure("rate_limit = \"64MiB\"");
    let changed = Instant::now();
    arrives(&sample, || server.received());
    assert!(changed.elapsed() < Duration::from_secs(3), "{:?}", changed.elapsed());
}

#[test]
fn a_closed_window_holds_and_an_open_one_lets_go() {
    requires!(need::tus_node());
    let server = TusNode::start();
    let lines = "compression = \"none\"\npart_size = \"256KiB\"\nrate_limit = \"512KiB\"";
    let mut sender = Sender::start(&server.url(), lines);
    let sample = sender.put("a.bin", 2 << 20, Kind::Random, SEED);
    eventually(SOON, "it is under way", || server.unfinished().iter().any(|upload| upload.offset > 0));
    // Of a day that is not today, whatever the zone.
    sender.configure(&format!("window = [\"{}\"]", far_away()));
    let closed = eventually(SOON, "it is closed", || {
        let upload = sender.upload();
        if upload["state"] == "closed" { Ok(upload) } else { Err(upload.to_string()) }
    });
    assert!(closed["until_ms"].is_u64(), "{closed}");
    sleep(Duration::from_millis(500));
    let before = server.unfinished()[0].offset;
    sleep(Duration::from_secs(2));
    assert_eq!(server.unfinished()[0].offset, before, "nothing moves");
    sender.configure("window = []\nrate_limit = \"\"");
    arrives(&sample, || server.received());
    assert_eq!(server.unfinished(), []);
}

/// A window three days from now.
pub(crate) fn far_away() -> &'static str {
    let days = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() / 86_400;
    // 1970 began on a Thursday.
    let day = usize::try_from((days + 3 + 3) % 7).expect("one of seven");
    [
        "Mon 12:00-13:00",
        "Tue 12:00-13:00",
        "Wed 12:00-13:00",
        "Thu 12:00-13:00",
        "Fri 12:00-13:00",
        "Sat 12:00-13:00",
        "Sun 12:00-13:00",
    ][day]
}

#[test]
fn an_operator_pauses_uploads_and_lets_them_go_on() {
    requires!(need::tus_node(), need::program("mosquitto"));
    let server = TusNode::start();
    let told = Told::start(&server.url(), "compression = \"none\"\nrate_limit = \"512KiB\"");
    let mut operator = told.operator();
    let sample = told.sender.put("a.bin", 2 << 20, Kind::Random, SEED);
    eventually(SOON, "it is under way", || server.unfinished().iter().any(|upload| upload.offset > 100_000));
    let answer = operator.request(&told.sender.daemon.topic("cmd/upload-pause"), r#"{"for":"1h"}"#).json();
    assert_eq!(answer["data"], json!({"for": "1h"}));
    eventually(SOON, "it pauses", || told.sender.upload()["state"] == "paused");
    sleep(Duration::from_millis(500));
    let before = server.unfinished()[0].offset;
    sleep(Duration::from_secs(2));
    assert_eq!(server.unfinished()[0].offset, before, "nothing moves");
    let answer = operator.request(&told.sender.daemon.topic("cmd/upload-pause"), "").json();
    assert_eq!(answer["data"], json!({}));
    arrives(&sample, || server.received());
    assert_eq!(told.event("a.bin", "sent")["retries"], 1, "it went on where it was");
    // What was in buffers when the connection ended goes twice.
    assert!(told.events()[0]["sent_bytes"].as_u64().unwrap() < (2 << 20) + (512 << 10), "{:?}", told.events());
}

#[test]
fn a_file_of_importance_overtakes_a_large_one_of_none() {
    requires!(need::tus_node());
    let server = TusNode::start();
    let lines = "compression = \"none\"\nrate_limit = \"512KiB\"\npart_size = \"256KiB\"";
    let sender = Sender::start(&server.url(), lines);
    let outbox = sender.daemon.outbox();
    fs::write(outbox.join("large.meta.json"), r#"{"priority": "low"}"#).unwrap();
    let large = sender.put("large", 4 << 20, Kind::Random, SEED);
    eventually(SOON, "it is under way", || server.unfinished().iter().any(|upload| upload.offset > 0));
    fs::write(outbox.join("urgent.meta.json"), r#"{"priority": "high"}"#).unwrap();
    let urgent = sender.put("urgent", 100_000, Kind::Random, SEED);
    arrives(&urgent, || server.received());
    assert_eq!(server.received().len(), 1, "the large one waits");
    arrives(&large, || server.received());
    assert_eq!(sender.counter("resent_bytes"), 0, "it gave way between two parts");
}

/// Does the same for each, beside each other.
fn each<T: Send, const N: usize>(cases: [T; N], test: impl Fn(T) + Sync) {
    let test = &test;
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || test(case));
        }
    });
}

/// An answer of the proxy's own with a header.
fn answer(status: u16, header: Option<(&str, &str)>) -> Fault {
    let headers = header.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Fault::Answer { after: 1, status, headers, reads_on: true }
}

#[test]
fn a_server_is_left_alone_for_as_long_as_it_asks() {
    requires!(need::tus_node());
    each([429, 503], |status| {
        let server = TusNode::start();
        let proxy = FaultProxy::before(server.port()).schedule([answer(status, Some(("Retry-After", "4")))]).start();
        let sender = Sender::start(&server.url_through(proxy.port()), "");
        let sample = sender.put("a.log", 10_000, Kind::Text, SEED);
        eventually(SOON, "it is put off", || sender.upload()["state"] == "backing-off");
        let (put_off, connections) = (Instant::now(), proxy.counts().connections);
        eventually(SOON, "it is tried again", || proxy.counts().connections > connections);
        let waited = put_off.elapsed();
        assert!((Duration::from_millis(3700)..Duration::from_secs(8)).contains(&waited), "{status}: {waited:?}");
        arrives(&sample, || server.received());
        let name = if status == 429 { "too-many-requests" } else { "unavailable" };
        assert_eq!(sender.counter("troubles")[name], 1);
    });
}

#[test]
fn what_a_server_refuses_waits_for_a_person_and_is_tried_again_by_command() {
    requires!(need::dav(), need::program("mosquitto"));
    each(
        [(413, "too-large (HTTP 413)"), (403, "forbidden (HTTP 403)"), (404, "not-found (HTTP 404)")],
        |(status, reason)| {
            let server = Dav::start();
            let proxy = FaultProxy::before(server.port()).schedule([answer(status, None)]).start();
            let told = Told::start(&server.url_through(proxy.port()), "protocol = \"http\"");
            let mut operator = told.operator();
            let sample = told.sender.put("a.log", 10_000, Kind::Text, SEED);
            let event = told.event("a.log", "parked");
            assert!(event["reason"].as_str().is_some_and(|reason| reason.contains(&status.to_string())), "{event}");
            let parked = eventually(SOON, "it is shown", || {
                let upload = told.sender.upload();
                if upload["parked_files"] == 1 { Ok(upload) } else { Err(upload.to_string()) }
            });
            assert_eq!(parked["parked"][0], json!({"name": "a.log", "reason": reason}));
            sleep(Duration::from_secs(2));
            assert_eq!((proxy.counts().connections, told.sender.outbox()), (1, vec!["a.log".to_owned()]));
            let answer = operator.request(&told.sender.daemon.topic("cmd/retry"), r#"{"subject":"upload"}"#).json();
            assert_eq!(answer["data"], json!({"subject": "upload", "files": 1}));
            arrives(&sample, || server.received());
            told.event("a.log", "sent");
            told.sender.is_done();
            assert_eq!(told.sender.upload()["parked_files"], 0);
        },
    );
}

#[test]
fn an_interface_that_is_metered_is_left_alone_until_it_is_not() {
    requires!(need::root(), need::program("ip"));
    let gateway = Netns::new("gateway");
    gateway.run("ip link add wwan0 type veth peer name lan0");
    gateway.run("ip link set wwan0 up");
    gateway.run("ip link set lan0 up");
    gateway.run("ip addr add 10.78.1.1/24 dev wwan0");
    gateway.run("ip addr add 10.78.2.1/24 dev lan0");
    // Nobody answers at either address: what matters is which way is tried.
    let mut sender = Sender::of(
        Daemon::builder().inside(&gateway),
        "http://10.78.1.2:80/",
        "protocol = \"http\"\nmetered = [\"wwan*\"]\nconnect_within = \"2s\"",
    );
    sender.put("a.log", 10_000, Kind::Text, SEED);
    let upload = eventually(SOON, "the way is metered", || {
        let upload = sender.upload();
        if upload["state"] == "metered" { Ok(upload) } else { Err(upload.to_string()) }
    });
    assert!(upload["reason"].as_str().is_some_and(|reason| reason.contains("wwan0")), "{upload}");
    assert_eq!(upload["counters"]["troubles"], json!({"metered": 1}));
    let asked = gateway.run("ip neigh show dev wwan0");
    assert!(!asked.contains("10.78.1.2"), "nothing was sent that way: {asked}");
    sender.configure("endpoint = \"http://10.78.2.2:80/\"");
    eventually(SOON, "another way is taken", || {
        let troubles = sender.counter("troubles");
        if troubles["connect"].as_u64() > Some(0) { Ok(()) } else { Err(troubles.to_string()) }
    });
}

#[test]
fn records_go_before_files_while_the_broker_is_slow() {
    requires!(need::tus_node(), need::program("mosquitto"));
    let server = TusNode::start();
    let told = Told::start(&server.url(), "compression = \"none\"");
    eventually(SOON, "the broker is there", || told.sender.daemon.status()["uplink"]["state"] == "connected");
    // As over a link that is full: what was sent is not acknowledged.
    told.broker.freeze();
    let mut ingest = Ingest::connect(&told.sender.daemon);
    for number in 0..200 {
        ingest.put("meter", &serde_json::json!({"number": number})).unwrap();
    }
    let sample = told.sender.put("a.bin", 20 * (1 << 20), Kind::Random, SEED);
    eventually(SOON, "it is begun", || !server.unfinished().is_empty());
    sleep(Duration::from_secs(4));
    let offset = server.unfinished()[0].offset;
    println!("{offset} bytes of the file went while records waited");
    assert!(offset < (1 << 20), "{offset}");
    told.broker.thaw();
    let thawed = Instant::now();
    arrives(&sample, || server.received());
    println!("the rest in {:?}", thawed.elapsed());
}
