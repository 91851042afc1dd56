//! `docs/broker.md`: mosquitto with the very configuration and access list that stand there.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use serde_json::{Value, json};
use tidegate_tests::{
    Daemon, Ingest, Process, Scratch, eventually,
    mqtt::{Identity, Pki},
    need, requires,
};

use crate::SOON;

const PAGE: &str = include_str!("../../../docs/broker.md");
/// For a message that must not come.
const SILENCE_S: &str = "2";

/// The block of the page below the marker of that file, without its indentation.
fn block(file: &str) -> String {
    let marker = format!("<!-- {file}: tested as it stands -->\n\n");
    let (_, below) = PAGE.split_once(&marker).unwrap_or_else(|| panic!("{marker} is not on the page"));
    let lines = below.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    lines.map(|line| line.trim_start().to_owned() + "\n").collect()
}

/// A broker as the page sets it up.
struct Documented {
    _process: Process,
    _scratch: Scratch,
    pki: Pki,
    /// For gateways.
    gateways: u16,
    /// For operators and consumers.
    operators: u16,
}

impl Documented {
    fn start() -> Self {
        let (pki, scratch) = (Pki::new(), Scratch::new("documented-broker"));
        let free = [(); 2].map(|()| TcpListener::bind(("127.0.0.1", 0)).expect("a free port"));
        let [gateways, operators] = free.map(|listener| listener.local_addr().expect("it is bound").port());
        let folder = scratch.path().display();
        let config = block("mosquitto.conf")
            .replace("listener 8883", &format!("listener {gateways} 127.0.0.1"))
            .replace("listener 8884", &format!("listener {operators} 127.0.0.1"))
            .replace("/etc/mosquitto/certs/ca.pem", &pki.ca().display().to_string())
            .replace("/etc/mosquitto/certs/broker.pem", &pki.server().cert.display().to_string())
            .replace("/etc/mosquitto/certs/broker.key", &pki.server().key.display().to_string())
            .replace("/etc/mosquitto", &folder.to_string())
            .replace("/var/lib/mosquitto", &folder.to_string());
        assert!(!config.contains("/etc/") && !config.contains("/var/"), "{config}");
        scratch.write("tidegate.acl", block("tidegate.acl"));
        // Started by root it would go on as a user who may not read the test's files.
        let config = scratch.write("mosquitto.conf", format!("{config}\nuser root\nlog_dest stdout\n"));
        let mut command = Command::new(need::find("mosquitto").expect("the scenario asked for it"));
        command.arg("-c").arg(config);
        let process = Process::start("mosquitto", command);
        eventually(SOON, "mosquitto listens on both ports", || {
            let connect = |port| TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string());
            connect(gateways).and_then(|()| connect(operators))
        });
        Self { _process: process, _scratch: scratch, pki, gateways, operators }
    }

    /// `mosquitto_pub` or `mosquitto_sub` by somebody's certificate.
    fn client(&self, program: &str, port: u16, identity: &Identity) -> Command {
        let mut command = Command::new(program);
        command.args(["-V", "5", "-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1"]);
        command.arg("--cafile").arg(self.pki.ca()).arg("--cert").arg(&identity.cert).arg("--key").arg(&identity.key);
        command
    }

    /// Publishes, retained, and says whether the broker took it.
    fn publishes(&self, port: u16, identity: &Identity, topic: &str, payload: &str) -> bool {
        let output = self.client("mosquitto_pub", port, identity).args(["-r", "-t", topic, "-m", payload]).output();
        let output = output.expect("it was found");
        output.status.success() && !text(&output).contains("Not authorized")
    }

    /// Topics of the retained messages that somebody gets for a subscription.
    fn reads(&self, port: u16, identity: &Identity, filter: &str) -> Vec<String> {
        let mut command = self.client("mosquitto_sub", port, identity);
        let output = command.args(["-t", filter, "-F", "%t", "-W", SILENCE_S]).output().expect("it was found");
        let mut topics: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        topics.sort_unstable();
        topics
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn under_the_documented_access_list_each_reaches_what_is_its_own_and_nothing_else() {
    requires!(need::program("mosquitto"), need::program("mosquitto_pub"), need::program("openssl"));
    let broker = Documented::start();
    let (gateways, operators) = (broker.gateways, broker.operators);
    let [one, other, operator, consumer, stranger] =
        ["gw-7", "gw-8", "operator", "consumer", "stranger"].map(|name| broker.pki.client(name));
    let desired = |whose: &str| format!("tidegate/v1/{whose}/config/desired");

    // An operator writes desired state, for gateways and groups.
    for whose in ["gw-7", "gw-8", "@plant", "@north", "@south"] {
        assert!(broker.publishes(operators, &operator, &desired(whose), "{}"), "{whose}");
    }
    assert!(broker.publishes(operators, &operator, "tidegate/v1/gw-7/cmd/status", "{}"));
    assert!(!broker.publishes(operators, &operator, "tidegate/v1/gw-7/status", "{}"), "a gateway's own word");

    // Gateways read their own and their groups'.
    for (gateway, filter, wanted) in [
        (&one, "tidegate/v1/gw-7/#", vec!["tidegate/v1/gw-7/cmd/status".to_owned(), desired("gw-7")]),
        (&one, "tidegate/v1/+/config/desired", vec![desired("@north"), desired("@plant"), desired("gw-7")]),
        (&other, "tidegate/v1/+/config/desired", vec![desired("@plant"), desired("gw-8")]),
        (&other, "#", vec![desired("@plant"), desired("gw-8")]),
        (&stranger, "#", vec![]),
    ] {
        assert_eq!(broker.reads(gateways, gateway, filter), wanted, "{filter}");
    }
    assert_eq!(broker.reads(operators, &consumer, "tidegate/v1/+/config/desired").len(), 5);

    // They write their own, and nobody else's.
    assert!(broker.publishes(gateways, &other, "tidegate/v1/gw-8/status", "{}"));
    for topic in [
        &desired("gw-7"),
        "tidegate/v1/gw-7/status",
        "tidegate/v1/gw-7/cmd/restart",
        "tidegate/v1/gw-7/telemetry/host",
        &desired("@plant"),
        "tidegate/v1/gw-80/status",
        "elsewhere",
    ] {
        assert!(!broker.publishes(gateways, &other, topic, "{}"), "{topic}");
        assert!(!broker.publishes(operators, &other, topic, "{}"), "{topic}, through the operators' port");
        assert!(!broker.publishes(operators, &consumer, topic, "{}"), "{topic}, by a consumer");
    }
    assert_eq!(broker.reads(operators, &consumer, "tidegate/v1/gw-80/#"), [""; 0]);

    // Nobody comes in without a certificate, or with one of another authority.
    let mut nobody = Command::new("mosquitto_pub");
    nobody.args(["-V", "5", "-h", "127.0.0.1", "-p", &gateways.to_string(), "-t", "x", "-m", "x"]);
    assert!(!nobody.arg("--cafile").arg(broker.pki.ca()).output().unwrap().status.success());
    let forged = Pki::new().client("operator");
    assert!(!broker.publishes(operators, &forged, &desired("gw-7"), "{}"));
}

#[test]
fn a_gateway_does_its_work_under_the_documented_access_list_and_nobody_takes_its_place() {
    requires!(need::program("mosquitto"), need::program("mosquitto_pub"), need::program("openssl"));
    let broker = Documented::start();
    let [gateway, other, operator, consumer] =
        ["gw-7", "gw-8", "operator", "consumer"].map(|name| broker.pki.client(name));
    let path = |path: &Path| format!("{:?}", path.display().to_string());
    let daemon = Daemon::builder()
        .nameless()
        .config("[gateway]\nid = \"gw-7\"\ngroups = [\"plant\", \"north\"]\n\n[traffic]\ninterfaces = []")
        .mqtt(&format!("url = \"mqtts://127.0.0.1:{}\"\nca = {}", broker.gateways, path(broker.pki.ca())))
        .mqtt(&format!("cert = {}\nkey = {}", path(&gateway.cert), path(&gateway.key)))
        .start();
    daemon.until_connected();

    // Managed: documents for it and its group, and a request.
    let desired = |version: u32, host: &str| format!(r#"{{"version":{version},"config":{{"host":{host}}}}}"#);
    for (whose, host) in [("@plant", r#"{"interval":"3s"}"#), ("gw-7", "{}")] {
        let topic = format!("tidegate/v1/{whose}/config/desired");
        assert!(broker.publishes(broker.operators, &operator, &topic, &desired(1, host)));
    }
    eventually(SOON, "it reports both documents as confirmed", || {
        let mut command = broker.client("mosquitto_sub", broker.operators, &consumer);
        let output = command.args(["-t", "tidegate/v1/gw-7/config/reported", "-C", "1", "-W", "5"]).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let states = [&report["state"], &report["groups"][0]["state"]];
        if states == ["confirmed"; 2] && report["version"] == 1 { Ok(()) } else { Err(report.to_string()) }
    });
    let mut asks = broker.client("mosquitto_rr", broker.operators, &operator);
    asks.args([
        "-t",
        "tidegate/v1/gw-7/cmd/status",
        "-e",
        "tidegate/v1/gw-7/response/operator",
        "-m",
        "{}",
        "-W",
        "20",
    ]);
    let answer: Value = serde_json::from_slice(&asks.output().unwrap().stdout).expect("an answer");
    assert_eq!((&answer["ok"], &answer["data"]["gateway"]), (&true.into(), &"gw-7".into()), "{answer}");

    // By the client id of the gateway, which the broker does not believe.
    let mut usurper = broker.client("mosquitto_sub", broker.gateways, &other);
    let output = usurper.args(["-i", "gw-7", "-t", "tidegate/v1/gw-7/#", "-W", SILENCE_S]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "it gets nothing");

    let received = daemon.scratch().path().join("received");
    let mut listener = broker.client("mosquitto_sub", broker.operators, &consumer);
    listener.args(["-t", "tidegate/v1/gw-7/#", "-F", "%t"]).stdout(fs::File::create(&received).unwrap());
    let mut listener = listener.spawn().unwrap();
    let mut ingest = Ingest::connect(&daemon);
    eventually(SOON, "a consumer gets status, measurements and records", || {
        ingest.put("meter", &json!({"kwh": 7})).expect("the record is taken");
        let topics = fs::read_to_string(&received).unwrap();
        let missing = ["status", "ingest/meter"]
            .into_iter()
            .find(|below| !topics.lines().any(|topic| topic == format!("tidegate/v1/gw-7/{below}")));
        std::thread::sleep(Duration::from_millis(100));
        missing.map_or(Ok(()), |below| Err(below.to_owned()))
    });
    listener.kill().unwrap();
    listener.wait().unwrap();
    daemon.until_connected();
    let status = daemon.status();
    assert_eq!(status["uplink"]["reconnects"], 0, "nobody took its session: {status:#}");
    assert_eq!(status["uplink"]["held"], 0, "{status:#}");
}
