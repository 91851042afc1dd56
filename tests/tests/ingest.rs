//! Local programs at the ingest socket of a real daemon, those that behave and those that do not.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    process::{Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tidegate_tests::{Broker, Daemon, Ingest, Tap, eventually, memory_kib, mqtt::Ledger, need, requires};

/// Nothing but ingest, so that what arrives is what was handed over.
const QUIET: &str = "[traffic]\ninterfaces = []\n";

fn daemon() -> Daemon {
    Daemon::builder().config(QUIET).start()
}

/// Data of `ingest/NAME` that the broker acknowledged, as text, in order, without duplicates.
fn delivered(tap: &Tap, name: &str) -> Vec<Value> {
    let messages = tap.acknowledged();
    let ledger = Ledger::of(&messages);
    ledger.assert_complete();
    ledger.stream(&format!("ingest/{name}")).map(|envelope| envelope.data.clone()).collect()
}

/// `tidegate send` with `input` on its standard input.
fn send(daemon: &Daemon, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = daemon
        .command(&[&["send"], arguments].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that stops reading its input has its reasons; its status tells.
    let _stopped_early = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().unwrap()
}

#[test]
fn data_reaches_the_broker_byte_for_byte() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let daemon = Daemon::builder().config(QUIET).broker(tap.port()).start();
    let mut client = Ingest::connect(&daemon);
    let data = r#"{"b" : 1.50, "a":"\u00e4ä", "n":1e400}"#;
    client.send_raw(format!("{{\"name\":\"meter\",\"data\":{data},\"id\":1}}\n").as_bytes()).unwrap();
    assert_eq!(client.answer().unwrap(), json!({"ok": true, "seq": 1, "id": 1}));
    let message = eventually(Duration::from_mins(1), "the record is acknowledged", || {
        tap.acknowledged().into_iter().find(|message| message.topic == daemon.topic("ingest/meter"))
    });
    let payload = str::from_utf8(&message.payload).unwrap();
    assert!(payload.ends_with(&format!("\"data\":{data}}}")), "{payload}");
}

#[test]
fn a_slow_writer_is_served_at_its_pace_and_holds_up_nobody() {
    let daemon = daemon();
    let mut slow = Ingest::connect(&daemon);
    let mut other = Ingest::connect(&daemon);
    let mut slowest = Duration::ZERO;
    for byte in b"{\"name\":\"slow\",\"data\":\"a byte at a time\"}\n" {
        slow.send_raw(&[*byte]).unwrap();
        let begun = Instant::now();
        other.put("quick", &json!(1)).unwrap();
        slowest = slowest.max(begun.elapsed());
        sleep(Duration::from_millis(20));
    }
    assert_eq!(slow.answer().unwrap()["ok"], true);
    assert!(slowest < Duration::from_secs(2), "an answer took {slowest:?}");
}

#[test]
fn a_client_that_stops_in_the_middle_of_a_line_is_cut_off_and_a_silent_one_is_not() {
    let daemon = daemon();
    let mut silent = Ingest::connect(&daemon);
    silent.put("a", &json!(1)).unwrap();
    let mut half = UnixStream::connect(daemon.ingest_socket()).unwrap();
    half.write_all(b"{\"name\":\"a\",\"da").unwrap();
    half.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let begun = Instant::now();
    assert_eq!(half.read(&mut [0; 64]).unwrap(), 0, "the end of the connection");
    let took = begun.elapsed();
    assert!((25..45).contains(&took.as_secs()), "{took:?}");
    silent.put("a", &json!(2)).unwrap();
    eventually(Duration::from_secs(5), "it is counted", || daemon.status()["ingest"]["cut_off"] == 1);
}

