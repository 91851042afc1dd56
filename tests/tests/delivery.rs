//! From the ingest socket to the broker, whatever the broker does.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tidegate_tests::{
    Broker, BrokerBuilder, Daemon, Ingest, Netns, Subscriber, Tap, eventually,
    mqtt::{Ledger, Pki},
    need, requires,
};

/// Back-off waits up to 1, 2, 4, 8 s after the first failures in a row; a test that lets a broker die three times needs room.
const DELIVERED_WITHIN: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(20);

/// Without other sources, so that what arrives is what was handed over.
const QUIET: &str = "[traffic]\ninterfaces = []\n\n[host]\ninterval = \"1h\"";

/// Lines unanswered at a time; the daemon allows 256.
const PIPELINE: u64 = 200;

/// Hands over records numbered `from..to`, and returns when all are on disk.
#[track_caller]
fn hand_over(daemon: &Daemon, name: &str, from: u64, to: u64) {
    let mut ingest = Ingest::connect(daemon);
    let mut next = from;
    while next < to {
        let end = to.min(next + PIPELINE);
        let line = |n| {
            format!("{}\n", json!({"name": name, "data": {"n": n, "text": "0123456789abcdefghijklmnopqrstuvwxyz"}}))
        };
        let lines: String = (next..end).map(line).collect();
        ingest.send_raw(lines.as_bytes()).unwrap();
        for _ in next..end {
            let answer = ingest.answer().unwrap();
            assert_eq!(answer["ok"], true, "{answer}");
        }
        next = end;
    }
}

fn uplink(daemon: &Daemon) -> Value {
    daemon.status()["uplink"].clone()
}

/// Waits until the uplink is in `state`, and returns its status.
#[track_caller]
fn until_state(daemon: &Daemon, state: &str) -> Value {
    eventually(DELIVERED_WITHIN, &format!("the uplink is {state}"), || {
        let uplink = uplink(daemon);
        if uplink["state"] == state { Ok(uplink) } else { Err(uplink.to_string()) }
    })
}

/// Waits until `count` records of a stream were acknowledged, and checks that all of them are there, in order.
#[track_caller]
fn until_delivered(tap: &Tap, stream: &str, count: usize) -> Ledger {
    eventually(DELIVERED_WITHIN, &format!("{count} acknowledgements"), || {
        let acknowledged = tap.acknowledged_count();
        if acknowledged >= count { Ok(()) } else { Err(format!("{acknowledged} so far")) }
    });
    let ledger = eventually(DELIVERED_WITHIN, &format!("{count} different records of {stream}"), || {
        let ledger = Ledger::of(&tap.acknowledged());
        let found = ledger.stream(stream).count();
        if found == count { Ok(ledger) } else { Err(format!("{found}")) }
    });
    ledger.assert_complete();
    ledger
}

/// Hands over 100,000 records while the broker is killed three times, and checks that each is acknowledged.
fn kill_the_broker_while_records_flow(mut broker: Broker) {
    const RECORDS: u64 = 100_000;
    let tap = Tap::before(&broker);
    let daemon = Daemon::builder().broker(tap.port()).config(QUIET).start();
    until_state(&daemon, "connected");
    thread::scope(|scope| {
        scope.spawn(|| hand_over(&daemon, "meter", 0, RECORDS));
        for share in 1..=3 {
            let enough = usize::try_from(RECORDS).unwrap() / 8 * share;
            eventually(DELIVERED_WITHIN, "records flow", || tap.acknowledged_count() > enough);
            broker.kill();
            thread::sleep(Duration::from_millis(300));
            broker.start_again();
        }
    });
    let ledger = until_delivered(&tap, "ingest/meter", usize::try_from(RECORDS).unwrap());
    assert!(ledger.losses().is_empty(), "nothing forced a loss: {:?}", ledger.losses());
    for (n, record) in (0..).zip(ledger.stream("ingest/meter")) {
        assert_eq!((record.seq, record.data["n"].as_u64()), (n + 1, Some(n)), "no record is renumbered");
    }
}

#[test]
fn a_broker_that_forgets_its_sessions_is_killed_while_100_000_records_flow_and_all_arrive() {
    requires!(need::program("mosquitto"));
    kill_the_broker_while_records_flow(Broker::start());
}

#[test]
fn a_broker_that_keeps_its_sessions_is_killed_while_100_000_records_flow_and_all_arrive() {
    requires!(need::program("mosquitto"));
    kill_the_broker_while_records_flow(Broker::builder().persistent().start());
}

