//! Signed policy on the gateway's own kind of machine: judged by both kernels, kept through crashes, upgrades and power
//! cuts, within the memory that the service has.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::{
    Broker, Subscriber, eventually,
    mqtt::Publisher,
    policy::{Key, Policy},
    requires,
    schema::Schemas,
    vm::{self, Kernel, Machine},
};

use crate::{
    LONG_WAIT,
    gateway::{self, SOON},
    package,
};

const OURS: &str = "tidegate/v1/gw-test";
/// The host that is blocked, see [`gateway::connect_plant`]; and what it has of IPv6.
const PLANT: [&str; 2] = ["10.9.0.2/32", "fd09::2/128"];
/// Prefixes of the largest policy.
const MOST: u32 = 65_536;

/// The operator's side.
struct Office {
    operator: Publisher,
    seen: Subscriber,
    broker: Broker,
    key: Key,
}

impl Office {
    #[track_caller]
    fn open() -> Self {
        let broker = Broker::builder().quiet().start();
        let seen = Subscriber::start(broker.port(), &format!("{OURS}/#"));
        Self { operator: Publisher::connect(&broker), seen, broker, key: Key::numbered(1) }
    }

    /// A machine with a plant behind it, that trusts the operator's key and runs.
    #[track_caller]
    fn machine(&self, kernel: Kernel) -> Machine {
        let machine = Machine::debian().kernel(kernel).with_tidegate().resume();
        let config = format!(
            "[traffic]\ninterfaces = [\"eth*\"]\n\n[policy]\nconfirm_within = \"10s\"\npublic_keys = [\"{}\"]\n",
            self.key.literal()
        );
        machine.configure(&self.broker, &config);
        connect_plant(&machine);
        machine.run("systemctl start tidegate").ok();
        gateway::until_watched(&machine, "eth1");
        gateway::until_connected(&machine);
        machine
    }

    #[track_caller]
    fn desire(&mut self, policy: Policy) {
        let envelope = policy.gateway("gw-test").signed_by(&self.key);
        self.operator.retain(format!("{OURS}/policy/desired"), envelope);
    }

    /// Waits until the latest report is about this version and state.
    #[track_caller]
    fn stands(&self, version: u64, state: &str) -> Value {
        eventually(LONG_WAIT, &format!("version {version} is {state}"), || {
            let messages = self.seen.messages();
            let latest = messages.iter().rev().find(|message| message.topic.ends_with("/policy/reported"));
            let latest = latest.ok_or("no report")?.json();
            let as_wanted = latest["version"] == version && latest["state"] == state;
            if as_wanted { Ok(latest) } else { Err(latest.to_string()) }
        })
    }

    /// Fails unless each message of the gateway is as its schema says.
    #[track_caller]
    fn assert_all_valid(&self) {
        let ours = |topic: &str| !topic.contains("/cmd/") && !topic.ends_with("/desired") && !topic.ends_with("/echo");
        let messages = self.seen.messages();
        Schemas::load().assert_valid("gw-test", messages.iter().filter(|message| ours(&message.topic)));
    }
}

/// With IPv6, too.
#[track_caller]
fn connect_plant(machine: &Machine) {
    gateway::connect_plant(machine);
    machine
        .run(
            "set -e
             ip address add fd09::1/64 dev eth1 nodad
             ip -n plant address add fd09::2/64 dev eth0 nodad",
        )
        .ok();
}

/// How many of so many pings of the plant are answered.
#[track_caller]
fn answered(machine: &Machine, address: &str, count: u32) -> u32 {
    let ping = format!("ip netns exec plant ping -q -c {count} -i 0.2 -W 2 {address}; true");
    received(&machine.run(&ping).ok())
}

