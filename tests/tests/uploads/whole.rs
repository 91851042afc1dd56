//! Files arrive as they are, by every protocol and encoding, and are told of and put away.

use std::{fs, thread};

use serde_json::json;
use tidegate_tests::{
    eventually,
    mqtt::Pki,
    need, requires,
    schema::Schemas,
    upload::{Dav, DavRequest, Encoding, Kind, Received, Sample, TusChecksum, TusNode},
};

use crate::{SEED, SOON, Sender, Told, arrives, names};

/// What is configured, and what comes of it.
const ENCODINGS: [(&str, Encoding); 3] =
    [("zstd", Encoding::Zstd), ("gzip", Encoding::Gzip), ("none", Encoding::Identity)];

/// Of every file here: several frames, and no whole number of them.
const SIZE: u64 = 3_000_001;

/// Gateways with each encoding send a file to the same server at once; what arrived of each.
#[track_caller]
fn by_each_encoding(endpoint: &str, lines: &str, received: impl Fn() -> Vec<Received>) -> Vec<(Sample, Received)> {
    let start = |compression: &str| Sender::start(endpoint, &format!("compression = \"{compression}\"\n{lines}"));
    let senders: Vec<Sender> = ENCODINGS.iter().map(|(compression, _)| start(compression)).collect();
    let sent: Vec<Sample> = (0..)
        .zip(senders.iter().zip(ENCODINGS))
        .map(|(seed, (sender, (compression, _)))| sender.put(&format!("{compression}.log"), SIZE, Kind::Text, seed))
        .collect();
    let mut arrived = Vec::new();
    for ((sample, (_, encoding)), sender) in sent.into_iter().zip(ENCODINGS).zip(&senders) {
        let received = arrives(&sample, &received);
        assert_eq!(received.encoding(), encoding);
        let smaller = received.size < SIZE / 2;
        assert_eq!(smaller, encoding != Encoding::Identity, "{received:?}");
        sender.is_done();
        assert_eq!(names(&sender.daemon.state().join("uploads")), ["ledger"], "no journal stays");
        arrived.push((sample, received));
    }
    arrived
}

/// What a tus server is told of a file.
#[track_caller]
fn assert_described(arrived: &[(Sample, Received)]) {
    for (sample, received) in arrived {
        let said = &received.metadata;
        assert_eq!((said["filename"].as_str(), said["gateway"].as_str()), (sample.name.as_str(), "gw-test"));
        assert_eq!((said["sha256"].as_str(), said["size"].as_str()), (sample.sha256.as_str(), "3000001"));
        assert!(said["mtime"].parse::<u64>().is_ok_and(|mtime| mtime > 1_500_000_000), "{said:?}");
    }
}

#[test]
fn a_file_arrives_at_a_tus_server_that_streams_by_each_encoding() {
    requires!(need::tus_node(), need::program("zstd"), need::program("gunzip"));
    let server = TusNode::start();
    assert_described(&by_each_encoding(&server.url(), "part_size = \"512KiB\"", || server.received()));
    assert_eq!(server.unfinished(), []);
}

#[test]
fn a_file_arrives_at_a_tus_server_that_compares_checksums_by_each_encoding() {
    requires!(need::tus_checksum(), need::program("zstd"), need::program("gunzip"));
    let server = TusChecksum::start();
    assert_described(&by_each_encoding(&server.url(), "part_size = \"512KiB\"", || server.received()));
    assert_eq!(server.unfinished(), []);
}

/// `sha-256=:…:` of a hash in hexadecimal (RFC 9530).
fn digest(sha256: &str) -> String {
    let bytes: Vec<u8> =
        (0..sha256.len()).step_by(2).map(|at| u8::from_str_radix(&sha256[at..at + 2], 16).unwrap()).collect();
    format!("sha-256=:{}:", tidegate_values::base64::encode(&bytes))
}

#[track_caller]
fn assert_headers(arrived: &[(Sample, Received)]) {
    for (sample, received) in arrived {
        let headers = &received.metadata;
        assert_eq!(headers["unencoded-digest"], digest(&sample.sha256));
        let plain = received.encoding() == Encoding::Identity;
        assert_eq!(headers.get("repr-digest").cloned(), plain.then(|| digest(&sample.sha256)));
        let metadata = &headers["tidegate-metadata"];
        let filename = format!("filename {}", tidegate_values::base64::encode(sample.name.as_bytes()));
        assert!(metadata.starts_with(&filename), "{metadata}");
    }
}

