use std::{collections::BTreeMap, fs};

use tempfile::TempDir;

use super::*;
use crate::{
    config::{Environment, MainFile},
    record::Stored,
};

/// A gateway's control with files of its own, a disk, a link and round trips that work at once.
struct Bench {
    folder: TempDir,
    agent: Agent,
    up_ms: u64,
    report: Value,
    events: Vec<Value>,
    disk: Vec<u8>,
}

fn now(up_ms: u64) -> record::Stamp {
    record::Stamp { boot: [7; 16], ts_ms: 1_767_225_600_000 + up_ms, up_ms, synced: true }
}

fn read(folder: &TempDir) -> Result<Local, Vec<ConfigError>> {
    let machine_id_file = folder.path().join("machine-id");
    fs::write(&machine_id_file, "0123456789abcdef0123456789abcdef\n").unwrap();
    let variables = [("STATE_DIRECTORY".into(), folder.path().join("state").into())];
    let environment = Environment { variables: BTreeMap::from(variables), machine_id_file };
    MainFile { path: folder.path().join("tidegate.toml"), required: false }.read(&environment)
}

impl Bench {
    fn new(toml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tidegate.toml"), toml).unwrap();
        let (agent, effects) = Agent::start(Kept::default(), read(&folder).unwrap(), &now(0));
        let mut bench = Self { folder, agent, up_ms: 0, report: Value::Null, events: Vec::new(), disk: Vec::new() };
        bench.agent.begin();
        bench.carry_out(effects);
        bench.happens(Input::Linked(true));
        bench
    }

    fn happens(&mut self, input: Input) {
        let effects = self.agent.handle(input, &now(self.up_ms));
        self.carry_out(effects);
    }

    /// One after the other; what answers them comes behind them.
    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let answer = match effect {
                Effect::Persist { write, content } => {
                    self.disk = content;
                    Input::Written { write, result: Ok(()) }
                }
                Effect::Probe(trial) => Input::Probed(trial),
                Effect::Report(report) => {
                    self.report = serde_json::from_slice(&report).unwrap();
                    continue;
                }
                Effect::Record(record) => {
                    assert_eq!(&*record.topic, "event/config");
                    let stored = record.encode(&now(self.up_ms));
                    self.events.push(serde_json::from_str(Stored::decode(&stored).unwrap().data).unwrap());
                    continue;
                }
                Effect::Run(_) => continue,
            };
            effects.extend(self.agent.handle(answer, &now(self.up_ms)));
        }
    }

    /// The next process begins with what is on disk. There is no link yet.
    fn restart(&mut self) {
        let disk = String::from_utf8(self.disk.clone()).unwrap();
        let kept = serde_json::from_str(disk.split_once('\n').unwrap().1).unwrap();
        let (agent, effects) = Agent::start(kept, read(&self.folder).unwrap(), &now(self.up_ms));
        self.agent = agent;
        self.carry_out(effects);
        self.agent.begin();
    }

    fn wait(&mut self, seconds: u64) {
        let until = self.up_ms + 1000 * seconds;
        while let Some(wake) = self.agent.wake().filter(|wake| *wake <= Duration::from_millis(until)) {
            self.up_ms = self.up_ms.max(u64::try_from(wake.as_millis()).unwrap());
            self.happens(Input::Tick);
        }
        self.up_ms = until;
    }

    fn desire_of(&mut self, source: Source, version: u64, config: &Value) {
        let payload = json!({ "version": version, "config": config }).to_string();
        self.happens(Input::Desired(source, Payload::Document(payload.into())));
    }

    fn desire(&mut self, version: u64, config: &Value) {
        self.desire_of(Source::Device, version, config);
    }

    fn write(&self, toml: &str) {
        fs::write(self.folder.path().join("tidegate.toml"), toml).unwrap();
    }

    fn look(&mut self) {
        let read = read(&self.folder);
        self.happens(Input::Look(read));
    }

    fn reload(&mut self) {
        let read = read(&self.folder);
        self.happens(Input::Reload(read));
    }

    fn told(&self, what: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["what"] == what).collect()
    }

    fn interval(&self) -> Duration {
        self.agent.running().host.interval
    }
}

fn group(name: &str) -> Source {
    Source::Group(name.into())
}

#[test]
fn local_files_that_are_wrong_are_told_of_until_they_are_mended_and_change_nothing() {
    let mut bench = Bench::new("[host]\ninterval = \"20s\"");
    bench.write("[host]\ninterval = \"soon\"");
    bench.look();
    let [error] = &bench.agent.status().broken[..] else { panic!("{:?}", bench.agent.status()) };
    assert!(error.contains("interval") && error.contains("soon"), "{error}");
    assert_eq!((bench.interval(), bench.agent.status().drift), (Duration::from_secs(20), BTreeMap::new()));
    bench.write("[host]\ninterval = \"20s\"");
    bench.look();
    assert!(bench.agent.status().broken.is_empty());

    bench.write("nonsense");
    bench.look();
    bench.write("[host]\ninterval = \"21s\"");
    bench.reload();
    assert!(bench.agent.status().broken.is_empty());
}

