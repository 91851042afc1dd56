//! A thousand gateways with the daemon's own control code, and an operator who changes all of them.

use std::{collections::BTreeMap, ops::Range, thread, time::Duration};

use serde_json::{Value, json};
use tidegate_tests::{
    Broker, Message, Subscriber, eventually,
    fleet::{Flaw, Operator, Printed, Simulation},
    need, requires,
    schema::Schemas,
};
use tidegate_values::Digest;

const GATEWAYS: usize = 1000;
/// 5 % reject the change: it cuts them off, half of them by one key, half by another.
const SAMPLING: Range<usize> = 100..125;
const WATCHING: Range<usize> = 200..225;
/// 5 % are away when it is made.
const AWAY: Range<usize> = 300..350;
/// Some have a document of their own.
const OWN: [usize; 3] = [7, 110, 310];
/// Some crash in the middle.
const CRASHING: Range<usize> = 400..420;
const PATIENCE: Duration = Duration::from_mins(1);

const FIRST: &str = "[host]\ninterval = \"10s\"\n";
const CHANGED: &str = "[host]\ninterval = \"20s\"\n[traffic]\ntime_tcp_sendmsg = false\ninterfaces = [\"eth0\"]\n";
const MENDED: &str = "[host]\ninterval = \"30s\"\n";

fn flaw(index: usize) -> Flaw {
    match index {
        index if SAMPLING.contains(&index) => Flaw::CutOffBy("traffic.time_tcp_sendmsg"),
        index if WATCHING.contains(&index) => Flaw::CutOffBy("traffic.interfaces"),
        _ => Flaw::None,
    }
}

/// What the broker retains: version and digest by target, as any client sees it; all of `OWN` and the group.
fn retained(broker: &Broker) -> BTreeMap<String, (u64, Digest)> {
    let desired = Subscriber::start(broker.port(), "tidegate/v1/+/config/desired");
    eventually(PATIENCE, "all that is retained has come", || desired.messages().len() > OWN.len());
    let document = |message: &Message| {
        let target = message.topic.split('/').nth(2).unwrap_or_default().to_owned();
        (target, (message.json()["version"].as_u64().unwrap(), Digest::of(&message.payload)))
    };
    desired.messages().iter().filter(|message| !message.payload.is_empty()).map(document).collect()
}

/// What gateway `index` is to run, by the names that its control has for the sources.
fn wanted(
    simulation: &Simulation,
    retained: &BTreeMap<String, (u64, Digest)>,
    index: usize,
) -> BTreeMap<String, (u64, Digest)> {
    let own = retained.get(&simulation.id(index)).map(|document| ("device".to_owned(), *document));
    let group = retained.get("@plant").map(|document| ("@plant".to_owned(), *document));
    group.into_iter().chain(own).collect()
}

/// The documents that a line of `status --json` says are confirmed.
fn reported(line: &Value) -> BTreeMap<String, (u64, Digest)> {
    let documents = line["documents"].as_object().unwrap_or_else(|| panic!("{line}"));
    let confirmed = documents.iter().filter(|(_, document)| !document["confirmed"].is_null());
    confirmed
        .map(|(target, document)| {
            let source = if target.starts_with('@') { target.clone() } else { "device".to_owned() };
            let digest = document["confirmed"]["digest"].as_str().unwrap().parse().unwrap();
            (source, (document["confirmed"]["version"].as_u64().unwrap(), digest))
        })
        .collect()
}

fn standings(printed: &Printed) -> &Value {
    &printed.summary()["gateways"]
}

