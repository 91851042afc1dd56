//! A gateway's policy with a kernel, a disk, a broker and keys of its own, in which all goes well unless told otherwise.

use serde_json::Value;
use tempfile::TempDir;

use super::{
    super::{
        judge::{self, Ready},
        shelf::Shelf,
    },
    *,
};
use crate::{
    policy::envelope::{self, Signer},
    record::Stored,
};

const NOW_MS: u64 = 1_798_761_600_000;

struct Bench {
    _folder: TempDir,
    shelf: Shelf,
    agent: Agent,
    up_ms: u64,
    /// Added to the wall clock.
    shift_ms: i64,
    synced: bool,
    kernel_fails: Option<&'static str>,
    round_trips: bool,
    report: Value,
    events: Vec<Value>,
    disk: Vec<u8>,
    ages: (Vec<u8>, Option<Vec<u8>>),
    answers: Vec<Result<Option<Placed>, String>>,
    rereads: u32,
    /// What the kernel was told, in order.
    kernel: Vec<Option<u64>>,
}

fn signer(seed: u8) -> Signer {
    Signer::from_seed(&[seed; 32])
}

fn config() -> Config {
    let mut config = Config::defaults("gw-7");
    config.gateway.groups = vec!["plant".to_owned(), "north".to_owned()];
    config.policy.public_keys = vec![PublicKey::Ed25519(signer(1).key.bytes)];
    config
}

fn bundle(version: u64) -> Value {
    json!({ "version": version, "scope": { "gateway": "gw-7" }, "default": "allow", "rules": [
        { "name": "block", "cidrs": ["192.0.2.0/24"], "action": "drop" },
    ] })
}

fn of_group(version: u64, group: &str) -> Value {
    let mut bundle = bundle(version);
    bundle["scope"] = json!({ "group": group });
    bundle
}

fn signed(bundle: &Value) -> Bytes {
    signed_by(1, bundle)
}

fn signed_by(seed: u8, bundle: &Value) -> Bytes {
    envelope::sign(bundle.to_string().as_bytes(), &[signer(seed)]).into_bytes().into()
}

fn group(name: &str) -> Source {
    Source::Group(name.into())
}