#[test]
fn what_is_kept_is_each_key_once_in_the_notation_of_the_files() {
    let mut bench = Bench::new("");
    bench.desire(1, &json!({ "host": { "interval": "90s" }, "log": { "filter": "warn" } }));
    bench.wait(5);
    let text = String::from_utf8(bench.disk.clone()).unwrap();
    let (_digest, json) = text.split_once('\n').unwrap();
    let kept: Value = serde_json::from_str(json).unwrap();
    let body = &kept["device"]["confirmed"]["body"];
    assert_eq!(*body, json!({ "host": { "interval": "1m30s" }, "log": { "filter": "warn" } }));
}

#[test]
fn a_report_names_the_groups_in_their_order_and_nobody_else_is_listened_to() {
    let mut bench = Bench::new("[gateway]\ngroups = [\"z\", \"a\"]");
    for source in [group("a"), group("z"), group("foreign")] {
        bench.desire_of(source, 1, &json!({ "host": { "interval": "7s" } }));
    }
    bench.wait(10);
    let groups: Vec<_> = bench.report["groups"].as_array().unwrap().iter().map(|part| &part["group"]).collect();
    assert_eq!(groups, ["z", "a"]);
    assert_eq!(bench.report["state"], "confirmed");
    assert_eq!(bench.report["version"], Value::Null);
}

#[test]
fn only_the_document_that_sets_a_key_waits_for_the_restart_which_the_key_needs() {
    let mut bench = Bench::new("[gateway]\ngroups = [\"plant\"]");
    bench.desire(1, &json!({ "traffic": { "flow_capacity": 5000 } }));
    bench.wait(5);
    bench.desire_of(group("plant"), 1, &json!({ "host": { "interval": "7s" } }));
    bench.wait(5);
    assert_eq!(bench.report["state"], "pending-restart");
    assert_eq!(bench.report["groups"][0]["state"], "confirmed");
    assert_eq!(bench.report["pending_restart"], json!(["traffic.flow_capacity"]));
    assert_eq!(bench.agent.running().traffic.flow_capacity, None);
    bench.desire(2, &json!({}));
    bench.wait(5);
    assert_eq!(bench.report["state"], "confirmed");
    assert_eq!(bench.report.get("pending_restart"), None);
}

#[test]
fn what_is_absent_is_withdrawn_only_where_the_broker_remembers_our_report_of_it() {
    let absent = |witness: Option<&Value>| Input::ReadInFull {
        present: BTreeSet::new(),
        witness: witness.map(|report| report.to_string().into()),
    };
    let confirmed = |bench: &mut Bench| {
        bench.desire(2, &json!({ "host": { "interval": "7s" } }));
        bench.wait(5);
        bench.report.clone()
    };
    for old in [None, Some(json!({ "version": 1 })), Some(json!({ "version": null })), Some(json!("nonsense"))] {
        let mut bench = Bench::new("");
        confirmed(&mut bench);
        bench.happens(absent(old.as_ref()));
        bench.wait(5);
        assert_eq!(bench.interval(), Duration::from_secs(7), "{old:?}");
        assert!(bench.report["reason"].as_str().unwrap().contains("lost its memory"));
        // What it remembers from now on is what we told it.
        let own = bench.report.clone();
        bench.happens(absent(Some(&own)));
        bench.wait(5);
        assert_eq!(bench.interval(), Duration::from_secs(7));
    }
    let mut bench = Bench::new("");
    let report = confirmed(&mut bench);
    bench.happens(absent(Some(&report)));
    bench.wait(5);
    assert_eq!(bench.interval(), Duration::from_mins(1));
    assert_eq!(bench.told("withdrawn").len(), 1);
}

#[test]
fn refusals_of_a_source_are_told_of_once_in_ten_seconds_and_reported_each_time() {
    let mut bench = Bench::new("");
    for version in 1..=50 {
        bench.desire(version, &json!({ "host": { "interval": version } }));
        assert_eq!((&bench.report["state"], &bench.report["version"]), (&json!("refused"), &json!(version)));
        bench.wait(1);
    }
    assert_eq!(bench.told("refused").len(), 5);
}

