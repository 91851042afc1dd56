//! Managed from afar: what waits at the broker while the clock is not set, a restart on request, power cuts in a trial.

use std::{sync::Arc, thread, time::Duration};

use serde_json::{Value, json};
use tidegate_tests::{
    Broker, Message, Subscriber, eventually,
    mqtt::Publisher,
    requires,
    vm::{self, Machine, StateDisk},
};

use crate::{
    LONG_WAIT,
    clock::{now_ms, set_clock},
    gateway,
    power::{bare, start},
    storm::DISK_MIB,
};

const OURS: &str = "tidegate/v1/gw-test";
/// The second of January 1970.
const UNSET_MS: u64 = 86_400_000;

/// The operator's side: who publishes, and what comes back, each message of which is held against its schema.
struct Office {
    operator: Publisher,
    seen: Subscriber,
    broker: Broker,
}

impl Office {
    #[track_caller]
    fn open() -> Self {
        let broker = Broker::builder().quiet().start();
        let seen = Subscriber::start(broker.port(), &format!("{OURS}/#"));
        Self { operator: Publisher::connect(&broker), seen, broker }
    }

    /// Publishes what the device or a group is to be.
    #[track_caller]
    fn desire(&mut self, whose: &str, version: u64, config: &Value) {
        let document = json!({ "version": version, "config": config }).to_string();
        self.operator.retain(format!("tidegate/v1/{whose}/config/desired"), document);
    }

    /// Asks for a command, and returns what it answers.
    #[track_caller]
    fn ask(&mut self, command: &str, request: &Value) -> Value {
        let answer = self.operator.request(&format!("{OURS}/cmd/{command}"), request.to_string()).json();
        assert_eq!(answer["ok"], true, "{answer}");
        answer
    }

    /// Waits until the latest report is about this version and state.
    #[track_caller]
    fn reported(&self, version: u64, state: &str) -> Value {
        eventually(LONG_WAIT, &format!("version {version} is reported as {state}"), || {
            let reports = self.reports();
            let latest = reports.last().ok_or("no report")?;
            let as_wanted = latest["version"] == version && latest["state"] == state;
            if as_wanted { Ok(latest.clone()) } else { Err(latest.to_string()) }
        })
    }

    fn reports(&self) -> Vec<Value> {
        let messages = self.seen.messages();
        messages.iter().filter(|message| message.topic.ends_with("/config/reported")).map(Message::json).collect()
    }
}

/// A key as it runs.
#[track_caller]
fn runs(machine: &Machine, key: &str) -> Value {
    machine.run("tidegate config show --json").json()["keys"][key]["value"].take()
}

/// Where the device's document stands, seen from the machine; null before it has one.
#[track_caller]
fn device(machine: &Machine) -> Value {
    machine.status()["configuration"]["remote"][0].clone()
}

#[test]
fn a_gateway_without_a_clock_takes_on_what_is_desired_and_restarts_when_it_is_asked_to() {
    requires!(vm::available());
    let mut office = Office::open();
    office.desire("@plant", 4, &json!({ "host": { "interval": "9s" }, "traffic": { "export_interval": "9s" } }));
    office.desire("gw-test", 1, &json!({ "host": { "interval": "2s" } }));

    let machine = Machine::debian().with_tidegate().resume();
    machine.configure(&office.broker, "[traffic]\ninterfaces = []\n");
    machine.write("/etc/tidegate/conf.d/groups.toml", "[gateway]\ngroups = [\"plant\"]\n");
    let note_its_end = "[Service]\nExecStopPost=-+/bin/sh -c 'echo $EXIT_CODE $EXIT_STATUS >>/run/ends'\n";
    machine.write("/etc/systemd/system/tidegate.service.d/test.conf", note_its_end);
    set_clock(&machine, UNSET_MS);
    machine.run("systemctl daemon-reload && systemctl start tidegate").ok();
    let process = machine.unit("tidegate", "MainPID");

    // Both documents are taken on, the device's over the group's, before the clock is set.
    let report = eventually(LONG_WAIT, "both documents are confirmed", || {
        let report = office.reported(1, "confirmed");
        if report["groups"][0]["state"] == "confirmed" { Ok(report) } else { Err(report.to_string()) }
    });
    let boot = machine.run("cat /proc/sys/kernel/random/boot_id").ok();
    assert_eq!((&report["synced"], &report["boot"]), (&json!(false), &json!(boot)), "{report}");
    assert!(report["up_ms"].as_u64().is_some_and(|up| up > 0), "{report}");
    for time in [&report["ts_ms"], &report["since_ms"]] {
        let as_it_was = time.as_u64().is_some_and(|ms| (UNSET_MS..2 * UNSET_MS).contains(&ms));
        assert!(as_it_was, "the clock as it was: {report}");
    }
    assert_eq!((&report["groups"][0]["version"], &report["drift"]), (&json!(4), &json!({})), "{report}");
    assert_eq!(runs(&machine, "host.interval"), "2s");
    assert_eq!(runs(&machine, "traffic.export_interval"), "9s");
    assert!(office.reports().iter().all(|report| report["synced"] == false), "{:?}", office.reports());
    assert_eq!(office.ask("status", &json!({}))["synced"], false);

    // From then on reports have the time. What needs a restart waits for one.
    set_clock(&machine, now_ms());
    office.desire("gw-test", 2, &json!({ "host": { "interval": "3s" }, "traffic": { "flow_capacity": 2048 } }));
    let report = office.reported(2, "pending-restart");
    assert_eq!(report["pending_restart"], json!(["traffic.flow_capacity"]), "{report}");
    assert_eq!((&report["synced"], &report["up_ms"]), (&Value::Null, &Value::Null), "{report}");
    for time in [&report["ts_ms"], &report["since_ms"]] {
        let away = Duration::from_millis(now_ms().abs_diff(time.as_u64().unwrap()));
        assert!(away < LONG_WAIT, "{away:?} away from now: {report}");
    }
    assert_eq!(runs(&machine, "host.interval"), "3s");

    // Asked to, it ends in order; systemd starts it again, and the whole is tried.
    let answer = office.ask("restart", &json!({}));
    assert_eq!((&answer["data"], &answer["synced"]), (&json!({}), &Value::Null), "{answer}");
    let report = office.reported(2, "confirmed");
    assert_eq!((&report["boot"], &report["pending_restart"]), (&json!(boot), &Value::Null), "{report}");
    assert_eq!(machine.run("cat /run/ends").ok(), "exited 75");
    assert_eq!(machine.unit("tidegate", "NRestarts"), "1");
    assert_ne!(machine.unit("tidegate", "MainPID"), process);
    let running = (runs(&machine, "host.interval"), runs(&machine, "traffic.flow_capacity"));
    assert_eq!(running, (json!("3s"), json!(2048)));
    assert_eq!(runs(&machine, "traffic.export_interval"), "9s");
    let status = office.ask("status", &json!({}));
    assert_eq!(status["data"]["commands"]["performed"]["restart"], Value::Null, "it is not performed once more");
    // Whoever watches for failed units has nothing to see.
    assert_eq!(machine.run("systemctl --failed --plain --no-legend").ok(), "");
    let errors = machine.journal("-u tidegate -p err");
    assert!(errors.is_empty(), "nothing was lost and nobody is needed: {errors:#?}");
}

