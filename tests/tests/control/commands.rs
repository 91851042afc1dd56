//! Requests to the gateway, as an operator sends them, and as somebody does who means it ill.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tidegate_tests::{
    Broker, Daemon, DaemonBuilder, Gateway, NotifySocket, Subscriber, eventually, memory_kib,
    mqtt::{Post, PubAckReason, Publisher},
    need,
    net::{UdpSender, UdpSink},
    requires,
    schema::Schemas,
};

use crate::{SOON, managed::Managed};

/// A broker, a daemon that listens for requests, and somebody who sends them.
struct Office {
    daemon: Daemon,
    operator: Publisher,
    schemas: Schemas,
    broker: Broker,
}

impl Office {
    fn open(how: DaemonBuilder) -> Self {
        let broker = Broker::start();
        let daemon = how.broker(broker.port()).start();
        daemon.until_connected();
        let operator = Publisher::connect(&broker);
        Self { daemon, operator, schemas: Schemas::load(), broker }
    }

    fn cmd(&self, name: &str) -> String {
        self.daemon.topic(&format!("cmd/{name}"))
    }

    /// Sends a request; the answer is as its schema says.
    #[track_caller]
    fn ask(&mut self, name: &str, payload: impl Into<bytes::Bytes>) -> Value {
        self.post(Post::new(self.cmd(name), payload))
    }

    #[track_caller]
    fn post(&mut self, request: Post) -> Value {
        let answer = self.operator.request_in_parts(request, |_| true).remove(0);
        self.schemas.assert_valid(self.daemon.id(), [&answer]);
        answer.json()
    }

    /// Counters of requests.
    fn counted(&self) -> Value {
        self.daemon.status()["commands"].take()
    }
}

