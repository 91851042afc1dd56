//! Signed policies: one that blocks an address, and one that would cut the gateway off.
//!
//! The operator has the key and publishes on `policy/desired`; what comes of it is read where an operator reads it, on
//! `policy/reported`, in telemetry and in `tidegate policy show`, and measured at the host that packets no longer reach.

use std::{
    net::SocketAddrV4,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tidegate_tests::{
    Daemon, Gateway, Message, Post, Publisher, Subscriber, eventually,
    mqtt::Envelope,
    policy::{Key, Policy},
};

use crate::{
    intruder::{self, Intruder},
    screen::Screen,
    traffic::Traffic,
};

/// The rule that all policies of the demo have.
const RULE: &str = "block-intruder";
/// Datagrams of each attempt to get through.
const ATTEMPTS: u64 = 100;
/// A policy without a link is undone after the shortest time that the configuration takes.
const CONFIRM_WITHIN: &str = "5s";
/// For a report: undoing a policy takes [`CONFIRM_WITHIN`], and finding back to the broker a few seconds.
const REPORTED_WITHIN: Duration = Duration::from_secs(20);
/// For a counter: it is exported each two seconds.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);

/// The operator, and the one who is to be blocked.
#[derive(Debug)]
pub(crate) struct Guard {
    operator: Publisher,
    intruder: Intruder,
    /// Where the gateway reaches its broker.
    broker: SocketAddrV4,
    /// Datagrams that the rule must have dropped so far.
    dropped: u64,
}

/// Tables of the configuration by which the gateway trusts the operator's key.
pub(crate) fn config() -> String {
    format!("[policy]\npublic_keys = [\"{}\"]\nconfirm_within = \"{CONFIRM_WITHIN}\"", key().literal())
}

fn key() -> Key {
    Key::numbered(1)
}

impl Guard {
    /// An operator, and an intruder beside the right host. `broker` is where the gateway reaches its broker.
    pub(crate) fn new(net: &Gateway, operator: Publisher, broker: SocketAddrV4) -> Self {
        Self { operator, intruder: Intruder::new(net), broker, dropped: 0 }
    }

    /// A policy blocks the intruder, and nobody else.
    pub(crate) fn blocks_an_address(
        &mut self,
        (net, daemon, subscriber): (&Gateway, &Daemon, &Subscriber),
        traffic: &Traffic,
        screen: &Screen,
    ) {
        self.intruder.passes(ATTEMPTS);
        screen.say(format_args!(
            "{ATTEMPTS} datagrams from {} to {}: {ATTEMPTS} arrive",
            intruder::ADDRESS,
            net.left.ipv4
        ));
        let talked = traffic.transfers();
        let published_ms = now_ms();
        self.publish(daemon, &blocking(1));
        let report = reported(subscriber, 1, "confirmed");
        assert_eq!(report["enforced"]["version"], 1, "{report}");
        screen.say(format_args!(
            "a signed policy is published, enforced {} ms later, and confirmed by a round trip with the broker",
            report["enforced"]["since_ms"].as_u64().expect("a report has times").saturating_sub(published_ms)
        ));
        self.is_blocked(daemon);
        screen.say(format_args!("{ATTEMPTS} more: none arrives, and each is counted; tidegate policy show:"));
        let shown = daemon.command(&["policy", "show"]).output().expect("run tidegate");
        screen.quote(&String::from_utf8_lossy(&shown.stdout));
        subscriber.wait_for("telemetry/policy counts each dropped packet", COUNTED_WITHIN, |message| {
            let data = data(message, "/telemetry/policy");
            let of_rule = data["counters"].as_array().into_iter().flatten().find(|counter| counter["rule"] == RULE);
            of_rule.is_some_and(|counter| counter["dropped_packets"] == self.dropped)
        });
        screen.say("telemetry/policy has the same count, and event/policy told of the first packet at once:");
        let told = subscriber.wait_for("event/policy tells of the first packet", COUNTED_WITHIN, |message| {
            let data = data(message, "/event/policy");
            data["what"] == "drop" && data["rule"] == RULE && data["peer"] == intruder::ADDRESS.to_string()
        });
        screen.quote(&data(&told, "/event/policy").to_string());
        others_talk(traffic, talked, screen);
    }

    /// A policy that would cut the gateway off from its broker is taken back.
    pub(crate) fn undoes_a_lock_out(
        &mut self,
        daemon: &Daemon,
        subscriber: &Subscriber,
        traffic: &Traffic,
        screen: &Screen,
    ) {
        let talked = traffic.transfers();
        let broker = json!({
            "name": "block-broker", "cidrs": [self.broker.ip().to_string()], "protocol": "tcp",
            "peer_ports": [self.broker.port().to_string()],
            "action": "drop", "reason": "a mistake",
        });
        self.publish(daemon, &blocking(2).rule(broker));
        eventually(REPORTED_WITHIN, "the policy that drops the broker is in force", || {
            let enforced = daemon.status()["bundles"]["enforced"]["version"].clone();
            if enforced == 2 { Ok(()) } else { Err(enforced.to_string()) }
        });
        screen.say("a policy that drops the broker's packets is published, too, and in force: the gateway is cut off");
        let report = reported(subscriber, 2, "rolled-back");
        screen.say("without a round trip within confirm_within it is undone, and the gateway says so itself:");
        screen.quote(
            &json!({
                "state": report["state"], "version": report["version"], "reason": report["reason"],
                "confirmed": report["confirmed"]["version"], "enforced": report["enforced"]["version"],
            })
            .to_string(),
        );
        assert_eq!(
            (&report["confirmed"]["version"], &report["enforced"]["version"]),
            (&json!(1), &json!(1)),
            "{report}"
        );
        let uplink = daemon.status()["uplink"]["state"].clone();
        assert_eq!(uplink, "connected", "the gateway is online again");
        self.is_blocked(daemon);
        screen.say(format_args!("the policy before it is in force: of {ATTEMPTS} more datagrams none arrives"));
        others_talk(traffic, talked, screen);
        // What was undone stays so until somebody asks for it; a higher version takes its place.
        self.publish(daemon, &blocking(3));
        let _report = reported(subscriber, 3, "confirmed");
        screen.say("the operator publishes the mended policy, version 3: it is confirmed");
    }

    /// The policy is in force though the broker was away and has forgotten it.
    pub(crate) fn outlived_the_broker(&mut self, daemon: &Daemon, screen: &Screen) {
        let enforced = daemon.status()["bundles"]["enforced"]["version"].clone();
        assert_eq!(enforced, 3, "the policy in force");
        self.is_blocked(daemon);
        screen.say(format_args!(
            "the broker has forgotten the policy, the gateway has not: {} datagrams dropped in all, and as many counted",
            self.dropped
        ));
    }

    fn publish(&mut self, daemon: &Daemon, policy: &Policy) {
        let envelope = policy.clone().gateway(daemon.id()).signed_by(&key());
        self.operator.post(Post::new(daemon.topic("policy/desired"), envelope).retained());
    }

    /// Nothing of the intruder arrives, and the rule's counter has each packet.
    fn is_blocked(&mut self, daemon: &Daemon) {
        self.intruder.is_blocked(ATTEMPTS);
        self.dropped += ATTEMPTS;
        let output = daemon.command(&["policy", "show", "--json"]).output().expect("run tidegate");
        let mut lines = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>().map_while(Result::ok);
        let rule = lines.find(|line| line["rule"] == RULE).unwrap_or_default();
        assert_eq!(rule["dropped_packets"], self.dropped, "tidegate policy show counts each dropped packet: {rule}");
    }
}

/// Drops the intruder's packets.
fn blocking(version: u64) -> Policy {
    let cidr = intruder::ADDRESS.to_string();
    Policy::new(version).rule(json!({ "name": RULE, "cidrs": [cidr], "action": "drop", "reason": "nobody knows it" }))
}

/// Waits for the report that a version is in a state.
fn reported(subscriber: &Subscriber, version: u64, state: &str) -> Value {
    let parsed = |message: &Message| serde_json::from_slice::<Value>(&message.payload).unwrap_or_default();
    let report = subscriber.wait_for(&format!("version {version} is {state}"), REPORTED_WITHIN, |message| {
        message.topic.ends_with("/policy/reported") && {
            let report = parsed(message);
            report["version"] == version && report["state"] == state
        }
    });
    parsed(&report)
}

/// What a message on such a topic carries; null for another one.
fn data(message: &Message, topic: &str) -> Value {
    let of_topic = message.topic.ends_with(topic).then(|| Envelope::of(message)).flatten();
    of_topic.map_or(Value::Null, |envelope| envelope.data)
}

/// Hosts that are not blocked went on talking.
fn others_talk(traffic: &Traffic, before: u64, screen: &Screen) {
    eventually(Duration::from_secs(5), "hosts that are not blocked go on talking", || {
        // One may have been under way before.
        (traffic.transfers() > before + 2).then_some(()).ok_or_else(|| "no transfer was finished".to_owned())
    });
    screen.say(format_args!(
        "meanwhile the hosts finished {} transfers through the gateway",
        traffic.transfers() - before
    ));
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    u64::try_from(since.as_millis()).expect("milliseconds since 1970 fit")
}