#[test]
fn a_broker_that_stays_away_for_longer_than_the_keep_alive_gets_all_records_when_it_returns() {
    requires!(need::program("mosquitto"));
    let mut broker = Broker::start();
    let tap = Tap::before(&broker);
    let daemon = Daemon::builder().broker(tap.port()).mqtt("keep_alive = \"2s\"").config(QUIET).start();
    until_state(&daemon, "connected");
    hand_over(&daemon, "meter", 0, 500);
    broker.kill();
    let status = eventually(SOON, "the loss of the broker is noticed", || {
        let status = uplink(&daemon);
        (status["state"] != "connected").then_some(status)
    });
    assert!(status["reason"].is_string(), "{status}");
    hand_over(&daemon, "meter", 500, 5_000);
    thread::sleep(Duration::from_secs(5));
    broker.start_again();
    let ledger = until_delivered(&tap, "ingest/meter", 5_000);
    assert!(ledger.losses().is_empty());
}

#[test]
fn a_frozen_broker_that_looks_alive_is_found_out_and_gets_all_records_when_it_thaws() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let daemon = Daemon::builder().broker(tap.port()).mqtt("keep_alive = \"4s\"").config(QUIET).start();
    until_state(&daemon, "connected");
    hand_over(&daemon, "meter", 0, 1_000);
    broker.freeze();
    let frozen = Instant::now();
    // More than the sockets between take: the daemon's writes block.
    hand_over(&daemon, "meter", 1_000, 20_000);
    let status = eventually(SOON, "the frozen broker is found out", || {
        let status = uplink(&daemon);
        (status["state"] != "connected").then_some(status)
    });
    assert!(frozen.elapsed() < Duration::from_secs(15), "{status}");
    broker.thaw();
    until_delivered(&tap, "ingest/meter", 20_000);
}

#[test]
fn a_half_open_connection_is_found_out_and_all_records_arrive_once_packets_pass_again() {
    requires!(need::root(), need::program("mosquitto"), need::program("nft"));
    let net = Netns::new("half-open");
    let broker = Broker::builder().inside(&net).start();
    let tap = Tap::before(&broker);
    let daemon = Daemon::builder().broker(tap.port()).mqtt("keep_alive = \"4s\"").config(QUIET).inside(&net).start();
    until_state(&daemon, "connected");
    hand_over(&daemon, "meter", 0, 500);
    // Neither side hears of the other any more, and no packet says that the connection is gone.
    net.run("nft add table inet cut");
    net.run("nft add chain inet cut both { type filter hook input priority 0 ; }");
    net.run(&format!("nft add rule inet cut both tcp dport {} drop", tap.port()));
    net.run(&format!("nft add rule inet cut both tcp sport {} drop", tap.port()));
    let cut = Instant::now();
    hand_over(&daemon, "meter", 500, 3_000);
    eventually(SOON, "the half-open connection is found out", || uplink(&daemon)["state"] != "connected");
    assert!(cut.elapsed() < Duration::from_secs(10), "within two keep-alives, not {:?}", cut.elapsed());
    net.run("nft delete table inet cut");
    until_delivered(&tap, "ingest/meter", 3_000);
}

#[test]
fn another_broker_in_a_reloaded_configuration_gets_what_the_first_one_did_not() {
    requires!(need::program("mosquitto"));
    let (first, second) = (Broker::start(), Broker::start());
    let tap = Tap::before(&second);
    let mut daemon = Daemon::builder().broker(first.port()).config(QUIET).start();
    let farewell = Subscriber::start(first.port(), &daemon.topic("status"));
    until_state(&daemon, "connected");
    eventually(SOON, "the subscriber is there", || farewell.subscribed() == 1);

    // A later name in the folder wins.
    let later = daemon.config_file().with_file_name("conf.d").join("z.toml");
    std::fs::write(later, format!("[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n", tap.port())).unwrap();
    daemon.running().signal(Signal::HUP);
    farewell.wait_for("an orderly leave", SOON, |message| message.json()["reason"] == "reconfigured");
    hand_over(&daemon, "meter", 0, 100);
    until_delivered(&tap, "ingest/meter", 100);
    assert_eq!(uplink(&daemon)["broker"], format!("mqtt://127.0.0.1:{}", tap.port()));
}