#[test]
fn a_file_arrives_by_put_by_each_encoding() {
    requires!(need::dav(), need::program("zstd"), need::program("gunzip"));
    let server = Dav::builder().note_header("tidegate-metadata").start();
    assert_headers(&by_each_encoding(&server.url(), "protocol = \"http\"", || server.received()));
    let protocols: Vec<String> = server.requests().into_iter().map(|request| request.protocol).collect();
    assert_eq!(protocols, ["HTTP/1.1"; 3]);
}

/// Sends by TLS with a client certificate; the requests that were made.
#[track_caller]
fn by_tls(version: &str) -> Vec<DavRequest> {
    let pki = Pki::new();
    let server = Dav::builder().tls(&pki, true).note_header("tidegate-metadata").start();
    let client = pki.client("gw-test");
    let lines = format!(
        "protocol = \"http\"\nhttp_version = \"{version}\"\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"",
        pki.ca().display(),
        client.cert.display(),
        client.key.display()
    );
    assert_headers(&by_each_encoding(&server.tls_url(), &lines, || server.received()));
    server.requests()
}

#[test]
fn a_file_arrives_by_put_over_http_1_with_a_client_certificate() {
    requires!(need::dav(), need::program("zstd"), need::program("gunzip"));
    for request in by_tls("1.1") {
        assert_eq!((request.protocol.as_str(), request.status), ("HTTP/1.1", 201), "{request:?}");
        assert!(request.client.contains("gw-test"), "{request:?}");
    }
}

#[test]
fn a_file_arrives_by_put_over_http_2_with_a_client_certificate() {
    requires!(need::dav(), need::program("zstd"), need::program("gunzip"));
    let both = thread::scope(|scope| {
        ["auto", "2"].map(|version| scope.spawn(move || by_tls(version))).map(|it| it.join().expect("both arrive"))
    });
    for request in both.into_iter().flatten() {
        assert_eq!((request.protocol.as_str(), request.status), ("HTTP/2.0", 201), "{request:?}");
        assert!(request.client.contains("gw-test"), "{request:?}");
    }
}

#[test]
fn without_its_client_certificate_nothing_is_taken_and_nothing_lost() {
    requires!(need::dav());
    let pki = Pki::new();
    let server = Dav::builder().tls(&pki, true).start();
    let mut sender = Sender::start(&server.tls_url(), &format!("protocol = \"http\"\nca = \"{}\"", pki.ca().display()));
    let sample = sender.put("a.log", 10_000, Kind::Text, SEED);
    eventually(SOON, "nginx refuses", || server.requests().iter().any(|request| request.status == 400));
    assert_eq!(sender.outbox(), ["a.log"]);
    let client = pki.client("gw-test");
    let (cert, key) = (client.cert.display(), client.key.display());
    sender.configure(&format!("cert = \"{cert}\"\nkey = \"{key}\""));
    eventually(SOON, "it is sent again", || {
        sender.retry();
        sender.outbox().is_empty()
    });
    arrives(&sample, || server.received());
}

#[test]
fn a_file_that_was_sent_is_removed_kept_or_moved_and_not_sent_twice() {
    requires!(need::dav());
    let server = Dav::start();
    let start = |after: &str| Sender::start(&server.url(), &format!("protocol = \"http\"\nafter = \"{after}\""));
    let [remove, mut keep, move_] = ["remove", "keep", "move"].map(start);
    let put = |sender: &Sender, name: &str| sender.put(name, 10_000, Kind::Text, SEED);
    let sent = [put(&remove, "removed"), put(&keep, "kept"), put(&move_, "moved")];
    for sample in &sent {
        arrives(sample, || server.received());
    }
    remove.is_done();
    eventually(SOON, "it is moved", || names(&move_.daemon.outbox().join("sent")) == ["moved"]);
    eventually(SOON, "it is noted", || keep.upload()["waiting_files"] == 0);
    assert_eq!(keep.outbox(), ["kept"]);

    keep.daemon.kill();
    keep.daemon.start_again();
    let another = put(&keep, "another");
    arrives(&another, || server.received());
    eventually(SOON, "it is noted", || keep.upload()["waiting_files"] == 0);
    let count = server.requests().iter().filter(|request| request.uri == "/kept").count();
    assert_eq!((count, keep.outbox()), (1, vec!["another".to_owned(), "kept".to_owned()]));
}