/// From ping's summary: `5 packets transmitted, 3 received, …`.
#[track_caller]
fn received(summary: &str) -> u32 {
    let line = summary.lines().find(|line| line.contains("packets transmitted")).unwrap_or_else(|| panic!("{summary}"));
    let found = line.split(", ").find_map(|part| part.strip_suffix(" received"));
    found.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

/// Pings all the while something is done, and returns how many were sent and how many answered.
#[track_caller]
fn pings_during(machine: &Machine, what: impl FnOnce()) -> (u32, u32) {
    machine.run("ip netns exec plant ping -q -i 0.05 10.9.0.1 >/run/pings 2>&1 & echo $! >/run/pinging").ok();
    what();
    machine.run("kill -INT $(cat /run/pinging)").ok();
    let summary = machine.until(SOON, "grep transmitted /run/pings");
    let sent = summary.split_whitespace().next().and_then(|count| count.parse().ok());
    (sent.unwrap_or_else(|| panic!("{summary}")), received(&summary))
}

/// Kills the daemon as nothing else would, and waits for the one that systemd starts.
#[track_caller]
fn kill_9(machine: &Machine) {
    let before = machine.unit("tidegate", "MainPID");
    machine.run("systemctl kill --signal=KILL tidegate").ok();
    machine.until(SOON, &format!("pid=$(systemctl show --value --property=MainPID tidegate); [ $pid != 0 ] && [ $pid != {before} ] && systemctl is-active tidegate"));
    gateway::until_watched(machine, "eth1");
}

/// What the rule dropped since the daemon started, as the status has it.
fn dropped(machine: &Machine, rule: &str) -> Option<u64> {
    let status = machine.status();
    let rules = status["policy"]["top_rules"].as_array()?.clone();
    rules.iter().find(|entry| entry["rule"] == rule)?["dropped_packets"].as_u64()
}

#[track_caller]
fn is_judged_kept_and_undone(kernel: Kernel, attach: &str) {
    let mut office = Office::open();
    let machine = office.machine(kernel);
    assert_eq!(machine.status()["traffic"]["attach"], attach);
    assert_eq!((answered(&machine, "10.9.0.1", 3), answered(&machine, "fd09::1", 3)), (3, 3));

    office.desire(Policy::new(1).drop("plant", &PLANT));
    let report = office.stands(1, "confirmed");
    assert_eq!(report["enforced"]["version"], 1, "{report}");
    assert_eq!((answered(&machine, "10.9.0.1", 5), answered(&machine, "fd09::1", 5)), (0, 0));
    eventually(SOON, "each dropped packet is counted, and no other", || match dropped(&machine, "plant") {
        Some(10) => Ok(()),
        other => Err(format!("{other:?}")),
    });

    // It takes the broker's answers away, and nothing else of the host.
    let lock_out = json!({
        "name": "broker", "cidrs": ["10.0.2.2"], "protocol": "tcp",
        "peer_ports": [office.broker.port().to_string()], "action": "drop",
    });
    office.desire(Policy::new(2).rule(lock_out));
    let report = office.stands(2, "rolled-back");
    assert_eq!(report["enforced"]["version"], 1, "{report}");
    assert_eq!(answered(&machine, "10.9.0.1", 3), 0, "the one before is in force");

    // A crash, and an upgrade of the package: no packet passes meanwhile.
    let (sent, passed) = pings_during(&machine, || kill_9(&machine));
    assert!(sent > 0 && passed == 0, "{passed} of {sent} passed while the daemon was killed");
    machine.put_package(package::PACKAGE);
    package::make_newer_package(&machine);
    let (sent, passed) = pings_during(&machine, || {
        package::apt(&machine, &format!("install {}", package::NEWER));
        gateway::until_watched(&machine, "eth1");
    });
    assert!(sent > 0 && passed == 0, "{passed} of {sent} passed while the package was upgraded");
    println!("{sent} pings during the upgrade");
    let enforced = machine.status()["bundles"]["enforced"]["version"].clone();
    assert_eq!(enforced, 1, "{:#}", machine.status());

    gateway::until_connected(&machine);
    office.operator.clear(format!("{OURS}/policy/desired"));
    eventually(SOON, "it is withdrawn", || {
        let status = machine.status();
        if status["bundles"]["enforced"].is_null() { Ok(()) } else { Err(status["bundles"].to_string()) }
    });
    assert_eq!((answered(&machine, "10.9.0.1", 3), answered(&machine, "fd09::1", 3)), (3, 3));
    office.assert_all_valid();
}

#[test]
fn on_6_12_a_policy_is_judged_kept_and_undone() {
    requires!(vm::available());
    is_judged_kept_and_undone(Kernel::Linux6_12, "tcx");
}

#[test]
fn on_6_1_a_policy_is_judged_kept_and_undone() {
    requires!(vm::available());
    is_judged_kept_and_undone(Kernel::Linux6_1, "netlink");
}

#[test]
fn after_a_power_cut_the_confirmed_policy_is_enforced_before_the_network_and_without_a_broker() {
    requires!(vm::available());
    let mut office = Office::open();
    let mut machine = office.machine(Kernel::Linux6_12);
    office.desire(Policy::new(1).drop("plant", &PLANT));
    office.stands(1, "confirmed");
    machine.run("systemctl is-enabled tidegate").ok();
    machine.cut_power();
    office.broker.freeze();
    machine.boot_again();

    let at = |text: String| text.parse::<u64>().expect("microseconds since the boot");
    let enforced = machine.journal("-b -u tidegate MESSAGE='policy enforced'");
    let enforced = at(enforced[0]["__MONOTONIC_TIMESTAMP"].as_str().expect("a text").to_owned());
    assert!(enforced <= at(machine.unit("network-pre.target", "ActiveEnterTimestampMonotonic")));
    assert!(enforced <= at(machine.unit("systemd-networkd", "ExecMainStartTimestampMonotonic")));
    connect_plant(&machine);
    gateway::until_watched(&machine, "eth1");
    assert_eq!((answered(&machine, "10.9.0.1", 3), answered(&machine, "fd09::1", 3)), (0, 0));
    assert_eq!(machine.status()["bundles"]["enforced"]["version"], 1);
}

#[test]
fn the_largest_policies_replace_each_other_within_the_services_memory_and_are_compared_with_nft() {
    requires!(vm::available());
    let mut office = Office::open();
    let machine = office.machine(Kernel::Linux6_12);
    for version in 1..=4 {
        // Of the same size, and each prefix of another rule than before.
        office.desire(Policy::new(version).drop_many(&format!("many-{version}"), MOST));
        let report = office.stands(version, "confirmed");
        assert_eq!(report["enforced"]["version"], version, "{report}");
    }
    let group = "/sys/fs/cgroup/system.slice/tidegate.service";
    let events = machine.run(&format!("cat {group}/memory.events")).ok();
    for line in events.lines().filter(|line| line.starts_with("oom")) {
        assert!(line.ends_with(" 0"), "{events}");
    }
    assert_eq!(machine.unit("tidegate", "NRestarts"), "0");
    let peak: u64 = machine.run(&format!("cat {group}/memory.peak")).ok().parse().expect("bytes");
    println!("memory.peak {:.1} MiB", peak as f64 / f64::from(1 << 20));
    assert_eq!(machine.run(&format!("cat {group}/memory.max")).ok(), (64 << 20).to_string());
    machine.run("systemctl stop tidegate").ok();

    let lines = machine.run_within(Duration::from_mins(10), "tidegate bench policy --rounds 3 --json").ok();
    println!("{lines}");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let ratio = lines.iter().find(|line| line["case"] == "apply/65536" && line["reference"] == "nft -f");
    let ratio = ratio.and_then(|line| line["ratio"].as_f64()).expect("nft is there to be compared with");
    assert!(ratio < 1.0, "nft takes less: {ratio}");
}