#[test]
fn a_stop_does_not_wait_for_a_frozen_broker() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let mut daemon = Daemon::builder().broker(broker.port()).config(QUIET).start();
    until_state(&daemon, "connected");
    broker.freeze();
    let (status, took) = daemon.stop(Duration::from_secs(5));
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    broker.thaw();
}

#[test]
fn records_keep_their_numbers_when_the_daemon_is_killed_with_records_in_flight() {
    requires!(need::program("mosquitto"));
    // Slow to acknowledge: what is in flight stays so for a while.
    let broker = Broker::builder().persistent().start();
    let tap = Tap::before(&broker);
    let mut daemon = Daemon::builder().broker(tap.port()).config(QUIET).start();
    for round in 0..3 {
        hand_over(&daemon, "meter", round * 3_000, (round + 1) * 3_000);
        daemon.kill();
        daemon.start_again();
    }
    let ledger = until_delivered(&tap, "ingest/meter", 9_000);
    assert!(ledger.losses().is_empty());
    assert!(tap.sessions().iter().skip(1).all(|present| *present), "a new process takes up its session");
}

#[test]
fn a_full_spool_loses_the_oldest_and_says_so_before_anything_else() {
    requires!(need::program("mosquitto"));
    let mut broker = Broker::start();
    let tap = Tap::before(&broker);
    broker.kill();
    let small = format!("{QUIET}\n\n[spool]\nmax_size = \"48MiB\"");
    let daemon = Daemon::builder().broker(tap.port()).config(&small).start();
    let mut ingest = Ingest::connect(&daemon);
    // 75 MiB in records of 60 KiB.
    let text = "x".repeat(60_000);
    for n in 0..1_300 {
        ingest.put("meter", &json!({"n": n, "text": text})).unwrap();
    }
    broker.start_again();
    until_state(&daemon, "connected");
    // Reports are gathered for a second each, so the last may come after the newest record.
    let complete = eventually(DELIVERED_WITHIN, "the newest record, and a report for each gap before it", || {
        let ledger = Ledger::of(&tap.acknowledged());
        let newest = ledger.stream("ingest/meter").any(|record| record.seq == 1_300);
        (newest && ledger.faults().is_empty()).then_some(ledger)
    });
    let losses = complete.losses();
    assert!(
        !losses.is_empty() && losses.iter().all(|loss| loss.reason == "evicted" && loss.stream == "ingest/meter"),
        "{losses:?}"
    );
    let of_the_spool = |message: &tidegate_tests::Message| message.json()["stream"].is_string();
    let first = tap.acknowledged().into_iter().find(of_the_spool).unwrap();
    assert!(first.topic.ends_with("/event/loss"), "{}", first.topic);
}

#[test]
fn the_status_is_online_while_it_runs_and_offline_after_a_stop_and_after_a_kill() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let mut daemon = Daemon::builder().broker(broker.port()).config(QUIET).start();
    let topic = daemon.topic("status");
    let subscriber = Subscriber::start(broker.port(), &topic);
    let online = subscriber.wait_for("birth", SOON, |message| message.json()["state"] == "online").json();
    assert!(online["version"].is_string() && online["kernel"].is_string() && online["arch"].is_string(), "{online}");

    let (status, took) = daemon.stop(Duration::from_secs(5));
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let farewell = subscriber.wait_for("farewell", SOON, |message| message.json()["state"] == "offline").json();
    assert_eq!((farewell["reason"].as_str(), farewell["boot"].as_str()), (Some("stopping"), online["boot"].as_str()));

    daemon.start_again();
    eventually(SOON, "a second birth", || {
        subscriber.messages().iter().filter(|message| message.json()["state"] == "online").count() >= 2
    });
    daemon.kill();
    let will = subscriber.wait_for("the will", SOON, |message| message.json()["reason"] == "connection-lost").json();
    assert_eq!(will["state"], "offline");
    let late = Subscriber::start(broker.port(), &topic);
    let kept = late.wait_for("what is retained", SOON, |_| true).json();
    assert_eq!(kept["state"], "offline", "{kept}");
}

#[test]
fn a_record_that_the_access_list_forbids_waits_and_the_other_lanes_go_on() {
    requires!(need::program("mosquitto"));
    a_forbidden_record_waits(Broker::builder().line("max_inflight_messages 20"));
}

#[test]
fn a_forbidden_record_waits_also_where_the_broker_closes_the_connection_over_it() {
    requires!(need::program("mosquitto"));
    // So does mosquitto 2.0.11 where messages in flight are not limited, which is the harness's own setting.
    a_forbidden_record_waits(Broker::builder());
}