#[test]
fn each_command_is_answered_to_whom_it_asked_and_as_its_schema_says() {
    requires!(need::program("mosquitto"));
    let mut office = Office::open(Daemon::builder());
    let status = office.ask("status", "");
    assert_eq!((&status["data"]["gateway"], &status["ok"]), (&json!(office.daemon.id()), &json!(true)));
    assert_eq!(status["data"]["uplink"]["state"], "connected");
    assert_eq!(status["boot"], status["data"]["boot"]);
    assert_eq!(office.ask("retry", r#"{"subject":"config"}"#)["data"], json!({"subject": "config"}));
    let log = office.ask("log-level", r#"{"filter":"warn","for":"1h30m"}"#);
    assert_eq!(log["data"], json!({"filter": "warn", "for": "1h30m", "then": "debug"}));
    assert_eq!(office.ask("log-level", "{}")["data"], json!({"filter": "debug"}));
    let counted = office.counted();
    assert_eq!(counted["performed"], json!({"status": 1, "retry": 1, "log-level": 2}));
    assert_eq!(counted["refused"], json!({}));
}

#[test]
fn what_cannot_be_performed_is_answered_with_the_reason() {
    requires!(need::program("mosquitto"));
    let mut office = Office::open(Daemon::builder());
    let large = format!(r#"{{"filter":"{}"}}"#, "x".repeat(16 << 10));
    let deep = format!(r#"{{"limit":{}1{}}}"#, "[".repeat(8_000), "]".repeat(8_000));
    for (name, payload, error, reason) in [
        ("reboot", "", "unknown-command", r#"no command "reboot"; there are: status, flows"#),
        ("status", "{\"all\":true}", "bad-request", r#"unknown member "all"; accepted: none"#),
        ("status", "[]", "bad-request", "wanted a JSON object"),
        ("flows", "{\"limit\":", "bad-request", "not JSON"),
        ("flows", "{\"limit\":\"all\"}", "bad-request", "limit: wanted a whole number from 1 to 10000"),
        ("flows", "{\"limit\":1,\"limit\":2}", "bad-request", "limit: stands twice"),
        ("flows", &deep, "bad-request", "limit: nested too deeply"),
        ("retry", "{\"subject\":\"telemetry\"}", "bad-request", "subject: wanted one of: config"),
        ("log-level", "{\"filter\":\"debug\",\"for\":\"25h\"}", "bad-request", r#"for: wanted a duration from "1s""#),
        ("log-level", &large, "too-large", "over 16384 bytes"),
        ("upload-pause", "{\"for\":\"8d\"}", "bad-request", r#"for: wanted a duration from "1s" to "7d""#),
        ("restart", "", "unsupervised", "does not run under systemd"),
    ] {
        let answer = office.ask(name, payload.to_owned());
        assert_eq!((&answer["error"], &answer["command"]), (&json!(error), &json!(name)), "{answer}");
        assert!(answer["reason"].as_str().is_some_and(|found| found.contains(reason)), "{answer}");
    }
    let binary = office.ask("flows", &b"{\"limit\":\xff}"[..]);
    assert_eq!(binary["reason"], "not UTF-8: the byte at 9 does not belong there");
    assert_eq!(office.daemon.status()["commands"]["performed"], json!({}));
}

#[test]
fn commands_are_switched_off_one_by_one_and_as_a_whole() {
    requires!(need::program("mosquitto"));
    let mut office = Office::open(Daemon::builder().config("[commands]\nenabled = [\"status\"]"));
    assert_eq!(office.ask("status", "")["ok"], true);
    for other in ["flows", "retry", "log-level", "upload-pause", "restart"] {
        assert_eq!(office.ask(other, "")["error"], "disabled");
    }
    office.configure("enabled = [\"flows\"]");
    eventually(SOON, "status is switched off", || office.ask("status", "")["error"] == "disabled");
    let before = office.counted();
    office.configure("enabled = []");
    let request = || Post::new("tidegate/v1/gw-test/cmd/flows", "");
    eventually(SOON, "nobody listens for requests", || {
        office.operator.post(request()) == PubAckReason::NoMatchingSubscribers
    });
    office.configure("enabled = [\"status\"]");
    eventually(SOON, "somebody listens again", || office.operator.post(request()) == PubAckReason::Success);
    assert_eq!(office.ask("status", "")["ok"], true);
    assert_eq!(office.counted()["performed"]["status"], before["performed"]["status"].as_u64().unwrap() + 1);
}

impl Office {
    /// Writes lines of `[commands]` over the ones before, and has them read.
    fn configure(&mut self, commands: &str) {
        self.daemon.scratch().write("conf.d/zz.toml", format!("[commands]\n{commands}\n"));
        self.daemon.running().signal(Signal::HUP);
    }
}

#[test]
fn a_request_without_response_topic_is_performed_in_silence() {
    requires!(need::program("mosquitto"));
    let mut office = Office::open(Daemon::builder());
    office.operator.post(Post::new(office.cmd("log-level"), r#"{"filter":"info","for":"10m"}"#));
    eventually(SOON, "it is performed", || office.counted()["log_level"]["filter"] == "info");
    office.operator.post(Post::new(office.cmd("reboot"), ""));
    eventually(SOON, "it is refused", || office.counted()["refused"] == json!({"unknown-command": 1}));
}

#[test]
fn nobody_has_the_gateway_publish_where_it_is_believed_or_obeyed() {
    requires!(need::program("mosquitto"));
    let mut office = Office::open(Daemon::builder());
    let all = Subscriber::start(office.broker.port(), "#");
    let topics = [
        "tidegate/v1/gw-test/status",
        "tidegate/v1/gw-test/telemetry/host",
        "tidegate/v1/gw-test/config/desired",
        "tidegate/v1/gw-test/config/reported",
        "tidegate/v1/gw-test/cmd/restart",
        "tidegate/v1/gw-8/response/anna",
        "tidegate/v1/@plant/config/desired",
        "$SYS/broker/uptime",
    ];
    for topic in topics {
        let asked = r#"{"filter":"off","for":"10m"}"#;
        office.operator.post(Post::new(office.cmd("log-level"), asked).respond_to(topic));
    }
    eventually(SOON, "all are refused", || {
        let refused = office.counted()["refused"].take();
        if refused == json!({"bad-response-topic": topics.len()}) { Ok(()) } else { Err(refused.to_string()) }
    });
    assert_eq!(office.counted().get("log_level"), None, "and not performed");
    assert_eq!(office.ask("status", "")["ok"], true, "the session goes on");
    let misled: Vec<_> = all.messages().into_iter().filter(|message| message.topic.contains("log-level")).collect();
    assert!(misled.iter().all(|message| message.topic == office.cmd("log-level")), "{misled:?}");
    let answered = all.messages().into_iter().filter(|message| {
        serde_json::from_slice::<Value>(&message.payload).is_ok_and(|json| json["command"] == "log-level")
    });
    assert_eq!(answered.count(), 0);
}

#[test]
fn a_request_with_the_retain_flag_is_not_performed_neither_kept_nor_live() {
    requires!(need::program("mosquitto"));
    let broker = Broker::start();
    let mut operator = Publisher::connect(&broker);
    operator.retain("tidegate/v1/gw-test/cmd/log-level", r#"{"filter":"off","for":"10m"}"#);
    let daemon = Daemon::builder().broker(broker.port()).start();
    daemon.until_connected();
    let counted = |times: u64| {
        eventually(SOON, "it is counted", || daemon.status()["commands"]["refused"] == json!({"retained": times}));
    };
    counted(1);
    operator.retain("tidegate/v1/gw-test/cmd/log-level", r#"{"filter":"off","for":"9m"}"#);
    counted(2);
    assert_eq!(daemon.status()["commands"].get("log_level"), None);
}

/// 20 at once, 10 a second: four seconds of sixty a second. What comes faster than control takes it, the uplink drops.
#[test]
fn too_many_requests_are_refused_of_which_some_are_told_so() {
    const REQUESTS: u64 = 240;
    requires!(need::program("mosquitto"));
    let mut office = Office::open(Daemon::builder().log("info"));
    let answers = Subscriber::start(office.broker.port(), "tidegate/v1/gw-test/response/#");
    let begun = Instant::now();
    for _ in 0..REQUESTS {
        let request = Post::new(office.cmd("status"), "").respond_to("tidegate/v1/gw-test/response/many");
        office.operator.shout(request);
        sleep(Duration::from_millis(16));
    }
    let (performed, refused) = eventually(SOON, "all are judged", || {
        let status = office.daemon.status();
        let counted = &status["commands"];
        let [performed, refused] = [&counted["performed"]["status"], &counted["refused"]["rate-limited"]]
            .map(|count| count.as_u64().unwrap_or(0));
        let dropped = status["uplink"]["dropped_requests"].as_u64().unwrap() + counted["dropped"].as_u64().unwrap();
        if performed + refused + dropped == REQUESTS { Ok((performed, refused)) } else { Err(counted.to_string()) }
    });
    let seconds = begun.elapsed().as_secs() + 1;
    assert!((20..=20 + 10 * seconds).contains(&performed), "{performed} in {seconds} s");
    assert!(refused > 50, "{refused} refused");
    let told = answers.messages();
    office.schemas.assert_valid(office.daemon.id(), &told);
    let complaints = told.iter().filter(|message| message.json()["error"] == "rate-limited").count() as u64;
    assert!((1..=seconds).contains(&complaints), "{complaints} complaints in {seconds} s");
    let lines = office.daemon.log().into_iter().filter(|line| line.contains(" request ")).count() as u64;
    assert!(lines <= 20 + 2 * seconds, "{lines} lines in {seconds} s");
    sleep(Duration::from_secs(2));
    assert_eq!(office.ask("status", "")["ok"], true, "whoever comes later is served");
}

#[test]
fn who_asked_is_in_the_log_and_cannot_write_lines_of_it() {
    requires!(need::program("mosquitto"));
    let mut office = Office::open(Daemon::builder());
    office.post(Post::new(office.cmd("log-level"), "").property("user", "anna"));
    office.daemon.wait_for_log(r#"request performed command=log-level asked_by="anna""#, SOON);
    // What a terminal takes for more than text; mosquitto itself refuses control characters.
    let forged = "x\" ERROR all is lost \u{202e}";
    office.post(Post::new(office.cmd("nonsense"), "").property("user", forged));
    office.daemon.wait_for_log(r#"asked_by="x\" ERROR all is lost \u{202e}" code="unknown-command""#, SOON);
}

#[test]
fn another_log_level_ends_by_itself_and_leaves_what_is_configured_then() {
    requires!(need::program("mosquitto"));
    let mut office = Office::open(Daemon::builder().log("warn"));
    let asked = Instant::now();
    let answer = office.ask("log-level", r#"{"filter":"info","for":"4s"}"#);
    assert_eq!(answer["data"]["then"], "warn");
    // Read while the other one is in force: what comes back is this one.
    office.daemon.scratch().write("conf.d/zz.toml", "[log]\nfilter = \"error\"\n");
    office.daemon.running().signal(Signal::HUP);
    office.daemon.wait_for_log("configuration", SOON);
    assert_eq!(office.counted()["log_level"]["filter"], "info");
    eventually(SOON, "the time is over", || office.counted().get("log_level").is_none());
    assert!(asked.elapsed() >= Duration::from_secs(4));
    let lines = office.daemon.log().len();
    assert_eq!(office.ask("reboot", "")["error"], "unknown-command", "which is a warning");
    assert_eq!(office.daemon.log().len(), lines, "{:?}", office.daemon.log().last());
    let answer = office.ask("log-level", r#"{"filter":"info","for":"1m"}"#);
    assert_eq!(answer["data"]["then"], "error");
}

/// What was refused stays so until it is read again.
#[test]
fn retry_has_desired_state_read_again() {
    requires!(need::program("mosquitto"));
    let mut office = Office::open(Daemon::builder());
    let desired = office.daemon.topic("config/desired");
    office.operator.retain(desired, r#"{"version":1,"config":{"host":{"interval":"soon"}}}"#);
    office.daemon.wait_for_log("remote configuration refused", SOON);
    let read = |office: &Office| {
        office
            .daemon
            .log()
            .into_iter()
            .filter(|line| line.contains("desired state is read in full documents=1"))
            .count()
    };
    assert_eq!(read(&office), 0, "it came after the connect");
    assert_eq!(office.ask("retry", r#"{"subject":"config"}"#)["ok"], true);
    eventually(SOON, "it is read again", || read(&office) == 1);
}

#[test]
fn retry_has_what_was_rolled_back_tried_at_once() {
    const CONFIRM_WITHIN: Duration = Duration::from_secs(10);
    requires!(need::program("mosquitto"));
    let mut gateway = Managed::of(Broker::start(), |broker| {
        let daemon = Daemon::builder().broker(broker.port()).mqtt("keep_alive = \"5s\"");
        daemon.config(&format!("[policy]\nconfirm_within = \"{}s\"", CONFIRM_WITHIN.as_secs()))
    });
    gateway.desire(1, &json!({"host": {"interval": "7s"}}));
    gateway.on_trial(1);
    gateway.broker.freeze();
    eventually(SOON, "the document is rolled back", || {
        gateway.daemon.status()["configuration"]["remote"][0]["state"] == "rolled-back"
    });
    let undone = Instant::now();
    gateway.broker.thaw();
    gateway.daemon.until_connected();
    let answer = gateway.operator.request(&gateway.daemon.topic("cmd/retry"), r#"{"subject":"config"}"#);
    assert_eq!(answer.json()["ok"], true);
    gateway.confirmed(1);
    assert!(undone.elapsed() < 2 * CONFIRM_WITHIN, "by itself it waits twice as long");
}

#[test]
fn restart_is_answered_before_the_daemon_stops_in_order_for_its_supervisor() {
    requires!(need::program("mosquitto"));
    let systemd = NotifySocket::open();
    let mut office = Office::open(Daemon::builder().env("NOTIFY_SOCKET", systemd.path()));
    let states = Subscriber::start(office.broker.port(), "tidegate/v1/gw-test/status");
    let asked = Instant::now();
    let answer = office.ask("restart", "");
    assert_eq!(answer["data"], json!({}), "{answer}");
    let ended = office.daemon.running().wait(Duration::from_secs(10));
    assert_eq!(ended.code(), Some(75), "{ended}");
    systemd.wait_for(asked, "STOPPING=1", SOON);
    states.wait_for("it leaves in order", SOON, |message| message.json()["reason"] == "stopping");
    assert!(office.daemon.log().iter().any(|line| line.contains("stopped")), "{:?}", office.daemon.log());

    // As systemd does. The request is not performed once more.
    office.daemon.start_again();
    office.daemon.until_connected();
    assert_eq!(office.ask("status", "")["data"]["commands"]["performed"], json!({}));
}

/// systemd does not try again to start what ends with exit status 78: nobody would reach the gateway any more.
#[test]
fn restart_is_refused_where_the_daemon_would_not_come_up_again() {
    requires!(need::program("mosquitto"));
    let systemd = NotifySocket::open();
    let mut office = Office::open(Daemon::builder().env("NOTIFY_SOCKET", systemd.path()));
    let wrong = office.daemon.scratch().write("conf.d/zz.toml", "[host]\ninterval = \"soon\"\n");
    let answer = office.ask("restart", "");
    assert_eq!(answer["error"], "failed", "{answer}");
    let reason = answer["reason"].as_str().unwrap();
    assert!(reason.contains("would not start") && reason.contains("[host] interval"), "{reason}");
    eventually(Duration::from_secs(30), "the status names the file before anybody restarts", || {
        let problems = office.daemon.status()["problems"].to_string();
        problems.contains("zz.toml") && problems.contains("would not start")
    });

    std::fs::remove_file(wrong).unwrap();
    assert_eq!(office.ask("restart", "")["data"], json!({}));
    let ended = office.daemon.running().wait(Duration::from_secs(10));
    assert_eq!(ended.code(), Some(75), "{ended}");
}

#[test]
fn ten_thousand_flows_are_told_in_parts_without_being_held_in_memory() {
    const FLOWS: usize = 10_000;
    requires!(need::root(), need::program("mosquitto"), need::program("ip"));
    let net = Gateway::new();
    let broker = Broker::builder().inside(&net.gateway).start();
    let daemon = Daemon::builder()
        .inside(&net.gateway)
        .broker(broker.port())
        .config("[traffic]\ninterfaces = [\"eth0\"]\nsample_rate = 1\nexport_interval = \"10m\"\nflow_capacity = 32768")
        .log("info")
        .start();
    daemon.until_connected();
    eventually(SOON, "eth0 is watched", || daemon.status()["traffic"]["interfaces"][0]["interface"] == "eth0");
    let sinks: [UdpSink; 4] = std::array::from_fn(|_| UdpSink::open(&net.right.host, net.right.address(false)));
    // Ports of senders are drawn from 28,000, so that some come twice.
    for sink in &sinks {
        for _ in 0..FLOWS * 3 / 10 {
            UdpSender::connect(&net.left.host, sink.address()).send(b"x");
        }
    }
    let mut operator = Publisher::connect(&broker);
    let before = resident_peak_kib(&daemon);
    let request = Post::new(daemon.topic("cmd/flows"), json!({"limit": FLOWS}).to_string());
    let parts = operator.request_in_parts(request, |part| part.json()["data"]["last"] == true);
    let grown = resident_peak_kib(&daemon) - before;
    assert!(parts.len() > 50 && parts.iter().all(|part| part.payload.len() < 50 << 10), "{} parts", parts.len());
    let bytes: usize = parts.iter().map(|part| part.payload.len()).sum();
    assert!(grown < 1500, "{grown} KiB for {bytes} bytes of flows");
    Schemas::load().assert_valid(daemon.id(), &parts);
    let told: usize = parts.iter().map(|part| part.json()["data"]["flows"].as_array().unwrap().len()).sum();
    assert_eq!(told, FLOWS);
    let last = parts.last().unwrap().json();
    assert_eq!((&last["data"]["count"], &last["data"]["more"]), (&json!(FLOWS), &json!(true)));
    let numbers: Vec<_> = parts.iter().map(|part| part.json()["data"]["part"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..parts.len() as u64).collect::<Vec<_>>());
}

/// The most that the daemon has had resident (proc(5), `VmHWM`).
fn resident_peak_kib(daemon: &Daemon) -> u64 {
    let pid = daemon.status()["pid"].as_u64().unwrap();
    memory_kib(u32::try_from(pid).unwrap(), "VmHWM")
}
