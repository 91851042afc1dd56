//! Gateways whose reports are written by hand: every outcome that an operator can meet, one at a time.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tidegate_tests::{
    Broker, Publisher, Subscriber, eventually,
    fleet::{Operator, Printed},
    mqtt::Pki,
    need, requires,
};
use tidegate_values::Digest;

const ROOT: &str = "tidegate/v1";
const PATIENCE: Duration = Duration::from_secs(20);

/// A member of group `plant` that says what it is told to say.
struct Puppet {
    id: &'static str,
    publisher: Publisher,
}

impl Puppet {
    fn appear(broker: &Broker, id: &'static str) -> Self {
        let mut puppet = Self { id, publisher: Publisher::connect(broker) };
        puppet.is("online");
        puppet.report(&json!({"state": "confirmed", "version": null, "confirmed": null}));
        puppet
    }

    fn is(&mut self, state: &str) {
        let status = json!({"v": 1, "state": state, "boot": "b", "ts_ms": 1}).to_string();
        self.publisher.retain(format!("{ROOT}/{}/status", self.id), status);
    }

    /// Reports about the document of its group.
    fn report(&mut self, about: &Value) {
        let mut group = json!({"group": "plant"});
        group.as_object_mut().unwrap().extend(about.as_object().unwrap().clone());
        let report = json!({
            "v": 1, "boot": "b", "ts_ms": 1, "state": "confirmed", "version": null, "digest": null, "since_ms": 1,
            "confirmed": null, "groups": [group], "pending_restart": [], "drift": {},
        });
        self.publisher.retain(format!("{ROOT}/{}/config/reported", self.id), report.to_string());
    }

    /// Reports nothing but keys that drift.
    fn report_drift(&mut self, drift: &Value) {
        let report = json!({
            "v": 1, "boot": "b", "ts_ms": 1, "state": "confirmed", "version": null, "digest": null, "since_ms": 1,
            "confirmed": null, "groups": [], "drift": drift,
        });
        self.publisher.retain(format!("{ROOT}/{}/config/reported", self.id), report.to_string());
    }

    fn confirms(&mut self, payload: &[u8]) {
        let (version, digest) = identity(payload);
        let confirmed = json!({"version": version, "digest": digest});
        self.report(&json!({"state": "confirmed", "version": version, "digest": digest, "confirmed": confirmed}));
    }

    fn refuses(&mut self, payload: &[u8], reason: &str) {
        let (version, digest) = identity(payload);
        self.report(&json!({"state": "refused", "version": version, "digest": digest, "reason": reason}));
    }
}

fn identity(payload: &[u8]) -> (u64, String) {
    let document: Value = serde_json::from_slice(payload).unwrap();
    (document["version"].as_u64().unwrap(), Digest::of(payload).to_string())
}

/// The payload of the group's latest document that says this of `host.interval`.
fn published(desired: &Subscriber, interval: &str) -> Vec<u8> {
    let message = desired.wait_for("the document is published", PATIENCE, |message| {
        !message.payload.is_empty() && message.json()["config"]["host"]["interval"] == interval
    });
    message.payload.to_vec()
}

fn plant(operator: &Operator, interval: &str) {
    operator.write("groups/plant.toml", &format!("[host]\ninterval = \"{interval}\"\n"));
}

fn in_background(operator: &Operator, arguments: &[&str]) -> JoinHandle<(i32, String)> {
    let mut command = operator.command("apply", arguments);
    thread::spawn(move || {
        let output = command.arg("--json").output().expect("the program can be run");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    })
}

fn standing(printed: &Printed, id: &str) -> String {
    let gateways = printed.all("gateway");
    let line = gateways.iter().find(|line| line["gateway"] == id).unwrap_or_else(|| panic!("{printed:?}"));
    line["standing"].as_str().unwrap().to_owned()
}

#[test]
fn a_folder_is_planned_and_applied_and_confirmed() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let operator = Operator::of(&broker);
    let mut gateway = Puppet::appear(&broker, "gw-1");
    let desired = Subscriber::start(broker.port(), "tidegate/v1/@plant/config/desired");
    plant(&operator, "10s");

    let plan = operator.run("plan", &[]);
    assert_eq!(plan.code, 0, "{plan:?}");
    let change = plan.all("change")[0];
    assert_eq!(
        (&change["change"], &change["target"], &change["gateways"], &change["keys"]["host.interval"]["to"]),
        (&json!("create"), &json!("@plant"), &json!(["gw-1"]), &json!("10s"))
    );
    assert_eq!(operator.run("plan", &["--exit-code"]).code, 1);
    assert!(desired.messages().is_empty(), "a plan publishes nothing");
    assert_eq!(standing(&operator.run("status", &[]), "gw-1"), "unpublished");

    let applying = in_background(&operator, &[]);
    gateway.confirms(&published(&desired, "10s"));
    let (code, said) = applying.join().unwrap();
    assert_eq!(code, 0, "{said}");
    assert_eq!(operator.run("plan", &["--exit-code"]).code, 0);
    let status = operator.run("status", &[]);
    assert_eq!((status.code, standing(&status, "gw-1").as_str()), (0, "as-wanted"));
    assert_eq!(operator.run("drift", &[]).code, 0);

    // Again, with nothing to do: the version stays.
    let before = desired.messages().len();
    assert_eq!(operator.run("apply", &[]).code, 0);
    assert_eq!(desired.messages().len(), before);
}