/// A trial stays open long enough to cut the power in it, and is soon tried again.
const SHORT_TRIALS: &str = "[policy]\nconfirm_within = \"10s\"\n";

/// The power goes, and comes back, while the broker says nothing.
#[track_caller]
fn cut_power(machine: &mut Machine, office: &Office, begun_by: &str) {
    let (lost, held) = machine.cut_power();
    println!("cut in a trial begun by {begun_by}: {lost} of {held} cached writes lost");
    office.broker.freeze();
    machine.boot_again();
    start(machine);
}

#[test]
fn whenever_the_power_goes_in_a_trial_the_gateway_boots_with_what_was_confirmed_and_ends_with_what_is_desired() {
    requires!(vm::available());
    let mut office = Office::open();
    let seed = fastrand::u64(..);
    println!("seed of the disk: {seed}");
    let disk = Arc::new(StateDisk::new(DISK_MIB, seed));
    let mut machine = bare(&disk, office.broker.port(), SHORT_TRIALS);
    start(&machine);
    let interval = |seconds: u64| json!({ "traffic": { "export_interval": format!("{seconds}s") } });
    let runs = |machine: &Machine| runs(machine, "traffic.export_interval");
    office.desire("gw-test", 1, &interval(51));
    office.reported(1, "confirmed");

    for (begun_by, attempt) in [("its publication", 1), ("itself", 2), ("request", 1)] {
        match begun_by {
            "its publication" => office.desire("gw-test", 2, &interval(52)),
            "request" => drop(office.ask("retry", &json!({ "subject": "config" }))),
            _ => {}
        }
        let report = office.reported(2, "applied");
        // From here to the round trip that would prove it are two seconds. Without it the trial stays open.
        office.broker.freeze();
        assert_eq!((&report["attempts"], &report["confirmed"]["version"]), (&json!(attempt), &json!(1)), "{report}");
        assert_eq!((&device(&machine)["state"], runs(&machine)), (&json!("applied"), json!("52s")));
        cut_power(&mut machine, &office, begun_by);

        assert_eq!(runs(&machine), "51s");
        let device = device(&machine);
        assert_eq!((&device["state"], &device["confirmed"]), (&json!("rolled-back"), &json!(1)), "{device}");
        assert_eq!(device["reason"], "interrupted: the daemon ended during the trial", "{device}");
        office.broker.thaw();
        gateway::until_connected(&machine);
    }

    // Nobody does anything any more: it is tried again by itself.
    office.reported(2, "confirmed");
    // At random, so that the cut falls into any step up to where the trial is open.
    office.desire("gw-test", 3, &interval(53));
    thread::sleep(Duration::from_micros(fastrand::u64(..1_000_000)));
    cut_power(&mut machine, &office, "a new version");
    assert_eq!(runs(&machine), "52s", "what was reported as confirmed");
    office.broker.thaw();
    let report = office.reported(3, "confirmed");
    assert_eq!((&report["drift"], &report["confirmed"]["digest"]), (&json!({}), &report["digest"]), "{report}");
    assert_eq!(runs(&machine), "53s");
}