fn parsed<T: serde::de::DeserializeOwned>(content: &[u8]) -> T {
    let content = str::from_utf8(content).unwrap();
    serde_json::from_str(content.split_once('\n').unwrap().1).unwrap()
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(&folder.path().join("policies"));
        let configured = judge::ids(&judge::configured(&config().policy.public_keys));
        let now = record::Stamp { boot: [7; 16], ts_ms: NOW_MS, up_ms: 0, synced: true };
        let (agent, effects) =
            Agent::start(Kept::default(), (&KeptAge::default(), KeptRules::new()), &config(), configured, &now);
        let mut bench = Self {
            _folder: folder,
            shelf,
            agent,
            up_ms: 0,
            shift_ms: 0,
            synced: true,
            kernel_fails: None,
            round_trips: true,
            report: Value::Null,
            events: Vec::new(),
            disk: Vec::new(),
            ages: (Vec::new(), None),
            answers: Vec::new(),
            rereads: 0,
            kernel: Vec::new(),
        };
        bench.carry_out(effects);
        bench.happens(Input::Linked(true));
        bench
    }

    fn now(&self) -> record::Stamp {
        let ts_ms = (NOW_MS + self.up_ms).saturating_add_signed(self.shift_ms);
        record::Stamp { boot: [7; 16], ts_ms, up_ms: self.up_ms, synced: self.synced }
    }

    fn happens(&mut self, input: Input) {
        let effects = self.agent.handle(input, &self.now());
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let answer = match effect {
                Effect::Judge(task) => Input::Judged(judge::judge(&task, &self.shelf).0),
                Effect::Answer(answer) => {
                    self.answers.push(answer);
                    continue;
                }
                Effect::Persist { write, content } => {
                    self.disk = content;
                    Input::Written { write, result: Ok(()) }
                }
                Effect::KeepAges(age, rules) => {
                    let before = self.ages.1.take();
                    self.ages = (age, rules.or(before));
                    continue;
                }
                Effect::Sweep(digests) => {
                    self.shelf.keep_only(&digests).unwrap();
                    continue;
                }
                Effect::Enforce(wanted) => Input::Enforced(self.enforce(wanted.as_ref())),
                Effect::Probe(trial) if self.round_trips => Input::Probed(trial),
                Effect::Probe(_) => continue,
                Effect::Reread => {
                    self.rereads += 1;
                    continue;
                }
                Effect::Report(report) => {
                    self.report = serde_json::from_slice(&report).unwrap();
                    continue;
                }
                Effect::Record(record) => {
                    assert_eq!(&*record.topic, "event/policy");
                    let stored = record.encode(&self.now());
                    self.events.push(serde_json::from_str(Stored::decode(&stored).unwrap().data).unwrap());
                    continue;
                }
            };
            effects.extend(self.agent.handle(answer, &self.now()));
        }
    }

    fn enforce(&mut self, wanted: Option<&Wanted>) -> Result<Facts, Failure> {
        if let Some(reason) = self.kernel_fails {
            return Err(Failure::Kernel(reason.to_owned()));
        }
        let facts = match wanted {
            Some(wanted) => Ready::load(&self.shelf, wanted).map_err(Failure::Bundle)?.facts,
            None => Facts::default(),
        };
        self.kernel.push(wanted.map(|wanted| wanted.stamp.version));
        Ok(facts)
    }

    /// The next process, with what is on disk. There is no link yet.
    fn restart(&mut self) {
        let configured = judge::ids(&judge::configured(&config().policy.public_keys));
        let age = if self.ages.0.is_empty() { KeptAge::default() } else { parsed(&self.ages.0) };
        let rules = self.ages.1.as_ref().map_or_else(KeptRules::new, |rules| parsed(rules));
        let (agent, effects) = Agent::start(parsed(&self.disk), (&age, rules), &config(), configured, &self.now());
        self.agent = agent;
        self.kernel.clear();
        self.carry_out(effects);
    }

    fn wait(&mut self, seconds: u64) {
        let until = self.up_ms + 1000 * seconds;
        while let Some(wake) = self.agent.wake(&self.now()).filter(|wake| *wake <= Duration::from_millis(until)) {
            self.up_ms = (self.up_ms + 1).max(u64::try_from(wake.as_millis()).unwrap());
            self.happens(Input::Tick);
        }
        self.up_ms = until.max(self.up_ms);
    }

    fn publish(&mut self, source: Source, envelope: Bytes) {
        self.happens(Input::Desired(source, Payload::Document(envelope)));
    }

    fn confirm(&mut self, source: Source, bundle: &Value) {
        self.publish(source, signed(bundle));
        self.wait(5);
    }

    fn device(&self) -> (&str, &str) {
        (self.report["state"].as_str().unwrap(), self.report["reason"].as_str().unwrap_or_default())
    }

    fn group(&self, place: usize) -> (&str, &str) {
        let group = &self.report["groups"][place];
        (group["state"].as_str().unwrap(), group["reason"].as_str().unwrap_or_default())
    }

    fn told(&self, what: &str) -> usize {
        self.events.iter().filter(|event| event["what"] == what).count()
    }
}

#[test]
fn a_signed_bundle_is_enforced_at_once_and_confirmed_by_a_round_trip() {
    let mut bench = Bench::new();
    bench.publish(Source::Device, signed(&bundle(7)));
    assert_eq!((bench.kernel.last(), bench.device().0), (Some(&Some(7)), "applied"));
    assert_eq!((&bench.report["enforced"]["version"], &bench.report["confirmed"]), (&json!(7), &Value::Null));
    bench.wait(5);
    assert_eq!(bench.device(), ("confirmed", ""));
    assert_eq!((&bench.report["confirmed"]["version"], bench.told("confirmed")), (&json!(7), 1));

    // Enforced before anything else at the next start, and read again without a change.
    bench.restart();
    assert_eq!(bench.kernel, [Some(7)]);
    bench.publish(Source::Device, signed(&bundle(7)));
    assert_eq!((bench.kernel.len(), bench.device().0), (1, "confirmed"));
    bench.happens(Input::Desired(Source::Device, Payload::Empty));
    bench.happens(Input::Linked(true));
    bench.wait(5);
    assert_eq!((bench.kernel.last(), &bench.report["enforced"]), (Some(&None), &Value::Null));
}