fn a_forbidden_record_waits(broker: BrokerBuilder) {
    let acl = "topic write tidegate/v1/gw-test/status\ntopic readwrite tidegate/v1/gw-test/echo/#\n\
               topic write tidegate/v1/gw-test/+/reported\ntopic write tidegate/v1/gw-test/event/#\n\
               topic write tidegate/v1/gw-test/ingest/open\ntopic write tidegate/v1/gw-test/telemetry/#\n";
    let broker = broker.acl(acl).start();
    let tap = Tap::before(&broker);
    let config = "[traffic]\ninterfaces = []\n\n[host]\ninterval = \"1s\"";
    let daemon = Daemon::builder().broker(tap.port()).config(config).start();
    until_state(&daemon, "connected");
    hand_over(&daemon, "closed", 0, 1);
    hand_over(&daemon, "open", 0, 10);
    let status = eventually(DELIVERED_WITHIN, "the refusal is shown", || {
        let status = uplink(&daemon);
        (status["held"].as_u64() > Some(0)).then_some(status)
    });
    assert!(status["held_reason"].as_str().is_some_and(|reason| reason.contains("not authorized")), "{status}");
    let telemetry = || Ledger::of(&tap.acknowledged()).stream("telemetry").count();
    let before = telemetry();
    // Where the broker closes the connection each time, a wait that is drawn at random lies before the next one.
    eventually(DELIVERED_WITHIN, "telemetry goes on", || telemetry() > before + 3);
    assert!(tap.refused().iter().all(|(message, _)| message.topic.ends_with("/ingest/closed")), "{:?}", tap.refused());
}

#[test]
fn an_access_list_that_knows_nothing_of_desired_state_costs_one_connection_at_most() {
    requires!(need::program("mosquitto"));
    // As above: this broker closes the connection over what it denies.
    let acl = "topic write tidegate/v1/gw-test/status\ntopic readwrite tidegate/v1/gw-test/echo\n\
               topic write tidegate/v1/gw-test/telemetry/#\ntopic write tidegate/v1/gw-test/event/#\n";
    let broker = Broker::builder().acl(acl).start();
    let config = "[traffic]\ninterfaces = []\n\n[host]\ninterval = \"1s\"";
    let daemon = Daemon::builder().broker(broker.port()).config(config).start();
    let status = eventually(DELIVERED_WITHIN, "telemetry goes", || {
        let status = uplink(&daemon);
        if status["acknowledged"]["telemetry"].as_u64() > Some(10) { Ok(status) } else { Err(status.to_string()) }
    });
    assert!(status["reconnects"].as_u64() <= Some(1), "{status}");
    assert!(status["forbidden"][0].as_str().unwrap().contains("echo/desired"), "{status}");
}

#[test]
fn a_record_beyond_the_brokers_packet_size_is_reported_as_lost_and_the_next_one_goes() {
    requires!(need::program("mosquitto"));
    a_large_record_is_given_up(&Broker::builder().line("max_packet_size 4000").start());
}

#[test]
fn a_record_that_makes_the_broker_end_the_connection_is_reported_as_lost_and_the_next_one_goes() {
    requires!(need::program("mosquitto"));
    a_large_record_is_given_up(&Broker::builder().line("message_size_limit 4000").start());
}

fn a_large_record_is_given_up(broker: &Broker) {
    let subscriber = Subscriber::start(broker.port(), "tidegate/v1/#");
    let daemon = Daemon::builder().broker(broker.port()).config(QUIET).start();
    until_state(&daemon, "connected");
    hand_over(&daemon, "meter", 0, 100);
    let mut ingest = Ingest::connect(&daemon);
    let large = ingest.put("meter", &json!({"text": "x".repeat(10_000)})).unwrap();
    hand_over(&daemon, "meter", 101, 200);
    // Four connections that end, each after a longer wait than the one before, drawn at random.
    let ledger = eventually(Duration::from_mins(3), "all but the large one", || {
        let ledger = Ledger::of(&subscriber.messages());
        let found = ledger.stream("ingest/meter").count();
        if found == 199 && !ledger.losses().is_empty() {
            Ok(ledger)
        } else {
            Err(format!("{found} {:?}", ledger.losses()))
        }
    });
    ledger.assert_complete();
    let losses = ledger.losses();
    let [loss] = &losses[..] else { panic!("one loss, not {losses:?}") };
    assert_eq!((loss.stream.as_str(), loss.from_seq, loss.to_seq), ("ingest/meter", large, large));
    assert_eq!(loss.reason, "refused");
}

