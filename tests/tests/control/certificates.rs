//! Certificates that are renewed while the gateway is connected, that are broken, and that are about to expire.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tidegate_tests::{
    Broker, Daemon, Ingest, Subscriber, eventually,
    mqtt::{Ledger, Pki},
    need, requires,
    schema::Schemas,
};

use crate::SOON;

/// Files are looked at every 30 s.
const NOTICED: Duration = Duration::from_mins(1);

/// A daemon with credentials of its own, a broker that knows it by them, and somebody who listens.
struct Secured {
    pki: Pki,
    broker: Broker,
    subscriber: Subscriber,
    daemon: Daemon,
    cert: PathBuf,
    key: PathBuf,
}

impl Secured {
    fn start() -> Self {
        let pki = Pki::new();
        let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port");
        let broker = Broker::builder()
            .tls(&pki, true)
            .line("use_identity_as_username true")
            .line(&format!("listener {} 127.0.0.1", free.port()))
            .start();
        let subscriber = Subscriber::start(free.port(), "tidegate/v1/#");
        let files = credentials_of(&pki, "first");
        let mut secured = Self {
            cert: files.join("cert.pem"),
            key: files.join("key.pem"),
            daemon: Daemon::builder()
                .mqtt(&format!("url = \"{}\"", broker.url()))
                .mqtt(&format!("ca = \"{}\"", pki.ca().display()))
                .mqtt(&format!("cert = \"{0}/cert.pem\"\nkey = \"{0}/key.pem\"", files.display()))
                .config("[traffic]\ninterfaces = []\n\n[host]\ninterval = \"1s\"")
                .prepare(),
            pki,
            broker,
            subscriber,
        };
        secured.daemon.start_again();
        secured.daemon.until_connected();
        secured
    }
}

/// A folder beside the authority's with a client's credentials.
fn credentials_of(pki: &Pki, name: &str) -> PathBuf {
    let folder = pki.ca().with_file_name("gateway");
    fs::create_dir_all(&folder).unwrap();
    let identity = pki.client(name);
    put(&identity.cert, &folder.join("cert.pem"));
    put(&identity.key, &folder.join("key.pem"));
    folder
}

/// As programs that renew certificates do: whole, by a rename.
fn put(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    fs::copy(from, &new).unwrap();
    fs::rename(new, to).unwrap();
}

#[test]
fn a_renewed_certificate_is_taken_over_in_order_and_nothing_is_lost() {
    requires!(need::program("mosquitto"), need::program("openssl"));
    let Secured { pki, broker, subscriber, daemon, cert, key } = Secured::start();
    let mut ingest = Ingest::connect(&daemon);
    let mut sent = 0_u64;
    let mut hand_over = || {
        ingest.put("meter", &json!({"number": sent})).expect("the record is taken");
        sent += 1;
    };
    hand_over();
    let renewed = pki.client("second");
    put(&renewed.cert, &cert);
    put(&renewed.key, &key);
    eventually(NOTICED, "it connects by the renewed certificate", || {
        hand_over();
        broker.log().iter().any(|line| line.contains("as gw-test") && line.contains("u'second'"))
    });
    daemon.until_connected();
    let status = daemon.status();
    assert_eq!(status["uplink"]["reconnects"], 1, "{status:#}");
    hand_over();
    let ledger = eventually(SOON, "all records arrive", || {
        let ledger = Ledger::of(&subscriber.messages());
        if ledger.stream("ingest/meter").count() as u64 == sent { Ok(ledger) } else { Err("not yet") }
    });
    ledger.assert_complete();
    let said: Vec<Value> = subscriber
        .messages()
        .iter()
        .filter(|message| message.topic == daemon.topic("status"))
        .map(|message| message.json()["state"].clone())
        .collect();
    let left = said.iter().position(|state| state == "offline").expect("it left in order");
    assert_eq!(said[left + 1], "online", "{said:?}");
    assert!(!said[left + 1..].contains(&"offline".into()), "once: {said:?}");
}

#[test]
fn a_broken_certificate_changes_nothing_but_the_status_and_an_old_one_is_told() {
    requires!(need::program("mosquitto"), need::program("openssl"));
    let Secured { pki, broker: _broker, subscriber, daemon, cert, .. } = Secured::start();

    // The harness's certificates are valid for two days.
    let expiring = |message: &tidegate_tests::Message| {
        let json = message.json();
        let data = &json["data"];
        message.topic == daemon.topic("event/incident")
            && data["what"] == "certificate_expiring"
            && data["which"] == "cert"
            && data["expires_in_s"].as_i64().is_some_and(|left| (86_400..=2 * 86_400).contains(&left))
    };
    subscriber.wait_for("an event says that the certificate expires soon", SOON, expiring);
    subscriber.wait_for("telemetry says when", SOON, |message| {
        message.topic == daemon.topic("telemetry/host")
            && message.json()["data"]["certificates"].as_array().is_some_and(|list| list.len() == 2)
    });
    let problem = |status: &Value, text: &str| {
        let problems = status["problems"].as_array().expect("a list");
        problems.iter().any(|problem| problem["what"].as_str().is_some_and(|what| what.contains(text)))
    };
    let status = daemon.status();
    assert!(problem(&status, "the gateway's certificate ([mqtt] cert) expires in"), "{status:#}");

    let good = fs::read(&cert).unwrap();
    fs::write(&cert, &good[..good.len() / 2]).unwrap();
    let status = eventually(NOTICED, "the status tells of the broken certificate", || {
        let status = daemon.status();
        if problem(&status, "replaced credentials are not used: [mqtt] cert") {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    });
    assert_eq!(status["uplink"]["state"], "connected", "{status:#}");
    assert_eq!(status["uplink"]["reconnects"], 0);
    let host = status["host"]["last"]["unavailable"]["certificates/cert"].as_str().unwrap_or_default();
    assert!(host.contains("not well-formed PEM"), "{status:#}");

    put(&pki.client("third").cert, &cert);
    let told = subscriber.messages().into_iter().filter(expiring).count();
    assert_eq!(told, 1, "once for each certificate, not with each sample");
    Schemas::load().assert_valid(daemon.id(), &subscriber.messages());
}