#[test]
fn a_bundle_that_cuts_the_link_is_taken_back() {
    let mut bench = Bench::new();
    bench.confirm(Source::Device, &bundle(1));
    bench.round_trips = false;
    bench.publish(Source::Device, signed(&bundle(2)));
    assert_eq!(bench.kernel, [Some(1), Some(2)]);
    bench.happens(Input::Linked(false));
    bench.wait(31);
    assert_eq!(bench.kernel, [Some(1), Some(2), Some(1)]);
    assert_eq!((bench.device().0, &bench.report["enforced"]["version"]), ("rolled-back", &json!(1)));
    // It stays so, link or none, until somebody asks.
    bench.happens(Input::Linked(true));
    bench.wait(3600);
    assert_eq!((bench.kernel.last(), bench.device().0), (Some(&Some(1)), "rolled-back"));
    bench.happens(Input::Retry);
    assert_eq!((bench.kernel.last(), bench.device().0), (Some(&Some(2)), "applied"));
    // And so it is after a crash in the middle.
    bench.restart();
    assert_eq!(bench.kernel, [Some(1)]);
    bench.happens(Input::Linked(true));
    bench.wait(3600);
    assert_eq!((bench.kernel.len(), bench.device().0), (1, "rolled-back"));
    // A technician who hands it in asks, too.
    bench.round_trips = true;
    bench.happens(Input::Apply { envelope: signed(&bundle(2)), offline: false });
    bench.wait(5);
    assert_eq!((bench.kernel.last(), bench.device().0), (Some(&Some(2)), "confirmed"));
}

#[test]
fn what_the_kernel_does_not_take_is_nowhere_called_enforced() {
    let mut bench = Bench::new();
    bench.kernel_fails = Some("no privileges");
    bench.confirm(Source::Device, &bundle(1));
    assert_eq!(bench.device(), ("refused", "cannot be enforced: no privileges"));
    assert_eq!(bench.report["enforced"], Value::Null);
    bench.kernel_fails = None;
    bench.happens(Input::Retry);
    bench.wait(5);
    assert_eq!(bench.device().0, "confirmed");

    // The same at a start: it was confirmed, and is not in force.
    bench.kernel_fails = Some("no memory");
    bench.restart();
    assert_eq!(bench.device(), ("refused", "not enforced: no memory"));
    assert_eq!(
        (&bench.report["enforced"], bench.agent.status().not_enforced.as_deref()),
        (&Value::Null, Some("no memory"))
    );
    bench.kernel_fails = None;
    bench.wait(31);
    assert_eq!((bench.device().0, &bench.report["enforced"]["version"]), ("confirmed", &json!(1)));
}

#[test]
fn only_what_is_signed_and_for_us_takes_a_place_in_the_sequence() {
    let mut bench = Bench::new();
    bench.publish(Source::Device, signed_by(2, &bundle(9)));
    assert!(bench.device().1.starts_with("unknown key"), "{:?}", bench.device());
    let mut other = bundle(9);
    other["scope"] = json!({ "gateway": "gw-8" });
    bench.publish(Source::Device, signed(&other));
    assert!(bench.device().1.starts_with("scope: it is for gateway gw-8"), "{:?}", bench.device());
    bench.publish(group("plant"), signed(&bundle(9)));
    assert!(bench.group(0).1.starts_with("scope: it is for gateway gw-7, and was published"), "{:?}", bench.group(0));
    assert!(bench.kernel.is_empty());
    bench.confirm(Source::Device, &bundle(2));
    assert_eq!(bench.device().0, "confirmed");
    bench.publish(Source::Device, signed(&bundle(1)));
    assert!(bench.device().1.starts_with("stale"), "{:?}", bench.device());
    let mut conflict = bundle(2);
    conflict["default"] = json!("drop");
    bench.publish(Source::Device, signed(&conflict));
    assert!(bench.device().1.starts_with("conflict"), "{:?}", bench.device());
    assert_eq!(bench.kernel, [Some(2)]);
}

#[test]
fn the_last_group_with_a_policy_decides_unless_the_device_has_one_and_what_is_hidden_is_not_confirmed() {
    let mut bench = Bench::new();
    bench.confirm(group("plant"), &of_group(1, "plant"));
    bench.confirm(group("north"), &of_group(2, "north"));
    bench.confirm(Source::Device, &bundle(3));
    assert_eq!(bench.kernel, [Some(1), Some(2), Some(3)]);
    assert_eq!(bench.group(0), ("pending", "replaced by the policy of device"));
    // Nothing could prove a new one now.
    bench.confirm(group("north"), &of_group(4, "north"));
    assert_eq!(bench.group(1), ("pending", "replaced by the policy of device"));
    assert_eq!(bench.kernel.len(), 3);
    bench.happens(Input::Desired(Source::Device, Payload::Empty));
    bench.wait(10);
    assert_eq!(bench.kernel, [Some(1), Some(2), Some(3), Some(2), Some(4)]);
    assert_eq!((bench.group(1).0, bench.device().0), ("confirmed", "confirmed"));
}