#[test]
fn who_refuses_or_is_away_is_listed_and_the_exit_status_says_so() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let operator = Operator::of(&broker);
    let mut gateway = Puppet::appear(&broker, "gw-1");
    let mut away = Puppet::appear(&broker, "gw-2");
    away.is("offline");
    let desired = Subscriber::start(broker.port(), "tidegate/v1/@plant/config/desired");
    plant(&operator, "10s");

    let applying = in_background(&operator, &[]);
    let document = published(&desired, "10s");
    gateway.refuses(&document, "[host] interval: there is no such key");
    assert_eq!(applying.join().unwrap().0, 1, "waits for nobody who is away");
    let status = operator.run("status", &["--bad"]);
    assert_eq!((standing(&status, "gw-1").as_str(), standing(&status, "gw-2").as_str()), ("refused", "offline"));
    let (_, said) = operator.read("status", &[]);
    assert!(said.contains("there is no such key") && said.contains("gets it when it is back"), "{said}");

    gateway.confirms(&document);
    assert_eq!(operator.run("apply", &[]).code, 1);
    assert_eq!(operator.run("apply", &["--allow-offline"]).code, 0);
    away.confirms(&document);
    assert_eq!(operator.run("apply", &[]).code, 0, "its report counts, wherever it is");
}

#[test]
fn a_second_publisher_is_noticed() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let operator = Operator::of(&broker);
    let _gateway = Puppet::appear(&broker, "gw-1");
    let desired = Subscriber::start(broker.port(), "tidegate/v1/@plant/config/desired");
    plant(&operator, "10s");
    let applying = in_background(&operator, &[]);
    let (version, _) = identity(&published(&desired, "10s"));
    let other = json!({"version": version + 1, "config": {"host": {"interval": "1h"}}}).to_string();
    Publisher::connect(&broker).retain("tidegate/v1/@plant/config/desired", other);
    let (code, said) = applying.join().unwrap();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(r#""what":"conflict""#) && said.contains(&(version + 1).to_string()), "{said}");
}

#[test]
fn a_broker_that_forgets_everything_in_the_middle_gets_it_again() {
    requires!(need::program("mosquitto"));
    let mut broker = Broker::start();
    let operator = Operator::of(&broker);
    let gateway = Puppet::appear(&broker, "gw-1");
    let desired = Subscriber::start(broker.port(), "tidegate/v1/@plant/config/desired");
    plant(&operator, "10s");
    let applying = in_background(&operator, &["--timeout", "60s"]);
    let document = published(&desired, "10s");
    drop(gateway);
    broker.kill();
    broker.start_again();
    eventually(PATIENCE, "it is published again", || {
        desired.messages().iter().filter(|message| message.payload == document).count() == 2
    });
    // The broker has forgotten the gateway, too; it is waited for all the same.
    thread::sleep(Duration::from_secs(1));
    assert!(!applying.is_finished());
    Puppet::appear(&broker, "gw-1").confirms(&document);
    let (code, said) = applying.join().unwrap();
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_file_that_is_gone_withdraws_its_document_and_an_empty_folder_does_not() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let operator = Operator::of(&broker);
    let _gateway = Puppet::appear(&broker, "gw-1");
    let desired = Subscriber::start(broker.port(), "tidegate/v1/+/config/desired");
    plant(&operator, "10s");
    operator.write("groups/other.toml", "[host]\ninterval = \"20s\"\n");
    assert_eq!(operator.run("apply", &["--timeout", "1s"]).code, 1, "nobody confirms");

    operator.remove("groups/plant.toml");
    operator.remove("groups/other.toml");
    for subcommand in ["plan", "apply"] {
        let refused = operator.run(subcommand, &[]);
        assert_eq!(refused.code, 78, "{refused:?}");
        assert!(refused.errors.contains("--withdraw-all"), "{refused:?}");
    }
    operator.write("groups/other.toml", "[host]\ninterval = \"20s\"\n");
    let plan = operator.run("plan", &[]);
    let [change] = plan.all("change")[..] else { panic!("{plan:?}") };
    assert_eq!((&change["change"], &change["target"]), (&json!("withdraw"), &json!("@plant")));
    assert_eq!(operator.run("apply", &[]).code, 0, "the gateway has nothing of it");
    desired.wait_for("the document is withdrawn", PATIENCE, |message| {
        message.topic.contains("@plant") && message.payload.is_empty()
    });
}

