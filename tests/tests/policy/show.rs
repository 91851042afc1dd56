//! `tidegate policy show` of a running daemon: the policy in force, and what each of its rules decided, to the packet.

use std::{fs, net::IpAddr};

use serde_json::{Value, json};
use tidegate_tests::{
    eventually, need,
    net::{UdpSender, UdpSink},
    policy::Policy,
    requires,
};

use crate::managed::{Managed, SOON};

/// Of each datagram; its frame has the headers of Ethernet, IPv4 and UDP besides.
const PAYLOAD: [u8; 100] = [0x55; 100];
const FRAME_BYTES: u64 = 14 + 20 + 8 + PAYLOAD.len() as u64;

/// What `tidegate policy show --json` prints: the policy, and its rules.
#[track_caller]
fn shown(gateway: &Managed) -> (Value, Vec<Value>) {
    let output = gateway.command(&["show", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let mut lines: Vec<Value> = lines.map(|line| line.expect("an object a line")).collect();
    (lines.remove(0), lines)
}

fn send(gateway: &Managed, to: &UdpSink, count: u64) {
    let mut sender = UdpSender::connect(&gateway.net.right.host, to.address());
    for _ in 0..count {
        sender.send(&PAYLOAD);
    }
}

fn sink(gateway: &Managed) -> UdpSink {
    UdpSink::open(&gateway.net.left.host, IpAddr::V4(gateway.net.left.ipv4))
}

fn rule(name: &str, cidr: &str, action: &str, more: &Value) -> Value {
    let mut rule = json!({ "name": name, "cidrs": [cidr], "action": action });
    rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rule
}

#[test]
fn what_is_shown_of_the_policy_in_force_is_where_it_is_from_and_each_packet() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = Managed::start();
    let (head, rules) = shown(&gateway);
    assert_eq!((&head["policy"], &head["keys"], rules.len()), (&Value::Null, &json!([gateway.key.id()]), 0));

    let (dropped, allowed) = (sink(&gateway), sink(&gateway));
    let to = |sink: &UdpSink| json!({ "protocol": "udp", "ports": [sink.address().port().to_string()] });
    let with = |mut more: Value, key: &str, value: &str| {
        more[key] = value.into();
        more
    };
    // Names that no sorting would put in this order.
    let policy = Policy::new(1)
        .rule(rule("z-drop", "10.77.2.2", "drop", &with(with(to(&dropped), "reason", "as told"), "ttl", "1h")))
        .rule(rule("a-brief", "203.0.113.7", "drop", &json!({ "ttl": "2s" })))
        .rule(rule("m-allow", "10.77.2.2", "allow", &to(&allowed)))
        .rule(rule("b-idle", "198.51.100.0/24", "sample", &json!({})));
    gateway.desire(policy);
    gateway.stands(1, "confirmed");
    send(&gateway, &dropped, 40);
    send(&gateway, &allowed, 25);
    eventually(SOON, "what is allowed arrives", || allowed.received() == 25);

    let (head, rules) = shown(&gateway);
    let enforced = gateway.daemon.status()["bundles"]["enforced"].clone();
    let policy = &head["policy"];
    assert_eq!((&policy["version"], &policy["scope"]), (&json!(1), &json!({ "gateway": "gw-test" })), "{policy}");
    assert_eq!(
        (&policy["source"], &policy["from"], &policy["state"]),
        (&json!("device"), &json!("broker"), &json!("confirmed"))
    );
    assert_eq!((&policy["digest"], &policy["since_ms"]), (&enforced["digest"], &enforced["since_ms"]), "{policy}");
    assert_eq!((&policy["default"], &policy["table_bytes"]), (&json!("allow"), &enforced["bytes"]), "{policy}");
    assert_eq!((dropped.received(), head["keys"][0].as_str()), (0, Some(&*gateway.key.id())));
    let names: Vec<&str> = rules.iter().map(|rule| rule["rule"].as_str().unwrap()).collect();
    assert_eq!(names, ["z-drop", "a-brief", "m-allow", "b-idle"], "in the bundle's order");
    let counters = |rule: &Value| {
        ["packets", "bytes", "dropped_packets", "dropped_bytes"].map(|name| rule[name].as_u64().unwrap())
    };
    assert_eq!(counters(&rules[0]), [40, 40 * FRAME_BYTES, 40, 40 * FRAME_BYTES]);
    assert_eq!(counters(&rules[1]), [0; 4]);
    assert_eq!(counters(&rules[2]), [25, 25 * FRAME_BYTES, 0, 0]);
    assert_eq!((&rules[0]["action"], &rules[0]["reason"]), (&json!("drop"), &json!("as told")));
    let left = rules[0]["ttl_left_s"].as_u64().unwrap();
    assert!((3_000..=3_600).contains(&left), "{left} s of an hour");
    assert!(rules[2].get("ttl_left_s").is_none(), "{}", rules[2]);
    eventually(SOON, "the rule for two seconds has expired", || {
        let (_, rules) = shown(&gateway);
        let is_over = rules[1]["expired"] == true && rules[1]["ttl_left_s"] == 0;
        is_over.then_some(()).ok_or_else(|| rules[1].to_string())
    });
    let text = gateway.command(&["show"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.starts_with("version 1 for gateway gw-test, default allow: confirmed, in force since 2"), "{text}");
    assert!(text.contains("a-brief") && text.contains("expired"), "{text}");
}

#[test]
fn a_policy_from_a_stick_an_opened_gateway_and_a_stopped_daemon_are_shown_as_such() {
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = Managed::start();
    let file = gateway.daemon.scratch().path().join("stick.json");
    let policy = Policy::new(1)
        .with("default", json!("drop"))
        .rule(rule("broker", "10.77.1.0/24", "allow", &json!({})))
        .gateway("gw-test")
        .signed_by(&gateway.key);
    fs::write(&file, policy).unwrap();
    let applied = gateway.command(&["apply", file.to_str().unwrap()]);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    send(&gateway, &sink(&gateway), 10);
    eventually(SOON, "the default's drops are shown, behind the rules", || {
        let (head, rules) = shown(&gateway);
        assert_eq!((&head["policy"]["from"], rules.len()), (&json!("stick"), 2), "{head}");
        let default = &rules[1];
        assert!(default.get("rule").is_none() && default["action"] == "drop", "{default}");
        // The hosts' own multicast is dropped, too.
        if default["dropped_packets"].as_u64() >= Some(10) { Ok(()) } else { Err(default.to_string()) }
    });

    // A version that is refused is wished for, and changes nothing of what is in force.
    gateway.desire(Policy::new(2).with("default", json!("sometimes")));
    gateway.stands(2, "refused");
    let (head, _) = shown(&gateway);
    assert_eq!((&head["policy"]["version"], &head["policy"]["state"]), (&json!(1), &json!("confirmed")), "{head}");
    assert_eq!(
        (&head["policy"]["wished"]["version"], &head["policy"]["wished"]["state"]),
        (&json!(2), &json!("refused"))
    );

    assert!(gateway.command(&["open", "--for", "10m"]).status.success());
    let (head, rules) = shown(&gateway);
    assert_eq!((&head["policy"], rules.len()), (&Value::Null, 0));
    assert!(head["open_until_ms"].as_u64() > gateway.daemon.status()["ts_ms"].as_u64(), "{head}");

    gateway.daemon.kill();
    let output = gateway.command(&["show"]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Of a process, in bytes.
fn memory(pid: u64, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let kib = status.lines().find_map(|it| it.strip_prefix(line)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("the kernel tells it") << 10
}

#[test]
fn all_of_65536_rules_are_shown_in_order_without_being_held_whole() {
    const RULES: u32 = 65_536;
    requires!(need::root(), need::program("ip"), need::program("mosquitto"));
    let mut gateway = Managed::start();
    let rules: Vec<Value> = (0..RULES)
        .map(
            |n| json!({ "name": format!("r{n}"), "cidrs": [format!("20.{}.{}.7", n >> 8, n & 255)], "action": "drop" }),
        )
        .collect();
    gateway.desire(Policy::new(1).with("rules", rules.into()));
    gateway.stands(1, "confirmed");
    let pid = gateway.daemon.status()["pid"].as_u64().unwrap();
    // What was needed to judge it is given back.
    std::thread::sleep(std::time::Duration::from_secs(5));
    // proc_pid_clear_refs(5): the peak begins anew.
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("we are root");
    let before = memory(pid, "VmRSS:");
    let (head, rules) = shown(&gateway);
    let grown = memory(pid, "VmHWM:").saturating_sub(before);
    assert_eq!((&head["policy"]["rules"], rules.len()), (&json!(RULES), RULES as usize));
    assert!(rules.iter().enumerate().all(|(n, rule)| rule["rule"] == format!("r{n}")), "in the bundle's order");
    println!("{} KiB more than before, at the peak", grown >> 10);
    assert!(grown < 2 << 20, "{grown} bytes more: {RULES} lines are some 7 MiB");
}