#[test]
fn a_policy_ends_with_its_not_after_and_waits_for_the_clock() {
    let mut bench = Bench::new();
    bench.confirm(group("plant"), &of_group(1, "plant"));
    let mut short = bundle(2);
    short["not_after"] = json!("2027-01-01T00:10:00Z");
    bench.synced = false;
    bench.publish(Source::Device, signed(&short));
    assert!(bench.device().1.starts_with("the clock is not set"), "{:?}", bench.device());
    bench.synced = true;
    bench.wait(11);
    assert_eq!(bench.rereads, 1);
    bench.confirm(Source::Device, &short);
    assert_eq!((bench.device().0, bench.kernel.last()), ("confirmed", Some(&Some(2))));
    bench.wait(600);
    assert_eq!((bench.device().0, bench.kernel.last()), ("expired", Some(&Some(1))));
    assert_eq!((bench.told("expired"), &bench.report["enforced"]["source"]), (1, &json!("@plant")));

    // At a start without a clock it counts until somebody knows better.
    bench.synced = false;
    bench.restart();
    assert_eq!(bench.kernel, [Some(2)]);
    bench.synced = true;
    bench.wait(11);
    assert_eq!(bench.kernel, [Some(2), Some(1)]);
    short["version"] = json!(3);
    bench.publish(Source::Device, signed(&short));
    assert!(bench.device().1.starts_with("expired: "), "{:?}", bench.device());
}

#[test]
fn a_rule_ends_with_its_ttl_also_across_a_restart_and_a_jump_of_the_clock() {
    let mut bench = Bench::new();
    let mut timed = bundle(1);
    timed["rules"][0]["ttl"] = json!("2m");
    bench.confirm(Source::Device, &timed);
    bench.wait(60);
    bench.shift_ms = -1_000_000_000;
    bench.restart();
    assert_eq!(bench.report["expired_rules"], Value::Null);
    bench.wait(70);
    assert_eq!(bench.report["expired_rules"], json!(["block"]));
    assert_eq!((bench.kernel.as_slice(), bench.told("rule-expired")), (&[Some(1), Some(1)][..], 1));
    // The next version has the same rule.
    timed["version"] = json!(2);
    bench.happens(Input::Linked(true));
    bench.confirm(Source::Device, &timed);
    assert_eq!(bench.report["expired_rules"], json!(["block"]));
}

#[test]
fn a_rule_that_was_withdrawn_with_its_policy_counts_anew() {
    let mut bench = Bench::new();
    let mut timed = bundle(1);
    timed["rules"][0]["ttl"] = json!("2m");
    bench.confirm(Source::Device, &timed);
    bench.happens(Input::Desired(Source::Device, Payload::Empty));
    bench.wait(300);
    assert_eq!(bench.report["enforced"], Value::Null);
    timed["version"] = json!(2);
    bench.confirm(Source::Device, &timed);
    assert_eq!((bench.device().0, &bench.report["expired_rules"]), ("confirmed", &Value::Null));
    bench.wait(120);
    assert_eq!(bench.report["expired_rules"], json!(["block"]));
}

#[test]
fn a_rule_of_a_first_policy_that_was_rolled_back_counts_anew() {
    let mut bench = Bench::new();
    let mut timed = bundle(1);
    timed["rules"][0]["ttl"] = json!("2m");
    bench.round_trips = false;
    bench.publish(Source::Device, signed(&timed));
    bench.wait(31);
    assert_eq!(bench.device().0, "rolled-back");
    bench.wait(300);
    bench.round_trips = true;
    bench.happens(Input::Retry);
    bench.wait(5);
    assert_eq!((bench.device().0, &bench.report["expired_rules"]), ("confirmed", &Value::Null));
}

#[test]
fn a_key_comes_with_a_confirmed_bundle_and_another_one_goes() {
    let mut bench = Bench::new();
    let (old, new) = (signer(1).key, signer(2).key);
    bench.publish(Source::Device, signed_by(2, &bundle(1)));
    assert_eq!(bench.device().0, "refused");
    let mut rotation = bundle(1);
    rotation["keys"] = json!({ "add": [PublicKey::Ed25519(new.bytes).to_string()] });
    bench.publish(Source::Device, signed_by(2, &rotation));
    assert_eq!(bench.device().0, "refused", "a key does not vouch for itself");
    bench.publish(Source::Device, signed(&rotation));
    assert_eq!(bench.report["keys"].as_array().unwrap().len(), 1, "it is not confirmed");
    bench.wait(5);
    assert_eq!((bench.report["keys"].as_array().unwrap().len(), bench.rereads), (2, 1));
    bench.restart();
    bench.happens(Input::Linked(true));
    let mut second = bundle(2);
    second["keys"] = json!({ "remove": [old.id.to_string()] });
    bench.publish(Source::Device, signed_by(2, &second));
    bench.wait(5);
    assert_eq!(bench.report["keys"], json!([new.id.to_string()]));
    bench.publish(Source::Device, signed(&bundle(3)));
    assert!(bench.device().1.starts_with("unknown key"), "{:?}", bench.device());
    let mut last = bundle(3);
    last["keys"] = json!({ "remove": [new.id.to_string()] });
    bench.publish(Source::Device, signed_by(2, &last));
    assert!(bench.device().1.contains("no key would be left"), "{:?}", bench.device());
}

