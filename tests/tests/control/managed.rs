//! A gateway, its broker, and the operator who says what it should be.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::{
    Broker, Daemon, DaemonBuilder, Subscriber, eventually,
    mqtt::{Post, Publisher},
};

use crate::SOON;

/// What is published below the gateway's own topics.
const OURS: &str = "tidegate/v1/gw-test/#";

pub(crate) struct Managed {
    // Dropped first, so that its log is whole.
    pub(crate) daemon: Daemon,
    pub(crate) operator: Publisher,
    pub(crate) seen: Subscriber,
    pub(crate) broker: Broker,
}

impl Managed {
    /// A gateway that reaches its broker, with these tables of local configuration.
    #[track_caller]
    pub(crate) fn start(config: &str) -> Self {
        Self::of(Broker::start(), |broker| Daemon::builder().broker(broker.port()).config(config))
    }

    #[track_caller]
    pub(crate) fn of(broker: Broker, daemon: impl FnOnce(&Broker) -> DaemonBuilder) -> Self {
        let seen = Subscriber::inside(broker.namespace(), broker.port(), OURS);
        let operator = Publisher::connect(&broker);
        let daemon = daemon(&broker).start();
        let managed = Self { daemon, operator, seen, broker };
        managed.daemon.until_connected();
        managed
    }

    /// Publishes what this gateway should be.
    #[track_caller]
    pub(crate) fn desire(&mut self, version: u64, config: &Value) {
        self.publish("gw-test", &json!({ "version": version, "config": config }).to_string());
    }

    /// Publishes what all members of a group should be.
    #[track_caller]
    pub(crate) fn desire_of_group(&mut self, group: &str, version: u64, config: &Value) {
        self.publish(&format!("@{group}"), &json!({ "version": version, "config": config }).to_string());
    }

    /// Clears what this gateway should be.
    #[track_caller]
    pub(crate) fn withdraw(&mut self) {
        self.publish("gw-test", "");
    }

    #[track_caller]
    fn publish(&mut self, whose: &str, payload: &str) {
        let post = Post::new(format!("tidegate/v1/{whose}/config/desired"), payload.to_owned()).retained();
        self.operator.post(post);
    }

    /// All reports so far.
    pub(crate) fn reports(&self) -> Vec<Value> {
        let messages = self.seen.messages();
        let reports = messages.iter().filter(|message| message.topic.ends_with("/config/reported"));
        reports.map(|report| serde_json::from_slice(&report.payload).expect("a report is JSON")).collect()
    }

    /// Waits until the latest report is as `wanted`.
    #[track_caller]
    pub(crate) fn reported(&self, what: &str, deadline: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(deadline, what, || {
            let latest = self.reports().pop().unwrap_or_default();
            if wanted(&latest) { Ok(latest) } else { Err(latest.to_string()) }
        })
    }

    /// Waits until this version is on trial, by its report: it is confirmed after two seconds, which `tidegate status` may
    /// take on a busy machine.
    #[track_caller]
    pub(crate) fn on_trial(&self, version: u64) {
        self.reported(&format!("version {version} is on trial"), SOON, |report| {
            report["state"] == "applied" && report["version"] == version
        });
    }

    /// Waits until this version is confirmed, and checks that nothing is apart.
    #[track_caller]
    pub(crate) fn confirmed(&self, version: u64) -> Value {
        let report = self.reported(&format!("version {version} is confirmed"), SOON, |report| {
            report["state"] == "confirmed" && report["version"] == version
        });
        assert_eq!(report["confirmed"]["version"], version, "{report}");
        report
    }

    /// What has happened to the configuration: the data of each `event/config` of that kind.
    pub(crate) fn events(&self, what: &str) -> Vec<Value> {
        let messages = self.seen.messages();
        let events = messages.iter().filter(|message| message.topic.ends_with("/event/config"));
        let data = events.map(|event| serde_json::from_slice::<Value>(&event.payload).expect("JSON")["data"].take());
        data.filter(|data| data["what"] == what).collect()
    }

    /// Waits for an `event/config` of a kind.
    #[track_caller]
    pub(crate) fn event(&self, what: &str, deadline: Duration) -> Value {
        eventually(deadline, &format!("event/config tells: {what}"), || self.events(what).pop().ok_or("not yet"))
    }

    /// A key as it runs: `tidegate config show`.
    #[track_caller]
    pub(crate) fn runs(&self, key: &str) -> Value {
        let output = self.daemon.command(&["config", "show", "--json"]).output().expect("run tidegate");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        shown["keys"][key].clone()
    }

    /// Fails unless every message so far is as its schema says.
    #[track_caller]
    pub(crate) fn assert_all_valid(&self) {
        let ours = |topic: &str| !topic.contains("/cmd/") && !topic.ends_with("/desired") && !topic.ends_with("/echo");
        let messages = self.seen.messages();
        let messages = messages.iter().filter(|message| ours(&message.topic));
        tidegate_tests::schema::Schemas::load().assert_valid("gw-test", messages);
    }
}