#[test]
fn lines_that_break_the_contract_are_refused_and_those_behind_them_are_taken() {
    let daemon = daemon();
    let mut client = Ingest::connect(&daemon);
    let wrapping = r#"{"name":"a","data":""}"#.len();
    let of_size = |bytes: usize| format!(r#"{{"name":"a","data":"{}"}}"#, "x".repeat(bytes - wrapping)).into_bytes();
    for (line, error) in [
        (of_size(65_536), None),
        (of_size(65_537), Some("too_large")),
        (of_size(3_000_000), Some("too_large")),
        (b"{\"name\":\"a\",\"data\":\"\xff\xfe\"}".to_vec(), Some("bad_json")),
        (b"\xff".repeat(1000), Some("bad_json")),
        (b"\0\0\0".to_vec(), Some("bad_json")),
        (b"".to_vec(), Some("bad_json")),
        (br#"{"name":"a","data":1,"data":2}"#.to_vec(), Some("bad_json")),
        (br#"{"name":"../etc","data":1}"#.to_vec(), Some("bad_name")),
        (br#"{"name":"a","data":1}"#.to_vec(), None),
    ] {
        client.send_raw(&line).unwrap();
        client.send_raw(b"\n").unwrap();
        let answer = client.answer().unwrap();
        assert_eq!((answer["error"].as_str(), answer["ok"] == true), (error, error.is_none()), "{answer}");
    }
    let refused = eventually(Duration::from_secs(5), "all is counted", || {
        let ingest = daemon.status()["ingest"].clone();
        (ingest["accepted"] == 2).then_some(ingest["refused"].clone())
    });
    assert_eq!(refused, json!({"too_large": 2, "bad_json": 5, "bad_name": 1, "full": 0, "busy": 0}));
}

#[test]
fn a_thousand_connections_at_once_are_all_served() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let tap = Tap::before(&broker);
    let mut daemon = Daemon::builder().config(QUIET).broker(tap.port()).log("info").start();
    // Loading the eBPF programs takes memory for a moment, some of which stays.
    daemon.wait_for_log("ready", Duration::from_mins(1));
    let pid = daemon.running().pid();
    let idle = memory_kib(pid, "VmRSS");
    let mut clients: Vec<Ingest> =
        (0..1_000).map(|_| Ingest::try_connect(&daemon.ingest_socket()).expect("a place is free")).collect();
    for round in 0..5 {
        for (index, client) in clients.iter_mut().enumerate() {
            client.send("many", &json!([index, round]), None).unwrap();
        }
        for client in &mut clients {
            assert_eq!(client.answer().unwrap()["ok"], true);
        }
    }
    assert_eq!(daemon.status()["ingest"]["connections"], 1_000);
    let busy = memory_kib(pid, "VmRSS");
    println!("resident memory: {idle} KiB before, {busy} KiB with 1,000 connections");
    assert!(busy < idle + 16 * 1024, "{busy} KiB resident, {idle} KiB before");
    eventually(Duration::from_mins(1), "all records are acknowledged", || {
        (delivered(&tap, "many").len() == 5_000).then_some(())
    });
}

#[test]
fn a_connection_too_many_is_told_so_and_those_that_are_there_go_on() {
    let daemon = daemon();
    let limit = usize::try_from(daemon.status()["ingest"]["max_connections"].as_u64().unwrap()).unwrap();
    let mut clients: Vec<Ingest> = (0..limit).map(|_| Ingest::try_connect(&daemon.ingest_socket()).unwrap()).collect();
    clients[0].put("a", &json!(1)).unwrap();
    clients[limit - 1].put("a", &json!(1)).unwrap();
    let mut turned_away = Ingest::try_connect(&daemon.ingest_socket()).unwrap();
    let answer = turned_away.answer().unwrap();
    assert_eq!((&answer["error"], &answer["retry_ms"]), (&json!("busy"), &json!(1000)));
    assert_eq!(turned_away.answer().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    drop(clients.pop());
    eventually(Duration::from_secs(5), "its place is free", || {
        Ingest::try_connect(&daemon.ingest_socket()).unwrap().put("a", &json!(1)).is_ok()
    });
}

#[test]
fn a_client_that_does_not_read_its_answers_stops_only_itself() {
    let daemon = daemon();
    let mut deaf = UnixStream::connect(daemon.ingest_socket()).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let lines = "{\"name\":\"deaf\",\"data\":1}\n".repeat(1_000);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        // The rest of a line that did not fit is lost, which makes the next one wrong: all the same here.
        match deaf.write(lines.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(Duration::from_millis(10)),
            written => assert!(written.unwrap() > 0),
        }
    }
    Ingest::connect(&daemon).put("a", &json!(1)).unwrap();
}

#[test]
fn send_ends_well_when_all_is_on_disk_and_a_kill_after_that_loses_nothing() {
    requires!(need::program("mosquitto"));
    let mut broker = Broker::start();
    let tap = Tap::before(&broker);
    broker.kill();
    let mut daemon = Daemon::builder().config(QUIET).broker(tap.port()).log("info").start();
    let input = (0..20_000).map(|index| format!("{{\"n\":{index}}}\n")).collect::<Vec<_>>().concat();
    let output = send(&daemon, &["meter", "--json"], input.as_bytes());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["on_disk"], &summary["last_seq"]), (&json!(20_000), &json!(20_000)));

    daemon.kill();
    daemon.start_again();
    broker.start_again();
    eventually(Duration::from_mins(1), "all records are acknowledged", || {
        (delivered(&tap, "meter").len() == 20_000).then_some(())
    });
    let data = delivered(&tap, "meter");
    assert!(data.iter().enumerate().all(|(index, data)| data["n"] == index));
}

#[test]
fn send_names_the_line_that_is_refused_and_what_is_on_disk() {
    let daemon = daemon();
    let output = send(&daemon, &["meter"], b"1\n{\"a\":\n3\n");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("line 2: refused, bad_json: ") && said.contains("on disk"), "{said}");

    let output = send(&daemon, &["Meter"], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a name is 1 to 64 of a-z 0-9 _ -"));
}

#[test]
fn send_says_so_where_no_daemon_runs() {
    let daemon = Daemon::builder().prepare();
    let output = send(&daemon, &["meter"], b"1\n");
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("tidegate is not running"));
}

#[test]
fn send_waits_for_a_daemon_that_restarts() {
    let mut daemon = daemon();
    let mut child = daemon.command(&["send", "meter"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\n").unwrap();
    eventually(Duration::from_secs(10), "the first is on disk", || daemon.status()["ingest"]["accepted"] == 1);
    let (status, _) = daemon.stop(Duration::from_secs(10));
    assert!(status.success());
    daemon.start_again();
    stdin.write_all(b"2\n").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eventually(Duration::from_secs(10), "the second is on disk", || daemon.status()["ingest"]["accepted"] == 1);
}