#[test]
fn a_technician_without_a_link_applies_and_vouches() {
    let mut bench = Bench::new();
    bench.happens(Input::Linked(false));
    bench.happens(Input::Apply { envelope: signed(&bundle(1)), offline: true });
    assert_eq!(bench.answers.pop(), Some(Ok(Some(Placed { source: Source::Device, version: 1 }))));
    assert_eq!((bench.device().0, bench.kernel.last()), ("applied", Some(&Some(1))));
    bench.happens(Input::Vouch(Source::Device, 1));
    assert_eq!((bench.answers.pop().unwrap().is_ok(), bench.device().0), (true, "confirmed"));
    // Without a word it goes again.
    bench.round_trips = false;
    bench.happens(Input::Apply { envelope: signed(&bundle(2)), offline: true });
    bench.wait(31);
    assert_eq!((bench.device().0, bench.kernel.last()), ("rolled-back", Some(&Some(1))));
    assert!(bench.device().1.starts_with("nobody vouched"), "{:?}", bench.device());
    bench.answers.clear();
    bench.happens(Input::Apply { envelope: signed(&bundle(1)), offline: false });
    assert!(bench.answers[0].as_ref().unwrap_err().starts_with("stale"));
    // The broker never had it: its absence says nothing.
    bench.round_trips = true;
    bench.happens(Input::Linked(true));
    let witness = Some(Bytes::from_static(br#"{"version":2}"#));
    bench.happens(Input::ReadInFull { present: BTreeSet::new(), witness });
    bench.wait(100);
    assert_eq!((&bench.report["version"], bench.device().0), (&json!(2), "rolled-back"));
    bench.happens(Input::Retry);
    bench.wait(5);
    assert_eq!((&bench.report["version"], bench.device().0), (&json!(2), "confirmed"));
}

#[test]
fn what_a_person_opens_is_open_for_a_time_and_nothing_is_tried_meanwhile() {
    let mut bench = Bench::new();
    bench.confirm(Source::Device, &bundle(1));
    bench.happens(Input::Open(Duration::from_mins(10)));
    assert_eq!((bench.kernel.last(), bench.device().0), (Some(&None), "pending"));
    assert!(bench.report["open_until_ms"].is_u64());
    bench.confirm(Source::Device, &bundle(2));
    assert_eq!((bench.kernel.len(), bench.device().0), (2, "pending"));
    bench.wait(600);
    assert_eq!(bench.kernel, [Some(1), None, Some(1), Some(2)]);
    assert_eq!((bench.told("opened"), bench.told("closed"), bench.device().0), (1, 1, "confirmed"));
    bench.happens(Input::Open(Duration::from_mins(10)));
    bench.happens(Input::Close);
    assert_eq!(bench.kernel.last(), Some(&Some(2)));
}

#[test]
fn an_envelope_that_is_damaged_on_disk_is_set_aside_and_mended_by_the_broker() {
    let mut bench = Bench::new();
    bench.confirm(Source::Device, &bundle(1));
    bench.shelf.keep_only(&BTreeSet::new()).unwrap();
    bench.restart();
    assert_eq!((bench.device().0, &bench.report["enforced"]), ("refused", &Value::Null));
    bench.happens(Input::Linked(true));
    bench.confirm(Source::Device, &bundle(1));
    assert_eq!((bench.device().0, bench.kernel.last()), ("confirmed", Some(&Some(1))));
}

#[test]
fn what_fragments_become_is_taken_over_at_once() {
    let mut bench = Bench::new();
    bench.confirm(Source::Device, &bundle(1));
    let settings = Settings { fragments_allow: true, ..bench.agent.settings.clone() };
    bench.happens(Input::Settings(settings));
    assert_eq!((bench.kernel.as_slice(), bench.device().0), (&[Some(1), Some(1)][..], "confirmed"));
}