#[test]
fn drift_is_told_of_once_it_stands_and_again_when_it_is_over() {
    let mut bench = Bench::new("");
    bench.desire(1, &json!({ "host": { "interval": "7s" } }));
    bench.wait(60);
    assert_eq!(bench.told("drift").len(), 0, "a change on its way is none");
    bench.write("[host]\ninterval = \"30s\"\n[mqtt]\nurl = \"mqtt://broker\"\nuser = \"anna\"");
    bench.look();
    let drift = &bench.report["drift"];
    assert_eq!(drift["host.interval"], json!({ "kind": "local", "desired": "7s", "file": "30s", "running": "7s" }));
    assert_eq!(drift["mqtt.user"]["file"], "set", "nobody learns who");
    bench.wait(9);
    assert_eq!(bench.told("drift").len(), 0);
    bench.wait(1);
    assert_eq!(bench.told("drift")[0]["began"], *drift_of(&bench));
    bench.write("");
    bench.look();
    bench.wait(10);
    assert_eq!(bench.told("drift")[1]["ceased"], json!(["host.interval", "mqtt.url", "mqtt.user"]));
    assert!(!format!("{:?}", bench.events).contains("anna"));
}

fn drift_of(bench: &Bench) -> &Value {
    &bench.report["drift"]
}

#[test]
fn a_reload_tells_which_keys_changed_and_what_is_wrong_changes_nothing() {
    let mut bench = Bench::new("");
    bench.write("[host]\ninterval = \"30s\"");
    bench.reload();
    assert_eq!(bench.interval(), Duration::from_secs(30));
    assert_eq!(bench.told("local-change")[0]["changes"], json!({ "host.interval": { "old": "1m", "new": "30s" } }));
    bench.write("[host]\ninterval = \"soon\"");
    bench.reload();
    assert_eq!(bench.interval(), Duration::from_secs(30));
    assert!(matches!(bench.agent.status().local, Reload::Refused { errors } if errors.len() == 1));
    bench.write("[gateway]\nid = \"other\"");
    bench.reload();
    assert_eq!(bench.agent.status().local, Reload::Running { pending_restart: vec!["gateway.id"] });
}

#[test]
fn a_reload_during_a_trial_leaves_the_trial_alone() {
    let mut bench = Bench::new("");
    bench.desire(1, &json!({ "host": { "interval": "7s" } }));
    assert_eq!(bench.report["state"], "applied");
    bench.write("[host]\ninterval = \"30s\"\n[traffic]\nsample_rate = 7");
    bench.reload();
    assert_eq!((bench.interval(), bench.agent.running().traffic.sample_rate), (Duration::from_secs(7), 7));
    bench.wait(5);
    assert_eq!(bench.report["state"], "confirmed");
}

#[test]
fn a_trial_lasts_as_long_as_was_confirmed_before_it() {
    let mut bench = Bench::new("[policy]\nconfirm_within = \"10s\"");
    bench.desire(1, &json!({ "policy": { "confirm_within": "10m" } }));
    assert_eq!(bench.agent.running().policy.confirm_within, Duration::from_mins(10));
    // Nothing answers: no effect is carried out any more.
    bench.up_ms += 10_000;
    let _unanswered = bench.agent.handle(Input::Tick, &now(bench.up_ms));
    assert_eq!(bench.agent.state(&Source::Device), State::RolledBack);
    assert_eq!(bench.agent.running().policy.confirm_within, Duration::from_secs(10));
}

#[test]
fn a_trial_at_a_start_also_lasts_as_long_as_was_confirmed_before_it() {
    let mut bench = Bench::new("[policy]\nconfirm_within = \"10s\"");
    bench.desire(1, &json!({ "policy": { "confirm_within": "2m" } }));
    bench.wait(5);
    bench.desire(2, &json!({ "policy": { "confirm_within": "2m" }, "traffic": { "flow_capacity": 5000 } }));
    bench.wait(5);
    assert_eq!(bench.report["state"], "pending-restart");
    bench.restart();
    for (seconds, state) in [(0, State::Applied), (119, State::Applied), (1, State::RolledBack)] {
        bench.up_ms += 1000 * seconds;
        // Nothing answers: no effect is carried out any more.
        let _unanswered = bench.agent.handle(Input::Linked(true), &now(bench.up_ms));
        assert_eq!(bench.agent.state(&Source::Device), state);
    }
}

#[test]
fn what_a_group_was_at_is_remembered_while_the_gateway_is_not_in_it() {
    let interval = |seconds: u64| json!({ "host": { "interval": format!("{seconds}s") } });
    let mut bench = Bench::new("[gateway]\ngroups = [\"plant\"]");
    bench.desire_of(group("plant"), 3, &interval(7));
    bench.wait(5);
    bench.write("");
    bench.restart();
    bench.happens(Input::Linked(true));
    bench.desire(1, &json!({ "log": { "filter": "warn" } }));
    bench.wait(5);
    assert_eq!((&bench.report["state"], bench.interval()), (&json!("confirmed"), Duration::from_mins(1)));
    bench.write("[gateway]\ngroups = [\"plant\"]");
    bench.restart();
    bench.desire_of(group("plant"), 2, &interval(9));
    assert!(bench.report["groups"][0]["reason"].as_str().unwrap().starts_with("stale"));
    assert_eq!(bench.interval(), Duration::from_secs(7));
}
