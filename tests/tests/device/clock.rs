//! The wall clock is not set, is set, and jumps back.

use std::{
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use tidegate_tests::{
    Broker, Message, Subscriber, eventually,
    mqtt::{Ledger, Pki},
    requires,
    vm::{self, Machine},
};

use crate::LONG_WAIT;

pub(super) fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Envelopes of `telemetry/host`, which comes each second here.
fn samples(messages: &[Message]) -> Vec<Value> {
    messages.iter().filter(|message| message.topic.ends_with("/telemetry/host")).map(Message::json).collect()
}

/// How many samples are made in ten seconds from now, by their own time since boot.
#[track_caller]
fn samples_in_ten_seconds(consumer: &Subscriber) -> usize {
    let up = |sample: &Value| sample["data"]["up_seconds"].as_f64().unwrap();
    let newest = || samples(&consumer.messages()).iter().map(up).fold(0.0, f64::max);
    let begin = newest();
    eventually(LONG_WAIT, "ten seconds pass in the machine", || newest() > begin + 10.5);
    samples(&consumer.messages()).iter().filter(|sample| (begin + 0.5..=begin + 10.5).contains(&up(sample))).count()
}

/// Sets the machine's wall clock.
pub(super) fn set_clock(machine: &Machine, ms: u64) {
    machine.run(&format!("date --utc --set=@{}.{:03}", ms / 1000, ms % 1000)).ok();
}

#[test]
fn records_of_1970_say_so_and_tls_waits_for_the_clock() {
    requires!(vm::available());
    let pki = Pki::new();
    // The second listener is the consumers'.
    let consumers = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let broker = Broker::builder().quiet().tls(&pki, false).line(&format!("listener {consumers} 127.0.0.1")).start();
    let consumer = Subscriber::start(consumers, "tidegate/v1/#");

    let machine = Machine::bare().with_tidegate().clock("1970-01-01T00:00:00").boot();
    let year = machine.run("date --utc +%Y").ok();
    assert_eq!(year, "1970");
    machine.put(pki.ca(), "/etc/tidegate/ca.pem");
    let config = format!(
        "[gateway]\nid = \"gw-test\"\n[mqtt]\nurl = \"mqtts://10.0.2.2:{}\"\nca = \"/etc/tidegate/ca.pem\"\n\
         [traffic]\ninterfaces = []\n[host]\ninterval = \"1s\"\n",
        broker.port()
    );
    machine.write("/etc/tidegate/conf.d/test.toml", &config);
    machine.run("mkdir -p /run/tidegate; tidegate run </dev/null >/run/tidegate.log 2>&1 &").ok();

    // The broker's certificate begins today.
    let said = eventually(LONG_WAIT, "status says why there is no connection", || {
        let status = machine.run("tidegate status --json").stdout;
        let status: Value = serde_json::from_str(&status).map_err(|error| format!("{error}: {status}"))?;
        let reason = status["uplink"]["reason"].as_str().unwrap_or_default().to_owned();
        if reason.contains("not valid yet") { Ok((reason, status)) } else { Err(status.to_string()) }
    });
    assert!(said.0.contains("clock"), "{}", said.0);
    assert_eq!(said.1["clock_synced"], false);
    assert!(said.1["problems"].to_string().contains("the wall clock has not been set"), "{}", said.1);
    machine.send("meter", 1, 10);
    assert!(consumer.messages().is_empty(), "nothing goes out to a broker whose certificate cannot be judged");

    set_clock(&machine, now_ms());
    machine.send("meter", 11, 20);
    let meter = eventually(LONG_WAIT, "it connects by itself, and all arrives", || {
        let messages = consumer.messages();
        let meter: Vec<_> =
            messages.iter().filter(|message| message.topic.ends_with("/ingest/meter")).map(Message::json).collect();
        if meter.len() >= 20 { Ok(meter) } else { Err(format!("{} of 20", meter.len())) }
    });
    let boot = machine.run("cat /proc/sys/kernel/random/boot_id").ok();
    let synced = eventually(LONG_WAIT, "a sample of this boot with the time", || {
        samples(&consumer.messages()).into_iter().find(|sample| sample["boot"] == boot && sample["synced"].is_null())
    });
    // How docs/mqtt.md says that the true time follows.
    let up = Duration::from_secs_f64(synced["data"]["up_seconds"].as_f64().unwrap());
    let booted_ms = synced["ts_ms"].as_u64().unwrap() - u64::try_from(up.as_millis()).unwrap();
    for record in &meter {
        let number = record["data"]["n"].as_u64().unwrap();
        let unset = record["synced"] == false;
        assert_eq!(unset, number <= 10, "{record}");
        assert_eq!(record["boot"], boot);
        if unset {
            assert!(record["ts_ms"].as_u64().unwrap() < 86_400_000, "the clock as it was: {record}");
            let made_ms = booted_ms + record["up_ms"].as_u64().unwrap();
            let ago_ms = now_ms() - made_ms;
            assert!(ago_ms < 600_000, "made {ago_ms} ms ago: {record}");
        }
    }
    Ledger::of(&consumer.messages()).assert_complete();
}

#[test]
fn sequences_timers_and_the_watchdog_do_not_follow_the_wall_clock() {
    requires!(vm::available());
    let broker = Broker::builder().quiet().start();
    let consumer = Subscriber::start(broker.port(), "tidegate/v1/#");
    let machine = Machine::debian().with_tidegate().resume();
    machine.configure(&broker, "[host]\ninterval = \"1s\"\n[traffic]\nexport_interval = \"1s\"\n");
    // Short, so that it would bite here.
    machine.write("/etc/systemd/system/tidegate.service.d/test.conf", "[Service]\nWatchdogSec=9s\n");
    set_clock(&machine, 86_400_000);
    machine.run("systemctl daemon-reload && systemctl start tidegate").ok();
    consumer.wait_for("it is connected", LONG_WAIT, |message| message.topic.ends_with("/telemetry/host"));
    let pid = machine.unit("tidegate", "MainPID");

    let hour = 3_600_000;
    for (when, clock_ms) in [("in 1970", None), ("now", Some(now_ms())), ("an hour ago", Some(now_ms() - hour))] {
        if let Some(clock_ms) = clock_ms {
            set_clock(&machine, clock_ms);
        }
        let made = samples_in_ten_seconds(&consumer);
        assert!((8..=12).contains(&made), "{when}: {made} samples in ten seconds, wanted one a second");
    }
    let seen = samples(&consumer.messages()).len();
    machine.send("meter", 1, 1);
    consumer.wait_for("a record handed over after the jumps", LONG_WAIT, |message| {
        message.topic.ends_with("/ingest/meter") && message.json()["synced"].is_null()
    });
    assert!(seen > 30, "{seen}");
    // Each stream grows by one, without a repetition: one connection did it all.
    let ledger = Ledger::of(&consumer.messages());
    ledger.assert_complete();
    assert_eq!((ledger.duplicates, ledger.losses().len()), (0, 0));
    let status = machine.status();
    assert_eq!((&status["uplink"]["reconnects"], &status["uplink"]["state"]), (&0.into(), &"connected".into()));
    assert!(status["uplink"]["state_s"].as_u64().unwrap() < 600, "no 56 years: {}", status["uplink"]);
    thread::sleep(Duration::from_secs(1));
    assert_eq!((machine.unit("tidegate", "MainPID"), machine.unit("tidegate", "NRestarts")), (pid, "0".to_owned()));
}