#[test]
fn what_a_sidecar_says_arrives_with_its_file_and_goes_with_it() {
    requires!(need::tus_node());
    let server = TusNode::start();
    let sender = Sender::start(&server.url(), "");
    let said = json!({"priority": "high", "type": "text/csv", "metadata": {"machine": "press 7", "batch": "2026-114"}});
    fs::write(sender.daemon.outbox().join("a.csv.meta.json"), said.to_string()).unwrap();
    let sample = sender.put("a.csv", 50_000, Kind::Text, SEED);
    let received = arrives(&sample, || server.received());
    let metadata = |key: &str| received.metadata.get(key).map(String::as_str);
    assert_eq!((metadata("machine"), metadata("batch")), (Some("press 7"), Some("2026-114")));
    assert_eq!(metadata("filetype"), Some("text/csv"));
    sender.is_done();
}

#[test]
fn what_was_sent_is_told_by_mqtt_as_the_schemas_say() {
    requires!(need::tus_node(), need::program("mosquitto"), need::program("zstd"));
    let server = TusNode::start();
    let told = Told::start(&server.url(), "");
    let sample = told.sender.put("a.log", SIZE, Kind::Text, SEED);
    let received = arrives(&sample, || server.received());
    let event = told.event("a.log", "sent");
    assert_eq!((&event["sha256"], &event["bytes"]), (&json!(sample.sha256), &json!(SIZE)));
    assert_eq!((&event["encoding"], &event["sent_bytes"]), (&json!("zstd"), &json!(received.size)));
    assert_eq!((&event["retries"], event["reason"].is_null()), (&json!(0), true));
    assert!(event["url"].as_str().is_some_and(|url| url.ends_with(&received.id)), "{event}");
    let telemetry = eventually(SOON, "telemetry/upload counts it", || {
        told.data("telemetry/upload").into_iter().find(|data| data["counters"]["files"] == 1)
    });
    assert_eq!((&telemetry["state"], &telemetry["counters"]["content_bytes"]), (&json!("idle"), &json!(SIZE)));
    assert_eq!(told.events().len(), 1);
    Schemas::load().assert_valid("gw-test", &told.seen.messages());
}

#[test]
fn what_arrived_is_read_back_where_that_is_asked_for() {
    requires!(need::dav());
    let server = Dav::start();
    let sender = Sender::start(&server.url(), "protocol = \"http\"\nverify = \"read-back\"");
    let sample = sender.put("a.log", SIZE, Kind::Mixed, SEED);
    arrives(&sample, || server.received());
    sender.is_done();
    let methods: Vec<String> = server.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["PUT", "GET"]);
}

#[test]
fn an_empty_file_arrives_by_both_protocols() {
    requires!(need::tus_node(), need::tus_checksum(), need::dav());
    let (node, checksum, dav) = (TusNode::start(), TusChecksum::start(), Dav::start());
    let senders = [
        Sender::start(&node.url(), ""),
        Sender::start(&checksum.url(), ""),
        Sender::start(&dav.url(), "protocol = \"http\""),
    ];
    let [first, second, third] = senders.each_ref().map(|sender| sender.put("empty", 0, Kind::Text, SEED));
    arrives(&first, || node.received());
    arrives(&second, || checksum.received());
    arrives(&third, || dav.received());
    senders.iter().for_each(Sender::is_done);
}

#[test]
fn progress_and_what_is_left_are_shown() {
    requires!(need::tus_node());
    let server = TusNode::start();
    // Under way for half a minute, however busy the machine: what is left of it goes when all is seen.
    let lines = "compression = \"none\"\nrate_limit = \"256KiB\"\npart_size = \"256KiB\"";
    let mut sender = Sender::start(&server.url(), lines);
    sender.put("a.bin", 8 << 20, Kind::Random, SEED);
    let active = eventually(SOON, "it is under way", || {
        let active = sender.upload()["active"].get(0).cloned().unwrap_or_default();
        let confirmed = active["confirmed_bytes"].as_u64().unwrap_or_default();
        if confirmed >= 1 << 20 && active["remaining_s"].is_u64() { Ok(active) } else { Err(active.to_string()) }
    });
    assert_eq!(
        (&active["name"], &active["bytes"], &active["step"]),
        (&json!("a.bin"), &json!(8 << 20), &json!("sending"))
    );
    let [sent, rate, remaining] =
        ["sent_bytes", "rate_bytes_s", "remaining_s"].map(|name| active[name].as_u64().unwrap());
    assert_eq!(remaining, ((8 << 20) - sent).div_ceil(rate), "{active}");
    // The first second's bytes may go at once; a busy machine may take longer.
    assert!((1..1 << 20).contains(&rate), "{active}");
    sender.configure("rate_limit = \"\"");
    eventually(SOON, "it is sent", || sender.counter("files") == 1);
    let idle = sender.upload();
    assert_eq!((&idle["state"], &idle["waiting_files"]), (&json!("idle"), &json!(0)));
}
