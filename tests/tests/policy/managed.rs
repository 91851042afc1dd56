//! A gateway of namespaces whose daemon is managed: its broker is on the left, the one who is blocked on the right.

use std::{
    net::UdpSocket,
    process::Output,
    time::{Duration, Instant},
};

use serde_json::Value;
use tidegate_tests::{
    Broker, Daemon, DaemonBuilder, Gateway, Netns, Subscriber, eventually,
    mqtt::{Post, Publisher},
    policy::{Key, Policy},
};

/// For whatever takes a moment, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_mins(1);

/// As `Managed` is configured.
pub(crate) const CONFIRM_WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct Managed {
    id: &'static str,
    // Dropped first, so that its log is whole.
    pub(crate) daemon: Daemon,
    pub(crate) operator: Publisher,
    pub(crate) seen: Subscriber,
    pub(crate) broker: Broker,
    pub(crate) net: Gateway,
    pub(crate) key: Key,
}

impl Managed {
    /// One that is connected and has no policy yet; trials end after [`CONFIRM_WITHIN`]. Its broker remembers across restarts.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::of("gw-test", &[Key::numbered(1)], |daemon| daemon)
    }

    /// The same by that name, trusting these keys, and otherwise as is said.
    #[track_caller]
    pub(crate) fn of(
        id: &'static str,
        trusted: &[Key],
        otherwise: impl FnOnce(DaemonBuilder) -> DaemonBuilder,
    ) -> Self {
        let net = Gateway::new();
        let broker = Broker::builder().inside(&net.left.host).line("listener 1884 10.77.1.2").persistent().start();
        let seen = Subscriber::inside(broker.namespace(), broker.port(), &format!("tidegate/v1/{id}/#"));
        let operator = Publisher::connect(&broker);
        let keys: Vec<_> = trusted.iter().map(Key::literal).collect();
        let daemon = Daemon::builder()
            .inside(&net.gateway)
            .mqtt("url = \"mqtt://10.77.1.2:1884\"\nkeep_alive = \"5s\"")
            .nameless()
            .config(&format!("[gateway]\nid = \"{id}\"\n"))
            .config(&format!("[policy]\nconfirm_within = \"5s\"\npublic_keys = {keys:?}\n"))
            .config("[traffic]\ninterfaces = [\"eth*\"]\n");
        let daemon = otherwise(daemon).start();
        let managed = Self { id, daemon, operator, seen, broker, net, key: Key::numbered(1) };
        managed.connected();
        managed
    }

    #[track_caller]
    pub(crate) fn connected(&self) {
        eventually(SOON, "the gateway is connected", || {
            let state = self.daemon.status()["uplink"]["state"].clone();
            if state == "connected" { Ok(()) } else { Err(state.to_string()) }
        });
    }

    /// Publishes a policy for this gateway, signed by the key that it trusts.
    #[track_caller]
    pub(crate) fn desire(&mut self, policy: Policy) {
        let envelope = policy.gateway(self.id).signed_by(&self.key);
        self.publish(self.id, &envelope);
    }

    /// Publishes a policy for a group, signed by the key that the gateway trusts.
    #[track_caller]
    pub(crate) fn desire_of_group(&mut self, group: &str, policy: Policy) {
        let envelope = policy.group(group).signed_by(&self.key);
        self.publish(&format!("@{group}"), &envelope);
    }

    /// Publishes these bytes on `policy/desired` of a gateway or group.
    #[track_caller]
    pub(crate) fn publish(&mut self, whose: &str, envelope: &[u8]) {
        let topic = format!("tidegate/v1/{whose}/policy/desired");
        self.operator.post(Post::new(topic, envelope.to_vec()).retained());
    }

    /// All reports so far.
    pub(crate) fn reports(&self) -> Vec<Value> {
        let messages = self.seen.messages();
        let reports = messages.iter().filter(|message| message.topic.ends_with("/policy/reported"));
        reports.map(|report| serde_json::from_slice(&report.payload).expect("a report is JSON")).collect()
    }

    /// The latest report.
    pub(crate) fn report(&self) -> Value {
        self.reports().pop().unwrap_or_default()
    }

    /// Waits until the latest report is as `wanted`.
    #[track_caller]
    pub(crate) fn reported(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(SOON, what, || {
            let latest = self.report();
            if wanted(&latest) { Ok(latest) } else { Err(latest.to_string()) }
        })
    }

    #[track_caller]
    pub(crate) fn stands(&self, version: u64, state: &str) -> Value {
        self.reported(&format!("version {version} is {state}"), |report| {
            report["version"] == version && report["state"] == state
        })
    }

    /// Events of a kind so far.
    pub(crate) fn events(&self, what: &str) -> Vec<Value> {
        let messages = self.seen.messages();
        let events = messages.iter().filter(|message| message.topic.ends_with("/event/policy"));
        let data = events.map(|event| serde_json::from_slice::<Value>(&event.payload).expect("JSON")["data"].take());
        data.filter(|data| data["what"] == what).collect()
    }

    /// Whether a datagram from the right reaches the left; its addresses are those of [`Gateway`].
    pub(crate) fn passes(&self) -> bool {
        self.passes_from("10.77.2.2")
    }

    /// The same from another address of the right.
    pub(crate) fn passes_from(&self, address: &str) -> bool {
        self.passes_between(&self.net.right.host, address)
    }

    /// The same from a host anywhere.
    pub(crate) fn passes_between(&self, host: &Netns, address: &str) -> bool {
        let socket = |namespace: &Netns, address: &str| {
            let address = address.to_owned();
            namespace.enter(move || UdpSocket::bind(address)).expect("a socket in the namespace")
        };
        let left = socket(&self.net.left.host, "10.77.1.2:0");
        left.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let other = socket(host, &format!("{address}:0"));
        let began = Instant::now();
        other.send_to(b"x", left.local_addr().unwrap()).expect("sending");
        let arrived = left.recv(&mut [0; 8]).is_ok();
        assert!(began.elapsed() < SOON);
        arrived
    }

    /// `tidegate policy …` on the gateway.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        self.daemon.command(&[&["policy"], arguments].concat()).output().expect("run tidegate")
    }

    /// Fails unless every message so far is as its schema says.
    #[track_caller]
    pub(crate) fn assert_all_valid(&self) {
        let ours = |topic: &str| !topic.contains("/cmd/") && !topic.ends_with("/desired") && !topic.ends_with("/echo");
        let messages = self.seen.messages();
        let messages = messages.iter().filter(|message| ours(&message.topic));
        tidegate_tests::schema::Schemas::load().assert_valid(self.id, messages);
    }
}

/// Drops all from and to the right.
pub(crate) fn block_right(version: u64) -> Policy {
    Policy::new(version).drop("right", &["10.77.2.0/24"])
}

/// Drops all from and to the broker.
pub(crate) fn block_broker(version: u64) -> Policy {
    Policy::new(version).drop("broker", &["10.77.1.2/32"])
}