#[test]
fn a_change_reaches_a_thousand_gateways_though_some_reject_it_some_are_away_and_the_broker_restarts() {
    requires!(need::program("mosquitto"));
    let mut broker = Broker::builder().quiet().persistent().start();
    let operator = Operator::of(&broker);
    let simulation = Simulation::start(&broker, GATEWAYS, &["plant"], flaw);
    operator.write("groups/plant.toml", FIRST);
    for index in OWN {
        operator.write(&format!("gateways/{}.toml", simulation.id(index)), "[traffic]\nsample_rate = 7\n");
    }
    // All are there, and take the first configuration.
    let everybody = |status: &Printed| standings(status).as_object().unwrap().values().filter_map(Value::as_u64).sum();
    eventually(PATIENCE, "all gateways have reported", || {
        let seen: u64 = everybody(&operator.run("status", &["--bad"]));
        if seen == GATEWAYS as u64 { Ok(()) } else { Err(format!("{seen} are there")) }
    });
    let first = operator.run("apply", &[]);
    assert_eq!((first.code, standings(&first)), (0, &json!({"as-wanted": GATEWAYS})), "{:?}", first.summary());
    let before = retained(&broker);

    // The change, with a restart of the broker in the middle of it.
    simulation.switch_off(AWAY);
    eventually(PATIENCE, "the broker knows who is away", || {
        let status = operator.run("status", &[]);
        let away = status.all("gateway").into_iter().filter(|line| line["online"] == false).count();
        if away == AWAY.len() { Ok(()) } else { Err(format!("{away} are away")) }
    });
    operator.write("groups/plant.toml", CHANGED);
    let mut command = operator.command("apply", &["--json", "--timeout", "90s"]);
    let applying = thread::spawn(move || command.output().expect("the program can be run"));
    let changed =
        || (0..GATEWAYS).filter(|index| simulation.running(*index).config.host.interval.as_secs() == 20).count();
    eventually(PATIENCE, "the first gateways run the change", || changed() > 0);
    broker.stop();
    let version = |documents: &BTreeMap<String, (u64, Digest)>| documents.get("@plant").map(|(version, _)| *version);
    let settled = |index: &usize| version(&simulation.running(*index).documents) > version(&before);
    assert!((0..GATEWAYS).filter(settled).count() < GATEWAYS / 2, "the broker goes in the middle of it");
    simulation.crash(CRASHING);
    thread::sleep(Duration::from_millis(300));
    broker.start_again();
    let output = applying.join().unwrap();
    let last = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
    let said = last + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");

    // Reported is what runs, gateway by gateway, and what runs is what is desired, but for those who reject it.
    let after = retained(&broker);
    assert!(after["@plant"].0 > before["@plant"].0);
    let expected = json!({"as-wanted": 900, "offline": 50, "rolled-back": 50});
    let status = operator.run("status", &[]);
    assert_eq!(standings(&status), &expected, "{said}");
    for (index, line) in status.all("gateway").into_iter().enumerate() {
        assert_eq!(line["gateway"], simulation.id(index));
        let rejects = SAMPLING.contains(&index) || WATCHING.contains(&index);
        let mut wanted = wanted(&simulation, &after, index);
        if rejects || AWAY.contains(&index) {
            wanted.insert("@plant".to_owned(), before["@plant"]);
        }
        let running = simulation.running(index);
        assert_eq!(running.documents, wanted, "{}", simulation.id(index));
        assert_eq!(reported(line), wanted, "{line}");
        assert_eq!(running.config.traffic.sample_rate == 7, OWN.contains(&index), "{line}");
        assert_eq!(running.config.host.interval.as_secs(), if wanted["@plant"] == after["@plant"] { 20 } else { 10 });
        if rejects {
            assert_eq!(line["standing"], "rolled-back");
            assert!(line["reason"].as_str().is_some_and(|reason| reason.contains("round trip")), "{line}");
        }
    }

    // Who was away gets it.
    simulation.switch_on(AWAY);
    simulation.wait_for("those who were away run it", PATIENCE, AWAY, |running| {
        running.documents["@plant"] == after["@plant"]
    });

    // The operator mends what some rejected, and everybody is as wanted, exactly.
    operator.write("groups/plant.toml", MENDED);
    let mended = operator.run("apply", &[]);
    assert_eq!((mended.code, standings(&mended)), (0, &json!({"as-wanted": GATEWAYS})), "{:?}", mended.summary());
    let last = retained(&broker);
    let schemas = Schemas::load();
    let reports = Subscriber::start(broker.port(), "tidegate/v1/+/config/reported");
    eventually(PATIENCE, "all reports are there", || reports.messages().len() >= GATEWAYS);
    for message in reports.messages() {
        let id = message.topic.split('/').nth(2).unwrap_or_default().to_owned();
        schemas.assert_valid(&id, [&message]);
    }
    let status = operator.run("status", &[]);
    assert_eq!(status.code, 0);
    for (index, line) in status.all("gateway").into_iter().enumerate() {
        let wanted = wanted(&simulation, &last, index);
        assert_eq!((simulation.running(index).documents, reported(line)), (wanted.clone(), wanted), "{line}");
    }
    assert_eq!(operator.run("drift", &[]).code, 0);
    assert_eq!(operator.run("plan", &["--exit-code"]).code, 0);
}