#[test]
fn a_wrong_folder_is_told_before_anything_is_published() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let operator = Operator::of(&broker);
    let desired = Subscriber::start(broker.port(), "tidegate/v1/+/config/desired");
    let nothing = operator.run("apply", &[]);
    assert_eq!(nothing.code, 78);
    assert!(nothing.errors.contains("neither groups/ nor gateways/"), "{}", nothing.errors);
    plant(&operator, "10s");
    operator.write("gateways/gw-1.toml", "[mqtt]\nurl = \"mqtt://elsewhere\"\n[host]\nintervall = \"1m\"\n");
    let wrong = operator.run("apply", &[]);
    assert_eq!(wrong.code, 78);
    assert!(
        wrong.errors.contains("gateways/gw-1.toml:2: [mqtt] url: can be set on the gateway only"),
        "{}",
        wrong.errors
    );
    assert!(wrong.errors.contains("gateways/gw-1.toml:4: [host] intervall: there is no such key"), "{}", wrong.errors);
    assert!(desired.messages().is_empty());
    assert_eq!(operator.read("apply", &["--no-such-option"]).0, 2);
}

#[test]
fn a_user_who_may_not_publish_is_told_so() {
    requires!(need::program("mosquitto"));
    let acl = "topic read tidegate/v1/+/config/desired\ntopic read tidegate/v1/+/config/reported\ntopic read tidegate/v1/+/status\n";
    let broker = Broker::builder().acl(acl).start();
    let operator = Operator::of(&broker);
    plant(&operator, "10s");
    assert_eq!(operator.run("plan", &[]).code, 0, "looking needs no right to publish");
    let denied = operator.run("apply", &["--timeout", "10s"]);
    assert_eq!((denied.code, denied.all("denied").len()), (1, 1), "{denied:?}");
}

#[test]
fn a_fleet_that_never_falls_silent_is_read_all_the_same() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let operator = Operator::of(&broker);
    let mut gateway = Puppet::appear(&broker, "gw-1");
    plant(&operator, "10s");
    let enough = Arc::new(AtomicBool::new(false));
    let chatter = thread::spawn({
        let enough = Arc::clone(&enough);
        move || {
            while !enough.load(Ordering::Relaxed) {
                gateway.is("online");
                thread::sleep(Duration::from_millis(5));
            }
        }
    });
    let started = Instant::now();
    let status = operator.run("status", &[]);
    enough.store(true, Ordering::Relaxed);
    chatter.join().unwrap();
    assert_eq!(standing(&status, "gw-1"), "unpublished");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn what_a_technician_changed_on_site_is_listed_key_by_key() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let operator = Operator::of(&broker);
    let mut gateway = Puppet::appear(&broker, "gw-1");
    plant(&operator, "10s");
    gateway
        .report_drift(&json!({"host.interval": {"kind": "local", "desired": "10s", "file": "1m", "running": "10s"}}));
    let drift = operator.run("drift", &[]);
    let [line] = drift.all("drift")[..] else { panic!("{drift:?}") };
    assert_eq!(
        (drift.code, &line["gateway"], &line["key"], &line["file"]),
        (1, &json!("gw-1"), &json!("host.interval"), &json!("1m"))
    );
    assert_eq!(drift.summary()["drifting"], 1);
}

#[test]
fn the_operator_is_known_by_certificate_and_by_password() {
    requires!(need::program("mosquitto"), need::program("openssl"));
    let pki = Pki::new();
    let broker = Broker::builder().tls(&pki, true).start();
    let client = pki.client("operator");
    let shown = |path: &Path| path.display().to_string();
    let trusting = || Operator::of(&broker).env("TIDEGATE_FLEET_CA", shown(pki.ca()));
    let operator =
        trusting().env("TIDEGATE_FLEET_CERT", shown(&client.cert)).env("TIDEGATE_FLEET_KEY", shown(&client.key));
    plant(&operator, "10s");
    assert_eq!(operator.run("plan", &[]).code, 0);
    let stranger = trusting();
    plant(&stranger, "10s");
    assert_eq!(stranger.run("plan", &[]).code, 1, "the broker wants a certificate");

    let broker = Broker::builder().password("operator", "se cret").start();
    let operator = Operator::of(&broker).env("TIDEGATE_FLEET_USER", "operator");
    plant(&operator, "10s");
    let refused = operator.run("plan", &[]);
    assert!(refused.code == 1 && refused.errors.contains("--password-file"), "{refused:?}");
    operator.write("password.txt", "se cret\n");
    let file = operator.folder().join("password.txt");
    let operator = operator.env("TIDEGATE_FLEET_PASSWORD_FILE", shown(&file));
    assert_eq!(operator.run("plan", &[]).code, 0);
}

#[test]
fn a_broker_that_cannot_be_reached_is_named() {
    requires!(need::program("mosquitto"));
    let mut broker = Broker::start();
    let operator = Operator::of(&broker);
    plant(&operator, "10s");
    broker.kill();
    let (code, said) = operator.read("plan", &[]);
    assert!(code == 1 && said.contains(&broker.url()) && said.contains("refused"), "{code}: {said}");
}