#[test]
fn a_broker_that_does_not_return_our_own_message_is_not_connected_and_says_why() {
    requires!(need::program("mosquitto"));
    let broker = Broker::builder().acl("topic write tidegate/v1/#\n").start();
    let daemon = Daemon::builder().broker(broker.port()).mqtt("keep_alive = \"2s\"").config(QUIET).start();
    let status = until_state(&daemon, "unreachable");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("tidegate/v1/gw-test/echo") && reason.contains("access list"), "{reason}");
    assert!(status["next_attempt_s"].is_u64(), "{status}");
}

#[test]
fn records_arrive_over_tls_with_a_client_certificate() {
    requires!(need::program("mosquitto"), need::program("openssl"));
    let pki = Pki::new();
    let broker = Broker::builder().tls(&pki, true).start();
    let client = pki.client("gw-test");
    let mqtt =
        format!("url = \"{}\"\nca = {:?}\ncert = {:?}\nkey = {:?}", broker.url(), pki.ca(), client.cert, client.key);
    let daemon = Daemon::builder().mqtt(&mqtt).config(QUIET).start();
    until_state(&daemon, "connected");
    hand_over(&daemon, "meter", 0, 2_000);
    eventually(SOON, "all are acknowledged", || {
        let acknowledged = uplink(&daemon)["acknowledged"]["ingest"].clone();
        if acknowledged == 2_000 { Ok(()) } else { Err(acknowledged.to_string()) }
    });
}

/// Why a daemon with these lines of `[mqtt]` does not reach the broker.
#[track_caller]
fn reason_of_failure(mqtt: &str) -> String {
    let daemon = Daemon::builder().mqtt(mqtt).config(QUIET).start();
    until_state(&daemon, "unreachable")["reason"].as_str().unwrap().to_owned()
}

#[test]
fn each_failure_of_tls_says_what_to_mend() {
    requires!(need::program("mosquitto"), need::program("openssl"));
    let pki = Pki::new();
    let other = Pki::new();
    let broker = Broker::builder().tls(&pki, true).start();
    let url = format!("url = \"{}\"", broker.url());

    let reason = reason_of_failure(&format!("{url}\nca = {:?}", other.ca()));
    assert!(reason.contains("[mqtt] ca"), "another CA: {reason}");

    let reason = reason_of_failure(&format!("{url}\nca = {:?}", pki.ca()));
    assert!(reason.contains("client certificate: set [mqtt] cert and key"), "no client certificate: {reason}");

    let foreign = other.client("gw-test");
    let reason =
        reason_of_failure(&format!("{url}\nca = {:?}\ncert = {:?}\nkey = {:?}", pki.ca(), foreign.cert, foreign.key));
    assert!(reason.contains("does not trust [mqtt] cert"), "a client certificate of another CA: {reason}");

    let plain = Broker::start();
    let reason = reason_of_failure(&format!("url = \"mqtts://127.0.0.1:{}\"\nca = {:?}", plain.port(), pki.ca()));
    assert!(reason.contains("TLS"), "no TLS there: {reason}");

    let expired = Pki::expired();
    let broker = Broker::builder().tls(&expired, false).start();
    let reason = reason_of_failure(&format!("url = \"{}\"\nca = {:?}", broker.url(), expired.ca()));
    assert!(reason.contains("expired") && reason.contains("clock"), "an expired certificate: {reason}");
}

#[test]
fn a_refused_password_names_the_keys_to_look_at_and_a_mended_file_is_read_at_the_next_attempt() {
    requires!(need::program("mosquitto"), need::program("mosquitto_passwd"));
    let broker = Broker::builder().password("gw-test", "secret").start();
    let folder = tidegate_tests::Scratch::new("password");
    let file = folder.write("password", "wrong\n");
    let mqtt = format!("url = \"{}\"\nuser = \"gw-test\"\npassword_file = {file:?}", broker.url());
    let daemon = Daemon::builder().mqtt(&mqtt).config(QUIET).start();
    let status = until_state(&daemon, "unreachable");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("[mqtt] user") && reason.contains("password_file"), "{reason}");
    folder.write("password", "secret\n");
    until_state(&daemon, "connected");
}
